"""The folded part of the Train widget: settings of the training loop."""

from __future__ import annotations

from qtpy.QtCore import Signal

from napari_prosma._shared.config_form import ConfigForm
from napari_prosma._shared.fields import Fold, button, note_label
from prosma_core.config.training import TrainingConfig

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
