"""Readers: NIfTI, zarr and DICOM with their geometry, run folders; label maps of ours with class names and colours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from napari.utils.notifications import show_info

from napari_prosma._shared.layer_scan import METADATA
from napari_prosma._shared.oblique import oblique_note, straight_affine, turn_between
from napari_prosma._shared.placement import drawn_axes, spec_arguments
from napari_prosma._shared.result_layers import class_arguments
from napari_prosma._shared.result_notes import noted_classes, noted_provenance, says_labels
from prosma_core.data.geometry import ImageSpec
from prosma_core.data.intensities import COLOUR
from prosma_core.errors import FileFormatError
from prosma_core.io.images import read_image
from prosma_core.io.names import image_suffix, is_dicom_folder, is_image_path, stem
from prosma_core.io.notes import read_notes
from prosma_core.io.run_folder import RunFolder
from prosma_core.io.zarr_images import OpenZarr, open_zarr

LayerData = tuple[Any, dict[str, Any], str]
Reader = Callable[[str | list[str]], list[LayerData]]

_FILES = {".nii", ".nii.gz"}
_FOLDERS = {".zarr", ".ome.zarr"}


def get_reader(path: str | list[str]) -> Reader | None:
    """Function that reads this path, None where it is nothing that is read here."""
    paths = [Path(p) for p in ([path] if isinstance(path, str) else path)]
    return read_paths if paths and all(_is_ours(p) for p in paths) else None


def read_paths(path: str | list[str]) -> list[LayerData]:
    """Layers of one or several files or folders; of an oblique scan it is said that it is drawn along its own axes.

    Raises
    ------
    FileFormatError, GeometryError, MissingExtraError
        As in `prosma_core.io.images.read_image`, or a run folder holds no pictures.
    """
    layers: list[LayerData] = []
    for item in [path] if isinstance(path, str) else path:
        layers += _read(Path(item))
    return layers


def image_layer_data(data: Any, spec: ImageSpec, name: str, path: Path | None) -> LayerData:
    """An Image layer of an array in memory, its axes turned as `drawn_axes` says and colours last.

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
    rgb = _is_colour(spec, data.dtype)
    if rgb:
        axes = axes.replace("c", "") + "c"
    return _layer(data.transpose([spec.axes.index(letter) for letter in axes]), spec, axes, rgb, name, path)


def _zarr_layer(opened: OpenZarr, path: Path) -> LayerData:
    """An Image layer of arrays on disk, which stay as they are."""
    data = opened.levels if len(opened.levels) > 1 else opened.levels[0]
    rgb = _is_colour(opened.spec, opened.levels[0].dtype) and opened.axes.endswith("c")
    data, arguments, kind = _layer(data, opened.spec, opened.axes, rgb, stem(path), path)
    return data, {**arguments, "multiscale": len(opened.levels) > 1}, kind


def _layer(data: Any, spec: ImageSpec, axes: str, rgb: bool, name: str, path: Path | None) -> LayerData:
    straight = straight_affine(spec)
    own: dict[str, Any] = {"spec": spec, "path": str(path) if path else None, "axes": axes}
    if straight is not None:
        own["turn"] = turn_between(spec, straight)
    drawn = spec_arguments(spec, axes[:-1] if rgb else axes, straight)
    return data, {**drawn, "name": name, "rgb": rgb, "metadata": {METADATA: own}}, "image"


def _is_colour(spec: ImageSpec, dtype: Any) -> bool:
    return spec.channel_names == COLOUR and dtype == "uint8"


def as_labels_data(layer: LayerData, notes: dict[str, Any]) -> LayerData:
    """The same layer as Labels, with the class names, colours and provenance in a file's notes."""
    data, arguments, _ = layer
    classes = noted_classes(notes)
    arguments = {key: value for key, value in arguments.items() if key != "rgb"}
    if classes:
        arguments |= class_arguments(classes)
    own = {**arguments["metadata"][METADATA], "provenance": noted_provenance(notes), "classes": classes}
    return data, {**arguments, "metadata": {METADATA: own}}, "labels"


def _is_ours(path: Path) -> bool:
    suffix = image_suffix(path).lower()
    if path.is_dir():
        return suffix in _FOLDERS or path.suffix == ".prosma" or is_dicom_folder(path)
    return suffix in _FILES


def _read(path: Path) -> list[LayerData]:
    if path.suffix == ".prosma" and path.is_dir():
        return _read_run(path)
    if image_suffix(path).lower() in _FOLDERS:
        opened = open_zarr(path)
        layer, notes = _zarr_layer(opened, path), opened.notes
        dtype = opened.levels[0].dtype
    else:
        scan = read_image(path)
        layer = image_layer_data(scan.data, scan.spec, stem(path), path)
        notes, dtype = read_notes(path) if scan.spec.format == "nifti" else {}, scan.data.dtype
    note = oblique_note(layer[1]["name"], layer[1]["metadata"][METADATA].get("turn"))
    if note:
        show_info(note)
    labels = says_labels(notes, dtype, layer[1]["metadata"][METADATA]["axes"])
    return [as_labels_data(layer, notes) if labels else layer]


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
