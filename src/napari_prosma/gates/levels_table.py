"""The levels of a look as a table; a click on a row shows that level."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QAbstractItemView, QVBoxLayout, QWidget

from napari_prosma._shared.fields import note_label, say
from napari_prosma._shared.plain_text import plain
from napari_prosma._shared.tables import cell, fit_height, table
from prosma_core.config.inspection import LevelSummary

COLUMNS = ("Level", "Ch.", "Removed", "Energy", "τ")
TOOLTIPS = (
    "Number, 0 for the finest, and voxels of the level. Click a row to show its maps and plots.",
    "Channels.",
    "Share of all activations of the skip connection that the gate sets to exactly 0.",
    "Share of the skip's energy (sum of squares) that does not pass: what is removed, damped or switched off.",
    "Median of the learned thresholds; activations whose field lies within ± τ are removed.",
)


class LevelsTable(QWidget):
    """A row per level."""

    level_clicked = Signal(int)

    def __init__(self) -> None:
        super().__init__()
        self._levels: Sequence[LevelSummary] = ()
        self._title = note_label("facts")
        self._table = table(COLUMNS)
        self._table.setObjectName("levels_table")
        self._table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self._table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        for column, text in enumerate(TOOLTIPS):
            self._table.horizontalHeaderItem(column).setToolTip(plain(text))
        self._table.cellClicked.connect(lambda row, _: self.level_clicked.emit(self._levels[row].level))
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._title)
        layout.addWidget(self._table)

    def show_levels(self, title: str, levels: Sequence[LevelSummary], level: int) -> None:
        """Show these levels; `level` is the one whose maps and plots are shown."""
        self._levels = levels
        say(self._title, title)
        self._table.setVisible(bool(levels))
        self._table.setRowCount(len(levels))
        for row, summary in enumerate(levels):
            for column, text in enumerate(_texts(summary)):
                self._table.setItem(row, column, cell(text, right=column > 0, tooltip=TOOLTIPS[column]))
        fit_height(self._table, 8 * self._table.verticalHeader().defaultSectionSize())
        self.mark(level)

    def mark(self, level: int) -> None:
        """Mark the level that is shown."""
        for row, summary in enumerate(self._levels):
            if summary.level == level:
                self._table.selectRow(row)


def _texts(summary: LevelSummary) -> tuple[str, ...]:
    threshold = "–" if summary.threshold is None else f"{summary.threshold:.2f}"
    grid = "×".join(map(str, summary.shape))
    return (
        f"{summary.level}: {grid}",
        str(summary.channels),
        f"{100 * summary.removed:.0f} %",
        f"{100 * summary.energy:.0f} %",
        threshold,
    )
