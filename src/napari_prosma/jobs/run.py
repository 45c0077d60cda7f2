"""Base classes of a widget's jobs in the engine: start, cancel, guarded handlers of messages, end. No Qt."""

from __future__ import annotations

import logging
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from napari_prosma.cleanup import run_all
from napari_prosma.jobs.boundary import JobName, Jobs, WidgetClosedError
from napari_prosma.jobs.spec import JobSpec, ScanSpec
from napari_prosma.layers.dask_cache import MOST, SmallCache
from napari_prosma.layers.source import is_large
from prosma_core.engine.messages import Cancelled, Failed, Message, is_last
from prosma_core.events import StageStarted, TileDone, Working
from prosma_core.io.hardware import give_back_memory
from prosma_core.printable import TimeLeft, format_duration

_LOG = logging.getLogger(__name__)

CACHE = (
    f"napari's cache of dask blocks is limited to {MOST >> 20} MiB while this runs. To scroll smoothly, open a zarr "
    "with ProSMA, or turn on File > Preferences > Experimental > Render Layers Asynchronously."
)

BAR = 1000
"""Steps of the bar where tiles take different times."""
TIDY = 3000
"""Milliseconds after which memory of unpacked blocks that have left the cache is returned to the system."""

Handlers = Mapping[type, Callable[[Any], None]]


def _nothing(_: object) -> None:
    """Do nothing with the result of a thread."""


@dataclass
class Failure:
    """Why a job failed, for the log that a user can read; it outlives the job.

    Attributes
    ----------
    details : str
        Log or traceback; empty where there is none.
    """

    details: str = ""


class JobRun(ABC):
    """A job of the engine from its start to its last message; subclasses handle the messages.

    A handler that raises does not leave the widget with a job that goes on unseen: the job is canceled, the error is
    shown, and nothing more is handled but its end.

    Attributes
    ----------
    NAME : JobName
        What it is called where it keeps others from starting.
    YIELDS : bool
        Whether the next job, of whatever widget, stops this one instead of being refused.
    canceling : bool
        Whether it was asked to stop.
    abandoned : bool
        Whether its widget is gone: nothing is handled any more.
    broken : bool
        Whether a handler has raised.
    failure : Failure
    """

    NAME: JobName
    YIELDS = False

    def __init__(self) -> None:
        self.cancelling = self.abandoned = self.broken = self._begun = self._ended = False
        self.failure = Failure()
        self._cache: SmallCache | None = None

    def start(self, jobs: Jobs, spec: JobSpec) -> None:
        """Give the job to the engine; returns at once, and raises as `Jobs.start`."""
        self.job = jobs.start(spec, self._receive, self.NAME, yields=self.YIELDS)
        scan = spec.scan if isinstance(spec, ScanSpec) else None
        if scan is not None and hasattr(scan.data, "dask") and is_large(scan) and not self._ended:
            self._cache = SmallCache()
            self._tidying = jobs.timer(lambda: jobs.run(give_back_memory, _nothing, _nothing), repeat=True)
            self._tidying.start(TIDY)
        self._begun = True
        if self.cancelling:  # by an event that came while it began
            self.job.cancel()

    def cancel(self) -> None:
        """Ask the engine to stop; `over` follows when it has."""
        if not self.cancelling:
            self.cancelling = True
            if self._begun:
                self.job.cancel()

    def abandon(self) -> None:
        """Cancel for a widget that is deleted: it is not called any more."""
        self.cancelling = self.abandoned = True
        self.job.cancel()

    @property
    @abstractmethod
    def handlers(self) -> Handlers:
        """What to do with a message, by its class; messages of other classes are dropped. In the GUI thread."""

    @abstractmethod
    def show_error(self, reason: str, details: str) -> None:
        """Show what a handler has raised: in one line, and its traceback."""

    @abstractmethod
    def over(self) -> None:
        """The last message was handled, or dropped because the job is abandoned or broken. Called once."""

    def _receive(self, message: Message) -> None:
        if self._ended:
            return
        self._ended = is_last(message)
        if self._ended and self._cache is not None:
            self._cache.give_back()
            self._tidying.stop()
        handle = None if self.abandoned or self.broken else self.handlers.get(type(message))
        try:
            if handle is not None:
                handle(message)
        except Exception as error:  # noqa: BLE001  (whatever a viewer, a layer or a view raises)
            self._break(error)
        try:
            if self._ended:
                self.over()
        except Exception as error:  # noqa: BLE001  (as above)
            self._break(error)

    def _break(self, error: Exception) -> None:
        """Show what a handler has raised, and cancel what is left of the job; nothing where the widget is gone."""
        if self.abandoned:
            _LOG.debug("A message came while its widget was closed", exc_info=True)
            return
        _LOG.exception("A message of the engine could not be shown")
        self.broken = True
        reason, details = f"{type(error).__name__}: {error}", traceback.format_exc()
        if not self._ended:
            run_all("The job could not be canceled", self.cancel)
        run_all("The error could not be shown", lambda: self.show_error(reason, details))


class ViewSignal(Protocol):
    """Protocol of a view's signal, independent of the toolkit."""

    def connect(self, slot: Callable[..., object], /) -> object:
        """Call `slot` with the values of each signal."""


