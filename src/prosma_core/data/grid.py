"""The network's grid for one scan, the way back to the scan's own, and the tiles that cover a grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import ceil, floor
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from prosma_core.config.model import PreprocessConfig
from prosma_core.data.frames import frame_spec
from prosma_core.data.geometry import METRES, Box, ImageSpec, reverse_affine, sized_for
from prosma_core.errors import GeometryError

T = TypeVar("T", bound=np.generic)

STRONG_ANISOTROPY = 3.0
"""From this ratio of voxel sizes on, the thick axis is treated by itself (nnU-Net's rule)."""
MOST_RESAMPLED, MOST_TIMES = 2**33, 8
"""A scan that becomes larger than so many voxels, and so many times its own, has a wrong voxel size or model."""
FEWEST_RESAMPLED, FEWEST_TIMES = 8, 4
"""So has one whose longest side becomes shorter than so many voxels, and so many times shorter than its own."""


@dataclass(frozen=True)
class NetworkGrid:
    """How a frame's spatial axes become the network's: turned, flipped, then resampled.

    Attributes
    ----------
    order : tuple of int
        Source axis that becomes each network axis.
    flips : tuple of int
        Network axes that run against the source.
    oriented : tuple of int
        Shape after turning, before resampling.
    shape : tuple of int
        Shape of the network's grid.
    spacing : tuple of float
        Voxel size after turning, before resampling, in the scan's unit.
    """

    order: tuple[int, ...]
    flips: tuple[int, ...]
    oriented: tuple[int, ...]
    shape: tuple[int, ...]
    spacing: tuple[float, ...]

    @property
    def thick(self) -> tuple[int, ...]:
        """The axis of strongly anisotropic voxels along which values are not mixed; empty otherwise."""
        return thick_axes(self.spacing)

    def orient(self, array: NDArray[T]) -> NDArray[T]:
        """Array of shape (..., *source grid) turned to (..., *oriented)."""
        lead = array.ndim - len(self.order)
        turned = array.transpose(*range(lead), *(lead + a for a in self.order))
        return np.flip(turned, tuple(lead + a for a in self.flips))

    def restore(self, array: NDArray[T]) -> NDArray[T]:
        """Inverse of `orient`, a view as well."""
        lead = array.ndim - len(self.order)
        flipped = np.flip(array, tuple(lead + a for a in self.flips))
        return flipped.transpose(*range(lead), *(lead + self.order.index(a) for a in range(len(self.order))))

    def orient_box(self, box: Box) -> Box:
        """Box of the source grid as a box of the turned one."""
        return self._flip_box(tuple(box[a] for a in self.order))

    def restore_box(self, box: Box) -> Box:
        """Inverse of `orient_box`."""
        flipped = self._flip_box(box)
        return tuple(flipped[self.order.index(a)] for a in range(len(box)))

    def _flip_box(self, box: Box) -> Box:
        sizes = zip(box, self.oriented, strict=True)
        return tuple((n - b, n - a) if axis in self.flips else (a, b) for axis, ((a, b), n) in enumerate(sizes))

    def network_box(self, box: Box) -> Box:
        """Box of the network's grid whose values a box of the turned grid is resampled from."""
        return _reach(box, self.oriented, self.shape)

    def oriented_box(self, box: Box) -> Box:
        """Box of the turned grid whose values a box of the network's grid is resampled from."""
        return _reach(box, self.shape, self.oriented)


def _reach(box: Box, shape: tuple[int, ...], other: tuple[int, ...]) -> Box:
    """Box of another grid of the same extent that a box is resampled from."""
    reach = []
    for (start, stop), size, target in zip(box, shape, other, strict=True):
        ratio = target / size
        width = max(ratio, 1.0) + 0.5  # half the resampling kernel, and what rounding may add
        low, high = floor((start + 0.5) * ratio - width), ceil((stop - 0.5) * ratio + width)
        reach.append((start, stop) if size == target else (max(0, low), min(target, high)))
    return tuple(reach)


def network_grid(spec: ImageSpec, config: PreprocessConfig, along: str | None = None) -> NetworkGrid:
    """Network grid of each frame of a scan.

    Parameters
    ----------
    spec : ImageSpec
        Of the scan; without a unit, a scale other than 1 counts in the model's.
    config : PreprocessConfig
    along : str, optional
        Letter of the axis a 2D network walks along, where a person chose it.

    Raises
    ------
    GeometryError
        As in `frame_spec` and `plan_grid`.
    """
    return plan_grid(frame_spec(sized_for(spec, config), config.dims, along), config)


def plan_grid(spec: ImageSpec, config: PreprocessConfig) -> NetworkGrid:
    """Network grid of a frame with this geometry; `spec` has exactly ``config.dims`` spatial axes.

    A frame whose unit is not known is not resampled to a voxel size in millimeters: it keeps its own grid.

    Raises
    ------
    GeometryError
        The unit of the scan cannot be converted to the model's, or the target grid would be absurdly large or small.
    """
    order, flips = orient_axes(spec) if config.orientation == "RAS" else (tuple(range(config.dims)), ())
    oriented = tuple(spec.spatial_shape[a] for a in order)
    spacing = tuple(spec.spacing[a] for a in order)
    scale = unit_factor(spec.unit, config.unit) if config.resample == "spacing" else 1.0
    unknown = config.resample == "spacing" and spec.unit == "pixel" and config.unit != "pixel"
    shape = oriented if unknown else resampled_shape(oriented, tuple(s * scale for s in spacing), config)
    voxels, stored = (np.prod(sizes, dtype=float) for sizes in (shape, oriented))
    too_large = voxels > MOST_RESAMPLED and voxels > MOST_TIMES * stored
    too_small = config.resample == "spacing" and _is_few(max(shape), max(oriented))
    grid = NetworkGrid(order, flips, oriented, shape, spacing)
    if too_large or too_small:
        few = f" Its longest side needs {FEWEST_RESAMPLED} at least." if too_small else ""
        part = "" if too_small else " Or segment a part of the scan, saved as a file."
        msg = (
            f"{_resampled_text(spec, config, grid)}.{few} It is for other scans, or the {spec.voxel_word} size or unit "
            f"of the scan is wrong: correct it.{part}"
        )
        raise GeometryError(msg)
    return grid


def _is_few(voxels: int, before: int) -> bool:
    """Whether so many voxels along an axis are too few, where resampling is what made them few."""
    return voxels < FEWEST_RESAMPLED and before >= FEWEST_TIMES * voxels


def coarse_note(spec: ImageSpec, config: PreprocessConfig, grid: NetworkGrid) -> str:
    """What resampling leaves of a scan, a sentence or two; empty where enough is left along every axis.

    Parameters
    ----------
    spec : ImageSpec
        Of the scan.
    config : PreprocessConfig
    grid : NetworkGrid
        Of the two.
    """
    if config.resample != "spacing" or not any(map(_is_few, grid.shape, grid.oriented)):
        return ""
    return (
        f"{_resampled_text(sized_for(spec, config), config, grid)}: few are left along an axis, and small structures "
        f"are lost. Check the {spec.voxel_word} size and unit of the scan."
    )


def _resampled_text(spec: ImageSpec, config: PreprocessConfig, grid: NetworkGrid) -> str:
    """A scan before and after resampling, as the beginning of a sentence."""
    word = f"{spec.voxel_word}s"
    works = (
        f"works with {word} of {_by(config.spacing)} {config.unit}"
        if config.resample == "spacing"
        else f"works with scans of {config.longest_side} {word} along their longest side"
    )
    return (
        f"This scan ({_by(grid.oriented)} {word} of {_by(grid.spacing)} {spec.unit}) would have {_by(grid.shape)} "
        f"{word} for the model, which {works}"
    )


def _by(values: Sequence[float]) -> str:
    return " x ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in values)


def resampled_shape(shape: tuple[int, ...], spacing: tuple[float, ...], config: PreprocessConfig) -> tuple[int, ...]:
    """Shape on the network's grid of an oriented scan of this shape and spacing, the latter in ``config.unit``."""
    if config.resample == "longest_side" and config.longest_side is not None:
        return tuple(max(1, round(n * config.longest_side / max(shape))) for n in shape)
    if config.resample == "spacing":
        return tuple(max(1, round(n * s / t)) for n, s, t in zip(shape, spacing, config.spacing, strict=True))
    return shape


def orient_axes(spec: ImageSpec) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Axis order and flips that turn an array to RAS as nearly as whole axes can (array axes then S, A, R)."""
    n = spec.spatial_ndim
    if spec.world != "ras" or n != 3:
        return tuple(range(n)), ()
    from nibabel.orientations import io_orientation

    codes = io_orientation(reverse_affine(spec.affine))  # type: ignore[no-untyped-call]  # per source axis x, y, z: (patient axis, direction)
    order = [0, 0, 0]
    flips = []
    for axis_xyz, (patient, direction) in enumerate(codes):
        target = 2 - int(patient)
        order[target] = 2 - axis_xyz
        if direction < 0:
            flips.append(target)
    return tuple(order), tuple(sorted(flips))


def unit_factor(unit: str, target: str) -> float:
    """Number of `target` units in one `unit`; a scan without a unit is taken to be in the model's.

    Raises
    ------
    GeometryError
        One of the two is a length and cannot be converted.
    """
    if unit == target or "pixel" in (unit, target):
        return 1.0
    if unit in METRES and target in METRES:
        return METRES[unit] / METRES[target]
    msg = (
        f"The scan's unit {unit!r} cannot be converted to the model's {target!r}; set it to one of {', '.join(METRES)}."
    )
    raise GeometryError(msg)


def thick_axes(spacing: tuple[float, ...]) -> tuple[int, ...]:
    """The axis whose voxels are more than 3 times as long as the shortest side; empty where none is."""
    if max(spacing) / min(spacing) <= STRONG_ANISOTROPY:
        return ()
    return (int(np.argmax(spacing)),)


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

    Neighbors overlap by at least `overlap` of a tile.
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
        Least overlap of neighbors, as a share of the tile, 0 to 0.9.

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
    """Weight of each voxel of a tile: a Gaussian about its center, sigma 1/8 of the tile, never below 1e-3.

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
