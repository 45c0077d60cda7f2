"""Messages between client and child processes (engine and decoder): JSON, one a line; arrays cross as references.

The events, `ArrayReady`, and last `Finished`, `Failed` or `Cancelled` are the messages of a job: the same in the
child, on the wire and to a listener.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Annotated, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, PlainSerializer, PlainValidator, TypeAdapter

from prosma_core import errors
from prosma_core.config.base import Config
from prosma_core.engine.arrays import SharedArray, attach
from prosma_core.engine.requests import (
    ArrayRef,
    InspectRequest,
    InspectResult,
    PlanRequest,
    PlanResult,
    Request,
    Result,
    ScanRef,
    SegmentRequest,
    SegmentResult,
    SlicesRef,
    SpecMessage,
    SuggestRequest,
    SuggestResult,
    TimesRequest,
    TimesResult,
    TrainRequest,
    TrainResult,
    WhatIfRequest,
    WhatIfResult,
    WorkersRequest,
    WorkersResult,
    spec_message,
)
from prosma_core.errors import EngineError, ProsmaError
from prosma_core.events import Event

# Requests and results, which others import from here.
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
    "SlicesRef",
    "SpecMessage",
    "SuggestRequest",
    "SuggestResult",
    "TimesRequest",
    "TimesResult",
    "TrainRequest",
    "TrainResult",
    "WhatIfRequest",
    "WhatIfResult",
    "WorkersRequest",
    "WorkersResult",
    "spec_message",
]

MAX_LINE = 64 << 20
"""Longest message, in bytes."""


class Ask(Config):
    """Client to child: a request, and the number of its job."""

    job: int
    request: Annotated[Request, Field(discriminator="kind")]


class Cancel(Config):
    """Client to child: cancel this job at its next step."""

    cancel: int


class PreviewScan(Config):
    """Client to child: the scan to segment after each validation of a training from now on; None for none."""

    preview: int
    """The training's job."""
    scan: ScanRef | None


class LiveLabels(Config):
    """Client to child: labels of a training that changed while it runs, and whether it waits for more at its end."""

    live: int
    """The training's job."""
    changed: dict[str, str] = Field(default_factory=dict)
    """By the label file of the run, the file that takes its place; the child removes it."""
    wait: bool
    """Whether the training waits for new labels when its budget is used, instead of ending."""


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
    gpus: int = 0
    """GPUs that a training can be divided among."""


class Received(Config):
    """Child to client, before anything else of the job: the request has arrived."""

    kind: Literal["received"] = "received"
    job: int


# --- What a job says: the same on both sides, and to whoever listens --------------------------------------------------


def _attached(given: Any) -> NDArray[Any]:
    """The array of a reference; its file is removed once it is mapped."""
    shared = SharedArray(ref := ArrayRef.model_validate(given), attach(ref))
    shared.release()
    return shared.array


class ErrorText(Config):
    """An error in a message: the name of its class in `prosma_core.errors`, and its lines."""

    kind: str
    lines: tuple[str, ...]


def _error(given: Any) -> ProsmaError:
    """The error of a message: of its class, where that is one of `prosma_core.errors`."""
    text = ErrorText.model_validate(given)
    kind = getattr(errors, text.kind, None)
    kind = kind if isinstance(kind, type) and issubclass(kind, ProsmaError) else EngineError
    return kind(*text.lines)


@dataclass(frozen=True, eq=False)
class ArrayReady:
    """An array of the result, by its name: zeros at first, filled while the job runs; it outlives the child.

    That of a training is named ``preview``: the classes of the scan that is watched, new ones at each `PreviewDone`.
    """

    name: str
    array: Annotated[NDArray[Any], PlainValidator(_attached)]


@dataclass(frozen=True)
class Finished:
    """The job is done; its arrays are filled."""

    result: Annotated[Result, Field(discriminator="kind")]


@dataclass(frozen=True)
class Failed:
    """The job failed, and the engine lives on; `details` holds the traceback and the end of the engine's log."""

    error: Annotated[
        ProsmaError,
        PlainValidator(_error),
        PlainSerializer(lambda error: ErrorText(kind=type(error).__name__, lines=error.args)),
    ]
    details: str = ""


@dataclass(frozen=True)
class Cancelled:
    """The job was canceled."""


Message = Event | ArrayReady | Finished | Failed | Cancelled
Listener = Callable[[Message], None]

_KINDS: dict[str, TypeAdapter[Any]] = {kind.__name__: TypeAdapter(kind) for kind in get_args(Message)}


def is_last(message: Message) -> bool:
    """Whether a message ends its job."""
    return isinstance(message, Finished | Failed | Cancelled)


