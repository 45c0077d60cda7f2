"""Geometry of a level's cells: in the padded grid of the network, in its tiles, and in the scan.

Cell j of a level whose strides multiply to s covers the voxels s j to s j + s - 1 of the padded grid; its center is
s j + (s - 1) / 2. A tile has cells of its own, which lie between those of the grid where its start is no multiple of s.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from prosma_core.config.model import ModelConfig
from prosma_core.data.geometry import Box, box_shape
from prosma_core.data.grid import Tile, gaussian_weight, padding_to, tile_starts
from prosma_core.inference.grid_restore import RegionOfInterest


@dataclass(frozen=True, eq=False)
class AxisCells:
    """Cells of the wanted box whose centers lie in one tile, along one axis.

    Attributes
    ----------
    start, stop : int
        First cell and the one after the last, counted from the start of the box.
    offsets : ndarray, float64, shape (stop - start,)
        Centers, in voxels of the tile.
    places : ndarray, float64, shape (stop - start,)
        The same in cells of the tile: whole numbers where its cells are those of the grid.
    own : tuple of int
        Of these cells, the first and the one after the last that lie nearest to this tile's center of all tiles'.
    """

    start: int
    stop: int
    offsets: NDArray[np.float64]
    places: NDArray[np.float64]
    own: tuple[int, int]


@dataclass(frozen=True, eq=False)
class TileCells:
    """Cells of the wanted box in one tile.

    The cells that a tile owns are those whose center is nearest to its own center, where its weight is largest: each
    cell belongs to exactly one tile.
    """

    tile: tuple[int, ...]
    axes: tuple[AxisCells, ...]

    @property
    def box(self) -> Box:
        """Where they lie in the box."""
        return tuple((axis.start, axis.stop) for axis in self.axes)

    @property
    def own_box(self) -> Box:
        """Where those that the tile owns lie in the box."""
        return tuple((axis.start + axis.own[0], axis.start + axis.own[1]) for axis in self.axes)

    @property
    def empty(self) -> bool:
        """Whether there are none."""
        return 0 in box_shape(self.box)

    @property
    def owns(self) -> bool:
        """Whether the tile owns some."""
        return 0 not in box_shape(self.own_box)

    def nearest(self) -> list[NDArray[np.intp]]:
        """For each axis: the cell of the tile nearest to each cell that it owns."""
        return [np.floor(a.places[a.own[0] : a.own[1]] + 0.5).astype(np.intp) for a in self.axes]

    def weight(self) -> NDArray[np.float32]:
        """Weight of the tile at each cell's center, as in the prediction: shape of `box`."""
        return gaussian_weight(self.tile, [axis.offsets for axis in self.axes])


