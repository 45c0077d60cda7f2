"""Model files (safetensors with a JSON header): reading, writing, and the shipped models with their purpose."""

from __future__ import annotations

import base64
import hashlib
import math
import os
import re
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prosma_core.config.documents import load_json
from prosma_core.config.model import MISSED, SCHEMA_VERSION, ModelHeader
from prosma_core.data.fit import MODALITIES, SYNTHETIC, modality_name
from prosma_core.errors import ConfigError, ModelFileError
from prosma_core.io.atomic import write_bytes_atomic
from prosma_core.io.remote import local_path
from prosma_core.printable import counted

METADATA_KEY = "prosma"
HASH_KEY = "prosma_sha256"
"""Hash of the header's text, which in turn holds the hash of the weights."""
THUMBNAIL_KEY = "prosma_thumbnail"
"""A PNG in base64; programs that do not know it pass over it."""
MOST_THUMBNAIL, LARGEST_THUMBNAIL = 32_000, 256
"""Bytes and pixels of a side of a thumbnail that is shown."""
MAX_HEADER_BYTES = 1_000_000
MAX_WEIGHTS = 500_000_000

Weights = dict[str, NDArray[Any]]


def weights_sha256(weights: Weights) -> str:
    """Hash of names, dtypes, shapes and bytes of all weights, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        array = np.ascontiguousarray(weights[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def save_bundle(path: Path, header: ModelHeader, weights: Weights, thumbnail: bytes = b"") -> ModelHeader:
    """Write a model file and return its header with the hash filled in.

    Parameters
    ----------
    path : Path
        Replaced in one step; a failure leaves what was there.
    header : ModelHeader
    weights : dict of ndarray
        Floating point; matrices and kernels are stored as float16, vectors (biases, thresholds) as float32.
    thumbnail : bytes
        A small PNG of what the model is for; models that a user trains have none, as their scans may be of patients.

    Raises
    ------
    ModelFileError
        A weight is not finite as float16, or the header is larger than 1 MB.
    OutputError
        The file cannot be written.
    """
    from safetensors.numpy import save

    with np.errstate(over="ignore"):  # what does not fit becomes infinity and is refused below
        stored = {k: np.asarray(v, np.float16 if v.ndim > 1 else np.float32) for k, v in weights.items()}
    bad = [name for name, value in stored.items() if not np.isfinite(value).all()]
    if bad:
        msg = f"Weights {', '.join(bad[:3])} are not finite; the training has diverged. Use an earlier checkpoint."
        raise ModelFileError(msg)
    header = header.replace(sha256=weights_sha256(stored))
    text = header.model_dump_json()
    metadata = {METADATA_KEY: text, HASH_KEY: _text_sha256(text)}
    if thumbnail:
        metadata[THUMBNAIL_KEY] = base64.b64encode(thumbnail).decode()
    blob = save(stored, metadata=metadata)
    if struct.unpack("<Q", blob[:8])[0] > MAX_HEADER_BYTES:
        msg = (
            f"The header of {path} would be larger than the {MAX_HEADER_BYTES} bytes "
            "that are read again; shorten its names and texts."
        )
        raise ModelFileError(msg)
    write_bytes_atomic(path, blob)
    return header


def read_header(path: Path) -> ModelHeader:
    """Header of a model file, without reading its weights.

    Raises
    ------
    ModelFileError
        Not a model file, truncated, of a newer schema, or with an unusable header.
    """
    metadata = _metadata(path)
    try:
        text, digest = str(metadata[METADATA_KEY]), metadata[HASH_KEY]
        values = load_json(text)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelFileError(_damaged(path)) from error
    version = values.get("schema_version") if isinstance(values, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        msg = f"{path} has schema {version}; this program reads up to {SCHEMA_VERSION}. Install a newer napari-prosma."
        raise ModelFileError(msg)
    if digest != _text_sha256(text):
        msg = f"{path} was altered: its header does not match the hash beside it. Copy or train the model again."
        raise ModelFileError(msg)
    try:
        return ModelHeader.parse(values, f"The header of {path}")
    except ConfigError as error:
        raise ModelFileError(*error.args) from error


def read_thumbnail(path: Path) -> bytes:
    """PNG of what a model is for; empty where its file has none, or none that is small and whole enough to be shown.

    Raises
    ------
    ModelFileError
        As in `read_header`, of the file as a whole.
    """
    text = _metadata(path).get(THUMBNAIL_KEY)
    if not isinstance(text, str) or len(text) > 2 * MOST_THUMBNAIL:
        return b""
    try:
        found = base64.b64decode(text, validate=True)
    except ValueError:
        return b""
    sides = struct.unpack(">II", found[16:24]) if found[:8] == b"\x89PNG\r\n\x1a\n" and len(found) > 24 else (0, 0)
    small = len(found) <= MOST_THUMBNAIL and all(0 < side <= LARGEST_THUMBNAIL for side in sides)
    return found if small else b""


def _metadata(path: Path) -> dict[str, Any]:
    """What stands at the begin of a safetensors file beside the tensors."""
    if not path.is_file():
        msg = (
            f"There is no model file {path}. Give a .safetensors file, or the name of a shipped model "
            "(prosma models list)."
        )
        raise ModelFileError(msg)
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= size - 8:
            raise ModelFileError(_not_a_model(path, start, size))
        if length > MAX_HEADER_BYTES:
            msg = (
                f"{path} has a header of {length} bytes; at most {MAX_HEADER_BYTES} "
                "are allowed. It is not a model of this program."
            )
            raise ModelFileError(msg)
        raw = file.read(length)
    try:
        metadata = load_json(raw)["__metadata__"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelFileError(_damaged(path)) from error
    if not isinstance(metadata, dict):
        raise ModelFileError(_damaged(path))
    return metadata


def _damaged(path: Path) -> str:
    return f"{path} is damaged, or a safetensors file without a ProSMA header. Use one that a training of ProSMA wrote."


def _text_sha256(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def _not_a_model(path: Path, start: bytes, size: int) -> str:
    if start[:2] == b"PK" or (start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")):
        return (
            f"{path} is a pickle or torch.save file, which can run code when opened "
            "and is never read. Use a .safetensors model that a training of ProSMA wrote."
        )
    if size == 0:
        return f"{path} is empty. Copy or train the model again."
    return f"{path} ({size} bytes) is truncated or not a safetensors file. Copy or train the model again."


def load_bundle(path: Path) -> tuple[ModelHeader, Weights]:
    """Header and weights of a model file, checked against its hash.

    Returns
    -------
    header : ModelHeader
    weights : dict of ndarray, float32

    Raises
    ------
    ModelFileError
        As in `read_header`; or the weights are truncated, altered, or not finite.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    header = read_header(path)
    try:
        stored = load(path.read_bytes())
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        msg = f"{path} is truncated or damaged ({error}). Copy or train the model again."
        raise ModelFileError(msg) from error
    if sum(w.size for w in stored.values()) > MAX_WEIGHTS:
        msg = f"{path} holds more than {MAX_WEIGHTS} weights; that is not a model of this program."
        raise ModelFileError(msg)
    if weights_sha256(stored) != header.sha256:
        msg = f"{path} was altered: its weights do not match the hash in its header. Copy or train the model again."
        raise ModelFileError(msg)
    weights = {name: np.asarray(value, np.float32) for name, value in stored.items()}
    bad = [name for name, value in weights.items() if not np.isfinite(value).all()]
    if bad:
        msg = f"{path} holds weights that are not finite ({bad[0]}). Train the model again."
        raise ModelFileError(msg)
    return header, weights


