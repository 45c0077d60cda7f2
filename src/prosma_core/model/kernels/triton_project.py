"""The gate's projections in Triton: GELU(W_x x + W_g g + b) with the mean of g, and its gradients.

Tensors are read as (B, C, voxels) where they are; a program gives a block of channels of a block of voxels.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from prosma_core.model.kernels.taps import ceil_div, power_of_2
from prosma_core.model.kernels.triton_math import normal

GELU, GRADIENT, LINEAR = 0, 1, 2
PROGRAMS = 528
"""The sum over voxels in the gradient of the weights is cut into about as many programs."""


@triton.jit
def _project(
    x, g, weight_x, weight_g, bias, above, out, partial, C, V, BIAS_STRIDE,
    MODE: tl.constexpr, SUMS: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(C, BM)
    m = (tl.program_id(0) % blocks) * BM + tl.arange(0, BM)
    tile = tl.program_id(0) // blocks
    n = tile * BN + tl.arange(0, BN)
    batch = tl.program_id(1).to(tl.int64)
    total = tl.zeros((BM, BN), tl.float32)
    for start in range(0, C, BK):
        k = start + tl.arange(0, BK)
        at = batch * C * V + k[:, None].to(tl.int64) * V + n[None, :]
        ok = (k < C)[:, None] & (n < V)[None, :]
        square = m[:, None] * C + k[None, :]
        square_ok = (m < C)[:, None] & (k < C)[None, :]
        weight = tl.load(weight_x + square, mask=square_ok, other=0.0)
        total = tl.dot(weight, tl.load(x + at, mask=ok, other=0.0), total, input_precision="ieee")
        if MODE != 2:
            weight = tl.load(weight_g + square, mask=square_ok, other=0.0)
            decoder = tl.load(g + at, mask=ok, other=0.0)
            total = tl.dot(weight, decoder, total, input_precision="ieee")
            if SUMS:
                where = partial + (batch * tl.cdiv(V, BN) + tile) * C + k
                tl.store(where, tl.sum(decoder.to(tl.float32), 1), mask=k < C)
    total += tl.load(bias + batch * BIAS_STRIDE + m, mask=m < C, other=0.0)[:, None]
    at = batch * C * V + m[:, None].to(tl.int64) * V + n[None, :]
    ok = (m < C)[:, None] & (n < V)[None, :]
    if MODE != 2:
        below, density = normal(total)
        if MODE == 0:
            total = total * below
        else:
            total = tl.load(above + at, mask=ok, other=0.0).to(tl.float32) * (below + total * density)
    tl.store(out + at, total.to(out.dtype.element_ty), mask=ok)


@triton.jit
def _outer(
    u, x, g, partial, C, V, TILES, CHUNK, BM: tl.constexpr, BK: tl.constexpr, BN: tl.constexpr
):  # fmt: skip
    blocks = tl.cdiv(C, BK)
    m = (tl.program_id(0) // blocks) * BM + tl.arange(0, BM)
    k = (tl.program_id(0) % blocks) * BK + tl.arange(0, BK)
    chunk = tl.program_id(1)
    total_x = tl.zeros((BM, BK), tl.float32)
    total_g = tl.zeros((BM, BK), tl.float32)
    per_scan = tl.cdiv(V, BN)
    for tile in range(chunk * CHUNK, tl.minimum(chunk * CHUNK + CHUNK, TILES)):
        start = (tile // per_scan).to(tl.int64) * C * V
        n = (tile % per_scan) * BN + tl.arange(0, BN)
        at = start + m[:, None].to(tl.int64) * V + n[None, :]
        values = tl.load(u + at, mask=(m < C)[:, None] & (n < V)[None, :], other=0.0)
        at = start + k[:, None].to(tl.int64) * V + n[None, :]
        ok = (k < C)[:, None] & (n < V)[None, :]
        total_x = tl.dot(values, tl.trans(tl.load(x + at, mask=ok, other=0.0)), total_x, input_precision="ieee")
        total_g = tl.dot(values, tl.trans(tl.load(g + at, mask=ok, other=0.0)), total_g, input_precision="ieee")
    at = (chunk * 2 * C + m[:, None]) * C + k[None, :]
    ok = (m < C)[:, None] & (k < C)[None, :]
    tl.store(partial + at, total_x, mask=ok)
    tl.store(partial + at + C * C, total_g, mask=ok)


def _block(channels: int, most: int) -> int:
    """Block of channels: a power of two, at least what the matrix units take."""
    return max(16, min(most, power_of_2(channels)))


def sums_inside(channels: int) -> bool:
    """Whether the projection adds up g itself: where it reads all channels at once.

    Read in several rounds, with the 16-bit matrix units, the sums came out wrong by some percent (Triton 3.6, H100).
    """
    return channels <= 32


def _launch(
    mode: int, x: Tensor, g: Tensor, weight_x: Tensor, weight_g: Tensor, bias: Tensor, above: Tensor
) -> tuple[Tensor, Tensor]:
    batch, channels = x.shape[:2]
    voxels = x.shape[2:].numel()
    small = x.dtype == torch.float32
    bm, bk = _block(channels, 64), _block(channels, 32)
    bn = 64 if small else (256 if mode == GELU and bm == 32 else 128)
    tiles = ceil_div(voxels, bn)
    sums = mode == GELU and sums_inside(channels)
    out = torch.empty_like(x)
    partial = torch.empty(batch, tiles if sums else 0, channels, device=x.device, dtype=torch.float32)
    _project[(tiles * ceil_div(channels, bm), batch)](
        x, g, weight_x, weight_g, bias, above, out, partial, channels, voxels, channels if bias.ndim == 2 else 0,
        MODE=mode, SUMS=sums, BM=bm, BN=bn, BK=bk, num_warps=4, num_stages=2 if bm <= 32 else 3,
    )  # fmt: skip
    return out, partial


def project(x: Tensor, g: Tensor, weight_x: Tensor, weight_g: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """`prosma_core.model.kernels.reference.project`; all contiguous, weights in the features' dtype, bias float32."""
    q, partial = _launch(GELU, x, g, weight_x, weight_g, bias, x)
    sums = partial.sum(1) if sums_inside(x.shape[1]) else g.flatten(2).sum(2, dtype=torch.float32)
    return q, sums / x.shape[2:].numel()


