"""What the view shows of the choices: texts and lists, nothing that happens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from napari_prosma.gates.result_controller import AbstractResultPanel
from napari_prosma.gates.state import Choices, LevelFacts, Plan, Problem, level_facts
from napari_prosma.jobs.run import ViewSignal
from napari_prosma.jobs.session import Session
from napari_prosma.scan.presenter import AbstractPartFields, AbstractScanView, ScanPresenter, slice_axes
from prosma_core.config.inspection import InspectConfig


class ChoosablePart(AbstractPartFields, Protocol):
    """As of `AbstractPartFields`, shown by itself."""

    def show_part(self, part: str, axes: Sequence[tuple[str, str]], slice_axis: str | None, /) -> None:
        """Show a choice; `axes` are those a 2D model may walk along, empty where none are needed."""


class AbstractLevelBoxes(Protocol):
    """A box to tick for each level with a gate."""

    @property
    def levels_chosen(self) -> ViewSignal:
        """Levels that are left out (frozenset of int)."""

    def show_levels(self, facts: tuple[LevelFacts, ...], without: frozenset[int], /) -> None:
        """Show the levels of a network, ticked but for those that are left out."""


class AbstractAdvanced(Protocol):
    """Maps that are made, and how the tiles overlap."""

    @property
    def options_changed(self) -> ViewSignal:
        """InspectConfig."""

    @property
    def defaults_clicked(self) -> ViewSignal:
        """All as it was at first."""

    def show_options(self, options: InspectConfig, /) -> None:
        """Show settings."""


class AbstractGatesView(AbstractScanView, Protocol):
    """The Gates widget as its controller knows it."""

    @property
    def part(self) -> ChoosablePart:
        """Part of the scan."""

    @property
    def levels(self) -> AbstractLevelBoxes:
        """Levels to inspect."""

    @property
    def advanced(self) -> AbstractAdvanced:
        """Advanced settings."""

    @property
    def result(self) -> AbstractResultPanel:
        """What was found."""

    def scroll_to_result(self) -> None:
        """Scroll down to what was found."""


class Presenter(ScanPresenter):
    """Puts choices into words on the view.

    Parameters
    ----------
    view : AbstractGatesView
    session : Session
    """

    def __init__(self, view: AbstractGatesView, session: Session) -> None:
        super().__init__(view, session)
        self._view = view

    def options(self, choices: Choices) -> None:
        """Part, levels and advanced settings."""
        self._view.part.show_part(choices.part, slice_axes(choices), choices.options.slice_axis)
        model = choices.model
        self._view.levels.show_levels(level_facts(model.header.model) if model else (), choices.without)
        self._view.advanced.show_options(choices.options)

    def plan(self, plan: Plan | Problem, *, running: bool) -> None:
        """Why Inspect is disabled, or what it will do."""
        problem = plan if isinstance(plan, Problem) else None
        self._view.show_problem(problem.field if problem else None, problem.text if problem else "")
        self._view.show_notes("\n".join(plan.notes) if isinstance(plan, Plan) else "")
        if not running:
            tooltip = problem.text if problem else "Segment the scan and keep what every gate did."
            self._view.show_run("Inspect", enabled=problem is None, tooltip=tooltip)
