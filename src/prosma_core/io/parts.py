"""Temporary names beside a target: who holds them, and removing those whose process has ended."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import re
import secrets
import shutil
import sys
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

if sys.platform != "win32":  # there, a file that is open cannot be removed
    import fcntl

PREFIX = ".prosma-"
_OURS = re.compile(r"\.prosma-p([0-9a-f]{12})(?:[-.].*)?", re.DOTALL)
_EARLIER = re.compile(r"\.prosma-[0-9a-f]{12}(?:\.[^.]+){0,2}")
"""Parts of earlier versions, which had no lock."""
_LONGEST_SUFFIX = 40
LONGEST_PART = len(PREFIX) + 13 + _LONGEST_SUFFIX
"""Most characters of a part's name."""
_REMOVALS = 4
_UNKNOWN_AFTER = 7 * 86_400.0
"""Seconds after which a part is abandoned whose owner cannot be asked: it is of another machine, or has no lock."""
_RECORD_BYTES = 8192
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}


@dataclass(frozen=True)
class Part:
    """Names that one write may use beside its target; they are this process's while the lock is held.

    Attributes
    ----------
    target : Path
    token : str
    descriptor : int
        Of the open lock file.
    """

    target: Path
    token: str
    descriptor: int

    @property
    def path(self) -> Path:
        """Where the new file or folder is made; with the suffixes of the target."""
        suffixes = "".join(self.target.suffixes[-2:])
        return self._name(suffixes if len(suffixes) <= _LONGEST_SUFFIX else self.target.suffix[:_LONGEST_SUFFIX])

    @property
    def aside(self) -> Path:
        """Where what was there before is kept until the new one is in place."""
        return self._name("-old")

    @property
    def lock(self) -> Path:
        """The file that is locked; it is made first and removed last."""
        return self._name("-lock")

    def release(self) -> None:
        """Remove what is left; what cannot be removed now is left to `sweep`."""
        try:
            _settle([self.path, self.aside], self.aside, self.target, self.lock)
        finally:
            self._close()

    def keep(self) -> None:
        """Leave both names alone for good: `sweep` does not touch what has no lock file."""
        with contextlib.suppress(OSError):
            self.lock.unlink(missing_ok=True)
        self._close()

    def _close(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self.descriptor)

    def _name(self, ending: str) -> Path:
        return self.target.with_name(f"{PREFIX}p{self.token}{ending}")


def take(target: Path) -> Part:
    """Names for a write to `target`, locked; raises `OSError` where the folder cannot be written."""
    while True:
        token = secrets.token_hex(6)
        lock = target.with_name(f"{PREFIX}p{token}-lock")
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_BINARY", 0)
        part = Part(target, token, os.open(lock, flags, 0o666))
        try:
            locked = _lock(part.descriptor)
            if locked is not None:
                os.write(part.descriptor, json.dumps(_record(target, locked)).encode())
                if os.path.samestat(os.fstat(part.descriptor), lock.stat()):
                    return part
        except FileNotFoundError:  # swept before it was locked: other names
            pass
        except BaseException:
            part.release()
            raise
        part.release()


@contextlib.contextmanager
def taken(target: Path) -> Iterator[Part]:
    """Names for a write to `target`, after those of ended processes were removed from its folder."""
    sweep(target.parent)
    part = take(target)
    try:
        yield part
    finally:
        part.release()


def sweep(folder: Path) -> None:
    """Remove parts in a folder whose process has ended, and put back what such a process had moved aside.

    Never fails; what belongs to a living process, or cannot be told, stays.
    """
    names: dict[str, list[str]] = {}
    try:
        for path in folder.iterdir():
            name = path.name
            if name.startswith(PREFIX) and (ours := _OURS.fullmatch(name)):
                names.setdefault(ours[1], []).append(name)
            elif name.startswith(PREFIX) and _EARLIER.fullmatch(name) and _age(path) > _UNKNOWN_AFTER:
                _remove(path)
    except OSError:
        return
    for token, group in names.items():
        lock = folder / f"{PREFIX}p{token}-lock"
        if lock.name in group:
            _sweep_one(lock, [folder / name for name in group if name != lock.name])


