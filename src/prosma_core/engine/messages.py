"""What crosses between client and child: frozen settings as JSON, one message a line. Arrays cross as references."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import IO, Annotated, Any, Literal, get_args

from pydantic import ConfigDict, Field, PlainSerializer, TypeAdapter

from prosma_core.config.base import Config
from prosma_core.config.inference import InferenceConfig
from prosma_core.config.run import RunConfig
from prosma_core.engine.inspect_messages import InspectRequest, InspectResult, WhatIfRequest, WhatIfResult
from prosma_core.engine.references import ArrayRef, ScanRef, SpecMessage, spec_message
from prosma_core.errors import EngineError
from prosma_core.events import Event

# What others need of these modules they take from here.
__all__ = [
    "ArrayRef",
    "InspectRequest",
    "InspectResult",
    "ScanRef",
    "SpecMessage",
    "WhatIfRequest",
    "WhatIfResult",
    "spec_message",
]

MAX_LINE = 64 << 20
"""Longest message, in bytes."""

_EVENTS: dict[str, type[Any]] = {kind.__name__: kind for kind in get_args(Event)}


class SegmentRequest(Config):
    """Segment one scan."""

    kind: Literal["segment"] = "segment"
    model: str
    """Model file."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda`` or ``mps``."""
    config: InferenceConfig = InferenceConfig()
    """How."""
    scan: ScanRef | None = None
    """What; may be filled in late, but before the request is submitted."""
    preview: bool = True
    """Whether classes appear in the labels while it works."""


class SegmentResult(Config):
    """What is known of a segmentation beside its arrays."""

    kind: Literal["segment"] = "segment"
    voxels: dict[str, int]
    """Voxels of each class but the background, by name."""
    seconds: float
    """From the request to the result."""
    device: str
    """Where it was computed, in words."""


def _as_given(run: RunConfig) -> dict[str, Any]:
    """Values of a run without the defaults: what was not chosen is planned, or taken from the model to start from."""
    return run.model_dump(mode="json", exclude_unset=True)


Run = Annotated[RunConfig, PlainSerializer(_as_given)]
"""A run that crosses with what was chosen, and nothing else."""


class TrainRequest(Config):
    """Train a model, or go on training it."""

    kind: Literal["train"] = "train"
    run: Run
    """What; with `resume`, `out` is enough, and whatever else is given must be the run's or changeable."""
    resume: bool = False
    """Whether to go on from the state in the run folder, instead of starting where there is no run yet."""
    more_epochs: int | None = Field(default=None, ge=1)
    """With `resume`: train for so many epochs beyond those that are finished."""
    preview: ScanRef | None = None
    """Scan to segment after each validation, as by `Preview`."""


class TrainResult(Config):
    """A finished training."""

    kind: Literal["train"] = "train"
    model: str
    """Model file."""
    dice: dict[str, float]
    """Validation Dice of each class but the background, by name."""
    mean_dice: float
    """Their mean."""
    before: dict[str, float] | None = None
    """Of fine-tuning: Dice of the start model on the same cases, of the classes that both have."""
    words: str = ""
    """Of fine-tuning: before and after in words."""
    held_out: str = ""
    """What the validation figures mean, in words; empty where whole cases were held out."""
    seconds: float
    """From the request to the result."""
    device: str
    """Where it was computed, in words."""


class PlanRequest(Config):
    """Read a training set, plan, and time a few steps; nothing is written."""

    kind: Literal["plan"] = "plan"
    run: Run
    """What would be trained."""


class PlanResult(Config):
    """What a training would be."""

    kind: Literal["plan"] = "plan"
    words: str
    """The plan, and what is held out."""
    step_seconds: float
    """One optimizer step, measured."""
    epoch_seconds: float
    """One epoch with its validation."""
    seconds: float
    """The whole run: reading the data, all epochs or minutes, and the last validation."""
    device: str
    """Where, in words."""


Request = SegmentRequest | TrainRequest | PlanRequest | InspectRequest | WhatIfRequest
Result = SegmentResult | TrainResult | PlanResult | InspectResult | WhatIfResult


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


Reply = Ready | Progress | ArrayMade | Done | Failure | Stopped

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
