"""From one grid to another over the same extent: separable, linear, anti-aliased when it shrinks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

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
        Grid axes to resample by nearest neighbour (a thick axis of strongly anisotropic scans).

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


def resize_labels(
    labels: NDArray[np.integer], shape: Sequence[int], nearest: Sequence[int] = ()
) -> NDArray[np.integer]:
    """Label map on another grid: of the classes resized one by one, the strongest at each voxel.

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
    result = np.zeros(tuple(shape), dtype=labels.dtype)
    best = torch.zeros(tuple(shape))
    for value in np.unique(labels):
        share = resize(torch.from_numpy((labels == value).astype(np.float32))[None], shape, nearest)[0]
        stronger = share > best
        result[stronger.numpy()] = value
        best = torch.where(stronger, share, best)
    return result
