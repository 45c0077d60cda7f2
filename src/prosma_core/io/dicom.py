"""DICOM: a folder is a series, a file one image or all frames of it; segmentations as label maps."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from prosma_core.data.geometry import ImageSpec, Scan, affine_spacing, reverse_affine
from prosma_core.errors import FileFormatError, LabelError
from prosma_core.io.axes_units import arrange, parse_axes
from prosma_core.io.dicom_header import PIXELS, DicomFile, read_dicom_file
from prosma_core.io.dicom_pixels import PixelFormat, decode_frames, pixel_format
from prosma_core.io.dicom_stack import Slice, Stack, no_image, slices_of, stack_of, what_it_is
from prosma_core.io.names import is_dicom_file
from prosma_core.io.read_errors import damaged, excerpt, reading
from prosma_core.printable import counted

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

_SPARSE = 1 << 28
"""Voxels of the largest label map that a segmentation may be, however few of its slices are stored."""

_LOG = logging.getLogger(__name__)
_SEGMENTATION = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
_SERIES, _CLASS, _MODALITY, _IMAGE_TYPE = 0x0020000E, 0x00080016, 0x00080060, 0x00080008


@dataclass(frozen=True)
class DicomHeader:
    """What is kept of a series.

    Attributes
    ----------
    classes : dict of int to str
        Names of the segments of a segmentation.
    modality : str
        Such as ``"CT"``; empty where it says none.
    window : tuple of (float, float)
        Lowest and highest physical value to be drawn: the first window of each image, of a series the median. Empty
        where it states none.
    """

    classes: dict[int, str] = field(default_factory=dict)
    modality: str = ""
    window: tuple[float, ...] = ()


@dataclass(frozen=True)
class _Series:
    """The images that are read together."""

    source: Path
    slices: tuple[Slice, ...]
    modality: str
    forms: tuple[PixelFormat, ...]
    segmentation: bool
    window: tuple[float, ...] = ()


def check_dicom(path: Path) -> None:
    """Walk the headers of a file or of all files of a folder; pixels are not unpacked.

    Raises
    ------
    FileFormatError
        A file is damaged or cut, holds no image, or has a compression that is not read; a folder holds several series.
    GeometryError
        The images are no regular stack.
    """
    _stack(_series(path))


def read_dicom(path: Path, axes: str | None) -> Scan:
    """The scan of a DICOM folder or file, or the label map of a segmentation; lengths in mm.

    Values are the physical ones: each file's (or frame's) own slope and intercept, or its modality LUT, applied. Gray
    values whose smallest is white (MONOCHROME1) stay as they are stored, and a warning tells so. Colors are RGB.

    Parameters
    ----------
    path : Path
        A folder with one series, or a file.
    axes : str, optional
        Letters for the dimensions of the array. Others than those found leave the orientation out.

    Raises
    ------
    FileFormatError, GeometryError
        As in `check_dicom`, or the pixels cannot be unpacked.
    MissingExtraError
        The compression needs SimpleITK, which is not installed.
    LabelError
        Segments of a segmentation overlap.
    """
    series = _series(path)
    stack = _stack(series)
    with reading(path, "DICOM images"):
        if series.segmentation:
            data, classes = _labels(series, stack)
        else:
            data, classes = _values(series, stack), {}
    names = stack.axes + ("c" if data.ndim > len(stack.axes) else "")
    spatial = reverse_affine(stack.affine)
    if axes is not None and parse_axes(axes, data.ndim, path) != names:
        sizes = dict(zip(reversed("xyz"[: len(spatial) - 1]), affine_spacing(spatial), strict=True))
        scale = [sizes.get(letter, 1.0) for letter in names]
        return arrange(data, parse_axes(axes, data.ndim, path), scale=scale, unit=stack.unit, kind="dicom")
    channels: tuple[str, ...] = ()
    if names.endswith("c"):
        at = 1 if names[0] == "t" else 0
        data, names = np.moveaxis(data, -1, at), names[:at] + "c" + names[at:-1]
        channels = ("red", "green", "blue", "alpha")[: data.shape[at]]
    world: Any = "ras" if stack.patient else "image"
    header = DicomHeader(classes, series.modality, series.window)
    spec = ImageSpec(names, data.shape, affine_spacing(spatial), stack.unit, spatial, world, channels, "dicom", header)
    return Scan(data, spec)


def _stack(series: _Series) -> Stack:
    if not series.segmentation:
        return stack_of(series.source, series.slices, series.modality)
    first: dict[Any, Slice] = {}
    for one in series.slices:  # one slice for each place, whatever segments are there
        first.setdefault(tuple(round(v, 3) for v in one.position) if one.position else one.frame, one)
    return stack_of(series.source, list(first.values()), series.modality, gaps=True)


def _series(path: Path) -> _Series:
    """All images of a file, or of the one series in a folder."""
    if not path.is_dir():
        with reading(path, "a DICOM file"):
            file = read_dicom_file(path)
            form, slices = _images(file)
        return _one(path, file, (form,), slices)
    found: dict[str, list[tuple[Path, PixelFormat, list[Slice], str]]] = {}
    first: dict[str, DicomFile] = {}
    others: list[tuple[Path, str, FileFormatError]] = []
    for member in sorted(path.iterdir()):
        if not is_dicom_file(member) or member.name.upper().startswith("DICOMDIR"):
            continue
        with reading(member, "a DICOM file"):
            file = read_dicom_file(member)
            if PIXELS not in file.data and what_it_is(file) and not file.data.cut:
                others.append((member, what_it_is(file), no_image(file)))
                continue
            form, slices = _images(file)
        uid = file.data.text(_SERIES)
        found.setdefault(uid, []).append((member, form, slices, file.data.text(_CLASS)))
        first.setdefault(uid, file)
    if not found and others:
        raise others[0][2]
    if not found:
        raise damaged(path, "none of its files can be read as DICOM")
    if len(found) > 1:
        listed = "; ".join(
            f"{excerpt(uid, 64)} ({counted(len(files), 'file')})" for uid, files in list(found.items())[:3]
        )
        msg = f"{path} holds {len(found)} DICOM series: {listed}. Put each into a folder of its own."
        raise FileFormatError(msg)
    if others:
        name, kind, _ = others[0]
        _LOG.warning("%s: %d files without an image are left out, for example %s (%s).", path, len(others), name, kind)
    ((uid, files),) = found.items()
    alike = {(form.samples, form.floating) for _, form, _, _ in files}
    if len(alike) > 1:
        msg = f"{path} holds color and gray images in one series. Put them into folders of their own."
        raise FileFormatError(msg)
    slices = [one for _, _, group, _ in files for one in group]
    return _one(path, first[uid], tuple(form for _, form, _, _ in files), slices)


def _images(file: DicomFile) -> tuple[PixelFormat, list[Slice]]:
    form = pixel_format(file)
    if "MOSAIC" in file.data.texts(_IMAGE_TYPE):
        msg = f"{file.path} is a mosaic of Siemens: slices side by side in one picture. Convert it with dcm2niix."
        raise FileFormatError(msg)
    return form, slices_of(file, form.frames, (form.rows, form.columns))


def _one(source: Path, file: DicomFile, forms: tuple[PixelFormat, ...], slices: Sequence[Slice]) -> _Series:
    uid = file.data.text(_CLASS) or file.file_class
    if any(form.photometric == "MONOCHROME1" for form in forms):
        _LOG.warning("%s: its lowest values are white (MONOCHROME1); values are kept as they are stored.", source)
    if uid in _SEGMENTATION:
        kind = file.data.text(0x00620001)
        if kind == "FRACTIONAL":
            msg = f"{source} is a fractional segmentation (probabilities). Export it as a binary segmentation."
            raise FileFormatError(msg)
    windows = [one.window for one in slices if one.window]
    window = tuple(float(end) for end in np.median(windows, axis=0)) if windows else ()
    return _Series(source, tuple(slices), _modality(file.data.text(_MODALITY)), forms, uid in _SEGMENTATION, window)


def _values(series: _Series, stack: Stack) -> NDArray[Any]:
    """Physical values, axes ``stack.axes`` and colors last."""
    ordered = [one for volume in stack.slices for one in volume]
    scaled = _scaled_type(series, ordered)
    result: NDArray[Any] | None = None
    frames: NDArray[Any] | None = None
    table, opened = None, None
    for index, one in enumerate(ordered):
        if opened != one.path or frames is None:
            file = read_dicom_file(one.path)
            form = pixel_format(file)
            frames, opened = decode_frames(file, form), one.path
            table = _modality_table(file)
        plane = frames[one.frame]
        if table is not None:
            first, values = table
            plane = values[np.clip(plane.astype(np.int64) - first, 0, len(values) - 1)]
        elif scaled is not None and plane.ndim == 2:
            plane = (plane.astype(np.float64) * one.slope + one.intercept).astype(scaled)
        if result is None:
            result = np.empty((len(ordered), *plane.shape), plane.dtype)
        elif not np.can_cast(plane.dtype, result.dtype):
            result = result.astype(np.result_type(plane.dtype, result.dtype))
        result[index] = plane
    assert result is not None  # a series has at least one image
    shape = [len(stack.slices)] * ("t" in stack.axes) + [len(stack.slices[0])] * ("z" in stack.axes)
    return result.reshape(*shape, *result.shape[1:])


def _scaled_type(series: _Series, slices: Sequence[Slice]) -> Any:
    """The type that holds all physical values, None where they are the stored ones.

    Whole slopes and intercepts, equal or not, give integers; all others floats: of 32 bits for stored values of up to
    16, of 64 above.
    """
    pairs = {(one.slope, one.intercept) for one in slices}
    if pairs == {(1.0, 0.0)}:
        return None
    if any(form.floating or form.stored > 16 for form in series.forms):
        return np.float64
    if not all(slope.is_integer() and intercept.is_integer() for slope, intercept in pairs):
        return np.float32
    stored = {
        end
        for form in series.forms
        for end in ((-(1 << form.stored - 1), 1 << form.stored - 1) if form.signed else (0, 1 << form.stored))
    }
    ends = [end * slope + intercept for slope, intercept in pairs for end in stored]
    for kind in (np.int16, np.int32):
        if np.iinfo(kind).min <= min(ends) and max(ends) <= np.iinfo(kind).max:
            return kind
    return np.float64


def _modality_table(file: DicomFile) -> tuple[int, NDArray[Any]] | None:
    """First stored value and the physical values from there on, where the file has a modality LUT."""
    item = next(iter(file.data.items(0x00283000)), None)
    if item is None or 0x00283006 not in item:
        return None
    described = item.numbers(0x00283002)
    element = item.elements[0x00283006]
    if len(described) != 3:
        raise damaged(file.path, "its modality LUT has no usable description")
    count, first = int(described[0]) or 65536, int(described[1])
    if first > 32767 and file.data.number(0x00280103) == 1:
        first -= 65536
    values = np.frombuffer(element.value[: len(element.value) // 2 * 2], ">u2" if file.data.big else "<u2")
    if len(values) < count:
        raise damaged(file.path, f"its modality LUT declares {counted(count, 'value')}, {len(values)} are there")
    return first, values[:count].astype(np.uint16)


def _labels(series: _Series, stack: Stack) -> tuple[NDArray[Any], dict[int, str]]:
    """The label map of a segmentation: the segments' own numbers, and their names."""
    files = {path: read_dicom_file(path) for path in dict.fromkeys(one.path for one in series.slices)}
    frames = {path: decode_frames(file, pixel_format(file)) for path, file in files.items()}
    names: dict[int, str] = {}
    for path, file in files.items():
        for number, name in _segment_names(file).items():
            if names.setdefault(number, name) != name:
                msg = f"Segment {number} is {name!r} in {path.name}, and {names[number]!r} in another file of "
                raise LabelError(msg + f"{series.source}. Put each file into a folder of its own.")
    place_of = {
        tuple(round(v, 3) for v in one.position) if one.position else one.frame: place
        for one, place in zip(stack.slices[0], stack.places, strict=True)
    }
    depth = stack.places[-1] + 1
    rows, columns = series.slices[0].size
    stored = len(series.slices) * rows * columns
    if depth * rows * columns > max(_SPARSE, 64 * stored):
        problem = f"its {len(series.slices)} frames of {rows} x {columns} pixels spread over {depth} slices"
        raise damaged(series.source, problem)
    largest = max((int(values.max()) for values in frames.values()), default=1)
    labels = np.zeros((depth, rows, columns), np.min_scalar_type(max(largest, *names, 1)))
    for one in series.slices:
        key: Any = tuple(round(v, 3) for v in one.position) if one.position else one.frame
        plane = labels[place_of[key]]
        if files[one.path].data.text(0x00620001) == "LABELMAP":
            plane[...] = frames[one.path][one.frame]
            continue
        number = one.segment or 1
        here = frames[one.path][one.frame] > 0
        taken = plane[here]
        if taken.any():
            msg = (
                f"The segments {names.get(int(taken.max()), '?')!r} and {names.get(number, '?')!r} of {series.source} "
                "overlap; a label map has one class for each voxel. Export them as separate segmentations."
            )
            raise LabelError(msg)
        plane[here] = number
    _LOG.warning("%s is a segmentation: read as a label map of %d classes.", series.source, len(names))
    return (labels if "z" in stack.axes else labels[0]), names


