"""Whether training was worth it: Dice before and after, and what can be done with the model."""

from __future__ import annotations

from collections.abc import Mapping

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QGridLayout, QVBoxLayout, QWidget

from napari_prosma.widgets.fields import button, cell, fit_height, note_label, say, table

HEIGHT = 240
"""Most pixels of the rows; more classes are scrolled to."""


class OutcomePanel(QWidget):
    """Hidden until there is a model."""

    use_clicked = Signal()
    save_as_clicked = Signal()
    folder_clicked = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._title = note_label("facts")
        self._table = table(("Class", "Before", "After"))
        self._words, self._held_out = note_label("facts"), note_label("facts")
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
        for part in (self._title, self._table, self._words, self._held_out):
            layout.addWidget(part)
        layout.addLayout(buttons)
        self._table.setObjectName("outcome")
        for name, label in (
            ("outcome_title", self._title),
            ("outcome_words", self._words),
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
        say(self._title, "Dice on what was held out" if after else "")
        self._table.setColumnHidden(1, before is None)
        self._table.setHorizontalHeaderLabels(["Class", "Before", "Dice" if before is None else "After"])
        self._table.setRowCount(len(after))
        for i, (name, dice) in enumerate(after.items()):
            old = (before or {}).get(name)
            self._table.setItem(i, 0, cell(name, tooltip=name))
            self._table.setItem(i, 1, cell("–" if old is None else f"{old:.3f}", right=True))
            self._table.setItem(i, 2, cell("–" if dice is None else f"{dice:.3f}", right=True))
        self._table.setVisible(bool(after))
        fit_height(self._table, HEIGHT)
        say(self._words, words)
        say(self._held_out, held_out)
        self.setVisible(True)
