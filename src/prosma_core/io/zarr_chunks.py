"""Packed chunks of a zarr array: what their headers declare, before a library unpacks them.

Some libraries read past the end of a chunk that is cut (Blosc), others take all the memory that a few bytes declare.
The same holds at every place of a chain of codecs: behind a checksum, within a shard, within a shard of shards.
"""

from __future__ import annotations

import bz2
import lzma
import math
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from prosma_core.errors import FileFormatError
from prosma_core.io.read_errors import damaged

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

    from numpy.typing import NDArray

_CHECKSUMS = {"crc32c": "end", "fletcher32": "end", "crc32": "start", "adler32": "start"}  # where they are by default
_ZSTD_RATIO = 33_000
_STREAMS = {"gzip": 1032, "zlib": 1032, "bz2": 1_100_000, "lzma": 8_000}  # the most that a byte can unpack to
_PACKERS = {"blosc", "zstd", "lz4", *_STREAMS}
_SHARD = "sharding_indexed"
_MISSING = (1 << 64) - 1
_SLACK = 1 << 20
_UNCHECKED = 96 << 20  # streams that cannot unpack to more than this are left to the library
_BLOCK = 1 << 18
_MOST_DEPTH = 4


@dataclass(frozen=True)
class Codec:
    """One step of packing."""

    name: str
    settings: dict[str, Any]