def _segment_names(file: DicomFile) -> dict[int, str]:
    """Names of the segments of a file by their numbers."""
    names = {}
    for item in file.data.items(0x00620002):
        number = int(item.number(0x00620004) or 0)
        if number > 0:
            names[number] = excerpt(item.text(0x00620005), 64) or f"segment {number}"
    return names


_MODALITY_TAGS: tuple[tuple[bytes, Literal["little", "big"]], ...] = (
    (b"\x08\x00\x60\x00", "little"),
    (b"\x00\x08\x00\x60", "big"),
)
_PREAMBLE = 128
_LONGEST_MODALITY = 16
_START = 1 << 16
"""Bytes of a DICOM file in which its modality stands: the tag is among the first."""


def dicom_modality(path: Path) -> str:
    """Modality of a DICOM file, or of the first file of a folder, such as ``"MR"``; empty where it says none."""
    try:
        file = next((each for each in sorted(path.iterdir()) if is_dicom_file(each)), None) if path.is_dir() else path
        if file is None or not is_dicom_file(file):
            return ""
        with file.open("rb") as opened:
            start = opened.read(_START)
    except OSError:
        return ""
    found = next(((tag, order) for tag, order in _MODALITY_TAGS if tag in start[_PREAMBLE:]), None)
    if found is None:
        return ""
    tag, order = found
    rest = start[_PREAMBLE:].partition(tag)[2]
    # With an explicit value representation two bytes of length follow it, else four in its place.
    at, size = (2, 2) if rest[:2] == b"CS" else (0, 4)
    value = rest[4 : 4 + min(int.from_bytes(rest[at : at + size], order), _LONGEST_MODALITY)]
    return _modality(value.decode("ascii", "replace"))


def _modality(text: str) -> str:
    """A modality as it stands in a file; empty where that is no word of capital letters."""
    text = text.strip(" \0")
    known = text.isalnum() and text.isupper() and text.isascii() and len(text) <= _LONGEST_MODALITY
    return text if known else ""
