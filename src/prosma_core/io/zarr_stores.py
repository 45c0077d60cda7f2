"""Zarr that lies in no folder: on a web server, in S3, or in a zip file, local or not. Read only, chunk by chunk."""

from __future__ import annotations

import io
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, cast

from prosma_core.errors import FileFormatError
from prosma_core.io.names import ZIPPED, image_suffix
from prosma_core.io.read_errors import damaged, excerpt
from prosma_core.io.remote import RemotePath, input_path
from prosma_core.io.remote_objects import ask, begin, objects_of, patience, reaching, unreachable

_NODES = ("zarr.json", ".zarray", ".zgroup")
_MOST_RATIO = 1032  # of deflate
_BUFFER = 1 << 20


class Files(Protocol):
    """Named files that are no files of this computer."""

    def place(self, key: str) -> str:
        """What a file is called in messages."""

    def load(self, key: str, start: int = 0, stop: int | None = None) -> bytes | None:
        """Bytes of a file, or a part of them; None where there is no such file. A negative start counts from its end.

        Raises
        ------
        FileFormatError
            The server does not answer, or the zip file is damaged.
        """

    def stamp(self, key: str) -> str:
        """What changes with a file."""

    def names(self) -> dict[str, int] | None:
        """All files with the bytes they take; None where that is not known."""

    def children(self, key: str) -> list[str]:
        """Names of the folders in a folder that its listing gives."""


class ServerFiles:
    """Files of a web server or a bucket.

    Attributes
    ----------
    denied : bool
        Whether access to any was denied, which S3 also says of files that are not there.
    """

    def __init__(self, root: RemotePath) -> None:
        self._root, self._objects, self.denied = root, objects_of(root), False
        self._waited = patience()

    def place(self, key: str) -> str:
        """As of `Files`."""
        return str(RemotePath(*self._root.parts[:2], key))

    def load(self, key: str, start: int = 0, stop: int | None = None) -> bytes | None:
        """As of `Files`."""
        import obstore
        from obstore.exceptions import PermissionDeniedError

        part: Any = {"suffix": -start} if start < 0 else {"offset": start} if stop is None else (start, stop)
        with reaching(self.place(key), self._waited):
            try:
                options: Any = {"range": part} if start or stop is not None else {}
                return ask(lambda: bytes(obstore.get(self._objects, key, options=options).bytes()))
            except FileNotFoundError:
                return None
            except PermissionDeniedError:
                self.denied = True
                return None

    def size(self, key: str) -> int:
        """Bytes of a file."""
        return int(self._head(key)["size"])

    def _head(self, key: str) -> Any:
        import obstore

        with reaching(self.place(key), self._waited):
            return ask(lambda: obstore.head(self._objects, key))

    def stamp(self, key: str) -> str:
        """When a file was changed last."""
        return str(self._head(key)["last_modified"])

    def names(self) -> None:
        """Not known: listing may take long, or is not allowed."""
        return

    def children(self, key: str) -> list[str]:
        """As of `Files`: of a bucket."""
        import obstore

        if self._root.scheme != "s3":
            return []
        with reaching(self.place(key), self._waited):
            found = ask(lambda: obstore.list_with_delimiter(self._objects, prefix=key))
        return sorted(PurePosixPath(name).name for name in found["common_prefixes"])


class ZipFiles:
    """Files in a zip file.

    Attributes
    ----------
    path : Path
        The zip file.
    """

    denied = False

    def __init__(self, path: Path) -> None:
        self.path, self._lock = path, threading.Lock()
        source: Any = path
        if isinstance(path, RemotePath):
            source = io.BufferedReader(cast(io.RawIOBase, _ServerFile(ServerFiles(path), path.key)), _BUFFER)
        with self._unzipping():
            self._zip = zipfile.ZipFile(source)
        self._infos = {info.filename: info for info in self._zip.infolist() if not info.is_dir()}

    @contextmanager
    def _unzipping(self) -> Iterator[None]:
        try:
            yield
        except FileFormatError:
            raise
        except Exception as error:
            raise damaged(self.path, f"it cannot be read as a zip file ({excerpt(error)})") from error

    def place(self, key: str) -> str:
        """As of `Files`."""
        return f"{self.path}/{key}"

    def load(self, key: str, start: int = 0, stop: int | None = None) -> bytes | None:
        """As of `Files`."""
        info = self._infos.get(key)
        if info is None:
            return None
        with self._unzipping(), self._lock, self._zip.open(info) as file:
            file.seek(start, io.SEEK_END if start < 0 else io.SEEK_SET)
            return file.read(-1 if stop is None else max(stop - file.tell(), 0))

    def names(self) -> dict[str, int]:
        """As of `Files`."""
        return {name: info.compress_size for name, info in self._infos.items()}

    def stamp(self, key: str) -> str:
        """When a file was changed last, and its checksum."""
        return f"{self._infos[key].date_time} {self._infos[key].CRC}"

    def unpacked(self, key: str) -> int:
        """Bytes of a file that it declares to unpack to."""
        return self._infos[key].file_size

    def children(self, key: str) -> list[str]:
        """As of `Files`."""
        start = f"{key}/" if key else ""
        inside = (name[len(start) :] for name in self._infos if name.startswith(start))
        return sorted({name.partition("/")[0] for name in inside if "/" in name})


