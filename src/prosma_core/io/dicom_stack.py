"""Positions and value scaling of DICOM frames, and their order as one regular stack, or why they form none."""

from __future__ import annotations

import logging
import math
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from prosma_core.errors import FileFormatError, GeometryError
from prosma_core.io.read_errors import damaged, excerpt
from prosma_core.printable import counted

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from prosma_core.io.dicom_header import DicomFile, DicomObject


_CLASSES = {
    "1.2.840.10008.1.3.10": "an index of files (DICOMDIR)",
    "1.2.840.10008.5.1.4.1.1.481.3": "an RT structure set (contours)",
    "1.2.840.10008.5.1.4.1.1.481.5": "an RT plan",
    "1.2.840.10008.5.1.4.1.1.481.8": "an RT ion plan",
    "1.2.840.10008.5.1.4.1.1.481.": "a record of radiotherapy",
    "1.2.840.10008.5.1.4.1.1.88.": "a structured report",
    "1.2.840.10008.5.1.4.1.1.9.": "a waveform",
    "1.2.840.10008.5.1.4.1.1.11.": "a presentation state",
    "1.2.840.10008.5.1.4.1.1.104.": "an encapsulated document",
    "1.2.840.10008.5.1.4.1.1.66.5": "a surface segmentation",
    "1.2.840.10008.5.1.4.1.1.66.6": "a tractography result",
    "1.2.840.10008.5.1.4.1.1.66.": "a registration or raw data",
    "1.2.840.10008.5.1.4.1.1.66": "raw data",
    "1.2.840.10008.5.1.4.1.1.67": "a real-world value mapping",
}


def what_it_is(file: DicomFile) -> str:
    """What kind of object a file without pixels is, with its article; empty where that is not known."""
    uid = file.data.text(0x00080016) or file.file_class
    name = _CLASSES.get(uid) or next((text for start, text in _CLASSES.items() if uid.startswith(start)), "")
    modality = excerpt(file.data.text(0x00080060), 16)
    return name or (f"an object of the modality {modality} without pixel data" if modality else "")


def no_image(file: DicomFile) -> FileFormatError:
    """The error for a file without pixels."""
    kind = what_it_is(file)
    if not kind and file.data.cut:
        return damaged(file.path, f"it ends inside the attribute {tag_name(file.data.cut)}, before any pixels")
    reason = f": it is {kind}" if kind else " (no pixel data)"
    return FileFormatError(f"{file.path} holds no image{reason}. Give the folder or the files of the image series.")


def tag_name(tag: int) -> str:
    """A tag as DICOM writes it: ``(7FE0,0010)``."""
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


_SHARED_GROUPS, _FRAME_GROUPS = 0x52009229, 0x52009230
_POSITION, _ORIENTATION, _PIXEL_SPACING = 0x00200032, 0x00200037, 0x00280030
_PLANE_POSITION, _PLANE_ORIENTATION, _PIXEL_MEASURES = 0x00209113, 0x00209116, 0x00289110
_TRANSFORMATION, _SLOPE, _INTERCEPT = 0x00289145, 0x00281053, 0x00281052
_THICKNESS, _BETWEEN = 0x00180050, 0x00180088
_WINDOWS, _CENTER, _WIDTH = 0x00289132, 0x00281050, 0x00281051
DIFFERENT = {
    "the echo time": ((0x00180081,), (0x00189114, 0x00189082)),
    "the echo number": ((0x00180086,),),
    "the b-value": ((0x00189087,), (0x00189117, 0x00189087)),
    "the inversion time": ((0x00180082,),),
    "the flip angle": ((0x00181314,),),
    "the image type": ((0x00080008,), (0x00189226, 0x00089007)),
    "the stack": ((0x00209111, 0x00209056),),
    "the energy window": ((0x00540010,),),
}
"""Attributes (paths of tags) by which images at one place may differ in kind."""
TIMES = {
    "the time point": ((0x00200100,), (0x00209111, 0x00209128), (0x00209310, 0x0020930D)),
    "the trigger time": ((0x00181060,), (0x00189118, 0x00209153)),
    "the frame reference time": ((0x00541300,),),
    "the acquisition number": ((0x00200012,),),
    "the acquisition time": ((0x00080032,), (0x00209111, 0x00189074)),
}
"""Attributes by which images at one place may follow in time."""


