"""Inspection of the gates on a scan: maps and numbers of every level, recorded tile by tile during inference."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from prosma_core.config.inference import InferenceConfig
from prosma_core.config.inspection import (
    HISTOGRAM_EDGES,
    PLAIN,
    InspectConfig,
    Inspection,
    LevelSummary,
    check_edits,
    check_levels,
)
from prosma_core.config.model import ModelConfig
from prosma_core.data.frames import Frame, frames
from prosma_core.data.geometry import ImageSpec, Scan, format_region
from prosma_core.data.grid import Tile, padding_to
from prosma_core.data.intensities import check_varies
from prosma_core.errors import DeviceError
from prosma_core.events import Event, StageStarted, TileDone, Working
from prosma_core.inference.cpu_tuning import inference_bf16
from prosma_core.inference.device import free_memory, gib, name_memory_errors
from prosma_core.inference.memory import SHARE, format_plan, tile_bytes
from prosma_core.inference.prepare import ScanPlan, is_blank, network_image, plan_scan
from prosma_core.inference.results import Allocate
from prosma_core.inference.segment import Segmenter
from prosma_core.inference.tiled import wanted_tiles
from prosma_core.inspection.level_grid import LevelCells, TileCells, all_voxels, level_cells
from prosma_core.inspection.maps import CHANNELS_AT_ONCE, LevelMaps, has_map, pick, plan_layout
from prosma_core.model.gate_hooks import GateRecord, edited, recording
from prosma_core.printable import counted

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
    """

    device: torch.device
    extra: int
    words: str


def record_bytes(model: ModelConfig, cells: LevelCells) -> int:
    """Bytes that recording a level of one tile takes, and putting it into the maps."""
    channels, grid = model.widths[cells.level], prod(cells.tile_shape)
    scales = len(model.gate.dilations) if model.gate.kind == "prosma" else 0
    return 4 * grid * (channels * (scales + BESIDE_FIELDS) + 4 * min(channels, CHANNELS_AT_ONCE))


def plan_inspection(
    model: ModelConfig, levels: Sequence[LevelCells], maps: int, tiles: int, device: torch.device
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

    Raises
    ------
    DeviceError
        Not even one tile fits.
    """
    cpu, tile = torch.device("cpu"), levels[0].tile
    record = max(record_bytes(model, cells) for cells in levels)
    sums = sum(4 * 4 * prod(cells.shape) for cells in levels)
    one = tile_bytes(model, tile) + record
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
    numbers = ", ".join(str(cells.level) for cells in levels)
    words = (
        f"{'levels' if len(levels) > 1 else 'level'} {numbers} in {counted(tiles, 'tile')} of "
        f"{'x'.join(map(str, tile))}, about {gib(one + sums)} of {gib(free_memory(device))} free on {device.type}"
        f"{instead}, and {gib(maps)} for the maps"
    )
    return InspectionPlan(device, maps + record + sums, words)


_BINS = len(HISTOGRAM_EDGES) - 1
_BIN_WIDTH = HISTOGRAM_EDGES[1] - HISTOGRAM_EDGES[0]


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
        bins = (ratio / _BIN_WIDTH).clamp_(0, _BINS - 1).to(torch.int32)
        counts.append(torch.bincount(bins.flatten().cpu(), minlength=_BINS).numpy())
    return np.stack(counts)


def _lost(before: float, after: float) -> float:
    return float(1 - after / before) if before > 0 else 0.0


def _sums(mask: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    return mask.flatten(1).sum(1).cpu().numpy()


def _squares(values: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Sum of the squares of each channel, float64; one channel at a time, so that no copy of all is made."""
    return np.array([float(channel.float().square().sum()) for channel in values])


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
    done: int = 0
    said: bool = False

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
        Any grid, orientation and dtype, as of `Segmenter.segment`.
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
        with recording(segmenter.model, work.records.__setitem__, levels):
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
    memory = plan_inspection(model, cells, size, len(tiles) * plan.frames, segmenter.device)
    yield StageStarted(f"Inspecting {memory.words}.")
    maps = []
    for level in cells:
        maps.append(LevelMaps(level, config.maps, layout, tiles, allocate))
        yield Working(f"Making the maps of level {level.level}")
    return _Work(
        segmenter, config, plan, tiles, memory, maps, [LevelSums(c.level, model.widths[c.level]) for c in cells]
    )


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
        if plan.whole > 1 and is_blank(frame):
            blank += 1
            work.done += len(work.tiles)
            yield TileDone(work.done, work.total)
            continue
        yield from _frame(work, frame)
        for maps in work.maps:
            maps.end(frame)
    if blank == plan.frames:
        check_varies(np.asarray(plan.scan.data))
    if blank:
        yield StageStarted(f"Left out, as they have one value everywhere: {blank} of {counted(plan.frames, 'frame')}.")


def _frame(work: _Work, frame: Frame) -> Generator[Event, None, None]:
    header, grid = work.segmenter.header, work.plan.part.grid
    image, note = network_image(frame, grid, header.preprocess)
    if note and not work.said:
        yield StageStarted(f"For the model, {note}.")
    work.said = True
    padding = padding_to(grid.shape, header.preprocess.tile)
    padded = F.pad(image, [p for before_after in reversed(padding) for p in before_after])
    for tile in work.tiles:
        batch = padded[(slice(None), *tile.slices)][None]
        for level in _levels(work, batch):
            _take(work, level, frame, tile)
            yield Working(f"Tile {work.done + 1} of {work.total}, level {level}")
        work.done += 1
        yield TileDone(work.done, work.total)


def _levels(work: _Work, batch: Tensor) -> Iterator[int]:
    """Run the network on a tile, as the prediction does; gives each level when its gate has run."""
    device = work.memory.device
    model = work.segmenter.model.to(device)
    steps = model.forward_to_gate(batch.to(device), min(maps.cells.level for maps in work.maps))
    while True:
        # Neither mode must last while this generator waits: whoever drains it would have it too.
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=inference_bf16(device)):
            level = next(steps, None)
        if level is None:
            return
        yield level


@torch.no_grad()
def _take(work: _Work, level: int, frame: Frame, tile: Tile) -> None:
    """Put what a level's gate did in a tile into its maps and sums, and let go of it."""
    record = work.records.pop(level, None)
    if record is None:  # a level between those that are wanted
        return
    for maps, sums in zip(work.maps, work.sums, strict=True):
        if maps.cells.level == level:
            inside = maps.cells.in_tile(tile)
            if not inside.empty:
                maps.add(frame, inside, record)
                sums.add(inside, record)


def _zeros(_: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    return np.zeros(shape, dtype)
