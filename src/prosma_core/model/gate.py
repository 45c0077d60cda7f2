"""The proximal-sparse gate, the attention gate it is compared with, and the choice between them per level."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, Literal, Self, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prosma_core.config.model import ONE_SIDED, GateConfig, GateForm
from prosma_core.errors import ChannelError, ConfigError, GeometryError
from prosma_core.model.blocks import CONV, ChannelGate
from prosma_core.model.kernels import dispatch
from prosma_core.model.prox import removed_estimate

KERNEL_SIZES = (1, 3, 5, 7)
"""Sizes that a depthwise kernel may have along an axis."""
LINEAR = {2: "bilinear", 3: "trilinear"}
"""Interpolation of decoder features by the number of spatial axes."""


Gate = TypeVar("Gate", bound="SkipGate")
Forward = Callable[[Gate, Tensor, Tensor], Tensor]


def float32_on_cpu(forward: Forward[Gate]) -> Forward[Gate]:
    """Decorator of a gate's forward: in float32 under a CPU's autocast, as the fast kernels are (docs/kernels.md)."""

    @wraps(forward)
    def in_float32(gate: Gate, x: Tensor, g: Tensor) -> Tensor:
        if not torch.is_autocast_enabled("cpu") or x.device.type != "cpu":
            return forward(gate, x, g)
        with torch.autocast("cpu", enabled=False):
            return forward(gate, x.float(), g.float()).to(x.dtype)

    return in_float32


class HookPoint(nn.Identity):
    """A value of a gate's formula under a name: forward hooks on it read the value or, by returning another, change it.

    A copy of a gate has no hooks on its points.
    """

    @property
    def watched(self) -> bool:
        """Whether there is a hook."""
        return bool(self._forward_hooks or self._forward_pre_hooks)

    def __deepcopy__(self, memo: dict[int, Any]) -> HookPoint:
        """A point without hooks."""
        return HookPoint()


class SkipGate(nn.Module):
    """A skip connection that may change what the decoder receives; this one passes the skip unchanged.

    `prosma_core.model.gate_hooks` records, counts and edits gates by hooks on their points.

    Attributes
    ----------
    hook_x, hook_a, hook_out : HookPoint
        Skip before the gate, the gate's value a (where it has one; 0 exactly where x is removed), and the gated skip;
        each of shape (B, C, *grid).
    forced : {"open", "closed"} or None
        Pass all or nothing, whatever was learned. The formula is computed only where `hook_x` is watched; its a and c
        are then those of the open or closed gate.
    estimate : Tensor or None
        Removed fraction of the last forward, differentiable, see `prosma_core.model.gate_hooks.estimate_removed`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.hook_x, self.hook_a, self.hook_out = HookPoint(), HookPoint(), HookPoint()
        self.forced: Literal["open", "closed"] | None = None
        self.estimate: Tensor | None = None

    def __getstate__(self) -> dict[str, Any]:
        """State of a copy: all but the estimate, which belongs to a graph."""
        return {**self.__dict__, "estimate": None}

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
        x = self.hook_x(x)
        return self.hook_out(x if self.forced is None else self.forced_skip(x))  # type: ignore[no-any-return]

    @property
    def skips_formula(self) -> bool:
        """Whether the gate is forced open or closed, and nobody wants to know what it had done."""
        return self.forced is not None and not self.hook_x.watched

    def forced_skip(self, x: Tensor) -> Tensor:
        """Skip after a gate that is forced open or closed."""
        return x if self._opens else torch.zeros_like(x)

    def in_force(self, value: Tensor, *, closes: bool = True) -> Tensor:
        """A gate's value or, where it is forced, 1 (open) or 0 (closed; as it is without `closes`)."""
        if self.forced is None or not (self._opens or closes):
            return value
        return torch.full_like(value, float(self._opens))

    @property
    def _opens(self) -> bool:
        """Whether a forced gate is open."""
        if self.forced not in ("open", "closed"):
            msg = f"A gate forced {self.forced!r}: forced is 'open', 'closed' or None."
            raise ConfigError(msg)
        return self.forced == "open"

    def threshold(self) -> Tensor | None:
        """Threshold tau per channel, shape (C,), or None for a gate without one."""
        return None


