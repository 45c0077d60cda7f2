"""Client of the engine, for a viewer: starts the child process, hands it jobs, passes on messages. No torch."""

from __future__ import annotations

import itertools
import logging
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from numpy.typing import DTypeLike

from prosma_core.engine import arrays
from prosma_core.engine.messages import (
    REPLY,
    Ask,
    Cancel,
    Cancelled,
    Failed,
    Finished,
    Listener,
    LiveLabels,
    Message,
    PlanRequest,
    PreviewScan,
    Ready,
    Received,
    Request,
    ScanRef,
    SuggestRequest,
    TimesRequest,
    TrainRequest,
    WhatIfRequest,
    WorkersRequest,
    is_last,
)
from prosma_core.engine.process import Child
from prosma_core.errors import EngineBusyError, EngineError, ProsmaError
from prosma_core.events import Working


class Job:
    """A job given to the engine.

    Attributes
    ----------
    over : Event
        Set when the listener was told the last message.
    elsewhere : bool
        Whether Dask workers or processes of its own compute it.
    """

    def __init__(
        self,
        child: Child,
        number: int,
        request: Request,
        listener: Listener,
        cancel: Callable[[Job], None],
        preview: Callable[[Job, ScanRef | None], None],
        live: Callable[[Job, LiveLabels], None],
    ) -> None:
        self.child, self.number = child, number
        self.scans = scans_of(request)
        self.elsewhere = bool(getattr(request, "on", "")) or getattr(request, "processes", 1) > 1
        self.resend: Request | None = request if child.is_ready else None
        self.received = self.cancelled = False
        self.over = threading.Event()
        self._telling = threading.RLock()
        self.timer: threading.Timer | None = None
        self._listener, self._cancel, self._preview, self._live = listener, cancel, preview, live

    def cancel(self) -> None:
        """Ask it to stop; where it does not within the grace time, its process is killed. `Cancelled` follows."""
        self._cancel(self)

    def preview(self, scan: ScanRef | None) -> None:
        """Let a training segment this scan after each validation from now on; None ends that.

        Parameters
        ----------
        scan : ScanRef or None
            An array in it that came from `Engine.allocate` is released when the job is over, or another replaces it.

        Raises
        ------
        EngineError
            The message is too long.
        """
        self._preview(self, scan)

    def learn(self, changed: Mapping[Path, Path], *, wait: bool) -> None:
        """Let a training learn labels that changed while it runs; it says `LabelsTaken`, or why it does not take them.

        Parameters
        ----------
        changed : mapping of Path to Path
            By the label file in the run folder, the file that takes its place; it is gone afterwards.
        wait : bool
            Whether the training waits for new labels when its budget is used, instead of ending.

        Raises
        ------
        EngineError
            The message is too long.
        """
        files = {str(label): str(new) for label, new in changed.items()}
        self._live(self, LiveLabels(live=self.number, changed=files, wait=wait))

    def tell(self, message: Message) -> None:
        """Hand a message to the listener, unless it has had its last one; what that raises is logged."""
        with self._telling:
            if self.over.is_set():
                return
            if is_last(message):
                self.over.set()
            listener = self._listener
            if self.over.is_set():
                self._listener = _nobody  # and so of the arrays that it may hold
            try:
                listener(message)
            except Exception:  # noqa: BLE001  (it is the caller's, and must not end the engine's thread)
                _LOG.exception("A listener of the engine failed")

    def arrived(self) -> None:
        """The child has the request: it need not be sent again."""
        self.received, self.resend = True, None


WITHOUT_SCAN = PlanRequest | TimesRequest | WorkersRequest
"""Requests that name no scan."""


def scan_of(request: Request) -> ScanRef | None:
    """The scan that a request names, if any; of several the first."""
    if isinstance(request, TrainRequest):
        return request.preview
    if isinstance(request, SuggestRequest):
        return request.scans[0].scan
    return None if isinstance(request, WITHOUT_SCAN) else request.scan


def scans_of(request: Request) -> tuple[ScanRef | None, ...]:
    """All that a request names: scans, and labels to compare with."""
    if isinstance(request, SuggestRequest):
        return tuple(each.scan for each in request.scans)
    return scan_of(request), request.truth if isinstance(request, WhatIfRequest) else None


def _nobody(_: Message) -> None:
    """Listens to a job that is over."""


_LOG = logging.getLogger(__name__)

ANSWER = 5.0
"""Seconds after which a job is told that the engine does not answer."""
STARTING = 60.0
"""The same of an engine that has not started yet."""
NOT_ANSWERING = "The background process is not answering. Wait, or cancel to end it."
ELSEWHERE = 20.0
"""Seconds between asking a job to stop and killing its process at least, where other processes compute it."""
CLOSING = 5.0
"""Seconds for which `Engine.close` waits for a process that was killed."""