def put_back(path: Path) -> None:
    """Where nothing is at `path` because its replacement was interrupted, put the earlier one back; never fails."""
    if not os.path.lexists(path):
        sweep(path.parent)


def _sweep_one(lock: Path, others: list[Path]) -> None:
    try:
        descriptor = os.open(lock, os.O_RDWR | getattr(os, "O_BINARY", 0))
    except OSError:  # gone, or of another user
        return
    try:
        locked = _lock(descriptor)
        if locked is None:
            return
        record = _read_record(os.read(descriptor, _RECORD_BYTES))
        if not _ended(record, locked=locked, age=_age(lock)):
            return
        target = str(record.get("target", ""))
        known = bool(target) and target == Path(target).name
        aside = lock.with_name(lock.name.removesuffix("lock") + "old")
        if aside in others and not known:
            return
        _settle(others, aside, lock.with_name(target) if known else None, lock)
    except OSError:
        return
    finally:
        os.close(descriptor)


def _settle(others: list[Path], aside: Path, target: Path | None, lock: Path) -> None:
    """Put back what was moved aside where nothing took its place, remove the rest, then the lock file."""
    if target is not None and os.path.lexists(aside) and not os.path.lexists(target):
        try:
            aside.rename(target)
        except OSError:
            return
    gone = [_remove(path) for path in others]
    if all(gone):
        with contextlib.suppress(OSError):
            lock.unlink(missing_ok=True)


def _remove(path: Path) -> bool:
    """Remove a file or folder; whether it is gone."""
    if path.is_dir() and not path.is_symlink():
        for attempt in range(_REMOVALS):  # after a failure zarr's threads may still write into it for a moment
            if attempt:
                time.sleep(0.02)
            shutil.rmtree(path, ignore_errors=True)
            if not os.path.lexists(path):
                break
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
    return not os.path.lexists(path)


def _lock(descriptor: int) -> bool | None:
    """Lock an open file for as long as it is open: None where another holds it, False where locks do not work."""
    if sys.platform == "win32":
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return False
        raise
    return True


def _record(target: Path, locked: bool) -> dict[str, Any]:
    """Who writes what; the time it began is needed only where the lock does not tell whether it lives."""
    start = None if locked else _start(os.getpid())
    return {"target": target.name, "locked": locked, "pid": os.getpid(), "start": start, **_machine()}


def _read_record(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _ended(record: dict[str, Any], *, locked: bool, age: float) -> bool:
    """Whether the process of a record has ended; `locked` is whether its lock file could be locked by us."""
    here = _machine()
    if locked and (not record or record.get("locked")):
        same = not record or record.get("boot") == here["boot"] != "" or record.get("host") == here["host"]
        return same or age > _UNKNOWN_AFTER
    if record and record.get("host") == here["host"] and record.get("pids") == here["pids"]:
        return record.get("start") != _start(record.get("pid"))
    return age > _UNKNOWN_AFTER


@cache
def _machine() -> dict[str, str]:
    """The machine, its present start, and the space of its process numbers (containers have their own)."""
    boot, pids = "", ""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    with contextlib.suppress(OSError):
        pids = str(Path("/proc/self/ns/pid").readlink())
    return {"host": platform.node(), "boot": boot, "pids": pids}


def _start(pid: Any) -> float | None:
    """When a process began; None where there is none of this number."""
    import psutil

    try:
        return float(psutil.Process(pid).create_time())
    except (psutil.Error, TypeError, ValueError, OverflowError):
        return None


def _age(path: Path) -> float:
    """Seconds since the last change; 0 where that cannot be told."""
    try:
        return time.time() - path.lstat().st_mtime
    except OSError:
        return 0.0
