"""Files that layers came from: what is saved from the window replaces none of them by something else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from napari_prosma.layers.scan import METADATA, OPENED_AS
from prosma_core.errors import OutputError
from prosma_core.io.output_plan import OutputPlan


def open_files(but: str | None = None) -> list[Path]:
    """Files that the layers of the current viewer came from, except of the layer with one name."""
    return [path for layer in _open_layers() if layer.name != but and (path := _file(layer)) is not None]


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
    others = [layer for layer in _open_layers() if layer.name != name and not (kind == "labels" and _is_labels(layer))]
    sources = [file for layer in others if (file := _file(layer)) is not None]
    if own is not None and not (kind == "labels" and kept.get(OPENED_AS) == "labels"):
        sources.append(own)
    try:
        OutputPlan(sources).check(path)
    except OutputError as error:
        msg = f"A layer is not saved over the scan of a layer. {error}"
        raise OutputError(msg) from error


def _open_layers() -> Iterable[Any]:
    """Layers of the current viewer; none where there is no viewer."""
    import napari

    viewer = napari.current_viewer()
    return () if viewer is None else tuple(viewer.layers)


def _file(layer: Any) -> Path | None:
    """File that a layer was read from, or whose scan it is a result of."""
    path = (layer.metadata.get(METADATA) or {}).get("path") or layer.source.path
    return Path(path) if path else None


def _is_labels(layer: Any) -> bool:
    """Whether a layer is labels that were read from their file, not computed from the scan there."""
    own = layer.metadata.get(METADATA) or {}
    opened = own.get(OPENED_AS) == "labels" if own.get("path") else layer.source.path is not None
    return type(layer).__name__ == "Labels" and opened
