"""Earlier runs: what became of them, and how to go on with one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QAbstractItemView, QGridLayout, QSpinBox, QWidget

from napari_prosma.widgets.fields import Fold, button, cell, fit_height, table

if TYPE_CHECKING:
    from prosma_core.runs.run_state import RunState

HEIGHT = 180
"""Most pixels of the rows; more runs are scrolled to."""
FIRST_MORE = 10
"""Epochs proposed to be trained more."""


class RunsPanel(Fold):
    """A list of runs, and `buttons` for the selected one; hidden where there are none."""

    resume_clicked = Signal(object)
    more_clicked = Signal(object, int)
    keep_clicked = Signal(object)
    run_folder_clicked = Signal(object)

    def __init__(self) -> None:
        super().__init__("Earlier runs")
        self._runs: Sequence[RunState] = ()
        self._table = table(("Name", "Epochs", "Dice", "State"))
        self._table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self._table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self._table.itemSelectionChanged.connect(self._selected)
        self._resume = button(
            "Resume", "Go on exactly where the run stopped.", lambda: self.resume_clicked.emit(self._run())
        )
        self._keep = button(
            "Use model",
            "Make what was learned so far a model, and use it in Segment.",
            lambda: self.keep_clicked.emit(self._run()),
        )
        self._folder = button(
            "Show folder", "Settings, curve, pictures.", lambda: self.run_folder_clicked.emit(self._run())
        )
        self._count = QSpinBox()
        self._count.setRange(1, 100_000)
        self._count.setValue(FIRST_MORE)
        self._count.setSuffix(" epochs")
        self._count.setToolTip("So many epochs are trained more.")
        self._more = button("Train more", "Go on for so many epochs, whatever limits the run had.", self._more_clicked)
        self.buttons = QWidget()
        grid = QGridLayout(self.buttons)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.addWidget(self._resume, 0, 0)
        grid.addWidget(self._keep, 0, 1)
        grid.addWidget(self._more, 1, 0)
        grid.addWidget(self._count, 1, 1)
        grid.addWidget(self._folder, 2, 0, 1, 2)
        self.add(self._table, self.buttons)
        names = {"runs": self._table, "resume": self._resume, "use_model": self._keep, "run_folder": self._folder}
        for name, part in (names | {"more_count": self._count, "more": self._more}).items():
            part.setObjectName(name)
        self.show_runs(())

    def show_runs(self, runs: Sequence[RunState]) -> None:
        """Show these runs, the newest first; the selected one stays selected."""
        at = self._table.currentRow()
        out = self._runs[at].out if 0 <= at < len(self._runs) else None
        self._runs = runs
        self._table.blockSignals(True)
        self._table.setRowCount(len(runs))
        for i, run in enumerate(runs):
            dice = "–" if run.dice is None else f"{run.dice:.3f}"
            self._table.setItem(i, 0, cell(run.name, tooltip=f"{run.name}\n{run.out}\n{run.held_out}".strip()))
            self._table.setItem(i, 1, cell(f"{run.epochs_done}/{run.epochs}", right=True))
            self._table.setItem(i, 2, cell(dice, right=True))
            state = "training" if run.in_use else "finished" if run.finished else "stopped"
            self._table.setItem(i, 3, cell(state, tooltip=run.in_use[:1].upper() + run.in_use[1:]))
        self._table.selectRow(next((i for i, run in enumerate(runs) if run.out == out), 0))
        self._table.blockSignals(False)
        fit_height(self._table, HEIGHT)
        self.show_title(f"Earlier runs ({len(runs)})")
        self.setVisible(bool(runs))
        self._selected()

    def _run(self) -> RunState:
        return self._runs[self._table.currentRow()]

    def _more_clicked(self) -> None:
        self.more_clicked.emit(self._run(), self._count.value())

    def _selected(self) -> None:
        run = self._runs[self._table.currentRow()] if self._runs else None
        self._resume.setEnabled(run is not None and not run.finished)
        self._more.setEnabled(run is not None and run.epochs_done > 0)
        self._keep.setEnabled(run is not None and run.dice is not None)
