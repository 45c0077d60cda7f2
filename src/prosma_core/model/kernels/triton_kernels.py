"""The gate in Triton's language: its projections, its sparse kernel, and their gradients; launched by `ops`.

`project` and `outer` read tensors as (B, C, voxels); a program computes a block of channels of a block of voxels.

`sweep` and `correlate` read a tensor as rows and lanes of planes along a walked axis: (walked, rows, lanes) are the
axes of a 3D grid, and those of a 2D grid with the images of the batch as rows. A program owns a block of rows and lanes
of one channel and walks. Each plane of the input is read once per distinct offset within the plane and added to every
output plane that it reaches; those are kept in registers, in a ring as long as the kernel.
"""

from __future__ import annotations

import os

import triton
import triton.language as tl

_COMPILED = tl.constexpr(os.environ.get("TRITON_INTERPRET") != "1")  # the interpreter knows no PTX


@triton.jit
def exp2(x):
    """2 to the power of x."""
    if _COMPILED:
        power = tl.inline_asm_elementwise("ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, True, 1)
    else:
        power = tl.exp2(x)
    return power


@triton.jit
def inverse(x):
    """1 / x."""
    if _COMPILED:
        result = tl.inline_asm_elementwise("rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, True, 1)
    else:
        result = 1 / x
    return result


@triton.jit
def tanh(x):
    """Hyperbolic tangent; exactly 0 at 0."""
    return 1 - 2 * inverse(1 + exp2(x * 2.885390081777927))  # 2 / ln 2


@triton.jit
def normal(x):
    """Normal distribution function of x, and its density, by Abramowitz and Stegun 7.1.26."""
    size = tl.abs(x) * 0.7071067811865476
    bell = exp2(x * x * -0.7213475204444817)  # exp(-x^2 / 2)
    t = inverse(1 + 0.3275911 * size)
    tail = 1.061405429 * t - 1.453152027
    tail = tail * t + 1.421413741
    tail = tail * t - 0.284496736
    tail = (tail * t + 0.254829592) * t * bell * 0.5  # beyond |x|, on one side
    return tl.where(x > 0, 1 - tail, tail), bell * 0.3989422804014327


@triton.jit
def project(
    x, g, weight_x, weight_g, bias, grad_out, out, partial, C, V, BIAS_STRIDE,
    MODE: tl.constexpr, SUMS: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """GELU(W_x x + W_g g + b) with sums of g (MODE 0), the gradient of its input (1), or W_x x + b alone (2)."""
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
            total = tl.load(grad_out + at, mask=ok, other=0.0).to(tl.float32) * (below + total * density)
    tl.store(out + at, total.to(out.dtype.element_ty), mask=ok)


@triton.jit
def outer(
    u, x, g, partial, C, V, TILES, CHUNK, BM: tl.constexpr, BK: tl.constexpr, BN: tl.constexpr
):  # fmt: skip
    """Sums over voxels of u times x and of u times g: gradients of both weights."""
    blocks = tl.cdiv(C, BK)
    m = (tl.program_id(0) // blocks) * BM + tl.arange(0, BM)
    k = (tl.program_id(0) % blocks) * BK + tl.arange(0, BK)
    chunk = tl.program_id(1)
    total_x = tl.zeros((BM, BK), tl.float32)
    total_g = tl.zeros((BM, BK), tl.float32)
    per_image = tl.cdiv(V, BN)
    for tile in range(chunk * CHUNK, tl.minimum(chunk * CHUNK + CHUNK, TILES)):
        start = (tile // per_image).to(tl.int64) * C * V
        n = (tile % per_image) * BN + tl.arange(0, BN)
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


@triton.jit
def _added(values, i: tl.constexpr, more):
    return values[:i] + (values[i] + more,) + values[i + 1 :]


@triton.jit
def _prox(z, tau, FORM: tl.constexpr):
    low = tl.minimum(z, tau)  # z minus this is exactly 0 where z is removed, and NaN where z is
    p = z - (low if FORM == 2 else tl.maximum(low, -tau))
    return p, (tanh(p) if FORM == 1 else p)


@triton.jit
def _emit(
    field, skip, grad_out, sums, out, grad_x, at, ok, offset, tau, c, MODE: tl.constexpr, FORM: tl.constexpr
):  # fmt: skip
    if MODE == 0:
        tl.store(out + at, field.to(out.dtype.element_ty), mask=ok)
    else:
        p, a = _prox(field + offset, tau, FORM)
        skip = skip.to(tl.float32)
        if MODE == 1:
            tl.store(out + at, (c * a * skip).to(out.dtype.element_ty), mask=ok)
        else:
            grad_out = grad_out.to(tl.float32)
            tl.store(grad_x + at, (grad_out * c * a).to(grad_x.dtype.element_ty), mask=ok)
            grad_p = grad_out * c * skip
            if FORM == 1:
                grad_p *= 1 - a * a
            grad_z = tl.where(ok & (p != 0), grad_p, 0.0)
            tl.store(out + at, grad_z.to(out.dtype.element_ty), mask=ok)
            grad_tau = -grad_z if FORM == 2 else tl.where(p > 0, -grad_z, grad_z)
            grad_c = tl.where(ok, grad_out * a * skip, 0.0)
            sums = (sums[0] + grad_z, sums[1] + grad_tau, sums[2] + grad_c)
    return sums


@triton.jit
def _place(L, ROWS, STRIDE, BR: tl.constexpr, BL: tl.constexpr):
    row = (tl.program_id(0) // tl.cdiv(L, BL)) * BR + tl.arange(0, BR)[:, None]
    lane = (tl.program_id(0) % tl.cdiv(L, BL)) * BL + tl.arange(0, BL)[None, :]
    return row, lane, row.to(tl.int64) * STRIDE + lane, (row < ROWS) & (lane < L)


@triton.jit
def sweep(
    q, taps, offset, tau, c, x, grad, out, grad_x, partial, C, IMAGES, A, ROWS, L, ROW_STRIDE, PLANE_STRIDE, CHUNK,
    TAPS: tl.constexpr, MODE: tl.constexpr, FORM: tl.constexpr,
    BR: tl.constexpr, BL: tl.constexpr,
):  # fmt: skip
    """Field of q (MODE 0), gated skip (1), or from its gradient those of field and skip, and partial sums (2)."""
    N: tl.constexpr = TAPS.count
    REACH: tl.constexpr = TAPS.reach
    row, lane, here, inside = _place(L, ROWS, ROW_STRIDE, BR, BL)
    channel = tl.program_id(1) % C
    here += tl.program_id(1).to(tl.int64) * A * PLANE_STRIDE
    first = tl.program_id(2) * CHUNK
    last = tl.minimum(first + CHUNK, A)
    end = tl.minimum(last + REACH, A)
    weights = ()
    for t in tl.static_range(N):
        weights = weights + (tl.load(taps + channel * N + TAPS.number[t]),)
    shift = 0.0
    threshold = 0.0
    factor = 0.0
    if MODE > 0:
        shift = tl.load(offset + channel)
        threshold = tl.load(tau + channel)
        factor = tl.load(c + tl.program_id(1) + row * IMAGES, mask=row < ROWS, other=0.0)
    zeros = tl.zeros((BR, BL), tl.float32)
    sums = (zeros, zeros, zeros)
    ring = ()
    for _ in tl.static_range(2 * REACH + 1):
        ring = ring + (zeros,)
    for plane in range(tl.maximum(first - REACH, 0), end):
        at = here + (plane - REACH) * PLANE_STRIDE
        ok = inside & (plane - REACH >= first)
        skip = tl.load(x + at, mask=ok, other=0.0) if MODE > 0 else zeros
        grad_out = tl.load(grad + at, mask=ok, other=0.0) if MODE == 2 else zeros
        value = zeros
        source = q + here
        rows_ok = inside
        for t in tl.static_range(N):
            if t == 0 or TAPS.row[t] != TAPS.row[t - 1]:
                source = q + here + (plane * PLANE_STRIDE + TAPS.row[t] * L)
                rows_ok = (row + TAPS.row[t] >= 0) & (row + TAPS.row[t] < ROWS)
            if t == 0 or (TAPS.row[t] != TAPS.row[t - 1] or TAPS.lane[t] != TAPS.lane[t - 1]):
                inner = rows_ok & (lane + TAPS.lane[t] >= 0) & (lane + TAPS.lane[t] < L)
                value = tl.load(source + TAPS.lane[t], mask=inner, other=0.0)
            ring = _added(ring, REACH - TAPS.walked[t], weights[t] * value.to(tl.float32))
        sums = _emit(ring[0], skip, grad_out, sums, out, grad_x, at, ok, shift, threshold, factor, MODE, FORM)
        ring = ring[1:] + (zeros,)
    for i in tl.static_range(REACH):
        at = here + (end - REACH + i) * PLANE_STRIDE
        ok = inside & (end - REACH + i >= first) & (end - REACH + i < last)
        skip = tl.load(x + at, mask=ok, other=0.0) if MODE > 0 else zeros
        grad_out = tl.load(grad + at, mask=ok, other=0.0) if MODE == 2 else zeros
        sums = _emit(ring[i], skip, grad_out, sums, out, grad_x, at, ok, shift, threshold, factor, MODE, FORM)
    if MODE == 2:
        program = (tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)) * tl.num_programs(2) + tl.program_id(2)
        for i in tl.static_range(3):
            tl.store(partial + (program * 3 + i) * BR + tl.arange(0, BR), tl.sum(sums[i], 1))


@triton.jit
def correlate(
    q, grad, partial, C, IMAGES, A, ROWS, L, ROW_STRIDE, PLANE_STRIDE, CHUNK,
    TAPS: tl.constexpr, BR: tl.constexpr, BL: tl.constexpr,
):  # fmt: skip
    """Sum of gradient times q at each tap's offset, over the block of this program."""
    N: tl.constexpr = TAPS.count
    REACH: tl.constexpr = TAPS.reach
    row, lane, here, inside = _place(L, ROWS, ROW_STRIDE, BR, BL)
    here += tl.program_id(1).to(tl.int64) * A * PLANE_STRIDE
    first = tl.program_id(2) * CHUNK
    last = tl.minimum(first + CHUNK, A)
    begin = tl.maximum(first - REACH, 0)
    zeros = tl.zeros((BR, BL), tl.float32)
    ring = (zeros,)
    for i in tl.static_range(2 * REACH):  # planes begin - REACH to begin + REACH - 1 of the gradient
        plane = begin - REACH + i
        ok = inside & (plane >= first) & (plane < last)
        ring = ring + (tl.load(grad + here + plane * PLANE_STRIDE, mask=ok, other=0.0).to(tl.float32),)
    totals = ()
    for _ in tl.static_range(N):
        totals = totals + (zeros,)
    for plane in range(begin, tl.minimum(last + REACH, A)):
        ok = inside & (plane + REACH >= first) & (plane + REACH < last)
        following = tl.load(grad + here + (plane + REACH) * PLANE_STRIDE, mask=ok, other=0.0)
        ring = ring[1:] + (following.to(tl.float32),)
        value = zeros
        source = q + here
        rows_ok = inside
        for t in tl.static_range(N):
            if t == 0 or TAPS.row[t] != TAPS.row[t - 1]:
                source = q + here + (plane * PLANE_STRIDE + TAPS.row[t] * L)
                rows_ok = (row + TAPS.row[t] >= 0) & (row + TAPS.row[t] < ROWS)
            if t == 0 or (TAPS.row[t] != TAPS.row[t - 1] or TAPS.lane[t] != TAPS.lane[t - 1]):
                inner = rows_ok & (lane + TAPS.lane[t] >= 0) & (lane + TAPS.lane[t] < L)
                value = tl.load(source + TAPS.lane[t], mask=inner, other=0.0)
            totals = _added(totals, t, ring[REACH - TAPS.walked[t]] * value.to(tl.float32))
    program = (tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)) * tl.num_programs(2) + tl.program_id(2)
    for t in tl.static_range(N):
        where = partial + program.to(tl.int64) * N + TAPS.number[t]
        tl.store(where, tl.sum(tl.sum(totals[t], 1), 0))
