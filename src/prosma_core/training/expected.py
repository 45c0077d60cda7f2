"""How long trainings are expected to take, told by the grids of their scans: no voxel is read, nothing is written."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from math import prod

import torch
from torch import Tensor

from prosma_core.config.model import ModelConfig
from prosma_core.config.preprocess import PreprocessConfig
from prosma_core.config.run import RunConfig
from prosma_core.config.training import TrainingConfig
from prosma_core.data.fingerprint import Fingerprint, grid_fingerprint
from prosma_core.data.geometry import ImageSpec
from prosma_core.data.grid import resampled_shape
from prosma_core.events import Event, Working
from prosma_core.inference.device import choose_device
from prosma_core.io.bundle import read_header
from prosma_core.io.models import find_model
from prosma_core.model.unet import build_model
from prosma_core.training.estimate import run_seconds, tiles_of
from prosma_core.training.graphed import BEFORE_REPLAY, Graphed, graphed
from prosma_core.training.loop import training_memory
from prosma_core.training.losses import segmentation_loss
from prosma_core.training.reading import usual_dims
from prosma_core.training.schedule import build_optimizer
from prosma_core.training.setup import plan_model
from prosma_core.training.split import held_out_cases

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
    for name, run in runs.items():
        device, start = choose_device(run.device).device, read_header(find_model(run.init)) if run.init else None
        dims = start.model.dims if start else run.preprocess.dims or usual_dims(scans[0])
        prints = [grid_fingerprint(scan, dims) for scan in scans]
        pre, model, batch = plan_model(run, start, prints, dims, num_classes, (), device)
        key = f"{model.model_dump_json()} {pre.tile} {batch}"
        if key not in speeds:
            with training_memory(device):
                speeds[key] = yield from _speed(model, pre.tile, batch, run.training, device)
        step, forward = (seconds * prod(pre.tile) for seconds in speeds[key])
        tiles = _tiles(scans, prints, pre)
        every, share = forward * sum(tiles), min(1.0, run.training.validation_cases / len(tiles))
        _, found[name] = run_seconds(run.training, step * batch, every * share, every, fine_tuning=start is not None)
    return found


def _tiles(scans: Sequence[ImageSpec], prints: Sequence[Fingerprint], pre: PreprocessConfig) -> list[int]:
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
    optimizer, loss_of = build_optimizer(network, config), segmentation_loss(config)
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
