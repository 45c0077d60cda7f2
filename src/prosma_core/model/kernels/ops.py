"""The gate on NVIDIA GPUs: Triton kernels (`triton_kernels`) as torch operators, and their launches.

`fused_project` and `fused_select` are `torch.library` operators with fake versions and gradients: torch.compile takes
them whole. `project`, `field`, `prox` and `apply` are the steps of the gate's formula by them, see
`prosma_core.model.kernels.Backend`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from prosma_core.config.model import GateForm
from prosma_core.model.kernels.taps import Pattern, ceil_div, merge_branches, pattern_of, power_of_2

# --- The steps of the formula -----------------------------------------------------------------------------------------


class Deferred(NamedTuple):
    """Field or gate value that no kernel has computed: `apply` computes both and the gated skip in one launch."""

    q: Tensor
    taps: Tensor
    offset: Tensor
    kernel: tuple[int, ...]
    dilations: tuple[int, ...]
    tau: Tensor | None = None
    form: GateForm | None = None


def project(x: Tensor, g: Tensor, skip: nn.Module, decoder: nn.Module) -> tuple[Tensor, Tensor]:
    """Projected features q, and the decoder's global context."""
    weights = (skip.get_parameter("weight").flatten(1), decoder.get_parameter("weight").flatten(1))
    return fused_project(x, g, *weights, skip.get_parameter("bias"))  # type: ignore[no-any-return]


def field(q: Tensor, scales: Sequence[nn.Module], offset: Tensor) -> Deferred:
    """Note the compatibility field z; `apply` computes it."""
    branches: Any = scales
    taps = merge_branches([scale.weight for scale in branches])
    return Deferred(q, taps, offset, branches[0].kernel_size, tuple(max(scale.dilation) for scale in branches))


def prox(z: Deferred, tau: Tensor, form: GateForm, *, keep: bool) -> Deferred:
    """Note the gate's value a; `apply` computes it."""
    return z._replace(tau=tau, form=form)


def apply(c: Tensor | None, a: Deferred, x: Tensor) -> Tensor:
    """Gated skip c . a . x, shape (B, C, *grid)."""
    q, taps, offset, kernel, dilations, tau, form = a
    c = torch.ones(x.shape[:2], device=x.device) if c is None else c
    return fused_select(q, taps, offset, tau, c, x, kernel, dilations, form)  # type: ignore[no-any-return]


# --- Operators --------------------------------------------------------------------------------------------------------

Gradients = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


class ChannelParams(NamedTuple):
    """What a gate has per channel, float32: taps (C, N), offset and tau (C,), channel gate c (B, C)."""

    taps: Tensor
    offset: Tensor
    tau: Tensor
    c: Tensor