PRETRAINED = Path(__file__).parent.parent / "pretrained"
SUFFIX = ".safetensors"


def dice_text(header: ModelHeader) -> str:
    """Mean Dice of a model and what it was measured on: only a Dice on held-out data is called validation Dice.

    Of a validated model whose header has an evaluation, it is that of the evaluation, as in `figures_text`.
    """
    training = header.training
    dice, held_out = training.get("validation_mean_dice"), training.get("validation", "cases")
    if header.validated and header.evaluation is not None:
        dice = header.evaluation.mean_dice.value
    if isinstance(dice, bool) or not isinstance(dice, int | float) or not math.isfinite(dice):
        return "not validated"
    if training.get("independent_labels") is False:
        return f"Dice {dice:.3f} against labels of a model"
    if held_out == "none held out":
        return f"training Dice {dice:.3f}, not validated"
    if not training.get("validation_cases"):
        return f"Dice {dice:.3f}, not validated"
    where = " on slices of its training scans" if held_out == "slices" else ""
    return f"validation Dice {dice:.3f}{' on phantoms' if header.synthetic else where}"


def worse_name(kind: str) -> str:
    """Text of a corruption."""
    return {"bias": "bias field", "resolution": "half the resolution", "contrast": "low contrast"}.get(kind, kind)


