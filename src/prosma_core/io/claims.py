"""Claims: of several processes, on one computer or on several that see a folder, one at a time makes a result."""

from __future__ import annotations

import hashlib
import threading
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prosma_core.errors import OutputError
from prosma_core.io.atomic import Part, cannot_write, lock_of, sweep_one, take

TOUCH_S = 30.0
"""Seconds between two signs of life; a claim of another computer without any for ten times as long is void."""
_TRIES = 20


class ClaimedError(OutputError):
    """Another process makes this result at the moment; `who` says which."""

    def __init__(self, name: str, who: str) -> None:
        super().__init__(f"{name} is being made by {who}. Wait until that has ended, or choose another --out.")
        self.who = who


@contextmanager
def claimed(target: Path) -> Iterator[None]:
    """Claim a result while it is made; the claim of a process that has ended is void.

    The claim is a hidden lock file beside the target. The operating system's lock decides where the file system has
    one, else which process the file names; of a process of another computer, how long ago it gave a sign of life.

    Parameters
    ----------
    target : Path
        File or folder; its parent must be there.

    Raises
    ------
    ClaimedError
        Another process makes it.
    OutputError
        The folder cannot be written.
    """
    _undisturbed.append(True)
    try:
        part = _take(target)
    except BaseException:
        _undisturbed.pop()
        raise
    ended = threading.Event()
    living = threading.Thread(target=_touch, args=(part, ended), daemon=True)
    try:
        _undisturbed.pop()
        living.start()
        yield
    finally:
        ended.set()
        if living.ident is not None:  # it was started: a signal may end the program at that moment
            living.join()
        part.release()


_undisturbed: list[bool] = []
"""Not empty while a claim is made in the main thread: a signal that ended the program then would leave its file."""


@contextmanager
def undisturbed() -> Iterator[None]:
    """Let signals that end the program wait, such as until a claim is where it is given back; see `is_disturbing`."""
    _undisturbed.append(True)
    try:
        yield
    finally:
        _undisturbed.pop()


def is_disturbing() -> bool:
    """Whether a signal that ends the program has to come again a moment later."""
    return bool(_undisturbed)


def _take(target: Path) -> Part:
    token = _token(target)
    lock = lock_of(target, token)
    found: dict[str, Any] = {}
    for _ in range(_TRIES):
        try:
            return take(target, token, TOUCH_S)
        except FileExistsError:
            found = sweep_one(lock, [])
            if lock.exists():
                break
        except OSError as error:
            raise cannot_write(target, error) from error
    who = f"process {found['pid']} on {found['host']}" if {"pid", "host"} <= found.keys() else "another process"
    raise ClaimedError(target.name, who)


def _token(target: Path) -> str:
    """The same for all spellings of a name that some file system takes for one."""
    name = unicodedata.normalize("NFC", target.name).casefold()
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def _touch(part: Part, ended: threading.Event) -> None:
    while not ended.wait(TOUCH_S):
        part.touch()