def _on(x: Tensor) -> AbstractContextManager[Any]:
    """The device of x made the current one: Triton launches there."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def _contiguous(*tensors: Tensor) -> list[Tensor]:
    return [t.contiguous() for t in tensors]


def _float32(*tensors: Tensor) -> list[Tensor]:
    return [t.float().contiguous() for t in tensors]


@torch.library.custom_op("prosma::project", mutates_args=())
def fused_project(
    x: Tensor, g: Tensor, skip_weight: Tensor, decoder_weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    """``GELU(W_x x + W_g g + b)``, and the mean of g over the grid.

    Parameters
    ----------
    x, g : Tensor, float32, bfloat16 or float16, shape (B, C, *grid)
        Encoder and decoder features.
    skip_weight, decoder_weight : Tensor, shape (C, C)
        The 1x1 projections.
    bias : Tensor, shape (C,)

    Returns
    -------
    q : Tensor, shape and dtype of x
    context : Tensor, float32, shape (B, C)
    """
    with _on(x):
        weights = _contiguous(skip_weight.to(x.dtype), decoder_weight.to(x.dtype))
        return _project(*_contiguous(x, g), *weights, *_float32(bias))


@torch.library.custom_op("prosma::project_backward", mutates_args=())
def _project_backward(
    grad_out: Tensor,
    grad_context: Tensor,
    x: Tensor,
    g: Tensor,
    skip_weight: Tensor,
    decoder_weight: Tensor,
    bias: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    with _on(x):
        weights = _contiguous(skip_weight.to(x.dtype), decoder_weight.to(x.dtype))
        grads = (grad_out.contiguous(), grad_context.float().contiguous())
        found = _project_gradients(*grads, *_contiguous(x, g), *weights, *_float32(bias))
    grad_x, grad_g, grad_skip, grad_decoder, grad_bias = found
    return (
        grad_x,
        grad_g,
        grad_skip.to(skip_weight.dtype, copy=True),
        grad_decoder.to(decoder_weight.dtype, copy=True),
        grad_bias.to(bias.dtype),
    )


@torch.library.custom_op("prosma::select", mutates_args=())
def fused_select(
    q: Tensor,
    taps: Tensor,
    offset: Tensor,
    tau: Tensor,
    c: Tensor,
    x: Tensor,
    kernel: Sequence[int],
    dilations: Sequence[int],
    form: str,
) -> Tensor:
    """Gated skip c . a . x, where a is the prox of the field; as `prosma_core.model.kernels.reference.select`."""
    with _on(x):
        params = ChannelParams(*_float32(taps, offset, tau, c))
        return _select(q.contiguous(), params, x.contiguous(), pattern_of(tuple(kernel), tuple(dilations)), form)


@torch.library.custom_op("prosma::select_backward", mutates_args=())
def _select_backward(
    grad_out: Tensor,
    q: Tensor,
    taps: Tensor,
    offset: Tensor,
    tau: Tensor,
    c: Tensor,
    x: Tensor,
    kernel: Sequence[int],
    dilations: Sequence[int],
    form: str,
) -> Gradients:
    with _on(x):
        params = ChannelParams(*_float32(taps, offset, tau, c))
        grad_out, q, x = _contiguous(grad_out, q, x)
        pattern = pattern_of(tuple(kernel), tuple(dilations))
        grad_q, found, grad_x = _select_gradients(grad_out, q, params, x, pattern, form)
        of_taps, of_offset, of_tau, of_c = (
            new.to(old.dtype, copy=True, memory_format=torch.contiguous_format)
            for new, old in zip(found, (taps, offset, tau, c), strict=True)
        )
    return grad_q, of_taps, of_offset, of_tau, of_c, grad_x


@fused_project.register_fake
def _(x: Tensor, g: Tensor, skip_weight: Tensor, decoder_weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape[:2], dtype=torch.float32)


@_project_backward.register_fake
def _(grad_out: Tensor, grad_context: Tensor, *saved: Tensor) -> tuple[Tensor, ...]:
    return tuple(t.new_empty(t.shape) for t in saved)


@fused_select.register_fake
def _(q: Tensor, taps: Tensor, offset: Tensor, tau: Tensor, c: Tensor, x: Tensor, *rest: object) -> Tensor:
    return x.new_empty(x.shape)


@_select_backward.register_fake
def _(grad_out: Tensor, *saved: Any) -> tuple[Tensor, ...]:
    return tuple(t.new_empty(t.shape) for t in saved[:6])


def _keep_project(ctx: Any, inputs: tuple[Any, ...], output: object) -> None:
    ctx.save_for_backward(*inputs)


def _project_grad(ctx: Any, grad_out: Tensor, grad_context: Tensor) -> tuple[Tensor, ...]:
    return tuple(_project_backward(grad_out, grad_context, *ctx.saved_tensors))


def _keep_select(ctx: Any, inputs: tuple[Any, ...], output: object) -> None:
    ctx.save_for_backward(*inputs[:6])
    ctx.rest = inputs[6:]


def _select_grad(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
    return *_select_backward(grad_out, *ctx.saved_tensors, *ctx.rest), None, None, None


fused_project.register_autograd(_project_grad, setup_context=_keep_project)
fused_select.register_autograd(_select_grad, setup_context=_keep_select)


# --- Launches of the projections --------------------------------------------------------------------------------------

GELU, GRADIENT, LINEAR = 0, 1, 2
WEIGHT_PROGRAMS = 528
"""The sum over voxels in the gradient of the weights is split into about as many programs."""


def _kernels() -> Any:
    """The kernels: imported late, as Triton is not installed everywhere."""
    from prosma_core.model.kernels import triton_kernels

    return triton_kernels


def _channel_block(channels: int, most: int) -> int:
    """Block of channels: a power of two, at least what the matrix units take."""
    return max(16, min(most, power_of_2(channels)))


def _sums_inside(channels: int) -> bool:
    """Whether the projection adds up g itself: where it reads all channels at once.

    Read in several rounds, with the 16-bit matrix units, the sums came out wrong by some percent (Triton 3.6, H100).
    """
    return channels <= 32


def _launch_project(
    mode: int, x: Tensor, g: Tensor, weight_x: Tensor, weight_g: Tensor, bias: Tensor, grad_out: Tensor
) -> tuple[Tensor, Tensor]:
    batch, channels = x.shape[:2]
    voxels = x.shape[2:].numel()
    bm, bk = _channel_block(channels, 64), _channel_block(channels, 32)
    bn = 64 if x.dtype == torch.float32 else (256 if mode == GELU and bm == 32 else 128)
    tiles = ceil_div(voxels, bn)
    sums = mode == GELU and _sums_inside(channels)
    out = torch.empty_like(x)
    partial = torch.empty(batch, tiles if sums else 0, channels, device=x.device, dtype=torch.float32)
    _kernels().project[(tiles * ceil_div(channels, bm), batch)](
        x, g, weight_x, weight_g, bias, grad_out, out, partial, channels, voxels, channels if bias.ndim == 2 else 0,
        MODE=mode, SUMS=sums, BM=bm, BN=bn, BK=bk, num_warps=4, num_stages=2 if bm <= 32 else 3,
    )  # fmt: skip
    return out, partial


def _project(x: Tensor, g: Tensor, weight_x: Tensor, weight_g: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """As `fused_project`; all contiguous, weights in the features' dtype, bias float32."""
    q, partial = _launch_project(GELU, x, g, weight_x, weight_g, bias, x)
    sums = partial.sum(1) if _sums_inside(x.shape[1]) else g.flatten(2).sum(2, dtype=torch.float32)
    return q, sums / x.shape[2:].numel()


