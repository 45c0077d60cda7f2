"""What-if: a scan segmented with changed gates, compared class by class with the unchanged result."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prosma_core.config.inference import InferenceConfig
from prosma_core.config.inspection import ClassChange, Edits, InspectConfig, Variant, VariantResult, check_edits
from prosma_core.config.model import ClassInfo
from prosma_core.data.geometry import Scan, box_slices
from prosma_core.data.labels import class_indices
from prosma_core.errors import GeometryError
from prosma_core.events import Event, StageStarted, TileDone, Working, relay
from prosma_core.inference.device import name_memory_errors
from prosma_core.inference.prepare import plan_scan
from prosma_core.inference.results import Allocate
from prosma_core.inference.segment import Segmenter
from prosma_core.model.gate_hooks import edited

SAME, TURNED_ON, TURNED_OFF, OTHER_CLASS = range(4)
"""What a voxel of the changes says."""
AT_ONCE = 1 << 21
"""Voxels compared at once."""

Index = tuple[slice, ...]


def change_of(before: NDArray[Any], after: NDArray[Any], background: int) -> NDArray[np.uint8]:
    """What became of each voxel: 0 the same, 1 background before, 2 background now, 3 another class.

    Parameters
    ----------
    before, after : ndarray, integer, of one shape
        Class values.
    background : int
        Value of the background.
    """
    changes = np.where(before == background, TURNED_ON, np.where(after == background, TURNED_OFF, OTHER_CLASS))
    return np.where(before == after, SAME, changes).astype(np.uint8)


class Comparison:
    """Counts of a changed label map against the unchanged one, and of both against a truth, added up part by part.

    Parameters
    ----------
    classes : sequence of ClassInfo
        The first is the background.

    Attributes
    ----------
    background : int
        Value of the background.
    """

    def __init__(self, classes: tuple[ClassInfo, ...]) -> None:
        self._classes, self.background = classes, classes[0].value
        values = [c.value for c in classes]
        self._numbers = np.zeros(max(values) + 1, np.int64)
        self._numbers[values] = np.arange(len(values))
        self._changed, self._before, self._after = (np.zeros((len(values),) * 2, np.int64) for _ in range(3))
        self._has_truth = False

    def add(self, before: NDArray[Any], after: NDArray[Any], truth: NDArray[Any] | None) -> None:
        """Take a part of the maps: class values; of the truth, class numbers."""
        one, other = self._numbers[before], self._numbers[after]
        self._changed += self._table(one, other)
        if truth is not None:
            self._has_truth = True
            self._before += self._table(truth.astype(np.int64), one)
            self._after += self._table(truth.astype(np.int64), other)

    def result(self, name: str) -> VariantResult:
        """The counts, under the name of what was changed."""
        table = self._changed
        classes = tuple(
            ClassChange(
                name=info.name,
                before=int(table[k].sum()),
                after=int(table[:, k].sum()),
                turned_on=int(table[0, k]),
                turned_off=int(table[k, 0]),
                dice=_dice(table, k),
                truth_before=_dice(self._before, k) if self._has_truth else None,
                truth_after=_dice(self._after, k) if self._has_truth else None,
            )
            for k, info in enumerate(self._classes)
            if k
        )
        return VariantResult(name=name, changed=int(table.sum() - table.trace()), classes=classes)

    def _table(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many voxels have each pair of classes."""
        n = len(self._classes)
        return np.bincount((rows * n + columns).ravel(), minlength=n * n).reshape(n, n)


