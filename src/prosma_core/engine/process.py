"""One engine process as its parent sees it: started, written to, read, and mourned in words."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import prosma_core
from prosma_core.computing import COMPUTING
from prosma_core.engine.arrays import remove_arrays
from prosma_core.engine.messages import Ask, Cancel, Preview, encode, read_lines
from prosma_core.errors import EngineError, ProsmaError

_LOG = logging.getLogger(__name__)

LOG_TAIL = 8000
"""Bytes at the end of the log that are shown."""
LAST_WORDS = 5.0
"""Seconds a process may take to end after it closed its pipe."""

_NATIVE = "native code in it crashed: a file decoder, a driver or torch. The details show where"
_CAUSES = {
    "SIGKILL": "it was killed, most likely because memory ran out. Close other programs or crop the scan",
    "SIGBUS": "shared memory or the disk is full. Free some or crop the scan",
    "SIGTERM": "it was told to by another program",
    **dict.fromkeys(("SIGSEGV", "SIGABRT", "SIGILL", "SIGFPE"), _NATIVE),
}
_WINDOWS_CODES = {0xC0000005: "SIGSEGV", 0xC0000409: "SIGABRT", 0xC0000017: "SIGKILL"}


class Child:
    """An engine process, and the thread that starts it, reads its replies and sees it end.

    On Linux a process that asks for it is told when the *thread* that started it ends, so the thread stays.

    Parameters
    ----------
    folders : sequence of Path
        Private folders for arrays; the log goes to the last one.
    receive : callable
        Called in the thread with each line of the process; a `ProsmaError` it raises ends the process.
    ended : callable
        Called in the thread, once and last, with the cause in words and the end of the log.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        receive: Callable[[Child, bytes], None],
        ended: Callable[[Child, EngineError, str], None],
    ) -> None:
        self.is_ready = False
        self._folders, self._receive, self._ended = folders, receive, ended
        self._log = folders[-1] / f"{secrets.token_hex(4)}.log"
        self._lock = threading.Lock()
        self._started = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self.thread = threading.Thread(target=self._run, name="prosma-engine", daemon=True)
        self.thread.start()

    @property
    def pid(self) -> int | None:
        """Its process id; None where it could not be started."""
        self._started.wait()
        return self._process.pid if self._process else None

    @property
    def lives(self) -> bool:
        """Whether the process is there; one that is being started counts."""
        if not self._started.is_set():
            return True
        return self._process is not None and self._process.poll() is None

    def send(self, message: Ask | Cancel | Preview) -> None:
        """Write a message; where the process is gone, `ended` will say so."""
        line = encode(message)
        self._started.wait()
        if self._process is None:
            return
        with self._lock, contextlib.suppress(OSError, ValueError):  # broken, or closed
            assert self._process.stdin is not None
            self._process.stdin.write(line)
            self._process.stdin.flush()

    def kill(self) -> None:
        """End the process at once; nothing of it is lost, since it keeps nothing."""
        self._started.wait()
        if self._process is not None:
            self._process.kill()

    def log_tail(self) -> str:
        """End of what the process wrote to its log."""
        try:
            with self._log.open("rb") as file:
                file.seek(max(0, self._log.stat().st_size - LOG_TAIL))
                return file.read().decode(errors="replace")
        except OSError:
            return ""

    def _run(self) -> None:
        fault: EngineError | None = None
        try:
            self._process = _launch(self._folders, self._log)
        except OSError as error:
            fault = EngineError(f"The engine could not start: {error}. Check that {sys.executable!r} can be run.")
        self._started.set()
        if self._process is not None:
            fault = self._read(self._process)
            remove_arrays(self._folders, self._process.pid)  # those that nobody has taken
        log = self.log_tail()
        with contextlib.suppress(OSError):
            self._log.unlink()
        self._ended(self, fault or self._cause(log), log)

    def _read(self, process: subprocess.Popen[bytes]) -> EngineError | None:
        """Hand over its lines until it ends; why it had to be ended, if it had."""
        assert process.stdin is not None
        assert process.stdout is not None
        fault = None
        with process.stdout as replies:
            try:
                for line in read_lines(replies):
                    self._receive(self, line)
                process.wait(LAST_WORDS)
            except subprocess.TimeoutExpired:
                fault = EngineError("The engine closed its pipe and had to be ended. The next run starts a new one.")
            except ProsmaError as error:
                fault = EngineError(str(error))
            except Exception as error:  # noqa: BLE001  (a job must not wait for ever, whatever it is)
                _LOG.exception("Messages of the engine cannot be taken")
                fault = EngineError(f"The engine had to be ended: {type(error).__name__}: {error}. Run again.")
        process.kill()
        process.wait()
        with self._lock, contextlib.suppress(OSError):
            process.stdin.close()
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
            return EngineError(f"The engine ended: {cause}. The next run starts a new one.")
        words = f"The engine could not start: {said or cause}."
        return EngineError(f"{words} Check the installation with `prosma doctor`; the details show the log.")


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
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )


def child_environment() -> dict[str, str]:
    """Ours, set up for computing, with this package's folder on the module path where it would not be found."""
    root = Path(prosma_core.__file__).parent.parent
    ours = {**COMPUTING, **os.environ}
    if root.name in {"site-packages", "dist-packages"}:
        return ours
    before = os.environ.get("PYTHONPATH")
    return {**ours, "PYTHONPATH": os.pathsep.join([*([before] if before else []), str(root)])}
