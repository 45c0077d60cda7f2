"""Whether a model was trained on scans like this one: two or three simple signs, each of which can be said in words."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from prosma_core.config.model import Look, ModelHeader, ScanFacts
from prosma_core.data.frames import frame_spec
from prosma_core.data.geometry import Scan
from prosma_core.data.grid import network_grid
from prosma_core.data.intensities import COLOR, check_channels
from prosma_core.data.look import ScanKind, ScanLook, describe
from prosma_core.errors import ProsmaError

_LOG = logging.getLogger(__name__)

Verdict = Literal["fits", "doubtful", "unfit", "unknown"]
OTHER_VOXELS = 2.0
"""Voxels this many times smaller or larger than any of the training scans are others."""


OTHER_FIELD = 1.25
"""Fields of view this many times smaller or larger than any of the training scans show textures of another scale."""
SMALL_VOXELS = 0.01
"""Voxels below this, in mm, are given in micrometers."""
SMALL_PICTURE, LARGE_PICTURE = 3.0, 10.0
"""Pictures this many times smaller or larger than any of the training scans are others."""


@dataclass(frozen=True)
class Fit:
    """Whether a model was trained on scans like this one.

    Attributes
    ----------
    verdict : {"fits", "doubtful", "unfit", "unknown"}
        ``unknown``: nothing speaks against it, and nothing tells what the scan shows.
    text : str
        Why it may not fit, in a sentence; empty for ``fits`` and ``unknown``.
    """

    verdict: Verdict
    text: str = ""


def compare(scan: ScanLook, header: ModelHeader) -> Fit:
    """Compare a scan that a model can take with the scans it was trained on.

    One sign of another kind of scan makes a model doubtful; two, another modality or color, or a synthetic model unfit.
    """
    kind, facts, name = scan.kind, header.facts, header.name
    if header.synthetic:
        if kind.synthetic:
            return Fit("fits")
        return Fit("unfit", f"{name} was trained on synthetic phantoms: on real scans its labels mean nothing.")
    modality = model_modality(header)
    hard, soft = list(_contradictions(kind, header, modality)), list(_differences(scan, header))
    if hard or soft:
        reasons = [*soft[: 1 if hard else 2], *hard[:1]]
        text = f"{name} was trained on {_trained_on(header)}; this scan {' and '.join(reasons)}."
        return Fit("unfit" if hard or len(soft) > 1 else "doubtful", text)
    known = bool(modality) and kind.modality == modality
    narrow = facts is not None and facts.world == kind.world == "patient" and bool(facts.sides) and bool(scan.look)
    return Fit("fits" if known or narrow else "unknown")


UNKNOWN = "Nothing tells what this scan shows: check that it is what the model is for."
"""Text where nothing speaks against a model, and nothing for it."""


def warn_unfit(scan: Scan, header: ModelHeader, name: str = "", *, modality: str = "", synthetic: bool = False) -> str:
    """Log a warning where a model was trained on other scans than this one.

    Parameters
    ----------
    scan : Scan
    header : ModelHeader
    name : str
        What the scan is called, where there are several.
    modality, synthetic
        As of `describe`.

    Returns
    -------
    str
        Where nothing tells what the scan shows, that it does not, and what the model is for; else empty.
    """
    fit = compare(describe(scan.spec, scan.data, modality=modality, synthetic=synthetic), header)
    which = f"{name}: " if name else ""
    if fit.text:
        _LOG.warning("%s%s", which, fit.text)
    if fit.verdict != "unknown":
        return ""
    return which + UNKNOWN.replace("the model is for.", f"{header.name} is for ({_trained_on(header)}).")


def misfit(scan: Scan, header: ModelHeader, slice_axis: str | None = None) -> str:
    """Why a model cannot take a scan at all, empty where it can; the checks are those that segmenting would fail with.

    Parameters
    ----------
    scan : Scan
    header : ModelHeader
    slice_axis : str or None
        Axis along which a 2D model walks through a 3D scan; None: the automatic one.
    """
    try:
        frame_spec(scan.spec, header.model.dims, slice_axis)
        check_channels(scan, header.preprocess.channels)
        network_grid(scan.spec, header.preprocess, slice_axis)
    except ProsmaError as error:
        return str(error)
    return ""


def model_modality(header: ModelHeader) -> str:
    """Modality that a model is for; empty where it is not known."""
    ct = any(intensity.kind == "ct" for intensity in header.preprocess.intensities)
    return header.purpose.modality or (header.facts.modality if header.facts else "") or ("CT" if ct else "")


MODALITIES = {
    "CT": "CT",
    "MR": "MRI",
    "US": "Ultrasound",
    "PT": "PET",
    "DX": "X-ray",
    "CR": "X-ray",
    "MG": "Mammography",
    "OPT": "Optical coherence tomography",
    "ES": "Endoscopy",
    "XC": "Photographs",
    "FM": "Fluorescence microscopy",
    "GM": "Light microscopy",
    "SM": "Histology",
    "EM": "Electron microscopy",
    "SEM": "Electron microscopy",
    "TEM": "Electron microscopy",
}
"""Names of the modalities; those of DICOM, and of microscopes that DICOM does not tell apart."""
SYNTHETIC, OTHER_IMAGES = "Synthetic", "Other images"


def modality_name(header: ModelHeader) -> str:
    """Modality that a model is for as a heading of a list: ``"MRI"``, ``"Synthetic"``, ``"Other images"``."""
    if header.synthetic:
        return SYNTHETIC
    modality = model_modality(header)
    return MODALITIES.get(modality, modality) or OTHER_IMAGES


VERDICTS: dict[Verdict, str] = {"fits": "fits", "unknown": "", "doubtful": "may not fit", "unfit": "does not fit"}
"""Texts on a model's fit in a list, in the order in which models are listed."""
UNUSABLE = "cannot take it"
"""The same of a model that cannot take the scan at all; such models come last."""


