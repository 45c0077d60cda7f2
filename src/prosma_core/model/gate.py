"""One skip in, one gated skip out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prosma_core.config.inspection import LevelEdit
from prosma_core.config.model import GateConfig
from prosma_core.events import LevelStats
from prosma_core.model import kernels
from prosma_core.model.channel_gate import ChannelGate
from prosma_core.model.conv import CONV
from prosma_core.model.gate_record import GateRecord, edited_skip, edited_weight
from prosma_core.model.kernels import cpu
from prosma_core.model.prox import THRESHOLDS


class SkipGate(nn.Module):
    """A skip connection that may change what the decoder receives; forced open, it passes x on unchanged.

    Attributes
    ----------
    forced_open : bool
        Pass the skip unchanged, whatever was learned.
    counting : bool
        Add up how many activations are removed (see `stats`).
    estimating : bool
        Keep `estimate` at every forward.
    estimate : Tensor or None
        Removed fraction of the last forward, differentiable.
    edit : LevelEdit or None
        Change of what was learned, see `prosma_core.model.looking.edited`.
    recorder : callable or None
        Takes a `GateRecord` of every forward, see `prosma_core.model.looking.recording`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.forced_open = False
        self.counting = False
        self.estimating = False
        self.estimate: Tensor | None = None
        self.edit: LevelEdit | None = None
        self.recorder: Callable[[GateRecord], None] | None = None
        self._removed = 0.0
        self._total = 0

    def forward(self, x: Tensor, g: Tensor) -> Tensor:
        """Gated skip.

        Parameters
        ----------
        x : Tensor, shape (B, C, *grid)
            Encoder features.
        g : Tensor, shape (B, C, *grid)
            Decoder features of the coarser level, upsampled to the same grid.

        Returns
        -------
        Tensor, shape (B, C, *grid)
        """
        if x.device.type == "cpu" and torch.is_autocast_enabled("cpu") and not self.forced_open:
            with torch.autocast("cpu", enabled=False):  # the fast kernels are float32 (docs/kernels.md)
                return self(x.float(), g.float()).to(x.dtype)  # type: ignore[no-any-return]
        if self.edit is None and self.recorder is None:
            return self.gated(x, g)
        learned = self.edit is None or self.edit.state == "learned"
        after = edited_skip(x, self.gated(x, g) if learned else None, self.edit)
        if self.recorder is not None:
            self.recorder(self.record(x, g, after))
        return after

    def gated(self, x: Tensor, g: Tensor) -> Tensor:
        """Skip after the gate as it was learned; same parameters."""
        if self.forced_open:
            return x
        a = self.activation(x, g)
        if self.counting:
            self._removed += float((a == 0).sum())
            self._total += a.numel()
        return self.apply_gate(a, x, g)

    def activation(self, x: Tensor, g: Tensor) -> Tensor:
        """The gate's value a, shape (B, C or 1, *grid); 0 exactly where x is removed."""
        return torch.ones_like(x)

    def apply_gate(self, a: Tensor, x: Tensor, g: Tensor) -> Tensor:
        """Skip x after gate a, shape (B, C, *grid)."""
        return a * x

    def threshold(self) -> Tensor | None:
        """Threshold tau per channel, shape (C,), or None for a gate without one."""
        return None

    def channel_weights(self, g: Tensor) -> Tensor | None:
        """Weight c of each channel, shape (B, C, 1, ...), or None where there is no channel gate."""
        return None

    def record(self, x: Tensor, g: Tensor, after: Tensor) -> GateRecord:
        """What the gate does to x, computed beside the forward that gave `after`."""
        a = self.activation(x, g).expand_as(x)
        return GateRecord((), None, None, edited_weight(a, self.edit), None, x, after)

    def reset_stats(self) -> None:
        """Forget what was counted."""
        self._removed, self._total = 0.0, 0

    def stats(self) -> LevelStats:
        """Removed fraction since `reset_stats` while `counting`, and the median threshold."""
        tau = self.threshold()
        median = None if tau is None else float(tau.detach().float().median())
        return LevelStats(self._removed / self._total if self._total else 0.0, median)


