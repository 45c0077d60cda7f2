"""Base view of widgets that run jobs: header, scrolling column, footer with main button, progress and status."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from napari.utils.notifications import show_warning
from napari.utils.progress import cancelable_progress
from qtpy.compat import isalive
from qtpy.QtCore import QEvent, QObject, Qt, QTimer, Signal
from qtpy.QtGui import QColor, QHideEvent, QPalette, QShowEvent
from qtpy.QtWidgets import (
    QAbstractSpinBox,
    QApplication,
    QCheckBox,
    QComboBox,
    QDockWidget,
    QFileDialog,
    QFrame,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QMainWindow,
    QProgressBar,
    QScrollArea,
    QSlider,
    QStatusBar,
    QVBoxLayout,
    QWidget,
)

from napari_prosma.shortcuts import follow_keys, with_key
from napari_prosma.widgets.docks import settle
from napari_prosma.widgets.fields import (
    Fold,
    PlainLabel,
    button,
    combo,
    fill,
    keeps_place,
    note_label,
    row,
    say,
    say_word,
    show_text,
)
from napari_prosma.widgets.help import HelpButton
from prosma_core.printable import plain, visible

LEAST_SHOWN_S = 0.1
"""Seconds between two steps of a job that napari's activity dock shows."""
SPINNER_SPEED = 8
"""Percent of napari's own speed at which the sign of its activity dock turns while our jobs run.

A window with an OpenGL canvas is put together anew for every picture of it. Where the processor draws, 30 pictures a
second take half a core from the engine, which computes on the same processor (benchmarks/experiments.md).
"""


READY = "Ready."
"""Said where nothing keeps a job from starting and none has ended."""
BAR = 6
"""Pixels of the progress bar."""


class StatusPanel(QWidget):
    """Progress bar, and under it one line that says how things stand. Both keep their places while a job runs.

    The line says how far the job is; else how the last one ended, or what has kept the next one from starting since
    then; else that all is ready. Where the total is not known it counts the seconds; a bar that moves by itself costs
    too much (as above).
    """

    def __init__(self) -> None:
        super().__init__()
        self.running = False
        self._bar = QProgressBar()
        self._bar.setTextVisible(False)
        self._bar.setFixedHeight(BAR)
        keeps_place(self._bar)
        self._line = note_label("facts")
        self._line.setObjectName("status")
        self._progress = self._problem = self._end = self._wait = self._left = ""
        self._began, self._counting = 0.0, False
        self._clock = QTimer(self)
        self._clock.setInterval(1000)
        self._clock.timeout.connect(self._count)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addWidget(self._bar)
        layout.addWidget(self._line)
        self.show_running(False)

    def show_running(self, running: bool) -> None:
        """Whether a job runs; its bar is empty at first."""
        if running != self.running or self._bar.isHidden() == running:
            self.running = running
            self._progress = self._left = ""
            self._bar.setValue(0)
            self._bar.setVisible(running)
        if not running:
            self._stop_counting()
        self._line.setMinimumHeight(0)
        self._say()

    def show_progress(self, done: int, total: int, text: str, left: str = "") -> None:
        """Show `done` of `total` (0: unknown) and a line of text; `left` says when all will be done."""
        self._bar.setRange(0, max(total, 1))
        self._bar.setValue(done)
        if total:
            self._stop_counting()
        elif text != self._progress or not self._counting:
            self._began, self._counting = time.monotonic(), True
            self._clock.start()
        else:
            return
        self._progress, self._left = text, left
        self.running = True
        self._bar.setVisible(True)
        self._say()

    def show_problem(self, text: str) -> None:
        """What keeps a job from starting, empty where nothing does."""
        if text != self._problem:
            self._problem, self._end = text, ""
            self._say()

    def show_wait(self, text: str) -> None:
        """What a job waits for before it can start, empty where it can; it does not take the place of how one ended."""
        self._wait = text
        self._say()

    def show_end(self, text: str) -> None:
        """How the last job ended, empty where none has."""
        self._end = text
        self._say()

    def text(self) -> str:
        """The line shown."""
        return self._line.text()

    def hideEvent(self, event: QHideEvent | None) -> None:
        """Show no seconds that nobody sees."""
        self._clock.stop()
        super().hideEvent(event)

    def showEvent(self, event: QShowEvent | None) -> None:
        """Show the seconds again."""
        super().showEvent(event)
        if self._counting:
            self._count()
            self._clock.start()

    def _stop_counting(self) -> None:
        self._counting = False
        self._clock.stop()

    def _count(self) -> None:
        self._show(f"{self._progress} ({round(time.monotonic() - self._began)} s){self._left}")

    def _say(self) -> None:
        idle = self._end or self._problem or self._wait or READY
        self._show(f"{self._progress}{self._left}" if self.running else idle)

    def _show(self, text: str) -> None:
        say(self._line, text or READY)
        if self.running:  # a shorter line does not let the button above it move
            self._line.keep_height()


