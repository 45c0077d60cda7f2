"""Training cases whose voxels stay on the disk: read by parts, the same numbers as those of a case in memory."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prosma_core.config.model import ClassInfo, PreprocessConfig
from prosma_core.data.frames import Frame, frames
from prosma_core.data.geometry import Box, Scan, box_shape, first_voxel, is_repeated
from prosma_core.data.grid import NetworkGrid, network_grid
from prosma_core.data.intensities import check_channels
from prosma_core.data.labels import IGNORED, class_indices
from prosma_core.data.lazy import LazyArray, parts_of
from prosma_core.data.normalization import Normalization, check_not_blank, measuring
from prosma_core.data.point_table import AT_ONCE, PointTable
from prosma_core.data.resample import resize_labels_box
from prosma_core.data.stored_annotation import StoredAnnotation
from prosma_core.errors import ChannelError, GeometryError, IntensityError
from prosma_core.events import Working
from prosma_core.inference.prepare import network_image


class StoredImage:
    """An image on the network's grid, normalized, of which parts are read.

    Parameters
    ----------
    frame : Frame
        With a `LazyArray`.
    grid : NetworkGrid
    pre : PreprocessConfig
    how : Normalization
    """

    device = torch.device("cpu")

    def __init__(self, frame: Frame, grid: NetworkGrid, pre: PreprocessConfig, how: Normalization) -> None:
        self._frame, self._grid, self._pre, self._how = frame, grid, pre, how
        self.shape = (len(pre.channels), *grid.shape)

    def __getitem__(self, index: tuple[slice | int, ...]) -> Tensor:
        """Float32, shape (C, *box); `index` begins with all channels."""
        box, at = _box(index[1:], self.shape[1:])
        if 0 in box_shape(box):
            return torch.zeros(self.shape[0], *box_shape(box))[(slice(None), *at)]
        return network_image(self._frame, self._grid, self._pre, self._how, box)[0][(slice(None), *at)]


class StoredLabels:
    """Class indices on the network's grid, of which parts are read.

    Parameters
    ----------
    frame : Frame
    grid : NetworkGrid
    annotation : StoredAnnotation
    classes : tuple of ClassInfo
    name : str
        Whose labels they are, for error texts.
    """

    device = torch.device("cpu")

    def __init__(
        self,
        frame: Frame,
        grid: NetworkGrid,
        annotation: StoredAnnotation,
        classes: tuple[ClassInfo, ...],
        name: str,
    ) -> None:
        self._frame, self._grid, self._annotation, self._classes, self._name = frame, grid, annotation, classes, name
        self.shape = grid.shape
        self.dtype = np.dtype(np.int16 if annotation.partly else np.uint8 if len(classes) <= 256 else np.int32)
        fixed = [isinstance(i, int) for i in frame.index if i is not Ellipsis]
        fixed += [False] * (annotation.labels.ndim - len(fixed))
        source = [n for n, is_fixed in zip(annotation.labels.chunks, fixed, strict=True) if not is_fixed]
        self.array = LazyArray(grid.shape, self.dtype, self.read, tuple(source[a] for a in grid.order))
        self.array.keep = 0  # those of the file are kept
        resampled = grid.shape != grid.oriented
        self._partly = annotation.partly and (not resampled or self._any_ignored())

    def _any_ignored(self) -> bool:
        oriented = LazyArray(self._grid.oriented, self.dtype, self._oriented, self.array.chunks)
        return any(bool((self._oriented(box) == IGNORED).any()) for box in parts_of(oriented, AT_ONCE))

    def _oriented(self, box: Box) -> NDArray[Any]:
        source = self._grid.restore_box(box)
        values, ignored = self._annotation.read(self._frame.place(source))
        indices = class_indices(values, self._classes, self._name).astype(self.dtype, copy=False)
        if ignored is not None and is_repeated(ignored):
            indices = np.broadcast_to(np.int16(IGNORED), ignored.shape) if first_voxel(ignored).all() else indices
        elif ignored is not None:
            indices = np.where(ignored, np.int16(IGNORED), indices)
        return self._grid.orient(indices.reshape(box_shape(source)))

    def read(self, box: Box) -> NDArray[Any]:
        """Class indices of a box."""
        grid = self._grid
        if grid.shape == grid.oriented:
            return self._oriented(box)
        turned = grid.oriented_box(box)
        labels = np.ascontiguousarray(self._oriented(turned))
        found: NDArray[Any] = resize_labels_box(
            labels, turned, grid.oriented, box, grid.shape, grid.thick, partly=self._partly
        )
        return found

    def numel(self) -> int:
        """Number of voxels."""
        return int(np.prod(self.shape, dtype=np.int64))

    def __getitem__(self, index: tuple[slice | int, ...]) -> Tensor:
        """Class indices of a box, `IGNORED` where nothing is known."""
        box, at = _box(index, self.shape)
        if 0 in box_shape(box):
            return torch.zeros(box_shape(box), dtype=torch.int16)[at]
        return torch.from_numpy(np.array(self.read(box)))[at]


def _box(index: Sequence[slice | int], shape: tuple[int, ...]) -> tuple[Box, tuple[slice | int, ...]]:
    """Box of an index, and what to take of it."""
    box, at = [], list[slice | int]()
    for each, size in zip(index, shape, strict=True):
        if isinstance(each, slice):
            start, stop, _ = each.indices(size)
            box.append((start, max(start, stop)))
            at.append(slice(None))
        else:
            box.append((int(each), int(each) + 1))
            at.append(0)
    return tuple(box), tuple(at)


@dataclass(frozen=True, eq=False)
class StoredFrame:
    """A frame of a scan that stays on the disk, ready for the network.

    Attributes
    ----------
    name : str
    image : StoredImage
    labels : StoredLabels
    table : PointTable
    judged : StoredLabels or None
        Labels by which a start model may be judged; None for all.
    """

    name: str
    image: StoredImage
    labels: StoredLabels
    table: PointTable
    judged: StoredLabels | None


def stored_frames(
    name: str, image: Scan, labels: StoredAnnotation, pre: PreprocessConfig, classes: tuple[ClassInfo, ...]
) -> Generator[Working, None, list[StoredFrame]]:
    """Frames of a scan that is read by parts, as `prepare_case` gives those of one in memory; errors as there."""
    try:
        check_channels(image, pre.channels)
        grid = network_grid(image.spec, pre)
    except (ChannelError, GeometryError) as error:
        msg = f"{name}: {error}"
        raise type(error)(msg) from error
    every = list(frames(image, pre.dims))
    try:
        measured = yield from measuring(every, pre.intensities, of=name)
    except IntensityError as error:
        msg = f"{name}: {error}"
        raise IntensityError(msg) from error
    judged = None if labels.edited is None else labels.only(labels.edited)
    found = []
    for frame, how in zip(every, measured, strict=True):
        if len(every) > 1 and how.blank:
            continue
        try:
            check_not_blank(how)
        except IntensityError as error:
            msg = f"{name}: {error}"
            raise IntensityError(msg) from error
        own = StoredLabels(frame, grid, labels, classes, name)
        table = yield from PointTable.count(own.array, len(classes), f"Counting the labels of {name}")
        if table.facts.present == {IGNORED}:
            continue
        found.append(
            StoredFrame(
                f"{name} {frame.name}".strip(),
                StoredImage(frame, grid, pre, how),
                own,
                table,
                None if judged is None else StoredLabels(frame, grid, judged, classes, name),
            )
        )
    if pre.dims == image.spec.spatial_ndim:  # patches lie anywhere: chunks of the last one are of no use to the next
        for array in (image.data, labels.labels):
            array.release()
            array.origin.keep = 0
    return found
