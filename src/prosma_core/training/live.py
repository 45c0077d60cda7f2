"""Labels that change while a training runs: it learns them from the next step on, and waits for more at its end."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from prosma_core.config.model import ModelHeader, weights_file
from prosma_core.data.grid import padding_to
from prosma_core.data.labels import IGNORED
from prosma_core.errors import LabelError, ModelFileError, ProsmaError
from prosma_core.events import Event, LabelsTaken, StageStarted, Working
from prosma_core.io.atomic import copy_atomic
from prosma_core.io.names import image_suffix
from prosma_core.model.light_head import LightHead
from prosma_core.model.pretrained import imagenet_weights
from prosma_core.runs.run_folder import RunFolder
from prosma_core.training.cases import TrainingCase, prepare_case
from prosma_core.training.dataset_summary import read_annotated
from prosma_core.training.prepare import Setup
from prosma_core.training.split import Part

PATIENCE = 600.0
"""Seconds for which a training whose budget is used waits for new labels."""
_LOOK = 0.3
"""Seconds between two looks for them."""
PAUSED = "Waiting for new labels: paint to continue, or stop."


@dataclass
class FirstAnswer:
    """The light model, which answers until the network is ahead.

    Attributes
    ----------
    header : ModelHeader
        Of the network: preprocessing and classes are the same.
    model : LightHead
    dice : float or None
        Its mean Dice on what the network is measured on.
    until : float
        When the network takes over in any case, as of `time.monotonic`.
    """

    header: ModelHeader
    model: LightHead
    dice: float | None
    until: float

    def is_behind(self, mean_dice: float | None) -> bool:
        """Whether a network of this mean Dice is ahead; less will do, since the light model fits single slices well."""
        known = mean_dice is not None and self.dice is not None
        return (known and mean_dice >= ENOUGH * self.dice) or time.monotonic() > self.until  # type: ignore[operator]


ENOUGH = 0.9
"""Share of the light model's Dice from which on the network is ahead."""
LONGEST = 120.0
"""Seconds for which the light model answers at most."""
LONG = 1_000_000
"""Voxels of all patches of an epoch from which on it is too long to wait for on a CPU."""


def first_answer(setup: Setup, device: torch.device, *, epoch_voxels: int) -> FirstAnswer | None:
    """The light model, fitted to the annotated slices; None where it is not needed, or cannot be had.

    Parameters
    ----------
    setup : Setup
        With its cases as they are now.
    device : torch.device
    epoch_voxels : int
        Of all patches of an epoch.
    """
    header = setup.header
    channels = header.model.in_channels
    if setup.start is not None or device.type != "cpu" or channels not in (1, 3) or epoch_voxels < LONG:
        return None
    slices = [pair for case in setup.train for pair in _slices(case, header.preprocess.tile)]
    if not slices or weights_file() is None:
        return None
    try:
        published = setup.pretrained or imagenet_weights()
    except ModelFileError:
        return None
    light = LightHead(published, channels, len(header.classes), max(header.preprocess.tile[-2:]))
    light.fit(slices)
    return FirstAnswer(header, light.eval(), None, time.monotonic() + LONGEST)


