"""napari's cache of dask blocks, kept small while a job needs the memory. No Qt."""

from __future__ import annotations

import logging

from napari.utils import resize_dask_cache

from prosma_core.io.hardware import give_back_memory

_LOG = logging.getLogger(__name__)

MOST = 256 << 20
"""Bytes of the cache while a job works on a dask layer that is larger than memory."""


class SmallCache:
    """napari's cache of dask blocks with at most `MOST` bytes, until it is given back; a smaller one stays.

    So does one that this napari has in another form: a job does not fail for it.
    """

    def __init__(self) -> None:
        self._before = 0
        try:
            cache = resize_dask_cache().cache
            lost = cache.total_bytes - sum(cache.nbytes.values())  # counted twice: to shrink below it would never end
            before = cache.available_bytes
            if before > MOST and lost < MOST:
                resize_dask_cache(MOST)
                self._before = before
                give_back_memory()
        except Exception as error:  # noqa: BLE001  (of another napari or cachey)
            _LOG.info("napari's cache of dask blocks keeps its size: %s", error)

    @property
    def shrunk(self) -> bool:
        """Whether the cache was larger."""
        return self._before > 0

    def give_back(self) -> None:
        """Let the cache be as large as before, unless its size was changed in the meantime."""
        before, self._before = self._before, 0
        try:
            if before and resize_dask_cache().cache.available_bytes == MOST:
                resize_dask_cache(before)
        except Exception as error:  # noqa: BLE001  (as above)
            _LOG.info("napari's cache of dask blocks stays small: %s", error)
