"""One look into the gates, from the click to what was found."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from napari_prosma._shared.engine_job import is_last
from napari_prosma._shared.guarded import guarded
from napari_prosma._shared.jobs import Jobs
from napari_prosma._shared.progress_panel import ActivityProgress, TimeLeft, clock
from napari_prosma.gates.found import Found
from napari_prosma.gates.orders import look
from napari_prosma.gates.state import Plan
from prosma_core.engine.client import ArrayReady, Cancelled, Failed, Finished, Message
from prosma_core.engine.messages import InspectResult
from prosma_core.errors import ProsmaError
from prosma_core.events import StageStarted, TileDone, Working

if TYPE_CHECKING:
    from napari_prosma.gates.view import GatesView

LINES = 4
"""Messages of the job that are shown, the latest ones."""


class Run:
    """A running look.

    Parameters
    ----------
    plan : Plan
    view : GatesView
    jobs : Jobs
    over : callable
        Told, once, what was found; None where nothing was.
    """

    def __init__(self, plan: Plan, view: GatesView, jobs: Jobs, over: Callable[[Found | None], None]) -> None:
        self.plan = plan
        self.details = ""
        self._view, self._over = view, over
        self._arrays: dict[str, NDArray[Any]] = {}
        self._lines: list[str] = []
        self._time = TimeLeft()
        self._cancelling = self._abandoned = self._ended = False
        self._key = uuid.uuid4().hex
        view.show_running(True)
        view.show_run("Cancel", enabled=True, tooltip="Stop looking.")
        view.show_progress(0, 0, "Starting…")
        view.show_messages(())
        self._activity = ActivityProgress(f"ProSMA: {plan.group}", self.cancel)
        self._job = jobs.submit(look(plan.scan, plan.request.replace(key=self._key)), self._receive)

    def cancel(self) -> None:
        """Ask the engine to stop; the widget is ready again when it has."""
        if self._cancelling:
            return
        self._cancelling = True
        if not self._abandoned:
            self._view.show_run("Cancelling…", enabled=False, tooltip="The engine finishes its current tile.")
        self._job.cancel()

    def abandon(self) -> None:
        """The widget is gone: stop, without a word to it."""
        self._abandoned = True
        self.cancel()

    def scan_changed(self, _event: Any = None) -> None:
        """The scan may not be what is looked at any more: no result for it is used again."""
        self._key = ""

    # --- Messages of the engine, in the GUI thread ------------------------------------------------------------------

    def _receive(self, message: Message) -> None:
        guarded(message, self._take_in, cancel=self._job.cancel, failed=self._not_shown, over=self._leave)

    def _not_shown(self, reason: str, details: str) -> None:
        self._take_in(Failed(ProsmaError(f"The gates could not be shown: {reason}. Inspect again."), details))

    def _take_in(self, message: Message) -> None:
        if self._ended:
            return
        if is_last(message):
            self._activity.close()
        if self._abandoned:
            return
        if isinstance(message, TileDone):
            left = self._time.text(message.done, message.total)
            text = f"Tile {message.done} of {message.total}" + (f", {left}" if left else "")
            self._view.show_progress(message.done, message.total, text)
            self._activity.show_progress(message.done, message.total)
        elif isinstance(message, StageStarted):
            self._say(message.message)
        elif isinstance(message, Working):
            self._view.show_progress(0, 0, message.message)
        elif isinstance(message, ArrayReady):
            self._arrays[message.name] = message.array
        elif isinstance(message, Finished) and isinstance(message.result, InspectResult):
            self._finish(message.result)
        elif isinstance(message, Failed):
            self.details = message.details
            self._view.show_error(str(message.error), details=bool(message.details))
            self._leave()
        elif isinstance(message, Cancelled):
            self._say("Cancelled.")
            self._leave()

    def _finish(self, result: InspectResult) -> None:
        if result.words:
            self._say(result.words)
        self._say(f"Done in {clock(result.seconds)} on {result.device.partition(' (')[0]}.")
        self._over(Found(self.plan, result.inspection, self._arrays, self._key))
        self._ended = True

    def _leave(self) -> None:
        """There is nothing to show, or it could not be shown."""
        if not self._ended:
            self._ended = True
            self._over(None)

    def _say(self, line: str) -> None:
        self._lines.append(line)
        self._view.show_messages(self._lines[-LINES:])
