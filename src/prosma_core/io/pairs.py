"""Training cases from pairs of files, beside a data folder or without one."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from prosma_core.data.geometry import ImageSpec, Scan, spacing_affine
from prosma_core.errors import ConfigError, DatasetError
from prosma_core.io.atomic import make_folder
from prosma_core.io.dataset_folder import Case, DatasetFolder, open_dataset
from prosma_core.io.images import write_image, write_labels
from prosma_core.io.names import stem
from prosma_core.printable import counted


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