@dataclass(frozen=True)
class Slice:
    """One frame of one file, with positions as DICOM has them: mm, to the left, posterior and superior.

    Attributes
    ----------
    path : Path
    frame : int
        Counted from 0.
    size : tuple of int
        Rows and columns.
    position : tuple of float, optional
        Of the center of the first pixel.
    directions : tuple of float, optional
        Of a row, then of a column.
    spacing : tuple of float, optional
        Between rows, between columns; None where unknown.
    thickness : float, optional
        Distance to the next slice, or thickness, as the file has it.
    slope, intercept : float
        From stored to physical values.
    number : int
        Instance number.
    marks : dict of str to str
        Values of `DIFFERENT` and `TIMES`.
    segment : int
        Number of the segment, for segmentations.
    window : tuple of (float, float)
        Lowest and highest physical value to be drawn, by the first window stated; empty where there is none.
    """

    path: Path
    frame: int
    size: tuple[int, int]
    position: tuple[float, ...] | None
    directions: tuple[float, ...] | None
    spacing: tuple[float, float] | None
    thickness: float | None
    slope: float
    intercept: float
    number: int
    marks: dict[str, str] = field(default_factory=dict, repr=False)
    segment: int = 0
    window: tuple[float, ...] = ()

    @property
    def placed(self) -> bool:
        """Whether position, directions and spacing are known."""
        return None not in (self.position, self.directions, self.spacing)


def slices_of(file: DicomFile, frames: int, size: tuple[int, int]) -> list[Slice]:
    """The frames of a file and where they lie.

    Raises
    ------
    FileFormatError
        A position, a size or a slope is no finite number.
    """
    data = file.data
    shared = next(iter(data.items(_SHARED_GROUPS)), None)
    groups = data.items(_FRAME_GROUPS)
    if groups and len(groups) < frames:
        raise damaged(file.path, f"it has {counted(frames, 'frame')} and the places of {len(groups)}")
    if len(groups) > frames:
        _LOG.warning("%s declares %d frames and the places of %d; the first are taken.", file.path, frames, len(groups))
    found = [_slice(file, index, size, groups[index] if groups else None, shared) for index in range(frames)]
    if frames > 1 and not groups:
        found = _by_offsets(file, found)
    return found


def _slice(file: DicomFile, index: int, size: tuple[int, int], own: Any, shared: Any) -> Slice:
    data = file.data

    def numbers(sequence: int, tag: int, count: int) -> tuple[float, ...] | None:
        for holder in (own, shared):
            for item in holder.items(sequence) if holder is not None else []:
                if tag in item:
                    return _finite(item.numbers(tag), count, tag, file)
        return _finite(data.numbers(tag), count, tag, file) if tag in data else None

    spacing = numbers(_PIXEL_MEASURES, _PIXEL_SPACING, 2) or _other_spacing(file)
    if spacing is not None and min(spacing) <= 0:
        msg = f"{file.path} has pixels of the size {spacing[0]:g} x {spacing[1]:g} mm; both must be above 0."
        raise GeometryError(msg)
    between, thick = numbers(_PIXEL_MEASURES, _BETWEEN, 1), numbers(_PIXEL_MEASURES, _THICKNESS, 1)
    thickness = next((abs(value[0]) for value in (between, thick) if value and value[0]), None)
    slope, intercept = numbers(_TRANSFORMATION, _SLOPE, 1), numbers(_TRANSFORMATION, _INTERCEPT, 1)
    dose = data.number(0x3004000E)
    segments = [
        number
        for holder in (own, shared)
        for item in (holder.items(0x0062000A) if holder is not None else [])
        for number in item.numbers(0x0062000B)
    ]
    return Slice(
        file.path,
        index,
        size,
        numbers(_PLANE_POSITION, _POSITION, 3),
        _directions(numbers(_PLANE_ORIENTATION, _ORIENTATION, 6), file),
        (spacing[0], spacing[1]) if spacing is not None else None,
        thickness,
        dose if dose else (slope[0] if slope and slope[0] else 1.0),
        intercept[0] if intercept else 0.0,
        int(data.number(0x00200013) or 0),
        {name: mark for name, paths in {**DIFFERENT, **TIMES}.items() if (mark := _mark(paths, data, own, shared))},
        int(segments[0]) if segments else 0,
        _window(data, own, shared),
    )


