"""One training from the click to its model."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_prosma._shared.engine_job import Preparation, is_last
from napari_prosma._shared.guarded import each, guarded
from napari_prosma._shared.jobs import Jobs
from napari_prosma._shared.progress_panel import ActivityProgress, clock
from napari_prosma.train.preview import Preview
from prosma_core.config.model import ClassInfo
from prosma_core.engine.client import ArrayReady, Cancelled, Engine, Failed, Finished, Message
from prosma_core.engine.messages import TrainResult
from prosma_core.errors import ProsmaError, TrainingError
from prosma_core.events import EpochDone, PreviewDone, StageStarted, StepDone, Working
from prosma_core.io.comparison import got_worse
from prosma_core.io.run_folder import RunFolder, history_row
from prosma_core.io.stopped_run import KeptModel, keep_stopped, read_history

if TYPE_CHECKING:
    from napari_prosma.train.view import TrainView

_LOG = logging.getLogger(__name__)

LINES = 6
"""Messages of the job that are shown, the latest ones."""


@dataclass(frozen=True)
class Order:
    """What is to be trained.

    Attributes
    ----------
    name : str
    folder : RunFolder
    classes : tuple of ClassInfo
        For the colors of curves and preview.
    prepare : callable
        As of `Jobs.submit`.
    owned : Event
        Set where the run folder is known to be this run's: a name that was free can be another's a moment later.
    """

    name: str
    folder: RunFolder
    classes: tuple[ClassInfo, ...]
    prepare: Callable[[Engine], Preparation]
    owned: threading.Event


@dataclass(frozen=True)
class Outcome:
    """What came of a training: a model, and whether it was worth it.

    Attributes
    ----------
    model : Path
    before : dict of str to float, or None
        Dice of the model it started from, by class.
    after : dict of str to float
    words : str
        Both in words.
    held_out : str
        What the figures mean.
    """

    model: Path
    before: dict[str, float] | None
    after: dict[str, float]
    words: str
    held_out: str

    @property
    def worse(self) -> bool:
        """Whether fine-tuning made the model worse."""
        return self.before is not None and got_worse(self.before, self.after)


class Training:
    """A running, then finished, training.

    Parameters
    ----------
    order : Order
    view : TrainView
    jobs : Jobs
    preview : Preview
        What shows the present prediction; it is told of arrays and ends.
    over : callable
        Called once, with the training, when it is over and what it reached is kept.

    Attributes
    ----------
    outcome : Outcome or None
        None while it runs, and where it reached nothing.
    details : str
        What the engine said of a failure.
    job : EngineJob
    advanced : bool
        Whether it has finished an epoch.
    """

    def __init__(
        self, order: Order, view: TrainView, jobs: Jobs, preview: Preview, over: Callable[[Training], None]
    ) -> None:
        self.order, self.details = order, ""
        self.outcome: Outcome | None = None
        self._view, self._jobs, self._preview, self._over = view, jobs, preview, over
        self._rows: list[dict[str, Any]] = []
        self._lines: list[str] = []
        self._epochs, self._left = "", ""
        self._stopping = self._abandoned = self._ended = self._broken = self.advanced = False
        view.show_training()
        view.show_run("Stop", enabled=True, tooltip="Stop within one step; what was learned so far is kept.")
        view.show_progress(0, 0, "Starting…")
        view.show_messages(())
        self._show_history(_known_rows(order.folder))
        self._activity = ActivityProgress(f"ProSMA: training {order.name}", self.stop)
        self.job = jobs.submit(order.prepare, self._receive)
        preview.begin(self.job)

    def stop(self) -> None:
        """Ask the engine to stop; what was reached is kept."""
        if self._stopping:
            return
        self._stopping = True
        self._view.show_run("Stopping…", enabled=False, tooltip="The engine finishes its current step.")
        self.job.cancel()

    def abandon(self) -> None:
        """The widget is gone: stop, without a word to it. The run is listed where it is opened again."""
        self._stopping = self._abandoned = True
        each("A training could not be left", self.job.cancel, self._preview.end)

    # --- Messages of the engine, in the GUI thread ------------------------------------------------------------------

    def _receive(self, message: Message) -> None:
        if self._ended:
            return
        last = is_last(message)
        take_in = self._after_error if self._broken else self._take_in
        cancel, failed = self.job.cancel, lambda reason, details: self._not_shown(reason, details, last=last)
        guarded(message, take_in, cancel=cancel, failed=failed, over=self._end)

    def _not_shown(self, reason: str, details: str, *, last: bool) -> None:
        """Show why a message could not be shown; what was reached is kept as soon as the engine has stopped."""
        if last and self._broken:
            self._end()
            return
        self._broken, self.details = True, details
        words = f"The training could not be shown: {reason}. Resume it below."
        self._view.show_error(words, details=True)
        if last:
            self._keep()

    def _after_error(self, message: Message) -> None:
        if is_last(message):
            self._keep()

    def _take_in(self, message: Message) -> None:
        if self._abandoned:
            if is_last(message):
                self._end()
        elif isinstance(message, StepDone):
            self._show_step(message)
        elif isinstance(message, EpochDone):
            self._show_epoch(message)
        elif isinstance(message, StageStarted):
            self.say(message.message)
        elif isinstance(message, Working):
            self._view.show_progress(0, 0, message.message)
        elif isinstance(message, ArrayReady):
            self._preview.take(message.array, self.order)
        elif isinstance(message, PreviewDone):
            self._preview.refresh(message.epoch, message.seconds)
        elif isinstance(message, Finished) and isinstance(message.result, TrainResult):
            self._finish(message.result)
        elif isinstance(message, Failed):
            self._fail(message)
        elif isinstance(message, Cancelled):
            self.say("Stopped.")
            self._keep()

    def _show_step(self, step: StepDone) -> None:
        text = f"Epoch {step.epoch}{self._epochs}, step {step.step} of {step.steps}{self._left}"
        self._view.show_progress(step.step, step.steps, text)
        self._view.show_step(step.epoch - 1 + step.step / step.steps, step.loss)
        self._activity.show_progress(step.step, step.steps)

    def _show_epoch(self, epoch: EpochDone) -> None:
        self._epochs = f" of {epoch.epochs}"
        self._left = "" if epoch.seconds_left is None else f", about {clock(epoch.seconds_left)} left"
        self._preview.epoch_seconds = epoch.seconds
        self.advanced = True
        self._show_history([*self._rows, history_row(epoch)])

    def _show_history(self, rows: list[dict[str, Any]]) -> None:
        self._rows = rows
        self._view.show_history(rows, self.order.classes)

    # --- Its end ----------------------------------------------------------------------------------------------------

    def _finish(self, result: TrainResult) -> None:
        self.outcome = Outcome(Path(result.model), result.before, result.dice, result.words, result.held_out)
        self.say(f"Done in {clock(result.seconds)} on {result.device.partition(' (')[0]}.")
        self._end()

    def _fail(self, failed: Failed) -> None:
        self.details = failed.details
        self._view.show_error(str(failed.error), details=bool(failed.details))
        self._keep()

    def _keep(self) -> None:
        """Make a model of what a training has reached that did not come to its end; one that is there may stay."""
        self._view.unfold_runs()  # where it can go on
        if not (self.order.owned.is_set() or self.advanced):
            self.say("There is no model yet.")
            self._end()
            return
        if not self.advanced and self.order.folder.model.is_file():
            self.say("No epoch was finished: the model is as it was.")
            self._end()
            return
        self._view.show_progress(0, 0, "Keeping what was learned so far…")
        self._jobs.run(lambda: keep_stopped(self.order.folder), self._kept, self._not_kept, lasting=True)

    def _kept(self, kept: KeptModel) -> None:
        if not self._abandoned:
            self.outcome = outcome_of(kept)
            self.say(f"The model of epoch {kept.epoch} is kept.")
        self._end()

    def _not_kept(self, error: Exception) -> None:
        if not self._abandoned:
            self.say("There is no model yet." if isinstance(error, TrainingError) else str(error))
        self._end()

    def _end(self) -> None:
        if self._ended:
            return
        self._ended = True
        each("A training that is over could not be tidied up", self._preview.end, self._activity.close)
        if not self._abandoned:
            self._over(self)

    def say(self, line: str) -> None:
        """Show a message of the job."""
        self._lines.append(line)
        self._view.show_messages(self._lines[-LINES:])


def outcome_of(kept: KeptModel) -> Outcome:
    """Outcome of a run that was stopped, or killed."""
    return Outcome(kept.path, kept.before, kept.dice, kept.words, kept.held_out)


def _known_rows(folder: RunFolder) -> list[dict[str, Any]]:
    """Epochs that a resumed run has behind it."""
    try:
        return read_history(folder)
    except ProsmaError as error:
        _LOG.warning("%s", error)
        return []
