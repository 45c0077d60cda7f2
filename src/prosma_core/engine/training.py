"""What the engine does to train and to plan a training: it drains the core's generators. Imports torch."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import closing
from typing import Any

from prosma_core.config.run import RunConfig, resolve_run
from prosma_core.engine.messages import PlanRequest, PlanResult, TimesRequest, TimesResult, TrainRequest, TrainResult
from prosma_core.engine.preview import Watched, Watcher
from prosma_core.events import EpochDone, Event
from prosma_core.inference.device import choose_device, prepare_device
from prosma_core.inference.results import Allocate
from prosma_core.runs.resume import resumed_settings
from prosma_core.runs.run_folder import RunFolder, check_new_run, check_run_targets
from prosma_core.runs.run_state import compare
from prosma_core.training.loop import TrainingResult, train
from prosma_core.training.runtime_estimate import estimate, expected_seconds


def serve_training(request: TrainRequest, allocate: Allocate, watched: Watched) -> Generator[Event, None, TrainResult]:
    """Train, and segment the watched scan after each validation.

    Parameters
    ----------
    request : TrainRequest
    allocate : callable
        Gives the array of the watched scan's classes.
    watched : callable

    Raises
    ------
    ProsmaError
        As `train` does; or the run exists already, or what is to be resumed does not.
    """
    began = time.monotonic()
    run = _run(request)
    folder = RunFolder.beside(run.out)
    choice = yield from prepare_device(run.device)
    watcher = Watcher(watched, allocate, choice.device)
    with closing(train(run, resume=request.resume)) as work:
        while True:
            try:
                event = next(work)
            except StopIteration as stop:
                result: TrainingResult = stop.value
                break
            yield event
            if isinstance(event, EpochDone) and event.dice is not None:
                yield from watcher.look(folder.last, event.epoch)
    dice = result.validation.dice
    return TrainResult(
        model=str(result.path),
        dice=dice,
        mean_dice=result.validation.mean,
        before=result.before,
        words=compare(result.before, dice) if result.before else "",
        held_out=result.held_out,
        seconds=time.monotonic() - began,
        device=choice.reason,
    )


def serve_plan(request: PlanRequest) -> Generator[Event, None, PlanResult]:
    """Plan a training, and say how long it will take; errors as in `estimate`."""
    found = yield from estimate(request.run)
    return PlanResult(
        words=found.words,
        step_seconds=found.step_seconds,
        epoch_seconds=found.epoch_seconds,
        seconds=found.seconds,
        device=choose_device(request.run.device).reason,
    )


def serve_times(request: TimesRequest) -> Generator[Event, None, TimesResult]:
    """Say how long trainings would take; errors as in `expected_seconds`."""
    scans = [scan.spec() for scan in request.scans]
    return TimesResult(seconds=(yield from expected_seconds(request.runs, scans, request.num_classes)))


def _run(request: TrainRequest) -> RunConfig:
    """The run to train."""
    folder = RunFolder.beside(request.run.out)
    if not request.resume:
        check_run_targets(request.run)
        check_new_run(request.run.out, folder, overwrite=False)
        return request.run
    given: dict[str, Any] = request.run.model_dump(mode="json", exclude_unset=True)
    return resolve_run(resumed_settings(folder, given, request.more_epochs), str(folder.run_yaml))
