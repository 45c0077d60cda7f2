"""Summary of the training cases: fingerprints of each case, and what a plan needs to know of all."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from prosma_core.config.training import RunConfig
from prosma_core.data.frames import frame_spec, frames, slice_axis
from prosma_core.data.geometry import ImageSpec, Scan, first_voxel, is_repeated, with_voxel_size
from prosma_core.data.grid import STRONG_ANISOTROPY, orient_axes
from prosma_core.data.intensities import single_precision
from prosma_core.data.labels import Annotation, gray_problem, number_objects, read_annotation, value_counts
from prosma_core.data.lazy import LazyArray, parts_of
from prosma_core.data.look import ScanLook, describe
from prosma_core.data.pair_check import GRAY_HELP
from prosma_core.data.point_table import PointTable
from prosma_core.data.slices import SliceStates
from prosma_core.data.stored_annotation import StoredAnnotation, annotation_by_parts
from prosma_core.errors import DatasetError, LabelError
from prosma_core.events import Event, StageStarted, Working
from prosma_core.io.dataset_folder import Case, DatasetFolder, file_classes, open_case, read_case
from prosma_core.io.dicom import dicom_modality
from prosma_core.io.images import read_labels
from prosma_core.printable import Passing, counted
from prosma_core.training.split import Split, case_slices, hold_out_slices, keep_classes, unvalidated

SAMPLES = 2000
"""Foreground values kept per case and channel."""


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """Fingerprint of one case: grid, channels, value range, foreground sample, label values.

    Attributes
    ----------
    shape : tuple of int
        Spatial shape of a frame, turned to RAS where the file knows its orientation.
    spacing : tuple of float
        Voxel size, in the same order, in `unit`.
    unit : str
    oriented : bool
        Whether the file knows the patient's axes.
    channels : int
    channel_names : tuple of str
    color : bool
        Whether the channels are red, green and blue.
    low, high : float
        Smallest and largest value.
    whole_numbers : bool
        Whether all values are whole numbers.
    foreground : ndarray, float32 or float64, shape (C, up to SAMPLES)
        Values at labeled voxels; float64 where float32 cannot hold their differences.
    label_values : tuple of int
    object_size : float
        Mean diameter of what is labeled, in pixels, of a 2D case; 0 where nothing is.
    look : ScanLook or None
        What other scans are compared with; None where only a grid is known.
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    unit: str
    oriented: bool
    channels: int
    channel_names: tuple[str, ...]
    color: bool
    low: float
    high: float
    whole_numbers: bool
    foreground: NDArray[np.floating]
    label_values: tuple[int, ...]
    object_size: float = 0.0
    look: ScanLook | None = None


def fingerprint(image: Scan, labels: Scan, dims: int, rng: np.random.Generator, modality: str = "") -> Fingerprint:
    """Numbers of one case for a network of `dims` spatial axes.

    Parameters
    ----------
    image, labels : Scan
        On the same grid.
    dims : int
        2 or 3.
    rng : numpy Generator
        Draws the foreground samples.
    modality : str
        As the file says it.
    """
    values = image.data
    pairs = [(frame.image, np.asarray(labels.data)[frame.index] > 0) for frame in frames(image, dims)]
    foreground = np.concatenate([channels[:, inside] for channels, inside in pairs], axis=1)
    if foreground.shape[1] > SAMPLES:
        foreground = foreground[:, rng.choice(foreground.shape[1], SAMPLES, replace=False)]
    low, high = float(values.min()), float(values.max())
    return Fingerprint(
        **_geometry(image.spec, dims),
        color=image.spec.num_channels == 3 and values.dtype == np.uint8,
        low=low,
        high=high,
        whole_numbers=bool(np.issubdtype(values.dtype, np.integer) or (values == np.rint(values)).all()),
        foreground=foreground.astype(np.float32 if single_precision(low, high) else np.float64),
        label_values=tuple(int(v) for v in np.unique(labels.data)),
        object_size=mean_diameter([inside for _, inside in pairs]) if dims == 2 else 0.0,
        look=describe(image.spec, values, modality=modality),
    )