class ProximalGate(SkipGate):
    """Decoder-conditioned proximal-sparse gate (arXiv 2603.03187; our reading in docs/method.md).

        q  = GELU(W_x x + W_g g + b)
        z  = sum over dilations d of (D_d * q) + beta      depthwise 3^n kernels D_d
        a  = prox of tau ||.||_1 at z                      in one of three forms; tau = softplus(t) > 0
        c  = sigmoid(MLP(GAP(g)))                          one weight per channel
        x' = c . a . x

    The sum over scales is linear, so the branches are one sparse kernel; the weight of each scale and channel is part
    of its depthwise kernel. `forward` is this formula; `prosma_core.model.kernels.dispatch` chooses what computes it.

    Parameters
    ----------
    skip_channels : int
        Channels C of the skip x.
    decoder_channels : int, optional
        Channels of the decoder features g; as many as the skip unless given.
    dims : int
        Number of spatial axes, 2 or 3.
    kernel_size : int or sequence of int
        Size of the depthwise kernels, for all spatial axes or per axis; odd, 1 to 7. With 1 along an axis, there is no
        convolution along it.
    dilations : sequence of int
        Dilation of each depthwise branch, 1 to 16; at most 6.
    form : {"bounded", "signed", "nonnegative"}
        Gate value a from the prox p: tanh(p), p, or max(z - tau, 0).
    threshold : float
        Initial threshold tau of all channels, above 0, at most 10; learned from there.
    offset : float
        Initial offset beta of the field, -10 to 10: above the threshold, the gate is open at first.
    channel_gate : bool
        Gate whole channels by the decoder's global context, too.
    channel_reduction : int
        The channel gate's hidden width is C divided by this, 1 to 64.

    Attributes
    ----------
    fused : bool
        Use the fast kernels where they work (docs/kernels.md). False: plain PyTorch on every device, which is slower,
        and which double backward in float32, `torch.func` and hooks on the convolutions inside need.
    hook_x, hook_q, hook_tau, hook_z, hook_a, hook_c, hook_out : HookPoint
        The values of the formula: x, q, z, a and x' of shape (B, C, *grid), tau (C,), c (B, C). A hook on `hook_z` or
        `hook_a` makes the gate plain PyTorch on a GPU.

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
        self.hook_q, self.hook_tau, self.hook_z, self.hook_c = HookPoint(), HookPoint(), HookPoint(), HookPoint()
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
            if not weight.is_meta:  # nothing to draw, and torch would import its compiler for it: 2 seconds
                nn.init.normal_(weight, std=2 / math.sqrt(math.prod(kernel)))
        self.offset = nn.Parameter(torch.full((channels,), config.offset))
        self.raw_threshold = nn.Parameter(torch.full((channels,), math.log(math.expm1(config.threshold))))
        self.channel_gate = ChannelGate(decoder, channels, config.channel_reduction) if channel_gate else None

    @classmethod
    def of_level(cls, channels: int, kernel: tuple[int, ...], config: GateConfig) -> Self:
        """Gate of a network's level with these settings: skip and decoder have the same channels there."""
        return cls(channels, dims=len(kernel), kernel_size=kernel, **config.model_dump(exclude={"kind"}))

    @float32_on_cpu
    def forward(self, x: Tensor, g: Tensor) -> Tensor:
        """Gated skip x'.

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
        TypeError
            One is no tensor of floating-point numbers.
        """
        x = self.hook_x(x)
        if self.skips_formula:
            return self.forced_skip(x)
        watched = self.watched or self.forced is not None
        backend, x, g = dispatch(x, self._on_grid_of(x, g), form=self.form, fused=self.fused, watched=watched)
        q, context = backend.project(x, g, self.project_skip, self.project_decoder)  # GELU(W_x x + W_g g + b), GAP(g)
        q, tau = self.hook_q(q), self.hook_tau(self.threshold())
        z = self.hook_z(backend.field(q, [*self.scales], self.offset))  # sum of D_d * q, + beta
        del q  # without gradients, its memory is free for the rest
        a = self.hook_a(self.in_force(backend.prox(z, tau, self.form, keep=self.hook_z.watched)))  # prox of tau ||.||_1
        c = None if self.channel_gate is None else self.channel_gate(context)  # sigmoid(MLP(GAP(g)))
        c = None if c is None else self.hook_c(self.in_force(c, closes=False))
        return self.hook_out(backend.apply(c, a, x))  # type: ignore[no-any-return]  # c . a . x

    def threshold(self) -> Tensor:
        """Threshold tau per channel, shape (C,), > 0."""
        return F.softplus(self.raw_threshold)

    @property
    def watched(self) -> bool:
        """Whether a hook wants the field or the gate's value."""
        return self.hook_z.watched or self.hook_a.watched

    def fields(self, q: Tensor) -> tuple[Tensor, ...]:
        """Compatibility field z_d of each scale, without offset, from projected features q; each of shape of q."""
        backend, q, _ = dispatch(q, q, form=self.form, fused=self.fused, watched=True)
        return tuple(backend.field(q, [scale], None) for scale in self.scales)

    def removed(self, z: Tensor, tau: Tensor) -> Tensor:
        """Removed fraction with a gradient, from field z and threshold tau, see `removed_estimate`."""
        return removed_estimate(z, tau.view(-1, *(1,) * (z.ndim - 2)), signed=self.form not in ONE_SIDED)

    def _on_grid_of(self, x: Tensor, g: Tensor) -> Tensor:
        """Decoder features on the grid of the skip; raises where they do not fit."""
        if not torch.compiler.is_compiling():
            self._check(x, g)
        if g.shape[2:] == x.shape[2:]:
            return g
        return F.interpolate(g, size=x.shape[2:], mode=LINEAR[len(self.kernel)])

    def _check(self, x: Tensor, g: Tensor) -> None:
        dims = len(self.kernel)
        for name, t, channels in (("Skip", x, self.skip_channels), ("Decoder", g, self.decoder_channels)):
            legal = f"this gate takes (batch, {channels}, then {dims} spatial axes)"
            if not isinstance(t, Tensor) or not t.is_floating_point():
                kind = t.dtype if isinstance(t, Tensor) else type(t).__name__
                msg = f"{name} features of type {kind}: {legal}, a tensor of floating-point numbers."
                raise TypeError(msg)
            if t.ndim != dims + 2:
                msg = f"{name} features of shape {tuple(t.shape)}: {legal}."
                raise GeometryError(msg)
            if t.shape[1] != channels:
                msg = f"{name} features of shape {tuple(t.shape)}: {legal}. Make the gate with these channels."
                raise ChannelError(msg)
            if 0 in t.shape:
                msg = f"{name} features of shape {tuple(t.shape)} are empty: {legal}, each at least 1."
                raise GeometryError(msg)
        if x.shape[0] != g.shape[0]:
            msg = f"Skip and decoder have batches of {x.shape[0]} and {g.shape[0]}: give features of the same images."
            raise GeometryError(msg)


