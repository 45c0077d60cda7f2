"""Sliders and switches of what-if: edits of each level, and what they change in the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qtpy.QtCore import QSize, Qt, QTimer, Signal
from qtpy.QtWidgets import QCheckBox, QComboBox, QGridLayout, QLabel, QSlider, QVBoxLayout, QWidget

from napari_prosma.gates.state import GateEdits
from napari_prosma.gates.what_if import changes_beside
from napari_prosma.widgets.fields import (
    SMALL,
    PlainLabel,
    button,
    call_it,
    cell,
    combo,
    fill,
    note_label,
    row,
    say,
    tab_after,
    table,
)
from prosma_core.config.inspection import VariantResult
from prosma_core.config.model import ClassInfo
from prosma_core.printable import plain

CLASS_COLUMNS = ("Class", "Added", "Lost", "Dice", "Reference")
CLASS_TOOLTIPS = (
    "Class.",
    "Voxels of this class now that were background.",
    "Voxels that are background now and were of this class.",
    "Dice of the changed result with the present one: 1 where nothing changed.",
    "Dice with the reference labels, before and after the change.",
)


class WhatIfPanel(QWidget):
    """Sliders and boxes, and the answer: a sentence and a table of classes.

    Attributes
    ----------
    answer : QWidget
        Both; `answered` comes when it is to be looked at.
    """

    state_chosen = Signal(int, str)
    threshold_chosen = Signal(int, float)
    channel_gate_toggled = Signal(bool)
    channel_state_chosen = Signal(str)
    truth_chosen = Signal(object)
    reset_clicked = Signal()
    answered = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.problem = note_label("problem")
        self._edits = LevelEdits()
        self._edits.state_chosen.connect(self.state_chosen)
        self._edits.threshold_chosen.connect(self.threshold_chosen)
        self._edits.released.connect(self.reveal_answer)
        self._channel_gate = QCheckBox("Channel gate")
        self._channel_gate.setObjectName("channel_gate")
        self._channel_gate.setToolTip("Whether the decoder may damp whole channels of this level.")
        self._channel_gate.clicked.connect(self.channel_gate_toggled)
        self._channel = combo("What becomes of the one channel that the slider of the viewer stands at.")
        self._channel.setObjectName("channel_state")
        self._channel.addItems(STATES)
        self._channel.textActivated.connect(self.channel_state_chosen)
        self._channel_row = row("Channel", self._channel)
        self._truth = combo("Labels to compare with: they tell whether a change makes the result better or worse.")
        self._truth.setObjectName("truth")
        self._truth.activated.connect(lambda _: self.truth_chosen.emit(self._truth.currentData()))
        self._said = note_label("facts")
        self._said.setObjectName("whatif_said")
        self._classes = table("What the change does to each class", CLASS_COLUMNS)
        self._classes.setObjectName("whatif_classes")
        for column, text in enumerate(CLASS_TOOLTIPS):
            self._classes.horizontalHeaderItem(column).setToolTip(plain(text))
        self._reset = button(
            "Reset", "All gates back to their learned state; the changed result is removed.", self.reset_clicked
        )
        self._reset.setObjectName("reset")
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 6, 0, 0)
        for part in (self._edits, self._channel_gate, self._channel_row, row("Reference", self._truth), self.problem):
            layout.addWidget(part)
        self.answer = QWidget()
        self.answer.setObjectName("whatif_answer")
        below = QVBoxLayout(self.answer)
        below.setContentsMargins(0, 0, 0, 0)
        for part in (self._said, self._classes):
            below.addWidget(part)
        for part in (self._reset, self.answer):
            layout.addWidget(part)
        self._classes.setStyleSheet(SMALL)
        self._classes.setIconSize(QSize(8, 8))  # names need the room
        self.forget_changes()

    # --- Setters ----------------------------------------------------------------------------------------------------

    def make_rows(self, levels: Sequence[int], *, thresholds: bool) -> None:
        """Make a row of edits for each level."""
        self._edits.make_rows(levels, thresholds=thresholds)

    def show_edits(self, edits: GateEdits, level: int, channel: int, *, channel_gate: bool) -> None:
        """Show the edits; those of single channels and of the channel gate are of the shown level.

        Parameters
        ----------
        edits : GateEdits
        level, channel : int
        channel_gate : bool
            Whether the model has one.
        """
        self._edits.show_edits(edits)
        self._channel_gate.setText(f"Channel gate of level {level}")
        self._channel_gate.setVisible(channel_gate)
        self._channel_gate.setChecked(edits.of(level).channel_gate)
        self._channel_row.findChild(QLabel).setText(f"Channel {channel}")
        self._channel.setCurrentText(edits.channel(level, channel))
        self._reset.setEnabled(bool(edits.levels))

    def show_truths(self, layers: Sequence[tuple[str, Any]], current: Any, problem: str) -> None:
        """Labels layers to compare with, as (name, layer), the one chosen, and why it cannot be used."""
        fill(self._truth, [("none", None), *layers], current)
        say(self.problem, problem)

    def say(self, text: str) -> None:
        """A line over the numbers, such as what is computed."""
        say(self._said, text)

    def show_changes(self, text: str, result: VariantResult, classes: Sequence[ClassInfo]) -> None:
        """Show the effect of edits, class by class, with the colors of the layer of changes."""
        self.say(text)
        drawn = {column: info.color for column, info in enumerate(changes_beside(classes)) if column in (1, 2)}
        colors = {c.name: c.color for c in classes}
        compared = any(c.truth_before is not None for c in result.classes)
        self._classes.setColumnHidden(4, not compared)
        self._classes.setRowCount(len(result.classes))
        tips = [self._classes.horizontalHeaderItem(column).toolTip() for column in range(len(CLASS_COLUMNS))]
        for place, change in enumerate(result.classes):
            truth = _before_after(change.truth_before, change.truth_after)
            self._classes.setItem(place, 0, cell(change.name, color=colors.get(change.name, ""), tooltip=change.name))
            texts = (f"{change.turned_on:,}", f"{change.turned_off:,}", f"{change.dice:.3f}", truth)
            for column, text_ in enumerate(texts, 1):
                made = cell(text_, right=True, color=drawn.get(column, ""), tooltip=tips[column])
                self._classes.setItem(place, column, made)
        self._classes.fit_height(6 * self._classes.verticalHeader().defaultSectionSize())
        self._classes.setEnabled(True)
        self._classes.setVisible(True)

    def reveal_answer(self) -> None:
        """Have the answer looked at, if there is one; it is below the edits, which stay while a slider is held."""
        if self._said.text() and not self._edits.held:
            self.answered.emit()

    def dim_changes(self) -> None:
        """Show the numbers as those of edits before."""
        self._classes.setEnabled(False)

    def forget_changes(self) -> None:
        """Clear the numbers of the edits."""
        self.say("")
        self._classes.setVisible(False)


def _before_after(before: float | None, after: float | None) -> str:
    return "–" if before is None or after is None else f"{before:.2f} → {after:.2f}"


REST = 150
"""Milliseconds after which a slider is taken to rest."""
STEPS = 20
"""Steps of a slider from one whole factor to the next."""
FOUR = 4
"""Largest factor."""
STATES = ("learned", "open", "closed")


@dataclass(frozen=True)
class _Row:
    level: int
    slider: QSlider
    factor: QLabel
    state: QComboBox


class LevelEdits(QWidget):
    """A box for each level and, below it, its slider, as wide as the dock; `threshold_chosen` comes when it rests."""

    threshold_chosen = Signal(int, float)
    released = Signal()
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
            slider.setAccessibleName(f"Threshold of level {level}")
            state = combo("learned: as trained. open: the skip passes unchanged. closed: nothing passes.")
            state.setObjectName(f"state_{level}")
            state.addItems(STATES)
            call_it(state, f"Gate of level {level}")
            row = _Row(level, slider, factor, state)
            slider.sliderReleased.connect(self.released)
            slider.valueChanged.connect(lambda _, row=row: self._slid(row))
            state.textActivated.connect(lambda text, level=level: self.state_chosen.emit(level, text))
            factor.setMinimumWidth(factor.sizeHint().width())
            self._layout.addWidget(name, 2 * place, 0)
            self._layout.addWidget(state, 2 * place, 1, 1, 2)
            self._layout.addWidget(slider, 2 * place + 1, 0, 1, 2)
            self._layout.addWidget(factor, 2 * place + 1, 2)
            slider.setVisible(thresholds)
            factor.setVisible(thresholds)
            self._rows.append(row)
        tab_after(self, (part for row in self._rows for part in (row.state, row.slider)))

    def show_edits(self, edits: GateEdits) -> None:
        """Show these changes; no signal is sent."""
        self._timer.stop()
        for level in self._rows:
            edit = edits.of(level.level)
            level.slider.blockSignals(True)
            level.slider.setValue(round(edit.threshold * STEPS))
            level.slider.blockSignals(False)
            level.factor.setText(f"×{edit.threshold:.2f}")
            level.state.setCurrentText(edit.state)

    @property
    def held(self) -> bool:
        """Whether a slider is held by the mouse."""
        return any(row.slider.isSliderDown() for row in self._rows)

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
