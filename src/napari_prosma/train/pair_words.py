"""What is said of a training pair in its row of the table."""

from __future__ import annotations

from collections.abc import Sized
from typing import Literal

from prosma_core.config.labels import LabelsConfig
from prosma_core.data.geometry import ImageSpec, Scan
from prosma_core.data.intensities import COLOUR
from prosma_core.data.pair_check import MAX_CLASSES, PairCheck, grid_problem, overlap

Fix = Literal["resample", "one_class"]
MAX_VALUE = 65_535
"""Largest value of a class: that of `ClassInfo`."""


def problem_and_fixes(found: PairCheck, image: ImageSpec, labels: ImageSpec) -> tuple[str, tuple[Fix, ...]]:
    """What is wrong in a window's words, and what the row can do about it."""
    elsewhere = grid_problem(image, labels, "The image", "the labels")
    if not elsewhere and len(found.values) >= MAX_CLASSES:
        text = f"The labels hold {len(found.values)} values: they number objects, not classes."
        return f"{text} “One class” takes all objects as one class.", ("one_class",)
    if not elsewhere and max(found.values, default=0) > MAX_VALUE:
        text = f"The labels hold the value {max(found.values)}; those of classes end at {MAX_VALUE}."
        return f"{text} Renumber them; or “One class” takes all objects as one class.", ("one_class",)
    if not elsewhere:
        return found.problem, ()
    if image.num_frames != labels.num_frames:
        return f"The image has {image.num_frames} time points, the labels have {labels.num_frames}.", ()
    share = overlap(image, labels)
    if share is None:
        return elsewhere, ()
    if share == 0:
        return "The labels lie in another place than the image: they belong to another scan.", ()
    if image.spatial_shape == labels.spatial_shape:
        what = "The labels do not lie on the image's voxels (shifted, turned, or of another voxel size)"
    else:
        what = f"The labels have another grid ({_size(labels)}) than the image ({_size(image)})"
    return (
        f"{what}; {100 * share:.0f} % of them lies within it. “Resample” makes a copy of them on the image's grid.",
        ("resample",),
    )


def facts(found: PairCheck, labels: Scan, image: ImageSpec, config: LabelsConfig) -> str:
    """What the labels hold: "3 classes, 5 of 40 slices annotated (z), 2 % of voxels"."""
    parts = [count(found.values, "class", "classes")]
    if found.axis:
        slices = f"{len(found.slices)} of {labels.spec.size(found.axis)} slices"
        parts.append(f"{slices} annotated ({found.axis})" if config.sparse else f"on {slices} ({found.axis})")
    painted = found.annotated if config.sparse else sum(found.values.values()) / labels.data.size
    percent = 100 * painted
    parts.append(f"{percent:.2g} % of voxels" if percent < 10 else f"{percent:.0f} % of voxels")
    if image.num_frames > 1:
        parts.append(f"{image.num_frames} time points")
    if image.num_channels > 1 and image.channel_names != COLOUR:
        parts.append(f"{image.num_channels} channels")
    return ", ".join(parts)


def count(things: Sized, one: str, many: str = "") -> str:
    """How many things there are, with their name: "1 image", "3 classes"."""
    return f"{len(things)} {one if len(things) == 1 else many or one + 's'}"


def _size(spec: ImageSpec) -> str:
    return " × ".join(map(str, spec.spatial_shape))
