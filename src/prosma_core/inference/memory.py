"""Memory a segmentation needs, planned before it starts, and the plan as text."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise, product
from math import ceil, prod

import torch

from prosma_core.config.inference import InferenceConfig
from prosma_core.config.model import ModelConfig, ModelHeader
from prosma_core.data.geometry import Box, ImageSpec, box_shape, check_region, format_region, size_note, size_unknown
from prosma_core.data.geometry import whole as whole_box
from prosma_core.data.grid import NetworkGrid, coarse_note, padding_to, tile_starts
from prosma_core.data.lazy import IN_CORE, KEPT, LazyArray
from prosma_core.data.resample import PIECE
from prosma_core.errors import DeviceError
from prosma_core.inference.device import free_memory, used_memory
from prosma_core.inference.grid_restore import RegionOfInterest, plan_part, planes_at_once
from prosma_core.printable import counted, gib

_LOG = logging.getLogger(__name__)

TENSORS_PER_TILE = 14
"""Tensors of the finest level alive at the peak of a forward, gate temporaries and convolution workspace among them."""
PREPARED = 8
"""Bytes that a voxel takes at most usually while a scan is turned and normalized."""
AT_ONCE = 16
"""Chunks that are unpacked at the same time, at most, with what the C library holds of them afterwards."""
MAX_BATCH = {"cuda": 16, "mps": 4, "cpu": 1}
"""More tiles at once gain nothing: a CPU is busy with one."""
SHARE = 0.8
"""Share of the free memory that is planned with."""


WORKING = 1 << 30
"""Bytes that a block takes at most, where there are so many."""
WORTH = 1.17
"""Times the tiles that a scan may take in blocks; where `WORKING` is not enough for it, blocks may take more."""
STEP = 1.1
"""Times the memory of a block that is tried next where it is not: no more is used than is worth it."""


@dataclass(frozen=True)
class Column:
    """Blocks that are computed one after the other, along the first axis of the network's grid.

    Attributes
    ----------
    blocks : tuple of RegionOfInterest
        In this order; neighbors share tiles, which are computed once.
    tiles : int
        How many tiles they take.
    """

    blocks: tuple[RegionOfInterest, ...]
    tiles: int


@dataclass(frozen=True)
class BlockPlan:
    """What of a frame is computed at once.

    Attributes
    ----------
    columns : tuple of Column
    words : str
        The plan for people; empty where all that is wanted of the frame is computed at once.
    by_parts : bool
        Whether only the parts of the scan are read that the blocks need.
    """

    columns: tuple[Column, ...]
    words: str = ""
    by_parts: bool = False

    @property
    def tiles(self) -> int:
        """Tiles of a frame."""
        return sum(column.tiles for column in self.columns)


@dataclass(frozen=True)
class Unpacking:
    """What reading a part of a frame takes: whole chunks are unpacked, and kept for the next part where they are few.

    Attributes
    ----------
    chunks : tuple of int
        Of the scan, along each axis of a frame.
    voxel : int
        Bytes of a voxel of a frame with all of its channels, and with the other frames in the same chunks.
    arrays : int
        Chunks in which such a voxel lies.
    """

    chunks: tuple[int, ...]
    voxel: int
    arrays: int = 1

    @classmethod
    def of(cls, scan: LazyArray, axes: str, taken: str) -> Unpacking:
        """Of a scan with these axes, whose frames have the axes `taken`."""
        sizes = dict(zip(axes, zip(scan.shape, scan.chunks, strict=True), strict=True))
        channels, together = sizes.get("c", (1, 1))
        others = prod(chunk for axis, (_, chunk) in sizes.items() if axis not in taken and axis != "c")
        chunks = tuple(sizes[axis][1] for axis in taken)
        return cls(chunks, scan.dtype.itemsize * others * channels, ceil(channels / together))

    def bytes(self, read: tuple[int, ...], grid: NetworkGrid) -> int:
        """Bytes for reading a box of the turned frame, which are taken until it is computed."""
        along = [self.chunks[axis] for axis in grid.order]
        sides = list(zip(read, along, grid.oriented, strict=True))
        wide = [min((ceil(n / chunk) + (chunk > 1)) * chunk, size) for n, chunk, size in sides]
        whole = prod(wide) * self.voxel
        kept = whole if whole <= KEPT else prod(read) * self.voxel
        number = self.arrays * prod(ceil(n / chunk) for n, (_, chunk, _) in zip(wide, sides, strict=True))
        one = prod(min(chunk, size) for _, chunk, size in sides) * self.voxel // self.arrays
        return kept + min(number, AT_ONCE) * one


@dataclass(frozen=True)
class Need:
    """What the memory of a segmentation depends on.

    Attributes
    ----------
    model : ModelConfig
    tile : tuple of int
    overlap : float
    all_classes, threshold : bool
        As of `plan_memory`.
    scan : int
        Bytes of the scan that are read if it is taken as a whole; 0 if it is in memory.
    chunks : tuple of int
        Of the result, along each axis of a frame.
    unpacking : Unpacking, optional
        How the scan is read by parts.
    """

    model: ModelConfig
    tile: tuple[int, ...]
    overlap: float
    all_classes: bool
    threshold: bool
    scan: int
    chunks: tuple[int, ...]
    unpacking: Unpacking | None = None

    def bytes(self, part: RegionOfInterest, *, block: bool) -> int:
        """Bytes that a part takes, computed as a whole or as a block of a column."""
        network, source = box_shape(part.network), box_shape(part.oriented)
        if not block:
            sums = sum_bytes(self.model.num_classes, network, source, self.all_classes, self.threshold)
            values = 4 * self.model.in_channels * (prod(network) + prod(source))  # for the network, and as read
            return tile_bytes(self.model, self.tile) + sums + values + self.scan
        grid = part.grid
        depth = min(network[0] + self.tile[0], grid.shape[0])
        sides = zip(network[1:], self.tile[1:], grid.shape[1:], strict=True)
        reach = (depth, *(min(n + 2 * t, size) for n, t, size in sides))
        there = tuple(min(o, ceil(r * o / n) + 4) for r, o, n in zip(reach, grid.oriented, grid.shape, strict=True))
        read, forth, again = prod(there), 0.0, 0.0
        if grid.shape != grid.oriented:
            forth = _stretched(there, grid.oriented, grid.shape)
            again = _stretched(network, grid.shape, grid.oriented)
        kept = KEPT if self.unpacking is None else self.unpacking.bytes(there, grid)
        image = 4 * self.model.in_channels * (prod(reach) + (0 if grid.shape == grid.oriented else 2 * read))
        held = (depth + self.tile[0], *network[1:])  # what is carried over among them
        back = sum_bytes(self.model.num_classes, network, source, self.all_classes, self.threshold, prepared=0)
        sums = 4 * (self.model.num_classes + 1) * prod(held)
        back -= 4 * (self.model.num_classes + 1) * prod(network)
        computing = image + tile_bytes(self.model, self.tile) + sums
        return kept + ceil(max(image + 6 * read + forth, computing, sums + back + again))


def _stretched(box: tuple[int, ...], shape: tuple[int, ...], target: tuple[int, ...]) -> float:
    """Bytes that `resize_box` takes for one channel: some of a box at a time, within the whole length of an axis."""
    sizes = zip(box, shape, target, strict=True)
    return max(4 * min(PIECE, prod(box) * size / there) * (1 + new / size) for there, size, new in sizes)


def plan_blocks(
    part: RegionOfInterest, need: Need, *, lazy: bool, working: int | None = None, least: bool = False
) -> BlockPlan:
    """What of a frame is computed at once: all of it where that fits, else blocks of whole chunks of the result.

    Parameters
    ----------
    part : RegionOfInterest
        What is wanted of the frame.
    need : Need
    lazy : bool
        Whether the scan is read by parts; else it is in memory.
    working : int, optional
        Bytes that a block may take; by what is free for None.
    least : bool
        Never take the frame as a whole, unless it is a single block.
    """
    free = int(free_memory(torch.device("cpu")) * SHARE)
    alone = BlockPlan((_column(part, need, part.source),))
    every = prod(
        len(_starts(replace(part, network=whole_box(part.grid.shape)), need, axis)) for axis in range(len(need.tile))
    )
    whole = need.bytes(part, block=False)
    if every == 1 or not (least or working is not None or whole > (min(free, IN_CORE) if lazy else free)):
        return alone
    most = min(free, WORKING) if working is None else working
    plan = _cut(part, need, most)
    while working is None and plan.tiles > WORTH * alone.tiles and most < free:
        most = min(int(STEP * most), free)
        plan = _cut(part, need, most)
    first = plan.columns[0].blocks
    count = sum(len(column.blocks) for column in plan.columns)
    if count == 1:
        return replace(plan, by_parts=True)
    shapes = [box_shape(block.source) for column in plan.columns for block in column.blocks]
    size = " x ".join(str(max(sizes)) for sizes in zip(*shapes, strict=True))
    more = round(100 * (plan.tiles / alone.tiles - 1))
    return BlockPlan(
        plan.columns,
        f"Computed in {count} blocks of up to {size} voxels, about "
        f"{gib(used_memory() + need.bytes(first[0], block=True))} of memory in all (as a whole "
        f"{gib(used_memory() + whole)}; {gib(free / SHARE)} are free)" + (f", {more} % more tiles." if more else "."),
        by_parts=True,
    )


def _column(part: RegionOfInterest, need: Need, box: Box, depth: int = 0) -> Column:
    """The blocks of a column, `depth` chunks along the network's first axis each; one for 0."""
    grid = part.grid
    axis = grid.order[0]
    cuts = _cuts(box[axis], depth * need.chunks[axis]) if depth else [box[axis]]
    blocks = [plan_part(grid, (*box[:axis], cut, *box[axis + 1 :])) for cut in cuts]
    blocks.sort(key=lambda block: block.oriented[0])
    tiles = prod(len(_starts(plan_part(grid, box), need, axis)) for axis in range(len(box)))
    return Column(tuple(blocks), tiles)


