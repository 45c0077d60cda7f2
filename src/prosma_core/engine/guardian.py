"""Start and end of a child process: its private pipes, and a small process that ends it when its client is gone.

Threads of the engine cannot end it while native code holds the GIL. The guardian is forked before anything is
imported, shares the memory of that moment, and sleeps until the system wakes it.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from typing import BinaryIO

ORDERLY = 0.7
"""Seconds an engine may take to leave by itself when its client is gone."""
POLL = 0.5
"""Seconds between two checks of a process, where the system cannot tell when it ends."""
PREFIX = "prosma-engine-"
"""Of the names of private folders; nothing else is ever removed."""


def private_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Requests and replies. Others who read standard input find nothing; what they print goes to the log."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return requests, replies


def start(folders: Sequence[str]) -> None:
    """Fork a guardian of this process, whose parent is the client; nothing where the system cannot fork.

    Parameters
    ----------
    folders : sequence of str
        Removed when the client is gone.
    """
    if sys.platform == "win32":
        return
    client, engine = os.getppid(), os.getpid()
    with contextlib.suppress(OSError):
        if os.fork() == 0:
            try:
                _guard(client, engine, folders)
            finally:
                os._exit(0)


def end_with_parent(*, at_once: bool = False) -> None:
    """On Linux, ask the kernel to end this process a second after the thread that started it, or at once.

    That holds where the guardian was killed, too. The signal is SIGHUP, number 1; its handler is the C function
    `alarm`, which is called with that number and so ends the process after one second.
    """
    if sys.platform == "linux":
        import ctypes

        libc = ctypes.CDLL(None)
        if not at_once:
            libc.signal(signal.SIGHUP, libc.alarm)
        pr_set_pdeathsig = 1
        libc.prctl(pr_set_pdeathsig, signal.SIGKILL if at_once else signal.SIGHUP)


def _guard(client: int, engine: int, folders: Sequence[str]) -> None:
    _let_go_of_files()
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    parent, ours = _Watched(client), _Watched(engine)
    if os.getppid() != engine:
        return
    _wait_for_either(parent, ours)
    if not parent.wait(0.1):
        return  # the engine ended, and its client goes on
    if not ours.wait(ORDERLY):
        ours.kill()
        ours.wait(ORDERLY)
    for folder in folders:
        if os.path.basename(folder).startswith(PREFIX):  # noqa: PTH119  (no more imports)
            shutil.rmtree(folder, ignore_errors=True)


def _let_go_of_files() -> None:
    """Hold no pipe open: the other end would not see that the engine is gone."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    os.closerange(3, 1 << 16)


class _Watched:
    """A process that may end; one that nobody has waited for yet has ended."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.descriptor = -1
        if sys.platform == "linux":
            with contextlib.suppress(OSError, AttributeError):  # an old or a restricted kernel
                self.descriptor = os.pidfd_open(pid)

    def wait(self, seconds: float | None) -> bool:
        """Whether it has ended within so many seconds."""
        if self.descriptor >= 0:
            return bool(_ended(self, seconds=seconds))
        end = time.monotonic() + (seconds if seconds is not None else float("inf"))
        while self._is_there():
            if time.monotonic() >= end:
                return False
            time.sleep(min(POLL, max(0.01, end - time.monotonic())))
        return True

    def kill(self) -> None:
        with contextlib.suppress(OSError):
            if self.descriptor >= 0 and sys.platform == "linux":
                signal.pidfd_send_signal(self.descriptor, signal.SIGKILL)
            else:
                os.kill(self._pid, signal.SIGKILL)

    def _is_there(self) -> bool:
        try:
            os.kill(self._pid, 0)
        except ProcessLookupError:
            return False
        except OSError:
            return True
        return True


def _wait_for_either(one: _Watched, other: _Watched) -> None:
    if one.descriptor >= 0 and other.descriptor >= 0:
        _ended(one, other, seconds=None)
        return
    while not one.wait(0) and not other.wait(0):
        time.sleep(POLL)


def _ended(*processes: _Watched, seconds: float | None) -> list[tuple[int, int]]:
    waiting = select.poll()
    for process in processes:
        waiting.register(process.descriptor, select.POLLIN)
    return waiting.poll(None if seconds is None else round(seconds * 1000))
