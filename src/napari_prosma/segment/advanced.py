"""The folded part of the Segment widget."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QLineEdit

from napari_prosma._shared.config_form import ConfigForm
from napari_prosma._shared.fields import Fold, button, row
from napari_prosma._shared.part_fields import PartFields
from prosma_core.config.inference import InferenceConfig

OPTIONS = {
    "overlap": "Tile overlap",
    "mirror": "Average over mirrored copies",
    "probabilities": "Probability layer",
    "entropy": "Uncertainty layer (entropy)",
    "threshold": "Minimum probability",
    "min_size": "Minimum size (voxels)",
    "objects": "Separate objects",
    "keep_largest": "Keep largest piece per class",
    "fill_holes": "Fill holes",
}
NONE = {"threshold": "most likely class"}


class AdvancedPanel(Fold):
    """Part of the scan, options of the segmentation, name of the result."""

    options_changed = Signal(object)
    name_chosen = Signal(str)
    defaults_clicked = Signal()

    def __init__(self) -> None:
        super().__init__("Advanced")
        self.part = PartFields("Only this part of the scan gets labels. The model sees its surroundings as well.")
        self._form = ConfigForm(InferenceConfig, OPTIONS, NONE)
        self._form.changed.connect(self.options_changed.emit)
        self._name = QLineEdit()
        self._name.setToolTip("Name of the result layer.")
        self._name.editingFinished.connect(lambda: self.name_chosen.emit(self._name.text().strip()))
        defaults = button("Restore defaults", "All advanced settings as they were at first.", self.defaults_clicked)
        self.add(self.part, self._form.native, row("Result name", self._name), defaults)

    def show_options(self, options: InferenceConfig, part: str, axes: Sequence[tuple[str, str]], name: str) -> None:
        """Show settings; `axes` are those a 2D model may walk along, empty where none are needed."""
        self._form.set(options)
        self.part.show_part(part, axes, options.slice_axis)
        if not self._name.hasFocus():
            self._name.setText(name)

    def show_name_hint(self, name: str) -> None:
        """Name the result gets unless another is given."""
        self._name.setPlaceholderText(name)
