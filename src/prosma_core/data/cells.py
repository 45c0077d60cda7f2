"""Where an image has one value: smallest and largest value of each of its cells, kept while it is read part by part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prosma_core.data.geometry import Box, first_voxel, is_repeated

SIDE = 32
"""Voxels of a cell along each axis."""


class Cells:
    """Bounds of the values in each cell of a grid.

    Parameters
    ----------
    channels : int
    sizes : tuple of int
        Grid, in voxels.
    """

    def __init__(self, channels: int, sizes: tuple[int, ...]) -> None:
        shape = (channels, *(-(-n // SIDE) for n in sizes))
        self.low, self.high = np.full(shape, np.inf), np.full(shape, -np.inf)

    def add(self, box: Box, image: NDArray[np.generic]) -> None:
        """Take the voxels of a box, shape (C, *box)."""
        at = (slice(None), *(slice(a // SIDE, (b - 1) // SIDE + 1) for a, b in box))
        low = high = first_voxel(image)
        if not is_repeated(image):
            low = high = image
            for axis, (a, b) in enumerate(box, start=1):
                cuts = [0, *range((a // SIDE + 1) * SIDE - a, b - a, SIDE)]
                low, high = _reduce(np.minimum, low, cuts, axis), _reduce(np.maximum, high, cuts, axis)
        np.minimum(self.low[at], low, out=self.low[at])
        np.maximum(self.high[at], high, out=self.high[at])

    def single(
        self, axes: Sequence[Sequence[tuple[int, int]]], clip: tuple[float, float] | None = None
    ) -> NDArray[np.bool_]:
        """Whether every channel has one value in boxes, as far as the cells tell, which are larger.

        Parameters
        ----------
        axes : sequence of sequences of (int, int)
            First voxel and the one after the last, for each axis: a box is one of each.
        clip : tuple of float, optional
            Range that the values are brought to.

        Returns
        -------
        ndarray, bool, shape (len of each axis)
        """
        low, high = (self.low, self.high) if clip is None else (self.low.clip(*clip), self.high.clip(*clip))
        for axis, ends in enumerate(axes, start=1):
            ranges = [(a // SIDE, (b - 1) // SIDE + 1) for a, b in ends]
            low = np.stack([low.take(range(a, b), axis).min(axis) for a, b in ranges], axis)
            high = np.stack([high.take(range(a, b), axis).max(axis) for a, b in ranges], axis)
        found: NDArray[np.bool_] = (low == high).all(axis=0)
        return found


def _reduce(ufunc: np.ufunc, values: NDArray[Any], cuts: list[int], axis: int) -> NDArray[Any]:
    """``ufunc.reduceat``, which is several times slower where the axis is not the last."""
    found: NDArray[Any] = np.stack(
        [
            ufunc.reduce(values[(slice(None),) * axis + (slice(a, b),)], axis)
            for a, b in zip(cuts, [*cuts[1:], values.shape[axis]], strict=True)
        ],
        axis,
    )
    return found
