"""Label maps: values and class indices, masks with gray edges, and which voxels are annotated."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from prosma_core.config.model import ClassInfo
from prosma_core.config.training import LabelsConfig
from prosma_core.data.frames import slice_axis
from prosma_core.data.geometry import ImageSpec, Scan, first_voxel, is_repeated
from prosma_core.data.grid import STRONG_ANISOTROPY
from prosma_core.data.slices import SliceStates
from prosma_core.errors import GeometryError, LabelError

IGNORED = -1
"""Class index of a voxel that nothing is known of: no part of loss or measures, and no place for a patch."""


def class_indices(labels: NDArray[Any], classes: tuple[ClassInfo, ...], name: str) -> NDArray[Any]:
    """Label values as class indices.

    Parameters
    ----------
    labels : ndarray, integer, any shape
    classes : tuple of ClassInfo
        A 0/255 mask is taken where there is one foreground class.
    name : str
        Whose labels they are, for the error text.

    Returns
    -------
    ndarray, uint8 or int32, shape of `labels`

    Raises
    ------
    LabelError
        A value is none of the classes.
    """
    if is_repeated(labels):
        return np.broadcast_to(class_indices(first_voxel(labels), classes, name), labels.shape)
    present = set(value_counts(labels))
    values = [c.value for c in classes]
    if len(classes) == 2 and len(present) <= 2 and present <= {0, 255, values[1]}:
        return (labels > 0).astype(np.uint8)
    unknown = sorted(present - set(values))
    if unknown:
        msg = (
            f"Labels of {name} hold {unknown[:5]}, which are none of "
            f"the classes {values}. Correct them or add the class."
        )
        raise LabelError(msg)
    lookup = np.zeros(max(values) + 1, np.uint8 if len(values) <= 256 else np.int32)
    lookup[values] = np.arange(len(values))
    indices: NDArray[Any] = lookup[labels]
    return indices


Gray = Literal["edges", "picture", "image"]

_LEAST_TOP = 64  # largest value of what may be gray: label maps of a few classes end below it
_FULL = 200
_LEAST_VALUES = 5  # 0, the value of the object, and some between them
PICTURE_VALUES = 26
"""Values from which a label map may be an image."""
_MIXED_EDGES, _MIXED_PICTURE = 0.35, 0.45  # areas of class numbers: up to 0.3 in all label maps that were tried
_NUMBERED = 256  # with more values than can be classes they may number small objects
_MOST_COUNTED = 4 << 20  # voxels that are counted at once
_MOST_BLOCKS = 4 << 20  # voxels that are looked at


def value_counts(labels: NDArray[Any]) -> dict[int, int]:
    """Values of a label map, ascending, and how many voxels have each.

    Parameters
    ----------
    labels : ndarray, integer or bool, any shape
        Of a view in which one voxel stands for all, only that one is read.

    Examples
    --------
    >>> value_counts(np.array([[0, 2], [2, 2]], np.uint8))
    {0: 1, 2: 3}
    """
    if not labels.size:
        return {}
    if is_repeated(labels):
        return {_number(first_voxel(labels)): labels.size}
    low, high = _number(labels.min()), _number(labels.max())
    if low == high:
        return {low: labels.size}
    if labels.dtype.kind == "f" or high - low > np.iinfo(np.uint16).max:
        values, numbers = np.unique(labels, return_counts=True)
        return dict(zip(values.tolist(), numbers.tolist(), strict=True))
    flat, counts = labels.reshape(-1), np.zeros(high - low + 1, np.int64)
    for start in range(0, flat.size, _MOST_COUNTED):  # that takes eight times their memory
        part = flat[start : start + _MOST_COUNTED]
        if part.dtype.kind == "u":  # of 64 bits, most values are none of int64
            places = (part - part.dtype.type(low)).astype(np.int64)
        else:
            places = part.astype(np.int64) - low
        counts += np.bincount(places, minlength=len(counts))
    return {low + int(i): int(counts[i]) for i in np.flatnonzero(counts)}


def _number(value: Any) -> Any:
    number = value.item()
    return int(number) if isinstance(number, bool) else number


def gray_kind(labels: NDArray[Any], counts: dict[int, int] | None = None) -> Gray | None:
    """What a label map with many values is, where these are not class numbers.

    Class numbers lie in areas of one value. The values of a mask with soft edges change from voxel to voxel between 0
    and the value of the object, and those of a picture do so nearly everywhere.

    Parameters
    ----------
    labels : ndarray, integer from 0, shape (..., Y, X)
    counts : dict, optional
        `value_counts` of it.

    Returns
    -------
    "edges", "picture" or None
        A mask with gray edges, some image, or class numbers as far as can be told.
    """
    counts = value_counts(labels) if counts is None else counts
    top = max(counts, default=0)
    if labels.ndim >= 2 and _near_ends(counts, top):
        return "edges"
    if labels.ndim < 2 or top < _LEAST_TOP or len(counts) < _LEAST_VALUES:
        return None
    mixed = _mixed_share(labels, *_usual_ends(counts, top))
    high = sum(n for value, n in counts.items() if value >= 0.9 * top)
    between = sum(n for value, n in counts.items() if 0.1 * top < value < 0.9 * top)
    upper = sum(n for value, n in counts.items() if value > 0.5 * top)
    if high >= between and 2 * high >= upper and mixed >= _MIXED_EDGES:
        return "edges"
    return "picture" if len(counts) >= PICTURE_VALUES and mixed >= _MIXED_PICTURE else None


def _near_ends(counts: Collection[int], top: int) -> bool:
    """Whether all values are next to 0 or to the largest, as of a JPEG of the best quality: 0, 1, 254, 255."""
    high = [value for value in counts if value >= 0.95 * top]
    return top >= _FULL and len(high) > 1 and all(value in high or value <= 0.05 * top for value in counts)


def _usual_ends(counts: dict[int, int], top: int) -> tuple[int, int]:
    """Most frequent of the lowest and of the highest values: JPEG of quality 70 stores black as 1, white as 254."""
    low = max((value for value in counts if value <= 0.05 * top), key=counts.__getitem__, default=0)
    return low, max((value for value in counts if value >= 0.95 * top), key=counts.__getitem__)


def _mixed_share(labels: NDArray[Any], background: int, top: int) -> float:
    """Of the blocks of 2 x 2 voxels that hold a value between background and top: share with two different or more.

    0 and the background do not count as values, so that small objects in numbers are no mixture; those above `top`
    count as `top`.
    """
    planes = labels.reshape(-1, *labels.shape[-2:])
    step = max(1, planes.size // _MOST_BLOCKS)
    occupied = np.flatnonzero(planes.any(axis=(1, 2)))[::step]
    corners = [
        planes[occupied, i : planes.shape[1] - 1 + i, j : planes.shape[2] - 1 + j] for i in (0, 1) for j in (0, 1)
    ]
    corners = [np.minimum(np.where(corner == background, 0, corner), top) for corner in corners]
    largest: NDArray[Any] = np.maximum.reduce(corners)
    smallest: NDArray[Any] = np.minimum.reduce([np.where(corner == 0, largest, corner) for corner in corners])
    inside = np.logical_or.reduce([(corner > 0) & (corner < top) for corner in corners])
    mixed, total = int(np.count_nonzero(inside & (smallest < largest))), int(np.count_nonzero(inside))
    return mixed / max(1, total)


def half(counts: Collection[int]) -> int:
    """Value above which a gray mask is foreground: half of its largest."""
    return max(counts, default=0) // 2


def threshold_of(labels: NDArray[Any], config: LabelsConfig) -> int | None:
    """Value above which voxels are the one class, where a configuration thresholds these labels; else None."""
    if config.gray == "classes" or not (config.one_class or config.gray == "threshold"):
        return None
    counts = value_counts(labels)
    kind = gray_kind(labels, counts)
    wanted = kind is not None if config.gray == "threshold" else kind == "edges"
    return half(counts) if wanted else None


def gray_problem(
    labels: NDArray[Any],
    config: LabelsConfig,
    named: Collection[int] = (),
    image: Callable[[], NDArray[Any]] | None = None,
    least: int = _LEAST_VALUES,
) -> tuple[Gray | None, str]:
    """Why labels are no class numbers, and how many values they have; None and empty where they may be used.

    Parameters
    ----------
    labels : ndarray, integer from 0, shape (..., Y, X)
    config : LabelsConfig
    named : collection of int
        Values that a person named: labels that hold no others are class numbers.
    image : callable, optional
        Gives the values of the scan: labels that equal them are the scan itself.
    least : int
        Number of label values from which the scan is looked at.
    """
    if config.gray == "classes":
        return None, ""
    counts = value_counts(labels)
    counts.pop(config.ignore if config.ignore is not None else -1, None)
    if len(counts) >= least and image is not None and same_values(labels, image()):
        return "image", f"The labels are the image itself ({len(counts)} values). Choose the label map of this scan."
    if config.gray == "threshold" or set(counts) <= {0, *named}:
        return None, ""
    kind = gray_kind(labels, counts)
    if kind is None or (kind == "picture" and len(counts) > _NUMBERED) or (kind == "edges" and config.one_class):
        return None, ""
    return kind, format_gray(kind, len(counts), max(counts))


def format_gray(kind: Gray, count: int, top: int) -> str:
    """Text that describes gray labels."""
    if kind == "edges":
        return f"The labels hold {count} values, most of them near 0 or {top}: a mask with gray edges (JPEG, resized)."
    return f"The labels hold {count} values up to {top} that change from voxel to voxel: an image, not class numbers."


def same_values(labels: NDArray[Any], image: NDArray[Any]) -> bool:
    """Whether a label map is the image, or one of its channels (the first axis that the labels do not have)."""
    if image.shape == labels.shape:
        return bool(np.array_equal(labels, image))
    if image.ndim != labels.ndim + 1:
        return False
    for axis in range(image.ndim):
        if image.shape[:axis] + image.shape[axis + 1 :] == labels.shape:
            return any(np.array_equal(labels, image.take(i, axis)) for i in range(image.shape[axis]))
    return False


ONE_CLASS = 1
"""Value of the class that `LabelsConfig.one_class` makes of all labels."""


class AnnotatedSlices:
    """What an annotation tells of its slices, whether its labels are in memory or on the disk."""

    spec: ImageSpec
    axis: int | None
    slices: tuple[int, ...]
    edited: tuple[int, ...] | None

    @property
    def validated(self) -> tuple[int, ...]:
        """Slices that hold a class, and that may be validated on."""
        return self.slices if self.edited is None else tuple(i for i in self.slices if i in self.edited)

    @property
    def axis_name(self) -> str:
        """Letter of the slices' axis; empty for a picture."""
        return "" if self.axis is None else self.spec.spatial_axes[self.axis]


