"""Tables as the widgets show them: as high as their rows, never wider than the dock."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import Qt
from qtpy.QtGui import QColor
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableWidget, QTableWidgetItem

from napari_prosma._shared.plain_text import plain, shown

SMALL = "QTableView, QHeaderView { font-size: 8pt; } QTableView::item { padding: 0px; }"
"""Style sheet of a table with so many columns that they would be cut off in a dock."""
FRAME = 4
"""Pixels of a table's frame, above and below together."""


def table(columns: Sequence[str], *, stretched: int = 0) -> QTableWidget:
    """A table to read, without selection; the column `stretched` takes what the others leave."""
    made = QTableWidget(0, len(columns))
    made.setHorizontalHeaderLabels(list(columns))
    made.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
    made.setSelectionMode(QAbstractItemView.SelectionMode.NoSelection)
    made.setWordWrap(False)
    made.verticalHeader().setVisible(False)
    header = made.horizontalHeader()
    header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
    header.setSectionResizeMode(stretched, QHeaderView.ResizeMode.Stretch)
    return made


def cell(text: str, *, right: bool = False, color: str = "", tooltip: str = "") -> QTableWidgetItem:
    """A text in a table, at the right for numbers, with a colored square before it where a color is given."""
    item = QTableWidgetItem(shown(text))
    item.setToolTip(plain(tooltip))
    if right:
        item.setTextAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
    if color:
        item.setData(Qt.ItemDataRole.DecorationRole, QColor(color))
    return item


def fit_height(shown: QTableWidget, most: int) -> None:
    """Make a table as high as its rows, but not higher than `most` pixels; the rest is scrolled to."""
    rows = sum(shown.rowHeight(i) for i in range(shown.rowCount()))
    shown.setFixedHeight(min(rows, most) + shown.horizontalHeader().sizeHint().height() + FRAME)
