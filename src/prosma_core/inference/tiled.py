"""A network over a grid larger than its tile: overlapping tiles, Gaussian weights, sums kept on the device."""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from itertools import chain, combinations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prosma_core.data.tiles import Tile, gaussian_weight, padding_to, plan_tiles
from prosma_core.events import StageStarted, TileDone
from prosma_core.inference.device import memory_ended

log = logging.getLogger(__name__)


class TiledPredictor:
    """Runs a network tile by tile; falls to smaller batches when memory ends.

    Parameters
    ----------
    model : module
        Takes (B, C, *tile), gives logits (B, K, *tile); on `device`, in evaluation mode.
    tile : tuple of int
        Tile = training patch.
    overlap : float
        Least overlap of neighbours, as a share of the tile.
    mirror : sequence of int
        Grid axes to mirror; the logits of all mirrored copies are averaged.
    batch_size : int
        Tiles per forward.
    device : torch.device
    amp : bool
        bf16 autocast (CUDA only).
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
        self.model = model
        self.tile = tile
        self.device = device
        self.overlap = overlap
        self.mirrors = list(chain.from_iterable(combinations(mirror, n) for n in range(len(mirror) + 1)))
        self.batch_size = batch_size
        self.amp = amp and device.type == "cuda"

    def predict(self, image: Tensor, sums_on: torch.device) -> Generator[TileDone | StageStarted, None, Tensor]:
        """Logits of the whole grid; yields after each batch of tiles.

        Parameters
        ----------
        image : Tensor, float32, shape (C, *grid)
            Normalised; padded with 0 (the mean) where it is smaller than the tile.
        sums_on : torch.device
            Where the logits are added up.

        Returns
        -------
        Tensor, float32, shape (K, *grid), on `sums_on`
        """
        grid = tuple(image.shape[1:])
        padding = padding_to(grid, self.tile)
        padded = F.pad(image, [p for before_after in reversed(padding) for p in before_after])
        tiles = plan_tiles(tuple(padded.shape[1:]), self.tile, self.overlap)
        total: Tensor | None = None
        if len(tiles) > 1:
            weight = torch.from_numpy(gaussian_weight(self.tile)).to(sums_on)
            weights = torch.zeros(padded.shape[1:], device=sums_on)
        done = 0
        while done < len(tiles):
            batch = tiles[done : done + self.batch_size]
            try:
                logits = self._forward(torch.stack([padded[(slice(None), *t.slices)] for t in batch]))
            except (RuntimeError, MemoryError) as error:
                if self.batch_size == 1 or not memory_ended(error):
                    raise
                self.batch_size = max(1, self.batch_size // 2)
                yield StageStarted(f"Memory ran out: going on with {_tiles(self.batch_size)} at a time.")
                continue
            logits = logits.to(sums_on)
            if len(tiles) == 1:
                total = logits[0]
            else:
                if total is None:
                    total = torch.zeros(logits.shape[1], *padded.shape[1:], device=sums_on)
                _add(total, weights, logits, weight, batch)
            done += len(batch)
            yield TileDone(done, len(tiles))
        assert total is not None
        if len(tiles) > 1:
            total /= weights
        inside = tuple(slice(p[0], p[0] + n) for p, n in zip(padding, grid, strict=True))
        return total[(slice(None), *inside)]

    @torch.no_grad()
    def _forward(self, batch: Tensor) -> Tensor:
        batch = batch.to(self.device)
        total: Tensor | None = None
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp):
            for axes in self.mirrors:
                dims = tuple(a + 2 for a in axes)
                logits = self.model(batch.flip(dims) if dims else batch).float()
                logits = logits.flip(dims) if dims else logits
                total = logits if total is None else total + logits
        assert total is not None
        return total / len(self.mirrors) if len(self.mirrors) > 1 else total


def _tiles(count: int) -> str:
    return f"{count} tile{'s' * (count != 1)}"


def _add(total: Tensor, weights: Tensor, logits: Tensor, weight: Tensor, tiles: Sequence[Tile]) -> None:
    for values, tile in zip(logits, tiles, strict=True):
        total[(slice(None), *tile.slices)].addcmul_(values, weight)
        weights[tile.slices] += weight
