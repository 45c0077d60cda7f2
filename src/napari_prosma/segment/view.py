"""The Segment widget as a person sees it: signals out, setters in, no decisions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QComboBox,
    QFrame,
    QHBoxLayout,
    QPushButton,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)

from napari_prosma._shared.fields import combo, fill, note_label, row, say
from napari_prosma._shared.progress_panel import ProgressPanel
from napari_prosma.segment.advanced import AdvancedPanel
from napari_prosma.segment.result_panel import ResultPanel

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
    run_clicked = Signal()
    free_clicked = Signal()
    details_clicked = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.advanced = AdvancedPanel()
        self._problems = {field: note_label("problem") for field in ("image", "axes", "model", "device")}
        self._problems["part"] = self.advanced.problem
        inner = QWidget()
        self._layout = QVBoxLayout(inner)
        self._add_image()
        self._add_model()
        self._add_device()
        self._add(self.advanced)
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
        parts |= {"messages": self._messages, "error": self._error}
        parts |= {f"problem_{field}": label for field, label in self._problems.items()}
        for name, part in parts.items():
            part.setObjectName(name)

    # --- Building ---------------------------------------------------------------------------------------------------

    def _add_image(self) -> None:
        self._image = combo("The scan to segment: an Image layer.")
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

    def _add_model(self) -> None:
        self._model = combo("Shipped models, your own, or a file.")
        self._model.activated.connect(self._model_activated)
        self._model_facts = note_label("facts")
        self._add(row("Model", self._model), self._problems["model"], self._model_facts)

    def _model_activated(self, index: int) -> None:
        if self._model.itemText(index) == BROWSE:
            self.browse_clicked.emit()
        else:
            self.model_chosen.emit(self._model.itemData(index))

    def _add_device(self) -> None:
        self._device = combo("Where to compute. Auto takes a GPU where there is one.")
        self._device.activated.connect(lambda _: self.device_chosen.emit(self._device.currentData()))
        self._device_facts = note_label("facts")
        self._free = QPushButton("Free memory")
        self._free.setToolTip("End the engine process and with it all memory it holds. The next run starts it again.")
        self._free.clicked.connect(self.free_clicked)
        facts = QWidget()
        beside = QHBoxLayout(facts)
        beside.setContentsMargins(0, 0, 0, 0)
        beside.addWidget(self._device_facts, 1, Qt.AlignmentFlag.AlignTop)
        beside.addWidget(self._free, 0, Qt.AlignmentFlag.AlignTop)
        self._add(row("Device", self._device), self._problems["device"], facts)

    def _add_run(self) -> None:
        self._notes = note_label("facts")
        self._run = QPushButton("Segment")
        self._run.setMinimumHeight(34)
        self._run.clicked.connect(self.run_clicked)
        self._progress = ProgressPanel()
        self._messages = note_label("facts")
        self._error = note_label("problem")
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
        fill(self._image, layers, current)
        self._image.setEnabled(bool(layers) and self._progress.isHidden())

    def show_axes(self, axes: str, readings: Sequence[str], facts: str) -> None:
        """How the axes are read, other plausible readings, and what follows from it."""
        fill(self._axes, [(reading, reading) for reading in readings], axes)
        self._axes.setEditText(axes)
        self._axes.setEnabled(bool(axes) and self._progress.isHidden())
        say(self._image_facts, facts)

    def show_levels(self, shapes: Sequence[tuple[int, ...]], level: int) -> None:
        """Levels of a multiscale layer; hidden for others."""
        names = [f"{i}: {' × '.join(map(str, shape))}" for i, shape in enumerate(shapes)]
        fill(self._level, [(name, i) for i, name in enumerate(names)], level)
        self._level_row.setVisible(len(shapes) > 1)

    def show_models(self, models: Sequence[tuple[str, Any]], current: Any, facts: str) -> None:
        """Models as (name, entry), the one chosen and its facts."""
        fill(self._model, models, current)
        self._model.insertSeparator(self._model.count())
        self._model.addItem(BROWSE)
        say(self._model_facts, facts)

    def show_devices(self, devices: Sequence[tuple[str, str]], current: str, facts: str) -> None:
        """Devices as (words, name), the one chosen and what it means."""
        fill(self._device, devices, current)
        say(self._device_facts, facts)

    def show_problem(self, field: str | None, text: str) -> None:
        """Why Segment is disabled, under its field; None: it is not."""
        for name, label in self._problems.items():
            say(label, text if name == field else "")
        if field == "part":
            self.advanced.expand(animate=False)

    def show_notes(self, text: str) -> None:
        """What is worth knowing before the run."""
        say(self._notes, text)

    def show_run(self, text: str, *, enabled: bool, tooltip: str) -> None:
        """The main button."""
        self._run.setText(text)
        self._run.setEnabled(enabled)
        self._run.setToolTip(tooltip)

    def show_running(self, running: bool) -> None:
        """Lock the choices while a job runs."""
        self._progress.setVisible(running)
        for widget in (self._image, self._axes, self._level, self._model, self._device, self.advanced, self._free):
            widget.setEnabled(not running)

    def show_progress(self, done: int, total: int, text: str) -> None:
        """How far the job is; `total` 0: not known yet."""
        self._progress.show_progress(done, total, text)

    def show_messages(self, lines: Sequence[str]) -> None:
        """What the job said."""
        say(self._messages, "\n".join(lines))

    def show_error(self, text: str, *, details: bool) -> None:
        """Why the last job failed, in words; empty clears it. `details`: whether there is a log to show."""
        say(self._error, text)
        self._details.setVisible(details)

    def progress_text(self) -> str:
        """How far the job is, in words."""
        return self._progress.text()

    def error_text(self) -> str:
        """Why the last job failed, empty where it did not."""
        return self._error.text()
