"""Panels of finished trainings: the result of the last one, and earlier runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QAbstractItemView, QGridLayout, QSpinBox, QVBoxLayout, QWidget

from napari_prosma.widgets.fields import Fold, button, cell, note_label, say, table
from prosma_core.config.training import MOST_EPOCHS
from prosma_core.runs.run_state import NO_VALIDATION

if TYPE_CHECKING:
    from prosma_core.runs.run_state import RunState


RESULT_HEIGHT = 240
"""Most pixels of the rows; more classes are scrolled to."""


class TrainedModelPanel(QWidget):
    """Dice before and after training, and actions on the model; hidden until there is one."""

    use_clicked = Signal()
    save_as_clicked = Signal()
    folder_clicked = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._title = note_label("facts")
        self._table = table("Dice of each class before and after", ("Class", "Before", "After"))
        self._text, self._held_out = note_label("facts"), note_label("facts")
        buttons = QGridLayout()
        for place, name, text, tooltip, signal in (
            ((0, 0, 1, 2), "use", "Use in Segment", "Choose the new model in the Segment widget.", self.use_clicked),
            ((1, 0, 1, 1), "save_as", "Save as…", "Write a copy of the model file elsewhere.", self.save_as_clicked),
            ((1, 1, 1, 1), "folder", "Open run folder", "Settings, curve, pictures.", self.folder_clicked),
        ):
            made = button(text, tooltip, signal)
            made.setObjectName(name)
            buttons.addWidget(made, *place)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 8, 0, 0)
        for part in (self._title, self._table, self._text, self._held_out):
            layout.addWidget(part)
        layout.addLayout(buttons)
        self._table.setObjectName("outcome")
        for name, label in (
            ("outcome_title", self._title),
            ("outcome_words", self._text),
            ("held_out", self._held_out),
        ):
            label.setObjectName(name)
        self.setVisible(False)

    def show_outcome(
        self, before: Mapping[str, float] | None, after: Mapping[str, float | None], words: str, held_out: str
    ) -> None:
        """Validation Dice of each class, of the start model and of the new one, and a text that compares them.

        A class that nothing of it holds has none.
        """
        kind = "Training" if held_out.startswith(NO_VALIDATION) else "Validation"
        say(self._title, f"{kind} Dice" if after else "")
        self._table.setColumnHidden(1, before is None)
        self._table.setHorizontalHeaderLabels(["Class", "Before", "Dice" if before is None else "After"])
        self._table.setRowCount(len(after))
        for i, (name, dice) in enumerate(after.items()):
            old = (before or {}).get(name)
            self._table.setItem(i, 0, cell(name, tooltip=name))
            self._table.setItem(i, 1, cell("–" if old is None else f"{old:.3f}", right=True))
            self._table.setItem(i, 2, cell("–" if dice is None else f"{dice:.3f}", right=True))
        self._table.setVisible(bool(after))
        self._table.fit_height(RESULT_HEIGHT)
        say(self._text, words)
        say(self._held_out, held_out)
        self.setVisible(True)


RUNS_HEIGHT = 180
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
        self._table = table("Earlier runs", ("Name", "Epochs", "Dice", "State"))
        self._table.setTextElideMode(Qt.TextElideMode.ElideMiddle)  # names often differ at their end
        self._table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self._table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self._table.itemSelectionChanged.connect(self._selected)
        self._resume = button(
            "Resume", "Continue exactly where the run stopped.", lambda: self.resume_clicked.emit(self._run())
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
        self._count.setAccessibleName("More epochs")
        self._more = button(
            "Train more", "Continue for so many epochs, whatever limits the run had.", self._more_clicked
        )
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
            dice = f"({dice})" if run.held_out.startswith(NO_VALIDATION) and run.dice is not None else dice
            epochs = f"{run.epochs_done}/{run.epochs}" if run.epochs < MOST_EPOCHS else str(run.epochs_done)
            self._table.setItem(i, 0, cell(run.name, tooltip=f"{run.name}\n{run.out}\n{run.held_out}".strip()))
            self._table.setItem(i, 1, cell(epochs, right=True))
            self._table.setItem(i, 2, cell(dice, right=True, tooltip=run.held_out))
            state = "training" if run.in_use else "finished" if run.finished else "stopped"
            self._table.setItem(i, 3, cell(state, tooltip=run.in_use[:1].upper() + run.in_use[1:]))
        self._table.selectRow(next((i for i, run in enumerate(runs) if run.out == out), 0))
        self._table.blockSignals(False)
        self._table.fit_height(RUNS_HEIGHT)
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