def fingerprint_by_parts(
    name: str, image: Scan, labels: StoredAnnotation, dims: int, rng: np.random.Generator
) -> Generator[Working, None, Fingerprint]:
    """As `fingerprint`, of a case that is read by parts; objects of pictures count as large. Yields after each part."""
    spec, data, axes = image.spec, image.data, labels.spec.axes
    inside = LazyArray(
        labels.spec.shape,
        np.dtype(np.uint8),
        lambda box: (labels.read(box)[0] > 0).astype(np.uint8),
        labels.labels.chunks,
    )
    inside.keep = 0
    table = yield from PointTable.count(inside, 2, f"Counting the labels of {name}")
    (places,) = table.draw([1], SAMPLES, rng)
    foreground = np.zeros((spec.num_channels, len(places)), np.float64)
    low, high, whole_numbers = math.inf, -math.inf, True
    at, channels = [spec.axes.index(axis) for axis in axes], spec.axes.find("c")
    boxes = list(parts_of(data, whole=(channels,) if channels >= 0 else ()))
    passing = Passing(f"Reading {name} by parts", len(boxes))
    for box in boxes:
        values = data.read(box)
        one = first_voxel(values) if is_repeated(values) else values
        low, high = min(low, float(one.min())), max(high, float(one.max()))
        if values.dtype.kind == "f":
            whole_numbers = whole_numbers and bool((one == np.rint(one)).all())
        first, stop = np.array([box[a] for a in at]).T
        here = np.flatnonzero(((places >= first) & (places < stop)).all(1))
        if len(here):
            first_c = values if channels >= 0 else values[None]
            moved = np.moveaxis(first_c, channels, 0) if channels >= 0 else first_c
            foreground[:, here] = moved[(slice(None), *(places[here] - first).T)]
        yield Working(passing.another())
    return Fingerprint(
        **_geometry(spec, dims),
        color=spec.num_channels == 3 and data.dtype == np.uint8,
        low=low,
        high=high,
        whole_numbers=whole_numbers,
        foreground=foreground.astype(np.float32 if single_precision(low, high) else np.float64),
        label_values=tuple(sorted(labels.values)),
        object_size=math.inf if dims == 2 else 0.0,
        look=describe(spec),
    )


def mean_diameter(masks: Sequence[NDArray[np.bool_]]) -> float:
    """Mean diameter of what is labeled: 4 area / perimeter, which is that of a disc and twice the width of a band.

    Parameters
    ----------
    masks : sequence of ndarray, bool, shape (y, x)

    Returns
    -------
    float
        In pixels; 0 where nothing is labeled.
    """
    area, edges = 0, 0
    for inside in masks:
        area += int(inside.sum())
        edges += int((inside[1:] != inside[:-1]).sum()) + int((inside[:, 1:] != inside[:, :-1]).sum())
    return 4 * area / (edges * np.pi / 4) if edges else 0.0  # the edges of pixels are 4 / pi of a round outline


def grid_fingerprint(spec: ImageSpec, dims: int) -> Fingerprint:
    """What a scan's grid alone tells: as of a scan of no values, and of large objects."""
    nothing = np.empty((spec.num_channels, 0), np.float32)
    known: dict[str, Any] = {"color": False, "low": 0.0, "high": 0.0, "whole_numbers": False, "label_values": ()}
    return Fingerprint(**_geometry(spec, dims), **known, foreground=nothing, object_size=math.inf)


def _geometry(image: ImageSpec, dims: int) -> dict[str, Any]:
    spec = frame_spec(image, dims)
    order, _ = orient_axes(spec)
    return {
        "shape": tuple(spec.shape[a] for a in order),
        "spacing": tuple(spec.spacing[a] for a in order),
        "unit": spec.unit,
        "oriented": spec.world == "ras" and dims == 3,
        "channels": image.num_channels,
        "channel_names": image.channel_names,
    }


SAID_ONCE = 3
"""Cases whose annotated slices are said; those of further cases only pass by."""