def figures_text(header: ModelHeader) -> str:
    """What a model reached on held-out images, in a sentence; empty where that was not measured."""
    found = header.evaluation
    if found is None:
        return ""
    kind = "scans" if header.model.dims == 3 else "images"
    dice = found.mean_dice
    parts = [f"Dice {dice.value:.3f} (95 % interval {dice.low:.3f} to {dice.high:.3f})"]
    parts += [f"F1 of objects {each.value:.3f}" for each in found.object_f1.values()]
    missed = f"missed (Dice below {MISSED:g}) in"
    parts += [f"{name} {missed} {each.count} of {each.images}" for name, each in found.missed.items()][:MOST_NAMED]
    parts += [
        f"{name} found in {each.count} of {each.images} without it" for name, each in found.false_positives.items()
    ][:MOST_NAMED]
    if found.worse:
        worst = min(found.worse, key=lambda each: found.worse[each].value)
        parts.append(f"at worst Dice {found.worse[worst].value:.3f} where they are corrupted ({worse_name(worst)})")
    return f"On {dice.images} held-out {kind}: {', '.join(parts)}."


def missed_text(header: ModelHeader, voxels: Mapping[str, int], *, part: bool = False) -> str:
    """What to say of a result without any label, with in how many held-out images the model missed it; else empty.

    Parameters
    ----------
    header : ModelHeader
    voxels : mapping of str to int
        Count by class name.
    part : bool
        Whether only a part of the scan was segmented, of which those say nothing.
    """
    names = [c.name for c in header.classes[1:]]
    if not names or any(voxels.get(name) for name in names):
        return ""
    listed = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
    where = " in this part of the scan" if part else ""
    said = [f"No {listed} found{where}." if len(names) <= MOST_NAMED else f"No voxel of {len(names)} classes{where}."]
    facts = header.facts
    shown = "images" if facts is not None and facts.dims == 2 else "scans"
    slices = header.training.get("validation") == "slices" or (facts is not None and facts.dims == 3)
    if slices and header.model.dims == 2:  # a 3D model is validated scan by scan, on whatever slices of it
        shown = "slices"
    if header.evaluation is not None and not part:
        figures = header.evaluation.missed
        each = [f"{n} in {figures[n].count} of {figures[n].images}" for n in names[:MOST_NAMED] if n in figures]
        said += [f"This model missed (Dice below {MISSED:g}) {', '.join(each)} held-out {shown} that show it."]
    elif header.validated and not part:
        missed = _counts(header.training.get("missed"), names[:MOST_NAMED])
        unfound = _counts(header.training.get("not_found"), names[:MOST_NAMED])
        if missed:
            each = [f"{name} in {count} of {images}" for name, (count, images) in missed.items()]
            said += [f"This model missed (Dice below {MISSED:g}) {', '.join(each)} held-out {shown} that show it."]
        elif unfound:
            each = [f"of the {name} in {count} of {images}" for name, (count, images) in unfound.items()]
            said += [f"This model found nothing {', '.join(each)} held-out {shown} that show it."]
    return " ".join(said)


