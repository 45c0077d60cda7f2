"""Result panel: sentence and table of the ranking, box of maps, and tabs for plots, voxel, what-if and export."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qtpy.QtCore import QAbstractTableModel, QModelIndex, QSignalBlocker, Qt, Signal
from qtpy.QtGui import QColor
from qtpy.QtWidgets import (
    QAbstractItemView,
    QApplication,
    QComboBox,
    QHBoxLayout,
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
from napari_prosma.gates.ranking import LevelEffect, tell_classes
from napari_prosma.gates.what_if_panel import WhatIfPanel
from napari_prosma.widgets.fields import (
    SMALL,
    button,
    call_it,
    cell,
    combo,
    fill,
    note_label,
    row,
    say,
    say_word,
    table,
)
from prosma_core.config.inspection import LevelSummary
from prosma_core.printable import plain

CHANNEL = "Ch."
"""Head of the channels' numbers: the numbers beside them need the room."""
WIDE = 9.995
"""Value from which on three digits are shown: more would be cut off."""
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
            "While it is pressed, a click in the viewer picks a voxel. Dragging moves the view as ever, and "
            "tools such as the brush are left alone: choose the pan tool of the selected layer to pick."
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
        self._table.setTabKeyNavigation(False)
        self._table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self._table.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Stretch)
        self._table.horizontalHeader().setMinimumSectionSize(24)
        self._table.setStyleSheet(SMALL)
        self._table.setVerticalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        row = 22
        self._table.verticalHeader().setDefaultSectionSize(row)
        self._table.setFixedHeight((ROWS + 1) * row)
        call_it(
            self._table, "Channels at the voxel", "A row for each channel. Click one, or press Enter, to show its map."
        )
        for chosen in (self._table.clicked, self._table.activated):
            chosen.connect(lambda index: self.channel_clicked.emit(self._model.channel(index.row())))
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 6, 0, 0)
        for part in (self._probe, self._said, self._table, self._others):
            layout.addWidget(part)
        self.show_hint("")

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
        for column in (0, self._model.columnCount() - 1):  # with the longest headings
            self._table.horizontalHeader().setSectionResizeMode(column, QHeaderView.ResizeMode.ResizeToContents)
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
        self._heads = [CHANNEL, *rows.columns, *([] if rows.kept is None else ["Kept"])]
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
        if head == "Kept" and rows.kept is not None:
            kept = bool(rows.kept[index.row()])
            if role == Qt.ItemDataRole.DecorationRole:
                return QColor(KEPT if kept else REMOVED)
            if role == Qt.ItemDataRole.ToolTipRole:
                return "kept" if kept else "removed"
            return None
        if role not in {Qt.ItemDataRole.DisplayRole, Qt.ItemDataRole.ToolTipRole}:
            return None
        if head == CHANNEL:
            return str(rows.channels[index.row()])
        value = rows.columns[head][index.row()]
        if role == Qt.ItemDataRole.ToolTipRole:
            return f"{value:.5g}"
        return f"{value:.2f}" if abs(value) < WIDE else f"{value:.3g}"


def _meaning(head: str) -> str:
    """What a column holds."""
    meanings = {
        CHANNEL: "Channel.",
        "z": "Combined field: the sum over the dilations.",
        "τ": "Learned threshold of the channel.",
        "a": "Weight of the gate, 0 to 1.",
        "Kept": "Blue: kept. Orange: removed, exactly 0 goes to the decoder.",
    }
    return meanings.get(head, f"Field of the convolution with dilation {head[1:]}.")


FORMATS = (("NIfTI (.nii.gz)", ".nii.gz"), ("zarr (.zarr)", ".zarr"))


