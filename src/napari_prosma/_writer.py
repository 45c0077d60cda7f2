"""Writers: an Image or Labels layer in every format that keeps its place, in the place where it is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from napari_prosma.layers.own_files import check_saving
from napari_prosma.layers.placement import Placement
from napari_prosma.layers.results import file_notes
from napari_prosma.layers.scan import LayerScan, read_arrays
from prosma_core.io.images import write_image, write_labels
from prosma_core.io.labels import one_channel


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
        As in `prosma_core.io.images.write_labels`, or `path` is the scan of a layer (see `check_saving`).
    """
    check_saving(Path(path), meta, "labels")
    scan = _scan(data, meta)
    labels = one_channel(scan.load(), scan.spec.axes, f"the layer {scan.name}")
    notes = file_notes(scan.metadata.get("provenance", {}), scan.metadata.get("classes", ()), "labels")
    write_labels(Path(path), labels, scan.spec, overwrite=True, provenance=notes)
    return [path]


def write_image_layer(path: str, data: Any, meta: dict[str, Any]) -> list[str]:
    """Write an Image layer; parameters, result and errors as in `write_labels_layer`.

    Colors become three channels. float64 is stored as float32.
    """
    check_saving(Path(path), meta, "image")
    scan = _scan(data, meta)
    provenance = scan.metadata.get("provenance", {})
    notes = file_notes(provenance, (), "image") if provenance else None
    write_image(Path(path), scan.load(), scan.spec, overwrite=True, provenance=notes)
    return [path]


def _scan(data: Any, meta: dict[str, Any]) -> LayerScan:
    levels = list(data) if meta.get("multiscale") else [data]
    ndim = len(levels[0].shape) - bool(meta.get("rgb"))
    return read_arrays(levels, Placement.from_state(meta, ndim), meta).to_save()