def _slices(case: TrainingCase, tile: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
    """Annotated slices of a case along the first axis, and their labels, padded as for segmentation."""
    pads = [n for both in reversed(padding_to(tuple(case.labels.shape), tuple(tile))) for n in both]
    image, labels = F.pad(case.image_in_memory, pads), F.pad(case.labels_in_memory.int(), pads, value=IGNORED)
    if labels.ndim == 2:
        return [(image, labels)]
    there = (labels > 0).flatten(1).any(1)
    return [(image[:, i], labels[i]) for i in torch.nonzero(there)[:, 0].tolist()]


class LiveInput(Protocol):
    """What reaches a training while it runs.

    Attributes
    ----------
    answer : FirstAnswer or None
        The light model, while it answers instead of the network.
    """

    answer: FirstAnswer | None

    @property
    def asked(self) -> float:
        """When the training was asked for, as of `time.monotonic`."""

    @property
    def waits(self) -> bool:
        """Whether the training waits for new labels when its budget is used, instead of ending."""

    @property
    def pending(self) -> bool:
        """Whether there are new labels."""

    @property
    def wants_preview(self) -> bool:
        """Whether anybody looks at what the model does."""

    def take(self) -> tuple[dict[Path, Path], list[Path]]:
        """Labels that changed, by the file they replace, and files that a later one has replaced already.

        All of them are the training's to remove.
        """


class Learner(Protocol):
    """A training, as far as its labels can change."""

    @property
    def setup(self) -> Setup:
        """The run, with its cases as they are now."""

    @property
    def folder(self) -> RunFolder:
        """Where its copies of labels are."""

    def cases_of(self, part: Part, scan: str, /) -> list[TrainingCase]:
        """Frames of a scan that are trained or validated on."""

    def with_probabilities(self, cases: Sequence[TrainingCase], /) -> Generator[Event, None, list[TrainingCase]]:
        """Frames with what a start model says of them, where that is learned, too."""

    def take(self, scan: str, parts: Mapping[Part, Sequence[TrainingCase]], /) -> Generator[Event, None, None]:
        """Put other frames of a scan into the places of those before."""


class PreviewClock:
    """When a training shows what it has learned, beside the end of each epoch.

    Soon after its first step and after new labels, later at times, and never so often that it holds up the training.
    """

    FIRST, LATER = 8.0, 30.0
    """Seconds from the first step, or from new labels, to the next one, and between others."""
    ASKED = 18.0
    """Seconds from the request to the first one: where the first step came soon, more is learned until then."""
    SHARE = 4.0
    """Least time between two, in times of what one takes."""

    def __init__(self, asked: float) -> None:
        self._due = max(time.monotonic() + self.FIRST, asked + self.ASKED)
        self._cost = 0.0

    @property
    def due(self) -> bool:
        """Whether it is time for one."""
        return time.monotonic() >= self._due

    def new_labels(self) -> None:
        """Labels have changed: somebody waits for what comes of them."""
        self._due = min(self._due, time.monotonic() + max(self.FIRST, self._cost))

    def shown(self, seconds: float) -> None:
        """One was shown, which took so long."""
        self._cost = seconds
        self._due = time.monotonic() + max(self.LATER, self.SHARE * seconds)


def wait_for_labels(live: LiveInput | None) -> Generator[Event, None, bool]:
    """Wait for new labels where that is wanted, for a time; whether there are some."""
    began = time.monotonic()
    while live is not None and live.waits and not live.pending and time.monotonic() < began + PATIENCE:
        yield Working(PAUSED)
        time.sleep(_LOOK)
    return live is not None and live.pending


def take_labels(trainer: Learner, live: LiveInput, epoch: int) -> Generator[Event, None, bool]:
    """Let a training learn the labels that have changed, and keep them in its run folder; whether it learns any.

    Labels that cannot be learned are left out, which is reported; the training goes on with those before. Those of a
    scan that is held out are kept and measured on.
    """
    changed, late = live.take()
    discard(late)
    if not changed:
        return False
    names = {case.label: name for name, case in trainer.setup.cases.items()}
    taken = []
    for label, new in changed.items():
        name = names.get(label, label.name)
        yield Working(f"Reading the new labels of {name}")
        try:
            _check_copy(trainer, names, label, new)
            parts, lost = yield from _prepared(trainer, name, new)
            soft = yield from trainer.with_probabilities(parts.get("train", []))
            copy_atomic(new, label)
        except ProsmaError as error:
            yield StageStarted(f"The new labels of {name} are not learned, training continues with the last. {error}")
            continue
        finally:
            discard([new])
        yield from trainer.take(name, {**parts, "train": soft} if "train" in parts else parts)
        if lost:
            yield StageStarted(lost)
        if "train" in parts:
            taken.append(name)
        else:
            yield StageStarted(f"{name} is held out: its new labels are measured on, not learned.")
    if taken:
        yield LabelsTaken(epoch, tuple(taken))
    return bool(taken)


def _check_copy(trainer: Learner, names: dict[Path, str], label: Path, new: Path) -> None:
    """Raise `LabelError` unless a label file is one of the run, its own copy, and of the format of the new one."""
    if image_suffix(new) != image_suffix(label):
        msg = "They do not lie where they lay when the training began. Train anew to learn them."
        raise LabelError(msg)
    if label not in names or not label.is_relative_to(trainer.folder.root):
        msg = f"{label} is not a copy in {trainer.folder.root.name}. Train on layers for labels that may change."
        raise LabelError(msg)


def _prepared(
    trainer: Learner, name: str, new: Path
) -> Generator[Event, None, tuple[dict[Part, list[TrainingCase]], str]]:
    """Cases of a scan with new labels, of each part of the split that it is in.

    Where nothing that is held out is annotated in them any more, the part that is trained on counts all the same; the
    scan is not measured on any more, or as it was before where nothing else is held out.

    Returns
    -------
    parts : dict
    lost : str
        Message on held-out slices in which nothing is annotated any more; else empty.

    Raises
    ------
    ProsmaError
        As in `read_annotated` and `prepare_case`; nothing is annotated any more; or slices are held out, and the new
        labels are annotated along another axis.
    """
    run, split, header = trainer.setup.run, trainer.setup.split, trainer.setup.header
    if name not in (*split.train, *split.val):
        msg = "Nothing of them was annotated when the training began. Train anew to use them."
        raise LabelError(msg)
    case = trainer.setup.cases[name]
    image, labels = yield from read_annotated(replace(case, label=new), run)
    if name in split.held and labels.axis != (yield from read_annotated(case, run))[1].axis:
        msg = f"They are annotated along {labels.axis_name or 'no axis'}, the slices held out lie along another axis."
        raise LabelError(msg)
    parts: dict[Part, list[TrainingCase]] = {}
    places: dict[Part, tuple[str, ...]] = {"train": split.train, "val": split.val}
    for key, there in places.items():
        if name not in there:
            continue
        own = split.part(key, name, labels)
        try:
            seed = there.index(name)
            parts[key] = yield from prepare_case(name, image, own, header.preprocess, header.classes, seed=seed)
        except LabelError as error:
            msg = f"{error} A new class needs a new training."
            raise LabelError(msg) from error
        if not parts[key] and trainer.cases_of(key, name) and (key == "train" or not parts.get("train")):
            what = "to train on" if key == "train" else "that is held out"
            msg = f"Nothing {what} is annotated in them."
            raise LabelError(msg)
    if parts.get("val", True) or not trainer.cases_of("val", name):
        return parts, ""
    others = any(case.scan != name for case in trainer.setup.val)
    if not others:
        del parts["val"]
    slices = ", ".join(map(str, split.held[name].slices)) if name in split.held else ""
    where = f" ({labels.axis_name} {slices})" if labels.axis_name and slices else ""
    return parts, (
        f"{name}: nothing is annotated any more on what is held out{where}. "
        f"{'It is not measured on' if others else 'It is measured on as it was'}, the other slices are learned; paint "
        "there again to measure on it."
    )


def discard(paths: Iterable[Path]) -> None:
    """Remove files, or folders, that are of no use any more."""
    for path in paths:
        with contextlib.suppress(OSError):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