class ActivityProgress(cancelable_progress):
    """A job in napari's activity dock; its Cancel button calls `on_cancel`."""

    def __init__(self, description: str, on_cancel: Callable[[], None]) -> None:
        self._on_cancel, self._shown = on_cancel, 0.0
        super().__init__(desc=plain(visible(description)), total=0)
        _calm_spinners()

    def cancel(self) -> None:
        """Called by the dock's Cancel button."""
        super().cancel()
        self._on_cancel()

    def show_progress(self, done: int, total: int) -> None:
        """Show `done` of `total`; less than before begins again, as the steps of a new epoch do.

        Between two that follow each other soon, none is shown: napari lets the event loop run for each, and thousands
        would keep the window from what comes after them.
        """
        now = time.monotonic()
        if self.n <= done < total and now - self._shown < LEAST_SHOWN_S:
            return
        self._shown = now
        if done < self.n:
            self.reset(total)
        self.total = total
        self.update(done - self.n)


def _calm_spinners() -> None:
    """Let what turns in the status bars of napari's windows turn slowly."""
    windows = [window for window in QApplication.topLevelWidgets() if isinstance(window, QMainWindow)]
    bars = [bar for window in windows for bar in window.findChildren(QStatusBar)]
    for label in (label for bar in bars for label in bar.findChildren(QLabel)):
        if (movie := label.movie()) is not None:
            movie.setSpeed(SPINNER_SPEED)


def tell(view: QWidget, show: Callable[[str], object], text: str) -> None:
    """Show what became of a save in its widget; where that was closed meanwhile, napari shows it."""
    if isalive(view):  # type: ignore[no-untyped-call]
        show(text)
    else:
        show_warning(plain(text))


MODEL_FILES = "ProSMA models (*.safetensors)"
"""Filter of file dialogs."""
MARGIN = 9
"""Pixels at the left and right of header, column and footer."""
WIDTH = 320
"""Least width: everything can be read, with a scroll bar, and a 13-inch screen has room for the canvas."""


LOOKS = 4
"""Times that a part is scrolled to, a tenth of a second apart: texts above it may come or go meanwhile."""


PLACES = {
    "image": "Image",
    "axes": "Axes",
    "model": "Model",
    "part": "Part",
    "levels": "Levels",
    "pairs": "Labels",
    "labels": "Labels",
    "classes": "Labels",
    "start": "Start from",
    "budget": "Budget",
    "name": "Name",
    "device": "Device",
    "workers": "Compute on",
    "advanced": "Advanced",
}
"""What a field is called in the window."""


