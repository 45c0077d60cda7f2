"""Segmentation job: from request to result layers, with measurements."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from napari.layers import Image, Labels

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
from napari_prosma.layers.stored import DiskArray
from napari_prosma.layers.viewport import slab_in_view
from napari_prosma.segment.measures import AbstractSegmentResultPanel, Measures, object_features
from napari_prosma.segment.state import SegmentPlan
from prosma_core.config.model import provenance
from prosma_core.engine.messages import ArrayReady, Cancelled, Finished, SegmentResult
from prosma_core.errors import ProsmaError
from prosma_core.events import ResultStored, SlabDone
from prosma_core.io.bundle import missed_text

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
REFRESH = 200
"""Milliseconds, at least, between two times that new blocks of a result on the disk are drawn."""
CONTINUES = "Canceled. Segment again to continue: the finished blocks are kept until napari ends."
KEEP = "The result lies in a temporary folder until napari ends: Save result keeps it."
TOO_LARGE = (
    "This result is too large to be corrected here, and stays on the disk. Crop the scan to what is to be corrected, "
    "and segment that."
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
        self._arrays: dict[str, Any] = {}  # ndarray, or DiskArray
        self._blocks: list[SlabDone] = []
        self._drawing = self._finished = False
        self._timer = jobs.timer(self._draw_blocks)
        name = plan.scan.path.name if plan.scan.path else plan.scan.name
        self._notes = provenance(plan.model.header, plan.request.config, name, plan.scan.given_size)
        view.show_running(True)
        super().__init__(view, TEXTS, f"ProSMA: {plan.result_name}")
        viewer.layers.events.removed.connect(self._layer_removed)
        self.start(jobs, ScanSpec(plan.request, plan.scan))

    def correct(self) -> Labels | None:
        """Have the result corrected in an editable copy, which is made once: it is selected, with the brush.

        The result itself is hidden then. None where neither it nor the copy is there, or the result is on the disk.
        """
        if self.to_save is None:
            return None
        if isinstance(self.to_save.data, DiskArray):
            self._view.show_error(TOO_LARGE, details=False)
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
        own: Handlers = {
            SlabDone: self._show_slab,
            ArrayReady: self._take,
            ResultStored: self._take_stored,
            Finished: self._finish,
            Cancelled: lambda _: self.say(CONTINUES if self._on_disk else "Canceled."),
        }
        return {**super().handlers, **own}

    def over(self) -> None:
        """Disconnect from the viewer; the partial result of a job that did not finish is removed."""
        super().over()
        self._timer.stop()
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

    def _take_stored(self, stored: ResultStored) -> None:
        """Show a result that fills on the disk; once it is whole, it is read from where it lies then."""
        path, known = Path(stored.path), self._arrays.get(stored.name)
        if known is None:
            self._arrays[stored.name] = DiskArray(path)
            if stored.name == "labels" and not self.cancelling:
                self.labels = self._add_labels()
            return
        for array in (known, self.labels.data if self.labels is not None and stored.name == "labels" else None):
            if isinstance(array, DiskArray):
                array.move(path)
        if self.labels is not None and stored.name == "labels":
            self.labels.refresh()  # what was drawn while its folder was on its way may be empty

    @property
    def _on_disk(self) -> bool:
        return isinstance(self._arrays.get("labels"), DiskArray)

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
        if self._on_disk:
            self._blocks.append(slab)
            if not self._drawing:
                self._drawing = True
                self._timer.start(REFRESH)
        elif self._in_view(slab) and self.labels is not None:
            refresh(self.labels)

    def _in_view(self, slab: SlabDone) -> bool:
        if self.labels is None or not self.labels.visible:
            return False
        try:
            return slab_in_view(self.labels, read(self.labels), self._viewer, slab.start, slab.stop)
        except ProsmaError:  # the user has turned the layer in a way that no scan lies
            return True

    def _draw_blocks(self) -> None:
        """Read those of the latest blocks that are in view in a thread, and draw them then."""
        blocks, self._blocks, labels = self._blocks, [], self.labels
        if labels is None:
            self._drawing = False
            return
        data, in_view = labels.data, any(map(self._in_view, blocks))

        def load() -> None:
            for block in blocks:
                data.refresh(tuple(zip(block.start, block.stop, strict=True)))

        def drawn(_: object = None) -> None:
            self._drawing = bool(self._blocks)
            if in_view and self.labels is labels:
                refresh(labels)
            if self._drawing:
                self._timer.start(REFRESH)

        self._jobs.run(load, drawn, drawn)

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
        if not self._on_disk:
            self._remember(labels)
        self._add_maps(labels.name)

        def nothing() -> str:
            return missed_text(plan.model.header, result.voxels, part=plan.request.config.region is not None)

        classes, spec, panel = plan.model.header.classes, plan.scan.spec, self._view.result
        self.measures = Measures(classes, spec, panel, self._jobs, lambda: self.to_save, nothing)
        self.measures.result(labels, result.voxels)
        self.measures.show()
        self.say_done(result.device, KEEP if self._on_disk else "")
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
            layer = objects_layer(plan.scan, self._arrays["objects"], features, title, self._notes, visible=False)
            layer.editable = not self._on_disk
            add_layer_keep_selection(self._viewer, layer)

    def _layer_removed(self, event: object) -> None:
        if self.labels is not None and self.labels not in self._viewer.layers:
            self.labels = None
            self.say("The result layer was deleted: canceling.")
            self.cancel()
