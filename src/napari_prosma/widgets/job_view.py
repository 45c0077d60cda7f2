"""Base view of widgets that run jobs: scrolling column, device, main button, progress, messages."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from napari.settings import get_settings
from napari.utils.progress import cancelable_progress
from napari.utils.theme import get_theme
from qtpy.QtCore import QEvent, QObject, Qt, QTimer, Signal
from qtpy.QtGui import QHideEvent
from qtpy.QtWidgets import (
    QAbstractSpinBox,
    QApplication,
    QComboBox,
    QFileDialog,
    QFrame,
    QHBoxLayout,
    QLabel,
    QProgressBar,
    QPushButton,
    QScrollArea,
    QSlider,
    QStatusBar,
    QVBoxLayout,
    QWidget,
)

from napari_prosma.widgets.fields import button, combo, fill, note_label, row, say, show_text
from prosma_core.printable import plain, visible

SPINNER_SPEED = 8
"""Percent of napari's own speed at which the sign of its activity dock turns while our jobs run.

A window with an OpenGL canvas is put together anew for every picture of it. Where the processor draws, 30 pictures a
second take half a core from the engine, which computes on the same processor (docs/benchmarks.md).
"""


class ProgressPanel(QWidget):
    """Progress bar and a line of text; hidden while nothing runs.

    Where the total is not known the line counts the seconds; a bar that moves by itself costs too much (as above).
    """

    def __init__(self) -> None:
        super().__init__()
        self._bar = QProgressBar()
        self._bar.setTextVisible(False)
        self._line = note_label("facts")
        self._text, self._began = "", 0.0
        self._clock = QTimer(self)
        self._clock.setInterval(1000)
        self._clock.timeout.connect(self._count)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._bar)
        layout.addWidget(self._line)
        self.setVisible(False)

    def show_progress(self, done: int, total: int, text: str) -> None:
        """Show `done` of `total` (0: unknown) and a line of text."""
        self._bar.setRange(0, max(total, 1))
        self._bar.setValue(done)
        if total:
            self._clock.stop()
            say(self._line, text)
        elif text != self._text or not self._clock.isActive():
            self._began = time.monotonic()
            self._clock.start()
            say(self._line, text)
        self._text = text
        self.setVisible(True)

    def hideEvent(self, event: QHideEvent | None) -> None:
        """Stop counting."""
        self._clock.stop()
        super().hideEvent(event)

    def _count(self) -> None:
        say(self._line, f"{self._text} ({round(time.monotonic() - self._began)} s)")

    def text(self) -> str:
        """The line shown."""
        return self._line.text()


class ActivityProgress(cancelable_progress):
    """A job in napari's activity dock; its Cancel button calls `on_cancel`."""

    def __init__(self, description: str, on_cancel: Callable[[], None]) -> None:
        self._on_cancel = on_cancel
        super().__init__(desc=plain(visible(description)), total=0)
        _calm_spinners()

    def cancel(self) -> None:
        """Called by the dock's Cancel button."""
        super().cancel()
        self._on_cancel()

    def show_progress(self, done: int, total: int) -> None:
        """Show `done` of `total`; less than before begins again, as the steps of a new epoch do."""
        if done < self.n:
            self.reset(total)
        self.total = total
        self.update(done - self.n)


def _calm_spinners() -> None:
    """Let what turns in the status bars of napari's windows turn slowly."""
    bars = [bar for window in QApplication.topLevelWidgets() for bar in window.findChildren(QStatusBar)]
    for label in (label for bar in bars for label in bar.findChildren(QLabel)):
        if (movie := label.movie()) is not None:
            movie.setSpeed(SPINNER_SPEED)


MODEL_FILES = "ProSMA models (*.safetensors)"
"""Filter of file dialogs."""
WIDTH = 320
"""Least width: everything can be read, with a scroll bar, and a 13-inch screen has room for the canvas."""


LOOKS = 4
"""Times that a part is scrolled to, a tenth of a second apart: texts above it may come or go meanwhile."""


