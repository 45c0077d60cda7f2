"""The 2D gate's three depthwise branches as one Triton kernel, against the branches as they are: right, and how fast.

    python3 run.py bench fused_branches

Needs an NVIDIA GPU and Triton; says so otherwise. The kernel is not used by the network yet.
"""

from __future__ import annotations

import sys

import torch
import torch.nn.functional as F
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:
    sys.exit("This benchmark needs Triton, which comes with torch's CUDA builds on Linux.")

DILATIONS = (1, 2, 4)


# fmt: off
@triton.jit
def _fields(
    x, w0, w1, w2, y, H, W, C,
    xb, xc, xh, xw, yb, yc, yh, yw,
    D0: tl.constexpr, D1: tl.constexpr, D2: tl.constexpr, SIGN: tl.constexpr,
    BP: tl.constexpr, BC: tl.constexpr,
):
    p = tl.program_id(0) * BP + tl.arange(0, BP)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    b = tl.program_id(2).to(tl.int64)
    h = p // W
    v = p % W
    inside = p < H * W
    cm = c < C
    acc = tl.zeros((BP, BC), tl.float32)
    base = x + b * xb + c[None, :] * xc
    for i in tl.static_range(3):
        for t in tl.static_range(9):
            if t != 4 or i == 0:
                if i == 0:
                    weight = tl.load(w0 + c * 9 + t, mask=cm, other=0.0).to(tl.float32)
                if i == 1:
                    weight = tl.load(w1 + c * 9 + t, mask=cm, other=0.0).to(tl.float32)
                if i == 2:
                    weight = tl.load(w2 + c * 9 + t, mask=cm, other=0.0).to(tl.float32)
                if t == 4:
                    weight += tl.load(w1 + c * 9 + t, mask=cm, other=0.0).to(tl.float32)
                    weight += tl.load(w2 + c * 9 + t, mask=cm, other=0.0).to(tl.float32)
                hh = h + (t // 3 - 1) * SIGN * (D0 if i == 0 else (D1 if i == 1 else D2))
                ww = v + (t % 3 - 1) * SIGN * (D0 if i == 0 else (D1 if i == 1 else D2))
                ok = inside & (hh >= 0) & (hh < H) & (ww >= 0) & (ww < W)
                value = tl.load(base + (hh * xh + ww * xw)[:, None], mask=ok[:, None] & cm[None, :], other=0.0)
                acc += value.to(tl.float32) * weight[None, :]
    out = y + b * yb + c[None, :] * yc + (h * yh + v * yw)[:, None]
    tl.store(out, acc.to(y.dtype.element_ty), mask=inside[:, None] & cm[None, :])


@triton.jit
def _row(at, g, hh, v, D, xw, H, W, inside, cm, a0, a1, a2):
    row = inside & (hh >= 0) & (hh < H)
    x0 = tl.load(at + ((v - D) * xw)[:, None], mask=(row & (v >= D))[:, None] & cm[None, :], other=0.0)
    x1 = tl.load(at + (v * xw)[:, None], mask=row[:, None] & cm[None, :], other=0.0)
    x2 = tl.load(at + ((v + D) * xw)[:, None], mask=(row & (v + D < W))[:, None] & cm[None, :], other=0.0)
    return a0 + g * x0.to(tl.float32), a1 + g * x1.to(tl.float32), a2 + g * x2.to(tl.float32)


@triton.jit
def _grad_weight(
    x, go, partial, N, H, W, C, CHUNK,
    xb, xc, xh, xw, gb, gc, gh, gw,
    D0: tl.constexpr, D1: tl.constexpr, D2: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):
    i = tl.program_id(0)  # dilation
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    chunk = tl.program_id(2)
    D = tl.where(i == 0, D0, tl.where(i == 1, D1, D2))
    cm = c < C
    a0 = tl.zeros((BP, BC), tl.float32)
    a1 = tl.zeros((BP, BC), tl.float32)
    a2 = tl.zeros((BP, BC), tl.float32)
    a3 = tl.zeros((BP, BC), tl.float32)
    a4 = tl.zeros((BP, BC), tl.float32)
    a5 = tl.zeros((BP, BC), tl.float32)
    a6 = tl.zeros((BP, BC), tl.float32)
    a7 = tl.zeros((BP, BC), tl.float32)
    a8 = tl.zeros((BP, BC), tl.float32)
    start = chunk * CHUNK
    for o in range(0, CHUNK, BP):
        p = start + o + tl.arange(0, BP)
        inside = (p < N) & (o + tl.arange(0, BP) < CHUNK)
        b = p // (H * W)
        r = p % (H * W)
        h = r // W
        v = r % W
        g = tl.load(go + (b * gb + h * gh + v * gw)[:, None] + c[None, :] * gc,
                    mask=inside[:, None] & cm[None, :], other=0.0).to(tl.float32)
        at = x + (b * xb + h * xh)[:, None] + c[None, :] * xc
        a0, a1, a2 = _row(at - D * xh, g, h - D, v, D, xw, H, W, inside, cm, a0, a1, a2)
        a3, a4, a5 = _row(at, g, h, v, D, xw, H, W, inside, cm, a3, a4, a5)
        a6, a7, a8 = _row(at + D * xh, g, h + D, v, D, xw, H, W, inside, cm, a6, a7, a8)
    out = partial + ((chunk * 3 + i).to(tl.int64) * C + c) * 9
    tl.store(out, tl.sum(a0, 0), mask=cm)
    tl.store(out + 1, tl.sum(a1, 0), mask=cm)
    tl.store(out + 2, tl.sum(a2, 0), mask=cm)
    tl.store(out + 3, tl.sum(a3, 0), mask=cm)
    tl.store(out + 4, tl.sum(a4, 0), mask=cm)
    tl.store(out + 5, tl.sum(a5, 0), mask=cm)
    tl.store(out + 6, tl.sum(a6, 0), mask=cm)
    tl.store(out + 7, tl.sum(a7, 0), mask=cm)
    tl.store(out + 8, tl.sum(a8, 0), mask=cm)


# fmt: on


def _blocks(x: Tensor, small: int, large: int) -> tuple[int, int]:
    """Pixels and channels of a block."""
    if x.stride(1) == 1 and x.shape[1] > 1:
        bc = min(32, triton.next_power_of_2(x.shape[1]))
        return max(1, (small if bc > 1 else large) // bc), bc
    return large, 1


def _run(x: Tensor, ws: list[Tensor], sign: int) -> Tensor:
    """Sum of the branches of x, shape (B, C, H, W), any strides; sign -1 gives the gradient of x."""
    y = torch.empty_like(x)
    B, C, H, W = x.shape
    bp, bc = _blocks(x, 1024, 512)
    grid = (triton.cdiv(H * W, bp), triton.cdiv(C, bc), B)
    _fields[grid](x, *ws, y, H, W, C, *x.stride(), *y.stride(), *DILATIONS, sign, bp, bc, num_warps=4)
    return y


@torch.library.custom_op("prosma_bench::fields", mutates_args=())
def fields(x: Tensor, w0: Tensor, w1: Tensor, w2: Tensor) -> Tensor:
    """Sum of the three branches."""
    return _run(x, [w.contiguous() for w in (w0, w1, w2)], 1)


@torch.library.custom_op("prosma_bench::fields_grad_x", mutates_args=())
def fields_grad_x(g: Tensor, w0: Tensor, w1: Tensor, w2: Tensor) -> Tensor:
    """Its gradient of x."""
    if not (g.is_contiguous() or g.is_contiguous(memory_format=torch.channels_last)):
        g = g.contiguous()
    return _run(g, [w.contiguous() for w in (w0, w1, w2)], -1)


@torch.library.custom_op("prosma_bench::fields_grad_w", mutates_args=())
def fields_grad_w(x: Tensor, g: Tensor) -> Tensor:
    """Its gradient of the three weights, shape (3, C, 1, 3, 3)."""
    B, C, H, W = x.shape
    n = B * H * W
    bp, bc = _blocks(x, 1024, 512)
    programs = 3 * triton.cdiv(C, bc)
    chunks = max(1, min(triton.cdiv(n, bp * 4), 4096 // programs))
    size = triton.cdiv(triton.cdiv(n, chunks), bp) * bp
    chunks = triton.cdiv(n, size)
    partial = torch.empty(chunks, 3, C, 1, 3, 3, device=x.device, dtype=torch.float32)
    _grad_weight[(3, triton.cdiv(C, bc), chunks)](
        x, g, partial, n, H, W, C, size, *x.stride(), *g.stride(), *DILATIONS, bp, bc, num_warps=4
    )
    return partial.sum(0)


@fields.register_fake
def _(x, w0, w1, w2):
    return torch.empty_like(x)


@fields_grad_x.register_fake
def _(g, w0, w1, w2):
    if g.is_contiguous() or g.is_contiguous(memory_format=torch.channels_last):
        return torch.empty_like(g)
    return torch.empty_like(g, memory_format=torch.contiguous_format)


@fields_grad_w.register_fake
def _(x, g):
    return x.new_empty((3, x.shape[1], 1, 3, 3), dtype=torch.float32)


def _setup(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _backward(ctx, g):
    x, w0, w1, w2 = ctx.saved_tensors
    gw = fields_grad_w(x, g)
    return fields_grad_x(g, w0, w1, w2), gw[0].to(w0.dtype), gw[1].to(w1.dtype), gw[2].to(w2.dtype)


fields.register_autograd(_backward, setup_context=_setup)


def reference(x: Tensor, *weights: Tensor) -> Tensor:
    """The same by three convolutions."""
    groups = x.shape[1]
    parts = [F.conv2d(x, w, padding=d, dilation=d, groups=groups) for w, d in zip(weights, DILATIONS, strict=True)]
    return parts[0] + parts[1] + parts[2]


def check() -> None:
    """Compare with float64 on odd sizes, both layouts and two dtypes."""
    for shape in ((2, 5, 7, 9), (3, 33, 37, 21), (2, 168, 16, 16), (2, 64, 131, 128)):
        for layout in (torch.contiguous_format, torch.channels_last):
            for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 5e-3)):
                x = torch.randn(shape, device="cuda").to(dtype).to(memory_format=layout).requires_grad_()
                weights = [torch.randn(shape[1], 1, 3, 3, device="cuda").requires_grad_() for _ in DILATIONS]
                grad = torch.randn(shape, device="cuda").to(dtype).to(memory_format=layout)
                y = fields(x, *weights)
                exact = [t.detach().double().requires_grad_() for t in (x, *weights)]
                z = reference(*exact)
                pairs = zip(
                    (y, *torch.autograd.grad(y, [x, *weights], grad)),
                    (z, *torch.autograd.grad(z, exact, grad.double())),
                    strict=True,
                )
                worst = max(((a.double() - b).norm() / b.norm()).item() for a, b in pairs)
                assert worst < tolerance, (shape, layout, dtype, worst)


def milliseconds(run: object, x: Tensor, weights: list[Tensor], grad: Tensor) -> float:
    """Median of forward and backward."""

    def both() -> None:
        torch.autograd.grad(run(x, *weights), [x, *weights], grad)  # type: ignore[operator]

    return float(triton.testing.do_bench(both, return_mode="median"))


def main() -> None:
    """Check, measure, print."""
    if not torch.cuda.is_available():
        sys.exit("This benchmark needs an NVIDIA GPU; torch finds none.")
    torch.backends.cudnn.allow_tf32 = False
    check()
    print("forward and gradients agree with float64")
    print(f"{'shape (B, C, H, W)':<22}{'layout':<16}{'branches':>10}{'one kernel':>12}{'ratio':>8}")
    for shape in ((16, 32, 256, 256), (16, 64, 128, 128), (16, 128, 64, 64)):
        for layout in (torch.contiguous_format, torch.channels_last):
            x = torch.randn(shape, device="cuda", dtype=torch.bfloat16).to(memory_format=layout).requires_grad_()
            weights = [
                torch.randn(shape[1], 1, 3, 3, device="cuda", dtype=torch.bfloat16).requires_grad_() for _ in DILATIONS
            ]
            grad = torch.randn_like(x)
            eager, fused = (milliseconds(run, x, weights, grad) for run in (reference, fields))
            name = str(layout).removeprefix("torch.")
            print(f"{shape!s:<22}{name:<16}{eager:>7.2f} ms{fused:>9.2f} ms{eager / fused:>8.1f}")


if __name__ == "__main__":
    main()
