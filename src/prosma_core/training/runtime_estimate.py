"""Plan and runtime estimate of a training, from its own data or from the geometry of scans alone."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from prosma_core.config.inference import InferenceConfig
from prosma_core.config.model import ModelConfig, PreprocessConfig
from prosma_core.config.training import RunConfig, TrainingConfig
from prosma_core.data.geometry import ImageSpec, whole
from prosma_core.data.grid import resampled_shape
from prosma_core.events import Event, TileDone, Working
from prosma_core.inference.device import choose_device, prepare_device
from prosma_core.inference.tiled import wanted_tiles
from prosma_core.io.bundle import find_model, read_header
from prosma_core.model.unet import build_model
from prosma_core.training.cases import TrainingCase
from prosma_core.training.cuda_graph import BEFORE_REPLAY, Graphed, graphed
from prosma_core.training.dataset_summary import Fingerprint, grid_fingerprint, usual_dims
from prosma_core.training.loop import training_memory
from prosma_core.training.optimization import SegmentationLoss, build_optimizer
from prosma_core.training.plan import with_usual
from prosma_core.training.prepare import describe_plan, plan_model, prepare_run
from prosma_core.training.split import held_out_cases
from prosma_core.training.trainer import Trainer

FIRST_VOXELS, LONG_ENOUGH = 2**15, 1.0
"""Voxels of the first patch that is timed on a CPU, and seconds a step takes that stands for larger ones."""
CALLS = 2
"""Whole steps, and forwards, of which the faster one counts: the first also makes things ready."""

Speed = tuple[float, float]
"""Seconds of a training step and of a forward, each for one voxel."""


def expected_seconds(
    runs: Mapping[str, RunConfig], scans: Sequence[ImageSpec], num_classes: int
) -> Generator[Event, None, dict[str, float]]:
    """Plan each run, and time its network on random numbers; yields before each forward and step.

    Parameters
    ----------
    runs : mapping of str to RunConfig
        By name; all on one device.
    scans : sequence of ImageSpec
        Of the training cases; at least one.
    num_classes : int
        Background included.

    Returns
    -------
    dict of str to float
        Seconds of each run: epochs or minutes, validations; not reading the data.

    Raises
    ------
    ProsmaError
        The scans do not fit each other or the model to start from, or memory ended.
    """
    found, speeds = {}, dict[str, Speed]()
    for name, given in runs.items():
        device, start = choose_device(given.device).device, read_header(find_model(given.init)) if given.init else None
        dims = start.model.dims if start else given.preprocess.dims or usual_dims(scans[0], sparse=given.labels.sparse)
        prints = [grid_fingerprint(scan, dims) for scan in scans]
        run = with_usual(given, start, dims, prints)
        pre, model, batch = plan_model(run, start, prints, dims, num_classes, (), device)
        key = f"{model.model_dump_json()} {pre.tile} {batch}"
        if key not in speeds:
            with training_memory(device):
                speeds[key] = yield from _speed(model, pre.tile, batch, run.training, device)
        step, forward = (seconds * prod(pre.tile) for seconds in speeds[key])
        tiles = _tiles_of_scans(scans, prints, pre)
        every, share = forward * sum(tiles), min(1.0, run.training.validation_cases / len(tiles))
        _, found[name] = run_seconds(run.training, step * batch, every * share, every, fine_tuning=start is not None)
    return found


def _tiles_of_scans(scans: Sequence[ImageSpec], prints: Sequence[Fingerprint], pre: PreprocessConfig) -> list[int]:
    """Tiles of each frame that is validated, as if the first scans were held out."""
    tiles: list[int] = []
    for scan, p in list(zip(scans, prints, strict=True))[: held_out_cases(len(scans))]:
        frames = max(1, prod(scan.spatial_shape) // prod(p.shape))
        unknown = pre.resample == "spacing" and p.unit == "pixel" != pre.unit
        shape = p.shape if unknown else resampled_shape(p.shape, p.spacing, pre)
        tiles += frames * [tiles_of(shape, pre.tile)]
    return tiles


def _speed(
    model: ModelConfig, tile: tuple[int, ...], batch: int, config: TrainingConfig, device: torch.device
) -> Generator[Event, None, Speed]:
    """Time a network: on a CPU by the smallest part of a step that takes long enough to stand for all of it."""
    network = build_model(model).to(device)
    optimizer, loss_of = build_optimizer(network, config), SegmentationLoss(config)
    half = torch.autocast(device.type, torch.bfloat16, enabled=config.amp and device.type == "cuda")

    def eager(images: Tensor, labels: Tensor) -> Tensor:
        with half:
            logits = network.forward_deep(images)
        loss = loss_of(logits, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    gradients = graphed(eager, config, device)

    def step() -> Tensor:
        network.train()
        loss = gradients(images, labels)
        optimizer.step()
        return loss

    @torch.no_grad()
    def forward() -> Tensor:
        network.eval()
        with half:
            logits: Tensor = network(images[:1])
        return logits

    voxels, whole = FIRST_VOXELS if device.type == "cpu" else batch * prod(tile), False
    while not whole:
        patch = small_patch(tile, model.strides, voxels)
        some = max(1, min(batch, voxels // prod(patch)))
        whole = (some, patch) == (batch, tile)
        images = torch.randn(some, model.in_channels, *patch, device=device)
        labels = torch.randint(model.num_classes, (some, 1, *patch), device=device)
        calls = BEFORE_REPLAY + 1 if isinstance(gradients, Graphed) else CALLS
        seconds = yield from _fastest(step, calls if whole else 1)
        if seconds >= LONG_ENOUGH:
            break
        voxels *= 4
    if isinstance(gradients, Graphed):  # as before each validation
        gradients.release()
    return seconds / (some * prod(patch)), (yield from _fastest(forward, CALLS)) / prod(patch)


def _fastest(work: Callable[[], Tensor], calls: int) -> Generator[Event, None, float]:
    """Seconds of the fastest call."""
    times = []
    for _ in range(calls):
        yield Working("Timing a few steps")
        began = time.perf_counter()
        work().sum().item()  # waits for the device
        times.append(time.perf_counter() - began)
    return min(times)


def small_patch(tile: tuple[int, ...], strides: Sequence[tuple[int, ...]], most: int) -> tuple[int, ...]:
    """The largest patch of the tile's proportions, roughly, that fits the network and has at most so many voxels.

    Never less than one voxel of the coarsest stage, and never more than the tile.
    """
    divisor = tuple(prod(s[axis] for s in strides) for axis in range(len(tile)))
    patch = divisor
    while True:
        longer = [
            tuple(n + d * (a == axis) for a, (n, d) in enumerate(zip(patch, divisor, strict=True)))
            for axis in range(len(tile))
            if patch[axis] < tile[axis]
        ]
        fits = [each for each in longer if prod(each) <= most]
        if not fits:
            return patch
        patch = min(fits, key=lambda each: max(n / t for n, t in zip(each, tile, strict=True)))


WARM_UP = 2
"""Steps, and batches of tiles, that are not timed: the first ones take longer."""
TIMED = 3


@dataclass(frozen=True)
class TrainingEstimate:
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


def estimate(run: RunConfig) -> Generator[Event, None, TrainingEstimate]:
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
    plan = describe_plan(pre, setup.header.model, setup.split)
    return TrainingEstimate(
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
        The model to start from is validated too; that it segments training cases as well is not counted.
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
