"""Memory a segmentation needs, planned before it starts, and the plan as text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import torch

from prosma_core.config.inference import InferenceConfig
from prosma_core.config.model import ModelConfig, ModelHeader
from prosma_core.data.geometry import ImageSpec, check_region, format_region, size_note, size_unknown
from prosma_core.data.grid import NetworkGrid
from prosma_core.errors import DeviceError
from prosma_core.inference.device import free_memory, gib
from prosma_core.inference.grid_restore import planes_at_once
from prosma_core.printable import counted

TENSORS_PER_TILE = 14
"""Tensors of the finest level alive at the peak of a forward, gate temporaries and convolution workspace among them."""
PREPARED = 8
"""Bytes that a voxel takes at most usually while a scan is turned and normalized."""
MAX_BATCH = {"cuda": 16, "mps": 4, "cpu": 1}
"""More tiles at once gain nothing: a CPU is busy with one."""
SHARE = 0.8
"""Share of the free memory that is planned with."""


@dataclass(frozen=True)
class MemoryPlan:
    """How one frame is computed.

    Attributes
    ----------
    batch_size : int
        Tiles per forward.
    sums_on : torch.device
        Where logits are added up and the argmax is taken.
    words : str
        The plan for people.
    """

    batch_size: int
    sums_on: torch.device
    words: str


def tile_bytes(model: ModelConfig, tile: tuple[int, ...]) -> int:
    """Bytes one tile takes at the peak of a float32 forward (an estimate from above)."""
    return 4 * prod(tile) * (model.widths[0] * TENSORS_PER_TILE + model.num_classes + model.in_channels)


def sum_bytes(
    num_classes: int, grid: tuple[int, ...], source: tuple[int, ...], all_classes: bool, threshold: bool = False
) -> int:
    """Bytes of the summed logits, their weights, and what the source grid takes, prepared or on the way back."""
    whole = prod(source)
    back = 4 * (5 if threshold else 3) * min(whole, planes_at_once(grid, source) * prod(source[1:])) + 2 * whole
    if all_classes:
        back = max(back, 4 * whole * num_classes * 2)
    return 4 * prod(grid) * (num_classes + 1) + max(back, PREPARED * whole)


def plan_memory(
    model: ModelConfig,
    tile: tuple[int, ...],
    grid: tuple[int, ...],
    source: tuple[int, ...],
    device: torch.device,
    *,
    tiles: int,
    all_classes: bool,
    threshold: bool = False,
    batch_size: int | None,
) -> MemoryPlan:
    """Plan for one frame: as many tiles at once as fit, sums on the device where they fit beside them.

    Parameters
    ----------
    model : ModelConfig
    tile, grid, source : tuple of int
        Tile, the network's grid padded to it, and the scan's grid, in voxels.
    device : torch.device
        Where the network runs.
    tiles : int
        Tiles of the frame.
    all_classes : bool
        Whether the values of all classes are wanted on the scan's grid.
    threshold : bool
        Whether classes are decided by a threshold.
    batch_size : int or None
        Tiles per forward, where the person chose it.

    Raises
    ------
    DeviceError
        Not even one tile and the sums fit.
    """
    cpu = torch.device("cpu")
    one, sums = tile_bytes(model, tile), sum_bytes(model.num_classes, grid, source, all_classes, threshold)
    sums += 4 * model.in_channels * prod(grid)  # the scan itself
    free = int(free_memory(device) * SHARE)
    sums_on = device if one + sums <= free else cpu
    needed_here = one + (sums if sums_on == device else 0)
    if needed_here > free or (sums_on != device and sums > free_memory(cpu) * SHARE):
        msg = (
            f"This scan needs about {gib(one + sums)} ({gib(one)} for one tile, {gib(sums)} for the result); "
            f"{gib(free_memory(device))} are free on {device.type}. Close other "
            "programs, crop the scan, or use a model with a larger voxel size."
        )
        raise DeviceError(msg)
    room = (free - (sums if sums_on == device else 0)) // one
    batch = batch_size or max(1, min(MAX_BATCH.get(device.type, 1), int(room), tiles))
    where = "" if sums_on == device else "; the result is put together in main memory, the GPU has too little"
    words = (
        f"{counted(tiles, 'tile')} of {'x'.join(map(str, tile))}, {batch} at a time, about "
        f"{gib(batch * one + sums)} of {gib(free_memory(device))} free on {device.type}{where}"
    )
    return MemoryPlan(batch, sums_on, words)


def format_plan(
    spec: ImageSpec,
    header: ModelHeader,
    config: InferenceConfig,
    grid: NetworkGrid,
    *,
    frames: tuple[int, int],
    tiles: tuple[int, int],
) -> Iterator[str]:
    """Sentences on what is resampled, turned, left out, and what of the settings does not apply.

    Parameters
    ----------
    spec : ImageSpec
        Of the scan.
    header : ModelHeader
    config : InferenceConfig
    grid : NetworkGrid
    frames, tiles : tuple of int
        Frames, and tiles of each frame: to compute, and there are.
    """
    what = f"{frames[0]} frames of the scan" if frames[0] > 1 else "The scan"
    if note := size_note(spec, header.preprocess):
        yield f"{note} Give the true size if it differs (--spacing)." if size_unknown(spec) else note
    if grid.shape != grid.oriented:
        shape, target = ("x".join(map(str, s)) for s in (spec.spatial_shape, grid.shape))
        yield f"{what} ({shape}) will be resampled for the model to {target}."
    if grid.order != tuple(sorted(grid.order)) or grid.flips:
        yield f"{what} will be turned from {spec.orientation} to {header.preprocess.orientation}."
    if config.mirror and not header.mirror_axes:
        yield "The model's training mirrored no axis: mirroring is left out."
    if config.slice_axis is not None and header.model.dims == spec.spatial_ndim:
        yield f"The model takes the {spec.spatial_ndim}D scan as a whole: it is not sliced along {config.slice_axis}."
    part = format_region(check_region(config.region, spec), spec)
    if part:
        count = f"{tiles[0]} of {counted(tiles[1], 'tile')}"
        if frames[1] > 1:
            slices = "frames" if header.model.dims == spec.spatial_ndim else "slices"
            count = f"{frames[0]} of {frames[1]} {slices}, {count} of each"
        yield f"Only {part} gets labels; computed for it: {count}."