class Engine:
    """A warm child process that does one job at a time; started when needed, replaced when it died.

    Messages reach the listeners on the engine's own threads, one at a time. Nothing here waits for the child, but for
    `close`, which waits some seconds for its end.

    Parameters
    ----------
    grace : float
        Seconds between asking a job to stop and killing its process.
    on_ready : callable, optional
        Told, on the engine's thread, when a child has started.

    Attributes
    ----------
    ready : Ready or None
        What the child said of itself; None until it has started.
    """

    def __init__(self, grace: float = 3.0, on_ready: Callable[[Ready], None] | None = None) -> None:
        self._grace, self._on_ready = grace, on_ready
        self._lock, self._making = threading.RLock(), threading.Lock()
        self._folders: list[Path] = []
        self._child: Child | None = None
        self._freed: Child | None = None
        self._jobs: dict[Child, Job] = {}  # also of children that are about to end
        self._numbers = itertools.count(1)
        self._last_log = ""
        self._tidy: weakref.finalize[..., Engine] | None = None  # also when the program ends without `close`
        self.ready: Ready | None = None

    # --- What callers do --------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start a child where none lives; returns at once. A failure is told to the next job."""
        with self._lock:
            self._living_child()

    def submit(self, request: Request, listener: Listener) -> Job:
        """Give the engine a job.

        Parameters
        ----------
        request : Request
            An array in it that came from `allocate` is released when the job is over, or if it is refused.
        listener : callable
            Called with events and arrays, and last with exactly one of `Finished`, `Failed` and `Cancelled`.

        Raises
        ------
        EngineBusyError
            Another job is not over yet.
        EngineError
            A request that needs a scan names none, or the request is too long.
        """
        try:
            with self._lock:
                return self._submit(request, listener)
        except ProsmaError:
            self._release(*scans_of(request))
            raise

    def allocate(self, shape: tuple[int, ...], dtype: DTypeLike) -> arrays.SharedArray:
        """An array of zeros for a scan of a request or a preview; raises `EngineError` where there is no room."""
        return arrays.create(self._private_folders(), shape, dtype)

    def array_folder(self) -> Path:
        """The folder for arrays of `allocate`, in shared memory where there is some; raises as `private_folders`."""
        return self._private_folders()[0]

    def disk_folder(self) -> Path:
        """A folder on the disk for what jobs leave there, removed with this engine; raises as `private_folders`."""
        return self._private_folders()[-1]

    def free(self) -> None:
        """End the child and with it all memory it holds; a running job is canceled. The next job starts another."""
        with self._lock:
            child, self._child, self.ready = self._child, None, None
            if child in self._jobs:
                self._jobs[child].cancelled = True
            self._freed = child or self._freed
        if child is not None:
            child.kill()

    def close(self) -> None:
        """End the child for good and remove what it shared; arrays that were handed out stay valid."""
        self.free()
        child = self._freed
        if child is not None and child.thread is not threading.current_thread():
            child.thread.join(CLOSING)  # until the process is gone, also one that was freed just before
        with self._making:
            if self._tidy is not None:
                self._tidy()
            self._folders, self._tidy = [], None

    def check_idle(self) -> None:
        """Raise `EngineBusyError` where a job is not over yet."""
        with self._lock:
            self._check_idle(self._child)

    @property
    def alive(self) -> bool:
        """Whether a child is there, or on its way."""
        child = self._child
        return child is not None and child.lives

    @property
    def pid(self) -> int | None:
        """Process id of the child, None where none lives."""
        child = self._child
        return child.pid if child is not None else None

    def log_tail(self) -> str:
        """End of the log of the latest child."""
        child = self._child
        return child.log_tail() if child is not None else self._last_log

    # --- What the child does, on its thread -------------------------------------------------------------------------

    def _receive(self, child: Child, line: bytes) -> None:
        """Take a line; raises `EngineError` where the child can no longer be talked to."""
        try:
            reply = REPLY.validate_json(line)
            if isinstance(reply, Ready):
                self._child_ready(child, reply)
                return
            if isinstance(reply, Received):
                self._child_received(child, reply)
                return
            message = reply.message()
        except ValueError as error:
            msg = f"The background process sent something that cannot be read, and was ended: {line[:60]!r}. Run again."
            raise EngineError(msg) from error
        with self._lock:
            job = self._jobs.get(child)
            if job is None or reply.job not in {job.number, None}:
                return
        if isinstance(message, Failed):
            message = replace(message, details=f"{message.details}\n{child.log_tail()}".strip())
        if isinstance(message, Finished | Failed | Cancelled):
            self._end(child, message)
        elif not job.cancelled:
            job.tell(message)

    def _child_ready(self, child: Child, ready: Ready) -> None:
        child.is_ready = True
        with self._lock:
            if self._child is not child:
                return
            self.ready = ready
        if self._on_ready is not None:
            try:
                self._on_ready(ready)
            except Exception:  # noqa: BLE001  (as of a listener)
                _LOG.exception("Whoever waits for the engine failed")

    def _child_received(self, child: Child, received: Received) -> None:
        with self._lock:
            job = self._jobs.get(child)
            if job is not None and job.number == received.job:
                job.arrived()

    def _ended(self, child: Child, error: EngineError, log: str) -> None:
        with self._lock:
            self._last_log = log
            if self._child is child:
                self._child, self.ready = None, None
                _LOG.info("%s", error)
            if self._sent_again(child):
                return
        self._end(child, Failed(error, log))

    def _end(self, child: Child, message: Finished | Failed | Cancelled) -> None:
        """The job of a child is over: from now on it takes another."""
        with self._lock:
            job = self._jobs.pop(child, None)
            if job is None:
                return
            if job.timer is not None:
                job.timer.cancel()
        self._release(*job.scans)
        job.tell(Cancelled() if job.cancelled else message)

    def _sent_again(self, child: Child) -> bool:
        """Give the job of an idle child, which ended before the request arrived, to a fresh one, once."""
        job = self._jobs.get(child)
        if job is None or job.resend is None or job.cancelled or child.misbehaved:
            return False
        fresh = self._living_child()
        if fresh in self._jobs:
            return False
        del self._jobs[child]
        fresh.send(Ask(job=job.number, request=job.resend))
        self._jobs[fresh], job.child, job.resend = job, fresh, None
        return True

    def _watch(self, job: Job) -> None:
        """Tell a job, on a thread of its own, when the engine does not answer, and again when that happens again."""
        began, silent = time.monotonic(), False
        while not job.over.wait(ANSWER):
            child, before = job.child, silent
            patience = 0.0 if child.is_ready else STARTING
            silent = child.stopped or (not job.received and time.monotonic() - began > patience)
            if silent and not before and not job.cancelled:
                job.tell(Working(NOT_ANSWERING))

    # --- Inside -----------------------------------------------------------------------------------------------------

    def _submit(self, request: Request, listener: Listener) -> Job:
        if not isinstance(request, TrainRequest | WITHOUT_SCAN) and scan_of(request) is None:
            msg = "The request names no scan. Choose one."
            raise EngineError(msg)
        child = self._living_child()
        self._check_idle(child)
        job = Job(child, next(self._numbers), request, listener, self._cancel, self._preview, self._learn)
        child.send(Ask(job=job.number, request=request))
        self._jobs[child] = job
        threading.Thread(target=self._watch, args=(job,), name="prosma-engine-watch", daemon=True).start()
        return job

    def _check_idle(self, child: Child | None) -> None:
        if child in self._jobs:
            msg = "Another job is running. Wait for it, or cancel it."
            raise EngineBusyError(msg)

    def _living_child(self) -> Child:
        if self._child is None or not self._child.lives:
            self.ready = None
            self._child = Child(self._private_folders, self._receive, self._ended)
        return self._child

    def _cancel(self, job: Job) -> None:
        with self._lock:
            if self._jobs.get(job.child) is not job or job.cancelled:
                return
            job.cancelled = True
            grace = max(self._grace, ELSEWHERE) if job.elsewhere else self._grace
            job.timer = threading.Timer(grace, self._enforce, (job, grace))
            job.timer.daemon = True
            job.timer.start()
        job.child.send(Cancel(cancel=job.number))

    def _preview(self, job: Job, scan: ScanRef | None) -> None:
        with self._lock:
            if self._jobs.get(job.child) is not job or job.cancelled:
                self._release(scan)
                return
            before, job.scans = job.scans, (scan,)
            job.child.send(PreviewScan(preview=job.number, scan=scan))
            if before != job.scans:
                self._release(*before)

    def _learn(self, job: Job, labels: LiveLabels) -> None:
        with self._lock:
            if self._jobs.get(job.child) is job and not job.cancelled:
                job.child.send(labels)

    def _enforce(self, job: Job, grace: float) -> None:
        with self._lock:
            late = self._jobs.get(job.child) is job
        if late:
            _LOG.warning("A job did not stop within %s s; its process is killed", grace)
            job.child.kill()

    def _release(self, *scans: ScanRef | None) -> None:
        """Remove the arrays of scans that are ours."""
        for scan in scans:
            if scan is not None and scan.array is not None and Path(scan.array.path).parent in self._folders:
                Path(scan.array.path).unlink(missing_ok=True)

    def _private_folders(self) -> list[Path]:
        with self._making:
            if not self._folders:
                self._folders = arrays.private_folders()
                self._tidy = weakref.finalize(self, arrays.remove_folders, self._folders)
                threading.Thread(target=arrays.sweep, name="prosma-sweep", daemon=True).start()
            return self._folders
