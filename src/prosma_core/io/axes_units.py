"""Axes, units and voxel sizes of files and texts, in the order and with the names of `prosma_core.data.geometry`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from prosma_core.config.model import VoxelSize
from prosma_core.data.geometry import AXIS_ORDER, METRES, SPATIAL_AXES, ImageSpec, Scan, spacing_affine
from prosma_core.errors import ConfigError, GeometryError
from prosma_core.printable import counted

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray


@dataclass(frozen=True)
class _Unit:
    """A unit of length as OME-XML and OME-Zarr write it, and other spellings in lower case."""

    ome: str
    zarr: str
    spellings: tuple[str, ...]


_UNITS = {
    "km": _Unit("km", "kilometer", ("kilometre",)),
    "m": _Unit("m", "meter", ("metre",)),
    "dm": _Unit("dm", "decimeter", ("decimetre",)),
    "cm": _Unit("cm", "centimeter", ("centimetre",)),
    "mm": _Unit("mm", "millimeter", ("millimetre",)),
    "um": _Unit("µm", "micrometer", ("μm", "micron", "micrometre", "\\u00b5m", "âµm", "&#181;m", "mcm")),
    "nm": _Unit("nm", "nanometer", ("nanometre",)),
    "pm": _Unit("pm", "picometer", ("picometre",)),
    "angstrom": _Unit("Å", "angstrom", ("å", "ångström", "\\u00c5", "angström")),
    "inch": _Unit("in", "inch", ("inches",)),
    "ft": _Unit("ft", "foot", ("feet",)),
    "thou": _Unit("thou", "mil", ()),
}
"""Every unit of length that a file of any format may name, under our name of it."""

_NAMES = {
    name + plural: unit
    for unit, entry in _UNITS.items()
    for name in (unit, entry.ome.lower(), entry.zarr, *entry.spellings)
    for plural in (("", "s") if len(name) > 4 else ("",))
}

OME_UNITS = {unit: entry.ome for unit, entry in _UNITS.items()}
"""Name of each unit in OME-XML."""

ZARR_UNITS = {unit: entry.zarr for unit, entry in _UNITS.items()}
"""Name of each unit in OME-Zarr (UDUNITS-2)."""


def unit_name(text: object) -> str:
    """Our name of a length unit (``"mm"``, ``"um"``, …) for any usual spelling; ``"pixel"`` for anything else."""
    return _NAMES.get(str(text).strip().lower(), "pixel")


def one_unit(names: Sequence[object]) -> tuple[str, tuple[float, ...]]:
    """The unit of all axes of a file, and what the sizes along each axis are multiplied by to be in it.

    Parameters
    ----------
    names : sequence
        What the file calls the unit of each spatial axis; the last one's is taken for all.

    Returns
    -------
    unit : str
        ``"pixel"`` where any name is unknown: sizes cannot be compared then.
    factors : tuple of float
        1 for each axis that is in this unit already.
    """
    units = [unit_name(name) for name in names]
    unit = units[-1]
    if not set(units) <= set(METRES):
        return "pixel", (1.0,) * len(units)
    return unit, tuple(1.0 if each == unit else METRES[each] / METRES[unit] for each in units)


def parse_axes(axes: str, ndim: int, path: Path) -> str:
    """The axes a person named for the `ndim` dimensions of a file, checked.

    Raises
    ------
    GeometryError
        A letter is unknown or double, y or x is missing, or the number of letters is not `ndim`.
    """
    letters = axes.strip().lower()
    legal = f"legal letters are {', '.join(AXIS_ORDER)}, each at most once, y and x among them"
    if not set(letters) <= set(AXIS_ORDER) or len(set(letters)) != len(letters) or not {"y", "x"} <= set(letters):
        msg = f"Axes {axes!r} given for {path} cannot be used: {legal}."
        raise GeometryError(msg)
    if len(letters) != ndim:
        named = counted(len(letters), "dimension")
        msg = f"Axes {axes!r} name {named} but {path} has {ndim}: one letter for each; {legal}."
        raise GeometryError(msg)
    return letters


def ask_for_axes(path: Path, found: str, shape: tuple[int, ...]) -> GeometryError:
    """The error for a file whose axes cannot be told; `found` says what the file has."""
    return GeometryError(
        f"The axes of {path} cannot be told: {found}, shape {shape}. Name them with axes= (--axes), one letter of "
        f"{AXIS_ORDER!r} for each dimension, for example 'tyx' or 'zcyx'."
    )


def to_canonical(data: NDArray[Any], axes: str) -> tuple[NDArray[Any], str]:
    """The array as a view with its axes in the order of ``"tczyx"``, and their letters in that order."""
    ordered = "".join(letter for letter in AXIS_ORDER if letter in axes)
    return data.transpose([axes.index(letter) for letter in ordered]), ordered


def arrange(
    data: NDArray[Any],
    axes: str,
    *,
    scale: Sequence[float],
    unit: str,
    kind: str,
    origin: Sequence[float] | None = None,
    channel_names: tuple[str, ...] = (),
    header: object = None,
) -> Scan:
    """A scan on an axis-aligned grid, in canonical axis order.

    Parameters
    ----------
    data : ndarray
        Axes `axes`, in the file's order.
    axes : str
        Letters of ``"tczyx"``, one for each dimension of `data`, in any order.
    scale, origin : sequence of float
        Voxel size and position of voxel 0 for each letter of `axes`; those of t and c are not used.
    """
    data, ordered = to_canonical(data, axes)
    spatial = [letter for letter in ordered if letter in SPATIAL_AXES]
    spacing = tuple(float(scale[axes.index(letter)]) for letter in spatial)
    start = tuple(float(origin[axes.index(letter)]) for letter in spatial) if origin is not None else None
    if len(channel_names) != (data.shape[ordered.index("c")] if "c" in ordered else 0):
        channel_names = ()
    affine = spacing_affine(spacing, start)
    spec = ImageSpec(ordered, data.shape, spacing, unit, affine, "image", channel_names, kind, header)
    return Scan(data, spec)


def axis_aligned(spec: ImageSpec) -> tuple[tuple[float, ...], bool]:
    """Position of voxel 0 per spatial axis, and whether spacing and that position say all the affine says."""
    n = spec.spatial_ndim
    origin = tuple(float(value) for value in spec.affine[:n, n])
    exact = spec.world == "image" and np.array_equal(spec.affine, spacing_affine(spec.spacing, origin))
    return origin, exact


def usable_size(value: object) -> float | None:
    """A voxel size as a float, None where the file gives nothing, zero, a negative or a non-finite number."""
    try:
        size = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return size if math.isfinite(size) and size > 0 else None


_UNIT = re.compile(r"[^\d.,;×\s]+$")


def parse_voxel_size(text: str, unit: str | None = None) -> VoxelSize:
    """A voxel size from text: one, two or three numbers in the order z, y, x, and perhaps a unit.

    Parameters
    ----------
    text : str
        ``"3,1,1"``, ``"0.5 x 0.2 x 0.2 µm"``, ``"0.5mm"``; millimeters unless a unit is given.
    unit : str, optional
        Unit of the numbers; wins over one in the text.

    Raises
    ------
    ConfigError
        The text is none of this, or a size is not above 0.
    """
    numbers, named = text.strip(), ""
    found = _UNIT.search(numbers)
    if found is not None:
        numbers, named = numbers[: found.start()], found.group()
    known = unit_name(unit or named or "mm")
    try:
        sizes = tuple(float(part) for part in re.split(r"\s*[,;x×]\s*|\s+", numbers.strip().rstrip(",;")))
    except ValueError:
        sizes = ()
    if not 1 <= len(sizes) <= 3 or known == "pixel" or not all(0 < size < float("inf") for size in sizes):
        msg = (
            f"{text[:80]!r}{f' {unit[:40]}' if unit else ''} is not a voxel size: give numbers above 0 in the order "
            "z,y,x and a unit of length, such as 3,1,1mm or 0.5,0.2,0.2um; one number is for all axes."
        )
        raise ConfigError(msg)
    return VoxelSize.parse({"sizes": sizes, "unit": known}, "The voxel size")