class ProximalGate(SkipGate):
    r"""Decoder-conditioned proximal-sparse gate (arXiv 2603.03187; our reading in docs/method.md).

    .. math::
        q &= \mathrm{GELU}(W_x x + W_g g + b) \\
        z &= \textstyle\sum_d D_d * q + \beta \quad\text{(depthwise } 3^n \text{, dilation } d) \\
        a &= \mathrm{prox}_{\tau\|\cdot\|_1}(z) \text{ in one of three forms}, \quad \tau = \mathrm{softplus}(t) > 0 \\
        c &= \sigma(\mathrm{MLP}(\mathrm{GAP}(g))) \\
        x' &= c \cdot a \cdot x

    The sum over scales is linear, so the branches are one sparse kernel; the weight of each scale and channel is part
    of its depthwise kernel.

    Attributes
    ----------
    fused : bool
        Use the fast kernels where they work (docs/kernels.md), the value itself is not asked for, and nothing is
        counted or estimated.
    """

    def __init__(self, channels: int, kernel: tuple[int, ...], config: GateConfig) -> None:
        super().__init__()
        conv = CONV[len(kernel)]
        self.fused = True
        self.form = config.form
        self.kernel, self.dilations = kernel, config.dilations
        self.project_skip = conv(channels, channels, 1)
        self.project_decoder = conv(channels, channels, 1, bias=False)
        self.scales = nn.ModuleList(
            conv(channels, channels, kernel, 1, tuple(d * (k // 2) for k in kernel), d, groups=channels, bias=False)
            for d in config.dilations
        )
        for weight in self.scales.parameters():
            if not weight.is_meta:  # there is nothing to draw, and torch would import its compiler for it: 2 seconds
                nn.init.normal_(weight, std=2 / math.sqrt(math.prod(kernel)))
        self.offset = nn.Parameter(torch.full((channels,), config.offset))
        self.raw_threshold = nn.Parameter(torch.full((channels,), math.log(math.expm1(config.threshold))))
        self.channel_gate = ChannelGate(channels, config.channel_reduction) if config.channel_gate else None

    def gated(self, x: Tensor, g: Tensor) -> Tensor:
        """Skip after the gate, as `SkipGate.gated`; by the fused kernels where they can be used."""
        plain = self.forced_open or self.counting or self.estimating or self.edit is not None
        if plain or not self.fused or not kernels.usable(x):
            return super().gated(x, g)
        dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else x.dtype
        x, g = x.to(dtype), g.to(dtype)
        skip_weight, decoder_weight = self.project_skip.weight.flatten(1), self.project_decoder.weight.flatten(1)
        q, context = kernels.project(x, g, skip_weight, decoder_weight, self.project_skip.bias)
        taps = kernels.merge_branches([scale.get_parameter("weight") for scale in self.scales])
        c = torch.ones_like(context) if self.channel_gate is None else self.channel_gate.weights(context)
        small = (taps, self.offset, self.threshold(), c)
        gated: Tensor = kernels.select(q, *small, x, self.kernel, self.dilations, self.form)
        return gated

    def threshold(self) -> Tensor:
        """Threshold tau per channel, shape (C,), > 0 unless an edit makes it 0."""
        tau = F.softplus(self.raw_threshold)
        return tau if self.edit is None else tau * self.edit.threshold

    def channel_weights(self, g: Tensor) -> Tensor | None:
        """Weight c of each channel, shape (B, C, 1, ...), or None where there is no channel gate or it is off."""
        if self.channel_gate is None or (self.edit is not None and not self.edit.channel_gate):
            return None
        c: Tensor = self.channel_gate(g)
        return c

    def fields(self, x: Tensor, g: Tensor) -> list[Tensor]:
        """Compatibility field z_d of each scale, each of shape (B, C, *grid)."""
        if cpu.usable(x, g):
            q = self._projected(x, g)
            branches = zip(self._branches(), self.dilations, strict=True)
            return [cpu.field(q, [w], None, cpu.Shape(self.kernel, (d,))).movedim(-1, 1) for w, d in branches]
        q = F.gelu(self.project_skip(x) + self.project_decoder(g))
        return [scale(q) for scale in self.scales]

    def activation(self, x: Tensor, g: Tensor) -> Tensor:
        """The gate's value a, shape (B, C, *grid)."""
        fast = cpu.usable(x, g)
        z, tau = self._field_at_once(x, g) if fast else self._combined(self.fields(x, g))
        if self.estimating:
            self.estimate = removed_estimate(z, tau, signed=self.form != "nonnegative")
        if fast:
            return cpu.threshold(z.movedim(1, -1), tau.flatten(), self.form).movedim(-1, 1)
        return THRESHOLDS[self.form](z, tau)

    def _field_at_once(self, x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """What `_combined` gives, its scales computed together on a CPU."""
        shape = cpu.Shape(self.kernel, self.dilations)
        z = cpu.field(self._projected(x, g), self._branches(), self.offset, shape).movedim(-1, 1)
        return z, self.threshold().view(-1, *(1,) * (x.ndim - 2))

    def _projected(self, x: Tensor, g: Tensor) -> Tensor:
        """Projected features q on a CPU, shape (B, *grid, C)."""
        skip, decoder = self.project_skip, self.project_decoder
        return cpu.project(x, g, skip.weight, decoder.weight, skip.bias)

    def _branches(self) -> list[Tensor]:
        """Depthwise kernel of each scale, shape (C, 1, *kernel)."""
        return [scale.get_parameter("weight") for scale in self.scales]

    def _combined(self, fields: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Combined field z of the scales, and the threshold in a shape that fits it."""
        per_channel = (-1,) + (1,) * (fields[0].ndim - 2)
        z = sum(fields, self.offset.view(per_channel))
        return z, self.threshold().view(per_channel).to(z.dtype)

    def apply_gate(self, a: Tensor, x: Tensor, g: Tensor) -> Tensor:
        """Skip x after gate a and channel gate c, shape (B, C, *grid)."""
        c = self.channel_weights(g)
        if cpu.usable(x, a):
            c = x.new_ones(x.shape[:2]) if c is None else c.flatten(1)
            return cpu.apply(a.movedim(1, -1), c, x)
        return a * x if c is None else c * a * x

    def record(self, x: Tensor, g: Tensor, after: Tensor) -> GateRecord:
        """What the gate does to x, computed beside the forward that gave `after`."""
        fields = tuple(self.fields(x, g))
        z, tau = self._field_at_once(x, g) if cpu.usable(x, g) else self._combined(fields)
        a = edited_weight(THRESHOLDS[self.form](z, tau), self.edit)
        c = None
        if self.channel_gate is not None:
            weights = self.channel_weights(g)
            c = x.new_ones(x.shape[:2]) if weights is None else weights.flatten(1)
            c = edited_weight(c, self.edit, closes=False)
        return GateRecord(fields, z, tau.flatten(), a, c, x, after)


def removed_estimate(z: Tensor, tau: Tensor, *, signed: bool) -> Tensor:
    """Removed fraction as a number with a gradient.

    The value is exact; the gradient is that of the mean of ``1 / (1 + (|z| / tau)^4)``, which depends on the ratio
    alone and reaches far from the threshold.

    Parameters
    ----------
    z, tau : Tensor
        Field, and threshold broadcastable to it.
    signed : bool
        Whether values at or below -tau are kept (all forms but the non-negative one).
    """
    size = z.float().abs() if signed else z.float().clamp_min(0)
    soft = (1 / (1 + (size / tau.float()) ** 4)).mean()
    exact = (size <= tau).float().mean()
    return soft + (exact - soft).detach()


class AttentionGate(SkipGate):
    r"""Additive attention gate (Oktay et al. 2018, eq. 1-2): one dense weight per voxel, never exactly 0.

    .. math:: x' = x \cdot \sigma(\psi^T \mathrm{ReLU}(W_x x + W_g g + b) + b_\psi)
    """

    def __init__(self, dims: int, channels: int) -> None:
        super().__init__()
        conv = CONV[dims]
        hidden = max(1, channels // 2)
        self.project_skip = conv(channels, hidden, 1)
        self.project_decoder = conv(channels, hidden, 1, bias=False)
        self.psi = conv(hidden, 1, 1)

    def activation(self, x: Tensor, g: Tensor) -> Tensor:
        """The gate's value, shape (B, 1, *grid), in (0, 1)."""
        return torch.sigmoid(self.psi(F.relu(self.project_skip(x) + self.project_decoder(g))))


def build_gate(channels: int, kernel: tuple[int, ...], config: GateConfig) -> SkipGate:
    """The gate of a level with this convolution kernel; ``kind="none"`` gives one that is always open.

    The depthwise kernels are 3 along each axis, and 1 along an axis the level itself does not convolve.
    """
    if config.kind == "prosma":
        return ProximalGate(channels, tuple(min(k, 3) for k in kernel), config)
    if config.kind == "attention":
        return AttentionGate(len(kernel), channels)
    gate = SkipGate()
    gate.forced_open = True
    return gate
