"""The gate in plain PyTorch, step by step: any device and floating dtype; the fast kernels are tested against it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor

from prosma_core.config.model import GateForm
from prosma_core.model.kernels.taps import tap_offsets
from prosma_core.model.prox import THRESHOLDS

Layer = Callable[[Tensor], Tensor]
"""A convolution of features, as a module or a function."""


def project(x: Tensor, g: Tensor, skip: Layer, decoder: Layer) -> tuple[Tensor, Tensor]:
    """Projected features, and the decoder's global context.

    Parameters
    ----------
    x : Tensor, shape (B, C, *grid)
        Encoder features.
    g : Tensor, shape (B, D, *grid)
        Decoder features.
    skip, decoder : callable
        The 1x1 convolutions W_x x + b and W_g g, each with C output channels.

    Returns
    -------
    q : Tensor, shape (B, C, *grid)
        ``GELU(W_x x + W_g g + b)``.
    context : Tensor, shape (B, D)
        Mean of g over the grid.
    """
    return F.gelu(skip(x) + decoder(g)), g.mean(dim=tuple(range(2, g.ndim)))


def field(q: Tensor, scales: Sequence[Layer], offset: Tensor | None) -> Tensor:
    """Compatibility field ``z = sum of D_d * q + beta``, shape (B, C, *grid).

    Parameters
    ----------
    q : Tensor, shape (B, C, *grid)
    scales : sequence of callable
        Depthwise convolution of each dilation.
    offset : Tensor, shape (C,), or None
    """
    first, *others = [scale(q) for scale in scales]
    if offset is None:
        return sum(others, first)
    return sum([first, *others], offset.view(-1, *(1,) * (q.ndim - 2)))


def prox(z: Tensor, tau: Tensor, form: GateForm, *, keep: bool = True) -> Tensor:
    """The gate's value a from field z and threshold tau, shape (B, C, *grid).

    Parameters
    ----------
    z : Tensor, shape (B, C, *grid)
    tau : Tensor, shape (C,), >= 0
    form : GateForm
    keep : bool
        Whether z is needed afterwards; it is left alone in any case.
    """
    return THRESHOLDS[form](z, tau.view(-1, *(1,) * (z.ndim - 2)).to(z.dtype))


def apply(c: Tensor | None, a: Tensor, x: Tensor) -> Tensor:
    """Gated skip ``c . a . x``, shape (B, C, *grid).

    Parameters
    ----------
    c : Tensor, shape (B, C), or None
        Channel gate; None for a gate without.
    a : Tensor, shape (B, C, *grid)
    x : Tensor, shape (B, C, *grid)
    """
    return a * x if c is None else c.view(*c.shape, *(1,) * (x.ndim - 2)) * a * x


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
    """Field, prox and gating from the weights of the one sparse kernel, as the fused operator takes them.

    Parameters
    ----------
    q, x : Tensor, shape (B, C, *grid)
        Projected features, and the encoder features that are gated.
    taps : Tensor, shape (C, taps)
        Weights of the sparse kernel, in the order of `tap_offsets`; zero padding.
    offset, tau : Tensor, shape (C,)
        Offset of the field, and threshold >= 0.
    c : Tensor, shape (B, C)
        Channel gate.
    kernel, dilations : sequence of int
        Kernel size per spatial axis and dilation of each branch.
    form : GateForm

    Returns
    -------
    Tensor, shape (B, C, *grid), dtype of x
    """
    z = field(q, [lambda q: _correlate(q, taps, tuple(kernel), tuple(dilations))], offset)
    return apply(c, prox(z, tau, form), x).to(x.dtype)


def _correlate(q: Tensor, taps: Tensor, kernel: tuple[int, ...], dilations: tuple[int, ...]) -> Tensor:
    """Sparse depthwise kernel over q: one shifted product per tap."""
    grid, offsets = q.shape[2:], tap_offsets(kernel, dilations)
    reach = [max(abs(o[axis]) for o in offsets) for axis in range(len(grid))]
    padded = F.pad(q, [r for axis in reversed(reach) for r in (axis, axis)])
    parts = []
    for tap, steps in enumerate(offsets):
        moved = padded
        for axis, (r, step, size) in enumerate(zip(reach, steps, grid, strict=True)):
            moved = moved.narrow(axis + 2, r + step, size)
        parts.append(taps[:, tap].view(-1, *(1,) * len(grid)) * moved)
    return sum(parts[1:], parts[0])