def _window(data: DicomObject, own: Any, shared: Any) -> tuple[float, ...]:
    """The first window of a frame; empty where none is stated, or its numbers make no sense."""
    groups = (item for holder in (own, shared) if holder is not None for item in holder.items(_WINDOWS))
    for holder in (*groups, data):
        centers, widths = holder.numbers(_CENTER), holder.numbers(_WIDTH)
        if centers and widths and math.isfinite(centers[0]) and math.isfinite(widths[0]) and widths[0] > 0:
            return (centers[0] - widths[0] / 2, centers[0] + widths[0] / 2)
    return ()


def _mark(paths: Sequence[tuple[int, ...]], data: DicomObject, own: Any, shared: Any) -> str:
    for path in paths:
        holders = [own, shared, data] if len(path) > 1 else [data]
        for holder in holders:
            if holder is None:
                continue
            item = holder
            for tag in path[:-1]:
                item = next(iter(item.items(tag)), None)
                if item is None:
                    break
            if item is not None and path[-1] in item:
                values = item.numbers(path[-1])
                return "\\".join(f"{value:g}" for value in values) if values else "\\".join(item.texts(path[-1]))
    return ""


def _finite(values: list[float], count: int, tag: int, file: DicomFile) -> tuple[float, ...] | None:
    """The first `count` values; None where there are fewer."""
    if len(values) < count:
        return None
    kept = tuple(values[:count])
    if not all(math.isfinite(value) and abs(value) < 1e30 for value in kept):
        raise damaged(file.path, f"its attribute ({tag >> 16:04X},{tag & 0xFFFF:04X}) holds {kept}")
    return kept


def _other_spacing(file: DicomFile) -> tuple[float, ...] | None:
    """Pixel size of radiographs (at the detector) and of ultrasound with one calibrated region."""
    spacing = _finite(file.data.numbers(0x00181164), 2, 0x00181164, file)
    if spacing is not None:
        _LOG.warning("%s: its pixel size is the one at the detector; the body is magnified.", file.path)
        return spacing
    regions = file.data.items(0x00186011)
    if len(regions) == 1 and regions[0].number(0x00186024) == regions[0].number(0x00186026) == 3:  # cm
        across, down = regions[0].number(0x0018602C), regions[0].number(0x0018602E)
        if across and down and math.isfinite(across) and math.isfinite(down):
            return abs(down) * 10, abs(across) * 10
    return None


def _directions(values: tuple[float, ...] | None, file: DicomFile) -> tuple[float, ...] | None:
    if values is None:
        return None
    row, column = np.array(values[:3]), np.array(values[3:])
    if abs(np.linalg.norm(row) - 1) > 0.01 or abs(np.linalg.norm(column) - 1) > 0.01 or abs(row @ column) > 0.01:
        numbers = ", ".join(f"{value:g}" for value in values)
        msg = f"{file.path} has rows and columns along ({numbers}), which are not two directions at a right angle."
        raise GeometryError(msg)
    return values


def _by_offsets(file: DicomFile, found: list[Slice]) -> list[Slice]:
    """Frames of a file that has one position for all: doses and tomographic scans say where the others are."""
    first, data = found[0], file.data
    offsets = data.numbers(0x3004000C)
    if len(offsets) == len(found) and first.position is not None and first.directions is not None:
        if offsets[0] != 0:  # the z coordinates themselves
            offsets = [offset - offsets[0] for offset in offsets]
    elif data.items(0x00540022):  # nuclear medicine: detectors have the place, slices follow along the normal
        detector = data.items(0x00540022)[0]
        position = _finite(detector.numbers(_POSITION), 3, _POSITION, file)
        directions = _directions(_finite(detector.numbers(_ORIENTATION), 6, _ORIENTATION, file), file)
        between = data.number(_BETWEEN)
        if position is None or directions is None or not between or data.number(0x00540081) != len(found):
            return [replace(one, position=None, directions=None) for one in found]
        first = replace(first, position=position, directions=directions)
        offsets = [between * index for index in range(len(found))]
    else:
        return [replace(one, position=None, directions=None) for one in found]
    normal = np.cross(first.directions[:3], first.directions[3:])  # type: ignore[index]
    start = np.array(first.position)
    return [
        replace(one, position=tuple(float(v) for v in start + offset * normal), directions=first.directions)
        for one, offset in zip(found, offsets, strict=True)
    ]


