"""Messages about image-label pairs, and the fixes offered."""

from __future__ import annotations

from typing import Literal

from prosma_core.config.labels import LabelsConfig
from prosma_core.data.geometry import ImageSpec, Scan
from prosma_core.data.intensities import COLOR
from prosma_core.data.pair_check import GRAY_HELP, MAX_CLASSES, PairCheck, grid_problem, overlap, without_transform
from prosma_core.printable import counted

Fix = Literal["resample", "place", "channels", "threshold", "classes", "one_class"]
MAX_VALUE = 65_535
"""Largest value of a class: that of `ClassInfo`."""


def problem_and_fixes(found: PairCheck, image: ImageSpec, labels: ImageSpec) -> tuple[str, tuple[Fix, ...]]:
    """What is wrong in a window's words, and what the row can do about it."""
    elsewhere = grid_problem(image, labels, "The image", "the labels")
    if elsewhere:
        return _elsewhere(elsewhere, image, labels)
    if found.gray == "image":
        return found.problem, ()
    if found.gray is not None:
        what = found.problem.removesuffix(f" {GRAY_HELP}")
        other = "" if found.gray == "edges" else " Choose the label map of this scan; or:"
        half = (
            "“Threshold” takes all above half of the largest value as one class, “Keep values” each value as a class."
        )
        return f"{what}{other} {half}", ("threshold", "classes")
    if len(found.values) >= MAX_CLASSES:
        text = f"The labels hold {len(found.values)} values: they number objects, not classes."
        return f"{text} “One class” takes all objects as one class.", ("one_class",)
    if max(found.values, default=0) > MAX_VALUE:
        text = f"The labels hold the value {max(found.values)}; those of classes end at {MAX_VALUE}."
        return f"{text} Renumber them; or “One class” takes all objects as one class.", ("one_class",)
    return found.problem, ()


def _elsewhere(words: str, image: ImageSpec, labels: ImageSpec) -> tuple[str, tuple[Fix, ...]]:
    """What to do about labels that do not lie on the image's voxels."""
    if image.num_frames != labels.num_frames:
        if labels.num_frames == 1 and "c" not in image.axes and image.spatial_ndim == labels.spatial_ndim:
            return (
                f"The image is a time series ({image.num_frames} time points), the labels are for one. Paint labels "
                "with a time axis; “As channels” takes the time points for channels of one scan.",
                ("channels",),
            )
        return f"The image has {counted(image.num_frames, 'time point')}, the labels have {labels.num_frames}.", ()
    share = overlap(image, labels)
    same = image.spatial_shape == labels.spatial_shape
    if same and without_transform(labels):
        return (
            "The labels have no transform (voxel size 1, at the origin), the image has one; their shapes are equal. "
            "“Use image grid” makes a copy of them on the image's voxels; no value is changed.",
            ("place", "resample") if share else ("place",),
        )
    if share is None:
        return words, ()
    if share == 0:
        return "The labels lie in another place than the image: they belong to another scan.", ()
    if same:
        what = "The labels do not lie on the image's voxels (shifted, turned, or of another voxel size)"
    else:
        what = f"The labels have another grid ({_size(labels)}) than the image ({_size(image)})"
    return (
        f"{what}; {100 * share:.0f} % of them lies within it. “Resample” makes a copy of them on the image's grid.",
        ("resample",),
    )


def facts(found: PairCheck, labels: Scan, image: ImageSpec, config: LabelsConfig) -> str:
    """What the labels hold: "3 classes, 5 of 40 slices annotated (z), 2 % of voxels"."""
    parts = [counted(len(found.values), "class", "classes") if found.values or config.sparse else "no object"]
    if found.gray is not None:
        return f"{counted(len(found.values), 'value')} above 0"
    if found.threshold is not None:
        parts[0] += f" (values above {found.threshold})"
    if found.frames is not None and not config.sparse and 0 < found.frames[0] < found.frames[1]:
        parts.append(f"{found.frames[0]} of {found.frames[1]} time points annotated")
    if found.axis and (found.values or config.sparse):
        slices = f"{len(found.slices)} of {counted(labels.spec.size(found.axis), 'slice')}"
        parts.append(f"{slices} annotated ({found.axis})" if config.sparse else f"on {slices} ({found.axis})")
    painted = found.annotated if config.sparse else sum(found.values.values()) / labels.data.size
    percent = 100 * painted
    if found.values or config.sparse:
        parts.append(f"{percent:.2g} % of voxels" if percent < 10 else f"{percent:.0f} % of voxels")
    if image.num_frames > 1 and not any("time points" in part for part in parts):
        parts.append(f"{image.num_frames} time points")
    if image.num_channels > 1 and image.channel_names != COLOR:
        parts.append(f"{image.num_channels} channels")
    return ", ".join(parts)


def _size(spec: ImageSpec) -> str:
    return " × ".join(map(str, spec.spatial_shape))
