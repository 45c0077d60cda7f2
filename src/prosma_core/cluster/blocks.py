"""A scan that is computed in blocks, shared out among the workers of a cluster."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from prosma_core.cluster.jobs import Job, Outcome
from prosma_core.config.inference import InferenceConfig
from prosma_core.data.geometry import Box
from prosma_core.errors import PartUnreadableError
from prosma_core.events import Event, SlabDone, StageStarted
from prosma_core.inference.files import FileOptions, SegmentFile
from prosma_core.inference.scan_runs import ScanTask
from prosma_core.io.downloads import Downloads
from prosma_core.io.result_table import Row
from prosma_core.printable import counted

if TYPE_CHECKING:
    from prosma_core.inference.segment import Blocks, Segmenter

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
    """

    blocks: Blocks
    left: tuple[Box, ...]
    done: frozenset[Box]

    def shares(self, workers: int) -> list[tuple[Box, ...]]:
        """Neighboring blocks for each task."""
        size = -(-len(self.left) // (SHARES * workers))
        return [self.left[i : i + size] for i in range(0, len(self.left), size)] if self.left else []


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
        from prosma_core.inference.stored_results import Sharing

        began, file = time.monotonic(), SegmentFile(segmenter, self.config, self.options)
        with name_memory_errors(), Downloads() as downloads:
            opened = yield from file.open(self.task, downloads)
            if not (opened.by_parts and self.workers > 1):
                return (yield from file.compute(self.task, opened, began))
            with file.stored(self.task, opened, Sharing(self.machine, begins=True)) as stored:
                if stored.done:
                    text = counted(len(stored.done), "block")
                    yield StageStarted(f"{self.task.name}: {text} of an earlier run stay.")
                blocks, boxes = yield from segmenter.plan_parts(opened.scan, self.config, stored.allocate)
                left = tuple(box for box in boxes if box not in stored.done)
                return InBlocks(blocks, left, stored.done)


@dataclass(frozen=True)
class Filled:
    """Blocks that are done."""

    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class SegmentBlocks:
    """Compute some blocks of a scan; they are written chunk by chunk, and done twice they are the same."""

    of: SegmentScan
    blocks: Blocks
    wanted: tuple[Box, ...]

    def run(self, segmenter: Segmenter) -> Generator[Event, None, Filled]:
        """Write the blocks; yields a `SlabDone` for each that is done."""
        from prosma_core.inference.device import name_memory_errors
        from prosma_core.inference.stored_results import Sharing

        file = SegmentFile(segmenter, self.of.config, self.of.options)
        with name_memory_errors(), Downloads() as downloads:
            opened = yield from file.open(self.of.task, downloads, by_parts=True)
            with file.stored(self.of.task, opened, Sharing(self.of.machine)) as stored:
                some = replace(self.blocks, only=frozenset(self.wanted))
                yield from segmenter.segment(opened.scan, self.of.config, allocate=stored.allocate, blocks=some)
        return Filled(self.wanted)


@dataclass(frozen=True)
class FinishBlocks:
    """Put the results of a scan in place, all of whose blocks are done, or leave them for the next run.

    Attributes
    ----------
    of : SegmentScan
    blocks : Blocks
    done : frozenset of box
    total : int
        Blocks of the scan.
    unreadable : tuple of PartUnreadableError
        Why the others are not done.
    """

    of: SegmentScan
    blocks: Blocks
    done: frozenset[Box]
    total: int
    unreadable: tuple[PartUnreadableError, ...] = ()

    def run(self, segmenter: Segmenter) -> Generator[Event, None, Made]:
        """Do what needs the whole label map."""
        from prosma_core.inference.device import name_memory_errors
        from prosma_core.inference.segment import left_out
        from prosma_core.inference.stored_results import Sharing

        began, file = time.monotonic(), SegmentFile(segmenter, self.of.config, self.of.options)
        sharing = Sharing(self.of.machine, ends=True, done=self.done)
        with name_memory_errors(), Downloads() as downloads:
            opened = yield from file.open(self.of.task, downloads, by_parts=True)
            if self.unreadable:
                with file.stored(self.of.task, opened, sharing) as stored:
                    stored.keep(self.blocks.kept)
                    raise left_out(self.unreadable, self.total - len(stored.done), self.total)
            return (yield from file.compute(self.of.task, opened, began, self.blocks, sharing))


class Shared:
    """The blocks of one scan under way.

    Parameters
    ----------
    of : SegmentScan
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

    def __init__(self, of: SegmentScan, found: InBlocks, workers: int) -> None:
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

    def hear(self, event: SlabDone) -> None:
        """Take note of a block that is done."""
        self.done.add(tuple(zip(event.start, event.stop, strict=True)))

    def finish(self) -> FinishBlocks:
        """The last job."""
        self.ending = True
        return FinishBlocks(self.of, self.found.blocks, frozenset(self.done), self.total, tuple(self.unreadable))