class Activity(Protocol):
    """A job in the activity dock of the viewer."""

    def show_progress(self, done: int, total: int) -> None:
        """Show progress."""

    def close(self) -> None:
        """Leave the dock."""


class RunView(Protocol):
    """Protocol of a view that shows a job."""

    @property
    def closed(self) -> bool:
        """Whether it is deleted."""

    def show_run(self, text: str, *, enabled: bool, tooltip: str) -> None:
        """The main button."""

    def show_running(self, running: bool) -> None:
        """Lock the choices while a job runs."""

    def show_progress(self, done: int, total: int, text: str, left: str = "") -> None:
        """The bar; `total` 0: not known yet, the seconds of `text` are counted. `left`: when all will be done."""

    def begin_activity(self, title: str, on_cancel: Callable[[], None]) -> Activity:
        """Show the job in the activity dock, too, with a button that cancels it."""

    def show_messages(self, lines: Sequence[str]) -> None:
        """Latest messages of the job."""

    def show_error(self, text: str, *, details: bool) -> None:
        """Why it failed, and whether there is a log to show."""


@dataclass(frozen=True)
class RunTexts:
    """Texts of a widget for its kind of job.

    Attributes
    ----------
    doing : str
        What the job does with the scan, part by part.
    cancel, cancel_tooltip : str
        The main button while the job runs.
    canceling, cancelling_tooltip : str
        The main button from a click on it until the job has ended.
    broken : str
        Why the job was canceled where its result could not be shown; ``{reason}`` is filled in.
    """

    cancel_tooltip: str
    broken: str
    doing: str = "Segmenting"
    cancel: str = "Cancel"
    cancelling: str = "Canceling…"
    cancelling_tooltip: str = "Stops after the current tile."


class ShownRun(JobRun):
    """A job that a view shows: its button, its bar, its latest lines, and the same in napari's activity dock.

    Parameters
    ----------
    view : RunView
    texts : RunTexts
    title : str
        In the activity dock.

    Raises
    ------
    WidgetClosedError
        The widget was closed meanwhile: napari handles events as its activity dock is shown.
    """

    LINES = 4
    """Messages of the job that are shown, the latest ones."""

    def __init__(self, view: RunView, texts: RunTexts, title: str) -> None:
        super().__init__()
        self._clicked = time.monotonic()
        self._run_view, self._texts = view, texts
        self._lines: list[str] = []
        self._time = TimeLeft()
        self._show_button(texts.cancel, enabled=True, tooltip=texts.cancel_tooltip)
        view.show_progress(0, 0, "Starting…")
        view.show_messages(())
        self._activity = view.begin_activity(title, self.cancel)
        if view.closed:
            self._activity.close()
            raise WidgetClosedError

    def cancel(self) -> None:
        """Ask the engine to stop; the widget is ready again when it has."""
        if not self.cancelling:
            texts = self._texts
            self._show_button(texts.cancelling, enabled=False, tooltip=texts.cancelling_tooltip)
            super().cancel()

    def start(self, jobs: Jobs, spec: JobSpec) -> None:
        """As of `JobRun`; says where napari's cache is kept small meanwhile."""
        super().start(jobs, spec)
        if self._cache is not None and self._cache.shrunk:
            self.say(CACHE)

    def _show_button(self, text: str, *, enabled: bool, tooltip: str) -> None:
        """The button that cancels the job."""
        self._run_view.show_run(text, enabled=enabled, tooltip=tooltip)

    def say(self, line: str) -> None:
        """Show a message of the job."""
        self._lines.append(line)
        self._run_view.show_messages(self._lines[-self.LINES :])

    @property
    def duration(self) -> str:
        """Time since the click, as text: also what the engine took to load, and to receive the scan."""
        return format_duration(time.monotonic() - self._clicked)

    def say_done(self, device: str, more: str = "") -> None:
        """Say that it is done: after what time, on what device, and what else there is to know."""
        self.say(f"Done in {self.duration} on {device.partition(' (')[0]}. {more}".rstrip())

    def show_error(self, reason: str, details: str) -> None:
        """As of `JobRun`."""
        self.failure.details = details
        self._run_view.show_error(self._texts.broken.format(reason=reason), details=True)

    def over(self) -> None:
        """Leave the activity dock."""
        self._activity.close()

    @property
    def handlers(self) -> Handlers:
        """Handlers that all jobs share."""
        return {
            StageStarted: lambda stage: self.say(stage.message),
            Working: lambda working: self._run_view.show_progress(0, 0, working.message),
            TileDone: self._show_tile,
            Failed: self._fail,
            Cancelled: lambda _: self.say("Canceled."),
        }

    def _show_tile(self, tile: TileDone) -> None:
        left = self._time.text(tile.part, 1.0, tile.seconds_left)
        done, total = (tile.done, tile.total) if tile.share is None else (int(BAR * tile.share), BAR)
        text = f"{self._texts.doing}: {100 * done // total} %" + (f", {left}" if left else "")
        self._run_view.show_progress(done, total, text)
        self._activity.show_progress(done, total)

    def _fail(self, failed: Failed) -> None:
        self.failure.details = failed.details
        self._run_view.show_error(str(failed.error), details=bool(failed.details))