@dataclass(frozen=True, eq=False)
class Annotation(AnnotatedSlices):
    """The labels of one case, read as a `LabelsConfig` says.

    Attributes
    ----------
    values : ndarray, integer, shape of the label map
        Class values; 0 where the background is, and where nothing is known.
    ignored : ndarray or None, bool, same shape
        Voxels that nothing is known of; None where there are none.
    sparse : bool
        Whether unpainted voxels may be unknown.
    spec : ImageSpec
        Geometry of the label map.
    axis : int or None
        Spatial axis of the slices; None for a 2D picture, which is one slice.
    slices : tuple of int
        Slices along it that hold a class, apart from the background.
    marked : tuple of int
        Slices along it that hold anything painted, apart from what is to be ignored.
    threshold : int or None
        Value above which voxels are the one class, of a mask with gray edges; None for class numbers.
    frames : (int, int) or None
        Of a time series: time points that are annotated, and how many there are.
    edited : tuple of int or None
        Where only checked and edited slices are annotated: slices along `axis` that may be validated on, see
        `SliceStates.validated`; None where all may.
    """

    values: NDArray[Any]
    ignored: NDArray[np.bool_] | None
    sparse: bool
    spec: ImageSpec
    axis: int | None
    slices: tuple[int, ...]
    marked: tuple[int, ...]
    threshold: int | None = None
    frames: tuple[int, int] | None = None
    edited: tuple[int, ...] | None = None

    @property
    def known(self) -> int:
        """Number of annotated voxels."""
        return self.values.size - (0 if self.ignored is None else int(self.ignored.sum()))

    def class_slices(self) -> dict[int, tuple[int, ...]]:
        """Slices that hold each class, by its value, apart from the background."""
        if self.axis is None:
            return dict.fromkeys(sorted(value_counts(self.values).keys() - {0}), (0,))
        planes = np.moveaxis(self.values, self.values.ndim - self.spec.spatial_ndim + self.axis, 0)
        found: dict[int, list[int]] = {}
        for i in self.slices:
            for value in value_counts(planes[i]).keys() - {0}:
                found.setdefault(value, []).append(i)
        return {value: tuple(found[value]) for value in sorted(found)}

    def without(self, slices: Collection[int]) -> Self:
        """The same with some slices ignored; a picture is slice 0."""
        if not slices:
            return self
        ignored = np.zeros(self.values.shape, bool) if self.ignored is None else self.ignored.copy()
        if self.axis is None:
            ignored[...] = True
        else:
            np.moveaxis(ignored, ignored.ndim - self.spec.spatial_ndim + self.axis, 0)[sorted(slices)] = True
        kept = tuple(i for i in self.slices if i not in slices)
        marked = tuple(i for i in self.marked if i not in slices)
        values = np.where(ignored, 0, self.values).astype(self.values.dtype)
        return replace(self, values=values, ignored=ignored, slices=kept, marked=marked)

    def only(self, slices: Collection[int]) -> Self:
        """The same with all other slices ignored."""
        count = 1 if self.axis is None else self.spec.spatial_shape[self.axis]
        return self.without(set(range(count)) - set(slices))


