"""What a zarr array declares against an allow-list of codecs and the chunks that are there."""

from __future__ import annotations

import logging
import math
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from prosma_core.errors import FileFormatError, GeometryError
from prosma_core.io.failures import damaged, reading
from prosma_core.io.zarr_metadata import Node, locate_array

if TYPE_CHECKING:
    from pathlib import Path

_LOG = logging.getLogger(__name__)

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
_BLANK_BYTES = 1 << 30


def check_zarr(path: Path) -> None:
    """Check the array that `read_image` would read from a zarr folder.

    Raises
    ------
    FileFormatError
        Metadata is damaged, dtype or codec is none that is read, chunks are of absurd size, or nearly all of a huge
        array is missing. Some missing chunks are only logged: they are legal and mean the fill value.
    GeometryError
        An axis has no voxels.
    """
    with reading(path, "a zarr folder"):
        check_array(locate_array(path).array)


def check_array(node: Node) -> None:
    """Check one array; errors as in `check_zarr`."""
    path, metadata = node.path, node.metadata
    shape, chunks = _sizes(path, metadata.get("shape"), 0), _sizes(path, _chunk_shape(node), 1)
    if len(shape) != len(chunks):
        raise damaged(path, f"its chunks {chunks} do not fit its shape {shape}")
    if 0 in shape:
        msg = f"{path} has an axis without voxels: shape {shape}. Every axis needs at least one."
        raise GeometryError(msg)
    dtype = _dtype(node)
    for codec in _codecs(node):
        if codec.removeprefix("numcodecs.") not in CODECS:
            msg = f"{path} is packed with the codec {codec!r}, which is not read: it may run code or hold no numbers. "
            raise FileFormatError(msg + f"Write it again with one of {', '.join(sorted(CODECS))}.")
    grid = tuple(-(-size // chunk) for size, chunk in zip(shape, chunks, strict=True))
    chunk_bytes, total = math.prod(chunks) * dtype.itemsize, math.prod(grid)
    if chunk_bytes > _MOST_CHUNK_BYTES or total > _MOST_CHUNKS:
        msg = f"{path} declares {total} chunks of {chunk_bytes} bytes; at most {_MOST_CHUNKS} of 2 GiB are read."
        raise FileFormatError(msg + " Write it again with other chunks.")
    files = _chunk_files(node, grid)
    missing = total - len(files)
    declared = math.prod(shape) * dtype.itemsize
    if declared > _BLANK_BYTES and missing > 0.99 * total:
        raise damaged(path, f"{missing} of its {total} chunks are missing, {declared} bytes are declared")
    if _codecs(node)[-1:] == ["blosc"]:
        _check_blosc(files)
    if missing:
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


def _codecs(node: Node) -> list[str]:
    """Names of all codecs in the order they pack, those inside of shards included."""
    metadata = node.metadata
    if node.zarr_format == 2:
        used = [*(metadata.get("filters") or []), metadata.get("compressor")]
        return [str(codec["id"]) for codec in used if codec]
    if metadata.get("storage_transformers"):
        return ["storage transformer"]
    return _nested_codecs(metadata["codecs"])


def _nested_codecs(codecs: list[Any]) -> list[str]:
    names = []
    for codec in codecs:
        entry: dict[str, Any] = {"name": codec} if isinstance(codec, str) else codec
        names.append(str(entry["name"]))
        inside = entry.get("configuration") or {}
        names += _nested_codecs([*inside.get("codecs", []), *inside.get("index_codecs", [])])
    return names


def _check_blosc(files: list[Path]) -> None:
    """Compare each chunk's size with the one in its Blosc header: the library would read past the end."""
    for file in files:
        with file.open("rb") as chunk:
            header = chunk.read(16)
        size = file.stat().st_size
        if len(header) < 16 or int.from_bytes(header[12:], "little") != size:
            raise damaged(file, f"this chunk has {size} bytes, not as many as its header says")


def _chunk_files(node: Node, grid: tuple[int, ...]) -> list[Path]:
    """The files in the folder that are chunks of the grid."""
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
        if found and file.is_file() and all(int(i) < n for i, n in zip(found.groups(), grid, strict=True)):
            files.append(file)
    return files
