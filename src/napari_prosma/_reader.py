"""Readers of the plugin: all formats of `prosma_core.io` with geometry, class names and colors; run folders."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from itertools import cycle
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from napari.utils.notifications import show_info, show_warning
from numpy.typing import NDArray

from napari_prosma.jobs.session import recall_looks
from napari_prosma.layers.contours import contour_view
from napari_prosma.layers.patient_view import open_viewers, patient_view
from napari_prosma.layers.placement import drawn_axes, oblique_note, spec_arguments, straight_affine, turn_between
from napari_prosma.layers.pointer import pointer_view
from napari_prosma.layers.results import class_arguments, file_notes, noted_provenance, says_labels
from napari_prosma.layers.scan import METADATA, OPENED_AS, RANGE
from napari_prosma.layers.slices import MARKS, Base, Marks, noted_marks, noted_marks_of
from napari_prosma.layers.source import free_memory
from napari_prosma.layers.stored import FileArray
from napari_prosma.layers.zarr_slices import WINDOW, ZarrArray, ZarrLevel
from prosma_core.config.model import COLORS, ClassInfo
from prosma_core.data.geometry import ImageSpec, Scan
from prosma_core.data.intensities import COLOR, display_window, finite_range
from prosma_core.data.lazy import IN_CORE
from prosma_core.engine.decoder import DECODER
from prosma_core.errors import FileFormatError
from prosma_core.events import Event, Working, drain
from prosma_core.io.class_notes import noted_classes
from prosma_core.io.downloads import Downloads, is_streamed
from prosma_core.io.images import SMALL
from prosma_core.io.names import FORMATS, image_suffix, is_dicom_folder, is_image_path, is_zarr_node, stem
from prosma_core.io.nifti import lazy_nifti
from prosma_core.io.notes import SLICES, made_by_model, read_notes
from prosma_core.io.read_errors import warnings_of
from prosma_core.io.remote import RemotePath, input_path
from prosma_core.io.tiff import lazy_tiff
from prosma_core.io.zarr_images import OpenZarr, open_zarr
from prosma_core.io.zarr_stores import is_zipped
from prosma_core.printable import plain
from prosma_core.runs.run_folder import RunFolder

LayerData = tuple[Any, dict[str, Any], str]
Reader = Callable[[str | list[str]], list[LayerData]]
Drive = Callable[[Path, Generator[Event, None, Any]], Any]
"""Does what reads a URL, and gives its result."""


def at_once(_: Path, work: Generator[Event, None, Any]) -> Any:
    """Do what reads a URL in this thread."""
    return drain(work, lambda _: None)


def get_reader(path: str | list[str]) -> Reader | None:
    """Function that reads this path, None where it is nothing that is read here."""
    paths = [input_path(p) for p in ([path] if isinstance(path, str) else path)]
    return read_paths if paths and all(_is_ours(p) for p in paths) else None


def read_paths(path: str | list[str], drive: Drive = at_once) -> list[LayerData]:
    """Layers of one or several files, folders or URLs.

    Files are decoded by a process of their own (see `prosma_core.engine.decoder`), those of a URL once downloaded;
    a zarr stays on the disk or the server. What is worth knowing is shown: that an oblique scan is drawn along its own
    axes, and what readers warn of.

    Parameters
    ----------
    path : str or list of str
    drive : callable
        For URLs, which may be slow.

    Raises
    ------
    FileFormatError, GeometryError, MissingExtraError
        As in `prosma_core.io.images.read_image`, or a run folder holds no pictures.
    """
    layers: list[LayerData] = []
    for item in [path] if isinstance(path, str) else path:
        layers += _read(input_path(item), drive)
    let_stand()
    return layers


def let_stand() -> None:
    """Let scans and results that are opened now look as with a widget, whichever window they go to."""
    recall_looks()
    for viewer in open_viewers():
        patient_view(viewer)
        contour_view(viewer)
        pointer_view(viewer)


def windowed(layer: LayerData, modality: str = "") -> LayerData:
    """The same image drawn between the values of `display_window`; as it is where it is in color or on disk."""
    data, arguments, kind = layer
    own = arguments["metadata"][METADATA]
    if arguments["rgb"] or not isinstance(data, np.ndarray):
        return layer
    header = own["spec"].header if own["spec"].format == "dicom" else None
    stated = tuple(getattr(header, "window", ())) or None
    window = display_window(data, stated, modality=getattr(header, "modality", "") or modality)
    if window is None:
        return layer
    notes = {METADATA: own | {RANGE: finite_range(data)}}
    return data, {**arguments, "contrast_limits": window, "metadata": notes}, kind


def image_layer_data(data: Any, spec: ImageSpec, name: str, path: Path | None) -> LayerData:
    """An Image layer of an array in memory, its axes turned as `drawn_axes` says and colors last.

    Parameters
    ----------
    data : ndarray
        Axes ``spec.axes``.
    spec : ImageSpec
    name : str
    path : Path or None
        Where it came from.
    """
    axes = drawn_axes(spec)
    rgb = _is_color(spec, data.dtype)
    if rgb:
        axes = axes.replace("c", "") + "c"
    return _layer(data.transpose([spec.axes.index(letter) for letter in axes]), spec, axes, rgb, name, path)


def _zarr_layer(opened: OpenZarr, path: Path) -> LayerData:
    """An Image layer of arrays on disk, which stay as they are."""
    kept = isinstance(path, RemotePath)  # what was shown is not asked for again
    data: Any = [ZarrLevel(level) for level in opened.levels]
    if len(data) == 1:
        (level,) = opened.levels
        data = ZarrArray(level) if kept or level.nbytes > SMALL else level
    rgb = _is_color(opened.spec, opened.levels[0].dtype) and opened.axes.endswith("c")
    data, arguments, kind = _layer(data, opened.spec, opened.axes, rgb, stem(path), path)
    return data, {**arguments, "multiscale": len(opened.levels) > 1}, kind


def _layer(data: Any, spec: ImageSpec, axes: str, rgb: bool, name: str, path: Path | None) -> LayerData:
    straight = straight_affine(spec)
    own: dict[str, Any] = {"spec": spec, "path": str(path) if path else None, "axes": axes, OPENED_AS: "image"}
    if straight is not None:
        own["turn"] = turn_between(spec, straight)
    drawn = spec_arguments(spec, axes[:-1] if rgb else axes, straight)
    return data, {**drawn, "name": name, "rgb": rgb, "metadata": {METADATA: own}}, "image"


def _is_color(spec: ImageSpec, dtype: Any) -> bool:
    return spec.channel_names == COLOR and dtype == "uint8"


def as_labels_data(layer: LayerData, notes: dict[str, Any]) -> LayerData:
    """The same layer as Labels, with the class names, colors and provenance in a file's notes."""
    data, arguments, _ = layer
    classes = noted_classes(notes)
    marks = _marks(data, arguments["metadata"][METADATA], notes)
    arguments = {key: value for key, value in arguments.items() if key != "rgb"}
    if classes:
        arguments |= class_arguments(classes)
    own = {**arguments["metadata"][METADATA], "provenance": noted_provenance(notes), "classes": classes}
    own |= {OPENED_AS: "labels"} | ({MARKS: marks} if marks is not None else {})
    return data, {**arguments, "metadata": {METADATA: own}}, "labels"


