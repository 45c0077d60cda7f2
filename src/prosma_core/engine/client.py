"""The engine as seen from a viewer: start it, give it a job, hear of it, end it. No torch."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import DTypeLike, NDArray
from pydantic import ValidationError

from prosma_core import errors
from prosma_core.engine import arrays
from prosma_core.engine.messages import (
    MAX_LINE,
    REPLY,
    ArrayMade,
    Ask,
    Cancel,
    Done,
    Failure,
    Progress,
    Ready,
    SegmentRequest,
    SegmentResult,
    Stopped,
)
from prosma_core.errors import EngineBusyError, EngineError, ProsmaError
from prosma_core.events import Event

LOG_TAIL = 8000
"""Characters of the log that are shown."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class ArrayReady:
    """An array of the result, by its name: zeros at first, filled while the job runs; it outlives the child."""

    name: str
    array: NDArray[Any]


@dataclass(frozen=True)
class Finished:
    """The job is done; its arrays are filled."""

    result: SegmentResult


@dataclass(frozen=True)
class Failed:
    """The job failed; `details` holds the traceback and the end of the engine's log."""

    error: ProsmaError
    details: str


@dataclass(frozen=True)
class Cancelled:
    """The job was cancelled."""


Message = Event | ArrayReady | Finished | Failed | Cancelled
Listener = Callable[[Message], None]


class Job:
    """A job given to the engine."""

    def __init__(self, engine: Engine, child: _Child, number: int, listener: Listener) -> None:
        self.number, self.child = number, child
        self.cancelling = False
        self._engine, self._listener = engine, listener

    def cancel(self) -> None:
        """Ask it to stop; where it does not within the grace time, its process is killed. `Cancelled` follows."""
        self._engine.cancel(self)

    def tell(self, message: Message) -> None:
        """Hand a message to the listener; what that raises is logged."""
        try:
            self._listener(message)
        except Exception:  # noqa: BLE001  (it is the caller's, and must not end this thread)
            _LOG.exception("A listener of the engine failed")


class Engine:
    """A warm child process that does one job at a time; started when needed, replaced when it died.

    Messages reach the listeners on the engine's own thread.

    Parameters
    ----------
    grace : float
        Seconds between asking a job to stop and killing its process.
    on_ready : callable, optional
        Told when a child has started.
    """

    def __init__(self, grace: float = 3.0, on_ready: Callable[[Ready], None] | None = None) -> None:
        self._grace, self._on_ready = grace, on_ready
        self._lock = threading.RLock()
        self._folders: list[Path] = []
        self._child: _Child | None = None
        self._job: Job | None = None
        self._numbers = 0
        self.ready: Ready | None = None

    # --- What callers do --------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start a child where none lives; returns at once."""
        with self._lock:
            if self._child is None:
                self._make_folders()
                self._child = _Child(self._folders, self._receive, self._ended)

    def submit(self, request: SegmentRequest, listener: Listener) -> Job:
        """Give the engine a job.

        Parameters
        ----------
        request : SegmentRequest
        listener : callable
            Called with events and arrays, and last with exactly one of `Finished`, `Failed` and `Cancelled`.

        Raises
        ------
        EngineBusyError
            Another job is not over yet.
        """
        with self._lock:
            if self._job is not None:
                msg = "The engine is busy with another job. Wait for it, or cancel it."
                raise EngineBusyError(msg)
            self.start()
            assert self._child is not None
            self._numbers += 1
            self._job = Job(self, self._child, self._numbers, listener)
            self._child.send(Ask(job=self._numbers, request=request))
            return self._job

    def cancel(self, job: Job) -> None:
        """As `Job.cancel`."""
        with self._lock:
            if self._job is not job or job.cancelling:
                return
            job.cancelling = True
            job.child.send(Cancel(cancel=job.number))
        timer = threading.Timer(self._grace, self._enforce, (job,))
        timer.daemon = True
        timer.start()

    def allocate(self, shape: tuple[int, ...], dtype: DTypeLike) -> arrays.SharedArray:
        """An array of zeros that a request can refer to; raises `EngineError` where there is no room."""
        with self._lock:
            self._make_folders()
            return arrays.create(self._folders, shape, dtype)

    def free(self) -> None:
        """End the child and with it the memory it holds; a running job is cancelled. The next job starts another."""
        self._free()

    def _free(self) -> _Child | None:
        with self._lock:
            child, self._child, self.ready = self._child, None, None
            if self._job is not None:
                self._job.cancelling = True
        if child is not None:
            child.end()
        return child

    def close(self) -> None:
        """End the child for good and remove what it shared."""
        child = self._free()
        if child is not None and child.thread is not threading.current_thread():
            child.thread.join(10)
        with self._lock:
            arrays.remove_folders(self._folders)
            self._folders = []

    @property
    def pid(self) -> int | None:
        """Process id of the child, None where none lives."""
        with self._lock:
            return self._child.pid if self._child else None

    def log_tail(self) -> str:
        """End of the log of the latest child."""
        with self._lock:
            path = self._folders[-1] / "engine.log" if self._folders else None
        if path is None or not path.is_file():
            return ""
        return path.read_text(encoding="utf-8", errors="replace")[-LOG_TAIL:]

    # --- What the child does, on its thread -------------------------------------------------------------------------

    def _receive(self, child: _Child, line: bytes) -> None:
        try:
            reply = REPLY.validate_json(line)
        except ValidationError as error:
            child.fault = "The engine sent something that cannot be read and was ended. Run again."
            _LOG.warning("The engine sent %r: %s", line[:200], error)
            child.kill()
            return
        if isinstance(reply, Ready):
            with self._lock:
                current = self._child is child
                self.ready = reply if current else self.ready
            if current and self._on_ready is not None:
                self._on_ready(reply)
            return
        with self._lock:
            job = self._job if self._job is not None and self._job.number == reply.job else None
            if isinstance(reply, Done | Failure | Stopped):
                self._job = None if job else self._job
        message = _message(reply, self.log_tail)
        if job is not None:
            job.tell(message)

    def _ended(self, child: _Child, code: int) -> None:
        with self._lock:
            details = self.log_tail()
            if self._child is child:
                self._child, self.ready = None, None
            job = self._job if self._job is not None and self._job.child is child else None
            if job is not None:
                self._job = None
        if job is not None:
            error = EngineError(child.fault or _cause(code, details))
            job.tell(Cancelled() if job.cancelling else Failed(error, details))

    def _enforce(self, job: Job) -> None:
        with self._lock:
            late = self._job is job
        if late:
            _LOG.warning("A job did not stop within %s s; its process is killed", self._grace)
            job.child.kill()

    def _make_folders(self) -> None:
        if not self._folders:
            arrays.sweep()
            self._folders = arrays.private_folders()


