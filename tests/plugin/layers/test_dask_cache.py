"""napari's cache of dask blocks is small while a job works on a large dask layer, and as before afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from napari.utils import resize_dask_cache

from napari_prosma.layers import dask_cache
from napari_prosma.layers.dask_cache import MOST, SmallCache


@pytest.fixture
def cache() -> Iterator[Any]:
    """Return napari's cache, of 1 GiB."""
    found = resize_dask_cache().cache
    before = found.available_bytes
    resize_dask_cache(1 << 30)
    yield found
    found.clear()
    resize_dask_cache(before)


def test_blocks_leave_the_cache_and_its_size_comes_back(cache: Any) -> None:
    for i in range(40):
        cache.put(f"block {i}", np.zeros(10 << 20, np.uint8), cost=1.0 + i)
    small = SmallCache()
    assert small.shrunk
    assert 200 << 20 < cache.total_bytes <= cache.available_bytes == MOST
    small.give_back()
    assert cache.available_bytes == 1 << 30
    small.give_back()
    assert cache.available_bytes == 1 << 30


@pytest.mark.parametrize("size", [0, 100 << 20])
def test_a_cache_that_is_smaller_stays(cache: Any, size: int) -> None:
    resize_dask_cache(size)
    small = SmallCache()
    assert not small.shrunk
    small.give_back()
    assert cache.available_bytes == size


def test_a_size_that_is_chosen_meanwhile_stays(cache: Any) -> None:
    small = SmallCache()
    resize_dask_cache(3 << 30)
    small.give_back()
    assert cache.available_bytes == 3 << 30


def test_a_cache_whose_sum_is_wrong_is_left_alone(cache: Any) -> None:
    cache.total_bytes += MOST  # napari's own shrinking would not come to an end
    small = SmallCache()
    cache.total_bytes -= MOST
    assert not small.shrunk


class Foreign:
    """The cache of a napari of which not all is as known."""

    def __init__(self, **known: Any) -> None:
        vars(self).update(known)


@pytest.mark.parametrize(
    "foreign",
    [
        Foreign(),
        Foreign(cache=None),
        Foreign(cache=Foreign(total_bytes=0, nbytes={})),
        Foreign(cache=Foreign(total_bytes=0, nbytes=[], available_bytes=1 << 40)),
    ],
)
def test_a_cache_that_is_unknown_is_left_alone(foreign: Foreign, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_cache, "resize_dask_cache", lambda: foreign)
    small = SmallCache()
    assert not small.shrunk
    small.give_back()


def test_a_cache_that_cannot_be_given_back_is_no_failure(cache: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    small = SmallCache()
    assert small.shrunk
    monkeypatch.setattr(dask_cache, "resize_dask_cache", lambda: Foreign())
    small.give_back()
    assert not small.shrunk
