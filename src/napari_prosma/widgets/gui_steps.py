"""Work that only the GUI thread may do, such as adding many layers: one step at a time, with all else in between."""

from __future__ import annotations

from collections.abc import Iterator

from qtpy.QtCore import QTimer

PAUSE = 5
"""Milliseconds between two steps, so that what waits in the window comes first."""


class Steps:
    """Takes the steps of one piece of work, in the GUI thread."""

    def __init__(self) -> None:
        self._work: Iterator[None] | None = None
        self._coming = False

    @property
    def busy(self) -> bool:
        """Whether steps are left."""
        return self._work is not None

    def run(self, work: Iterator[None]) -> None:
        """Take the steps of this work, and no more of what was done before."""
        self._work = work
        self._wait()

    def take(self) -> Iterator[None]:
        """The steps that are left, for somebody else to take."""
        work, self._work = self._work, None
        return work if work is not None else iter(())

    def stop(self) -> None:
        """Take no more steps."""
        self._work = None

    def _wait(self) -> None:
        if not self._coming:
            self._coming = True
            QTimer.singleShot(PAUSE, self._step)

    def _step(self) -> None:
        self._coming = False
        work = self._work
        if work is None:
            return
        try:
            next(work)
        except StopIteration:
            if self._work is work:
                self._work = None
        except Exception:
            self._work = None
            raise
        if self._work is not None:
            self._wait()
