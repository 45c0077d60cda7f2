"""A job given to the engine, and what can be asked of it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from prosma_core.engine.messages import (
    Listener,
    Message,
    PlanRequest,
    Request,
    ScanRef,
    TimesRequest,
    TrainRequest,
    WhatIfRequest,
    is_last,
)
from prosma_core.engine.process import Child

_LOG = logging.getLogger(__name__)


class Job:
    """A job given to the engine.

    Attributes
    ----------
    over : Event
        Set when the listener was told the last message.
    """

    def __init__(
        self,
        child: Child,
        number: int,
        request: Request,
        listener: Listener,
        cancel: Callable[[Job], None],
        preview: Callable[[Job, ScanRef | None], None],
    ) -> None:
        self.child, self.number = child, number
        self.scans = scans_of(request)
        self.resend: Request | None = request if child.is_ready else None
        self.received = self.cancelled = False
        self.over = threading.Event()
        self._telling = threading.RLock()
        self.timer: threading.Timer | None = None
        self._listener, self._cancel, self._preview = listener, cancel, preview

    def cancel(self) -> None:
        """Ask it to stop; where it does not within the grace time, its process is killed. `Cancelled` follows."""
        self._cancel(self)

    def preview(self, scan: ScanRef | None) -> None:
        """Let a training segment this scan after each validation from now on; None ends that.

        Parameters
        ----------
        scan : ScanRef or None
            An array in it that came from `Engine.allocate` is released when the job is over, or another replaces it.

        Raises
        ------
        EngineError
            The message is too long.
        """
        self._preview(self, scan)

    def tell(self, message: Message) -> None:
        """Hand a message to the listener, unless it has had its last one; what that raises is logged."""
        with self._telling:
            if self.over.is_set():
                return
            if is_last(message):
                self.over.set()
            listener = self._listener
            if self.over.is_set():
                self._listener = _nobody  # and so of the arrays that it may hold
            try:
                listener(message)
            except Exception:  # noqa: BLE001  (it is the caller's, and must not end the engine's thread)
                _LOG.exception("A listener of the engine failed")

    def arrived(self) -> None:
        """The child has the request: it need not be sent again."""
        self.received, self.resend = True, None


def scan_of(request: Request) -> ScanRef | None:
    """The scan that a request names, if any."""
    if isinstance(request, TrainRequest):
        return request.preview
    return None if isinstance(request, PlanRequest | TimesRequest) else request.scan


def scans_of(request: Request) -> tuple[ScanRef | None, ...]:
    """All that a request names: the scan, and labels to compare with."""
    return scan_of(request), request.truth if isinstance(request, WhatIfRequest) else None


def _nobody(_: Message) -> None:
    """Listens to a job that is over."""
