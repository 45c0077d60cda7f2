"""The result as a table of classes, and what can be done with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from qtpy.QtCore import Signal
from qtpy.QtGui import QGuiApplication
from qtpy.QtWidgets import QHBoxLayout, QVBoxLayout, QWidget

from napari_prosma._shared.fields import button, note_label, say
from napari_prosma._shared.tables import cell, fit_height, table


@dataclass(frozen=True)
class ClassRow:
    """One class of a result; `size` is its volume or area, None where the scan has no unit."""

    value: int
    name: str
    color: str
    voxels: int
    size: float | None


class ResultPanel(QWidget):
    """Hidden until there is a result."""

    save_clicked = Signal()
    correct_clicked = Signal()
    gates_clicked = Signal()
    command_clicked = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._rows: Sequence[ClassRow] = ()
        self._size = ""
        self._title = note_label("facts")
        self._title.setObjectName("result_title")
        self._table = table(("Class", "Voxels", "Volume (mL)"))
        self._save = button("Save next to the scan", "Write the labels with the scan's geometry.", self.save_clicked)
        self._correct = button(
            "Correct && fine-tune", "Make an editable copy of the labels and pick the brush.", self.correct_clicked
        )
        self._gates = button("Inspect gates", "See what the skip connections kept and removed.", self.gates_clicked)
        self._command = button(
            "Show run command", "The command that repeats this without napari.", self.command_clicked
        )
        self._copy = button("Copy CSV", "Copy the table as comma-separated values.", self._copy_csv)
        self._said = note_label("facts")
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 8, 0, 0)
        head = QHBoxLayout()
        head.addWidget(self._title, 1)
        head.addWidget(self._copy)
        layout.addLayout(head)
        layout.addWidget(self._table)
        for part in (self._save, self._correct, self._gates, self._command):
            layout.addWidget(part)
        layout.addWidget(self._said)
        self.setVisible(False)

    def show_result(self, title: str, rows: Sequence[ClassRow], size: str) -> None:
        """Show a result; `size` is the heading of its sizes, such as "Volume (mL)", empty where there are none."""
        self._rows, self._size = rows, size
        say(self._title, title)
        self._table.setHorizontalHeaderLabels(["Class", "Voxels", size])
        self._table.setColumnHidden(2, not size)
        self._table.setRowCount(len(rows))
        for i, row in enumerate(rows):
            number = "" if row.size is None else _number(row.size)
            self._table.setItem(i, 0, cell(f"{row.value}  {row.name}", color=row.color, tooltip=row.name))
            self._table.setItem(i, 1, cell(f"{row.voxels:,}", right=True))
            self._table.setItem(i, 2, cell(number, right=True))
        fit_height(self._table, 8 * self._table.verticalHeader().defaultSectionSize())
        self.say("")
        self.setVisible(True)

    def show_title(self, title: str) -> None:
        """The heading alone: the name of the result's layer."""
        say(self._title, title)

    def say(self, text: str) -> None:
        """A line under the buttons, such as where the result was saved."""
        say(self._said, text)

    def _copy_csv(self) -> None:
        QGuiApplication.clipboard().setText(self.csv())

    def csv(self) -> str:
        """The table as comma-separated values."""
        lines = ["value,name,voxels" + (f",{self._size}" if self._size else "")]
        for row in self._rows:
            name = '"' + row.name.replace('"', '""') + '"'
            lines.append(f"{row.value},{name},{row.voxels}" + (f",{row.size:.9g}" if row.size is not None else ""))
        return "\n".join(lines) + "\n"


def _number(size: float) -> str:
    """Three digits, or all those before the decimal point; never an exponent."""
    return f"{size:,.0f}" if size >= 100 else np.format_float_positional(size, 3, fractional=False, trim="-")
