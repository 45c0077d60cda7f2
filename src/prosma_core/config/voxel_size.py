"""The size of voxels, given by a person for scans that state none."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from prosma_core.config.base import Config
from prosma_core.config.preprocess import Positive

LengthUnit = Literal["km", "m", "dm", "cm", "mm", "um", "nm", "pm", "angstrom", "inch", "ft", "thou"]


class VoxelSize(Config):
    """Edge lengths of a voxel."""

    sizes: tuple[Positive, ...] = Field(min_length=1, max_length=3)
    """Along z, y and x; along y and x; or one number for all axes."""
    unit: LengthUnit = "mm"
    """Unit of the sizes."""