class _Child:
    """One child process; its thread starts it (the death signal follows that thread), reads it and reaps it."""

    def __init__(
        self,
        folders: list[Path],
        receive: Callable[[_Child, bytes], None],
        ended: Callable[[_Child, int], None],
    ) -> None:
        self.fault = ""
        self._folders, self._receive, self._ended = folders, receive, ended
        self._process: subprocess.Popen[bytes] | None = None
        self._started = threading.Event()
        self._writing = threading.Lock()
        self.thread = threading.Thread(target=self._run, name="prosma-engine", daemon=True)
        self.thread.start()

    @property
    def pid(self) -> int | None:
        self._started.wait()
        return self._process.pid if self._process else None

    def send(self, message: Ask | Cancel) -> None:
        """Send a message; a child that is gone reports itself."""
        self._started.wait()
        if self._process is None or self._process.stdin is None:
            return
        with self._writing:
            try:
                self._process.stdin.write(message.model_dump_json().encode() + b"\n")
                self._process.stdin.flush()
            except (OSError, ValueError):
                _LOG.info("The engine is gone; a message was not sent")

    def end(self) -> None:
        """Close its input, upon which it leaves; kill it where it does not."""
        self._started.wait()
        if self._process is None or self._process.stdin is None:
            return
        with self._writing:
            try:
                self._process.stdin.close()
            except OSError:
                _LOG.info("The engine was gone already")
        timer = threading.Timer(2.0, self.kill)
        timer.daemon = True
        timer.start()

    def kill(self) -> None:
        """Kill it."""
        self._started.wait()
        if self._process is not None and self._process.poll() is None:
            self._process.kill()

    def _run(self) -> None:
        command = [sys.executable, "-P", "-m", "prosma_core.engine.server", *map(str, self._folders)]
        try:
            with (self._folders[-1] / "engine.log").open("wb") as log:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env={**os.environ, "PYTHONUNBUFFERED": "1"},
                    creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
                )
        except OSError as error:
            self.fault = f"The engine could not be started ({error}). Check that {sys.executable} can be run."
            self._started.set()
            self._ended(self, 1)
            return
        self._started.set()
        self._read(self._process)
        code = self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with self._writing:
                    _close(pipe)
        self._ended(self, code)

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        while line := process.stdout.readline(MAX_LINE):
            if process.poll() is None or line.endswith(b"\n"):
                self._receive(self, line)


def _close(pipe: Any) -> None:
    try:
        pipe.close()
    except OSError:
        _LOG.debug("A pipe of the engine was broken already")


def _message(reply: Progress | ArrayMade | Done | Failure | Stopped, log_tail: Callable[[], str]) -> Message:
    """Message for the listener from a message of the child."""
    if isinstance(reply, Progress):
        return reply.event()
    if isinstance(reply, ArrayMade):
        shared = arrays.SharedArray(reply.array, arrays.attach(reply.array))
        shared.release()
        return ArrayReady(reply.name, shared.array)
    if isinstance(reply, Done):
        return Finished(reply.result)
    if isinstance(reply, Failure):
        kind = getattr(errors, reply.error, EngineError)
        kind = kind if isinstance(kind, type) and issubclass(kind, ProsmaError) else EngineError
        return Failed(kind(reply.message), "\n".join(filter(None, [reply.details, log_tail()])))
    return Cancelled()


def _cause(code: int, log: str) -> str:
    """Likely cause of a child's death in words, from its exit code."""
    causes = {
        9: "it was killed, most likely because main memory ran out. Close other programs, or crop the scan",
        7: "shared memory is full. Free some, or crop the scan",
        11: "native code crashed. If it happens again with the same scan, report it with the details",
        6: "native code gave up. See the details",
        15: "it was told to end",
    }
    signal = -code if code < 0 else code - 128
    if signal in causes:
        return f"The engine died: {causes[signal]}. The next run starts a new one."
    if "ModuleNotFoundError" in log or "ImportError" in log:
        last = log.strip().splitlines()[-1]
        return f"The engine could not start: {last}. Install the project with all it needs (pip install napari-prosma)."
    return f"The engine ended (exit code {code}). The next run starts a new one; the details show its log."


__all__ = ["ArrayReady", "Cancelled", "Engine", "Failed", "Finished", "Job", "Listener", "Message"]
