"""The field's sparse kernel in Triton: gated skip, its gradients, and the gradient of the taps.

A tensor is read as rows and lanes of planes along a walked axis: (walked, rows, lanes) are the axes of a 3D grid, and
those of a 2D one with the scans of the batch as rows. A program owns a block of rows and lanes of one channel and
walks. Each plane of the input is read once per distinct offset within the plane, and added to every plane of the output
that it reaches; those are kept in registers, a ring as long as the kernel.
"""

from __future__ import annotations

import triton
import triton.language as tl

from prosma_core.model.kernels.triton_math import tanh


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
    field, skip, above, sums, out, grad_x, at, ok, offset, tau, c, MODE: tl.constexpr, FORM: tl.constexpr
):  # fmt: skip
    if MODE == 0:
        tl.store(out + at, field.to(out.dtype.element_ty), mask=ok)
    else:
        p, a = _prox(field + offset, tau, FORM)
        skip = skip.to(tl.float32)
        if MODE == 1:
            tl.store(out + at, (c * a * skip).to(out.dtype.element_ty), mask=ok)
        else:
            above = above.to(tl.float32)
            tl.store(grad_x + at, (above * c * a).to(grad_x.dtype.element_ty), mask=ok)
            grad_p = above * c * skip
            if FORM == 1:
                grad_p *= 1 - a * a
            grad_z = tl.where(ok & (p != 0), grad_p, 0.0)
            tl.store(out + at, grad_z.to(out.dtype.element_ty), mask=ok)
            grad_tau = -grad_z if FORM == 2 else tl.where(p > 0, -grad_z, grad_z)
            grad_c = tl.where(ok, above * a * skip, 0.0)
            sums = (sums[0] + grad_z, sums[1] + grad_tau, sums[2] + grad_c)
    return sums


@triton.jit
def _block(L, ROWS, STRIDE, BR: tl.constexpr, BL: tl.constexpr):
    row = (tl.program_id(0) // tl.cdiv(L, BL)) * BR + tl.arange(0, BR)[:, None]
    lane = (tl.program_id(0) % tl.cdiv(L, BL)) * BL + tl.arange(0, BL)[None, :]
    return row, lane, row.to(tl.int64) * STRIDE + lane, (row < ROWS) & (lane < L)


@triton.jit
def sweep(
    q, taps, offset, tau, c, x, grad, out, grad_x, partial, C, SCANS, A, ROWS, L, ROW_STRIDE, PLANE_STRIDE, CHUNK,
    TAPS: tl.constexpr, MODE: tl.constexpr, FORM: tl.constexpr,
    BR: tl.constexpr, BL: tl.constexpr,
):  # fmt: skip
    """Field of q (MODE 0), gated skip (1), or from its gradient those of field and skip, and partial sums (2)."""
    N: tl.constexpr = TAPS.count
    REACH: tl.constexpr = TAPS.reach
    row, lane, here, inside = _block(L, ROWS, ROW_STRIDE, BR, BL)
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
        factor = tl.load(c + tl.program_id(1) + row * SCANS, mask=row < ROWS, other=0.0)
    zeros = tl.zeros((BR, BL), tl.float32)
    sums = (zeros, zeros, zeros)
    ring = ()
    for _ in tl.static_range(2 * REACH + 1):
        ring = ring + (zeros,)
    for plane in range(tl.maximum(first - REACH, 0), end):
        at = here + (plane - REACH) * PLANE_STRIDE
        ok = inside & (plane - REACH >= first)
        skip = tl.load(x + at, mask=ok, other=0.0) if MODE > 0 else zeros
        above = tl.load(grad + at, mask=ok, other=0.0) if MODE == 2 else zeros
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
        sums = _emit(ring[0], skip, above, sums, out, grad_x, at, ok, shift, threshold, factor, MODE, FORM)
        ring = ring[1:] + (zeros,)
    for i in tl.static_range(REACH):
        at = here + (end - REACH + i) * PLANE_STRIDE
        ok = inside & (end - REACH + i >= first) & (end - REACH + i < last)
        skip = tl.load(x + at, mask=ok, other=0.0) if MODE > 0 else zeros
        above = tl.load(grad + at, mask=ok, other=0.0) if MODE == 2 else zeros
        sums = _emit(ring[i], skip, above, sums, out, grad_x, at, ok, shift, threshold, factor, MODE, FORM)
    if MODE == 2:
        program = (tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)) * tl.num_programs(2) + tl.program_id(2)
        for i in tl.static_range(3):
            tl.store(partial + (program * 3 + i) * BR + tl.arange(0, BR), tl.sum(sums[i], 1))


@triton.jit
def correlate(
    q, grad, partial, C, SCANS, A, ROWS, L, ROW_STRIDE, PLANE_STRIDE, CHUNK,
    TAPS: tl.constexpr, BR: tl.constexpr, BL: tl.constexpr,
):  # fmt: skip
    """Sum of gradient times q at each tap's offset, over the block of this program."""
    N: tl.constexpr = TAPS.count
    REACH: tl.constexpr = TAPS.reach
    row, lane, here, inside = _block(L, ROWS, ROW_STRIDE, BR, BL)
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
