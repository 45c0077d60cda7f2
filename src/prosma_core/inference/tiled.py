"""Sliding-window inference: overlapping tiles, Gaussian weights, sums kept on the device."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain, combinations, product
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prosma_core.data.geometry import Box, box_shape, whole
from prosma_core.data.grid import Tile, gaussian_weight, padding_to, tile_starts
from prosma_core.events import StageStarted, TileDone
from prosma_core.inference.cpu_tuning import inference_dtype, inference_layout
from prosma_core.inference.device import memory_ended
from prosma_core.inference.effort import NONE, Tiles
from prosma_core.printable import counted

log = logging.getLogger(__name__)


@dataclass
class Carried:
    """Weighted sums of planes that tiles of the block before have reached.

    Attributes
    ----------
    first : int
        Number of the first of these planes in the padded grid.
    sums, weights : Tensor
        As `predict` adds them up.
    """

    first: int
    sums: Tensor
    weights: Tensor

    def onto(self, box: Box, device: torch.device) -> tuple[Tensor, Tensor]:
        """Sums and weights of a box that begins with these planes."""
        total = torch.zeros(len(self.sums), *box_shape(box), device=device)
        weights = torch.zeros(box_shape(box), device=device)
        at = self.first - box[0][0]
        total[:, at : at + self.sums.shape[1]] = self.sums
        weights[at : at + len(self.weights)] = self.weights
        return total, weights


@dataclass
class Among:
    """What of a grid an image is, where the grid is computed block by block along its first axis.

    No tile is computed twice: what tiles of a block add to the next is carried over. As the tiles come in the same
    order, all sums are those of the grid computed at once, to the bit.

    Attributes
    ----------
    grid : tuple of int
        Shape of the network's grid.
    box : tuple of (int, int)
        What of it the image is: all that the block's tiles reach.
    done : int or None
        Tiles that touch planes before this one are computed; None: no tile is.
    on : int or None
        First plane of the next block.
    carried : Carried or None
        From the block before; after `predict`, for the next one.
    known : dict
        Logits of tiles of one value.
    effort, so_far : Tiles
        Of the image, and how many of them are done; since `predict` has begun.
    """

    grid: tuple[int, ...]
    box: Box
    done: int | None = None
    on: int | None = None
    carried: Carried | None = None
    known: dict[tuple[float, ...], Tensor] = field(default_factory=dict)
    effort: Tiles = NONE
    so_far: Tiles = NONE

    def tiles(self, tile: tuple[int, ...], overlap: float, box: Box) -> tuple[list[Tile], int]:
        """Tiles to compute, in the padded grid, and how many the whole grid has."""
        found, count = wanted_tiles(self.grid, tile, overlap, box)
        if self.done is None:
            return found, count
        done = self.done + padding_to(self.grid, tile)[0][0]
        return [t for t in found if t.start[0] >= done], count

    def hull(self, tile: tuple[int, ...], overlap: float, box: Box) -> Box:
        """All of the grid that these tiles reach; the box itself where there are none."""
        found, _ = self.tiles(tile, overlap, box)
        return reach_of(found, self.grid, tile) if found else box

    def reach(self, box: Box, tiles: Sequence[Tile]) -> Box:
        """A box of the padded grid with the planes behind it that tiles reach, where those of the block go on."""
        if self.on is None and self.carried is None:
            return box
        ends = [box[0][1], *(t.start[0] + t.size[0] for t in tiles)]
        if self.carried is not None:
            ends.append(self.carried.first + len(self.carried.weights))
        return ((box[0][0], max(ends)), *box[1:])

    def keep(self, sums: Tensor, weights: Tensor, first: int, padding: int) -> None:
        """Take the sums of planes from `first` on, of which those of the next block are carried over."""
        if self.on is not None:
            start = self.on + padding - first
            self.carried = Carried(self.on + padding, sums[:, start:].clone(), weights[start:].clone())


def reach_of(tiles: Sequence[Tile], grid: tuple[int, ...], size: tuple[int, ...]) -> Box:
    """Box of a grid that tiles reach, at least one; they lie in the padded grid and have one size."""
    padding = padding_to(grid, size)
    starts, stops = ([f(t.start[a] for t in tiles) for a in range(len(size))] for f in (min, max))
    ends = zip(starts, stops, size, padding, grid, strict=True)
    return tuple((max(0, low - p), min(high + n - p, whole)) for low, high, n, (p, _), whole in ends)


Planes = Callable[[int, Tensor, Tensor], None]
"""Takes planes that no further tile reaches: the first's number along the first axis, weighted sums, and weights."""


