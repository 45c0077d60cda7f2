"""Training pairs: an image and its labels, from layers or files, and checks before training."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from napari.layers import Image, Labels

from napari_prosma.layers.labels import lies_on, read_on
from napari_prosma.layers.results import is_result
from napari_prosma.layers.scan import MADE_FOR, are_channels, read
from napari_prosma.layers.source import is_large
from napari_prosma.scan.selection import look_of
from napari_prosma.train.sources import (
    Source,
    classes_known,
    image_scan,
    layer_source,
    provenance_of,
    read_pair,
    states_of_labels,
    unnamed,
    voxels,
)
from prosma_core.config.model import COLORS, ClassInfo
from prosma_core.config.training import LabelsConfig
from prosma_core.data.geometry import ImageSpec, Scan
from prosma_core.data.intensities import COLOR
from prosma_core.data.look import ScanLook
from prosma_core.data.pair_check import (
    GRAY_HELP,
    MAX_CLASSES,
    PairCheck,
    check_pair,
    grid_problem,
    overlap,
    without_transform,
)
from prosma_core.data.slices import SliceStates
from prosma_core.errors import DatasetError, ProsmaError
from prosma_core.io.dataset_folder import group_channels, open_dataset
from prosma_core.io.names import stem
from prosma_core.io.notes import made_by_model
from prosma_core.printable import counted

_LOG = logging.getLogger(__name__)

Fix = Literal["resample", "place", "channels", "threshold", "classes", "one_class"]
MAX_VALUE = 65_535
"""Largest value of a class: that of `ClassInfo`."""


def problem_and_fixes(found: PairCheck, image: ImageSpec, labels: ImageSpec) -> tuple[str, tuple[Fix, ...]]:
    """Message about the problem of a pair, and the fixes offered."""
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
        word = image.voxel_word
        return (
            f"The labels have no transform ({word} size 1, at the origin), the image has one; their shapes are equal. "
            f"“Use image grid” makes a copy of them on the image's {word}s; no value is changed.",
            ("place", "resample") if share else ("place",),
        )
    if share is None:
        return words, ()
    if share == 0:
        return "The labels lie in another place than the image: they belong to another scan.", ()
    if same:
        word = image.voxel_word
        what = f"The labels do not lie on the image's {word}s (shifted, turned, or of another {word} size)"
    else:
        what = f"The labels have another grid ({_size(labels)}) than the image ({_size(image)})"
    return (
        f"{what}; {100 * share:.0f} % of them lies within it. “Resample” makes a copy of them on the image's grid.",
        ("resample",),
    )


def facts(
    found: PairCheck,
    labels: Scan,
    image: ImageSpec,
    config: LabelsConfig,
    states: SliceStates | None = None,
    model: str = "",
) -> str:
    """What the labels hold, a model's result or not: "3 classes, 5 of 40 slices annotated (z), 2 % of voxels"."""
    if states is not None and states.only:
        of = "a model's result: " if model else ""
        if not states.annotated:
            return f"{of.replace(':', ',')}nothing checked or edited yet: left out"
        classes = counted(len(found.values), "class", "classes") if found.values else "no object"
        return f"{of}{states.words()}; {classes}{' on checked and edited slices' if states.axis else ''}"
    parts = [counted(len(found.values), "class", "classes") if found.values else "no object"]
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
        parts.append(
            f"{percent:.2g} % of {image.voxel_word}s" if percent < 10 else f"{percent:.0f} % of {image.voxel_word}s"
        )
    if image.num_frames > 1 and not any("time points" in part for part in parts):
        parts.append(f"{image.num_frames} time points")
    if image.num_channels > 1 and image.channel_names != COLOR:
        parts.append(f"{image.num_channels} channels")
    return ", ".join(parts)


def _size(spec: ImageSpec) -> str:
    return " × ".join(map(str, spec.spatial_shape))


@dataclass(frozen=True, eq=False)
class Pair:
    """An image and its labels.

    Attributes
    ----------
    image, labels : Source
    part : {"", "train", "val"}
        What the splits of its data folder use it for.
    splits : str
        Name of the file that says so.
    """

    image: Source
    labels: Source
    part: str = ""
    splits: str = ""


