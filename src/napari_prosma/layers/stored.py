"""Voxels on a disk as the array of a layer, read by parts: of a file, or of a result that is being filled. No Qt."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from prosma_core.data.geometry import Box, box_shape, box_slices
from prosma_core.data.lazy import LazyArray
from prosma_core.io.file_states import chunks_state, file_state
from prosma_core.io.hardware import returning_memory

KEPT = 192 << 20
"""Bytes of whole chunks that are kept for the next slice."""


class PartArray(ABC):
    """An array whose voxels are read by parts, and cannot be written to: the data of a layer.

    Parameters
    ----------
    shape : tuple of int
        Of what is read.
    chunks : tuple of int
        Of it.
    dtype : numpy.dtype
    order : tuple of int or None
        Its axis for each axis of this one; None for an axis of one voxel that it does not have. The same by default.

    Attributes
    ----------
    shape, chunks : tuple of int
        In the order of this array.
    dtype : numpy.dtype
    order : tuple of int or None
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        chunks: tuple[int, ...],
        dtype: np.dtype[Any],
        order: tuple[int | None, ...] | None = None,
    ) -> None:
        self.order: tuple[int | None, ...] = tuple(range(len(shape))) if order is None else order
        self._axes = len(shape)
        self.shape = tuple(1 if axis is None else int(shape[axis]) for axis in self.order)
        self.chunks = tuple(1 if axis is None else int(chunks[axis]) for axis in self.order)
        self.dtype = np.dtype(dtype)

    @abstractmethod
    def read(self, box: Box) -> NDArray[Any]:
        """Voxels of a box of what is read; read-only where they are kept."""

    def _read_steps(self, box: Box, steps: tuple[int, ...]) -> NDArray[Any]:
        """Each so many-th voxel of a box along each axis."""
        return self.read(box)[tuple(slice(None, None, step) for step in steps)]

    @abstractmethod
    def _in_order(self, order: tuple[int | None, ...]) -> Self:
        """The same voxels with the axes in another order."""

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of voxels."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of all voxels in memory."""
        return self.size * self.dtype.itemsize

    def transpose(self, axes: Sequence[int]) -> Self:
        """The same voxels with the axes in another order."""
        return self._in_order(tuple(self.order[axis] for axis in axes))

    def expand(self, at: int) -> Self:
        """The same voxels with a further axis of one voxel."""
        return self._in_order((*self.order[:at], None, *self.order[at:]))

    def __getitem__(self, index: Any) -> Any:
        """A part by numbers and slices, or single voxels by arrays of their indices; an array in memory."""
        return self.values(whole_index(index, self.ndim))

    def values(self, index: tuple[Any, ...]) -> NDArray[Any]:
        """The same of an index for each axis."""
        if not all(isinstance(i, slice | int | np.integer) for i in index):
            return self._points(index)
        box: list[tuple[int, int]] = [(0, 1)] * self._axes
        steps = [1] * self._axes
        rest: list[int | slice] = []
        for i, size, axis in zip(index, self.shape, self.order, strict=True):
            if isinstance(i, slice):
                taken = range(*i.indices(size))
                low, high = (min(taken), max(taken) + 1) if len(taken) else (0, 0)
                step = abs(taken.step)
                rest.append(slice(None, None, taken.step // step) if len(taken) else slice(0, 0))
                low, high = (0, 1) if axis is None else (low, max(high, low + 1))
            else:
                number = int(i) + size if i < 0 else int(i)
                if not 0 <= number < size:
                    msg = f"Index {i} is out of bounds for an axis of {size}."
                    raise IndexError(msg)
                low, high, step = number, number + 1, 1
                rest.append(0)
            if axis is not None:
                box[axis], steps[axis] = (low, high), step
        values: NDArray[Any] = self._read_steps(tuple(box), tuple(steps))
        order = [axis for axis in self.order if axis is not None]
        values = values.transpose(order)
        for at, axis in enumerate(self.order):
            values = np.expand_dims(values, at) if axis is None else values
        found: NDArray[Any] = values[tuple(rest)]
        held = found if found.base is None else found.base
        own = found.flags.writeable and isinstance(held, np.ndarray) and held.nbytes <= found.nbytes
        return found if own else found.copy()

    def _points(self, index: tuple[Any, ...]) -> NDArray[Any]:
        points = [np.asarray(i) for i in index if not isinstance(i, slice)]
        if len(points) < self.ndim or not all(i.dtype.kind in "iu" for i in points):
            msg = (
                f"Single voxels are read by arrays of whole numbers for all axes ({self.ndim}). Read a part by slices."
            )
            raise IndexError(msg)
        points = [np.where(i < 0, i + n, i) for i, n in zip(np.broadcast_arrays(*points), self.shape, strict=True)]
        for i, size in zip(points, self.shape, strict=True):
            if ((i < 0) | (i >= size)).any():
                msg = f"Indices from {i.min()} to {i.max()} are out of bounds for an axis of {size}."
                raise IndexError(msg)
        own = {axis: i for axis, i in zip(self.order, points, strict=True) if axis is not None}
        return self._read_points(tuple(own[axis] for axis in range(self._axes)))

    def _read_points(self, points: tuple[NDArray[Any], ...]) -> NDArray[Any]:
        """Voxels by their index along each axis of what is read, not negative; arrays of one shape."""
        found = np.empty(points[0].shape, self.dtype)
        for at in np.ndindex(found.shape):
            found[at] = self.read(tuple((int(i[at]), int(i[at]) + 1) for i in points)).item()
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """All voxels."""
        found = self.values((slice(None),) * self.ndim)
        return found if dtype is None else found.astype(dtype, copy=False)


def whole_index(index: Any, axes: int) -> tuple[Any, ...]:
    """An index for each axis, as NumPy completes it; raises `IndexError` where there are too many."""
    index = index if isinstance(index, tuple) else (index,)
    at = next((n for n, i in enumerate(index) if i is Ellipsis), len(index))
    given = len(index) - (at < len(index))
    if given > axes:
        msg = f"{given} indices are too many for {axes} axes."
        raise IndexError(msg)
    return (*index[:at], *[slice(None)] * (axes - given), *index[at + 1 :])


class FileArray(PartArray):
    """The voxels of an image file, read when they are shown.

    Parameters
    ----------
    voxels : LazyArray
    path : Path
        The file.
    order
        As of `PartArray`.
    """

    def __init__(self, voxels: LazyArray, path: Path, order: tuple[int | None, ...] | None = None) -> None:
        super().__init__(voxels.shape, voxels.chunks, voxels.dtype, order)
        self._voxels, self.path, self._state = voxels, path, file_state(path)

    def read(self, box: Box) -> NDArray[Any]:
        """As of `PartArray`; nothing is kept of a file that has changed."""
        state = file_state(self.path)
        if state is None or state != self._state:
            self._voxels.release()
        self._state = state
        with returning_memory():
            values = self._voxels.read(box)
        return _read_only(values) if self._voxels.keeps(values) else values

    def _in_order(self, order: tuple[int | None, ...]) -> FileArray:
        return FileArray(self._voxels, self.path, order)


class DiskArray(PartArray):
    """A result in a zarr folder, which another process fills; what was read last is kept, until it is read anew.

    Of a whole result, which has moved to its place, it is kept while its files are unchanged.

    Parameters
    ----------
    path : Path
        Of the zarr array.
    order
        As of `PartArray`.

    Attributes
    ----------
    path : Path
    """

    def __init__(self, path: Path, order: tuple[int | None, ...] | None = None) -> None:
        self._kept: tuple[Box, NDArray[Any], Any] | None = None
        self._array: Any = _opened(path)
        self._whole = False
        self.path = path
        super().__init__(self._array.shape, self._array.chunks, self._array.dtype, order)

    def move(self, path: Path) -> None:
        """Read from another place from now on, where the same array lies.

        Nothing is kept: what was read while its folder was on its way is empty.
        """
        self._array, self.path, self._kept, self._whole = _opened(path), path, None, True

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy, in this process or another, reads the folder."""
        return DiskArray, (self.path, self.order)

    def _in_order(self, order: tuple[int | None, ...]) -> DiskArray:
        return DiskArray(self.path, order)

    def refresh(self, box: Box) -> bool:
        """Read a box of the zarr array anew, where some of it is kept; whether any is. A thread may do it."""
        kept, array = self._kept, self._array
        if kept is None:
            return False
        both = tuple((max(a, c), min(b, d)) for (a, b), (c, d) in zip(box, kept[0], strict=True))
        if any(a >= b for a, b in both):
            return False
        values = _unpacked(array, both)
        kept[1][tuple(slice(a - c, b - c) for (a, b), (c, _) in zip(both, kept[0], strict=True))] = values
        return True

    def read(self, box: Box) -> NDArray[Any]:
        """Voxels of a box of the zarr array, not to be written to."""
        kept, array = self._kept, self._array
        if kept is not None and self._whole:
            state = chunks_state(array, kept[0])
            kept = kept if state is not None and state == kept[2] else None
        if kept is None or not all(c <= a and b <= d for (a, b), (c, d) in zip(box, kept[0], strict=True)):
            sizes = zip(box, array.chunks, array.shape, strict=True)
            wide = tuple((a // n * n, min(-(-b // n) * n, size)) for (a, b), n, size in sizes)
            if prod(box_shape(wide)) * self.dtype.itemsize > KEPT:
                return _unpacked(array, box)
            state = chunks_state(array, wide) if self._whole else None
            kept = wide, _unpacked(array, wide), state
            if array is self._array:  # not moved meanwhile
                self._kept = kept
        return _read_only(kept[1][tuple(slice(a - c, b - c) for (a, b), (c, _) in zip(box, kept[0], strict=True))])


def _read_only(values: NDArray[Any]) -> NDArray[Any]:
    view = values.view()
    view.flags.writeable = False
    return view


def _unpacked(array: Any, box: Box) -> NDArray[Any]:
    with returning_memory():
        return np.asarray(array[box_slices(box)])


def _opened(path: Path) -> Any:
    import zarr

    return zarr.open_array(str(path), mode="r")


def is_on_disk(data: Any) -> bool:
    """Whether the array of a layer cannot be painted in, as its voxels lie in a file or are computed when asked for."""
    data = data[0] if isinstance(data, list | tuple) and data else data
    return isinstance(data, PartArray) or type(data).__module__.partition(".")[0] in {"zarr", "dask"}
