"""Annotated scans on disk: images/ and labels/, nnU-Net raw data sets with dataset.json, pairs of files."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prosma_core.config.documents import load_json
from prosma_core.data.frames import time_as_channels
from prosma_core.data.geometry import ImageSpec, Scan, spacing_affine
from prosma_core.data.lazy import LazyArray, as_lazy
from prosma_core.data.pair_check import grid_problem, pasted
from prosma_core.errors import ConfigError, DatasetError, GeometryError
from prosma_core.io.atomic import make_folder
from prosma_core.io.images import (
    is_image_path,
    lazy_image,
    read_image,
    read_labels,
    write_image,
    write_labels,
)
from prosma_core.io.names import stem
from prosma_core.io.ome_tiff import set_members
from prosma_core.io.remote import RemotePath
from prosma_core.printable import counted

_MOST_DIGITS = 9  # of a class or channel number


def _read_json(path: Path) -> Any:
    try:
        return load_json(path.read_bytes())
    except (OSError, ValueError) as error:
        msg = f"{path} cannot be read as JSON: {error}. Correct or remove it."
        raise DatasetError(msg) from error


def find_splits(root: Path) -> Path:
    """The file of splits in a data folder: splits.json, or nnU-Net's splits_final.json where that is the only one."""
    final = root / "splits_final.json"
    return final if final.is_file() and not (root / "splits.json").is_file() else root / "splits.json"


