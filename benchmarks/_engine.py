"""What the benchmarks of the engine share: an engine that is ready, and jobs that are waited for."""

from __future__ import annotations

import threading
from typing import Any

from prosma_core.engine.client import Engine
from prosma_core.engine.messages import Cancelled, Failed, Finished, Message, Request, Result


def started_engine() -> Engine:
    """An engine whose process is there."""
    ready = threading.Event()
    engine = Engine(on_ready=lambda _: ready.set())
    engine.start()
    if not ready.wait(120):
        raise SystemExit(f"The engine did not start: {engine.log_tail()}")
    return engine


def result_of(engine: Engine, request: Request) -> Any:
    """Result of a job that is waited for."""
    over, ends = threading.Event(), list[Message]()

    def listen(message: Message) -> None:
        if isinstance(message, Finished | Failed | Cancelled):
            ends.append(message)
            over.set()

    engine.submit(request, listen)
    over.wait()
    if not isinstance(ends[0], Finished):
        raise SystemExit(f"The engine did not finish: {ends[0]}")
    result: Result = ends[0].result
    return result