def read_annotation(labels: Scan, config: LabelsConfig, states: SliceStates | None = None) -> Annotation:
    """Labels of a case as a `LabelsConfig` says.

    Of a time series, time points that hold nothing painted are not annotated where another one does.

    Parameters
    ----------
    labels : Scan, integer, without channels
    config : LabelsConfig
        Masks with gray edges become one class where it says so; it does not refuse any (see `gray_problem`).
    states : SliceStates, optional
        Slices of this label map that a person checked or edited. Checked ones are annotated as a whole, edited ones
        too unless only painted voxels are; where ``states.only``, nothing else is, and what is there is not looked at.

    Raises
    ------
    GeometryError
        The labels have no axis ``config.slice_axis``.
    """
    only = states is not None and states.only
    data = np.asarray(states.part(labels).data if states is not None else labels.data)
    unwanted = data == config.ignore if config.ignore is not None else None
    threshold = threshold_of(data, config)
    if threshold is not None:
        data = (data > threshold).astype(np.uint8)
    marked = data != 0 if unwanted is None else (data != 0) & ~unwanted
    values = data if unwanted is None else np.where(unwanted, 0, data).astype(data.dtype)
    if config.background and threshold is None:
        values = np.where(values == config.background, 0, values).astype(data.dtype)
    gap = between_objects(values, labels.spec) if config.separate and threshold is None else None
    if config.one_class:
        values = (values > 0).astype(np.uint8) * np.uint8(ONE_CLASS)
    if gap is not None:
        values[gap] = 0
    whole = _whole_slices(states, config, labels.spec)
    if whole is not None and states is not None and states.axis:
        config = config.replace(slice_axis=states.axis)
    axis = _annotated_axis(marked, labels.spec, config)
    ignored = unwanted if unwanted is not None and unwanted.any() else None
    sparse = config.sparse or (only and whole is not None and not whole.all())
    if sparse:
        known = np.zeros(marked.shape, bool)
        if config.sparse:
            known |= marked if config.zero == "unlabeled" else _same_slice(marked, labels.spec, axis)
        if whole is not None:
            known |= whole
            marked = marked | (whole & (True if unwanted is None else ~unwanted))
        ignored = ~known if unwanted is None else ~known | unwanted
    painted = _painted_frames(marked, labels.spec)
    if painted is not None and not sparse and not only and painted.any() and not painted.all():
        empty = np.broadcast_to(~painted.reshape(-1, *(1,) * labels.spec.spatial_ndim), data.shape)
        ignored = empty.copy() if ignored is None else ignored | empty
    slices = _occupied(values > 0, labels.spec, axis)
    return Annotation(
        values,
        ignored,
        sparse,
        labels.spec,
        axis,
        slices,
        _occupied(marked, labels.spec, axis),
        threshold,
        None if painted is None else (int(painted.sum()), painted.size),
        states.validated if states is not None and only else None,
    )


