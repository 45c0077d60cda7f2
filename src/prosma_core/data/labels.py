"""Label values and class indices; label maps that are no class numbers (masks with gray edges, images)."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from prosma_core.config.labels import LabelsConfig
from prosma_core.config.model import ClassInfo
from prosma_core.errors import LabelError

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
    present = np.unique(labels)
    values = [c.value for c in classes]
    if len(classes) == 2 and len(present) <= 2 and set(present.tolist()) <= {0, 255, values[1]}:
        return (labels > 0).astype(np.uint8)
    unknown = sorted(set(present.tolist()) - set(values))
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
_MOST_BLOCKS = 4 << 20  # voxels that are looked at


def value_counts(labels: NDArray[Any]) -> dict[int, int]:
    """Voxels of each value.

    Parameters
    ----------
    labels : ndarray, integer from 0, any shape
    """
    if labels.dtype.itemsize <= 2 or int(labels.max(initial=0)) <= 65535:
        counts = np.bincount(labels.reshape(-1))
        return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}
    values, numbers = np.unique(labels, return_counts=True)
    return {int(v): int(n) for v, n in zip(values, numbers, strict=True)}


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
    """What gray labels look like."""
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