_LOG = logging.getLogger(__name__)
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_MISSING_SLICE = 0.5  # a distance of slices that differs by this part of the usual one
_UNEVEN_SLICES = 0.01
_SAME_PLACE = 1e-3  # mm
_SAME_ORIENTATION = 1e-3  # of direction cosines
_MOVING = {"US", "XA", "RF", "ES", "IVUS", "OPT"}  # modalities whose frames without a position follow in time


@dataclass(frozen=True)
class Stack:
    """Frames in the order of their places.

    Attributes
    ----------
    slices : tuple of tuple of Slice
        For each time point (one, if there is no time) its slices.
    axes : str
        ``"zyx"`` or ``"yx"``, with a ``"t"`` before where there is time.
    affine : ndarray, float64
        Index x, y, (z) to world, in RAS where `patient`.
    patient : bool
    unit : str
    places : tuple of int
        Index along z of each slice: 0, 1, … but for segmentations, which leave empty slices out.
    """

    slices: tuple[tuple[Slice, ...], ...]
    axes: str
    affine: NDArray[np.float64]
    patient: bool
    unit: str
    places: tuple[int, ...] = ()


def stack_of(source: Path, slices: Sequence[Slice], modality: str, *, gaps: bool = False) -> Stack:
    """One regular stack of all frames.

    Parameters
    ----------
    source : Path
        The folder or file, for messages.
    slices : sequence of Slice
        Frames of one series.
    modality : str
    gaps : bool
        Whether slices may be missing because they are empty (segmentations).

    Raises
    ------
    GeometryError
        Orientations differ, slices are missing or unevenly placed.
    FileFormatError
        Frames differ in size, only some have a place, or several are at each place and differ in something other than
        time.
    """
    _check_alike(source, slices)
    if not slices[0].placed:
        return _unplaced(slices, modality)
    times = _times(source, slices)
    first = times[0]
    normal = np.cross(first[0].directions[:3], first[0].directions[3:])  # type: ignore[index]
    positions = np.array([one.position for one in first])
    places = _places(source, positions @ normal, first, gaps=gaps)
    rows, columns = first[0].spacing  # type: ignore[misc]
    affine = np.eye(4)
    affine[:3, 0] = np.array(first[0].directions[:3]) * columns  # type: ignore[index]
    affine[:3, 1] = np.array(first[0].directions[3:]) * rows  # type: ignore[index]
    affine[:3, 2] = _step(source, positions, places, first[0].thickness, normal)
    affine[:3, 3] = positions[0]
    axes = "tzyx" if len(times) > 1 else "zyx"
    return Stack(times, axes, _LPS_TO_RAS @ affine, True, "mm", places)


def _check_alike(source: Path, slices: Sequence[Slice]) -> None:
    """Refuse frames of different sizes, orientations or pixel sizes, naming those that are few."""
    usual = Counter(one.size for one in slices).most_common(1)[0][0]
    other = [one for one in slices if one.size != usual]
    if other:
        size = f"{other[0].size[0]} x {other[0].size[1]} pixels, the others {usual[0]} x {usual[1]}"
        raise FileFormatError(
            f"{source} holds images that are no stack: {_named(other)} {_have(other)} {size}. {_APART}"
        )
    placed = [one for one in slices if one.placed]
    if placed and len(placed) < len(slices):
        other = [one for one in slices if not one.placed]
        raise FileFormatError(f"{source}: {_named(other)} {_have(other)} no position, the others have one. {_APART}")
    if not placed:
        return
    groups: list[list[Slice]] = []
    for one in placed:
        for group in groups:
            if _same_plane(one, group[0]):
                group.append(one)
                break
        else:
            groups.append([one])
    if len(groups) > 1:
        if len(groups) == len(placed) > 2:
            msg = f"{source} holds no stack: each of its {len(placed)} images has another orientation or pixel size."
            raise GeometryError(msg)
        groups.sort(key=len)
        listed = f"{_named(groups[0])} {_have(groups[0])} another orientation or pixel size than the other images"
        kind = "a localizer" if len(groups) == 2 and len(groups[0]) <= 3 else "views"
        msg = f"{source} holds images of {len(groups)} orientations in one series: {listed} ({kind}?). {_APART}"
        raise GeometryError(msg)


