"""Settings, edits and results of gate inspection: plain values, which cross to the viewer and into files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from prosma_core.config.base import Config
from prosma_core.config.inference import InferenceConfig
from prosma_core.config.model import GateForm, GateKind, ModelConfig
from prosma_core.errors import ConfigError

PLAIN = "The model is a plain U-Net: its skip connections have no gates."


def gate_levels(model: ModelConfig) -> int:
    """Number of levels that have a gate."""
    return 0 if model.gate.kind == "none" else len(model.widths) - 1


def check_levels(model: ModelConfig, levels: Sequence[int] | None) -> tuple[int, ...]:
    """Levels to inspect, finest first: those given, all that have a gate for None; none of a plain U-Net.

    Raises
    ------
    ConfigError
        A level does not exist, or none is given.
    """
    there = len(model.widths) - 1
    for level in () if levels is None else levels:
        if level >= there:
            msg = f"There is no level {level}: the model has levels 0 (the finest) to {there - 1}."
            raise ConfigError(msg)
    if levels is not None and not levels:
        msg = f"No level is given. The model has levels 0 (the finest) to {there - 1}."
        raise ConfigError(msg)
    gates = gate_levels(model)
    return tuple(range(gates)) if levels is None else tuple(sorted(level for level in set(levels) if level < gates))


def check_edits(model: ModelConfig, edits: Edits) -> None:
    """Raise `ConfigError` unless the gates of a network can be changed like this; the text says what can be."""
    given = [edit.level for edit in edits]
    twice = next((level for level in given if given.count(level) > 1), None)
    if twice is not None:
        msg = f"The gate of level {twice} is changed twice. Give one change for each level."
        raise ConfigError(msg)
    check_levels(model, given or None)
    for edit in edits:
        _check_edit(model, edit)


def _check_edit(model: ModelConfig, edit: LevelEdit) -> None:
    if edit == LevelEdit(level=edit.level):
        return
    gate, where = model.gate, f"at level {edit.level}"
    if gate.kind == "none":
        msg = f"{PLAIN} Nothing can be changed {where}."
        raise ConfigError(msg)
    if gate.kind == "attention" and edit.threshold != 1:
        msg = (
            f"The model has attention gates, which have no threshold to multiply {where}: they weigh every voxel and "
            "remove none. Open or close the gate, or single channels."
        )
        raise ConfigError(msg)
    if not edit.channel_gate and (gate.kind == "attention" or not gate.channel_gate):
        msg = f"The gates of this model have no channel gate that could be left out {where}."
        raise ConfigError(msg)
    width = model.widths[edit.level]
    for channel in (*edit.open_channels, *edit.closed_channels):
        if channel >= width:
            msg = f"There is no channel {channel} {where}: it has channels 0 to {width - 1}."
            raise ConfigError(msg)


def opened_one_at_a_time(model: ModelConfig) -> tuple[Variant, ...]:
    """Variants that rank levels by ablation: the gate of each forced open, one at a time, finest first.

    Raises
    ------
    ConfigError
        The network has no gates.
    """
    if not gate_levels(model):
        msg = f"{PLAIN} No level can be opened."
        raise ConfigError(msg)
    return tuple(
        Variant(name=f"level {level} open", edits=(LevelEdit(level=level, state="open"),))
        for level in range(gate_levels(model))
    )


MapKind = Literal["removed", "energy", "kept", "field", "scales", "gate", "channel_gate", "before", "after"]
"""``removed`` and ``energy`` have one value per voxel of a level; the others one per channel and voxel."""
Index = Annotated[int, Field(ge=0)]

HISTOGRAM_EDGES = tuple(i / 8 for i in range(65))
"""Edges of the bins in which |z| / tau is counted; the last bin holds all that is larger."""


class LevelEdit(Config):
    """Edit of the gate of one level; the defaults change nothing."""

    level: Index
    """Level, 0 for the finest."""
    threshold: float = Field(default=1.0, ge=0, le=4)
    """The learned thresholds are multiplied by this."""
    state: Literal["learned", "open", "closed"] = "learned"
    """``open`` passes the skip on unchanged, ``closed`` passes nothing."""
    channel_gate: bool = True
    """Whether the channel gate takes part; without it, its weight is 1."""
    open_channels: tuple[Index, ...] = ()
    """Channels that pass unchanged."""
    closed_channels: tuple[Index, ...] = ()
    """Channels of which nothing passes."""

    @model_validator(mode="after")
    def _one_state(self) -> Self:
        both = set(self.open_channels) & set(self.closed_channels)
        if both:
            msg = f"channel {min(both)} cannot be both open and closed"
            raise ValueError(msg)
        return self


Edits = tuple[LevelEdit, ...]


class InspectConfig(Config):
    """What is inspected, and which maps are made."""

    levels: tuple[Index, ...] | None = None
    """Levels, 0 for the finest; unless given, all that have a gate."""
    maps: tuple[MapKind, ...] = ("removed", "energy", "kept", "field", "scales")
    """Maps of each level."""
    edits: Edits = ()
    """Changes to the gates, at most one for each level."""
    noise_gain: bool = True
    """Whether the noise gain is measured, which takes a second pass through the network for each tile."""
    overlap: float = Field(default=InferenceConfig.model_fields["overlap"].default, ge=0, le=0.9)
    """As in segmentation."""
    region: tuple[tuple[int, int], ...] | None = None
    """As in segmentation."""
    slice_axis: Literal["z", "y", "x"] | None = None
    """As in segmentation."""


class MapInfo(Config):
    """One map: an array on a level's own grid, and where it lies."""

    name: str
    """Of the array: ``level0/removed``, ``level2/scale4`` (a field of one scale has its dilation in the name)."""
    kind: MapKind
    level: int
    dilation: int | None = None
    """Of a field of one scale."""
    axes: str
    """Letters of the array's axes, in the scan's order: a subset of ``tczyx``."""
    scale: tuple[float, ...]
    """Voxels of the scan per voxel of the map, per spatial axis of the scan."""
    offset: tuple[float, ...]
    """Index in the scan, per spatial axis, of the center of the map's first voxel (voxel centers are whole numbers)."""