@dataclass(frozen=True)
class PairRow:
    """A pair as the table shows it, and what planning has to know of it.

    Attributes
    ----------
    pair : Pair
    image, labels : str
        Names shown.
    facts : str
        Classes, annotated slices and share of the voxels, in words; empty where the pair cannot be read.
    problem : str
        What is wrong, and what to do; empty where the pair can be used.
    fixes : tuple of str
        What would help against the problem.
    values : dict of int to int
        Voxels of each class value that occurs, apart from the background.
    class_slices : dict of int to tuple of int
        Slices along `axis` that hold each of them; empty where there is a problem.
    spec : ImageSpec or None
        Of the image, as training takes it; None where the pair cannot be read.
    slices : tuple of int
        Slices along `axis` that hold anything painted.
    axis : str
        Letter of their axis; empty for a picture.
    background : bool
        Whether a voxel is annotated as background.
    classes : tuple of ClassInfo
        Names and colors that the labels come with.
    provenance : dict of str
        How the labels were made, where their layer or file says it.
    closed : bool
        Whether a layer of it is no longer in the viewer; the pair keeps what the layer holds.
    states : SliceStates or None
        Which slices of the labels were checked or edited; None where that is not known, as of most files.
    numbers : frozenset of int
        Values of the labels where these seem to number objects; else empty.
    look : ScanLook or None
        The image in numbers, to compare models with; None of files and where it cannot be read.
    """

    pair: Pair
    image: str
    labels: str
    facts: str = ""
    problem: str = ""
    fixes: tuple[Fix, ...] = ()
    values: dict[int, int] = field(default_factory=dict)
    class_slices: dict[int, tuple[int, ...]] = field(default_factory=dict)
    spec: ImageSpec | None = None
    slices: tuple[int, ...] = ()
    axis: str = ""
    background: bool = False
    classes: tuple[ClassInfo, ...] = ()
    provenance: dict[str, str] = field(default_factory=dict)
    closed: bool = False
    states: SliceStates | None = None
    numbers: frozenset[int] = frozenset()
    look: ScanLook | None = None

    @property
    def result(self) -> SliceStates | None:
        """The states of slices where nothing but checked and edited ones is annotated; else None."""
        return self.states if self.states is not None and self.states.only else None

    @property
    def annotated(self) -> bool:
        """Whether there is anything to train on, as far as is known."""
        return self.result is None or bool(self.result.annotated)

    @property
    def shown_facts(self) -> str:
        """The facts, and whether a layer was closed."""
        return f"{self.facts}, layer closed" if self.closed and self.facts else self.facts


def active_pair(viewer: Any) -> Pair:
    """The pair that is selected: an image and a labels layer, or one of them and the only one that belongs to it.

    Several selected images on one grid are the channels of one scan, in the order of the layers.

    Parameters
    ----------
    viewer : napari.Viewer or ViewerModel

    Raises
    ------
    DatasetError
        It cannot be told which layers are meant.
    """
    chosen = list(viewer.layers.selection) or list(viewer.layers)
    images = [layer for layer in chosen if isinstance(layer, Image)]
    labels = [layer for layer in chosen if isinstance(layer, Labels)]
    if not viewer.layers.selection:
        images = [layer for layer in images if not is_result(layer)]
    if len(images) == 1 and len(labels) == 1:
        return Pair(layer_source(images[0]), layer_source(labels[0]))
    if len(labels) == 1 and not images:
        return Pair(layer_source(_image_of(labels[0], viewer)), layer_source(labels[0]))
    if len(images) == 1 and not labels:
        return Pair(layer_source(images[0]), layer_source(_labels_of(images[0], viewer)))
    if len(images) > 1 and len(labels) == 1 and viewer.layers.selection and are_channels(images):
        first, *others = sorted(images, key=viewer.layers.index)
        return Pair(Source(layer=first, others=tuple(others)), layer_source(labels[0]))
    there = f"{counted(len(images), 'image')} and {counted(len(labels), 'labels layer')}"
    msg = (
        f"Which pair is meant cannot be told: {there} are {'selected' if viewer.layers.selection else 'there'}. "
        "Select one image and its labels (Ctrl+click)."
    )
    raise DatasetError(msg)


