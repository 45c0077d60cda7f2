"""Events that a running job reports: small, frozen and plain, so that each crosses a process as JSON."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from typing import TypeVar

R = TypeVar("R")


@dataclass(frozen=True)
class StageStarted:
    """A named part of the job begins, or something worth saying happened: a sentence that is said once."""

    message: str


@dataclass(frozen=True)
class Working:
    """What is done at the moment, for the progress display only; the next one replaces it."""

    message: str


@dataclass(frozen=True)
class TileDone:
    """`done` of `total` tiles of the scan are computed."""

    done: int
    total: int
    share: float | None = None
    """Share of the work that is done, where tiles take different times: those of one value are computed once."""
    seconds_left: float | None = None
    """How long the others take, where that is known."""

    @property
    def part(self) -> float:
        """Share of the work that is done: of the tiles, where no other is known."""
        return self.done / self.total if self.share is None else self.share


@dataclass(frozen=True)
class SlabDone:
    """A box of the label map has classes now, perhaps provisional: first voxel and the one after the last, per axis."""

    start: tuple[int, ...]
    stop: tuple[int, ...]


@dataclass(frozen=True)
class ResultStored:
    """Where a result lies that is too large for memory: a zarr folder, filled block by block; again where it moved."""

    name: str
    """Of the result, such as ``labels``."""
    path: str


@dataclass(frozen=True)
class StepDone:
    """One optimizer step: its loss, the seconds that are left by then, and how many epochs there will be at most."""

    epoch: int
    step: int
    steps: int
    loss: float
    seconds_left: float | None = None
    epochs: int | None = None


@dataclass(frozen=True)
class LevelStats:
    """What one skip's gate does: share of activations removed, and the median threshold (None without one)."""

    removed: float
    threshold: float | None


@dataclass(frozen=True)
class EpochDone:
    """One epoch: mean loss, Dice per class name (None where it was not validated), gates per level (finest first)."""

    epoch: int
    epochs: int
    loss: float
    learning_rate: float
    dice: dict[str, float] | None
    mean_dice: float | None
    levels: tuple[LevelStats, ...] = ()
    best: bool = False
    seconds: float = 0.0
    seconds_left: float | None = None
    dice_on: str = ""
    """What the Dice is measured on, in words."""


@dataclass(frozen=True)
class InterimDone:
    """In the middle of an epoch, for a preview: a model file with the weights of this step, and its mean Dice."""

    epoch: int
    step: int
    model: str
    """Empty for the light model, which is in no file."""
    mean_dice: float | None
    dice_on: str = ""


@dataclass(frozen=True)
class LabelsTaken:
    """Labels that changed while training runs are learned from this epoch on: the names of their cases."""

    epoch: int
    cases: tuple[str, ...]


@dataclass(frozen=True)
class CheckpointSaved:
    """A file that the run can be resumed from, or the finished model."""

    path: str


@dataclass(frozen=True)
class PreviewDone:
    """The model of an epoch has segmented the scan that is watched: its array holds the classes."""

    epoch: int
    seconds: float
    mean_dice: float | None = None
    dice_on: str = ""
    """What the Dice is measured on, in words."""
    light: bool = False
    """Whether it was the light model, which answers first."""


@dataclass(frozen=True)
class SlicesUnsure:
    """How unsure the model of an epoch is of each slice of the scan that is watched."""

    axis: str
    """Letter of the slices' axis; empty for a picture."""
    entropy: tuple[tuple[float, ...], ...]
    """Of each slice, time point by time point: mean entropy of each class."""


@dataclass(frozen=True)
class CaseDone:
    """One scan of several is finished."""

    name: str
    output: str
    seconds: float
    voxels: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class CaseFailed:
    """One scan of several could not be segmented; the others go on."""

    name: str
    error: str


Event = (
    StageStarted
    | Working
    | TileDone
    | SlabDone
    | ResultStored
    | StepDone
    | EpochDone
    | InterimDone
    | LabelsTaken
    | CheckpointSaved
    | PreviewDone
    | SlicesUnsure
    | CaseDone
    | CaseFailed
)


def relay(work: Generator[Event, None, R], change: Callable[[Event], Iterable[Event]]) -> Generator[Event, None, R]:
    """Pass the events of a job on, each as what `change` makes of it; returns the job's result.

    Parameters
    ----------
    work : generator of Event
        The job; closed with this one.
    change : callable
        Gives the events, none or several, that stand for one.
    """
    with closing(work):
        while True:
            try:
                event = next(work)
            except StopIteration as stop:
                result: R = stop.value
                return result
            yield from change(event)


def drain(run: Generator[Event, None, R], show: Callable[[Event], None]) -> R:
    """Result of a job, each of its events shown.

    Parameters
    ----------
    run : generator of Event
        The job; ended early where `show` raises, whose exception is passed on.
    show : callable
        Takes each event.
    """
    with closing(run):
        while True:
            try:
                event = next(run)
            except StopIteration as stop:
                result: R = stop.value
                return result
            show(event)