class LevelSummary(Config):
    """What the gate of one level did, over the inspected region."""

    level: int
    shape: tuple[int, ...]
    """Grid of the level, in the scan's order of axes."""
    channels: int
    removed: float
    """Share of activations that are removed, 0 to 1."""
    energy: float
    """Share of the skip's energy that is removed: 1 - |x'|^2 / |x|^2; below 0 where the gate amplifies."""
    threshold: float | None
    """Median of the thresholds; None for a gate without."""
    noise_gain: float | None = None
    """Relative change of the skip behind the gate, divided by that in front of it, when noise of 0.3 standard
    deviations is added to the network's input; above 1, the gate amplifies noise compared with the signal. None where
    it was not measured, or nothing passes."""
    flipped: float | None = None
    """Share of the kept values whose sign behind the gate is not that in front of it; None where nothing is kept."""
    channel_gate_spread: float | None = None
    """Standard deviation of a channel's weight over the tiles of all frames, averaged over the channels; None without a
    channel gate, or with one tile."""
    thresholds: tuple[float, ...] = ()
    """Threshold of each channel."""
    channel_removed: tuple[float, ...] = ()
    """Removed share of each channel."""
    channel_energy: tuple[float, ...] = ()
    """Energy removed of each channel."""
    channel_gate: tuple[float, ...] = ()
    """Mean of each channel's weight; empty without a channel gate."""
    positive: tuple[float, ...] = ()
    """Share of the kept activations whose gate is positive, of each channel; 0.5 where nothing is kept."""
    histogram: tuple[tuple[float, ...], ...] = ()
    """Of each channel: share of its voxels in each bin of |z| / tau, see `HISTOGRAM_EDGES`."""


class Inspection(Config):
    """Result of an inspection, apart from the maps themselves."""

    gate: GateKind
    form: GateForm
    levels: tuple[LevelSummary, ...]
    """Of each level that was asked for, finest first; empty for a plain U-Net, whose skips have no gates."""
    maps: tuple[MapInfo, ...]


class Variant(Config):
    """A named set of gate edits, compared with the unchanged gates."""

    name: str
    edits: Edits


class ClassChange(Config):
    """What became of one class; voxels of the region."""

    name: str
    before: int
    after: int
    turned_on: int
    """Voxels that are of this class now, and were background."""
    turned_off: int
    """Voxels that were of this class, and are background now."""
    dice: float
    """Of the changed result against the unchanged; 1 where both have none."""
    truth_before: float | None = None
    """Dice of the unchanged result against the labels that were given."""
    truth_after: float | None = None
    """Dice of the changed result against them."""


class VariantResult(Config):
    """The changed segmentation against the unchanged one."""

    name: str
    changed: int
    """Voxels whose class is another."""
    classes: tuple[ClassChange, ...]
    """Every class but the background."""