def _cut(part: RegionOfInterest, need: Need, working: int) -> BlockPlan:
    """The columns that take the fewest tiles among those whose blocks fit; the smallest where none do."""
    grid, box, along = part.grid, part.source, part.grid.order[0]
    across = [axis for axis in range(len(box)) if axis != along]
    whole = [-(-box[axis][1] // need.chunks[axis]) - box[axis][0] // need.chunks[axis] for axis in range(len(box))]
    ways = product(*(sorted({-(-whole[axis] // n) for n in range(1, whole[axis] + 1)}) for axis in across))
    best: tuple[float, list[Box], int] | None = None
    for chunks in ways:
        size = dict(zip(across, chunks, strict=True))
        cuts = [
            [box[axis]] if axis == along else _cuts(box[axis], size[axis] * need.chunks[axis])
            for axis in range(len(box))
        ]
        tiles = prod(
            sum(len(_starts(_with(part, grid.order[axis], cut), need, axis)) for cut in cuts[grid.order[axis]])
            for axis in range(len(box))
        )
        least = all(n == 1 for n in chunks)
        depth = whole[along]
        while depth > 1 and need.bytes(_first(part, need, cuts, along, depth), block=True) > working:
            depth = (depth + 1) // 2
        fits = need.bytes(_first(part, need, cuts, along, depth), block=True) <= working
        if (fits or (least and best is None)) and (best is None or (tiles, -depth) < (best[0], -best[2])):
            best = tiles, list(product(*cuts)), depth
    assert best is not None
    return BlockPlan(tuple(_column(part, need, column, best[2]) for column in best[1]))


def _first(
    part: RegionOfInterest, need: Need, cuts: list[list[tuple[int, int]]], along: int, depth: int
) -> RegionOfInterest:
    """A block of the largest size."""
    largest = [max(cut, key=lambda ends: ends[1] - ends[0]) for cut in cuts]
    largest[along] = max(_cuts(part.source[along], depth * need.chunks[along]), key=lambda ends: ends[1] - ends[0])
    return plan_part(part.grid, tuple(largest))


def _with(part: RegionOfInterest, axis: int, cut: tuple[int, int]) -> RegionOfInterest:
    """A piece of a part along an axis of the scan."""
    box = part.source
    return plan_part(part.grid, (*box[:axis], cut, *box[axis + 1 :]))


def _starts(part: RegionOfInterest, need: Need, axis: int) -> list[int]:
    """First voxels of the tiles along an axis of the network that reach a part."""
    low, high = part.network[axis]
    size, tile = part.grid.shape[axis], need.tile[axis]
    before, after = padding_to((size,), (tile,))[0]
    starts = tile_starts(size + before + after, tile, need.overlap)
    return [start for start in starts if start < high + before and low + before < start + tile]


def _cuts(ends: tuple[int, int], step: int) -> list[tuple[int, int]]:
    """Pieces between multiples of a number of voxels."""
    start, stop = ends
    inside = range((start // step + 1) * step, stop, step)
    return list(pairwise([start, *inside, stop]))


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
    num_classes: int,
    grid: tuple[int, ...],
    source: tuple[int, ...],
    all_classes: bool,
    threshold: bool = False,
    prepared: int = PREPARED,
) -> int:
    """Bytes of the summed logits, their weights, and what the source grid takes, prepared or on the way back."""
    whole = prod(source)
    back = 4 * (5 if threshold else 3) * min(whole, planes_at_once(grid, source) * prod(source[1:])) + 2 * whole
    if all_classes:
        back = max(back, 4 * whole * num_classes * 2)
    return 4 * prod(grid) * (num_classes + 1) + max(back, prepared * whole)


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
    in_main_memory = sums + 4 * model.in_channels * prod(source)  # and its values as they were read
    sums = in_main_memory if device == cpu else sums
    free = int(free_memory(device) * SHARE)
    sums_on = device if one + sums <= free else cpu
    needed_here = one + (sums if sums_on == device else 0)
    if needed_here > free or (sums_on != device and in_main_memory > free_memory(cpu) * SHARE):
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

    Where resampling leaves few voxels, a warning is logged.

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
    if few := coarse_note(spec, header.preprocess, grid):
        _LOG.warning("%s", few)
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
