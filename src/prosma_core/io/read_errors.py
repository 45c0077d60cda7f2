"""Errors and warnings of image libraries as one error with file, reason and advice; limits of unpacked size."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from prosma_core.errors import FileFormatError, PartUnreadableError, ProsmaError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


_LONGEST = 120  # characters of a library's own message, of a file's text


@contextmanager
def reading(path: Path, kind: str) -> Iterator[None]:
    """Turn what a library raises while it reads `path` into a `FileFormatError`.

    Every exception is caught, whatever its class: nibabel, tifffile, Pillow, zarr, numcodecs and SimpleITK raise some
    thirty different ones on damaged files, `SystemError` among them, and none may reach a user. Our own errors pass;
    so do `KeyboardInterrupt` and `SystemExit`, which are no exceptions of a library.

    Parameters
    ----------
    path : Path
    kind : str
        The format in words, e.g. ``"a NIfTI file"``.
    """
    try:
        yield
    except ProsmaError:
        raise
    except MemoryError as error:
        msg = f"{path} does not fit into memory. Close other programs, or use a smaller part of the scan."
        raise FileFormatError(msg) from error
    except Exception as error:
        reason = excerpt(str(error)) or type(error).__name__
        raise damaged(path, f"it cannot be read as {kind} ({reason})") from error


def damaged(path: object, what: str) -> FileFormatError:
    """The error for a file that is not what it should be; `what` completes "The file … is damaged: …"."""
    return FileFormatError(_damaged(path, what))


def damaged_part(path: Path | str, what: str, files: Sequence[str] = ()) -> PartUnreadableError:
    """The error of `damaged` for a file that holds a part of a scan, which has others; `files` are all such files."""
    return PartUnreadableError(_damaged(path, what), files=files or [str(path)])


def _damaged(path: object, what: str) -> str:
    return f"{path} is damaged or not what its name says: {what}. Copy or export it again."


def excerpt(text: object, longest: int = _LONGEST) -> str:
    """Text of a file or a library as part of one line of a message: printable, no line breaks, not too long."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    return line if len(line) <= longest else line[: longest - 1] + "…"


_SMALL = 1 << 20
_MOST = 240 << 20


def check_unpacked(path: object, packed: int, declared: int) -> None:
    """Refuse an image, but not a label map, that is nearly nothing but one value.

    Parameters
    ----------
    path : Path
    packed : int
        Bytes of its pixels as they are stored.
    declared : int
        Bytes they unpack to.

    Raises
    ------
    FileFormatError
        Less than 1 MB is stored and more than 240 MB are declared.
    """
    if packed < _SMALL and declared > _MOST:
        raise damaged(path, f"it declares {declared >> 20} MB of voxels in {packed >> 10} kB, which no scan fits into")


class _Collector(logging.Handler):
    def __init__(self, found: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._found, self._thread = found, threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a warning of the thread that reads."""
        if record.thread == self._thread:
            self._found.append(record.getMessage())


@contextmanager
def warnings_of(logger: str) -> Iterator[list[str]]:
    """The warnings that this logger and those below it give in this thread meanwhile, in a list that fills."""
    found: list[str] = []
    handler, log = _Collector(found), logging.getLogger(logger)
    log.addHandler(handler)
    try:
        yield found
    finally:
        log.removeHandler(handler)
