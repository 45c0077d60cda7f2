"""How far a job is: a bar and a line in the widget, and the same in napari's activity dock."""

from __future__ import annotations

import time
from collections.abc import Callable

from napari.utils.progress import cancelable_progress
from qtpy.QtCore import QTimer
from qtpy.QtGui import QHideEvent
from qtpy.QtWidgets import QApplication, QLabel, QProgressBar, QStatusBar, QVBoxLayout, QWidget

from napari_prosma.widgets.fields import note_label, say
from prosma_core.printable import plain, visible

SPINNER_SPEED = 8
"""Percent of napari's own speed at which the sign of its activity dock turns while our jobs run.

A window with an OpenGL canvas is put together anew for every picture of it. Where the processor draws, 30 pictures a
second take half a core from the engine, which computes on the same processor (docs/benchmarks.md).
"""


class ProgressPanel(QWidget):
    """Bar and line; hidden while nothing runs.

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
