"""What a training would be and how long it would take: its own data, plan and steps, a few of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import torch

from prosma_core.config.inference import InferenceConfig
from prosma_core.config.run import RunConfig
from prosma_core.config.training import TrainingConfig
from prosma_core.data.region import whole
from prosma_core.events import Event, TileDone, Working
from prosma_core.inference.device import prepare_device
from prosma_core.inference.tiled import wanted_tiles
from prosma_core.training.cases import TrainingCase
from prosma_core.training.graphed import BEFORE_REPLAY, Graphed
from prosma_core.training.loop import training_memory
from prosma_core.training.setup import describe_plan, prepare_run
from prosma_core.training.trainer import Trainer

WARM_UP = 2
"""Steps, and batches of tiles, that are not timed: the first ones take longer."""
TIMED = 3


@dataclass(frozen=True)
class Estimate:
    """A training that was planned, not run.

    Attributes
    ----------
    words : str
        The plan, and what is held out.
    step_seconds : float
        One optimizer step.
    epoch_seconds : float
        One epoch with its validation.
    seconds : float
        The whole run: reading the data, all epochs or minutes, the last validation.
    """

    words: str
    step_seconds: float
    epoch_seconds: float
    seconds: float


def estimate(run: RunConfig) -> Generator[Event, None, Estimate]:
    """Read the data, plan, and time a few steps; nothing is written. Yields after each case and step.

    Raises
    ------
    ProsmaError
        As `train` does before its first epoch.
    """
    choice = yield from prepare_device(run.device)
    began = time.monotonic()
    with training_memory(choice.device), torch.backends.cudnn.flags(enabled=True, benchmark=True):
        setup = yield from prepare_run(run, choice.device)
        reading = time.monotonic() - began
        trainer = Trainer(setup, choice.device)
        step = yield from _time_steps(trainer)
        tile = yield from _time_tiles(trainer)
    config, pre = setup.run.training, setup.header.preprocess
    subset, every = (tile * _tiles(cases, pre.tile) for cases in (trainer.validation_subset(), setup.val))
    epoch, seconds = run_seconds(config, step, subset, every, fine_tuning=setup.start is not None)
    plan = describe_plan(pre, setup.header.model, len(setup.split.train), len(setup.split.val))
    return Estimate(
        words=f"{plan} {setup.split.words()}".strip(),
        step_seconds=step,
        epoch_seconds=epoch,
        seconds=reading + seconds,
    )


def run_seconds(
    config: TrainingConfig, step: float, subset: float, every: float, *, fine_tuning: bool
) -> tuple[float, float]:
    """Seconds of an epoch, and of a run without reading its data.

    Parameters
    ----------
    config : TrainingConfig
    step : float
        Seconds of an optimizer step.
    subset, every : float
        Seconds of validating the cases of an epoch, and all of them.
    fine_tuning : bool
        The model to start from is validated too.
    """
    epoch = config.steps * step + subset / config.validation_every
    training = config.epochs * epoch
    if config.minutes:
        training = min(training, 60 * config.minutes)
    return epoch, training + every * (2 if fine_tuning else 1)


def _time_steps(trainer: Trainer) -> Generator[Event, None, float]:
    """Seconds of an optimizer step."""
    rng = torch.Generator().manual_seed(trainer.config.seed)
    trainer.model.train()
    times = []
    warm_up = BEFORE_REPLAY if isinstance(trainer.gradients, Graphed) else WARM_UP
    for number in range(warm_up + TIMED):
        yield Working(f"Timing steps: {number} of {warm_up + TIMED}")
        began = time.monotonic()
        trainer.step(rng).tolist()  # waits for the device
        times.append(time.monotonic() - began)
    return statistics.median(times[warm_up:])


def _time_tiles(trainer: Trainer) -> Generator[Event, None, float]:
    """Seconds of a validated tile."""
    times: list[float] = []
    work, before = trainer.validate(trainer.weights(), trainer.validation_subset()), 0
    began = time.monotonic()
    for event in work:
        if isinstance(event, TileDone):
            times.append((time.monotonic() - began) / (event.done - before))
            before = event.done % event.total
        if len(times) == WARM_UP + TIMED:
            break
        yield Working("Timing the validation")
        began = time.monotonic()
    work.close()
    return statistics.median(times[WARM_UP:] or times)


def _tiles(cases: Sequence[TrainingCase], tile: tuple[int, ...]) -> int:
    """Tiles that cases are validated by."""
    return sum(tiles_of(tuple(case.labels.shape), tile) for case in cases)


def tiles_of(grid: tuple[int, ...], tile: tuple[int, ...]) -> int:
    """Tiles that a grid is segmented by."""
    return wanted_tiles(grid, tile, InferenceConfig().overlap, whole(grid))[1]
