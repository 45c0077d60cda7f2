"""The trainings of one widget: begin, stop, go on with one, and what becomes of their models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from napari_prosma._shared.session import Session
from napari_prosma.train.orders import new_order, resumed_order
from napari_prosma.train.pair_list import PairList
from napari_prosma.train.pairs import Pair
from napari_prosma.train.preview import Preview
from napari_prosma.train.run import Order, Outcome, Training, outcome_of
from napari_prosma.train.runs import list_runs
from napari_prosma.train.saving import Autosave
from napari_prosma.train.state import Plan
from prosma_core.config.model import ClassInfo
from prosma_core.errors import ProsmaError
from prosma_core.io.run_folder import RunFolder
from prosma_core.io.stopped_run import KeptModel, RunState, keep_stopped

if TYPE_CHECKING:
    from napari_prosma.train.view import TrainView


class Trainings:
    """Runs one training at a time.

    Parameters
    ----------
    view : TrainView
    session : Session
    pairs : PairList
    preview : Preview
    changed : callable
        Called when a training has ended, or another model is there.

    Attributes
    ----------
    run : Training or None
        The running training.
    outcome : Outcome or None
        What the last one reached.
    """

    def __init__(
        self, view: TrainView, session: Session, pairs: PairList, preview: Preview, changed: Callable[[], None]
    ) -> None:
        self.run: Training | None = None
        self.outcome: Outcome | None = None
        self._failure = ""
        self._view, self._session, self._preview, self._changed = view, session, preview, changed
        self._pairs = pairs
        self._autosave = Autosave(session.jobs, pairs)

    def start(self, plan: Plan, classes: Sequence[ClassInfo]) -> None:
        """Train on the pairs as they are."""
        pairs = self._pairs.pairs
        self._begin(new_order(plan, pairs, classes), pairs)

    def resume(self, state: RunState, more_epochs: int | None, device: str) -> None:
        """Go on with an earlier run, to its end or for more epochs than it was meant to have."""
        try:
            order = resumed_order(state, more_epochs, device)
        except ProsmaError as error:
            self._say(error)
            return
        self._begin(order, ())

    def keep(self, state: RunState) -> None:
        """Make a model of what a stopped or killed run has reached."""
        folder = RunFolder.beside(state.out)

        def done(kept: KeptModel) -> None:
            self._take(outcome_of(kept))
            self._changed()

        self._session.jobs.run(lambda: keep_stopped(folder), done, self._say)

    def show_runs(self) -> None:
        """Show the runs there are."""
        self._view.show_runs(list_runs(self._session.models_folder))

    def details(self) -> str:
        """What the engine said about the last failure."""
        return self._failure or self._session.jobs.log()

    def close(self) -> None:
        """Stop what runs; it is listed where the widget is opened again."""
        if self.run is not None:
            self.run.abandon()
        self._autosave.end()

    def _begin(self, order: Order, pairs: Sequence[Pair]) -> None:
        self._view.show_error("", details=False)
        self._view.hide_outcome()
        self._autosave.begin(order.folder, pairs)
        self.run = Training(order, self._view, self._session.jobs, self._preview, self._over)

    def _over(self, run: Training) -> None:
        self.run, self._failure = None, run.details
        self._autosave.end()
        self._view.show_running(False)
        if run.outcome is not None:
            self._take(run.outcome)
        self._changed()

    def _take(self, outcome: Outcome) -> None:
        """Show what was reached; Segment knows the model at once, and takes it unless it became worse."""
        self.outcome = outcome
        self._view.show_outcome(outcome.before, outcome.after, outcome.words, outcome.held_out)
        try:
            entry = self._session.add_model(outcome.model)
        except ProsmaError as error:
            self._say(error)
            return
        if not outcome.worse:
            self._session.prefer(entry)

    def _say(self, words: object) -> None:
        self._view.show_error(str(words), details=False)
