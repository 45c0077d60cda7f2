"""Results of a segmentation: classes, objects, probabilities and entropy on the scan's own grid."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator, Set
from dataclasses import dataclass
from functools import partial
from math import log, prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prosma_core.config.inference import InferenceConfig
from prosma_core.config.model import ModelHeader
from prosma_core.data.frames import Frame
from prosma_core.data.geometry import Box, ImageSpec, Scan, box_shape, box_slices
from prosma_core.data.lazy import LazyArray
from prosma_core.events import Event, SlabDone
from prosma_core.inference.grid_restore import RegionOfInterest, argmax_part, argmax_streaming, resize_part
from prosma_core.inference.postprocess import fill_holes, keep_largest, number_pieces, remove_small
from prosma_core.inference.stored_pieces import (
    CORNERS,
    Blocks,
    Joined,
    Put,
    clean_stored,
    join,
    number_stored,
    object_order,
)

MOST_NAMED = 8
"""Classes whose objects are counted in words."""


@dataclass(frozen=True)
class StoredArray:
    """An array on a disk that is written by parts.

    Attributes
    ----------
    shape : tuple of int
    dtype : numpy.dtype
    chunks : tuple of int
        What is packed at once along each axis.
    put : callable
        Takes a box and its voxels.
    values : LazyArray
        What was written.
    done : set of box
        Blocks of the label map that are written, with all other results there.
    mark : callable
        Takes a block that is.
    normalized : str or None
        How the blocks that are done were normalized, as it was settled; None where that is not settled yet.
    settle : callable
        Takes how blocks are normalized, files that cannot be read, and blocks that are not done any more. Has to be
        called before the first block is marked, by the process that plans them.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: tuple[int, ...]
    put: Callable[[Box, NDArray[Any]], None]
    values: LazyArray
    done: Set[Box] = frozenset()
    mark: Callable[[Box], None] = lambda _: None
    normalized: str | None = None
    settle: Callable[[str, Collection[str], Set[Box]], None] = lambda *_: None


