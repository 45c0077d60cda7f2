"""A model as an entry of the model list: file, header, purpose, description."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from prosma_core.config.model import ModelHeader
from prosma_core.io.bundle import Purpose, dice_text, purpose_of
from prosma_core.printable import counted

MOST_LETTERS = 200
"""Of a model's description that are shown."""


@dataclass(frozen=True)
class ModelEntry:
    """A model a person can choose."""

    path: Path
    header: ModelHeader
    shipped: bool

    @property
    def argument(self) -> str:
        """How the command line names it."""
        return self.header.name if self.shipped else str(self.path)

    @property
    def purpose(self) -> Purpose:
        """What it was trained on, as far as it is known."""
        return purpose_of(self.header)

    @property
    def description(self) -> str:
        """What it is for, in its own words: the first of them, where there are many; empty where it says nothing."""
        text = " ".join(self.header.description.split())
        said = text if len(text) <= MOST_LETTERS else f"{text[:MOST_LETTERS]}…"
        return " ".join(filter(None, (said, "Synthetic: not for real scans." if self.purpose.synthetic else "")))

    @property
    def facts(self) -> str:
        """Dimensions, channels, voxel size, classes and Dice, in one line."""
        model, pre = self.header.model, self.header.preprocess
        names = ", ".join(pre.channels)
        parts = [
            f"{model.dims}D",
            counted(model.in_channels, "channel") + (f" ({names})" if model.in_channels > 1 else ""),
        ]
        if pre.resample == "spacing":
            parts.append(" × ".join(f"{s:g}" for s in pre.spacing) + f" {pre.unit}")
        elif pre.resample == "longest_side":
            parts.append(f"longest side {pre.longest_side} pixels")
        parts.append(", ".join(c.name for c in self.header.classes[1:]))
        return " · ".join([*parts, dice_text(self.header)])
