"""Windows of arrays that are kept for the next read."""

from __future__ import annotations

import numpy as np

from prosma_core.io.read_ahead import Windows


def test_the_oldest_windows_leave_and_a_found_one_is_young_again() -> None:
    windows, owner = Windows(200), 1
    for start in (0, 10):
        windows.put(owner, ((start, start + 10),), np.full(100, start, np.uint8))
    assert windows.find(owner, ((3, 5),)) is not None
    windows.put(owner, ((20, 30),), np.zeros(100, np.uint8))
    assert windows.find(owner, ((3, 5),)) is not None
    assert windows.find(owner, ((12, 13),)) is None
    assert windows.find(2, ((3, 5),)) is None
    assert windows.nbytes == 200


def test_an_array_that_ends_while_the_windows_are_in_use_is_forgotten_later() -> None:
    windows = Windows(1000)
    windows.put(1, ((0, 1),), np.zeros(100, np.uint8))
    with windows._lock:
        windows.forget(1)  # as Python does while it cleans up memory in this thread
    assert windows.nbytes == 100
    windows.put(2, ((0, 1),), np.zeros(50, np.uint8))
    assert windows.nbytes == 50
    windows.forget(2)
    assert windows.nbytes == 0
