"""A connection that is made in a thread, so that a job can be stopped meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager

from prosma_core.cluster.connection import POLL_S, Cluster, connect
from prosma_core.cluster.place import Place
from prosma_core.events import Event

LEAVING_S = 2.0
"""Seconds to wait for a connection that was left before it was made; it ends by itself."""


@contextmanager
def connecting(place: Place, doing: Event) -> Iterator[Generator[Event, None, Cluster]]:
    """Connect as `connect` does; the generator yields `doing` until the connection is made, and raises as `connect`."""
    made: Future[Cluster] = Future()
    over = threading.Event()

    def hold() -> None:
        try:
            with connect(place) as cluster:
                made.set_result(cluster)
                over.wait()
        except BaseException as error:
            if made.done():
                raise
            made.set_exception(error)

    thread = threading.Thread(target=hold, name="prosma-workers", daemon=True)
    thread.start()
    try:
        yield _wait(made, doing)
    finally:
        over.set()
        thread.join(None if made.done() else LEAVING_S)


def _wait(made: Future[Cluster], doing: Event) -> Generator[Event, None, Cluster]:
    while not made.done():
        yield doing
        wait([made], POLL_S)
    return made.result()