@dataclass(frozen=True, eq=False)
class LevelCells:
    """The cells of a level that the wanted part of a frame touches.

    Attributes
    ----------
    level : int
    stride : tuple of int
        Voxels of the network's grid per cell, along each axis.
    box : tuple of (int, int)
        First cell and the one after the last of the padded grid.
    tile : tuple of int
    starts : tuple of tuple of int
        First voxels of all tiles of the padded grid, along each axis.
    padded : tuple of int
        Shape of the padded grid.
    before : tuple of int
        Voxels of padding before the grid.
    part : RegionOfInterest
    """

    level: int
    stride: tuple[int, ...]
    box: Box
    tile: tuple[int, ...]
    starts: tuple[tuple[int, ...], ...]
    padded: tuple[int, ...]
    before: tuple[int, ...]
    part: RegionOfInterest

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of cells along each axis of the network's grid."""
        return box_shape(self.box)

    @property
    def voxels(self) -> Box:
        """Voxels that the cells cover, in coordinates of the grid without padding."""
        sizes = zip(self.box, self.stride, self.padded, self.before, strict=True)
        return tuple((a * s - p, min(b * s, n) - p) for (a, b), s, n, p in sizes)

    @property
    def tile_shape(self) -> tuple[int, ...]:
        """Cells of a tile along each axis."""
        return tuple(n // s for n, s in zip(self.tile, self.stride, strict=True))

    def in_tile(self, tile: Tile) -> TileCells:
        """Cells in a tile of the padded grid."""
        return TileCells(self.tile, tuple(self._axis(axis, start) for axis, start in enumerate(tile.start)))

    def _axis(self, axis: int, start: int) -> AxisCells:
        s, n, (first, last) = self.stride[axis], self.tile[axis], self.box[axis]
        # A last cell that reaches far over the edge is looked up at the edge, where there still is a tile.
        centers = np.minimum(s * np.arange(first, last) + (s - 1) / 2, self.padded[axis] - 1.0)
        inside = np.flatnonzero((centers >= start - 0.5) & (centers < start + n - 0.5))
        low = int(inside[0]) if len(inside) else 0
        offsets = centers[inside] - start
        places = np.clip((offsets - (s - 1) / 2) / s, 0, n // s - 1)
        distances = np.abs(centers[inside] - (np.array(self.starts[axis])[:, None] + (n - 1) / 2))
        own = np.flatnonzero(np.array(self.starts[axis])[distances.argmin(0)] == start)
        bounds = (int(own[0]), int(own[-1]) + 1) if len(own) else (0, 0)
        return AxisCells(low, low + len(inside), offsets, places, bounds)

    def restore(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Numbers per axis of the network's grid, in the order of the frame's own axes."""
        order = self.part.grid.order
        return tuple(shape[order.index(axis)] for axis in range(len(order)))

    def placement(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Voxels of the frame per cell, and index in the frame of the first cell's center, along its own axes."""
        grid = self.part.grid
        scale, offset = [], []
        for axis in (grid.order.index(a) for a in range(len(grid.order))):
            s, target, size = self.stride[axis], grid.oriented[axis], grid.shape[axis]
            ratio = target / size
            first, last = self.box[axis]
            cell = last - 1 if axis in grid.flips else first
            center = (s * cell + (s - 1) / 2 - self.before[axis] + 0.5) * ratio - 0.5  # on the turned frame
            scale.append(s * ratio)
            offset.append(target - 1 - center if axis in grid.flips else center)
        return tuple(scale), tuple(offset)


def level_cells(
    level: int, model: ModelConfig, tile: tuple[int, ...], overlap: float, part: RegionOfInterest
) -> LevelCells:
    """Cells of a level that the wanted part of a frame touches; those wholly in padding are no part of them.

    Parameters
    ----------
    level : int
        0 for the finest.
    model : ModelConfig
    tile : tuple of int
    overlap : float
        Of tiles, as in the prediction.
    part : RegionOfInterest
    """
    grid = part.grid
    padding = padding_to(grid.shape, tile)
    padded = tuple(n + sum(p) for n, p in zip(grid.shape, padding, strict=True))
    stride = tuple(prod(s[axis] for s in model.strides[: level + 1]) for axis in range(model.dims))
    box = []
    for (start, stop), size, target, (p, _), s in zip(
        part.oriented, grid.shape, grid.oriented, padding, stride, strict=True
    ):
        whole = s * target  # in parts of a voxel, so that all numbers are whole
        box.append(((start * size + p * target) // whole, -(-(stop * size + p * target) // whole)))
    starts = tuple(tuple(tile_starts(n, t, overlap)) for n, t in zip(padded, tile, strict=True))
    return LevelCells(level, stride, tuple(box), tile, starts, padded, tuple(p for p, _ in padding), part)


def all_voxels(levels: list[LevelCells]) -> Box:
    """Box of the grid without padding that holds the cells of all levels; it may reach into the padding."""
    boxes = [level.voxels for level in levels]
    return tuple((min(box[a][0] for box in boxes), max(box[a][1] for box in boxes)) for a in range(len(boxes[0])))
