"""What runs on a worker of a Dask cluster: a model, loaded once, computes one job at a time."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distributed import Worker, WorkerPlugin, get_worker

from prosma_core.cluster.checks import difference, versions_here
from prosma_core.cluster.jobs import THREADS, Job, Outcome, Sent, encode
from prosma_core.errors import ClusterError, ProsmaError
from prosma_core.events import Event, SlabDone, StageStarted, drain
from prosma_core.inference.scan_runs import of_disk
from prosma_core.io.atomic import write_bytes_atomic
from prosma_core.io.hardware import COMPUTING, reuse_memory

if TYPE_CHECKING:
    from prosma_core.inference.segment import Segmenter

EVERY_S = 0.3
"""Seconds between two reports of progress at least."""
POLL_S = 0.2
"""Seconds between two looks at whether a job that waits is still wanted."""
AT_WORK = {"running", "paused"}
"""What Dask calls a worker that goes on with its job; paused, for memory, it gets no further one."""
_BUSY = threading.Lock()
"""Held while a job is computed: gates are recorded in the model, and torch has threads of its own."""
_LOADED: dict[tuple[str, str], Segmenter] = {}


class ModelFile(WorkerPlugin):
    """A model file, sent once to each worker, those that come later included; kept in its scratch folder.

    Each run of each client has a file of its own, which ends with it.

    Parameters
    ----------
    topic : str
        Of the run, as of `Sent`.
    content : bytes
    own : bool
        Whether the worker was started by the client, whose Ctrl+C it gets as well.
    """

    def __init__(self, topic: str, content: bytes, *, own: bool) -> None:
        self.name, self._content, self._own = topic, content, own

    def setup(self, worker: Worker) -> None:
        """Write the file."""
        if self._own and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        write_bytes_atomic(_file(worker, self.name), self._content)
        self._content = b""

    def teardown(self, worker: Worker) -> None:
        """Remove it."""
        _file(worker, self.name).unlink(missing_ok=True)


def _file(worker: Worker, topic: str) -> Path:
    return Path(worker.local_directory) / f"{topic}.safetensors"


class _Report:
    """Reports what a job does to the client: sentences and finished blocks, and progress not too often."""

    def __init__(self, worker: Worker, topic: str, number: int) -> None:
        self._worker, self._topic, self._number = worker, topic, number
        self._said = 0.0

    def put(self, event: Event) -> None:
        """Report an event."""
        now = time.monotonic()
        if isinstance(event, SlabDone):  # follows the last tile of a block at once
            self.say(**encode(event))
        elif isinstance(event, StageStarted) or now - self._said >= EVERY_S:
            self._said = now
            self.say(**encode(event))

    def say(self, **values: Any) -> None:
        """Report plain values."""
        self._worker.log_event(self._topic, {"number": self._number, **values})


class _Warnings(logging.Handler):
    """Reports warnings, which a worker's own log would keep to itself."""

    def __init__(self, report: _Report) -> None:
        super().__init__(logging.WARNING)
        self._report = report

    def emit(self, record: logging.LogRecord) -> None:
        """Report one."""
        self._report.put(StageStarted(f"Warning: {record.getMessage()}"))


@contextmanager
def _told(report: _Report) -> Iterator[None]:
    logger, handler = logging.getLogger("prosma_core"), _Warnings(report)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def run(job: Job, number: int, sent: Sent) -> Outcome | None:
    """Do a job as a task of Dask; returns None where nobody wants it any more.

    Errors of this project are part of the outcome: Dask does not try such a job again. A task whose worker was
    killed runs again on another one.
    """
    worker = get_worker()
    key, began = worker.get_current_task(), time.monotonic()
    report = _Report(worker, sent.topic, number)

    def wanted() -> bool:
        task = worker.state.tasks.get(key)
        return task is not None and task.state not in {"cancelled", "released"} and worker.status.name in AT_WORK

    report.say(kind="began", process=os.getpid())
    try:
        while not _BUSY.acquire(timeout=POLL_S):
            if not wanted():
                return None
        try:
            if differing := difference(sent.versions, versions_here()):
                msg = f"The worker {worker.address} has other versions: {differing}."
                raise ClusterError(msg)
            with _told(report), closing(job.run(_segmenter(worker, sent, report))) as work:
                while wanted():
                    try:
                        report.put(next(work))
                    except StopIteration as stop:
                        return Outcome(stop.value, time.monotonic() - began)
            return None
        finally:
            _BUSY.release()
    except ProsmaError as error:
        return Outcome(seconds=time.monotonic() - began, error=error, disk=of_disk(error))
    finally:
        report.say(kind="ended")


async def idle(patience: float) -> None:
    """Wait, so many seconds at most, until no job is computed on this worker."""
    until = time.monotonic() + patience
    while _BUSY.locked() and time.monotonic() < until:
        await asyncio.sleep(POLL_S)


def _segmenter(worker: Worker, sent: Sent, report: _Report) -> Segmenter:
    """The model, loaded unless the last job had the same."""
    for name, value in COMPUTING.items():
        os.environ.setdefault(name, value)
    import torch

    from prosma_core.inference import device
    from prosma_core.inference.segment import Segmenter

    device.limit_memory(worker.memory_manager.memory_limit)
    key = sent.model, sent.device
    if key not in _LOADED:
        torch.set_num_threads(int(os.environ.get(THREADS, worker.state.nthreads)))
        choice = drain(device.prepare_device(sent.device), report.put)
        reuse_memory()
        _LOADED.clear()  # two models at once may not fit
        _LOADED[key] = Segmenter.load(_file(worker, sent.topic), choice.device)
    return _LOADED[key]
