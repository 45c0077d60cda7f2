"""What image libraries raise on damaged files, turned into one error that says the file and what to do."""

from __future__ import annotations

import lzma
import struct
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING

from prosma_core.errors import FileFormatError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LIBRARY_ERRORS: tuple[type[Exception], ...] = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    RuntimeError,
    MemoryError,
    SyntaxError,  # pillow, for a broken PNG
    struct.error,
    zlib.error,
    lzma.LZMAError,
)
"""What nibabel, tifffile, pillow, zarr, numcodecs and SimpleITK raise on files that are damaged on purpose."""


@contextmanager
def reading(path: Path, kind: str, *more: type[Exception]) -> Iterator[None]:
    """Turn what a library raises while it reads `path` into a `FileFormatError`.

    Parameters
    ----------
    path : Path
    kind : str
        The format in words, e.g. ``"a NIfTI file"``.
    *more : exception types
        Errors of the library's own that derive from none of `LIBRARY_ERRORS`.
    """
    caught: tuple[type[Exception], ...] = (*LIBRARY_ERRORS, *more)
    try:
        yield
    except caught as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise damaged(path, f"it cannot be read as {kind} ({reason})") from error


def damaged(path: Path, what: str) -> FileFormatError:
    """The error for a file that is not what it should be; `what` completes "The file … is damaged: …"."""
    return FileFormatError(f"{path} is damaged or not what its name says: {what}. Copy or export it again.")