class JobView(QWidget):
    """Base view of widgets that run jobs: a column of parts that subclasses add; signals out, setters in, no decisions.

    Parameters
    ----------
    fields : iterable of str
        Fields that can have a problem, which is said under them.
    """

    device_chosen = Signal(str)
    run_clicked = Signal()
    free_clicked = Signal()
    details_clicked = Signal()

    def __init__(self, fields: Iterable[str]) -> None:
        super().__init__()
        self._problems = {field: note_label("problem") for field in fields}
        self._locked: list[QWidget] = []
        self._theme = ""
        inner = QWidget()
        self._layout = QVBoxLayout(inner)
        self._column = self._layout
        self._area = area = QScrollArea()
        area.setWidgetResizable(True)
        area.setFrameShape(QFrame.Shape.NoFrame)
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        area.setWidget(inner)
        outer = self._outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.addWidget(area)
        self.setMinimumWidth(WIDTH)
        self._to_see: QWidget | None = None
        self._looks = 0
        self._look = QTimer(self)
        self._look.setSingleShot(True)
        self._look.setInterval(100)
        self._look.timeout.connect(self._scroll)

    # --- Building ---------------------------------------------------------------------------------------------------

    def _add(self, *widgets: QWidget) -> None:
        for widget in widgets:
            self._layout.addWidget(widget)

    def _begin_section(self) -> QWidget:
        """A part of the column that can be hidden as a whole: what is added from now on goes into it."""
        section = QWidget()
        self._add(section)
        self._layout = QVBoxLayout(section)
        self._layout.setContentsMargins(0, 0, 0, 0)
        return section

    def _end_section(self) -> None:
        """What is added from now on goes into the column again."""
        self._layout = self._column

    def _add_device(self) -> None:
        self._device = combo("Where to compute. Auto takes a GPU where there is one.")
        self._device.activated.connect(lambda _: self.device_chosen.emit(self._device.currentData()))
        self._device_facts = note_label("facts")
        self._device_facts.setAlignment(Qt.AlignmentFlag.AlignTop)
        self._free = button(
            "Free memory",
            "End the engine process and with it all memory it holds. The next run starts it again.",
            self.free_clicked,
        )
        facts = QWidget()
        beside = QHBoxLayout(facts)
        beside.setContentsMargins(0, 0, 0, 0)
        beside.addWidget(self._device_facts, 1)  # aligned by itself: in a layout, its second line would be cut off
        beside.addWidget(self._free, 0, Qt.AlignmentFlag.AlignTop)
        self._add(row("Device", self._device), self._problems["device"], facts)
        self._locked += [self._device, self._free]

    def _add_run(self, text: str, *, pinned: bool = False) -> None:
        """Add notes, the main button with progress and errors, and messages.

        Parameters
        ----------
        text : str
            On the button.
        pinned : bool
            Whether the button stays in view under the column, with the messages of its job; messages are then left to
            be added.
        """
        self._notes = note_label("facts")
        self._run = QPushButton(text)
        self._run.setMinimumHeight(34)
        self._run.clicked.connect(self.run_clicked)
        self._progress = ProgressPanel()
        self._messages = note_label("facts")
        self._error = note_label("problem")
        self._error.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self._details = button("Show details", "What the engine wrote while it worked.", self.details_clicked)
        self._details.setVisible(False)
        if not pinned:
            self._add(self._notes, self._run, self._progress, self._messages, self._error, self._details)
            return
        self._add(self._notes)
        footer = QWidget()
        below = QVBoxLayout(footer)
        for part in (self._run, self._progress, self._error, self._details):
            below.addWidget(part)
        self._outer.addWidget(footer)

    def _finish(self, **parts: QWidget) -> None:
        """End the column; parts get object names, by which style sheets, screen readers and tests find them."""
        self._layout.addStretch(1)
        parts |= {"device": self._device, "device_facts": self._device_facts, "free": self._free, "run": self._run}
        parts |= {"notes": self._notes, "messages": self._messages, "error": self._error, "details": self._details}
        parts |= {f"problem_{field}": label for field, label in self._problems.items()}
        for name, part in parts.items():
            part.setObjectName(name)
        self._keep_locked_readable()
        for kind in (QComboBox, QAbstractSpinBox, QSlider):
            for part in self.findChildren(kind):
                part.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
                part.installEventFilter(self)

    def _keep_locked_readable(self) -> None:
        """Let what was chosen be read while it is locked: napari draws locked text at a third of its color."""
        theme = get_settings().appearance.theme
        if theme != self._theme:
            self._theme = theme
            red, green, blue = get_theme(theme).text.as_rgb_tuple()[:3]
            self._area.widget().setStyleSheet(f"QComboBox:disabled {{ color: rgba({red}, {green}, {blue}, 180); }}")

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """Let the wheel scroll the column instead of changing a value that is not being edited."""
        if event.type() == QEvent.Type.Wheel and isinstance(watched, QWidget) and not watched.hasFocus():
            event.ignore()
            return True
        return bool(super().eventFilter(watched, event))

    def event(self, event: QEvent | None) -> bool:
        """Delete the widget when its dock is closed: napari only takes it out of the dock."""
        if event is not None and event.type() == QEvent.Type.ParentChange and self.parent() is None:
            self.deleteLater()
        return bool(super().event(event))

    def _reveal(self, part: QWidget) -> None:
        """Scroll to a part as soon as everything has its place."""
        self._to_see, self._looks = part, LOOKS
        self._look.start()

    def _scroll(self) -> None:
        if self._to_see is not None and self._to_see.isVisible():
            self._area.ensureWidgetVisible(self._to_see)
            self._looks -= 1
            if self._looks:
                self._look.start()

    # --- Dialogs ----------------------------------------------------------------------------------------------------

    def ask_model(self) -> Path | None:
        """Ask for a model file; None where none is chosen."""
        name, _ = QFileDialog.getOpenFileName(self, "Choose a model", "", MODEL_FILES)
        return Path(name) if name else None

    def show_log(self, text: str) -> None:
        """Show what the engine wrote, in a window."""
        show_text(self, "What the engine said", text or "The log is empty.")

    # --- Setters ----------------------------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether the choices are locked."""
        return not self._progress.isHidden()

    def show_devices(self, devices: Sequence[tuple[str, str]], current: str, facts: str) -> None:
        """Devices as (text, name), the chosen one and facts about it."""
        fill(self._device, devices, current)
        say(self._device_facts, facts)

    def show_problem(self, field: str | None, text: str) -> None:
        """Why the main button is disabled, under its field; None: it is not."""
        for name, label in self._problems.items():
            say(label, text if name == field else "")

    def show_notes(self, text: str) -> None:
        """Notes before the run."""
        say(self._notes, text)

    def show_run(self, text: str, *, enabled: bool, tooltip: str) -> None:
        """The main button."""
        self._run.setText(text)
        self._run.setEnabled(enabled)
        self._run.setToolTip(plain(tooltip))

    def show_running(self, running: bool) -> None:
        """Lock the choices while a job runs."""
        self._keep_locked_readable()
        self._progress.setVisible(running)
        for widget in self._locked:
            widget.setEnabled(not running)
        if running:
            self._reveal(self._progress)

    def show_progress(self, done: int, total: int, text: str) -> None:
        """How far the job is; `total` 0: not known yet."""
        self._progress.show_progress(done, total, text)

    def begin_activity(self, title: str, on_cancel: Callable[[], None]) -> ActivityProgress:
        """Show the job in napari's activity dock, too."""
        return ActivityProgress(title, on_cancel)

    def show_messages(self, lines: Sequence[str]) -> None:
        """Show the latest messages of the job."""
        say(self._messages, "\n".join(lines))

    def show_error(self, text: str, *, details: bool) -> None:
        """Message of a failure; empty clears it. `details`: whether there is a log to show."""
        say(self._error, text)
        if text:
            self._reveal(self._error)
        self._details.setVisible(details)

    def progress_text(self) -> str:
        """Progress of the job as text."""
        return self._progress.text()

    def error_text(self) -> str:
        """Why the last job failed, empty where it did not."""
        return self._error.text()
