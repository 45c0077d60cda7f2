"""Whether what is at a target may be replaced: a file of the same kind, or a folder that this program wrote."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

from prosma_core.errors import ProsmaError
from prosma_core.io.names import image_suffix
from prosma_core.io.zarr_metadata import load_node

NOTE = "prosma"
"""Attribute of every zarr folder that this program writes."""
_MOST_BYTES = 64 << 20
_ZARR_NAMES = re.compile(r"\.zarray|\.zattrs|\.zgroup|\.zmetadata|zarr\.json|c|\d+(\.\d+)*")
_OF_THE_SYSTEM = re.compile(r"\.DS_Store|\._.*|Thumbs\.db|desktop\.ini", re.IGNORECASE)
_STARTS: dict[str, tuple[bytes, ...]] = {
    ".tif": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    ".png": (b"\x89PNG\r\n\x1a\n",),
    ".jpg": (b"\xff\xd8\xff",),
    ".nrrd": (b"NRRD",),
}
_SAME = {".tiff": ".tif", ".ome.tif": ".tif", ".ome.tiff": ".tif", ".jpeg": ".jpg", ".seg.nrrd": ".nrrd"}


def why_kept(path: Path, keys: Sequence[str] = ()) -> str:
    """Why what is at a path must not be replaced; empty where it may be.

    Parameters
    ----------
    path : Path
        Something is there.
    keys : sequence of str
        Of JSON: what a document of the same kind holds; of CSV: its first columns.
    """
    if path.is_dir():
        return _why_folder_kept(path)
    suffix = (image_suffix(path) or path.suffix).lower()
    suffix = _SAME.get(suffix, suffix)
    try:
        if not path.exists() or path.stat().st_size == 0:  # a link to nothing, an empty file: nothing is lost
            return ""
        ours = _is(path, suffix, keys)
    except (OSError, EOFError, ValueError, RecursionError, zlib.error, ProsmaError):
        ours = False
    return "" if ours else f"it is not a {suffix} file of the kind that would be written"


def _is(path: Path, suffix: str, keys: Sequence[str]) -> bool:
    """Whether a file is of the kind that its name says."""
    kinds: dict[str, Callable[[], bool]] = {
        ".nii": lambda: _is_nifti(path),
        ".nii.gz": lambda: _is_nifti(path),
        ".mha": lambda: b"NDims" in _start(path, 4096),
        ".json": lambda: _is_json(path, keys),
        ".csv": lambda: _start(path, 4096).startswith(",".join(keys).encode()),
        ".safetensors": lambda: _is_model(path),
    }
    if suffix in _STARTS:
        return _start(path, 8).startswith(_STARTS[suffix])
    return kinds[suffix]() if suffix in kinds else False


def _start(path: Path, count: int) -> bytes:
    with path.open("rb") as file:
        return file.read(count)


def _is_nifti(path: Path) -> bool:
    head = _start(path, 348)
    if head.startswith(b"\x1f\x8b"):
        with gzip.open(path) as file:
            head = file.read(348)
    return head[344:347] in (b"n+1", b"ni1") or head[4:7] in (b"n+2", b"ni2")


def _is_json(path: Path, keys: Sequence[str]) -> bool:
    found = json.loads(_start(path, _MOST_BYTES))
    return isinstance(found, dict) and all(key in found for key in keys)


def _is_model(path: Path) -> bool:
    from prosma_core.io.bundle import read_header  # late: only where a model is replaced

    return bool(read_header(path).classes)


def _why_folder_kept(path: Path) -> str:
    try:
        node = load_node(path)
        if node is None or NOTE not in node.attributes:
            return "the folder was not written by this program"
        for found in path.rglob("*"):
            if not _ZARR_NAMES.fullmatch(found.name) and not _OF_THE_SYSTEM.fullmatch(found.name):
                return f"the folder holds other things, such as {found.name}"
    except (OSError, ProsmaError):
        return "the folder cannot be read"
    return ""
