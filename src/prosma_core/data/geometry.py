"""Geometry of a scan: axes, spacing, unit and affine; given voxel sizes, regions as boxes, the place of maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from prosma_core.config.inspection import MapInfo
from prosma_core.config.model import PreprocessConfig, VoxelSize
from prosma_core.errors import GeometryError
from prosma_core.printable import counted

AXIS_ORDER = "tczyx"
"""Canonical order of axes: time, channel, then space. Every array of this project has a subset of it, in this order."""

SPATIAL_AXES = "zyx"

METRES = {
    "km": 1e3, "m": 1.0, "dm": 1e-1, "cm": 1e-2, "mm": 1e-3, "um": 1e-6, "nm": 1e-9, "pm": 1e-12,
    "angstrom": 1e-10, "inch": 0.0254, "ft": 0.3048, "thou": 2.54e-5,
}  # fmt: skip
"""Length in meters of every unit that a voxel size may have."""

World = Literal["ras", "image"]


@dataclass(frozen=True, eq=False)
class ImageSpec:
    """Geometry of one array, in the array's own axis order.

    Attributes
    ----------
    axes : str
        One letter per array axis, a subset of ``"tczyx"`` in that order; ``y`` and ``x`` are always there.
    shape : tuple of int
        Array shape, one entry per letter of `axes`.
    spacing : tuple of float
        Voxel size along each spatial axis, in array order (z, y, x) or (y, x), in `unit`; > 0.
    unit : str
        Unit of `spacing`: ``"mm"``, ``"um"``, ``"nm"``, … or ``"pixel"`` where the file says nothing.
    affine : ndarray, float64, shape (n + 1, n + 1)
        Maps a voxel index to the world, both in the order of the spatial axes (z, y, x): the NIfTI affine with
        its rows and columns reversed, without any arithmetic on its numbers.
    world : {"ras", "image"}
        ``"ras"``: world axes are the patient's (x to the Right, y to the Anterior, z to the Superior, in mm).
        ``"image"``: the affine only holds spacing and origin; there is no patient.
    channel_names : tuple of str
        Names of the channels, empty where the file has none.
    format : str
        Format the array came from: ``"nifti"``, ``"tiff"``, ``"ome-tiff"``, ``"png"``, ``"jpeg"``, ``"bmp"``,
        ``"zarr"``, ``"ome-zarr"``, ``"nrrd"``, ``"mha"``, ``"dicom"`` or ``"array"``.
    header : object
        What the format needs to write a result with the same header (a nibabel header, a zarr version); opaque.
    """

    axes: str
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    unit: str
    affine: NDArray[np.float64]
    world: World = "image"
    channel_names: tuple[str, ...] = ()
    format: str = "array"
    header: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_axes(self.axes, len(self.shape))
        n = self.spatial_ndim
        if any(size < 1 for size in self.shape):
            msg = f"An axis has no voxels: axes {self.axes}, shape {self.shape}. Every axis needs at least one."
            raise GeometryError(msg)
        if len(self.spacing) != n or not all(np.isfinite(s) and s > 0 for s in self.spacing):
            msg = f"Spacing {self.spacing} does not fit axes {self.axes}: {n} finite numbers above 0 are needed."
            raise GeometryError(msg)
        if self.affine.shape != (n + 1, n + 1) or not np.isfinite(self.affine).all():
            msg = f"The affine has shape {self.affine.shape} or is not finite; a finite {(n + 1, n + 1)} is needed."
            raise GeometryError(msg)
        if abs(np.linalg.det(self.affine[:n, :n])) < 1e-12 * float(np.prod(self.spacing)):
            msg = "The affine is not invertible: two voxel axes point the same way. Repair the file's orientation."
            raise GeometryError(msg)

    @property
    def spatial_axes(self) -> str:
        """Letters of the spatial axes in array order: ``"zyx"`` or ``"yx"``."""
        return "".join(a for a in self.axes if a in SPATIAL_AXES)

    @property
    def spatial_ndim(self) -> int:
        """2 or 3."""
        return len(self.spatial_axes)

    @property
    def spatial_shape(self) -> tuple[int, ...]:
        """Sizes of the spatial axes, in array order."""
        return tuple(size for axis, size in zip(self.axes, self.shape, strict=True) if axis in SPATIAL_AXES)

    @property
    def num_channels(self) -> int:
        """Size of the channel axis, 1 where there is none."""
        return self.size("c")

    @property
    def num_frames(self) -> int:
        """Size of the time axis, 1 where there is none."""
        return self.size("t")

    @property
    def orientation(self) -> str | None:
        """Closest patient axes in the order x, y, z of the file (nibabel's codes, e.g. ``"LPS"``); None if unknown."""
        if self.world != "ras" or self.spatial_ndim != 3:
            return None
        from nibabel.orientations import aff2axcodes

        return "".join(aff2axcodes(reverse_affine(self.affine)))  # type: ignore[no-untyped-call]

    @property
    def voxel_word(self) -> str:
        """What one place of the grid is called: ``"pixel"`` in 2D, else ``"voxel"``."""
        return "pixel" if self.spatial_ndim == 2 else "voxel"

    def size(self, axis: str) -> int:
        """Size of the axis with this letter, 1 where the array has no such axis."""
        return self.shape[self.axes.index(axis)] if axis in self.axes else 1

    def labels_spec(self) -> ImageSpec:
        """Geometry of a label map of this scan: the same grid and frames, without the channel axis."""
        keep = [i for i, axis in enumerate(self.axes) if axis != "c"]
        return replace(
            self,
            axes="".join(self.axes[i] for i in keep),
            shape=tuple(self.shape[i] for i in keep),
            channel_names=(),
        )

    def with_channels(self, names: tuple[str, ...]) -> ImageSpec:
        """Geometry of a scan on this grid with the given channels (replaces a channel axis, or adds one)."""
        base = self.labels_spec()
        at = 1 if "t" in base.axes else 0
        return replace(
            base,
            axes=base.axes[:at] + "c" + base.axes[at:],
            shape=(*base.shape[:at], len(names), *base.shape[at:]),
            channel_names=names,
        )


@dataclass(frozen=True, eq=False)
class Scan:
    """An array and where it lies.

    Attributes
    ----------
    data : ndarray
        Shape ``spec.shape``, axes ``spec.axes``; the file's own dtype, or float32 where it scales its integers.
        A `LazyArray` (`prosma_core.data.lazy`) of a scan that is read by parts, where that was asked for.
    spec : ImageSpec
    """

    data: Any
    spec: ImageSpec


def check_axes(axes: str, ndim: int) -> None:
    """Raise `GeometryError` unless `axes` is `ndim` letters of ``"tczyx"`` in that order, y and x among them."""
    if len(axes) != ndim or [a for a in AXIS_ORDER if a in axes] != list(axes) or "y" not in axes or "x" not in axes:
        msg = f"Axes {axes!r} do not describe an array of {ndim} dimensions: "
        raise GeometryError(msg + f"letters of {AXIS_ORDER!r} in that order, y and x among them.")


def spacing_affine(spacing: tuple[float, ...], origin: tuple[float, ...] | None = None) -> NDArray[np.float64]:
    """Affine of an axis-aligned grid.

    Parameters
    ----------
    spacing, origin : tuple of float
        Voxel size and position of voxel 0, per spatial axis in array order.

    Returns
    -------
    ndarray, float64, shape (n + 1, n + 1)
    """
    affine = np.diag([*spacing, 1.0]).astype(np.float64)
    if origin is not None:
        affine[:-1, -1] = origin
    return affine


def reverse_affine(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same map with its axes listed the other way round (x, y, z <-> z, y, x); exact, and its own inverse."""
    n = affine.shape[0] - 1
    order = [*range(n - 1, -1, -1), n]
    return np.ascontiguousarray(affine[np.ix_(order, order)])


def affine_spacing(affine: NDArray[np.float64]) -> tuple[float, ...]:
    """Voxel size along each index axis: the column lengths of the affine, in its unit."""
    n = affine.shape[0] - 1
    with np.errstate(over="ignore"):  # an infinite size is refused where the spacing is used
        return tuple(float(s) for s in np.sqrt((affine[:n, :n] ** 2).sum(axis=0)))


def array_spec(
    shape: tuple[int, ...], axes: str, spacing: tuple[float, ...] | None = None, unit: str = "pixel"
) -> ImageSpec:
    """Geometry of a plain array: spacing 1 pixel unless given.

    Parameters
    ----------
    shape, axes
        As in `ImageSpec`.
    spacing : tuple of float, optional
        Per spatial axis, in `unit`.
    """
    n = sum(a in SPATIAL_AXES for a in axes)
    spacing = (1.0,) * n if spacing is None else spacing
    return ImageSpec(axes, shape, spacing, unit, spacing_affine(spacing))


def size_unknown(spec: ImageSpec) -> bool:
    """Whether a scan states no voxel size: neither a unit nor a scale other than 1."""
    return spec.unit == "pixel" and all(size == 1 for size in spec.spacing)


def with_voxel_size(spec: ImageSpec, given: VoxelSize | None) -> ImageSpec:
    """Geometry with a given voxel size where the scan states no unit; its origin stays at the same voxel.

    Parameters
    ----------
    spec : ImageSpec
    given : VoxelSize or None
        A 2D scan takes the last two of three sizes.

    Raises
    ------
    GeometryError
        Two sizes are given for a 3D scan.
    """
    if given is None or spec.unit != "pixel":
        return spec
    n = spec.spatial_ndim
    sizes = given.sizes * n if len(given.sizes) == 1 else given.sizes[-n:]
    if len(sizes) != n:
        msg = f"{len(sizes)} voxel sizes {sizes} do not fit a {n}D scan (axes {spec.axes}): give z,y,x or one number."
        raise GeometryError(msg)
    factors = np.array(sizes) / np.array(spec.spacing)
    affine = spec.affine.copy()
    affine[:n, -1] = affine[:n, :n] @ (np.linalg.solve(affine[:n, :n], affine[:n, -1]) * factors)
    affine[:n, :n] *= factors
    return replace(spec, spacing=affine_spacing(affine), unit=given.unit, affine=affine)


def size_text(spec: ImageSpec) -> str:
    """The voxel size as ``--spacing`` takes it, such as ``3,1,1mm``."""
    return ",".join(f"{size:.15g}" for size in spec.spacing) + spec.unit


def sized_for(spec: ImageSpec, pre: PreprocessConfig) -> ImageSpec:
    """Geometry as preprocessing takes it: a scale without a unit counts in the model's unit."""
    if spec.unit != "pixel" or pre.resample != "spacing" or size_unknown(spec):
        return spec
    return replace(spec, unit=pre.unit)


def size_note(spec: ImageSpec, pre: PreprocessConfig) -> str:
    """What is assumed of a scan without a voxel size or a unit, a sentence; empty where nothing is or it has no effect.

    Parameters
    ----------
    spec : ImageSpec
        Of the scan.
    pre : PreprocessConfig
    """
    if spec.unit != "pixel" or pre.resample != "spacing" or pre.unit == "pixel":
        return ""
    if size_unknown(spec):
        target = " × ".join(f"{size:.3g}" for size in pre.spacing)
        word = spec.voxel_word.capitalize()
        return f"{word} size unknown: assumed that of the model's training scans ({target} {pre.unit}), not resampled."
    scale = " × ".join(f"{size:.3g}" for size in spec.spacing)
    return f"The {spec.voxel_word} size {scale} has no unit: {pre.unit} is assumed, the unit of the model."


def map_spec(spec: ImageSpec, info: MapInfo, shape: Sequence[int]) -> ImageSpec:
    """Geometry of a map, so that it lies in the world where it lies in its scan.

    Parameters
    ----------
    spec : ImageSpec
        Of the scan; its axes are a subset of the map's, but for channels.
    info : MapInfo
    shape : sequence of int
        Of the map's array, axes ``info.axes``.
    """
    sizes = tuple(int(n) for n in shape)
    n = len(info.scale)
    step = np.eye(n + 1)
    step[:n, :n], step[:n, n] = np.diag(info.scale), info.offset
    spacing = tuple(s * f for s, f in zip(spec.spacing, info.scale, strict=True))
    names = tuple(f"channel {c}" for c in range(sizes[info.axes.index("c")])) if "c" in info.axes else ()
    assert spec.spatial_axes == "".join(a for a in info.axes if a in SPATIAL_AXES)
    return replace(
        spec, axes=info.axes, shape=sizes, spacing=spacing, affine=spec.affine @ step, channel_names=names, header=None
    )


Box = tuple[tuple[int, int], ...]
"""First voxel and the one after the last, per axis."""


def whole(shape: tuple[int, ...]) -> Box:
    """The box of all voxels of a grid."""
    return tuple((0, n) for n in shape)


def box_shape(box: Box) -> tuple[int, ...]:
    """Voxels of a box along each axis."""
    return tuple(stop - start for start, stop in box)


def box_slices(box: Box) -> tuple[slice, ...]:
    """Index of a box in an array of its grid."""
    return tuple(slice(start, stop) for start, stop in box)


def check_region(region: Box | None, spec: ImageSpec) -> Box:
    """Region of a scan: the box given, the whole scan for None.

    Parameters
    ----------
    region : tuple of (int, int), or None
        (start, stop) per spatial axis, in the scan's order.
    spec : ImageSpec

    Raises
    ------
    GeometryError
        The region has another number of axes, is empty, or reaches outside the scan.
    """
    shape, letters = spec.spatial_shape, spec.spatial_axes
    if region is None:
        return whole(shape)
    why = ""
    if len(region) != len(shape):
        why = f"it has {counted(len(region), 'axis', 'axes')}, not {len(shape)}"
    else:
        for axis, (start, stop), size in zip(letters, region, shape, strict=True):
            if start >= stop:
                why = why or f"it is empty along {axis}"
            elif start < 0 or stop > size:
                why = why or f"it reaches outside along {axis}"
    if why:
        msg = (
            f"The region {format_box(region)} does not fit the scan of {letters} {'x'.join(map(str, shape))} voxels: "
            f"{why}. Give START:STOP for each of {', '.join(letters)}, within {format_box(whole(shape))}."
        )
        raise GeometryError(msg)
    return region


def format_box(box: Box) -> str:
    """Box as it is written on the command line: ``0:20,0:64,10:11``."""
    return ",".join(f"{start}:{stop}" for start, stop in box)


def format_region(region: Box, spec: ImageSpec) -> str:
    """What of a scan a region holds, for people: ``z 40 of 0-80, y 10-20 of 0-63``; empty for the whole scan."""
    words = []
    for axis, (start, stop), size in zip(spec.spatial_axes, region, spec.spatial_shape, strict=True):
        if (start, stop) != (0, size):
            part = f"{start}" if stop - start == 1 else f"{start}-{stop - 1}"
            words.append(f"{axis} {part} of 0-{size - 1}")
    return ", ".join(words)


def is_repeated(array: NDArray[Any]) -> bool:
    """Whether one voxel stands for all of an array, as of a part of one value that was not read."""
    return array.size > 1 and not any(s for s, n in zip(array.strides, array.shape, strict=True) if n > 1)


def first_voxel(array: NDArray[Any]) -> NDArray[Any]:
    """The first voxel of an array, with as many axes."""
    found: NDArray[Any] = array[(slice(0, 1),) * array.ndim]
    return found
