"""Manager of a widget's trainings: start, stop, resume, and their models."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from napari.utils.notifications import show_warning

from napari_prosma.cleanup import run_all
from napari_prosma.jobs.run import Failure
from napari_prosma.jobs.session import ScanMark, Session
from napari_prosma.scan.selection import mark_of
from napari_prosma.train.autosave import Autosave
from napari_prosma.train.export_pairs import left_out, unlearned
from napari_prosma.train.job import TrainedModel, TrainingPreview, TrainJob, trained_model_of
from napari_prosma.train.live import LiveLabels
from napari_prosma.train.pair_list import PairList
from napari_prosma.train.pairs import Pair, PairRow
from napari_prosma.train.presenter import AbstractTrainView
from napari_prosma.train.requests import NewTraining, ResumedTraining, TrainingOrder, run_classes
from napari_prosma.train.run_library import list_runs, save_as
from napari_prosma.train.sources import image_scan
from napari_prosma.train.state import TrainPlan
from prosma_core.config.model import ClassInfo
from prosma_core.data.fit import model_modality
from prosma_core.data.look import kind_from
from prosma_core.errors import EngineBusyError, ProsmaError
from prosma_core.events import LabelsTaken
from prosma_core.io.bundle import ModelEntry
from prosma_core.io.dicom import dicom_modality
from prosma_core.printable import plain
from prosma_core.runs.run_folder import RunFolder
from prosma_core.runs.run_state import KeptModel, RunState, keep_stopped

_LOG = logging.getLogger(__name__)


NOT_LIVE = "Several GPUs do not learn what is painted meanwhile: it is for the next training."
"""Said where a training with several GPUs is chosen or runs."""


class TrainingManager:
    """Runs one training at a time.

    Parameters
    ----------
    view : AbstractTrainView
    session : Session
    pairs : PairList
    preview : TrainingPreview
    changed : callable
        Called when a training has ended, or another model is there.
    begun : callable
        Told where the failure of a training that begins will be.

    Attributes
    ----------
    run : TrainJob or None
        The running training.
    outcome : TrainedModel or None
        What the last one reached.
    held_out : str
        What the result that is shown says of the validation; empty where none is.
    """

    def __init__(
        self,
        view: AbstractTrainView,
        session: Session,
        pairs: PairList,
        preview: TrainingPreview,
        changed: Callable[[], None],
        begun: Callable[[Failure], None],
    ) -> None:
        self.run: TrainJob | None = None
        self.outcome: TrainedModel | None = None
        self.held_out = ""
        self._begun: Sequence[PairRow] = ()  # pairs of a new training; none of a resumed run, whose files are its own
        self._view, self._session, self._preview, self._changed = view, session, preview, changed
        self._tell_begun = begun
        self._pairs = pairs
        self._beginning = self._closed = False
        self._runs_asked = 0
        self._autosave: Autosave | None = None
        self._live: LiveLabels | None = None
        self._learns = bool(session.recall("live", True))
        self._gpus = 1
        self._show_live()

    @property
    def running(self) -> bool:
        """Whether a training runs, or begins: napari's progress bar lets the event loop run meanwhile."""
        return self.run is not None or self._beginning

    def start(self, plan: TrainPlan, classes: Sequence[ClassInfo]) -> str:
        """Train on the pairs as they are; why that cannot begin, else empty."""
        folder = RunFolder.beside(plan.out)
        spec = NewTraining(plan, self._pairs.pairs, folder)
        return self._begin(TrainingOrder(plan.out.stem, folder, tuple(classes), spec), fresh=True)

    def resume(self, state: RunState, more_epochs: int | None, device: str, gpus: int = 1) -> None:
        """Resume an earlier run, to its end or for more epochs than planned."""
        try:
            folder = RunFolder.beside(state.out)
            spec = ResumedTraining(state, more_epochs, device, gpus)
            order = TrainingOrder(state.name, folder, run_classes(folder), spec)
        except ProsmaError as error:
            self._say(error)
            return
        self._begin(order, fresh=False)
        run, pairs = self.run, self._pairs.pairs
        if run is None or run.order is not order or not pairs:
            return

        def told(words: str) -> None:
            if words and run is self.run:
                run.say(words)

        self._session.jobs.run(lambda: left_out(pairs, order.folder), told, lambda _: None)

    def keep(self, state: RunState) -> None:
        """Make a model of what a stopped or killed run has reached."""
        folder = RunFolder.beside(state.out)

        def done(kept: KeptModel) -> None:
            if not self._closed:
                self._take(trained_model_of(kept), ())
                self._changed()

        self._session.jobs.run(lambda: keep_stopped(folder), done, self._say, lasting=True)

    def save_as(self, path: Path) -> None:
        """Copy the model of the last training."""
        if self.outcome is None:
            return
        model = self.outcome.model

        def done(to: Path) -> None:
            if not self._closed:
                self._view.show_messages((f"Saved {to}",))

        self._session.jobs.run(
            lambda: save_as(model, path),
            done,
            lambda error: self._say(f"The model was not saved: {error}"),
            lasting=True,
        )

    def choose_live(self, on: bool) -> None:
        """Whether a training learns what is painted while it runs, from now on."""
        if self._gpus > 1:  # which cannot
            self._show_live()
            return
        self._learns = on
        self._session.remember("live", on)
        if self._live is not None:
            self._live.switch(on)
        else:
            self._show_live()

    def choose_gpus(self, gpus: int) -> None:
        """Among how many GPUs the next training divides its batches: several do not learn what is painted."""
        self._gpus = gpus
        if self._live is None:
            self._show_live()

    def _show_live(self) -> None:
        several = self._gpus > 1
        self._view.show_live(checked=self._learns and not several, text=NOT_LIVE if several else "")

    def pairs_changed(self) -> None:
        """Other pairs are in the list, or others than before."""
        if self._live is not None:
            self._live.listed(self._pairs.pairs)

    def show_runs(self) -> None:
        """Show the runs there are, once they are read: each has files of its own."""
        folder, asked = self._session.models_folder, self._runs_asked + 1
        self._runs_asked = asked

        def done(runs: list[RunState]) -> None:
            if not self._closed and asked == self._runs_asked:
                self._view.show_runs(runs)

        def failed(error: Exception) -> None:
            _LOG.warning("The runs in %s cannot be listed: %s", folder, error)

        self._session.jobs.run(lambda: list_runs(folder), done, failed)

    def close(self) -> None:
        """Stop what runs; it is listed where the widget is opened again."""
        self._closed = True
        saved = self._autosave.end if self._autosave is not None else lambda: None
        live = self._live.end if self._live is not None else lambda: None
        stopped = self.run.abandon if self.run is not None else lambda: None
        run_all("A training could not be left", saved, live, stopped, self._preview.release)

    def _begin(self, order: TrainingOrder, *, fresh: bool) -> str:
        if self._beginning:
            return ""
        self._beginning = True
        try:
            with self._session.jobs.reserve(TrainJob.NAME):
                self._begin_reserved(order, fresh=fresh)
        except EngineBusyError as error:
            self._say(error)
            return str(error)
        finally:
            self._beginning = False
        return ""

    def _begin_reserved(self, order: TrainingOrder, *, fresh: bool) -> None:
        rows = tuple(self._pairs.rows)
        pairs = [row.pair for row in rows]
        self._view.show_error("", details=False)
        self._view.hide_outcome()
        self.held_out = ""
        self._preview.clear(keep=[pair.labels.layer for pair in pairs])
        self._autosave = Autosave(order.folder, pairs, self._session.jobs, self._not_saved, before=self._autosave)
        self._begun = rows if fresh else ()
        self.run = TrainJob(order, self._view, self._session.jobs, self._preview, self._over)
        self._tell_begun(self.run.failure)
        if isinstance(order.spec, NewTraining):
            self._watch(self.run, order.spec)
        else:
            self._view.show_live(checked=self._learns, text="A run that is resumed learns the labels it began with.")

    def _watch(self, run: TrainJob, spec: NewTraining) -> None:
        """Hand labels that are painted from now on to a training."""

        def learns(labels: LabelsTaken) -> None:
            self._preview.awaited = True
            if self._live is not None:
                self._live.taken(labels)

        self._live = LiveLabels(
            spec.pairs,
            lambda: tuple(spec.files),
            run.job,
            self._session.jobs,
            self._view,
            on=self._learns,
            refused=NOT_LIVE if spec.plan.gpus > 1 else "",
        )
        run.labels_taken = learns

    def _over(self, run: TrainJob) -> None:
        if self._live is not None:
            if run.outcome is not None:
                self._say_unlearned(run, self._live.painted)
            self._live.end()
            self._live = None
        self._show_live()
        self.run = None
        if self._begun and not run.order.folder.run_yaml.is_file() and self._all_there(self._begun):
            self._discard(run)
        elif self._autosave is not None:
            self._autosave.end()
        self._view.show_running(False)
        if run.outcome is not None:
            self._take(run.outcome, self._begun)
        self._changed()

    def _say_unlearned(self, run: TrainJob, painted: Sequence[tuple[Pair, Path]]) -> None:
        """Say what was painted too late to be in the model."""

        def told(words: str) -> None:
            if words and not self._closed and self.run in (None, run):
                run.say(words)

        if painted:
            self._session.jobs.run(lambda: unlearned(painted), told, lambda _: None)

    def _take(self, outcome: TrainedModel, rows: Sequence[PairRow]) -> None:
        """Show what was reached, from these pairs if they are known; Segment takes the model unless it became worse."""
        self.outcome, self.held_out = outcome, outcome.held_out
        after: dict[str, float | None] = dict(outcome.after)
        try:
            entry = self._session.add_model(outcome.model)
        except ProsmaError as error:
            self._view.show_outcome(outcome.before, after, outcome.words, outcome.held_out)
            self._say(error)
            return
        after |= {info.name: None for info in entry.header.classes[1:] if info.name not in after}
        self._view.show_outcome(outcome.before, after, outcome.words, outcome.held_out)
        if not outcome.worse:
            self._session.prefer(entry, _mark(rows, entry))

    def _all_there(self, begun: Sequence[PairRow]) -> bool:
        """Whether what is painted is in the viewer still."""
        there = [row.pair for row in self._pairs.rows if not row.closed]
        return all(row.pair in there for row in begun)

    def _discard(self, run: TrainJob) -> None:
        """Remove what a training has written that ended before it began: copies of layers that are all there."""
        autosave, self._autosave = self._autosave, None
        root = run.order.folder.root

        def remove() -> None:
            run.job.wait_prepared()
            if autosave is not None:
                autosave.wait()
                shutil.rmtree(autosave.folder, ignore_errors=True)
            if run.order.spec.owned.is_set():
                shutil.rmtree(root, ignore_errors=True)
            with contextlib.suppress(OSError):
                root.rmdir()  # where it is empty: another training may have the name by now

        if autosave is not None:
            autosave.drop()

        def done(_: object) -> None:
            if not self._closed:
                self._changed()

        self._session.jobs.run(remove, done, self._say)

    def _not_saved(self, error: object) -> None:
        if self._closed:  # nothing of the widget can say it any more
            show_warning(plain(f"What was painted is not saved in the run folder: save its layers yourself. {error}"))
            return
        self._say(f"What is painted is not saved in the run folder for now. {error}")

    def _say(self, words: object) -> None:
        if self._closed:
            show_warning(plain(str(words)))
        else:
            self._view.show_error(str(words), details=False)


def _mark(rows: Sequence[PairRow], model: ModelEntry) -> ScanMark | None:
    """The scan that was trained on, for what is remembered of it; None where no pair tells."""
    row = next((row for row in rows if row.spec is not None), None)
    if row is None or row.spec is None:
        return None
    try:
        if row.pair.image.layer is not None:
            return mark_of(image_scan(row.pair.image))
    except ProsmaError:
        return None
    path = row.pair.image.paths[0]
    modality = dicom_modality(path) if row.spec.format == "dicom" else model_modality(model.header)
    look = model.header.facts.look if model.header.facts else {}
    usual = {str(name): middle for name, (_, middle, _) in look.items()}
    return ScanMark(kind_from(row.spec, modality=modality).text, str(path.parent), usual)
