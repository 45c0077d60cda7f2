"""What readers warn of while a file is read, collected to be shown."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class _Collector(logging.Handler):
    def __init__(self, found: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._found, self._thread = found, threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a warning of the thread that reads."""
        if record.thread == self._thread:
            self._found.append(record.getMessage())


@contextmanager
def warnings_of(logger: str) -> Iterator[list[str]]:
    """The warnings that this logger and those below it give in this thread meanwhile, in a list that fills."""
    found: list[str] = []
    handler, log = _Collector(found), logging.getLogger(logger)
    log.addHandler(handler)
    try:
        yield found
    finally:
        log.removeHandler(handler)
