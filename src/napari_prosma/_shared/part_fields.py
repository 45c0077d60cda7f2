"""Which part of a scan a model looks at, and along which axis a 2D model walks."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_prosma._shared.fields import combo, fill, note_label, row

PARTS = {"whole": "Whole scan", "view": "What the view shows", "slice": "Current slice"}


class PartFields(QWidget):
    """Two boxes, and the problem that the first may have.

    Parameters
    ----------
    tooltip : str
        Of the first box.
    """

    part_chosen = Signal(str)
    slice_axis_chosen = Signal(str)

    def __init__(self, tooltip: str) -> None:
        super().__init__()
        self.problem = note_label("problem")
        self._part = combo(tooltip)
        self._part.setObjectName("part")
        for part, text in PARTS.items():
            self._part.addItem(text, part)
        self._part.activated.connect(lambda _: self.part_chosen.emit(self._part.currentData()))
        self._slice_axis = combo("The axis along which a 2D model walks through the scan.")
        self._slice_axis.setObjectName("slice_axis")
        self._slice_axis.activated.connect(lambda _: self.slice_axis_chosen.emit(self._slice_axis.currentData()))
        self._slice_row = row("Slices along", self._slice_axis)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for widget in (row("Part", self._part), self.problem, self._slice_row):
            layout.addWidget(widget)

    def show_part(self, part: str, axes: Sequence[tuple[str, str]], slice_axis: str | None) -> None:
        """Show a choice; `axes` are those a 2D model may walk along, empty where none are needed."""
        self._part.setCurrentIndex(self._part.findData(part))
        fill(self._slice_axis, axes, slice_axis or "")
        self._slice_row.setVisible(bool(axes))
