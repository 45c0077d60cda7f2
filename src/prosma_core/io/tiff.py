"""TIFF, ImageJ and OME-TIFF stacks: reading and writing, axes and voxel size."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from prosma_core.data.geometry import METRES, Box, Scan, box_shape, box_slices
from prosma_core.data.lazy import LazyArray
from prosma_core.errors import FileFormatError, OutputError
from prosma_core.io.axes_units import OME_UNITS, arrange, ask_for_axes, parse_axes, unit_name, usable_size
from prosma_core.io.ome_tiff import Ome, Planes, claims_ome, find_planes, read_ome
from prosma_core.io.read_errors import check_unpacked, damaged, reading
from prosma_core.io.tiff_pages import (
    Pages,
    check_frames,
    check_pages,
    check_series,
    check_shaped,
    plain_samples,
    warn_orientation,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from tifffile import TiffFile, TiffPage, TiffPageSeries

    from prosma_core.data.geometry import ImageSpec


_LOG = logging.getLogger(__name__)

AXES_NOTE = "prosma_axes"
"""Key of the OME map annotation that keeps which axes of size 1 a written array had."""

_MANY_PAGES = 1000
_UNUSED = (
    "ome",
    "mmstack",
    "ndtiff",
    "scn",
    "bif",
)  # the library opens other files, or believes XML


def check_tiff(path: Path) -> None:
    """Compare what a TIFF declares with the bytes that are there.

    Raises
    ------
    FileFormatError
        A page, a strip or a tile lies outside the file or is missing, more pixels are declared than it can hold, or
        the file says it is OME-TIFF and its OME-XML is damaged or does not fit its pages.
    GeometryError
        An axis has no pixels.
    """
    _open(path, None, check_only=True, labels=False)


def read_tiff(path: Path, axes: str | None, *, labels: bool = False) -> Scan:
    """The first image of a TIFF; voxel size and unit from OME-XML, ImageJ's notes or the resolution.

    Of an OME-TIFF set the planes of all its files are read, where all are in the folder.

    Parameters
    ----------
    path : Path
    axes : str, optional
        Letters for the dimensions of the file without those of size 1 before y and x. If not given they come from the
        file; one unnamed dimension before y and x is read as z. Given, a damaged OME-XML is ignored.
    labels : bool
        Whether the values are class numbers: those of a palette are its indices.

    Raises
    ------
    FileFormatError
        As in `check_tiff`, or the pixels cannot be decoded.
    GeometryError
        As in `check_tiff`, or the axes cannot be told.
    """
    scan = _open(path, axes, check_only=False, labels=labels)
    assert scan is not None
    return scan


def lazy_tiff(path: Path, axes: str | None) -> Scan | None:
    """The first image of a TIFF of gray planes, read plane by plane when they are asked for; None for other files.

    Parameters and errors as in `read_tiff`; a damaged plane is reported when it is read.
    """
    with reading(path, "a TIFF file"):
        pages = check_pages(path)
        found = _ome(path, pages, axes)
        if found is not None and list(found[1].files) != [path]:
            return None
        check_shaped(path, pages.description)
        with _tiff_file(path) as tiff:
            return _lazy(path, tiff, pages, found, axes)


def _lazy(path: Path, tiff: TiffFile, pages: Pages, found: tuple[Ome, Planes] | None, axes: str | None) -> Scan | None:
    imagej = (tiff.imagej_metadata or {}) if tiff.is_imagej else None
    offset, frames, more = None, list[Any](), dict[str, Any]()
    page: Any
    if found is None:
        series = _first_series(tiff, pages)
        check_series(path, series)
        if series.kind and len(tiff.series) > 1:
            _LOG.warning("%s holds %d images; the first one is read.", path, len(tiff.series))
        shape, letters, page, offset = tuple(series.shape), series.axes, series.keyframe, series.dataoffset
        frames = list(series.pages) if offset is None else []
        more = {"channels": (), "kind": "tiff"}
    else:
        planes = found[1]
        frames = _frames(tiff, [number for _, number in sorted(planes.files[path])])
        check_frames(path, frames)
        page = frames[0]
        shape, letters = (*planes.sizes.values(), *page.shape), planes.image.order + page.axes
        more = {"channels": planes.image.channels, "kind": "ome-tiff", "ome": planes.image.attributes}
    plain = page.axes == "YX" and page.photometric == 1 and letters.endswith("YX") and "S" not in letters
    if not plain or page.dtype.kind not in "uif" or (offset is None and len(frames) != math.prod(shape[:-2])):
        return None
    native = page.dtype.newbyteorder("=")
    chunks = (*(1,) * (len(shape) - 2), *(shape[-2:] if offset is None else (1, 1)))
    voxels = LazyArray(shape, native, _plane_reader(path, tiff, frames, shape, native, offset), chunks)
    outline: Any = np.broadcast_to(np.zeros((), native), shape)
    if found is not None:
        outline, kept = _squeezed(outline, letters, str(found[0].notes.get(AXES_NOTE, "")) if axes is None else "")
        voxels = voxels[tuple(slice(None) if letter in kept else 0 for letter in letters)]
        letters = kept
        if found[1].image.modulo:
            _LOG.warning("%s holds further axes within t, c or z (lifetimes, angles); they are not told apart.", path)
    spec = _scan(path, outline, letters, axes, page, imagej=imagej, **more).spec
    names = _guess_axes(path, letters, outline.shape) if axes is None else parse_axes(axes, outline.ndim, path)
    return Scan(voxels.transpose(tuple(names.index(letter) for letter in spec.axes)), spec)


def _plane_reader(
    path: Path, tiff: TiffFile, frames: list[Any], shape: tuple[int, ...], native: np.dtype[Any], offset: int | None
) -> Any:
    """Reads boxes of planes that are packed each by itself, or lie behind one another from `offset` on."""
    order = np.dtype(native).newbyteorder(tiff.byteorder)

    def read(box: Box) -> NDArray[Any]:
        with reading(path, "a TIFF file"):
            if offset is not None:  # mapped for a moment: what was read counts as memory of this process
                return np.array(np.memmap(path, order, "r", offset, shape)[box_slices(box)], native)
            found = np.empty(box_shape(box), native)
            tiff.filehandle.open()
            for index in np.ndindex(found.shape[:-2]):
                number = np.ravel_multi_index([i + a for i, (a, _) in zip(index, box[:-2], strict=True)], shape[:-2])
                found[index] = frames[int(number)].asarray()[box_slices(box[-2:])]
            tiff.filehandle.close()
            return found

    return read


def _open(path: Path, axes: str | None, *, check_only: bool, labels: bool) -> Scan | None:
    with reading(path, "a TIFF file"):
        pages = check_pages(path)
        found = _ome(path, pages, axes)
        if found is not None:
            ome, planes = found
            if check_only:
                _check_ome(planes)
                return None
            return _read_ome(path, ome, planes, axes, labels=labels)
        check_shaped(path, pages.description)
        with _tiff_file(path) as tiff:
            series = _first_series(tiff, pages)
            check_series(path, series)
            if not (check_only or labels):
                check_unpacked(path, path.stat().st_size, series.nbytes)
            return None if check_only else _read_series(path, tiff, series, axes, labels=labels)


def _tiff_file(path: Path) -> TiffFile:
    import tifffile

    known = tifffile.TIFF.FILE_FLAGS
    flags: dict[str, Any] = {f"is_{name}": False for name in _UNUSED if name in known}
    return tifffile.TiffFile(path, **flags)


def _first_series(tiff: TiffFile, pages: Pages) -> TiffPageSeries:
    """The first image; where many pages differ, those like the first (the library compares each with each)."""
    import tifffile

    if len(pages) < _MANY_PAGES or len(set(pages.layouts)) == 1:
        return tiff.series[0]
    alike = [number for number, layout in enumerate(pages.layouts) if layout == pages.layouts[0]]
    _LOG.warning("%s: %d of its %d pages are like the first; they are read.", tiff.filename, len(alike), len(pages))
    frames = _frames(tiff, alike)
    shape = (len(frames), *frames[0].shape)
    return tifffile.TiffPageSeries(frames, shape, frames[0].dtype, "I" + frames[0].axes, parent=tiff)


def _ome(path: Path, pages: Pages, axes: str | None) -> tuple[Ome, Planes] | None:
    """What the OME-XML says and where its planes are; None for another TIFF, or where `axes` replace a damaged one."""
    if not claims_ome(path, pages.description):
        return None
    try:
        if not pages.description:
            msg = (
                f"The name of {path} says OME-TIFF, but it holds no OME-XML. Export it again, rename it to end with "
                ".tif only, or name its axes with axes= (--axes)."
            )
            raise FileFormatError(msg)
        ome, uuid = read_ome(path, pages.description)
        return ome, find_planes(path, pages, ome, uuid)
    except FileFormatError as error:
        if axes is None:
            raise
        _LOG.warning("%s The axes given are used, its voxel size is not known.", error)
        return None


def _check_ome(planes: Planes) -> None:
    for file, entries in planes.files.items():
        with _tiff_file(file) as tiff:
            check_frames(file, _frames(tiff, [page for _, page in entries]))


def _frames(tiff: TiffFile, numbers: list[int]) -> list[Any]:
    """Pages of one layout: only of the first all tags are read."""
    tiff.pages.useframes = True
    tiff.pages.set_keyframe(numbers[0])
    return [tiff.pages[number] for number in numbers]


def _stack(tiff: TiffFile, frames: list[Any]) -> NDArray[Any]:
    import tifffile

    shape = (len(frames), *frames[0].shape)
    series = tifffile.TiffPageSeries(frames, shape, frames[0].dtype, "I" + frames[0].axes, parent=tiff)
    return series.asarray().reshape(shape)


def _read_ome(path: Path, ome: Ome, planes: Planes, axes: str | None, *, labels: bool) -> Scan:
    count = math.prod(planes.sizes.values())
    data: NDArray[Any] | None = None
    for file, entries in planes.files.items():
        with _tiff_file(file) as tiff:
            frames = _frames(tiff, [page for _, page in entries])
            nbytes = check_frames(file, frames)
            if not labels:
                check_unpacked(file, file.stat().st_size, nbytes)
            if file == path or data is None:
                page = frames[0]
            part = _stack(tiff, frames)
        order = [number for number, _ in entries]
        if order == list(range(count)):
            data = part
            continue
        data = np.empty((count, *part.shape[1:]), part.dtype) if data is None else data
        data[order] = part
    assert data is not None
    if planes.image.modulo:
        _LOG.warning("%s holds further axes within t, c or z (lifetimes, angles); they are not told apart.", path)
    letters = planes.image.order + page.axes
    sizes = [*planes.sizes.values(), *page.shape]
    data = data.reshape(sizes)
    data, letters = plain_samples(path, data, letters, page, labels=labels, stored=True)
    data, letters = _fold_samples(data, letters)
    data, letters = _squeezed(data, letters, str(ome.notes.get(AXES_NOTE, "")) if axes is None else "")
    channels = planes.image.channels
    return _scan(path, data, letters, axes, page, ome=planes.image.attributes, channels=channels, kind="ome-tiff")


def _fold_samples(data: NDArray[Any], letters: str) -> tuple[NDArray[Any], str]:
    """Samples of a page as further channels, where pages are channels, too."""
    if "S" not in letters:
        return data, letters
    at, channel = letters.index("S"), letters.index("C")
    if data.shape[channel] == 1:
        return data.take(0, axis=channel), letters.replace("C", "")
    data = np.moveaxis(data, at, channel + 1 if at > channel else channel)
    letters = letters.replace("S", "")
    shape = list(data.shape)
    return data.reshape([*shape[:channel], shape[channel] * shape[channel + 1], *shape[channel + 2 :]]), letters


def _squeezed(data: NDArray[Any], letters: str, noted: str) -> tuple[NDArray[Any], str]:
    """Without axes of size 1 before y and x, or with those that the array had which was written."""
    names = letters.replace("S", "C").lower()
    sizes = dict(zip(names, data.shape, strict=True))
    wanted = set(noted)
    if noted and wanted <= set(names) and all(sizes[name] == 1 for name in sizes if name not in wanted):
        keep = [name in wanted for name in names]
    else:
        keep = [size > 1 or name in "yx" for name, size in sizes.items()]
    shape = [size for size, kept in zip(data.shape, keep, strict=True) if kept]
    return data.reshape(shape), "".join(letter for letter, kept in zip(letters, keep, strict=True) if kept)


def _read_series(path: Path, tiff: TiffFile, series: TiffPageSeries, axes: str | None, *, labels: bool) -> Scan:
    if series.kind and len(tiff.series) > 1:  # without a kind it is one of `_first_series`
        _LOG.warning("%s holds %d images; the first one is read.", path, len(tiff.series))
    imagej = (tiff.imagej_metadata or {}) if tiff.is_imagej else None
    page = series.keyframe
    data, letters = plain_samples(path, series.asarray(), series.axes, page, labels=labels, stored=imagej is not None)
    channels = ("red", "green", "blue") if "S" in letters else ()
    return _scan(path, data, letters, axes, page, imagej=imagej, channels=channels, kind="tiff")


def _scan(
    path: Path,
    data: NDArray[Any],
    letters: str,
    axes: str | None,
    page: TiffPage,
    *,
    channels: tuple[str, ...],
    kind: str,
    ome: dict[str, str] | None = None,
    imagej: dict[str, Any] | None = None,
) -> Scan:
    if data.dtype.kind not in "buif":
        raise damaged(path, f"its pixels are of type {data.dtype}, and whole or real numbers are read")
    orientation = page.tags.get("Orientation")
    if orientation is not None:
        warn_orientation(path, int(orientation.value))
    guess = _guess_axes(path, letters, data.shape) if axes is None else ""
    names = guess or parse_axes(axes or "", data.ndim, path)
    scale, unit = _voxel_size(path, page, letters, names, ome, imagej)
    if not channels and "S" in letters:
        channels = ("red", "green", "blue")
    return arrange(_native(data), names, scale=scale, unit=unit, kind=kind, channel_names=channels)


def _native(data: NDArray[Any]) -> NDArray[Any]:
    return data if data.dtype.isnative else data.astype(data.dtype.newbyteorder("="))


def _guess_axes(path: Path, letters: str, shape: tuple[int, ...]) -> str:
    """Our letters for those of tifffile: S (samples) is c, one unnamed axis before y and x is z."""
    names = letters.lower()
    if "s" in names and "c" not in names:
        names = names.replace("s", "c")
    unknown = [name for name in names if name not in "tczyx"]
    if len(unknown) == 1 and names[1:] == "yx" and shape[2] in (3, 4) and min(shape[:2]) > 4:
        return "yxc"  # color saved as if its rows were planes
    if len(unknown) == 1 and names[0] == unknown[0] and "z" not in names:
        names = "z" + names[1:]
        _LOG.info("%s: the first axis has no name and is read as z; name it with axes= if it is another.", path)
        unknown = []
    if unknown or len(set(names)) != len(names):
        raise ask_for_axes(path, f"the file says {letters}", shape)
    return names


_TYPES = {"uint8", "uint16", "uint32", "int8", "int16", "int32", "float32", "float64"}
_CLASSIC_BYTES = 1 << 31


def write_tiff(path: Path, data: NDArray[Any], spec: ImageSpec, provenance: dict[str, str]) -> None:
    """Write an array as deflated TIFF with OME-XML (also where the suffix is only ``.tif``).

    Parameters
    ----------
    path : Path
    data : ndarray
        Shape ``spec.shape``, axes ``spec.axes``.
    spec : ImageSpec
        Its spacing and unit become PhysicalSizeX, Y, Z.
    provenance : dict
        Becomes entries of a map annotation.

    Raises
    ------
    OutputError
        The dtype is none that OME-TIFF has.
    """
    import tifffile

    if data.dtype.name not in _TYPES:
        msg = f"OME-TIFF cannot hold {data.dtype} ({path.suffix}); write .zarr, or one of {', '.join(sorted(_TYPES))}."
        raise OutputError(msg)
    metadata: dict[str, Any] = {
        "axes": spec.axes.upper(),
        "MapAnnotation": {**provenance, AXES_NOTE: spec.axes},
    }
    if spec.unit != "pixel" or any(size != 1 for size in spec.spacing):
        for axis, size in zip(spec.spatial_axes.upper(), spec.spacing, strict=True):
            metadata[f"PhysicalSize{axis}"] = size
            metadata[f"PhysicalSize{axis}Unit"] = OME_UNITS.get(spec.unit, spec.unit)
    if spec.channel_names:
        metadata["Channel"] = {"Name": list(spec.channel_names)}
    tifffile.imwrite(
        path,
        np.ascontiguousarray(data),
        bigtiff=data.nbytes > _CLASSIC_BYTES,
        ome=True,
        photometric="minisblack",
        compression="zlib",
        metadata=metadata,
    )


_PRINT_DPI = {1, 72, 96, 100, 120, 144, 150, 180, 200, 220, 230, 240, 300, 350, 400, 600, 1200}
_TAG_UNITS = {2: "inch", 3: "cm"}  # ResolutionUnit


def _voxel_size(
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
