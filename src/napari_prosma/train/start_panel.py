"""Start model, preset and time, and the advanced settings of a training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QAbstractSpinBox, QDoubleSpinBox, QSpinBox, QVBoxLayout, QWidget

from napari_prosma.widgets.config_form import ConfigForm
from napari_prosma.widgets.fields import BROWSE, Fold, button, combo, fill, note_label, row, say
from prosma_core.config.training import Preset, TrainingConfig
from prosma_core.printable import plain

BUDGETS = {"preset": "Preset default", "epochs": "Epochs", "minutes": "Minutes"}
FIRST_EPOCHS, FIRST_MINUTES = 20, 10.0
"""What the boxes hold before a person writes into them."""
ESTIMATE = "Read the pairs and time a few steps on this device. Nothing is written."


class StartPanel(QWidget):
    """Start model, preset and budget; `inputs` are what changes them."""

    start_chosen = Signal(object)
    browse_clicked = Signal()
    preset_chosen = Signal(str)
    budget_chosen = Signal(object)
    estimate_clicked = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.problems = {"start": note_label("problem"), "budget": note_label("problem")}
        self._start = combo("A new network, or a model that goes on learning (fine-tuning), also with other classes.")
        self._start.activated.connect(self._start_activated)
        self._facts = note_label("facts")
        self._preset = combo("How large the network and how long the training is.")
        self._preset.activated.connect(lambda _: self.preset_chosen.emit(self._preset.currentData()))
        self._times = note_label("facts")
        self._estimate = button("Estimate the time", ESTIMATE, self.estimate_clicked)
        self._budget = combo("When training ends. It can be stopped at any time, and goes on later.")
        self._budget.setMinimumContentsLength(2)  # a number stands beside it
        for kind, text in BUDGETS.items():
            self._budget.addItem(text, kind)
        self._budget.activated.connect(self._budget_edited)
        self._epochs = QSpinBox()
        self._epochs.setRange(1, 100_000)
        self._epochs.setValue(FIRST_EPOCHS)
        self._minutes = QDoubleSpinBox()
        self._minutes.setRange(0.1, 100_000)
        self._minutes.setDecimals(1)
        self._minutes.setSingleStep(5)
        self._minutes.setValue(FIRST_MINUTES)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for part in (row("Start from", self._start), self.problems["start"], self._facts):
            layout.addWidget(part)
        layout.addWidget(row("Preset", self._preset))
        layout.addWidget(self._times)
        layout.addWidget(row("Budget", self._budget, self._epochs, self._minutes))
        layout.addWidget(self.problems["budget"])
        layout.addWidget(self._estimate)
        for box in (self._epochs, self._minutes):
            box.setKeyboardTracking(False)
            box.setButtonSymbols(QAbstractSpinBox.ButtonSymbols.NoButtons)
            box.setFixedWidth(60)
            box.valueChanged.connect(self._budget_edited)
        self.inputs = (self._start, self._preset, self._estimate, self._budget, self._epochs, self._minutes)
        parts = {"start": self._start, "start_facts": self._facts, "preset": self._preset, "estimate": self._estimate}
        parts |= {"times": self._times}
        parts |= {"budget": self._budget, "epochs": self._epochs, "minutes": self._minutes}
        for name, widget in parts.items():
            widget.setObjectName(name)
        self.show_budget(None, None)

    def show_starts(self, items: Sequence[tuple[str, Any]], current: Any, facts: str) -> None:
        """What to start from, as (words, 2 | 3 | model); the one chosen and what it means."""
        fill(self._start, items, current)
        self._start.insertSeparator(self._start.count())
        self._start.addItem(BROWSE)
        say(self._facts, facts)

    def show_preset(self, current: str, times: str) -> None:
        """The preset chosen, and how long each takes, in words."""
        fill(self._preset, [(name, name) for name in get_args(Preset)], current)
        say(self._times, times)

    def show_estimate(self, reason: str) -> None:
        """Whether the time can be estimated: a reason why not, or empty."""
        self._estimate.setEnabled(not reason)
        self._estimate.setToolTip(plain(reason or ESTIMATE))

    def show_budget(self, epochs: int | None, minutes: float | None) -> None:
        """How long training may take; both None: as the preset says."""
        kind = "epochs" if epochs is not None else "minutes" if minutes is not None else "preset"
        self._budget.setCurrentIndex(self._budget.findData(kind))
        boxes: Sequence[tuple[Any, float | None]] = ((self._epochs, epochs), (self._minutes, minutes))
        for box, value in boxes:
            box.setVisible(value is not None)
            if value is not None:
                box.blockSignals(True)
                box.setValue(value)
                box.blockSignals(False)

    def _start_activated(self, index: int) -> None:
        if index == self._start.count() - 1:  # a model may have its name
            self.browse_clicked.emit()
        else:
            self.start_chosen.emit(self._start.itemData(index))

    def _budget_edited(self) -> None:
        kind = self._budget.currentData()
        budget = (
            self._epochs.value() if kind == "epochs" else None,
            self._minutes.value() if kind == "minutes" else None,
        )
        self.show_budget(*budget)
        self.budget_chosen.emit(budget)


OPTIONS = {
    "steps": "Steps per epoch",
    "batch_size": "Patches per step",
    "learning_rate": "Learning rate",
    "optimizer": "Optimizer",
    "weight_decay": "Weight decay",
    "foreground": "Foreground share",
    "deep_supervision": "Deep supervision",
    "removed_target": "Removed share",
    "patience": "Patience (epochs)",
    "validation_every": "Validate every",
    "validation_cases": "Validation cases",
    "keep": "Keep",
    "seed": "Seed",
}
NONE = {"batch_size": "planned", "removed_target": "learned", "patience": "off"}


class TrainAdvanced(Fold):
    """Settings of training that a preset decides otherwise."""

    options_changed = Signal(object)
    defaults_clicked = Signal()

    def __init__(self) -> None:
        super().__init__("Advanced")
        self.problem = note_label("problem")
        self._form = ConfigForm(TrainingConfig, OPTIONS, NONE)
        self._form.changed.connect(self.options_changed.emit)
        defaults = button("Restore defaults", "All advanced settings as the preset has them.", self.defaults_clicked)
        defaults.setObjectName("advanced_defaults")
        self.add(self.problem, self._form.native, defaults)

    def show_options(self, options: TrainingConfig) -> None:
        """Show settings; those that have no field here are kept as they are."""
        self._form.set(options)
