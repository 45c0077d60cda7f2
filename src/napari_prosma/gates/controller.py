"""Controller of the Gates widget, with its presenter and the Protocols of its view. No Qt, no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from napari_prosma.cleanup import run_all
from napari_prosma.gates.job import InspectionResult, InspectJob
from napari_prosma.gates.maps import Steps
from napari_prosma.gates.ranking import NOT_RANKED, STOPPED, RankJob
from napari_prosma.gates.result_controller import AbstractGatesResultPanel, ResultController
from napari_prosma.gates.state import InspectChoices, InspectPlan, LevelFacts, level_facts, resolve
from napari_prosma.jobs.run import Failure, ViewSignal
from napari_prosma.jobs.session import LooksView, Session
from napari_prosma.scan.controller import (
    AbstractPartFields,
    AbstractScanView,
    ScanController,
    ScanPresenter,
    slice_axes,
)
from napari_prosma.scan.selection import Problem
from prosma_core.config.inspection import InspectConfig, VariantResult
from prosma_core.errors import EngineBusyError, ProsmaError
from prosma_core.io.bundle import ModelEntry

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image


RANK = "Rank levels"
RANK_TOOLTIP = (
    "Force the gate of each level open, one at a time, and compare with the present result and, where they are chosen "
    "on the tab What if, with reference labels."
)


class ChoosablePart(AbstractPartFields, Protocol):
    """`AbstractPartFields` that show themselves."""

    def show_part(self, part: str, axes: Sequence[tuple[str, str]], slice_axis: str | None, /) -> None:
        """Show a choice; `axes` are those a 2D model may walk along, empty where none are needed."""


class AbstractLevelBoxes(Protocol):
    """Check boxes, one for each level with a gate."""

    @property
    def levels_chosen(self) -> ViewSignal:
        """Levels that are left out (frozenset of int)."""

    def show_levels(self, facts: tuple[LevelFacts, ...], without: frozenset[int], /) -> None:
        """Show the levels of a network, ticked but for those that are left out."""


class AbstractGatesAdvanced(Protocol):
    """Advanced settings: maps and tile overlap."""

    @property
    def options_changed(self) -> ViewSignal:
        """InspectConfig."""

    @property
    def defaults_clicked(self) -> ViewSignal:
        """Restore the defaults."""

    def show_options(self, options: InspectConfig, /) -> None:
        """Show settings."""


class AbstractGatesView(AbstractScanView, LooksView, Protocol):
    """Protocol of the Gates widget's view."""

    @property
    def part(self) -> ChoosablePart:
        """Part of the scan."""

    @property
    def levels(self) -> AbstractLevelBoxes:
        """Levels to inspect."""

    @property
    def advanced(self) -> AbstractGatesAdvanced:
        """Advanced settings."""

    @property
    def result(self) -> AbstractGatesResultPanel:
        """Result of the inspection."""

    def scroll_to_result(self) -> None:
        """Scroll to the result."""


class GatesPresenter(ScanPresenter):
    """Formats choices and plans as texts and lists, and shows them on the view.

    Parameters
    ----------
    view : AbstractGatesView
    session : Session
    """

    def __init__(self, view: AbstractGatesView, session: Session) -> None:
        super().__init__(view, session)
        self._view = view

    def options(self, choices: InspectChoices) -> None:
        """Part, levels and advanced settings."""
        self._view.part.show_part(choices.part, slice_axes(choices), choices.options.slice_axis)
        model = choices.model
        self._view.levels.show_levels(level_facts(model.header.model) if model else (), choices.without)
        self._view.advanced.show_options(choices.options)

    def plan(self, plan: InspectPlan | Problem, *, running: bool) -> None:
        """Why Inspect is disabled, or what it will do."""
        problem = plan if isinstance(plan, Problem) else None
        self._view.show_problem(problem.field if problem else None, problem.text if problem else "")
        self._view.show_notes("\n".join(plan.notes) if isinstance(plan, InspectPlan) else "")
        if not running:
            tooltip = problem.text if problem else "Segment the scan and keep what every gate did."
            self._view.show_run("Inspect", enabled=problem is None, tooltip=tooltip)


