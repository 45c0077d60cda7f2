"""Many scans on the workers of a cluster: each is claimed here and computed there."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prosma_core.cluster.connection import Cluster, absolute, working_text
from prosma_core.cluster.jobs import Job, Outcome
from prosma_core.config.inference import InferenceConfig
from prosma_core.errors import ClusterError, ProsmaError
from prosma_core.events import Event, StageStarted, TileDone, Working
from prosma_core.inference.files import FileOptions, SegmentFile
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
from prosma_core.io.claims import ClaimedError
from prosma_core.io.result_table import ResultTable, Row
from prosma_core.printable import counted

if TYPE_CHECKING:
    from prosma_core.inference.segment import Segmenter

Made = tuple[dict[str, int], list[Row]]
"""Voxels by class, and rows of the table."""


@dataclass(frozen=True)
class SegmentScan:
    """Segment a scan file."""

    task: ScanTask
    config: InferenceConfig
    options: FileOptions

    def run(self, segmenter: Segmenter) -> Generator[Event, None, Made]:
        """Write its label map, and what else is asked for."""
        return SegmentFile(segmenter, self.config, self.options)(self.task)


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
        return SegmentScan(task, config, sent)

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


Work = Callable[[Iterator[tuple[ScanTask, Job]]], Generator["tuple[ScanTask, Event | Outcome] | None", None, None]]


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

    def _jobs(self, waiting: list[ScanTask]) -> Iterator[tuple[ScanTask, Job]]:
        """Jobs for scans that could be claimed, each when a worker is free for it."""
        for task in waiting:
            if self.full:
                return
            self.begun += 1
            claim = ExitStack()
            try:
                if claim.enter_context(scan_claimed(self.plan, task)):
                    self.claims[task.name], self.running[task.name] = claim, ""
                    yield task, self.job(_everywhere(task))
                else:
                    claim.close()
            except ClaimedError as error:
                if not self.said:
                    self.events.append(StageStarted(f"{task.name} is left to {error.who}, which works on it."))
                self.said = True
                self.held.append(task)
            except ProsmaError as error:
                self.events.append(failed(self.plan, task, error, self.table))

    def _hear(self, task: ScanTask, what: Event | Outcome) -> None:
        if isinstance(what, TileDone):
            self.running[task.name] = f"{what.done} of {what.total} tiles"
        elif isinstance(what, StageStarted):
            named = f"{task.name}: " in what.message
            self.events.append(what if named else StageStarted(f"{task.name}: {what.message}"))
        elif isinstance(what, Outcome):
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
