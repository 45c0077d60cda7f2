"""The gate on x86 processors: values are kept channels last, where oneDNN's depthwise kernels are fast.

PyTorch's own path takes a matrix product per channel for dilated depthwise 3D convolutions, and new memory for every
step. Here the branches of small dilations become one dense kernel, those of large ones are folded: every d-th voxel
along each axis makes a grid of its own, on which the branch has no dilation. Matrix products change the layout.

`project`, `field`, `prox` and `apply` take and give tensors of shape (B, C, *grid), as `reference` does; q, z and a are
views of memory with the channels last.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from functools import cache
from math import prod
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from prosma_core.config.model import GateForm
from prosma_core.model.prox import THRESHOLDS


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
    """View of (B, *grid, C) with two axes for each: of the folded grid, and within a step."""
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
    """Total plus a folded tensor, in the memory of total."""
    if any(n % f for n, f in zip(total.shape[1:-1], by, strict=True)):
        return total.add_(unfold(folded, by, total.shape))
    _split(total, by).add_(_interleaved(folded, by))
    return total


DENSE = 128
"""Taps up to which dilated branches are computed as one dense kernel."""
NARROW = 64
"""Channels up to which a matrix product changes the layout."""
PIECE = 2**20
"""Values processed at once where a step needs memory for its result."""
_KNOWN = platform.machine().lower() in ("x86_64", "amd64")


class Shape(NamedTuple):
    """Kernel size of the branches per spatial axis (odd), and the dilation of each branch."""

    kernel: tuple[int, ...]
    dilations: tuple[int, ...]


def usable(*tensors: Tensor) -> bool:
    """Whether the functions here take these tensors: float32 on an x86 processor, with oneDNN, not compiled."""
    return (
        _KNOWN
        and all(t.device.type == "cpu" and t.dtype == torch.float32 for t in tensors)
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
        and torch._C._get_mkldnn_enabled()
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    )


def project(x: Tensor, g: Tensor, skip: nn.Module, decoder: nn.Module) -> tuple[Tensor, Tensor]:
    """Projected features q, and the decoder's global context."""
    weights = (skip.get_parameter("weight").flatten(1), decoder.get_parameter("weight").flatten(1))
    inputs = (x, g, *weights, skip.get_parameter("bias"))
    q: Tensor
    q = _Project.apply(*inputs) if torch.is_grad_enabled() else torch.ops.aten.gelu_(_linear(*inputs))  # type: ignore[no-untyped-call]
    q = q.view(x.shape[0], *x.shape[2:], x.shape[1]).movedim(-1, 1)
    return q, g.mean(dim=tuple(range(2, g.ndim)))


def field(q: Tensor, scales: Sequence[Any], offset: Tensor | None) -> Tensor:
    """Compatibility field z: sum of the depthwise branches over q, and the offset."""
    shape = Shape(scales[0].kernel_size, tuple(max(scale.dilation) for scale in scales))
    z: Tensor = _Field.apply(q.movedim(1, -1).contiguous(), offset, shape, *(scale.weight for scale in scales))  # type: ignore[no-untyped-call]
    return z.movedim(-1, 1)


