"""Atomic writes: a file or folder is written whole or not at all; leftovers of killed processes are removed."""

from __future__ import annotations

import contextlib
import ctypes
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

from prosma_core.errors import OutputError
from prosma_core.printable import gib

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


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
_MISSED = 10
"""Touches of a lock file that were left out, after which its process is taken to have ended."""
_RECORD_BYTES = 8192
NO_ROOM = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
"""Errors of a disk, or a quota, that is full."""
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
        return lock_of(self.target, self.token)

    def release(self) -> None:
        """Remove what is left; what cannot be removed now is left to `sweep`."""
        lock = self.lock if _at(self.lock, self.descriptor) else None
        closed = os.name == "nt"  # an open file cannot be removed there
        if closed:
            self._close()
        try:
            _settle([self.path, self.aside], self.aside, self.target, lock)
        finally:
            if not closed:
                self._close()

    def touch(self) -> None:
        """Show that this process is alive, to those who can tell it from the time of the lock file alone."""
        with contextlib.suppress(OSError):
            if _at(self.lock, self.descriptor):
                os.utime(self.lock)

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


def take(target: Path, token: str = "", touched: float = 0.0) -> Part:
    """Names for a write to `target`, locked.

    Parameters
    ----------
    target : Path
    token : str
        12 hexadecimal digits that no other process may have at the same time; any unless given.
    touched : float
        Seconds between two calls of `Part.touch`; 0 where it is not called.

    Raises
    ------
    FileExistsError
        The token that was given is in use, or was when its process ended.
    OSError
        The folder cannot be written.
    """
    while True:
        chosen = token or secrets.token_hex(6)
        lock = lock_of(target, chosen)
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_BINARY", 0)
        part = Part(target, chosen, os.open(lock, flags, 0o666))
        try:
            locked = _lock(part.descriptor)
            if locked is not None:
                record = _record(target, locked) | ({"touched": touched} if touched else {})
                os.write(part.descriptor, json.dumps(record).encode())
                if _at(lock, part.descriptor):
                    return part
        except BaseException:
            part.release()
            raise
        part._close()  # swept before it was locked: again
        time.sleep(0.001)


def lock_of(target: Path, token: str) -> Path:
    """The file that is locked for a write to `target`."""
    return target.with_name(f"{PREFIX}p{token}-lock")


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
            sweep_one(lock, [folder / name for name in group if name != lock.name])


def put_back(path: Path) -> None:
    """Where nothing is at `path` because its replacement was interrupted, put the earlier one back; never fails."""
    if not os.path.lexists(path):
        sweep(path.parent)


def sweep_one(lock: Path, others: list[Path]) -> dict[str, Any]:
    """Remove a lock file and what belongs to it where its process has ended; what it says where that is not known."""
    try:
        descriptor = os.open(lock, os.O_RDWR | getattr(os, "O_BINARY", 0))
    except OSError:  # gone, or of another user
        return {}
    record: dict[str, Any] = {}
    try:
        locked = _lock(descriptor)
        record = _read_record(os.read(descriptor, _RECORD_BYTES))
        if locked is None or not _ended(record, locked=locked, age=_age(lock)) or not _at(lock, descriptor):
            return record
        target = str(record.get("target", ""))
        known = bool(target) and target == Path(target).name
        aside = lock.with_name(lock.name.removesuffix("lock") + "old")
        if aside not in others or known:
            _settle(others, aside, lock.with_name(target) if known else None, lock)
    except OSError:
        pass
    finally:
        os.close(descriptor)
    return record


