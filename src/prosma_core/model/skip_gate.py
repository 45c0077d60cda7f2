"""One skip in, one gated skip out: what all gates have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from prosma_core.config.inspection import LevelEdit
from prosma_core.events import LevelStats
from prosma_core.model.gate_record import GateRecord, edited_skip, edited_weight


class SkipGate(nn.Module):
    """A skip connection that may change what the decoder receives; forced open, it passes x on unchanged.

    Attributes
    ----------
    forced_open : bool
        Pass the skip unchanged, whatever was learned.
    counting : bool
        Add up how many activations are removed (see `stats`).
    estimating : bool
        Keep `estimate` at every forward.
    estimate : Tensor or None
        Removed fraction of the last forward, differentiable.
    edit : LevelEdit or None
        Change of what was learned, see `prosma_core.model.looking.edited`.
    recorder : callable or None
        Takes a `GateRecord` of every forward, see `prosma_core.model.looking.recording`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.forced_open = False
        self.counting = False
        self.estimating = False
        self.estimate: Tensor | None = None
        self.edit: LevelEdit | None = None
        self.recorder: Callable[[GateRecord], None] | None = None
        self._removed = 0.0
        self._total = 0

    def __getstate__(self) -> dict[str, Any]:
        """What a copy keeps: all but the estimate, which belongs to a graph, and who records this gate."""
        return {**self.__dict__, "estimate": None, "recorder": None}

    def forward(self, x: Tensor, g: Tensor) -> Tensor:
        """Gated skip.

        Parameters
        ----------
        x : Tensor, shape (B, C, *grid)
            Encoder features.
        g : Tensor, shape (B, C, *grid)
            Decoder features of the coarser level, upsampled to the same grid.

        Returns
        -------
        Tensor, shape (B, C, *grid)
        """
        if x.device.type == "cpu" and torch.is_autocast_enabled("cpu") and not self.forced_open:
            with torch.autocast("cpu", enabled=False):  # the fast kernels are float32 (docs/kernels.md)
                return self.forward(x.float(), g.float()).to(x.dtype)  # not self(…): hooks would run twice
        if self.edit is None and self.recorder is None:
            return self.gated(x, g)
        learned = self.edit is None or self.edit.state == "learned"
        after = edited_skip(x, self.gated(x, g) if learned else None, self.edit)
        if self.recorder is not None:
            self.recorder(self.record(x, g, after))
        return after

    def gated(self, x: Tensor, g: Tensor) -> Tensor:
        """Skip after the gate as it was learned; same parameters."""
        if self.forced_open:
            return x
        a = self.activation(x, g)
        if self.counting:
            self._removed += float((a == 0).sum())
            self._total += a.numel()
        return self.apply_gate(a, x, g)

    def activation(self, x: Tensor, g: Tensor) -> Tensor:
        """The gate's value a, shape (B, C or 1, *grid); 0 exactly where x is removed."""
        return torch.ones_like(x)

    def apply_gate(self, a: Tensor, x: Tensor, g: Tensor) -> Tensor:
        """Skip x after gate a, shape (B, C, *grid)."""
        return a * x

    def threshold(self) -> Tensor | None:
        """Threshold tau per channel, shape (C,), or None for a gate without one."""
        return None

    def channel_weights(self, g: Tensor) -> Tensor | None:
        """Weight c of each channel, shape (B, C, 1, ...), or None where there is no channel gate."""
        return None

    def record(self, x: Tensor, g: Tensor, after: Tensor) -> GateRecord:
        """What the gate does to x, computed beside the forward that gave `after`."""
        a = self.activation(x, g).expand_as(x)
        return GateRecord((), None, None, edited_weight(a, self.edit), None, x, after)

    def reset_stats(self) -> None:
        """Forget what was counted."""
        self._removed, self._total = 0.0, 0

    def stats(self) -> LevelStats:
        """Removed fraction since `reset_stats` while `counting`, and the median threshold."""
        tau = self.threshold()
        median = None if tau is None else float(tau.detach().float().median())
        return LevelStats(self._removed / self._total if self._total else 0.0, median)
