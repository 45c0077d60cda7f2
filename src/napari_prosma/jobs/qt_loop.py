"""Qt's event loop for `Jobs`, and the session of a napari process, which lives in it."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from qtpy.QtCore import QObject, Qt, QTimer, Signal

from napari_prosma.jobs.boundary import Jobs, Timer
from napari_prosma.jobs.session import Session


class QtEventLoop(QObject):
    """Runs functions in the GUI thread: in the order in which other threads post them, or after a time."""

    _posted = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._waiting: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._delivering = False
        self._posted.connect(self._deliver, Qt.ConnectionType.QueuedConnection)

    def post(self, call: Callable[..., object], /, *values: Any) -> None:
        """As of `EventLoop`."""
        self._waiting.append((call, values))
        with contextlib.suppress(RuntimeError):  # Qt is gone already: the program ends
            self._posted.emit()

    def timer(self, call: Callable[[], object], *, repeat: bool = False) -> Timer:
        """As of `EventLoop`."""
        made = QTimer()
        made.setSingleShot(not repeat)
        made.timeout.connect(call)
        return made

    def _deliver(self) -> None:
        if self._delivering or not self._waiting:
            return  # inside a call that lets the event loop run, as napari's progress bars do: the rest waits for it
        self._delivering = True
        try:
            call, values = self._waiting.popleft()
            call(*values)
        finally:
            self._delivering = False
            if self._waiting:
                self._posted.emit()


def make_session(folder: Path | None = None) -> Session:
    """A session with an engine, of the user's own settings unless a folder is given."""
    return Session(folder, Jobs(QtEventLoop()))


@cache
def session() -> Session:
    """The session of this napari process."""
    return make_session()
