"""A job given to the engine, and what its listener hears."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from prosma_core.engine.messages import SegmentRequest, SegmentResult
from prosma_core.engine.process import Child
from prosma_core.errors import ProsmaError
from prosma_core.events import Event

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class ArrayReady:
    """An array of the result, by its name: zeros at first, filled while the job runs; it outlives the child."""

    name: str
    array: NDArray[Any]


@dataclass(frozen=True)
class Finished:
    """The job is done; its arrays are filled."""

    result: SegmentResult


@dataclass(frozen=True)
class Failed:
    """The job failed; `details` holds the traceback and the end of the engine's log."""

    error: ProsmaError
    details: str


@dataclass(frozen=True)
class Cancelled:
    """The job was cancelled."""


Message = Event | ArrayReady | Finished | Failed | Cancelled
Listener = Callable[[Message], None]


class Job:
    """A job given to the engine."""

    def __init__(
        self, child: Child, number: int, request: SegmentRequest, listener: Listener, cancel: Callable[[Job], None]
    ) -> None:
        self.child, self.number, self.request = child, number, request
        self.cancelled = False
        self.timer: threading.Timer | None = None
        self._listener, self._cancel = listener, cancel

    def cancel(self) -> None:
        """Ask it to stop; where it does not within the grace time, its process is killed. `Cancelled` follows."""
        self._cancel(self)

    def tell(self, message: Message) -> None:
        """Hand a message to the listener; what that raises is logged."""
        try:
            self._listener(message)
        except Exception:  # noqa: BLE001  (it is the caller's, and must not end the engine's thread)
            _LOG.exception("A listener of the engine failed")

    def forget(self) -> None:
        """Let go of the listener, and so of the arrays that it may hold."""
        self._listener = _nobody


def _nobody(_: Message) -> None:
    """Listens to a job that is over."""
