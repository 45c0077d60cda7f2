"""Handlers for training, planning and previews: they drain the core's generators. Imports torch."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from prosma_core.config.inference import InferenceConfig
from prosma_core.config.training import RunConfig, resolve_run
from prosma_core.data.geometry import Scan
from prosma_core.engine.messages import (
    PlanRequest,
    PlanResult,
    ScanRef,
    TimesRequest,
    TimesResult,
    TrainRequest,
    TrainResult,
)
from prosma_core.engine.scans import read_scan
from prosma_core.errors import ProsmaError
from prosma_core.events import EpochDone, Event, PreviewDone, StageStarted, TileDone, Working, relay
from prosma_core.inference.device import choose_device, prepare_device
from prosma_core.inference.results import Allocate
from prosma_core.inference.segment import Segmenter
from prosma_core.runs.run_folder import RunFolder, check_new_run, check_run_targets, resumed_settings
from prosma_core.runs.run_state import compare
from prosma_core.training.loop import train
from prosma_core.training.runtime_estimate import estimate, expected_seconds

Watched = Callable[[], ScanRef | None]
"""Gives the scan that is to be segmented after each validation, as things are now."""

CONFIG = InferenceConfig(overlap=0.25)

_LOG = logging.getLogger(__name__)


class Watcher:
    """Segments the watched scan time and again, into one array per scan.

    Parameters
    ----------
    watched : callable
    allocate : callable
        Gives the array of a scan's classes, named ``preview``.
    device : torch.device
    """

    def __init__(self, watched: Watched, allocate: Allocate, device: torch.device) -> None:
        self._watched, self._allocate, self._device = watched, allocate, device
        self._ref: ScanRef | None = None
        self._scan: Scan | None = None
        self._labels: NDArray[Any] | None = None
        self._refused: ScanRef | None = None

    def look(self, model: Path, epoch: int) -> Generator[Event, None, None]:
        """Segment the watched scan, if any, with a model file; what goes wrong is said once for each scan."""
        ref, began = self._watched(), time.monotonic()
        if ref != self._ref:
            self._ref, self._scan, self._labels = ref, None, None
        if ref is None or ref == self._refused:
            return
        try:
            if (yield from self._segment(ref, model, epoch)):
                yield PreviewDone(epoch, time.monotonic() - began)
        except Exception as error:  # noqa: BLE001  (whatever it is, the training is worth more than its preview)
            reason = str(error) if isinstance(error, ProsmaError) else f"{type(error).__name__}: {error}"
            _LOG.warning("The preview failed", exc_info=True)
            self._refused = ref
            yield StageStarted(f"There is no preview, and training goes on. {reason}")

    def _segment(self, ref: ScanRef, model: Path, epoch: int) -> Generator[Event, None, bool]:
        """Whether it came to its end: a scan that is not watched any more is left."""
        words = f"Preview of epoch {epoch}"
        yield Working(words)
        if self._scan is None:
            self._scan = yield from read_scan(ref)
        segmenter = Segmenter.load(model, self._device)
        for event in segmenter.segment(self._scan, CONFIG, allocate=self._array):
            if self._watched() != ref:
                return False
            if isinstance(event, TileDone):
                words = f"Preview of epoch {epoch}: tile {event.done} of {event.total}"
            yield Working(words)
        return True

    def _array(self, _: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        if self._labels is None:
            self._labels = self._allocate("preview", shape, dtype)
        return self._labels


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

    def watch(event: Event) -> Iterator[Event]:
        yield event
        if isinstance(event, EpochDone) and event.dice is not None:
            yield from watcher.look(folder.last, event.epoch)

    result = yield from relay(train(run, resume=request.resume), watch)
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