@dataclass
class Facts:
    """Summary of the training cases.

    Attributes
    ----------
    prints : list of Fingerprint
        Of each case that holds an annotation.
    slices : dict of tuple of int
        Annotated slices of each of them that hold a class and may be validated on.
    background : bool
        Whether one has an annotated background voxel.
    said : int
        Cases of whose slices something was said.
    values : dict of dict of tuple of int
        Of each of them, the slices that hold a class, by its value; apart from the background.
    validation : dict of set of int
        Values of the classes that each validation case holds, where whole cases are held out.
    names : dict of int to str
        Names of values that label files have.
    beside : dict of tuple of int
        All annotated slices of each case of which not all may be validated on.
    partial : int
        Of how many of them only a part is annotated.
    numbered : int
        Of how many of them the label values seem to number objects.
    """

    prints: list[Fingerprint]
    slices: dict[str, tuple[int, ...]]
    background: bool = False
    said: int = 0
    values: dict[str, dict[int, tuple[int, ...]]] = field(default_factory=dict)
    validation: dict[str, set[int]] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    beside: dict[str, tuple[int, ...]] = field(default_factory=dict)
    partial: int = 0
    numbered: int = 0

    @property
    def sparse(self) -> bool:
        """Whether only a part of most of them is annotated."""
        return 2 * self.partial > len(self.prints)

    def name_classes(self, label: Path, labels: ImageSpec) -> None:
        """Take the names that a label file has for its values (3D Slicer's segments).

        Raises
        ------
        DatasetError
            Another file gives a value another name.
        """
        for value, name in file_classes(labels).items():
            other = self.names.setdefault(value, name)
            if other != name:
                msg = (
                    f"Value {value} is {name!r} in {label.name} and {other!r} in another label file: one value would "
                    "be two classes. Give the segments the same values in all files."
                )
                raise DatasetError(msg)


def read_cases(
    folder: DatasetFolder, split: Split, run: RunConfig, dims: int | None, by_parts: Collection[str] = ()
) -> Generator[Event, None, tuple[int, Facts]]:
    """Read every training case; those without any annotation are left out, and reported.

    Parameters
    ----------
    folder : DatasetFolder
    split : Split
    run : RunConfig
    dims : int or None
        Spatial axes of the network; None is told by the first case.
    by_parts : collection of str
        Cases that do not fit into memory.

    Returns
    -------
    dims : int
    facts : Facts

    Raises
    ------
    DatasetError
        No case holds an annotation.
    """
    facts, names = Facts([], {}), folder.class_names.keys() | run.class_names.keys()
    for i, name in enumerate(split.train):
        read = read_annotated(folder.cases[name], run, named=names, check=True, by_parts=name in by_parts)
        image, labels = yield from read
        if not labels.known:
            yield StageStarted(f"{name} holds no annotation and is left out.")
            continue
        if dims is None:
            dims = usual_dims(image.spec, sparse=labels.sparse, axis=labels.axis_name)
            if dims < usual_dims(image.spec):
                yield StageStarted(f"{thick_words(image.spec)} For a 3D one, ask for 3 dimensions.")
        rng = np.random.default_rng([run.training.seed, i])
        if isinstance(labels, StoredAnnotation):
            facts.prints.append((yield from fingerprint_by_parts(name, image, labels, dims, rng)))
            facts.background = facts.background or labels.background
        else:
            known = Scan(labels.values, labels.spec)
            modality = dicom_modality(folder.cases[name].images[0]) if image.spec.format == "dicom" else ""
            facts.prints.append(fingerprint(image, known, dims, rng, modality))
            facts.numbered += labels.threshold is None and bool(number_objects(labels.values, labels.spec))
            background = labels.values == 0 if labels.ignored is None else (labels.values == 0) & ~labels.ignored
            facts.background = facts.background or bool(background.any())
        facts.slices[name] = labels.validated
        facts.partial += labels.sparse
        if labels.edited is not None:
            facts.beside[name] = labels.marked
        facts.values[name] = labels.class_slices()
        facts.name_classes(folder.cases[name].label, labels.spec)
        if words := _format_case(name, labels, run):
            yield StageStarted(words) if facts.said < SAID_ONCE else Working(words)
            facts.said += 1
        yield Working(f"Reading {name}")
    if dims is None:
        msg = f"No case of {folder.root} holds an annotation. Paint at least one object in one slice, and save."
        raise DatasetError(msg)
    return dims, facts


