"""Arrays that two processes share: files in a private folder that both map into memory.

The folder lies in ``/dev/shm`` where there is room, else among the temporary files. Room is reserved before anything is
written, because writing to a full ``/dev/shm`` kills the writer. On POSIX a file is unlinked as soon as both sides have
mapped it: its memory then lives as long as the arrays, and nothing is left behind whoever dies. (The shared memory of
`multiprocessing` is not used: a child's end removes it from its parent as well.)

Whoever made a folder holds a lock on it while it lives, so that others know, also those in another container that
shares the file system but not the numbers of processes.
"""

from __future__ import annotations

import contextlib
import errno
import math
import mmap
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import DTypeLike, NDArray

from prosma_core.engine.guardian import PREFIX
from prosma_core.engine.requests import ArrayRef
from prosma_core.errors import EngineError

if sys.platform != "win32":
    import fcntl

_SHARED_MEMORY = Path("/dev/shm")
_SHARE_OF_MEMORY = 0.5
"""Share of the free memory that one array may take; a larger one goes to the disk, where the system can move it."""
_BLOCK = 1 << 24
_HELD: dict[Path, int] = {}
"""Descriptors of the folders of this process, by which they are locked."""
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM}


class SharedArray:
    """An array in a file, with the reference by which the other side finds it."""

    def __init__(self, ref: ArrayRef, array: NDArray[Any]) -> None:
        self.ref = ref
        self.array = array

    def release(self) -> None:
        """Remove the file's name; mappings that exist stay valid (on Windows the file stays until they are gone)."""
        with contextlib.suppress(OSError):
            Path(self.ref.path).unlink(missing_ok=True)


def private_folders() -> list[Path]:
    """New folders of this process for arrays, the preferred one first; the last one is on disk."""
    name = f"{PREFIX}{os.getpid()}-{secrets.token_hex(4)}"
    folders = []
    for base in _bases():
        with contextlib.suppress(OSError):
            (base / name).mkdir(mode=0o700)
            _hold(base / name)
            folders.append(base / name)
    if not folders:
        msg = f"No folder for shared arrays can be made in {', '.join(map(str, _bases()))}. Make one of them writable."
        raise EngineError(msg)
    return folders


def remove_folders(folders: Sequence[Path]) -> None:
    """Remove private folders with all files in them; others are left alone."""
    for folder in folders:
        if folder.name.startswith(PREFIX):
            shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(KeyError, OSError):
                os.close(_HELD.pop(folder))


def remove_arrays(folders: Sequence[Path], pid: int) -> None:
    """Remove the arrays that a process has made in these folders."""
    for folder in folders:
        for path in folder.glob(f"{pid}-*.array"):
            with contextlib.suppress(OSError):
                path.unlink()


def sweep() -> None:
    """Remove the private folders of this user's processes that no longer live."""
    for base in _bases():
        for folder in base.glob(f"{PREFIX}*-*"):
            pid = folder.name.removeprefix(PREFIX).partition("-")[0]
            if pid.isdigit() and folder not in _HELD and _is_ours(folder):
                _remove_unless_held(folder, int(pid))


def create(folders: Sequence[Path], shape: tuple[int, ...], dtype: DTypeLike) -> SharedArray:
    """A new array of zeros in the first folder that has room for it.

    Parameters
    ----------
    folders : sequence of Path
        As from `private_folders`.
    shape : tuple of int
    dtype : dtype
        Integers, floats or bool.

    Raises
    ------
    EngineError
        No folder has room, or the shape is empty.
    """
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    if size < 1:
        msg = f"An array of shape {shape} has no voxels and cannot be shared."
        raise EngineError(msg)
    for folder in folders:
        path = folder / f"{os.getpid()}-{secrets.token_hex(8)}.array"
        if _reserve(path, size):
            ref = ArrayRef(path=str(path), shape=shape, dtype=dtype.str)
            return SharedArray(ref, attach(ref))
    places = " nor in ".join(f"{folder.parent} ({_free(folder)} MiB free)" for folder in folders)
    msg = (
        f"There is no room for an array of {size} bytes ({size >> 20} MiB) in {places}. "
        "Free memory or disk, or crop the scan."
    )
    raise EngineError(msg)


def attach(ref: ArrayRef) -> NDArray[Any]:
    """The array behind a reference, writable.

    Raises
    ------
    EngineError
        The file is not there, too small, or there is no memory to map it.
    """
    dtype = np.dtype(ref.dtype)
    size = math.prod(ref.shape) * dtype.itemsize
    try:
        with Path(ref.path).open("r+b") as file:
            if os.fstat(file.fileno()).st_size < size:
                msg = f"it is shorter than {size} bytes"
                raise ValueError(msg)
            mapped = mmap.mmap(file.fileno(), size)
    except (OSError, ValueError, OverflowError) as error:
        msg = f"The shared array {ref.path} cannot be opened: {error}. Run again; if it stays, crop the scan."
        raise EngineError(msg) from error
    return np.frombuffer(mapped, dtype).reshape(ref.shape)


def _bases() -> list[Path]:
    """Where private folders may lie; among temporary files last."""
    disk = Path(tempfile.gettempdir())
    return [_SHARED_MEMORY, disk] if _SHARED_MEMORY.is_dir() else [disk]


def _hold(folder: Path) -> None:
    """Lock a folder until it is removed or this process ends; raises `OSError` where another removes it just now."""
    if sys.platform != "win32":
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with contextlib.suppress(OSError):  # a file system without locks: the process id has to do
                fcntl.flock(descriptor, fcntl.LOCK_SH)
            folder.stat()
        except OSError:
            os.close(descriptor)
            raise
        _HELD[folder] = descriptor


def _remove_unless_held(folder: Path, pid: int) -> None:
    """Remove the folder of a process unless that lives, as its lock says, or its id where there are no locks."""
    if sys.platform == "win32":
        if not psutil.pid_exists(pid):
            remove_folders([folder])
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        lives = False
    except OSError as error:
        lives = error.errno in {errno.EAGAIN, errno.EACCES} or psutil.pid_exists(pid)
    if not lives:
        remove_folders([folder])
    os.close(descriptor)


def _is_ours(folder: Path) -> bool:
    if sys.platform == "win32":
        return True
    with contextlib.suppress(OSError):
        return folder.stat().st_uid == os.getuid()
    return False


def _reserve(path: Path, size: int) -> bool:
    """Make a file of zeros with all its room taken; False where memory or disk does not have it."""
    if path.is_relative_to(_SHARED_MEMORY) and size > psutil.virtual_memory().available * _SHARE_OF_MEMORY:
        return False
    path.parent.mkdir(mode=0o700, exist_ok=True)  # the system may have tidied it away
    if size > shutil.disk_usage(path.parent).free:
        return False
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_BINARY", 0), 0o600)
    try:
        _take_room(descriptor, size)
    except OSError as error:
        os.close(descriptor)
        path.unlink()
        if error.errno in _NO_ROOM:
            return False
        raise
    os.close(descriptor)
    return True


def _take_room(descriptor: int, size: int) -> None:
    """Let an empty file be `size` zeros that have their place already."""
    try:
        os.posix_fallocate(descriptor, 0, size)
    except AttributeError:  # macOS and Windows
        _write_zeros(descriptor, size)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS}:
            raise
        _write_zeros(descriptor, size)


def _write_zeros(descriptor: int, size: int) -> None:
    zeros = memoryview(bytes(_BLOCK))
    while size > 0:
        size -= os.write(descriptor, zeros[:size])


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder.parent).free >> 20
