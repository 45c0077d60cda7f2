"""A zarr array as the data of a layer, made for scrolling: slices come from unpacked parts, read ahead. No Qt."""

from __future__ import annotations

import weakref
from math import prod
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from napari_prosma.layers.stored import PartArray, whole_index
from prosma_core.data.geometry import Box, box_shape, box_slices
from prosma_core.io.file_states import chunks_state
from prosma_core.io.hardware import returning_memory
from prosma_core.io.read_ahead import Windows
from prosma_core.io.zarr_stores import StoredPath

WINDOW = 36 << 20
"""Bytes of unpacked slices that lie side by side, read at once."""
COLORS = 4
"""Voxels along an axis up to which it may be that of colors."""
WINDOWS = Windows(4 * WINDOW)
"""Of all layers."""


class ZarrArray(PartArray):
    """A zarr array whose slices are read as few windows: each chunk is unpacked a few times for all its slices.

    A window holds slices side by side, of whole chunks in the plane, and does not reach beyond a chunk across it. The
    one that is nearer to a slice is read ahead in a thread. Windows are given while the files of their chunks are
    unchanged, and always of a server, which is not asked twice; a small array there is one window where no slice of it
    is read. Of other stores there are none, and each slice is read from the store.

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
        super().__init__(array.shape, tuple(int(n) for n in array.shards or array.chunks), array.dtype, order)
        self._owner = WINDOWS.owner()
        weakref.finalize(self, WINDOWS.forget, self._owner)
        self.array, self._sizes = array, tuple(int(n) for n in array.shape)
        self._steps = tuple(int(n) for n in array.chunks)  # of a shard, single chunks are unpacked
        place = getattr(array.store, "place", None)
        self._remote = isinstance(place, StoredPath) and place.remote

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy, in this process or another, has windows of its own."""
        return type(self), (self.array, self.order)

    def _in_order(self, order: tuple[int | None, ...]) -> Self:
        return type(self)(self.array, order)

    def read(self, box: Box) -> NDArray[Any]:
        """As of `PartArray`."""
        windows = self._windows(box)
        if windows is None:
            return self._values(box)
        window, following = windows
        found = WINDOWS.find(self._owner, box, self._state)
        if found is None:
            values = WINDOWS.take(self._owner, window, self._state, self._values)
            if values is None:
                return self._values(box)
            found = values[tuple(slice(a - c, b - c) for (a, b), (c, _) in zip(box, window, strict=True))]
        if following is not None:
            WINDOWS.read_ahead(self._owner, following, self._state, self._values)
        return found

    def _read_steps(self, box: Box, steps: tuple[int, ...]) -> NDArray[Any]:
        if max(steps, default=1) == 1 or self._windows(box) is not None:
            return super()._read_steps(box, steps)
        with returning_memory():
            return np.asarray(self.array[tuple(slice(a, b, step) for (a, b), step in zip(box, steps, strict=True))])

    def _read_points(self, points: tuple[NDArray[Any], ...]) -> NDArray[Any]:
        return np.asarray(self.array.vindex[points])

    def _values(self, box: Box) -> NDArray[Any]:
        with returning_memory():
            return np.asarray(self.array[box_slices(box)])

    def _state(self, box: Box) -> Any:
        return () if self._remote else chunks_state(self.array, box)

    def _windows(self, box: Box) -> tuple[Box, Box | None] | None:
        """The window that holds a box, and one that may be wanted next; None where it is read alone."""
        windows = self._of_slice(box)
        if windows is None and self._remote and prod(self._sizes) * self.dtype.itemsize <= WINDOW:
            return tuple((0, size) for size in self._sizes), None
        return windows

    def _of_slice(self, box: Box) -> tuple[Box, Box | None] | None:
        """The window that holds a slice, and the nearest beside it; None of a box that is no slice, or a large one."""
        thin = [axis for axis, (a, b) in enumerate(box) if b - a == 1 < self._sizes[axis]]
        if not thin or sum(b - a > 1 for a, b in box) < 2 or sum(b - a > COLORS for a, b in box) > 2:
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


class ZarrLevel(ZarrArray):
    """A level of a pyramid: napari takes the part in view, of all slices, before it takes one of them."""

    def __getitem__(self, index: Any) -> Any:
        """As of `PartArray`; a part of all axes is read when it is asked for values."""
        parts = index if isinstance(index, tuple) else (index,)
        if len(parts) != self.ndim or not all(isinstance(i, slice) and i.step in {None, 1} for i in parts):
            return super().__getitem__(index)
        return Part(self, tuple(range(*i.indices(n)) for i, n in zip(parts, self.shape, strict=True)))


class Part:
    """A part of an array along all axes, which is read when it is asked for values.

    Parameters
    ----------
    array : PartArray
    ranges : tuple of range
        Indices along each axis.
    """

    def __init__(self, array: PartArray, ranges: tuple[range, ...]) -> None:
        self._array, self._ranges = array, ranges
        self.shape, self.dtype, self.ndim = tuple(map(len, ranges)), array.dtype, len(ranges)
        self.size = prod(self.shape)

    def __getitem__(self, index: Any) -> Any:
        """As of `PartArray`."""
        return self._array.values(self._of_array(whole_index(index, self.ndim)))

    def _of_array(self, index: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(
            _slice(r[i]) if isinstance(i, slice) else np.asarray(r)[i] for i, r in zip(index, self._ranges, strict=True)
        )

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """All its voxels."""
        return np.asarray(self[...], dtype)


def _slice(taken: range) -> slice:
    """The slice that takes these indices."""
    return slice(taken.start, taken.stop if taken.stop >= 0 else None, taken.step) if taken else slice(0, 0)


def _across(plane: Box, axis: int, ends: tuple[int, int]) -> Box:
    return (*plane[:axis], ends, *plane[axis + 1 :])
