"""Unpacked parts of arrays, kept for the next read while their files are unchanged, and read ahead in a thread."""

from __future__ import annotations

import itertools
import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from prosma_core.data.geometry import Box

_LOG = logging.getLogger(__name__)

MOST_WINDOWS = 256
"""Windows that are kept at most, however small: they are looked through one by one."""

Read = Callable[[Box], NDArray[Any]]
StateOf = Callable[[Box], Any]
"""By which a change of what a box is read from is told, as `file_states.chunks_state`; None: not to be kept."""


class Windows:
    """The latest windows of any number of arrays; from any thread.

    A window is a box of an array, its voxels, and the state of what they were read from, without which they are not
    given any more; an array is known by a number, its owner.

    Parameters
    ----------
    most : int
        Bytes that are kept, of all arrays together.

    Attributes
    ----------
    nbytes : int
        Bytes that are kept.
    """

    def __init__(self, most: int) -> None:
        self.nbytes = 0
        self._most, self._lock = most, threading.Lock()
        self._kept: OrderedDict[tuple[int, Box], tuple[NDArray[Any], Any]] = OrderedDict()
        self._coming: set[int] = set()
        self._gone: deque[int] = deque()
        self._owners = itertools.count()

    def owner(self) -> int:
        """A number for another array."""
        return next(self._owners)

    def find(self, owner: int, box: Box, state: StateOf) -> NDArray[Any] | None:
        """Voxels of a box where they are kept and unchanged; read-only."""
        with self._lock:
            window = next((w for of, w in reversed(self._kept) if of == owner and _within(box, w)), None)
            if window is None:
                return None
            self._kept.move_to_end((owner, window))
            values, known = self._kept[owner, window]
        if state(window) == known:
            return values[tuple(slice(a - c, b - c) for (a, b), (c, _) in zip(box, window, strict=True))]
        with self._lock:
            if (owner, window) in self._kept and self._kept[owner, window][0] is values:
                self._remove(owner, window)
        return None

    def take(self, owner: int, window: Box, state: StateOf, read: Read) -> NDArray[Any] | None:
        """Read a window and keep it; the oldest ones leave.

        Returns
        -------
        ndarray, or None
            Its voxels, read-only; None where they are not to be kept: nothing is read then.
        """
        known = state(window)  # before it is read: a change meanwhile is seen by `find`
        if known is None:
            return None
        values = read(window)
        values.flags.writeable = False
        with self._lock:
            self._remove_gone()
            if (owner, window) in self._kept:
                self._remove(owner, window)
            self._kept[owner, window] = values, known
            self.nbytes += values.nbytes
            while self.nbytes > self._most or len(self._kept) > MOST_WINDOWS:
                self._remove(*next(iter(self._kept)))
        return values

    def read_ahead(self, owner: int, window: Box, state: StateOf, read: Read) -> None:
        """`take` a window in a thread, unless it is there, or another of this array is on its way.

        What cannot be read is left to the one who asks for it.
        """
        with self._lock:
            if (owner, window) in self._kept or owner in self._coming:
                return
            self._coming.add(owner)

        def work() -> None:
            try:
                self.take(owner, window, state, read)
            except Exception as error:  # noqa: BLE001  (of any store or codec)
                _LOG.info("A part of an array could not be read ahead: %s", error)
            finally:
                with self._lock:
                    self._coming.discard(owner)

        threading.Thread(target=work, name="prosma-slices", daemon=True).start()

    def forget(self, owner: int) -> None:
        """Keep nothing of an array, at the latest when another window comes; may be called while memory is cleaned up.

        Python may do that in a thread that holds the lock: it is not waited for.
        """
        self._gone.append(owner)
        if self._lock.acquire(blocking=False):
            try:
                self._remove_gone()
            finally:
                self._lock.release()

    def _remove_gone(self) -> None:
        while self._gone:
            owner = self._gone.popleft()
            for key in [key for key in self._kept if key[0] == owner]:
                self._remove(*key)

    def _remove(self, owner: int, window: Box) -> None:
        self.nbytes -= self._kept.pop((owner, window))[0].nbytes


def _within(box: Box, window: Box) -> bool:
    return all(c <= a and b <= d for (a, b), (c, d) in zip(box, window, strict=True))
