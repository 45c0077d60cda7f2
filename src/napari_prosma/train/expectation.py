"""How long each preset is expected to take on this machine: found out unasked, while the engine has nothing to do."""

from __future__ import annotations

from collections.abc import Callable

from qtpy.QtCore import QObject, QTimer

from napari_prosma._shared.each import each
from napari_prosma._shared.jobs import Jobs
from napari_prosma._shared.progress_panel import clock
from prosma_core.engine.messages import Cancelled, Finished, Message, TimesRequest, TimesResult, is_last
from prosma_core.errors import EngineBusyError

UNKNOWN = "How long it takes here is not known: estimate it below."
SOON = "How long each preset takes here is found out when the engine has nothing else to do."
AFTER = 1.5
"""Seconds without a change of the choices, and between two looks at whether the engine is idle."""


class Expectation(QObject):
    """Asks a second engine for the times of what is chosen, as soon as that has not changed for a moment.

    Parameters
    ----------
    jobs : Jobs
    told : callable
        Called when `times` or `words` changed.

    Attributes
    ----------
    times : dict of str to str
        Words for the time of each preset; empty while they are not known.
    words : str
        What is to be said where there are none.
    """

    def __init__(self, jobs: Jobs, told: Callable[[], None]) -> None:
        super().__init__()
        self._jobs, self._told = jobs, told
        self._request: TimesRequest | None = None
        self._known: dict[str, dict[str, str]] = {}
        self.times: dict[str, str] = {}
        self.words = ""
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self._ask)

    def want(self, request: TimesRequest | None) -> None:
        """Find out the times of this, unless they are known; None: there is nothing to be trained."""
        if request == self._request:
            return
        self._request = request
        self._jobs.end_aside()  # what it was asked before
        self.times = self._known.get(_key(request), {}) if request else {}
        self.words = SOON if request and not self.times else ""
        self._told()
        if request and not self.times:
            self._wait()
        else:
            self._timer.stop()

    def close(self) -> None:
        """The widget is gone: nothing is told any more."""
        self._request = None
        each("An estimate could not be left", self._jobs.end_aside, self._timer.stop)

    def _wait(self) -> None:
        self._timer.start(round(1000 * AFTER))

    def _ask(self) -> None:
        request = self._request
        if request is None:
            return
        if not self._jobs.alive:  # freed by a person, who wants the memory
            self._wait()
            return
        try:
            self._jobs.aside(request, lambda message: self._receive(request, message))
        except EngineBusyError:
            self._wait()

    def _receive(self, request: TimesRequest, message: Message) -> None:
        if not is_last(message):
            return
        if isinstance(message, Finished) and isinstance(message.result, TimesResult):
            times = {name: f"about {clock(seconds)}" for name, seconds in message.result.seconds.items()}
            self._known[_key(request)] = times
        if request != self._request:
            return
        if _key(request) in self._known:
            self.times, self.words = self._known[_key(request)], ""
        elif isinstance(message, Cancelled):
            self._wait()  # the engine had something else to do
            return
        else:
            self.words = UNKNOWN
        self._told()


def _key(request: TimesRequest) -> str:
    return request.model_dump_json()
