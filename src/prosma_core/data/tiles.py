"""Tiles as data: where each lies, and how much each of its voxels counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import ceil

import numpy as np
from numpy.typing import NDArray

from prosma_core.errors import GeometryError


@dataclass(frozen=True)
class Tile:
    """A box of the grid: first voxel and size, per spatial axis."""

    start: tuple[int, ...]
    size: tuple[int, ...]

    @property
    def slices(self) -> tuple[slice, ...]:
        """Index of the box in an array of the grid."""
        return tuple(slice(a, a + n) for a, n in zip(self.start, self.size, strict=True))


def tile_starts(size: int, tile: int, overlap: float) -> list[int]:
    """First voxels of tiles along one axis: evenly spread, first at 0, last flush with the end.

    Neighbours overlap by at least `overlap` of a tile.
    """
    if tile >= size:
        return [0]
    step = max(1, int(tile * (1 - overlap)))
    count = ceil((size - tile) / step) + 1
    return [round(i * (size - tile) / (count - 1)) for i in range(count)]


def plan_tiles(shape: tuple[int, ...], tile: tuple[int, ...], overlap: float) -> list[Tile]:
    """Tiles that together cover a grid, in scan order.

    Parameters
    ----------
    shape : tuple of int
        Grid, at least as large as the tile along each axis (pad first).
    tile : tuple of int
        Tile size.
    overlap : float
        Least overlap of neighbours, as a share of the tile, 0 to 0.9.

    Raises
    ------
    GeometryError
        The grid is smaller than the tile.
    """
    if any(n < t for n, t in zip(shape, tile, strict=True)):
        msg = f"The grid {shape} is smaller than the tile {tile}; pad it to at least the tile first."
        raise GeometryError(msg)
    starts = (tile_starts(n, t, overlap) for n, t in zip(shape, tile, strict=True))
    return [Tile(start, tile) for start in product(*starts)]


def gaussian_weight(tile: tuple[int, ...], at: Sequence[NDArray[np.float64]] | None = None) -> NDArray[np.float32]:
    """Weight of each voxel of a tile: a Gaussian about its centre, sigma 1/8 of the tile, never below 1e-3.

    Parameters
    ----------
    tile : tuple of int
    at : sequence of ndarray, float64, shape (n,), optional
        Positions along each axis, in voxels of the tile, instead of the voxels themselves.

    Returns
    -------
    ndarray, float32, shape `tile` or one entry per position, range [1e-3, 1]
    """
    weight = peak = np.ones((), dtype=np.float64)
    for axis, n in enumerate(tile):
        bells = []
        for positions in (np.arange(n), np.arange(n) if at is None else at[axis]):
            x = (positions - (n - 1) / 2) / (n / 8)
            bells.append(np.exp(-0.5 * x * x))
        peak = peak * bells[0].max()
        weight = np.multiply.outer(weight, bells[1])
    clipped: NDArray[np.float32] = np.clip(weight / peak, 1e-3, 1).astype(np.float32)
    return clipped


def padding_to(shape: tuple[int, ...], tile: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """Voxels to add before and after each axis so that the grid is at least as large as the tile."""
    missing = [max(0, t - n) for n, t in zip(shape, tile, strict=True)]
    return tuple((m // 2, m - m // 2) for m in missing)
