"""TIFF, ImageJ and OME-TIFF stacks with their axes and voxel size."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from prosma_core.io.failures import reading
from prosma_core.io.layout import METRES, arrange, ask_for_axes, parse_axes, unit_name, usable_size
from prosma_core.io.tiff_checks import check_bytes, check_pages

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from tifffile import TiffFile, TiffPageSeries

    from prosma_core.data.geometry import Scan

_LOG = logging.getLogger(__name__)

AXES_NOTE = "prosma_axes"
"""Key of the OME map annotation that keeps which axes of size 1 a written array had."""

_PRINT_DPI = {72, 96, 100, 120, 150, 200, 240, 300, 400, 600, 1200}
_ALPHA = {1, 2}  # EXTRASAMPLE values: associated and unassociated alpha


def check_tiff(path: Path) -> None:
    """Compare what a TIFF declares with the bytes that are there.

    Raises
    ------
    FileFormatError
        A page, a strip or a tile lies outside the file or is missing, or more pixels are declared than it can hold.
    GeometryError
        An axis has no pixels.
    """
    _open(path, None, check_only=True)


def read_tiff(path: Path, axes: str | None) -> Scan:
    """The first image of a TIFF; voxel size and unit from OME-XML, ImageJ's notes or the resolution in cm.

    Parameters
    ----------
    path : Path
    axes : str, optional
        Letters for the dimensions of the file without those of size 1 before y and x. If not given they come from the
        file; one unnamed dimension before y and x is read as z.

    Raises
    ------
    FileFormatError
        As in `check_tiff`, or the pixels cannot be decoded.
    GeometryError
        As in `check_tiff`, or the axes cannot be told.
    """
    scan = _open(path, axes, check_only=False)
    assert scan is not None
    return scan


def _open(path: Path, axes: str | None, *, check_only: bool) -> Scan | None:
    import tifffile

    with reading(path, "a TIFF file"):
        check_pages(path)
        with tifffile.TiffFile(path) as tiff:
            series = tiff.series[0]
            check_bytes(path, series)
            return None if check_only else _read_series(path, tiff, series, axes)


def _read_series(path: Path, tiff: TiffFile, series: TiffPageSeries, axes: str | None) -> Scan:
    if len(tiff.series) > 1:
        _LOG.warning("%s holds %d images; the first one is read.", path, len(tiff.series))
    ome = _ome_pixels(tiff)
    noted = str(_ome_notes(tiff).get(AXES_NOTE, ""))
    data = series.asarray()
    letters = series.axes
    if noted and not axes:
        sizes = dict(zip(series.get_axes(squeeze=False).lower(), series.get_shape(squeeze=False), strict=True))
        letters = noted.upper()
        data = data.reshape([sizes[letter] for letter in noted])
    elif letters.endswith("S") and series.keyframe.photometric == 2 and _has_alpha(series):
        _LOG.info("%s: the alpha channel is left out.", path)
        data = data[..., : data.shape[-1] - 1]
    guess = _guess_axes(path, letters, data.shape) if axes is None else ""
    names = guess or parse_axes(axes or "", data.ndim, path)
    scale, unit = _voxel_size(tiff, series, ome, letters, names)
    kind = "ome-tiff" if tiff.is_ome else "tiff"
    channels = _channel_names(ome) or (("red", "green", "blue") if letters.endswith("S") else ())
    return arrange(_native(data), names, scale=scale, unit=unit, kind=kind, channel_names=channels)


def _native(data: NDArray[Any]) -> NDArray[Any]:
    return data if data.dtype.isnative else data.astype(data.dtype.newbyteorder("="))


def _has_alpha(series: TiffPageSeries) -> bool:
    extra = series.keyframe.extrasamples
    return bool(extra) and int(extra[-1]) in _ALPHA


def _guess_axes(path: Path, letters: str, shape: tuple[int, ...]) -> str:
    """Our letters for those of tifffile: S (samples) is c, one unnamed axis before y and x is z."""
    names = letters.lower()
    if "s" in names and "c" not in names:
        names = names.replace("s", "c")
    unknown = [name for name in names if name not in "tczyx"]
    if len(unknown) == 1 and names[1:] == "yx" and shape[2] in (3, 4) and min(shape[:2]) > 4:
        return "yxc"  # colour saved as if its rows were planes
    if len(unknown) == 1 and names[0] == unknown[0] and "z" not in names:
        names = "z" + names[1:]
        _LOG.info("%s: the first axis has no name and is read as z; name it with axes= if it is another.", path)
        unknown = []
    if unknown or len(set(names)) != len(names):
        raise ask_for_axes(path, f"the file says {letters}", shape)
    return names


def _ome_pixels(tiff: TiffFile) -> dict[str, Any]:
    """Attributes of the first image's Pixels element, empty where the file has no OME-XML."""
    image = _ome(tiff).get("Image", {})
    pixels = (image[0] if isinstance(image, list) else image).get("Pixels", {})
    return pixels if isinstance(pixels, dict) else {}


