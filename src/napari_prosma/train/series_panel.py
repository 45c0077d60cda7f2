"""Panel of a series of scans: how far each is, and buttons that open, check and leave them."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import QModelIndex, Qt, Signal
from qtpy.QtWidgets import QAbstractItemView, QGridLayout, QVBoxLayout, QWidget

from napari_prosma.train.series_work import SeriesRow
from napari_prosma.widgets.fields import SMALL, button, cell, note_label, say, table

HEIGHT, ROW = 132, 22
"""Most pixels of the rows (more scans are scrolled to), and of one of them."""
NEXT = "Open next"
NEXT_TOOLTIP = (
    "Save the labels of the open scan, close its layers, and open the next scan that is not done: with its saved "
    "labels, those of the folder, the result of the chosen or last trained model, or an empty labels layer."
)
NOTHING_TOOLTIP = "The open scan holds no object: mark all its slices as checked, without labels, and open the next."
OPEN_TOOLTIP = "Save and close the open scan, and open the selected one again (also by a double click)."
VALIDATION_TOOLTIP = (
    "The selected scans are for validation: the model is judged by them and does not learn them. Once more: for "
    "training. Without any, what is held out is drawn at random."
)
LEAVE_TOOLTIP = "Save and close the open scan, and this list. Labels stay saved, and in the pairs below."


class SeriesPanel(QWidget):
    """Counts, table and buttons; hidden without a series."""

    next_clicked = Signal()
    open_clicked = Signal(int)
    nothing_clicked = Signal()
    validation_clicked = Signal(object)
    leave_clicked = Signal()
    listed = Signal()
    """Scans are shown where none were."""

    def __init__(self) -> None:
        super().__init__()
        self._rows: tuple[SeriesRow, ...] = ()
        self._current: int | None = None
        self._text, self._busy, self._problem = note_label("facts"), note_label("facts"), note_label("problem")
        self._table = table("Scans of the folder", ("Scan", "State", "For"))
        self._table.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self._table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self._table.setStyleSheet(SMALL)
        self._table.verticalHeader().setDefaultSectionSize(ROW)
        self._table.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self._table.doubleClicked.connect(self._double_clicked)
        self._table.itemSelectionChanged.connect(self._enable)
        self._next = button(NEXT, NEXT_TOOLTIP, self.next_clicked)
        self._nothing = button("Nothing here", NOTHING_TOOLTIP, self.nothing_clicked)
        self._open = button("Open selected", OPEN_TOOLTIP, self._open_selected)
        self._validation = button("For validation", VALIDATION_TOOLTIP, self._validate_selected)
        self._leave = button("Leave series", LEAVE_TOOLTIP, self.leave_clicked)
        grid = QGridLayout()
        for place, part in (
            ((0, 0), self._next),
            ((0, 1), self._nothing),
            ((1, 0), self._open),
            ((1, 1), self._validation),
            ((2, 0, 1, 2), self._leave),
        ):
            grid.addWidget(part, *place)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 6)
        layout.addWidget(self._text)
        layout.addWidget(self._table)
        layout.addWidget(self._busy)
        layout.addWidget(self._problem)
        layout.addLayout(grid)
        named: tuple[tuple[str, QWidget], ...] = (
            ("series_counts", self._text),
            ("series_table", self._table),
            ("series_busy", self._busy),
            ("series_problem", self._problem),
            ("series_next", self._next),
            ("series_nothing", self._nothing),
            ("series_open", self._open),
            ("series_validation", self._validation),
            ("series_leave", self._leave),
        )
        for name, widget in named:
            widget.setObjectName(name)
        self.show_series("", (), None, "", "")

    def show_series(self, words: str, rows: Sequence[SeriesRow], current: int | None, busy: str, problem: str) -> None:
        """What there is (empty: no series), the scans, number of the open one, what is being done, what went wrong."""
        say(self._text, words)
        say(self._busy, busy)
        say(self._problem, problem)
        if len(rows) != len(self._rows):
            self._rows, self._current = (), None
            self._table.setRowCount(len(rows))
        for i, row in enumerate(rows):
            before = self._rows[i] if i < len(self._rows) else None
            if row != before or (i == current) != (i == self._current):
                self._put(i, row, bold=i == current)
        if current is not None and current != self._current:
            self._table.scrollToItem(self._table.item(current, 0))
        new = bool(rows) and self._table.isHidden()
        self._rows, self._current = tuple(rows), current
        self.setVisible(bool(words or busy or problem))
        self._table.setVisible(bool(rows))
        self._table.fit_height(HEIGHT)
        if new:
            self.listed.emit()
        self._enable(busy=bool(busy))

    def _put(self, number: int, row: SeriesRow, *, bold: bool) -> None:
        for column, text in enumerate((row.name, row.state, row.use)):
            item = cell(text, tooltip=row.tooltip or text)
            font = item.font()
            font.setBold(bold)
            item.setFont(font)
            self._table.setItem(number, column, item)

    def _chosen(self) -> list[int]:
        return sorted(index.row() for index in self._table.selectionModel().selectedRows())

    def _enable(self, *, busy: bool | None = None) -> None:
        """Enable what can be done; while something is being done, only to go on, which gives a segmentation up."""
        idle = not (self._busy.text() if busy is None else busy)
        chosen = self._chosen()
        self._next.setEnabled(bool(self._rows))
        self._nothing.setEnabled(idle and self._current is not None)
        self._open.setEnabled(len(chosen) == 1 and chosen != [self._current])
        self._validation.setEnabled(idle and bool(chosen))
        self._leave.setEnabled(bool(self._rows))

    def _double_clicked(self, index: QModelIndex) -> None:
        self.open_clicked.emit(index.row())

    def _open_selected(self) -> None:
        for number in self._chosen()[:1]:
            self.open_clicked.emit(number)

    def _validate_selected(self) -> None:
        self.validation_clicked.emit(self._chosen())
