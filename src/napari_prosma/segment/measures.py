"""Measures of a result: voxels and sizes of its classes, which follow the labels that would be saved. No Qt."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from napari_prosma.cleanup import run_all
from napari_prosma.jobs.boundary import Jobs
from napari_prosma.jobs.run import ViewSignal
from napari_prosma.layers.labels import drop_columns, names_values, write_columns
from napari_prosma.layers.numbers import (
    ML,
    MM2,
    PAINTED,
    PIXELS,
    UM2,
    UM3,
    VOXELS,
    mean_heading,
)
from napari_prosma.layers.viewport import REFRESHED, on_change
from prosma_core.config.model import ClassInfo
from prosma_core.data.geometry import ImageSpec
from prosma_core.data.grid import unit_factor

if TYPE_CHECKING:
    from napari.layers import Labels

_LOG = logging.getLogger(__name__)

QUIET = 800
"""Milliseconds without a stroke after which voxels are counted again."""
LARGE = 100_000_000
"""Voxels from which on they are counted only when a user asks."""
CHUNK = 1 << 18
"""Voxels that are counted at once: other threads wait as long."""
MM3_PER_ML = 1000.0


@dataclass(frozen=True)
class ClassRow:
    """One class of a result; `size` is its volume or area, None where the scan has no unit."""

    value: int
    name: str
    color: str
    voxels: int
    size: float | None


def size_heading(spec: ImageSpec) -> str:
    """Heading of the sizes, of one time point on average; empty where the scan's unit is not known."""
    heading, _ = _voxel_size(spec)
    return mean_heading(heading) if heading and spec.num_frames > 1 else heading


def class_rows(classes: Sequence[ClassInfo], voxels: Mapping[str, int], spec: ImageSpec) -> list[ClassRow]:
    """A row for each class but the background.

    Parameters
    ----------
    classes : sequence of ClassInfo
    voxels : mapping of str to int
        Count by class name.
    spec : ImageSpec
        Of the scan; its voxel size and unit give volumes (3D) or areas (2D), of a time series the mean.
    """
    heading, size = _voxel_size(spec)
    rows = []
    for c in classes[1:]:
        count = voxels.get(c.name, 0)
        rows.append(ClassRow(c.value, c.name, c.color, count, count * size / spec.num_frames if heading else None))
    return rows


def object_features(classes: Sequence[ClassInfo], table: NDArray[np.integer[Any]], spec: ImageSpec) -> dict[str, Any]:
    """The features table of a Labels layer of objects: number (column ``index``), class, voxels, and volume or area.

    Parameters
    ----------
    classes : sequence of ClassInfo
    table : ndarray, integer, shape (objects + 1, 2)
        Class value and voxels of each object at its number; row 0, the background, is left out.
    spec : ImageSpec
        As of `class_rows`; the size of an object is its own, also in a time series.
    """
    values, voxels = table[1:].T
    order = sorted(classes, key=lambda c: c.value)
    names = np.array([c.name for c in order], object)
    heading, size = _voxel_size(spec)
    found = np.searchsorted([c.value for c in order], values)
    features = {"index": np.arange(1, len(table)), "class": names[found], _counts(spec): voxels}
    return features | ({heading: voxels * size} if heading else {})


def _counts(spec: ImageSpec) -> str:
    """Column of the features table with the number of voxels, of a picture pixels."""
    return PIXELS if spec.spatial_ndim == 2 else VOXELS


def _voxel_size(spec: ImageSpec) -> tuple[str, float]:
    """Heading of sizes, and the size of one voxel: mL or mm²; µm³ or µm² where the unit is µm or nm; or empty."""
    if spec.unit == "pixel":
        return "", 0.0
    if spec.unit in {"um", "nm"}:
        return UM3 if spec.spatial_ndim == 3 else UM2, prod(s * unit_factor(spec.unit, "um") for s in spec.spacing)
    size = prod(s * unit_factor(spec.unit, "mm") for s in spec.spacing)
    return (ML, size / MM3_PER_ML) if spec.spatial_ndim == 3 else (MM2, size)


def measures_of(values: Sequence[Any], rows: Sequence[ClassRow], spec: ImageSpec) -> dict[str, Any]:
    """Voxel counts and sizes as columns of the features table of a Labels layer, whose column ``index`` has `values`.

    Of values that no row is of, such as the background, both are None.
    """
    by_value = {row.value: row for row in rows}
    chosen = [by_value.get(value) for value in values]
    heading = size_heading(spec)
    counts = {_counts(spec): np.array([row.voxels if row else None for row in chosen], object)}  # whole beside none
    return counts | ({heading: [row.size if row else None for row in chosen]} if heading else {})


def count_voxels(labels: Any) -> dict[int, int]:
    """Voxels of each value, in chunks; a thread may do it.

    Parameters
    ----------
    labels : array of integers
        Of any kind that gives its parts along the first axis, such as a lazy one.
    """
    found: dict[int, int] = {}
    for part in labels:
        flat = np.asarray(part).reshape(-1)
        for start in range(0, flat.size, CHUNK):
            chunk = flat[start : start + CHUNK]
            if chunk.dtype.kind in "bu" and chunk.dtype.itemsize <= 2:
                counts = np.bincount(chunk)
                values = np.flatnonzero(counts)
                counts = counts[values]
            else:
                values, counts = np.unique(chunk, return_counts=True)
            for value, count in zip(values.tolist(), counts.tolist(), strict=True):
                found[value] = found.get(value, 0) + count
    return found


