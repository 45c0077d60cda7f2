"""Labels of a case that are read by parts: one pass finds what is annotated, then parts are read as of the whole."""

from __future__ import annotations

from collections.abc import Collection, Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from prosma_core.config.training import LabelsConfig
from prosma_core.data.frames import slice_axis
from prosma_core.data.geometry import Box, ImageSpec, Scan, box_shape, first_voxel, is_repeated
from prosma_core.data.labels import ONE_CLASS, AnnotatedSlices, check_slice_axis, gray_problem, value_counts
from prosma_core.data.lazy import LazyArray, parts_of
from prosma_core.data.slices import SliceStates
from prosma_core.errors import LabelError
from prosma_core.events import Working
from prosma_core.printable import Passing

LOOKED_AT = 16 << 20
"""Voxels, about, of the part by which labels are told from a gray picture."""


@dataclass(frozen=True, eq=False)
class StoredAnnotation(AnnotatedSlices):
    """As `Annotation`, of labels that stay on the disk.

    Attributes
    ----------
    labels : LazyArray, integer, shape of the label map
    config : LabelsConfig
    spec : ImageSpec
        Geometry of the label map.
    sparse : bool
    axis : int or None
    slices, marked : tuple of int
    edited : tuple of int or None
    frames : (int, int) or None
        As of `Annotation`.
    values : frozenset of int
        Class values that are there, the background among them.
    background : bool
        Whether a voxel of the background is annotated.
    classes : dict of tuple of int
        Slices that hold each class, by its value.
    given : ndarray or None, bool
        Voxels that are looked at, of a model's result with checked and edited slices; to be broadcast.
    whole : ndarray or None, bool
        Slices that are annotated as a whole, where others are not; to be broadcast.
    painted_only : bool
        Whether only painted voxels are annotated, apart from `whole`.
    left_out : frozenset of int
        Slices that are ignored.
    """

    labels: LazyArray
    config: LabelsConfig
    spec: ImageSpec
    sparse: bool
    axis: int | None
    slices: tuple[int, ...]
    marked: tuple[int, ...]
    edited: tuple[int, ...] | None = None
    frames: tuple[int, int] | None = None
    values: frozenset[int] = frozenset()
    background: bool = False
    classes: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    given: NDArray[np.bool_] | None = None
    whole: NDArray[np.bool_] | None = None
    painted_only: bool = False
    left_out: frozenset[int] = frozenset()
    threshold: None = None

    @property
    def known(self) -> bool:
        """Whether anything is annotated."""
        return self.background or bool(self.values - {0})

    @property
    def partly(self) -> bool:
        """Whether any voxel may be ignored."""
        masks = self.whole is not None or self.painted_only or bool(self.left_out)
        return masks or self.config.ignore is not None

    def class_slices(self) -> dict[int, tuple[int, ...]]:
        """Slices that hold each class, by its value, apart from the background."""
        kept = {value: tuple(i for i in each if i in self.slices) for value, each in self.classes.items()}
        return {value: each for value, each in sorted(kept.items()) if each}

    def without(self, slices: Collection[int]) -> Self:
        """The same with some slices ignored; a picture is slice 0."""
        kept, marked = (tuple(i for i in each if i not in slices) for each in (self.slices, self.marked))
        return replace(self, left_out=self.left_out | set(slices), slices=kept, marked=marked)

    def only(self, slices: Collection[int]) -> Self:
        """The same with all other slices ignored."""
        count = 1 if self.axis is None else self.spec.spatial_shape[self.axis]
        return self.without(set(range(count)) - set(slices))

    def read(self, box: Box) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """Class values of a box of the label map, and which of its voxels are ignored; None where none can be."""
        data = _looked_at(self.labels.read(box), self.given, box)
        values, unwanted = _values(data, self.config)
        if not self.partly:
            return values, None
        known: NDArray[np.bool_] = np.ones((1,) * data.ndim, bool)
        if self.painted_only:
            known = (first_voxel(data) if is_repeated(data) else data) != 0
            if self.whole is not None:
                known = known | _at(self.whole, box)
        elif self.whole is not None:
            known = known & _at(self.whole, box)
        if unwanted is not None:
            known = known & ~unwanted
        if self.left_out:
            at = 0 if self.axis is None else self._array_axis
            start, stop = (0, 1) if self.axis is None else box[at]
            out = np.array([i in self.left_out for i in range(start, stop)])
            known = known & ~out.reshape([-1 if a == at and self.axis is not None else 1 for a in range(data.ndim)])
        if known.size < data.size and bool(known.any()) == bool(known.all()):
            known = first_voxel(known)
        return values, np.broadcast_to(~known, data.shape)

    @property
    def _array_axis(self) -> int:
        return self.labels.ndim - self.spec.spatial_ndim + (self.axis or 0)


