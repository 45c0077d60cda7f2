"""napari's cache of dask blocks, kept small while a job needs the memory. No Qt."""

from __future__ import annotations

from napari.utils import resize_dask_cache

from prosma_core.io.hardware import give_back_memory

MOST = 256 << 20
"""Bytes of the cache while a job works on a dask layer that is larger than memory."""


class SmallCache:
    """napari's cache of dask blocks with at most `MOST` bytes, until it is given back; a smaller one stays."""

    def __init__(self) -> None:
        self._before = 0
        cache = resize_dask_cache().cache
        lost = cache.total_bytes - sum(cache.nbytes.values())  # counted twice: to shrink below it would never end
        if cache.available_bytes > MOST and lost < MOST:
            self._before = cache.available_bytes
            resize_dask_cache(MOST)
            give_back_memory()

    @property
    def shrunk(self) -> bool:
        """Whether the cache was larger."""
        return self._before > 0

    def give_back(self) -> None:
        """Let the cache be as large as before, unless its size was changed in the meantime."""
        before, self._before = self._before, 0
        if before and resize_dask_cache().cache.available_bytes == MOST:
            resize_dask_cache(before)