def _ome_notes(tiff: TiffFile) -> dict[str, Any]:
    """Entries of the map annotation that this project writes."""
    notes = (_ome(tiff).get("StructuredAnnotations") or {}).get("MapAnnotation", {})
    entries = ((notes if isinstance(notes, dict) else {}).get("Value") or {}).get("M", [])
    entries = entries if isinstance(entries, list) else [entries]
    return {entry["K"]: entry.get("value", "") for entry in entries if "K" in entry}


def _ome(tiff: TiffFile) -> dict[str, Any]:
    import tifffile

    xml = tiff.ome_metadata if tiff.is_ome else None
    root = tifffile.xml2dict(xml).get("OME", {}) if xml else {}
    return root if isinstance(root, dict) else {}


def _channel_names(ome: dict[str, Any]) -> tuple[str, ...]:
    channels = ome.get("Channel", [])
    channels = channels if isinstance(channels, list) else [channels]
    names = tuple(str(channel.get("Name", "")) for channel in channels)
    return names if all(names) else ()


def _voxel_size(
    tiff: TiffFile, series: TiffPageSeries, ome: dict[str, Any], letters: str, names: str
) -> tuple[list[float], str]:
    """Voxel size for each dimension of the file, and its unit; what is not known is as large as x."""
    if ome:
        sizes, unit = _ome_size(ome)
    elif tiff.is_imagej:
        sizes, unit = _imagej_size(tiff, series)
    else:
        sizes, unit = _resolution_size(series)
    if not any(sizes.values()):
        return [1.0] * len(names), "pixel"
    common = sizes.get("X") or sizes.get("Y") or 1.0
    if "z" in names and not sizes.get("Z"):
        _LOG.info("The file gives no distance of planes; %g %s is assumed, as in x.", common, unit)
    filed = [letter if letter in "XY" else "Z" for letter in letters]
    return [sizes.get(letter) or common for letter in filed], unit


def _ome_size(ome: dict[str, Any]) -> tuple[dict[str, float | None], str]:
    units = {axis: unit_name(ome.get(f"PhysicalSize{axis}Unit", "µm")) for axis in "XYZ"}
    sizes = {axis: usable_size(ome.get(f"PhysicalSize{axis}")) for axis in "XYZ"}
    unit = next((units[axis] for axis in "XYZ" if sizes[axis]), "pixel")
    for axis, size in sizes.items():
        if size and units[axis] != unit and units[axis] in METRES and unit in METRES:
            sizes[axis] = size * METRES[units[axis]] / METRES[unit]
    return sizes, unit


def _imagej_size(tiff: TiffFile, series: TiffPageSeries) -> tuple[dict[str, float | None], str]:
    notes = tiff.imagej_metadata or {}
    x, y = _pixels_per_unit(series)
    sizes = {"X": usable_size(1 / x if x else None), "Y": usable_size(1 / y if y else None)}
    return {**sizes, "Z": usable_size(notes.get("spacing"))}, unit_name(notes.get("unit", ""))


def _resolution_size(series: TiffPageSeries) -> tuple[dict[str, float | None], str]:
    """Micrometres from a resolution in pixels per centimetre; inches and printers' values say nothing of a voxel."""
    unit = series.keyframe.tags.get("ResolutionUnit")
    x, y = _pixels_per_unit(series)
    if unit is None or int(unit.value) != 3 or not x or not y or round(x * 2.54) in _PRINT_DPI:
        return {}, "pixel"
    return {"X": usable_size(1e4 / x), "Y": usable_size(1e4 / y)}, "um"


def _pixels_per_unit(series: TiffPageSeries) -> tuple[float | None, float | None]:
    values: list[float | None] = []
    for name in ("XResolution", "YResolution"):
        tag = series.keyframe.tags.get(name)
        above, below = tag.value if tag is not None and isinstance(tag.value, tuple) else (0, 1)
        values.append(usable_size(above / below) if below else None)
    return values[0], values[1]