def read_splits(path: Path, cases: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Case names by split, empty where there is no such file; of a list of folds (nnU-Net) those of the first.

    Raises
    ------
    DatasetError
        It is not a JSON object with a list ``"train"``, or a list holds what is not the name of one of `cases`.
    """
    if not path.is_file():
        return {}
    values = _read_json(path)
    if isinstance(values, list) and values:
        values = values[0]
    if not isinstance(values, dict) or not isinstance(values.get("train"), list):
        msg = f'{path} has no list of training cases; {{"train": [...], "val": [...]}} is needed.'
        raise DatasetError(msg)
    splits = {key: tuple(names) for key, names in values.items() if isinstance(names, list)}  # the rest are notes
    for key, names in splits.items():
        if not all(isinstance(name, str) for name in names):
            msg = f"{path}: {key!r} is not a list of case names in quotes. Correct it."
            raise DatasetError(msg)
    unknown = sorted({n for names in splits.values() for n in names} - set(cases))
    if unknown:
        lacking = counted(len(unknown), "case that is", "cases that are")
        msg = f"{path} names {lacking} not there, for example {unknown[0]!r}. Correct it."
        raise DatasetError(msg)
    return splits


def read_names(path: Path) -> tuple[dict[int, str], tuple[str, ...]]:
    """Class names by label value, and channel names, of nnU-Net's dataset.json (version 1 or 2); empty without one.

    Raises
    ------
    DatasetError
        It is no JSON object, a name has no number, or it has region-based classes or an ignore label.
    """
    if not path.is_file():
        return {}, ()
    values = _read_json(path)
    if not isinstance(values, dict):
        msg = f"{path} holds no JSON object with channel and label names. Correct or remove it."
        raise DatasetError(msg)
    classes = {}
    for key, value in _entries(values.get("labels"), path, "labels"):
        number, name = (key, value) if key.isdecimal() else (value, key)
        if isinstance(number, list) or name == "ignore":
            msg = f"{path}: region-based classes and ignore labels are not supported; give each voxel one class number."
            raise DatasetError(msg)
        if not str(number).isdecimal() or len(str(number)) > _MOST_DIGITS:
            msg = f"{path}: label {name!r:.60} has no class number but {number!r:.40}. Give a whole number from 0."
            raise DatasetError(msg)
        classes[int(number)] = str(name)
    channels = _entries(values.get("channel_names") or values.get("modality"), path, "channel_names")
    if not all(key.isdecimal() and len(key) <= _MOST_DIGITS for key, _ in channels):
        msg = f'{path}: channel_names needs the numbers of channels as keys, such as {{"0": "T1", "1": "T2"}}.'
        raise DatasetError(msg)
    return classes, tuple(str(name) for _, name in sorted(channels, key=lambda entry: int(entry[0])))


def _entries(values: Any, path: Path, what: str) -> list[tuple[str, Any]]:
    """Pairs of a JSON object or, numbered, of a list; none where there is nothing."""
    if isinstance(values, list):
        return [(str(i), value) for i, value in enumerate(values)]
    if not isinstance(values, dict | None):
        msg = f"{path}: {what} is neither an object nor a list. Correct or remove it."
        raise DatasetError(msg)
    return list((values or {}).items())


_CHANNEL = re.compile(r"^(.+)_(\d{4})$")


@dataclass(frozen=True)
class Case:
    """One scan: its name, a file per channel (or one with all), and its label file."""

    name: str
    images: tuple[Path, ...]
    label: Path


@dataclass(frozen=True)
class DatasetFolder:
    """What a data folder holds.

    Attributes
    ----------
    cases : dict of Case
        By name, sorted.
    splits : dict of tuple of str
        Case names by split; empty where the folder has no splits.json.
    class_names : dict of int to str
        Names of label values, where the folder says them.
    channel_names : tuple of str
        Names of channels, where the folder says them.
    splits_file : str
        Name of the file that `splits` are from; a list of folds in it is taken by its first.
    """

    root: Path
    cases: dict[str, Case]
    splits: dict[str, tuple[str, ...]] = field(default_factory=dict)
    class_names: dict[int, str] = field(default_factory=dict)
    channel_names: tuple[str, ...] = ()
    splits_file: str = "splits.json"


def open_dataset(root: Path) -> DatasetFolder:
    """Cases, splits and names of a data folder; no image is opened.

    Raises
    ------
    DatasetError
        No such folder, no pairs, an image without a label (or the reverse), or an unusable splits.json.
    """
    nnunet = os.path.isdir(root / "imagesTr")  # noqa: PTH112  (False for a name that is too long)
    image_dir, label_dir = (root / "imagesTr", root / "labelsTr") if nnunet else (root / "images", root / "labels")
    if not os.path.isdir(image_dir) or not os.path.isdir(label_dir):  # noqa: PTH112  (as above)
        msg = (
            f"{root} is not a data folder: it needs images/ and labels/ with "
            "equal names, or imagesTr/ and labelsTr/ with dataset.json."
        )
        raise DatasetError(msg)
    labels: dict[str, Path] = {}
    for path in image_files(label_dir):
        if stem(path) in labels:
            msg = f"{labels[stem(path)].name} and {path.name} are both the label of {stem(path)!r}. Keep one of them."
            raise DatasetError(msg)
        labels[stem(path)] = path
    images = group_channels(image_files(image_dir), set(labels))
    if not labels or not images:
        msg = (
            f"{root} holds {counted(len(images), 'image')} and {counted(len(labels), 'label map')} "
            "of a known format; at least one pair is needed."
        )
        raise DatasetError(msg)
    alone = sorted(images.keys() ^ labels.keys())
    if alone:
        which = "label" if alone[0] in images else "image"
        msg = (
            f"{counted(len(alone), 'case is', 'cases are')} no pair in {root}, for example "
            f"{alone[0]!r} has no {which}. Give image and label the same name."
        )
        raise DatasetError(msg)
    cases = {name: Case(name, images[name], labels[name]) for name in sorted(images)}
    classes, channels = read_names(root / "dataset.json") if nnunet else ({}, ())
    found = find_splits(root)
    return DatasetFolder(root, cases, read_splits(found, cases), classes, channels, found.name)


def input_files(dataset: DatasetFolder) -> list[Path]:
    """Every file that is read of a data folder: images, labels, and the documents beside them."""
    files = [path for case in dataset.cases.values() for path in (*case.images, case.label)]
    return files + sorted(dataset.root.glob("*.json"))


def image_files(folder: Path) -> list[Path]:
    """Files of a folder with the name of an image, sorted; hidden ones (macOS leaves ``._NAME``) are left out.

    Of an OME-TIFF set of several files, all of them in the folder, only the first is given: it is read as the whole.
    """
    return first_of_sets(sorted(p for p in folder.iterdir() if is_image_path(p) and not p.name.startswith(".")))


def first_of_sets(paths: Iterable[Path]) -> list[Path]:
    """The same files without repetition; of an OME-TIFF set, each file of which is read as the whole, the first."""
    found: list[Path] = []
    seen: set[Path] = set()
    for path in paths:
        if path not in seen:
            found.append(path)
            seen.update((path, *(() if isinstance(path, RemotePath) else set_members(path))))
    return found


def group_channels(paths: Iterable[Path], labels: set[str] | None = None) -> dict[str, tuple[Path, ...]]:
    """Files by case name: ``NAME_0000, NAME_0001, …`` are the channels of NAME, in that order.

    Parameters
    ----------
    paths : iterable of Path
    labels : set of str, optional
        Names of label files: a name with its own label is a case of its own, whatever its digits, and so is one
        without any.

    Raises
    ------
    DatasetError
        Two files have the same name, or a channel is missing.
    """
    groups: dict[str, dict[int, Path]] = {}
    for path in sorted(paths):
        name, number = stem(path), 0
        match = _CHANNEL.match(name)
        if match and (labels is None or (name not in labels and match.group(1) in labels)):
            name, number = match.group(1), int(match.group(2))
        if number in groups.setdefault(name, {}):
            msg = f"{groups[name][number].name} and {path.name} are both image {name!r}. Keep one of them."
            raise DatasetError(msg)
        groups[name][number] = path
    for name, files in groups.items():
        if sorted(files) != list(range(len(files))):
            msg = (
                f"Channels of {name!r} are not complete: found "
                f"{', '.join(f'{n:04d}' for n in sorted(files))}; 0000 and on are needed."
            )
            raise DatasetError(msg)
    return {name: tuple(files[n] for n in sorted(files)) for name, files in groups.items()}


def channel_name(path: Path) -> str:
    """NAME for a file ``NAME_0000.nii.gz``, which may be a channel of it; the stem of any other file."""
    match = _CHANNEL.match(stem(path))
    return match.group(1) if match else stem(path)


def read_channels(paths: tuple[Path, ...]) -> Scan:
    """A scan from one file, or from one file per channel.

    Raises
    ------
    GeometryError
        A file has channels of its own, or two have different axes or grids; the text names them.
    FileFormatError
        As in `read_image`.
    """
    first = read_image(paths[0])
    if len(paths) == 1:
        return first
    arrays: list[NDArray[Any]] = []
    for path in paths:
        other = read_image(path) if arrays else first
        if "c" in other.spec.axes:
            msg = f"{path.name} has a channel axis and is one of {len(paths)} channel files. Use one or the other."
            raise GeometryError(msg)
        if other.spec.axes != first.spec.axes:
            msg = (
                f"Channel files need the same axes: {paths[0].name} has axes {first.spec.axes}, "
                f"{path.name} {other.spec.axes}. Save them alike."
            )
            raise GeometryError(msg)
        check_same_grid(first, other, paths[0].name, path.name)
        arrays.append(other.data)
    names = tuple(stem(p) for p in paths)
    return Scan(np.stack(arrays, axis=1 if "t" in first.spec.axes else 0), first.spec.with_channels(names))


def file_classes(labels: ImageSpec) -> dict[int, str]:
    """Names that a label file has for its values: those of 3D Slicer's segments; empty for other files."""
    return dict(getattr(labels.header, "classes", None) or {})


def read_case(case: Case, *, on_image: bool = False) -> tuple[Scan, Scan]:
    """Image and labels of a case, on the same grid; several frames with one label map are channels.

    Parameters
    ----------
    case : Case
    on_image : bool
        Take labels of the image's shape to lie on its voxels, whatever their own geometry says.

    Raises
    ------
    GeometryError
        They lie on different grids; the text names the pair, both shapes and affines.
    FileFormatError, LabelError
        As in `read_image` and `read_labels`.
    """
    image, labels = read_channels(case.images), read_labels(case.label)
    return _paired(case, image, labels, on_image=on_image)


def _paired(case: Case, image: Scan, labels: Scan, *, on_image: bool) -> tuple[Scan, Scan]:
    """Image and labels on the same grid, see `read_case`."""
    if labels.spec.num_frames == 1:
        image = time_as_channels(image, image.spec.num_frames)
    if image.spec.spatial_shape != labels.spec.spatial_shape:
        image = _drop_thin(image, labels)
    if file_classes(labels.spec) and not isinstance(labels.data, LazyArray):  # cropped to what is segmented
        labels = pasted(labels, image.spec) or labels
    a, b = image.spec, labels.spec
    if on_image and (a.spatial_shape, a.num_frames) == (b.spatial_shape, b.num_frames):
        labels = Scan(labels.data, replace(a.labels_spec(), axes=b.axes, shape=b.shape))
    check_same_grid(image, labels, *("/".join(p.parts[-2:]) for p in (case.images[0], case.label)))
    return image, labels


def open_case(case: Case, *, on_image: bool = False) -> tuple[Scan, Scan] | None:
    """A case as of `read_case` whose voxels are `LazyArray`s; None where its image cannot be read by parts.

    Labels that cannot be are read as a whole.

    Parameters
    ----------
    case : Case
    on_image : bool
        As in `read_case`.

    Raises
    ------
    GeometryError, FileFormatError, LabelError
        As in `read_case`.
    """
    if len(case.images) > 1:
        return None
    image = lazy_image(case.images[0])
    if image is None:
        return None
    labels = lazy_image(case.label)
    if labels is None or "c" in labels.spec.axes or labels.data.dtype.kind not in "bui":
        labels = read_labels(case.label)
        if file_classes(labels.spec):
            labels = pasted(labels, image.spec) or labels
    data = labels.data if isinstance(labels.data, LazyArray) else as_lazy(labels.data)
    return _paired(case, image, Scan(data, labels.spec.labels_spec()), on_image=on_image)


def _drop_thin(image: Scan, labels: Scan) -> Scan:
    """The image without a 1-voxel first axis that its 2D label does not have."""
    spec = image.spec
    if spec.spatial_ndim != 3 or labels.spec.spatial_ndim != 2 or spec.spatial_shape[0] != 1:
        return image
    at = spec.axes.index("z")
    shape = spec.shape[:at] + spec.shape[at + 1 :]
    new = replace(
        spec,
        axes=spec.axes.replace("z", ""),
        shape=shape,
        spacing=spec.spacing[1:],
        affine=spec.affine[1:, 1:],
        world="image",
    )
    data = image.data[(*[slice(None)] * at, 0)] if isinstance(image.data, LazyArray) else image.data.reshape(shape)
    return Scan(data, new)


def check_same_grid(a: Scan, b: Scan, name_a: str, name_b: str) -> None:
    """Raise `GeometryError` unless two scans have the same spatial shape and, where both know it, the same affine."""
    problem = grid_problem(a.spec, b.spec, name_a, name_b)
    if problem:
        raise GeometryError(problem)


def open_cases(
    data: Path | None, pairs: Sequence[tuple[Path, Path]], validation: Collection[int] = ()
) -> DatasetFolder:
    """Cases of a data folder and of pairs of files together; no image is opened.

    A pair's case has the name of its image, with ``-2``, ``-3``, … where another case has it. Where the folder has
    splits, pairs are trained on, apart from those that are validated on.

    Parameters
    ----------
    data : Path or None
    pairs : sequence of (Path, Path)
        Image and label file.
    validation : collection of int
        Numbers of the pairs that are validated on; where there are some, nothing else is drawn.

    Raises
    ------
    ConfigError
        Neither is given, or a pair to be validated on is none of them.
    DatasetError
        A file is not there, or as in `open_dataset`.
    """
    if data is None and not pairs:
        msg = "No data was given: name a folder (--data) or pairs of files (--pair IMAGE LABELS)."
        raise ConfigError(msg)
    folder = open_dataset(data) if data is not None else DatasetFolder(Path("pairs"), {})
    cases = dict(folder.cases)
    for image, labels in pairs:
        for path in (image, labels):
            if not path.exists():
                msg = f"{path} of the pair {image.name} and {labels.name} does not exist. Correct the path."
                raise DatasetError(msg)
    added = free_names((stem(image) for image, _ in pairs), cases)
    cases |= {name: Case(name, (image,), labels) for name, (image, labels) in zip(added, pairs, strict=True)}
    if wrong := [number for number in validation if number >= len(added)]:
        there = counted(len(added), "pair")
        msg = f"Pair {wrong[0]} is to be validated on, but the data holds {there}, numbered from 0."
        raise ConfigError(msg)
    splits = dict(folder.splits)
    if splits or validation:
        held = tuple(added[number] for number in sorted(set(validation)))
        trained = splits.get("train", tuple(folder.cases))
        splits["train"] = (*trained, *(name for name in added if name not in held))
        splits["val"] = (*splits.get("val", ()), *held)
    return replace(folder, cases=cases, splits=splits)


def storable(spec: ImageSpec, packed: str = "") -> tuple[ImageSpec, str]:
    """What can be stored of a geometry, and the suffix of the format that does.

    An array that is turned or mirrored in a world without a patient is stored straight: without a patient, training
    looks at voxel sizes only.

    Parameters
    ----------
    spec : ImageSpec
    packed : str
        ``".gz"`` for a NIfTI that is compressed.
    """
    if spec.world == "ras" and spec.spatial_ndim == 3:
        return spec, f".nii{packed}"
    origin = tuple(float(value) for value in spec.affine[:-1, -1])
    return replace(spec, world="image", affine=spacing_affine(spec.spacing, origin)), ".ome.zarr"


def store_image(folder: Path, name: str, image: Scan) -> Path:
    """File of an image, as ``images/NAME`` of a folder; what this program wrote there under the same name is replaced.

    Raises
    ------
    OutputError
        It cannot be written, or something else has its name.
    """
    spec, suffix = storable(image.spec)
    path = folder / "images" / f"{name}{suffix}"
    make_folder(path.parent)
    write_image(path, image.data, spec, overwrite=True)
    return path


def store_labels(folder: Path, name: str, labels: Scan) -> Path:
    """File of labels, as ``labels/NAME`` of a folder; otherwise as `store_image`.

    Raises
    ------
    LabelError
        They are not whole numbers from 0.
    OutputError
        As in `store_image`.
    """
    spec, suffix = storable(labels.spec, ".gz")
    path = folder / "labels" / f"{name}{suffix}"
    make_folder(path.parent)
    write_labels(path, labels.data, spec, overwrite=True)
    return path


def free_names(wanted: Iterable[str], taken: Collection[str] = ()) -> tuple[str, ...]:
    """These names, with ``-2``, ``-3``, … behind those that are taken or came before."""
    names: list[str] = []
    gone = set(taken)
    for each in wanted:
        name, number = each, 2
        while name in gone:
            name, number = f"{each}-{number}", number + 1
        names.append(name)
        gone.add(name)
    return tuple(names)
