"""Autotuning of CPU settings: threads, dtypes and layouts timed on small networks; wrong results rule one out."""

from __future__ import annotations

import logging
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import psutil
import torch
from torch import Tensor, nn

from prosma_core.config.inference import CpuSettings
from prosma_core.config.model import ModelConfig
from prosma_core.model.unet import build_model

CLEARLY = 0.9
"""Share of the time of the best settings so far that others may take at most to be taken instead."""
RIGHT = 0.05
"""Error of the logits against those of float32, contiguous, as a share of their size, that is left to rounding."""
ROUNDS = (3, 9)
"""Rounds of a comparison: at least, and at most."""
ENOUGH = 0.05
"""Seconds after which the rounds of a comparison end."""
HOPELESS = 1.0
"""Seconds of a first forward after which settings are not tried again."""
LIMIT = 4.0
"""Seconds after which nothing more is tried."""
QUIET = 0.1
"""Share of the cores that others may keep busy where anything is judged by the clock."""

_LOG = logging.getLogger(__name__)


class Took(NamedTuple):
    """Timing of one forward: wall seconds, CPU seconds of all threads, logits."""

    clock: float
    work: float
    logits: Tensor


@dataclass(frozen=True)
class Probe:
    """Result of autotuning.

    Attributes
    ----------
    settings : CpuSettings
        The fastest that is right.
    ratios : tuple of (CpuSettings, float)
        All others that were tried, and their time as a share of that of float32, contiguous (of other numbers of
        threads: of the better one before); infinite where it is not right, or hopeless.
    seconds : float
        How long all of it took.
    """

    settings: CpuSettings
    ratios: tuple[tuple[CpuSettings, float], ...]
    seconds: float


class Network:
    """A small ProSMA-UNet and an input.

    It has what takes the time in a larger one: convolutions and norms of 16 to 128 channels, gates, upsampling. Its
    grid grows with the threads, as one that is too small for many threads would speak against them.
    """

    def __init__(self, dims: int, threads: int) -> None:
        longest = min(96, 8 * threads)
        grid, first = ((6 * longest, 64), 32) if dims == 2 else ((24, 56, longest), 16)
        config = ModelConfig(
            dims=2 if dims == 2 else 3,
            in_channels=1,
            num_classes=2,
            widths=(first, 2 * first, 4 * first),
            strides=((1,) * dims, (2,) * dims, (2,) * dims),
            kernels=((3,) * dims,) * 3,
        )
        self.model: nn.Module = build_model(config, seed=0).eval()
        self.image = torch.randn(1, 1, *grid, generator=torch.Generator().manual_seed(0))

    def logits(self, settings: CpuSettings) -> Tensor:
        """Logits by one forward, float32, shape (1, 2, *grid)."""
        layout = memory_format(self.image.ndim - 2, settings)
        self.model.to(memory_format=layout)  # type: ignore[call-overload]
        with threads(settings.threads), torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=settings.bf16):
            found: Tensor = self.model(self.image.to(memory_format=layout))
        return found.float()


