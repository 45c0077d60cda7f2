"""What crosses between client and child: frozen settings as JSON, one message a line. Arrays cross as references."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal, Self, get_args

import numpy as np
from pydantic import Field, TypeAdapter, model_validator

from prosma_core.config.base import Config
from prosma_core.config.inference import InferenceConfig
from prosma_core.data.geometry import ImageSpec, World
from prosma_core.events import Event

MAX_LINE = 64 << 20
"""Longest message, in bytes."""

_EVENTS: dict[str, type[Any]] = {kind.__name__: kind for kind in get_args(Event)}


class ArrayRef(Config):
    """An array in a file that both sides map."""

    path: str
    """The file."""
    shape: tuple[Annotated[int, Field(ge=1)], ...]
    """Its shape."""
    dtype: str
    """Its dtype, such as ``<f4``."""


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
    """Voxels in canonical axis order."""
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
    """What; filled in when the scan has been handed over."""
    preview: bool = True
    """Whether labels appear in the result array while it works."""


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


class Progress(Config):
    """Child to client: an event of the job."""

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
    job: int
    error: str
    """Class of the error."""
    message: str
    """For people."""
    details: str = ""
    """Traceback."""


class Stopped(Config):
    """Child to client: the job was cancelled."""

    kind: Literal["stopped"] = "stopped"
    job: int


Reply = Annotated[Ready | Progress | ArrayMade | Done | Failure | Stopped, Field(discriminator="kind")]

REPLY: TypeAdapter[Ready | Progress | ArrayMade | Done | Failure | Stopped] = TypeAdapter(Reply)
"""Reads a line of the child."""
ASK: TypeAdapter[Ask | Cancel] = TypeAdapter(Ask | Cancel)
"""Reads a line of the client."""
