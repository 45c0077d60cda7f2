"""Table of levels, and below it plots, a voxel, what-if and export, a tab each."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QAbstractItemView, QComboBox, QTabWidget, QVBoxLayout, QWidget

from napari_prosma.gates.plots import GatePlots
from napari_prosma.gates.voxel_panel import VoxelPanel
from napari_prosma.gates.what_if_panel import WhatIfPanel
from napari_prosma.widgets.fields import button, cell, combo, fit_height, note_label, row, say, table
from prosma_core.config.inspection import LevelSummary
from prosma_core.printable import plain

FORMATS = (("NIfTI (.nii.gz)", ".nii.gz"), ("zarr (.zarr)", ".zarr"))


class ResultPanel(QWidget):
    """Hidden until something was found."""

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
        remove = button("Remove maps", "Take all layers of this look out of the viewer.", self.remove_clicked)
        remove.setObjectName("remove")
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 8, 0, 0)
        for widget in (self.levels, self._tabs, remove):
            layout.addWidget(widget)
        self.setVisible(False)

    def show_tabs(self, *, gates: bool) -> None:
        """Show the tabs where there are gates to look at."""
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
    """Buttons that write files, and what became of it."""

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
        """What is being written, or where it is."""
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
