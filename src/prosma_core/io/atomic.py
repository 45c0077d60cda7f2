"""Writing that leaves either the whole new file or what was there before, never a part of it."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from prosma_core.errors import OutputError
from prosma_core.io.parts import LONGEST_PART, Part, put_back, sweep, taken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = [
    "check_length",
    "check_target",
    "make_folder",
    "put_back",
    "remove",
    "replace_dir",
    "reserved",
    "scratch_folder",
    "sweep",
    "write_atomic",
    "write_bytes_atomic",
]

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
    with _output_errors(path), taken(path) as part:
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
    with _output_errors(path), taken(path) as part:
        writer(part.path)
        sweep(part.path)  # what the writer used and could not remove
        _sync_tree(part.path)
        if not os.path.lexists(path):
            part.path.rename(path)
        elif not _exchange(part.path, path):
            _replace_in_two_steps(part, path)
        _sync_folder(path.parent)


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
        with _output_errors(path):
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
    with _output_errors(path):
        path.mkdir(parents=True, exist_ok=True)


def remove(paths: Iterable[Path]) -> None:
    """Remove files that may be there; raises `OutputError` where one cannot be removed."""
    for path in paths:
        with _output_errors(path):
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


def _replace_in_two_steps(part: Part, path: Path) -> None:
    path.rename(part.aside)
    try:
        part.path.rename(path)
    except OSError as error:
        try:
            part.aside.rename(path)
        except OSError:
            part.keep()
            msg = (
                f"Cannot write {path}: {error.strerror or error}. Nothing is lost: the new folder is kept as "
                f"{part.path.name}, the previous one as {part.aside.name}, both in {path.parent}. Rename one of them."
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
def _output_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        msg = f"Cannot write {path}: {reason}. Check the free space and the permissions of {path.parent}."
        raise OutputError(msg) from error


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