def _looked_at(data: NDArray[Any], given: NDArray[np.bool_] | None, box: Box) -> NDArray[Any]:
    return data if given is None else np.where(_at(given, box), data, data.dtype.type(0))


def _at(mask: NDArray[np.bool_], box: Box) -> NDArray[np.bool_]:
    """A box of a mask that is to be broadcast."""
    ends = zip(box, mask.shape, strict=True)
    found: NDArray[np.bool_] = mask[tuple(slice(a, b) if n > 1 else slice(0, 1) for (a, b), n in ends)]
    return found


def _values(data: NDArray[Any], config: LabelsConfig) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """Class values of voxels, and which of them are to be ignored."""
    if is_repeated(data):
        one, left_out = _values(first_voxel(data), config)
        values = np.broadcast_to(one, data.shape)
        return values, None if left_out is None else np.broadcast_to(left_out, data.shape)
    unwanted = data == config.ignore if config.ignore is not None else None
    values = data if unwanted is None else np.where(unwanted, 0, data).astype(data.dtype)
    if config.background:
        values = np.where(values == config.background, 0, values).astype(data.dtype)
    if config.one_class:
        values = (values > 0).astype(np.uint8) * np.uint8(ONE_CLASS)
    return values, unwanted


def check_by_parts(config: LabelsConfig, states: SliceStates | None, name: str) -> None:
    """Raise `LabelError` where labels need what only labels in memory have; told without reading them.

    Parameters
    ----------
    config : LabelsConfig
    states : SliceStates, optional
    name : str
        Whose labels they are.
    """
    asked = [words for words, is_asked in {
        "masks with gray edges (gray: threshold)": config.gray == "threshold",
        "touching objects that are kept apart (separate)": config.separate,
        "slices of which only strokes were edited": states is not None and states.only and bool(states.partly),
    }.items() if is_asked]  # fmt: skip
    if asked:
        msg = (
            f"{name} does not fit into memory and is read by parts, which cannot be done with {asked[0]}. Store such "
            "labels as class numbers, cut the scan into smaller files, or use a computer with more memory."
        )
        raise LabelError(msg)


def annotation_by_parts(
    labels: Scan, config: LabelsConfig, states: SliceStates | None, name: str, named: Collection[int] = ()
) -> Generator[Working, None, StoredAnnotation]:
    """What `read_annotation` says of labels that are in memory, of labels that are read by parts, in one pass.

    Yields after each part, and may be closed there.

    Parameters
    ----------
    labels : Scan, integer, a `LazyArray` without channels
    config : LabelsConfig
    states : SliceStates, optional
    name : str
        Whose labels they are, for the error text.
    named : collection of int
        Label values that have a name.

    Raises
    ------
    LabelError
        The labels are negative or an image, or need what only labels in memory have: a threshold, gaps between objects,
        strokes of single voxels.
    GeometryError
        As in `read_annotation`.
    """
    spec, array = labels.spec, labels.data
    check_by_parts(config, states, name)
    only = states is not None and states.only
    given = states.known(spec) if states is not None and only else None
    check_slice_axis(config, spec)
    found = _Pass(spec, config)
    boxes = list(parts_of(array))
    passing = Passing(f"Reading the labels of {name}", len(boxes))
    for box in boxes:
        data = array.read(box)
        if data.dtype.kind not in "bui" or (data.dtype.kind == "i" and data.size and int(data.min()) < 0):
            msg = f"Labels of {name} are of type {data.dtype}, or negative; whole numbers from 0 are needed."
            raise LabelError(msg)
        found.add(box, _looked_at(data, given, box))
        yield Working(passing.another())
    _refuse_gray(array, spec, config, found, name, named)
    states_axis = states.axis if states is not None and (only or (states.checked and config.sparse)) else ""
    axis = found.axis(config.replace(slice_axis=states_axis) if states_axis else config)
    whole = None
    if states is not None and (only or (states.checked and config.sparse)):
        by_all = only and config.zero != "unlabeled"
        whole = states.known(spec) if by_all else states.mask(states.checked, spec)
    sparse = config.sparse or (only and whole is not None and not bool(whole.all()))
    slices_known: NDArray[np.bool_] | None = None
    painted_only = sparse and config.sparse and config.zero == "unlabeled"
    if sparse and config.sparse and not painted_only:
        painted = found.mask(found.marked, axis)
        slices_known = painted if whole is None else painted | whole
    elif sparse:
        slices_known = whole
    frames = found.frames_painted
    if frames is not None and not sparse and not only and frames.any() and not frames.all():
        slices_known = frames.reshape(-1, *(1,) * spec.spatial_ndim)
    marked = found.along(found.marked, axis)
    if sparse and whole is not None:
        marked = marked | (found.along(found.wanted, axis) & _any_along(whole, spec, axis))
    return StoredAnnotation(
        array,
        config,
        spec,
        sparse,
        axis,
        _numbers(found.along(found.classes, axis)),
        _numbers(marked),
        states.validated if states is not None and only else None,
        None if frames is None else (int(frames.sum()), frames.size),
        frozenset(found.by_value) | {0},
        found.background(axis, slices_known, painted_only=painted_only),
        {value: _numbers(found.along(each, axis)) for value, each in found.by_value.items()},
        given,
        slices_known,
        painted_only,
    )