def pairs_from_files(images: Sequence[Path], labels: Sequence[Path]) -> tuple[Pair, ...]:
    """Pairs of files: of equal name, or the only two; ``NAME_0000, NAME_0001, …`` are the channels of NAME.

    Raises
    ------
    DatasetError
        A file is missing, or an image has no labels of its name (or the reverse).
    """
    missing = next((path for path in (*images, *labels) if not path.exists()), None)
    if missing is not None:
        msg = f"{missing} does not exist. Choose it again."
        raise DatasetError(msg)
    if not images or not labels:
        given = f"{counted(len(images), 'image')} and {counted(len(labels), 'label file')}"
        msg = f"{given} were chosen: choose the images, then their labels."
        raise DatasetError(msg)
    if len(images) == 1 and len(labels) == 1:
        return (_file_pair((images[0],), labels[0]),)
    by_name = {stem(path): path for path in labels}
    groups = group_channels(images, set(by_name))
    alone = sorted(groups.keys() ^ by_name.keys())
    if alone or len(by_name) < len(labels):
        which = f"{alone[0]!r} has no {'labels' if alone[0] in groups else 'image'}" if alone else "two labels have one"
        msg = f"The files are not pairs: {which} of the same name. Give image and labels the same name."
        raise DatasetError(msg)
    return tuple(_file_pair(groups[name], by_name[name]) for name in sorted(groups))


def pairs_from_folder(folder: Path) -> tuple[Pair, ...]:
    """Pairs of a data folder; of one with splits those it trains and validates on.

    Raises
    ------
    DatasetError
        As in `prosma_core.io.dataset_folder.open_dataset`.
    """
    found = open_dataset(folder)
    wanted = {*found.splits.get("train", ()), *found.splits.get("val", ())} or found.cases.keys()
    names = sorted(found.class_names.items())
    classes = tuple(ClassInfo(value=v, name=n, color=COLORS[i % len(COLORS)]) for i, (v, n) in enumerate(names))
    cases = [case for name, case in found.cases.items() if name in wanted]
    part = {name: key for key in ("train", "val") for name in found.splits.get(key, ())}
    where = f"{found.splits_file} of {found.root.name}" if found.splits else ""
    pairs = (_file_pair(case.images, case.label, classes) for case in cases)
    return tuple(replace(p, part=part.get(c.name, ""), splits=where) for p, c in zip(pairs, cases, strict=True))


def check(pair: Pair, config: LabelsConfig) -> PairRow:
    """The row of a pair: what its labels hold, or what is wrong with it. Reads voxels: to be run in a thread."""
    row = PairRow(pair, pair.image.name, pair.labels.name)
    try:
        return _check(row, config)
    except ProsmaError as error:
        return replace(row, problem=str(error))
    except Exception as error:  # noqa: BLE001  (a lazy array raises whatever its source does)
        _LOG.warning("A pair cannot be read", exc_info=True)
        return replace(row, problem=f"The values cannot be read: {type(error).__name__}: {error}")


