"""Metadata of zarr v2 and v3 nodes and of OME-Zarr, read and checked before the zarr library opens them."""

from __future__ import annotations

import json
import logging
import math
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np

from prosma_core.config.documents import load_json
from prosma_core.errors import FileFormatError, GeometryError, ProsmaError
from prosma_core.io.read_errors import check_unpacked, damaged, reading
from prosma_core.io.remote import RemotePath
from prosma_core.io.remote_objects import unreachable
from prosma_core.io.zarr_chunks import Packing, check_chunk, check_content, is_index, packing_of
from prosma_core.io.zarr_stores import Place, StoredPath, ZipFiles, check_unzipped, is_zipped, place_of, zarr_store

_MOST_BYTES = 16 << 20  # of one metadata file
_MOST_LEVELS = 3  # of groups: row, column and field of a plate
_MOST_MEMBERS = 2000
DENIED = "Check the URL, and the credentials in the environment (AWS_PROFILE, AWS_ACCESS_KEY_ID)"
_NO_IMAGES = {"labels", "OME"}  # groups beside the image


@dataclass(frozen=True)
class ZarrHeader:
    """What a result must repeat to be of the same kind as its source.

    Attributes
    ----------
    zarr_format : int
        2 or 3.
    ome : str
        Version of OME-Zarr, empty for a plain array.
    """

    zarr_format: int = 2
    ome: str = "0.4"


@dataclass(frozen=True)
class Node:
    """A zarr array or group: where it is, its own metadata and its attributes."""

    path: Place
    zarr_format: int
    is_array: bool
    metadata: dict[str, Any]
    attributes: dict[str, Any]


@dataclass(frozen=True)
class Located:
    """The array to read in a zarr folder, and the OME-Zarr image that names it (empty if none does).

    `labels` is true where the folder says that it holds labels of an image.
    """

    array: Node
    header: ZarrHeader
    multiscale: dict[str, Any] = field(default_factory=dict)
    channel_names: tuple[str, ...] = ()
    labels: bool = False


def locate_array(path: Path) -> Located:
    """Find the array of a zarr folder: itself, the finest level of its OME-Zarr image, or its only member.

    Raises
    ------
    FileFormatError
        The folder is no zarr, its metadata is damaged, or it holds several arrays and none is marked as the image.
    """
    return _locate(path, place_of(path))


def _locate(path: Path, place: Place) -> Located:
    node = _node(place)
    if node is None:
        raise _no_zarr(path, place)
    if node.is_array:
        return _level(node) or Located(node, ZarrHeader(node.zarr_format, ""), labels=place.parent.name == "labels")
    ome = ome_of(node)
    if ome.get("multiscales"):
        return _finest_level(node, ome)
    images = _images(place, place.resolve() if isinstance(place, Path) else None, _MOST_LEVELS)
    if len(images) != 1:
        raise _several(path, place, images)
    return _locate(path, images[0])


def _no_zarr(path: Path, place: Place) -> FileFormatError:
    if isinstance(place, StoredPath) and place.files.denied:
        return unreachable(path, "access is denied, or there is no such file (403)", DENIED)
    if isinstance(path, RemotePath) and not is_zipped(path):
        return unreachable(path, "the server has no zarr there (.zarray, .zgroup or zarr.json)", "Check the URL")
    return damaged(path, "the folder has no zarr metadata (.zarray, .zgroup or zarr.json)")


def _several(path: Path, place: Place, images: Sequence[Place]) -> FileFormatError:
    if isinstance(path, RemotePath) and not images:
        msg = f"{path} is a zarr group without an image of its own. Give the URL of an image in it, such as {path}/0."
        return FileFormatError(msg)
    if is_zipped(path):
        msg = f"{path} holds a zarr group of {len(images)} images. Unpack it, and give the path of one of them."
        return FileFormatError(msg)
    some = ", ".join(f"{path.name}{str(image).removeprefix(str(place))}" for image in images[:3]) or "none"
    return FileFormatError(f"{path} is a zarr group of {len(images)} images. Give the path of one of them: {some}.")