def memory_format(dims: int, settings: CpuSettings) -> torch.memory_format:
    """Layout of a network's weights and images."""
    last = torch.channels_last if dims == 2 else torch.channels_last_3d
    return last if settings.channels_last else torch.contiguous_format


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def bf16_supported() -> bool:
    """Whether this CPU multiplies in bfloat16 (AMX, AVX512-BF16); elsewhere it is many times slower than float32."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    asked = (getattr(torch.cpu, name, None) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))
    return any(bool(ask()) for ask in asked if ask is not None)


def timed(network: Network, settings: CpuSettings) -> Took:
    """Time one forward."""
    began, worked = time.perf_counter(), time.process_time()
    logits = network.logits(settings)
    return Took(time.perf_counter() - began, time.process_time() - worked, logits)


def find_fastest(base: int, cores: int | None, *, bf16: bool) -> Probe:
    """Time thread counts, layouts and number formats on small networks in 2D and 3D, in about two seconds.

    Parameters
    ----------
    base : int
        Threads that are right without a probe.
    cores : int or None
        Threads that there may be at most; None leaves it at `base`.
    bf16 : bool
        Whether the CPU supports it, see `bf16_supported`; if not, it is never tried.
    """
    began, others = time.perf_counter(), others_at_work()
    networks = [Network(dims, base) for dims in (2, 3)]
    start, found = CpuSettings(threads=base), list[tuple[CpuSettings, float]]()
    for network in networks:
        timed(network, start)  # the first forward takes longer
    if cores is not None and cores > 1 and others() <= QUIET * cores:
        best = _best_threads(start, cores, networks, found)
        start = best if others() <= QUIET * cores else start
    best, least = start, 1.0
    for how in ({"bf16": True}, {"channels_last": True}, {"bf16": True, "channels_last": True}):
        if "bf16" in how and not bf16:
            continue
        if time.perf_counter() - began > LIMIT:
            break
        settings = start.replace(**how)
        found.append((settings, compare(settings, start, networks)))
        if found[-1][1] <= CLEARLY * least:
            best, least = found[-1]
    return Probe(best, tuple(found), time.perf_counter() - began)


def _best_threads(
    base: CpuSettings, cores: int, networks: Sequence[Network], found: list[tuple[CpuSettings, float]]
) -> CpuSettings:
    """Half the threads, and half of those, as long as that is clearly faster; else all cores where that is."""
    best = base
    while best.threads > 1:
        settings = CpuSettings(threads=best.threads // 2)
        found.append((settings, compare(settings, best, networks)))
        if found[-1][1] > CLEARLY:
            break
        best = settings
    if best == base and cores > base.threads:
        settings = CpuSettings(threads=cores)
        found.append((settings, compare(settings, base, networks)))
        best = settings if found[-1][1] <= CLEARLY else base
    return best


def others_at_work() -> Callable[[], float]:
    """Gives how many cores, on the whole machine, others than this process have kept busy since."""

    def busy() -> float:
        now, own = psutil.cpu_times(), psutil.Process().cpu_times()
        return float(sum(now) - now.idle - getattr(now, "iowait", 0) - own.user - own.system)

    began, before = time.perf_counter(), busy()
    return lambda: (busy() - before) / max(time.perf_counter() - began, 1e-9)


def compare(settings: CpuSettings, against: CpuSettings, networks: Sequence[Network]) -> float:
    """As `_compare`; infinite as well where torch cannot compute with these settings."""
    try:
        return _compare(settings, against, networks)
    except RuntimeError as problem:
        _LOG.info("This CPU does not compute by %s: %s", settings.words, problem)
        return math.inf


def _compare(settings: CpuSettings, against: CpuSettings, networks: Sequence[Network]) -> float:
    """Time of settings as a share of others', the larger one of the networks; infinite where it is hopeless or wrong.

    Both alternate, and the median of the rounds counts. With as many threads on both sides the work of all threads
    counts instead, which other programs do not change; where there are none, they must not be slower by the clock.
    """
    worst = 0.0
    for network in networks:
        first, right = timed(network, settings), timed(network, against)
        if first.clock > HOPELESS or error(first.logits, right.logits) > RIGHT:
            return math.inf
        others, began, rounds = others_at_work(), time.perf_counter(), list[tuple[Took, Took]]()
        while len(rounds) < ROUNDS[0] or (len(rounds) < ROUNDS[1] and time.perf_counter() - began < ENOUGH):
            rounds.append((timed(network, settings), timed(network, against)))
        ratio = statistics.median(ours.clock / theirs.clock for ours, theirs in rounds)
        if settings.threads == against.threads:
            work = sum(ours.work for ours, _ in rounds) / max(sum(theirs.work for _, theirs in rounds), 1e-9)
            ratio = max(work, ratio) if ratio > 1 and others() <= QUIET * settings.threads else work
        worst = max(worst, ratio)
    return worst


def error(found: Tensor, right: Tensor) -> float:
    """Size of the difference as a share of the right one's; infinite where it is not finite."""
    share = float((found - right).norm() / right.norm())
    return share if math.isfinite(share) else math.inf
