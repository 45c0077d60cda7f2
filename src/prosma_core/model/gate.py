"""The proximal-sparse gate, the attention gate it is compared with, and which one a level has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prosma_core.config.model import GateConfig, GateForm
from prosma_core.errors import ChannelError, ConfigError, GeometryError
from prosma_core.model import kernels
from prosma_core.model.blocks import CONV, ChannelGate
from prosma_core.model.gate_record import GateRecord, edited_weight
from prosma_core.model.kernels import cpu
from prosma_core.model.prox import THRESHOLDS
from prosma_core.model.skip_gate import SkipGate

KERNEL_SIZES = (1, 3, 5, 7)
"""Sizes that a depthwise kernel may have along an axis."""
LINEAR = {2: "bilinear", 3: "trilinear"}
"""Interpolation of decoder features by the number of spatial axes."""


class ProximalGate(SkipGate):
    """Decoder-conditioned proximal-sparse gate (arXiv 2603.03187; our reading in docs/method.md).

        q  = GELU(W_x x + W_g g + b)
        z  = sum over dilations d of (D_d * q) + beta      depthwise 3^n kernels D_d
        a  = prox of tau ||.||_1 at z                      in one of three forms; tau = softplus(t) > 0
        c  = sigmoid(MLP(GAP(g)))                          one weight per channel
        x' = c . a . x

    The sum over scales is linear, so the branches are one sparse kernel; the weight of each scale and channel is part
    of its depthwise kernel.

    Parameters
    ----------
    skip_channels : int
        Channels C of the skip x.
    decoder_channels : int, optional
        Channels of the decoder features g; as many as the skip unless given.
    dims : int
        Number of spatial axes, 2 or 3.
    kernel_size : int or sequence of int
        Size of the depthwise kernels, for all spatial axes or one by one; odd, 1 to 7. 1 along an axis leaves it out.
    dilations : sequence of int
        Dilation of each depthwise branch, 1 to 16; at most 6.
    form : {"bounded", "signed", "nonnegative"}
        What becomes of the prox p: tanh(p), p, or max(z - tau, 0).
    threshold : float
        Initial threshold tau of all channels, above 0, at most 10; learned from there.
    offset : float
        Initial offset beta of the field, -10 to 10: above the threshold, the gate begins open.
    channel_gate : bool
        Gate whole channels by the decoder's global context as well.
    channel_reduction : int
        The channel gate's hidden width is C divided by this, 1 to 64.

    Attributes
    ----------
    fused : bool
        Use the fast kernels where they work (docs/kernels.md), the value itself is not asked for, and nothing is
        counted or estimated. False: plain PyTorch on every device, which is slower, and which double backward in
        float32, `torch.func` and hooks on the modules inside need.

    Raises
    ------
    ConfigError
        An argument is out of its bounds.

    Examples
    --------
    >>> import torch
    >>> gate = ProximalGate(16, 32, dims=2)
    >>> skip, decoder = torch.randn(1, 16, 24, 24), torch.randn(1, 32, 12, 12)
    >>> gate(skip, decoder).shape
    torch.Size([1, 16, 24, 24])
    """

    def __init__(
        self,
        skip_channels: int,
        decoder_channels: int | None = None,
        *,
        dims: int,
        kernel_size: int | Sequence[int] = 3,
        dilations: Sequence[int] = (1, 2, 4),
        form: GateForm = "bounded",
        threshold: float = 0.6,
        offset: float = 0.0,
        channel_gate: bool = True,
        channel_reduction: int = 4,
    ) -> None:
        super().__init__()
        channels, decoder = skip_channels, skip_channels if decoder_channels is None else decoder_channels
        kernel = _kernel_of(dims, kernel_size)
        _check_channels(channels, decoder)
        settings = {"dilations": dilations, "form": form, "threshold": threshold, "offset": offset}
        config = GateConfig.parse({**settings, "channel_reduction": channel_reduction}, "The gate")
        conv = CONV[dims]
        self.fused = True
        self.form = config.form
        self.skip_channels, self.decoder_channels = channels, decoder
        self.kernel, self.dilations = kernel, config.dilations
        self.project_skip = conv(channels, channels, 1)
        self.project_decoder = conv(decoder, channels, 1, bias=False)
        self.scales = nn.ModuleList(
            conv(channels, channels, kernel, 1, tuple(d * (k // 2) for k in kernel), d, groups=channels, bias=False)
            for d in config.dilations
        )
        for weight in self.scales.parameters():
            if not weight.is_meta:  # there is nothing to draw, and torch would import its compiler for it: 2 seconds
                nn.init.normal_(weight, std=2 / math.sqrt(math.prod(kernel)))
        self.offset = nn.Parameter(torch.full((channels,), config.offset))
        self.raw_threshold = nn.Parameter(torch.full((channels,), math.log(math.expm1(config.threshold))))
        self.channel_gate = ChannelGate(decoder, channels, config.channel_reduction) if channel_gate else None

    @classmethod
    def of_level(cls, channels: int, kernel: tuple[int, ...], config: GateConfig) -> Self:
        """Gate of a network's level with these settings: skip and decoder have the same channels there."""
        return cls(channels, dims=len(kernel), kernel_size=kernel, **config.model_dump(exclude={"kind"}))

    def forward(self, x: Tensor, g: Tensor) -> Tensor:
        """Gated skip.

        Parameters
        ----------
        x : Tensor, floating point, shape (B, skip_channels, *grid)
            Encoder features.
        g : Tensor, floating point, shape (B, decoder_channels, *any grid)
            Decoder features of the same part of the image. On another grid, they are interpolated (linearly) to that
            of x.

        Returns
        -------
        Tensor, shape and dtype of x

        Raises
        ------
        ChannelError, GeometryError
            A tensor has other channels, axes or batch; the text names the legal ones. Not in a compiled or exported
            gate.
        """
        if not torch.compiler.is_compiling():
            self._check(x, g)
        if g.shape[2:] != x.shape[2:]:
            g = F.interpolate(g, size=x.shape[2:], mode=LINEAR[len(self.kernel)])
        return super().forward(x, g)

    def _check(self, x: Tensor, g: Tensor) -> None:
        dims = len(self.kernel)
        for name, t, channels in (("Skip", x, self.skip_channels), ("Decoder", g, self.decoder_channels)):
            legal = f"this gate takes (batch, {channels}, then {dims} spatial axes)"
            if t.ndim != dims + 2:
                msg = f"{name} features of shape {tuple(t.shape)}: {legal}."
                raise GeometryError(msg)
            if t.shape[1] != channels:
                msg = f"{name} features of shape {tuple(t.shape)}: {legal}. Make the gate with these channels."
                raise ChannelError(msg)
        if x.shape[0] != g.shape[0]:
            msg = f"Skip and decoder have batches of {x.shape[0]} and {g.shape[0]}: give features of the same images."
            raise GeometryError(msg)

    def gated(self, x: Tensor, g: Tensor) -> Tensor:
        """Skip after the gate, as `SkipGate.gated`; by the fused kernels where they can be used."""
        plain = self.forced_open or self.counting or self.estimating or self.edit is not None
        if plain or not self.fused or self.decoder_channels != self.skip_channels or not kernels.usable(x):
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
        if self._fast_on_cpu(x, g):
            q = self._projected(x, g)
            branches = zip(self._branches(), self.dilations, strict=True)
            return [cpu.field(q, [w], None, cpu.Shape(self.kernel, (d,))).movedim(-1, 1) for w, d in branches]
        q = F.gelu(self.project_skip(x) + self.project_decoder(g))
        return [scale(q) for scale in self.scales]

    def activation(self, x: Tensor, g: Tensor) -> Tensor:
        """The gate's value a, shape (B, C, *grid)."""
        fast = self._fast_on_cpu(x, g)
        z, tau = self._field_at_once(x, g) if fast else self._combined(self.fields(x, g))
        if self.estimating:
            self.estimate = removed_estimate(z, tau, signed=self.form != "nonnegative")
        if fast:
            return cpu.threshold(z.movedim(1, -1), tau.flatten(), self.form).movedim(-1, 1)
        return THRESHOLDS[self.form](z, tau)

    def _fast_on_cpu(self, *tensors: Tensor) -> bool:
        """Whether the kernels for x86 processors take these tensors."""
        return self.fused and cpu.usable(*tensors)

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
        if self._fast_on_cpu(x, a):
            c = x.new_ones(x.shape[:2]) if c is None else c.flatten(1)
            return cpu.apply(a.movedim(1, -1), c, x)
        return a * x if c is None else c * a * x

    def record(self, x: Tensor, g: Tensor, after: Tensor) -> GateRecord:
        """What the gate does to x, computed beside the forward that gave `after`."""
        fields = tuple(self.fields(x, g))
        z, tau = self._field_at_once(x, g) if self._fast_on_cpu(x, g) else self._combined(fields)
        a = edited_weight(THRESHOLDS[self.form](z, tau), self.edit)
        c = None
        if self.channel_gate is not None:
            weights = self.channel_weights(g)
            c = x.new_ones(x.shape[:2]) if weights is None else weights.flatten(1)
            c = edited_weight(c, self.edit, closes=False)
        return GateRecord(fields, z, tau.flatten(), a, c, x, after)


def _kernel_of(dims: int, size: int | Sequence[int]) -> tuple[int, ...]:
    """Kernel size per spatial axis."""
    if dims not in CONV:
        msg = f"A gate of {dims!r} spatial axes: dims is 2 or 3."
        raise ConfigError(msg)
    kernel = (size,) * dims if isinstance(size, int) else tuple(size)
    if len(kernel) != dims or any(k not in KERNEL_SIZES for k in kernel):
        legal = ", ".join(map(str, KERNEL_SIZES))
        msg = f"Kernel size {size} of a gate in {dims}D: give one of {legal}, or {dims} of them, one per spatial axis."
        raise ConfigError(msg)
    return kernel


def _check_channels(skip: int, decoder: int) -> None:
    for name, channels in (("skip", skip), ("decoder", decoder)):
        if not isinstance(channels, int) or channels < 1:
            msg = f"A gate of {channels!r} {name} channels: give a whole number of 1 or more."
            raise ConfigError(msg)


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
        return ProximalGate.of_level(channels, tuple(min(k, 3) for k in kernel), config)
    if config.kind == "attention":
        return AttentionGate(len(kernel), channels)
    gate = SkipGate()
    gate.forced_open = True
    return gate
