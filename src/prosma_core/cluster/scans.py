"""Many scans on the workers of a cluster: each is claimed here and computed there."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from prosma_core.cluster.blocks import Filled, InBlocks, Made, SegmentScan, Shared
from prosma_core.cluster.connection import Cluster, absolute, working_text
from prosma_core.cluster.jobs import Job, Outcome
from prosma_core.config.inference import InferenceConfig
from prosma_core.errors import ClusterError, PartUnreadableError, ProsmaError
from prosma_core.events import Event, SlabDone, StageStarted, TileDone, Working
from prosma_core.inference.files import FileOptions
from prosma_core.inference.scan_runs import (
    WAIT_S,
    ScanPlan,
    ScanTask,
    done,
    failed,
    make_results_folder,
    not_started,
    scan_claimed,
)
from prosma_core.io.atomic import machine_state
from prosma_core.io.claims import ClaimedError, undisturbed
from prosma_core.io.result_table import ResultTable
from prosma_core.printable import counted


def segment_on(
    cluster: Cluster,
    plan: ScanPlan,
    model: Path,
    config: InferenceConfig,
    options: FileOptions,
    table: ResultTable | None = None,
    device: str = "auto",
) -> Generator[Event, None, None]:
    """Segment what is left of a plan on a cluster, as `segment_plan` does here.

    Parameters
    ----------
    cluster : Cluster
    plan : ScanPlan
        As of `plan_files`, with the same settings; what becomes of each scan is kept in it.
    model : Path
    config : InferenceConfig
    options : FileOptions
    table : ResultTable, optional
    device : str
        Of the workers, as of `choose_device`.

    Raises
    ------
    ClusterError
        As of `Cluster.check`; what was done before the connection was lost stays.
    """
    sent = replace(options, protected=())  # was checked when it was planned

    def job(task: ScanTask) -> Job:
        return SegmentScan(task, config, sent, machine_state(), cluster.count_workers())

    yield from run_scans_on(cluster, plan, plan.folder, model, device, job, lambda _, made: made, table)


def run_scans_on(
    cluster: Cluster,
    plan: ScanPlan,
    folder: Path | None,
    model: Path,
    device: str,
    job: Callable[[ScanTask], Job],
    take: Callable[[ScanTask, Any], Made],
    table: ResultTable | None = None,
) -> Generator[Event, None, None]:
    """Do what is left of a plan on a cluster, as `run_scans` does here.

    Parameters
    ----------
    cluster, plan, model, device
        As of `segment_on`.
    folder : Path or None
        For results.
    job : callable
        Gives what a worker does for a scan, whose paths are absolute.
    take : callable
        Takes a scan and what the job returned.
    table : ResultTable, optional

    Raises
    ------
    OutputError
        The folder for results cannot be made.
    ClusterError
        As of `Cluster.check`.
    """
    make_results_folder(plan)
    yield from cluster.begin(folder, [file for task in plan.left for file in task.scan.files])
    work = _Scans(cluster, plan, job, take, table)
    with cluster.with_model(model, device) as sent:
        yield from work.all(lambda jobs: cluster.work(jobs, sent))


Work = Callable[
    [Iterator[tuple[ScanTask, Job] | None]], Generator["tuple[ScanTask, Event | Outcome] | None", None, None]
]


@dataclass
class _Scans:
    """Scans under way."""

    cluster: Cluster
    plan: ScanPlan
    job: Callable[[ScanTask], Job]
    take: Callable[[ScanTask, Any], Made]
    table: ResultTable | None
    claims: dict[str, ExitStack] = field(default_factory=dict)
    running: dict[str, str] = field(default_factory=dict)
    shared: dict[str, Shared] = field(default_factory=dict)
    more: deque[tuple[ScanTask, Job]] = field(default_factory=deque)
    sentences: set[str] = field(default_factory=set)
    held: list[ScanTask] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    begun: int = 0
    full: bool = False
    said: bool = False

    def all(self, work: Work) -> Generator[Event, None, None]:
        """Do all scans; those that another process has claimed again when all others are done."""
        waiting = list(self.plan.left)
        try:
            while waiting:
                self.held, self.begun = [], 0
                yield from self._round(waiting, work)
                left = len(waiting) - self.begun + len(self.held)
                if self.full and left:
                    yield not_started(left)
                    return
                if len(self.held) == len(waiting):
                    yield Working(f"Waiting for {counted(len(self.held), 'scan')} that another process works on")
                    time.sleep(WAIT_S)
                waiting = self.held
        finally:
            for claim in self.claims.values():
                claim.close()
            if self.table is not None:
                self.table.flush()

    def _round(self, waiting: list[ScanTask], work: Work) -> Generator[Event, None, None]:
        try:
            for found in work(self._jobs(waiting)):
                if found is not None:
                    self._hear(*found)
                yield from self._said()
                yield working_text(self.running)
            yield from self._said()
        except ClusterError as error:
            for task in [task for task in waiting if task.name in self.running]:
                self.events.append(failed(self.plan, task, error, self.table))
            yield from self._said()
            if left := len(waiting) - self.begun + len(self.held):
                yield StageStarted(f"{counted(left, 'scan was', 'scans were')} not started.")
            self.full, self.held, self.begun = True, [], len(waiting)

    def _said(self) -> Iterator[Event]:
        said, self.events = self.events, []
        yield from said

    def _jobs(self, waiting: list[ScanTask]) -> Iterator[tuple[ScanTask, Job] | None]:
        """Jobs for scans that could be claimed, each when a worker is free for it; blocks come before other scans."""
        for task in waiting:
            while self.more:
                yield self.more.popleft()
            if self.full:
                break
            self.begun += 1
            claim = self.claims[task.name] = ExitStack()  # known at once, should a signal end the program meanwhile
            try:
                with undisturbed():
                    claimed = claim.enter_context(scan_claimed(self.plan, task))
                if claimed:
                    self.running[task.name] = ""
                    yield task, self.job(_everywhere(task))
                else:
                    self.claims.pop(task.name).close()
            except ClaimedError as error:
                if not self.said:
                    self.events.append(StageStarted(f"{task.name} is left to {error.who}, which works on it."))
                self.said = True
                self.held.append(task)
            except ProsmaError as error:
                self.events.append(failed(self.plan, task, error, self.table))
        while self.running:
            yield self.more.popleft() if self.more else None

    def _hear(self, task: ScanTask, what: Event | Outcome) -> None:
        shared = self.shared.get(task.name)
        if isinstance(what, TileDone) and shared is None:
            self.running[task.name] = f"{what.done} of {what.total} tiles"
        elif isinstance(what, SlabDone) and shared is not None:
            shared.hear(what)
            self.running[task.name] = shared.how_far
        elif isinstance(what, StageStarted):
            sentence = what.message if f"{task.name}: " in what.message else f"{task.name}: {what.message}"
            if shared is None or sentence not in self.sentences:
                self.events.append(StageStarted(sentence))
            self.sentences.add(sentence)
        elif isinstance(what, Outcome):
            self._ended(task, what, shared)

    def _ended(self, task: ScanTask, what: Outcome, shared: Shared | None) -> None:
        """Take what became of a job: a scan, its plan, some of its blocks, or their end."""
        if isinstance(what.result, InBlocks):
            of = self.job(_everywhere(task))
            assert isinstance(of, SegmentScan)
            shared = self.shared[task.name] = Shared(of, what.result, self.cluster.count_workers())
            self.running[task.name] = shared.how_far
            self.more += [(task, job) for job in shared.jobs]
            return
        if shared is not None:
            shared.left -= 1
            if isinstance(what.result, Filled):
                shared.done.update(what.result.boxes)
                self.running[task.name] = shared.how_far
            if isinstance(what.error, PartUnreadableError) and not shared.ending:  # all other blocks can be done
                shared.unreadable.append(what.error)
            elif what.error is not None and shared.error is None:
                shared.error = what
                others = deque(each for each in self.more if each[0] is not task)
                shared.left -= len(self.more) - len(others)
                self.more = others
            if shared.left:
                return
            if shared.error is not None:
                what = shared.error
            elif not shared.ending:
                self.more.append((task, shared.finish()))
                shared.left = 1
                return
            what = replace(what, seconds=time.monotonic() - shared.began)
            del self.shared[task.name]
        del self.running[task.name]
        self.claims.pop(task.name).close()
        if what.error is not None:
            self.events.append(failed(self.plan, task, what.error, self.table))
            self.full = self.full or what.disk
        else:
            voxels, rows = self.take(task, what.result)
            rows = [replace(row, scan=str(task.scan.files[0])) for row in rows]
            self.events.append(done(self.plan, task, voxels, rows, what.seconds, self.table))


def _everywhere(task: ScanTask) -> ScanTask:
    """A scan with paths that mean the same on other computers."""
    scan = replace(task.scan, files=tuple(map(absolute, task.scan.files)))
    return replace(task, scan=scan, target=absolute(task.target), wanted=tuple(map(absolute, task.wanted)))