def read_split(
    folder: DatasetFolder,
    split: Split,
    run: RunConfig,
    dims: int | None,
    *,
    fresh: bool,
    states: Mapping[str, SliceStates] | None = None,
    by_parts: Collection[str] = (),
) -> Generator[Event, None, tuple[int, Facts, Split]]:
    """Read the cases of a split; one that was drawn is changed so that each class can be learned, where it can be.

    Parameters
    ----------
    folder, split, run, dims, by_parts
        As of `read_cases`.
    fresh : bool
        Whether the split may be changed: it is not that of a run that is resumed.
    states : mapping, optional
        As of `draw_cases`.

    Raises
    ------
    ProsmaError
        As in `read_cases`.
    """
    found, facts = yield from read_cases(folder, split, run, dims, by_parts)
    if split.kind != "cases":
        held = hold_out_slices(facts.slices, run.training.seed, facts.values, facts.beside)
        return found, facts, held if fresh else split
    facts.validation = yield from _read_validation(folder, split, run, facts, by_parts)
    if fresh and not set(split.val) <= set(folder.splits.get("val", ())):  # it was drawn
        split, moved = keep_classes(split, facts.values, facts.validation, unvalidated(states))
        if moved:
            yield StageStarted(f"Trained on, since no other case holds a class of theirs: {', '.join(moved[:5])}.")
            found, facts = yield from read_cases(folder, split, run, dims, by_parts)
            facts.validation = yield from _read_validation(folder, split, run, facts, by_parts)
    return found, facts, split


def _read_validation(
    folder: DatasetFolder, split: Split, run: RunConfig, facts: Facts, by_parts: Collection[str]
) -> Generator[Event, None, dict[str, set[int]]]:
    """Values of the classes of each validation case; its image is not opened."""
    names = folder.class_names.keys() | run.class_names.keys()
    found = {}
    for name in split.val:
        if name in by_parts:
            _, stored = yield from read_annotated(folder.cases[name], run, named=names, by_parts=True)
            found[name] = set(split.part("val", name, stored).class_slices())
            yield Working(f"Reading the labels of {name}")
            continue
        label = folder.cases[name].label
        labels, states = _own_part(folder.cases[name], read_labels(label), run)
        _refuse_gray(label, labels, run, names)
        facts.name_classes(label, labels.spec)
        known = split.part("val", name, read_annotation(labels, run.labels, states))
        assert isinstance(known, Annotation)
        found[name] = set(value_counts(known.values)) - {0}
        yield Working(f"Reading the labels of {name}")
    return found


def thick_words(spec: ImageSpec) -> str:
    """Why a 2D model is trained on few annotated slices of such a scan, see `usual_dims`."""
    size = " x ".join(f"{edge:.3g}" for edge in spec.spacing)
    return (
        f"A 2D model is trained, slice by slice: few slices are annotated, and they are thick (voxels of {size} "
        f"{spec.unit})."
    )


def usual_dims(spec: ImageSpec, *, sparse: bool = False, axis: str = "") -> Literal[2, 3]:
    """Spatial axes of a network for such a scan: 2 for pictures, and for few annotated slices of a stack of thick ones.

    Parameters
    ----------
    spec : ImageSpec
    sparse : bool
        Whether only some slices are annotated.
    axis : str
        Letter of their axis; empty where it is not known. A 2D network sees the thick slices only: those of another
        axis train a 3D one.
    """
    if spec.spatial_ndim == 2 or min(spec.spatial_shape) == 1:
        return 2
    thick = spec.unit != "pixel" and max(spec.spacing) >= STRONG_ANISOTROPY * min(spec.spacing)
    seen = not axis or axis == spec.spatial_axes[slice_axis(spec)]
    return 2 if sparse and thick and seen else 3


