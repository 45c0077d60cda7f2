"""How scans and arrays are named in messages: the voxels themselves lie in files that both sides map."""

from __future__ import annotations

from typing import Annotated, Self

import numpy as np
from pydantic import Field, field_validator, model_validator

from prosma_core.config.base import Config
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
    spec: SpecMessage | None = None
    """Geometry of the array; with a file, it replaces the file's own."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.array is None) == (self.file is None) or (self.array is not None and self.spec is None):
            msg = "a scan is either an array with its geometry or a file"
            raise ValueError(msg)
        return self
