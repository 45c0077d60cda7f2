"""What the view shows of the choices: texts and lists, nothing that happens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_prosma.jobs.session import Session
from napari_prosma.scan.presenter import ScanPresenter, slice_axes
from napari_prosma.segment.state import Choices, Plan, Problem

if TYPE_CHECKING:
    from napari_prosma.segment.view import SegmentView

SHORTCUT = "Shift+S"


class Presenter(ScanPresenter):
    """Puts choices into words on the view.

    Parameters
    ----------
    view : SegmentView
    session : Session
    """

    def __init__(self, view: SegmentView, session: Session) -> None:
        super().__init__(view, session)
        self._view = view

    def options(self, choices: Choices) -> None:
        """Advanced settings; slice axes only where a 2D model meets a 3D scan."""
        self._view.advanced.show_options(choices.options, choices.part, slice_axes(choices), choices.name)

    def plan(self, plan: Plan | Problem, *, running: bool) -> None:
        """Why Segment is disabled, or what it will do."""
        problem = plan if isinstance(plan, Problem) else None
        self._view.show_problem(problem.field if problem else None, problem.text if problem else "")
        if isinstance(plan, Plan):
            self._view.advanced.show_name_hint(plan.result_name)
        self._view.show_notes("\n".join(plan.notes) if isinstance(plan, Plan) else "")
        if not running:
            tooltip = problem.text if problem else f"Segment the scan ({SHORTCUT})"
            self._view.show_run("Segment", enabled=problem is None, tooltip=tooltip)
