"""Two label maps of one scan, class by class: what was turned on, turned off, or became another class."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prosma_core.config.inspection import ClassChange, VariantResult
from prosma_core.config.model import ClassInfo

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


def parts(shape: tuple[int, ...]) -> Iterator[Index]:
    """Indices of an array in parts of about `AT_ONCE` voxels; within planes of the first axis where those are large."""
    rest = int(np.prod(shape[1:]))
    if rest > AT_ONCE and len(shape) > 2:
        for row in range(shape[0]):
            for index in parts(shape[1:]):
                yield (slice(row, row + 1), *index)
        return
    step = max(1, AT_ONCE // rest)
    for first in range(0, shape[0], step):
        yield (slice(first, first + step),)


def _dice(table: NDArray[np.int64], k: int) -> float:
    """Dice of class k of two maps; 1 where neither has it."""
    both = int(table[k].sum() + table[:, k].sum())
    return 2 * int(table[k, k]) / both if both else 1.0
