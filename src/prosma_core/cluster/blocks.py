"""A scan that is computed in blocks, shared out among the workers of a cluster."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from prosma_core.cluster.jobs import Job, Outcome
from prosma_core.config.inference import InferenceConfig
from prosma_core.data.geometry import Box, Scan
from prosma_core.errors import PartUnreadableError
from prosma_core.events import Event, SlabDone, StageStarted
from prosma_core.inference.files import FileOptions, OpenedScan, SegmentFile
from prosma_core.inference.scan_runs import ScanTask
from prosma_core.io.downloads import Downloads
from prosma_core.io.result_table import Row
from prosma_core.printable import counted

if TYPE_CHECKING:
    from prosma_core.inference.segment import Blocks, Segmenter
    from prosma_core.inference.stored_results import Sharing, StoredResults

Made = tuple[dict[str, int], list[Row]]
"""Voxels by class, and rows of the table."""
SHARES = 4
"""Tasks for each worker that a scan is shared out in: fewer compute fewer tiles twice, more keep all workers busy."""


@dataclass(frozen=True)
class InBlocks:
    """A scan that is to be computed in blocks, whose results are begun.

    Attributes
    ----------
    blocks : Blocks
    left : tuple of box
        Blocks of the label map that are not done, in the order in which neighbors share tiles.
    done : frozenset of box
    work : dict of box to float
        Of the blocks that are left, in tiles that are computed.
    """

    blocks: Blocks
    left: tuple[Box, ...]
    done: frozenset[Box]
    work: dict[Box, float] = field(default_factory=dict)

    def shares(self, workers: int) -> list[tuple[Box, ...]]:
        """Neighboring blocks for each task."""
        size = -(-len(self.left) // (SHARES * workers))
        return [self.left[i : i + size] for i in range(0, len(self.left), size)] if self.left else []


class Opened(Protocol):
    """A scan that was opened to be computed in blocks."""

    @property
    def scan(self) -> Scan:
        """Its voxels, which are read by parts, and geometry."""


class Whole(Protocol):
    """A scan whose blocks are shared out; frozen settings with absolute paths."""

    @property
    def config(self) -> InferenceConfig:
        """How it is segmented."""

    @property
    def machine(self) -> dict[str, str]:
        """State of the computer of the client."""

    def open(self, segmenter: Segmenter, downloads: Downloads) -> Generator[Event, None, Opened]:
        """Open the scan."""

    def stored(self, segmenter: Segmenter, opened: Any, sharing: Sharing) -> StoredResults:
        """Results that several processes fill."""

    def finish(
        self, segmenter: Segmenter, opened: Any, blocks: Blocks, sharing: Sharing
    ) -> Generator[Event, None, Any]:
        """Do what needs the whole label map, and put the results in place."""


@dataclass(frozen=True)
class SegmentScan:
    """Segment a scan file, or plan the blocks of one that is computed by parts.

    Attributes
    ----------
    task : ScanTask
    config : InferenceConfig
    options : FileOptions
    machine : dict of str
        State of the computer of the client.
    workers : int
        Of which there have to be several for blocks.
    """

    task: ScanTask
    config: InferenceConfig
    options: FileOptions
    machine: dict[str, str]
    workers: int = 1

    def run(self, segmenter: Segmenter) -> Generator[Event, None, Made | InBlocks]:
        """Write its label map, and what else is asked for."""
        from prosma_core.inference.device import name_memory_errors

        began, file = time.monotonic(), self._file(segmenter)
        with name_memory_errors(), Downloads() as downloads:
            opened = yield from file.open(self.task, downloads)
            if not (opened.by_parts and self.workers > 1):
                return (yield from file.compute(self.task, opened, began))
            return (yield from plan_shared(self, segmenter, opened, f"{self.task.name}: "))

    def open(self, segmenter: Segmenter, downloads: Downloads) -> Generator[Event, None, OpenedScan]:
        """As of `Whole`."""
        return (yield from self._file(segmenter).open(self.task, downloads, by_parts=True))

    def stored(self, segmenter: Segmenter, opened: OpenedScan, sharing: Sharing) -> StoredResults:
        """As of `Whole`."""
        return self._file(segmenter).stored(self.task, opened, sharing)

    def finish(
        self, segmenter: Segmenter, opened: OpenedScan, blocks: Blocks, sharing: Sharing
    ) -> Generator[Event, None, Made]:
        """As of `Whole`."""
        return (yield from self._file(segmenter).compute(self.task, opened, time.monotonic(), blocks, sharing))

    def _file(self, segmenter: Segmenter) -> SegmentFile:
        return SegmentFile(segmenter, self.config, self.options)


def plan_shared(of: Whole, segmenter: Segmenter, opened: Opened, name: str = "") -> Generator[Event, None, InBlocks]:
    """Plan the blocks of a scan, and begin its results; `name` begins its messages."""
    from prosma_core.inference.stored_results import Sharing

    with of.stored(segmenter, opened, Sharing(of.machine, begins=True)) as stored:
        if stored.done:
            yield StageStarted(f"{name}{counted(len(stored.done), 'block')} of an earlier run stay.")
        blocks, boxes = yield from segmenter.plan_parts(opened.scan, of.config, stored.allocate)
        left = tuple(box for box in boxes if box not in stored.done)
        return InBlocks(blocks, left, stored.done, {box: boxes[box] for box in left})


@dataclass(frozen=True)
class Filled:
    """Blocks that are done."""

    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class SegmentBlocks:
    """Compute some blocks of a scan; they are written chunk by chunk, and done twice they are the same."""

    of: Whole
    blocks: Blocks
    wanted: tuple[Box, ...]

    def run(self, segmenter: Segmenter) -> Generator[Event, None, Filled]:
        """Write the blocks; yields a `SlabDone` for each that is done."""
        from prosma_core.inference.device import name_memory_errors
        from prosma_core.inference.stored_results import Sharing

        with name_memory_errors(), Downloads() as downloads:
            opened = yield from self.of.open(segmenter, downloads)
            with self.of.stored(segmenter, opened, Sharing(self.of.machine)) as stored:
                some = replace(self.blocks, only=frozenset(self.wanted))
                yield from segmenter.segment(opened.scan, self.of.config, allocate=stored.allocate, blocks=some)
        return Filled(self.wanted)


@dataclass(frozen=True)
class FinishBlocks:
    """Put the results of a scan in place, all of whose blocks are done, or leave them for the next run.

    Attributes
    ----------
    of : Whole
    blocks : Blocks
    done : frozenset of box
    total : int
        Blocks of the scan.
    unreadable : tuple of PartUnreadableError
        Why the others are not done.
    """

    of: Whole
    blocks: Blocks
    done: frozenset[Box]
    total: int
    unreadable: tuple[PartUnreadableError, ...] = ()

    def run(self, segmenter: Segmenter) -> Generator[Event, None, Any]:
        """Do what needs the whole label map."""
        from prosma_core.inference.device import name_memory_errors
        from prosma_core.inference.segment import left_out
        from prosma_core.inference.stored_results import Sharing

        sharing = Sharing(self.of.machine, ends=True, done=self.done)
        with name_memory_errors(), Downloads() as downloads:
            opened = yield from self.of.open(segmenter, downloads)
            if self.unreadable:
                with self.of.stored(segmenter, opened, sharing) as stored:
                    raise left_out(self.unreadable, self.total - len(stored.done), self.total)
            return (yield from self.of.finish(segmenter, opened, self.blocks, sharing))


class Shared:
    """The blocks of one scan under way.

    Parameters
    ----------
    of : Whole
    found : InBlocks
    workers : int

    Attributes
    ----------
    jobs : list of Job
    left : int
        Jobs that have not ended.
    error : Outcome or None
        Of the first that failed, but for blocks that cannot be read.
    unreadable : list of PartUnreadableError
        Why these are not done.
    ending : bool
        Whether the last job was given.
    """

    def __init__(self, of: Whole, found: InBlocks, workers: int) -> None:
        self.of, self.found, self.began = of, found, time.monotonic()
        self.total = len(found.left) + len(found.done)
        self.done = set(found.done)
        self.error: Outcome | None = None
        self.unreadable: list[PartUnreadableError] = []
        self.ending = False
        shares = found.shares(workers)
        self.jobs: list[Job] = [SegmentBlocks(of, found.blocks, share) for share in shares] or [self.finish()]
        self.left = len(self.jobs)

    @property
    def how_far(self) -> str:
        """How many blocks are done."""
        return f"{len(self.done)} of {self.total} blocks"

    @property
    def share(self) -> float | None:
        """Share of the work of this run that is done; None where all blocks take the same."""
        whole = sum(self.found.work.values())
        return sum(work for box, work in self.found.work.items() if box in self.done) / whole if whole else None

    @property
    def seconds_left(self) -> float | None:
        """How long the other blocks take at the pace since the beginning: they end in bursts. None while unknown."""
        share = self.share
        return (time.monotonic() - self.began) * (1 / share - 1) if share else None

    def hear(self, event: SlabDone) -> None:
        """Take note of a block that is done."""
        self.done.add(tuple(zip(event.start, event.stop, strict=True)))

    def finish(self) -> FinishBlocks:
        """The last job."""
        self.ending = True
        return FinishBlocks(self.of, self.found.blocks, frozenset(self.done), self.total, tuple(self.unreadable))