_APART = "Move what does not belong to the stack into a folder of its own."


def _same_plane(a: Slice, b: Slice) -> bool:
    return bool(
        np.allclose(a.directions or 0, b.directions or 0, rtol=0, atol=_SAME_ORIENTATION)
        and np.allclose(a.spacing or 0, b.spacing or 0, rtol=1e-3)
    )


def _named(slices: Sequence[Slice]) -> str:
    """Names of a few frames: files, or frames of one file."""
    if len({one.path for one in slices}) == 1 and slices[0].frame + len(slices) > 1:
        return f"frame{'s' * (len(slices) > 1)} " + ", ".join(str(one.frame + 1) for one in slices[:3])
    names = [excerpt(one.path.name, 40) for one in slices[:3]]
    more = f" and {len(slices) - 3} more" if len(slices) > 3 else ""
    return ", ".join(names) + more


def _have(slices: Sequence[Slice]) -> str:
    return "has" if len(slices) == 1 else "have"


def _times(source: Path, slices: Sequence[Slice]) -> tuple[tuple[Slice, ...], ...]:
    """Slices sorted by place, for each time point."""
    normal = np.cross(slices[0].directions[:3], slices[0].directions[3:])  # type: ignore[index]
    at: dict[int, float] = {id(one): float(np.array(one.position) @ normal) for one in slices}
    ordered = sorted(slices, key=lambda one: (at[id(one)], one.number, one.frame))
    places: list[list[Slice]] = []
    for one in ordered:
        if places and at[id(one)] - at[id(places[-1][0])] < _SAME_PLACE:
            places[-1].append(one)
        else:
            places.append([one])
    counts = {len(place) for place in places}
    if counts == {1}:
        return (tuple(ordered),)
    if len(places) == 1 and len({one.position for one in ordered}) == len(ordered):
        msg = f"{source} holds {len(ordered)} images side by side in one plane, which are no stack. Give one file."
        raise GeometryError(msg)
    if len(counts) > 1:
        double = next(place for place in places if len(place) > 1)
        msg = (
            f"{source} holds several images of some slices, for example {_named(double[:2])} at the same place "
            f"({len(places)} places, {len(ordered)} images). Keep one image of each slice."
        )
        raise FileFormatError(msg)
    count = counts.pop()
    return _apart(source, places, count)


def _apart(source: Path, places: list[list[Slice]], count: int) -> tuple[tuple[Slice, ...], ...]:
    """The `count` volumes of places that have as many images each, told apart by the first attribute that does it."""
    if len(places) == 1 and count > 1:
        places = [list(places[0])]
    for names, time in ((DIFFERENT, False), (TIMES, True)):
        for name in names:
            values = sorted({one.marks.get(name, "") for place in places for one in place}, key=_value)
            complete = all({one.marks.get(name, "") for one in place} == set(values) for place in places)
            if len(values) != count or not complete:
                continue
            if time:
                return tuple(
                    tuple(next(one for one in place if one.marks.get(name, "") == value) for place in places)
                    for value in values
                )
            listed = ", ".join(excerpt(value, 24) for value in values[:3])
            msg = (
                f"{source} holds {count} images of each of {len(places)} slices, which differ in {name} ({listed}). "
                "Put the images of each into a folder of their own (dcm2niix makes a NIfTI file of each)."
            )
            raise FileFormatError(msg)
    msg = (
        f"{source} holds {count} images of each of {len(places)} slices, for example {_named(places[0][:2])}, and no "
        "attribute that tells them apart as time points or echoes. Put the images of each volume into a folder of "
        "their own."
    )
    raise FileFormatError(msg)


