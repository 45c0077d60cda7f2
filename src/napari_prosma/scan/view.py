"""Fields for image, axes, level, model and region, shared by Segment and Gates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QLineEdit, QVBoxLayout, QWidget

from napari_prosma.widgets.fields import BROWSE, combo, fill, note_label, row, say
from napari_prosma.widgets.job_view import JobView


class ScanView(JobView):
    """Base view with fields for scan and model: signals out, setters in, no decisions."""

    image_chosen = Signal(object)
    axes_chosen = Signal(str)
    level_chosen = Signal(int)
    size_chosen = Signal(str)
    model_chosen = Signal(object)
    browse_clicked = Signal()

    # --- Building ---------------------------------------------------------------------------------------------------

    def _add_image(self, tooltip: str) -> None:
        self._image = combo(tooltip)
        self._image.activated.connect(lambda _: self.image_chosen.emit(self._image.currentData()))
        self._axes = combo("What each axis of the layer is, one letter each: t time, c channel, z y x space.")
        self._axes.setEditable(True)
        self._axes.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
        self._axes.activated.connect(lambda _: self.axes_chosen.emit(self._axes.currentText()))
        self._axes.lineEdit().editingFinished.connect(lambda: self.axes_chosen.emit(self._axes.currentText()))
        self._image_facts = note_label("facts")
        self._level = combo("Resolution level of a multiscale layer; 0 is the finest.")
        self._level.activated.connect(self.level_chosen)
        self._level_row = row("Level", self._level)
        self._add(row("Image", self._image), self._problems["image"], row("Axes", self._axes), self._level_row)
        self._add(self._problems["axes"], self._image_facts)
        self._size = QLineEdit()
        self._size.setPlaceholderText("unknown: z, y, x mm")
        self._size.setToolTip(
            "Size of a voxel along z, y and x with its unit, such as 3, 1, 1 mm: the layer states none. Empty: that "
            "of the model's training scans is assumed."
        )
        self._size.editingFinished.connect(lambda: self.size_chosen.emit(self._size.text().strip()))
        self._size_row = row("Voxel size", self._size)
        self._size_row.setVisible(False)
        self._add(self._size_row, self._problems["size"])
        self._locked += [self._image, self._axes, self._level, self._size]

    def _add_model(self) -> None:
        self._model = combo("Shipped models, your own, or a file.")
        self._model.setPlaceholderText("No model chosen")
        self._model.activated.connect(self._model_activated)
        self._model_facts = note_label("facts")
        self._fit = note_label("facts")
        self._fit_warning = note_label("warning")
        self._add(row("Model", self._model), self._problems["model"], self._model_facts, self._fit, self._fit_warning)
        self._locked.append(self._model)

    def _scan_parts(self) -> dict[str, QWidget]:
        """The fields by the object names they get."""
        return {
            "image": self._image,
            "axes": self._axes,
            "image_facts": self._image_facts,
            "level": self._level,
            "size": self._size,
            "model": self._model,
            "model_facts": self._model_facts,
            "fit": self._fit,
            "fit_warning": self._fit_warning,
        }

    def _model_activated(self, index: int) -> None:
        if index == self._model.count() - 1:  # a model may have its name
            self.browse_clicked.emit()
        else:
            self.model_chosen.emit(self._model.itemData(index))

    # --- Setters ----------------------------------------------------------------------------------------------------

    def show_images(self, layers: Sequence[tuple[str, Any]], current: Any) -> None:
        """Layers to choose from, as (name, layer or layers), and the one chosen."""
        fill(self._image, layers, current)
        self._image.setEnabled(bool(layers) and not self.running)

    def show_axes(self, axes: str, readings: Sequence[str], facts: str) -> None:
        """How the axes are read, other plausible readings, and what follows from it."""
        fill(self._axes, [(reading, reading) for reading in readings], axes)
        self._axes.setEditText(axes)
        self._axes.setEnabled(bool(axes) and not self.running)
        say(self._image_facts, facts)

    def show_levels(self, shapes: Sequence[tuple[int, ...]], level: int) -> None:
        """Levels of a multiscale layer; hidden for others."""
        names = [f"{i}: {' × '.join(map(str, shape))}" for i, shape in enumerate(shapes)]
        fill(self._level, [(name, i) for i, name in enumerate(names)], level)
        self._level_row.setVisible(len(shapes) > 1)

    def show_size(self, size: str, *, asked: bool) -> None:
        """The voxel size a user gave; the field is hidden where none is needed."""
        if not self._size.hasFocus():
            self._size.setText(size)
        self._size_row.setVisible(asked)

    def show_models(self, models: Sequence[tuple[str, Any]], current: Any, facts: str) -> None:
        """Models as (name, entry), the one chosen and its facts."""
        fill(self._model, models, current)
        self._model.insertSeparator(self._model.count())
        self._model.addItem(BROWSE)
        say(self._model_facts, facts)

    def show_fit(self, text: str, warning: str) -> None:
        """Whether the chosen model was trained on scans like this one; a warning where it was not."""
        say(self._fit, text)
        say(self._fit_warning, warning)


PARTS = {"whole": "Whole scan", "view": "What the view shows", "slice": "Current slice"}


class PartFields(QWidget):
    """Fields for the part of the scan and the slice axis.

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