def verdict_text(found: Fit | str | None) -> str:
    """Text of a model in a list: on its fit, or that it cannot take the scan."""
    return VERDICTS[found.verdict] if isinstance(found, Fit) else UNUSABLE if found else ""


def rank_of(said: str) -> int:
    """Place of one of `VERDICTS` or `UNUSABLE` in the order of a list, 0 best."""
    return [*VERDICTS.values(), UNUSABLE].index(said)


def _trained_on(header: ModelHeader) -> str:
    if header.purpose.shows:
        return header.purpose.shows
    facts = header.facts
    words = [
        f"{facts.dims if facts else header.model.dims}D",
        model_modality(header),
        "color" if _in_color(header) else "",
    ]
    return " ".join(filter(None, (*words, "scans")))


def _in_color(header: ModelHeader) -> bool:
    """Whether a model is for color alone; gray pictures that are stored as red, green and blue are not in color."""
    named = tuple(channel.lower() for channel in header.preprocess.channels) == COLOR
    return named and (header.facts is None or (header.facts.color and not header.facts.mixed))


def _contradictions(kind: ScanKind, header: ModelHeader, modality: str) -> Iterator[str]:
    """Why a scan is of another kind than a model is for, certainly."""
    if modality and kind.modality and modality != kind.modality:
        yield f"looks like {kind.modality}" if kind.guessed else f"is {kind.modality}"
    if _in_color(header) and not kind.color:
        yield "is gray"
    facts = header.facts
    gray = len(header.preprocess.channels) == 1 if facts is None else not (facts.color or facts.mixed)
    if gray and kind.color:
        yield "is in color"


def _differences(scan: ScanLook, header: ModelHeader) -> Iterator[str]:
    """Signs that a scan differs from the training scans, the clearest first."""
    kind, facts, pre = scan.kind, header.facts, header.preprocess
    dims = facts.dims if facts else header.model.dims
    if kind.dims != dims:
        yield "is a single 2D image" if kind.dims == 2 else "is 3D"
    world = facts.world if facts else "patient" if pre.orientation else "pixels" if pre.resample != "spacing" else ""
    if world == "patient" and kind.world != "patient":
        yield "has no patient geometry"
    elif world == "sized" and kind.world == "pixels" and pre.resample == "spacing":
        yield "has no pixel size" if kind.dims == 2 else "has no voxel size"
    elif world == "pixels" and kind.world == "patient" and kind.dims == 3:
        yield "has patient geometry"
    if facts is None or kind.dims != dims:
        return
    if scan.unit == facts.unit == "mm":
        if kind.world == facts.world == "patient" and kind.dims == 3 and (words := _size(scan.sides, facts)):
            yield words
        if words := _voxels(scan.spacing, facts):
            yield words
    elif kind.world == facts.world == "pixels" and (words := _picture(scan.sides, facts)):
        yield words
    if scan.look and facts.look and (words := _values(_comparable(scan, scan.look, facts), facts)):
        yield words