def _kernel_of(dims: int, size: int | Sequence[int]) -> tuple[int, ...]:
    """Kernel size per spatial axis."""
    if dims not in tuple(CONV):
        msg = f"A gate of {dims!r} spatial axes: dims is 2 or 3."
        raise ConfigError(msg)
    kernel = tuple(size) if isinstance(size, Sequence) else (size,) * dims
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

    @float32_on_cpu
    def forward(self, x: Tensor, g: Tensor) -> Tensor:
        """Gated skip, shape (B, C, *grid); parameters as of `SkipGate`."""
        x = self.hook_x(x)
        if self.skips_formula:
            return self.forced_skip(x)
        a = torch.sigmoid(self.psi(F.relu(self.project_skip(x) + self.project_decoder(g))))  # (B, 1, *grid)
        return self.hook_out(self.hook_a(self.in_force(a.expand_as(x))) * x)  # type: ignore[no-any-return]


def build_gate(channels: int, kernel: tuple[int, ...], config: GateConfig) -> SkipGate:
    """Gate of a level with this convolution kernel; ``kind="none"`` gives a plain skip.

    The depthwise kernels are 3 along each axis, and 1 along an axis that the level itself does not convolve.
    """
    if config.kind == "prosma":
        return ProximalGate.of_level(channels, tuple(min(k, 3) for k in kernel), config)
    if config.kind == "attention":
        return AttentionGate(len(kernel), channels)
    return SkipGate()
