"""What crosses between client and child: frozen settings as JSON, one message a line. Arrays cross as references."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import IO, Annotated, Any, Literal, get_args

from pydantic import ConfigDict, Field, TypeAdapter

from prosma_core.config.base import Config
from prosma_core.engine.references import ArrayRef, ScanRef, SpecMessage, spec_message
from prosma_core.engine.requests import (
    InspectRequest,
    InspectResult,
    PlanRequest,
    PlanResult,
    Request,
    Result,
    SegmentRequest,
    SegmentResult,
    TimesRequest,
    TimesResult,
    TrainRequest,
    TrainResult,
    WhatIfRequest,
    WhatIfResult,
)
from prosma_core.errors import EngineError
from prosma_core.events import Event

# What others need of `references` and `requests` they take from here.
__all__ = [
    "ArrayRef",
    "InspectRequest",
    "InspectResult",
    "PlanRequest",
    "PlanResult",
    "Request",
    "Result",
    "ScanRef",
    "SegmentRequest",
    "SegmentResult",
    "SpecMessage",
    "TimesRequest",
    "TimesResult",
    "TrainRequest",
    "TrainResult",
    "WhatIfRequest",
    "WhatIfResult",
    "spec_message",
]

MAX_LINE = 64 << 20
"""Longest message, in bytes."""

_EVENTS: dict[str, type[Any]] = {kind.__name__: kind for kind in get_args(Event)}


class Ask(Config):
    """Client to child: do this."""

    job: int
    request: Annotated[Request, Field(discriminator="kind")]


class Cancel(Config):
    """Client to child: stop this job at its next step."""

    cancel: int


class Preview(Config):
    """Client to child: the scan to segment after each validation of a training from now on; None for none."""

    preview: int
    """The training's job."""
    scan: ScanRef | None


class Ready(Config):
    """Child to client, once: it is there."""

    kind: Literal["ready"] = "ready"
    version: str
    """Of prosma_core."""
    torch: str
    """Of torch."""
    devices: dict[str, str]
    """Usable devices by name, each with what it is and why, in words; ``auto`` and ``cpu`` are always there."""
    why_not: dict[str, str] = Field(default_factory=dict)
    """The other devices, each with why it cannot be used."""


class Received(Config):
    """Child to client, before anything else of the job: the request has arrived."""

    kind: Literal["received"] = "received"
    job: int


class Progress(Config):
    """Child to client: an event of the job."""

    model_config = ConfigDict(ser_json_inf_nan="constants")  # a loss that is no number must arrive as what it is

    kind: Literal["progress"] = "progress"
    job: int
    name: str
    values: dict[str, Any]

    @classmethod
    def of(cls, job: int, event: Event) -> Progress:
        """Message of an event."""
        return cls(job=job, name=type(event).__name__, values=dataclasses.asdict(event))

    def event(self) -> Event:
        """The event; raises `ValueError` where it is none."""
        if self.name not in _EVENTS:
            msg = f"there is no event {self.name!r}"
            raise ValueError(msg)
        found: Event = TypeAdapter(_EVENTS[self.name]).validate_python(self.values)
        return found


class ArrayMade(Config):
    """Child to client: an array of the result, which is filled from now on."""

    kind: Literal["array"] = "array"
    job: int
    name: str
    array: ArrayRef


class Done(Config):
    """Child to client: the job is finished."""

    kind: Literal["done"] = "done"
    job: int
    result: Annotated[Result, Field(discriminator="kind")]


class Failure(Config):
    """Child to client: the job cannot go on; the child lives on."""

    kind: Literal["failed"] = "failed"
    job: int | None
    """None where the request could not even be read."""
    error: str
    """Class of the error in `prosma_core.errors`, ``internal`` or ``protocol``."""
    message: str
    """For people."""
    details: str = ""
    """Traceback."""


class Stopped(Config):
    """Child to client: the job was cancelled."""

    kind: Literal["stopped"] = "stopped"
    job: int


Reply = Ready | Received | Progress | ArrayMade | Done | Failure | Stopped

REPLY: TypeAdapter[Reply] = TypeAdapter(Annotated[Reply, Field(discriminator="kind")])
"""Reads a line of the child."""
ASK: TypeAdapter[Ask | Cancel | Preview] = TypeAdapter(Ask | Cancel | Preview)
"""Reads a line of the client."""


def encode(message: Config) -> bytes:
    """The line of a message; raises `EngineError` where it is longer than `MAX_LINE`."""
    line = message.model_dump_json().encode() + b"\n"
    if len(line) > MAX_LINE:
        msg = f"A message of {len(line) >> 20} MiB is too long for the engine; at most {MAX_LINE >> 20} are allowed."
        raise EngineError(msg)
    return line


def read_lines(stream: IO[bytes]) -> Iterator[bytes]:
    """Lines of a pipe until it is closed; one longer than `MAX_LINE` is cut off there, so that it cannot be parsed."""
    while line := stream.readline(MAX_LINE):
        end = line
        while not end.endswith(b"\n"):
            end = stream.readline(MAX_LINE)
            if not end:
                return
        yield line
