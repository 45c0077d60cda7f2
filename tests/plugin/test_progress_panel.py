"""Words for the time left."""

from __future__ import annotations

import time

import pytest

from napari_prosma._shared.progress_panel import TimeLeft, clock


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 s"), (40.4, "40 s"), (59, "59 s"), (60, "1 min"), (3599, "1 h 0 min"), (7500, "2 h 5 min")],
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert clock(seconds) == words


def test_time_left_follows_the_pace_since_the_first_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    left = TimeLeft()
    assert left.text(1, 11) == ""
    now[0] += 8
    assert left.text(5, 11) == "about 12 s left"
    now[0] += 12
    assert left.text(11, 11) == ""
