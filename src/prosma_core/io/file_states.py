"""By which a change of files is told without reading them: a file, or the chunks of a zarr array."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

from prosma_core.data.geometry import Box
from prosma_core.io.remote import RemotePath
from prosma_core.io.zarr_stores import StoredPath, ZipFiles

FRESH = 2 * 10**9
"""Nanoseconds after a change within which another may give a file the same time; some systems count whole seconds."""

FileState = tuple[int, ...]


def file_state(path: Path | str) -> FileState | None:
    """What changes with a file on this computer; empty where there is none.

    None where that cannot be told: it changed just now, or the system does not say.
    """
    try:
        found = os.stat(path)  # noqa: PTH116  (of thousands of chunks: half the time)
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except OSError:
        return None
    if abs(time.time_ns() - found.st_mtime_ns) < FRESH:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size


def chunks_state(array: Any, box: Box) -> tuple[FileState, ...] | None:
    """What changes with the files that hold a box of a zarr array.

    Parameters
    ----------
    array : zarr.Array
    box : Box

    Returns
    -------
    tuple, or None
        None as of `file_state`, and of a store that is neither a folder nor a zip file on this computer.
    """
    states = []
    for file in _files(array, box):
        state = None if file is None else file_state(file)
        if state is None:
            return None
        states.append(state)
    return tuple(states)


def _files(array: Any, box: Box) -> Iterator[Path | str | None]:
    """The files that hold a box; None of a store whose files are not known."""
    place, root = getattr(array.store, "place", None), getattr(array.store, "root", None)
    if (
        isinstance(place, StoredPath)
        and isinstance(place.files, ZipFiles)
        and not isinstance(place.files.path, RemotePath)
    ):
        yield place.files.path
    elif isinstance(root, Path):
        folder, chunks = f"{root}/{array.path}", array.shards or array.chunks
        for index in product(*(range(a // n, -(-b // n)) for (a, b), n in zip(box, chunks, strict=True))):
            yield f"{folder}/{array.metadata.encode_chunk_key(index)}"
    else:
        yield None