LEAST_OBJECTS = 8
"""Number of values from which they may number objects."""
_SMALL, _LONG, _SPARSE, _OTHERS = 9, 0.5, 0.25, 0.1  # voxels; share of a side, of its box; objects that may be so
_PART = (4, 2048, 2048)


def number_objects(labels: NDArray[Any], spec: ImageSpec) -> frozenset[int]:
    """Values that seem to number objects, such as cells, instead of naming classes; empty where they do not.

    Nearly each value is one small compact piece. Labels of scans in mm are taken to name parts of a body. Of large maps
    the middle is looked at.

    Parameters
    ----------
    labels : ndarray, integer from 0, shape of the label map
    spec : ImageSpec
        Of the label map.
    """
    if spec.unit == "mm":
        return frozenset()
    frames = labels.reshape(-1, *labels.shape[labels.ndim - spec.spatial_ndim :])
    most = _PART[-spec.spatial_ndim :]
    starts = [max(0, (n - m) // 2) for n, m in zip(frames.shape[1:], most, strict=True)]
    middle = tuple(slice(start, start + m) for start, m in zip(starts, most, strict=True))
    first = next((frame[middle] for frame in frames if frame[middle].any()), None)
    if first is None:
        return frozenset()
    values, numbers = dense_numbers(first)
    if len(values) < LEAST_OBJECTS:
        return frozenset()
    from scipy import ndimage

    sizes = np.bincount(numbers.reshape(-1), minlength=len(values) + 1)[1:]
    boxes = [[s.stop - s.start for s in box] for box in ndimage.find_objects(numbers) if box is not None]
    long = (np.array(boxes)[:, -2:] > _LONG * np.array(first.shape[-2:])).any(1)  # as layers of a tissue are
    unlike = long | (sizes < _SMALL) | (sizes < _SPARSE * np.prod(boxes, axis=1))
    return frozenset(values.tolist()) if np.count_nonzero(unlike) <= _OTHERS * len(values) else frozenset()


def dense_numbers(numbers: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int32]]:
    """The values above 0, ascending, and a map of their places from 1 on; 0 stays 0."""
    if numbers.size and int(numbers.max()) <= 65535:
        values = np.flatnonzero(np.bincount(numbers.reshape(-1)))
        values = values[values > 0]
        places = np.zeros(65536, np.int32)
        places[values] = np.arange(1, len(values) + 1)
        return values, places[numbers]
    values = np.unique(numbers)
    values = values[values > 0]
    dense = np.searchsorted(values, numbers).astype(np.int32) + 1
    dense[numbers == 0] = 0
    return values, dense


GAPS = ((2, 0.5), (1, 0.75))
"""Voxels from an object within which another one counts as touching it, and the most that an object may lose by it."""


def between_objects(numbers: NDArray[Any], spec: ImageSpec) -> NDArray[np.bool_]:
    """Voxels of objects within 2 of another one; along axes of thick voxels, objects do not touch.

    Objects that would lose more than half of their voxels lose those within 1 only; where that is more than three
    quarters, none: a map of small objects side by side would hold nothing but background.

    Parameters
    ----------
    numbers : ndarray, integer from 0, shape of the label map
        0 is background.
    spec : ImageSpec
        Of the label map.
    """
    from scipy import ndimage

    values, dense = dense_numbers(numbers)
    sizes = np.bincount(dense.reshape(-1), minlength=len(values) + 1)
    fine = [size < STRONG_ANISOTROPY * min(spec.spacing) for size in spec.spacing]
    filled = np.where(dense > 0, dense, len(values))
    gap, left = np.zeros(numbers.shape, bool), np.arange(len(values) + 1) > 0
    for reach, most in GAPS:
        size = [1] * (numbers.ndim - len(fine)) + [2 * reach + 1 if near else 1 for near in fine]
        touching = ndimage.maximum_filter(dense, size) > ndimage.minimum_filter(filled, size)
        lost = np.bincount(dense[touching], minlength=len(values) + 1)
        taken = left & (lost <= most * sizes)
        gap |= touching & taken[dense]
        left &= ~taken
    return gap


def _whole_slices(states: SliceStates | None, config: LabelsConfig, spec: ImageSpec) -> NDArray[np.bool_] | None:
    """Slices that are annotated as a whole since a person checked or edited them; None where nothing says so."""
    if states is None or not (states.only or (states.checked and config.sparse)):
        return None
    return states.known(spec) if states.only and config.zero != "unlabeled" else states.mask(states.checked, spec)


def _painted_frames(marked: NDArray[np.bool_], spec: ImageSpec) -> NDArray[np.bool_] | None:
    """Which time points hold anything painted; None without an axis of time."""
    if "t" not in spec.axes:
        return None
    return np.array([bool(frame.any()) for frame in marked])


def check_slice_axis(config: LabelsConfig, spec: ImageSpec) -> None:
    """Raise `GeometryError` where labels have no axis ``config.slice_axis``."""
    letters = spec.spatial_axes
    if config.slice_axis is not None and config.slice_axis not in letters:
        msg = f"The labels have axes {letters}; there are no slices along {config.slice_axis!r}. Name one of them."
        raise GeometryError(msg)


def _annotated_axis(marked: NDArray[np.bool_], spec: ImageSpec, config: LabelsConfig) -> int | None:
    """Axis of the slices: along which the fewest painted voxels have a painted neighbor.

    Where several axes have as few, the one that a 2D network would walk along.
    """
    check_slice_axis(config, spec)
    letters = spec.spatial_axes
    if len(letters) == 2:
        return None
    if config.slice_axis is not None:
        return letters.index(config.slice_axis)
    usual = slice_axis(spec)
    if not config.sparse:
        return usual
    turned = (np.moveaxis(marked, marked.ndim - 3 + axis, 0) for axis in range(3))
    going_on = [int((each[1:] & each[:-1]).sum()) for each in turned]
    return usual if going_on[usual] == min(going_on) else int(np.argmin(going_on))


def _occupied(mask: NDArray[np.bool_], spec: ImageSpec, axis: int | None) -> tuple[int, ...]:
    """Slices along an axis that hold any voxel of a mask, at any time; (0,) or () for a picture."""
    if axis is None:
        return (0,) if mask.any() else ()
    at = mask.ndim - spec.spatial_ndim + axis
    hit = mask.any(axis=tuple(a for a in range(mask.ndim) if a != at))
    return tuple(int(i) for i in np.flatnonzero(hit))


def _same_slice(mask: NDArray[np.bool_], spec: ImageSpec, axis: int | None) -> NDArray[np.bool_]:
    """Mask of all voxels on a slice that holds any of `mask`, time point by time point."""
    lead = mask.ndim - spec.spatial_ndim
    plane = tuple(lead + a for a in range(spec.spatial_ndim) if a != axis)
    return np.broadcast_to(mask.any(axis=plane, keepdims=True), mask.shape)
