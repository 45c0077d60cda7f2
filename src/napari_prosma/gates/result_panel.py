"""Result panel: table of levels, and tabs for plots, voxel, what-if and export."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qtpy.QtCore import QAbstractTableModel, QModelIndex, Qt, Signal
from qtpy.QtGui import QColor
from qtpy.QtWidgets import (
    QAbstractItemView,
    QComboBox,
    QHeaderView,
    QPushButton,
    QTableView,
    QTabWidget,
    QVBoxLayout,
    QWidget,
)

from napari_prosma.gates.job import VoxelChannels
from napari_prosma.gates.maps import KEPT, REMOVED
from napari_prosma.gates.plots import GatePlots
from napari_prosma.gates.result_controller import HINT
from napari_prosma.gates.what_if_panel import WhatIfPanel
from napari_prosma.widgets.fields import SMALL, button, cell, combo, fit_height, note_label, row, say, table
from prosma_core.config.inspection import LevelSummary
from prosma_core.printable import plain

ROWS = 9
"""Channels that are seen without scrolling."""


class VoxelPanel(QWidget):
    """Button for voxel picking, and a table of the channels at the picked voxel."""

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
        self._model = _ChannelModel()
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
        """Whether voxel picking is on."""
        return self._probe.isChecked()

    def stop(self) -> None:
        """Turn voxel picking off."""
        self._probe.setChecked(False)

    def show_hint(self, text: str) -> None:
        """Show a hint in place of the table."""
        say(self._said, text)
        say(self._others, "")
        self._table.setVisible(False)

    def show_voxel(self, title: str, rows: VoxelChannels, others: str) -> None:
        """Show the channels at a voxel; `others` is a text on the other levels there."""
        say(self._said, title)
        say(self._others, others)
        self._model.show(rows)
        self._table.setVisible(True)


class _ChannelModel(QAbstractTableModel):
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


FORMATS = (("NIfTI (.nii.gz)", ".nii.gz"), ("zarr (.zarr)", ".zarr"))


class GatesResultPanel(QWidget):
    """Result of an inspection; hidden until there is one."""

    remove_clicked = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.levels, self.plots = LevelsTable(), GatePlots()
        self.voxel, self.what_if, self.files = VoxelPanel(), WhatIfPanel(), FilesPanel()
        self._tabs = _Tabs()
        self._tabs.setObjectName("tabs")
        parts = (("Plots", self.plots), ("Voxel", self.voxel), ("What if", self.what_if), ("Export", self.files))
        for text, part in parts:
            self._tabs.add(part, text)
        remove = button("Remove maps", "Remove all layers of this inspection from the viewer.", self.remove_clicked)
        remove.setObjectName("remove")
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 8, 0, 0)
        for widget in (self.levels, self._tabs, remove):
            layout.addWidget(widget)
        self.setVisible(False)

    def show_tabs(self, *, gates: bool) -> None:
        """Show the tabs where there are gates to inspect."""
        self._tabs.setVisible(gates)

    def open_tab(self, text: str) -> None:
        """Bring a tab to the front."""
        names = [self._tabs.tabText(i) for i in range(self._tabs.count())]
        self._tabs.setCurrentIndex(names.index(text))


class _Tabs(QTabWidget):
    """Tabs as high as the one in front: the content of the others is hidden, so that it takes no room."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[QWidget] = []
        self.tabBar().setUsesScrollButtons(False)
        self.currentChanged.connect(self._fit)

    def add(self, part: QWidget, text: str) -> None:
        """Add a tab; its content stays at the top."""
        page = QWidget()
        column = QVBoxLayout(page)
        column.setContentsMargins(2, 0, 2, 0)
        column.addWidget(part)
        column.addStretch(1)
        self._parts.append(part)
        self.addTab(page, text)
        self._fit(self.currentIndex())

    def _fit(self, current: int) -> None:
        for i, part in enumerate(self._parts):
            part.setVisible(i == current)
        self.updateGeometry()


class FilesPanel(QWidget):
    """Export buttons, and a status line."""

    numbers_clicked = Signal()
    plots_clicked = Signal()
    maps_clicked = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self._format: QComboBox = combo("How the maps are written; both keep where they lie in the world of the scan.")
        self._format.setObjectName("map_format")
        for text, suffix in FORMATS:
            self._format.addItem(text, suffix)
        self._said = note_label("facts")
        self._said.setObjectName("files_said")
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 6, 0, 0)
        numbers = button("Save numbers…", "All numbers of levels and channels, as CSV or JSON.", self.numbers_clicked)
        plots = button("Save plots…", "The plots of the level that is shown, as PNG.", self.plots_clicked)
        maps = button("Save maps…", "Every map as a file of its own, in a new folder.", self._maps)
        for part in (numbers, plots, row("Maps as", self._format), maps, self._said):
            layout.addWidget(part)

    def say(self, text: str) -> None:
        """Show the status of an export."""
        say(self._said, text)

    def _maps(self) -> None:
        self.maps_clicked.emit(self._format.currentData())


COLUMNS = ("Level", "Ch.", "Removed", "Energy", "τ")
TOOLTIPS = (
    "Number, 0 for the finest, and voxels of the level. Click a row to show its maps and plots.",
    "Channels.",
    "Share of all activations of the skip connection that the gate sets to exactly 0.",
    "Share of the skip's energy (sum of squares) that does not pass: what is removed, damped or switched off.",
    "Median of the learned thresholds; activations whose field lies within ± τ are removed.",
)


class LevelsTable(QWidget):
    """Table of levels."""

    level_clicked = Signal(int)

    def __init__(self) -> None:
        super().__init__()
        self._levels: Sequence[LevelSummary] = ()
        self._title = note_label("facts")
        self._table = table("Numbers of each level", COLUMNS)
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
        for line, summary in enumerate(levels):
            for column, text in enumerate(_texts(summary)):
                self._table.setItem(line, column, cell(text, right=column > 0, tooltip=TOOLTIPS[column]))
        fit_height(self._table, 8 * self._table.verticalHeader().defaultSectionSize())
        self.mark(level)

    def mark(self, level: int) -> None:
        """Mark the level that is shown."""
        for line, summary in enumerate(self._levels):
            if summary.level == level:
                self._table.selectRow(line)


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
