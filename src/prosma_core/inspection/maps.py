"""Maps of the gates: which a level has, where they lie in the scan, and how they are stitched from tiles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prosma_core.config.inspection import MapInfo, MapKind
from prosma_core.config.model import GateConfig, ModelConfig
from prosma_core.data.frames import Frame, slice_axis
from prosma_core.data.geometry import Box, ImageSpec, box_slices, whole
from prosma_core.data.grid import Tile
from prosma_core.inference.prepare import ScanPlan
from prosma_core.inference.results import Allocate
from prosma_core.inspection.level_grid import LevelCells, TileCells
from prosma_core.model.gate_hooks import GateRecord

WHOLE: tuple[MapKind, ...] = ("removed", "energy")
"""Kinds with one value per voxel."""
OF_FIELDS: tuple[MapKind, ...] = ("field", "scales")
"""Kinds of which an attention gate has none."""


@dataclass(frozen=True, eq=False)
class Layout:
    """What the maps of all levels share: how the frames of a scan make up an array.

    Attributes
    ----------
    spec : ImageSpec
        Of the scan.
    model : ModelConfig
    walk : int or None
        Spatial axis of the scan that a 2D network walks along.
    first, count : int
        First slice along it, and their number.
    """

    spec: ImageSpec
    model: ModelConfig
    walk: int | None
    first: int
    count: int

    def spatial_shape(self, cells: LevelCells) -> tuple[int, ...]:
        """Shape of a level's maps along the scan's spatial axes."""
        return self._with_walk(cells.restore(cells.shape), self.count)

    def placement(self, cells: LevelCells) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Scale and offset of a level's maps, as of `MapInfo`."""
        scale, offset = cells.placement()
        return self._with_walk(scale, 1.0), self._with_walk(offset, float(self.first))

    def infos(self, cells: LevelCells, kinds: Sequence[MapKind]) -> list[MapInfo]:
        """The maps of a level, of those kinds that its gate has."""
        scale, offset = self.placement(cells)
        time, gate = "t" * ("t" in self.spec.axes), self.model.gate
        found = []
        for kind in (kind for kind in dict.fromkeys(kinds) if has_map(kind, gate)):
            axes = time + "c" * (kind not in WHOLE) + self.spec.spatial_axes
            dilations: tuple[int | None, ...] = tuple(dict.fromkeys(gate.dilations)) if kind == "scales" else (None,)
            for dilation in dilations:
                name = f"level{cells.level}/{kind if dilation is None else f'scale{dilation}'}"
                info = MapInfo(
                    name=name, kind=kind, level=cells.level, dilation=dilation, axes=axes, scale=scale, offset=offset
                )
                found.append(info)
        return found

    def shape(self, info: MapInfo, cells: LevelCells) -> tuple[int, ...]:
        """Shape of a map's array."""
        sizes = {"t": self.spec.num_frames, "c": self.model.widths[info.level]}
        lead = tuple(sizes[letter] for letter in info.axes if letter in sizes)
        return (*lead, *self.spatial_shape(cells))

    def size(self, info: MapInfo, cells: LevelCells) -> int:
        """Bytes of a map's array."""
        return prod(self.shape(info, cells)) * map_dtype(info).itemsize

    def of_frame(self, array: NDArray[Any], info: MapInfo, frame: Frame) -> NDArray[Any]:
        """The map of a frame, a view (C, *frame's axes); one channel where there is one value per voxel."""
        lead = int("t" in self.spec.axes)
        array = array[frame.index[:lead]]
        array = array if "c" in info.axes else array[None]
        if self.walk is None:
            return array
        number = frame.index[lead + self.walk]
        assert isinstance(number, int)
        view: NDArray[Any] = array[(slice(None),) * (1 + self.walk) + (number - self.first,)]
        return view

    def _with_walk(self, values: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
        return values if self.walk is None else (*values[: self.walk], value, *values[self.walk :])


def plan_layout(plan: ScanPlan, model: ModelConfig, along: str | None) -> Layout:
    """How the maps of a scan are laid out; `along` is the axis a 2D network walks along, where it was chosen."""
    spec = plan.scan.spec
    walk = slice_axis(spec, along) if model.dims < spec.spatial_ndim else None
    start, stop = (0, 1) if walk is None else plan.region[walk]
    return Layout(spec, model, walk, start, stop - start)


def has_map(kind: MapKind, gate: GateConfig) -> bool:
    """Whether a gate has what this map shows."""
    if kind == "channel_gate":
        return gate.kind == "prosma" and gate.channel_gate
    return gate.kind == "prosma" or (gate.kind == "attention" and kind not in OF_FIELDS)


def map_dtype(info: MapInfo) -> np.dtype[Any]:
    """uint8 of what is kept, float16 of all else."""
    return np.dtype(np.uint8 if info.kind == "kept" else np.float16)


CHANNELS_AT_ONCE = 16
"""Channels put into a map at once: what is computed on the way stays small."""
LARGEST = 65504.0
"""Largest number of float16."""


class LevelMaps:
    """The maps of one level, filled tile by tile.

    What is decided (kept, removed) is taken at each cell from the tile that owns it, so that it stays a yes or no;
    what is measured (fields, gates, skips, energy) is averaged with the weights of the prediction.

    Parameters
    ----------
    cells : LevelCells
    kinds : sequence of str
        Maps to make; those that the gate does not have are left out.
    layout : Layout
    tiles : sequence of Tile
        All that will be added, for each frame.
    allocate : callable
        Gives the arrays, filled with zeros.

    Attributes
    ----------
    infos : list of MapInfo
    arrays : dict of str to ndarray
        By the names of `infos`.
    """

    def __init__(
        self, cells: LevelCells, kinds: Sequence[MapKind], layout: Layout, tiles: Sequence[Tile], allocate: Allocate
    ) -> None:
        self.cells, self.layout = cells, layout
        self.infos = layout.infos(cells, kinds)
        self.arrays = {i.name: allocate(i.name, layout.shape(i, cells), map_dtype(i)) for i in self.infos}
        self._weights = torch.zeros(cells.shape)
        for inside in map(cells.in_tile, tiles):
            if not inside.empty:
                self._weights[box_slices(inside.box)] += torch.from_numpy(inside.weight())
        self._energy = torch.zeros(2, *cells.shape) if any(i.kind == "energy" for i in self.infos) else None

    def add(self, frame: Frame, inside: TileCells, record: GateRecord) -> None:
        """Take what the gate did in one tile of a frame."""
        weight = torch.from_numpy(inside.weight()) / self._weights[box_slices(inside.box)]
        for info in self.infos:
            if info.kind in ("kept", "removed"):
                self._decide(info, frame, inside, record.a[0])
            elif info.kind != "energy":
                self._average(info, frame, inside, weight, self._measured(info, record))
        if self._energy is not None:
            sums = torch.stack([squares(record.before[0]), squares(record.after[0])])
            self._energy[(slice(None), *box_slices(inside.box))] += sample(sums, inside).cpu() * weight

    def end(self, frame: Frame) -> None:
        """Finish a frame: its energy is known when all tiles are."""
        if self._energy is None:
            return
        before, after = self._energy
        share = torch.where(before > 0, 1 - after / before.clamp_min(1e-30), 0.0).clamp_min(-LARGEST)
        info = next(i for i in self.infos if i.kind == "energy")
        self._put(info, frame, whole(self.cells.shape), share[None])
        self._energy.zero_()

    def _decide(self, info: MapInfo, frame: Frame, inside: TileCells, a: Tensor) -> None:
        if inside.owns:
            kept = pick(a, inside) != 0
            values = kept.to(torch.uint8) if info.kind == "kept" else removed_share(kept)[None]
            self._put(info, frame, inside.own_box, values.cpu())

    def _average(self, info: MapInfo, frame: Frame, inside: TileCells, weight: Tensor, values: Tensor) -> None:
        weight = weight.to(values.device)
        for first, part in _chunks(values):
            there = (part if info.kind == "channel_gate" else sample(part, inside)) * weight
            self._put(info, frame, inside.box, there.half().cpu(), add_from=first)

    def _put(self, info: MapInfo, frame: Frame, box: Box, values: Tensor, *, add_from: int | None = None) -> None:
        """Put values (C, *box), in the network's order of axes, into a frame's map, or add them from a channel on."""
        grid = self.cells.part.grid
        target = torch.from_numpy(self.layout.of_frame(self.arrays[info.name], info, frame))
        if grid.flips:
            sizes = enumerate(zip(box, self.cells.shape, strict=True))
            box = tuple((n - b, n - a) if axis in grid.flips else (a, b) for axis, ((a, b), n) in sizes)
            values = values.flip([axis + 1 for axis in grid.flips])
        place = target.permute(0, *(axis + 1 for axis in grid.order))[(slice(None), *box_slices(box))]
        if add_from is None:
            place.copy_(values)
        else:
            place.narrow(0, add_from, len(values)).add_(values)

    def _measured(self, info: MapInfo, record: GateRecord) -> Tensor:
        """What a map is the average of: (C, *tile's cells), or (C, 1, ...) where it is the same everywhere."""
        if info.kind == "scales":
            assert info.dilation is not None
            return record.fields[self.layout.model.gate.dilations.index(info.dilation)][0]
        if info.kind == "channel_gate":
            assert record.c is not None
            return record.c[0].view(-1, *(1,) * len(self.cells.shape))
        found = {"field": record.z, "gate": record.a, "before": record.before, "after": record.after}[info.kind]
        assert found is not None
        return found[0]


def sample(values: Tensor, inside: TileCells) -> Tensor:
    """Values of a tile (C, *tile's cells) at the cells of the grid in it, linear in between: (C, *box)."""
    for axis, cells in enumerate(inside.axes):
        low = np.floor(cells.places).astype(np.intp)
        between = torch.from_numpy(cells.places - low).to(values.device, values.dtype)
        lower = _select(values, axis + 1, low)
        if bool((between != 0).any()):
            upper = _select(values, axis + 1, np.minimum(low + 1, values.shape[axis + 1] - 1))
            values = torch.lerp(lower, upper, between.view(-1, *(1,) * (values.ndim - 2 - axis)))
        else:
            values = lower
    return values


def pick(values: Tensor, inside: TileCells) -> Tensor:
    """Values of a tile (C, *tile's cells) at the cells that it owns, from its nearest cell: (C, *own box)."""
    for axis, numbers in enumerate(inside.nearest()):
        values = _select(values, axis + 1, numbers)
    return values


def squares(values: Tensor) -> Tensor:
    """Sum over the channels of the squares of values (C, *grid): float32, (*grid)."""
    total = torch.zeros(values.shape[1:], device=values.device)
    for _, part in _chunks(values):
        total += part.float().square().sum(0)
    return total


def removed_share(kept: Tensor) -> Tensor:
    """Share of channels that are removed, float32 (*grid), of a mask (C, *grid)."""
    return (len(kept) - kept.sum(0)).float() / len(kept)


def _select(values: Tensor, axis: int, numbers: NDArray[np.intp]) -> Tensor:
    """Entries along an axis; a view where they follow each other."""
    if len(numbers) and bool((np.diff(numbers) == 1).all()):
        return values.narrow(axis, int(numbers[0]), len(numbers))
    return values.index_select(axis, torch.from_numpy(numbers).to(values.device))


def _chunks(values: Tensor) -> Iterator[tuple[int, Tensor]]:
    for first in range(0, len(values), CHANNELS_AT_ONCE):
        yield first, values[first : first + CHANNELS_AT_ONCE].float()
