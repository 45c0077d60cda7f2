"""Checks of a command's outputs before the first write: what may be replaced, and that no input is."""

from __future__ import annotations

import gzip
import json
import os
import re
import unicodedata
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from prosma_core.errors import OutputError, ProsmaError
from prosma_core.io.atomic import check_length, put_back
from prosma_core.io.names import FORMATS, image_suffix
from prosma_core.io.notes import read_notes
from prosma_core.io.remote import RemotePath
from prosma_core.io.zarr_checks import load_node
from prosma_core.io.zarr_labels import image_of

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


Identity = tuple[int, int]
_ZARRS = {suffix for suffix, kind in FORMATS.items() if kind == "zarr"}


class OutputPlan:
    """The sources of a command, which it must not touch, and the targets that it may write, each once.

    Paths are compared by what they lead to: links, hard links, and names in other letters where the file system does
    not tell them apart, are the same file. Two targets whose names differ by their letters' case alone are one target,
    because on many systems they would be.

    Parameters
    ----------
    sources : iterable of Path
        Files and folders that are read; a folder is protected with everything in it, a file of a multi-file OME-TIFF
        with the others of its set, a header with the file of its voxels, a member of a zarr with all of that zarr.
        Those that are not there are left out.
    """

    def __init__(self, sources: Iterable[Path]) -> None:
        self._sources: dict[Identity, Path] = {}
        self._above: dict[Identity, Path] = {}
        self._taken: dict[tuple[Identity | None, str], tuple[Path, str]] = {}
        for source in (file for given in sources for file in _with_others(given)):
            if (own := _identity(source)) is None:
                continue
            self._sources.setdefault(own, source)
            for place in (source.absolute(), _resolved(source)):
                for parent in place.parents:
                    if (above := _identity(parent)) is not None:
                        self._above.setdefault(above, source)

    def add(self, target: Path, owner: str = "", *, labels: bool = False) -> None:
        """Promise a target.

        Parameters
        ----------
        target : Path
        owner : str
            Whose result it is, for the message.
        labels : bool
            Whether it is a label map, which may become one of the `labels` of an OME-Zarr image that is a source.

        Raises
        ------
        OutputError
            The target is, holds or lies in a source, it is another target, or its name is too long.
        """
        self.check(target, labels=labels)
        key = _key(target)
        if key in self._taken:
            other, whose = self._taken[key]
            both = f"{owner} and {whose}" if owner and whose else f"{target.name} and {other.name}"
            msg = f"{both} would both be written to {target}. Rename one, or write them into different folders."
            raise OutputError(msg)
        self._taken[key] = (target, owner)

    def check(self, target: Path, *, labels: bool = False) -> None:
        """Raise `OutputError` where a target is, holds or lies in a source, or its name is too long."""
        check_length(target)
        image = image_of(target) if labels else None
        around = () if image is None else (image, *image.parents, _resolved(image), *_resolved(image).parents)
        allowed = set(map(_identity, around))
        own = _identity(target)
        if own is not None and own in self._sources:
            msg = (
                f"The result would replace the input {self._sources[own]}, which is never changed. "
                "Choose another folder or name."
            )
            raise OutputError(msg)
        if own is not None and own in self._above:
            msg = f"{target} holds the input {self._above[own]}, which would be deleted with it. Choose another name."
            raise OutputError(msg)
        for parent in (*target.absolute().parents, *_resolved(target).parents):
            identity = _identity(parent)
            source = self._sources.get(identity or (-1, -1))
            if source is not None and source.is_dir() and identity not in allowed:
                msg = f"{target} lies inside the input {source}, which is never changed. Choose another folder."
                raise OutputError(msg)


def check_replace(path: Path, *, overwrite: bool, keys: Sequence[str] = ()) -> None:
    """Check that what is at a target, if anything, may be replaced.

    Parameters
    ----------
    path : Path
    overwrite : bool
        Whether the person allowed it.
    keys : sequence of str
        Of JSON: what a document of the same kind holds; of CSV: its first columns.

    Raises
    ------
    OutputError
        Something is there that this program did not write, whatever `overwrite` says; or something is there and may
        not be replaced. Only where replacing loses nothing but an earlier result, the message names ``--overwrite``.
    """
    put_back(path)
    if not os.path.lexists(path):
        return
    reason = why_kept(path, keys)
    if reason:
        msg = f"{path} exists already and is never replaced: {reason}. Choose another name."
        raise OutputError(msg)
    if not overwrite:
        harmless = bool(keys) or path.is_dir() or path.suffix == ".safetensors" or bool(read_notes(path))
        advice = "add --overwrite to replace it, or" if harmless else "it carries no note of this program:"
        msg = f"{path} exists already; {advice} choose another name."
        raise OutputError(msg)


def _with_others(source: Path) -> tuple[Path, ...]:
    """A source, and the files and folders that are read with it; none of a URL, which nothing is written to."""
    if isinstance(source, RemotePath):
        return ()
    kind = FORMATS.get(image_suffix(source).lower())
    try:  # late imports: only where such a file is read
        if source.is_dir():
            parents = [parent for parent in source.absolute().parents if image_suffix(parent).lower() in _ZARRS]
            return (source, *(parent for parent in parents if load_node(parent) is not None))
        if kind == "tiff" and source.is_file():
            from prosma_core.io.ome_tiff import set_members

            return (source, *set_members(source))
        if kind == "nrrd" and source.is_file():
            from prosma_core.io.nrrd import nrrd_voxels_file

            return (source, nrrd_voxels_file(source))
        if kind == "metaimage" and source.is_file():
            from prosma_core.io.metaimage import metaimage_voxels_file

            return (source, metaimage_voxels_file(source))
    except (OSError, ProsmaError):  # said where it is read
        pass
    return (source,)


def _resolved(path: Path) -> Path:
    """The path without links; one in circles stays (`Path.resolve` raises `RuntimeError` there up to Python 3.12)."""
    return Path(os.path.realpath(path))


def _identity(path: Path) -> Identity | None:
    """What a path leads to, None where there is nothing."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


def _key(target: Path) -> tuple[Identity | None, str]:
    """The same for all paths that lead to the same place, also where nothing is there yet."""
    own = _identity(target)
    if own is not None:
        return own, ""
    place = _resolved(target)
    parent = next((p for p in place.parents if p.exists()), place.parent)
    rest = unicodedata.normalize("NFC", str(place.relative_to(parent))).casefold()
    return _identity(parent), rest
