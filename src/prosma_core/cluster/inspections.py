"""Inspections of many scans on the workers of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from prosma_core.cluster.blocks import Made
from prosma_core.cluster.connection import Cluster, absolute
from prosma_core.cluster.jobs import Job
from prosma_core.cluster.scans import run_scans_on
from prosma_core.events import Event
from prosma_core.inference.device import name_memory_errors
from prosma_core.inference.scan_runs import ScanPlan, ScanTask
from prosma_core.inspection.files import Asked, Report, inspect_file

if TYPE_CHECKING:
    from prosma_core.inference.segment import Segmenter


@dataclass(frozen=True)
class InspectScan:
    """Inspect the gates on a scan file."""

    task: ScanTask
    asked: Asked

    def run(self, segmenter: Segmenter) -> Generator[Event, None, Report]:
        """Write maps, pictures and numbers; returns what was found."""
        with name_memory_errors():
            return (yield from inspect_file(segmenter, self.task.scan.files, self.task.target, self.asked))


def inspect_on(
    cluster: Cluster,
    plan: ScanPlan,
    out: Path,
    model: Path,
    asked: Asked,
    show: Callable[[str, Report], None],
    device: str = "auto",
) -> Generator[Event, None, None]:
    """Inspect what is left of a plan on a cluster, as `inspect_plan` does here.

    Parameters
    ----------
    cluster, plan, model, device
        As of `segment_on`, whose errors are raised as well.
    out : Path
        Folder for results.
    asked : Asked
    show : callable
        Takes the name of each scan and what was found.
    """
    there = replace(asked, protected=(), truth=None if asked.truth is None else absolute(asked.truth))

    def job(task: ScanTask) -> Job:
        return InspectScan(task, there)

    def take(task: ScanTask, report: Report) -> Made:
        show(task.name, report)
        return {}, []

    yield from run_scans_on(cluster, plan, out, model, device, job, take)
