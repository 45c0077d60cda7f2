"""Numbers of one level's gate: counts and sums over the cells of an inspection, and what follows from them."""

from __future__ import annotations

from math import sqrt

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prosma_core.config.inspection import HISTOGRAM_EDGES, LevelSummary
from prosma_core.inspection.level_grid import TileCells
from prosma_core.inspection.maps import pick
from prosma_core.model.gate_hooks import GateRecord, SkipPair

NOISE = 0.3
"""Deviation of the noise that `LevelSums` measures the gain of, in those of the network's input."""
SEED = 0
"""Of that noise."""

_BINS = len(HISTOGRAM_EDGES) - 1
_BIN_WIDTH = HISTOGRAM_EDGES[1] - HISTOGRAM_EDGES[0]


class LevelSums:
    """Counts and sums of one level, per channel; every cell of every frame counts once.

    **Noise gain.** The network runs a second time on an input to which Gaussian noise n of `NOISE` standard deviations
    of the frame was added (per channel, seeded, none in the padding). With the skip x in front of the gate and x'
    behind it, and the norms over all cells and channels:

        gain = (|x'(n) - x'| / |x'|) / (|x(n) - x| / |x|)

    Above 1, noise makes up a larger share of what leaves the gate than of what enters it: the gate amplifies it,
    compared with the signal. Below 1, it dampens it.

    **Flipped.** Share of the kept values (a and x not 0) whose sign behind the gate is not that in front of it.

    **Spread of the channel gate.** Standard deviation of each channel's weight over the tiles of all frames, averaged
    over the channels.

    Parameters
    ----------
    level : int
    channels : int
    """

    def __init__(self, level: int, channels: int) -> None:
        self._level, self._channels = level, channels
        self._cells = self._tiles = 0
        self._removed, self._positive = np.zeros(channels, np.int64), np.zeros(channels, np.int64)
        self._signed = self._flipped = 0
        self._before, self._after, self._gate = (np.zeros(channels) for _ in range(3))
        self._weights, self._weights_squared = np.zeros(channels), np.zeros(channels)
        self._noise: NDArray[np.float64] | None = None
        self._histogram: NDArray[np.int64] | None = None
        self._tau: Tensor | None = None

    def add(self, inside: TileCells, record: GateRecord, disturbed: SkipPair | None = None) -> None:
        """Take what the gate did in one tile, and the skip in front of it and behind it where the input had noise."""
        if not inside.owns:
            return
        a, before, after = (pick(values[0], inside) for values in (record.a, record.before, record.after))
        cells = a[0].numel()
        self._cells += cells
        self._removed += _sums(a == 0)
        self._positive += _sums(a > 0)
        self._before += _squares(before)
        self._after += _squares(after)
        for channel in zip(a, before, after, strict=True):
            self._count_signs(*channel)
        if disturbed is not None:
            noise = [_distance(pick(d[0], inside), clean) for d, clean in zip(disturbed, (before, after), strict=True)]
            self._noise = np.array(noise) + (0 if self._noise is None else self._noise)
        if record.c is not None:
            weights = record.c[0].float().cpu().numpy().astype(np.float64)
            self._tiles += 1
            self._gate += cells * weights
            self._weights += weights
            self._weights_squared += weights**2
        if record.z is not None and record.tau is not None:
            self._tau = record.tau
            counts = histogram(pick(record.z[0], inside), record.tau)
            self._histogram = counts if self._histogram is None else self._histogram + counts

    def summary(self, shape: tuple[int, ...]) -> LevelSummary:
        """The numbers, for maps of this shape along the scan's spatial axes."""
        cells = max(1, self._cells)
        kept = cells - self._removed
        tau = () if self._tau is None else tuple(self._tau.detach().float().cpu().tolist())
        return LevelSummary(
            level=self._level,
            shape=shape,
            channels=self._channels,
            removed=float(self._removed.sum() / (cells * self._channels)),
            energy=_lost(float(self._before.sum()), float(self._after.sum())),
            threshold=float(np.median(tau)) if tau else None,
            noise_gain=self._gain(),
            flipped=self._flipped / self._signed if self._signed else None,
            channel_gate_spread=self._spread(),
            thresholds=tau,
            channel_removed=tuple((self._removed / cells).tolist()),
            channel_energy=tuple(_lost(b, a) for b, a in zip(self._before, self._after, strict=True)),
            channel_gate=tuple((self._gate / cells).tolist()) if self._tiles else (),
            positive=tuple(np.where(kept > 0, self._positive / np.maximum(kept, 1), 0.5).tolist()),
            histogram=() if self._histogram is None else tuple(map(tuple, (self._histogram / cells).tolist())),
        )

    def _count_signs(self, a: Tensor, before: Tensor, after: Tensor) -> None:
        """Count the kept values of a channel that have a sign, and those that have another one behind the gate."""
        self._signed += int(((a != 0) & (before != 0)).sum())
        self._flipped += int((((before < 0) & (after > 0)) | ((before > 0) & (after < 0))).sum())

    def _gain(self) -> float | None:
        before, after = float(self._before.sum()), float(self._after.sum())
        if self._noise is None or not self._noise[0] or not before or not after:
            return None
        return sqrt(self._noise[1] / after) / sqrt(self._noise[0] / before)

    def _spread(self) -> float | None:
        if self._tiles < 2:
            return None
        mean = self._weights / self._tiles
        variance = (self._weights_squared - self._tiles * mean**2) / (self._tiles - 1)
        return float(np.sqrt(np.maximum(variance, 0)).mean())


def histogram(z: Tensor, tau: Tensor) -> NDArray[np.int64]:
    """How often |z| / tau lies in each bin of `HISTOGRAM_EDGES`, the last taking all that is larger.

    Parameters
    ----------
    z : Tensor, shape (C, *grid)
    tau : Tensor, shape (C,)
        Where it is 0, a z of 0 counts as 0 and all others as large.

    Returns
    -------
    ndarray, int64, shape (C, bins)
    """
    counts = []
    for values, threshold in zip(z, tau.to(z.dtype), strict=True):
        ratio = values.abs().float() / threshold.float().clamp_min(torch.finfo(torch.float32).tiny)
        bins = (ratio / _BIN_WIDTH).clamp_(0, _BINS - 1).to(torch.int32)
        counts.append(torch.bincount(bins.flatten().cpu(), minlength=_BINS).numpy())
    return np.stack(counts)


def _lost(before: float, after: float) -> float:
    return float(1 - after / before) if before > 0 else 0.0


def _sums(mask: Tensor) -> NDArray[np.int64]:
    found: NDArray[np.int64] = mask.flatten(1).sum(1).cpu().numpy()
    return found


def _squares(values: Tensor) -> NDArray[np.float64]:
    """Sum of the squares of each channel, float64; one channel at a time, so that no copy of all is made."""
    return np.array([float(channel.float().square().sum()) for channel in values])


def _distance(values: Tensor, others: Tensor) -> float:
    """Sum of the squares of the differences, likewise."""
    return sum(float((one.float() - other.float()).square().sum()) for one, other in zip(values, others, strict=True))
