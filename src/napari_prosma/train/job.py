"""Training job: from request to model, with a preview on the scan in view."""

from __future__ import annotations

import contextlib
import logging
import re
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.layers import Image, Labels
from numpy.typing import NDArray

from napari_prosma.cleanup import run_all
from napari_prosma.jobs.boundary import EngineJob, JobName, Jobs
from napari_prosma.jobs.run import Handlers, RunTexts, ShownRun
from napari_prosma.layers.results import PREVIEW, add_layer_keep_selection, is_result, labels_layer
from napari_prosma.layers.scan import METADATA, LayerScan, read
from napari_prosma.layers.slices import remember
from napari_prosma.train.presenter import AbstractTrainView
from napari_prosma.train.requests import TrainingOrder
from prosma_core.config.training import MOST_EPOCHS
from prosma_core.engine.messages import ArrayReady, Cancelled, Finished, TrainResult
from prosma_core.errors import ProsmaError, TrainingError
from prosma_core.events import EpochDone, LabelsTaken, PreviewDone, SlicesUnsure, StepDone, Working
from prosma_core.printable import format_duration
from prosma_core.runs.run_folder import RunFolder, history_row
from prosma_core.runs.run_state import KeptModel, got_worse, keep_stopped, read_history

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_prosma.train.pairs import Pair
    from napari_prosma.train.requests import TrainingOrder


SMALL = 4_000_000
"""Voxels up to which a scan is shown unless the user says otherwise."""
SLOW = 0.25
"""Share of an epoch that a preview may take; one that takes longer, and longer than `SHORT`, is switched off."""
SHORT = 5.0
"""Seconds of a preview that holds up nobody, also where epochs are short."""


class TrainingPreview:
    """Shows the current prediction on a scan of the viewer while a training runs.

    Parameters
    ----------
    viewer : ViewerModel
    view : AbstractTrainView

    Attributes
    ----------
    epoch_seconds : float
        What the last epoch took; 0 while it is not known.
    unsure : tuple of (Image, SlicesUnsure), or None
        The scan that is predicted on, and how unsure the model in training was last of its slices.
    awaited : bool
        Whether new labels were handed over, so that it is looked at: it is not switched off.
    """

    def __init__(self, viewer: ViewerModel, view: AbstractTrainView) -> None:
        self.epoch_seconds = 0.0
        self.unsure: tuple[Image, SlicesUnsure] | None = None
        self.awaited = False
        self._viewer, self._view = viewer, view
        self._job: EngineJob | None = None
        self._began = time.monotonic()
        self._layer: Image | None = None
        self._wanted: bool | None = None
        self._shown: Labels | None = None
        self._of: Image | None = None  # what `_scan` was read from
        self._scan: LayerScan | None = None
        self._painted = self._light = False

    def choose(self, layer: Image | None) -> None:
        """Choose the scan to predict on; a training that runs keeps the one it has until that is closed."""
        if self._job is None or self._layer is None:
            self._layer = layer
            self._tell(self._default, "")
            if self._job is not None and layer is not None:
                self._ask(self._job)

    def leave(self, layer: object) -> None:
        """The scan of a layer is closed: its prediction goes, unless it was painted in."""
        if self.unsure is not None and self.unsure[0] is layer:
            self.unsure = None
        if self._of is layer:
            if not self._painted:
                self._remove()
            self.release()
            self._of = self._scan = None
        if self._layer is layer:
            self._layer = None
            if self._job is not None:
                self._job.preview(None)

    def toggle(self, wanted: bool) -> None:
        """Turn the preview on or off."""
        self._wanted = wanted
        if not wanted:
            self.unsure = None  # it says nothing of a model that learns on
        self._tell(wanted, "")
        if wanted and self._shown is not None and self._shown not in self._viewer.layers:
            add_layer_keep_selection(self._viewer, self._shown)  # the user had deleted it
        if self._job is not None:
            self._ask(self._job)

    def clear(self, keep: Collection[Any] = ()) -> None:
        """Remove the prediction of the previous training, unless it was painted in or is in `keep`."""
        if self._shown is not None and not self._painted and all(self._shown is not layer for layer in keep):
            self._remove()
        self.release()

    def release(self) -> None:
        """Leave the prediction of the previous training to the viewer."""
        if self._shown is not None:
            self._shown.events.paint.disconnect(self._on_paint)
        self._shown, self._painted = None, False

    def begin(self, job: EngineJob) -> None:
        """A training has begun."""
        self._job, self._began, self.awaited, self.unsure = job, time.monotonic(), False, None
        self._tell(self._default, "")
        if self._default:
            self._ask(job)

    def take(self, array: NDArray[Any], order: TrainingOrder) -> None:
        """Show an array into which predictions are written."""
        if self._scan is None or not self._default or array.shape != self._scan.spec.labels_spec().shape:
            return
        notes = {"model": f"{order.name} (in training)"}
        self._remove()  # that of the scan that was handed over before
        self._shown = labels_layer(self._scan, array, order.classes, f"{self._scan.name} preview", notes)
        self._shown.editable = False  # the next epoch would paint over it
        self._shown.metadata[METADATA][PREVIEW] = True
        add_layer_keep_selection(self._viewer, self._shown)

    def know(self, slices: SlicesUnsure) -> None:
        """Keep how unsure the model is of the slices of the scan."""
        if self._layer is not None and self._default:
            self.unsure = self._layer, slices

    def refresh(self, done: PreviewDone) -> None:
        """Show a new prediction, and say after what time of training it is, and how good."""
        if self._shown is None:
            return
        if self._shown not in self._viewer.layers:  # the user has deleted it
            self.toggle(False)
            return
        self._shown.refresh()  # with its thumbnail: once an epoch
        dice = "" if done.mean_dice is None else f", Dice {done.mean_dice:.2f} on {done.dice_on}"
        self._light = done.light
        by = ", light model (preview only)" if done.light else ""
        text = f"Epoch {done.epoch}, {format_duration(time.monotonic() - self._began)}{by}{dice}."
        slow = self.epoch_seconds and done.seconds > max(SHORT, SLOW * self.epoch_seconds)
        if self._wanted is None and slow and not self.awaited:
            self._wanted, self.unsure = False, None
            self._tell(False, f"{text} That holds up training: switched off.")
            if self._job is not None:
                self._job.preview(None)
        else:
            self._tell(self._default, text)

    def end(self) -> None:
        """The training is over; its last prediction stays until the next one begins."""
        self._job = None
        if self._light:
            self._light = False
            self._tell(self._default, "The preview is the light model's. Segment the scan to see the trained model's.")
        if self._shown is not None:
            with contextlib.suppress(ProsmaError):  # it cannot be told what will be painted in it
                remember(self._shown)
            self._shown.editable = True
            self._shown.events.paint.connect(self._on_paint)
        if self._wanted is False:
            self._wanted = None

    def _remove(self) -> None:
        if self._shown is not None and self._shown in self._viewer.layers:
            self._viewer.layers.remove(self._shown)

    def _on_paint(self, _event: Any) -> None:
        self._painted = True

    @property
    def _default(self) -> bool:
        """Whether it is on: as the user said, else where it is quick."""
        if self._layer is None:
            return False
        return self._wanted if self._wanted is not None else prod(self._layer.data.shape) <= SMALL

    def _ask(self, job: EngineJob) -> None:
        if not self._default or self._layer is None:
            job.preview(None)
            return
        try:
            self._scan, self._of = read(self._layer), self._layer
        except ProsmaError as error:
            self._tell(False, str(error))
            return
        job.preview(self._scan)

    def _tell(self, checked: bool, text: str) -> None:
        self._view.show_preview(checked=checked, enabled=self._layer is not None, text=text)


