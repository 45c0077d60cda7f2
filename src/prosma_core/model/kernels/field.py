"""Launches of the field's kernels (`triton_field`): how a tensor is cut into programs, and which kernels run."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from prosma_core.model.kernels.taps import tap_offsets
from prosma_core.model.kernels.triton_field import correlate, sweep

FIELD, GATE, GRADIENT = 0, 1, 2
FORMS = {"signed": 0, "bounded": 1, "nonnegative": 2}
PROGRAMS = 2048
"""A launch is cut along the walked axis until it has as many programs, to fill the card."""


class _Sizes(NamedTuple):
    """Grid of a tensor as the kernels see it."""

    walked: int
    rows: int
    lanes: int


class _Cut(NamedTuple):
    """How a launch is cut into programs."""

    grid: tuple[int, int, int]
    chunk: int
    block: dict[str, int]


@cache
def _pattern(kernel: tuple[int, ...], dilations: tuple[int, ...], sign: int) -> dict[str, int | tuple[int, ...]]:
    """Constants of a kernel: number and offset of each tap, those with the same offset in the plane side by side."""
    offsets = tap_offsets(kernel, dilations)
    full = [tuple(sign * s for s in ((o[0], 0, o[1]) if len(o) == 2 else o)) for o in offsets]
    order = sorted(range(len(full)), key=lambda i: (full[i][1], full[i][2], full[i][0]))
    walked, rows, lanes = (tuple(full[i][axis] for i in order) for axis in range(3))
    reach = max(abs(a) for a in walked)
    return {"TI": tuple(order), "TA": walked, "TR": rows, "TL": lanes, "N": len(order), "REACH": reach}


def _sizes(x: Tensor) -> _Sizes:
    return _Sizes(x.shape[2], 1, x.shape[3]) if x.ndim == 4 else _Sizes(*x.shape[2:])


def _per_thread(taps: int, ring: int, most: int) -> int:
    """Values per thread, so that what is kept for each of them stays in registers."""
    while most > 1 and taps + most * ring > 190:
        most //= 2
    return most


def _cut(x: Tensor, each: int, reach: int) -> _Cut:
    """Blocks of about 128 threads with `each` values a thread; enough chunks of the walked axis to fill the card."""
    sizes, planes = _sizes(x), x.shape[0] * x.shape[1]
    most = 128 * each if sizes.rows == 1 else min(64, 128 * each)
    widths = [1 << i for i in range(4, most.bit_length()) if 1 << i <= most]
    lanes = min(widths, key=lambda n: (-(-sizes.lanes // n) * n, -n))
    rows = min(128 * each // lanes, triton.next_power_of_2(sizes.rows))
    tiles = triton.cdiv(sizes.rows, rows) * triton.cdiv(sizes.lanes, lanes)
    chunks = max(1, min(triton.cdiv(PROGRAMS, planes * tiles), sizes.walked // max(1, 8 * reach)))
    chunk = triton.cdiv(sizes.walked, chunks)
    warps = max(1, min(4, rows * lanes // (32 * each)))
    return _Cut((tiles, planes, triton.cdiv(sizes.walked, chunk)), chunk, {"BR": rows, "BL": lanes, "num_warps": warps})


def _per_thread_sweep(pattern: dict[str, int | tuple[int, ...]]) -> int:
    return _per_thread(int(pattern["N"]), 2 * int(pattern["REACH"]) + 1, 4)  # type: ignore[arg-type]


def gate(
    q: Tensor, taps: Tensor, offset: Tensor, tau: Tensor, c: Tensor, x: Tensor,
    kernel: tuple[int, ...], dilations: tuple[int, ...], form: str,
) -> Tensor:  # fmt: skip
    """`prosma_core.model.kernels.reference.select`; all tensors contiguous, taps, offset, tau and c in float32."""
    pattern = _pattern(kernel, dilations, 1)
    cut = _cut(x, _per_thread_sweep(pattern), int(pattern["REACH"]))  # type: ignore[arg-type]
    out = torch.empty_like(x)
    sweep[cut.grid](
        q, taps, offset, tau, c, x, x, out, out, out, x.shape[1], *_sizes(x), cut.chunk,
        **pattern, MODE=GATE, FORM=FORMS[form], **cut.block,
    )  # fmt: skip
    return out


def gate_gradients(
    above: Tensor, q: Tensor, taps: Tensor, offset: Tensor, tau: Tensor, c: Tensor, x: Tensor,
    kernel: tuple[int, ...], dilations: tuple[int, ...], form: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of q, taps, offset, tau, c and x from that of the output; the field is computed again."""
    batch, channels = x.shape[:2]
    pattern = _pattern(kernel, dilations, 1)
    reach = int(pattern["REACH"])  # type: ignore[arg-type]
    each = _per_thread_sweep(pattern)
    cut = _cut(x, each, reach)
    grad_z, grad_x = torch.empty_like(q), torch.empty_like(x)
    partial = torch.empty(batch, channels, cut.grid[0] * cut.grid[2], 3, device=x.device, dtype=torch.float32)
    sweep[cut.grid](
        q, taps, offset, tau, c, x, above, grad_z, grad_x, partial, channels, *_sizes(x), cut.chunk,
        **pattern, MODE=GRADIENT, FORM=FORMS[form], **cut.block,
    )  # fmt: skip
    sums = partial.sum(2)  # (B, C, 3)
    grad_q = torch.empty_like(q)
    sweep[cut.grid](
        grad_z, taps, taps, taps, taps, q, q, grad_q, grad_q, partial, channels, *_sizes(x), cut.chunk,
        **_pattern(kernel, dilations, -1), MODE=FIELD, FORM=0, **cut.block,
    )  # fmt: skip
    return grad_q, _gradient_of_taps(q, grad_z, pattern), sums[..., 0].sum(0), sums[..., 1].sum(0), sums[..., 2], grad_x


def _gradient_of_taps(q: Tensor, grad_z: Tensor, pattern: dict[str, int | tuple[int, ...]]) -> Tensor:
    batch, channels = q.shape[:2]
    count, reach = int(pattern["N"]), int(pattern["REACH"])  # type: ignore[arg-type]
    cut = _cut(q, _per_thread(0, count + 2 * reach + 1, 2), reach)
    partial = torch.empty(batch, channels, cut.grid[0] * cut.grid[2], count, device=q.device, dtype=torch.float32)
    correlate[cut.grid](q, grad_z, partial, channels, *_sizes(q), cut.chunk, count, **pattern, **cut.block)
    return partial.sum((0, 2))