class Said(Config):
    """Child to client: a message of a job, by the name of its class."""

    model_config = ConfigDict(ser_json_inf_nan="constants")  # a loss that is no number must arrive as what it is

    kind: Literal["said"] = "said"
    job: int | None
    """None where the request could not even be read."""
    name: str
    values: dict[str, Any]

    @classmethod
    def of(cls, job: int | None, message: Message) -> Said:
        """Wrap a message."""
        name = type(message).__name__
        return cls(job=job, name=name, values=_KINDS[name].dump_python(message))

    @classmethod
    def of_array(cls, job: int, name: str, array: ArrayRef) -> Said:
        """Wrap an `ArrayReady`: the voxels stay where both sides map them."""
        return cls(job=job, name=ArrayReady.__name__, values={"name": name, "array": array})

    def message(self) -> Message:
        """Unwrap the message.

        Raises
        ------
        EngineError
            Its array cannot be opened.
        ValueError
            There is no such message.
        """
        if self.name not in _KINDS:
            msg = f"there is no message {self.name!r}"
            raise ValueError(msg)
        found: Message = _KINDS[self.name].validate_python(self.values)
        return found


Reply = Ready | Received | Said

REPLY: TypeAdapter[Reply] = TypeAdapter(Annotated[Reply, Field(discriminator="kind")])
"""Reads a line of the child."""
ASK: TypeAdapter[Ask | Cancel | PreviewScan | LiveLabels] = TypeAdapter(Ask | Cancel | PreviewScan | LiveLabels)
"""Reads a line of the client."""


def encode(message: Config) -> bytes:
    """The line of a message; raises `EngineError` where it is longer than `MAX_LINE`."""
    line = message.model_dump_json().encode() + b"\n"
    if len(line) > MAX_LINE:
        msg = f"A message of {len(line) >> 20} MiB is too long for one request; at most {MAX_LINE >> 20} are allowed."
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


_HEADERS = "prosma_core.io."
"""Headers are classes of these modules; those of libraries stay behind."""


class DecodeAsk(Config):
    """Viewer to child: files to read."""

    what: Literal["image", "labels", "channels", "case", "notes"]
    """As `read_image`, `read_labels`, `read_channels`, `read_case` (the label file last) and `read_notes`."""
    paths: tuple[str, ...] = Field(min_length=1)
    """Files or folders."""
    axes: str | None = None
    """Of ``image``: as of `read_image`."""


class DecodedScan(Config):
    """A scan that was read."""

    array: ArrayRef
    spec: SpecMessage
    header: dict[str, Any] | None = None
    """What `header_message` made of the header; None where that stays behind."""


class Decoded(Config):
    """Child to viewer: what was read."""

    kind: Literal["decoded"] = "decoded"
    scans: tuple[DecodedScan, ...] = ()
    notes: dict[str, Any] = Field(default_factory=dict)
    """Of ``notes``, and of ``image`` those of the file."""
    warnings: tuple[str, ...] = ()
    """What is worth knowing of the file."""


class NotDecoded(Config):
    """Child to viewer: the file cannot be read."""

    kind: Literal["failed"] = "failed"
    error: str
    """Class of the error in `prosma_core.errors`."""
    message: str
    """For people."""


DECODE_ASK: TypeAdapter[DecodeAsk] = TypeAdapter(DecodeAsk)
"""Reads a line of the viewer."""
DECODE_REPLY: TypeAdapter[Decoded | NotDecoded] = TypeAdapter(
    Annotated[Decoded | NotDecoded, Field(discriminator="kind")]
)
"""Reads a line of the child."""


def header_message(header: object) -> dict[str, Any] | None:
    """Header of a scan as plain values, where it is a dataclass of our own of such; else None."""
    try:
        values = _plain(header)
    except TypeError:
        return None
    return values if isinstance(values, dict) and "class" in values else None


def header_from(message: Any) -> Any:
    """The header that `header_message` made plain values of.

    Raises
    ------
    TypeError
        The message names no header of ours.
    """
    if isinstance(message, list):
        return tuple(header_from(value) for value in message)
    if not isinstance(message, dict):
        return message
    if "array" in message:
        return np.array(message["array"], message["dtype"])
    if "entries" in message:
        return {key: header_from(value) for key, value in message["entries"]}
    module, _, name = str(message.get("class")).rpartition(".")
    if not module.startswith(_HEADERS):
        msg = f"{message.get('class')!r} is no header"
        raise TypeError(msg)
    kind = getattr(importlib.import_module(module), name, None)
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        msg = f"{message.get('class')!r} is no header"
        raise TypeError(msg)
    return kind(**{key: header_from(value) for key, value in message["values"].items()})


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if isinstance(value, np.ndarray) and value.dtype.kind in "buif":
        return {"array": value.tolist(), "dtype": value.dtype.str}
    if isinstance(value, dict):
        return {"entries": [[_plain(key), _plain(each)] for key, each in value.items()]}
    kind = type(value)
    if dataclasses.is_dataclass(kind) and kind.__module__.startswith(_HEADERS):
        values = {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(kind)}
        return {"class": f"{kind.__module__}.{kind.__qualname__}", "values": values}
    msg = f"{kind} stays behind"
    raise TypeError(msg)
