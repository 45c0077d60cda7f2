"""Frames of DICOM files sorted by their positions into one regular stack, or the reason why they are none."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from prosma_core.errors import FileFormatError, GeometryError
from prosma_core.io.dicom_slices import DIFFERENT, TIMES, Slice
from prosma_core.io.read_errors import shown

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

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
    names = [shown(one.path.name, 40) for one in slices[:3]]
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
            listed = ", ".join(shown(value, 24) for value in values[:3])
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