def project_gradients(
    above: Tensor, above_context: Tensor, x: Tensor, g: Tensor, weight_x: Tensor, weight_g: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, g, both weights and bias; what goes into the GELU is computed again."""
    u, _ = _launch(GRADIENT, x, g, weight_x, weight_g, bias, above)
    none = torch.zeros_like(bias)
    grad_x, _ = _launch(LINEAR, u, u, weight_x.t().contiguous(), weight_x, none, u)
    spread = (above_context / x.shape[2:].numel()).contiguous()
    grad_g, _ = _launch(LINEAR, u, u, weight_g.t().contiguous(), weight_g, spread, u)
    return grad_x, grad_g, *_gradients_of_weights(u, x, g)


def _gradients_of_weights(u: Tensor, x: Tensor, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    batch, channels = x.shape[:2]
    voxels = x.shape[2:].numel()
    block = _block(channels, 64)
    bn = 32 if x.dtype == torch.float32 else 128
    pairs = ceil_div(channels, block) ** 2
    tiles = batch * ceil_div(voxels, bn)
    chunk = ceil_div(tiles, max(1, PROGRAMS // pairs))
    chunks = ceil_div(tiles, chunk)
    partial = torch.empty(chunks, 2, channels, channels, device=x.device, dtype=torch.float32)
    _outer[(pairs, chunks)](u, x, g, partial, channels, voxels, tiles, chunk, BM=block, BK=block, BN=bn, num_warps=4)
    weights = partial.sum(0)
    return weights[0], weights[1], u.flatten(2).sum((0, 2), dtype=torch.float32)
