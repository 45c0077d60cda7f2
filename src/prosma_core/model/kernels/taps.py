"""The dilated branches of a gate as one sparse kernel: offsets and weights of its taps."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import torch
from torch import Tensor


def ceil_div(a: int, b: int) -> int:
    """Quotient rounded up."""
    return -(-a // b)


def power_of_2(n: int) -> int:
    """Least power of two that is not below n >= 1."""
    return 1 << (n - 1).bit_length()


@cache
def tap_offsets(kernel: tuple[int, ...], dilations: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Offset of each tap per spatial axis: for each dilation all taps but the middle one, which comes last.

    Parameters
    ----------
    kernel : tuple of int
        Size of the branches' kernels per spatial axis; odd.
    dilations : tuple of int
        Dilation of each branch.
    """
    reach = [range(-(size // 2), size // 2 + 1) for size in kernel]
    around = [step for step in itertools.product(*reach) if any(step)]
    offsets = [tuple(d * s for s in step) for d in dilations for step in around]
    return (*offsets, (0,) * len(kernel))


@dataclass(frozen=True)
class Pattern:
    """Taps for a kernel that walks along the first axis; those with the same row and lane are adjacent."""

    size: tuple[int, ...]
    """Size of the branches' kernels per spatial axis."""
    dilations: tuple[int, ...]
    sign: int = 1
    """-1 mirrors the offsets, as the gradient needs them."""

    @cached_property
    def mirrored(self) -> Pattern:
        """The pattern with mirrored offsets."""
        return Pattern(self.size, self.dilations, -self.sign)

    @cached_property
    def number(self) -> tuple[int, ...]:
        """Index of each tap in `tap_offsets`."""
        steps = self._steps
        return tuple(sorted(range(len(steps)), key=lambda i: (steps[i][1], steps[i][2], steps[i][0])))

    @cached_property
    def _steps(self) -> list[tuple[int, int, int]]:
        offsets = tap_offsets(self.size, self.dilations)
        rows = [o[1] if len(o) == 3 else 0 for o in offsets]  # a 2D grid has no rows
        return [(self.sign * o[0], self.sign * r, self.sign * o[-1]) for o, r in zip(offsets, rows, strict=True)]

    @cached_property
    def walked(self) -> tuple[int, ...]:
        """Offset of each tap along the walked axis."""
        return tuple(self._steps[i][0] for i in self.number)

    @cached_property
    def row(self) -> tuple[int, ...]:
        """Offset in rows."""
        return tuple(self._steps[i][1] for i in self.number)

    @cached_property
    def lane(self) -> tuple[int, ...]:
        """Offset in lanes."""
        return tuple(self._steps[i][2] for i in self.number)

    @cached_property
    def count(self) -> int:
        """Number of taps."""
        return len(self.number)

    @cached_property
    def reach(self) -> int:
        """Largest offset along the walked axis."""
        return max(self.walked)


@cache
def pattern_of(size: tuple[int, ...], dilations: tuple[int, ...]) -> Pattern:
    """Pattern of these branches, made once: it is slow to make."""
    return Pattern(size, dilations)


def merge_branches(weights: Sequence[Tensor]) -> Tensor:
    """Weights of the sparse kernel, in the order of `tap_offsets`; the middle taps of the branches are added up.

    Parameters
    ----------
    weights : sequence of Tensor, each of shape (C, 1, *kernel)
        Depthwise kernel of each branch.

    Returns
    -------
    Tensor, shape (C, taps)
    """
    flat = [weight.flatten(1) for weight in weights]  # (C, taps of one branch)
    middle = flat[0].shape[1] // 2
    around = [part for w in flat for part in (w[:, :middle], w[:, middle + 1 :])]
    return torch.cat([*around, torch.stack([w[:, middle] for w in flat], dim=1).sum(1, keepdim=True)], dim=1)
