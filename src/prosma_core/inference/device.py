"""Choice of the device and the reason for it, free memory, out-of-memory errors."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import psutil
import torch

from prosma_core.errors import DeviceError
from prosma_core.events import Event, StageStarted
from prosma_core.inference.cpu_tuning import cpu_settings, default_cpu_settings, known_cpu_settings


@dataclass(frozen=True)
class DeviceChoice:
    """A device, and the reason for it, in words.

    Attributes
    ----------
    device : torch.device
    name, why : str
        Such as "CPU, 2 threads" and "chosen".
    inference : str
        What inference does there, such as "bf16"; training on a CPU is float32.
    """

    device: torch.device
    name: str
    why: str = ""
    inference: str = ""

    @property
    def reason(self) -> str:
        """Name and reason."""
        return f"{self.name} ({self.why})" if self.why else self.name

    @property
    def inferring(self) -> str:
        """Name and reason, and how inference computes."""
        return replace(self, name=f"{self.name}, {self.inference}").reason if self.inference else self.reason


def prepare_device(name: str) -> Generator[Event, None, DeviceChoice]:
    """Device by name, as `choose_device`; a CPU that is not known yet is probed before, which takes two seconds."""
    choice = choose_device(name)
    if choice.device.type == "cpu":
        if known_cpu_settings() is None:
            yield StageStarted("Benchmarking this CPU (first run only)…")
        cpu_settings()
        choice = choose_device(name)
    return choice


def choose_device(name: str) -> DeviceChoice:
    """Device by name; ``"auto"`` takes the first of CUDA, MPS and CPU that works.

    Raises
    ------
    DeviceError
        The device named is not usable here; the text says why and what is.
    """
    if name == "auto":
        missing = cuda_missing()
        if missing is None:
            return DeviceChoice(torch.device("cuda"), f"GPU {torch.cuda.get_device_name()}")
        if torch.backends.mps.is_available():
            return DeviceChoice(torch.device("mps"), "Apple GPU", "mps")
        return _cpu(missing)
    if name == "cpu":
        return _cpu("chosen")
    if name == "cuda":
        missing = cuda_missing()
        if missing is None:
            return DeviceChoice(torch.device("cuda"), f"GPU {torch.cuda.get_device_name()}", "chosen")
        msg = f"Device 'cuda' cannot be used: {missing}. Choose auto or cpu."
        raise DeviceError(msg)
    if name == "mps":
        if torch.backends.mps.is_available():
            return DeviceChoice(torch.device("mps"), "Apple GPU", "chosen")
        msg = (
            "Device 'mps' cannot be used: this is not a Mac with an Apple "
            "GPU, or torch was built without it. Choose auto or cpu."
        )
        raise DeviceError(msg)
    msg = f"Device {name!r} does not exist; use auto, cpu, cuda or mps."
    raise DeviceError(msg)


def _cpu(why: str) -> DeviceChoice:
    settings = known_cpu_settings() or default_cpu_settings()
    return DeviceChoice(torch.device("cpu"), f"CPU, {settings.threads_text}", why, settings.inference_text)


def cuda_missing() -> str | None:
    """Why CUDA cannot be used, or None where it can."""
    if torch.cuda.is_available():
        return None
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is a build without CUDA"
    return f"torch {torch.__version__} finds no NVIDIA GPU or driver"


def memory_ended(error: Exception) -> bool:
    """Whether an error of torch or numpy says that memory ended; off CUDA, torch raises a plain RuntimeError."""
    signs = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(sign in str(error) for sign in signs)


@contextmanager
def name_memory_errors() -> Iterator[None]:
    """Turn what torch or numpy raise within, when main memory ends, into `DeviceError`."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not memory_ended(error):
            raise
        msg = "Main memory ran out during segmentation. Close other programs or crop the scan."
        raise DeviceError(msg) from error


_LIMIT: list[int] = []
"""Bytes of main memory that this process may take."""


def limit_memory(limit: int | None) -> None:
    """Let `free_memory` count with so many bytes of main memory for this process at most."""
    _LIMIT[:] = [limit] if limit else []


def free_memory(device: torch.device) -> int:
    """Bytes that can be taken on a device now."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    available = int(psutil.virtual_memory().available)
    return max(0, min(available, _LIMIT[0] - int(psutil.Process().memory_info().rss))) if _LIMIT else available


def used_memory() -> int:
    """Bytes of main memory that this process holds now, libraries and models included."""
    return int(psutil.Process().memory_info().rss)
