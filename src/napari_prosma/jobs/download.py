"""Download of an archive: progress, checksum, unpacking of what is needed, and its dialog.

Not by pooch: it waits for whole blocks (no progress, no cancel meanwhile) and replaces an archive a user put there.
"""

from __future__ import annotations

import hashlib
import tarfile
import threading
import urllib.request
from collections.abc import Generator
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

from napari.utils import cancelable_progress

from prosma_core.errors import ProsmaError
from prosma_core.io.atomic import make_folder, reserved, write_bytes_atomic
from prosma_core.printable import plain

_BLOCK = 1 << 18
_TIMEOUT = 30.0
_MOST_BYTES = 1 << 30  # of one unpacked file


class DownloadError(ProsmaError):
    """A file that could not be downloaded, or that is not the one it should be."""


@dataclass(frozen=True)
class Archive:
    """A tar archive on the web.

    Attributes
    ----------
    url : str
    md5 : str
        Hexadecimal checksum that its provider published.
    members : tuple of (str, str)
        Files in it that are needed: name in the archive, name in the folder they are unpacked to.
    """

    url: str
    md5: str
    members: tuple[tuple[str, str], ...]

    @property
    def name(self) -> str:
        """File name of the archive."""
        return self.url.rsplit("/", 1)[-1]


def unpacked(archive: Archive, folder: Path) -> list[Path] | None:
    """The needed files where all of them are there already."""
    files = [folder / name for _, name in archive.members]
    return files if all(file.is_file() for file in files) else None


def fetch(archive: Archive, folder: Path) -> Generator[tuple[int, int], None, None]:
    """Download, check and unpack an archive; it may be closed at any time and leaves no part of a file.

    Parameters
    ----------
    archive : Archive
        Taken from `folder` where a user has put it.
    folder : Path
        Made where it is not there; receives the members, and keeps nothing of a download that was made here.

    Yields
    ------
    done, total : int
        Bytes so far, and of the whole (0 where the server does not say).

    Raises
    ------
    DownloadError
        There is no connection, the file is not the one its checksum names, or a member is missing.
    OutputError
        The folder cannot be written.
    """
    make_folder(folder)
    own = folder / archive.name
    if own.is_file():
        _check(archive, own, _md5(own))
        _unpack(archive, own, folder)
        return
    with reserved(own) as part:
        digest = yield from _download(archive, part, own)
        _check(archive, part, digest)
        _unpack(archive, part, folder)


def _download(archive: Archive, part: Path, own: Path) -> Generator[tuple[int, int], None, str]:
    """Write the archive to `part`; returns its checksum."""
    digest, done = hashlib.md5(usedforsecurity=False), 0
    try:
        with urllib.request.urlopen(archive.url, timeout=_TIMEOUT) as answer, part.open("wb") as file:
            total = int(answer.headers.get("Content-Length") or 0)
            while block := answer.read1(_BLOCK):
                file.write(block)
                digest.update(block)
                done += len(block)
                yield done, total
    except (OSError, HTTPException) as error:  # URLError, timeouts and a full disk among them
        reason = getattr(error, "reason", None) or error
        msg = (
            f"{archive.name} could not be downloaded ({reason}). Check the connection and the free space, or download "
            f"{archive.url} yourself and put it at {own}."
        )
        raise DownloadError(msg) from error
    return digest.hexdigest()


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _check(archive: Archive, path: Path, digest: str) -> None:
    if digest != archive.md5:
        msg = (
            f"{archive.name} is not the file it should be: its checksum is {digest}, not {archive.md5}. It was cut off "
            f"or changed, and nothing of it was opened. Remove {path} if it is there, and try again."
        )
        raise DownloadError(msg)


def _unpack(archive: Archive, path: Path, folder: Path) -> None:
    """Copy the needed members, and nothing else, to the folder under names of our own."""
    try:
        with tarfile.open(path) as tar:
            entries = {entry.name.removeprefix("./"): entry for entry in tar}
            for member, name in archive.members:
                entry = entries[member]
                source = tar.extractfile(entry) if entry.isfile() and entry.size <= _MOST_BYTES else None
                if source is None:
                    raise KeyError(member)
                write_bytes_atomic(folder / name, source.read())
    except (tarfile.TarError, KeyError) as error:
        names = ", ".join(member for member, _ in archive.members)
        msg = f"{archive.name} does not hold {names} ({error}). Please report this."
        raise DownloadError(msg) from error


_POLL_MS = 50


class _DownloadThread:
    """A download in a thread; polled by the caller's thread."""

    def __init__(self, archive: Archive, folder: Path) -> None:
        self._archive, self._folder = archive, folder
        self._stop = threading.Event()
        self.done = self.total = 0
        self.error: Exception | None = None
        self.thread = threading.Thread(target=self._run, name="prosma-download", daemon=True)

    def cancel(self) -> None:
        """Stop after the block that is on its way."""
        self._stop.set()

    def _run(self) -> None:
        steps = fetch(self._archive, self._folder)
        try:
            for self.done, self.total in steps:
                if self._stop.is_set():
                    break
        except Exception as error:  # noqa: BLE001  (raised again where the download was asked for)
            self.error = error
        finally:
            steps.close()

    @property
    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self._stop.is_set()


def download_shown(archive: Archive, folder: Path) -> None:
    """Download and unpack an archive; returns when it is there.

    With a window, events are handled meanwhile: the viewer stays usable and shows a bar with a Cancel button.

    Raises
    ------
    DownloadError
        As in `download.fetch`; or it was cancelled, or the same archive is on its way already.
    """
    if archive.url in _UNDER_WAY:
        msg = f"{archive.name} is being downloaded already; its progress is shown at the bottom right (activity)."
        raise DownloadError(msg)
    _UNDER_WAY.add(archive.url)
    work = _DownloadThread(archive, folder)
    bar: Any = cancelable_progress(total=0, desc=plain(f"Downloading {archive.name}"), leave=False)
    try:
        work.thread.start()
        _wait(work, bar)
    finally:
        bar.close()
        _UNDER_WAY.discard(archive.url)
    if work.cancelled:
        msg = f"The download of {archive.name} was cancelled; nothing of it is kept."
        raise DownloadError(msg)
    if work.error is not None:
        raise work.error


_UNDER_WAY: set[str] = set()


def _wait(work: _DownloadThread, bar: Any) -> None:
    """Handle events until the thread ends or is told to; without an application, just wait."""
    from qtpy.QtCore import QEventLoop, QTimer
    from qtpy.QtWidgets import QApplication

    application = QApplication.instance()
    if application is None:
        work.thread.join()
        return
    loop, timer = QEventLoop(), QTimer()
    application.aboutToQuit.connect(work.cancel)

    def poll() -> None:
        if bar.is_canceled:
            work.cancel()  # a connection that hangs lets go later, in its thread
        if work.total and bar.total != work.total:
            bar.total = work.total
        bar.update(work.done - bar.n)
        if work.cancelled or not work.thread.is_alive():
            loop.quit()

    timer.timeout.connect(poll)
    timer.start(_POLL_MS)
    loop.exec()
    timer.stop()
    application.aboutToQuit.disconnect(work.cancel)
    if work.thread.is_alive():  # the loop also ends when the application does
        work.cancel()
