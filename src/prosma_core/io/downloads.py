"""Scans of a URL that are read as files: downloaded into a temporary folder, which is removed afterwards."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from pathlib import Path
from types import TracebackType
from typing import BinaryIO
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import prosma_core
from prosma_core.errors import FileFormatError, OutputError, ProsmaError
from prosma_core.events import Event, Working, drain
from prosma_core.io import remote_objects
from prosma_core.io.names import COMMON_SUFFIXES, FORMATS, image_suffix, is_zarr_member, safe_name, stem
from prosma_core.io.remote import RemotePath
from prosma_core.io.remote_objects import ask, objects_of, patience, reaching, unreachable

PAUSE_S = 1.0
"""Seconds before a lost connection is made again."""
_PART = 1 << 20
_REPORT_S = 0.5
_PAIRS = {".mhd", ".nhdr", ".hdr", ".par", ".head"}
"""Headers whose voxels are in a second file."""


def is_streamed(path: Path) -> bool:
    """Whether what a path names is read from its server part by part: a zarr, or a member of one."""
    of_zarr = FORMATS.get(image_suffix(path).lower()) == "zarr" or is_zarr_member(path)
    return isinstance(path, RemotePath) and of_zarr


class Downloads:
    """Files of URLs as local files; used in a ``with`` statement, at whose end they are removed."""

    def __init__(self) -> None:
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._names: dict[str, str] = {}

    def __enter__(self) -> Downloads:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove what was downloaded; an error names the URL, not the local file."""
        if isinstance(error, ProsmaError):
            for url, file in self._names.items():
                error.args = tuple(str(line).replace(file, url) for line in error.args)
        if self._folder is not None:
            self._folder.cleanup()

    def fetch(self, path: Path) -> Generator[Event, None, Path]:
        """The local file of a path: itself where it is local, or a zarr, which is read where it is.

        Raises
        ------
        FileFormatError
            The server has no such file or does not answer, or the file cannot be read alone.
        OutputError
            There is no space for it.
        MissingExtraError
            It is on S3, and obstore is not installed.
        """
        if not isinstance(path, RemotePath) or is_streamed(path):
            return path
        remote_format(path)
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="prosma-", ignore_cleanup_errors=True)
        place = Path(self._folder.name) / str(len(self._names))
        place.mkdir()
        target = place / f"{safe_name(stem(path))}{image_suffix(path)}"
        self._names[str(path)] = str(target)
        with target.open("wb") as file:
            changed = yield from _download(path, file)
        if changed is not None:
            os.utime(target, (changed, changed))
        return target

    def fetch_all(self, paths: Sequence[Path]) -> Generator[Event, None, tuple[Path, ...]]:
        """As `fetch`, for several files."""
        found: tuple[Path, ...] = ()
        for path in paths:
            found = (*found, (yield from self.fetch(path)))
        return found


@contextmanager
def fetched(path: Path) -> Iterator[Path]:
    """A path as of `Downloads.fetch`, without reports."""
    with Downloads() as downloads:
        yield drain(downloads.fetch(path), lambda _: None)


def remote_format(path: RemotePath) -> str:
    """Which reader opens what a URL names, told by the name alone: a value of `FORMATS`.

    Raises
    ------
    FileFormatError
        Of no format that is read, or a file that cannot be read alone.
    """
    if is_streamed(path):
        return "zarr"
    suffix = image_suffix(path).lower()
    if suffix not in FORMATS:
        msg = (
            f"{path} does not end with a format that is read: {COMMON_SUFFIXES}. Folders on a server are not gone "
            "through: give the URL of each scan, several with --list FILE."
        )
        raise FileFormatError(msg)
    if suffix in _PAIRS:
        msg = f"{path} is a header whose voxels are in a second file. Download both, and give the local header."
        raise FileFormatError(msg)
    return FORMATS[suffix]


def _download(path: RemotePath, file: BinaryIO) -> Generator[Event, None, float | None]:
    """Write a remote file into a local one; when it was changed last, where the server says so."""
    began, said, changed = time.monotonic(), 0.0, None
    for size, time_of_change, part in _from_s3(path) if path.scheme == "s3" else _from_web(path):
        changed = time_of_change
        if not file.tell() and size is not None and size > (free := shutil.disk_usage(file.name).free):
            msg = (
                f"{path} has {_mb(size)}; {_mb(free)} are free in the temporary folder {tempfile.gettempdir()}. "
                "Free some space, or set TMPDIR to another folder."
            )
            raise OutputError(msg)
        try:
            file.write(part)
        except OSError as error:
            msg = f"{path} cannot be stored in the temporary folder ({error.strerror}). Set TMPDIR to another folder."
            raise OutputError(msg) from error
        if time.monotonic() - max(began, said) > _REPORT_S:
            said = time.monotonic()
            whole = f" of {_mb(size)}" if size is not None else ""
            yield Working(f"Downloading {path.name}: {_mb(file.tell())}{whole}")
    return changed


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


Parts = Iterator[tuple[int | None, float | None, bytes]]
"""Size of the whole file and time of its last change, where these are known, and its next bytes."""


def _from_s3(path: RemotePath) -> Parts:
    objects = objects_of(path)
    import obstore

    with reaching(path):
        found = ask(lambda: obstore.get(objects, path.key))
        size, changed = int(found.meta["size"]), found.meta["last_modified"].timestamp()
        stream = iter(found.stream(min_chunk_size=_PART))
        while part := ask(lambda: next(stream, None)):
            yield size, changed, bytes(part)


def _from_web(path: RemotePath) -> Parts:
    """As the server gives it; where the connection is lost, the rest is asked for again."""
    done, tries, size, changed = 0, 0, None, None
    seconds, attempts = patience()
    while True:
        try:
            headers = {"User-Agent": f"prosma/{prosma_core.__version__}"}
            headers |= {"Range": f"bytes={done}-"} if done else {}
            with urlopen(Request(path.url, headers=headers), timeout=seconds) as answer:
                skip = done if answer.status == 200 else 0  # a server without ranges starts anew
                if not done:
                    length = str(answer.headers["Content-Length"] or "")
                    size = int(length) if length.isdecimal() else None
                    changed = _seconds(answer.headers["Last-Modified"])
                    _check_kind(path, answer.headers.get_content_type())
                while part := answer.read(_PART):
                    new, skip = part[skip:], max(skip - len(part), 0)
                    if new:
                        done, tries = done + len(new), 0
                        yield size, changed, new
            if size is None or done >= size:
                return
            lost = ConnectionError("the connection was lost")
            raise lost
        except (OSError, HTTPException) as error:
            tries += 1
            lasting = isinstance(error, HTTPError) and error.code < 500 and error.code != 429
            if isinstance(error, HTTPError):
                error.close()
            most = remote_objects.ATTEMPTS if done else attempts
            if lasting or tries >= most:
                with reaching(path, (seconds, most)):
                    raise
            time.sleep(PAUSE_S * tries)


def _seconds(date: str | None) -> float | None:
    with contextlib.suppress(TypeError, ValueError):
        return parsedate_to_datetime(date or "").timestamp()
    return None


def _check_kind(path: RemotePath, kind: str) -> None:
    if kind == "text/html":
        raise unreachable(path, "the server gives a web page, not a file", "Use the link that downloads the file")
