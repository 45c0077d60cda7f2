"""Gates that the package does not have, to be measured against its own: each differs from `ProximalGate` in one thing.

All but `self-gate` and those of `LEVELS` run as plain PyTorch, slower than the package's kernels.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prosma_core.config.model import ONE_SIDED, GateConfig, ModelConfig
from prosma_core.model.blocks import CONV
from prosma_core.model.gate import ProximalGate, SkipGate, build_gate, float32_on_cpu
from prosma_core.model.kernels import reference
from prosma_core.model.prox import THRESHOLDS, removed_estimate, soft_threshold
from prosma_core.model.unet import UNet

NORM = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
GROUP = 8
"""Channels that `grouped` removes together."""


class Plain(ProximalGate):
    """`ProximalGate` by plain PyTorch on every device; what a variant changes is in `field` and `weight`."""

    def __init__(self, channels: int, **settings: Any) -> None:
        super().__init__(channels, **settings)
        self.fused = False

    @float32_on_cpu
    def forward(self, x: Tensor, g: Tensor) -> Tensor:
        """Gated skip."""
        x = self.hook_x(x)
        if self.skips_formula:
            return self.forced_skip(x)
        z = self.field(x, g)
        tau = self.hook_tau(self.limit(g).to(z.dtype))
        a = self.hook_a(self.weight(self.hook_z(z), tau))
        c = None if self.channel_gate is None else self.channel_gate(g.mean(tuple(range(2, g.ndim))))
        return self.hook_out(reference.apply(c, a, x))

    def field(self, x: Tensor, g: Tensor) -> Tensor:
        """Combined field z, shape (B, C, *grid)."""
        q = F.gelu(self.mixed(x, g))
        return sum((scale(q) for scale in self.scales), self.offset.view(-1, *(1,) * (x.ndim - 2)))

    def mixed(self, x: Tensor, g: Tensor) -> Tensor:
        """What goes into the GELU, shape (B, C, *grid)."""
        mixed: Tensor = self.project_skip(x) + self.project_decoder(g)
        return mixed

    def limit(self, g: Tensor) -> Tensor:
        """Threshold, broadcastable to z."""
        return self.threshold().view(-1, *(1,) * (g.ndim - 2))

    def weight(self, z: Tensor, tau: Tensor) -> Tensor:
        """The gate's value from the field."""
        return THRESHOLDS[self.form](z, tau)

    def removed(self, z: Tensor, tau: Tensor) -> Tensor:
        """Removed fraction with a gradient."""
        return removed_estimate(z, tau, signed=self.form not in ONE_SIDED)


class SelfGate(ProximalGate):
    """Without the decoder: the skip decides about itself; both projections and the channel gate see x."""

    def forward(self, x: Tensor, g: Tensor) -> Tensor:
        """Gated skip."""
        return super().forward(x, x)


class NormalizedGate(Plain):
    """The projected features are normalized, so that the field does not follow the strength of the features."""

    def __init__(self, channels: int, **settings: Any) -> None:
        super().__init__(channels, **settings)
        self.norm = NORM[len(self.kernel)](channels, affine=True)

    def mixed(self, x: Tensor, g: Tensor) -> Tensor:
        """What goes into the GELU."""
        mixed: Tensor = self.norm(super().mixed(x, g))
        return mixed


