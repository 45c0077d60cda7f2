"""The Segment widget as a person sees it: signals out, setters in, no decisions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QComboBox,
    QFrame,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)
from superqt import QCollapsible

from napari_prosma._shared.config_form import ConfigForm
from napari_prosma._shared.progress_panel import ProgressPanel
from napari_prosma.segment.result_panel import ResultPanel
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
BROWSE = "Browse…"
WIDTH = 320
"""Least width: everything can be read, with a scroll bar, and a 13-inch screen has room for the canvas."""


class SegmentView(QWidget):
    """Picks, options, the Segment button, progress and result, from top to bottom."""

    image_chosen = Signal(object)
    axes_chosen = Signal(str)
    level_chosen = Signal(int)
    model_chosen = Signal(object)
    browse_clicked = Signal()
    device_chosen = Signal(str)
    options_changed = Signal(object)
    part_chosen = Signal(str)
    slice_axis_chosen = Signal(str)
    name_chosen = Signal(str)
    defaults_clicked = Signal()
    run_clicked = Signal()
    free_clicked = Signal()
    details_clicked = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._problems = {field: _note_label("problem") for field in ("image", "axes", "model", "part")}
        inner = QWidget()
        self._layout = QVBoxLayout(inner)
        self._add_image()
        self._add_model()
        self._add_device()
        self._add_advanced()
        self._add_run()
        self.result = ResultPanel()
        self._layout.addWidget(self.result)
        self._layout.addStretch(1)
        area = QScrollArea()
        area.setWidgetResizable(True)
        area.setFrameShape(QFrame.Shape.NoFrame)
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        area.setWidget(inner)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.addWidget(area)
        self.setMinimumWidth(WIDTH)
        self._name_parts()

    def _name_parts(self) -> None:
        """Give the parts object names, by which style sheets, screen readers and tests find them."""
        parts = {"image": self._image, "axes": self._axes, "image_facts": self._image_facts, "level": self._level}
        parts |= {"model": self._model, "model_facts": self._model_facts, "device": self._device}
        parts |= {"device_facts": self._device_facts, "run": self._run, "notes": self._notes, "free": self._free}
        parts |= {"messages": self._messages, "error": self._error, "part": self._part, "name": self._name}
        parts |= {f"problem_{field}": label for field, label in self._problems.items()}
        for name, part in parts.items():
            part.setObjectName(name)

    # --- Building ---------------------------------------------------------------------------------------------------

    def _add_image(self) -> None:
        self._image = _combo("The scan to segment: an Image layer.")
        self._image.activated.connect(lambda _: self.image_chosen.emit(self._image.currentData()))
        self._axes = _combo("What each axis of the layer is, one letter each: t time, c channel, z y x space.")
        self._axes.setEditable(True)
        self._axes.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
        self._axes.activated.connect(lambda _: self.axes_chosen.emit(self._axes.currentText()))
        self._axes.lineEdit().editingFinished.connect(lambda: self.axes_chosen.emit(self._axes.currentText()))
        self._image_facts = _note_label("facts")
        self._level = _combo("Resolution level of a multiscale layer; 0 is the finest.")
        self._level.activated.connect(self.level_chosen)
        self._level_row = _row("Level", self._level)
        self._add(_row("Image", self._image), self._problems["image"], _row("Axes", self._axes), self._level_row)
        self._add(self._problems["axes"], self._image_facts)

    def _add_model(self) -> None:
        self._model = _combo("Shipped models, your own, or a file.")
        self._model.activated.connect(self._model_activated)
        self._model_facts = _note_label("facts")
        self._add(_row("Model", self._model), self._problems["model"], self._model_facts)

    def _model_activated(self, index: int) -> None:
        if self._model.itemText(index) == BROWSE:
            self.browse_clicked.emit()
        else:
            self.model_chosen.emit(self._model.itemData(index))

    def _add_device(self) -> None:
        self._device = _combo("Where to compute. Auto takes a GPU where there is one.")
        self._device.activated.connect(lambda _: self.device_chosen.emit(self._device.currentData()))
        self._device_facts = _note_label("facts")
        self._free = QPushButton("Free memory")
        self._free.setToolTip("End the engine process and with it all memory it holds. The next run starts it again.")
        self._free.clicked.connect(self.free_clicked)
        facts = QWidget()
        row = QHBoxLayout(facts)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self._device_facts, 1, Qt.AlignmentFlag.AlignTop)
        row.addWidget(self._free, 0, Qt.AlignmentFlag.AlignTop)
        self._add(_row("Device", self._device), facts)

    def _add_advanced(self) -> None:
        self._form = ConfigForm(InferenceConfig, OPTIONS)
        self._form.changed.connect(self.options_changed.emit)
        self._part = _combo("Only this part of the scan gets labels. The model sees its surroundings as well.")
        for part, text in PARTS.items():
            self._part.addItem(text, part)
        self._part.activated.connect(lambda _: self.part_chosen.emit(self._part.currentData()))
        self._slice_axis = _combo("The axis along which a 2D model walks through the scan.")
        self._slice_axis.activated.connect(lambda _: self.slice_axis_chosen.emit(self._slice_axis.currentData()))
        self._slice_row = _row("Slices along", self._slice_axis)
        self._name = QLineEdit()
        self._name.setToolTip("Name of the result layer.")
        self._name.editingFinished.connect(lambda: self.name_chosen.emit(self._name.text().strip()))
        defaults = QPushButton("Restore defaults")
        defaults.clicked.connect(self.defaults_clicked)
        self._advanced = QCollapsible("Advanced")
        self._advanced.setDuration(0)
        for widget in (_row("Part", self._part), self._problems["part"], self._slice_row, self._form.native):
            self._advanced.addWidget(widget)
        self._advanced.addWidget(_row("Result name", self._name))
        self._advanced.addWidget(defaults)
        self._add(self._advanced)

    def _add_run(self) -> None:
        self._notes = _note_label("facts")
        self._run = QPushButton("Segment")
        self._run.setMinimumHeight(34)
        self._run.clicked.connect(self.run_clicked)
        self._progress = ProgressPanel()
        self._messages = _note_label("facts")
        self._error = _note_label("problem")
        self._error.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self._details = QPushButton("Show details")
        self._details.clicked.connect(self.details_clicked)
        self._details.setVisible(False)
        self._add(self._notes, self._run, self._progress, self._messages, self._error, self._details)

    def _add(self, *widgets: QWidget) -> None:
        for widget in widgets:
            self._layout.addWidget(widget)

    # --- Setters ----------------------------------------------------------------------------------------------------

    def show_images(self, layers: Sequence[tuple[str, Any]], current: Any) -> None:
        """Layers to choose from, as (name, layer), and the one chosen."""
        _fill(self._image, layers, current)
        self._image.setEnabled(bool(layers) and self._progress.isHidden())

    def show_axes(self, axes: str, readings: Sequence[str], facts: str) -> None:
        """How the axes are read, other plausible readings, and what follows from it."""
        _fill(self._axes, [(reading, reading) for reading in readings], axes)
        self._axes.setEditText(axes)
        self._axes.setEnabled(bool(axes) and self._progress.isHidden())
        _say(self._image_facts, facts)

    def show_levels(self, shapes: Sequence[tuple[int, ...]], level: int) -> None:
        """Levels of a multiscale layer; hidden for others."""
        names = [f"{i}: {' × '.join(map(str, shape))}" for i, shape in enumerate(shapes)]
        _fill(self._level, [(name, i) for i, name in enumerate(names)], level)
        self._level_row.setVisible(len(shapes) > 1)

    def show_models(self, models: Sequence[tuple[str, Any]], current: Any, facts: str) -> None:
        """Models as (name, entry), the one chosen and its facts."""
        _fill(self._model, models, current)
        self._model.insertSeparator(self._model.count())
        self._model.addItem(BROWSE)
        _say(self._model_facts, facts)

    def show_devices(self, devices: Sequence[tuple[str, str]], current: str, facts: str) -> None:
        """Devices as (words, name), the one chosen and what it means."""
        _fill(self._device, devices, current)
        _say(self._device_facts, facts)

    def show_options(self, options: InferenceConfig, part: str, axes: Sequence[tuple[str, str]], name: str) -> None:
        """Advanced settings; `axes` are those a 2D model may walk along, empty where none are needed."""
        self._form.set(options)
        self._part.setCurrentIndex(self._part.findData(part))
        _fill(self._slice_axis, axes, options.slice_axis or "")
        self._slice_row.setVisible(bool(axes))
        if not self._name.hasFocus():
            self._name.setText(name)

    def show_name_hint(self, name: str) -> None:
        """Name the result gets unless another is given."""
        self._name.setPlaceholderText(name)

    def show_problem(self, field: str | None, text: str) -> None:
        """Why Segment is disabled, under its field; None: it is not."""
        for name, label in self._problems.items():
            _say(label, text if name == field else "")
        if field == "part":
            self._advanced.expand(animate=False)

    def show_notes(self, text: str) -> None:
        """What is worth knowing before the run."""
        _say(self._notes, text)

    def show_run(self, text: str, *, enabled: bool, tooltip: str) -> None:
        """The main button."""
        self._run.setText(text)
        self._run.setEnabled(enabled)
        self._run.setToolTip(tooltip)

    def show_running(self, running: bool) -> None:
        """Lock the choices while a job runs."""
        self._progress.setVisible(running)
        for widget in (self._image, self._axes, self._level, self._model, self._device, self._advanced, self._free):
            widget.setEnabled(not running)

    def show_progress(self, done: int, total: int, text: str) -> None:
        """How far the job is; `total` 0: not known yet."""
        self._progress.show_progress(done, total, text)

    def show_messages(self, lines: Sequence[str]) -> None:
        """What the job said."""
        _say(self._messages, "\n".join(lines))

    def show_error(self, text: str, *, details: bool) -> None:
        """Why the last job failed, in words; empty clears it. `details`: whether there is a log to show."""
        _say(self._error, text)
        self._details.setVisible(details)

    def progress_text(self) -> str:
        """How far the job is, in words."""
        return self._progress.text()

    def error_text(self) -> str:
        """Why the last job failed, empty where it did not."""
        return self._error.text()


def _combo(tooltip: str) -> QComboBox:
    box = QComboBox()
    box.setToolTip(tooltip)
    box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    box.setMinimumContentsLength(8)
    box.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
    return box


def _row(text: str, *widgets: QWidget) -> QWidget:
    row = QWidget()
    layout = QHBoxLayout(row)
    layout.setContentsMargins(0, 0, 0, 0)
    label = QLabel(text)
    label.setMinimumWidth(78)
    layout.addWidget(label)
    for widget in widgets:
        layout.addWidget(widget)
    return row


def _note_label(kind: str) -> QLabel:
    """Small text under a field: facts, or a problem in a colour that stands out in both of napari's themes."""
    label = QLabel()
    label.setTextFormat(Qt.TextFormat.PlainText)
    label.setWordWrap(True)
    label.setVisible(False)
    if kind == "problem":
        label.setStyleSheet("QLabel { color: #f0883e; }")
    return label


def _say(label: QLabel, text: str) -> None:
    label.setText(text)
    label.setVisible(bool(text))


def _fill(box: QComboBox, items: Sequence[tuple[str, Any]], current: Any) -> None:
    """Put (text, data) items into a box and select by data, without a signal."""
    box.blockSignals(True)
    box.clear()
    for text, data in items:
        box.addItem(text, data)
    found = next((i for i, (_, data) in enumerate(items) if data is current or data == current), -1)
    box.setCurrentIndex(found)
    box.blockSignals(False)