def prox(z: Tensor, tau: Tensor, form: GateForm, *, keep: bool) -> Tensor:
    """The gate's value a; without gradients it overwrites z unless that is to be kept."""
    z = z.movedim(1, -1).contiguous()
    if torch.is_grad_enabled():
        return THRESHOLDS[form](z, tau).movedim(-1, 1)
    a = z.clone() if keep else z
    for part in a.view(-1, a.shape[-1]).split(max(1, PIECE // a.shape[-1])):  # type: ignore[no-untyped-call]
        if form in IN_PLACE:
            IN_PLACE[form](part, tau)
        else:
            part.copy_(THRESHOLDS[form](part, tau))
    return a.movedim(-1, 1)


IN_PLACE: dict[GateForm, Callable[[Tensor, Tensor], Tensor]] = {
    "signed": lambda part, tau: part.sub_(part.clamp(-tau, tau)),
    "bounded": lambda part, tau: part.sub_(part.clamp(-tau, tau)).tanh_(),
    "nonnegative": lambda part, tau: part.sub_(tau).relu_(),
}
"""Operators of `THRESHOLDS` that overwrite what they are given; a form without one takes memory for its result."""


def apply(c: Tensor | None, a: Tensor, x: Tensor) -> Tensor:
    """Gated skip c . a . x."""
    c, a = x.new_ones(x.shape[:2]) if c is None else c, a.movedim(1, -1).contiguous()
    gated: Tensor = _Apply.apply(a, c, x) if torch.is_grad_enabled() else _weight(a, c, x).mul_(x)  # type: ignore[no-untyped-call]
    return gated


def _linear(x: Tensor, g: Tensor, skip_weight: Tensor, decoder_weight: Tensor, bias: Tensor) -> Tensor:
    """``W_x x + W_g g + b`` with the channels last, shape (B, voxels, C)."""
    linear = x.new_empty(x.shape[0], x[0, 0].numel(), x.shape[1])
    for out, skip, decoder in zip(linear, x.flatten(2), g.flatten(2), strict=True):
        torch.addmm(bias, skip.T, skip_weight.T, out=out).addmm_(decoder.T, decoder_weight.T)
    return linear


def _weight(a: Tensor, c: Tensor, x: Tensor) -> Tensor:
    """``c . a`` with the channels first, shape of x."""
    weight = torch.empty_like(x, memory_format=torch.contiguous_format)
    for out, values, scale in zip(weight.flatten(2), a.flatten(1, -2), c, strict=True):
        if len(scale) <= NARROW:  # a product changes the layout several times faster than a copy
            torch.mm(scale.diag(), values.T, out=out)
        else:
            out.copy_(values.T).mul_(scale[:, None])
    return weight


class _Project(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, g: Tensor, skip_weight: Tensor, decoder_weight: Tensor, bias: Tensor) -> Tensor:
        linear = _linear(x, g, skip_weight, decoder_weight, bias)
        ctx.save_for_backward(x, g, skip_weight, decoder_weight, linear)
        return F.gelu(linear)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor, ...]:
        x, g, skip_weight, decoder_weight, linear = ctx.saved_tensors
        slope = torch.ops.aten.gelu_backward(grad_out.contiguous(), linear)  # (B, voxels, C)
        grad_x, grad_g = (torch.empty_like(t, memory_format=torch.contiguous_format) for t in (x, g))
        grad_skip, grad_decoder = torch.zeros_like(skip_weight), torch.zeros_like(decoder_weight)
        for i, up in enumerate(slope):
            torch.mm(skip_weight.T, up.T, out=grad_x.flatten(2)[i])
            torch.mm(decoder_weight.T, up.T, out=grad_g.flatten(2)[i])
            grad_skip.addmm_(up.T, x.flatten(2)[i].T)
            grad_decoder.addmm_(up.T, g.flatten(2)[i].T)
        return grad_x, grad_g, grad_skip, grad_decoder, slope.sum((0, 1))


class _Field(Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, offset: Tensor | None, shape: Shape, *weights: Tensor) -> Tensor:
        ctx.shape = shape
        ctx.save_for_backward(q, *weights)
        return _correlate(q, weights, offset, shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Any, ...]:
        q, *weights = ctx.saved_tensors
        axes = tuple(range(2, weights[0].ndim))
        grad_out = grad_out.contiguous()
        grad_q = _correlate(grad_out, [w.flip(axes) for w in weights], None, ctx.shape)
        sizes, dilations = ctx.shape
        found = [_gradient_of_branch(q, grad_out, w, sizes, d) for w, d in zip(weights, dilations, strict=True)]
        grad_offset = grad_out.flatten(0, -2).sum(0) if ctx.needs_input_grad[1] else None
        return grad_q, grad_offset, None, *found


class _Apply(Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, c: Tensor, x: Tensor) -> Tensor:
        weight = _weight(a, c, x)
        ctx.save_for_backward(a, c, x, weight)
        return weight * x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a, c, x, weight = ctx.saved_tensors
        grad_out = grad_out.contiguous()
        up = (grad_out * x).flatten(2)  # (B, C, voxels)
        grad_a, grad_c = torch.empty_like(a), torch.empty_like(c)
        for i, scale in enumerate(c):
            torch.mm(up[i].T, scale.diag(), out=grad_a.flatten(1, -2)[i])
            grad_c[i] = (up[i] @ a.flatten(1, -2)[i]).diagonal()
        return grad_a, grad_c, grad_out * weight


@cache
def _groups(shape: Shape) -> tuple[tuple[int, tuple[int, ...]], ...]:
    """Branches computed together: the fold of the grid, and the dilations that become one dense kernel."""
    rest, groups = sorted(set(shape.dilations)), []
    while rest:
        step = rest[0]
        fits = [d for d in rest if d % step == 0 and prod(_reach(shape.kernel, d // step)) <= DENSE]
        together = fits or [step]
        groups.append((step, tuple(together)))
        rest = [d for d in rest if d not in together]
    return tuple(groups)


def _reach(kernel: tuple[int, ...], dilation: int) -> tuple[int, ...]:
    """Size of a dilated kernel per axis."""
    return tuple(dilation * (k - 1) + 1 for k in kernel)


def _correlate(q: Tensor, weights: Sequence[Tensor], offset: Tensor | None, shape: Shape) -> Tensor:
    """Sum of the branches over q, shape (B, *grid, C)."""
    total: Tensor | None = None
    for step, together in _groups(shape):
        by = tuple(step if k > 1 else 1 for k in shape.kernel)
        size = _reach(shape.kernel, max(together) // step)
        dense = q.new_zeros(q.shape[-1], 1, *size)
        for weight, dilation in zip(weights, shape.dilations, strict=True):
            if dilation in together:
                span = zip(size, _reach(shape.kernel, dilation // step), strict=True)
                inside = tuple(slice((n - r) // 2, (n + r) // 2, dilation // step) for n, r in span)
                dense[(slice(None), slice(None), *inside)] += weight
        bias = offset if total is None else None
        part = _depthwise(fold(q, by), dense, bias)
        total = unfold(part, by, q.shape) if total is None else add_unfolded(total, part, by)
    assert total is not None
    return total


def _depthwise(q: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Depthwise convolution of q, shape (B, *grid, C), that keeps its grid."""
    conv = F.conv3d if weight.ndim == 5 else F.conv2d
    padding = [k // 2 for k in weight.shape[2:]]
    first = conv(q.movedim(-1, 1), weight, bias, 1, padding, 1, q.shape[-1])
    return first.movedim(1, -1).contiguous()


def _gradient_of_branch(q: Tensor, grad_out: Tensor, weight: Tensor, kernel: tuple[int, ...], dilation: int) -> Tensor:
    """Gradient of a branch's kernel, plane by plane of its first axis in 3D: oneDNN has a fast kernel in 2D only."""
    by = tuple(dilation if k > 1 else 1 for k in kernel)
    q, grad_out = fold(q, by), fold(grad_out, by)
    if len(kernel) == 2:
        return _gradient_in_plane(q, grad_out, weight)
    parts, reach, depth = [], kernel[0] // 2, q.shape[1]
    for step in range(-reach, reach + 1):
        count = depth - abs(step)
        if count <= 0:
            parts.append(torch.zeros_like(weight[:, :, 0]))
            continue
        first, other = (t.narrow(1, max(0, s), count) for t, s in ((q, step), (grad_out, -step)))
        parts.append(_gradient_in_plane(first.flatten(0, 1), other.flatten(0, 1), weight[:, :, 0]))
    return torch.stack(parts, 2)


def _gradient_in_plane(q: Tensor, grad_out: Tensor, weight: Tensor) -> Tensor:
    """Gradient of a depthwise kernel in 2D, from planes of shape (B, H, W, C)."""
    padding = [k // 2 for k in weight.shape[2:]]
    inputs = (grad_out.movedim(-1, 1), q.movedim(-1, 1), weight.contiguous())
    found: Tensor
    _, found, _ = torch.ops.aten.convolution_backward(
        *inputs, None, [1, 1], padding, [1, 1], False, [0, 0], q.shape[-1], [False, True, False]
    )
    return found
