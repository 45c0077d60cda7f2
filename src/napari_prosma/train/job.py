"""One training from the click to its model."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_prosma.each import each
from napari_prosma.jobs.boundary import Jobs
from napari_prosma.jobs.run import Handlers, RunTexts, ShownRun
from napari_prosma.train.presenter import AbstractTrainView
from napari_prosma.train.preview import Preview
from napari_prosma.train.requests import Order
from prosma_core.engine.messages import ArrayReady, Cancelled, Finished, TrainResult
from prosma_core.errors import ProsmaError, TrainingError
from prosma_core.events import EpochDone, PreviewDone, StepDone
from prosma_core.printable import format_duration
from prosma_core.runs.run_folder import RunFolder, history_row
from prosma_core.runs.run_state import KeptModel, got_worse, keep_stopped, read_history

_LOG = logging.getLogger(__name__)

TEXTS = RunTexts(
    cancel="Stop",
    cancel_tooltip="Stop within one step; what was learned so far is kept.",
    cancelling="Stopping…",
    cancelling_tooltip="The engine finishes its current step.",
    broken="The training could not be shown: {reason}. Resume it below.",
)


@dataclass(frozen=True)
class TrainingResult:
    """What came of a training: a model, and whether it was worth it.

    Attributes
    ----------
    model : Path
    before : dict of str to float, or None
        Dice of the model it started from, by class.
    after : dict of str to float
    words : str
        Both as text.
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


class TrainJob(ShownRun):
    """A running, then finished, training.

    Parameters
    ----------
    order : Order
    view : AbstractTrainView
    jobs : Jobs
    preview : Preview
        What shows the present prediction; it is told of arrays and ends.
    over : callable
        Called once, with the training, when it is over and what it reached is kept.

    Attributes
    ----------
    outcome : TrainingResult or None
        None while it runs, and where it reached nothing.
    advanced : bool
        Whether it has finished an epoch.
    """

    def __init__(
        self, order: Order, view: AbstractTrainView, jobs: Jobs, preview: Preview, over: Callable[[TrainJob], None]
    ) -> None:
        self.order = order
        self.outcome: TrainingResult | None = None
        self.advanced = self._left_behind = False
        self._view, self._jobs, self._preview, self._told = view, jobs, preview, over
        self._rows: list[dict[str, Any]] = []
        self._epochs, self._left = "", ""
        view.show_training()
        super().__init__(view, TEXTS, f"ProSMA: training {order.name}")
        self._show_history(_known_rows(order.folder))
        self.start(jobs, order.spec)
        preview.begin(self.job)

    def abandon(self) -> None:
        """The widget is gone: stop, without a word to it. The run is listed where it is opened again."""
        each("A training could not be left", super().abandon, self._preview.end)

    # --- Messages of the engine, in the GUI thread ------------------------------------------------------------------

    @property
    def handlers(self) -> Handlers:
        """As of `JobRun`."""
        own: Handlers = {
            StepDone: self._show_step,
            EpochDone: self._show_epoch,
            ArrayReady: lambda ready: self._preview.take(ready.array, self.order),
            PreviewDone: lambda done: self._preview.refresh(done.epoch, done.seconds),
            Finished: self._finish,
            Cancelled: lambda _: self.say("Stopped."),
        }
        return {**super().handlers, **own}

    def over(self) -> None:
        """The engine has ended it; what a training has reached that did not come to its end is kept."""
        if self.outcome is not None or self.abandoned:
            self._end()
            return
        try:
            self._keep()
        except Exception:  # shown by `JobRun`; the widget must be ready again
            self._end()
            raise

    def _show_step(self, step: StepDone) -> None:
        text = f"Epoch {step.epoch}{self._epochs}, step {step.step} of {step.steps}{self._left}"
        self._view.show_progress(step.step, step.steps, text)
        self._view.show_step(step.epoch - 1 + step.step / step.steps, step.loss)
        self._activity.show_progress(step.step, step.steps)

    def _show_epoch(self, epoch: EpochDone) -> None:
        self._epochs = f" of {epoch.epochs}"
        self._left = "" if epoch.seconds_left is None else f", about {format_duration(epoch.seconds_left)} left"
        self._preview.epoch_seconds = epoch.seconds
        self.advanced = True
        self._show_history([*self._rows, history_row(epoch)])

    def _show_history(self, rows: list[dict[str, Any]]) -> None:
        self._rows = rows
        self._view.show_history(rows, self.order.classes)

    # --- Its end ----------------------------------------------------------------------------------------------------

    def _finish(self, message: Finished) -> None:
        result = message.result
        assert isinstance(result, TrainResult)
        self.outcome = TrainingResult(Path(result.model), result.before, result.dice, result.words, result.held_out)
        self.say(f"Done in {format_duration(result.seconds)} on {result.device.partition(' (')[0]}.")

    def _keep(self) -> None:
        """Make a model of what a training has reached that did not come to its end; one that is there may stay."""
        self._view.unfold_runs()  # where it can go on
        if not (self.order.spec.owned.is_set() or self.advanced):
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
        if not self.abandoned:
            self.outcome = training_result_of(kept)
            self.say(f"The model of epoch {kept.epoch} is kept.")
        self._end()

    def _not_kept(self, error: Exception) -> None:
        if not self.abandoned:
            self.say("There is no model yet." if isinstance(error, TrainingError) else str(error))
        self._end()

    def _end(self) -> None:
        if self._left_behind:
            return
        self._left_behind = True
        each("A training that is over could not be tidied up", self._preview.end, super().over)
        if not self.abandoned:
            self._told(self)


def training_result_of(kept: KeptModel) -> TrainingResult:
    """Outcome of a run that was stopped, or killed."""
    return TrainingResult(kept.path, kept.before, kept.dice, kept.words, kept.held_out)


def _known_rows(folder: RunFolder) -> list[dict[str, Any]]:
    """Epochs that a resumed run has behind it."""
    try:
        return read_history(folder)
    except ProsmaError as error:
        _LOG.warning("%s", error)
        return []
