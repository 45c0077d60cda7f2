"""Voxels of classes, drawn from label maps that are read by parts."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prosma_core.data.geometry import Box, box_slices, first_voxel
from prosma_core.data.labels import IGNORED, value_counts
from prosma_core.data.lazy import LazyArray, parts_of
from prosma_core.events import Working
from prosma_core.printable import Passing

AT_ONCE = 8 << 20
"""Voxels of labels, about, that are looked at at once."""


@dataclass(frozen=True, eq=False)
class LabelFacts:
    """What one pass over class indices has found.

    Attributes
    ----------
    present : frozenset of int
        Indices of the classes that are there.
    unknown : bool
        Whether it holds voxels that are not annotated.
    hull : tuple of (int, int)
        Box of all that is annotated.
    planes : list of ndarray, int64
        Foreground voxels of each plane along each axis.
    known_planes : list of ndarray, bool
        Planes along each axis that hold anything annotated.
    """

    present: frozenset[int]
    unknown: bool
    hull: Box
    planes: list[NDArray[np.int64]]
    known_planes: list[NDArray[np.bool_]]

    @property
    def foreground(self) -> int:
        """Foreground voxels."""
        return int(self.planes[0].sum())


class PointTable:
    """Voxels of each class, drawn as from a list of all, which is never made: rows are counted first, by `count`."""

    def __init__(self, labels: LazyArray, rows: dict[int, NDArray[np.int32]], facts: LabelFacts) -> None:
        self._labels, self._rows, self.facts = labels, rows, facts

    @classmethod
    def count(cls, labels: LazyArray, classes: int, words: str) -> Generator[Working, None, PointTable]:
        """Count the voxels of each class; yields after each part, and may be closed there.

        Parameters
        ----------
        labels : LazyArray, integer
            Class indices, `IGNORED` where nothing is known.
        classes : int
            Background included.
        words : str
            What is done, for the progress display.
        """
        shape = labels.shape
        counted = {c: np.zeros(shape[:-1], np.int32) for c in (*range(1, classes), IGNORED)}  # of those: known
        planes = [np.zeros(size, np.int64) for size in shape]
        known_planes = [np.zeros(size, bool) for size in shape]
        present: set[int] = set()
        boxes = list(parts_of(labels, AT_ONCE, (len(shape) - 1,)))
        passing = Passing(words, len(boxes))
        for box in boxes:
            part = labels.read(box)
            here = set(value_counts(part))
            present |= here
            at, sizes = box_slices(box), part.shape
            if len(here) == 1:  # its rows and planes are alike
                part = first_voxel(part)
            row = sizes[-1] // part.shape[-1]
            for c in here - {0, IGNORED}:
                counted[c][at[:-1]] += row * (part == c).sum(-1, dtype=np.int32)
            known = part != IGNORED
            counted[IGNORED][at[:-1]] += row * known.sum(-1, dtype=np.int32)
            inside = part > 0
            for axis in range(len(shape)):
                others = tuple(a for a in range(len(shape)) if a != axis)
                plane = prod(sizes[a] // part.shape[a] for a in others)
                planes[axis][at[axis]] += plane * inside.sum(others)
                known_planes[axis][at[axis]] |= known.any(others)
            yield Working(passing.another())
        ends = [np.flatnonzero(each) for each in known_planes]
        hull = tuple((int(each[0]), int(each[-1]) + 1) if len(each) else (0, 0) for each in ends)
        facts = LabelFacts(frozenset(present), IGNORED in present, hull, planes, known_planes)
        return cls(labels, counted, facts)

    def draw(self, wanted: Sequence[int], most: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
        """So many voxels at most of each class, of `IGNORED` all annotated ones: int64, shape (n, dims).

        The generator is asked, and the voxels come, as in a choice among all of them.
        """
        ranks = {c: self._ranks(c, most, rng) for c in wanted}
        found = {c: np.zeros((len(each), len(self._labels.shape)), np.int64) for c, each in ranks.items()}
        places = {c: self._places(c, each) for c, each in ranks.items()}
        for box, part in self._needed(places):
            for c, (rows, nth) in places.items():
                mask = part != IGNORED if c == IGNORED else part == c
                for i in np.flatnonzero(_within(rows, box)):
                    row = tuple(rows[i] - [a for a, _ in box[:-1]])
                    found[c][i] = *rows[i], np.flatnonzero(mask[row])[nth[i]]
        return [found[c] for c in wanted]

    def _ranks(self, c: int, most: int, rng: np.random.Generator) -> NDArray[np.int64]:
        total = int(self._rows[c].sum(dtype=np.int64))
        return rng.choice(total, most, replace=False) if total > most else np.arange(total)

    def _places(self, c: int, ranks: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Row of each voxel of a number among all of its class, and its number within the row."""
        counts = self._rows[c]
        ends = np.cumsum(counts.reshape(-1), dtype=np.int64)
        flat = np.searchsorted(ends, ranks, side="right")
        before = ends[flat] - counts.reshape(-1)[flat] if len(flat) else ends[:0]
        return np.stack(np.unravel_index(flat, counts.shape), 1), ranks - before

    def _needed(self, places: dict[int, tuple[NDArray[np.int64], Any]]) -> Iterator[tuple[Box, NDArray[Any]]]:
        for box in parts_of(self._labels, AT_ONCE, (len(self._labels.shape) - 1,)):
            if any(_within(rows, box).any() for rows, _ in places.values()):
                yield box, self._labels.read(box)


def _within(rows: NDArray[np.int64], box: Box) -> NDArray[np.bool_]:
    low, high = np.array(box[:-1]).T
    inside: NDArray[np.bool_] = ((rows >= low) & (rows < high)).all(1)
    return inside