Allocate = Callable[[str, tuple[int, ...], "np.dtype[Any]"], Any]
"""Gives the array for a result: its name (see `Segmentation`), shape and dtype. A numpy array filled with zeros, or a
`StoredArray` filled with the value of the background."""


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Result of one scan; outside the region, where one was asked for, all classes are background and numbers 0.

    Attributes
    ----------
    labels : Scan
        uint8 or uint16 class values on the scan's grid, axes (t)(z)yx.
    probabilities : Scan or None
        float32, axes (t)c(z)yx, one channel per class, summing to 1.
    entropy : Scan or None
        float32, axes (t)(z)yx, 0 (sure) to 1 (all classes equally likely).
    objects : Scan or None
        uint16 or uint32 (more than 65535 objects), axes (t)(z)yx: the number of each voxel's object, 0 for none. The
        numbers run from 1 on, by time point, class, and place.
    object_table : ndarray or None
        int64, shape (objects + 1, 2): class value and voxels of each object at its number; 0 is the rest.
    """

    labels: Scan
    probabilities: Scan | None = None
    entropy: Scan | None = None
    objects: Scan | None = None
    object_table: NDArray[np.int64] | None = None


class Results:
    """The arrays of a segmentation, filled frame by frame.

    Parameters
    ----------
    header : ModelHeader
    config : InferenceConfig
    spec : ImageSpec
        Of the label map.
    part : RegionOfInterest
        What is wanted of each frame.
    allocate : callable, optional
        Gives the arrays; see `Allocate`.
    """

    def __init__(
        self,
        header: ModelHeader,
        config: InferenceConfig,
        spec: ImageSpec,
        part: RegionOfInterest,
        allocate: Allocate | None,
    ) -> None:
        self.spec, self.part, self.names = spec, part, tuple(c.name for c in header.classes)
        self.threshold = config.threshold
        self.lead = int("t" in spec.axes)
        self.values = np.array([c.value for c in header.classes], header.label_dtype)
        self._make = make = allocate or _zeros
        with_classes = spec.with_channels(self.names)
        self.labels: Any = make("labels", spec.shape, self.values.dtype)
        if self.values[0] and not self.stored:
            self.labels[...] = self.values[0]
        single = np.dtype(np.float32)
        self.probabilities = make("probabilities", with_classes.shape, single) if config.probabilities else None
        self.entropy = make("entropy", spec.shape, single) if config.entropy else None
        self.objects: Any = None
        self.object_table: NDArray[np.int64] | None = None

    def put_blank(self, frame: Frame, part: RegionOfInterest) -> SlabDone:
        """Take a part of a frame without content: surely background."""
        shape = box_shape(part.oriented)
        if isinstance(self.labels, StoredArray):
            self._write(frame, part.oriented, np.zeros(shape, np.uint8))
        if self.probabilities is not None:
            first = np.eye(1, len(self.names), dtype=np.float32)[0]
            values = np.broadcast_to(first.reshape(-1, *(1,) * len(shape)), (len(first), *shape))
            self._put(self.probabilities, frame, part.oriented, values)
        return self._slab(frame, part.oriented)

    def put(self, frame: Frame, part: RegionOfInterest, logits: Tensor) -> SlabDone:
        """Take the logits of a part of a frame, float32, shape (K, *network box)."""
        self._write(frame, part.oriented, argmax_part(logits, part, self.threshold))
        if self.probabilities is not None or self.entropy is not None:
            p = torch.softmax(resize_part(logits, part), dim=0)
            if self.probabilities is not None:
                self._put(self.probabilities, frame, part.oriented, p.cpu().numpy())
            if self.entropy is not None:
                entropy = -torch.xlogy(p, p).sum(0) / log(len(self.names))
                self._put(self.entropy, frame, part.oriented, entropy.clamp(0, 1).cpu().numpy())
        return self._slab(frame, part.oriented)

    def is_done(self, frame: Frame, part: RegionOfInterest) -> bool:
        """Whether an earlier run has written all results of a part of a frame."""
        return isinstance(self.labels, StoredArray) and frame.place(part.source) in self.labels.done

    def mark_done(self, frame: Frame, part: RegionOfInterest) -> None:
        """Keep that all results of a part of a frame are written."""
        if isinstance(self.labels, StoredArray):
            self.labels.mark(frame.place(part.source))

    def put_planes(
        self, frame: Frame, part: RegionOfInterest, first: int, sums: Tensor, weights: Tensor
    ) -> SlabDone | None:
        """Take the weighted sums of some planes of a frame, and give its voxels there their class for the time being.

        Parameters
        ----------
        frame : Frame
        part : RegionOfInterest
        first : int
            First plane along the first axis of the network box.
        sums : Tensor, float32, shape (K, planes, *rest of the network box)
        weights : Tensor, float32, shape (planes, *rest of the network box)
            Above 0; what `sums` is divided by to give logits.

        Returns
        -------
        SlabDone or None
            None where no voxel of the scan lies in these planes.
        """
        planes, *rest = part.nearest()
        here = np.flatnonzero((planes >= first) & (planes < first + sums.shape[1]))
        if not len(here):
            return None
        logits = sums if self.threshold is None else (values / weights for values in sums)
        classes = argmax_streaming(logits, len(sums), self.threshold)
        start = part.oriented[0][0] + int(here[0])
        box = ((start, start + len(here)), *part.oriented[1:])
        self._write(frame, box, classes[np.ix_(planes[here] - first, *rest)])
        return self._slab(frame, box)

    def clean(self, region: Box, config: InferenceConfig) -> None:
        """Tidy the label map of each time point within the region, as the settings ask for."""
        if not (config.keep_largest or config.min_size > 1 or config.fill_holes):
            return
        for place, classes in self._class_numbers(region):
            if config.keep_largest:
                classes = keep_largest(classes, len(self.values))
            if config.min_size > 1:
                classes = remove_small(classes, len(self.values), config.min_size)
            if config.fill_holes:
                classes = fill_holes(classes)
            _put_values(self.labels[place], classes, self.values)

    def separate(self, region: Box) -> str:
        """Number the objects of the label map within the region; what was found, in words."""
        numbers = np.zeros(self.spec.shape, np.uint32)
        counts, rows, total = [0] * len(self.names), [np.array([[self.values[0], self.labels.size]], np.int64)], 0
        for place, classes in self._class_numbers(region):
            for number, sizes in number_pieces(classes, len(self.values), numbers[place], total + 1):
                rows.append(np.stack([np.full(len(sizes), self.values[number], np.int64), sizes], 1))
                counts[number] += len(sizes)
                total += len(sizes)
        table = np.concatenate(rows)
        table[0, 1] -= table[1:, 1].sum()
        self.object_table = self._make("object_table", table.shape, table.dtype)
        self.object_table[...] = table
        self.objects = self._make("objects", self.spec.shape, np.dtype(np.uint16 if total < 2**16 else np.uint32))
        self.objects[...] = numbers
        return _objects_text({name: count for name, count in zip(self.names, counts, strict=True) if count})

    def clean_stored(self, region: Box, config: InferenceConfig) -> Generator[Event, None, None]:
        """The same as `clean` of a label map on a disk, block by block; yields `Working`."""
        if config.keep_largest or config.min_size > 1 or config.fill_holes:
            for index in np.ndindex(self.labels.shape[: self.lead]):
                yield from clean_stored(*self._stored(region, index), len(self.values), config)

    def separate_stored(self, region: Box) -> Generator[Event, None, str]:
        """The same as `separate` of a label map on a disk, block by block; yields `Working`."""
        found: list[Joined] = []
        rows, total = [np.array([[self.values[0], prod(self.labels.shape)]], np.int64)], 0
        for index in np.ndindex(self.labels.shape[: self.lead]):
            each = yield from join(self._stored(region, index)[0], CORNERS)
            order = object_order(each)
            rows.append(np.stack([self.values[each.number[order]].astype(np.int64), each.size[order]], 1))
            total += len(order)
            found.append(each)
        self.object_table = np.concatenate(rows)
        self.object_table[0, 1] -= self.object_table[1:, 1].sum()
        self.objects = self._make("objects", self.spec.shape, np.dtype(np.uint16 if total < 2**16 else np.uint32))
        first = 1
        for index, each in zip(np.ndindex(self.labels.shape[: self.lead]), found, strict=True):
            blocks, _ = self._stored(region, index)
            yield from number_stored(blocks, partial(self._put_stored, self.objects, index), first, each)
            first += len(each.number) - 1
        counts = np.bincount(np.concatenate([each.number[1:] for each in found]), minlength=len(self.names)).tolist()
        return _objects_text({name: count for name, count in zip(self.names, counts, strict=True) if count})

    def segmentation(self) -> Segmentation:
        """The arrays and where they lie."""
        with_classes = self.spec.with_channels(self.names)
        p = None if self.probabilities is None else Scan(_values_of(self.probabilities), with_classes)
        e = None if self.entropy is None else Scan(_values_of(self.entropy), self.spec)
        o = None if self.objects is None else Scan(_values_of(self.objects), self.spec)
        return Segmentation(Scan(_values_of(self.labels), self.spec), p, e, o, self.object_table)

    @property
    def stored(self) -> bool:
        """Whether the label map is written by parts, and never whole in memory."""
        return isinstance(self.labels, StoredArray)

    def _stored(self, region: Box, index: tuple[int, ...]) -> tuple[Blocks, Put]:
        """The region at a time point of a label map on a disk, in class numbers, and how to write there."""
        labels, numbers = self.labels, self._numbers()

        def read(box: Box) -> NDArray[Any]:
            found: NDArray[Any] = labels.values.read((*((i, i + 1) for i in index), *box))
            classes: NDArray[Any] = numbers[found.reshape(box_shape(box))]
            return classes

        def put(box: Box, classes: NDArray[Any]) -> None:
            self._put_stored(labels, index, box, self.values[classes])

        return Blocks(region, labels.chunks[self.lead :], read), put

    def _put_stored(self, array: StoredArray, index: tuple[int, ...], box: Box, values: NDArray[Any]) -> None:
        placed = (*((i, i + 1) for i in index), *box)
        array.put(placed, values.astype(array.dtype).reshape(box_shape(placed)))
        array.values.release()

    def _numbers(self) -> NDArray[Any]:
        """Class number of each value of the label map."""
        numbers = np.zeros(int(self.values.max()) + 1, self.values.dtype)
        numbers[self.values] = np.arange(len(self.values))
        return numbers

    def _class_numbers(self, region: Box) -> Iterator[tuple[tuple[int | slice, ...], NDArray[Any]]]:
        """The region at each time point: its index in the label map, and its class numbers."""
        numbers = self._numbers()
        for index in np.ndindex(self.labels.shape[: self.lead]):
            place = (*index, *box_slices(region))
            yield place, numbers[self.labels[place]]

    def _write(self, frame: Frame, box: Box, classes: NDArray[Any]) -> None:
        """Write class values in place of class numbers into a box of the turned frame."""
        if isinstance(self.labels, StoredArray):
            self._put(self.labels, frame, box, self.values[classes])
            return
        turned = self.part.grid.orient(self.labels[frame.index])
        _put_values(turned[box_slices(box)], classes, self.values)

    def _put(self, array: NDArray[Any] | StoredArray, frame: Frame, box: Box, values: NDArray[Any]) -> None:
        """Write values of a box of the turned frame, shape (*box) or (K, *box), where they lie in the scan."""
        grid, channels = self.part.grid, values.ndim > len(box)
        index: Any = frame.index
        if channels:
            index = (*frame.index[: self.lead], slice(None), *frame.index[self.lead :])
        if not isinstance(array, StoredArray):
            view: Any = array[index]
            turned: Any = grid.orient(view)
            turned[(..., *box_slices(box))] = values
            return
        placed = frame.place(grid.restore_box(box))
        source = np.empty((*values.shape[: int(channels)], *box_shape(grid.restore_box(box))), array.dtype)
        grid.orient(source)[...] = values
        if channels:
            placed = (*placed[: self.lead], (0, len(values)), *placed[self.lead :])
        array.put(placed, source.reshape(box_shape(placed)))

    def _slab(self, frame: Frame, box: Box) -> SlabDone:
        placed = frame.place(self.part.grid.restore_box(box))
        return SlabDone(tuple(start for start, _ in placed), tuple(stop for _, stop in placed))


def _objects_text(counts: dict[str, int]) -> str:
    """Number of objects by class in words; many classes are not named."""
    total = sum(counts.values())
    if not total:
        return "No objects."
    objects = f"{total} object{'s' * (total != 1)}"
    if len(counts) > MOST_NAMED:
        return f"{objects} of {len(counts)} classes."
    return f"{objects}: {', '.join(f'{name} {count}' for name, count in counts.items())}."


def _values_of(array: NDArray[Any] | StoredArray) -> Any:
    return array.values if isinstance(array, StoredArray) else array


def _zeros(_: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    return np.zeros(shape, dtype)


def _put_values(out: NDArray[Any], classes: NDArray[Any], values: NDArray[Any]) -> None:
    """Write class values in place of class numbers, plane by plane: no second copy of all."""
    for plane, numbers in zip(out, classes, strict=True):
        plane[...] = values[numbers]