def _value(text: str) -> tuple[int, float, str]:
    try:
        return 0, float(text), ""
    except ValueError:
        return 1, 0.0, text


def _places(source: Path, along: NDArray[np.float64], slices: Sequence[Slice], *, gaps: bool) -> tuple[int, ...]:
    """Index of each slice along the normal.

    Raises
    ------
    GeometryError
        Slices are missing or unevenly placed.
    """
    count = len(along)
    if count < 2:
        return tuple(range(count))
    distances = np.diff(along)
    if gaps:
        step = float(distances.min())
        if (
            slices[0].thickness
            and abs(distances / slices[0].thickness - np.rint(distances / slices[0].thickness)).max() < 0.05
        ):
            step = slices[0].thickness
        index = np.rint((along - along[0]) / step)
        if index[-1] < 1 << 16 and np.abs(along - along[0] - index * step).max() < 0.1 * step:
            return tuple(int(i) for i in index)
    usual = float(np.median(distances))
    worst = int(np.argmax(np.abs(distances - usual)))
    apart = f"slices {worst + 1} and {worst + 2} are {distances[worst]:.3g} mm apart, the others {usual:.3g} mm"
    if abs(distances[worst] - usual) > _MISSING_SLICE * usual:
        wide = distances[worst] > usual
        what = "lacks slices" if wide else "has slices at uneven distances"
        msg = f"{source} {what}: {apart}. Export the whole series, or resample it to even distances."
        raise GeometryError(msg)
    even = along[0] + np.arange(count) * (along[-1] - along[0]) / (count - 1)
    off = float(np.abs(along - even).max())
    if off > _MISSING_SLICE * usual:
        msg = (
            f"{source} has slices at uneven distances ({distances.min():.3g} to {distances.max():.3g} mm): evenly "
            f"spaced, one would lie {off:.3g} mm from its place. Resample the series to even distances, for example in "
            "3D Slicer."
        )
        raise GeometryError(msg)
    if off > _UNEVEN_SLICES * usual:
        _LOG.warning("%s: %s; placed evenly, one slice is %.3g mm from its place.", source, apart, off)
    return tuple(range(count))


def _step(
    source: Path, positions: NDArray[np.float64], places: tuple[int, ...], thickness: float | None, normal: Any
) -> NDArray[np.float64]:
    """From one slice to the next: also sideways, where slices shift in their own plane (gantry tilt)."""
    if len(positions) == 1:
        if thickness is None:
            _LOG.warning("%s: the thickness of its slice is not given; 1 mm is assumed.", source)
        step: NDArray[np.float64] = normal / np.linalg.norm(normal) * (thickness or 1.0)
        return step
    step = (positions[-1] - positions[0]) / places[-1]
    on_line = positions[0] + np.array(places)[:, None] * step
    sideways = positions - on_line
    sideways = sideways - np.outer(sideways @ normal, normal)
    off = float(np.linalg.norm(sideways, axis=1).max())
    if off > max(1.0, _MISSING_SLICE * float(np.linalg.norm(step))):
        msg = f"{source} has slices that do not lie on one line: one is {off:.3g} mm beside it. Resample the series."
        raise GeometryError(msg)
    return step


def _unplaced(slices: Sequence[Slice], modality: str) -> Stack:
    """Frames without a place, in the order of their numbers."""
    ordered = tuple(sorted(slices, key=lambda one: (one.number, str(one.path), one.frame)))
    rows, columns = ordered[0].spacing or (1.0, 1.0)
    unit = "mm" if ordered[0].spacing else "pixel"
    if len(ordered) == 1:
        return Stack((ordered,), "yx", np.diag([columns, rows, 1.0]), False, unit, (0,))
    if modality in _MOVING:
        return Stack(tuple((one,) for one in ordered), "tyx", np.diag([columns, rows, 1.0]), False, unit, (0,))
    thickness = ordered[0].thickness
    known = unit == "mm" and thickness is not None
    affine = np.diag([columns, rows, thickness, 1.0]) if known else np.eye(4)
    _LOG.warning("%s: its images have no position; they are taken in the order of their numbers.", ordered[0].path)
    return Stack((ordered,), "zyx", affine, False, "mm" if known else "pixel", tuple(range(len(ordered))))
