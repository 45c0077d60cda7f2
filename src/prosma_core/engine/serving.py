"""Serving loop of the engine process: one job at a time; another thread receives cancels and the client's end."""

from __future__ import annotations

import json
import queue
import threading
import time
import traceback
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from prosma_core.engine.arrays import create
from prosma_core.engine.messages import (
    ASK,
    Ask,
    Cancelled,
    Failed,
    Finished,
    LiveLabels,
    PreviewScan,
    Received,
    Reply,
    Said,
    ScanRef,
    TrainRequest,
    WorkersRequest,
    encode,
    read_lines,
)
from prosma_core.errors import DeviceError, EngineError, ProsmaError

if TYPE_CHECKING:
    from prosma_core.engine.handlers import Services
    from prosma_core.engine.messages import Result
    from prosma_core.events import Event
    from prosma_core.training.live import FirstAnswer


class Inbox:
    """What a client says to a running training: a `LiveInput`. Filled on one thread, emptied on another.

    Parameters
    ----------
    watched : callable
        Gives the scan that is to be segmented while a model is trained, as things are now.
    """

    def __init__(self, watched: Callable[[], ScanRef | None]) -> None:
        self.watched, self.asked = watched, time.monotonic()
        self._changing = threading.Lock()
        self._changed: dict[Path, Path] = {}
        self._late: list[Path] = []
        self._wait = False
        self.answer: FirstAnswer | None = None

    @property
    def waits(self) -> bool:
        """Whether the training waits for new labels when its budget is used."""
        return self._wait

    @property
    def pending(self) -> bool:
        """Whether there are new labels."""
        return bool(self._changed)

    @property
    def wants_preview(self) -> bool:
        """Whether anybody looks at what the model does."""
        return self.watched() is not None

    def put(self, message: LiveLabels) -> None:
        """Take what the client says; of two files for the same labels the later one counts."""
        with self._changing:
            self._wait = message.wait
            for label, new in message.changed.items():
                if (before := self._changed.pop(Path(label), None)) is not None:
                    self._late.append(before)
                self._changed[Path(label)] = Path(new)

    def take(self) -> tuple[dict[Path, Path], list[Path]]:
        """Labels that changed, by the file they replace, and files that a later one has replaced already."""
        with self._changing:
            taken, self._changed, late, self._late = self._changed, {}, self._late, []
        return taken, late


class Server:
    """Answers the requests of one client.

    Parameters
    ----------
    replies : binary file
        Where replies go, a line each.
    folders : sequence of Path
        Where result arrays are made.
    orphaned : callable
        Called when the client is gone; does not return.
    """

    def __init__(self, replies: BinaryIO, folders: Sequence[Path], orphaned: Callable[[], None]) -> None:
        self._replies, self._folders, self._orphaned = replies, folders, orphaned
        self._writing, self._claiming = threading.Lock(), threading.Lock()
        self._asked: queue.SimpleQueue[Ask] = queue.SimpleQueue()
        self._waiting: set[int] = set()
        self._cancelled: set[int] = set()
        self._preview: PreviewScan | None = None
        self._inboxes: dict[int, Inbox] = {}

    def listen(self, requests: BinaryIO) -> None:
        """Take requests until the client is gone."""
        for line in read_lines(requests):
            try:
                message = ASK.validate_json(line)
            except ValidationError as error:
                self._send(_not_understood(line, error))
                continue
            if isinstance(message, Ask):
                self._send(Received(job=message.job))
                self._inboxes = {message.job: Inbox(self._watched(message))}  # there is one job at a time
                self._waiting.add(message.job)
                self._asked.put(message)
            elif isinstance(message, PreviewScan):
                self._preview = message
            elif isinstance(message, LiveLabels):
                if message.live in self._inboxes:
                    self._inboxes[message.live].put(message)
            elif self._claim(message.cancel):  # answered here: the other thread may still import torch
                self._send(Said.of(message.cancel, Cancelled()))
            else:
                self._cancelled.add(message.cancel)
        self._orphaned()

    def serve(self) -> None:
        """Load torch, say so, and answer for ever."""
        from prosma_core.engine.handlers import Services, ready

        self._send(ready())
        services = Services()
        while True:
            ask = self._asked.get()
            if self._claim(ask.job):
                answer = self._answer(ask, services)
                services.tidy()
                self._send(Said.of(ask.job, answer))

    def _claim(self, job: int) -> bool:
        """Whether a job still waited; from now on it does not."""
        with self._claiming:
            waited = job in self._waiting
            self._waiting.discard(job)
            return waited

    def _send(self, reply: Reply) -> None:
        try:
            with self._writing:
                self._replies.write(encode(reply))
                self._replies.flush()
        except OSError:
            self._orphaned()

    def _answer(self, ask: Ask, services: Services) -> Finished | Cancelled | Failed:
        """What a job ends with; nothing that it raises ends the process."""
        try:
            return self._work(ask, services)
        except ProsmaError as error:
            return Failed(error, traceback.format_exc())
        except MemoryError:
            words = "Main memory ran out. Close other programs, or crop the scan."
            return Failed(DeviceError(words), traceback.format_exc())
        except Exception as error:  # noqa: BLE001  (whatever it is, the person hears of it and the engine lives on)
            reason = f"{type(error).__name__}: {error}"
            words = f"An unexpected error: {reason}. The log has the details."
            return Failed(EngineError(words), traceback.format_exc())

    def _work(self, ask: Ask, services: Services) -> Finished | Cancelled:
        def allocate(name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
            shared = create(self._folders, shape, dtype)
            self._send(Said.of_array(ask.job, name, shared.ref))
            return shared.array

        inbox = self._inboxes.get(ask.job) or Inbox(self._watched(ask))
        work: Generator[Event, None, Result]
        if isinstance(ask.request, WorkersRequest) or getattr(ask.request, "on", None):
            from prosma_core.engine.on_workers import serve_on_workers  # late: only who asks for it needs it

            work = serve_on_workers(ask.request, allocate)
        else:
            work = services.run(ask.request, allocate, inbox)
        while ask.job not in self._cancelled:
            try:
                event = next(work)
            except StopIteration as stop:
                return Finished(stop.value)
            self._send(Said.of(ask.job, event))
        work.close()
        return Cancelled()

    def _watched(self, ask: Ask) -> Callable[[], ScanRef | None]:
        """What gives the scan that is watched while a job runs."""

        def watched() -> ScanRef | None:
            said, request = self._preview, ask.request
            if said is not None and said.preview == ask.job:
                return said.scan
            return request.preview if isinstance(request, TrainRequest) else None

        return watched


def _not_understood(line: bytes, error: ValidationError) -> Said:
    """Reply to a line that is no request, for its job where the number can be made out."""
    try:
        job = int(json.loads(line)["job"])
    except (ValueError, TypeError, LookupError, RecursionError):
        job = None
    reason = error.errors()[0]["msg"]
    text = f"The request cannot be read: {reason}. Restart napari; if it stays, install the plugin again."
    return Said.of(job, Failed(EngineError(text), str(error)[:2000]))
