"""Connections that are left before they are made, and those that fail."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

from prosma_core.cluster import connecting as module
from prosma_core.cluster.connecting import connecting
from prosma_core.cluster.place import Place
from prosma_core.errors import ClusterError
from prosma_core.events import Event, Working, drain

DOING = Working("Connecting")


def job() -> Iterator[Event]:
    with connecting(Place("tcp://h:1"), DOING) as made:
        yield Working(str((yield from made)))


def test_a_connection_that_is_left_before_it_is_made_ends_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    answers, ended = threading.Event(), threading.Event()

    @contextmanager
    def connect(_: Place) -> Iterator[Any]:
        answers.wait(20)
        yield "cluster"
        ended.set()

    monkeypatch.setattr(module, "connect", connect)
    monkeypatch.setattr(module, "LEAVING_S", 0.1)
    with closing(job()) as work:
        assert next(work) == next(work) == DOING
    assert not ended.is_set()
    answers.set()
    assert ended.wait(20)


def test_a_connection_is_ended_with_the_statement_and_an_error_is_that_of_connect(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended = threading.Event()

    @contextmanager
    def connect(place: Place) -> Iterator[Any]:
        if place.workers:
            raise ClusterError("nothing answers")
        yield "cluster"
        ended.set()

    monkeypatch.setattr(module, "connect", connect)
    assert list(job())[-1] == Working("cluster")
    assert ended.is_set()
    with connecting(Place(workers=1), DOING) as made, pytest.raises(ClusterError, match="nothing answers"):
        drain(made, lambda _: None)
