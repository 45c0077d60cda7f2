"""The folded part of the Segment widget."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QLineEdit

from napari_prosma._shared.config_form import ConfigForm
from napari_prosma._shared.fields import Fold, button, combo, fill, note_label, row
from prosma_core.config.inference import InferenceConfig

PARTS = {"whole": "Whole scan", "view": "What the view shows", "slice": "Current slice"}
OPTIONS = {
    "overlap": "Tile overlap",
    "mirror": "Average over mirrored copies",
    "probabilities": "Probability layer",
    "entropy": "Uncertainty layer (entropy)",
    "keep_largest": "Keep largest piece per class",
    "fill_holes": "Fill holes",
}


class AdvancedPanel(Fold):
    """Part of the scan, options of the segmentation, name of the result."""

    options_changed = Signal(object)
    part_chosen = Signal(str)
    slice_axis_chosen = Signal(str)
    name_chosen = Signal(str)
    defaults_clicked = Signal()

    def __init__(self) -> None:
        super().__init__("Advanced")
        self.problem = note_label("problem")
        self._form = ConfigForm(InferenceConfig, OPTIONS)
        self._form.changed.connect(self.options_changed.emit)
        self._part = combo("Only this part of the scan gets labels. The model sees its surroundings as well.")
        self._part.setObjectName("part")
        for part, text in PARTS.items():
            self._part.addItem(text, part)
        self._part.activated.connect(lambda _: self.part_chosen.emit(self._part.currentData()))
        self._slice_axis = combo("The axis along which a 2D model walks through the scan.")
        self._slice_axis.setObjectName("slice_axis")
        self._slice_axis.activated.connect(lambda _: self.slice_axis_chosen.emit(self._slice_axis.currentData()))
        self._slice_row = row("Slices along", self._slice_axis)
        self._name = QLineEdit()
        self._name.setToolTip("Name of the result layer.")
        self._name.editingFinished.connect(lambda: self.name_chosen.emit(self._name.text().strip()))
        defaults = button("Restore defaults", "All advanced settings as they were at first.", self.defaults_clicked)
        self.add(row("Part", self._part), self.problem, self._slice_row, self._form.native)
        self.add(row("Result name", self._name), defaults)

    def show_options(self, options: InferenceConfig, part: str, axes: Sequence[tuple[str, str]], name: str) -> None:
        """Show settings; `axes` are those a 2D model may walk along, empty where none are needed."""
        self._form.set(options)
        self._part.setCurrentIndex(self._part.findData(part))
        fill(self._slice_axis, axes, options.slice_axis or "")
        self._slice_row.setVisible(bool(axes))
        if not self._name.hasFocus():
            self._name.setText(name)

    def show_name_hint(self, name: str) -> None:
        """Name the result gets unless another is given."""
        self._name.setPlaceholderText(name)
