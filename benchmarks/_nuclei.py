"""Touching objects as classes, objects from classes, and how many are found."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, label, maximum_filter, minimum_filter

NEAR = 2
"""Pixels within which two objects count as touching."""
GROWN = 3
"""Pixels by which objects grow into what separates them."""
SMALLEST = 12
"""Pixels of the smallest object."""


def touching_classes(instances: NDArray[Any]) -> NDArray[np.uint8]:
    """1 inside of an object, 2 within `NEAR` pixels of two; from one number per object."""
    numbers = instances.astype(np.int64)
    far = numbers.max() + 1
    highest = maximum_filter(numbers, 2 * NEAR + 1)
    lowest = minimum_filter(np.where(numbers > 0, numbers, far), 2 * NEAR + 1)
    classes = (numbers > 0).astype(np.uint8)
    classes[(highest > 0) & (lowest < far) & (highest != lowest)] = 2
    return classes


def objects(classes: NDArray[Any]) -> NDArray[np.int64]:
    """One number per object: connected pixels of class 1, grown into class 2."""
    core, count = label(classes == 1)
    if not count:
        return np.zeros(classes.shape, np.int64)
    distance, nearest = distance_transform_edt(core == 0, return_indices=True)
    grown: NDArray[np.int64] = core[tuple(nearest)].astype(np.int64)
    grown[(classes == 0) | (distance > GROWN)] = 0
    grown[(np.bincount(grown.ravel()) < SMALLEST)[grown]] = 0
    return grown


def matches(found: NDArray[np.int64], wanted: NDArray[Any]) -> tuple[int, int, int]:
    """Pairs of objects with an IoU above 0.5, objects found, and objects wanted."""
    rows, columns = int(found.max()) + 1, int(wanted.max()) + 1
    both = np.bincount(found.ravel() * columns + wanted.ravel().astype(np.int64), minlength=rows * columns)
    both = both.reshape(rows, columns)
    sizes, wanted_sizes = both.sum(1), both.sum(0)
    iou = both / np.maximum(sizes[:, None] + wanted_sizes - both, 1)
    return int((iou[1:, 1:] > 0.5).sum()), int((sizes[1:] > 0).sum()), int((wanted_sizes[1:] > 0).sum())