def _at(path: Path, descriptor: int) -> bool:
    """Whether an open file is still the one at a path."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


def _settle(others: list[Path], aside: Path, target: Path | None, lock: Path | None) -> None:
    """Put back what was moved aside where nothing took its place, remove the rest, then the lock file if it is ours."""
    if target is not None and os.path.lexists(aside) and not os.path.lexists(target):
        try:
            aside.rename(target)
        except OSError:
            return
    gone = [_remove(path) for path in others]
    if lock is not None and all(gone):
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
    return {"target": target.name, "locked": locked, "pid": os.getpid(), "start": start, **machine_state()}


def _read_record(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _ended(record: dict[str, Any], *, locked: bool, age: float) -> bool:
    """Whether the process of a record has ended; `locked` is whether its lock file could be locked by us."""
    here = machine_state()
    touched = record.get("touched")
    limit = _MISSED * touched if isinstance(touched, float) and touched > 0 else _UNKNOWN_AFTER
    if locked and (not record or record.get("locked")):
        same = not record or record.get("boot") == here["boot"] != "" or record.get("host") == here["host"]
        return same or age > limit
    if record and record.get("host") == here["host"] and record.get("pids") == here["pids"]:
        return record.get("start") != _start(record.get("pid"))
    return age > limit


@cache
def machine_state() -> dict[str, str]:
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


_NOT_SUPPORTED = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF, errno.ENOSYS}
"""What network and shared folders answer that have no fsync, and systems and file systems without an exchange."""
_RETRIES = 5
"""On Windows, where a virus scanner may hold a file for a moment."""
_SHOWN = 40
"""Characters of each end of a long name that a message shows."""


def write_atomic(path: Path, writer: Callable[[Path], None]) -> None:
    """Put at `path` the file that `writer` writes; on any failure nothing is left behind and `path` is as before.

    Parameters
    ----------
    path : Path
        Where the file goes; its folder must exist. An existing file is replaced.
    writer : callable
        Given a temporary path in the same folder with the same suffixes; must create that file.

    Raises
    ------
    OutputError
        The folder does not exist or cannot be written, or the disk is full.
    """
    check_target(path)
    with output_errors(path), taken(path) as part:
        writer(part.path)
        _sync(part.path)
        _replace(part.path, path)
        _sync_folder(path.parent)


def write_bytes_atomic(path: Path, content: bytes) -> None:
    """Put `content` at `path` as `write_atomic` does.

    Raises
    ------
    OutputError
        As in `write_atomic`.
    """

    def write(temporary: Path) -> None:
        temporary.write_bytes(content)

    write_atomic(path, write)


def copy_atomic(source: Path, path: Path) -> None:
    """Put a copy of a file or folder at `path`; errors and what is left behind as of `write_atomic`."""

    def copy(to: Path) -> None:
        if source.is_dir():
            shutil.copytree(source, to)
        else:
            shutil.copyfile(source, to)

    (replace_dir if source.is_dir() else write_atomic)(path, copy)


def replace_dir(path: Path, writer: Callable[[Path], None]) -> None:
    """Put at `path` the folder that `writer` makes; on any failure nothing is left behind and `path` is as before.

    Parameters
    ----------
    path : Path
        Where the folder goes. An existing folder stays until the new one takes its name: in one step where the system
        can, else it is moved aside for a moment, and put back by the next `sweep` if the process ends in between.
    writer : callable
        Given a temporary path beside `path`; must create that folder.

    Raises
    ------
    OutputError
        As in `write_atomic`; or neither the new nor the old folder could be put at `path`: both are kept, under the
        names that the message gives.
    """
    check_target(path, folder=True)
    with output_errors(path), taken(path) as part:
        writer(part.path)
        sweep(part.path)  # what the writer used and could not remove
        _sync_tree(part.path)
        _move(part.path, path, part)


def sync_dir(folder: Path, path: Path) -> None:
    """Bring a folder and all in it to the disk; raises `OutputError` for `path`, its later name, where that fails."""
    with output_errors(path):
        _sync_tree(folder)


def move_dir(source: Path, path: Path) -> None:
    """Rename a whole folder to `path`; wherever that ends, the folder is still there, under one of the two names.

    Parameters
    ----------
    source : Path
        On the same file system, and on the disk (`sync_dir`). An earlier folder at `path` may be there afterwards.
    path : Path
        Where the folder goes; an existing one is replaced as in `replace_dir`.

    Raises
    ------
    OutputError
        As in `replace_dir`.
    """
    check_target(path, folder=True)
    with output_errors(path), taken(path) as part:
        _move(source, path, part)


@contextlib.contextmanager
def reserved(path: Path) -> Iterator[Path]:
    """A hidden name beside `path` for a file or folder that is needed for a while.

    What is there is removed at the end; where the process is killed before, the next write in that folder removes it.

    Raises
    ------
    OutputError
        The folder cannot be written.
    """
    with contextlib.ExitStack() as stack:
        with output_errors(path):
            part = stack.enter_context(taken(path))
        yield part.path


@contextlib.contextmanager
def scratch_folder(folder: Path) -> Iterator[Path]:
    """A hidden folder within `folder` for what is needed for a while, as in `reserved`."""
    with reserved(folder / "scratch") as path:
        make_folder(path)
        yield path


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, where it is not there; raises `OutputError` where it cannot be."""
    with output_errors(path):
        path.mkdir(parents=True, exist_ok=True)


def remove(paths: Iterable[Path]) -> None:
    """Remove files that may be there; raises `OutputError` where one cannot be removed."""
    for path in paths:
        with output_errors(path):
            path.unlink(missing_ok=True)


def check_length(path: Path) -> None:
    """Raise `OutputError` where a name in a path, or the path with the names used for writing, is too long.

    Parameters
    ----------
    path : Path
        Nothing needs to be there yet.
    """
    path = path.absolute()
    there = next((parent for parent in path.parents if os.path.lexists(parent)), path.parents[-1])
    longest, whole = _limits(there)
    for name in path.relative_to(there).parts:
        if _size(name) > longest:
            shown = name if len(name) <= 2 * _SHOWN else f"{name[:_SHOWN]}…{name[-_SHOWN:]}"
            msg = f"The name {shown} has {_size(name)} bytes; {there} takes at most {longest}. Choose a shorter name."
            raise OutputError(msg)
    size = _size(str(path.parent)) + 1 + max(_size(path.name), LONGEST_PART)
    if size > whole:
        msg = f"The path of {path.name[:_SHOWN]} has {size} bytes; at most {whole} are possible. Choose another folder."
        raise OutputError(msg)


