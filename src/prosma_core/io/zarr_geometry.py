"""Axes, voxel size and position of the arrays of zarr folders, from OME-Zarr or attributes."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from prosma_core.data.geometry import METRES
from prosma_core.errors import GeometryError
from prosma_core.io.axes_units import ask_for_axes, unit_name, usable_size
from prosma_core.io.zarr_checks import Located

if TYPE_CHECKING:
    from pathlib import Path

_LOG = logging.getLogger(__name__)

_LETTERS = {
    "t": "t", "time": "t",
    "c": "c", "ch": "c", "channel": "c", "channels": "c",
    "z": "z", "depth": "z",
    "y": "y", "height": "y", "row": "y",
    "x": "x", "width": "x", "column": "x",
}  # fmt: skip


def axes_of(path: Path, found: Located, shape: tuple[int, ...]) -> str:
    """Our letter for each dimension."""
    ndim = len(shape)
    attributes = found.array.attributes
    given = (
        found.multiscale.get("axes")
        or attributes.get("axes")
        or attributes.get("_ARRAY_DIMENSIONS")
        or found.array.metadata.get("dimension_names")
    )
    if found.multiscale and not given:  # OME-Zarr before 0.3 has all five
        given = "tczyx"
    names = [str(axis.get("name") if isinstance(axis, dict) else axis).lower() for axis in given or []]
    if not names or all(name.startswith("dim_") or name == "none" for name in names):
        if ndim not in (2, 3):
            raise ask_for_axes(path, "nothing in it names them", shape)
        return "zyx"[-ndim:]
    letters = "".join(_LETTERS.get(name, "?") for name in names)
    if "?" in letters or len(letters) != ndim or len(set(letters)) != ndim or not {"y", "x"} <= set(letters):
        raise ask_for_axes(path, f"the file names {', '.join(names)}", shape)
    return letters


def grid_of(path: Path, found: Located, axes: str) -> tuple[list[float], list[float] | None, str]:
    """Voxel size and position of voxel 0 for each dimension, in one unit."""
    if found.multiscale:
        scale, origin = transform_of(path, found.multiscale, len(axes))
        entries = [
            entry if isinstance(entry, dict) else {} for entry in found.multiscale.get("axes") or [{}] * len(axes)
        ]
        units = [unit_name(entry.get("unit")) for entry in entries]
        return _one_unit(axes, scale, origin, units)
    attributes = found.array.attributes
    spatial = [letter for letter in axes if letter in "zyx"]
    sizes, start = attributes.get("spacing"), attributes.get("origin")
    if not isinstance(sizes, list) or len(sizes) != len(spatial) or not all(usable_size(size) for size in sizes):
        if sizes is not None:
            _LOG.warning("%s: the voxel size %.60s is not used; it is no number above 0 for each axis.", path, sizes)
        return [1.0] * len(axes), None, "pixel"
    by_letter = dict(zip(spatial, sizes, strict=True))
    start = start if isinstance(start, list) and len(start) == len(spatial) else [0.0] * len(spatial)
    start_by_letter = dict(zip(spatial, start, strict=True))
    scale = [float(by_letter.get(letter, 1.0)) for letter in axes]
    origin = [float(start_by_letter.get(letter, 0.0)) for letter in axes]
    return scale, origin, unit_name(attributes.get("unit"))


def transform_of(path: Path, multiscale: dict[str, Any], ndim: int) -> tuple[list[float], list[float]]:
    """Scale and translation of the finest level: its own, then those of the whole image."""
    scale, origin = [1.0] * ndim, [0.0] * ndim
    own = multiscale["datasets"][0].get("coordinateTransformations") or []
    for step in [*own, *(multiscale.get("coordinateTransformations") or [])]:
        values = step.get(step.get("type", ""), [])
        if step.get("type") == "identity":
            continue
        if step.get("type") not in {"scale", "translation"} or len(values) != ndim:
            msg = (
                f"{path} places its voxels with {step}, which is not read: scale and translation of {ndim} numbers are."
            )
            raise GeometryError(msg)
        if step["type"] == "scale":
            scale = [a * float(b) for a, b in zip(scale, values, strict=True)]
            origin = [a * float(b) for a, b in zip(origin, values, strict=True)]
        else:
            origin = [a + float(b) for a, b in zip(origin, values, strict=True)]
    return scale, origin


def _one_unit(
    axes: str, scale: list[float], origin: list[float], units: list[str]
) -> tuple[list[float], list[float], str]:
    """Express the spatial axes in the unit of x."""
    unit = units[axes.index("x")]
    for index, letter in enumerate(axes):
        if letter in "zy" and units[index] != unit and {units[index], unit} <= set(METRES):
            factor = METRES[units[index]] / METRES[unit]
            scale[index], origin[index] = scale[index] * factor, origin[index] * factor
        elif letter in "zy" and units[index] != unit:
            _LOG.warning("The voxel size along %s is in %s, along x in %s.", letter, units[index], unit)
    return scale, origin, unit
