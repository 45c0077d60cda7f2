"""Layers of training pairs written as files into the run folder; resampling of labels onto the image."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import shutil
from collections.abc import Collection, Generator, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from napari.layers import Labels
from numpy.typing import NDArray

from napari_prosma.layers.results import file_notes, labels_layer
from napari_prosma.layers.scan import LayerScan
from napari_prosma.layers.slices import Base, Marks, keep, marks_of, noted_marks, usual_axis
from napari_prosma.layers.source import is_large, own_file
from napari_prosma.train.pairs import Pair
from napari_prosma.train.sources import Source, classes_known, image_scan, labels_scan, provenance_of, states_of_labels
from prosma_core.config.model import ClassInfo
from prosma_core.config.training import RunConfig, load_run_yaml
from prosma_core.data.geometry import ImageSpec, Scan
from prosma_core.data.slices import SliceStates
from prosma_core.engine.decoder import DECODER
from prosma_core.errors import GeometryError, OutputError, ProsmaError
from prosma_core.io.atomic import copy_atomic
from prosma_core.io.dataset_folder import free_names, storable
from prosma_core.io.images import write_image, write_labels
from prosma_core.io.names import image_suffix, safe_name, stem
from prosma_core.io.nifti import create_nifti
from prosma_core.io.notes import noted_slices, slices_note
from prosma_core.io.output_plan import OutputPlan
from prosma_core.io.remote import input_path
from prosma_core.io.zarr_images import create_zarr
from prosma_core.printable import counted
from prosma_core.runs.run_folder import RunFolder

_LOG = logging.getLogger(__name__)

Files = tuple[tuple[Path, Path], ...]
_STORED: dict[str, np.dtype[Any]] = {"bool": np.dtype(np.uint8), "float16": np.dtype(np.float32)}
"""How images are stored whose type a file does not hold."""
MOST_NAMED = 3
"""Names that a sentence holds at most."""


def write_pairs(pairs: Sequence[Pair], folder: Path) -> Generator[str, None, Files]:
    """Write the layers of pairs into a folder as ``images/NAME`` and ``labels/NAME``. To be run in a thread.

    A layer that lies on a patient's grid becomes a NIfTI with the header of its file, any other an OME-Zarr. Both keep
    axes, voxel size, unit and values; NIfTI keeps no names of channels. Of an image larger than memory, a link to its
    file is made where this says the same, else the file is written part by part. Files of pairs stay where they are,
    apart from those that hold one channel each, which are put into one, and from labels that are to be copied.

    Parameters
    ----------
    pairs : sequence of Pair
        Without problems.
    folder : Path
        Made where it is not there; what it holds under the same names is replaced.

    Yields
    ------
    str
        What is done next, in words.

    Returns
    -------
    tuple of (Path, Path)
        Image and labels of each pair, for `RunConfig.pairs`.

    Raises
    ------
    ProsmaError
        A layer or file cannot be read, the folder not be written, or it holds a file of a pair.
    """
    plan = OutputPlan(file for pair in pairs for source in (pair.image, pair.labels) for file in _files_of(source))
    plan.check(folder / "images")
    plan.check(folder / "labels")
    images, labels = _made(folder / "images"), _made(folder / "labels")
    image_names = _file_names([pair.image for pair in pairs])
    label_names = _file_names([pair.image for pair in pairs], each=True)
    done: dict[tuple[int, ...], Path] = {}
    files = []
    for i, pair in enumerate(pairs):
        key = pair.image.key
        if key not in done:
            words = f"Writing {pair.image.name} ({i + 1} of {len(pairs)})"
            yield words
            done[key] = yield from _write_image(pair.image, images / image_names[i], words)
        yield f"Writing {pair.labels.name} ({i + 1} of {len(pairs)})"
        files.append((done[key], _write_labels(pair, labels / label_names[i])))
    return tuple(files)


def write_changed(pair: Pair, label: Path, before: bytes | None, number: int) -> tuple[Path, Path, bytes] | None:
    """Write the labels layer of a pair anew where it has changed. To be run in a thread.

    Parameters
    ----------
    pair : Pair
        Whose labels are a layer.
    label : Path
        What `write_pairs` wrote of it, or what took its place.
    before : bytes or None
        Hash of the labels that were written last; None: those in the file.
    number : int
        For the name of the new file, which lies in a folder beside that of the labels.

    Returns
    -------
    tuple of (Path, Path, bytes) or None
        The label file, the new one, and the hash of the labels in it; None where they are as before.

    Raises
    ------
    ProsmaError
        As in `write_pairs`.
    """
    scan = labels_scan(pair.labels, image_scan(pair.image) if pair.image.layer is not None else None)
    now = _hash(scan.data, states_of_labels(pair.labels, scan))
    if before is None:
        before = _hash(DECODER.read_labels(label).data, noted_slices(DECODER.read_notes(label)))
    if now == before:
        return None
    folder = _made(changed_folder(label))
    return label, _write_labels(pair, folder / f"{number}-{stem(label)}"), now


def _hash(labels: NDArray[np.integer], states: SliceStates | None) -> bytes:
    """Hash of label values, whatever their dtype is, and of what a file notes on checked and edited slices."""
    found = hashlib.blake2b(f"{labels.shape} {slices_note(states)}".encode())
    for plane in labels:  # never all of a large scan at once
        found.update(plane.astype(np.int64).tobytes())
    return found.digest()


def changed_folder(label: Path) -> Path:
    """Where `write_changed` writes, of any label file of a run."""
    return label.parent.with_name("changed")


def remove_files(paths: Iterable[Path]) -> None:
    """Remove files, or folders, that nobody needs any more; what cannot be removed stays."""
    for path in paths:
        with contextlib.suppress(OSError):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def case_names(pairs: Sequence[Pair]) -> tuple[str, ...]:
    """Case names of the pairs in a run; its split is drawn among them."""
    written = _file_names([pair.image for pair in pairs])
    plain = [pair.image.layer is None and not pair.image.channels for pair in pairs]
    found = (stem(p.image.paths[0]) if own else name for p, own, name in zip(pairs, plain, written, strict=True))
    return free_names(found)


def left_out(pairs: Sequence[Pair], folder: RunFolder) -> str:
    """Sentences on current pairs that a resumed run does not use, or not as it began; empty where it uses all.

    A run goes on with its own copies of layers, and of the saved labels of a series; other files it reads again. To be
    run in a thread.

    Raises
    ------
    ConfigError
        The settings in its folder are damaged.
    """
    run = RunConfig.parse(load_run_yaml(folder.run_yaml), str(folder.run_yaml))
    labels = [path.absolute() for _, path in run.pairs]
    names = _file_names([pair.image for pair in pairs], each=True)
    root = folder.root.absolute()
    missing, anew = [], []
    for pair, name in zip(pairs, names, strict=True):
        path = pair.labels.paths[0].absolute() if pair.labels.paths else None
        if path in labels and path is not None:
            anew += [pair.image.name] if _changed_since(path, folder.run_yaml) else []
            continue
        own = [path for path in labels if stem(path) == name and path.is_relative_to(root)]
        try:
            if not any(_is_copy(path, pair) for path in own):
                missing.append(f"{pair.image.name} ({'changed' if own else 'added'} since)")
        except ProsmaError:
            missing.append(f"{pair.image.name} (cannot be compared)")
    words = []
    if missing:
        number = len([path for path in labels if path.is_relative_to(root)])
        kept = f"its own copies of {counted(number, 'pair')}" if number else f"its {counted(len(labels), 'pair')}"
        words.append(f"This run continues with {kept}. Not in it: {_some(missing)}. Train anew to use all.")
    if anew:
        words.append(f"Label files changed since are learned in their present state: {_some(anew)}.")
    return " ".join(words)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _changed_since(path: Path, other: Path) -> bool:
    """Whether a file, or anything in a folder, was written later than another file."""
    try:
        return any(each.stat().st_mtime_ns > other.stat().st_mtime_ns for each in (path, *path.rglob("*")))
    except OSError:  # the run reports it when it reads the file
        return False


def _is_copy(path: Path, pair: Pair) -> bool:
    """Whether a label file of a run holds what the labels of a pair, a layer or a file, hold now."""
    if pair.labels.layer is None:
        now = pair.labels.paths[0]
        return _holds(path, DECODER.read_labels(now), noted_slices(DECODER.read_notes(now)))
    scan = labels_scan(pair.labels, image_scan(pair.image) if pair.image.layer is not None else None)
    return _holds(path, scan, states_of_labels(pair.labels, scan))


def _holds(path: Path, labels: Scan, states: SliceStates | None) -> bool:
    """Whether a file holds these labels, and the same slices of them are checked and edited."""
    same = slices_note(noted_slices(DECODER.read_notes(path))) == slices_note(states)
    return same and np.array_equal(DECODER.read_labels(path).data, labels.data)


def unlearned(pairs: Sequence[tuple[Pair, Path]]) -> str:
    """Sentence on labels that are not as a training has learned them last; empty where all are. To be run in a thread.

    Parameters
    ----------
    pairs : sequence of (Pair, Path)
        Each with its label file in the run folder, which holds what was learned.
    """
    late = []
    for pair, label in pairs:
        with contextlib.suppress(ProsmaError):  # it cannot be compared
            scan = labels_scan(pair.labels, image_scan(pair.image) if pair.image.layer is not None else None)
            if not _holds(label, scan, states_of_labels(pair.labels, scan)):
                late.append(pair.labels.name)
    if not late:
        return ""
    more = f" and {len(late) - MOST_NAMED} more" if len(late) > MOST_NAMED else ""
    return f"Not in this model: what was painted last in {', '.join(late[:MOST_NAMED])}{more}. Train again to learn it."


def autosave(pairs: Sequence[Pair], folder: Path) -> list[Path]:
    """Write all labels layers as they are now, each whole or not at all. To be run in a thread.

    Parameters
    ----------
    pairs : sequence of Pair
    folder : Path
        Made where it is not there; what an earlier call wrote for the same pairs is replaced.

    Returns
    -------
    list of Path
        Files written; pairs whose labels are a file have none.

    Raises
    ------
    OutputError
        A layer could not be saved; the others were.
    """
    folder = _made(folder)
    names = _file_names([pair.labels for pair in pairs])
    written: list[Path] = []
    failed: list[str] = []
    for name in dict.fromkeys(names):
        pair = pairs[names.index(name)]
        if pair.labels.layer is None:
            continue
        try:
            written.append(_write_labels(pair, folder / name))
        except ProsmaError as error:
            failed.append(f"{pair.labels.name}: {error}")
        except Exception as error:  # noqa: BLE001  (a lazy array raises whatever its source does)
            _LOG.warning("Labels cannot be read", exc_info=True)
            failed.append(f"{pair.labels.name}: {type(error).__name__}: {error}")
    if failed:
        msg = f"Labels could not be saved. {'; '.join(failed)}"
        raise OutputError(msg)
    return written


def _files_of(source: Source) -> tuple[Path, ...]:
    """Files that are read for an image or labels."""
    if source.layer is None:
        return source.paths
    path = source.layer.source.path
    return (input_path(path),) if path else ()


def _write_image(source: Source, path: Path, words: str) -> Generator[str, None, Path]:
    """File of an image, written where it is none yet; `path` lacks its suffix."""
    phantom = ""
    if source.layer is not None:
        layer = image_scan(source)
        if is_large(layer):
            return (yield from _store_image(layer, path, words))
        scan, phantom = Scan(layer.load(), layer.spec), str(layer.metadata.get("synthetic", ""))
    elif source.channels:
        scan = DECODER.read_channels(source.channels)
    else:
        return source.paths[0].absolute()
    spec, suffix = storable(scan.spec)
    path = path.with_name(path.name + suffix)
    notes = file_notes({"program": "phantom", "synthetic": phantom}, (), "image") if phantom else None
    write_image(path, scan.data, spec, overwrite=True, provenance=notes)
    return path


def _store_image(scan: LayerScan, path: Path, words: str) -> Generator[str, None, Path]:
    """A link to the file of a large image, or a copy that is written by parts; `path` lacks its suffix."""
    file = own_file(scan)
    if file is not None:
        link = path.with_name(path.name + (image_suffix(file) or ".zarr"))
        remove_files([link])
        with contextlib.suppress(OSError):  # no links on this file system, or not for this user
            link.symlink_to(file, target_is_directory=file.is_dir())
            return link
    spec, suffix = storable(scan.spec)
    path = path.with_name(path.name + suffix)
    remove_files([path])
    dtype = _STORED.get(scan.dtype.name, scan.dtype)
    size, free = math.prod(spec.shape) * dtype.itemsize, shutil.disk_usage(path.parent).free
    if size > free:
        msg = (
            f"{scan.name} is no file that can be read by parts, and a copy of it would take {size >> 20} MiB of "
            f"{path.parent}, where {free >> 20} MiB are free. Save it as .zarr, open that, and train on it."
        )
        raise OutputError(msg)
    chunks = scan.chunks if max(scan.chunks) > 1 else None
    try:
        made: Any = create_nifti(path, dtype, spec) if suffix == ".nii" else create_zarr(path, dtype, spec, {}, chunks)
        for share in scan.fill(made):
            yield f"{words}: {share:.0%}"
    except BaseException:
        remove_files([path])
        raise
    return path


def _write_labels(pair: Pair, path: Path) -> Path:
    """File of labels, written where they are none yet, or are to be copied; `path` lacks its suffix."""
    if pair.labels.layer is None:
        file = pair.labels.paths[0].absolute()
        if not pair.labels.copied:
            return file
        path = path.with_name(path.name + image_suffix(file))
        copy_atomic(file, path)
        return path
    return write_labels_layer(pair, path)[0]


def write_labels_layer(pair: Pair, path: Path) -> tuple[Path, SliceStates | None]:
    """Write the labels layer of a pair. To be run in a thread.

    Parameters
    ----------
    pair : Pair
    path : Path
        Without suffix; its folder is there.

    Returns
    -------
    path : Path
        The file.
    states : SliceStates or None
        Checked and edited slices in it.

    Raises
    ------
    ProsmaError
        As in `write_pairs`.
    """
    source = pair.labels
    scan = labels_scan(source, image_scan(pair.image) if pair.image.layer is not None else None)
    spec, suffix = storable(scan.spec, ".gz")
    if pair.image.layer is not None and is_large(image_scan(pair.image)):
        spec, suffix = storable(replace(scan.spec, header=None))  # is read by parts, as the image is
    path = path.with_name(path.name + suffix)
    states = states_of_labels(source, scan)
    notes = file_notes(provenance_of(source), classes_known(source, ()), "labels", states)
    write_labels(path, scan.data, spec, overwrite=True, provenance=notes)
    return path, states


def _file_names(sources: Iterable[Source], *, each: bool = False) -> list[str]:
    """File name, without suffix, of each source: its own made safe, the same for the same layer unless `each`."""
    names: list[str] = []
    known: dict[tuple[int, ...], str] = {}
    for source in sources:
        key = source.key
        if key in known and not each:
            names.append(known[key])
            continue
        suffix = image_suffix(Path(safe_name(source.name)))
        wanted = safe_name(safe_name(source.name).removesuffix(suffix))
        name, number = wanted, 2
        while name.lower() in {other.lower() for other in names}:
            name, number = f"{wanted}-{number}", number + 1
        names.append(name)
        known[key] = name
    return names


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"Cannot make the folder {folder}: {error.strerror or error}. Check the free space and its permissions."
        raise OutputError(msg) from error
    return folder


def resampled(pair: Pair, *, voxel_by_voxel: bool = False) -> Labels:
    """The labels of a pair on the grid of its image, as a new layer; the user's own stays as it is.

    To be run in a thread.

    Parameters
    ----------
    pair : Pair
        Of layers or files.
    voxel_by_voxel : bool
        Take each voxel of the labels for the image's of the same index, wherever the labels lie.

    Returns
    -------
    Labels
        Each voxel has the value of the one nearest to it, and 0 outside of the labels. Not yet in a viewer.

    Raises
    ------
    GeometryError
        They have another number of axes or time points, or another shape where it has to be the same.
    ProsmaError
        One of the two cannot be read.
    """
    image = image_scan(pair.image)
    labels = labels_scan(pair.labels, image if pair.image.layer is not None else None)
    if labels.spec.num_frames == 1 and "t" in image.axes:
        image = _first_frame(image)
    if labels.spec.spatial_ndim != image.spec.spatial_ndim or labels.spec.num_frames != image.spec.num_frames:
        msg = (
            f"{pair.labels.name} cannot be resampled to {pair.image.name}: axes {labels.spec.axes} and shape "
            f"{labels.spec.shape} do not go with {image.spec.axes} and {image.spec.shape}."
        )
        raise GeometryError(msg)
    if voxel_by_voxel and labels.spec.spatial_shape != image.spec.spatial_shape:
        msg = (
            f"{pair.labels.name} has the shape {labels.spec.spatial_shape}, {pair.image.name} "
            f"{image.spec.spatial_shape}: its {image.spec.voxel_word}s are not those of the image. Resample it."
        )
        raise GeometryError(msg)
    values = labels.data if voxel_by_voxel else _nearest(labels, image.spec)
    known = classes_known(pair.labels, tuple(int(v) for v in np.unique(values) if v))
    classes = known if known and known[0].value == 0 else (_BACKGROUND, *known)
    name = f"{pair.labels.name} on {pair.image.name}"
    shape, provenance = image.spec.labels_spec().shape, provenance_of(pair.labels)
    result = labels_layer(image, values.reshape(shape), classes, name, provenance)
    if pair.labels.layer is not None:
        result.colormap = pair.labels.layer.colormap
        marks = marks_of(pair.labels.layer)
    else:
        marks = noted_marks(DECODER.read_notes(pair.labels.paths[0]), labels)
    if marks is not None and not voxel_by_voxel:
        marks = _marks_on(marks, labels.spec, image.spec.labels_spec())
    if marks is not None:
        keep(result, marks)
    return result


def _marks_on(marks: Marks, labels: ImageSpec, grid: ImageSpec) -> Marks | None:
    """Marks of resampled labels: what was corrected stays so; None where nothing was kept to compare with.

    Slices are those nearest to the ones before. Where they are turned, no slice was in view as a whole.
    """
    values = marks.base.values(labels) if marks.base is not None else None
    if values is None:
        return None
    base = Scan(_nearest(Scan(values, labels), grid).reshape(grid.shape), grid)
    n, to_labels = grid.spatial_ndim, np.linalg.solve(labels.affine, grid.affine)
    if not marks.axis:
        return Marks("", marks.checked, marks.edited, Base.of(base, ""))
    at = labels.spatial_axes.index(marks.axis)
    (along,) = np.nonzero(np.abs(to_labels[at, :n]) > TURNED * np.abs(to_labels[at, :n]).max())
    if len(along) > 1:
        axis = usual_axis(grid)
        everything = frozenset(range(grid.num_frames * grid.size(axis)))
        return Marks(axis, base=Base.of(base, axis), across=everything)
    axis = grid.spatial_axes[along[0]]
    places = np.rint(to_labels[at, along[0]] * np.arange(grid.size(axis)) + to_labels[at, n]).astype(int)
    size, there = labels.size(marks.axis), list(enumerate(places.tolist()))
    of = [
        (frame * len(there) + i, frame * size + place)
        for frame in range(grid.num_frames)
        for i, place in there
        if 0 <= place < size
    ]

    def moved(which: Collection[int]) -> tuple[int, ...]:
        return tuple(number for number, before in of if before in which)

    return Marks(
        axis,
        moved(marks.checked),
        moved(marks.edited),
        Base.of(base, axis),
        seen=frozenset(moved(marks.seen)),
        across=frozenset(moved(marks.across)),
    )


TURNED = 1e-3
"""Share of a step along the slices' axis from which on another axis of a grid counts as going through slices."""


