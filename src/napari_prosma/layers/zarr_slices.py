"""A zarr array as the data of a layer, made for scrolling: slices come from unpacked parts, read ahead. No Qt."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_prosma.layers.stored import PartArray
from prosma_core.data.geometry import Box, box_shape, box_slices

_LOG = logging.getLogger(__name__)

WINDOW = 48 << 20
"""Bytes of unpacked slices that lie side by side, read at once."""
COLORS = 4
"""Voxels along an axis up to which it may be that of colors."""
KEPT = 4 * WINDOW
"""Bytes of them that are kept, of all layers together."""


class Windows:
    """Unpacked parts of arrays, the latest ones, for all layers of a process; from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[int, Box], NDArray[Any]] = OrderedDict()
        self._coming: set[tuple[int, Box]] = set()

    def find(self, owner: int, box: Box) -> NDArray[Any] | None:
        """Voxels of a box where they are kept."""
        with self._lock:
            for (of, window), values in reversed(self._kept.items()):
                if of == owner and all(c <= a and b <= d for (a, b), (c, d) in zip(box, window, strict=True)):
                    self._kept.move_to_end((of, window))
                    return values[tuple(slice(a - c, b - c) for (a, b), (c, _) in zip(box, window, strict=True))]
        return None

    def put(self, owner: int, window: Box, values: NDArray[Any]) -> None:
        """Keep a window; the oldest ones leave."""
        with self._lock:
            self._kept[owner, window] = values
            while sum(each.nbytes for each in self._kept.values()) > KEPT:
                self._kept.popitem(last=False)

    def begin(self, owner: int, window: Box) -> bool:
        """Whether a window is neither kept nor on its way; it is on its way then."""
        with self._lock:
            wanted = (owner, window) not in self._kept and not any(of == owner for of, _ in self._coming)
            if wanted:
                self._coming.add((owner, window))
            return wanted

    def end(self, owner: int, window: Box) -> None:
        """A window is not on its way any more."""
        with self._lock:
            self._coming.discard((owner, window))

    def forget(self, owner: int) -> None:
        """Keep nothing of an array."""
        with self._lock:
            for key in [key for key in self._kept if key[0] == owner]:
                del self._kept[key]


WINDOWS = Windows()


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
        self.array, self._sizes, self._steps = array, tuple(int(n) for n in array.shape), chunks

    def _in_order(self, order: tuple[int | None, ...]) -> ZarrArray:
        return ZarrArray(self.array, order)

    def __del__(self) -> None:
        """Leave nothing behind under a number that another array may get."""
        WINDOWS.forget(id(self))

    def read(self, box: Box) -> NDArray[Any]:
        """As of `PartArray`."""
        windows = self._windows(box)
        if not windows:
            return self._values(box)
        window, following = windows
        found = WINDOWS.find(id(self), box)
        if found is None:
            WINDOWS.put(id(self), window, self._values(window))
            found = WINDOWS.find(id(self), box)
        if following is not None and WINDOWS.begin(id(self), following):
            threading.Thread(target=self._read_ahead, args=(following,), name="prosma-slices", daemon=True).start()
        return self._values(box) if found is None else found

    def _values(self, box: Box) -> NDArray[Any]:
        return np.asarray(self.array[box_slices(box)])

    def _read_ahead(self, window: Box) -> None:
        try:
            WINDOWS.put(id(self), window, self._values(window))
        except Exception as error:  # noqa: BLE001  (of any store or codec; who looks at the slice is told)
            _LOG.info("A part of %s could not be read ahead: %s", self.array.name, error)
        finally:
            WINDOWS.end(id(self), window)

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
