"""Segmentation job: from request to result layers, with measurements."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

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
from napari_prosma.segment.measures import AbstractSegmentResultPanel, Measures, object_features
from napari_prosma.segment.state import SegmentPlan
from prosma_core.config.model import provenance
from prosma_core.engine.messages import ArrayReady, Finished, SegmentResult
from prosma_core.errors import ProsmaError
from prosma_core.events import SlabDone
from prosma_core.io.bundle import missed_text
from prosma_core.printable import format_duration

if TYPE_CHECKING:
    from napari.components import ViewerModel


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
    measures : Measures
        Voxels and sizes of its classes, once it has finished.
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
            made = self.to_save
            self._corrected = editable_copy(made)
            self.measures.copied(made, self._corrected)
            made.visible = False
        paint_in(self._viewer, self._corrected)
        self.measures.show_title()
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
            self.say("Canceled.")
            return
        if self.labels is None:
            self.labels = self._add_labels()
        plan, labels = self.plan, self.labels
        labels.refresh()  # its thumbnail as well
        self._remember(labels)
        self._add_maps(labels.name)

        def nothing() -> str:
            return missed_text(plan.model.header, result.voxels, part=plan.request.config.region is not None)

        classes, spec, panel = plan.model.header.classes, plan.scan.spec, self._view.result
        self.measures = Measures(classes, spec, panel, self._jobs, lambda: self.to_save, nothing)
        self.measures.result(labels, result.voxels)
        self.measures.show()
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
            self.say("The result layer was deleted: canceling.")
            self.cancel()
