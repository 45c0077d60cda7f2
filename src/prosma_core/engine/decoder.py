"""Reads files for a viewer; foreign formats in a child process, whose crash or memory is not the viewer's.

NIfTI, NRRD and MetaImage are read here: by code of this project in Python, which compares what a header declares with
the bytes that are there before it takes memory. TIFF, PNG, JPEG, DICOM and all others go through native decoders.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from prosma_core import errors
from prosma_core.data.geometry import Scan
from prosma_core.engine import arrays
from prosma_core.engine.messages import DECODE_REPLY, DecodeAsk, Decoded, DecodedScan, NotDecoded, header_from
from prosma_core.engine.process import child_environment
from prosma_core.errors import FileFormatError, ProsmaError
from prosma_core.io import dataset_folder, images, notes
from prosma_core.io.dataset_folder import Case
from prosma_core.io.images import reader_of
from prosma_core.io.read_errors import warnings_of

_LOG = logging.getLogger(__name__)

OWN_READERS = {"nifti", "nrrd", "metaimage"}
"""Readers of `prosma_core.io` that are Python code of this project and so may run in the viewer."""
PATIENCE, PER_BYTE = 120.0, 1e-6
"""Seconds that reading a file may take: so many, and more for each byte."""

_DAMAGED = "It may be damaged: copy or export it again."
_FROM_OUTSIDE = {
    "SIGKILL": "its decoder was killed, most often because memory ran out. Close other programs, then open it again.",
    "SIGTERM": "its decoder was ended by another program. Open it again.",
    "SIGBUS": "shared memory or the disk is full. Free some of it, then open it again.",
}
"""What ended a decoder that is no fault of the file, by signal, and what to do."""

What = Literal["image", "labels", "channels", "case", "notes"]


@dataclass(frozen=True, eq=False)
class ReadFile:
    """A scan, and what its file says beside it.

    Attributes
    ----------
    scan : Scan
    notes : dict
        As of `prosma_core.io.notes.read_notes`.
    warnings : tuple of str
        What is worth knowing of the file, a sentence each.
    """

    scan: Scan
    notes: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


class Decoder:
    """Decoding processes, started when needed and kept for a while; each reads one file at a time.

    Calls wait for their file and may come from several threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._folders: list[Path] = []
        self._idle: list[_Child] = []
        self._all: set[_Child] = set()

    # --- What callers do --------------------------------------------------------------------------------------------

    def read_file(self, path: Path, axes: str | None = None) -> ReadFile:
        """A scan with its file's notes and what is worth knowing of it; errors as in `read_image`."""
        if reader_of(path) in OWN_READERS:
            with warnings_of("prosma_core.io") as said:
                scan = images.read_image(path, axes=axes)
                return ReadFile(scan, notes.read_notes(path), tuple(said))
        reply = self._ask("image", (path,), axes)
        return ReadFile(_scan(reply.scans[0]), reply.notes, reply.warnings)

    def read_labels(self, path: Path) -> Scan:
        """As `prosma_core.io.images.read_labels`."""
        if reader_of(path) in OWN_READERS:
            return images.read_labels(path)
        return _scan(self._ask("labels", (path,)).scans[0])

    def read_channels(self, paths: tuple[Path, ...]) -> Scan:
        """As `prosma_core.io.dataset_folder.read_channels`."""
        if _all_own(paths):
            return dataset_folder.read_channels(paths)
        return _scan(self._ask("channels", paths).scans[0])

    def read_case(self, case: Case) -> tuple[Scan, Scan]:
        """As `prosma_core.io.dataset_folder.read_case`."""
        if _all_own((*case.images, case.label)):
            return dataset_folder.read_case(case)
        image, labels = self._ask("case", (*case.images, case.label)).scans
        return _scan(image), _scan(labels)

    def read_notes(self, path: Path) -> dict[str, Any]:
        """As `prosma_core.io.notes.read_notes`; empty where the file cannot be read."""
        try:
            if reader_of(path) in {*OWN_READERS, "zarr"}:  # of a zarr these are JSON
                return notes.read_notes(path)
            return self._ask("notes", (path,)).notes
        except ProsmaError:
            return {}

    def close(self) -> None:
        """End all processes, also those that read just now, and remove what they shared; the next call starts anew."""
        with self._lock:
            children, self._all, self._idle = self._all, set(), []
            folders, self._folders = self._folders, []
        for child in children:
            child.close()
        arrays.remove_folders(folders)

    @property
    def pids(self) -> list[int]:
        """Process ids of the children that are there."""
        with self._lock:
            return [child.process.pid for child in self._all if child.process.poll() is None]

    # --- Inside -----------------------------------------------------------------------------------------------------

    def _ask(self, what: What, paths: Sequence[Path], axes: str | None = None) -> Decoded:
        ask = DecodeAsk(what=what, paths=tuple(str(path.absolute()) for path in paths), axes=axes)
        seconds = PATIENCE + PER_BYTE * sum(_size(path) for path in paths)
        child, fresh = self._take()
        reply = child.ask(ask, seconds)
        if reply is None and not fresh and child.ended_by_itself():  # it was about to go
            self._drop(child)
            child, _ = self._take(fresh=True)
            reply = child.ask(ask, seconds)
        if reply is None:
            self._drop(child)
            raise child.cause(paths[0], seconds)
        with self._lock:
            if child in self._all and not self._idle:
                self._idle.append(child)
                child = None  # type: ignore[assignment]
        if child is not None:  # one is kept
            self._drop(child, replied=True)
        if isinstance(reply, NotDecoded):
            kind = getattr(errors, reply.error, FileFormatError)
            raise kind(reply.message)
        for text in reply.warnings if what != "image" else ():  # whoever opens an image shows them
            _LOG.warning("%s", text)
        return reply

    def _take(self, *, fresh: bool = False) -> tuple[_Child, bool]:
        """A child that nobody uses, and whether it was just started."""
        with self._lock:
            while self._idle and not fresh:
                child = self._idle.pop()
                if child.process.poll() is None:
                    return child, False
                child.kill()
                self._all.discard(child)
            if not self._folders:
                arrays.sweep()
                self._folders = arrays.private_folders()
            child = _Child(self._folders)
            self._all.add(child)
            return child, True

    def _drop(self, child: _Child, *, replied: bool = False) -> None:
        """End a child, and remove what it left unless a reply names it."""
        child.kill()
        with self._lock:
            self._all.discard(child)
            if not replied:
                arrays.remove_arrays(self._folders, child.process.pid)