def slabs(shape: tuple[int, ...]) -> Iterator[Index]:
    """Indices of an array in parts of about `AT_ONCE` voxels; within planes of the first axis where those are large."""
    rest = int(np.prod(shape[1:]))
    if rest > AT_ONCE and len(shape) > 2:
        for row in range(shape[0]):
            for index in slabs(shape[1:]):
                yield (slice(row, row + 1), *index)
        return
    step = max(1, AT_ONCE // rest)
    for first in range(0, shape[0], step):
        yield (slice(first, first + step),)


def _dice(table: NDArray[np.int64], k: int) -> float:
    """Dice of class k of two maps; 1 where neither has it."""
    both = int(table[k].sum() + table[:, k].sum())
    return 2 * int(table[k, k]) / both if both else 1.0


@dataclass(frozen=True, eq=False)
class WhatIf:
    """What became of a segmentation when gates were changed.

    Attributes
    ----------
    variants : tuple of VariantResult
        In the order they were asked for.
    unchanged : Scan
        Class values with the gates as they were learned.
    labels : Scan or None
        Class values with those of the first variant; None where they were not wanted.
    changes : Scan or None
        uint8: 0 the same, 1 background before, 2 background now, 3 another class; of the first variant.
    """

    variants: tuple[VariantResult, ...]
    unchanged: Scan
    labels: Scan | None
    changes: Scan | None


def what_if(
    segmenter: Segmenter,
    scan: Scan,
    variants: Sequence[Variant],
    config: InspectConfig,
    *,
    truth: Scan | None = None,
    unchanged: Scan | None = None,
    arrays: bool = True,
    allocate: Allocate | None = None,
) -> Generator[Event, None, WhatIf]:
    """Segment a scan with changed gates; yields as `Segmenter.segment` does, and may be closed there.

    Parameters
    ----------
    segmenter : Segmenter
        Not to be used by others meanwhile: its gates are changed.
    scan : Scan
    variants : sequence of Variant
        Each is compared with the gates as they were learned.
    config : InspectConfig
        Its overlap, region and slice axis; only voxels of the region are compared.
    truth : Scan, optional
        Labels on the scan's grid, of the model's class values.
    unchanged : Scan, optional
        Class values with the gates as they were learned, where they are known from before.
    arrays : bool
        Whether the label map and the changes of the first variant are wanted.
    allocate : callable, optional
        Gives their arrays, named ``labels`` and ``changes``.

    Raises
    ------
    ConfigError
        A variant changes what does not exist.
    LabelError, GeometryError
        The truth does not fit the model's classes or the scan.
    ChannelError, IntensityError, DeviceError
        As in `Segmenter.segment`.
    """
    for variant in variants:
        check_edits(segmenter.header.model, variant.edits)
    plan = plan_scan(scan, segmenter.header, config.region, config.slice_axis)
    lead = int("t" in plan.scan.spec.axes)
    at = (slice(None),) * lead + box_slices(plan.region)
    with name_memory_errors():
        numbers = None if truth is None else _truth(truth, plan.scan, segmenter, at)
        runs = len(variants) + (unchanged is None)
        if unchanged is None:
            unchanged = yield from _segment(segmenter, scan, config, (), (0, runs), None)
        first: Scan | None = None
        results, changes = [], None
        for number, variant in enumerate(variants):
            place = runs - len(variants) + number, runs
            keep = arrays and not number
            labels = yield from _segment(segmenter, scan, config, variant.edits, place, allocate if keep else None)
            if keep:
                first, changes = labels, (allocate or _zeros)("changes", labels.data.shape, np.dtype(np.uint8))
            comparison = Comparison(segmenter.header.classes)
            said = changes[at] if keep and changes is not None else None
            yield from _compare(comparison, unchanged.data[at], labels.data[at], numbers, said)
            results.append(comparison.result(variant.name))
    found = None if changes is None or first is None else Scan(changes, first.spec)
    return WhatIf(tuple(results), unchanged, first, found)


def _segment(
    segmenter: Segmenter,
    scan: Scan,
    config: InspectConfig,
    edits: Edits,
    place: tuple[int, int],
    allocate: Allocate | None,
) -> Generator[Event, None, Scan]:
    """One segmentation of several; what it says is said of the first one only."""
    number, runs = place
    how = InferenceConfig(overlap=config.overlap, region=config.region, slice_axis=config.slice_axis)

    def change(event: Event) -> Iterator[Event]:
        if isinstance(event, TileDone):
            yield TileDone(number * event.total + event.done, runs * event.total)
        else:
            yield Working("Segmenting again") if isinstance(event, StageStarted) and number else event

    with edited(segmenter.model, edits):
        segmentation = yield from relay(segmenter.segment(scan, how, allocate=allocate), change)
    return segmentation.labels


def _compare(
    comparison: Comparison,
    before: NDArray[Any],
    after: NDArray[Any],
    truth: NDArray[Any] | None,
    changes: NDArray[Any] | None,
) -> Generator[Event, None, None]:
    """Compare two label maps part by part."""
    for number, index in enumerate(slabs(before.shape)):
        if number:
            yield Working("Comparing")
        comparison.add(before[index], after[index], None if truth is None else truth[index])
        if changes is not None:
            changes[index] = change_of(before[index], after[index], comparison.background)


def _truth(truth: Scan, scan: Scan, segmenter: Segmenter, at: tuple[slice, ...]) -> NDArray[Any]:
    """Class numbers of a truth within the region."""
    wanted = scan.spec.labels_spec()
    if truth.data.shape != wanted.shape:
        msg = (
            f"The labels to compare with have shape {truth.data.shape}, the scan {wanted.shape} (axes {wanted.axes}). "
            "Choose labels of this scan."
        )
        raise GeometryError(msg)
    return class_indices(truth.data[at], segmenter.header.classes, "the labels to compare with")


def _zeros(_: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    return np.zeros(shape, dtype)