class TiledPredictor:
    """Runs a network tile by tile; falls to smaller batches when memory ends.

    Parameters
    ----------
    model : module
        Takes (B, C, *tile), gives logits (B, K, *tile); on `device`, in evaluation mode.
    tile : tuple of int
        Tile = training patch.
    overlap : float
        Least overlap of neighbors, as a share of the tile.
    mirror : sequence of int
        Grid axes to mirror; the logits of all mirrored copies are averaged.
    batch_size : int
        Tiles per forward.
    device : torch.device
    amp : bool
        float16 autocast with CUDA, bfloat16 from the first tile on that overflows; on a CPU, what was found to be
        fastest there (`prosma_core.inference.cpu_tuning`). Otherwise float32 and contiguous.
    """

    def __init__(
        self,
        model: nn.Module,
        tile: tuple[int, ...],
        device: torch.device,
        *,
        overlap: float,
        mirror: Sequence[int] = (),
        batch_size: int = 1,
        amp: bool = True,
    ) -> None:
        self.layout = inference_layout(device, len(tile)) if amp else torch.contiguous_format
        self.model = model.to(memory_format=self.layout)  # type: ignore[call-overload]
        self.tile = tile
        self.device = device
        self.overlap = overlap
        self.mirrors = list(chain.from_iterable(combinations(mirror, n) for n in range(len(mirror) + 1)))
        self.batch_size = batch_size
        self.dtype = inference_dtype(device) if amp else torch.float32

    def predict(
        self,
        image: Tensor,
        sums_on: torch.device,
        box: Box | None = None,
        show: Planes | None = None,
        among: Among | None = None,
    ) -> Generator[TileDone | StageStarted, None, Tensor]:
        """Logits of the grid, or of a box of it; yields after each batch of tiles.

        Parameters
        ----------
        image : Tensor, float32, shape (C, *grid)
            Normalized; padded with 0 (the mean) where it is smaller than the tile.
        sums_on : torch.device
            Where the logits are added up.
        box : tuple of (int, int), optional
            Box of the grid that is wanted: only the tiles that touch it are computed, out of those of the whole
            grid, so that its logits are those it has there.
        show : callable, optional
            Called with the planes of the box that have just been finished, except for the last.
        among : Among, optional
            Where the image is a part of the grid: what of it, and what the block before has left.

        Returns
        -------
        Tensor, float32, shape (K, *box), on `sums_on`
        """
        if among is None:
            among = Among(tuple(image.shape[1:]), whole(tuple(image.shape[1:])))
        grid, box = among.grid, box or whole(among.grid)
        if sums_on == self.device:  # then there is room for the scan as well, and no tile has to be brought there
            image = image.to(self.device)
        tiles, count = among.tiles(self.tile, self.overlap, box)
        padded, origin = padded_part(image, among.box, padding_to(grid, self.tile))
        placed = [Tile(tuple(a - o for a, o in zip(t.start, origin, strict=True)), t.size) for t in tiles]
        before = padding_to(grid, self.tile)
        box = tuple((a + p, b + p) for (a, b), (p, _) in zip(box, before, strict=True))
        inside = box_shape(box)[0]
        box = among.reach(box, tiles)
        total: Tensor | None = None
        if count > 1:
            weight = torch.from_numpy(gaussian_weight(self.tile)).to(sums_on)
            weights = torch.zeros(box_shape(box), device=sums_on)
        if among.carried is not None:
            total, weights = among.carried.onto(box, sums_on)
            if self.device.type == "cpu":  # no other device takes over, where they are needed once more
                among.carried = None
        known = _Known(padded, placed, among.known)
        one = known.reused()
        among.effort, among.so_far = Tiles(one.count(False), one.count(True)), NONE
        done = shown = 0
        while done < len(tiles):
            batch = tiles[done : done + self.batch_size]
            try:
                logits = known.complete(range(done, done + len(batch)), self._forward)
            except (RuntimeError, MemoryError) as error:
                if self.batch_size == 1 or not memory_ended(error):
                    raise
                self.batch_size = max(1, self.batch_size // 2)
                yield StageStarted(f"Memory ran out: continuing with {_tiles(self.batch_size)} at a time.")
                continue
            logits = [values.to(sums_on) for values in logits]
            if count == 1:
                total = logits[0][(slice(None), *_shared(batch[0], box)[0])]
            else:
                if total is None:
                    total = torch.zeros(len(logits[0]), *box_shape(box), device=sums_on)
                _add(total, weights, logits, weight, batch, box)
            done += len(batch)
            finished = tiles[done].start[0] - box[0][0] if done < len(tiles) else shown
            if show is not None and finished > shown:
                show(shown, total[:, shown:finished], weights[shown:finished])
                shown = finished
            among.so_far = Tiles(one[:done].count(False), one[:done].count(True))
            yield TileDone(done, len(tiles))
        assert total is not None
        if count > 1:
            among.keep(total, weights, box[0][0], before[0][0])
            total = total[:, :inside]
            total /= weights[:inside]
        return total

    def _forward(self, batch: Tensor) -> Tensor:
        batch = batch.to(self.device, memory_format=self.layout)
        logits = self._logits(batch)
        if self.dtype is torch.float16 and not logits.isfinite().all():
            log.info("A value lies beyond those of float16: going on in bfloat16.")
            self.dtype = torch.bfloat16
            logits = self._logits(batch)
        return logits

    @torch.no_grad()
    def _logits(self, batch: Tensor) -> Tensor:
        total: Tensor | None = None
        with autocast(self.device, self.dtype):
            for axes in self.mirrors:
                dims = tuple(a + 2 for a in axes)
                logits = self.model(batch.flip(dims) if dims else batch).float()
                logits = logits.flip(dims) if dims else logits
                total = logits if total is None else total + logits
        assert total is not None
        return total / len(self.mirrors) if len(self.mirrors) > 1 else total


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Autocast to a half-precision type; float32 changes nothing."""
    half = dtype if dtype.itemsize == 2 else torch.bfloat16
    return torch.autocast(device.type, half, enabled=dtype.itemsize == 2)


class _Known:
    """Logits of tiles; those of empty ones (air, padding: one value per channel) are computed once for each value.

    The same input gives the same output, so nothing changes but what a batch of another size may round otherwise.

    Parameters
    ----------
    padded : Tensor, float32, shape (C, *grid)
    tiles : sequence of Tile
    logits : dict
        Of the values that are known, by which more are added.
    """

    def __init__(self, padded: Tensor, tiles: Sequence[Tile], logits: dict[tuple[float, ...], Tensor]) -> None:
        self._padded, self._tiles = padded, tiles
        self._value = _single_values(padded, tiles)
        self._logits = logits

    def reused(self) -> list[bool]:
        """Whether the logits of each tile are known by the time it comes."""
        seen, found = set(self._logits), []
        for value in self._value:
            found.append(value in seen)
            if value is not None:
                seen.add(value)
        return found

    def complete(self, numbers: Iterable[int], forward: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """Logits of these tiles, each of shape (K, *tile); `forward` gives those that are not known, all at once."""
        numbers = list(numbers)
        missing = [n for n in numbers if self._value[n] is None]
        for n in numbers:
            value = self._value[n]
            if value is not None and value not in self._logits and value not in map(self._value.__getitem__, missing):
                missing.append(n)
        found: dict[int, Tensor] = {}
        if missing:
            logits = forward(torch.stack([self._padded[(slice(None), *self._tiles[n].slices)] for n in missing]))
            found = dict(zip(missing, logits, strict=True))
        for n, values in found.items():
            if (value := self._value[n]) is not None:
                self._logits[value] = values.clone() if len(missing) > 1 else values
        return [found[n] if (value := self._value[n]) is None else self._logits[value] for n in numbers]


def _single_values(padded: Tensor, tiles: Sequence[Tile]) -> list[tuple[float, ...] | None]:
    """The value of each channel in each tile, or None where a tile has several."""
    if not tiles:
        return []
    views, axes = (padded[(slice(None), *tile.slices)] for tile in tiles), tuple(range(1, padded.ndim))
    # Copies of tiles, with small results kept between them, would fill main memory with holes as large as a tile.
    bounds = torch.stack([torch.stack((view.amin(axes), view.amax(axes))) for view in views]).cpu()  # (tiles, 2, C)
    return [tuple(low) if low == high else None for low, high in bounds.tolist()]


def padded_part(image: Tensor, box: Box, padding: tuple[tuple[int, int], ...]) -> tuple[Tensor, tuple[int, ...]]:
    """An image padded with 0 where its grid is, and its first voxel in the padded grid."""
    if not any(map(sum, padding)):
        return image, tuple(a for a, _ in box)
    sides = [both if sum(both) else (0, 0) for both in padding]  # the box is the whole axis there
    image = F.pad(image, [p for before_after in reversed(sides) for p in before_after])
    return image, tuple(a for a, _ in box)


def _tiles(count: int) -> str:
    return counted(count, "tile")


def wanted_tiles(grid: tuple[int, ...], tile: tuple[int, ...], overlap: float, box: Box) -> tuple[list[Tile], int]:
    """Tiles of a grid that touch a box of it, in coordinates of the padded grid, and how many the whole grid has."""
    starts, touching = [], []
    for n, (before, after), size, (a, b) in zip(grid, padding_to(grid, tile), tile, box, strict=True):
        starts.append(tile_starts(n + before + after, size, overlap))
        touching.append([start for start in starts[-1] if start < b + before and a + before < start + size])
    return [Tile(start, tile) for start in product(*touching)], prod(map(len, starts))


def _add(
    total: Tensor, weights: Tensor, logits: Sequence[Tensor], weight: Tensor, tiles: Sequence[Tile], box: Box
) -> None:
    for values, tile in zip(logits, tiles, strict=True):
        inside, at = _shared(tile, box)
        total[(slice(None), *at)].addcmul_(values[(slice(None), *inside)], weight[inside])
        weights[at] += weight[inside]


def _shared(tile: Tile, box: Box) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Where a tile and a box share voxels: in the tile, and in the box."""
    both = [(max(s, a), min(s + n, b), s, a) for s, n, (a, b) in zip(tile.start, tile.size, box, strict=True)]
    return tuple(slice(a - s, b - s) for a, b, s, _ in both), tuple(slice(a - s, b - s) for a, b, _, s in both)
