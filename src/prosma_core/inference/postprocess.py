"""Label maps tidied: only the largest piece of each class, holes closed."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Integer = TypeVar("Integer", bound=np.integer[Any])


def keep_largest(labels: NDArray[Integer], num_classes: int) -> NDArray[Integer]:
    """Label map in which each class has only its largest piece; all other pieces become background.

    Voxels that touch by a face, an edge or a corner are one piece. Of equally large pieces the first in array
    order stays.

    Parameters
    ----------
    labels : ndarray, unsigned integer, shape (Y, X) or (Z, Y, X)
        Class numbers, 0 background; left as it is.
    num_classes : int
        Number of classes, background included; classes from this number on are not touched.

    Returns
    -------
    ndarray
        A new array of the dtype and shape of `labels`.
    """
    from scipy import ndimage

    result = labels.copy()
    everywhere = np.ones((3,) * labels.ndim, bool)
    for number, box in enumerate(ndimage.find_objects(labels, max_label=num_classes - 1), start=1):
        if box is None:
            continue
        pieces, count = ndimage.label(labels[box] == number, everywhere)
        if count > 1:
            largest = 1 + int(np.argmax(np.bincount(pieces.ravel())[1:]))
            result[box][(pieces > 0) & (pieces != largest)] = 0
    return result


def fill_holes(labels: NDArray[Integer]) -> NDArray[Integer]:
    """Label map in which the holes of each class belong to that class.

    A hole of a class is a piece of background that touches the class, and from which every way over voxel faces
    to the border of the map crosses it. So a gap between an organ and a lesion inside it becomes organ, and a hole
    inside that lesion becomes lesion. Where two classes claim a hole, the lower number gets it. Axes of one
    voxel do not count: a single slice is filled as a 2D map. Only background changes.

    Parameters
    ----------
    labels : ndarray, unsigned integer, shape (Y, X) or (Z, Y, X)
        Class numbers, 0 background; left as it is.

    Returns
    -------
    ndarray
        A new array of the dtype and shape of `labels`.
    """
    from scipy import ndimage

    source = np.atleast_1d(labels.squeeze())
    result = source.copy()
    for number, box in enumerate(ndimage.find_objects(source), start=1):
        if box is None:
            continue
        there = source[box] == number
        holes = _enclosed(there) & (source[box] == 0)
        if holes.any():
            pieces, _ = ndimage.label(holes)
            touching = np.unique(pieces[ndimage.binary_dilation(there) & holes])
            result[box][np.isin(pieces, touching[touching > 0]) & (result[box] == 0)] = number
    return result.reshape(labels.shape)


def _enclosed(there: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Voxels outside the mask that have no way over voxel faces to the border of the array."""
    from scipy import ndimage

    pieces, count = ndimage.label(~there)
    inside = np.ones(count + 1, bool)
    inside[0] = False
    for axis in range(there.ndim):
        for end in (0, -1):
            inside[pieces.take(end, axis)] = False
    enclosed: NDArray[np.bool_] = inside[pieces]
    return enclosed