def scan_in_view(viewer: ViewerModel, pairs: Sequence[Pair]) -> Image | None:
    """The scan to show predictions on: the active image, else the first of the pairs, else the topmost image."""
    images = [viewer.layers.selection.active, *(pair.image.layer for pair in pairs), *reversed(viewer.layers)]
    channels = [layer for pair in pairs if pair.image.others for layer in pair.image.layers]  # no scans by themselves
    images = [layer for layer in images if layer not in channels]
    there = (layer for layer in images if isinstance(layer, Image) and layer in viewer.layers)
    return next((layer for layer in there if not is_result(layer)), None)


_LOG = logging.getLogger(__name__)

TEXTS = RunTexts(
    cancel="Stop",
    cancel_tooltip="Stop within one step; what was learned so far is kept.",
    cancelling="Stopping…",
    cancelling_tooltip="Stops after the current step.",
    doing="Predicting",
    broken="The training could not be shown: {reason}. Resume it below.",
)


EPOCH = re.compile(r"\bepoch \d+")
"""Where a line names its epoch by itself."""
NO_EPOCH = "No epoch was finished: there is no model yet. Resume, under Earlier runs, begins anew."


@dataclass(frozen=True)
class TrainedModel:
    """Model of a training, with Dice before and after.

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
        return self.before is not None and got_worse(self.before, self.after, self.held_out)


class TrainJob(ShownRun):
    """A running, then finished, training.

    Parameters
    ----------
    order : TrainingOrder
    view : AbstractTrainView
    jobs : Jobs
    preview : TrainingPreview
        What shows the present prediction; it is told of arrays and ends.
    over : callable
        Called once, with the training, when it is over and what it reached is kept.

    Attributes
    ----------
    outcome : TrainedModel or None
        None while it runs, and where it reached nothing.
    advanced : bool
        Whether it has finished an epoch.
    labels_taken : callable
        Told of labels that changed meanwhile and are learned now.
    """

    NAME = JobName("A training", "ProSMA Train")
    LINES = 6

    def __init__(
        self,
        order: TrainingOrder,
        view: AbstractTrainView,
        jobs: Jobs,
        preview: TrainingPreview,
        over: Callable[[TrainJob], None],
    ) -> None:
        self.order = order
        self.outcome: TrainedModel | None = None
        self.advanced = self._left_behind = False
        self.labels_taken: Callable[[LabelsTaken], None] = lambda _: None
        self._view, self._jobs, self._preview, self._told = view, jobs, preview, over
        self._rows: list[dict[str, Any]] = []
        self._epoch, self._epochs, self._left = "", "", ""
        view.show_training()
        super().__init__(view, TEXTS, f"ProSMA: training {order.name}")
        self._show_history(_known_rows(order.folder))
        self.start(jobs, order.spec)
        preview.begin(self.job)

    def abandon(self) -> None:
        """Cancel for a widget that is deleted; the run is listed when the widget is opened again."""
        run_all("A training could not be left", super().abandon, self._preview.end)

    # --- Messages of the engine, in the GUI thread ------------------------------------------------------------------

    @property
    def handlers(self) -> Handlers:
        """As of `JobRun`."""
        own: Handlers = {
            StepDone: self._show_step,
            EpochDone: self._show_epoch,
            ArrayReady: lambda ready: self._preview.take(ready.array, self.order),
            LabelsTaken: lambda labels: self.labels_taken(labels),
            PreviewDone: self._preview.refresh,
            SlicesUnsure: self._preview.know,
            Finished: self._finish,
            Cancelled: lambda _: self.say("Stopped."),
            Working: self._show_work,
        }
        return {**super().handlers, **own}

    def over(self) -> None:
        """End the job; of a training that did not finish, the model reached so far is kept."""
        if self.outcome is not None or self.abandoned:
            self._end()
            return
        try:
            self._keep()
        except Exception:  # shown by `JobRun`; the widget must be ready again
            self._end()
            raise

    def _show_work(self, working: Working) -> None:
        """Show what is done between two steps: of which epoch, and how long the training takes."""
        words = working.message
        if own := EPOCH.search(words):
            words = f"{words[: own.end()]}{self._epochs}{words[own.end() :]}"
        elif self._epoch:
            words = f"{self._epoch.capitalize()}{self._epochs}, {words[:1].lower()}{words[1:]}"
        self._view.show_progress(0, 0, words, self._left)

    def _show_step(self, step: StepDone) -> None:
        self._epoch = f"epoch {step.epoch}"
        self._epochs = _of(step.epochs) if step.epochs is not None else self._epochs
        self._left = _left(step.seconds_left) or self._left
        text = f"{self._epoch.capitalize()}{self._epochs}, step {step.step} of {step.steps}{self._left}"
        self._view.show_progress(step.step, step.steps, text)
        self._view.show_step(step.epoch - 1 + step.step / step.steps, step.loss)
        self._activity.show_progress(step.step, step.steps)

    def _show_epoch(self, epoch: EpochDone) -> None:
        self._epoch, self._epochs = f"epoch {epoch.epoch}", _of(epoch.epochs)
        self._left = _left(epoch.seconds_left)
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
        self.outcome = TrainedModel(Path(result.model), result.before, result.dice, result.words, result.held_out)
        self._say_no_more(result.held_out)
        self.say_done(result.device)

    def _say_no_more(self, words: str) -> None:
        """Take a line away that stands with the Dice from now on."""
        self._lines = [line for line in self._lines if line != words]

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
            self.outcome = trained_model_of(kept)
            self._say_no_more(kept.held_out)
            self.say(f"The model of epoch {kept.epoch} is kept.")
        self._end()

    def _not_kept(self, error: Exception) -> None:
        if not self.abandoned:
            self.say(NO_EPOCH if isinstance(error, TrainingError) else str(error))
        self._end()

    def _end(self) -> None:
        if self._left_behind:
            return
        self._left_behind = True
        run_all("A training that is over could not be tidied up", self._preview.end, super().over)
        if not self.abandoned:
            self._told(self)


def _of(epochs: int) -> str:
    """How many epochs there are, where time alone does not end the training."""
    return f" of {epochs}" if epochs < MOST_EPOCHS else ""


def _left(seconds: float | None) -> str:
    """Time left, empty where it is not known and at the end."""
    return f", about {format_duration(seconds)} left" if seconds else ""


def trained_model_of(kept: KeptModel) -> TrainedModel:
    """Model of a run that was stopped or killed."""
    return TrainedModel(kept.path, kept.before, kept.dice, kept.words, kept.held_out)


def _known_rows(folder: RunFolder) -> list[dict[str, Any]]:
    """Epochs that a resumed run has behind it."""
    try:
        return read_history(folder)
    except ProsmaError as error:
        _LOG.warning("%s", error)
        return []
