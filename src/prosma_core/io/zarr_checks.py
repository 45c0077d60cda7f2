"""What a zarr array declares against an allow-list of codecs and the chunks that are there."""

from __future__ import annotations

import logging
import math
import re
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from prosma_core.errors import FileFormatError, GeometryError
from prosma_core.io.read_errors import check_unpacked, damaged, reading
from prosma_core.io.zarr_chunks import Packing, check_chunk, packing_of
from prosma_core.io.zarr_metadata import Node, locate_array

if TYPE_CHECKING:
    from pathlib import Path

_LOG = logging.getLogger(__name__)

Empty = Literal["usual", "reported", "refused"]

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


def check_array(node: Node, empty: Empty) -> list[tuple[slice, ...]]:
    """Check one array; errors as in `check_zarr`.

    Parameters
    ----------
    node : Node
    empty : {"usual", "reported", "refused"}
        What missing chunks are: as a rule for labels, in which most chunks hold none; reported for an image to look
        at; refused for an image that is read, if all are missing, or nearly all of many.

    Returns
    -------
    list of tuple of slice
        The parts of the array for which there are files; all else has the fill value.
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
    present = sum(_present(file, index, packing, shape) for file, index in files)
    total = math.prod(_inner_grid(shape, packing))
    _check_present(path, present, total, declared, empty)
    if empty == "refused":
        check_unpacked(path, sum(file.stat().st_size for file, _ in files), declared)
    return [tuple(slice(i * n, (i + 1) * n) for i, n in zip(index, chunks, strict=True)) for _, index in files]


def _check_sizes(path: Path, chunk_bytes: int, total: int, declared: int) -> None:
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


def _present(file: Path, index: tuple[int, ...], packing: Packing, shape: tuple[int, ...]) -> int:
    """Number of chunks in a file that are part of the array, each checked."""
    there = check_chunk(file, packing)
    if there is None or packing.inner is None:
        return 1
    grid = _inner_grid(shape, packing)
    within = tuple(
        slice(0, max(n - i * size, 0)) for n, i, size in zip(grid, index, there.shape, strict=True)
    )  # chunks of a shard at the border may lie outside
    return int(there[within].sum())


def _check_present(path: Path, present: int, total: int, declared: int, empty: Empty) -> None:
    missing = total - present
    least = 0 if empty == "usual" else 0.01 * total
    many = declared > _BLANK_BYTES or (empty == "refused" and total >= _MANY_CHUNKS)
    if many and present < max(least, 1):
        raise damaged(
            path,
            f"{missing} of its {total} chunks {'is' if missing == 1 else 'are'} missing, {declared} bytes are declared",
        )
    if empty == "usual" or not missing:
        return
    if empty == "refused" and not present:
        raise damaged(path, "its only chunk is missing" if total == 1 else f"all of its {total} chunks are missing")
    _LOG.warning("%s: %d of %d chunks are missing and read as the fill value.", path, missing, total)


def _sizes(path: Path, values: object, least: int) -> tuple[int, ...]:
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


def _chunk_files(node: Node, grid: tuple[int, ...]) -> list[tuple[Path, tuple[int, ...]]]:
    """The files in the folder that are chunks of the grid, and their places in it."""
    prefix, separator = "", str(node.metadata.get("dimension_separator", "."))
    if node.zarr_format == 3:
        encoding = node.metadata.get("chunk_key_encoding") or {}
        named = encoding.get("name", "default") == "default"
        prefix = "c" if named else ""
        separator = str((encoding.get("configuration") or {}).get("separator", "/" if named else "."))
    numbers = re.escape(separator).join([r"(\d+)"] * len(grid))
    pattern = re.compile(f"{prefix}{re.escape(separator) if prefix else ''}{numbers}")
    files = []
    for file in node.path.rglob("*"):
        found = pattern.fullmatch(file.relative_to(node.path).as_posix())
        if not found or not file.is_file():
            continue
        index = tuple(int(i) if len(i) < 20 else _MOST_CHUNKS for i in found.groups())
        if all(i < n for i, n in zip(index, grid, strict=True)):
            files.append((file, index))
    return files
