"""A grid folded into several: every n-th voxel along each axis as a grid of its own, on which a dilation of n is 1."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def fold(values: Tensor, by: tuple[int, ...]) -> Tensor:
    """Every by-th voxel along each axis as a grid of its own: (B, *grid, C) to (B . prod(by), *grid / by, C)."""
    if max(by) == 1:
        return values
    short = [-n % f for n, f in zip(values.shape[1:-1], by, strict=True)]
    if any(short):
        values = F.pad(values, [0, 0, *(p for s in reversed(short) for p in (0, s))])
    split = _split(values, by)
    axes = range(1, split.ndim - 1)
    folded = split.permute(0, *axes[1::2], *axes[::2], split.ndim - 1).contiguous()
    return folded.flatten(0, len(by))


def _split(values: Tensor, by: tuple[int, ...]) -> Tensor:
    """View of (B, *grid, C) with two axes for each: of the folded grid, and of the place within a step."""
    parts = [m for n, f in zip(values.shape[1:-1], by, strict=True) for m in (n // f, f)]
    return values.view(values.shape[0], *parts, values.shape[-1])


def _interleaved(folded: Tensor, by: tuple[int, ...]) -> Tensor:
    """View of a folded tensor with the axes of `_split`."""
    axes = len(by)
    parts = folded.view(-1, *by, *folded.shape[1:])
    return parts.permute(0, *(i for axis in range(1, axes + 1) for i in (axes + axis, axis)), parts.ndim - 1)


def unfold(folded: Tensor, by: tuple[int, ...], shape: torch.Size) -> Tensor:
    """Inverse of `fold`, cut to shape (B, *grid, C)."""
    if max(by) == 1:
        return folded
    padded = [n * f for n, f in zip(folded.shape[1:-1], by, strict=True)]
    whole = _interleaved(folded, by).reshape(shape[0], *padded, shape[-1])
    return whole[(slice(None), *(slice(n) for n in shape[1:-1]))].contiguous()


def add_unfolded(total: Tensor, folded: Tensor, by: tuple[int, ...]) -> Tensor:
    """Total plus what was folded, in total's memory."""
    if any(n % f for n, f in zip(total.shape[1:-1], by, strict=True)):
        return total.add_(unfold(folded, by, total.shape))
    _split(total, by).add_(_interleaved(folded, by))
    return total
