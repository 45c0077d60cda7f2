"""Which axis of a layer is what: t, c, z, y or x."""

from __future__ import annotations

from collections.abc import Sequence

from prosma_core.data.geometry import AXIS_ORDER
from prosma_core.errors import GeometryError
from prosma_core.printable import counted

_BY_NUMBER = {2: "yx", 3: "zyx", 4: "tzyx", 5: "tczyx"}
_NAMES = {
    "time": "t", "frame": "t",
    "ch": "c", "channel": "c", "channels": "c",
    "depth": "z", "plane": "z", "slice": "z",
    "height": "y", "row": "y",
    "width": "x", "column": "x", "col": "x",
}  # fmt: skip


def guess(axis_labels: Sequence[str], known: str, *, rgb: bool) -> str:
    """Letters of a layer's array axes.

    Parameters
    ----------
    axis_labels : sequence of str
        The layer's, which go first where they name axes.
    known : str
        Letters kept from reading, empty where there are none; used where they fit.
    rgb : bool
        Whether the array has a last axis of colors beside those that are labelled; it is ``"c"``.

    Raises
    ------
    GeometryError
        There are more than five axes, or only one.
    """
    ndim, colors = len(axis_labels), "c" if rgb else ""
    labels = [str(label).strip().lower() for label in axis_labels]
    letters = "".join(_NAMES.get(label, label) for label in labels) + colors
    if len(letters) == ndim + len(colors) and _usable(letters):
        return letters
    if len(known) == ndim + len(colors) and known.endswith(colors) and _usable(known):
        return known
    by_number = {2: "yx", 3: "zyx", 4: "tzyx"} if rgb else _BY_NUMBER
    if ndim not in by_number:
        msg = f"The layer has {ndim} axes; a scan has at most 5: time, channel, z, y, x. Take a part of it."
        raise GeometryError(msg)
    return by_number[ndim] + colors


def _usable(axes: str) -> bool:
    return set(axes) <= set(AXIS_ORDER) and len(set(axes)) == len(axes) and {"y", "x"} <= set(axes)


def check_axes(axes: str, shape: tuple[int, ...], *, rgb: bool) -> str:
    """The letters a person gave for an array's axes; raises `GeometryError` where they cannot be."""
    axes = axes.strip().lower()
    if not _usable(axes):
        msg = f"Axes {axes!r} cannot be used: letters are t, c, z, y, x, each at most once, y and x among them."
        raise GeometryError(msg)
    if len(axes) != len(shape):
        msg = f"Axes {axes!r} name {counted(len(axes), 'axis', 'axes')}, the layer has shape {shape}: one letter each."
        raise GeometryError(msg)
    if rgb and axes[-1] != "c":
        msg = f"Axes {axes!r}: the last axis of a color layer is its channel; let the letters end with c."
        raise GeometryError(msg)
    return axes