def read_annotated(
    case: Case, run: RunConfig, *, named: Collection[int] = (), check: bool = False, by_parts: bool = False
) -> Generator[Working, None, tuple[Scan, Annotation | StoredAnnotation]]:
    """A case's image, and what its labels say; of labels read by parts, yields after each part.

    Parameters
    ----------
    case : Case
    run : RunConfig
    named : collection of int
        Label values that have a name.
    check : bool
        Refuse labels that are no class numbers.
    by_parts : bool
        Leave the voxels on the disk.

    Raises
    ------
    LabelError
        The labels are the image itself, or have gray values and the run does not say what to do with these.
    ProsmaError
        As in `read_case`, `with_voxel_size` and `read_annotation`.
    """
    on_image = run.labels.geometry == "image"
    opened = open_case(case, on_image=on_image) if by_parts else None
    if opened is not None:
        image, labels = opened
        states = case_slices(case, run)
        states = states and states.on(labels.spec, run.labels.slice_axis, case.name)
        image = Scan(image.data, with_voxel_size(image.spec, run.voxel_size))
        found = yield from annotation_by_parts(labels, run.labels, states, case.name, named)
        return image, found
    image, labels = read_case(case, on_image=on_image)
    labels, states = _own_part(case, labels, run)
    if check:
        _refuse_gray(case.label, labels, run, named, lambda: image.data)
    image = Scan(image.data, with_voxel_size(image.spec, run.voxel_size))
    return image, read_annotation(labels, run.labels, states)


def _own_part(case: Case, labels: Scan, run: RunConfig) -> tuple[Scan, SliceStates | None]:
    """Labels without what a model made and nobody checked or edited, and the slices that somebody did."""
    states = case_slices(case, run)
    found = states and states.on(labels.spec, run.labels.slice_axis, case.name)
    return (found.part(labels) if found else labels), found


def _refuse_gray(
    path: Path,
    labels: Scan,
    run: RunConfig,
    named: Collection[int],
    image: Callable[[], NDArray[Any]] | None = None,
) -> None:
    kind, words = gray_problem(np.asarray(labels.data), run.labels, named, image)
    if kind is not None:
        msg = f"{path.name}: {words}{'' if kind == 'image' else ' ' + GRAY_HELP}"
        raise LabelError(msg)


def _format_case(name: str, labels: Annotation | StoredAnnotation, run: RunConfig) -> str:
    """What a person should check of a case: the gray value it is cut at, its time points, its slices; else empty."""
    said = []
    if labels.threshold is not None:
        said.append(f"{name}: a mask with gray edges; above {labels.threshold} is the one class.")
    if labels.frames is not None and 0 < labels.frames[0] < labels.frames[1] and not labels.sparse:
        said.append(
            f"{name}: of {labels.frames[1]} time points, {counted(labels.frames[0], 'holds', 'hold')} labels; the "
            "others are ignored."
        )
    said.append(_format_slices(name, labels, run))
    return " ".join(filter(None, said))


def _format_slices(name: str, labels: Annotation | StoredAnnotation, run: RunConfig) -> str:
    """Which slices are taken to be annotated, where a person should check that; else empty."""
    slices = labels.slices
    if labels.edited is not None and labels.sparse:
        listed = ", ".join(map(str, labels.marked[:12])) + (", …" if len(labels.marked) > 12 else "")
        where = f"{counted(len(labels.marked), 'slice')} ({labels.axis_name} {listed})" if labels.axis_name else "parts"
        return f"{name}: {where} checked or edited, or given as annotated; the others are ignored."
    if run.labels.zero == "annotated_slices" and labels.axis is not None:
        listed = ", ".join(map(str, labels.marked[:12])) + (", …" if len(labels.marked) > 12 else "")
        return f"{name}: annotated slices {labels.axis_name} {listed}."
    if labels.sparse or len(slices) < 2 or slices[-1] - slices[0] + 1 < 2 * len(slices):
        return ""
    return (
        f"{name}: {len(slices)} slices between {labels.axis_name} {slices[0]} and {slices[-1]} hold labels; the others "
        "count as background. If they are not annotated, stop and let them be ignored (--annotated-slices)."
    )
