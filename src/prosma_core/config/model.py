"""Settings that fix the network: what a model file needs to build it again."""

from __future__ import annotations

from math import prod
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from prosma_core.config.base import Config

GateKind = Literal["prosma", "none", "attention"]
GateForm = Literal["signed", "bounded", "nonnegative"]
Color = Annotated[str, Field(pattern="^#[0-9a-fA-F]{6}$")]
Axes = tuple[Annotated[int, Field(ge=1, le=7)], ...]

MAX_WIDTH = 1024
MAX_STAGES = 8


class ClassInfo(Config):
    """One class of a label map."""

    value: int = Field(ge=0, le=65535)
    """Number the class has in label maps."""
    name: str = Field(min_length=1, max_length=200)
    """Plain-text name."""
    color: Color = "#e6194b"
    """Color for display, ``#rrggbb``."""


class GateConfig(Config):
    """What each skip connection does with the encoder's features."""

    kind: GateKind = "prosma"
    """``prosma``: proximal-sparse gate; ``none``: plain U-Net; ``attention``: Oktay et al. 2018."""
    form: GateForm = "bounded"
    """What becomes of the prox p: ``signed`` p, ``bounded`` tanh(p), ``nonnegative`` max(z - tau, 0)."""
    dilations: tuple[Annotated[int, Field(ge=1, le=16)], ...] = Field(default=(1, 2, 4), min_length=1, max_length=6)
    """Dilation of each depthwise branch: the local and contextual scales of the compatibility field."""
    threshold: float = Field(default=0.6, gt=0, le=10)
    """Initial threshold tau, the same for all channels; learned from there."""
    offset: float = Field(default=0.0, ge=-10, le=10)
    """Initial offset beta of the field, the same for all channels: above the threshold, the gate begins open."""
    channel_gate: bool = True
    """Gate whole channels by the decoder's global context as well."""
    channel_reduction: int = Field(default=4, ge=1, le=64)
    """The channel gate's hidden width is C divided by this."""


class ModelConfig(Config):
    """A U-Net with gated skips, in 2D or 3D."""

    dims: Literal[2, 3]
    """Number of spatial axes."""
    in_channels: int = Field(ge=1, le=64)
    """Channels of the scan."""
    num_classes: int = Field(ge=2, le=1024)
    """Classes, background among them."""
    widths: tuple[Annotated[int, Field(ge=1, le=MAX_WIDTH)], ...] = Field(min_length=2, max_length=MAX_STAGES)
    """Channels of each stage, finest first."""
    strides: tuple[Axes, ...]
    """Downsampling of each stage per spatial axis, against the stage before; the first is all 1."""
    kernels: tuple[Axes, ...]
    """Kernel size of each stage per spatial axis; odd."""
    blocks: int = Field(default=1, ge=1, le=8)
    """Residual blocks per encoder stage."""
    gate: GateConfig = GateConfig()
    """The skip connections."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        stages = len(self.widths)
        if len(self.strides) != stages or len(self.kernels) != stages:
            msg = f"{stages} widths need as many strides and kernels, got {len(self.strides)} and {len(self.kernels)}"
            raise ValueError(msg)
        if any(len(s) != self.dims for s in (*self.strides, *self.kernels)):
            msg = f"every stride and kernel needs {self.dims} numbers, one per spatial axis"
            raise ValueError(msg)
        if set(self.strides[0]) != {1}:
            msg = f"the first stage keeps the resolution: its stride must be all 1, got {self.strides[0]}"
            raise ValueError(msg)
        if any(k % 2 == 0 for kernel in self.kernels for k in kernel):
            msg = "kernel sizes must be odd"
            raise ValueError(msg)
        return self

    @property
    def divisor(self) -> tuple[int, ...]:
        """What each spatial axis of an input must be a multiple of."""
        return tuple(prod(stride[axis] for stride in self.strides) for axis in range(self.dims))
