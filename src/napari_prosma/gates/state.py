"""Choices of an inspection, their plan, and edits of the gates. No Qt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, Literal

from napari_prosma.layers.scan import LayerScan
from napari_prosma.layers.source import free_memory
from napari_prosma.layers.viewport import Region
from napari_prosma.scan.selection import Problem, ScanChoices, scan_notes, scan_problem
from prosma_core.config.inspection import Edits, InspectConfig, LevelEdit, MapKind
from prosma_core.config.model import ModelConfig
from prosma_core.data.frames import slice_axis as automatic_axis
from prosma_core.data.grid import network_grid
from prosma_core.engine.messages import InspectRequest
from prosma_core.io.bundle import ModelEntry

MAP_NAMES: dict[MapKind, str] = {
    "removed": "Removed share",
    "energy": "Energy removed",
    "kept": "Kept or removed, per channel",
    "field": "Field, per channel",
    "scales": "Field of each dilation, per channel",
}
"""Maps that can be chosen, and what stands beside each."""
ATTENTION_MAPS: tuple[MapKind, ...] = ("gate", "energy")
"""All that there is of an attention gate."""
GROUP = "Gates: "
"""What the names of all layers of an inspection begin with."""
ELSEWHERE = "The workers compute the inspection; the ranking of levels and what-ifs are computed on this computer."
LARGE = 1.0
"""GiB of maps from which on it is said how large they are."""


@dataclass(frozen=True)
class InspectChoices(ScanChoices):
    """Choices for an inspection; `without` names levels that are left out."""

    options: InspectConfig = field(default_factory=InspectConfig)
    without: frozenset[int] = frozenset()


@dataclass(frozen=True)
class LevelFacts:
    """A level before inspection: voxels of the network's grid per voxel along each axis, and channels."""

    level: int
    step: tuple[int, ...]
    channels: int


@dataclass(frozen=True)
class InspectPlan:
    """Valid choices as a request (without its scan), and notes; `key` names the inspection when it begins."""

    scan: LayerScan
    model: ModelEntry
    request: InspectRequest
    notes: tuple[str, ...]
    key: str = ""


def level_facts(model: ModelConfig) -> tuple[LevelFacts, ...]:
    """The levels of a network that have a skip connection with a gate, finest first."""
    if model.gate.kind == "none":
        return ()
    steps = [tuple(prod(s[axis] for s in model.strides[: i + 1]) for axis in range(model.dims)) for i in _skips(model)]
    return tuple(LevelFacts(i, steps[i], model.widths[i]) for i in _skips(model))


def resolve(choices: InspectChoices, region: Region | None) -> InspectPlan | Problem:
    """Plan of these choices, or the first problem; `region` as of `scan_problem`."""
    problem = scan_problem(choices, choices.options.slice_axis, region)
    if problem or choices.scan is None or choices.model is None:
        return problem or Problem("image", "")
    scan, model, gate = choices.scan, choices.model, choices.model.header.model.gate
    if gate.kind == "none":
        return Problem(
            "model",
            f"{model.header.name} is a plain U-Net: its skip connections have no gates, everything is passed on and "
            "there is nothing to inspect. Choose a ProSMA or an attention model.",
        )
    levels = tuple(facts.level for facts in level_facts(model.header.model) if facts.level not in choices.without)
    if not levels:
        return Problem("levels", "Tick at least one level.")
    maps = ATTENTION_MAPS if gate.kind == "attention" else choices.options.maps
    config = choices.options.replace(
        region=None if choices.part == "whole" else region,
        levels=levels if choices.without else None,
        maps=maps,
    )
    needed, free = needed_bytes(scan, model, config), free_memory()
    if needed > free:
        what = "This part of the scan" if config.region else "The whole scan"
        return Problem(
            "part",
            f"{what} is too large to be inspected: that takes about {needed / 2**30:.1f} GiB of memory, and "
            f"{free / 2**30:.1f} GiB can be used. Choose what the view shows, zoomed in, or fewer levels or maps.",
        )
    request = InspectRequest(model=str(model.path), device=choices.device, config=config, on=choices.on)
    notes = _notes(scan, model, config) + ((ELSEWHERE,) if choices.on else ())
    return InspectPlan(scan, model, request, notes)


