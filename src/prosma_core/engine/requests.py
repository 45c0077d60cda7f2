"""Requests and results of the engine, one pair for each kind of job; scans and arrays in them are references."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, PlainSerializer, PlainValidator, field_validator, model_validator

from prosma_core.config.base import Config
from prosma_core.config.inference import InferenceConfig
from prosma_core.config.inspection import InspectConfig, Inspection, Variant, VariantResult
from prosma_core.config.training import RunConfig, mark_chosen
from prosma_core.data.geometry import ImageSpec, World


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
    select: dict[str, Annotated[int, Field(ge=0)]] = Field(default_factory=dict)
    """Index along axes of the file that the scan does not have, by letter."""
    dtype: str = ""
    """What the file's voxels must be, as numpy writes it; empty: any."""
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
    on: str = ""
    """Dask workers that compute it, as of `parse_place`; empty: this process does."""
    store: str = ""
    """Zarr folder for the label map of a scan file too large to be read whole, which `ResultStored` then tells of; more
    results lie beside it. Empty: all results are arrays."""


class SegmentResult(Config):
    """What is known of a segmentation beside its arrays."""

    kind: Literal["segment"] = "segment"
    voxels: dict[str, int]
    """Voxels of each class but the background, by name."""
    seconds: float
    """From the request to the result."""
    device: str
    """Where it was computed, in words."""


def _on_the_wire(run: RunConfig) -> dict[str, Any]:
    """All values of a run, and those that were chosen; the others are planned, or those of the model to start from."""
    return {"all": run.model_dump(mode="json"), "chosen": run.model_dump(mode="json", exclude_unset=True)}


def _from_the_wire(values: Any) -> RunConfig:
    """A run, with what counts as chosen."""
    if isinstance(values, RunConfig):
        return values
    return mark_chosen(RunConfig.model_validate(values["all"]), RunConfig.model_validate(values["chosen"]))


Run = Annotated[RunConfig, PlainSerializer(_on_the_wire), PlainValidator(_from_the_wire)]
"""A run that crosses the pipe."""


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
    """Scan to segment after each validation, as by `PreviewScan`."""
    processes: int = Field(default=1, ge=1, le=64)
    """So many processes divide each batch, each on a GPU of its own; on the CPU they share it. Several learn no labels
    that change meanwhile."""


class TrainResult(Config):
    """A finished training."""

    kind: Literal["train"] = "train"
    model: str
    """Model file."""
    dice: dict[str, float]
    """Validation Dice of each class but the background, by name; of those that are in a validation case."""
    mean_dice: float | None
    """Their mean; None where there are none."""
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
    """Plan and runtime estimate of a training."""

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


class TimesRequest(Config):
    """Say how long trainings are expected to take; nothing is read but the grids named here."""

    kind: Literal["times"] = "times"
    runs: dict[str, Run] = Field(min_length=1)
    """By name; all on one device."""
    scans: tuple[SpecMessage, ...] = Field(min_length=1)
    """Grids of the images."""
    num_classes: int = Field(ge=2)
    """Background included."""


class TimesResult(Config):
    """Runtime estimates of trainings."""

    kind: Literal["times"] = "times"
    seconds: dict[str, float]
    """Of each run."""


class InspectRequest(Config):
    """Inspect the gates on a scan; the arrays of the result are named as its maps."""

    kind: Literal["inspect"] = "inspect"
    model: str
    """Model file."""
    device: str = "auto"
    """As of `SegmentRequest`."""
    config: InspectConfig = InspectConfig()
    """At what."""
    scan: ScanRef | None = None
    """As of `SegmentRequest`."""
    on: str = ""
    """As of `SegmentRequest`."""


class InspectResult(Config):
    """Result of an inspection, apart from the maps."""

    kind: Literal["inspect"] = "inspect"
    inspection: Inspection
    words: str
    """What is worth knowing, such as that a plain U-Net has no gates."""
    seconds: float
    """From the request to the result."""
    device: str
    """Where it was computed, in words."""


class WhatIfRequest(Config):
    """Segment a scan with changed gates, and compare with the unchanged result.

    The arrays of the first variant are named ``labels`` (class values on the scan's grid) and ``changes`` (uint8: 0
    the same, 1 background before, 2 background now, 3 another class).
    """

    kind: Literal["whatif"] = "whatif"
    model: str
    """Model file."""
    device: str = "auto"
    """As of `SegmentRequest`."""
    variants: tuple[Variant, ...] = Field(min_length=1, max_length=64)
    """Each is compared with the unchanged gates."""
    config: InspectConfig = InspectConfig()
    """Its overlap, region and slice axis."""
    scan: ScanRef | None = None
    """As of `SegmentRequest`."""
    truth: ScanRef | None = None
    """Labels on the scan's grid, of the model's class values."""
    key: str = ""
    """Names the scan as it is now: while it, the model and the config stay, the unchanged result is kept."""
    arrays: bool = True
    """Whether the arrays are wanted, or the numbers only."""


class WhatIfResult(Config):
    """The comparisons, in the order of the variants."""

    kind: Literal["whatif"] = "whatif"
    variants: tuple[VariantResult, ...]
    seconds: float
    """From the request to the result."""
    device: str
    """Where it was computed, in words."""


class SlicesRef(Config):
    """A scan, and which of its slices are annotated."""

    name: str
    """For messages."""
    scan: ScanRef
    axis: Literal["", "z", "y", "x"] | None
    """Letter of the slices' axis; empty for a picture, which is one slice; None: the usual one, not yet known."""
    annotated: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Numbers of annotated slices, counted time point by time point."""


class SuggestRequest(Config):
    """Rank the slices of some scans that are not annotated: which one to annotate next."""

    kind: Literal["suggest"] = "suggest"
    model: str
    """Model file."""
    device: str = "auto"
    """As of `SegmentRequest`."""
    scans: tuple[SlicesRef, ...] = Field(min_length=1)
    """What; those that the model cannot segment are left out as long as there is another."""
    seed: int = Field(default=0, ge=0)
    """Of the noise in the ranking."""


class SuggestResult(Config):
    """The ranking of the slices."""

    kind: Literal["suggest"] = "suggest"
    ranked: tuple[tuple[int, int], ...]
    """Number of a scan and of its slice, what to annotate first at the top; the first hundred."""
    of: str
    """Name of the class whose entropy ranks them; empty where that of all classes does."""
    seconds: float
    """From the request to the result."""
    device: str
    """Where it was computed, in words."""


class WorkersRequest(Config):
    """Look at Dask workers: whether they answer, have the same versions, see the same files and load a model."""

    kind: Literal["workers"] = "workers"
    on: str
    """As of `SegmentRequest`."""
    model: str
    """Model file."""
    device: str = "auto"
    """Of the workers, as of `SegmentRequest`."""
    folder: str = ""
    """Where the result of the scan would lie; empty where it is sent back."""
    file: str = ""
    """The scan's file; empty where it is in none."""
    copies: str = ""
    """Folder where a copy of the scan would lie that is in no file."""
    size: int = 0
    """Bytes of the scan; 0 where none is chosen."""


class WorkersResult(Config):
    """What was found."""

    kind: Literal["workers"] = "workers"
    words: str
    """In a sentence."""


Request = (
    SegmentRequest
    | TrainRequest
    | PlanRequest
    | TimesRequest
    | InspectRequest
    | WhatIfRequest
    | SuggestRequest
    | WorkersRequest
)
Result = (
    SegmentResult
    | TrainResult
    | PlanResult
    | TimesResult
    | InspectResult
    | WhatIfResult
    | SuggestResult
    | WorkersResult
)