def _size(sides: Sequence[float], facts: ScanFacts) -> str:
    """How much larger or smaller the field of view is; a range of n scans is widened by 10 % and by 50 % / √n."""
    wide = 1.1 + 0.5 / math.sqrt(facts.scans)
    pairs = list(zip(sides, facts.sides, strict=True))
    larger = max((side / middle for side, (_, middle, high) in pairs if side > high * wide), default=0.0)
    smaller = max((middle / side for side, (low, middle, _) in pairs if side < low / wide), default=0.0)
    if not larger and not smaller:
        return ""
    given = f"{' × '.join(f'{side:.0f}' for side in sides)} mm" if max(sides) >= 1 else _lengths(sides, small=1.0)
    ratio, word = (larger, "larger") if larger >= smaller else (smaller, "smaller")
    return f"is {_times(ratio)} {word} ({given})"


def _picture(sides: Sequence[float], facts: ScanFacts) -> str:
    """How much smaller or larger a picture is than all of them, where its pixels cannot be like theirs."""
    if not sides or not facts.sides:
        return ""
    smaller = max(low for low, _, _ in facts.sides) / max(sides)
    larger = max(sides) / max(high for _, _, high in facts.sides)
    if smaller < SMALL_PICTURE and larger < LARGE_PICTURE:
        return ""
    given = " × ".join(f"{side:.0f}" for side in sides)
    ratio, word = (larger, "larger") if larger >= smaller else (smaller, "smaller")
    return f"is {_times(ratio)} {word} ({given} pixels)"


def _times(ratio: float) -> str:
    return f"{ratio:.0f} times" if ratio >= 3 else f"{ratio:.1f} times"


def _voxels(spacing: Sequence[float], facts: ScanFacts) -> str:
    """Whether voxels are much smaller or larger than any of the training scans."""
    ratios = [
        max(given / (high * OTHER_VOXELS), low / (given * OTHER_VOXELS))
        for given, (low, _, high) in zip(sorted(spacing), sorted(facts.spacing), strict=True)
    ]
    if not ratios or max(ratios) <= 1:
        return ""
    usual = [middle for _, middle, _ in facts.spacing]
    return f"has voxels of {_lengths(spacing)} instead of {_lengths(usual)}"


def _lengths(sizes: Sequence[float], small: float = SMALL_VOXELS) -> str:
    """Lengths in mm as text, those of microscopes, all below `small`, in micrometers."""
    scale, unit = (1000, "µm") if max(sizes) < small else (1, "mm")
    return f"{' × '.join(f'{size * scale:.3g}' for size in sizes)} {unit}"


_WORDS: dict[Look, tuple[str, str]] = {
    "dark": ("has less dark background", "has more dark background"),
    "lower": ("is darker", "is brighter"),
    "middle": ("is darker", "is brighter"),
    "upper": ("is darker", "is brighter"),
    "entropy": ("has fewer gray values", "has more gray values"),
    "smoothness": ("has a finer texture", "is smoother"),
}
"""What is said of a scan whose number is lower, or higher, than that of any training scan."""


def _comparable(scan: ScanLook, look: dict[Look, float], facts: ScanFacts) -> dict[Look, float]:
    """Numbers of a look; of a crop or mosaic of known pixel size all but smoothness, which is over other distances."""
    if not (scan.unit == facts.unit == "mm" and facts.sides and scan.kind.world == "sized"):
        return look
    longest = max(scan.sides)
    low, high = (max(side[end] for side in facts.sides) for end in (0, 2))
    alike = low / OTHER_FIELD <= longest <= high * OTHER_FIELD
    return look if alike else {name: value for name, value in look.items() if name != "smoothness"}


def _values(look: dict[Look, float], facts: ScanFacts) -> str:
    """The clearest difference of the values; a range of n scans is widened by 25 % and by 0.2 / √n."""
    room = 0.2 / math.sqrt(facts.scans)
    worst, words = 0.0, ""
    for name, (low, _, high) in facts.look.items():
        if name not in look:
            continue
        wide = 0.25 * (high - low) + room
        beyond = max(low - look[name], look[name] - high) / (high - low + room)
        if beyond * (high - low + room) > wide and beyond > worst:
            worst, words = beyond, _WORDS[name][look[name] > high]
    return f"{words} than nearly all of these" if words else ""