class AbstractSegmentResultPanel(Protocol):
    """Table of a result."""

    def show_result(self, title: str, rows: Sequence[ClassRow], size: str, nothing: str, counted: str, /) -> None:
        """Show a result.

        `size` is the heading of its sizes, `nothing` is the text for one without labels, or empty; `counted` is the
        heading of the counts.
        """

    @property
    def recount_clicked(self) -> ViewSignal:
        """Count the voxels again."""

    def show_stale(self, stale: bool, /) -> None:
        """Whether the labels were changed since they were counted, and are counted again only on demand."""

    def show_title(self, title: str, /) -> None:
        """The heading alone."""

    def show_scan_open(self, is_open: bool, /) -> None:
        """Whether the scan is in the viewer still."""

    def hide(self) -> None:
        """Hide the panel."""


class Measures:
    """Shows the measures of a result, which follow the labels that would be saved.

    They are counted again a moment after the last stroke; of a large label map, on demand.

    Parameters
    ----------
    classes : sequence of ClassInfo
        Of the model.
    spec : ImageSpec
        Of the scan.
    panel : AbstractSegmentResultPanel
    jobs : Jobs
    labels : callable
        Gives the layer that would be saved; None where there is none.
    nothing : callable
        Gives the text for it where nothing is labeled.
    """

    def __init__(
        self,
        classes: Sequence[ClassInfo],
        spec: ImageSpec,
        panel: AbstractSegmentResultPanel,
        jobs: Jobs,
        labels: Callable[[], Labels | None],
        nothing: Callable[[], str],
    ) -> None:
        self._classes, self._spec, self._nothing = classes, spec, nothing
        self._panel, self._jobs, self._labels = panel, jobs, labels
        self._heading, self._unit = size_heading(spec), f"{spec.voxel_word.capitalize()}s"
        self._known: WeakKeyDictionary[Labels, Sequence[ClassRow]] = WeakKeyDictionary()
        self._rows: Sequence[ClassRow] = ()
        self._wires: list[Callable[[], None]] = []
        self._asked: object = None
        self._timer = jobs.timer(self.count)

    def result(self, layer: Labels, voxels: Mapping[str, int]) -> None:
        """Follow the layer of a result with so many voxels of each class."""
        self._follow(layer, class_rows(self._classes, voxels, self._spec))

    def copied(self, layer: Labels, copy: Labels) -> None:
        """Follow a copy of a layer, too."""
        self._follow(copy, self._known.get(layer))

    def leave(self) -> None:
        """Follow nothing any more: another result is shown."""
        self._asked = None
        run_all("A result could not be left", self._timer.stop, *self._wires)
        self._wires = []

    def show(self) -> None:
        """Show the measures of the labels that would be saved."""
        layer = self._labels()
        if layer is None:
            return
        rows, large = self._known.get(layer), _large(layer)
        if rows is None and not large:
            self._timer.start(QUIET)
        self._rows = self._rows if rows is None else rows
        stale = rows is None and large
        title = f"{layer.name}: counted before the last changes" if stale else layer.name
        empty = not any(row.voxels for row in self._rows)
        self._panel.show_result(title, self._rows, self._heading, self._nothing() if empty else "", self._unit)
        self._panel.show_stale(stale)

    def show_title(self) -> None:
        """Show the name of the layer that would be saved; its measures where it is another than before."""
        layer = self._labels()
        rows = self._known.get(layer) if layer is not None else None
        if layer is not None and rows is not None and rows is self._rows:
            self._panel.show_title(layer.name)
        else:
            self.show()

    def count(self) -> None:
        """Count the voxels of the labels that would be saved, unless they are known."""
        layer = self._labels()
        if layer is None or layer in self._known:
            return
        data, asked = layer.data, object()
        self._asked = asked

        def done(voxels: Mapping[int, int]) -> None:
            if asked is self._asked:  # else changed since
                self._know(layer, self._counted(layer, voxels))
                self.show()

        self._jobs.run(
            lambda: count_voxels(data), done, lambda error: _LOG.warning("Labels cannot be counted: %s", error)
        )

    def _follow(self, layer: Labels, rows: Sequence[ClassRow] | None) -> None:
        self._wires.append(on_change(layer, PAINTED if _large(layer) else (*PAINTED, REFRESHED), self._changed))
        if rows is not None:
            self._know(layer, rows)

    def _changed(self, event: Any) -> None:
        layer = event.source
        known = self._known.pop(layer, None)
        if layer is not self._labels():
            return
        self._asked = None
        if not _large(layer):
            self._timer.start(QUIET)
        elif known is not None:
            drop_columns(layer)
            self.show()

    def _know(self, layer: Labels, rows: Sequence[ClassRow]) -> None:
        self._known[layer] = rows
        if names_values(layer.features):
            write_columns(layer, measures_of(layer.features["index"], rows, self._spec))

    def _counted(self, layer: Labels, voxels: Mapping[int, int]) -> list[ClassRow]:
        """A row for each class of the model, and for each value that was painted besides."""
        own = {c.value for c in self._classes}
        new = [
            ClassInfo(value=value, name=f"class {value}", color=_color(layer, value))
            for value in sorted(voxels)
            if value > 0 and value not in own
        ]
        classes = (*self._classes, *new)
        return class_rows(classes, {c.name: voxels.get(c.value, 0) for c in classes}, self._spec)


def _large(layer: Labels) -> bool:
    return bool(prod(layer.data.shape) > LARGE)


def _color(layer: Labels, value: int) -> str:
    """Color of a value, as napari draws it."""
    color = layer.get_color(value)
    red, green, blue = (255, 255, 255) if color is None else (round(255 * float(part)) for part in color[:3])
    return f"#{red:02x}{green:02x}{blue:02x}"
