"""What the view shows of the choices: texts and lists, nothing that happens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_prosma.gates.state import Choices, Plan, Problem, level_facts
from napari_prosma.jobs.session import Session
from napari_prosma.scan.presenter import ScanPresenter, slice_axes

if TYPE_CHECKING:
    from napari_prosma.gates.view import GatesView


class Presenter(ScanPresenter):
    """Puts choices into words on the view.

    Parameters
    ----------
    view : GatesView
    session : Session
    """

    def __init__(self, view: GatesView, session: Session) -> None:
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
