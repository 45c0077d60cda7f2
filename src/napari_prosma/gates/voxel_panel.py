"""What each channel of a level did at a voxel that was clicked in the viewer."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QAbstractTableModel, QModelIndex, Qt, Signal
from qtpy.QtGui import QColor
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QPushButton, QTableView, QVBoxLayout, QWidget

from napari_prosma.gates.inspection_result import VoxelChannels
from napari_prosma.gates.maps import KEPT, REMOVED
from napari_prosma.gates.voxel_picker import HINT
from napari_prosma.widgets.fields import SMALL, note_label, say

ROWS = 9
"""Channels that are seen without scrolling."""


class VoxelPanel(QWidget):
    """A button that lets clicks in the viewer pick a voxel, and the table of its channels."""

    probe_toggled = Signal(bool)
    channel_clicked = Signal(int)

    def __init__(self) -> None:
        super().__init__()
        self._probe = QPushButton("Probe")
        self._probe.setObjectName("probe")
        self._probe.setCheckable(True)
        self._probe.setToolTip(
            "While it is pressed, a click in the viewer picks a voxel. Dragging moves the view as ever, and tools such "
            "as the brush are left alone: choose the pan tool of the selected layer to pick."
        )
        self._probe.toggled.connect(self.probe_toggled)
        self._said, self._others = note_label("facts"), note_label("facts")
        self._said.setObjectName("voxel_said")
        self._others.setObjectName("voxel_others")
        self._model = _Rows()
        self._table = QTableView()
        self._table.setObjectName("voxel_table")
        self._table.setModel(self._model)
        self._table.verticalHeader().setVisible(False)
        self._table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self._table.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Stretch)
        self._table.horizontalHeader().setMinimumSectionSize(24)
        self._table.setStyleSheet(SMALL)
        self._table.setVerticalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        row = 22
        self._table.verticalHeader().setDefaultSectionSize(row)
        self._table.setFixedHeight((ROWS + 1) * row)
        self._table.clicked.connect(lambda index: self.channel_clicked.emit(self._model.channel(index.row())))
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 6, 0, 0)
        for part in (self._probe, self._said, self._table, self._others):
            layout.addWidget(part)
        self.show_hint(HINT)

    @property
    def probing(self) -> bool:
        """Whether clicks pick voxels."""
        return self._probe.isChecked()

    def stop(self) -> None:
        """Let clicks be clicks again."""
        self._probe.setChecked(False)

    def show_hint(self, text: str) -> None:
        """Say something in the place of the table."""
        say(self._said, text)
        say(self._others, "")
        self._table.setVisible(False)

    def show_voxel(self, title: str, rows: VoxelChannels, others: str) -> None:
        """Show the channels at a voxel; `others` says what the other levels did there."""
        say(self._said, title)
        say(self._others, others)
        self._model.show(rows)
        self._table.setVisible(True)


class _Rows(QAbstractTableModel):
    """Channels as rows: large tables are not filled cell by cell."""

    def __init__(self) -> None:
        super().__init__()
        self._rows: VoxelChannels | None = None
        self._heads: list[str] = []

    def show(self, rows: VoxelChannels) -> None:
        self.beginResetModel()
        self._rows = rows
        self._heads = ["ch.", *rows.columns, *([] if rows.kept is None else ["is"])]
        self.endResetModel()

    def channel(self, row: int) -> int:
        return int(self._rows.channels[row]) if self._rows is not None else 0

    def rowCount(self, parent: QModelIndex | None = None) -> int:
        return 0 if self._rows is None or (parent is not None and parent.isValid()) else len(self._rows.channels)

    def columnCount(self, parent: QModelIndex | None = None) -> int:
        return 0 if parent is not None and parent.isValid() else len(self._heads)

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if orientation != Qt.Orientation.Horizontal or section >= len(self._heads):
            return None
        head = self._heads[section]
        if role == Qt.ItemDataRole.ToolTipRole:
            return _meaning(head)
        return head if role == Qt.ItemDataRole.DisplayRole else None

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        rows = self._rows
        if rows is None or not index.isValid():
            return None
        head = self._heads[index.column()]
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        if head == "is" and rows.kept is not None:
            kept = bool(rows.kept[index.row()])
            if role == Qt.ItemDataRole.DecorationRole:
                return QColor(KEPT if kept else REMOVED)
            if role == Qt.ItemDataRole.ToolTipRole:
                return "kept" if kept else "removed"
            return None
        if role not in {Qt.ItemDataRole.DisplayRole, Qt.ItemDataRole.ToolTipRole}:
            return None
        if head == "ch.":
            return str(rows.channels[index.row()])
        value = rows.columns[head][index.row()]
        return f"{value:.5g}" if role == Qt.ItemDataRole.ToolTipRole else f"{value:.2f}"


def _meaning(head: str) -> str:
    """What a column holds."""
    meanings = {
        "ch.": "Channel.",
        "z": "Combined field: the sum over the dilations.",
        "τ": "Learned threshold of the channel.",
        "a": "Weight of the gate, 0 to 1.",
        "is": "Blue: kept. Orange: removed, exactly 0 goes to the decoder.",
    }
    return meanings.get(head, f"Field of the convolution with dilation {head[1:]}.")