@dataclass(frozen=True)
class Packing:
    """How chunks are packed.

    Attributes
    ----------
    chunk : tuple of int
        Shape of a chunk.
    itemsize : int
        Bytes of a voxel.
    codecs : tuple of Codec
        In the order they pack.
    inner : Packing or None
        How the chunks within a shard are packed, where `codecs` make a shard of them.
    """

    chunk: tuple[int, ...]
    itemsize: int
    codecs: tuple[Codec, ...]
    inner: Packing | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of an unpacked chunk."""
        return math.prod(self.chunk) * self.itemsize

    @property
    def unit(self) -> Packing:
        """What is unpacked at once: the chunk of a shard, or the chunk itself."""
        return self.inner.unit if self.inner is not None and len(self.codecs) == 1 else self

    @property
    def names(self) -> list[str]:
        """Names of all codecs, those within shards included."""
        inner = self.inner.names if self.inner is not None else []
        index = [str(codec) for each in self.codecs for codec in _names(each.settings.get("index_codecs", []))]
        return [*(codec.name for codec in self.codecs), *index, *inner]


def packing_of(path: object, chunk: tuple[int, ...], itemsize: int, codecs: list[Any], depth: int = 0) -> Packing:
    """What the metadata says of the packing.

    Parameters
    ----------
    path : Path
        Named in errors.
    chunk : tuple of int
    itemsize : int
    codecs : list
        As in the metadata, in the order they pack.

    Raises
    ------
    FileFormatError
        They are none, a shard does not hold a whole number of chunks, or shards are nested too deeply.
    """
    if depth > _MOST_DEPTH:
        raise damaged(path, f"its shards are nested more than {_MOST_DEPTH} times")
    steps = []
    for entry in codecs:
        given = {"name": entry} if isinstance(entry, str) else entry
        name = given.get("name", given.get("id")) if isinstance(given, dict) else None
        settings = (given.get("configuration") or {k: v for k, v in given.items() if k != "id"}) if name else {}
        if not isinstance(name, str) or not isinstance(settings, dict):
            raise damaged(path, f"its metadata has the codec {str(entry)[:60]!r}")
        steps.append(Codec(name.removeprefix("numcodecs."), settings))
    shards = [step for step in steps if step.name == _SHARD]
    if not shards:
        return Packing(chunk, itemsize, tuple(steps))
    size, nested = shards[0].settings.get("chunk_shape"), shards[0].settings.get("codecs")
    fits = isinstance(size, list) and len(size) == len(chunk) and all(type(n) is int and n > 0 for n in size)
    if not fits or not isinstance(nested, list) or any(n % m for n, m in zip(chunk, size, strict=True)):  # type: ignore[arg-type]
        raise damaged(path, f"a shard of {chunk} does not hold whole chunks of {str(size)[:60]}")
    inner = packing_of(path, tuple(size), itemsize, nested, depth + 1)  # type: ignore[arg-type]
    return Packing(chunk, itemsize, tuple(steps), inner)


def _names(codecs: Any) -> list[str]:
    return [str(codec.get("name") if isinstance(codec, dict) else codec) for codec in codecs]


class _Source(Protocol):
    length: int

    def read(self, start: int, count: int) -> bytes:
        """Bytes from `start`, as many as there are up to `count`."""


class _Region:
    """A part of a file."""

    def __init__(self, file: BinaryIO, start: int, length: int) -> None:
        self._file, self._start, self.length = file, start, length

    def read(self, start: int, count: int) -> bytes:
        self._file.seek(self._start + start)
        return self._file.read(max(min(count, self.length - start), 0))

    def part(self, start: int, length: int) -> _Region:
        return _Region(self._file, self._start + start, length)


class _Held:
    """Bytes in memory."""

    def __init__(self, content: bytes) -> None:
        self._content, self.length = content, len(content)

    def read(self, start: int, count: int) -> bytes:
        return self._content[start : start + count]

    def part(self, start: int, length: int) -> _Held:
        return _Held(self._content[start : start + length])


def check_content(file: object, content: bytes, packing: Packing) -> None:
    """Check one chunk as `check_chunk`, of its bytes; `file` is named in errors."""
    _check(file, _Held(content), packing)


def is_index(packing: Packing, start: int, stop: int) -> bool:
    """Whether a part of a shard is its index, not a chunk."""
    step = packing.codecs[0]
    if packing.inner is None or step.name != _SHARD or step.settings.get("index_location", "end") != "start":
        return False
    grid = (n // m for n, m in zip(packing.chunk, packing.inner.chunk, strict=True))
    return start == 0 and stop == 16 * math.prod(grid) + 4 * (len(_names(step.settings.get("index_codecs", []))) - 1)


def check_chunk(file: Path, packing: Packing) -> NDArray[np.bool_] | None:
    """Check one chunk.

    Parameters
    ----------
    file : Path
    packing : Packing

    Returns
    -------
    ndarray of bool, or None
        For a shard which of its chunks are there, one axis for each dimension.

    Raises
    ------
    FileFormatError
        It is cut, or declares more than its share of the array.
    """
    with file.open("rb") as opened:
        return _check(file, _Region(opened, 0, file.stat().st_size), packing)


def _check(file: object, source: _Region | _Held, packing: Packing) -> NDArray[np.bool_] | None:
    most = 8 * packing.nbytes + _SLACK
    steps = list(packing.codecs)
    while steps:
        step = steps.pop()
        if step.name == _SHARD and packing.inner is not None:
            return _check_shard(file, source, packing, packing.inner, step)
        if step.name in _CHECKSUMS:
            if source.length < 4:
                raise damaged(file, f"this chunk has {source.length} bytes, fewer than its checksum")
            at_start = step.settings.get("location", _CHECKSUMS[step.name]) == "start"
            source = source.part(4 if at_start else 0, source.length - 4)
        elif step.name in _PACKERS:
            deeper = any(other.name in _PACKERS or other.name == _SHARD for other in steps)
            content = _check_packed(file, source, step, most, unpack=deeper)
            if content is None:
                return None
            source = _Held(content)
    return None


def _check_packed(file: object, source: _Source, step: Codec, most: int, *, unpack: bool) -> bytes | None:
    """Check the size that a packed chunk declares; its content where that is to be looked at, too."""
    if step.name in _STREAMS:
        if not unpack and source.length * _STREAMS[step.name] <= max(most, _UNCHECKED):
            return None
        return _stream(file, source, step, most, keep=unpack)
    header = source.read(0, 18)
    if step.name == "blosc":
        packed = int.from_bytes(header[12:16], "little")
        if len(header) < 16 or packed != source.length:
            raise damaged(file, f"this chunk has {source.length} bytes, not as many as its header says")
        declared = int.from_bytes(header[4:8], "little")
    elif step.name == "lz4":
        declared = int.from_bytes(header[:4], "little")
    else:
        known = _zstd_size(file, header)
        if known is None and source.length * _ZSTD_RATIO > max(most, _UNCHECKED):
            return _unknown_zstd(file, source, most)
        declared = known or 0
    if declared > most:
        raise _too_large(file, declared)
    if not unpack:
        return None
    import numcodecs

    return bytes(numcodecs.get_codec({"id": step.name}).decode(source.read(0, source.length)))


def _zstd_size(file: object, header: bytes) -> int | None:
    """Content size of the first frame, None where it does not say it."""
    if len(header) < 6 or header[:4] != b"\x28\xb5\x2f\xfd":
        raise damaged(file, "this chunk does not start as Zstandard")
    flags = header[4]
    single = bool(flags & 32)
    width = (1 if single else 0, 2, 4, 8)[flags >> 6]
    start = 5 + (0 if single else 1) + (0, 1, 2, 4)[flags & 3]
    if not width:
        return None
    return int.from_bytes(header[start : start + width], "little") + (256 if width == 2 else 0)


def _unknown_zstd(file: object, source: _Source, most: int) -> bytes:
    """Unpack into bounded memory a frame that does not say its size."""
    import imagecodecs

    try:
        return bytes(imagecodecs.zstd_decode(source.read(0, source.length), out=bytearray(most)))
    except imagecodecs.ZstdError as error:
        raise _too_large(file, most) from error


def _stream(file: object, source: _Source, step: Codec, most: int, *, keep: bool) -> bytes:
    """Unpack a block at a time, never more than `most` bytes."""
    unpacker, whole = _unpacker(step), False
    kept, count, position, pending = [], 0, 0, b""
    try:
        while True:
            if not pending and getattr(unpacker, "needs_input", True):
                pending = source.read(position, _BLOCK)
                position += len(pending)
                if not pending:
                    break
            part = unpacker.decompress(pending, _BLOCK)
            count += len(part)
            if count > most:
                raise _too_large(file, count)
            if keep:
                kept.append(part)
            pending = getattr(unpacker, "unconsumed_tail", b"")
            if unpacker.eof:
                whole, pending = True, unpacker.unused_data
                if step.name != "gzip":  # which may hold several
                    break
                unpacker = _unpacker(step)
    except (zlib.error, lzma.LZMAError, OSError, EOFError) as error:
        if not whole:
            raise damaged(file, f"this chunk cannot be unpacked ({error})") from error
    return b"".join(kept)


def _unpacker(step: Codec) -> Any:
    if step.name == "bz2":
        return bz2.BZ2Decompressor()
    if step.name != "lzma":
        return zlib.decompressobj(31 if step.name == "gzip" else 15)
    form, filters = step.settings.get("format", lzma.FORMAT_XZ), step.settings.get("filters")
    return lzma.LZMADecompressor(form, filters=filters if form == lzma.FORMAT_RAW else None)


def _check_shard(
    file: object, source: _Region | _Held, packing: Packing, inner: Packing, step: Codec
) -> NDArray[np.bool_]:
    """Compare the index of a shard with its bytes, and check each chunk in it."""
    grid = tuple(n // m for n, m in zip(packing.chunk, inner.chunk, strict=True))
    names = _names(step.settings.get("index_codecs", []))
    if not names or names[0] != "bytes" or set(names[1:]) - {"crc32c"}:
        msg = f"The index of the shard {file} is packed with {', '.join(names)[:80]}, which is not read."
        raise FileFormatError(msg + " Write it again with the codecs bytes and crc32c.")
    count = math.prod(grid)
    length = 16 * count + 4 * (len(names) - 1)
    if length > source.length:
        raise damaged(file, f"this shard has {source.length} bytes, fewer than the {length} of its index")
    start = 0 if step.settings.get("index_location", "end") == "start" else source.length - length
    first = step.settings["index_codecs"][0]
    endian = (first.get("configuration") or {}).get("endian", "little") if isinstance(first, dict) else "little"
    index = np.frombuffer(source.read(start, 16 * count), "<u8" if endian == "little" else ">u8").reshape(count, 2)
    there = ~(index == _MISSING).all(axis=1)
    raw = not any(codec.name in _PACKERS | {_SHARD} | set(_CHECKSUMS) for codec in inner.codecs)
    for offset, size in index[there].tolist():
        if offset + size > source.length or not size:
            raise damaged(file, f"a chunk of this shard is declared to end at byte {offset + size} of {source.length}")
        if not raw:
            _check(file, source.part(offset, size), inner)
    shaped: NDArray[np.bool_] = there.reshape(grid)
    return shaped


def _too_large(file: object, declared: int) -> FileFormatError:
    return damaged(file, f"this chunk unpacks to {declared >> 20} MB or more, far more than its share of the array")