class ConditionedGate(Plain):
    """The decoder's global context moves the threshold of each channel: softplus(t + MLP(GAP(g)))."""

    def __init__(self, channels: int, **settings: Any) -> None:
        super().__init__(channels, **settings)
        hidden = max(4, channels // settings["channel_reduction"])
        self.context = nn.Sequential(nn.Linear(channels, hidden), nn.LeakyReLU(), nn.Linear(hidden, channels))
        for values in self.context[2].parameters():
            nn.init.zeros_(values)

    def limit(self, g: Tensor) -> Tensor:
        """Threshold of each image and channel."""
        moved: Tensor = self.context(g.mean(tuple(range(2, g.ndim)))).float()
        return F.softplus(self.raw_threshold + moved).view(*g.shape[:2], *(1,) * (g.ndim - 2))


class SharpGate(Plain):
    """tanh(s p) with a learned s per channel, 4 to begin with: what is kept comes near 1 soon above the threshold."""

    def __init__(self, channels: int, **settings: Any) -> None:
        super().__init__(channels, **settings)
        self.sharpness = nn.Parameter(torch.full((channels,), 4.0))

    def weight(self, z: Tensor, tau: Tensor) -> Tensor:
        """The gate's value from the field."""
        return torch.tanh(self.sharpness.view(-1, *(1,) * (z.ndim - 2)) * soft_threshold(z, tau))


class GroupedGate(Plain):
    """Prox of the group norm: neighboring channels are kept or removed together, by their root mean square."""

    def weight(self, z: Tensor, tau: Tensor) -> Tensor:
        """The gate's value from the field."""
        size, limit = self._sizes(z, tau)
        kept = F.relu(1 - limit / size.clamp_min(1e-6))
        grouped = z.unflatten(1, (size.shape[1], -1))
        return torch.tanh((grouped * kept.unsqueeze(2)).flatten(1, 2))

    def removed(self, z: Tensor, tau: Tensor) -> Tensor:
        """Removed fraction with a gradient."""
        return removed_estimate(*self._sizes(z, tau), signed=True)

    def _sizes(self, z: Tensor, tau: Tensor) -> tuple[Tensor, Tensor]:
        """Root mean square and threshold of each group, (B, groups, *grid) and (groups, 1, ...)."""
        groups = z.shape[1] // math.gcd(z.shape[1], GROUP)
        size = z.unflatten(1, (groups, -1)).float().square().mean(2).clamp_min(1e-12).sqrt()
        return size.to(z.dtype), tau.unflatten(0, (groups, -1)).mean(1)


class UnrolledGate(Plain):
    """A second proximal step with momentum and neighbors: prox(z + m p + K * p), m and K (3^n, by channel) from 0."""

    def __init__(self, channels: int, **settings: Any) -> None:
        super().__init__(channels, **settings)
        kernel, padding = self.kernel, tuple(k // 2 for k in self.kernel)
        self.lateral = CONV[len(kernel)](channels, channels, kernel, padding=padding, groups=channels, bias=False)
        nn.init.zeros_(self.lateral.weight)
        self.momentum = nn.Parameter(torch.zeros(channels))

    def weight(self, z: Tensor, tau: Tensor) -> Tensor:
        """The gate's value from the field."""
        p = soft_threshold(z, tau)
        m = self.momentum.view(-1, *(1,) * (z.ndim - 2))
        return super().weight(z + m * p + self.lateral(p), tau)


GATES: dict[str, type[ProximalGate]] = {
    "self-gate": SelfGate,
    "normalized": NormalizedGate,
    "conditioned": ConditionedGate,
    "sharp": SharpGate,
    "grouped": GroupedGate,
    "unrolled": UnrolledGate,
}
LEVELS = {"finest-gate": slice(1, None), "coarse-gates": slice(0, 1)}
"""Levels that have no gate, counted from the finest."""


def vary(model: UNet, config: ModelConfig, variant: str) -> None:
    """Give a network the gates of a variant.

    Raises
    ------
    ValueError
        There is no such variant.
    """
    if variant in GATES:
        kinds = GATES[variant]
        made: list[SkipGate] = [
            kinds.of_level(width, tuple(min(k, 3) for k in kernel), config.gate)
            for width, kernel in zip(config.widths[:-1], config.kernels, strict=False)
        ]
        model.gates = nn.ModuleList(made)
    elif variant in LEVELS:
        for level in range(len(model.gates))[LEVELS[variant]]:
            model.gates[level] = build_gate(1, (1,) * config.dims, GateConfig(kind="none"))
    else:
        msg = f"There is no variant {variant!r}: {', '.join((*GATES, *LEVELS))}."
        raise ValueError(msg)
