"""What the gate of one level did, in numbers: counted over the cells of the region, each in the tile that owns it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from prosma_core.config.inspection import HISTOGRAM_EDGES, LevelSummary
from prosma_core.inspection.level_grid import TileCells
from prosma_core.inspection.stitch import pick
from prosma_core.model.gate_hooks import GateRecord

BINS = len(HISTOGRAM_EDGES) - 1
WIDTH = HISTOGRAM_EDGES[1] - HISTOGRAM_EDGES[0]


class LevelSums:
    """Counts and sums of one level, per channel; every cell of every frame counts once.

    Parameters
    ----------
    level : int
    channels : int
    """

    def __init__(self, level: int, channels: int) -> None:
        self._level, self._channels = level, channels
        self._cells = 0
        self._removed, self._positive = np.zeros(channels, np.int64), np.zeros(channels, np.int64)
        self._before, self._after, self._gate = (np.zeros(channels) for _ in range(3))
        self._histogram: np.ndarray[tuple[int, ...], np.dtype[np.int64]] | None = None
        self._tau: Tensor | None = None
        self._has_gate = False

    def add(self, inside: TileCells, record: GateRecord) -> None:
        """Take what the gate did in one tile."""
        if not inside.owns:
            return
        a, before, after = (pick(values[0], inside) for values in (record.a, record.before, record.after))
        cells = a[0].numel()
        self._cells += cells
        self._removed += _sums(a == 0)
        self._positive += _sums(a > 0)
        self._before += _squares(before)
        self._after += _squares(after)
        if record.c is not None:
            self._has_gate = True
            self._gate += cells * record.c[0].float().cpu().numpy().astype(np.float64)
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
            thresholds=tau,
            channel_removed=tuple((self._removed / cells).tolist()),
            channel_energy=tuple(_lost(b, a) for b, a in zip(self._before, self._after, strict=True)),
            channel_gate=tuple((self._gate / cells).tolist()) if self._has_gate else (),
            positive=tuple(np.where(kept > 0, self._positive / np.maximum(kept, 1), 0.5).tolist()),
            histogram=() if self._histogram is None else tuple(map(tuple, (self._histogram / cells).tolist())),
        )


def histogram(z: Tensor, tau: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
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
        bins = (ratio / WIDTH).clamp_(0, BINS - 1).to(torch.int32)
        counts.append(torch.bincount(bins.flatten().cpu(), minlength=BINS).numpy())
    return np.stack(counts)


def _lost(before: float, after: float) -> float:
    return float(1 - after / before) if before > 0 else 0.0


def _sums(mask: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    return mask.flatten(1).sum(1).cpu().numpy()


def _squares(values: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Sum of the squares of each channel, float64; one channel at a time, so that no copy of all is made."""
    return np.array([float(channel.float().square().sum()) for channel in values])
