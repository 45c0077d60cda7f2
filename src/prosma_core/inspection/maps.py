"""Which maps of a level there are, their arrays, and where they lie in the scan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prosma_core.config.inspection import MapInfo, MapKind
from prosma_core.config.model import GateConfig, ModelConfig
from prosma_core.data.frames import Frame, slice_axis
from prosma_core.data.geometry import ImageSpec
from prosma_core.inference.prepare import ScanPlan
from prosma_core.inspection.level_grid import LevelCells

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