def _counts(stated: Any, names: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Cases, and those that show the class, by name, as far as a header states them."""
    found = {name: stated.get(name) for name in names} if isinstance(stated, dict) else {}
    return {
        name: (count[0], count[1])
        for name, count in found.items()
        if isinstance(count, list | tuple) and len(count) == 2 and all(isinstance(n, int) for n in count)
    }


MOST_NAMED = 4
"""Classes that are named when nothing was found."""


def shipped_models() -> dict[str, Path]:
    """Files of the shipped models by name, sorted."""
    return {path.stem: path for path in sorted(PRETRAINED.glob(f"*{SUFFIX}"))}


def find_model(name_or_file: str) -> Path:
    """File of a model given by name or by path.

    Raises
    ------
    ModelFileError
        There is no such model; the text lists the shipped ones.
    ConfigError
        It is a URL.
    """
    shipped = shipped_models()
    if name_or_file in shipped:
        return shipped[name_or_file]
    path = local_path(name_or_file).expanduser()
    if os.path.isfile(path):  # noqa: PTH113  (False for a name that is too long, where pathlib raises)
        return path
    msg = (
        f"There is no model {name_or_file!r}: no such file, and "
        f"the shipped models are {', '.join(shipped) or '(none)'}."
    )
    raise ModelFileError(msg)


LONGEST_DESCRIPTION = 200
"""Of a model's description that are shown."""
LONGEST_NAME = 80
"""Of the name of the model that one was tuned from."""


def description_text(header: ModelHeader) -> str:
    """What a model is for, what it was tuned on, and what it is not for: the first words, where there are many."""
    text, no = (" ".join(each.split()) for each in (header.description, header.purpose.not_for))
    not_for = f"Not for: {no.rstrip('.')}." if no else "Synthetic: not for real scans." if header.synthetic else ""
    return " ".join(filter(None, (_cut(text, LONGEST_DESCRIPTION), _tuned_text(header), not_for)))


def _tuned_text(header: ModelHeader) -> str:
    """From which model one was tuned, on how many scans of which modality; empty for others."""
    name, number, facts = header.training.get("start"), header.training.get("train_cases"), header.facts
    if not isinstance(name, str) or not name.strip():
        return ""
    said = f"Fine-tuned from {_cut(' '.join(name.split()), LONGEST_NAME)}"
    if isinstance(number, int) and not isinstance(number, bool):
        kind = "image" if facts is not None and facts.dims == 2 else "scan"
        modality = (
            f" ({MODALITIES.get(facts.modality, facts.modality)})" if facts is not None and facts.modality else ""
        )
        said += f" on {counted(number, kind)}{modality}"
    return f"{said}."


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}…"


@dataclass(frozen=True)
class ModelEntry:
    """A model a person can choose."""

    path: Path
    header: ModelHeader
    shipped: bool

    @property
    def argument(self) -> str:
        """How the command line names it."""
        return self.header.name if self.shipped else str(self.path)

    @property
    def line(self) -> str:
        """What it is for, in its first sentence; classes and dimensions where the file says nothing."""
        said = " ".join(self.header.description.split())
        names = ", ".join(c.name for c in self.header.classes[1:])
        return re.split(r"(?<=[a-z)])[.;] ", said)[0].rstrip(".") or f"{self.header.model.dims}D: {names}"

    @property
    def group(self) -> str:
        """Heading under which it is listed: its modality, or `OWN`."""
        return modality_name(self.header) if self.shipped else OWN

    @property
    def description(self) -> str:
        """What it is for and what it is not for; empty where the file says nothing."""
        return description_text(self.header)

    @property
    def facts(self) -> str:
        """Dimensions, channels, voxel size, classes and Dice, in one line."""
        model, pre = self.header.model, self.header.preprocess
        names = ", ".join(pre.channels)
        parts = [
            f"{model.dims}D",
            counted(model.in_channels, "channel") + (f" ({names})" if model.in_channels > 1 else ""),
        ]
        if pre.resample == "spacing":
            parts.append(" × ".join(f"{s:.3g}" for s in pre.spacing) + f" {pre.unit}")
        elif pre.resample == "longest_side":
            parts.append(f"longest side {pre.longest_side} pixels")
        parts.append(", ".join(c.name for c in self.header.classes[1:]))
        return " · ".join([*parts, dice_text(self.header)])


OWN = "Your models"
"""Heading of models that are not shipped."""


def model_groups(
    models: Iterable[ModelEntry], rank: Callable[[ModelEntry], int] = lambda _: 0
) -> list[tuple[str, list[ModelEntry]]]:
    """Models under headings: a user's own, then one heading a modality, the synthetic ones last.

    Parameters
    ----------
    models : iterable of ModelEntry
    rank : callable
        How well a model fits a scan, 0 best: within a heading, and of headings by their best model, it counts before
        all else.
    """
    groups: dict[str, list[ModelEntry]] = {}
    for model in models:
        groups.setdefault(model.group, []).append(model)
    ranks = {model.path: rank(model) for each in groups.values() for model in each}
    for each in groups.values():
        each.sort(key=lambda m: (ranks[m.path], m.header.synthetic, m.header.name.lower(), str(m.path)))

    def place(group: tuple[str, list[ModelEntry]]) -> tuple[int, bool, bool, str]:
        name, found = group
        return ranks[found[0].path], name == SYNTHETIC, name != OWN, name.lower()

    return sorted(groups.items(), key=place)
