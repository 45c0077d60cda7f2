"""Arrays whose voxels are read by parts, when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from prosma_core.data.geometry import Box, box_shape
from prosma_core.errors import DeviceError

IN_CORE = 2 << 30
"""Bytes up to which a scan that can be read by parts is taken at once; more memory would gain nothing."""
KEPT = 96 << 20
"""Bytes of whole chunks that are kept after a read, for the next one."""

Index = tuple[int | slice, ...]


class Reader(Protocol):
    """Reads a box of an array, as a new array."""

    def __call__(self, box: Box, /) -> NDArray[Any]:
        """Voxels of the box, shape `box_shape(box)`."""


class LazyArray:
    """An array on a disk, read box by box; numpy makes a whole array of it only where it is asked to.

    Parameters
    ----------
    shape : tuple of int
    dtype : numpy.dtype
    read : callable
        Takes a box, gives its voxels.
    chunks : tuple of int, optional
        What is unpacked at once along each axis; 1 where any part is read at its own cost.
    single : callable, optional
        Takes a box, gives the value that all of its voxels are known to have without reading, or None.
    origin : LazyArray, optional
        What this is a view of.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        read: Reader,
        chunks: tuple[int, ...] | None = None,
        single: Callable[[Box], Any] | None = None,
        origin: LazyArray | None = None,
    ) -> None:
        self.shape, self.dtype = shape, dtype
        self.chunks = chunks or (1,) * len(shape)
        self._read, self._single = read, single
        self.origin = origin or self
        self.keep = KEPT if origin is None else 0
        self._kept: tuple[Box, NDArray[Any]] | None = None

    def release(self) -> None:
        """Forget what was kept."""
        self.origin._kept = None

    def keeps(self, values: NDArray[Any]) -> bool:
        """Whether voxels that were read are those that are kept, not a new array."""
        kept = self.origin._kept
        return kept is not None and np.may_share_memory(values, kept[1])

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of voxels."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """Bytes of all voxels in memory."""
        return self.size * self.dtype.itemsize

    def single(self, box: Box) -> Any:
        """The value of all voxels of a box where that is known without reading, else None."""
        return None if self._single is None else self._single(box)

    def read(self, box: Box) -> NDArray[Any]:
        """Voxels of a box; not to be written to.

        Whole chunks are kept until the next read where they are few: neighboring boxes are not unpacked again.
        """
        if self._kept is not None and _within(box, self._kept[0]):
            return self._kept[1][_shifted(box, self._kept[0])]
        value = self.single(box)
        if value is not None:
            return np.broadcast_to(np.asarray(value, self.dtype), box_shape(box))
        self._kept = None
        wide = tuple(
            (a // n * n, min(-(-b // n) * n, size))
            for (a, b), n, size in zip(box, self.chunks, self.shape, strict=True)
        )
        if wide == box or np.prod(box_shape(wide), dtype=float) * self.dtype.itemsize > self.keep:
            return self._read(box)
        self._kept = wide, self._read(wide)
        return self._kept[1][_shifted(box, wide)]

    def transpose(self, axes: tuple[int, ...]) -> LazyArray:
        """The same voxels with the axes in another order."""
        back = tuple(int(i) for i in np.argsort(axes))

        def own(box: Box) -> Box:
            return tuple(box[i] for i in back)

        return LazyArray(
            tuple(self.shape[a] for a in axes),
            self.dtype,
            lambda box: self.read(own(box)).transpose(axes),
            tuple(self.chunks[a] for a in axes),
            lambda box: self.single(own(box)),
            self.origin,
        )

    def __getitem__(self, index: Any) -> LazyArray:
        """A part by numbers and slices of step 1, still unread."""
        index = (index,) if not isinstance(index, tuple) else index
        if Ellipsis in index:
            at = index.index(Ellipsis)
            index = (*index[:at], *[slice(None)] * (self.ndim - len(index) + 1), *index[at + 1 :])
        index = (*index, *[slice(None)] * (self.ndim - sum(i is not None for i in index)))
        taken = iter(zip(self.shape, self.chunks, strict=True))
        box, shape, chunks = [], [], []
        kinds: list[str] = []
        for i in index:
            if i is None:
                shape.append(1)
                chunks.append(1)
                kinds.append("new")
                continue
            size, chunk = next(taken)
            a, b = (int(i), int(i) + 1) if isinstance(i, int | np.integer) else i.indices(size)[:2]
            box.append((a, b))
            kinds.append("slice" if isinstance(i, slice) else "number")
            if isinstance(i, slice):
                shape.append(b - a)
                chunks.append(chunk if a % chunk == 0 else 1)

        def own(part: Box) -> Box:
            given, mine, starts = iter(part), [], iter(box)
            for kind in kinds:
                if kind == "new":
                    next(given)
                    continue
                a, _ = next(starts)
                low, high = next(given) if kind == "slice" else (0, 1)
                mine.append((a + low, a + high))
            return tuple(mine)

        return LazyArray(
            tuple(shape),
            self.dtype,
            lambda part: self.read(own(part)).reshape(box_shape(part)),
            tuple(chunks),
            lambda part: self.single(own(part)),
            self.origin,
        )

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """All voxels."""
        found = self.read(tuple((0, n) for n in self.shape))
        return found if dtype is None else found.astype(dtype, copy=False)


def chunks_of(array: LazyArray) -> Iterator[NDArray[Any]]:
    """The chunks of an array, one after the other."""
    cuts = [
        [(a, min(a + n, size)) for a in range(0, size, n)] for n, size in zip(array.chunks, array.shape, strict=True)
    ]
    for box in product(*cuts):
        yield array.read(box)


PART = 32 << 20
"""Voxels, about, of a part."""


def parts_of(array: LazyArray, most: int = PART, whole: tuple[int, ...] = ()) -> Iterator[Box]:
    """Boxes that together are an array, of whole chunks where these are small, in the order of their first voxels.

    Parameters
    ----------
    array : LazyArray
    most : int
        Voxels of a part, about.
    whole : tuple of int
        Axes that are not divided.
    """
    steps = [size if axis in whole else n for axis, (n, size) in enumerate(zip(array.chunks, array.shape, strict=True))]
    for axis in reversed(range(array.ndim)):  # few long rows; of large chunks, parts that follow each other
        voxels = int(np.prod(steps, dtype=np.int64))
        if voxels <= most:
            steps[axis] = min(array.shape[axis], steps[axis] * max(1, most // voxels))
        elif axis not in whole:
            steps[axis] = max(1, steps[axis] * most // voxels)
    cuts = ([(a, min(a + n, size)) for a in range(0, size, n)] for n, size in zip(steps, array.shape, strict=True))
    yield from product(*cuts)


def as_lazy(data: NDArray[Any]) -> LazyArray:
    """An array in memory as one that is read by parts."""
    return LazyArray(data.shape, data.dtype, lambda box: data[tuple(slice(a, b) for a, b in box)])


def in_memory(array: NDArray[Any] | LazyArray) -> NDArray[Any]:
    """All voxels of an array in memory.

    Raises
    ------
    DeviceError
        They do not fit.
    """
    try:
        return np.ascontiguousarray(array) if isinstance(array, LazyArray) else array
    except MemoryError as error:
        msg = "The scan does not fit into memory. Close other programs, or segment a part of it (--region)."
        raise DeviceError(msg) from error


def _within(box: Box, other: Box) -> bool:
    return all(a <= c and d <= b for (c, d), (a, b) in zip(box, other, strict=True))


def _shifted(box: Box, other: Box) -> tuple[slice, ...]:
    return tuple(slice(a - c, b - c) for (a, b), (c, _) in zip(box, other, strict=True))