class GatesResultPanel(QWidget):
    """Result of an inspection; hidden until there is one."""

    remove_clicked = Signal()
    ranking_clicked = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.levels, self.maps, self.plots = LevelsTable(), MapBox(), GatePlots()
        self.voxel, self.what_if, self.files = VoxelPanel(), WhatIfPanel(), FilesPanel()
        self._tabs = _Tabs()
        self._tabs.setObjectName("tabs")
        parts = (("Plots", self.plots), ("Voxel", self.voxel), ("What if", self.what_if), ("Export", self.files))
        for text, part in parts:
            self._tabs.add(part, text)
        self._ranking = button("Rank levels", "Which level decides, again.", self.ranking_clicked)
        self._ranking.setObjectName("ranking")
        remove = button(
            "Remove inspection",
            "Remove all layers of this inspection from the viewer, and its numbers, ranking and what-ifs.",
            self.remove_clicked,
        )
        remove.setObjectName("remove")
        buttons = QHBoxLayout()
        buttons.addWidget(self._ranking)
        buttons.addWidget(remove)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 8, 0, 0)
        layout.addWidget(self.levels)
        layout.addLayout(buttons)
        layout.addWidget(self.maps)
        layout.addWidget(self._tabs, 1)
        self.setVisible(False)

    def show_unit(self, unit: str) -> None:
        """What one place of the inspected scan is called: voxel, or of a picture pixel."""
        at = self._tabs.place(self.voxel)
        self._tabs.setTabText(at, unit.capitalize())
        for part in (self.voxel, self.what_if):
            say_word(part, unit)

    def show_ranking_button(self, text: str, *, enabled: bool, tooltip: str) -> None:
        """The button that ranks the levels, and stops that."""
        self._ranking.setText(text)
        self._ranking.setEnabled(enabled)
        self._ranking.setToolTip(plain(tooltip))

    def lock_what_if(self, locked: bool) -> None:
        """Lock the edits of the gates."""
        self.what_if.setEnabled(not locked)

    def open_tab(self, text: str) -> None:
        """Bring a tab to the front."""
        names = [self._tabs.tabText(i) for i in range(self._tabs.count())]
        self._tabs.setCurrentIndex(names.index(text))


class MapBox(QWidget):
    """Box of the kinds of maps."""

    map_chosen = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self._box = combo("What the map on the scan shows of the level that is marked above.")
        self._box.setObjectName("map")
        self._box.activated.connect(lambda _: self.map_chosen.emit(self._box.currentData()))
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(row("Map", self._box))

    def show_maps(self, kinds: Sequence[str], kind: str) -> None:
        """Show kinds of maps, and which is shown."""
        fill(self._box, [(text[:1].upper() + text[1:], text) for text in kinds], kind)


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

    def place(self, part: QWidget) -> int:
        """Number of the tab of a part."""
        return self._parts.index(part)

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


COLUMNS = ("Level", "Dice", "Removed", "Noise", "Flipped")
TOOLTIPS = (
    "Number of the level, 0 for the finest. Click a row, or use the arrow keys, to show its map and plots.",
    "Dice with the present result when the gate of this level is forced open: lowest of all classes. The lower, the "
    "more the result owes to this gate.",
    "Share of all activations of the skip connection that the gate sets to exactly 0.",
    "Noise gain: how much larger the relative change of the skip is behind the gate than in front of it, when noise is "
    "added to the scan. Above 1, the gate amplifies noise compared with the signal.",
    "Share of the kept values that have another sign behind the gate than in front of it.",
)
UNKNOWN = "–"
ALIKE = 0.05
"""Distance of a noise gain from 1 up to which noise and signal are taken to pass alike."""


