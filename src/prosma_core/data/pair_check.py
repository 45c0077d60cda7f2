"""Checks of an image–label pair before training: grids, label values, gray masks. No torch."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prosma_core.config.training import LabelsConfig
from prosma_core.data.geometry import ImageSpec, Scan
from prosma_core.data.labels import PICTURE_VALUES, Gray, gray_problem, number_objects, read_annotation, value_counts
from prosma_core.data.slices import SliceStates

_OF_A_VOXEL = 0.01
"""Largest distance between voxels that count as the same, in voxels."""


def pasted(labels: Scan, onto: ImageSpec) -> Scan | None:
    """Labels on the grid of a scan, 0 where they had no voxels; None where their voxels are none of the scan's.

    3D Slicer stores a segmentation cropped to what is segmented, at a whole number of voxels from the scan's first.

    Parameters
    ----------
    labels : Scan, integer, without channels
    onto : ImageSpec
        Of the scan, of as many spatial axes.

    Returns
    -------
    Scan or None
        None as well where voxels with labels lie outside of the scan.
    """
    own, n = labels.spec, onto.spatial_ndim
    if own.spatial_ndim != n or own.num_frames != onto.num_frames or {own.world, onto.world} != {"ras"}:
        return None
    if own.unit != onto.unit:
        return None
    to_scan = np.linalg.solve(onto.affine, own.affine)
    last = np.array([*(size - 1 for size in own.spatial_shape), 1.0])
    first, end = to_scan[:n, n], (to_scan @ last)[:n]
    shift = np.rint(first).astype(int)
    off = np.abs([*(first - shift), *(end - shift - last[:n])]).max()
    if off > _OF_A_VOXEL or np.abs(to_scan[:n, :n] - np.eye(n)).max() > _OF_A_VOXEL:
        return None
    low = np.clip(shift, 0, onto.spatial_shape)
    high = np.clip(shift + own.spatial_shape, 0, onto.spatial_shape)
    target = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    source = tuple(slice(int(a), int(b)) for a, b in zip(low - shift, high - shift, strict=True))
    data = np.asarray(labels.data)
    lead = (slice(None),) * (data.ndim - n)
    inside = data[lead + source]
    if np.count_nonzero(inside) < np.count_nonzero(data):
        return None
    out = np.zeros((*own.shape[: len(own.shape) - n], *onto.spatial_shape), data.dtype)
    out[lead + target] = inside
    return Scan(out, replace(onto.labels_spec(), axes=own.axes, shape=out.shape, header=own.header))


GRAY_HELP = (
    "Give --gray-labels threshold (above half of the largest value is one class), or --gray-labels classes (each value "
    "is a class)."
)
"""What to do about gray labels on the command line."""
MAX_CLASSES = 256
"""Most classes of a training set, the background included."""


NOTHING_PAINTED = "No class is painted: paint at least one object, or leave this pair out."
"""Problem of labels that are still empty."""


@dataclass(frozen=True)
class PairCheck:
    """Result of `check_pair`: label values, annotated share, problems.

    Attributes
    ----------
    values : dict of int to int
        Voxels of each class value that occurs, apart from the background.
    annotated : float
        Share of the voxels that is annotated, 0 to 1.
    axis : str
        Letter of the axis of the annotated slices; empty for a picture.
    slices : tuple of int
        Slices along it that hold anything painted.
    problem : str
        What is wrong, and what to do; empty where the pair can be used.
    gray : str or None
        "edges", "picture" or "image" where the labels are no class numbers (see `gray_kind`).
    threshold : int or None
        Value above which voxels are the one class, of a mask with gray edges.
    frames : (int, int) or None
        Of a time series: time points that are annotated, and how many there are.
    class_slices : dict of int to tuple of int
        Of the slices, those that hold each class, by its value; empty where there is a problem.
    numbers : frozenset of int
        Values where they seem to number objects (see `number_objects`), whatever the configuration takes them for.
    """

    values: dict[int, int]
    annotated: float
    axis: str
    slices: tuple[int, ...]
    problem: str
    gray: Gray | None = None
    threshold: int | None = None
    frames: tuple[int, int] | None = None
    class_slices: dict[int, tuple[int, ...]] = field(default_factory=dict)
    numbers: frozenset[int] = frozenset()


NOTHING_CHECKED = "Nothing is checked or edited yet: paint or correct a slice, or mark one as checked."
"""What to do about a model's result as labels."""


