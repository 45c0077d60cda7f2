"""How much of a scan's work is done, and how long the rest takes: tiles of one value are computed only once."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from prosma_core.data.cells import Cells
from prosma_core.data.geometry import Box, whole
from prosma_core.data.grid import NetworkGrid, padding_to, tile_starts
from prosma_core.data.normalization import Normalization
from prosma_core.inference.memory import Column

KNOWN = 0.02
"""Time of a tile whose logits are known, as a share of that of a tile that is computed, until it is measured."""
RECENT = 0.99
"""What each further report leaves of the weight of the earlier ones."""


class Tiles(NamedTuple):
    """So many tiles that are computed, and others whose logits are known, which are only added up."""

    computed: int = 0
    known: int = 0

    def plus(self, other: Tiles) -> Tiles:
        """Both together."""
        return Tiles(self.computed + other.computed, self.known + other.known)

    def minus(self, other: Tiles) -> Tiles:
        """These without some of them."""
        return Tiles(self.computed - other.computed, self.known - other.known)

    @property
    def work(self) -> float:
        """Their work, in tiles that are computed."""
        return self.computed + KNOWN * self.known


NONE = Tiles()


@dataclass
class _Pace:
    """Seconds of a tile, as of late."""

    seconds: float = 0.0
    tiles: float = 0.0

    def hear(self, seconds: float, tiles: int) -> None:
        self.seconds, self.tiles = RECENT * self.seconds + seconds, RECENT * self.tiles + tiles

    @property
    def each(self) -> float | None:
        return self.seconds / self.tiles if self.tiles else None


@dataclass
class Effort:
    """The work of a scan, block by block.

    Attributes
    ----------
    left : Tiles
        Of the blocks that are not begun, as far as it is known without reading them.
    done : Tiles
        Of those that are done.
    """

    left: Tiles = NONE
    done: Tiles = NONE
    _now: Tiles = NONE
    _block: Tiles = NONE
    _last: float | None = None
    _computed: _Pace = field(default_factory=_Pace)
    _known: _Pace = field(default_factory=_Pace)

    def hear(self, now: Tiles, block: Tiles) -> None:
        """Take how much of the present block is done, and of how much."""
        when, more = time.monotonic(), now.minus(self._now)
        if self._last is not None and min(more) >= 0 and any(more):
            seconds = when - self._last
            if not more.computed:
                self._known.hear(seconds, more.known)
            else:
                self._computed.hear(seconds, more.computed)
        self._now, self._block, self._last = now, block, when

    def end_block(self) -> None:
        """The present block is done."""
        self.done = self.done.plus(self._block)
        self._now = self._block = NONE

    @property
    def share(self) -> float:
        """Share of all work that is done."""
        rest = self._block.minus(self._now).plus(self.left)
        done = self.done.plus(self._now).work
        return done / max(done + rest.work, KNOWN)

    @property
    def seconds_left(self) -> float | None:
        """Seconds that the rest takes at the pace of late; None while that is unknown."""
        rest = self._block.minus(self._now).plus(self.left)
        computed, known = self._computed.each, self._known.each
        if computed is None and known is None:
            return None
        computed = computed if computed is not None else (known or 0.0) / KNOWN
        return rest.computed * computed + rest.known * (KNOWN * computed if known is None else known)


class TileWork:
    """Work of each tile of a frame, as far as it is known before it is computed.

    Parameters
    ----------
    grid : NetworkGrid
    tile : tuple of int
    overlap : float
    how : Normalization, optional
        With the cells of the frame; without them, each tile is computed.
    """

    def __init__(self, grid: NetworkGrid, tile: tuple[int, ...], overlap: float, how: Normalization | None) -> None:
        self._tile, padding = tile, padding_to(grid.shape, tile)
        self._starts = [
            np.array(tile_starts(n + before + after, size, overlap)) - before
            for n, size, (before, after) in zip(grid.shape, tile, padding, strict=True)
        ]
        self._one = np.zeros([len(starts) for starts in self._starts], bool)
        if how is not None and how.cells is not None:
            self._one = self._known(grid, how, how.cells)

    def _known(self, grid: NetworkGrid, how: Normalization, cells: Cells) -> NDArray[np.bool_]:
        """Which tiles have one value."""
        every = whole(grid.shape)
        ends: list[list[tuple[int, int]]] = [[] for _ in every]
        for axis, (starts, size) in enumerate(zip(self._starts, self._tile, strict=True)):
            for start in starts.tolist():
                part = max(0, start), min(start + size, grid.shape[axis])
                box = (*every[:axis], part, *every[axis + 1 :])
                ends[axis].append(grid.restore_box(grid.oriented_box(box))[grid.order[axis]])
        of_source = [ends[grid.order.index(axis)] for axis in range(len(ends))]
        clips = {scale.clip for scale in how.channels}
        known = cells.single(of_source, clips.pop() if len(clips) == 1 else None)
        return known.transpose(grid.order)

    def block(self, box: Box, done: int | None = None) -> Tiles:
        """Tiles that touch a box of the network's grid; `done` as of `Among`."""
        touching = [
            (starts < b) & (a < starts + size)
            for starts, size, (a, b) in zip(self._starts, self._tile, box, strict=True)
        ]
        if done is not None:
            touching[0] &= self._starts[0] >= done
        of = self._one[np.ix_(*touching)]
        known = int(np.count_nonzero(of))
        return Tiles(of.size - known, known)

    def column(self, column: Column, leaves: list[bool]) -> list[Tiles]:
        """The same of the blocks of a column, one after the other: tiles that two share are those of the first.

        Parameters
        ----------
        column : Column
        leaves : list of bool
            Which blocks are not computed; those after them begin anew.
        """
        found, done = list[Tiles](), None
        for block, left in zip(column.blocks, leaves, strict=True):
            found.append(NONE if left else self.block(block.network, done))
            done = None if left else block.network[0][1]
        return found