def _level(array: Node) -> Located | None:
    """An array that is a level of the OME-Zarr image around it, with its own voxel size."""
    group = _node(array.path.parent)
    if group is None or group.is_array or not ome_of(group).get("multiscales"):
        return None
    found = _finest_level(group, ome_of(group))
    own = [entry for entry in found.multiscale["datasets"] if str(entry.get("path")) == array.path.name]
    return replace(found, array=array, multiscale={**found.multiscale, "datasets": own}) if own else None


def _images(group: Place, root: Path | None, levels: int) -> list[Place]:
    """Arrays and OME-Zarr images in a group and its groups, without labels and what links out of the folder lead to."""
    found: list[Place] = []
    for child in _folders(group, root):
        node = _node(child) if child.name not in _NO_IMAGES else None
        if node is None or len(found) >= _MOST_MEMBERS:
            continue
        if node.is_array or ome_of(node).get("multiscales"):
            found.append(child)
        elif levels > 1:
            found += _images(child, root, levels - 1)
    return found


def _folders(group: Place, root: Path | None) -> list[Place]:
    """Folders in a group, sorted; of a folder none that links out of `root` lead to."""
    if isinstance(group, StoredPath):
        return [group / name for name in group.files.children(group.key)]
    inside = (child for child in sorted(group.iterdir()) if child.is_dir())
    return [child for child in inside if root is None or child.resolve().is_relative_to(root)]


def ome_of(node: Node) -> dict[str, Any]:
    """What OME-Zarr says in the attributes of a group: from version 0.5 on under a name of its own."""
    ome = node.attributes.get("ome", node.attributes)
    return ome if isinstance(ome, dict) else {}


def coarser_levels(found: Located) -> list[Node]:
    """The other resolution levels of an OME-Zarr image, as far as their arrays are there.

    Raises
    ------
    FileFormatError
        A level lies outside the folder.
    """
    datasets = found.multiscale.get("datasets") or []
    if not datasets:
        return []
    group = found.array.path
    for _ in Path(str(datasets[0]["path"])).parts:
        group = group.parent
    nodes = [_node(_inside(group, entry)) for entry in datasets[1:]]
    return [node for node in nodes if node is not None and node.is_array]


def load_node(path: Path) -> Node | None:
    """The array or group at `path`, None where there is none.

    Raises
    ------
    FileFormatError
        Its metadata is not JSON, or not an object; or its server does not answer.
    """
    return _node(place_of(path))


def _node(path: Place) -> Node | None:
    both = _load(path / "zarr.json")
    if both is not None:
        attributes = both.get("attributes", {})
        return Node(path, 3, both.get("node_type") == "array", both, attributes if isinstance(attributes, dict) else {})
    array, group = _load(path / ".zarray"), _load(path / ".zgroup")
    if array is None and group is None:
        return None
    return Node(path, 2, array is not None, array or {}, _load(path / ".zattrs") or {})


def _load(file: Place) -> dict[str, Any] | None:
    if isinstance(file, StoredPath):
        given = file.load(0, _MOST_BYTES + 1) if isinstance(file.files, ZipFiles) else file.load()
    elif file.is_file():
        with file.open("rb") as opened:
            given = opened.read(_MOST_BYTES + 1)
    else:
        given = None
    if given is None:
        return None
    if len(given) > _MOST_BYTES:
        raise damaged(file, "its metadata is larger than 16 MB")
    try:
        content = load_json(given, finite=False)
    except ValueError as error:
        raise damaged(file, f"its metadata is not JSON ({str(error)[:100]})") from error
    if not isinstance(content, dict):
        raise damaged(file, "its metadata is not a JSON object")
    return content


def _finest_level(group: Node, ome: dict[str, Any]) -> Located:
    try:
        multiscale = ome["multiscales"][0]
        datasets = multiscale["datasets"]
        datasets[0]["path"].strip()
    except (LookupError, TypeError, AttributeError) as error:
        raise damaged(group.path, "its OME-Zarr metadata names no level with a path") from error
    place = _inside(group.path, datasets[0])
    array = _node(place)
    if array is None or not array.is_array:
        raise damaged(group.path, f"the array of its first level, {place.name}, is missing")
    version = str(ome.get("version") or multiscale.get("version") or "0.4")
    labels = [str(channel.get("label", "")) for channel in (ome.get("omero") or {}).get("channels", [])]
    names = tuple(labels) if all(labels) else ()
    is_labels = "image-label" in ome or group.path.parent.name == "labels"
    return Located(array, ZarrHeader(group.zarr_format, version), multiscale, names, is_labels)