def check_pair(
    image: ImageSpec,
    labels: Scan,
    config: LabelsConfig,
    *,
    named: Collection[int] = (),
    voxels: Callable[[], NDArray[Any]] | None = None,
    states: SliceStates | None = None,
) -> PairCheck:
    """Check one pair; nothing is raised for what is wrong with it.

    Labels without any object are no problem where unlabeled means background, or where slices were checked: such a
    scan is a negative.

    Parameters
    ----------
    image : ImageSpec
        Geometry of the scan.
    labels : Scan, integer, without channels
    config : LabelsConfig
        What the values mean.
    named : collection of int
        Values that the labels come with names for.
    voxels : callable, optional
        Gives the values of the scan; called where the labels have many values.
    states : SliceStates, optional
        Checked and edited slices of the labels; of a model's result, nothing else is looked at. A pair without any is
        no problem: it is left out.
    """
    problem = grid_problem(image, labels.spec, "The scan", "the labels")
    if config.slice_axis is not None and config.slice_axis not in labels.spec.spatial_axes:
        config = config.replace(slice_axis=None)
        problem = problem or f"The labels have axes {labels.spec.spatial_axes}: no slices along that axis."
    if states is not None:
        labels = states.part(labels)
    found = read_annotation(labels, config, states)
    values = {value: count for value, count in value_counts(found.values).items() if value > 0}
    gray, words = gray_problem(np.asarray(labels.data), config, named, voxels, PICTURE_VALUES)
    if not problem and words:
        problem = words if gray == "image" else f"{words} {GRAY_HELP}"
    whole = states is not None and (states.only or bool(states.checked))  # a negative says that nothing is there
    if not problem and not values and config.sparse and not whole:
        problem = NOTHING_PAINTED
    if not problem and not gray and len(values) >= MAX_CLASSES:
        problem = many_values(len(values))
    known = found.known / found.values.size
    where = {} if problem else found.class_slices()
    may = not gray and found.threshold is None
    numbers = number_objects(np.asarray(labels.data), labels.spec) if may else frozenset()
    return PairCheck(
        values, known, found.axis_name, found.marked, problem, gray, found.threshold, found.frames, where, numbers
    )


def many_values(count: int) -> str:
    """What to do about labels that number objects."""
    return (
        f"The labels hold {count} values, more than {MAX_CLASSES}: they number objects, not classes, or are an image. "
        "To take all objects as one class, merge labels into one class (--one-class)."
    )


def grid_problem(a: ImageSpec, b: ImageSpec, name_a: str, name_b: str) -> str:
    """Why two scans do not lie on the same grid, and what to do; empty where they do.

    Affines are compared where both know the patient.
    """
    same = a.spatial_shape == b.spatial_shape and a.num_frames == b.num_frames
    if same and a.world == b.world == "ras":
        tolerance = 1e-2 * min(*a.spacing, *b.spacing)
        same = bool(np.allclose(a.affine, b.affine, rtol=1e-3, atol=tolerance))
    if same:
        return ""
    if a.spatial_ndim == 3 and b.spatial_ndim == 2:
        return (
            f"One picture of {b.spatial_shape} is painted ({name_b}) for a volume of {a.spatial_shape} ({name_a}): "
            "which slice it is cannot be told. Paint in labels of the volume's shape (one slice is enough)."
        )
    turned = a.spatial_shape != b.spatial_shape and a.spatial_shape[-2:] == b.spatial_shape[:-3:-1]
    if turned and a.world == b.world == "image":
        return (
            f"{name_a} has shape {a.spatial_shape}, {name_b} {b.spatial_shape}: one is turned by 90 degrees, as when "
            "one program applies the EXIF orientation of a picture and another does not. Turn one of them."
        )
    return (
        f"{name_a} and {name_b} lie on different grids: shapes {a.spatial_shape} and {b.spatial_shape}, affines "
        f"{np.round(a.affine, 3).tolist()} and {np.round(b.affine, 3).tolist()}. {_format_overlap(a, b)}"
    )


def without_transform(spec: ImageSpec) -> bool:
    """Whether a scan lies as an array without geometry does: voxels of size 1, the first at the origin."""
    return bool(np.allclose(spec.affine, np.eye(spec.spatial_ndim + 1), atol=1e-6))


def _format_overlap(a: ImageSpec, b: ImageSpec) -> str:
    if a.spatial_shape == b.spatial_shape and without_transform(b):
        return (
            "The second has no geometry of its own, and the shape of the first: where its voxels are those of the "
            "first, take them voxel by voxel (--labels-on-image)."
        )
    share = overlap(a, b)
    if share is None:
        return "Resample one onto the other."
    if share == 0:
        return "They lie in different places and belong to different scans. Choose the labels of this scan."
    words = f"{100 * share:.0f} % of the second lies within the first: resample it onto the first's grid"
    if a.spatial_shape == b.spatial_shape:
        return f"{words}, or, where its voxels are those of the first, take them voxel by voxel (--labels-on-image)."
    return f"{words}."


def overlap(a: ImageSpec, b: ImageSpec) -> float | None:
    """Share of the box of `b` that lies within the box of `a`, 0 to 1; None where their places cannot be compared."""
    if a.world != b.world or a.unit != b.unit or a.spatial_ndim != b.spatial_ndim or a.world == "image":
        return None
    (low_a, high_a), (low_b, high_b) = _world_box(a), _world_box(b)
    common = np.clip(np.minimum(high_a, high_b) - np.maximum(low_a, low_b), 0, None)
    return float(np.prod(common / (high_b - low_b)))


def _world_box(spec: ImageSpec) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest corner, from voxel edge to voxel edge, of the box around a scan along the world's axes."""
    n = spec.spatial_ndim
    corners = np.stack(np.meshgrid(*((-0.5, size - 0.5) for size in spec.spatial_shape), indexing="ij"), -1)
    placed = corners.reshape(-1, n) @ spec.affine[:n, :n].T + spec.affine[:n, n]
    return placed.min(0), placed.max(0)