def _check(row: PairRow, config: LabelsConfig) -> PairRow:
    image, labels = read_pair(row.pair.image, row.pair.labels)
    # Two layers are drawn in one world, so that their places can be compared whether or not it is a patient's.
    drawn = row.pair.image.layer is not None and row.pair.labels.layer is not None
    a, b = (replace(image, world="ras"), replace(labels.spec, world="ras")) if drawn else (image, labels.spec)
    named = [info.value for info in classes_known(row.pair.labels, ()) if not unnamed(info)]
    own = Scan(labels.data, b)
    states = states_of_labels(row.pair.labels, own, config.slice_axis)
    scan = image_scan(row.pair.image) if row.pair.image.layer is not None else None
    own_voxels = None if scan is not None and is_large(scan) else lambda: voxels(row.pair.image)
    found = check_pair(a, own, config, named=named, voxels=own_voxels, states=states)
    if states is not None and not states.only and not states.checked and found.axis != states.axis:
        states = states_of_labels(row.pair.labels, own, found.axis)
    problem, fixes = problem_and_fixes(found, a, b)
    model = made_by_model(provenance_of(row.pair.labels))
    known = round(found.annotated * labels.data.size)
    return replace(
        row,
        facts=", ".join(filter(None, (facts(found, labels, image, config, states, model), _format_part(row.pair)))),
        problem=problem,
        fixes=fixes,
        values={} if found.gray else found.values,  # they are no classes
        class_slices=found.class_slices,
        spec=image,
        slices=found.slices,
        axis=found.axis,
        background=known > sum(found.values.values()),
        classes=classes_known(row.pair.labels, tuple(found.values)),
        provenance=provenance_of(row.pair.labels),
        states=states,
        numbers=found.numbers,
        look=None if scan is None or (MADE_FOR in scan.metadata and "synthetic" in scan.metadata) else look_of(scan),
    )


def _format_part(pair: Pair) -> str:
    """Text on the pair's part in the splits of its folder."""
    return {"train": "for training", "val": "for validation"}.get(pair.part, "")


def splits_of(pairs: Sequence[Pair]) -> tuple[tuple[int, ...], str]:
    """Numbers of the pairs that are validated on, as the splits of their data folder say, and a sentence about it.

    Returns
    -------
    validation : tuple of int
        Empty where there are no splits, or not both a pair to train and one to validate on.
    words : str
        Empty without splits.
    """
    names = sorted({pair.splits for pair in pairs if pair.splits})
    if not names:
        return (), ""
    where = ", ".join(names)
    held = tuple(i for i, pair in enumerate(pairs) if pair.part == "val")
    if held and len(held) < len(pairs):
        return held, f"Validation: {len(held)} of {len(pairs)} pairs, as {where} says."
    lacking = "training" if held else "validation"
    return (), f"The splits in {where} are not used: no {lacking} pair of them is in the list."


def _image_of(labels: Labels, viewer: Any) -> Image:
    """The image a labels layer belongs to: it shares its grid, or comes from the same file, or is the only one."""
    images = [layer for layer in viewer.layers if isinstance(layer, Image) and not is_result(layer)]
    fits = [image for image in images if _fit(image, labels)]
    same = [image for image in fits or images if _file(image) is not None and _file(image) == _file(labels)]
    for found in (fits, same, images):
        if len(found) == 1:
            return found[0]
    raise _unclear("image", labels, fits or images)


def _labels_of(image: Image, viewer: Any) -> Labels:
    """The labels layer that belongs to an image: the only one on its grid, or the only one there is."""
    labels = [layer for layer in viewer.layers if isinstance(layer, Labels)]
    fits = [layer for layer in labels if _fit(image, layer)]
    for found in (fits, labels):
        if len(found) == 1:
            return found[0]
    raise _unclear("labels layer", image, fits or labels)


def _unclear(kind: str, layer: Any, found: Sequence[Any]) -> DatasetError:
    if not found:
        what = "Open one." if kind == "image" else "Add one with “New labels layer” and paint the objects in it."
        return DatasetError(f"There is no {kind} for {layer.name}. {what}")
    names = ", ".join(str(each.name) for each in found[:5])
    return DatasetError(
        f"Which {kind} belongs to {layer.name} cannot be told: {names}. Select both layers (Ctrl+click) and add again."
    )


def _fit(image: Image, labels: Labels) -> bool:
    try:
        scan = read(image)
        return lies_on(read_on(labels, scan), scan)
    except ProsmaError:  # a layer that is no scan
        return False


def _file(layer: Any) -> Path | None:
    try:
        return read(layer).path
    except ProsmaError:
        return None


def _file_pair(images: Sequence[Path], label: Path, classes: tuple[ClassInfo, ...] = ()) -> Pair:
    channels = tuple(images) if len(images) > 1 else ()
    name = stem(label) if channels else images[0].name
    return Pair(
        Source(path=images[0], title=name, channels=channels), Source(path=label, title=label.name, classes=classes)
    )
