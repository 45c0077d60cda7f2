"""Settings that turn a scan into what the network sees, stored in the model; voxel sizes."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from prosma_core.config.base import Config

LengthUnit = Literal["km", "m", "dm", "cm", "mm", "um", "nm", "pm", "angstrom", "inch", "ft", "thou"]


class VoxelSize(Config):
    """Edge lengths of a voxel."""

    sizes: tuple[Positive, ...] = Field(min_length=1, max_length=3)
    """Along z, y and x; along y and x; or one number for all axes."""
    unit: LengthUnit = "mm"
    """Unit of the sizes."""


Positive = Annotated[float, Field(gt=0)]
Resample = Literal["spacing", "longest_side", "none"]
Size = Annotated[int, Field(ge=1, le=4096)]


class ChannelIntensity(Config):
    """How the values of one channel are normalised."""

    kind: Literal["zscore", "ct"] = "zscore"
    """``zscore``: by the scan's mean and deviation; ``ct``: clip, then by the training set's mean and deviation."""
    low: float = 0.0
    """Lower clip of ``ct``, in the scan's own values (Hounsfield units)."""
    high: float = 0.0
    """Upper clip of ``ct``."""
    mean: float = 0.0
    """Mean of the foreground of the training set, after clipping."""
    std: float = Field(default=1.0, gt=0)
    """Standard deviation of the same."""


class PreprocessConfig(Config):
    """From the scan's own grid and values to the network's."""

    dims: Literal[2, 3]
    """Spatial axes of a tile."""
    channels: tuple[str, ...] = Field(min_length=1, max_length=64)
    """Channel names, in the network's order."""
    orientation: Literal["RAS"] | None = None
    """Patient axes the scan is turned to first (whole axes and flips, no interpolation); None keeps the file's."""
    resample: Resample = "none"
    """To `spacing`; or so that the longest side has `longest_side` pixels (pictures without a scale); or not at all."""
    spacing: tuple[Positive, ...] = ()
    """Target voxel size per spatial axis (z, y, x), in `unit`."""
    unit: str = "pixel"
    """Unit of `spacing`."""
    longest_side: int | None = Field(default=None, ge=8, le=16384)
    """Target of ``resample="longest_side"``, in pixels."""
    intensities: tuple[ChannelIntensity, ...]
    """One per channel."""
    tile: tuple[Size, ...]
    """Tile = training patch, in voxels of the target grid, per spatial axis."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.intensities) != len(self.channels):
            msg = f"{len(self.channels)} channels need as many intensity settings, got {len(self.intensities)}"
            raise ValueError(msg)
        if len(self.tile) != self.dims:
            msg = f"tile needs {self.dims} numbers, got {self.tile}"
            raise ValueError(msg)
        if self.resample == "spacing" and len(self.spacing) != self.dims:
            msg = f"resample 'spacing' needs {self.dims} spacings, got {self.spacing}"
            raise ValueError(msg)
        if self.resample == "longest_side" and self.longest_side is None:
            msg = "resample 'longest_side' needs longest_side"
            raise ValueError(msg)
        return self