class LevelsTable(QWidget):
    """Sentence on which level decides, the table of levels, and all numbers of the level that is marked."""

    level_clicked = Signal(int)

    def __init__(self) -> None:
        super().__init__()
        self._levels: list[LevelSummary] = []
        self._effects: dict[int, LevelEffect] = {}
        self._marked, self._unit = 0, "voxel"
        self._headline, self._title, self._facts = note_label("facts"), note_label("facts"), note_label("facts")
        for label, name in ((self._headline, "headline"), (self._title, "inspected"), (self._facts, "level_facts")):
            label.setObjectName(name)
        font = self._headline.font()
        font.setBold(True)
        self._headline.setFont(font)
        self._table = table("Numbers of each level", COLUMNS)
        self._table.setObjectName("levels_table")
        self._table.setStyleSheet(SMALL)
        self._table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self._table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        for column, text in enumerate(TOOLTIPS):
            self._table.horizontalHeaderItem(column).setToolTip(plain(text))
        self._table.cellClicked.connect(lambda row, _: self.level_clicked.emit(self._levels[row].level))
        self._table.currentCellChanged.connect(self._moved)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for part in (self._headline, self._title, self._table, self._facts):
            layout.addWidget(part)

    def show_levels(self, title: str, levels: Sequence[LevelSummary], level: int) -> None:
        """Show these levels; `level` is the one whose map and plots are shown."""
        self._levels, self._effects = list(levels), {}
        say(self._title, title)
        self._table.setVisible(bool(levels))
        self._fill()
        self.mark(level)

    def show_headline(self, text: str) -> None:
        """Show which level decides, or why that is not known."""
        say(self._headline, text)

    def show_ranking(self, ranked: Sequence[LevelEffect], unit: str) -> None:
        """Order the levels by what the result owes to their gates."""
        self._effects = {effect.level: effect for effect in ranked}
        order = list(self._effects)
        self._levels.sort(key=lambda summary: order.index(summary.level))
        self._unit = unit
        self._fill()
        self.mark(self._marked)

    def forget_ranking(self) -> None:
        """Finest level first, and no effects."""
        self._effects = {}
        self._levels.sort(key=lambda summary: summary.level)
        self._fill()
        self.mark(self._marked)

    def mark(self, level: int) -> None:
        """Mark the level that is shown, and say all of its numbers."""
        self._marked = level
        for line, summary in enumerate(self._levels):
            if summary.level == level:
                with QSignalBlocker(self._table):
                    self._table.selectRow(line)
                say(self._facts, _facts(summary, self._effects.get(level), self._unit))
        self._facts.setVisible(bool(self._levels))

    def _moved(self, row: int, _column: int, before: int, _column_before: int) -> None:
        """Show the level of the row that a key led to; what a mouse button leads to is a click."""
        if row != before and 0 <= row < len(self._levels) and not QApplication.mouseButtons():
            self.level_clicked.emit(self._levels[row].level)

    def _fill(self) -> None:
        with QSignalBlocker(self._table):
            self._table.setRowCount(len(self._levels))
        for line, summary in enumerate(self._levels):
            effect = self._effects.get(summary.level)
            for column, text in enumerate(_texts(summary, effect)):
                tooltip = tell_classes(effect, self._unit) if effect is not None and column == 1 else TOOLTIPS[column]
                self._table.setItem(line, column, cell(text, right=column > 0, tooltip=tooltip))
        self._table.fit_height(8 * self._table.verticalHeader().defaultSectionSize())


def _texts(summary: LevelSummary, effect: LevelEffect | None) -> tuple[str, ...]:
    return (
        str(summary.level),
        UNKNOWN if effect is None else f"{effect.dice:.3f}",
        _percent(summary.removed),
        UNKNOWN if summary.noise_gain is None else f"{summary.noise_gain:.2f}",
        _percent(summary.flipped),
    )


def _percent(share: float | None) -> str:
    return UNKNOWN if share is None else f"{100 * share:.0f} %"


def _facts(summary: LevelSummary, effect: LevelEffect | None, unit: str) -> str:
    """All numbers of a level in sentences."""
    grid = " × ".join(map(str, summary.shape))
    energy = f"{_percent(summary.energy)} of the energy removed"
    said = [f"Level {summary.level}: {grid}, {summary.channels} channels; {energy}"]
    if summary.threshold is not None:
        said.append(f", median threshold {summary.threshold:.2f}")
    said.append(".")
    if effect is not None:
        said.append(f" Without its gate, {_changed(effect.changed, unit)} class.")
    if summary.noise_gain is not None:
        said.append(f" Noise gain {summary.noise_gain:.2f}: {_gain(summary.noise_gain)}.")
    if summary.flipped is not None:
        said.append(f" {_percent(summary.flipped)} of the kept values change sign.")
    if summary.channel_gate_spread is not None:
        said.append(f" The channel gate varies by {summary.channel_gate_spread:.3f} between tiles.")
    elif summary.channel_gate:
        said.append(" The spread of the channel gate needs more than one tile.")
    return "".join(said)


def _changed(number: int, unit: str) -> str:
    return f"1 {unit} changes" if number == 1 else f"{number:,} {unit}s change"


def _gain(gain: float) -> str:
    """What a noise gain means."""
    if abs(gain - 1) < ALIKE:
        return "noise and signal pass alike"
    return f"the gate {'amplifies' if gain > 1 else 'dampens'} noise compared with the signal"
