"""Events of a job on their way to whoever shows them."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import pytest

from prosma_core.events import Event, StageStarted, TileDone, Working, drain, relay


def job(ended: list[str]) -> Generator[Event, None, str]:
    try:
        yield StageStarted("one")
        yield TileDone(1, 2)
        return "the result"
    finally:
        ended.append("ended")


def twice(event: Event) -> Iterator[Event]:
    if isinstance(event, TileDone):
        yield event
        yield Working("and this")


def test_each_event_becomes_what_stands_for_it_and_the_result_stays() -> None:
    shown: list[Event] = []
    assert drain(relay(job([]), twice), shown.append) == "the result"
    assert shown == [TileDone(1, 2), Working("and this")]


def test_a_job_that_is_left_early_is_closed() -> None:
    ended: list[str] = []
    relayed = relay(job(ended), lambda event: [event])
    next(relayed)
    relayed.close()
    assert ended == ["ended"]


def test_an_error_of_the_change_closes_the_job() -> None:
    def broken(_: Event) -> list[Event]:
        msg = "cannot be changed"
        raise ValueError(msg)

    ended: list[str] = []
    with pytest.raises(ValueError, match="cannot be changed"):
        drain(relay(job(ended), broken), lambda _: None)
    assert ended == ["ended"]
