"""Label values of files: class numbers, their smallest integer type, and segments of 3D Slicer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from prosma_core.errors import LabelError
from prosma_core.io.read_errors import excerpt
from prosma_core.printable import counted

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


_MOST = 10_000


@dataclass(frozen=True)
class Segment:
    """One structure: its name, and the value and layer of its voxels."""

    name: str
    value: int
    layer: int


def segments_of(notes: dict[str, str]) -> list[Segment]:
    """The segments that the key-value pairs of an NRRD header describe, in their order; empty where none are.

    Files of 3D Slicer before 4.11 name neither value nor layer: each segment is a layer of its own.
    """
    found: list[Segment] = []
    for number in range(_MOST):
        key = f"Segment{number}_"
        if f"{key}ID" not in notes and f"{key}LabelValue" not in notes:
            break
        own_layer = "0" if f"{key}LabelValue" in notes else str(number)
        value, layer = notes.get(f"{key}LabelValue", "1"), notes.get(f"{key}Layer", own_layer)
        if not (value.isdecimal() and layer.isdecimal() and len(value) < 10 and len(layer) < 6):
            return []
        name = notes.get(f"{key}Name") or notes.get(f"{key}ID", "")
        found.append(Segment(excerpt(name, 64) or f"segment {number + 1}", int(value), int(layer)))
    return found


def as_label_map(
    data: NDArray[Any], axes: str, segments: list[Segment], path: Path
) -> tuple[NDArray[Any], str, dict[int, str]]:
    """One label map from the layers of a segmentation.

    Parameters
    ----------
    data : ndarray, integer
        Axes `axes`; the layers are the axis c, where there are several.
    axes : str
    segments : list of Segment
    path : Path

    Returns
    -------
    labels : ndarray, integer
        Without the axis c. The segments' own values where all differ, else 1, 2, … in the order of the segments.
    axes : str
    names : dict of int to str

    Raises
    ------
    LabelError
        Segments of several layers overlap, which one label map cannot hold; two of one layer have the same value; or
        voxels belong to no segment.
    """
    layers = data.shape[axes.index("c")] if "c" in axes else 1
    segments = [segment for segment in segments if segment.layer < layers]
    taken: dict[tuple[int, int], str] = {}
    for segment in segments:
        place = (segment.layer, segment.value)
        if place in taken:
            both = f"{taken[place]!r} and {segment.name!r}"
            msg = (
                f"The segments {both} of {path} have the same value, {segment.value}, in one layer. Export them again."
            )
            raise LabelError(msg)
        taken[place] = segment.name
    values = [segment.value for segment in segments]
    own = len(set(values)) == len(values) and 0 not in values
    numbers = values if own else list(range(1, len(segments) + 1))
    names = {number: segment.name for number, segment in zip(numbers, segments, strict=True)}
    if layers == 1:
        single = data.take(0, axis=axes.index("c")) if "c" in axes else data
        return single, axes.replace("c", ""), names
    moved = np.moveaxis(data, axes.index("c"), 0)
    labels = np.zeros(moved.shape[1:], np.min_scalar_type(max(numbers, default=0)))
    for number, segment in zip(numbers, segments, strict=True):
        here = moved[segment.layer] == segment.value
        before = labels[here]
        if before.any():
            first = names[int(before[before > 0][0])]
            common = counted(int(np.count_nonzero(before)), "voxel")
            msg = (
                f"The segments {first!r} and {segment.name!r} of {path} overlap in {common}; "
                "a label map has one class for each voxel. Export them from 3D Slicer as separate label maps, or "
                "without overlap."
            )
            raise LabelError(msg)
        labels[here] = number
    stray = int(np.count_nonzero((moved != 0).any(axis=0) & (labels == 0)))
    if stray:
        msg = f"Voxels of {path} ({stray}) belong to none of its segments. Export it again from 3D Slicer."
        raise LabelError(msg)
    return labels, axes.replace("c", ""), names


_ROUNDING = 1e-3  # of values that were computed
_LARGEST_STEP = 0.25  # of stored values that are scaled: with larger ones a rounded value could be another class


def as_labels(values: NDArray[Any], source: Path | str, step: float = 0.0) -> NDArray[Any]:
    """Class numbers in the smallest unsigned integer type that holds them.

    Parameters
    ----------
    values : ndarray, bool, integer, or float with whole values
        Any shape.
    source : Path or str
        Named in errors.
    step : float
        Distance of two values that the file can store next to each other, where it scales whole numbers: values are
        rounded by no more than that.

    Raises
    ------
    LabelError
        A value is negative, a fraction, NaN or infinite.
    """
    if values.dtype.kind == "f":
        values = _whole(values, source, step)
    elif values.dtype.kind not in "bui":
        msg = f"Labels of {source} are of type {values.dtype}; whole numbers from 0 are needed."
        raise LabelError(msg)
    low, high = int(values.min()), int(values.max())
    if low < 0:
        msg = f"Labels of {source} contain {low}; class numbers start at 0. Renumber the negative labels."
        raise LabelError(msg)
    return values.astype(np.min_scalar_type(high), copy=False)


def scale_step(header: Any) -> float:
    """Distance of two values that a NIfTI file can store next to each other; 0 where it does not scale."""
    if not hasattr(header, "get_slope_inter"):
        return 0.0
    slope = header.get_slope_inter()[0]
    return 0.0 if slope in (None, 1.0) else abs(float(slope))


def _whole(values: NDArray[Any], source: Path | str, step: float) -> NDArray[np.int64]:
    rounded = np.rint(values)
    tolerance = max(_ROUNDING, 1.01 * step if step <= _LARGEST_STEP else 0.0)
    with np.errstate(invalid="ignore"):  # infinity minus infinity is NaN and so counts as wrong
        wrong = ~(np.abs(values - rounded) <= tolerance) | (np.abs(rounded) > 2**53)
    if wrong.any():
        scaled = f" (stored as whole numbers times {step:g}, the slope in its header)" if step else ""
        msg = (
            f"Labels of {source} contain {values[wrong][0]:g}{scaled}, which is not a class number: whole numbers from "
            "0 are needed. Probabilities must be thresholded first."
        )
        raise LabelError(msg)
    whole: NDArray[np.int64] = rounded.astype(np.int64)
    return whole


def one_channel(labels: NDArray[Any], axes: str, source: Path | str) -> NDArray[Any]:
    """Labels without their channel axis, whose channels must all say the same (a gray picture saved as color).

    Parameters
    ----------
    labels : ndarray
        Axes `axes`.
    axes : str

    Raises
    ------
    LabelError
        The channels differ.
    """
    if "c" not in axes:
        return labels
    at = axes.index("c")
    first: NDArray[Any] = labels.take(0, axis=at)
    for channel in range(1, labels.shape[at]):
        if not np.array_equal(labels.take(channel, axis=at), first):
            msg = (
                f"Labels of {source} have {labels.shape[at]} channels that differ (a colored picture?); one channel "
                "of class numbers is needed."
            )
            raise LabelError(msg)
    return first
