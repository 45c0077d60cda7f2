"""Table of training pairs: contents, problem and fixes of each."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Container, Sequence
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QEvent, QItemSelectionModel, QModelIndex, QObject, Qt, Signal
from qtpy.QtWidgets import (
    QAbstractItemView,
    QGridLayout,
    QHBoxLayout,
    QHeaderView,
    QPushButton,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_prosma.widgets.fields import button, cell, note_label, say, tab_after, table

if TYPE_CHECKING:
    from napari_prosma.train.pairs import PairRow

FIXES = {
    "resample": ("Resample", "Put the labels onto the scan's grid, as a new layer; this one stays as it is."),
    "place": (
        "Use image grid",
        "Copy the labels value by value onto the image's grid, as a new layer; this one stays as it is.",
    ),
    "channels": ("As channels", "Take the time points of the image for channels of one scan."),
    "threshold": ("Threshold", "Above half of the largest value is one class, in all masks with gray values."),
    "classes": ("Keep values", "Each value of masks with gray values is a class of its own."),
    "one_class": ("One class", "Take all labels above 0 as one class, such as numbered cells."),
}
SERIES = (
    "Scans without labels, opened one after the other: correct or draw, mark, open the next. Labels are kept beside "
    "your models; the folder is not written to."
)
HEIGHT = 260
"""Most pixels of the rows; more pairs are scrolled to."""
SELECT = QItemSelectionModel.SelectionFlag.Select | QItemSelectionModel.SelectionFlag.Rows
MARGIN = 6
"""Pixels between a text and the edges of its cell."""

REMOVE = "Remove the selected pairs from this list; no data is deleted."


class PairsTable(QWidget):
    """Table of pairs, and `buttons` that add and remove them."""

    add_active_clicked = Signal()
    add_files_clicked = Signal()
    add_folder_clicked = Signal()
    series_clicked = Signal()
    series_files_clicked = Signal()
    remove_clicked = Signal(object)
    fix_clicked = Signal(int, str)

    def __init__(self) -> None:
        super().__init__()
        self.problem = note_label("problem")
        self._rows: Sequence[PairRow | None] = ()
        self._pairs: list[int] = []
        self._writing = False
        self._table = table("Images and their labels", ("Image", "Labels"))
        self._table.setObjectName("pairs")
        self._table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self._table.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self._table.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self._table.setVerticalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self._table.setItemDelegate(_Wrapped(self._table))
        self._table.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Stretch)
        self._table.itemSelectionChanged.connect(self._selected)
        self._table.viewport().installEventFilter(self)
        self._table.setVisible(False)
        self.buttons = QWidget()
        buttons = QGridLayout(self.buttons)
        buttons.setContentsMargins(0, 0, 0, 0)
        selected, made = "The Image and Labels layers that are selected.", {}
        for place, name, text, tooltip, signal in (
            ((0, 0, 1, 2), "add_active", "Add selected image + labels", selected, self.add_active_clicked),
            ((1, 0), "add_files", "Add files…", "Scans and their labels from files.", self.add_files_clicked),
            ((1, 1), "add_folder", "Add folder…", "A folder with images/ and labels/.", self.add_folder_clicked),
            ((2, 0), "series_folder", "Go through folder…", SERIES, self.series_clicked),
            ((2, 1), "series_files", "Go through files…", SERIES, self.series_files_clicked),
            ((3, 0, 1, 2), "remove_pairs", "Remove", REMOVE, self._removed),
        ):
            made[name] = button(text, tooltip, signal)
            made[name].setObjectName(name)
            buttons.addWidget(made[name], *place)
        self._remove = made["remove_pairs"]
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._table)
        layout.addWidget(self.buttons)
        layout.addWidget(self.problem)
        self.show_pairs(())

    def show_pairs(self, rows: Sequence[PairRow]) -> None:
        """Show these pairs; where their number is as before, only those that changed are drawn anew."""
        self._table.blockSignals(True)
        self._writing = True
        if len(rows) != len(self._rows):
            self._rows, self._pairs = (None,) * len(rows), []
            self._table.setRowCount(0)
        changed = [i for i, row in enumerate(rows) if _shown(row) != _shown(self._rows[i])]
        for i in changed:
            self._put(i, rows[i])
        self._rows = tuple(rows)
        self._writing = False
        self._table.blockSignals(False)
        for part in (self._table, self._remove):
            part.setVisible(bool(rows))
        self._selected()
        self._fit(set(changed))
        parts = [self._table.cellWidget(line, 0) for line in range(self._table.rowCount())]
        tab_after(self._table, (each for part in parts if part is not None for each in part.findChildren(QPushButton)))

    def _put(self, pair: int, row: PairRow) -> None:
        """Write the lines of a pair, in place of those it has: names, facts, problem."""
        first, stop = bisect_left(self._pairs, pair), bisect_right(self._pairs, pair)
        selected = pair in self._chosen()
        for line in reversed(range(first, stop)):
            self._table.removeRow(line)
        wide = [_facts(row.shown_facts)] if row.facts else []
        wide += [_facts("")] if row.problem or row.fixes else []
        self._pairs[first:stop] = [pair] * (1 + len(wide))
        self._table.insertRow(first)
        for column, name in enumerate((row.image, row.labels)):
            self._table.setItem(first, column, _name(name))
        for line, item in enumerate(wide, first + 1):
            self._table.insertRow(line)
            self._table.setSpan(line, 0, 1, 2)
            self._table.setItem(line, 0, item)
        if row.problem or row.fixes:
            self._table.setCellWidget(first + len(wide), 0, self._trouble(pair, row))
        if selected:
            self._table.selectionModel().select(self._table.model().index(first, 0), SELECT)

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """Wrap the texts anew where the table's width changes or its font may have."""
        if event.type() in {QEvent.Type.Resize, QEvent.Type.Show} and not self._writing:
            self._fit()  # a scroll bar that appears while lines are written comes too early: they are fitted at the end
        return bool(super().eventFilter(watched, event))

    def _trouble(self, pair: int, row: PairRow) -> QWidget:
        """What is wrong with a pair, and a button for each thing that helps."""
        part = QWidget()
        layout = QVBoxLayout(part)
        layout.setContentsMargins(MARGIN, 2, MARGIN, 4)
        problem = note_label("problem")
        say(problem, row.problem)
        layout.addWidget(problem)
        beside = QHBoxLayout()
        for fix in row.fixes:
            text, tooltip = FIXES[fix]
            beside.addWidget(button(text, tooltip, lambda _=False, fix=fix: self.fix_clicked.emit(pair, fix)))
        beside.addStretch(1)
        layout.addLayout(beside)
        return part

    def _fit(self, pairs: Container[int] | None = None) -> None:
        """Make lines as high as their text at the present width (of these pairs, or all), and the table as its rows."""
        width = self._table.viewport().width() - 1  # the grid's line
        metrics = self._table.fontMetrics()
        for line, pair in enumerate(self._pairs):
            if pairs is not None and pair not in pairs:
                continue
            part, item = self._table.cellWidget(line, 0), self._table.item(line, 0)
            if part is not None:
                height = part.layout().totalHeightForWidth(width) + 1
            else:
                flags = int(Qt.TextFlag.TextWordWrap) if self._table.columnSpan(line, 0) > 1 else 0
                text = metrics.boundingRect(0, 0, width - 2 * MARGIN, 10_000, flags, item.text())
                height = text.height() + MARGIN
            self._table.setRowHeight(line, height)
        self._table.fit_height(HEIGHT)

    def _chosen(self) -> list[int]:
        return sorted({self._pairs[index.row()] for index in self._table.selectionModel().selectedRows()})

    def _selected(self) -> None:
        self._remove.setEnabled(bool(self._chosen()))

    def _removed(self) -> None:
        self.remove_clicked.emit(self._chosen())


class _Wrapped(QStyledItemDelegate):
    """Wraps the texts that stand across the whole table; names are cut off in the middle instead."""

    def initStyleOption(self, option: QStyleOptionViewItem | None, index: QModelIndex) -> None:
        super().initStyleOption(option, index)
        if not index.data(Qt.ItemDataRole.UserRole):
            return
        option.features |= QStyleOptionViewItem.ViewItemFeature.WrapText


def _shown(row: PairRow | None) -> tuple[Any, ...]:
    """What the table shows of a pair."""
    return () if row is None else (row.image, row.labels, row.shown_facts, row.problem, row.fixes)


def _name(text: str) -> QTableWidgetItem:
    """A name, bold, so that it can be seen where a pair begins."""
    item = cell(text, tooltip=text)
    font = item.font()
    font.setBold(True)
    item.setFont(font)
    return item


def _facts(text: str) -> QTableWidgetItem:
    item = cell(text, tooltip=text)
    item.setData(Qt.ItemDataRole.UserRole, True)
    return item
