"""Many scans one after another: what is left to do, which process does it, what failed."""

from __future__ import annotations

import contextlib
import errno
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from prosma_core.errors import FileFormatError, OutputError, ProsmaError
from prosma_core.events import CaseDone, CaseFailed, Event, StageStarted, Working
from prosma_core.io.atomic import NO_ROOM, make_folder, put_back
from prosma_core.io.claims import ClaimedError, claimed
from prosma_core.io.output_plan import OutputPlan
from prosma_core.io.result_table import ResultTable, Row
from prosma_core.io.scan_files import ScanFiles
from prosma_core.io.zarr_checks import load_node
from prosma_core.io.zarr_labels import is_listed
from prosma_core.printable import counted

WAIT_S = 1.0
"""Seconds between two looks at a result that another process makes."""
_DISK = {*NO_ROOM, errno.EROFS}
"""Errors of writing that the next scan would meet as well."""


@dataclass(frozen=True)
class ScanTask:
    """One scan, what it is called in messages, and its result: a file, or a folder for several.

    Attributes
    ----------
    wanted : tuple of Path
        Every file of the result, or the last one; where all are there, the scan is finished. The first is claimed.
    refused : OutputError or None
        Why nothing may be written.
    """

    scan: ScanFiles
    name: str
    target: Path
    wanted: tuple[Path, ...]
    refused: OutputError | None = None


@dataclass
class ScanPlan:
    """What is to be done.

    Attributes
    ----------
    left, finished : list of ScanTask
        Of this part: still to do, and with a result already.
    total : int
        Scans of all parts.
    skip : bool
        Whether scans that are finished when their turn comes are left out.
    folder : Path or None
        For results, made before the first scan is read.
    """

    left: list[ScanTask]
    finished: list[ScanTask]
    total: int
    skip: bool
    folder: Path | None = None
    done: int = 0
    failed: list[CaseFailed] = field(default_factory=list)


def is_finished(wanted: Iterable[Path]) -> bool:
    """Whether all files of a result are there. They are renamed into place, so that none is half-written."""
    for path in wanted:
        put_back(path)
        try:
            found = path.stat()
            there = found.st_size if path.is_file() else load_node(path)  # any folder may be called .zarr
            if not there or not is_listed(path):
                return False
        except (OSError, FileFormatError):
            return False
    return True


def names_of(scans: Sequence[ScanFiles]) -> list[str]:
    """What each scan is called in messages: its name, or so much of its path that no other scan is called the same."""
    ways: tuple[Callable[[ScanFiles], str], ...] = (
        lambda scan: scan.name,
        lambda scan: scan.files[0].name,
        lambda scan: "/".join(scan.files[0].parts[-2:]),
        lambda scan: str(scan.files[0]),
    )
    called = [[way(scan) for scan in scans] for way in ways]
    often = [Counter(each) for each in called]
    return [
        next((each[i] for each, times in zip(called, often, strict=True) if times[each[i]] == 1), called[-1][i])
        for i in range(len(scans))
    ]


def tasks_of(
    scans: Sequence[ScanFiles],
    targets: Sequence[Path],
    wanted: Callable[[Path], Sequence[Path]],
    protected: Sequence[Path],
    *,
    labels: bool = False,
) -> list[ScanTask]:
    """Tasks; those are refused whose results would replace what any of them reads, or the result of another.

    `labels` says whether the results are label maps, as of `OutputPlan.add`.
    """
    plan = OutputPlan([*(file for scan in scans for file in scan.files), *protected])
    tasks = []
    for scan, name, target in zip(scans, names_of(scans), targets, strict=True):
        refused = None
        try:
            for path in wanted(target):
                plan.add(path, name, labels=labels)
        except OutputError as error:
            refused = error
        tasks.append(ScanTask(scan, name, target, tuple(wanted(target)), refused))
    return tasks


Work = Callable[[ScanTask], Generator[Event, None, tuple[dict[str, int], list[Row]]]]
"""Makes the result of a scan; returns voxels by class, and the rows of the table."""


