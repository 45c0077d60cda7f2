"""Inspection of the gates on a scan: maps and numbers of every level, recorded tile by tile during inference."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prosma_core.config.inference import InferenceConfig
from prosma_core.config.inspection import PLAIN, InspectConfig, Inspection, check_edits, check_levels
from prosma_core.config.model import ModelConfig, ModelHeader
from prosma_core.data.frames import Frame, frames
from prosma_core.data.geometry import ImageSpec, Scan, box_shape, format_region
from prosma_core.data.geometry import whole as whole_box
from prosma_core.data.grid import Tile, padding_to
from prosma_core.data.intensities import check_varies
from prosma_core.data.lazy import LazyArray
from prosma_core.data.normalization import Normalization, check_not_blank, measuring
from prosma_core.errors import DeviceError
from prosma_core.events import Event, StageStarted, TileDone, Working
from prosma_core.inference.cpu_tuning import inference_dtype
from prosma_core.inference.device import free_memory, name_memory_errors
from prosma_core.inference.memory import SHARE, format_plan, tile_bytes
from prosma_core.inference.prepare import ScanPlan, network_image, plan_scan
from prosma_core.inference.results import Allocate
from prosma_core.inference.segment import Segmenter
from prosma_core.inference.tiled import padded_part, reach_of, wanted_tiles
from prosma_core.inspection.level_grid import LevelCells, all_voxels, level_cells
from prosma_core.inspection.level_sums import NOISE, SEED, LevelSums
from prosma_core.inspection.maps import CHANNELS_AT_ONCE, LevelMaps, has_map, plan_layout
from prosma_core.model.gate_hooks import GateRecord, SkipPair, edited, recording, recording_skips
from prosma_core.printable import counted, gib

BESIDE_FIELDS = 6
"""Tensors of a level alive at the peak of a record beside the fields of its scales: z, a, and those on the way."""


@dataclass(frozen=True)
class InspectionPlan:
    """Plan of an inspection: device and memory.

    Attributes
    ----------
    device : torch.device
        Where the network runs.
    extra : int
        Bytes beside those of a segmentation: maps, sums, and one level of one tile as it is recorded.
    words : str
        The plan for people.
    noise : bool
        Whether there is memory for the noise gain, where it is wanted.
    """

    device: torch.device
    extra: int
    words: str
    noise: bool


def record_bytes(model: ModelConfig, cells: LevelCells) -> int:
    """Bytes that recording a level of one tile takes, and putting it into the maps."""
    channels, grid = model.widths[cells.level], prod(cells.tile_shape)
    scales = len(model.gate.dilations) if model.gate.kind == "prosma" else 0
    return 4 * grid * (channels * (scales + BESIDE_FIELDS) + 4 * min(channels, CHANNELS_AT_ONCE))


def plan_inspection(
    model: ModelConfig, levels: Sequence[LevelCells], maps: int, tiles: int, device: torch.device, *, noise: bool
) -> InspectionPlan:
    """Plan: one tile at a time, one level of it at a time.

    Parameters
    ----------
    model : ModelConfig
    levels : sequence of LevelCells
        At least one.
    maps : int
        Bytes of all maps.
    tiles : int
        Tiles in all.
    device : torch.device
        Where to compute, if it has the memory.
    noise : bool
        Whether the noise gain is wanted: a second pass, which keeps pace with the first. It is left out where there is
        no memory for it.

    Raises
    ------
    DeviceError
        Not even one tile fits.
    """
    cpu, tile = torch.device("cpu"), levels[0].tile
    record = max(record_bytes(model, cells) for cells in levels)
    sums = sum(4 * 4 * prod(cells.shape) for cells in levels)
    again = tile_bytes(model, tile)
    one = again + record
    instead = ""
    if device != cpu and one > free_memory(device) * SHARE:
        instead = f" ({device.type} has too little)"
        device = cpu
    if one + sums > free_memory(cpu) * SHARE or one > free_memory(device) * SHARE:
        msg = (
            f"Inspecting this scan needs about {gib(one + sums)}; {gib(free_memory(cpu))} are free. "
            "Close other programs, or choose a region."
        )
        raise DeviceError(msg)
    fits = one + again + sums <= free_memory(cpu) * SHARE and one + again <= free_memory(device) * SHARE
    without = "; the noise gain is left out, as there is too little memory for it" if noise and not fits else ""
    noise = noise and fits
    one += again * noise
    numbers = ", ".join(str(cells.level) for cells in levels)
    words = (
        f"{'levels' if len(levels) > 1 else 'level'} {numbers} in {counted(tiles, 'tile')} of "
        f"{'x'.join(map(str, tile))}, about {gib(one + sums)} of {gib(free_memory(device))} free on {device.type}"
        f"{instead}, and {gib(maps)} for the maps{without}"
    )
    return InspectionPlan(device, maps + record + sums + again * noise, words, noise)


ATTENTION = "The model has attention gates: they weigh every voxel by a number above 0 and remove nothing."


@dataclass(frozen=True, eq=False)
class Inspected:
    """Result of an inspection: numbers and maps.

    Attributes
    ----------
    inspection : Inspection
        Numbers, and where the maps lie.
    maps : dict of str to ndarray
        Arrays by the names in ``inspection.maps``: float16, or uint8 of what is kept.
    spec : ImageSpec
        Of the scan as it was read, which the maps lie in.
    words : str
        What the gates do not have, in words; else empty.
    """

    inspection: Inspection
    maps: dict[str, NDArray[Any]]
    spec: ImageSpec
    words: str


@dataclass
class _Work:
    """An inspection under way."""

    segmenter: Segmenter
    config: InspectConfig
    plan: ScanPlan
    tiles: list[Tile]
    memory: InspectionPlan
    maps: list[LevelMaps]
    sums: list[LevelSums]
    records: dict[int, GateRecord] = field(default_factory=dict)
    disturbed: dict[int, SkipPair] = field(default_factory=dict)
    noise: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(SEED))
    done: int = 0
    said: bool = False

    @property
    def by_parts(self) -> bool:
        """Whether only what the tiles reach is read of the scan."""
        return isinstance(self.plan.scan.data, LazyArray)

    @property
    def total(self) -> int:
        return len(self.tiles) * self.plan.frames


def inspect_scan(
    segmenter: Segmenter, scan: Scan, config: InspectConfig, allocate: Allocate | None = None
) -> Generator[Event, None, Inspected]:
    """Inspect the gates while a scan goes through the network; yields after each level, and may be closed there.

    Parameters
    ----------
    segmenter : Segmenter
        Not to be used by others meanwhile: its gates may be changed.
    scan : Scan
        Any grid, orientation and dtype, as of `Segmenter.segment`. Of one that is not in memory, only what the tiles
        of the region reach is read, and the intensities in one pass; the noise of the noise gain then has the deviation
        of that part.
    config : InspectConfig
    allocate : callable, optional
        Gives the arrays of the maps, see `Allocate`; new arrays otherwise.

    Raises
    ------
    ConfigError
        A level, or what is to be changed, does not exist.
    GeometryError, ChannelError, IntensityError
        The scan does not fit the model or the region, or cannot be computed with.
    DeviceError
        Memory does not suffice.
    """
    model = segmenter.header.model
    levels = check_levels(model, config.levels)
    check_edits(model, config.edits)
    words = format_missing_gates(segmenter, config)
    if not levels:
        return Inspected(
            Inspection(gate=model.gate.kind, form=model.gate.form, levels=(), maps=()), {}, scan.spec, words
        )
    with name_memory_errors(), edited(segmenter.model, config.edits):
        work = yield from _plan(segmenter, scan, config, levels, allocate or _zeros)
        yield from _run(work)
    found = Inspection(
        gate=model.gate.kind,
        form=model.gate.form,
        levels=tuple(s.summary(m.layout.spatial_shape(m.cells)) for m, s in zip(work.maps, work.sums, strict=True)),
        maps=tuple(info for maps in work.maps for info in maps.infos),
    )
    arrays = {name: array for maps in work.maps for name, array in maps.arrays.items()}
    return Inspected(found, arrays, work.plan.scan.spec, words)


def format_missing_gates(segmenter: Segmenter, config: InspectConfig) -> str:
    """What of the settings the gates of a model do not have, in words; else empty."""
    gate = segmenter.header.model.gate
    if gate.kind == "none":
        return f"{PLAIN} There is nothing to inspect."
    absent = [kind for kind in dict.fromkeys(config.maps) if not has_map(kind, gate)]
    words = [ATTENTION] if gate.kind == "attention" else []
    if absent:
        words.append(f"It has no maps of: {', '.join(absent)}." if words else f"The gates have no {', '.join(absent)}.")
    return " ".join(words)


def _plan(
    segmenter: Segmenter, scan: Scan, config: InspectConfig, levels: tuple[int, ...], allocate: Allocate
) -> Generator[Event, None, _Work]:
    """Plan an inspection, report the plan, and make the arrays."""
    header = segmenter.header
    model, tile = header.model, header.preprocess.tile
    plan = plan_scan(scan, header, config.region, config.slice_axis)
    cells = [level_cells(level, model, tile, config.overlap, plan.part) for level in levels]
    tiles, every = wanted_tiles(plan.part.grid.shape, tile, config.overlap, all_voxels(cells))
    yield from _say(plan, segmenter, config, (len(tiles), every))
    layout = plan_layout(plan, model, config.slice_axis)
    infos = [(info, level) for level in cells for info in layout.infos(level, config.maps)]
    size = sum(layout.size(info, level) for info, level in infos)
    memory = plan_inspection(model, cells, size, len(tiles) * plan.frames, segmenter.device, noise=config.noise_gain)
    if isinstance(plan.scan.data, LazyArray):
        _check_part(tiles, plan, header, size)
    yield StageStarted(f"Inspecting {memory.words}.")
    maps = []
    for level in cells:
        maps.append(LevelMaps(level, config.maps, layout, tiles, allocate))
        yield Working(f"Making the maps of level {level.level}")
    return _Work(
        segmenter, config, plan, tiles, memory, maps, [LevelSums(c.level, model.widths[c.level]) for c in cells]
    )


def _check_part(tiles: list[Tile], plan: ScanPlan, header: ModelHeader, maps: int) -> None:
    """Raise `DeviceError` where what the tiles reach, and the maps of it, do not fit into memory."""
    reach = reach_of(tiles, plan.part.grid.shape, header.preprocess.tile)
    needed = 2 * 4 * header.model.in_channels * prod(box_shape(reach)) + maps  # padded, too
    free = free_memory(torch.device("cpu"))
    if needed > free * SHARE:
        msg = (
            f"Inspecting this part of the scan needs about {gib(needed)}; {gib(free)} are free. Choose a smaller part, "
            "such as what the view shows, or fewer levels and maps."
        )
        raise DeviceError(msg)


def _say(plan: ScanPlan, segmenter: Segmenter, config: InspectConfig, tiles: tuple[int, int]) -> Iterator[Event]:
    if plan.note:
        yield StageStarted(plan.note)
    how = InferenceConfig(overlap=config.overlap, slice_axis=config.slice_axis)
    counts = (plan.frames, plan.whole)
    for sentence in format_plan(plan.scan.spec, segmenter.header, how, plan.part.grid, frames=counts, tiles=tiles):
        yield StageStarted(sentence)
    part = format_region(plan.region, plan.scan.spec)
    if part:
        yield StageStarted(f"Only {part} is inspected; computed for it: {tiles[0]} of {tiles[1]} tiles of each frame.")


def _run(work: _Work) -> Generator[Event, None, None]:
    header, config, plan = work.segmenter.header, work.config, work.plan
    blank = 0
    for frame in frames(plan.scan, header.model.dims, config.slice_axis, plan.region):
        (how,) = yield from measuring([frame], header.preprocess.intensities)
        if plan.whole > 1 and how.blank:
            blank += 1
            work.done += len(work.tiles)
            yield TileDone(work.done, work.total)
            continue
        check_not_blank(how)
        yield from _frame(work, frame, how)
        for maps in work.maps:
            maps.end(frame)
    if blank == plan.frames:
        check_varies(plan.scan.data)
    if blank:
        yield StageStarted(f"Left out, as they have one value everywhere: {blank} of {counted(plan.frames, 'frame')}.")


def _frame(work: _Work, frame: Frame, how: Normalization) -> Generator[Event, None, None]:
    header, grid = work.segmenter.header, work.plan.part.grid
    box = reach_of(work.tiles, grid.shape, header.preprocess.tile) if work.by_parts else whole_box(grid.shape)
    image, note = network_image(frame, grid, header.preprocess, how, box)
    if note and not work.said:
        yield StageStarted(f"For the model, {note}.")
    work.said = True
    padding = padding_to(grid.shape, header.preprocess.tile)
    padded, origin = padded_part(image, box, padding)
    deviation = image.flatten(1).std(1, correction=0)
    for tile in work.tiles:
        placed = Tile(tuple(a - o for a, o in zip(tile.start, origin, strict=True)), tile.size)
        batch = padded[(slice(None), *placed.slices)][None]
        disturbed = None
        if work.memory.noise:
            inside = _inside(tile, padding, grid.shape)
            disturbed = _with_noise(batch, inside, NOISE * deviation, work.noise)
        for level in _levels(work, batch, disturbed):
            _take(work, level, frame, tile)
            share = f", {100 * work.done // work.total} %" if work.done else ""
            yield Working(f"Inspecting level {level}{share}")
        work.done += 1
        yield TileDone(work.done, work.total)


def _inside(tile: Tile, padding: Sequence[tuple[int, int]], shape: Sequence[int]) -> tuple[slice, ...]:
    """Part of a tile that is no padding of the image."""
    axes = zip(tile.start, tile.slices, padding, shape, strict=True)
    return tuple(slice(max(0, p - a), max(0, min(at.stop, p + n) - a)) for a, at, (p, _), n in axes)


def _with_noise(batch: Tensor, inside: tuple[slice, ...], deviation: Tensor, noise: torch.Generator) -> Tensor:
    """A tile (1, C, *tile) with Gaussian noise of a deviation for each channel inside the image."""
    disturbed = batch.clone()
    part = disturbed[(slice(None), slice(None), *inside)]
    drawn = torch.randn(part.shape, generator=noise, dtype=part.dtype)
    part += drawn * deviation.to(part.dtype).view(1, -1, *(1,) * len(inside))
    return disturbed


def _levels(work: _Work, batch: Tensor, disturbed: Tensor | None) -> Iterator[int]:
    """Run the network on a tile, as the prediction does; gives each level when its gate has run.

    With noise, the second pass keeps pace, so that of one level at a time there are two records.
    """
    device = work.memory.device
    model = work.segmenter.model.to(device)
    levels = [maps.cells.level for maps in work.maps]
    half = inference_dtype(device) is not torch.float32
    steps = model.forward_to_gate(batch.to(device), min(levels))
    again = None if disturbed is None else model.forward_to_gate(disturbed.to(device), min(levels))
    while True:
        # None of these modes must last while this generator waits: whoever drains it would have it too. Half precision
        # is bfloat16 here: what float16 cannot hold shows where the network has ended, after the records.
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=half):
            with recording(model, work.records.__setitem__, levels):
                level = next(steps, None)
            if again is not None:
                with recording_skips(model, work.disturbed.__setitem__, levels):
                    next(again, None)
        if level is None:
            return
        yield level


@torch.no_grad()
def _take(work: _Work, level: int, frame: Frame, tile: Tile) -> None:
    """Put what a level's gate did in a tile into its maps and sums, and let go of it."""
    record, disturbed = work.records.pop(level, None), work.disturbed.pop(level, None)
    if record is None:  # a level between those that are wanted
        return
    for maps, sums in zip(work.maps, work.sums, strict=True):
        if maps.cells.level == level:
            inside = maps.cells.in_tile(tile)
            if not inside.empty:
                maps.add(frame, inside, record)
                sums.add(inside, record, disturbed)


def _zeros(_: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    return np.zeros(shape, dtype)
