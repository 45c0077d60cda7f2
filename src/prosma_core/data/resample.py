"""Resampling of images and label maps to a grid of the same extent: separable, linear, anti-aliased."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from prosma_core.data.geometry import Box, box_shape, whole
from prosma_core.data.labels import IGNORED

PIECE = 2**24
"""Voxels taken at once where a part is resampled within the whole length of its grid."""
MAX_ROWS = 32768
"""Rows (or planes) resized in one call: the anti-aliasing kernels of GPUs have an end to their launch grid."""


def resize(image: Tensor, shape: Sequence[int], nearest: Sequence[int] = ()) -> Tensor:
    """Image on a grid of another shape over the same extent (voxel edges stay where they are).

    Parameters
    ----------
    image : Tensor, float32, shape (C, *grid), 2 or 3 grid axes
    shape : sequence of int
        New grid.
    nearest : sequence of int
        Grid axes to resample by nearest neighbor (a thick axis of strongly anisotropic scans).

    Returns
    -------
    Tensor, float32, shape (C, *shape)
    """
    for axis, size in enumerate(shape):
        if image.shape[axis + 1] != size:
            image = _resize_axis(image, axis + 1, size, axis in nearest)
    return image


def _resize_axis(image: Tensor, axis: int, size: int, nearest: bool) -> Tensor:
    before, after = image.shape[:axis].numel(), image.shape[axis + 1 :].numel()
    # The last axis is resized as a width: torch's anti-aliased CPU kernel gives wrong values where the width is 1.
    last = after == 1
    flat = (
        image.reshape(1, 1, before, image.shape[axis]) if last else image.reshape(1, before, image.shape[axis], after)
    )
    split = 2 if last else 1
    parts = []
    for part in torch.split(flat, MAX_ROWS, split):
        target = (part.shape[2], size) if last else (size, after)
        if nearest:
            parts.append(F.interpolate(part, target, mode="nearest-exact"))
        else:
            parts.append(F.interpolate(part, target, mode="bilinear", antialias=True))
    flat = torch.cat(parts, split) if len(parts) > 1 else parts[0]
    return flat.reshape(*image.shape[:axis], size, *image.shape[axis + 1 :])


def resize_box(
    image: Tensor, box: Box, shape: Sequence[int], wanted: Box, target: Sequence[int], nearest: Sequence[int] = ()
) -> Tensor:
    """A box of what `resize` makes of a whole image, from a box of that image.

    Parameters
    ----------
    image : Tensor, float32, shape (C, *box)
    box : tuple of (int, int)
        Where it lies in the whole image; all that the kernels of `wanted` reach.
    shape : sequence of int
        Of the whole image.
    wanted : tuple of (int, int)
        Box of the new grid.
    target : sequence of int
        Shape of the new grid.
    nearest
        As in `resize`.

    Returns
    -------
    Tensor, float32, shape (C, *wanted)
        To the bit what `resize` gives there.
    """
    if box == whole(tuple(shape)) and wanted == whole(tuple(target)):
        return resize(image, target, nearest)
    for axis, (size, new) in enumerate(zip(shape, target, strict=True)):
        if size == new:
            low = wanted[axis][0] - box[axis][0]
            image = image.narrow(axis + 1, low, wanted[axis][1] - wanted[axis][0])
            continue
        how = (box[axis][0], size, wanted[axis], new, axis in nearest)
        if image.shape[axis + 1] == size:
            image = _resize_part_of_axis(image, axis + 1, *how)
        else:  # few voxels at a time: each is resampled within the whole length of the axis
            other = 1 if axis else 2
            row = size * image[0].numel() // (image.shape[axis + 1] * image.shape[other])
            pieces = [torch.split(k, max(1, PIECE // row), other) for k in torch.split(image, 1)]
            image = torch.cat([torch.cat([_resize_part_of_axis(p, axis + 1, *how) for p in k], other) for k in pieces])
    return image


def _resize_part_of_axis(
    image: Tensor, axis: int, start: int, size: int, wanted: tuple[int, int], target: int, nearest: bool
) -> Tensor:
    """One axis: the image begins at `start` of `size` voxels; `wanted` of `target` new ones come back."""
    there = image.shape[axis]
    if there < size:
        after = [0, 0] * (image.ndim - 1 - axis)
        image = F.pad(image, [*after, start, size - there - start])
    image = _resize_axis(image, axis, target, nearest)
    return image.narrow(axis, wanted[0], wanted[1] - wanted[0])


def resize_labels(
    labels: NDArray[np.integer], shape: Sequence[int], nearest: Sequence[int] = ()
) -> NDArray[np.integer]:
    """Label map on another grid: argmax over the classes, each resized by itself.

    Where some voxels are `IGNORED`, a new voxel is known if the nearest old one is, or one of those nearest to it: a
    single annotated slice survives, and does not spread. Its class is the strongest of the known.

    Parameters
    ----------
    labels : ndarray, integer, shape (*grid)
    shape, nearest
        As in `resize`.

    Returns
    -------
    ndarray, dtype of `labels`, shape `shape`
    """
    if labels.shape == tuple(shape):
        return labels
    known = labels != IGNORED
    old, new = whole(labels.shape), whole(tuple(shape))
    return resize_labels_box(labels, old, labels.shape, new, shape, nearest, partly=not bool(known.all()))


def resize_labels_box(
    labels: NDArray[np.integer],
    box: Box,
    shape: Sequence[int],
    wanted: Box,
    target: Sequence[int],
    nearest: Sequence[int] = (),
    *,
    partly: bool,
) -> NDArray[np.integer]:
    """A box of what `resize_labels` makes of a whole label map, from a box of that.

    Parameters
    ----------
    labels : ndarray, integer, shape (*box)
    box, shape, wanted, target, nearest
        As of `resize_box`.
    partly : bool
        Whether any voxel of the whole label map is `IGNORED`.

    Returns
    -------
    ndarray, dtype of `labels`, shape (*wanted)
    """
    known = labels != IGNORED
    if partly:  # a slice that nearest sampling skips would have no class
        nearest = [axis for axis in nearest if target[axis] >= shape[axis]]
    result = np.zeros(box_shape(wanted), dtype=labels.dtype)
    best = torch.zeros(box_shape(wanted))
    for value in np.unique(labels[known]):
        image = torch.from_numpy((labels == value).astype(np.float32))[None]
        share = resize_box(image, box, shape, wanted, target, nearest)[0]
        stronger = share > best
        result[stronger.numpy()] = value
        best = torch.where(stronger, share, best)
    if partly:
        result[~_resize_known_box(known, box, shape, wanted, target)] = IGNORED
    return result


def resize_known(known: NDArray[np.bool_], shape: Sequence[int]) -> NDArray[np.bool_]:
    """Mask of annotated voxels on another grid; none of them is lost where the grid becomes coarser.

    Parameters
    ----------
    known : ndarray, bool, shape (*grid)
    shape : sequence of int
        New grid.
    """
    return _resize_known_box(known, whole(known.shape), known.shape, whole(tuple(shape)), shape)


def _resize_known_box(
    known: NDArray[np.bool_], box: Box, shape: Sequence[int], wanted: Box, target: Sequence[int]
) -> NDArray[np.bool_]:
    for axis, ((start, stop), old, (low, high), new) in enumerate(zip(box, shape, wanted, target, strict=True)):
        if new >= old:
            known = known.take((2 * np.arange(low, high) + 1) * old // (2 * new) - start, axis=axis)
        else:
            bins = (2 * np.arange(start, stop) + 1) * new // (2 * old)
            known = known.take(np.flatnonzero((bins >= low) & (bins < high)), axis=axis)
            bins = bins[(bins >= low) & (bins < high)]
            known = np.logical_or.reduceat(known, np.searchsorted(bins, np.arange(low, high)), axis=axis)
    return known