def _numbers(flags: NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.flatnonzero(flags))


def _any_along(mask: NDArray[np.bool_], spec: ImageSpec, axis: int | None) -> NDArray[np.bool_]:
    """Slices along an axis that a mask, which is to be broadcast, holds any of; one flag for a picture."""
    if axis is None:
        return np.array([bool(mask.any())])
    at = mask.ndim - spec.spatial_ndim + axis
    found = mask.any(axis=tuple(a for a in range(mask.ndim) if a != at))
    return np.broadcast_to(found, (spec.spatial_shape[axis],))


Profile = list[NDArray[np.bool_]]
"""For each spatial axis, which of its slices hold something at which time: bool, shape (frames, size)."""


class _Pass:
    """What is found while labels are read part by part."""

    def __init__(self, spec: ImageSpec, config: LabelsConfig) -> None:
        self.spec, self.config, self.sizes = spec, config, spec.spatial_shape
        self.by_value: dict[int, Profile] = {}
        self.marked, self.classes, self.wanted, self.zero = (self._profile() for _ in range(4))
        self.painted_background = False
        self.given_values: dict[int, int] = {}
        self.most_painted: tuple[int, Box] | None = None
        self._going_on = [0] * len(self.sizes)
        self._faces: dict[int, NDArray[np.bool_]] = {}
        self._count_pairs = config.sparse and len(self.sizes) == 3

    def _profile(self) -> Profile:
        return [np.zeros((self.spec.num_frames, size), bool) for size in self.sizes]

    def add(self, box: Box, data: NDArray[Any]) -> None:
        """Take a part; parts come in the order of their first voxels."""
        counts, shape = value_counts(data), data.shape
        for value, count in counts.items():
            self.given_values[value] = self.given_values.get(value, 0) + count
        if len(counts) == 1:  # its slices are alike
            data = first_voxel(data)
        values, unwanted = _values(data, self.config)
        marked = data != 0 if unwanted is None else (data != 0) & ~unwanted
        painted = int(np.count_nonzero(np.broadcast_to(marked, shape)))
        if painted and (self.most_painted is None or painted > self.most_painted[0]):
            self.most_painted = painted, box
        zero = values == 0 if unwanted is None else (values == 0) & ~unwanted
        self._fill(self.zero, zero, box)
        if unwanted is None:
            self._fill(self.wanted, np.ones((1,) * data.ndim, bool), box)
        else:
            self._fill(self.wanted, ~unwanted, box)
        if painted:
            self._fill(self.marked, marked, box)
            self._fill(self.classes, values > 0, box)
            self.painted_background = self.painted_background or bool((zero & marked).any())
            for value in value_counts(values):
                if value:
                    self._fill(self.by_value.setdefault(value, self._profile()), values == value, box)
        if self._count_pairs:
            self._count(np.broadcast_to(marked, shape), box)

    def _fill(self, profile: Profile, mask: NDArray[np.bool_], box: Box) -> None:
        lead = len(box) - len(self.sizes)
        frames = slice(*box[0]) if lead else slice(0, 1)
        for axis, flags in enumerate(profile):
            others = tuple(lead + a for a in range(len(self.sizes)) if a != axis)
            found: NDArray[np.bool_] = np.asarray(mask.any(axis=others))
            flags[frames, slice(*box[lead + axis])] |= found if lead else found[None]

    def _count(self, marked: NDArray[np.bool_], box: Box) -> None:
        """Count painted voxels that go on along each axis, within the part and from the one before it."""
        lead, empty = len(box) - 3, is_repeated(marked) and not bool(first_voxel(marked).any())
        for axis in range(3):
            turned = np.moveaxis(marked, lead + axis, 0)
            self._going_on[axis] += 0 if empty else int(np.count_nonzero(turned[1:] & turned[:-1]))
            rest = tuple(slice(*ends) for a, ends in enumerate(box) if a != lead + axis)
            sizes = (*((self.spec.num_frames,) if lead else ()), *(n for a, n in enumerate(self.sizes) if a != axis))
            face = self._faces.setdefault(axis, np.zeros(sizes, bool))
            if box[lead + axis][0] and not empty:
                self._going_on[axis] += int(np.count_nonzero(face[rest] & turned[0]))
            face[rest] = turned[-1]

    @property
    def frames_painted(self) -> NDArray[np.bool_] | None:
        """Which time points hold anything painted; None without an axis of time."""
        return np.asarray(self.marked[0].any(axis=1)) if "t" in self.spec.axes else None

    def axis(self, config: LabelsConfig) -> int | None:
        """Axis of the slices, as `read_annotation` chooses it."""
        letters = self.spec.spatial_axes
        if len(letters) == 2:
            return None
        if config.slice_axis is not None:
            return letters.index(config.slice_axis)
        usual = slice_axis(self.spec)
        least = not config.sparse or self._going_on[usual] == min(self._going_on)
        return usual if least else int(np.argmin(self._going_on))

    def along(self, profile: Profile, axis: int | None) -> NDArray[np.bool_]:
        """Slices along an axis that hold something at any time; one flag for a picture."""
        return np.array([profile[0].any()]) if axis is None else np.asarray(profile[axis].any(axis=0))

    def mask(self, profile: Profile, axis: int | None) -> NDArray[np.bool_]:
        """The same as voxels, time point by time point, to be broadcast."""
        flags: NDArray[np.bool_] = profile[axis or 0]
        if axis is None:
            flags = np.asarray(flags.any(axis=1, keepdims=True))
        wanted = {"t": flags.shape[0], "" if axis is None else self.spec.spatial_axes[axis]: flags.shape[1]}
        return flags.reshape([wanted.get(letter, 1) for letter in self.spec.axes])

    def background(self, axis: int | None, known: NDArray[np.bool_] | None, *, painted_only: bool) -> bool:
        """Whether an annotated voxel is background."""
        if painted_only and self.painted_background:
            return True
        if painted_only and known is None:
            return False
        mask = self.mask(self.zero, axis)
        return bool((mask if known is None else mask & known).any())


def _refuse_gray(
    array: LazyArray, spec: ImageSpec, config: LabelsConfig, found: _Pass, name: str, named: Collection[int]
) -> None:
    """Raise `LabelError` where the part with most painted voxels looks like a gray picture."""
    if found.most_painted is None or config.gray == "classes":
        return
    box = found.most_painted[1]
    lead = len(box) - spec.spatial_ndim
    planes = max(1, LOOKED_AT // max(1, int(np.prod(box_shape(box)[-2:]))))
    ends = ((a, a + 1) if i < lead else (a, min(b, a + planes)) for i, (a, b) in enumerate(box[:-2]))
    part = array.read((*ends, *box[-2:]))
    kind, words = gray_problem(part, config, named)
    if kind is not None:
        msg = f"Labels of {name}: {words} Such labels cannot be learned from a scan that is read by parts."
        raise LabelError(msg)
