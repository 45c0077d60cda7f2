"""One segmentation from the click to its layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from napari.layers import Image, Labels
from numpy.typing import NDArray

from napari_prosma._shared import layers as layer_access
from napari_prosma._shared.engine_job import is_last
from napari_prosma._shared.guarded import guarded
from napari_prosma._shared.jobs import Jobs
from napari_prosma._shared.progress_panel import ActivityProgress, TimeLeft, clock
from napari_prosma._shared.quietly import add_quietly
from napari_prosma.segment.measures import class_rows, object_features, size_heading, with_measures
from napari_prosma.segment.state import Plan
from prosma_core.config.provenance import provenance
from prosma_core.engine.client import ArrayReady, Cancelled, Failed, Finished, Message
from prosma_core.engine.messages import SegmentResult
from prosma_core.errors import ProsmaError
from prosma_core.events import SlabDone, StageStarted, TileDone, Working

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_prosma.segment.view import SegmentView

LINES = 4
"""Messages of the job that are shown, the latest ones."""


class Run:
    """A running, then finished, segmentation.

    Attributes
    ----------
    plan : Plan
        What was asked for.
    source : Image or None
        The layer that is segmented.
    labels : Labels or None
        The result layer, from its first slab on.
    """

    def __init__(
        self,
        plan: Plan,
        source: Image | None,
        viewer: ViewerModel,
        view: SegmentView,
        jobs: Jobs,
        over: Callable[[Run, bool], None],
    ) -> None:
        self.plan, self.source = plan, source
        self.labels: Labels | None = None
        self.details = ""
        self._viewer, self._view, self._over = viewer, view, over
        self._arrays: dict[str, NDArray[Any]] = {}
        source = plan.scan.path.name if plan.scan.path else plan.scan.name
        self._notes = provenance(plan.model.header, plan.request.config, source, plan.scan.given_size)
        self._lines: list[str] = []
        self._time = TimeLeft()
        self._cancelling = self._abandoned = self._closed = self._over_and_done = False
        view.show_running(True)
        view.show_run("Cancel", enabled=True, tooltip="Stop this segmentation.")
        view.show_progress(0, 0, "Starting…")
        view.show_messages(())
        self._activity = ActivityProgress(f"ProSMA: {plan.result_name}", self.cancel)
        viewer.layers.events.removed.connect(self._layer_removed)
        self._job = jobs.segment(plan.scan, plan.request, self._receive)

    def cancel(self) -> None:
        """Ask the engine to stop; the widget is ready again when it has."""
        if self._cancelling:
            return
        self._cancelling = True
        self._view.show_run("Cancelling…", enabled=False, tooltip="The engine finishes its current tile.")
        self._job.cancel()

    def abandon(self) -> None:
        """The widget is gone: stop, without a word to it."""
        self._cancelling = self._abandoned = True
        self._job.cancel()

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

    def _receive(self, message: Message) -> None:
        guarded(message, self._take_in, cancel=self._job.cancel, failed=self._not_shown, over=self._leave)

    def _not_shown(self, reason: str, details: str) -> None:
        self._take_in(Failed(ProsmaError(f"The result could not be shown: {reason}. Run again."), details))

    def _take_in(self, message: Message) -> None:
        if self._over_and_done:
            return
        if self._abandoned:
            if is_last(message):
                self._end()
        elif isinstance(message, TileDone):
            left = self._time.text(message.done, message.total)
            text = f"Tile {message.done} of {message.total}" + (f", {left}" if left else "")
            self._view.show_progress(message.done, message.total, text)
            self._activity.show_progress(message.done, message.total)
        elif isinstance(message, SlabDone):
            self._show_slab(message)
        elif isinstance(message, StageStarted):
            self._say(message.message)
        elif isinstance(message, Working):
            self._view.show_progress(0, 0, message.message)
        elif isinstance(message, ArrayReady):
            self._take(message.name, message.array)
        elif isinstance(message, Finished) and isinstance(message.result, SegmentResult):
            self._finish(message.result)
        elif isinstance(message, Failed):
            self._end()
            self.details = message.details
            self._view.show_error(str(message.error), details=bool(message.details))
            self._leave()
        elif isinstance(message, Cancelled):
            self._end()
            self._say("Cancelled.")
            self._leave()

    def _take(self, name: str, array: NDArray[Any]) -> None:
        self._arrays[name] = array
        if name == "labels" and not self._cancelling:
            self.labels = self._add_labels()

    def _add_labels(self) -> Labels:
        plan = self.plan
        labels = layer_access.labels_layer(
            plan.scan, self._arrays["labels"], plan.model.header.classes, plan.result_name, self._notes
        )
        add_quietly(self._viewer, labels)
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

    def _finish(self, result: SegmentResult) -> None:
        if self._cancelling and self.labels is None:  # it was deleted while the last message was on its way
            self._receive(Cancelled())
            return
        self._close()
        if self.labels is None:
            self.labels = self._add_labels()
        plan, labels = self.plan, self.labels
        labels.refresh()  # its thumbnail as well
        self._add_maps(labels.name)
        rows = class_rows(plan.model.header.classes, result.voxels, plan.scan.spec)
        heading = size_heading(plan.scan.spec)
        labels.features = with_measures(labels.features, rows, heading)
        self._view.result.show_result(labels.name, rows, heading)
        self._say(f"Done in {clock(result.seconds)} on {result.device.partition(' (')[0]}.")
        self._leave(finished=True)

    def _add_maps(self, name: str) -> None:
        """Add probabilities, entropy and objects, hidden, where they were asked for."""
        plan = self.plan
        classes = tuple(c.name for c in plan.model.header.classes)
        if "probabilities" in self._arrays:
            data, axes = self._arrays["probabilities"], plan.scan.spec.with_channels(classes).axes
            title = f"{name} probability"
            add_quietly(
                self._viewer,
                layer_access.image_layer(
                    plan.scan, data, axes, title, self._notes, channel_names=classes, colormap="viridis", visible=False
                ),
            )
        if "entropy" in self._arrays:
            data, axes = self._arrays["entropy"], plan.scan.spec.labels_spec().axes
            title = f"{name} uncertainty"
            add_quietly(
                self._viewer,
                layer_access.image_layer(plan.scan, data, axes, title, self._notes, colormap="magma", visible=False),
            )
        if "objects" in self._arrays:
            features = object_features(plan.model.header.classes, self._arrays["object_table"], plan.scan.spec)
            title = f"{name} objects"
            add_quietly(
                self._viewer,
                layer_access.objects_layer(
                    plan.scan, self._arrays["objects"], features, title, self._notes, visible=False
                ),
            )

    def _layer_removed(self, event: object) -> None:
        if self.labels is not None and self.labels not in self._viewer.layers:
            self.labels = None
            self._say("The result layer was deleted: cancelling.")
            self.cancel()

    def _end(self) -> None:
        """The job gave nothing: what it has shown so far goes, so that no part is taken for a result."""
        labels, self.labels = self.labels, None
        self._close()
        if labels is not None and labels in self._viewer.layers:
            self._viewer.layers.remove(labels)

    def _close(self) -> None:
        """Let go of the viewer, once."""
        if self._closed:
            return
        self._closed = True
        self._viewer.layers.events.removed.disconnect(self._layer_removed)
        self._activity.close()

    def _leave(self, *, finished: bool = False) -> None:
        if self._over_and_done:
            return
        self._over_and_done = True
        self._over(self, finished)

    def _say(self, line: str) -> None:
        self._lines.append(line)
        self._view.show_messages(self._lines[-LINES:])
