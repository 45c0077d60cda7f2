"""Pictures of what the gates did to one slice of a scan, and of what became of its classes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from prosma_core.config.inspection import MapInfo
from prosma_core.data.geometry import Box, Scan
from prosma_core.inspection.compare import OTHER_CLASS, TURNED_OFF, TURNED_ON
from prosma_core.io.raster import gray_values, nearest_pixels, side_by_side

RAMP = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
"""Colors of 0 to 1, evenly spread: from dark blue to yellow."""
COLORS = {TURNED_ON: (60, 180, 75), TURNED_OFF: (230, 25, 75), OTHER_CLASS: (255, 225, 25)}
"""Green where a class was turned on, red where it was turned off, yellow where it is another."""


class SlicePicture:
    """One slice of a scan, across its first spatial axis where there are three, within a region; of the first frame.

    Parameters
    ----------
    scan : Scan
    region : tuple of (int, int)
    at : int, optional
        Index of the slice along the first spatial axis; the middle of the region unless given.
    """

    def __init__(self, scan: Scan, region: Box, at: int | None = None) -> None:
        spec = scan.spec
        self._first = 0 if spec.spatial_ndim == 2 else (sum(region[0]) // 2 if at is None else at)
        self._region, self._volume = region[-2:], spec.spatial_ndim == 3
        data = scan.data[0] if "t" in spec.axes else scan.data
        data = data if "c" in spec.axes else data[None]
        shown = self._of(data, self._first)
        self._rows, self._columns = nearest_pixels(shown.shape[1:], spec.spacing[-2:])
        self._image = gray_values(shown[:, self._rows][:, :, self._columns].astype(np.float64))

    def of_map(self, array: NDArray[Any], info: MapInfo) -> NDArray[np.uint8]:
        """The slice, and beside it a map of values from 0 to 1 in colors, uint8 (height, width, 3)."""
        array = array[0] if "t" in info.axes else array
        places = [np.arange(start, stop)[pixels] for (start, stop), pixels in self._pixels()]
        numbers = [np.array([self._first]), *places] if self._volume else places
        cells = [
            np.clip(np.rint((n - o) / s), 0, size - 1).astype(np.intp)
            for n, o, s, size in zip(numbers, info.offset, info.scale, array.shape, strict=True)
        ]
        values = array[np.ix_(*cells)].reshape(len(self._rows), len(self._columns)).astype(np.float64)
        stops = np.linspace(0, 1, len(RAMP))
        colors = np.stack([np.interp(values, stops, [color[k] for color in RAMP]) for k in range(3)], axis=-1)
        return side_by_side([self._image, colors])

    def of_changes(self, changes: NDArray[Any]) -> NDArray[np.uint8]:
        """The slice, and beside it the same with changes in color, uint8 (height, width, 3)."""
        frame = changes[0] if changes.ndim == 3 + self._volume else changes
        shown = self._of(frame[None], self._first)[0][np.ix_(self._rows, self._columns)]
        image = self._image if self._image.ndim == 3 else np.repeat(self._image[..., None], 3, axis=-1)
        for change, color in COLORS.items():
            image = np.where((shown == change)[..., None], np.array(color, np.float64), image)
        return side_by_side([self._image, image])

    def _of(self, data: NDArray[Any], index: int) -> NDArray[Any]:
        """The slice of an array (C, *grid), within the region."""
        rows, columns = (slice(*bounds) for bounds in self._region)
        found: NDArray[Any] = data[:, index, rows, columns] if self._volume else data[:, rows, columns]
        return found

    def _pixels(self) -> list[tuple[tuple[int, int], NDArray[np.intp]]]:
        return list(zip(self._region, (self._rows, self._columns), strict=True))


def slice_with_most(changes: NDArray[Any], region: Box, time: bool) -> int:
    """Index along the first spatial axis of the slice with most changes in the first frame."""
    frame = changes[0] if time else changes
    start, stop = region[0]
    return start + int((frame[start:stop] > 0).sum(tuple(range(1, frame.ndim))).argmax())