_BACKGROUND = ClassInfo(value=0, name="background", color="#000000")


def _nearest(labels: Scan, grid: ImageSpec) -> NDArray[np.integer]:
    """Labels at the voxels of a grid; shape (frames, *grid)."""
    from scipy import ndimage

    n = grid.spatial_ndim
    to_labels = np.linalg.solve(labels.spec.affine, grid.affine)
    frames = labels.data.reshape(-1, *labels.spec.spatial_shape)
    out = np.zeros((len(frames), *grid.spatial_shape), labels.data.dtype)
    for frame, target in zip(frames, out, strict=True):
        ndimage.affine_transform(
            frame, to_labels[:n, :n], to_labels[:n, n], grid.spatial_shape, target, order=0, mode="grid-constant"
        )
    return out


def _first_frame(scan: LayerScan) -> LayerScan:
    """One time point of a scan, for labels without time."""
    at = scan.axes.index("t")
    spec, first = scan.spec, scan.spec.axes.index("t")
    shape = spec.shape[:first] + spec.shape[first + 1 :]
    return replace(
        scan,
        axes=scan.axes.replace("t", ""),
        spec=replace(spec, axes=spec.axes.replace("t", ""), shape=shape),
        data=scan.data[(slice(None),) * at + (0,)],
        placement=scan.placement.without(at),
    )
