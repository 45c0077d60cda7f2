"""Writing that leaves either the whole new file or what was there before, never a part of it."""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from prosma_core.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

from contextlib import contextmanager


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
    temporary = _sibling(path)
    try:
        with _output_errors(path):
            writer(temporary)
            _sync(temporary)
            temporary.replace(path)
            _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


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
        Where the folder goes. An existing folder is moved aside first and removed when the new one is in place.
    writer : callable
        Given a temporary path beside `path`; must create that folder.

    Raises
    ------
    OutputError
        As in `write_atomic`.
    """
    check_target(path, folder=True)
    temporary, old = _sibling(path), _sibling(path)
    try:
        with _output_errors(path):
            writer(temporary)
            for file in temporary.rglob("*"):
                if file.is_file():
                    _sync(file)
            if path.exists():
                path.rename(old)
            try:
                temporary.rename(path)
            except OSError:
                if old.exists():
                    old.rename(path)
                raise
            _sync_folder(path.parent)
    finally:
        for leftover in (temporary, old):
            shutil.rmtree(leftover, ignore_errors=True)


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, where it is not there; raises `OutputError` where it cannot be."""
    with _output_errors(path):
        path.mkdir(parents=True, exist_ok=True)


def remove(paths: Iterable[Path]) -> None:
    """Remove files that may be there; raises `OutputError` where one cannot be removed."""
    for path in paths:
        with _output_errors(path):
            path.unlink(missing_ok=True)


def check_target(path: Path, *, folder: bool = False) -> None:
    """Raise `OutputError` unless a file (or folder) can be put at `path`."""
    if not path.parent.is_dir():
        msg = f"Cannot write {path}: the folder {path.parent} does not exist. Create it or choose another place."
        raise OutputError(msg)
    if path.exists() and path.is_dir() != folder:
        kind, wanted = ("file", "folder") if folder else ("folder", "file")
        msg = f"Cannot write {path}: a {kind} of this name is there and a {wanted} is needed. Choose another name."
        raise OutputError(msg)


def _sibling(path: Path) -> Path:
    """A free hidden name in the folder of `path` that keeps all its suffixes."""
    suffixes = "".join(path.suffixes[-2:])
    return path.with_name(f".prosma-{secrets.token_hex(6)}{suffixes}")


@contextmanager
def _output_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        msg = f"Cannot write {path}: {reason}. Check the free space and the permissions of {path.parent}."
        raise OutputError(msg) from error


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows cannot open a folder, and needs no sync of it
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