def _marks(data: Any, own: dict[str, Any], notes: dict[str, Any]) -> Marks | None:
    """What is kept of the checked and edited slices of a label map; None where nothing is. One on disk stays there."""
    data = data[0] if isinstance(data, list) else data
    spec: ImageSpec = own["spec"]
    if not (made_by_model(notes) or SLICES in notes) or "c" in own["axes"]:
        return None

    def load() -> NDArray[Any]:
        values: NDArray[Any] = np.asarray(data).transpose([own["axes"].index(letter) for letter in spec.axes])
        return values

    if isinstance(data, np.ndarray):
        return noted_marks(notes, Scan(load(), spec))
    return noted_marks_of(notes, spec, lambda axis: Base.on_disk(load, np.dtype(data.dtype), spec, axis))


def _is_ours(path: Path) -> bool:
    if path.is_dir():
        return _is_zarr(path) or path.suffix == ".prosma" or is_dicom_folder(path)
    return bool(image_suffix(path)) or path.suffix.lower() == ".dcm" or is_streamed(path)


def _is_zarr(path: Path) -> bool:
    """Whether it is a zarr, or a member of one."""
    if is_streamed(path) or (path.is_file() and is_zipped(path)):
        return True
    return path.is_dir() and (FORMATS.get(image_suffix(path).lower()) == "zarr" or is_zarr_node(path))


