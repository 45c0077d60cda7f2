"""What the values of a label map mean."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from prosma_core.config.base import Config

LabelValue = Annotated[int, Field(ge=0, le=65535)]


class LabelsConfig(Config):
    """What the label values of a training set mean; a model's own background is always 0."""

    zero: Literal["background", "unlabelled", "annotated_slices"] = "background"
    """0 is background; or not annotated; or background on slices that hold any label, and not annotated elsewhere."""
    slice_axis: Literal["z", "y", "x"] | None = None
    """Axis of the annotated slices; None is the axis along which labels continue least from one slice to the next."""
    ignore: LabelValue | None = None
    """Value of voxels that take no part in loss and measures."""
    background: LabelValue | None = None
    """Painted value that means background, needed where 0 does not."""
    one_class: bool = False
    """Take all other labels above 0 as one class (of value 1), such as numbered cells."""

    gray: Literal["refuse", "threshold", "classes"] = "refuse"
    """Labels with gray edges (JPEG, resized masks) and images given as labels: refuse them; threshold them at half of
    their largest value, as one class of value 1; or take each value as a class."""

    geometry: Literal["own", "image"] = "own"
    """Where label files lie: as they say themselves; or on the voxels of the image wherever the shapes are equal."""

    @property
    def sparse(self) -> bool:
        """Whether unpainted voxels may be unknown."""
        return self.zero != "background"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.ignore is not None and self.ignore == self.background:
            msg = f"ignore and background cannot both be {self.ignore}"
            raise ValueError(msg)
        if self.ignore == 0:
            msg = "to ignore the value 0, set zero: unlabelled"
            raise ValueError(msg)
        return self