def _inside(group: Place, dataset: dict[str, Any]) -> Place:
    if isinstance(group, StoredPath):
        parts = PurePosixPath(str(dataset["path"])).parts
        if ".." in parts or "/" in parts:
            raise damaged(group, "one of its levels lies outside the folder")
        return StoredPath(group.files, "/".join(filter(None, (group.key, *parts))))
    place = (group / str(dataset["path"])).resolve()
    if not place.is_relative_to(group.resolve()):
        raise damaged(group, "one of its levels lies outside the folder")
    return place


_LOG = logging.getLogger(__name__)

Empty = Literal["usual", "reported", "sparse", "refused"]

CODECS = {
    "blosc", "bz2", "gzip", "lz4", "lzma", "zlib", "zstd",
    "delta", "shuffle", "bitround", "fixedscaleoffset", "packbits", "quantize",
    "adler32", "crc32", "crc32c", "fletcher32",
    "bytes", "transpose", "sharding_indexed",
}  # fmt: skip
"""Codecs that only transform bytes and numbers; others (pickle, object arrays, strings) are refused."""

_TYPES = {
    "bool",
    *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)),
    "float16",
    "float32",
    "float64",
}
_MOST_CHUNK_BYTES = 1 << 31  # the most that Blosc can pack
_MOST_CHUNKS = 10_000_000
_ANY_CHUNK_BYTES = 128 << 20  # chunks up to this may be larger than the array
_BLANK_BYTES = 1 << 30
_MANY_CHUNKS = 200


def check_zarr(path: Path) -> None:
    """Check the array that `read_image` would read from a zarr folder.

    Raises
    ------
    FileFormatError
        Metadata is damaged, dtype or codec is none that is read, chunks are cut or of absurd size, or all chunks of an
        image are missing. Some missing chunks are only logged: they are legal and mean the fill value.
    GeometryError
        An axis has no voxels.
    """
    with reading(path, "a zarr folder"):
        found = locate_array(path)
        check_array(found.array, "usual" if found.labels else "refused")


