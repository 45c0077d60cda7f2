"""Parent-side handle of the engine process: start, I/O, and a readable cause when it dies."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

import psutil

import prosma_core
from prosma_core.engine.arrays import remove_arrays
from prosma_core.engine.messages import Ask, Cancel, LiveLabels, PreviewScan, encode, read_lines
from prosma_core.errors import EngineError, ProsmaError
from prosma_core.io.hardware import COMPUTING

_LOG = logging.getLogger(__name__)

LOG_TAIL = 8000
"""Bytes at the end of the log that are shown."""
LAST_WORDS = 5.0
"""Seconds a process may take to end after it closed its pipe."""
START = 2.0
"""Seconds for which `Child.pid` waits for a process that is being started."""

_NATIVE = "native code in it crashed: a file decoder, a driver or torch. The details show where"
_CAUSES = {
    "SIGKILL": "it was killed, most likely because memory ran out. Close other programs or crop the scan",
    "SIGBUS": "shared memory or the disk is full. Free some or crop the scan",
    "SIGTERM": "it was told to by another program",
    **dict.fromkeys(("SIGSEGV", "SIGABRT", "SIGILL", "SIGFPE"), _NATIVE),
}
_WINDOWS_CODES = {0xC0000005: "SIGSEGV", 0xC0000409: "SIGABRT", 0xC0000017: "SIGKILL"}


class Child:
    """An engine process, the thread that starts it, reads its replies and sees it end, and one that writes to it.

    Nothing that is called here waits for the process, whatever state it is in. On Linux a process that asks for it is
    told when the *thread* that started it ends, so the thread stays.

    Parameters
    ----------
    folders : callable
        Gives the private folders for arrays, in the thread; the log goes to the last one.
    receive : callable
        Called in the thread with each line of the process; a `ProsmaError` it raises ends the process.
    ended : callable
        Called in the thread, once and last, with the cause in words and the end of the log.

    Attributes
    ----------
    is_ready : bool
        Whether it has said that it is.
    misbehaved : bool
        Whether it had to be ended.
    """

    def __init__(
        self,
        folders: Callable[[], Sequence[Path]],
        receive: Callable[[Child, bytes], None],
        ended: Callable[[Child, EngineError, str], None],
    ) -> None:
        self.is_ready = self.misbehaved = False
        self._receive, self._ended = receive, ended
        self._log: Path | None = None
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._started, self._killed = threading.Event(), threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self.thread = threading.Thread(target=self._run, args=(folders,), name="prosma-engine", daemon=True)
        self.thread.start()

    @property
    def pid(self) -> int | None:
        """Its process id, for which a start is waited for a moment; None where it could not be started."""
        self._started.wait(START)
        return self._process.pid if self._process else None

    @property
    def lives(self) -> bool:
        """Whether the process is there; one that is being started counts, one that was killed does not."""
        if self._killed.is_set():
            return False
        if not self._started.is_set():
            return True
        return self._process is not None and self._process.poll() is None

    @property
    def stopped(self) -> bool:
        """Whether the process was stopped, as by a signal: it neither works nor answers."""
        if self._process is None:
            return False
        try:
            return bool(psutil.Process(self._process.pid).status() == psutil.STATUS_STOPPED)
        except psutil.Error:
            return False

    def send(self, message: Ask | Cancel | PreviewScan | LiveLabels) -> None:
        """Let a message be written, after those before it; where the process is gone, `ended` will say so."""
        self._outbox.put(encode(message))

    def kill(self) -> None:
        """End the process at once, or as soon as it has started; nothing of it is lost, since it keeps nothing."""
        self._killed.set()
        if self._process is not None:
            self._process.kill()

    def log_tail(self) -> str:
        """End of what the process wrote to its log."""
        if self._log is None:
            return ""
        try:
            with self._log.open("rb") as file:
                file.seek(max(0, self._log.stat().st_size - LOG_TAIL))
                return file.read().decode(errors="replace")
        except OSError:
            return ""

    def _run(self, folders: Callable[[], Sequence[Path]]) -> None:
        fault: EngineError | None = None
        places: Sequence[Path] = ()
        try:
            places = folders()
            self._log = places[-1] / f"{secrets.token_hex(4)}.log"
            self._process = _launch(places, self._log)
        except OSError as error:
            text = f"The background process could not start: {error}. Check that {sys.executable!r} can be run."
            fault = EngineError(text)
        except EngineError as error:
            fault = error
        self._started.set()
        if self._process is not None:
            if self._killed.is_set():  # meanwhile
                self._process.kill()
            fault = self._read(self._process)
            remove_arrays(places, self._process.pid)  # those that nobody has taken
        self.misbehaved = fault is not None
        log = self.log_tail()
        if self._log is not None:
            with contextlib.suppress(OSError):
                self._log.unlink()
        self._ended(self, fault or self._cause(log), log)

    def _write(self, stdin: IO[bytes]) -> None:
        """Write what is to be sent; a process that does not read holds up this thread alone."""
        with contextlib.suppress(OSError, ValueError), stdin:  # broken, or closed
            while (line := self._outbox.get()) is not None:
                stdin.write(line)
                stdin.flush()

    def _read(self, process: subprocess.Popen[bytes]) -> EngineError | None:
        """Hand over its lines until it ends; why it had to be ended, if it had."""
        assert process.stdin is not None
        assert process.stdout is not None
        writer = threading.Thread(target=self._write, args=(process.stdin,), name="prosma-engine-writes", daemon=True)
        writer.start()
        fault = None
        with process.stdout as replies:
            try:
                for line in read_lines(replies):
                    self._receive(self, line)
                process.wait(LAST_WORDS)
            except subprocess.TimeoutExpired:
                fault = EngineError("The background process fell silent and was ended. The next run starts a new one.")
            except ProsmaError as error:
                fault = EngineError(str(error))
            except Exception as error:  # noqa: BLE001  (a job must not wait for ever, whatever it is)
                _LOG.exception("Messages of the engine cannot be taken")
                fault = EngineError(f"The background process was ended: {type(error).__name__}: {error}. Run again.")
        process.kill()
        process.wait()
        self._outbox.put(None)
        writer.join(1)  # a write to a process that is gone fails at once
        return fault

    def _cause(self, log: str) -> EngineError:
        """Why it ended, in words, from its exit code."""
        assert self._process is not None
        code = self._process.returncode
        name = _WINDOWS_CODES.get(code, "")
        if code < 0:
            with contextlib.suppress(ValueError):
                name = signal.Signals(-code).name
        cause = _CAUSES.get(name, f"exit code {code}" + (f", {name}" if name else ""))
        lines = log.split("\n")
        said = next((line.strip() for line in reversed(lines) if line.strip()), "")
        if self.is_ready or name in _CAUSES:
            return EngineError(f"The background process ended: {cause}. The next run starts a new one.")
        words = f"The background process could not start: {said or cause}."
        return EngineError(f"{words} Check the installation with the command prosma doctor; the details show the log.")


def _launch(folders: Sequence[Path], log: Path) -> subprocess.Popen[bytes]:
    """Start the process: by `subprocess`, since `multiprocessing` would run the caller's main script again."""
    command = [sys.executable, "-P", "-m", "prosma_core.engine.server", *map(str, folders)]
    log.parent.mkdir(mode=0o700, exist_ok=True)  # the system may have tidied it away
    with log.open("wb") as file:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=file,
            env=child_environment(),
            start_new_session=True,  # signals of the viewer's terminal are the viewer's
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )


def child_environment() -> dict[str, str]:
    """Environment of the child: ours, set up for computing, and where this package is found on the module path."""
    root = Path(prosma_core.__file__).parent.parent
    ours = {**COMPUTING, **os.environ}
    if root.name in {"site-packages", "dist-packages"}:
        return ours
    before = os.environ.get("PYTHONPATH")
    return {**ours, "PYTHONPATH": os.pathsep.join([*([before] if before else []), str(root)])}
