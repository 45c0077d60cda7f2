"""Pieces of label maps: the largest of each class, small ones removed, holes filled, objects numbered and counted.

A piece (connected component) is the same everywhere: voxels of one class that touch by a face, an edge or a corner.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from prosma_core.data.labels import dense_numbers

Integer = TypeVar("Integer", bound=np.integer[Any])

AT_ONCE = 2**24
"""Voxels counted at once."""


@dataclass(frozen=True, eq=False)
class Pieces:
    """The pieces of one class.

    Attributes
    ----------
    number : int
        Of the class.
    box : tuple of slice
        The smallest that holds them all.
    pieces : ndarray, int32, shape of the box
        Number of each voxel's piece from 1, in array order; 0 for the rest.
    count : int
        How many they are.
    """

    number: int
    box: tuple[slice, ...]
    pieces: NDArray[np.int32]
    count: int

    def sizes(self) -> NDArray[np.int64]:
        """Voxels of each piece, that at 0 of the rest of the box."""
        flat, total = self.pieces.reshape(-1), np.zeros(self.count + 1, np.int64)
        for start in range(0, flat.size, AT_ONCE):
            total += np.bincount(flat[start : start + AT_ONCE], minlength=len(total))
        return total


def find_pieces(labels: NDArray[Integer], num_classes: int) -> Iterator[Pieces]:
    """The pieces of each class that is there, by its number.

    Parameters
    ----------
    labels : ndarray, unsigned integer, shape (Y, X) or (Z, Y, X)
        Class numbers, 0 background.
    num_classes : int
        Number of classes, background included.
    """
    from scipy import ndimage

    everywhere = np.ones((3,) * labels.ndim, bool)
    for number, box in enumerate(ndimage.find_objects(labels, max_label=num_classes - 1), start=1):
        if box is not None:
            yield Pieces(number, box, *ndimage.label(labels[box] == number, everywhere))


def keep_largest(labels: NDArray[Integer], num_classes: int) -> NDArray[Integer]:
    """Label map in which each class has only its largest piece; all other pieces become background.

    Of equally large pieces the first in array order stays.

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
    result = labels.copy()
    for found in find_pieces(labels, num_classes):
        if found.count > 1:
            largest = 1 + int(np.argmax(found.sizes()[1:]))
            result[found.box][(found.pieces > 0) & (found.pieces != largest)] = 0
    return result


def remove_small(labels: NDArray[Integer], num_classes: int, least: int) -> NDArray[Integer]:
    """Label map without pieces of fewer than `least` voxels; otherwise as `keep_largest`."""
    result = labels.copy()
    for found in find_pieces(labels, num_classes):
        small = found.sizes() < least
        small[0] = False
        if small.any():
            result[found.box][small[found.pieces]] = 0
    return result


def number_pieces(
    labels: NDArray[Integer], num_classes: int, out: NDArray[np.uint32], first: int = 1
) -> list[tuple[int, NDArray[np.int64]]]:
    """Number all pieces, class by class.

    Parameters
    ----------
    labels, num_classes
        As of `find_pieces`.
    out : ndarray, uint32, shape of `labels`
        Gets the number of each voxel's piece; the rest stays as it is.
    first : int
        The first number.

    Returns
    -------
    list of (int, ndarray)
        Class number, and the voxels of each of its pieces in the order of their numbers.
    """
    sizes = []
    for found in find_pieces(labels, num_classes):
        inside = found.pieces > 0
        out[found.box][inside] = found.pieces[inside] + np.int64(first - 1)
        sizes.append((found.number, found.sizes()[1:]))
        first += found.count
    return sizes


@dataclass(frozen=True)
class ObjectCounts:
    """How many of the numbered objects of a case were found.

    Attributes
    ----------
    found, wanted : int
        Connected pieces of the prediction, and objects of the reference.
    matched : int
        Pairs of both whose IoU is above 0.5; no object is in two of them.
    """

    found: int
    wanted: int
    matched: int


def count_objects(prediction: NDArray[np.bool_], numbers: NDArray[np.integer[Any]]) -> ObjectCounts:
    """Connected pieces of a prediction against numbered objects.

    Parameters
    ----------
    prediction : ndarray, bool, shape (Y, X) or (Z, Y, X)
        Voxels that touch by a face, an edge or a corner are one piece.
    numbers : ndarray, integer from 0, same shape
        Number of each voxel's object; 0 is background.
    """
    from scipy import ndimage, sparse

    pieces, found = ndimage.label(prediction, np.ones((3,) * prediction.ndim, bool))
    values, objects = dense_numbers(numbers)
    sizes = (
        np.bincount(pieces.reshape(-1), minlength=found + 1),
        np.bincount(objects.reshape(-1), minlength=len(values) + 1),
    )
    at = (pieces > 0) & (objects > 0)
    both = sparse.coo_array(
        (np.ones(int(at.sum()), np.int64), (pieces[at], objects[at])), shape=(found + 1, len(values) + 1)
    )
    both = both.tocsr().tocoo()  # sums of equal pairs
    rows, columns = both.coords
    matched = 2 * both.data > sizes[0][rows] + sizes[1][columns] - both.data
    return ObjectCounts(found, len(values), int(matched.sum()))


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
