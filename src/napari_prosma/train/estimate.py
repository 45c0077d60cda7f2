"""How long a training will take on this machine: the engine plans it and times a few steps."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_prosma._shared.engine_job import EngineJob, is_last
from napari_prosma._shared.guarded import each, guarded
from napari_prosma._shared.jobs import Jobs
from napari_prosma._shared.progress_panel import clock
from napari_prosma.train.expectation import Expectation
from napari_prosma.train.orders import plan_preparation, times_request
from napari_prosma.train.pairs import Pair
from napari_prosma.train.state import Choices, Plan, Problem, sized
from prosma_core.engine.client import Failed, Finished, Message
from prosma_core.engine.messages import PlanResult
from prosma_core.errors import ProsmaError
from prosma_core.events import StageStarted, Working
from prosma_core.io.atomic import scratch_folder

if TYPE_CHECKING:
    from napari_prosma.train.view import TrainView


class Estimate:
    """Asks the engine for a plan, and puts it into words.

    Parameters
    ----------
    view : TrainView
    jobs : Jobs
    told : callable
        Called when `times` or `words` changed.
    over : callable
        Called when an estimate is over.
    """

    def __init__(self, view: TrainView, jobs: Jobs, told: Callable[[], None], over: Callable[[], None]) -> None:
        self._times: dict[str, str] = {}
        self._expectation = Expectation(jobs, told)
        self._view, self._jobs, self._told, self._over = view, jobs, told, over
        self._job: EngineJob | None = None
        self._closed = False
        self._preset = ""
        self._what: dict[str, Any] = {}

    @property
    def times(self) -> dict[str, str]:
        """Words for the time of each preset: as estimated for this plan, else as expected."""
        return self._expectation.times | self._times

    @property
    def words(self) -> str:
        """What is to be said where no time is known."""
        return self._expectation.words

    @property
    def running(self) -> bool:
        """Whether one is being made."""
        return self._job is not None

    def begin(self, preset: str, plan: Plan, pairs: Sequence[Pair]) -> None:
        """Estimate the time of a plan, whose preset has this name."""
        try:
            self._jobs.check_idle()
            scratch = ExitStack()
            folder = scratch.enter_context(scratch_folder(Path(tempfile.gettempdir())))
        except ProsmaError as error:
            self._view.show_error(f"The time cannot be estimated: {error}", details=False)
            return
        if _what(plan) != self._what:
            self._times = {}
        self._preset, self._what = preset, _what(plan)

        def listen(message: Message) -> None:
            if is_last(message):
                self._jobs.run(lambda: _remove(scratch, job), lambda _: None, lambda _: None)
            if not self._closed:
                guarded(message, self._receive, cancel=job.cancel, failed=self._not_shown, over=self._over)

        self._view.show_running(True)
        self._view.show_progress(0, 0, "Starting…")
        self._job = job = self._jobs.submit(lambda _: plan_preparation(plan, pairs, folder), listen)

    def cancel(self) -> None:
        """Stop it, where one is made."""
        if self._job is not None:
            self._job.cancel()

    def close(self) -> None:
        """The widget is gone: cancel, without a word to it."""
        self._closed = True
        each("An estimate could not be left", self.cancel, self._expectation.close)

    def plan_is(self, plan: Plan | Problem | None, choices: Choices) -> None:
        """Know what would be trained: times of something else are forgotten, those of the presets are found out."""
        valid = plan if isinstance(plan, Plan) else None
        if self._times and (valid is None or _what(valid) != self._what):
            self._times = {}
            self._told()
        self._expectation.want(times_request(valid, sized(choices), len(choices.classes)) if valid else None)

    def _not_shown(self, reason: str, _details: str) -> None:
        self._job = None
        self._view.show_running(False)
        self._view.show_error(f"The time cannot be shown: {reason}", details=False)
        self._over()

    def _receive(self, message: Message) -> None:
        if self._job is None:  # it could not be shown
            return
        if isinstance(message, StageStarted | Working):
            self._view.show_progress(0, 0, message.message)
        if not is_last(message):
            return
        self._job = None
        self._view.show_running(False)
        if isinstance(message, Finished) and isinstance(message.result, PlanResult):
            result = message.result
            self._times[self._preset] = f"about {clock(result.seconds)}"
            self._told()
            epoch = f"An epoch takes about {clock(result.epoch_seconds)} on {result.device.partition(' (')[0]}."
            self._view.show_messages((result.words, epoch))
        elif isinstance(message, Failed):
            self._view.show_error(str(message.error), details=bool(message.details))
        self._over()


def _remove(scratch: ExitStack, job: EngineJob) -> None:
    job.wait_prepared()  # what is cancelled may still be writing
    scratch.close()


def _what(plan: Plan) -> dict[str, Any]:
    """What time depends on, apart from the preset."""
    return {key: value for key, value in plan.request_values.items() if key not in {"preset", "name", "out"}}
