"""The field's sparse kernel in Triton: gated skip, its gradients, and the gradient of the taps.

A grid is (walked axis, rows, lanes): the axes of a 3D grid, or (rows, 1, lanes) of a 2D one. A program owns a block of
rows and lanes of one channel and walks along the first axis. Each plane of the input is read once per distinct offset
within the plane, and added to every output plane it reaches; those are kept in registers, a ring as long as the kernel.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _added(values, i: tl.constexpr, more):
    return values[:i] + (values[i] + more,) + values[i + 1 :]


@triton.jit
def _prox(z, tau, FORM: tl.constexpr):
    low = tl.minimum(z, tau)  # z minus this is exactly 0 where z is removed, and NaN where z is
    p = z - (low if FORM == 2 else tl.maximum(low, -tau))
    a = p
    if FORM == 1:
        a = 2 * tl.sigmoid(2 * p) - 1
    return p, a


@triton.jit
def _emit(
    field, sums, x, grad, out, grad_x, at, ok, offset, tau, c, MODE: tl.constexpr, FORM: tl.constexpr
):  # fmt: skip
    if MODE == 0:
        tl.store(out + at, field.to(out.dtype.element_ty), mask=ok)
    else:
        p, a = _prox(field + offset, tau, FORM)
        skip = tl.load(x + at, mask=ok, other=0.0).to(tl.float32)
        if MODE == 1:
            tl.store(out + at, (c * a * skip).to(out.dtype.element_ty), mask=ok)
        else:
            above = tl.load(grad + at, mask=ok, other=0.0).to(tl.float32)
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
def sweep(
    q, taps, offset, tau, c, x, grad, out, grad_x, partial, C, A, R, L, CHUNK,
    TI: tl.constexpr, TA: tl.constexpr, TR: tl.constexpr, TL: tl.constexpr, N: tl.constexpr, REACH: tl.constexpr,
    MODE: tl.constexpr, FORM: tl.constexpr, BR: tl.constexpr, BL: tl.constexpr,
):  # fmt: skip
    row = (tl.program_id(0) // tl.cdiv(L, BL)) * BR + tl.arange(0, BR)[:, None]
    lane = (tl.program_id(0) % tl.cdiv(L, BL)) * BL + tl.arange(0, BL)[None, :]
    here = row * L + lane
    inside = (row < R) & (lane < L)
    channel = tl.program_id(1) % C
    start = tl.program_id(1).to(tl.int64) * A * R * L
    first = tl.program_id(2) * CHUNK
    last = tl.minimum(first + CHUNK, A)
    end = tl.minimum(last + REACH, A)
    weights = ()
    for t in tl.static_range(N):
        weights = weights + (tl.load(taps + channel * N + TI[t]),)
    shift = 0.0
    threshold = 0.0
    factor = 0.0
    if MODE > 0:
        shift = tl.load(offset + channel)
        threshold = tl.load(tau + channel)
        factor = tl.load(c + tl.program_id(1))
    zeros = tl.zeros((BR, BL), tl.float32)
    sums = (zeros, zeros, zeros)
    ring = ()
    for _ in tl.static_range(2 * REACH + 1):
        ring = ring + (zeros,)
    for plane in range(tl.maximum(first - REACH, 0), end):
        value = zeros
        source = q + start + plane * (R * L) + here
        rows_ok = inside
        for t in tl.static_range(N):
            if t == 0 or TR[t] != TR[t - 1]:
                source = q + start + plane * (R * L) + (here + TR[t] * L)
                rows_ok = (row + TR[t] >= 0) & (row + TR[t] < R)
            if t == 0 or (TR[t] != TR[t - 1] or TL[t] != TL[t - 1]):
                ok = rows_ok & (lane + TL[t] >= 0) & (lane + TL[t] < L)
                value = tl.load(source + TL[t], mask=ok, other=0.0).to(tl.float32)
            ring = _added(ring, REACH - TA[t], weights[t] * value)
        at = start + (plane - REACH) * (R * L) + here
        ok = inside & (plane - REACH >= first)
        sums = _emit(ring[0], sums, x, grad, out, grad_x, at, ok, shift, threshold, factor, MODE, FORM)
        ring = ring[1:] + (zeros,)
    for i in tl.static_range(REACH):
        at = start + (end - REACH + i) * (R * L) + here
        ok = inside & (end - REACH + i >= first) & (end - REACH + i < last)
        sums = _emit(ring[i], sums, x, grad, out, grad_x, at, ok, shift, threshold, factor, MODE, FORM)
    if MODE == 2:
        program = (tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)) * tl.num_programs(2) + tl.program_id(2)
        for i in tl.static_range(3):
            tl.store(partial + program * 3 + i, tl.sum(tl.sum(sums[i], 1), 0))


@triton.jit
def correlate(
    q, grad, partial, C, A, R, L, CHUNK, COLUMNS,
    TI: tl.constexpr, TA: tl.constexpr, TR: tl.constexpr, TL: tl.constexpr, N: tl.constexpr, REACH: tl.constexpr,
    BR: tl.constexpr, BL: tl.constexpr,
):  # fmt: skip
    row = (tl.program_id(0) // tl.cdiv(L, BL)) * BR + tl.arange(0, BR)[:, None]
    lane = (tl.program_id(0) % tl.cdiv(L, BL)) * BL + tl.arange(0, BL)[None, :]
    here = row * L + lane
    inside = (row < R) & (lane < L)
    start = tl.program_id(1).to(tl.int64) * A * R * L
    first = tl.program_id(2) * CHUNK
    last = tl.minimum(first + CHUNK, A)
    begin = tl.maximum(first - REACH, 0)
    zeros = tl.zeros((BR, BL), tl.float32)
    ring = (zeros,)
    for i in tl.static_range(2 * REACH):  # planes begin - REACH to begin + REACH - 1 of the gradient
        plane = begin - REACH + i
        ok = inside & (plane >= first) & (plane < last)
        ring = ring + (tl.load(grad + start + plane * (R * L) + here, mask=ok, other=0.0).to(tl.float32),)
    totals = ()
    for _ in tl.static_range(N):
        totals = totals + (zeros,)
    for plane in range(begin, tl.minimum(last + REACH, A)):
        ok = inside & (plane + REACH >= first) & (plane + REACH < last)
        following = tl.load(grad + start + (plane + REACH) * (R * L) + here, mask=ok, other=0.0)
        ring = ring[1:] + (following.to(tl.float32),)
        value = zeros
        source = q + start + plane * (R * L) + here
        rows_ok = inside
        for t in tl.static_range(N):
            if t == 0 or TR[t] != TR[t - 1]:
                source = q + start + plane * (R * L) + (here + TR[t] * L)
                rows_ok = (row + TR[t] >= 0) & (row + TR[t] < R)
            if t == 0 or (TR[t] != TR[t - 1] or TL[t] != TL[t - 1]):
                ok = rows_ok & (lane + TL[t] >= 0) & (lane + TL[t] < L)
                value = tl.load(source + TL[t], mask=ok, other=0.0).to(tl.float32)
            totals = _added(totals, t, ring[REACH - TA[t]] * value)
    program = (tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)) * tl.num_programs(2) + tl.program_id(2)
    for t in tl.static_range(N):
        tl.store(partial + program.to(tl.int64) * COLUMNS + TI[t], tl.sum(tl.sum(totals[t], 1), 0))
