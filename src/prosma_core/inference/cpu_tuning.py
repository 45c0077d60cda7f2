"""How networks are computed on the CPU of a machine: found out by a probe, kept in a file, the same from then on."""

from __future__ import annotations

import logging
import os
from functools import cache

import psutil
import torch

from prosma_core.config.inference import CpuSettings
from prosma_core.inference.cpu_autotune import Probe, bf16_supported, find_way, memory_format
from prosma_core.io.hardware import cpu_name, keep_way, kept_way, usable_cores

SWITCH = "PROSMA_PROBE"
"""Environment variable that turns the probe off with ``0``: float32, contiguous, a thread for each core."""
VERSION = 1
"""Of the probe; with another one every machine is probed again."""

_LOG = logging.getLogger(__name__)
_OURS = {torch.get_num_threads()}
"""Numbers of threads that torch, the environment or this module chose: any other was set by a person's program."""


@cache
def cpu_way() -> CpuSettings:
    """How this process computes on its CPU, its number of threads set; probes a machine that is not known yet."""
    way = known_way() or probe_cpu().way
    _set_threads(way)
    return way


def known_way() -> CpuSettings | None:
    """What `cpu_way` gives, where that takes no probe; else None."""
    if cpu_way.cache_info().currsize:
        return cpu_way()
    return kept_way(_key()) if _wanted() else default_way()


def default_way() -> CpuSettings:
    """What is right on any machine: float32, contiguous, a thread for each physical core that there is for us."""
    if _threads_given():
        return CpuSettings(threads=torch.get_num_threads())
    return CpuSettings(threads=min(torch.get_num_threads(), psutil.cpu_count(logical=False) or 4096, usable_cores()))


def probe_cpu() -> Probe:
    """Probe this machine, known or not, and keep what was found where that can be done."""
    cores = None if _threads_given() else usable_cores()
    found = find_way(default_way().threads, cores, bf16=bf16_supported())
    _LOG.info("This CPU was probed in %.1f s: %s.", found.seconds, found.way.words)
    keep_way(_key(), found.way)
    return found


def start_threads() -> None:
    """Set the number of threads for a process that starts, without a probe."""
    _set_threads(known_way() or default_way())


def inference_bf16(device: torch.device) -> bool:
    """Whether inference on a device runs in bf16 autocast: always with CUDA, on a CPU where that was found out."""
    return device.type == "cuda" or (device.type == "cpu" and cpu_way().bf16)


def inference_layout(device: torch.device, dims: int) -> torch.memory_format:
    """Memory layout of weights and images for inference with a network of so many spatial axes."""
    return memory_format(dims, cpu_way()) if device.type == "cpu" else torch.contiguous_format


def _wanted() -> bool:
    return os.environ.get(SWITCH) != "0"


def _set_threads(way: CpuSettings) -> None:
    if not _threads_given():
        _OURS.add(way.threads)
        torch.set_num_threads(way.threads)


def _threads_given() -> bool:
    """Whether a person said how many threads there are to be."""
    said = os.environ.get("OMP_NUM_THREADS") or os.environ.get("MKL_NUM_THREADS")
    return bool(said) or torch.get_num_threads() not in _OURS


def _key() -> str:
    """What the fastest way depends on."""
    features = [torch.backends.cpu.get_cpu_capability(), *(["bf16"] if bf16_supported() else [])]
    given = [f"{torch.get_num_threads()} threads given"] if _threads_given() else []
    parts = [cpu_name(), *features, f"{usable_cores()} cores", *given, f"torch {torch.__version__}", f"probe {VERSION}"]
    return ", ".join(parts)
