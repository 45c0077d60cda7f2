"""Work that only the GUI thread may do, such as adding many layers: one step at a time, with all else in between."""

from __future__ import annotations

from collections.abc import Iterator

from qtpy.QtCore import QObject, QTimer


class Steps(QObject):
    """Takes the steps of one piece of work at a time; what is waiting in the window comes between two of them."""

    def __init__(self) -> None:
        super().__init__()
        self._work: Iterator[None] | None = None
        self._timer = QTimer(self)
        self._timer.setInterval(0)
        self._timer.timeout.connect(self._step)

    @property
    def busy(self) -> bool:
        """Whether steps are left."""
        return self._work is not None

    def run(self, work: Iterator[None]) -> None:
        """Take the steps of this work, and no others."""
        self._work = work
        self._timer.start()

    def stop(self) -> None:
        """Take no more steps."""
        self._work = None
        self._timer.stop()

    def _step(self) -> None:
        work = self._work
        if work is None:
            return
        try:
            next(work)
        except StopIteration:
            if self._work is work:
                self.stop()
        except Exception:
            self.stop()
            raise
