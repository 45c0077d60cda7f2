"""Hardware: processor, usable cores and the cache of what was measured; environment and memory of processes."""

from __future__ import annotations

import ctypes
import json
import logging
import math
import os
import platform
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from prosma_core.config.inference import CpuSettings
from prosma_core.errors import ConfigError, OutputError
from prosma_core.io.atomic import make_folder, sweep, write_bytes_atomic

_LOG = logging.getLogger(__name__)
_CGROUPS = Path("/sys/fs/cgroup")
_MOST_BYTES = 1 << 20


def cache_folder() -> Path:
    """Cache folder, whose content can be made again: ``PROSMA_CACHE`` if it is set, else the user's."""
    if given := os.environ.get("PROSMA_CACHE"):
        return Path(given)
    from platformdirs import user_cache_path

    return user_cache_path("napari-prosma")


def cpu_name() -> str:
    """The processor's name, as far as the system says it."""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as lines:
            names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def usable_cores() -> int:
    """Logical cores that this process may use, a container's share counted."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(allowed, cpu_quota())))


def cpu_quota(groups: Path = _CGROUPS, own: Path = Path("/proc/self/cgroup")) -> float:
    """Cores' worth of time that Linux gives this process's group and those above it; infinite without a limit."""
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return math.inf
    limits = [math.inf]
    for line in lines:
        number, kinds, path = line.split(":", 2)
        parts = Path(path.lstrip("/"))
        for part in (parts, *parts.parents):
            if number == "0":
                limits.append(_share(groups / part / "cpu.max"))
            elif "cpu" in kinds.split(","):
                folder = groups / "cpu" / part
                limits.append(_share(folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us"))
    return min(limits)


def _share(*files: Path) -> float:
    """Quota over period, where the files have both and there is a limit."""
    try:
        quota, period = (int(word) for file in files for word in file.read_text(encoding="utf-8").split())
    except (OSError, ValueError):  # "max", or no such file
        return math.inf
    return quota / period if quota > 0 and period > 0 else math.inf


def load_cpu_settings(key: str) -> CpuSettings | None:
    """Settings that `save_cpu_settings` wrote under this key; None where there are none, or unusable ones."""
    sweep(cache_folder())
    found = _kept().get(key)
    try:
        return None if found is None else CpuSettings.parse(found, str(_file()))
    except ConfigError:
        return None


def save_cpu_settings(key: str, settings: CpuSettings) -> bool:
    """Write the fastest settings of this machine into the cache; whether that was possible."""
    file = _file()
    content = json.dumps({**_kept(), key: settings.model_dump()}, indent=1)
    try:
        make_folder(file.parent)
        write_bytes_atomic(file, content.encode())
    except OutputError as error:
        _LOG.info("What was found out about this CPU is not kept: %s", error)
        return False
    return True


def _file() -> Path:
    return cache_folder() / "cpu.json"


def _kept() -> dict[str, object]:
    """Everything that was kept; empty where the file is missing, damaged, or cannot be read."""
    try:
        with _file().open("rb") as file:
            found = json.loads(file.read(_MOST_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


ARENAS = 2
"""Pools that glibc keeps freed memory in; by default up to eight for each core."""
COMPUTING = {"THP_MEM_ALLOC_ENABLE": "1", "OMP_WAIT_POLICY": "PASSIVE", "MALLOC_ARENA_MAX": str(ARENAS)}
"""What is set before torch is imported; what a person has set stays.

Memory in large pages: every tensor of more than 32 MiB is fresh memory on Linux, and the system clears it page by page,
which for an addition takes longer than the addition. PyTorch asks for pages of 2 MiB with this.

Threads that wait sleep: otherwise they spin, and where another program, or the viewer, takes part of a core, they hold
up the very thread that they wait for (a training step of 2 s takes 12 s instead of 4; alone, 2.1 and 2.2 s).

Few pools of freed memory: each thread that unpacks chunks otherwise has its own, which keeps what its largest took
(0.25 GiB of 1.15 for a scan by parts, in the same time). A process that runs already calls `limit_arenas`.
"""


def limit_arenas() -> None:
    """What ``MALLOC_ARENA_MAX`` says, for this process while it has one thread."""
    wanted = os.environ.get("MALLOC_ARENA_MAX", "")
    if _LIBC is not None and wanted.isdecimal():
        _LIBC.mallopt(_ARENA_MAX, int(wanted))


def give_back_memory() -> None:
    """Return to the system what was freed and lies in pieces between what is still used; glibc keeps it otherwise."""
    if _LIBC is not None:
        _LIBC.malloc_trim(0)


@contextmanager
def returning_memory() -> Iterator[None]:
    """In a ``with`` statement, arrays of 3 MiB and more get memory of their own, which the system has back at once.

    For the viewer, whose threads and memory are not ours to set up: glibc otherwise keeps for each thread what its
    largest arrays took, chunks of up to 32 MiB. Getting memory anew takes time: not for what is computed.
    """
    if _LIBC is None:
        yield
        return
    with _MODE.lock:
        _MODE.users += 1
        _set_limits(_LIBC, _APART, _KEPT_TOP)
    try:
        yield
    finally:
        with _MODE.lock:
            _MODE.users -= 1
            if not _MODE.users:
                _set_limits(_LIBC, _REUSED, _KEPT_TOP)


def reuse_memory() -> None:
    """Keep freed memory for the next array, as a process does that nobody has told otherwise.

    Dask starts its workers with the opposite (`MALLOC_TRIM_THRESHOLD_`), so that they get new memory from the system
    for every tensor.
    """
    if _LIBC is not None:
        with _MODE.lock:
            if not _MODE.users:
                _set_limits(_LIBC, _REUSED, _KEPT_TOP)


class _Mode:
    """How many `returning_memory` are entered, in all threads."""

    def __init__(self) -> None:
        self.lock, self.users = threading.Lock(), 0


_MODE = _Mode()
_APART, _REUSED, _KEPT_TOP = 3 << 20, 32 << 20, 64 << 20
"""From how many bytes on glibc takes memory apart, within `returning_memory` and outside, and what it keeps on top."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # of malloc.h


def _set_limits(library: ctypes.CDLL, apart: int, kept: int) -> None:
    library.mallopt(_MMAP_THRESHOLD, apart)
    library.mallopt(_TRIM_THRESHOLD, kept)


def _glibc() -> ctypes.CDLL | None:
    """The C library of this process where it can return memory: that of most Linux systems."""
    with suppress(OSError, TypeError, AttributeError):
        library = ctypes.CDLL(None)
        library.malloc_trim.argtypes = [ctypes.c_size_t]
        library.mallopt.argtypes = [ctypes.c_int, ctypes.c_int]
        return library
    return None


_LIBC = _glibc()
