"""Settings of segmentation, and how a CPU computes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from prosma_core.config.base import Config
from prosma_core.printable import counted


class CpuSettings(Config):
    """Threads, and for inference number format and memory layout; training is float32 and contiguous."""

    threads: int = Field(ge=1, le=4096)
    """Threads of one operation."""
    bf16: bool = False
    """Convolutions and what lies between them in bfloat16; the gates stay float32."""
    channels_last: bool = False
    """The channels of a voxel lie side by side in memory."""

    @property
    def threads_text(self) -> str:
        """Such as "2 threads"."""
        return counted(self.threads, "thread")

    @property
    def words(self) -> str:
        """Such as "2 threads, bf16, channels last"."""
        return f"{self.threads_text}, {self.inference_text or 'fp32, contiguous'}"

    @property
    def inference_text(self) -> str:
        """What of it is not float32 and contiguous, such as "bf16"."""
        return ", ".join(name for name, on in (("bf16", self.bf16), ("channels last", self.channels_last)) if on)


class InferenceConfig(Config):
    """How a scan is tiled and what is written."""

    overlap: float = Field(default=0.5, ge=0, le=0.9)
    """Overlap of neighboring tiles, as a share of the tile."""
    mirror: bool = False
    """Average over mirrored copies, along the axes that the training mirrored: 2 to 8 times the work."""
    probabilities: bool = False
    """Return the probability of every class as well."""
    entropy: bool = False
    """Return the entropy of the class probabilities as well, 0 (sure) to 1 (all classes equal)."""
    threshold: float | None = Field(default=None, gt=0, lt=1)
    """Least probability of foreground (all classes but the background) for a label; off: the most likely class."""
    objects: bool = False
    """Number the objects as well, in a second map: the connected pieces of each class; touching ones count as one."""
    min_size: int = Field(default=0, ge=0)
    """Connected pieces of a class with fewer voxels become background; 0 keeps all."""
    keep_largest: bool = False
    """Keep only the largest connected piece of each class."""
    fill_holes: bool = False
    """Fill holes inside each class."""
    batch_size: int | None = Field(default=None, ge=1, le=256)
    """Tiles per forward; unless given, planned from memory."""
    region: tuple[tuple[int, int], ...] | None = None
    """Box of the scan that gets classes, (start, stop) per spatial axis in the scan's order; unless given, all."""
    slice_axis: Literal["z", "y", "x"] | None = None
    """Axis along which a 2D model walks through a 3D scan; unless given, the flat or the thickest one."""
