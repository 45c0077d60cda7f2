"""Writers of the plugin: Image and Labels layers with their geometry, never over the scan of a layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from napari_prosma.layers.patient_view import open_viewers
from napari_prosma.layers.placement import Placement
from napari_prosma.layers.results import file_notes
from napari_prosma.layers.scan import METADATA, OPENED_AS, LayerScan, read_arrays
from napari_prosma.layers.slices import MARKS, Marks, noted_states, states_of
from napari_prosma.layers.source import is_large
from napari_prosma.layers.stored import is_on_disk
from prosma_core.data.geometry import Scan
from prosma_core.errors import LabelError, OutputError
from prosma_core.io.images import write_image, write_labels, written_format
from prosma_core.io.labels import one_channel
from prosma_core.io.output_plan import OutputPlan
from prosma_core.io.zarr_parts import write_parts


def write_labels_layer(path: str, data: Any, meta: dict[str, Any]) -> list[str]:
    """Write a Labels layer; a file that is there is replaced (napari has asked).

    Parameters
    ----------
    path : str
        Ends with one of `prosma_core.io.names.LABEL_SUFFIXES` (`write_image_layer`: of `WRITTEN_SUFFIXES`).
    data : array-like, or list of them for several levels
        Only the finest level is written.
    meta : dict
        The layer's attributes. A layer that still lies as read is written with the affine and header of its file.

    Returns
    -------
    list of str
        What was written.

    Raises
    ------
    OutputError, LabelError, GeometryError
        As in `prosma_core.io.images.write_labels`, or `path` is the scan of a layer (see `check_saving`); or the layer
        lies on a disk, is too large for memory, and `path` is no zarr.
    """
    labels_writer(path, data, meta)()
    return [path]


def labels_writer(path: str, data: Any, meta: dict[str, Any]) -> Callable[[], None]:
    """Check that a Labels layer may be written, and give what writes it, which may run in a thread.

    Parameters and errors are those of `write_labels_layer`; what other layers lie in that file is looked up now, as
    viewers are those of the GUI thread.
    """
    check_saving(Path(path), meta, "labels")

    def write() -> None:
        scan = _scan(data, meta)
        if is_on_disk(scan.data) and is_large(scan):
            _write_parts(Path(path), scan, "labels")
            return
        labels = one_channel(scan.load(), scan.spec.axes, f"the layer {scan.name}")
        marks = scan.metadata.get(MARKS)
        states = states_of(marks, Scan(labels, scan.spec.labels_spec())) if isinstance(marks, Marks) else None
        notes = file_notes(scan.metadata.get("provenance", {}), scan.metadata.get("classes", ()), "labels", states)
        write_labels(Path(path), labels, scan.spec, overwrite=True, provenance=notes)

    return write


def write_image_layer(path: str, data: Any, meta: dict[str, Any]) -> list[str]:
    """Write an Image layer; parameters, result and errors as in `write_labels_layer`.

    Colors become three channels. float64 is stored as float32.
    """
    check_saving(Path(path), meta, "image")
    scan = _scan(data, meta)
    if is_on_disk(scan.data) and is_large(scan):
        _write_parts(Path(path), scan, "image")
        return [path]
    provenance = scan.metadata.get("provenance", {})
    notes = file_notes(provenance, (), "image") if provenance else None
    write_image(Path(path), scan.load(), scan.spec, overwrite=True, provenance=notes)
    return [path]


def _write_parts(path: Path, scan: LayerScan, kind: str) -> None:
    """Write a scan on the disk part by part, which only zarr allows."""
    if written_format(path) != "zarr":
        size = scan.dtype.itemsize * prod(scan.spec.shape)
        msg = (
            f"{scan.name} ({size / 2**30:.1f} GiB) is too large to be written to {path.name} as a whole. Let the name "
            "end with .zarr, which is written part by part."
        )
        raise OutputError(msg)
    spec, marks, states = scan.spec, scan.metadata.get(MARKS), None
    provenance = scan.metadata.get("provenance", {})
    chunks, parts, dtype = scan.chunks, scan.parts(), scan.dtype
    if kind == "labels":
        if scan.dtype.kind not in "bu":
            msg = f"Labels for {path} are of type {scan.dtype}; unsigned integers are needed."
            raise LabelError(msg)
        if "c" in spec.axes and spec.num_channels == 1:
            at, spec = spec.axes.index("c"), spec.labels_spec()
            parts = ((index[:at] + index[at + 1 :], values.squeeze(at)) for index, values in scan.parts())
            chunks = chunks[:at] + chunks[at + 1 :]
        states = noted_states(marks if isinstance(marks, Marks) else None, provenance, spec)
    kinds: dict[str, Any] = {"bool": np.dtype(np.uint8), "float16": np.dtype(np.float32)}
    notes = file_notes(provenance, scan.metadata.get("classes", ()), kind, states)
    write_parts(path, parts, kinds.get(dtype.name, dtype), spec, provenance=notes, chunks=chunks, overwrite=True)


def _scan(data: Any, meta: dict[str, Any]) -> LayerScan:
    levels = list(data) if meta.get("multiscale") else [data]
    ndim = len(levels[0].shape) - bool(meta.get("rgb"))
    return read_arrays(levels, Placement.from_state(meta, ndim), meta).to_save()


def open_files() -> list[Path]:
    """Source files of the layers in all viewers."""
    return [path for layer in _open_layers() if (path := _file(layer)) is not None]


def check_saving(path: Path, meta: Mapping[str, Any], kind: str) -> None:
    """Check that saving a layer does not replace the scan of a layer by something else.

    A layer may be saved over the file that it was itself read from, and labels over the labels of another layer.

    Parameters
    ----------
    path : Path
        Where it is saved.
    meta : mapping
        The layer's attributes.
    kind : {"image", "labels"}
        What is saved.

    Raises
    ------
    OutputError
        The file is the scan of this or another layer, holds it, or lies inside it.
    """
    kept = meta.get("metadata", {}).get(METADATA) or {}
    own = Path(kept["path"]) if kept.get("path") else None
    if own is not None and kept.get(OPENED_AS) == kind and own.exists() and path.exists() and own.samefile(path):
        return
    name = str(meta.get("name", ""))
    others = [layer for layer in _open_layers(but=name) if not (kind == "labels" and _is_labels(layer))]
    sources = [file for layer in others if (file := _file(layer)) is not None]
    if own is not None and not (kind == "labels" and kept.get(OPENED_AS) == "labels"):
        sources.append(own)
    try:
        OutputPlan(sources).check(path, labels=kind == "labels")
    except OutputError as error:
        msg = f"A layer is not saved over the scan of a layer. {error}"
        raise OutputError(msg) from error


def _open_layers(but: str | None = None) -> Iterable[Any]:
    """Layers of all viewers, except that of the current one with the name `but`; none where there is no viewer."""
    import napari

    current = napari.current_viewer()
    viewers = [*([] if current is None else [current]), *(v for v in open_viewers() if v is not current)]
    layers = [layer for viewer in viewers for layer in viewer.layers]
    own = None if current is None or but not in current.layers else current.layers[but]
    return [layer for layer in layers if layer is not own]


def _file(layer: Any) -> Path | None:
    """File that a layer was read from, or whose scan it is a result of."""
    path = (layer.metadata.get(METADATA) or {}).get("path") or layer.source.path
    return Path(path) if path else None


def _is_labels(layer: Any) -> bool:
    """Whether a layer is labels that were read from their file, not computed from the scan there."""
    own = layer.metadata.get(METADATA) or {}
    opened = own.get(OPENED_AS) == "labels" if own.get("path") else layer.source.path is not None
    return type(layer).__name__ == "Labels" and opened