def _read(path: Path, drive: Drive = at_once) -> list[LayerData]:
    if path.suffix == ".prosma" and path.is_dir():
        return _read_run(path)
    drive = drive if isinstance(path, RemotePath) else at_once
    layer, said = drive(path, _reading(path))
    for text in said:
        show_warning(plain(text))
    note = oblique_note(layer[1]["name"], layer[1]["metadata"][METADATA].get("turn"))
    if note:
        show_info(plain(note))
    return [layer]


def _reading(path: Path) -> Generator[Event, None, tuple[LayerData, Sequence[str]]]:
    """The layer of a file or a zarr, and what readers warn of."""
    said: Sequence[str] = ()
    with Downloads() as downloads:
        if _is_zarr(path):
            yield Working("Reading the metadata")
            with warnings_of("prosma_core.io") as said:
                opened = open_zarr(path)
            layer, notes = _zarr_layer(opened, path), opened.notes
            notes = {"kind": "labels", **notes} if opened.labels else notes
            dtype = opened.levels[0].dtype
            if isinstance(path, RemotePath):
                yield from _first_view(layer)
        elif image_suffix(path).lower() == ".seg.nrrd":
            scan = DECODER.read_labels((yield from downloads.fetch(path)))
            layer, dtype = image_layer_data(scan.data, scan.spec, stem(path), path), scan.data.dtype
            notes = {"kind": "labels", **_segment_notes(scan.spec)}
        elif (large := _large(path)) is not None:
            notes, dtype = read_notes(path), large.data.dtype
            layer = image_layer_data(FileArray(large.data, path), large.spec, stem(path), path)
        else:
            file = yield from downloads.fetch(path)
            yield Working("Reading the file")
            found = DECODER.read_file(file)
            scan, said = found.scan, found.warnings
            notes = {**found.notes, **_segment_notes(scan.spec)}
            layer, dtype = image_layer_data(scan.data, scan.spec, stem(path), path), scan.data.dtype
    labels = says_labels(notes, dtype, layer[1]["metadata"][METADATA]["axes"])
    return as_labels_data(layer, notes) if labels else windowed(layer), said


def _first_view(layer: LayerData) -> Generator[Event, None, None]:
    """Read what napari shows first of a zarr on a server; its layer keeps that, as far as a window holds it.

    Of one resolution this is the first slice, then the middle one; of several, all slices of the lower ones.
    """
    data, arguments, _ = layer
    if isinstance(data, list):
        parts = [(level, ()) for level in reversed(data) if level.nbytes <= WINDOW]
    else:
        across = data.ndim - 2 - arguments["rgb"]
        kept = prod(data.shape[across:]) * data.dtype.itemsize <= WINDOW
        middle = tuple((size - 1) // 2 for size in data.shape[:across])
        parts = [(data, index) for index in dict.fromkeys(((0,) * across, middle)) if kept]
    for part, index in parts:
        yield Working("Reading what is shown first")
        part[index]


def _large(path: Path) -> Scan | None:
    """A TIFF or NIfTI too large to be held in memory whose voxels can be read when they are shown; else None."""
    lazy = {"nifti": lazy_nifti, "tiff": lazy_tiff}.get(FORMATS.get(image_suffix(path).lower(), ""))
    if lazy is None or not path.is_file() or path.stat().st_size < SMALL:
        return None
    scan = lazy(path, None)
    return scan if scan is not None and scan.data.nbytes > min(IN_CORE, free_memory() // 2) else None


def _segment_notes(spec: ImageSpec) -> dict[str, str]:
    """Names of the segments of 3D Slicer or of a DICOM segmentation as notes of classes."""
    names: dict[int, str] = dict(getattr(spec.header, "classes", {}) or {})
    infos = [ClassInfo(value=0, name="background", color="#000000")]
    infos += [ClassInfo(value=v, name=n, color=c) for (v, n), c in zip(names.items(), cycle(COLORS[1:]), strict=False)]
    return file_notes({}, infos, "labels") if names else {}


def _read_run(path: Path) -> list[LayerData]:
    """The pictures in a run folder."""
    pictures = [file for file in sorted(path.iterdir()) if is_image_path(file)]
    if pictures:
        return [layer for file in pictures for layer in _read(file)]
    finished, best = path.with_suffix(".safetensors"), RunFolder(path).best
    model = best if best.is_file() and not finished.is_file() else finished
    msg = (
        f"{path.name} is the folder of a training run: it holds settings, splits and models, no pictures. Open a scan "
        f"instead, and choose the run's model in the Segment widget (Browse…): {model}"
    )
    raise FileFormatError(msg)