class JobView(QWidget):
    """Base view of widgets that run jobs: header, a scrolling column of parts that subclasses add, and a footer.

    The footer always shows the main button, the progress and one line on how things stand. Signals out, setters in, no
    decisions.

    Parameters
    ----------
    fields : iterable of str
        Fields that can have a problem, which is said under them.

    Attributes
    ----------
    TITLE : str
        Of the dock and its tab.
    PURPOSE : str
        What the widget is for, in the header.
    PAGE : str
        Name of its page in the docs, which the "?" in the header shows.
    header : QHBoxLayout
        The purpose, and the "?".
    """

    TITLE = PURPOSE = PAGE = ""
    device_chosen = Signal(str)
    run_clicked = Signal()
    free_clicked = Signal()
    details_clicked = Signal()
    size_chosen = Signal(str)
    contours_toggled = Signal(bool)
    letters_toggled = Signal(bool)

    def __init__(self, fields: Iterable[str]) -> None:
        super().__init__()
        self._problems = {field: note_label("problem") for field in fields}
        self._locked: list[QWidget] = []
        self._worded: list[QWidget] = []  # that say voxel, or pixel
        self._locks = False
        self._lines: Sequence[str] = ()
        self._places = dict(PLACES)
        self._sections: Sequence[Fold] = ()
        self._text = QColor()
        inner = QWidget()
        self._layout: Any = QVBoxLayout(inner)
        self._around: list[Any] = []
        self._area = area = QScrollArea()
        area.setWidgetResizable(True)
        area.setFrameShape(QFrame.Shape.NoFrame)
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        area.setWidget(inner)
        self.header, self._footer = QHBoxLayout(), QVBoxLayout()
        purpose = PlainLabel(self.PURPOSE)
        purpose.setObjectName("purpose")
        self.header.setContentsMargins(MARGIN, 4, MARGIN, 2)
        self.header.addWidget(purpose, 1)
        self.help = HelpButton(self.PAGE)
        self.header.addWidget(self.help)
        self._footer.setContentsMargins(MARGIN, 4, MARGIN, MARGIN)
        self._footer.setSpacing(4)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.setSpacing(0)
        outer.addLayout(self.header)
        outer.addWidget(area, 1)
        outer.addLayout(self._footer)
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

    def _begin_part(self) -> QWidget:
        """A part of the column that can be hidden as a whole: what is added from now on goes into it."""
        part = QWidget()
        self._open(part, QVBoxLayout(part))
        self._layout.setContentsMargins(0, 0, 0, 0)
        return part

    def _begin_section(self, title: str) -> Fold:
        """A section under a title, open at first: what is added from now on goes into it."""
        section = Fold(title)
        section.expand()
        self._open(section, section.content().layout())
        return section

    def _open(self, part: QWidget, layout: Any) -> None:
        self._add(part)
        self._around.append(self._layout)
        self._layout = layout

    def _end_part(self) -> None:
        """What is added from now on goes below the part or section that was begun last."""
        self._layout = self._around.pop()

    def _add_device(self) -> None:
        self._device = combo("Where to compute. Auto takes a GPU where there is one.")
        self._device.activated.connect(lambda _: self.device_chosen.emit(self._device.currentData()))
        self._device_facts = note_label("facts")
        self._free = button(
            "Unload model",
            "Free all memory that the model and the last run take. The next run loads the model again.",
            self.free_clicked,
        )
        self._add(row("Device", self._device), self._problems["device"])
        self._locked += [self._device, self._free]

    def _add_size(self, why: str) -> None:
        """Add a field for the voxel size where none is stated; `why` ends its tooltip."""
        self._size, self._size_why = QLineEdit(), why
        self._size.editingFinished.connect(lambda: self.size_chosen.emit(self._size.text().strip()))
        self._size_row = row("", self._size)
        self.show_size("", asked=False, word="voxel")
        self._add(self._size_row, self._problems["size"])

    def _add_looks(self) -> None:
        """Add how results and scans look in the viewer."""
        self._contours, self._letters = QCheckBox("Results as contours"), QCheckBox("Directions")
        self._contours.setToolTip(plain(with_key("Draw results and previews as contours, not filled", "contours")))
        self._letters.setToolTip(
            "At the edges of the canvas: the patient's left, right, anterior, posterior, superior and inferior."
        )
        self._contours.clicked.connect(self.contours_toggled)
        self._letters.clicked.connect(self.letters_toggled)
        self._contours.setObjectName("contours")
        self._letters.setObjectName("letters")
        line = QWidget()
        layout = QHBoxLayout(line)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._contours)
        layout.addWidget(self._letters)
        layout.addStretch(1)
        self._add(line)

    def show_looks(self, *, contours: bool, letters: bool) -> None:
        """How results and scans look in the viewer."""
        self._contours.setChecked(contours)
        self._letters.setChecked(letters)

    def _add_run(self, text: str, *actions: QWidget) -> None:
        """Add notes and details to the column, and the main button with what belongs to it to the footer.

        Parameters
        ----------
        text : str
            On the button.
        *actions : QWidget
            Buttons beside it.
        """
        self._notes = note_label("facts")
        self._more = Fold("Details")
        self._messages = note_label("facts")
        self._more.add(self._device_facts, self._free, self._messages)
        self._add(self._notes, self._more)
        self._run = button(text, f"{text} with these settings", self.run_clicked)
        self._run.setMinimumHeight(34)
        self._status = StatusPanel()
        self._error = note_label("problem")
        self._error.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self._details = button("Show log", "The log of the last run, to read and to copy.", self.details_clicked)
        self._details.setVisible(False)
        beside = QHBoxLayout()
        beside.addWidget(self._run, 1)
        for action in actions:
            action.setMinimumHeight(34)
            beside.addWidget(action)
        self._footer.addLayout(beside)
        for part in (self._status, self._error, self._details):
            self._footer.addWidget(part)

    def _finish(self, **parts: QWidget) -> None:
        """End the column; parts get object names, by which style sheets, screen readers and tests find them."""
        column: Any = self._area.widget().layout()
        column.addStretch(1)
        self._sections = self.findChildren(Fold)
        parts |= {"device": self._device, "device_facts": self._device_facts, "free": self._free, "run": self._run}
        parts |= {"notes": self._notes, "messages": self._messages, "error": self._error, "details": self._details}
        parts |= {f"problem_{field}": label for field, label in self._problems.items()}
        for name, part in parts.items():
            part.setObjectName(name)
        self.destroyed.connect(follow_keys(self._renew_keys))
        for kind in (QComboBox, QAbstractSpinBox, QSlider):
            for part in self.findChildren(kind):
                part.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
                part.installEventFilter(self)

    def _renew_keys(self, renewed: Callable[[str], str]) -> None:
        """Have tooltips show the keys that were changed in napari's preferences."""
        for part in self.findChildren(QWidget):
            if (text := renewed(part.toolTip())) != part.toolTip():
                part.setToolTip(plain(text))

    def _keep_locked_readable(self) -> None:
        """Let what was chosen be read while it is locked: napari draws locked text at a third of its color."""
        color = self.palette().color(QPalette.ColorGroup.Active, QPalette.ColorRole.WindowText)
        if color != self._text:
            self._text = color
            shade = f"rgba({color.red()}, {color.green()}, {color.blue()}, 180)"
            self._area.widget().setStyleSheet(f"QComboBox:disabled {{ color: {shade}; }}")

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """Let the wheel scroll the column instead of changing a value that is not being edited."""
        if event.type() == QEvent.Type.Wheel and isinstance(watched, QWidget) and not watched.hasFocus():
            event.ignore()
            return True
        return bool(super().eventFilter(watched, event))

    def event(self, event: QEvent | None) -> bool:
        """Settle in a dock, and delete the widget when its dock is closed: napari only takes it out of the dock."""
        if event is not None and event.type() == QEvent.Type.ParentChange:
            if self.parent() is None:
                self.deleteLater()
            elif isinstance(dock := self.parent(), QDockWidget):
                settle(self, dock)
        return bool(super().event(event))

    def showEvent(self, event: QShowEvent | None) -> None:
        """Take the theme of the window in which it is shown."""
        super().showEvent(event)
        self._keep_locked_readable()

    def changeEvent(self, event: QEvent | None) -> None:
        """Follow the window's theme."""
        super().changeEvent(event)
        colored = event is not None and event.type() in {QEvent.Type.StyleChange, QEvent.Type.PaletteChange}
        if colored and self.isVisible():
            self._keep_locked_readable()

    def keep_sections(self, recall: Callable[[str, Any], Any], remember: Callable[[str, Any], None]) -> None:
        """Open and close sections as the user left them, and keep what is opened or closed from now on.

        Parameters
        ----------
        recall, remember : callable
            As of `Session`.
        """

        def kept() -> dict[str, bool]:
            known = recall("sections", {})
            return known if isinstance(known, dict) else {}

        def keep(name: str, opened: bool) -> None:
            remember("sections", {**kept(), name: opened})

        for section in self._sections:
            name = f"{self.TITLE}: {section.objectName()}"
            section.show_open(bool(kept().get(name, section.isExpanded())))
            section.opened_by_user.connect(partial(keep, name))

    def _reveal(self, part: QWidget) -> None:
        """Scroll to a part as soon as everything has its place."""
        self._to_see, self._looks = part, LOOKS
        self._look.start()

    def _scroll(self) -> None:
        if self._to_see is not None and self._to_see.isVisible():
            part, bar, height = self._to_see, self._area.verticalScrollBar(), self._area.viewport().height()
            top = part.mapTo(self._area.widget(), part.rect().topLeft()).y()
            bar.setValue(min(max(bar.value(), top + part.height() - height), top))
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
        show_text(self, "Log of the last run", text or "The log is empty.")

    # --- Setters ----------------------------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether the choices are locked; progress is also shown of jobs that lock none."""
        return self._locks

    def show_devices(self, devices: Sequence[tuple[str, str]], current: str, facts: str) -> None:
        """Devices as (text, name), the chosen one and facts about it."""
        fill(self._device, devices, current)
        say(self._device_facts, facts)

    def show_size(self, size: str, *, asked: bool, word: str) -> None:
        """The voxel size a user gave, unless it is being written; hidden where it is of no use.

        `word`: voxel, of pictures pixel.
        """
        axes, such = ("y, x", "0.5, 0.5 mm") if word == "pixel" else ("z, y, x", "3, 1, 1 mm")
        self._places["size"] = name = f"{word.capitalize()} size"
        self._size_row.findChild(QLabel).setText(name)
        self._size.setAccessibleName(name)
        self._size.setPlaceholderText(f"unknown: {axes} mm")
        self._size.setToolTip(plain(f"Size of a {word} along {axes} with its unit, such as {such}: {self._size_why}"))
        if not self._size.hasFocus():
            self._size.setText(size)
        self._size_row.setVisible(asked)
        for part in self._worded:
            say_word(part, word)

    def show_problem(self, field: str | None, text: str) -> None:
        """Why the main button is disabled, under its field; None: it is not."""
        for name, label in self._problems.items():
            new = name == field and text != label.text()
            say(label, text if name == field else "")
            for section in self._sections if new else ():
                if section.isAncestorOf(label):
                    section.expand()
        self._status.show_problem(f"Not ready yet: see {self._places.get(field, field)} above." if field else "")

    def show_notes(self, text: str) -> None:
        """Notes before the run."""
        say(self._notes, text)

    def show_run(self, text: str, *, enabled: bool, tooltip: str) -> None:
        """The main button."""
        self._run.setText(text)
        self._run.setEnabled(enabled)
        self._run.setToolTip(plain(tooltip))
        self._status.show_wait("" if enabled else tooltip)

    def show_running(self, running: bool) -> None:
        """Lock the choices while a job runs."""
        self._keep_locked_readable()
        self._locks = running
        self._status.show_running(running)
        self._settle_texts()
        for widget in self._locked:
            widget.setEnabled(not running)

    def show_progress(self, done: int, total: int, text: str, left: str = "") -> None:
        """How far the job is; `total` 0: not known yet, the seconds of `text` are counted, before `left`."""
        self._status.show_progress(done, total, text, left)

    @property
    def closed(self) -> bool:
        """Whether it is deleted."""
        return not isalive(self)  # type: ignore[no-untyped-call]

    def begin_activity(self, title: str, on_cancel: Callable[[], None]) -> ActivityProgress:
        """Show the job in napari's activity dock, too."""
        return ActivityProgress(title, on_cancel)

    def show_messages(self, lines: Sequence[str]) -> None:
        """Show the latest messages of the job: the last one in the footer once it is over, the others under Details."""
        self._lines = lines
        self._status.show_end(lines[-1] if lines else "")
        self._settle_texts()

    def show_error(self, text: str, *, details: bool) -> None:
        """Message of a failure, in place of the line on how things stand; empty clears it.

        `details`: whether there is a log to show.
        """
        say(self._error, text)
        self._details.setVisible(details)
        self._settle_texts()

    def _settle_texts(self) -> None:
        """Say nothing twice: the last message is in the footer, once the job is over, unless there is an error."""
        running = self._status.running
        say(self._messages, "\n".join(self._lines if running else self._lines[:-1]))
        self._status.setVisible(running or not self._error.text())

    def progress_text(self) -> str:
        """Progress of the job as text."""
        return self._status.text()

    def error_text(self) -> str:
        """Why the last job failed, empty where it did not."""
        return self._error.text()
