"""Autotuned CPU settings (threads, dtype, layout), cached per machine."""

from __future__ import annotations

import logging
import os
from functools import cache

import psutil
import torch

from prosma_core.config.inference import CpuSettings
from prosma_core.inference.cpu_autotune import Probe, bf16_supported, find_fastest, memory_format
from prosma_core.io.hardware import cpu_name, load_cpu_settings, save_cpu_settings, usable_cores

SWITCH = "PROSMA_PROBE"
"""Environment variable that turns the probe off with ``0``: float32, contiguous, a thread for each core.

``bf16`` lets it try bfloat16 as well, which some CPUs are faster with: not asked for, it is left out, as the labels of
some networks are then not those of float32 (docs/kernels.md).
"""
VERSION = 2
"""Of the probe; with another one every machine is probed again."""

_LOG = logging.getLogger(__name__)
_OURS = {torch.get_num_threads()}
"""Numbers of threads that torch, the environment or this module chose: any other was set by a person's program."""


@cache
def cpu_settings() -> CpuSettings:
    """CPU settings of this process, its number of threads set; autotunes a machine without cached settings."""
    settings = known_cpu_settings() or probe_cpu().settings
    _set_threads(settings)
    return settings


def known_cpu_settings() -> CpuSettings | None:
    """What `cpu_settings` gives, where that needs no autotuning; else None."""
    if cpu_settings.cache_info().currsize:
        return cpu_settings()
    return load_cpu_settings(_key()) if _wanted() else default_cpu_settings()


def default_cpu_settings() -> CpuSettings:
    """Settings that suit any machine: float32, contiguous, a thread for each physical core available to us."""
    if _threads_given():
        return CpuSettings(threads=torch.get_num_threads())
    return CpuSettings(threads=min(torch.get_num_threads(), psutil.cpu_count(logical=False) or 4096, usable_cores()))


def probe_cpu() -> Probe:
    """Autotune this machine, known or not, and cache the settings where that is possible."""
    cores = None if _threads_given() else usable_cores()
    found = find_fastest(default_cpu_settings().threads, cores, bf16=_bf16_wanted() and bf16_supported())
    _LOG.info("This CPU was probed in %.1f s: %s.", found.seconds, found.settings.words)
    save_cpu_settings(_key(), found.settings)
    return found


def start_threads() -> None:
    """Set the number of threads of a process that starts, without autotuning."""
    _set_threads(known_cpu_settings() or default_cpu_settings())


def inference_dtype(device: torch.device) -> torch.dtype:
    """What inference on a device computes in: float16 with CUDA, bfloat16 on a CPU where asked for and fastest.

    Of the two, float16 has three more bits, and gives the labels of float32 but for a few voxels in 10,000; what
    overflows there is computed in bfloat16 (`prosma_core.inference.tiled`).
    """
    if device.type == "cuda":
        return torch.float16
    return torch.bfloat16 if device.type == "cpu" and cpu_settings().bf16 else torch.float32


def inference_layout(device: torch.device, dims: int) -> torch.memory_format:
    """Memory layout of weights and images for inference with a network of so many spatial axes."""
    return memory_format(dims, cpu_settings()) if device.type == "cpu" else torch.contiguous_format


def _wanted() -> bool:
    return os.environ.get(SWITCH) != "0"


def _bf16_wanted() -> bool:
    return os.environ.get(SWITCH) == "bf16"


def _set_threads(settings: CpuSettings) -> None:
    if not _threads_given():
        _OURS.add(settings.threads)
        torch.set_num_threads(settings.threads)


def _threads_given() -> bool:
    """Whether a person said how many threads there are to be."""
    said = os.environ.get("OMP_NUM_THREADS") or os.environ.get("MKL_NUM_THREADS")
    return bool(said) or torch.get_num_threads() not in _OURS


def _key() -> str:
    """What the fastest settings depend on."""
    features = [
        torch.backends.cpu.get_cpu_capability(),
        *(["bf16"] if bf16_supported() else []),
        *(["bf16 tried"] if _bf16_wanted() else []),
    ]
    given = [f"{torch.get_num_threads()} threads given"] if _threads_given() else []
    parts = [cpu_name(), *features, f"{usable_cores()} cores", *given, f"torch {torch.__version__}", f"probe {VERSION}"]
    return ", ".join(parts)
