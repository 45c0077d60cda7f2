"""The Triton kernels as torch operators: with fake versions and gradients, so that torch.compile takes them whole."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from prosma_core.model.kernels.taps import pattern_of

Gradients = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def _on(x: Tensor) -> AbstractContextManager[Any]:
    """The device of x made the current one: Triton launches there."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def _plain(*tensors: Tensor) -> list[Tensor]:
    return [t.contiguous() for t in tensors]


def _single(*tensors: Tensor) -> list[Tensor]:
    return [t.float().contiguous() for t in tensors]


@torch.library.custom_op("prosma::project", mutates_args=())
def project(x: Tensor, g: Tensor, skip_weight: Tensor, decoder_weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """`prosma_core.model.kernels.reference.project`; the context is float32."""
    from prosma_core.model.kernels import triton_project

    with _on(x):
        weights = _plain(skip_weight.to(x.dtype), decoder_weight.to(x.dtype))
        return triton_project.project(*_plain(x, g), *weights, *_single(bias))


@torch.library.custom_op("prosma::project_backward", mutates_args=())
def _project_backward(
    above: Tensor,
    above_context: Tensor,
    x: Tensor,
    g: Tensor,
    skip_weight: Tensor,
    decoder_weight: Tensor,
    bias: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    from prosma_core.model.kernels import triton_project

    with _on(x):
        weights = _plain(skip_weight.to(x.dtype), decoder_weight.to(x.dtype))
        above, context = above.contiguous(), above_context.float().contiguous()
        found = triton_project.project_gradients(above, context, *_plain(x, g), *weights, *_single(bias))
    grad_x, grad_g, grad_skip, grad_decoder, grad_bias = found
    return (
        grad_x,
        grad_g,
        grad_skip.to(skip_weight.dtype, copy=True),
        grad_decoder.to(decoder_weight.dtype, copy=True),
        grad_bias.to(bias.dtype),
    )


@torch.library.custom_op("prosma::select", mutates_args=())
def select(
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
    """`prosma_core.model.kernels.reference.select`."""
    from prosma_core.model.kernels import field

    with _on(x):
        small = field.Small(*_single(taps, offset, tau, c))
        return field.gate(q.contiguous(), small, x.contiguous(), pattern_of(tuple(kernel), tuple(dilations)), form)


@torch.library.custom_op("prosma::select_backward", mutates_args=())
def _select_backward(
    above: Tensor,
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
    from prosma_core.model.kernels import field

    with _on(x):
        small = field.Small(*_single(taps, offset, tau, c))
        above, q, x = _plain(above, q, x)
        grad_q, found, grad_x = field.gate_gradients(
            above, q, small, x, pattern_of(tuple(kernel), tuple(dilations)), form
        )
        of_taps, of_offset, of_tau, of_c = (
            new.to(old.dtype, copy=True, memory_format=torch.contiguous_format)
            for new, old in zip(found, (taps, offset, tau, c), strict=True)
        )
    return grad_q, of_taps, of_offset, of_tau, of_c, grad_x


@project.register_fake
def _(x: Tensor, g: Tensor, skip_weight: Tensor, decoder_weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape[:2], dtype=torch.float32)


@_project_backward.register_fake
def _(above: Tensor, above_context: Tensor, *saved: Tensor) -> tuple[Tensor, ...]:
    return tuple(t.new_empty(t.shape) for t in saved)


@select.register_fake
def _(q: Tensor, taps: Tensor, offset: Tensor, tau: Tensor, c: Tensor, x: Tensor, *rest: object) -> Tensor:
    return x.new_empty(x.shape)


@_select_backward.register_fake
def _(above: Tensor, *saved: Any) -> tuple[Tensor, ...]:
    return tuple(t.new_empty(t.shape) for t in saved[:6])


def _keep_project(ctx: Any, inputs: tuple[Any, ...], output: object) -> None:
    ctx.save_for_backward(*inputs)


def _project_grad(ctx: Any, above: Tensor, above_context: Tensor) -> tuple[Tensor, ...]:
    return tuple(_project_backward(above, above_context, *ctx.saved_tensors))


def _keep_select(ctx: Any, inputs: tuple[Any, ...], output: object) -> None:
    ctx.save_for_backward(*inputs[:6])
    ctx.rest = inputs[6:]


def _select_grad(ctx: Any, above: Tensor) -> tuple[Tensor | None, ...]:
    return *_select_backward(above, *ctx.saved_tensors, *ctx.rest), None, None, None


project.register_autograd(_project_grad, setup_context=_keep_project)
select.register_autograd(_select_grad, setup_context=_keep_select)