class _ServerFile(io.RawIOBase):
    """A file on a server, read part by part where a part is asked for."""

    def __init__(self, files: ServerFiles, key: str) -> None:
        self._files, self._key, self._at = files, key, 0
        self._size = files.size(key)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        stop = min(self._at + len(buffer), self._size)
        if stop <= self._at:
            return 0
        content = self._files.load(self._key, self._at, stop)
        if content is None:
            raise unreachable(self._files.place(self._key), "it is gone since it was opened", "Check the server")
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)


@dataclass(frozen=True)
class StoredPath:
    """A file or folder among `files`, with what a `Path` has of these."""

    files: ServerFiles | ZipFiles
    key: str

    def __str__(self) -> str:
        return self.files.place(self.key).rstrip("/")

    def __truediv__(self, name: str) -> StoredPath:
        return StoredPath(self.files, f"{self.key}/{name}".strip("/"))

    @property
    def name(self) -> str:
        """Last part of its key; of the uppermost folder of a zip file the name of that file."""
        return PurePosixPath(self.key or str(self)).name

    @property
    def parent(self) -> StoredPath:
        """The folder around it; the uppermost one is its own."""
        return StoredPath(self.files, self.key.rpartition("/")[0])

    @property
    def url(self) -> Path | None:
        """The URL that leads to it; None in a zip file."""
        return input_path(str(self)) if isinstance(self.files, ServerFiles) else None

    @property
    def remote(self) -> bool:
        """Whether it is read from a server, also of a zip file there."""
        return isinstance(self.files, ServerFiles) or isinstance(self.files.path, RemotePath)

    def load(self, start: int = 0, stop: int | None = None) -> bytes | None:
        """Its bytes, as of `Files.load`."""
        return self.files.load(self.key, start, stop)


Place = Path | StoredPath
"""Where a node of a zarr lies."""


def is_zipped(path: Path) -> bool:
    """Whether a path has the name of a zip file that holds a zarr."""
    return image_suffix(path).lower() in ZIPPED


def place_of(path: Path) -> Place:
    """Where the zarr of a path lies: a folder is where it is.

    Raises
    ------
    FileFormatError
        The server does not answer, or the zip file is damaged.
    MissingExtraError
        obstore is not installed.
    """
    if not is_zipped(path):
        return StoredPath(ServerFiles(path), path.key) if isinstance(path, RemotePath) else path
    root = StoredPath(ZipFiles(path), "")
    names, folders = root.files.names() or {}, root.files.children("")
    if len(folders) == 1 and not any(name in names for name in _NODES):  # the folder itself was packed
        return root / folders[0]
    return root


def check_unzipped(place: StoredPath, most: int) -> None:
    """Refuse a chunk in a zip file that declares to unpack to more than `most` bytes."""
    if isinstance(place.files, ZipFiles) and place.files.unpacked(place.key) > most:
        raise damaged(
            place, f"it declares {place.files.unpacked(place.key) >> 20} MB, more than its share of the array"
        )


def zarr_store(root: StoredPath, check: Any) -> Any:
    """A store of the zarr library for the array at a place.

    Parameters
    ----------
    root : StoredPath
        Of the array, whose keys start with its own.
    check : callable
        Called with the place, start and bytes of each chunk or part of one before it is unpacked.

    Returns
    -------
    zarr.abc.store.Store
        Its attribute ``missing`` becomes true when a chunk is not there; ``place`` is `root`.
    """
    import asyncio

    from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
    from zarr.storage import MemoryStore, WrapperStore

    class Checked(WrapperStore[MemoryStore]):
        missing = False
        place = root

        async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
            place, start, stop = StoredPath(root.files, key), 0, None
            if isinstance(byte_range, RangeByteRequest):
                start, stop = byte_range.start, byte_range.end
            elif isinstance(byte_range, OffsetByteRequest):
                start = byte_range.offset
            elif isinstance(byte_range, SuffixByteRequest):
                start = -byte_range.suffix
            content = await asyncio.wrap_future(begin(partial(place.load, start, stop)))
            meta = place.name in (*_NODES, ".zattrs", ".zmetadata")
            if content is None:
                self.missing = self.missing or not meta
                return None
            if not meta:
                check(place, byte_range, content)
            return prototype.buffer.from_bytes(content)

    return Checked(MemoryStore(read_only=True))
