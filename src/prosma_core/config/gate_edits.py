"""Which changes of its gates a network allows. No torch."""

from __future__ import annotations

from collections.abc import Sequence

from prosma_core.config.inspection import Edits, LevelEdit, Variant
from prosma_core.config.model import ModelConfig
from prosma_core.errors import ConfigError

PLAIN = "The model is a plain U-Net: its skip connections have no gates."


def gate_levels(model: ModelConfig) -> int:
    """Number of levels that have a gate."""
    return 0 if model.gate.kind == "none" else len(model.widths) - 1


def check_levels(model: ModelConfig, levels: Sequence[int] | None) -> tuple[int, ...]:
    """Levels to look at, finest first: those given, all that have a gate for None; none of a plain U-Net.

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
    """Variants that say which level matters: the gate of each forced open, one at a time, finest first.

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
