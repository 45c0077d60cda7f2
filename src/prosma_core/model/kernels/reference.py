"""The gate's heavy part in plain PyTorch: any device, any floating dtype; what the kernels are tested against."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from prosma_core.config.model import GateForm
from prosma_core.model.kernels.taps import tap_offsets
from prosma_core.model.prox import THRESHOLDS


def project(x: Tensor, g: Tensor, skip_weight: Tensor, decoder_weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """What skip and decoder have in common, and the decoder's global context.

    Parameters
    ----------
    x, g : Tensor, shape (B, C, *grid)
        Encoder and decoder features.
    skip_weight, decoder_weight : Tensor, shape (C, C)
        The 1x1 projections.
    bias : Tensor, shape (C,)

    Returns
    -------
    q : Tensor, shape (B, C, *grid)
        ``GELU(W_x x + W_g g + b)``.
    context : Tensor, shape (B, C)
        Mean of g over the grid.
    """
    flat = bias[:, None] + skip_weight @ x.flatten(2) + decoder_weight @ g.flatten(2)  # (B, C, voxels)
    return F.gelu(flat).view(x.shape), g.flatten(2).mean(2)


def select(
    q: Tensor,
    taps: Tensor,
    offset: Tensor,
    tau: Tensor,
    c: Tensor,
    x: Tensor,
    kernel: Sequence[int],
    dilations: Sequence[int],
    form: GateForm,
) -> Tensor:
    """Gated skip c . a . x with a = prox form of the field z = taps * q + offset.

    Parameters
    ----------
    q, x : Tensor, shape (B, C, *grid)
        Projected features, and the encoder's features that are gated.
    taps : Tensor, shape (C, taps)
        Weights of the sparse kernel, in the order of `tap_offsets`; zeros beyond the grid.
    offset, tau : Tensor, shape (C,)
        Offset of the field, and threshold > 0.
    c : Tensor, shape (B, C)
        Channel gate.
    kernel, dilations : sequence of int
        Kernel size per spatial axis and dilation of each branch.
    form : {"signed", "bounded", "nonnegative"}
        What becomes of the prox.

    Returns
    -------
    Tensor, shape (B, C, *grid), dtype of x
    """
    grid = q.shape[2:]
    per_channel = (-1,) + (1,) * len(grid)
    offsets = tap_offsets(tuple(kernel), tuple(dilations))
    reach = [max(abs(o[axis]) for o in offsets) for axis in range(len(grid))]
    padded = F.pad(q, [r for axis in reversed(reach) for r in (axis, axis)])
    z = offset.view(per_channel)
    for tap, steps in enumerate(offsets):
        moved = padded
        for axis, (r, step, size) in enumerate(zip(reach, steps, grid, strict=True)):
            moved = moved.narrow(axis + 2, r + step, size)
        z = z + taps[:, tap].view(per_channel) * moved
    a = THRESHOLDS[form](z, tau.view(per_channel))
    return (c.view(*c.shape, *(1,) * len(grid)) * a * x).to(x.dtype)
