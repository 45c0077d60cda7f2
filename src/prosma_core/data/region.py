"""The part of a scan that a person wants classes for, as a box of its voxels."""

from __future__ import annotations

from prosma_core.data.geometry import ImageSpec
from prosma_core.errors import GeometryError
from prosma_core.printable import counted

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
            f"The region {box_words(region)} does not fit the scan of {letters} {'x'.join(map(str, shape))} voxels: "
            f"{why}. Give START:STOP for each of {', '.join(letters)}, within {box_words(whole(shape))}."
        )
        raise GeometryError(msg)
    return region


def box_words(box: Box) -> str:
    """Box as it is written on the command line: ``0:20,0:64,10:11``."""
    return ",".join(f"{start}:{stop}" for start, stop in box)


def region_words(region: Box, spec: ImageSpec) -> str:
    """What of a scan a region holds, for people: ``z 40 of 0-80, y 10-20 of 0-63``; empty for the whole scan."""
    words = []
    for axis, (start, stop), size in zip(spec.spatial_axes, region, spec.spatial_shape, strict=True):
        if (start, stop) != (0, size):
            part = f"{start}" if stop - start == 1 else f"{start}-{stop - 1}"
            words.append(f"{axis} {part} of 0-{size - 1}")
    return ", ".join(words)