def check_array(
    node: Node, empty: Empty, bad: dict[str, ProsmaError] | None = None
) -> dict[Place, tuple[slice, ...]] | None:
    """Check one array; errors as in `check_zarr`.

    Parameters
    ----------
    node : Node
    empty : {"usual", "reported", "refused"}
        What missing chunks are: as a rule for labels, in which most chunks hold none; reported for an image to look
        at, and sparse for one that is read by parts, of which only all may not be missing; refused for an image that
        is read whole, if all are missing, or nearly all of many.
    bad : dict of str to ProsmaError, optional
        Gets the files whose chunks are damaged, with the reason; without it, and where all are, the first is raised.

    Returns
    -------
    dict of place to tuple of slice, or None
        The files of the array and the parts that they hold; all else has the fill value. None on a server, where files
        are not listed, and are checked when they are read.
    """
    path, metadata = node.path, node.metadata
    shape, chunks = _sizes(path, metadata.get("shape"), 0), _sizes(path, _chunk_shape(node), 1)
    if len(shape) != len(chunks):
        raise damaged(path, f"its chunks {chunks} do not fit its shape {shape}")
    if 0 in shape:
        msg = f"{path} has an axis without voxels: shape {shape}. Every axis needs at least one."
        raise GeometryError(msg)
    dtype = _dtype(node)
    packing = packing_of(path, chunks, dtype.itemsize, _codecs(node))
    for codec in packing.names:
        if codec.removeprefix("numcodecs.") not in CODECS:
            msg = f"{path} is packed with the codec {codec[:60]!r}, which is not read: it may run code or hold no "
            raise FileFormatError(msg + f"numbers. Write it again with one of {', '.join(sorted(CODECS))}.")
    declared = math.prod(shape) * dtype.itemsize
    grid = tuple(-(-size // chunk) for size, chunk in zip(shape, packing.unit.chunk, strict=True))
    _check_sizes(path, packing.unit.nbytes, math.prod(grid), declared)
    files = _chunk_files(node, tuple(-(-size // chunk) for size, chunk in zip(shape, chunks, strict=True)))
    if files is None:
        return None
    present = 0
    for file, index in files:
        try:
            present += _present(file, index, packing, shape)
        except (ProsmaError, OSError) as error:
            if bad is None:
                raise
            own = error if isinstance(error, ProsmaError) else damaged(file, f"it cannot be read ({error.strerror})")
            bad[str(file)] = own
    if bad and len(bad) == len(files):
        raise next(iter(bad.values()))
    total = math.prod(_inner_grid(shape, packing))
    _check_present(path, present + len(bad or ()), total, declared, empty)
    if empty == "refused":
        check_unpacked(path, sum(_size(file) for file, _ in files), declared)
    return {file: tuple(slice(i * n, (i + 1) * n) for i, n in zip(index, chunks, strict=True)) for file, index in files}


def remote_state(path: Path) -> int:
    """A number that changes with the metadata of the array on a server, and with the time of their last change."""
    node = locate_array(path).array
    assert isinstance(node.path, StoredPath)
    file = node.path / ("zarr.json" if node.zarr_format == 3 else ".zarray")
    return zlib.crc32(json.dumps([node.metadata, node.attributes, file.files.stamp(file.key)]).encode())


def check_there(node: Node) -> None:
    """Raise `FileFormatError` where a server does not have an array any more."""
    if _node(node.path) is None:
        raise unreachable(node.path, "it is gone from the server since it was opened", "Check the URL and run it again")


def checked_store(node: Node) -> Any:
    """The store to open an array with that `check_array` took: each chunk is checked when it is read."""
    assert isinstance(node.path, StoredPath)
    chunks = _sizes(node.path, _chunk_shape(node), 1)
    packing = packing_of(node.path, chunks, _dtype(node).itemsize, _codecs(node))

    def check(place: StoredPath, part: Any, content: bytes) -> None:
        if part is None:
            check_content(place, content, packing)
        elif packing.inner is not None and hasattr(part, "end") and not is_index(packing, part.start, part.end):
            check_content(place, content, packing.inner)

    return zarr_store(node.path, check)


def _size(file: Place) -> int:
    if isinstance(file, StoredPath):
        return (file.files.names() or {})[file.key]
    return file.stat().st_size


def _check_sizes(path: Place, chunk_bytes: int, total: int, declared: int) -> None:
    if chunk_bytes > _MOST_CHUNK_BYTES or total > _MOST_CHUNKS:
        msg = f"{path} declares {total} chunks of {chunk_bytes} bytes; at most {_MOST_CHUNKS} of 2 GiB are read."
        raise FileFormatError(msg + " Write it again with other chunks.")
    if chunk_bytes > max(_ANY_CHUNK_BYTES, 8 * declared):
        msg = f"{path} declares chunks of {chunk_bytes >> 20} MB for an array of {declared} bytes. "
        raise FileFormatError(msg + "Write it again with smaller chunks.")


def _inner_grid(shape: tuple[int, ...], packing: Packing) -> tuple[int, ...]:
    """Number of chunks along each axis, within shards where there are any."""
    chunk = packing.chunk if packing.inner is None else packing.inner.chunk
    return tuple(-(-size // n) for size, n in zip(shape, chunk, strict=True))


def _present(file: Place, index: tuple[int, ...], packing: Packing, shape: tuple[int, ...]) -> int:
    """Number of chunks in a file that are part of the array, each checked."""
    if isinstance(file, StoredPath):  # looked into when it is read
        check_unzipped(file, 8 * packing.nbytes + _MOST_BYTES)
        return math.prod(_within(index, packing, shape))
    there = check_chunk(file, packing)
    if there is None or packing.inner is None:
        return 1
    within = tuple(slice(0, n) for n in _within(index, packing, shape))
    return int(there[within].sum())


def _within(index: tuple[int, ...], packing: Packing, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Number of chunks along each axis of a file that lie in the array: some of a shard at its border may not."""
    inner = packing.chunk if packing.inner is None else packing.inner.chunk
    grids = zip(_inner_grid(shape, packing), index, packing.chunk, inner, strict=True)
    return tuple(max(min(n - i * (size // chunk), size // chunk), 0) for n, i, size, chunk in grids)


def _check_present(path: Place, present: int, total: int, declared: int, empty: Empty) -> None:
    missing = total - present
    least = 0.01 * total if empty == "refused" else 0
    many = declared > _BLANK_BYTES or (empty == "refused" and total >= _MANY_CHUNKS)
    if (many or empty == "sparse") and present < max(least, 1):
        raise damaged(
            path,
            f"{missing} of its {total} chunks {'is' if missing == 1 else 'are'} missing, {declared} bytes are declared",
        )
    if empty == "usual" or not missing:
        return
    if empty == "refused" and not present:
        raise damaged(path, "its only chunk is missing" if total == 1 else f"all of its {total} chunks are missing")
    _LOG.warning("%s: %d of %d chunks are missing and read as the fill value.", path, missing, total)


def _sizes(path: Place, values: object, least: int) -> tuple[int, ...]:
    if not isinstance(values, list) or not all(type(v) is int and least <= v < 1 << 48 for v in values):
        raise damaged(path, f"its metadata has the shape or chunk shape {values!r}")
    return tuple(values)


def _chunk_shape(node: Node) -> object:
    if node.zarr_format == 2:
        return node.metadata.get("chunks")
    grid = node.metadata.get("chunk_grid", {})
    return grid.get("configuration", {}).get("chunk_shape") if grid.get("name") == "regular" else None


def _dtype(node: Node) -> np.dtype[Any]:
    given = node.metadata.get("dtype" if node.zarr_format == 2 else "data_type")
    if isinstance(given, str):
        name = str(np.dtype(given).newbyteorder("=")) if node.zarr_format == 2 and given[1:2] in {*"biuf"} else given
        if name in _TYPES:
            return np.dtype(name)
    msg = f"{node.path} holds values of type {given!r}, which is not read. "
    raise FileFormatError(msg + f"Numbers are needed: {', '.join(sorted(_TYPES))}.")


def _codecs(node: Node) -> list[Any]:
    """All codecs as the metadata has them, in the order they pack."""
    metadata = node.metadata
    if node.zarr_format == 2:
        used = [*(metadata.get("filters") or []), metadata.get("compressor")]
        return [codec for codec in used if codec]
    if metadata.get("storage_transformers"):
        return ["storage transformer"]
    codecs = metadata.get("codecs")
    if not isinstance(codecs, list) or not codecs:
        raise damaged(node.path, "its metadata names no codecs")
    return codecs


def _key_form(node: Node) -> tuple[str, str]:
    """What chunks' names start with, and what is between their numbers."""
    if node.zarr_format == 2:
        return "", str(node.metadata.get("dimension_separator", "."))
    encoding = node.metadata.get("chunk_key_encoding") or {}
    named = encoding.get("name", "default") == "default"
    return "c" if named else "", str((encoding.get("configuration") or {}).get("separator", "/" if named else "."))


def chunk_place(node: Node, index: tuple[int, ...]) -> Place:
    """Where a chunk of an array lies."""
    prefix, separator = _key_form(node)
    return node.path / separator.join(([prefix] if prefix else []) + [str(i) for i in index])


def _chunk_files(node: Node, grid: tuple[int, ...]) -> list[tuple[Place, tuple[int, ...]]] | None:
    """The files in the folder that are chunks of the grid, and their places in it; None where they are not listed."""
    prefix, separator = _key_form(node)
    numbers = re.escape(separator).join([r"(\d+)"] * len(grid))
    pattern = re.compile(f"{prefix}{re.escape(separator) if prefix else ''}{numbers}")
    files: list[tuple[Place, tuple[int, ...]]] = []
    listed = _files_below(node.path)
    if listed is None:
        return None
    for name, file in listed:
        found = pattern.fullmatch(name)
        if not found or (isinstance(file, Path) and not file.is_file()):
            continue
        index = tuple(int(i) if len(i) < 20 else _MOST_CHUNKS for i in found.groups())
        if all(i < n for i, n in zip(index, grid, strict=True)):
            files.append((file, index))
    return files


def _files_below(place: Place) -> Iterator[tuple[str, Place]] | None:
    """Files in a folder and in folders in it, with their names as seen from there; None where they are not listed."""
    if isinstance(place, Path):
        return ((file.relative_to(place).as_posix(), file) for file in place.rglob("*"))
    names, start = place.files.names(), f"{place.key}/" if place.key else ""
    if names is None:
        return None
    return ((name[len(start) :], StoredPath(place.files, name)) for name in names if name.startswith(start))
