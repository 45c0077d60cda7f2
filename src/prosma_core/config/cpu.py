"""How a network is computed on a CPU."""

from __future__ import annotations

from pydantic import Field

from prosma_core.config.base import Config
from prosma_core.printable import counted


class CpuWay(Config):
    """Threads, and for inference number format and memory layout; training is float32 and contiguous."""

    threads: int = Field(ge=1, le=4096)
    """Threads of one operation."""
    bf16: bool = False
    """Convolutions and what lies between them in bfloat16; the gates stay float32."""
    channels_last: bool = False
    """The channels of a voxel lie side by side in memory."""

    @property
    def threads_words(self) -> str:
        """Such as "2 threads"."""
        return counted(self.threads, "thread")

    @property
    def words(self) -> str:
        """Such as "2 threads, bf16, channels last"."""
        return f"{self.threads_words}, {self.inference_words or 'fp32, contiguous'}"

    @property
    def inference_words(self) -> str:
        """What of it is not float32 and contiguous, such as "bf16"."""
        return ", ".join(name for name, on in (("bf16", self.bf16), ("channels last", self.channels_last)) if on)
