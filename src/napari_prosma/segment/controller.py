"""Controller of the Segment widget, with its presenter and the Protocols of its view. No Qt, no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol
from weakref import WeakKeyDictionary

from napari_prosma.cleanup import run_all
from napari_prosma.jobs.run import Failure, ViewSignal
from napari_prosma.jobs.session import LooksView, Session
from napari_prosma.layers.results import drawing_layer, paint_in
from napari_prosma.scan.controller import (
    AbstractPartFields,
    AbstractScanView,
    ScanController,
    ScanPresenter,
    slice_axes,
)
from napari_prosma.scan.selection import Problem
from napari_prosma.segment.job import SegmentJob, SegmentRunView
from napari_prosma.segment.state import SegmentChoices, SegmentPlan, resolve
from napari_prosma.shortcuts import follow_keys, offer, with_key
from prosma_core.config.inference import InferenceConfig
from prosma_core.errors import EngineBusyError, ProsmaError

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Labels


class AbstractSegmentAdvanced(Protocol):
    """Part of the scan, options of the segmentation, name of the result."""

    @property
    def part(self) -> AbstractPartFields:
        """Part of the scan."""

    @property
    def options_changed(self) -> ViewSignal:
        """InferenceConfig."""

    @property
    def name_chosen(self) -> ViewSignal:
        """Name of the result as typed (str)."""

    @property
    def defaults_clicked(self) -> ViewSignal:
        """Restore the defaults."""

    def show_options(self, options: InferenceConfig, part: str, axes: Sequence[tuple[str, str]], name: str, /) -> None:
        """Show settings; `axes` are those a 2D model may walk along."""

    def show_name_hint(self, name: str, /) -> None:
        """Name the result gets unless another is given."""


class AbstractSegmentView(AbstractScanView, SegmentRunView, LooksView, Protocol):
    """Protocol of the Segment widget's view."""

    @property
    def advanced(self) -> AbstractSegmentAdvanced:
        """Advanced settings."""

    def show_train(self, offered: bool, /) -> None:
        """Whether training a model on the scan is offered: where none is meant for it."""


class SegmentPresenter(ScanPresenter):
    """Formats choices and plans as texts and lists, and shows them on the view.

    Parameters
    ----------
    view : AbstractSegmentView
    session : Session
    """

    def __init__(self, view: AbstractSegmentView, session: Session) -> None:
        super().__init__(view, session)
        self._view = view
        self._tooltip = with_key("Segment the scan", "segment")
        self.close = follow_keys(self._renew)

    def _renew(self, renewed: Callable[[str], str]) -> None:
        """Take the key that was chosen in napari's preferences."""
        self._tooltip = renewed(self._tooltip)

    def options(self, choices: SegmentChoices) -> None:
        """Advanced settings; slice axes only where a 2D model meets a 3D scan."""
        self._view.advanced.show_options(choices.options, choices.part, slice_axes(choices), choices.name)

    def plan(self, plan: SegmentPlan | Problem, choices: SegmentChoices, *, running: bool) -> None:
        """Why Segment is disabled, or what it will do; without a model for the scan, training one is offered."""
        self._view.show_train(choices.scan is not None and choices.model is None)
        problem = plan if isinstance(plan, Problem) else None
        self._view.show_problem(problem.field if problem else None, problem.text if problem else "")
        if isinstance(plan, SegmentPlan):
            self._view.advanced.show_name_hint(plan.result_name)
        self._view.show_notes("\n".join(plan.notes) if isinstance(plan, SegmentPlan) else "")
        if not running:
            tooltip = problem.text if problem else self._tooltip
            self._view.show_run("Segment", enabled=problem is None, tooltip=tooltip)


