"""What was found: the table of levels, and below it plots, a voxel, what-ifs and files, a tab each."""

from __future__ import annotations

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QTabWidget, QVBoxLayout, QWidget

from napari_prosma._shared.fields import button, combo, note_label, row, say
from napari_prosma.gates.levels_table import LevelsTable
from napari_prosma.gates.plots import GatePlots
from napari_prosma.gates.voxel_panel import VoxelPanel
from napari_prosma.gates.whatif_panel import WhatIfPanel

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
