"""Launches of the field's kernels (`triton_field`): how a tensor is cut into programs, and which kernels run."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from prosma_core.model.kernels.taps import Pattern, ceil_div, power_of_2
from prosma_core.model.kernels.triton_field import correlate, sweep

FIELD, GATE, GRADIENT = 0, 1, 2
FORMS = {"signed": 0, "bounded": 1, "nonnegative": 2}
PROGRAMS = 2048
"""A launch is cut along the walked axis until it has as many programs, to fill the card."""
REGISTERS = 190
"""Of the 255 registers of a thread, those for taps and rings."""


class Small(NamedTuple):
    """What a gate has per channel, in float32: taps (C, N), offset and tau (C,), channel gate c (B, C)."""

    taps: Tensor
    offset: Tensor
    tau: Tensor
    c: Tensor


class _Launch(NamedTuple):
    """How a launch is cut: programs, the numbers the kernels take for it, and the block of a program."""

    grid: tuple[int, int, int]
    numbers: tuple[int, ...]
    block: dict[str, int]


@cache
def _launch(shape: torch.Size, taps: Pattern, each: int, registers: int) -> _Launch:
    """Blocks of about 128 threads with `each` values a thread; enough chunks of the walked axis to fill the card."""
    scans, channels, walked, *rows, lanes = shape
    if rows:
        count, row_stride, plane_stride, planes, per_scan = rows[0], lanes, rows[0] * lanes, scans * channels, 0
    else:  # the scans of the batch are the rows
        count, row_stride, plane_stride, planes, per_scan = scans, channels * walked * lanes, lanes, channels, channels
    most = min(128 * each, 128 if rows else 512)
    widths = [1 << i for i in range(4, most.bit_length())]
    least = min(ceil_div(lanes, n) * n for n in widths)
    wide = max(n for n in widths if ceil_div(lanes, n) * n <= 1.2 * least)
    high = min(128 * each // wide, power_of_2(count))
    tiles = ceil_div(count, high) * ceil_div(lanes, wide)
    chunks = max(1, min(ceil_div(PROGRAMS, planes * tiles), walked // max(1, 8 * taps.reach)))
    chunk = ceil_div(walked, chunks)
    numbers = (channels, per_scan, walked, count, lanes, row_stride, plane_stride, chunk)
    warps = max(1, min(4, high * wide // (32 * each)))
    block = {"BR": high, "BL": wide, "num_warps": warps, "maxnreg": registers}
    return _Launch((tiles, planes, ceil_div(walked, chunk)), numbers, block)


def _each(kept: int, per_value: int, most: int) -> int:
    """Values per thread, so that what is kept, once and for each of them, stays in registers."""
    while most > 1 and kept + most * per_value > REGISTERS:
        most //= 2
    return most


def _registers(mode: int, kept: int) -> int:
    """Most registers a thread may take: the fewest that spill next to nothing, so that most programs run at once."""
    if kept > 120:
        return 255
    if kept > 64:
        return 168
    return 80 if mode == FIELD else 128


def _sweep_launch(x: Tensor, taps: Pattern, mode: int) -> _Launch:
    ring = 2 * taps.reach + 1
    each = _each(taps.count, ring, 4)
    return _launch(x.shape, taps, each, _registers(mode, taps.count + each * ring))


def gate(q: Tensor, small: Small, x: Tensor, taps: Pattern, form: str) -> Tensor:
    """`prosma_core.model.kernels.reference.select`; all tensors contiguous."""
    launch = _sweep_launch(x, taps, GATE)
    out = torch.empty_like(x)
    sweep[launch.grid](q, *small, x, x, out, out, out, *launch.numbers, taps, GATE, FORMS[form], **launch.block)
    return out


def gate_gradients(
    above: Tensor, q: Tensor, small: Small, x: Tensor, taps: Pattern, form: str
) -> tuple[Tensor, Small, Tensor]:
    """Gradients of q, of what is small, and of x, from that of the output; the field is computed again."""
    launch = _sweep_launch(x, taps, GRADIENT)
    programs, rows = launch.grid[0] * launch.grid[1] * launch.grid[2], launch.block["BR"]
    grad_z, grad_x = torch.empty_like(q), torch.empty_like(x)
    partial = torch.empty(programs * 3 * rows, device=x.device, dtype=torch.float32)
    sweep[launch.grid](
        q, *small, x, above, grad_z, grad_x, partial, *launch.numbers, taps, GRADIENT, FORMS[form], **launch.block
    )
    sums = _sums(partial, x, launch)
    grad_q = torch.empty_like(q)
    launch = _sweep_launch(x, taps, FIELD)
    sweep[launch.grid](
        grad_z, *small, q, q, grad_q, grad_q, partial, *launch.numbers, taps.turned, FIELD, FORMS[form], **launch.block
    )
    return grad_q, Small(_gradient_of_taps(q, grad_z, taps), sums[0].sum(0), sums[1].sum(0), sums[2]), grad_x


def _sums(partial: Tensor, x: Tensor, launch: _Launch) -> Tensor:
    """Gradients of offset, tau and c for each scan, shape (3, B, C), from the sums of the programs."""
    scans, channels = x.shape[:2]
    rows, lanes = launch.block["BR"], ceil_div(x.shape[-1], launch.block["BL"])
    if x.ndim == 5:
        return partial.view(scans, channels, -1, 3, rows).sum((2, 4)).permute(2, 0, 1)
    tiles = launch.grid[0] // lanes
    found = partial.view(channels, tiles, lanes * launch.grid[2], 3, rows).sum(2)  # (C, tiles, 3, rows)
    return found.permute(2, 1, 3, 0).reshape(3, tiles * rows, channels)[:, :scans]


def _gradient_of_taps(q: Tensor, grad_z: Tensor, taps: Pattern) -> Tensor:
    launch = _launch(q.shape, taps, _each(0, taps.count + 2 * taps.reach + 1, 2), 255)
    planes = launch.grid[1]
    partial = torch.empty(planes, launch.grid[0] * launch.grid[2], taps.count, device=q.device, dtype=torch.float32)
    correlate[launch.grid](q, grad_z, partial, *launch.numbers, taps, **launch.block)
    return partial.view(-1, q.shape[1], *partial.shape[1:]).sum((0, 2))
