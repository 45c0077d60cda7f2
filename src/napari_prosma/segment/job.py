"""Segmentation job: from request to result layers, with measurements."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from napari.layers import Image, Labels
from numpy.typing import NDArray

from napari_prosma.jobs.boundary import JobName, Jobs
from napari_prosma.jobs.run import Handlers, RunTexts, RunView, ShownRun
from napari_prosma.jobs.spec import ScanSpec
from napari_prosma.layers.results import (
    add_layer_keep_selection,
    editable_copy,
    image_layer,
    labels_layer,
    objects_layer,
    paint_in,
    refresh,
)
from napari_prosma.layers.scan import read
from napari_prosma.layers.slices import Marks, keep, marks_of, packed
from napari_prosma.layers.viewport import slab_in_view
from napari_prosma.segment.state import SegmentPlan
from prosma_core.config.model import ClassInfo, provenance
from prosma_core.data.geometry import ImageSpec
from prosma_core.data.grid import unit_factor
from prosma_core.engine.messages import ArrayReady, Finished, SegmentResult
from prosma_core.errors import ProsmaError
from prosma_core.events import SlabDone
from prosma_core.io.bundle import missed_text
from prosma_core.printable import format_duration

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from pandas import DataFrame


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
    return f"Mean {heading[0].lower()}{heading[1:]}" if heading and spec.num_frames > 1 else heading


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
    features = {"index": np.arange(1, len(table)), "class": names[found], "voxels": voxels}
    return features | ({heading: voxels * size} if heading else {})


def _voxel_size(spec: ImageSpec) -> tuple[str, float]:
    """Heading of sizes, and the size of one voxel: mL or mm²; µm³ or µm² where the unit is µm or nm; or empty."""
    if spec.unit == "pixel":
        return "", 0.0
    if spec.unit in {"um", "nm"}:
        heading = "Volume (µm³)" if spec.spatial_ndim == 3 else "Area (µm²)"
        return heading, prod(s * unit_factor(spec.unit, "um") for s in spec.spacing)
    size = prod(s * unit_factor(spec.unit, "mm") for s in spec.spacing)
    return ("Volume (mL)", size / MM3_PER_ML) if spec.spatial_ndim == 3 else ("Area (mm²)", size)


def with_measures(features: DataFrame, rows: Sequence[ClassRow], heading: str) -> DataFrame:
    """The features table of a Labels layer (column ``index`` holds the value) with voxel counts and sizes added."""
    table = features.copy()
    by_value = {row.value: row for row in rows}
    chosen = [by_value.get(int(value)) for value in table["index"]]
    table["voxels"] = [row.voxels if row else 0 for row in chosen]
    if heading:
        table[heading] = [row.size if row else None for row in chosen]
    return table


class AbstractSegmentResultPanel(Protocol):
    """Table of a result."""

    def show_result(self, title: str, rows: Sequence[ClassRow], size: str, nothing: str, /) -> None:
        """Show a result; `size` is the heading of its sizes, `nothing` is said of one without labels; or empty."""

    def show_title(self, title: str, /) -> None:
        """The heading alone."""

    def hide(self) -> None:
        """Hide the panel."""


class SegmentRunView(RunView, Protocol):
    """Protocol of the Segment widget's view, as far as a job uses it."""

    @property
    def result(self) -> AbstractSegmentResultPanel:
        """The result."""


TEXTS = RunTexts(
    cancel_tooltip="Stop this segmentation.",
    broken="The result could not be shown: {reason}. Run again.",
)