def run_scans(plan: ScanPlan, work: Work, table: ResultTable | None = None) -> Generator[Event, None, None]:
    """Do what is left of a plan; a scan that fails is reported, and the others go on.

    A scan that another process works on is left to it: where finished scans are left out, its result is waited for
    when all others are done, and made here if that process ends without one; otherwise it is refused. Where nothing
    more can be written, the rest is not started.

    Parameters
    ----------
    plan : ScanPlan
        What becomes of each scan is kept in it.
    work : Work
    table : ResultTable, optional
        Gets the rows, those of failures as well.

    Raises
    ------
    OutputError
        The folder for results cannot be made.
    """
    make_results_folder(plan)
    waiting = list(plan.left)
    said = False
    try:
        while waiting:
            held: list[ScanTask] = []
            for number, task in enumerate(waiting, 1):
                try:
                    yield from _run_one(plan, task, work, table)
                except ClaimedError as error:
                    if not said:
                        yield StageStarted(f"{task.name} is left to {error.who}, which works on it.")
                    held.append(task)
                    said = True
                except ProsmaError as error:
                    yield failed(plan, task, error, table)
                    rest = len(waiting) - number + len(held)
                    if rest and of_disk(error):
                        yield not_started(rest)
                        return
            if len(held) == len(waiting):
                yield Working(f"Waiting for {counted(len(held), 'scan')} that another process works on")
                time.sleep(WAIT_S)
            waiting = held
    finally:
        if table is not None:
            table.flush()


def _run_one(plan: ScanPlan, task: ScanTask, work: Work, table: ResultTable | None) -> Generator[Event, None, None]:
    """Make one result, unless it was finished meanwhile.

    Raises
    ------
    ClaimedError
        Another process makes it, and its result may be waited for.
    ProsmaError
        It cannot be made.
    """
    began = time.monotonic()
    with scan_claimed(plan, task) as wanted:
        if not wanted:
            return
        voxels, rows = yield from work(task)
    yield done(plan, task, voxels, rows, time.monotonic() - began, table)


@contextlib.contextmanager
def scan_claimed(plan: ScanPlan, task: ScanTask) -> Iterator[bool]:
    """Claim the result of a scan while it is made; gives False where it was finished meanwhile.

    Raises
    ------
    ClaimedError
        Another process makes it, and its result may be waited for.
    ProsmaError
        It cannot be made.
    """
    if task.refused:
        raise task.refused
    folder = task.wanted[0].parent
    new = not folder.exists()
    make_folder(folder)
    try:
        with claimed(task.wanted[0]):
            finished = plan.skip and is_finished(task.wanted)
            if finished:
                plan.finished.append(task)
            yield not finished
    except ClaimedError as error:
        if plan.skip:
            raise
        raise OutputError(str(error)) from error
    finally:
        if new:
            with contextlib.suppress(OSError):
                folder.rmdir()  # only where nothing was written


def done(
    plan: ScanPlan,
    task: ScanTask,
    voxels: dict[str, int],
    rows: Sequence[Row],
    seconds: float,
    table: ResultTable | None,
) -> CaseDone:
    """Keep that a scan is done, and give its rows to the table."""
    plan.done += 1
    if table is not None:
        table.put(task.target, rows)
    return CaseDone(task.name, str(task.target), seconds, voxels)


def failed(plan: ScanPlan, task: ScanTask, error: ProsmaError, table: ResultTable | None) -> CaseFailed:
    """Keep that a scan failed, and why."""
    plan.failed.append(CaseFailed(task.name, str(error)))
    if table is not None:
        table.put(task.target, [Row(str(task.scan.files[0]), "failed", error=str(error))])
    return plan.failed[-1]


def not_started(scans: int) -> StageStarted:
    """Sentence on scans that are left out where the disk takes nothing more."""
    text = counted(scans, "scan was", "scans were")
    return StageStarted(f"{text} not started, because nothing more can be written.")


def make_results_folder(plan: ScanPlan) -> None:
    """Make the folder for results before the first scan is read; raises `OutputError` where it cannot be."""
    if plan.folder is not None and any(task.refused is None for task in plan.left):
        try:
            plan.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            msg = f"The folder {plan.folder} for results cannot be made ({error.strerror}). Choose another --out."
            raise OutputError(msg) from error


def of_disk(error: BaseException | None) -> bool:
    """Whether an error is one of a disk that takes nothing more."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _DISK:
            return True
        error = error.__cause__
    return False