class GatesController(ScanController[InspectChoices]):
    """Keeps the view in sync with the viewer and the choices, and runs inspections.

    Parameters
    ----------
    viewer : ViewerModel
    view : AbstractGatesView
    session : Session

    Attributes
    ----------
    run : InspectJob or RankJob or None
        The running inspection or, after it, ranking of its levels.
    shown_result : ResultController or None
        What the last inspection found, while it is shown.
    """

    STORES = False

    def __init__(self, viewer: ViewerModel, view: AbstractGatesView, session: Session) -> None:
        self._presenter = GatesPresenter(view, session)
        super().__init__(viewer, view, session, self._presenter, _recalled(session))
        self.view = view
        self.run: InspectJob | RankJob | None = None
        self.shown_result: ResultController | None = None
        self._failure = Failure()
        self._source: Image | None = None
        self._plan: InspectPlan | Problem | None = None
        self._starting: type[InspectJob | RankJob] | None = None
        self._leaving = Steps(session.jobs)
        self._connect_choices()
        self._connect_result()
        self._no_looks = session.follow_looks(viewer, view)
        self._begin()

    def close(self) -> None:
        """Disconnect from viewer and view (which may be deleted already); a running job ends, layers stay."""
        run, shown_result, self.shown_result = self.run, self.shown_result, None
        run_all(
            "An inspection could not be left",
            *([run.abandon] if run is not None else []),
            self._leaving.stop,
            self._no_looks,
            *([shown_result.detach] if shown_result is not None else []),
        )
        super().close()

    # --- What the user does -------------------------------------------------------------------------------------------

    def inspect_layer(self, layer: Image, model: ModelEntry) -> None:
        """Choose a scan and a model for another widget; a ranking is stopped, a running inspection keeps its own."""
        self._leave_ranking()
        if self._busy():
            text = f"An inspection is running: {layer.name} was not chosen. Cancel it, or wait; then choose the image."
            self.view.show_error(text, details=False)
        else:
            self.choose_image(layer)
            self.choose_model(model)

    def choose_options(self, options: InspectConfig) -> None:
        """Take other advanced settings; the slice axis stays."""
        self._set(options=options.replace(slice_axis=self._choices.options.slice_axis))
        self._remember_options()

    def choose_slice_axis(self, axis: str) -> None:
        """Let a 2D model walk along this axis; empty: the automatic one."""
        self._set(options=self._choices.options.replace(slice_axis=axis or None))

    def restore_defaults(self) -> None:
        """All advanced settings as they were at first."""
        self._set(options=InspectConfig(slice_axis=self._choices.options.slice_axis))
        self._remember_options()
        self._show_options()

    def start_or_cancel(self) -> None:
        """Main button: start an inspection, or cancel the running one. A ranking or what-if is stopped for it."""
        if self._starting is not None:
            return
        if isinstance(self.run, InspectJob):
            self.run.cancel()
            return
        self._show_plan()  # the view may have moved
        plan = self._plan
        if isinstance(plan, InspectPlan):
            try:
                with self.session.jobs.reserve(InspectJob.NAME):
                    self._inspect(plan)
            except EngineBusyError as error:
                self.view.show_error(str(error), details=False)

    def _inspect(self, plan: InspectPlan) -> None:
        self.view.show_error("", details=False)
        self._leave_ranking()
        if self.shown_result is not None:
            self.shown_result.what_if.stop()
        self._source = self._layer
        self._begin_job(
            InspectJob,
            lambda: InspectJob(plan, self.view, self.session.jobs, self._show_result, self._inspected),
        )

    def remove_maps(self) -> None:
        """Remove the layers of the last inspection from the viewer, and its numbers from the panel."""
        self._leave_ranking()
        shown_result, self.shown_result = self.shown_result, None
        if shown_result is not None:
            self._leaving.run(shown_result.close())
            if not self._occupied:
                self.view.show_messages(())

    def rank_or_stop(self) -> None:
        """Rank the levels of what is shown, or stop that. A what-if is stopped for it."""
        shown_result = self.shown_result
        if isinstance(self.run, RankJob):
            self.run.cancel()
        elif not self._occupied and shown_result is not None and not shown_result.what_if.read_truth()[1]:
            shown_result.what_if.stop()
            self._rank([])

    def details(self) -> str:
        """Log or traceback of the last failure."""
        return self._failure.details or self.session.jobs.log()

    # --- What follows -----------------------------------------------------------------------------------------------

    def _show_result(self, found: InspectionResult) -> None:
        earlier = self.shown_result
        if earlier is not None:
            earlier.detach()
            self.view.result.voxel.stop()
        source = self._source if self._source in self.viewer.layers else None
        before, jobs = self._leaving.take(), self.session.jobs
        self.shown_result = ResultController(found, source, self.viewer, self.view.result, jobs, before, earlier)

    def _inspected(self, shown: bool) -> None:
        """An inspection is over: rank the levels of what it found, if it found anything."""
        run = self.run
        assert isinstance(run, InspectJob)
        self._run_over()
        if shown:
            self._rank(run.said)
        if shown and not self.view.closed:
            self.view.scroll_to_result()

    def _rank(self, said: Sequence[str]) -> None:
        shown_result = self.shown_result
        if shown_result is None:
            return
        reference, problem = shown_result.what_if.read_truth()

        def ranked(answer: tuple[VariantResult, ...] | str) -> None:
            if self.shown_result is shown_result:
                shown_result.show_ranking(answer)

        def begin() -> RankJob:
            shown_result.show_ranking_begun()
            return RankJob(
                shown_result.found,
                shown_result.what_if.queries.key,
                None if problem else reference,
                said,
                self.view,
                self.view.result.show_ranking_button,
                self.session.jobs,
                ranked,
                self._run_over,
            )

        try:
            with self.session.jobs.reserve(RankJob.NAME):
                self._begin_job(RankJob, begin)
        except EngineBusyError as error:
            shown_result.show_ranking(f"{NOT_RANKED} {error}")
        if self.shown_result is not shown_result:  # it was removed meanwhile
            self._leave_ranking()

    def _begin_job(self, kind: type[InspectJob | RankJob], begin: Callable[[], InspectJob | RankJob]) -> None:
        """Begin a job of ours. Meanwhile events are handled, as napari makes its progress bar: no other begins."""
        self._lock(True)
        self._starting = kind
        try:
            self.run = begin()
            self._failure = self.run.failure
        finally:
            self._starting = None

    @property
    def _occupied(self) -> bool:
        return self.run is not None or self._starting is not None

    def _leave_ranking(self) -> None:
        """Stop the ranking where one runs, without waiting for its end."""
        if isinstance(self.run, RankJob):
            self.run.abandon()
            self._run_over()
            if self.shown_result is not None:
                self.shown_result.show_ranking(STOPPED)

    def _lock(self, locked: bool) -> None:
        """Lock what needs the engine while a job of ours has it."""
        panel = self.view.result
        panel.show_ranking_button(RANK, enabled=not locked, tooltip=RANK_TOOLTIP)
        panel.lock_what_if(locked)

    def _run_over(self) -> None:
        self.run = None
        self._lock(False)
        self.view.show_running(False)
        self._layers_changed()
        self._show_devices(self.session.jobs.ready)

    def _layer_inserted(self, event: Any) -> None:
        super()._layer_inserted(event)
        self._show_truths()

    def _layers_changed(self) -> None:
        super()._layers_changed()
        self._show_truths()

    def _leave_scan(self, layer: object) -> None:
        if isinstance(self.run, InspectJob) and self._source is layer:
            self.run.cancel()
        if self.shown_result is not None and self.shown_result.source is layer:
            self.remove_maps()

    def _show_truths(self) -> None:
        if self.shown_result is not None and not self.shown_result.adding:
            self.shown_result.what_if.show_truths()

    def _remember_options(self) -> None:
        kept = self._choices.options.model_dump(mode="json", include={"overlap", "maps"})
        self.session.remember("gates", kept)

    def _busy(self) -> bool:
        return isinstance(self.run, InspectJob) or self._starting is InspectJob

    def _show_options(self) -> None:
        self._presenter.options(self._choices)

    def _show_plan(self) -> None:
        self._plan = resolve(self._choices, self._region())
        self._presenter.plan(self._plan, running=self._busy())

    # --- Wires ------------------------------------------------------------------------------------------------------

    def _connect_choices(self) -> None:
        view = self.view
        view.part.part_chosen.connect(lambda part: self._set(part=part))
        view.part.slice_axis_chosen.connect(self.choose_slice_axis)
        view.levels.levels_chosen.connect(lambda without: self._set(without=without))
        view.advanced.options_changed.connect(self.choose_options)
        view.advanced.defaults_clicked.connect(self.restore_defaults)
        view.run_clicked.connect(self.start_or_cancel)

    def _connect_result(self) -> None:
        panel = self.view.result
        panel.remove_clicked.connect(self.remove_maps)
        when, when_free = self._when_shown, self._when_free
        panel.levels.level_clicked.connect(when(lambda result, level: result.show_level(level)))
        panel.plots.channel_clicked.connect(when(lambda result, channel: result.show_channel(channel)))
        panel.voxel.channel_clicked.connect(when(lambda result, channel: result.show_channel(channel)))
        panel.voxel.probe_toggled.connect(when(lambda result, on: result.picker.listen(on)))
        edits = panel.what_if
        edits.threshold_chosen.connect(when_free(lambda result, level, k: result.what_if.change(level, threshold=k)))
        edits.state_chosen.connect(when_free(lambda result, level, state: result.what_if.change(level, state=state)))
        edits.channel_gate_toggled.connect(when_free(lambda result, on: result.what_if.toggle_channel_gate(on)))
        edits.channel_state_chosen.connect(when_free(lambda result, state: result.what_if.change_channel(state)))
        edits.truth_chosen.connect(when_free(lambda result, layer: result.what_if.choose_truth(layer)))
        edits.reset_clicked.connect(when_free(lambda result, *_: result.what_if.reset()))
        panel.maps.map_chosen.connect(when(lambda result, kind: result.show_map(kind)))
        panel.ranking_clicked.connect(self.rank_or_stop)

    def _when_shown(self, act: Callable[..., None]) -> Callable[..., None]:
        """What does something with what is shown, and nothing where it is gone: a slider that rests says so late."""

        def do(*values: Any) -> None:
            if self.shown_result is not None:
                act(self.shown_result, *values)

        return do

    def _when_free(self, act: Callable[..., None]) -> Callable[..., None]:
        """The same; what was changed just before a job of ours began is taken back."""

        def do(result: ResultController, *values: Any) -> None:
            if not self._occupied:
                self.view.show_messages(())  # they are of the last inspection or ranking
                act(result, *values)
            else:
                result.what_if.show_level(result.level, result.channel)
                result.what_if.show_truths()

        return self._when_shown(do)


def _recalled(session: Session) -> InspectChoices:
    """Choices of the last time, as far as they are still valid."""
    try:
        options = InspectConfig.parse(session.recall("gates", {}), "the remembered settings")
    except ProsmaError:
        options = InspectConfig()
    return InspectChoices(device=session.recall("device", "auto"), options=options)
