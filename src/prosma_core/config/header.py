"""Header of a model file, and the provenance of a result."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

import prosma_core
from prosma_core.config.base import Config
from prosma_core.config.model import ClassInfo, ModelConfig
from prosma_core.config.preprocess import PreprocessConfig

SCHEMA_VERSION = 1
"""Raised when an older program could misread a newer file."""


class ModelHeader(Config):
    """Everything a model file holds beside its weights."""

    schema_version: int = Field(default=SCHEMA_VERSION, ge=1, le=SCHEMA_VERSION)
    """Version of this layout."""
    name: str = Field(min_length=1, max_length=200)
    """Name people choose it by."""
    description: str = Field(default="", max_length=10_000)
    """One sentence on what it segments."""
    licence: str = Field(default="", max_length=1000)
    """Licence of the weights."""
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
    training: dict[str, Any] = Field(default_factory=dict)
    """Summary of training: data, cases, epochs, validation Dice, gates per level."""
    sha256: str = Field(default="", pattern="^([0-9a-f]{64})?$")
    """Hash of the weights."""

    @property
    def label_dtype(self) -> Literal["uint8", "uint16"]:
        """Smallest type that holds the value of every class: the dtype of a label map."""
        return "uint8" if max(c.value for c in self.classes) < 256 else "uint16"

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
