"""Estimated training time: planned on request, and timed in the background for each preset."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from napari_prosma.cleanup import run_all
from napari_prosma.jobs.boundary import JobName, Jobs
from napari_prosma.jobs.run import Failure, Handlers, JobRun
from napari_prosma.scan.selection import Problem
from napari_prosma.train.pairs import Pair
from napari_prosma.train.presenter import AbstractTrainView
from napari_prosma.train.requests import PlanSpec, times_request
from napari_prosma.train.state import TrainChoices, TrainPlan, sized
from prosma_core.engine.messages import (
    Cancelled,
    Failed,
    Finished,
    Message,
    PlanResult,
    TimesRequest,
    TimesResult,
    is_last,
)
from prosma_core.errors import EngineBusyError, ProsmaError
from prosma_core.events import StageStarted, Working
from prosma_core.io.atomic import scratch_folder
from prosma_core.printable import format_duration


class RuntimeEstimator:
    """Estimates the time of a training by a plan of the engine.

    Parameters
    ----------
    view : AbstractTrainView
    jobs : Jobs
    told : callable
        Called when `times` or `text` changed.
    over : callable
        Called when an estimate is over.
    begun : callable
        Told where the failure of an estimate that begins will be.
    """

    def __init__(
        self,
        view: AbstractTrainView,
        jobs: Jobs,
        told: Callable[[], None],
        over: Callable[[], None],
        begun: Callable[[Failure], None],
    ) -> None:
        self._times: dict[str, str] = {}
        self._preset_times = PresetTimer(jobs, told)
        self._view, self._jobs, self._told, self._over = view, jobs, told, over
        self._begun = begun
        self._job: _EstimateJob | None = None
        self._preset = ""
        self._what: dict[str, Any] = {}

    @property
    def times(self) -> dict[str, str]:
        """Text of the time of each preset: estimated for this plan, else timed in the background."""
        return self._preset_times.times | self._times

    @property
    def text(self) -> str:
        """Text shown where no time is known."""
        return self._preset_times.text

    @property
    def running(self) -> bool:
        """Whether an estimate runs."""
        return self._job is not None

    def begin(self, preset: str, plan: TrainPlan, pairs: Sequence[Pair]) -> None:
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

        self._view.show_running(True)
        self._view.show_progress(0, 0, "Starting…")
        self._job = _EstimateJob(self._view, self._done, self._leave, lambda: self._remove(scratch))
        self._begun(self._job.failure)
        self._job.start(self._jobs, PlanSpec(plan, pairs, folder))

    def cancel(self) -> None:
        """Cancel the running estimate."""
        if self._job is not None:
            self._job.cancel()

    def close(self) -> None:
        """Cancel for a widget that is deleted: it is not called any more."""
        left = self._job.abandon if self._job is not None else lambda: None
        run_all("An estimate could not be left", left, self._preset_times.close)

    def plan_is(self, plan: TrainPlan | Problem | None, choices: TrainChoices) -> None:
        """Set the choices and their plan: times of other choices are dropped, the presets are timed."""
        valid = plan if isinstance(plan, TrainPlan) else None
        if self._times and (valid is None or _what(valid) != self._what):
            self._times = {}
            self._told()
        self._preset_times.want(times_request(valid, sized(choices), len(choices.classes)) if valid else None)

    def _done(self, result: PlanResult) -> None:
        self._times[self._preset] = f"about {format_duration(result.seconds)}"
        self._told()
        epoch = f"An epoch takes about {format_duration(result.epoch_seconds)} on {result.device.partition(' (')[0]}."
        self._view.show_messages((result.words, epoch))

    def _leave(self) -> None:
        self._job = None
        run_all("The widget could not be made ready", lambda: self._view.show_running(False), self._over)

    def _remove(self, scratch: ExitStack) -> None:
        """Remove the copies of layers; in a thread, as what is canceled may still be writing."""
        job = self._job
        assert job is not None

        def work() -> None:
            job.job.wait_prepared()
            scratch.close()

        self._jobs.run(work, lambda _: None, lambda _: None)


class _EstimateJob(JobRun):
    """Job of one plan; `over` is not called for a deleted widget, `tidy` always."""

    NAME = JobName("An estimate of the training time", "ProSMA Train")

    def __init__(
        self,
        view: AbstractTrainView,
        done: Callable[[PlanResult], None],
        over: Callable[[], None],
        tidy: Callable[[], None],
    ) -> None:
        super().__init__()
        self._view, self._done, self._told, self._tidy = view, done, over, tidy

    @property
    def handlers(self) -> Handlers:
        """As of `JobRun`."""
        return {
            StageStarted: lambda stage: self._view.show_progress(0, 0, stage.message),
            Working: lambda working: self._view.show_progress(0, 0, working.message),
            Finished: self._finish,
            Failed: lambda failed: self._show(str(failed.error), failed.details),
        }

    def show_error(self, reason: str, details: str) -> None:
        """Show that an estimate failed."""
        self._show(f"The time cannot be shown: {reason}", details)

    def over(self) -> None:
        """End the estimate."""
        run_all("The copies of an estimate could not be removed", self._tidy)
        if not self.abandoned:
            self._told()

    def _show(self, text: str, details: str) -> None:
        self.failure.details = details
        self._view.show_error(text, details=bool(details))

    def _finish(self, message: Finished) -> None:
        assert isinstance(message.result, PlanResult)
        self._done(message.result)


def _what(plan: TrainPlan) -> dict[str, Any]:
    """What time depends on, apart from the preset."""
    return {key: value for key, value in plan.request_values.items() if key not in {"preset", "name", "out"}}


UNKNOWN = "How long it takes here is not known: estimate it below."
SOON = "Estimating training time…"
AFTER = 1.5
"""Seconds without a change of the choices, and between two checks whether the engine is idle."""


class PresetTimer:
    """Times each preset in a second engine, once the choices have settled.

    Parameters
    ----------
    jobs : Jobs
    told : callable
        Called when `times` or `text` changed.

    Attributes
    ----------
    times : dict of str to str
        Words for the time of each preset; empty while they are not known.
    text : str
        What is to be said where there are none.
    """

    def __init__(self, jobs: Jobs, told: Callable[[], None]) -> None:
        self._jobs, self._told = jobs, told
        self._request: TimesRequest | None = None
        self._known: dict[str, dict[str, str]] = {}
        self.times: dict[str, str] = {}
        self.text = ""
        self._timer = jobs.timer(self._ask)

    def want(self, request: TimesRequest | None) -> None:
        """Time these presets, unless that is known; None: there is nothing to train."""
        if request == self._request:
            return
        self._request = request
        self._jobs.end_background()  # what it was asked before
        self.times = self._known.get(_key(request), {}) if request else {}
        self.text = SOON if request and not self.times else ""
        self._told()
        if request and not self.times:
            self._wait()
        else:
            self._timer.stop()

    def close(self) -> None:
        """Stop for a widget that is deleted."""
        self._request = None
        run_all("An estimate could not be left", self._jobs.end_background, self._timer.stop)

    def _wait(self) -> None:
        self._timer.start(round(1000 * AFTER))

    def _ask(self) -> None:
        request = self._request
        if request is None:
            return
        if not self._jobs.alive:  # freed by a user, who wants the memory
            self._wait()
            return
        try:
            self._jobs.submit_background(request, lambda message: self._receive(request, message))
        except EngineBusyError:
            self._wait()

    def _receive(self, request: TimesRequest, message: Message) -> None:
        if not is_last(message):
            return
        if isinstance(message, Finished) and isinstance(message.result, TimesResult):
            times = {name: f"about {format_duration(seconds)}" for name, seconds in message.result.seconds.items()}
            self._known[_key(request)] = times
        if request != self._request:
            return
        if _key(request) in self._known:
            self.times, self.text = self._known[_key(request)], ""
        elif isinstance(message, Cancelled):
            self._wait()  # the engine had something else to do
            return
        else:
            self.text = UNKNOWN
        self._told()


def _key(request: TimesRequest) -> str:
    return request.model_dump_json()
