"""Validation during training: Dice per class, what the gates remove, and a picture of one slice per validation."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prosma_core.config.inference import InferenceConfig
from prosma_core.config.model import MISSED, ClassInfo
from prosma_core.data.geometry import Box, box_slices
from prosma_core.data.labels import IGNORED
from prosma_core.errors import DivergedError
from prosma_core.events import Event, LevelStats, StageStarted, TileDone, Working, relay
from prosma_core.inference.tiled import TiledPredictor
from prosma_core.io.notes import NO_INDEPENDENT_LABELS
from prosma_core.io.raster import gray_values, nearest_pixels, side_by_side, write_picture
from prosma_core.model.gate_hooks import counting
from prosma_core.model.light_head import LightHead
from prosma_core.model.unet import UNet, model_from
from prosma_core.printable import TimeLeft, counted
from prosma_core.training.case_logits import predict_case
from prosma_core.training.cases import TrainingCase
from prosma_core.training.prepare import Setup

R = TypeVar("R")
OnCase = Callable[[TrainingCase, Box, Tensor], None]


@dataclass(frozen=True)
class Validation:
    """Dice per foreground class (mean over cases), its mean, the gates, finest level first, and how many cases.

    A class that is in no case has no Dice and no part in the mean, which is None where there is none at all. `missed`
    has for each of the others the cases in which it was missed (Dice below `MISSED`), and the cases that show it.
    """

    dice: dict[str, float]
    mean: float | None
    levels: tuple[LevelStats, ...]
    count: int
    missed: dict[str, tuple[int, int]] = field(default_factory=dict)


def validate(
    model: UNet | LightHead,
    cases: Sequence[TrainingCase],
    tile: tuple[int, ...],
    classes: tuple[ClassInfo, ...],
    device: torch.device,
    *,
    amp: bool,
    meant: Tensor | None = None,
    on_case: OnCase | None = None,
) -> Generator[Event, None, Validation]:
    """Segment each case by the same tiles as `prosma segment` and compare; yields after each tile.

    Parameters
    ----------
    model : UNet or LightHead
        On `device`; left in evaluation mode.
    cases : sequence of TrainingCase
        At least one.
    tile : tuple of int
    classes : tuple of ClassInfo
        The first is the background.
    device : torch.device
    amp : bool
        bf16 autocast on CUDA; a CPU validates as it trains, in float32.
    meant : Tensor, optional, int64, shape (outputs of the model,)
        Class index that each output of another model stands for.
    on_case : callable, optional
        Called with each case, a box of it, and the class indices that were found there, integer, shape (*box).

    Raises
    ------
    DivergedError
        The network gives NaN or infinity.
    """
    model.eval()
    overlap, batch_size = InferenceConfig().overlap, 4 if device.type == "cuda" else 1
    predictor = TiledPredictor(
        model, tile, device, overlap=overlap, batch_size=batch_size, amp=amp and device.type == "cuda"
    )
    scores: list[list[float]] = []
    shown: list[NDArray[np.bool_]] = []
    with counting(model.skip_gates) as levels:
        for case in cases:
            sizes = np.zeros((2, len(classes) - 1), np.int64)
            take = partial(_compare, case, sizes, meant, on_case)
            yield from predict_case(case, predictor, device, take)
            scores.append(dice_of(sizes))
            shown.append(np.isin(np.arange(1, len(classes)), list(case.present)))
    in_cases = np.array(shown, bool).reshape(-1, len(classes) - 1)
    mean, present = np.mean(scores, axis=0), np.logical_or.reduce(in_cases, axis=0)
    dice = {c.name: float(d) for c, d, there in zip(classes[1:], mean, present, strict=True) if there}
    missed = missed_cases([c.name for c in classes[1:]], np.array(scores), in_cases)
    return Validation(dice, float(mean[present].mean()) if dice else None, tuple(levels), len(scores), missed)


def missed_cases(
    names: Sequence[str], dice: NDArray[np.float64], shown: NDArray[np.bool_]
) -> dict[str, tuple[int, int]]:
    """By class, the cases that show it in which it was missed, and all that show it; without a class that none shows.

    Parameters
    ----------
    names : sequence of str
        Of the classes.
    dice : ndarray, float64, shape (cases, classes)
    shown : ndarray, bool, shape (cases, classes)
        Which case shows which class.
    """
    counts = zip(names, (shown & (dice < MISSED)).sum(axis=0), shown.sum(axis=0), strict=True)
    return {name: (int(missed), int(cases)) for name, missed, cases in counts if cases}


def _compare(
    case: TrainingCase, sizes: NDArray[np.int64], meant: Tensor | None, on_case: OnCase | None, box: Box, logits: Tensor
) -> None:
    """Add what is found in a box of a case to the sizes that its Dice is of."""
    if not bool(torch.isfinite(logits).all()):
        msg = f"The network gives NaN or infinity on validation case {case.name}. Lower the learning rate and resume."
        raise DivergedError(msg)
    found = logits.argmax(0)
    found = found if meant is None else meant.to(found.device)[found]
    if on_case is not None:
        on_case(case, box, found)
    sizes += dice_sizes(found, case.labels[box_slices(box)].to(logits.device), sizes.shape[1] + 1)


def dice_sizes(prediction: Tensor, reference: Tensor, num_classes: int) -> NDArray[np.int64]:
    """Twice the overlap and both sizes together of each foreground class, over the voxels whose reference is known.

    Parameters
    ----------
    prediction : Tensor, integer, shape (*grid)
    reference : Tensor, integer, shape (*grid)
        Class indices, `IGNORED` where nothing is known.
    num_classes : int
        Background included.

    Returns
    -------
    ndarray, int64, shape (2, num_classes - 1)
    """
    prediction = torch.where(reference.int() == IGNORED, IGNORED, prediction.int())
    result = np.zeros((2, num_classes - 1), np.int64)
    for k in range(1, num_classes):
        p, r = prediction == k, reference == k
        result[:, k - 1] = 2 * int((p & r).sum()), int(p.sum()) + int(r.sum())
    return result


def dice_of(sizes: NDArray[np.int64]) -> list[float]:
    """Dice of each foreground class from `dice_sizes`, 1 where a class is in neither."""
    return [twice / both if both else 1.0 for twice, both in sizes.T.tolist()]


def dice_per_class(prediction: Tensor, reference: Tensor, num_classes: int) -> list[float]:
    """Dice of each foreground class; parameters as of `dice_sizes`."""
    return dice_of(dice_sizes(prediction, reference, num_classes))


def training_summary(
    setup: Setup, epochs: int, validation: Validation, before: Mapping[str, float] | None
) -> dict[str, Any]:
    """Entry ``training`` of the model's header.

    Parameters
    ----------
    setup : Setup
    epochs : int
        Epochs trained.
    validation : Validation
        Of the weights in the file.
    before : mapping of str to float, or None
        Dice of the start model on the same cases.
    """
    run, split = setup.run, setup.split
    summary: dict[str, Any] = {
        "data": run.data.name if run.data else counted(len(run.pairs), "pair"),
        "train_cases": len(split.train),
        "validation_cases": len(split.val),
        "validation": split.kind,
        "epochs": epochs,
        "steps_per_epoch": run.training.steps,
        "validation_dice": _rounded(validation.dice),
        "validation_mean_dice": None if validation.mean is None else round(validation.mean, 4),
        "missed": {name: list(counts) for name, counts in validation.missed.items()},
        "removed_fraction": [round(level.removed, 4) for level in validation.levels],
        "median_threshold": [level.threshold and round(level.threshold, 4) for level in validation.levels],
    }
    if run.init:
        summary["start"] = Path(run.init).stem
    if setup.synthetic:
        summary["synthetic"] = True
    if split.derived:
        summary["independent_labels"] = False
    if validation.count < len(setup.val):
        summary |= {"validated_frames": validation.count, "validation_frames": len(setup.val)}
    return summary if before is None else {**summary, "before": _rounded(before)}


def _rounded(dice: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in dice.items()}


def common_classes(start: tuple[ClassInfo, ...], new: tuple[ClassInfo, ...]) -> dict[int, int]:
    """Index in `new` of each foreground class of `start` that is there, too.

    Classes are the same where their names are (in any case), or where their values are and one has no name of its own.
    """
    names = {c.name.casefold(): i for i, c in enumerate(new) if i}
    found = {i: names[c.name.casefold()] for i, c in enumerate(start) if i and c.name.casefold() in names}
    values = {c.value: i for i, c in enumerate(new) if i and i not in found.values()}
    for i, c in enumerate(start):
        j = values.get(c.value)
        if i and i not in found and j is not None and (_unnamed(c) or _unnamed(new[j])):
            found[i] = j
    return found


def _unnamed(info: ClassInfo) -> bool:
    return info.name == f"class {info.value}"


def in_words(
    work: Generator[Event, None, R], words: str, scans: int = 1, *, timed: bool = False
) -> Generator[Event, None, R]:
    """Pass the events of a job within a training on, tiles as what is done and how much of it; returns its result.

    Parameters
    ----------
    work : generator of Event
        Segments scans tile by tile.
    words : str
        What is done.
    scans : int
        How many there are.
    timed : bool
        Whether its time left is reported, from the pace since its first tile.
    """
    finished, pace = 0, TimeLeft()

    def tell(event: Event) -> Iterator[Event]:
        nonlocal finished
        if not isinstance(event, TileDone):
            yield event
            return
        share = (finished + event.done / event.total) / scans
        finished += event.done == event.total
        left = pace.text(share, 1) if timed else ""
        yield Working(f"{words}: {math.floor(100 * share)} %" + (f", {left}" if left else ""))

    return (yield from relay(work, tell))


def validate_start(setup: Setup, device: torch.device) -> Generator[Event, None, dict[str, float] | None]:
    """Dice of the start model per class that both models have, on the run's validation cases.

    None without any, where nothing is held out (the new model was trained on these slices, the old one was not), and
    where the labels of a validation case are a model's result: a model is not judged by these.
    """
    if setup.start is None:
        return None
    if setup.split.kind == "none held out":
        yield StageStarted("Nothing is held out: before and after are not compared.")
        return None
    if setup.split.derived:
        yield StageStarted(f"{NO_INDEPENDENT_LABELS}: before and after are not compared.")
        return None
    header, weights = setup.start
    if header.model.in_channels != setup.header.model.in_channels:
        yield StageStarted("The start model takes other channels, so that before and after cannot be compared.")
        return None
    common = common_classes(header.classes, setup.header.classes)
    if not common:
        yield StageStarted("The start model has none of these classes, so that before and after cannot be compared.")
        return None
    yield StageStarted(f"Validating {header.name} before fine-tuning.")
    model = model_from(header.model, weights).to(device)
    meant = torch.zeros(len(header.classes), dtype=torch.int64)
    for i, j in common.items():
        meant[i] = j
    pre, classes = setup.header.preprocess, setup.header.classes
    amp = setup.run.training.amp
    work = validate(model, setup.val, pre.tile, classes, device, amp=amp, meant=meant)
    found = yield from in_words(work, f"Validating {header.name}", len(setup.val), timed=True)
    names = [classes[j].name for j in sorted(common.values()) if classes[j].name in found.dice]
    if not names:
        yield StageStarted("No validation case holds a class of the start model: before and after are not compared.")
        return None
    return {name: found.dice[name] for name in names}


OPACITY = 0.45
"""Of predicted classes over the image."""


class CasePicture:
    """The slice with most labels of the case with most, each by its size.

    Of a sparsely annotated volume it is one across the axis along which the fewest slices are annotated, else across z.

    Parameters
    ----------
    cases : sequence of TrainingCase
        Those that are validated; at least one.
    spacing : sequence of float
        Voxel size of its grid.
    classes : sequence of ClassInfo
        The first is the background.
    """

    def __init__(self, cases: Sequence[TrainingCase], spacing: Sequence[float], classes: Sequence[ClassInfo]) -> None:
        case = max(cases, key=_foreground_share)
        self._colors = np.array([[int(c.color[i : i + 2], 16) for i in (1, 3, 5)] for c in classes], np.float64)
        self._case, self._at = case, tuple[Any, ...]()
        self._plane: tuple[int, int] | None = None
        if len(case.labels.shape) == 3:
            axis = _axis(case) if case.masked else 0
            index = int(_foreground_planes(case)[axis].argmax())
            self._plane = axis, index
            self._at = (*[slice(None)] * axis, index, *[slice(None)] * (2 - axis))
            spacing = [s for a, s in enumerate(spacing) if a != axis]
        else:
            self._at = (slice(None), slice(None))
        drawn = case.labels[self._at].int().cpu().numpy()
        labels = np.where(drawn == IGNORED, 0, drawn)
        self._rows, self._columns = nearest_pixels(labels.shape, spacing)
        self._image = self._zoom(gray_values(case.image[(slice(None), *self._at)].cpu().numpy()))
        self._outline = _outline(self._zoom(labels))
        self._found = np.zeros_like(labels)

    def take(self, case: TrainingCase, box: Box, found: Tensor) -> None:
        """Take the segmentation of a box of a case: class indices, integer, shape (*box)."""
        if case is not self._case:
            return
        inside = box
        if self._plane is not None:
            axis, index = self._plane
            if not box[axis][0] <= index < box[axis][1]:
                return
            found, inside = found.select(axis, index - box[axis][0]), (*box[:axis], *box[axis + 1 :])
        self._found[box_slices(inside)] = found.cpu().numpy()

    def draw(self) -> NDArray[np.uint8]:
        """The slice as it is, and with the classes found as colors and the annotated ones as outlines.

        Returns
        -------
        ndarray, uint8, shape (height, width, 3)
        """
        classes = self._zoom(self._found)
        image = np.repeat(self._image[..., None], 3, axis=-1) if self._image.ndim == 2 else self._image
        colored = np.where(classes[..., None] > 0, (1 - OPACITY) * image + OPACITY * self._colors[classes], image)
        colored = np.where(self._outline[..., None] > 0, self._colors[self._outline], colored)
        return side_by_side([image, colored])

    def write(self, path: Path) -> None:
        """Write what `draw` gives as a PNG; raises `OutputError` where that fails."""
        write_picture(path, self.draw())

    def _zoom(self, array: NDArray[Any]) -> NDArray[Any]:
        zoomed: NDArray[Any] = array[self._rows][:, self._columns]
        return zoomed


def _foreground_share(case: TrainingCase) -> float:
    if case.stored is not None:
        return case.stored.foreground / case.labels.numel()
    return float((case.labels_in_memory > 0).float().mean())


def _foreground_planes(case: TrainingCase) -> Sequence[NDArray[Any]]:
    """Foreground voxels of each plane along each axis."""
    if case.stored is not None:
        return case.stored.planes
    inside = case.labels_in_memory.cpu().numpy() > 0
    return [inside.sum(tuple(b for b in range(inside.ndim) if b != a)) for a in range(inside.ndim)]


def _axis(case: TrainingCase) -> int:
    """Axis along which the fewest slices are annotated."""
    if case.stored is not None:
        return int(np.argmin([each.sum() for each in case.stored.known_planes]))
    known = case.labels_in_memory.int().cpu().numpy() != IGNORED
    counts = [known.any(tuple(b for b in range(3) if b != a)).sum() for a in range(3)]
    return int(np.argmin(counts))


def _outline(labels: NDArray[Any]) -> NDArray[Any]:
    """Classes along their borders, 0 elsewhere."""
    edge = np.zeros_like(labels)
    for axis in (0, 1):
        one, other = (np.take(labels, range(a, labels.shape[axis] - 1 + a), axis) for a in (0, 1))
        border = np.where(one != other, np.maximum(one, other), 0)
        for a in (0, 1):
            part = np.moveaxis(edge, axis, 0)[a : labels.shape[axis] - 1 + a]
            np.maximum(part, np.moveaxis(border, axis, 0), out=part)
    return edge
