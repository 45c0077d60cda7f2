"""What a gate did, and what an edit makes of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from prosma_core.config.inspection import LevelEdit


@dataclass(frozen=True, eq=False)
class GateRecord:
    """What one gate did in one forward, edits included.

    Attributes
    ----------
    fields : tuple of Tensor, shape (B, C, *grid)
        Compatibility field z_d of each scale; empty for a gate without.
    z : Tensor or None, shape (B, C, *grid)
        Combined field.
    tau : Tensor or None, shape (C,)
        Threshold of each channel.
    a : Tensor, shape (B, C, *grid)
        The gate's value; 0 exactly where x is removed.
    c : Tensor or None, shape (B, C)
        Weight of each channel; None for a gate without channel gate.
    before, after : Tensor, shape (B, C, *grid)
        Skip before the gate, and what the decoder received.
    """

    fields: tuple[Tensor, ...]
    z: Tensor | None
    tau: Tensor | None
    a: Tensor
    c: Tensor | None
    before: Tensor
    after: Tensor


def edited_skip(x: Tensor, learned: Tensor | None, edit: LevelEdit | None) -> Tensor:
    """Skip after an edited gate; thresholds and channel gates are edited where the gate reads them.

    Parameters
    ----------
    x : Tensor, shape (B, C, *grid)
        Before the gate.
    learned : Tensor or None, shape (B, C, *grid)
        After the gate; None where the edit forces it open or closed.
    edit : LevelEdit or None
    """
    if edit is None:
        assert learned is not None
        return learned
    after = learned if learned is not None else x if edit.state == "open" else torch.zeros_like(x)
    if edit.open_channels or edit.closed_channels:
        after = after.clone()
        after[:, list(edit.open_channels)] = x[:, list(edit.open_channels)].to(after.dtype)
        after[:, list(edit.closed_channels)] = 0
    return after


def edited_weight(weight: Tensor, edit: LevelEdit | None, *, closes: bool = True) -> Tensor:
    """Gate a or weight c of a record: 1 where the edit opens and, with `closes`, 0 where it closes.

    Parameters
    ----------
    weight : Tensor, shape (B, C, ...)
    edit : LevelEdit or None
    closes : bool
        Off for the channel gate: where a is 0 already, its weight stays what it is.
    """
    if edit is None:
        return weight
    if edit.state == "open" or (edit.state == "closed" and closes):
        weight = torch.full_like(weight, float(edit.state == "open"))
    if edit.open_channels or edit.closed_channels:
        weight = weight.clone()
        weight[:, list(edit.open_channels)] = 1
        if closes:
            weight[:, list(edit.closed_channels)] = 0
    return weight