class _Child:
    """One decoding process."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._log = folders[-1] / f"{secrets.token_hex(4)}.log"
        self._late = self._closed = False
        command = [sys.executable, "-P", "-m", "prosma_core.engine.decode_server", *map(str, folders)]
        try:
            with self._log.open("wb") as log:
                self.process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    start_new_session=True,  # signals of the viewer's terminal are the viewer's
                    env=child_environment(),
                    creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
                )
        except OSError as error:
            msg = f"The process that decodes files could not start: {error}. Check that {sys.executable!r} can be run."
            raise FileFormatError(msg) from error

    def ask(self, ask: DecodeAsk, seconds: float) -> Decoded | NotDecoded | None:
        """The reply; None where the process ends without one, which it has to after so many seconds."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        alarm = threading.Timer(seconds, self._too_late)
        alarm.daemon = True
        alarm.start()
        try:
            self.process.stdin.write(ask.model_dump_json().encode() + b"\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
            return DECODE_REPLY.validate_json(line) if line.endswith(b"\n") else None
        except (OSError, ValueError):  # a broken pipe, or no message
            return None
        finally:
            alarm.cancel()

    def ended_by_itself(self) -> bool:
        """Whether it ended because nothing was asked for long."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.process.wait(1) == 0
        return False

    def cause(self, path: Path, seconds: float) -> FileFormatError:
        """Why there is no reply, from the exit code."""
        code = self.process.wait()
        name = ""
        if code < 0:
            with contextlib.suppress(ValueError):
                name = signal.Signals(-code).name
        if self._closed:
            return FileFormatError(f"{path} was not read: the program is being closed.")
        if self._late:
            why = f"it was not decoded within {seconds:.0f} s. {_DAMAGED}"
        elif name in _FROM_OUTSIDE:
            why = _FROM_OUTSIDE[name]
        elif name or code > 1 << 16:
            why = f"its decoder crashed. {_DAMAGED}"
        else:
            why = f"its decoder ended with exit code {code}. {_DAMAGED}"
        return FileFormatError(f"{path} cannot be read: {why}")

    def close(self) -> None:
        """End it because nothing is to be read any more."""
        self._closed = True
        self.kill()

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()
        with contextlib.suppress(OSError):
            text = self._log.read_text(errors="replace")
            if text.strip():
                _LOG.info("The log of a decoder ends with: %s", text[-2000:])
            self._log.unlink()

    def _too_late(self) -> None:
        self._late = True
        self.process.kill()


DECODER = Decoder()
"""That of this process."""
atexit.register(DECODER.close)


def _all_own(paths: Sequence[Path]) -> bool:
    return all(reader_of(path) in OWN_READERS for path in paths)


def _scan(found: DecodedScan) -> Scan:
    """The scan of a message; its array is ours from now on."""
    data = arrays.attach(found.array)
    arrays.SharedArray(found.array, data).release()
    spec = found.spec.spec()
    if found.header is not None:
        spec = replace(spec, header=header_from(found.header))
    return Scan(data, spec)


def _size(path: Path) -> int:
    """Bytes of a file, or of the files in a folder and below."""
    try:
        return sum(file.stat().st_size for file in (path.rglob("*") if path.is_dir() else (path,)))
    except OSError:
        return 0
