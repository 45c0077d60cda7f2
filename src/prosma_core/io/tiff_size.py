"""Voxel size of a TIFF: from OME-XML, from ImageJ's notes, or from the resolution of a picture."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from prosma_core.data.geometry import METRES
from prosma_core.io.axes_units import unit_name, usable_size

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tifffile import TiffPage

_LOG = logging.getLogger(__name__)

_PRINT_DPI = {1, 72, 96, 100, 120, 144, 150, 180, 200, 220, 230, 240, 300, 350, 400, 600, 1200}
_TAG_UNITS = {2: "inch", 3: "cm"}  # ResolutionUnit


def voxel_size(
    path: Path,
    page: TiffPage,
    letters: str,
    names: str,
    ome: Mapping[str, str] | None,
    imagej: Mapping[str, Any] | None,
) -> tuple[list[float], str]:
    """Voxel size for each dimension of the file, and its unit; one that is not known is as large as x.

    Parameters
    ----------
    path : Path
    page : TiffPage
        The first of the image, with its resolution.
    letters : str
        Axes as the file names them.
    names : str
        The same axes in letters of ``"tczyx"``.
    ome : mapping, optional
        Attributes of the Pixels element.
    imagej : mapping, optional
        ImageJ's notes.

    Returns
    -------
    sizes : list of float
        One for each letter of `names`.
    unit : str
        ``"pixel"`` where the file names none.
    """
    given: dict[str, tuple[Any, object]]
    if ome is not None:
        given = {axis: (ome.get(f"PhysicalSize{axis}"), ome.get(f"PhysicalSize{axis}Unit", "µm")) for axis in "XYZ"}
    elif imagej is not None:
        given = _imagej_size(page, imagej)
    else:
        given = _resolution_size(path, page)
    sizes, unit = _one_unit(path, given)
    if not sizes:
        return [1.0] * len(names), "pixel"
    common = sizes.get("X") or sizes.get("Y") or 1.0
    if ("X" in sizes) != ("Y" in sizes):
        known = "x" if "X" in sizes else "y"
        _LOG.warning("%s gives the size of a pixel along %s only; the same is assumed along the other.", path, known)
    if "z" in names and "Z" not in sizes and unit != "pixel":
        _LOG.warning("%s gives no distance of planes; %g %s is assumed, as in x.", path, common, unit)
    filed = [letter if letter in "XY" else "Z" for letter in letters]
    return [sizes.get(letter) or common for letter in filed], unit


def _one_unit(path: Path, given: Mapping[str, tuple[Any, object]]) -> tuple[dict[str, float], str]:
    """The usable sizes in the unit of the first of them."""
    usable: dict[str, tuple[float, str]] = {}
    for axis, (value, named) in given.items():
        size = usable_size(value)
        if size is None and value is not None:
            size = usable_size(-float(value)) if _is_negative(value) else None
            done = "its absolute value is used" if size else "it is not used"
            _LOG.warning("%s gives %.40s as voxel size along %s; %s.", path, value, axis.lower(), done)
        if size is not None:
            usable[axis] = (size, unit_name(named))
            if usable[axis][1] == "pixel" and str(named).strip().lower() not in {"", "pixel", "pixels", "none"}:
                _LOG.warning("%s gives the voxel size in %.20r, a unit that is not known.", path, named)
    if not usable:
        return {}, "pixel"
    unit = next(iter(usable.values()))[1]
    sizes: dict[str, float] = {}
    for axis, (size, own) in usable.items():
        if own == unit:
            sizes[axis] = size
        elif {own, unit} <= set(METRES):
            sizes[axis] = size * METRES[own] / METRES[unit]
        else:
            _LOG.warning("%s gives the voxel size along %s in %s, and along x in %s.", path, axis.lower(), own, unit)
    return sizes, unit


def _is_negative(value: Any) -> bool:
    try:
        return float(value) < 0
    except (TypeError, ValueError):
        return False


def _imagej_size(page: TiffPage, notes: Mapping[str, Any]) -> dict[str, tuple[Any, object]]:
    """ImageJ keeps pixels per unit in the resolution tags; y and z may have units of their own."""
    x, y = _pixels_per_unit(page)
    unit = notes.get("unit") or notes.get("xunit") or ""
    if not unit and x and round(x) != 72:
        unit = _TAG_UNITS.get(_resolution_unit(page), "")
    return {
        "X": (1 / x if x else None, unit),
        "Y": (1 / y if y else None, notes.get("yunit") or unit),
        "Z": (notes.get("spacing"), notes.get("zunit") or unit),
    }


def _resolution_size(path: Path, page: TiffPage) -> dict[str, tuple[Any, object]]:
    """Size of a pixel from the resolution, unless that is a printer's or a camera's."""
    unit = _TAG_UNITS.get(_resolution_unit(page))
    x, y = _pixels_per_unit(page)
    if unit is None or not x or not y or x == y == 1:
        return {}
    dpi = x if unit == "inch" else 2.54 * x
    if round(dpi) in _PRINT_DPI and abs(dpi - round(dpi)) < 0.3:
        _LOG.info("%s: %d dpi is the resolution of a printer, not taken as voxel size.", path, round(dpi))
        return {}
    length = METRES[unit] / METRES["um"]
    return {"X": (length / x, "um"), "Y": (length / y, "um")}


def _resolution_unit(page: TiffPage) -> int:
    tag = page.tags.get("ResolutionUnit")
    return int(tag.value) if tag is not None else 2


def _pixels_per_unit(page: TiffPage) -> tuple[float | None, float | None]:
    values: list[float | None] = []
    for name in ("XResolution", "YResolution"):
        tag = page.tags.get(name)
        above, below = tag.value if tag is not None and isinstance(tag.value, tuple) else (0, 1)
        values.append(usable_size(above / below) if below else None)
    return values[0], values[1]
