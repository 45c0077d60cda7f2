"""Faults of the file system, made on purpose: the n-th operation in a folder fails, or ends the process."""

from __future__ import annotations

import builtins
import contextlib
import errno
import functools
import io
import itertools
import os
import shutil
import signal
import subprocess
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from prosma_core.errors import ProsmaError
from prosma_core.io import atomic

ERRORS = (errno.ENOSPC, errno.EIO, errno.EINVAL, errno.EACCES)
_MOST = 2000


class MountError(Exception):
    """No file system can be mounted here."""


class SmallDisk:
    """A file system of a few MiB, in memory.

    Attributes
    ----------
    path : Path
        Where it is mounted.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._ballast = path, path / "ballast"

    @property
    def free(self) -> int:
        """Bytes that can still be written."""
        return shutil.disk_usage(self.path).free

    def fill(self, left: int = 0) -> None:
        """Leave room for this many bytes, in whole pages of the memory."""
        self.clear()
        with self._ballast.open("wb") as file:
            file.write(bytes(self.free - left))

    def clear(self) -> None:
        """Give the room back that `fill` took."""
        self._ballast.unlink(missing_ok=True)


@contextlib.contextmanager
def small_disk(path: Path, size: int) -> Iterator[SmallDisk]:
    """Mount a new file system of `size` bytes at a path; raises `MountError` where that is not allowed."""
    path.mkdir()
    before: list[str] = []
    for before in ([], ["sudo", "-n"]):
        mount = [*before, "mount", "-t", "tmpfs", "-o", f"size={size},mode=1777", "tmpfs", str(path)]
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            subprocess.run(mount, check=True, capture_output=True)
            break
    else:
        msg = "mounting is not allowed: run `unshare -rm python -m pytest` with this file"
        raise MountError(msg)
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run([*before, "umount", "--lazy", str(path)], check=True, capture_output=True)


class EndedError(BaseException):
    """Stands for the end of the process: whatever catches it, no file operation works after it."""


class Faults:
    """Counts what is done to files in a folder, and fails or ends the process at the n-th of it.

    Python's own functions are replaced, so that every writer is met at each single operation: none of them writes in
    native code.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder.resolve())
        self._count = self._at = 0
        self._always = self._after = False
        self._error: int | None = None
        self.struck = False

    @property
    def count(self) -> int:
        """Operations since `failing` was entered last."""
        return self._count

    @contextlib.contextmanager
    def failing(self, at: int, error: int | None, *, always: bool = False, after: bool = False) -> Iterator[None]:
        """Let operation number `at` (and all after it) fail with an error number.

        None ends the process there, before the operation or `after` it; 0 ends it in appearance: nothing after it has
        an effect.
        """
        self._count, self._at, self._always, self._after, self._error = 0, at, always, after, error
        self.struck = False
        with contextlib.ExitStack() as stack:
            for name in ("open", "mkdir", "rename", "replace", "unlink", "remove", "rmdir", "link", "fsync", "write"):
                stack.enter_context(mock.patch.object(os, name, self._counted(getattr(os, name))))
            real = io.open
            for module in (io, builtins):
                stack.enter_context(mock.patch.object(module, "open", self._opened(real)))
            stack.enter_context(mock.patch.object(atomic, "_exchange", self._counted(atomic._exchange)))
            yield

    @contextlib.contextmanager
    def operation(self, where: object, half: Callable[[], object] = lambda: None) -> Iterator[None]:
        """Count an operation, and fail if it is its turn; `half` does a part of it first."""
        if not self._within(where):
            yield
            return
        self._count += 1
        turn = self._count == self._at or (self._always and self._count > self._at)
        self.struck = self.struck or turn
        if turn and not self._after:
            half()
            if self._error is None:
                os.kill(os.getpid(), signal.SIGKILL)
            if not self._error:
                raise EndedError
            raise OSError(self._error, os.strerror(self._error or 0), str(where))
        try:
            yield
        finally:
            if turn:
                os.kill(os.getpid(), signal.SIGKILL)

    def _within(self, where: Any) -> bool:
        path = _opened_as(where) if isinstance(where, int) else Path.cwd() / os.fsdecode(where)
        return str(path).startswith(self._folder + os.sep)

    def _counted(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(where: Any, *args: Any, dir_fd: int | None = None, **kwargs: Any) -> Any:
            given = kwargs | ({} if dir_fd is None else {"dir_fd": dir_fd})
            with self.operation(where if dir_fd is None else _opened_as(dir_fd) / os.fsdecode(where)):
                return real(where, *args, **given)

        return call

    def _opened(self, real: Callable[..., Any]) -> Callable[..., Any]:
        faults = self

        class Raw(io.FileIO):
            def write(self, data: Any) -> int:
                view = memoryview(data).cast("B")
                with faults.operation(self.name, lambda: super(Raw, self).write(view[: len(view) // 2])):
                    return super().write(data)

        def open_(file: Any, mode: str = "r", buffering: int = -1, *args: Any, **kwargs: Any) -> Any:
            if isinstance(file, int) or not set(mode) & set("wax+") or not self._within(file):
                return real(file, mode, buffering, *args, **kwargs)
            with self.operation(file):
                raw = Raw(file, mode.replace("b", "").replace("t", ""))
            if buffering == 0:
                return raw
            buffer = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
            return buffer if "b" in mode else io.TextIOWrapper(buffer, *args, **kwargs)

        return open_


def _opened_as(descriptor: int) -> Path:
    return Path(f"/proc/self/fd/{descriptor}").readlink()


def fail_everywhere(
    folder: Path,
    save: Callable[[int], object],
    found: Callable[[], int | None],
    *,
    errors: Sequence[int] = (),
    modes: Sequence[bool | None] = (False, True),
    said: Callable[[Any], bool] = lambda _: True,
) -> int:
    """Let each single operation of a save fail: old or new is whole, success is only told of the new, the next works.

    Parameters
    ----------
    folder : Path
        Of the target; nothing else is in it.
    save : callable
        Saves the content with this number; raises `ProsmaError` where that fails, or returns what `said` knows.
    found : callable
        Number of the whole content that is there, None where there is none.
    errors : sequence of int
        All tried at each operation; unless given, one of `ERRORS` in turn.
    modes : sequence of bool or None
        Whether the operation fails from then on always, or once; None: in turn.
    said : callable
        Whether the result of `save` says that it was saved.

    Returns
    -------
    int
        Operations of one save.
    """
    faults, now, most = Faults(folder), 0, 0
    save(0)
    names = listing(folder)
    for error, mode in itertools.product(errors or [0], modes):
        for at in range(1, _MOST):
            always = at % 2 == 0 if mode is None else mode
            number = error or ERRORS[(at + at // 4 + always) % len(ERRORS)]
            with faults.failing(at, number, always=always):
                try:
                    told = said(save(now + 1))
                except ProsmaError:
                    told = False
            case = (os.strerror(number), always, at)
            assert found() in ((now + 1,) if told else (now, now + 1)), case
            if not faults.struck:
                assert told, case
                most, now = max(most, at - 1), now + 1
                break
            now = _next_works(folder, save, found, now + 2, names, whole=at % 4 == 1)
    return most


def end_everywhere(
    folder: Path, save: Callable[[int], object], found: Callable[[], int | None], *, kill: bool = False
) -> int:
    """End the process at each single operation of a save, with signal 9 if `kill`; else as in `fail_everywhere`.

    Old or new is whole, and after the next save nothing else is left.
    """
    faults, now = Faults(folder), 0
    save(0)
    names = listing(folder)
    for at in range(1, _MOST):
        ended = killed if kill else _ended
        struck = ended(faults, at, functools.partial(save, now + 1))
        assert found() in (now, now + 1), at
        if not struck:
            return at - 1
        now = _next_works(folder, save, found, now + 2, names, whole=at % 4 == 1)
    raise AssertionError(folder)


def listing(folder: Path) -> list[str]:
    """Every file and folder in a folder, but a run's lock: an old one is replaced by the next training."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.name != "in-use.lock")


def _next_works(
    folder: Path,
    save: Callable[[int], object],
    found: Callable[[], int | None],
    now: int,
    names: list[str],
    whole: bool,
) -> int:
    """After a fault, a save (or only its beginning, the sweep) leaves nothing but the result; its number."""
    if whole:
        save(now)
        assert found() == now
    else:
        for place in {folder, *(folder / name for name in names if (folder / name).is_dir())}:
            atomic.sweep(place)
        now = int(found() or 0)
    assert listing(folder) == names, set(listing(folder)) ^ set(names)
    return now


def _ended(faults: Faults, at: int, save: Callable[[], object]) -> bool:
    with contextlib.suppress(EndedError), faults.failing(at, 0, always=True):
        save()
    return faults.struck


def killed(faults: Faults, at: int, save: Callable[[], object], *, after: bool = False) -> bool:
    """Save in a fork of this process that is killed before (or after) operation `at`; False where it came to its end.

    Raises
    ------
    AssertionError
        The save failed, although nothing was in its way.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads of libraries: the child does not use them
        child = os.fork()
    if child == 0:
        status = 3
        signal.alarm(60)
        try:
            with faults.failing(at, None, after=after):
                save()
            status = 0
        except BaseException:  # noqa: BLE001  (of whatever kind it is)
            traceback.print_exc()
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL), status
    return status != 0