class SegmentJob(ShownRun):
    """A running, then finished, segmentation.

    Parameters
    ----------
    plan : SegmentPlan
        What was asked for.
    source : Image or None
        The layer that is segmented.
    viewer : ViewerModel
    view : SegmentRunView
    jobs : Jobs
    over : callable
        Told, once, the job and whether it finished.

    Attributes
    ----------
    labels : Labels or None
        The result layer, from its first slab on.
    """

    NAME = JobName("A segmentation", "ProSMA Segment")

    def __init__(
        self,
        plan: SegmentPlan,
        source: Image | None,
        viewer: ViewerModel,
        view: SegmentRunView,
        jobs: Jobs,
        over: Callable[[SegmentJob, bool], None],
    ) -> None:
        self.plan, self.source = plan, source
        self.labels: Labels | None = None
        self._corrected: Labels | None = None
        self._viewer, self._view, self._told, self._jobs = viewer, view, over, jobs
        self._arrays: dict[str, NDArray[Any]] = {}
        self._finished = False
        name = plan.scan.path.name if plan.scan.path else plan.scan.name
        self._notes = provenance(plan.model.header, plan.request.config, name, plan.scan.given_size)
        view.show_running(True)
        super().__init__(view, TEXTS, f"ProSMA: {plan.result_name}")
        viewer.layers.events.removed.connect(self._layer_removed)
        self.start(jobs, ScanSpec(plan.request, plan.scan))

    def correct(self) -> Labels | None:
        """Have the result corrected in an editable copy, which is made once: it is selected, with the brush.

        The result itself is hidden then. None where neither it nor the copy is there.
        """
        if self.to_save is None:
            return None
        if self._corrected is None or self.to_save is not self._corrected:
            self._corrected = editable_copy(self.to_save)
            self.to_save.visible = False
        paint_in(self._viewer, self._corrected)
        return self._corrected

    @property
    def to_save(self) -> Labels | None:
        """The labels that are saved: the copy that is corrected, while it is in the viewer, else the result."""
        there = (
            layer for layer in (self._corrected, self.labels) if layer is not None and layer in self._viewer.layers
        )
        return next(there, None)

    # --- Messages of the engine, in the GUI thread ------------------------------------------------------------------

    @property
    def handlers(self) -> Handlers:
        """As of `JobRun`."""
        own: Handlers = {SlabDone: self._show_slab, ArrayReady: self._take, Finished: self._finish}
        return {**super().handlers, **own}

    def over(self) -> None:
        """Disconnect from the viewer; the partial result of a job that did not finish is removed."""
        super().over()
        self._viewer.layers.events.removed.disconnect(self._layer_removed)
        if not self._finished:
            labels, self.labels = self.labels, None
            if labels is not None and labels in self._viewer.layers:
                self._viewer.layers.remove(labels)
        if not self.abandoned:
            self._told(self, self._finished)

    def _take(self, ready: ArrayReady) -> None:
        self._arrays[ready.name] = ready.array
        if ready.name == "labels" and not self.cancelling:
            self.labels = self._add_labels()

    def _add_labels(self) -> Labels:
        plan = self.plan
        labels = labels_layer(
            plan.scan, self._arrays["labels"], plan.model.header.classes, plan.result_name, self._notes
        )
        labels.editable = False  # the next tile would paint over it
        add_layer_keep_selection(self._viewer, labels)
        return labels

    def _remember(self, labels: Labels) -> None:
        """Let the result be painted in, and keep what the model gave: by the first stroke, or aside until then."""

        def done(marks: Marks) -> None:
            if marks_of(labels) is None:
                keep(labels, marks)

        labels.editable = True
        self._jobs.run(lambda: packed(labels), done, lambda _: None)

    def _show_slab(self, slab: SlabDone) -> None:
        """Draw new labels where they are in view; the array already holds them."""
        if self.labels is None or not self.labels.visible:
            return
        try:
            scan = read(self.labels)
            in_view = slab_in_view(self.labels, scan, self._viewer, slab.start, slab.stop)
        except ProsmaError:  # the user has turned the layer in a way that no scan lies
            in_view = True
        if in_view:
            refresh(self.labels)

    def _finish(self, message: Finished) -> None:
        result = message.result
        assert isinstance(result, SegmentResult)
        if self.cancelling and self.labels is None:  # it was deleted while the last message was on its way
            self.say("Cancelled.")
            return
        if self.labels is None:
            self.labels = self._add_labels()
        plan, labels = self.plan, self.labels
        labels.refresh()  # its thumbnail as well
        self._remember(labels)
        self._add_maps(labels.name)
        rows = class_rows(plan.model.header.classes, result.voxels, plan.scan.spec)
        heading = size_heading(plan.scan.spec)
        labels.features = with_measures(labels.features, rows, heading)
        nothing = missed_text(plan.model.header, result.voxels, part=plan.request.config.region is not None)
        self._view.result.show_result(labels.name, rows, heading, nothing)
        self.say(f"Done in {format_duration(result.seconds)} on {result.device.partition(' (')[0]}.")
        self._finished = True

    def _add_maps(self, name: str) -> None:
        """Add probabilities, entropy and objects, hidden, where they were asked for."""
        plan = self.plan
        classes = tuple(c.name for c in plan.model.header.classes)
        if "probabilities" in self._arrays:
            data, axes = self._arrays["probabilities"], plan.scan.spec.with_channels(classes).axes
            title = f"{name} probability"
            add_layer_keep_selection(
                self._viewer,
                image_layer(
                    plan.scan, data, axes, title, self._notes, channel_names=classes, colormap="viridis", visible=False
                ),
            )
        if "entropy" in self._arrays:
            data, axes = self._arrays["entropy"], plan.scan.spec.labels_spec().axes
            title = f"{name} uncertainty"
            add_layer_keep_selection(
                self._viewer,
                image_layer(plan.scan, data, axes, title, self._notes, colormap="magma", visible=False),
            )

        if "objects" in self._arrays:
            features = object_features(plan.model.header.classes, self._arrays["object_table"], plan.scan.spec)
            title = f"{name} objects"
            add_layer_keep_selection(
                self._viewer,
                objects_layer(plan.scan, self._arrays["objects"], features, title, self._notes, visible=False),
            )

    def _layer_removed(self, event: object) -> None:
        if self.labels is not None and self.labels not in self._viewer.layers:
            self.labels = None
            self.say("The result layer was deleted: cancelling.")
            self.cancel()
