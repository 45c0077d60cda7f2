"""A zarr array as the data of a layer, made for scrolling: slices come from unpacked parts, read ahead. No Qt."""

from __future__ import annotations

import weakref
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_prosma.layers.stored import PartArray
from prosma_core.data.geometry import Box, box_shape, box_slices
from prosma_core.io.read_ahead import Windows

WINDOW = 36 << 20
"""Bytes of unpacked slices that lie side by side, read at once."""
COLORS = 4
"""Voxels along an axis up to which it may be that of colors."""
WINDOWS = Windows(4 * WINDOW)
"""Of all layers."""


class ZarrArray(PartArray):
    """A zarr array whose slices are read as few windows: each chunk is unpacked a few times for all its slices.

    A window holds slices side by side, of whole chunks in the plane, and does not reach beyond a chunk across it. The
    one that is nearer to a slice is read ahead in a thread.

    Parameters
    ----------
    array : zarr.Array
    order
        As of `PartArray`.

    Attributes
    ----------
    array : zarr.Array
    """

    def __init__(self, array: Any, order: tuple[int | None, ...] | None = None) -> None:
        chunks = tuple(int(n) for n in (getattr(array, "shards", None) or array.chunks))
        super().__init__(array.shape, chunks, array.dtype, order)
        self._owner = WINDOWS.owner()
        weakref.finalize(self, WINDOWS.forget, self._owner)
        self.array, self._sizes, self._steps = array, tuple(int(n) for n in array.shape), chunks

    def _in_order(self, order: tuple[int | None, ...]) -> ZarrArray:
        return ZarrArray(self.array, order)

    def read(self, box: Box) -> NDArray[Any]:
        """As of `PartArray`."""
        windows = self._windows(box)
        if not windows:
            return self._values(box)
        window, following = windows
        found = WINDOWS.find(self._owner, box)
        if found is None:
            WINDOWS.put(self._owner, window, self._values(window))
            found = WINDOWS.find(self._owner, box)
        if following is not None:
            WINDOWS.read_ahead(self._owner, following, self._values)
        return self._values(box) if found is None else found

    def _values(self, box: Box) -> NDArray[Any]:
        return np.asarray(self.array[box_slices(box)])

    def _windows(self, box: Box) -> tuple[Box, Box | None] | None:
        """The window that holds a slice, and the nearest beside it; None of a box that is no slice, or a large one."""
        thin = [axis for axis, (a, b) in enumerate(box) if b - a == 1 < self._sizes[axis]]
        if not thin or sum(b - a > COLORS for a, b in box) > 2:
            return None
        across = max(thin, key=lambda axis: (self._steps[axis], axis))
        plane = tuple(
            (a, b) if b - a == 1 else (a // n * n, min(-(-b // n) * n, size))
            for (a, b), n, size in zip(box, self._steps, self._sizes, strict=True)
        )
        most = WINDOW // (prod(box_shape(plane)) * self.dtype.itemsize)
        if most < 1:
            return None
        at, chunk, size = box[across][0], self._steps[across], self._sizes[across]
        width = -(-chunk // -(-chunk // most))  # as many to a chunk as are needed, of one size
        start = at // chunk * chunk + at % chunk // width * width
        stop = min(start + width, at // chunk * chunk + chunk, size)
        nearer = stop if 2 * at >= start + stop - 1 else start - 1
        window = _across(plane, across, (start, stop))
        if not 0 <= nearer < size:
            return window, None
        first = nearer // chunk * chunk + nearer % chunk // width * width
        return window, _across(plane, across, (first, min(first + width, nearer // chunk * chunk + chunk, size)))


def _across(plane: Box, axis: int, ends: tuple[int, int]) -> Box:
    return (*plane[:axis], ends, *plane[axis + 1 :])
