"""Windows of arrays that are kept for the next read, as long as what they were read from is unchanged."""

from __future__ import annotations

from typing import Any

import numpy as np

from prosma_core.data.geometry import Box
from prosma_core.io.read_ahead import MOST_WINDOWS, Windows


def same(_: Box) -> Any:
    return "same"


def put(windows: Windows, owner: int, start: int, nbytes: int = 100) -> None:
    windows.take(owner, ((start, start + 10),), same, lambda _: np.full(nbytes, start % 256, np.uint8))


def test_the_oldest_windows_leave_and_a_found_one_is_young_again() -> None:
    windows, owner = Windows(200), 1
    put(windows, owner, 0)
    put(windows, owner, 10)
    assert windows.find(owner, ((3, 5),), same) is not None
    put(windows, owner, 20)
    assert windows.find(owner, ((3, 5),), same) is not None
    assert windows.find(owner, ((12, 13),), same) is None
    assert windows.find(2, ((3, 5),), same) is None
    assert windows.nbytes == 200


def test_an_array_that_ends_while_the_windows_are_in_use_is_forgotten_later() -> None:
    windows = Windows(1000)
    put(windows, 1, 0)
    with windows._lock:
        windows.forget(1)  # as Python does while it cleans up memory in this thread
    assert windows.nbytes == 100
    put(windows, 2, 0, 50)
    assert windows.nbytes == 50
    windows.forget(2)
    assert windows.nbytes == 0


def test_a_window_of_another_state_leaves_and_without_a_state_none_is_kept() -> None:
    windows, box = Windows(1000), ((3, 5),)
    put(windows, 1, 0)
    found = windows.find(1, box, same)
    assert found is not None
    assert not found.flags.writeable
    assert windows.find(1, box, lambda window: "changed" if window == ((0, 10),) else "same") is None
    assert windows.nbytes == 0
    assert windows.take(1, ((0, 10),), lambda _: None, lambda _: np.zeros(10)) is None
    put(windows, 1, 0)
    assert windows.find(1, box, lambda _: None) is None
    assert windows.nbytes == 0


def test_a_change_while_a_window_is_read_is_seen() -> None:
    windows, state = Windows(1000), ["before"]

    def read(_: Box) -> Any:
        values = np.zeros(10, np.uint8)
        state[0] = "after"
        return values

    assert windows.take(1, ((0, 10),), lambda _: state[0], read) is not None
    assert windows.find(1, ((0, 10),), lambda _: state[0]) is None


def test_of_small_windows_a_number_is_kept_and_one_that_is_read_again_counts_once() -> None:
    windows = Windows(1 << 20)
    for i in range(2 * MOST_WINDOWS):
        put(windows, 1, 10 * i, 1)
        put(windows, 1, 10 * i, 1)
    assert windows.nbytes == MOST_WINDOWS
