"""Opening what lies on a server, which may be slow or dead, in a thread: a dialog shows progress and cancels."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Generator
from concurrent.futures import TimeoutError as NotYetError
from typing import Any, TypeVar

from prosma_core.errors import ProsmaError
from prosma_core.events import Event, Working, drain
from prosma_core.io.remote_objects import begin, hurried
from prosma_core.printable import shown

QUICK_S = 0.2
"""Seconds for which no dialog is shown."""
_LOOK_MS = 20
_LONGEST = 80
"""Letters of a URL in the dialog."""

T = TypeVar("T")


class OpeningCanceledError(ProsmaError):
    """A person does not want to wait any longer."""


def from_server(place: object, work: Generator[Event, None, T]) -> T:
    """What some work on a server gives; each of its events is shown, and a place to stop.

    In the thread of a window it is done in another one, and the window is drawn meanwhile; a dialog takes all input.
    Servers have less patience there than on the command line, see `hurried`.

    Parameters
    ----------
    place : object
        URL, for the dialog.
    work : generator of Event

    Raises
    ------
    OpeningCanceledError
        The dialog was canceled. The work ends at its next event.
    """
    if not _has_window():
        return drain(work, lambda _: None)
    said: deque[str] = deque(["Waiting for the server"], maxlen=1)
    canceled = threading.Event()

    def show(event: Event) -> None:
        if canceled.is_set():
            raise OpeningCanceledError(f"Opening {place} was canceled.")
        if isinstance(event, Working):
            said.append(event.message)

    def run() -> T:
        with hurried():
            return drain(work, show)

    outcome = begin(run)
    with contextlib.suppress(NotYetError):
        return outcome.result(QUICK_S)
    url = shown(str(place))
    url = url if len(url) <= _LONGEST else f"{url[: _LONGEST // 2]}…{url[-_LONGEST // 2 :]}"
    if not _wait(f"Opening {url}", said, outcome):
        canceled.set()
        raise OpeningCanceledError(f"Opening {place} was canceled.")
    return outcome.result()


def _has_window() -> bool:
    """Whether this is the thread of Qt's windows."""
    try:
        from qtpy.QtWidgets import QApplication
    except ImportError:  # no Qt
        return False
    application = QApplication.instance()
    return application is not None and threading.current_thread() is threading.main_thread()


def _wait(title: str, said: deque[str], outcome: Any) -> bool:
    """Show a dialog until something is done; False where it was canceled."""
    from qtpy.QtCore import QEventLoop, Qt, QTimer
    from qtpy.QtWidgets import QApplication, QProgressDialog

    loop, timer = QEventLoop(), QTimer()
    dialog = QProgressDialog(said[0], "Cancel", 0, 0, QApplication.activeWindow())
    dialog.setWindowTitle("Opening")
    dialog.setAccessibleName(title)
    dialog.setToolTip("What a server holds is being opened; Cancel leaves it")
    dialog.setWindowModality(Qt.WindowModality.ApplicationModal)
    dialog.setMinimumDuration(0)

    def look() -> None:
        dialog.setLabelText(f"{title}\n{said[0]}")
        if outcome.done() or dialog.wasCanceled():
            loop.quit()

    timer.timeout.connect(look)
    look()
    dialog.show()
    timer.start(_LOOK_MS)
    loop.exec()
    timer.stop()
    canceled = dialog.wasCanceled() and not outcome.done()
    dialog.close()
    dialog.deleteLater()
    return not canceled
