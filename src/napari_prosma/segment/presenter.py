"""What the view shows of the choices: texts and lists, nothing that happens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from napari_prosma.jobs.run import ViewSignal
from napari_prosma.jobs.session import Session
from napari_prosma.scan.presenter import AbstractPartFields, AbstractScanView, ScanPresenter, slice_axes
from napari_prosma.segment.measures import ClassRow
from napari_prosma.segment.state import Choices, Plan, Problem
from prosma_core.config.inference import InferenceConfig

SHORTCUT = "Shift+S"


class AbstractAdvanced(Protocol):
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
        """All as it was at first."""

    def show_options(self, options: InferenceConfig, part: str, axes: Sequence[tuple[str, str]], name: str, /) -> None:
        """Show settings; `axes` are those a 2D model may walk along."""

    def show_name_hint(self, name: str, /) -> None:
        """Name the result gets unless another is given."""


class AbstractResultPanel(Protocol):
    """Numbers of a result."""

    def show_result(self, title: str, rows: Sequence[ClassRow], size: str, /) -> None:
        """Show a result; `size` is the heading of its sizes, empty where there are none."""

    def show_title(self, title: str, /) -> None:
        """The heading alone."""

    def hide(self) -> None:
        """There is no result."""


class AbstractSegmentView(AbstractScanView, Protocol):
    """The Segment widget as its controller knows it."""

    @property
    def advanced(self) -> AbstractAdvanced:
        """Advanced settings."""

    @property
    def result(self) -> AbstractResultPanel:
        """The result."""


class Presenter(ScanPresenter):
    """Puts choices into words on the view.

    Parameters
    ----------
    view : AbstractSegmentView
    session : Session
    """

    def __init__(self, view: AbstractSegmentView, session: Session) -> None:
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