def _limits(folder: Path) -> tuple[int, int]:
    """Most bytes (on Windows: characters) of a name in a folder, and of a path."""
    try:
        return os.pathconf(folder, "PC_NAME_MAX"), os.pathconf(folder, "PC_PATH_MAX") - 1
    except (AttributeError, OSError, ValueError):
        return 255, 32_000 if os.name == "nt" else 4095


def _size(name: str) -> int:
    return len(name) if os.name == "nt" else len(os.fsencode(name))


def check_target(path: Path, *, folder: bool = False) -> None:
    """Raise `OutputError` unless a file (or folder) can be put at `path`."""
    check_length(path)
    if not path.parent.is_dir():
        msg = f"Cannot write {path}: the folder {path.parent} does not exist. Create it or choose another place."
        raise OutputError(msg)
    if path.exists() and path.is_dir() != folder:
        kind, wanted = ("file", "folder") if folder else ("folder", "file")
        msg = f"Cannot write {path}: a {kind} of this name is there and a {wanted} is needed. Choose another name."
        raise OutputError(msg)


def _move(source: Path, path: Path, part: Part) -> None:
    """Let a folder take a name; an earlier one of this name is under `source` or removed afterwards."""
    if not os.path.lexists(path):
        source.rename(path)
    elif not _exchange(source, path):
        _replace_in_two_steps(source, path, part)
    _sync_folder(path.parent)


def _replace_in_two_steps(source: Path, path: Path, part: Part) -> None:
    path.rename(part.aside)
    try:
        source.rename(path)
    except OSError as error:
        try:
            part.aside.rename(path)
        except OSError:
            part.keep()
            msg = (
                f"Cannot write {path}: {error.strerror or error}. Nothing is lost: the new folder is kept as "
                f"{source.relative_to(path.parent)}, the previous one as {part.aside.name}, both in {path.parent}. "
                "Rename one of them."
            )
            raise OutputError(msg) from error
        raise


def _exchange(one: Path, other: Path) -> bool:
    """Let two names change places in one step; False where the system or the file system cannot."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    if call is None:
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if call(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0:
        return True
    number = ctypes.get_errno()
    if number in _NOT_SUPPORTED | {errno.EPERM}:  # EPERM: not among the calls that a container allows
        return False
    raise OSError(number, os.strerror(number), str(other))


def _replace(new: Path, path: Path) -> None:
    for left in range(_RETRIES, -1, -1):
        try:
            new.replace(path)
        except PermissionError:
            if os.name != "nt" or not left:
                raise
            time.sleep(0.1)
        else:
            return


@contextlib.contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turn what the system says within into an `OutputError` for this path."""
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: OSError) -> OutputError:
    """The error for what the system says about writing at a path; of a full disk which it is, and what is free."""
    what = f"Cannot write {path}: {error.strerror or error}"
    if error.errno in NO_ROOM and (disk := disk_text(path)):
        return OutputError(f"{what}: {disk}. Free some space there, or choose another place.")
    return OutputError(f"{what}. Check the free space and the permissions of {path.parent}.")


def is_full(error: BaseException | None) -> bool:
    """Whether an error, or what it comes from, is that of a full disk or quota."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            return True
        error = error.__cause__
    return False


def disk_text(path: Path) -> str:
    """What is free on the disk of a path that need not be there; "" where that cannot be told."""
    try:
        there = next(parent for parent in path.absolute().parents if parent.is_dir()).resolve()
        room = shutil.disk_usage(there)
    except (OSError, StopIteration):
        return ""
    mounted = next((folder for folder in [there, *there.parents] if folder.is_mount()), there)
    free = "nothing" if room.free < 1 << 20 else gib(room.free)
    return f"{free} of {gib(room.total)} is free on the disk of {mounted}"


def _sync_tree(folder: Path) -> None:
    """Sync a new folder, its files and the folders in it."""
    for root, _, files in os.walk(folder):
        for name in files:
            _sync(Path(root) / name)
        _sync_folder(Path(root))


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        _fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows cannot open a folder, and needs no sync of it
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        if error.errno in _NOT_SUPPORTED | {errno.EACCES, errno.EPERM, errno.EISDIR}:
            return
        raise
    try:
        _fsync(descriptor)
    finally:
        os.close(descriptor)


def _fsync(descriptor: int) -> None:
    """Sync; a folder of a network or another machine that has no such thing is as safe as it can be."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NOT_SUPPORTED:
            raise
