"""Unpacked parts of arrays, kept for the next read and read ahead in a thread."""

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


class Windows:
    """The latest windows of any number of arrays; from any thread.

    A window is a box of an array and its voxels; an array is known by a number, its owner.

    Parameters
    ----------
    most : int
        Bytes that are kept, of all arrays together.
    """

    def __init__(self, most: int) -> None:
        self._most, self._lock = most, threading.Lock()
        self._kept: OrderedDict[tuple[int, Box], NDArray[Any]] = OrderedDict()
        self._coming: set[int] = set()
        self._gone: deque[int] = deque()
        self._owners = itertools.count()

    def owner(self) -> int:
        """A number for another array."""
        return next(self._owners)

    @property
    def nbytes(self) -> int:
        """Bytes that are kept."""
        return sum(values.nbytes for values in self._kept.values())

    def find(self, owner: int, box: Box) -> NDArray[Any] | None:
        """Voxels of a box where they are kept, not to be written to."""
        with self._lock:
            for (of, window), values in reversed(self._kept.items()):
                if of == owner and all(c <= a and b <= d for (a, b), (c, d) in zip(box, window, strict=True)):
                    self._kept.move_to_end((of, window))
                    return values[tuple(slice(a - c, b - c) for (a, b), (c, _) in zip(box, window, strict=True))]
        return None

    def put(self, owner: int, window: Box, values: NDArray[Any]) -> None:
        """Keep a window; the oldest ones leave."""
        with self._lock:
            self._remove_gone()
            self._kept[owner, window] = values
            while self.nbytes > self._most:
                self._kept.popitem(last=False)

    def read_ahead(self, owner: int, window: Box, read: Callable[[Box], NDArray[Any]]) -> None:
        """Read a window in a thread and keep it, unless it is there, or another of this array is on its way.

        What cannot be read is left to the one who asks for it.
        """
        with self._lock:
            if (owner, window) in self._kept or owner in self._coming:
                return
            self._coming.add(owner)

        def work() -> None:
            try:
                self.put(owner, window, read(window))
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
                del self._kept[key]
