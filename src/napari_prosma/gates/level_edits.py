"""A row for each level in which its gate is changed: threshold and state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qtpy.QtCore import Qt, QTimer, Signal
from qtpy.QtWidgets import QComboBox, QGridLayout, QLabel, QSizePolicy, QSlider, QWidget

from napari_prosma._shared.fields import PlainLabel, combo
from napari_prosma.gates.edits import GateEdits

REST = 150
"""Milliseconds after which a slider is taken to rest."""
STEPS = 20
"""Steps of a slider from one whole factor to the next."""
FOUR = 4
"""Largest factor."""
BOX = 92
"""Greatest width of a box: the slider gets the rest."""
STATES = ("learned", "open", "closed")


@dataclass(frozen=True)
class _Row:
    level: int
    slider: QSlider
    factor: QLabel
    state: QComboBox


class LevelEdits(QWidget):
    """Slider and box of each level; `threshold_chosen` comes when a slider rests."""

    threshold_chosen = Signal(int, float)
    state_chosen = Signal(int, str)

    def __init__(self) -> None:
        super().__init__()
        self._rows: list[_Row] = []
        self._moved: _Row | None = None
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(REST)
        self._timer.timeout.connect(self._rested)
        self._layout = QGridLayout(self)
        self._layout.setContentsMargins(0, 0, 0, 0)
        self._layout.setHorizontalSpacing(5)
        self._layout.setColumnStretch(1, 1)

    def make_rows(self, levels: Sequence[int], *, thresholds: bool) -> None:
        """A row for each of these levels; without sliders where the gate has no thresholds."""
        self._timer.stop()
        self._rows = []
        while self._layout.count():
            old = self._layout.takeAt(0).widget()
            old.setParent(None)
            old.deleteLater()
        for place, level in enumerate(levels):
            name, factor = PlainLabel(f"Level {level}"), PlainLabel("×1.00")
            slider = QSlider(Qt.Orientation.Horizontal)
            slider.setObjectName(f"threshold_{level}")
            slider.setRange(0, FOUR * STEPS)
            slider.setPageStep(STEPS // 2)
            slider.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
            slider.setToolTip("The learned thresholds of this level times this: 0 removes nothing, 4 nearly all.")
            state = combo("learned: as trained. open: the skip passes unchanged. closed: nothing passes.")
            state.setObjectName(f"state_{level}")
            state.setSizePolicy(QSizePolicy.Policy.Maximum, QSizePolicy.Policy.Fixed)
            state.setMinimumContentsLength(5)
            state.setMaximumWidth(BOX)
            state.addItems(STATES)
            row = _Row(level, slider, factor, state)
            slider.valueChanged.connect(lambda _, row=row: self._slid(row))
            state.textActivated.connect(lambda text, level=level: self.state_chosen.emit(level, text))
            factor.setMinimumWidth(factor.sizeHint().width())
            for column, widget in enumerate((name, slider, factor, state)):
                self._layout.addWidget(widget, place, column)
            slider.setVisible(thresholds)
            factor.setVisible(thresholds)
            self._rows.append(row)

    def show_edits(self, edits: GateEdits) -> None:
        """Show these changes; no signal is sent."""
        self._timer.stop()
        for row in self._rows:
            edit = edits.of(row.level)
            row.slider.blockSignals(True)
            row.slider.setValue(round(edit.threshold * STEPS))
            row.slider.blockSignals(False)
            row.factor.setText(f"×{edit.threshold:.2f}")
            row.state.setCurrentText(edit.state)

    def _slid(self, row: _Row) -> None:
        row.factor.setText(f"×{row.slider.value() / STEPS:.2f}")
        if self._moved is not None and self._moved is not row and self._timer.isActive():
            self._rested()
        self._moved = row
        self._timer.start()

    def _rested(self) -> None:
        self._timer.stop()
        row, self._moved = self._moved, None
        if row is not None and row in self._rows:
            self.threshold_chosen.emit(row.level, row.slider.value() / STEPS)
