"""What a label map says, and where it says nothing."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prosma_core.config.labels import LabelsConfig
from prosma_core.data.frames import slice_axis
from prosma_core.data.geometry import ImageSpec, Scan
from prosma_core.data.labels import threshold_of, value_counts
from prosma_core.errors import GeometryError

ONE_CLASS = 1
"""Value of the class that `LabelsConfig.one_class` makes of all labels."""


@dataclass(frozen=True, eq=False)
class Annotation:
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

    @property
    def axis_name(self) -> str:
        """Letter of the slices' axis; empty for a picture."""
        return "" if self.axis is None else self.spec.spatial_axes[self.axis]

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

    def without(self, slices: Collection[int]) -> Annotation:
        """The same with some slices ignored."""
        if not slices or self.axis is None:
            return self
        ignored = np.zeros(self.values.shape, bool) if self.ignored is None else self.ignored.copy()
        np.moveaxis(ignored, ignored.ndim - self.spec.spatial_ndim + self.axis, 0)[sorted(slices)] = True
        kept = tuple(i for i in self.slices if i not in slices)
        marked = tuple(i for i in self.marked if i not in slices)
        values = np.where(ignored, 0, self.values).astype(self.values.dtype)
        return replace(self, values=values, ignored=ignored, slices=kept, marked=marked)

    def only(self, slices: Collection[int]) -> Annotation:
        """The same with all other slices ignored."""
        if self.axis is None:
            return self
        return self.without(set(range(self.spec.spatial_shape[self.axis])) - set(slices))


def read_annotation(labels: Scan, config: LabelsConfig) -> Annotation:
    """Labels of a case as a `LabelsConfig` says.

    Of a time series, time points that hold nothing painted are not annotated where another one does.

    Parameters
    ----------
    labels : Scan, integer, without channels
    config : LabelsConfig
        Masks with gray edges become one class where it says so; it does not refuse any (see `gray_problem`).

    Raises
    ------
    GeometryError
        The labels have no axis ``config.slice_axis``.
    """
    data = np.asarray(labels.data)
    unwanted = data == config.ignore if config.ignore is not None else None
    threshold = threshold_of(data, config)
    if threshold is not None:
        data = (data > threshold).astype(np.uint8)
    marked = data != 0 if unwanted is None else (data != 0) & ~unwanted
    values = data if unwanted is None else np.where(unwanted, 0, data).astype(data.dtype)
    if config.background and threshold is None:
        values = np.where(values == config.background, 0, values).astype(data.dtype)
    if config.one_class:
        values = (values > 0).astype(np.uint8) * np.uint8(ONE_CLASS)
    axis = _annotated_axis(marked, labels.spec, config)
    ignored = unwanted if unwanted is not None and unwanted.any() else None
    if config.sparse:
        known = marked if config.zero == "unlabelled" else _same_slice(marked, labels.spec, axis)
        ignored = ~known if unwanted is None else ~known | unwanted
    painted = _painted_frames(marked, labels.spec)
    if painted is not None and not config.sparse and painted.any() and not painted.all():
        empty = np.broadcast_to(~painted.reshape(-1, *(1,) * labels.spec.spatial_ndim), data.shape)
        ignored = empty.copy() if ignored is None else ignored | empty
    slices = _occupied(values > 0, labels.spec, axis)
    return Annotation(
        values,
        ignored,
        config.sparse,
        labels.spec,
        axis,
        slices,
        _occupied(marked, labels.spec, axis),
        threshold,
        None if painted is None else (int(painted.sum()), painted.size),
    )


def _painted_frames(marked: NDArray[np.bool_], spec: ImageSpec) -> NDArray[np.bool_] | None:
    """Which time points hold anything painted; None without an axis of time."""
    if "t" not in spec.axes:
        return None
    return np.array([bool(frame.any()) for frame in marked])


def _annotated_axis(marked: NDArray[np.bool_], spec: ImageSpec, config: LabelsConfig) -> int | None:
    """Axis of the slices: along which the fewest painted voxels have a painted neighbour.

    Where several axes have as few, the one that a 2D network would walk along.
    """
    letters = spec.spatial_axes
    if config.slice_axis is not None and config.slice_axis not in letters:
        msg = f"The labels have axes {letters}; there are no slices along {config.slice_axis!r}. Name one of them."
        raise GeometryError(msg)
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
