"""One process at a time trains into a run folder: a lock that says who holds it."""

from __future__ import annotations

import contextlib
import errno
import getpass
import json
import os
import secrets
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import psutil

from prosma_core.config.documents import load_json
from prosma_core.errors import OutputError, RunLockedError
from prosma_core.runs.run_folder import RunFolder

NAME = "in-use.lock"
_PLACE = 1 << 30
"""Byte of the file that is locked on Windows, where a locked byte cannot be read by others: one behind the content."""
_UNSUPPORTED = {errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF}
_TRIES = 20
_SETTLE = 0.1
"""Seconds after which two processes that wrote at once, where the file system has no locks, see who was last."""


@dataclass(frozen=True)
class Holder:
    """The process that trains into a folder.

    Attributes
    ----------
    pid : int
    host : str
    boot : str
        Names this start of the machine, so that containers on one machine know each other; empty where unknown.
    created : float
        When the process began, as the system counts it: another process may have its id later.
    user : str
    began : str
        When the training began, local time.
    key : str
        Of this training alone.
    """

    pid: int
    host: str
    boot: str
    created: float
    user: str
    began: str
    key: str

    def words(self) -> str:
        """Who it is."""
        return f"process {self.pid} of {self.user} on {self.host}, since {self.began}"


@contextmanager
def run_lock(folder: RunFolder) -> Iterator[None]:
    """Hold a run folder, which is made where it is not there; a lock of a process that has ended is replaced.

    The operating system's lock decides where the file system has one, else what the file says.

    Raises
    ------
    RunLockedError
        Another process holds it; the text says which.
    OutputError
        The folder cannot be written.
    """
    path = folder.root / NAME
    new = not folder.root.exists()
    try:
        file = _take(path)
    except OSError as error:
        reason = error.strerror or str(error)
        msg = f"Cannot write {path}: {reason}. Check the free space and the permissions of {folder.root}."
        raise OutputError(msg) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if sys.platform == "win32":
                file.close()  # an open file cannot be removed there
            path.unlink(missing_ok=True)
            if new:
                folder.root.rmdir()  # only where the run has written nothing
        file.close()


def holder(folder: RunFolder) -> Holder | None:
    """The process that trains into a folder now, None where none does. Only reads."""
    path = folder.root / NAME
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            found = _read(path)
            if found is not None and _lock(file, shared=True) is True:
                return found if _on_another_machine(found) else None
            return found if found is not None and not _has_ended(found) else None
    except OSError:
        return None


def _take(path: Path) -> IO[bytes]:
    """The lock file, locked and with our name in it."""
    ours = _ourselves()
    for _ in range(_TRIES):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file, taken = _open(path), False
        except FileNotFoundError:  # the folder was removed by another that has written nothing
            continue
        try:
            locked = _lock(file)
            if _is_free(path, file, locked):
                file.truncate(0)
                file.write(json.dumps(asdict(ours)).encode())
                file.flush()
                if not locked:
                    time.sleep(_SETTLE)
                taken = _read(path) == ours
            if taken:
                return file
        finally:
            if not taken:
                file.close()
        time.sleep(0.02)
    msg = f"{path.parent} cannot be locked. Check whether another process trains into it."
    raise RunLockedError(msg)


def _open(path: Path) -> IO[bytes]:
    """The lock file itself: what a link in its place leads to is never written to."""

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)

    return open(path, "a+b", opener=opener)


def _is_free(path: Path, file: IO[bytes], locked: bool | None) -> bool:
    """Whether the lock file is there still and nobody else's; raises where another process is known to hold it."""
    found = _read(path)
    if locked is False:
        if found is None or _has_ended(found):  # somebody is about to write a name, or looks at an old lock
            return False
        raise _refusal(path, found)
    # The lock of a network's file system may be seen by one machine alone.
    if found is not None and (_on_another_machine(found) if locked else not _has_ended(found)):
        raise _refusal(path, found)
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:  # removed by whoever held it, between our two looks
        return False


def _refusal(path: Path, found: Holder | None) -> RunLockedError:
    who = found.words() if found else "another process"
    hint = f" If it has ended, delete {path}." if found is None or _on_another_machine(found) else ""
    msg = f"Another training writes to {path.parent}: {who}. Wait for it or stop it, or choose another name.{hint}"
    return RunLockedError(msg)


def _lock(file: IO[bytes], *, shared: bool = False) -> bool | None:
    """Lock a file until it is closed; False where another process has it, None where the file system has no locks."""
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(_PLACE)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            return True
        import fcntl

        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        return None if sys.platform != "win32" and error.errno in _UNSUPPORTED else False
    return True


def _read(path: Path) -> Holder | None:
    try:
        values = load_json(path.read_bytes())
        return Holder(
            pid=int(values["pid"]),
            host=str(values["host"])[:100],
            boot=str(values["boot"]),
            created=float(values["created"]),
            user=str(values["user"])[:100],
            began=str(values["began"])[:40],
            key=str(values["key"]),
        )
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _ourselves() -> Holder:
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # an id without a name, as in containers
        user = "an unknown user"
    began = time.strftime("%Y-%m-%d %H:%M")
    created, key = psutil.Process().create_time(), secrets.token_hex(8)
    return Holder(os.getpid(), socket.gethostname(), _boot(), created, user, began, key)


def _boot() -> str:
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return ""


def _on_another_machine(found: Holder) -> bool:
    return found.host != socket.gethostname() and (not found.boot or found.boot != _boot())


def _has_ended(found: Holder) -> bool:
    """Whether a process is known to be gone: one of this machine whose id is free, or another's by now."""
    if found.host != socket.gethostname():
        return False
    if found.boot and found.boot != _boot():
        return True
    try:
        return bool(abs(psutil.Process(found.pid).create_time() - found.created) > 1)
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False
