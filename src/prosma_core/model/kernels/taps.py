"""The dilated branches of a gate as one sparse kernel: where its taps are, and what they weigh."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor


@cache
def tap_offsets(kernel: tuple[int, ...], dilations: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Offset of each tap per spatial axis: for each dilation all taps but the middle, at last the middle itself.

    Parameters
    ----------
    kernel : tuple of int
        Size of the branches' kernels per spatial axis; odd.
    dilations : tuple of int
        Dilation of each branch.
    """
    reach = [range(-(size // 2), size // 2 + 1) for size in kernel]
    around = [step for step in itertools.product(*reach) if any(step)]
    offsets = [tuple(d * s for s in step) for d in dilations for step in around]
    return (*offsets, (0,) * len(kernel))


def merge_branches(weights: Sequence[Tensor]) -> Tensor:
    """Weights of the one sparse kernel, in the order of `tap_offsets`; the branches' middles are added up.

    Parameters
    ----------
    weights : sequence of Tensor, each of shape (C, 1, *kernel)
        Depthwise kernel of each branch.

    Returns
    -------
    Tensor, shape (C, taps)
    """
    flat = [weight.flatten(1) for weight in weights]  # (C, taps of one branch)
    middle = flat[0].shape[1] // 2
    around = [part for w in flat for part in (w[:, :middle], w[:, middle + 1 :])]
    return torch.cat([*around, torch.stack([w[:, middle] for w in flat], dim=1).sum(1, keepdim=True)], dim=1)
