"""One segmentation from the click to its layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from napari.layers import Image, Labels
from numpy.typing import NDArray

from napari_prosma.jobs.boundary import Jobs
from napari_prosma.jobs.run import Handlers, RunTexts, ShownRun
from napari_prosma.jobs.spec import ScanSpec
from napari_prosma.layers import access as layer_access
from napari_prosma.layers.results import add_layer_keep_selection
from napari_prosma.segment.measures import class_rows, object_features, size_heading, with_measures
from napari_prosma.segment.presenter import AbstractSegmentView
from napari_prosma.segment.state import Plan
from prosma_core.config.model import provenance
from prosma_core.engine.messages import ArrayReady, Finished, SegmentResult
from prosma_core.errors import ProsmaError
from prosma_core.events import SlabDone
from prosma_core.printable import format_duration

if TYPE_CHECKING:
    from napari.components import ViewerModel

TEXTS = RunTexts(
    cancel_tooltip="Stop this segmentation.",
    broken="The result could not be shown: {reason}. Run again.",
)


class SegmentJob(ShownRun):
    """A running, then finished, segmentation.

    Parameters
    ----------
    plan : Plan
        What was asked for.
    source : Image or None
        The layer that is segmented.
    viewer : ViewerModel
    view : AbstractSegmentView
    jobs : Jobs
    over : callable
        Told, once, the job and whether it finished.

    Attributes
    ----------
    labels : Labels or None
        The result layer, from its first slab on.
    """

    def __init__(
        self,
        plan: Plan,
        source: Image | None,
        viewer: ViewerModel,
        view: AbstractSegmentView,
        jobs: Jobs,
        over: Callable[[SegmentJob, bool], None],
    ) -> None:
        self.plan, self.source = plan, source
        self.labels: Labels | None = None
        self._viewer, self._view, self._told = viewer, view, over
        self._arrays: dict[str, NDArray[Any]] = {}
        self._finished = False
        name = plan.scan.path.name if plan.scan.path else plan.scan.name
        self._notes = provenance(plan.model.header, plan.request.config, name, plan.scan.given_size)
        view.show_running(True)
        super().__init__(view, TEXTS, f"ProSMA: {plan.result_name}")
        viewer.layers.events.removed.connect(self._layer_removed)
        self.start(jobs, ScanSpec(plan.request, plan.scan))

    def correct(self) -> Labels | None:
        """Give the person a copy of the result to correct, selected, with the brush; the result itself is hidden."""
        if self.labels is None:
            return None
        copy = layer_access.editable_copy(self.labels)
        self.labels.visible = False
        self._viewer.add_layer(copy)
        self._viewer.layers.selection.active = copy
        copy.mode = "paint"
        return copy

    # --- Messages of the engine, in the GUI thread ------------------------------------------------------------------

    @property
    def handlers(self) -> Handlers:
        """As of `JobRun`."""
        own: Handlers = {SlabDone: self._show_slab, ArrayReady: self._take, Finished: self._finish}
        return {**super().handlers, **own}

    def over(self) -> None:
        """Let go of the viewer; what a job has shown that gave nothing goes, so that no part is taken for a result."""
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
        labels = layer_access.labels_layer(
            plan.scan, self._arrays["labels"], plan.model.header.classes, plan.result_name, self._notes
        )
        add_layer_keep_selection(self._viewer, labels)
        return labels

    def _show_slab(self, slab: SlabDone) -> None:
        """Draw new labels where they are in view; the array already holds them."""
        if self.labels is None or not self.labels.visible:
            return
        try:
            scan = layer_access.read(self.labels)
            in_view = layer_access.slab_in_view(self.labels, scan, self._viewer, slab.start, slab.stop)
        except ProsmaError:  # the person has turned the layer in a way that no scan lies
            in_view = True
        if in_view:
            layer_access.refresh(self.labels)

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
        self._add_maps(labels.name)
        rows = class_rows(plan.model.header.classes, result.voxels, plan.scan.spec)
        heading = size_heading(plan.scan.spec)
        labels.features = with_measures(labels.features, rows, heading)
        self._view.result.show_result(labels.name, rows, heading)
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
                layer_access.image_layer(
                    plan.scan, data, axes, title, self._notes, channel_names=classes, colormap="viridis", visible=False
                ),
            )
        if "entropy" in self._arrays:
            data, axes = self._arrays["entropy"], plan.scan.spec.labels_spec().axes
            title = f"{name} uncertainty"
            add_layer_keep_selection(
                self._viewer,
                layer_access.image_layer(plan.scan, data, axes, title, self._notes, colormap="magma", visible=False),
            )

        if "objects" in self._arrays:
            features = object_features(plan.model.header.classes, self._arrays["object_table"], plan.scan.spec)
            title = f"{name} objects"
            add_layer_keep_selection(
                self._viewer,
                layer_access.objects_layer(
                    plan.scan, self._arrays["objects"], features, title, self._notes, visible=False
                ),
            )

    def _layer_removed(self, event: object) -> None:
        if self.labels is not None and self.labels not in self._viewer.layers:
            self.labels = None
            self.say("The result layer was deleted: cancelling.")
            self.cancel()