def _project_gradients(
    grad_out: Tensor, grad_context: Tensor, x: Tensor, g: Tensor, weight_x: Tensor, weight_g: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, g, both weights and bias; the GELU's input is recomputed."""
    u, _ = _launch_project(GRADIENT, x, g, weight_x, weight_g, bias, grad_out)
    none = torch.zeros_like(bias)
    grad_x, _ = _launch_project(LINEAR, u, u, weight_x.t().contiguous(), weight_x, none, u)
    spread = (grad_context / x.shape[2:].numel()).contiguous()
    grad_g, _ = _launch_project(LINEAR, u, u, weight_g.t().contiguous(), weight_g, spread, u)
    return grad_x, grad_g, *_weight_gradients(u, x, g)


def _weight_gradients(u: Tensor, x: Tensor, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of both weights and the bias from that of the GELU's input, u."""
    batch, channels = x.shape[:2]
    voxels = x.shape[2:].numel()
    block = _channel_block(channels, 64)
    bn = 32 if x.dtype == torch.float32 else 128
    pairs = ceil_div(channels, block) ** 2
    tiles = batch * ceil_div(voxels, bn)
    chunk = ceil_div(tiles, max(1, WEIGHT_PROGRAMS // pairs))
    chunks = ceil_div(tiles, chunk)
    partial = torch.empty(chunks, 2, channels, channels, device=x.device, dtype=torch.float32)
    _kernels().outer[(pairs, chunks)](
        u, x, g, partial, channels, voxels, tiles, chunk, BM=block, BK=block, BN=bn, num_warps=4
    )
    weights = partial.sum(0)
    return weights[0], weights[1], u.flatten(2).sum((0, 2), dtype=torch.float32)


# --- Launches of the field --------------------------------------------------------------------------------------------

FIELD, SELECT, SELECT_GRADIENT = 0, 1, 2
FORMS = {"signed": 0, "bounded": 1, "nonnegative": 2}
FIELD_PROGRAMS = 2048
"""A launch is split along the walked axis until it has as many programs, to fill the GPU."""
REGISTERS = 190
"""Registers for taps and rings, of the 255 of a thread."""


class _Launch(NamedTuple):
    """Grid of programs, the numbers that the kernels take for it, and the block of a program."""

    grid: tuple[int, int, int]
    numbers: tuple[int, ...]
    block: dict[str, int]


@cache
def _launch_field(shape: torch.Size, taps: Pattern, each: int, registers: int) -> _Launch:
    """Blocks of about 128 threads with `each` values a thread; enough chunks of the walked axis to fill the GPU."""
    images, channels, walked, *rows, lanes = shape
    if rows:
        count, planes, per_image = rows[0], images * channels, 0
        row_stride, plane_stride = lanes, rows[0] * lanes
    else:  # the images of the batch are the rows
        count, row_stride, plane_stride, planes, per_image = (
            images,
            channels * walked * lanes,
            lanes,
            channels,
            channels,
        )
    most = min(128 * each, 128 if rows else 512)
    widths = [1 << i for i in range(4, most.bit_length())]
    least = min(ceil_div(lanes, n) * n for n in widths)
    wide = max(n for n in widths if ceil_div(lanes, n) * n <= 1.2 * least)
    high = min(128 * each // wide, power_of_2(count))
    tiles = ceil_div(count, high) * ceil_div(lanes, wide)
    chunks = max(1, min(ceil_div(FIELD_PROGRAMS, planes * tiles), walked // max(1, 8 * taps.reach)))
    chunk = ceil_div(walked, chunks)
    numbers = (channels, per_image, walked, count, lanes, row_stride, plane_stride, chunk)
    warps = max(1, min(4, high * wide // (32 * each)))
    block = {"BR": high, "BL": wide, "num_warps": warps, "maxnreg": registers}
    return _Launch((tiles, planes, ceil_div(walked, chunk)), numbers, block)


def _each(kept: int, per_value: int, most: int) -> int:
    """Values per thread such that what is kept, once and per value, stays in registers."""
    while most > 1 and kept + most * per_value > REGISTERS:
        most //= 2
    return most


def _registers(mode: int, kept: int) -> int:
    """Register limit of a thread: the fewest with next to no spills, so that most programs run at once."""
    if kept > 120:
        return 255
    if kept > 64:
        return 168
    return 80 if mode == FIELD else 128


def _sweep_launch(x: Tensor, taps: Pattern, mode: int) -> _Launch:
    ring = 2 * taps.reach + 1
    each = _each(taps.count, ring, 4)
    return _launch_field(x.shape, taps, each, _registers(mode, taps.count + each * ring))


def _sweep(tensors: Sequence[Tensor], launch: _Launch, taps: Pattern, mode: int, form: str) -> None:
    _kernels().sweep[launch.grid](*tensors, *launch.numbers, taps, mode, FORMS[form], **launch.block)


def _select(q: Tensor, params: ChannelParams, x: Tensor, taps: Pattern, form: str) -> Tensor:
    """As `fused_select`; all tensors contiguous."""
    out = torch.empty_like(x)
    _sweep((q, *params, x, x, out, out, out), _sweep_launch(x, taps, SELECT), taps, SELECT, form)
    return out


def _select_gradients(
    grad_out: Tensor, q: Tensor, params: ChannelParams, x: Tensor, taps: Pattern, form: str
) -> tuple[Tensor, ChannelParams, Tensor]:
    """Gradients of q, of the parameters, and of x, from that of the output; the field is recomputed."""
    launch = _sweep_launch(x, taps, SELECT_GRADIENT)
    programs, rows = launch.grid[0] * launch.grid[1] * launch.grid[2], launch.block["BR"]
    grad_z, grad_x = torch.empty_like(q), torch.empty_like(x)
    partial = torch.empty(programs * 3 * rows, device=x.device, dtype=torch.float32)
    _sweep((q, *params, x, grad_out, grad_z, grad_x, partial), launch, taps, SELECT_GRADIENT, form)
    sums = _sums(partial, x, launch)
    grad_q = torch.empty_like(q)
    launch = _sweep_launch(x, taps, FIELD)
    _sweep((grad_z, *params, q, q, grad_q, grad_q, partial), launch, taps.mirrored, FIELD, form)
    return grad_q, ChannelParams(_tap_gradients(q, grad_z, taps), sums[0].sum(0), sums[1].sum(0), sums[2]), grad_x


def _sums(partial: Tensor, x: Tensor, launch: _Launch) -> Tensor:
    """Gradients of offset, tau and c for each image, shape (3, B, C), from the sums of the programs."""
    images, channels = x.shape[:2]
    rows, lanes = launch.block["BR"], ceil_div(x.shape[-1], launch.block["BL"])
    if x.ndim == 5:
        return partial.view(images, channels, -1, 3, rows).sum((2, 4)).permute(2, 0, 1)
    tiles = launch.grid[0] // lanes
    found = partial.view(channels, tiles, lanes * launch.grid[2], 3, rows).sum(2)  # (C, tiles, 3, rows)
    return found.permute(2, 1, 3, 0).reshape(3, tiles * rows, channels)[:, :images]


def _tap_gradients(q: Tensor, grad_z: Tensor, taps: Pattern) -> Tensor:
    launch = _launch_field(q.shape, taps, _each(0, taps.count + 2 * taps.reach + 1, 2), 255)
    planes = launch.grid[1]
    partial = torch.empty(planes, launch.grid[0] * launch.grid[2], taps.count, device=q.device, dtype=torch.float32)
    _kernels().correlate[launch.grid](q, grad_z, partial, *launch.numbers, taps, **launch.block)
    return partial.view(-1, q.shape[1], *partial.shape[1:]).sum((0, 2))
