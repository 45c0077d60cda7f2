"""A download with its progress in napari's activity dock, while the viewer stays usable."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from napari.utils import cancelable_progress

from napari_prosma._shared.download import Archive, DownloadError, fetch
from napari_prosma._shared.plain_text import plain

_POLL_MS = 50


class _Work:
    """A download in a thread; the caller's thread looks at it from time to time."""

    def __init__(self, archive: Archive, folder: Path) -> None:
        self._archive, self._folder = archive, folder
        self._stop = threading.Event()
        self.done = self.total = 0
        self.error: Exception | None = None
        self.thread = threading.Thread(target=self._run, name="prosma-download", daemon=True)

    def cancel(self) -> None:
        """Stop after the block that is on its way."""
        self._stop.set()

    def _run(self) -> None:
        steps = fetch(self._archive, self._folder)
        try:
            for self.done, self.total in steps:
                if self._stop.is_set():
                    break
        except Exception as error:  # noqa: BLE001  (raised again where the download was asked for)
            self.error = error
        finally:
            steps.close()

    @property
    def cancelled(self) -> bool:
        """Whether it was told to stop."""
        return self._stop.is_set()


def download_shown(archive: Archive, folder: Path) -> None:
    """Download and unpack an archive; returns when it is there.

    With a window, events are handled meanwhile: the viewer stays usable and shows a bar with a Cancel button.

    Raises
    ------
    DownloadError
        As in `download.fetch`; or it was cancelled, or the same archive is on its way already.
    """
    if archive.url in _UNDER_WAY:
        msg = f"{archive.name} is being downloaded already; its progress is shown at the bottom right (activity)."
        raise DownloadError(msg)
    _UNDER_WAY.add(archive.url)
    work = _Work(archive, folder)
    bar: Any = cancelable_progress(total=0, desc=plain(f"Downloading {archive.name}"), leave=False)
    try:
        work.thread.start()
        _wait(work, bar)
    finally:
        bar.close()
        _UNDER_WAY.discard(archive.url)
    if work.cancelled:
        msg = f"The download of {archive.name} was cancelled; nothing of it is kept."
        raise DownloadError(msg)
    if work.error is not None:
        raise work.error


_UNDER_WAY: set[str] = set()


def _wait(work: _Work, bar: Any) -> None:
    """Handle events until the thread ends or is told to; without an application, just wait."""
    from qtpy.QtCore import QEventLoop, QTimer
    from qtpy.QtWidgets import QApplication

    application = QApplication.instance()
    if application is None:
        work.thread.join()
        return
    loop, timer = QEventLoop(), QTimer()
    application.aboutToQuit.connect(work.cancel)

    def look() -> None:
        if bar.is_canceled:
            work.cancel()  # a connection that hangs lets go later, in its thread
        if work.total and bar.total != work.total:
            bar.total = work.total
        bar.update(work.done - bar.n)
        if work.cancelled or not work.thread.is_alive():
            loop.quit()

    timer.timeout.connect(look)
    timer.start(_POLL_MS)
    loop.exec()
    timer.stop()
    application.aboutToQuit.disconnect(work.cancel)
    if work.thread.is_alive():  # the loop also ends when the application does
        work.cancel()