def map_bytes(scan: LayerScan, model: ModelEntry, config: InspectConfig) -> int:
    """Approximate size of an inspection's maps in bytes."""
    network, once = model.header.model, {"removed": 2, "energy": 2}
    each = {"kept": 1, "field": 2, "gate": 2, "scales": 2 * len(network.gate.dilations)}
    shape, frames = _grid(scan, model, config)
    total = 0
    for facts in level_facts(network):
        if config.levels is None or facts.level in config.levels:
            voxels = frames * prod(-(-n // s) for n, s in zip(shape, facts.step, strict=True))
            total += voxels * sum(once.get(m, 0) + facts.channels * each.get(m, 0) for m in config.maps)
    return total


def needed_bytes(scan: LayerScan, model: ModelEntry, config: InspectConfig) -> int:
    """Approximate memory of an inspection in bytes: the maps, and what the network sees, twice."""
    shape, _ = _grid(scan, model, config)
    return map_bytes(scan, model, config) + 2 * 4 * model.header.model.in_channels * prod(shape)


def _grid(scan: LayerScan, model: ModelEntry, config: InspectConfig) -> tuple[tuple[int, ...], int]:
    """Shape of what the network sees of the part that is inspected, and how many times."""
    spec, dims, frames = scan.spec, model.header.model.dims, scan.spec.num_frames
    box = config.region or tuple((0, n) for n in spec.spatial_shape)
    if dims < spec.spatial_ndim:
        axis = automatic_axis(spec, config.slice_axis)
        start, stop = box[axis]
        frames *= stop - start
        box = box[:axis] + box[axis + 1 :]
    grid = network_grid(spec, model.header.preprocess, config.slice_axis)
    sizes = zip(grid.orient_box(box), grid.shape, grid.oriented, strict=True)
    return tuple(max(1, round((b - a) * new / old)) for (a, b), new, old in sizes), frames


def _notes(scan: LayerScan, model: ModelEntry, config: InspectConfig) -> tuple[str, ...]:
    """Notes before the inspection, a sentence each."""
    notes = scan_notes(scan, model, config.slice_axis, config.region, "inspected", "maps")
    if model.header.model.gate.kind == "attention":
        word = scan.spec.voxel_word
        notes += (f"An attention gate weighs every {word} and removes none: there are its weights and their energy.",)
    size = map_bytes(scan, model, config) / (1 << 30)
    if size >= LARGE:
        notes += (f"The maps take about {size:.1f} GiB: choose fewer levels or maps, or a part of the scan.",)
    return notes


def _skips(model: ModelConfig) -> range:
    return range(len(model.widths) - 1)


ChannelState = Literal["learned", "open", "closed"]


@dataclass(frozen=True)
class GateEdits:
    """Edits of the gates by level; a level without one is as learned."""

    levels: Mapping[int, LevelEdit] = field(default_factory=dict)

    def of(self, level: int) -> LevelEdit:
        """Edit of a level."""
        return self.levels.get(level, LevelEdit(level=level))

    def change(self, level: int, **values: Any) -> GateEdits:
        """Copy with other values of a level's `LevelEdit`."""
        edit = self.of(level).replace(**values)
        others = {i: e for i, e in self.levels.items() if i != level}
        return GateEdits(others if edit == LevelEdit(level=level) else others | {level: edit})

    def channel(self, level: int, channel: int) -> ChannelState:
        """State of one channel."""
        edit = self.of(level)
        if channel in edit.open_channels:
            return "open"
        return "closed" if channel in edit.closed_channels else "learned"

    def change_channel(self, level: int, channel: int, state: ChannelState) -> GateEdits:
        """Copy with another state of one channel."""
        edit = self.of(level)
        opened, closed = set(edit.open_channels) - {channel}, set(edit.closed_channels) - {channel}
        if state != "learned":
            (opened if state == "open" else closed).add(channel)
        return self.change(level, open_channels=tuple(sorted(opened)), closed_channels=tuple(sorted(closed)))

    @property
    def ordered(self) -> Edits:
        """All edits, finest level first."""
        return tuple(self.levels[i] for i in sorted(self.levels))

    def text(self) -> str:
        """All edits as text, empty where there are none."""
        return "; ".join(f"level {edit.level}: {_format_edit(edit)}" for edit in self.ordered)


def _format_edit(edit: LevelEdit) -> str:
    parts: list[str] = [edit.state] if edit.state != "learned" else []
    parts += [f"threshold × {edit.threshold:g}"] if edit.threshold != 1 else []
    parts += [] if edit.channel_gate else ["no channel gate"]
    for state, channels in (("open", edit.open_channels), ("closed", edit.closed_channels)):
        if channels:
            parts.append(f"channel{'s' * (len(channels) > 1)} {', '.join(map(str, channels))} {state}")
    return ", ".join(parts)
