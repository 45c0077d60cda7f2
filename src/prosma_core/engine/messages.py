"""What crosses between client and child: frozen settings as JSON, one message a line. Arrays cross as references."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import IO, Annotated, Any, Literal, Self, get_args

import numpy as np
from pydantic import ConfigDict, Field, TypeAdapter, field_validator, model_validator

from prosma_core.config.base import Config
from prosma_core.config.inference import InferenceConfig
from prosma_core.data.geometry import ImageSpec, World
from prosma_core.errors import EngineError
from prosma_core.events import Event

MAX_LINE = 64 << 20
"""Longest message, in bytes."""

_EVENTS: dict[str, type[Any]] = {kind.__name__: kind for kind in get_args(Event)}


class ArrayRef(Config):
    """An array in a file that both sides map into memory."""

    path: str
    """The file."""
    shape: tuple[Annotated[int, Field(ge=1)], ...]
    """Its shape."""
    dtype: str
    """Its dtype as numpy writes it, such as ``<f4``."""

    @field_validator("dtype")
    @classmethod
    def _numbers(cls, dtype: str) -> str:
        try:
            kind = np.dtype(dtype).kind
        except TypeError as error:
            raise ValueError(str(error)) from error
        if kind not in "buif":
            msg = f"numbers or bool are needed, not {dtype}"
            raise ValueError(msg)
        return dtype


class SpecMessage(Config):
    """An `ImageSpec` without its header, which does not cross."""

    axes: str
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    unit: str
    affine: tuple[tuple[float, ...], ...]
    world: World
    channel_names: tuple[str, ...]
    format: str

    def spec(self) -> ImageSpec:
        """The geometry; raises `GeometryError` where it is none."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return ImageSpec(**{**values, "affine": np.array(self.affine, np.float64)})


def spec_message(spec: ImageSpec) -> SpecMessage:
    """Message of a geometry."""
    values = {name: getattr(spec, name) for name in SpecMessage.model_fields}
    return SpecMessage(**{**values, "affine": tuple(map(tuple, spec.affine.tolist()))})


class ScanRef(Config):
    """A scan: an array with its geometry, or a file that the child opens itself."""

    array: ArrayRef | None = None
    """Voxels in canonical axis order, from `Engine.allocate`."""
    file: str | None = None
    """A scan file, or a zarr folder."""
    axes: str | None = None
    """How the file's axes are read, as for `prosma_core.io.images.read_image`."""
    spec: SpecMessage | None = None
    """Geometry of the array; with a file, it replaces the file's own."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.array is None) == (self.file is None) or (self.array is not None and self.spec is None):
            msg = "a scan is either an array with its geometry or a file"
            raise ValueError(msg)
        return self


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

    voxels: dict[str, int]
    """Voxels of each class but the background, by name."""
    seconds: float
    """From the request to the result."""
    device: str
    """Where it was computed, in words."""


class Ask(Config):
    """Client to child: do this."""

    job: int
    request: SegmentRequest


class Cancel(Config):
    """Client to child: stop this job at its next step."""

    cancel: int


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
    result: SegmentResult


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
ASK: TypeAdapter[Ask | Cancel] = TypeAdapter(Ask | Cancel)
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