class SegmentController(ScanController[SegmentChoices]):
    """Keeps the view in sync with the viewer and the choices, and runs segmentations.

    Parameters
    ----------
    viewer : ViewerModel
    view : AbstractSegmentView
    session : Session

    Attributes
    ----------
    run : SegmentJob or None
        The running segmentation.
    last : SegmentJob or None
        The last one that finished.
    """

    def __init__(self, viewer: ViewerModel, view: AbstractSegmentView, session: Session) -> None:
        self._presenter = SegmentPresenter(view, session)
        super().__init__(viewer, view, session, self._presenter, _recalled(session))
        self.view = view
        self.run: SegmentJob | None = None
        self.last: SegmentJob | None = None
        self._drawn: WeakKeyDictionary[Image, Labels] = WeakKeyDictionary()
        self._failure = Failure()
        self._plan: SegmentPlan | Problem | None = None
        self._starting = False
        self._connect_view()
        self._no_looks = session.follow_looks(viewer, view)
        self._no_shortcut = offer(viewer, {"segment": self.start_or_cancel})
        self._begin()

    def close(self) -> None:
        """Disconnect from viewer and view (which may be deleted already); a running job ends."""
        run_all("A segmentation could not be left", self._leave, self._presenter.close)
        super().close()

    def _leave(self) -> None:
        if self.last is not None:
            self.last.measures.leave()
        if self.run is not None:
            self.run.abandon()
        run_all("A viewer could not be left", self._no_shortcut, self._no_looks)

    # --- What the user does -------------------------------------------------------------------------------------------

    def choose_options(self, options: InferenceConfig) -> None:
        """Take other advanced settings; the slice axis stays."""
        self._set(options=options.replace(slice_axis=self._choices.options.slice_axis))
        self._remember_options()

    def choose_slice_axis(self, axis: str) -> None:
        """Let a 2D model walk along this axis; empty: the automatic one."""
        self._set(options=self._choices.options.replace(slice_axis=axis or None))

    def restore_defaults(self) -> None:
        """All advanced settings as they were at first."""
        self._set(options=InferenceConfig(), part="whole", name="")
        self._remember_options()
        self._show_options()

    def start_or_cancel(self) -> str:
        """Main button: start a segmentation, or cancel the running one; why neither was done, else empty."""
        if self._starting:
            return ""
        if self.run is not None:
            self.run.cancel()
            return ""
        self._show_plan()  # the view may have moved
        plan, jobs = self._plan, self.session.jobs
        if not isinstance(plan, SegmentPlan):
            return plan.text if plan is not None else ""
        try:
            with jobs.reserve(SegmentJob.NAME):
                self.view.show_error("", details=False)
                self._starting = True  # napari's progress bar lets the event loop run
                self.run = SegmentJob(plan, self._layer, self.viewer, self.view, jobs, self._run_over)
                self._failure = self.run.failure
        except EngineBusyError as error:
            self.view.show_error(str(error), details=False)
            return str(error)
        finally:
            self._starting = False
        return ""

    def draw_labels(self) -> tuple[Image, Labels] | None:
        """Scan and the Labels layer to paint in on it, selected, with the brush; None where there is no scan."""
        scan, layer = self._choices.scan, self._layer
        if scan is None or layer is None:
            return None
        labels = self._drawn.get(layer)
        if labels is None or labels not in self.viewer.layers:
            labels = self._drawn[layer] = drawing_layer(scan, f"{layer.name} labels")
        paint_in(self.viewer, labels)
        return layer, labels

    def details(self) -> str:
        """Log or traceback of the last failure."""
        return self._failure.details or self.session.jobs.log()

    # --- What follows -----------------------------------------------------------------------------------------------

    def _layers_changed(self) -> None:
        if self.last is not None and self.last.to_save is not None:
            self.last.measures.show_title()
            self.view.result.show_scan_open(self.last.source is not None and self.last.source in self.viewer.layers)
        elif self.last is not None:
            self.last.measures.leave()
            self.last = None
            self.view.result.hide()
        super()._layers_changed()

    def _leave_scan(self, layer: object) -> None:
        if self.run is not None and self.run.source is layer:
            self.run.cancel()

    def _remember_options(self) -> None:
        kept = self._choices.options.model_dump(mode="json", exclude={"region", "slice_axis"})
        self.session.remember("options", kept)

    def _busy(self) -> bool:
        return self.run is not None or self._starting

    def _show_options(self) -> None:
        self._presenter.options(self._choices)

    def _show_plan(self) -> None:
        self._plan = resolve(self._choices, self._region())
        self._presenter.plan(self._plan, self._choices, running=self._busy())

    def _run_over(self, run: SegmentJob, finished: bool) -> None:
        self.run = None
        if finished:
            if self.last is not None:
                self.last.measures.leave()
            self.last = run
        self.view.show_running(False)
        self._layers_changed()
        self._show_devices(self.session.jobs.ready)

    def _recount(self) -> None:
        if self.last is not None:
            self.last.measures.count()

    def _connect_view(self) -> None:
        view = self.view
        view.advanced.options_changed.connect(self.choose_options)
        view.advanced.part.part_chosen.connect(lambda part: self._set(part=part))
        view.advanced.part.slice_axis_chosen.connect(self.choose_slice_axis)
        view.advanced.name_chosen.connect(lambda name: self._set(name=name))
        view.advanced.defaults_clicked.connect(self.restore_defaults)
        view.run_clicked.connect(self.start_or_cancel)
        view.result.recount_clicked.connect(self._recount)


def _recalled(session: Session) -> SegmentChoices:
    """Choices of the last time, as far as they are still valid."""
    try:
        options = InferenceConfig.parse(session.recall("options", {}), "the remembered settings")
    except ProsmaError:
        options = InferenceConfig()
    return SegmentChoices(device=session.recall("device", "auto"), options=options)
