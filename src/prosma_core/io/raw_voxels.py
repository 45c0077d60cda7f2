"""Voxels that follow a text header (NRRD, MetaImage): read with the declared size as the limit, packed or not."""

from __future__ import annotations

import bz2
import math
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from prosma_core.errors import FileFormatError, GeometryError
from prosma_core.io.read_errors import damaged, excerpt
from prosma_core.printable import counted

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

    from numpy.typing import NDArray

_BLOCK = 1 << 20
_MOST_PACKED = 1032  # what deflate packs into one byte at most
_LONGEST_HEADER = 1 << 20
_GZIP, _ZLIB = 31, 15  # zlib's window arguments
_MOST_DIGITS = 18
_MOST_AXES = 16


@dataclass(frozen=True)
class Voxels:
    """Where the voxels of a file are, and what its header declares of them.

    Attributes
    ----------
    path : Path
        The file that holds them: the file itself, or one beside it.
    start : int
        Byte at which they begin; -1 where they are the last bytes of the file.
    shape : tuple of int
        Axes in the order of the header, the fastest first.
    dtype : numpy.dtype
        With the file's byte order.
    packing : {"raw", "gzip", "zlib", "bzip2"}
    """

    path: Path
    start: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    packing: str

    @property
    def nbytes(self) -> int:
        """Declared size, unpacked."""
        return math.prod(self.shape) * self.dtype.itemsize


def header_lines(file: BinaryIO, path: Path) -> list[str]:
    """Text lines up to the first empty one or the end of the file; the file stands behind that line afterwards.

    Raises
    ------
    FileFormatError
        They are longer than 1 MiB.
    """
    lines: list[str] = []
    while True:
        line = file.readline(_LONGEST_HEADER)
        if file.tell() > _LONGEST_HEADER:
            raise damaged(path, "its header is longer than 1 MiB")
        if not line.strip(b"\r\n"):
            if not line:
                raise damaged(path, "it ends inside its header")
            return lines
        lines.append(line.decode("utf-8", "replace").rstrip("\r\n"))


def whole_numbers(text: str, field: str, path: Path) -> tuple[int, ...]:
    """The integers of a header field.

    Raises
    ------
    FileFormatError
        The field has something else in it, or a number of more than 18 digits.
    """
    words = text.split()
    if not words or any(len(word) > _MOST_DIGITS or not word.lstrip("+-").isascii() for word in words):
        raise damaged(path, f"its header has {field} {excerpt(text, 40)!r}, whole numbers are needed")
    try:
        return tuple(int(word) for word in words)
    except ValueError as error:
        raise damaged(path, f"its header has {field} {excerpt(text, 40)!r}, whole numbers are needed") from error


def numbers(text: str, count: int, field: str, path: Path) -> tuple[float, ...]:
    """The `count` numbers of a header field, all of them finite.

    Raises
    ------
    FileFormatError
        There are more or fewer, or one is no finite number.
    """
    wanted = counted(count, "finite number")
    try:
        values = tuple(float(word) for word in text.replace(",", " ").split())
    except ValueError as error:
        raise damaged(path, f"its header has {field} {excerpt(text, 40)!r}, {wanted} needed") from error
    if len(values) != count or not all(math.isfinite(value) for value in values):
        raise damaged(path, f"its header has {field} {excerpt(text, 40)!r}, {wanted} needed")
    return values


def declared_shape(text: str, field: str, path: Path) -> tuple[int, ...]:
    """The sizes of all axes.

    Raises
    ------
    FileFormatError
        One is negative, or there are more than 16.
    GeometryError
        An axis has no voxels.
    """
    shape = whole_numbers(text, field, path)
    if len(shape) > _MOST_AXES or any(size < 0 for size in shape):
        raise damaged(path, f"its header has {field} {excerpt(text, 40)!r}")
    if 0 in shape:
        msg = f"{path} has an axis without voxels: {field} {excerpt(text, 40)}. Every axis needs at least one."
        raise GeometryError(msg)
    return shape


def file_beside(path: Path, name: str) -> Path:
    """The file with the voxels that a header names.

    Raises
    ------
    FileFormatError
        The name leads out of the header's folder, or no such file is there.
    """
    parts = name.replace("\\", "/").split("/")
    plain = name and not any(part in {"", ".."} or ":" in part for part in parts) and name.isprintable()
    if not plain:
        msg = (
            f"{path} names {excerpt(name, 60)!r} as the file with its voxels; only a file in its own folder "
            "(or a folder in that) is opened. Put both into one folder and change the name in the header."
        )
        raise FileFormatError(msg)
    other = path.parent.joinpath(*parts)
    if path.parent.resolve() not in other.resolve().parents:
        msg = f"{path} names {excerpt(name, 60)!r}, a link out of its folder. Put the file itself beside the header."
        raise FileFormatError(msg)
    if not other.is_file():
        msg = f"The voxels of {path} are in {excerpt(name, 60)!r}, which is not beside it. Copy both files."
        raise FileFormatError(msg)
    return other


def check_voxels(voxels: Voxels) -> None:
    """Read to the end, keeping nothing.

    Raises
    ------
    FileFormatError
        There are fewer bytes than declared, or more where they are packed, or their checksum is wrong.
    """
    _read(voxels, keep=False)


def read_voxels(voxels: Voxels) -> NDArray[Any]:
    """The array in the machine's byte order, its axes in the reverse order of the header (the fastest last).

    Raises
    ------
    FileFormatError
        As in `check_voxels`.
    """
    array = _read(voxels, keep=True).view(voxels.dtype).reshape(voxels.shape[::-1])
    if not array.dtype.isnative:
        array = array.byteswap(inplace=True).view(array.dtype.newbyteorder("="))
    return array


def _read(voxels: Voxels, *, keep: bool) -> NDArray[np.uint8]:
    path, declared = voxels.path, voxels.nbytes
    present = path.stat().st_size - max(voxels.start, 0)
    at_most = present * (1 if voxels.packing == "raw" else _MOST_PACKED)
    if declared > at_most and voxels.packing != "bzip2":
        raise damaged(path, f"its header declares {declared} bytes of voxels but the file is too short for them")
    with path.open("rb") as file:
        file.seek(present - declared if voxels.start < 0 else voxels.start)
        if voxels.packing == "raw":
            if not keep:
                return np.empty(0, np.uint8)
            raw = np.empty(declared, np.uint8)
            if file.readinto(raw.data) != declared:
                raise damaged(path, f"its header declares {declared} bytes of voxels but fewer are there")
            return raw
        return _unpack(file, voxels, keep=keep)


def _unpack(file: BinaryIO, voxels: Voxels, *, keep: bool) -> NDArray[np.uint8]:
    """Unpack to the end, where the checksum is compared; pages that are never written to cost no memory."""
    declared, got = voxels.nbytes, 0
    raw = np.empty(declared if keep else 0, np.uint8)
    for block in _blocks(file, voxels.packing):
        if keep:
            kept = block[: declared - got]
            raw[got : got + len(kept)] = np.frombuffer(kept, np.uint8)
        got += len(block)
        if got > declared:
            break
    if got != declared:
        more = "more" if got > declared else str(got)
        raise damaged(voxels.path, f"its header declares {declared} bytes of voxels but {more} could be unpacked")
    return raw


def _blocks(file: BinaryIO, packing: str) -> Any:
    """Unpacked blocks of at most 1 MiB each; ends early where the packed bytes do."""
    if packing == "bzip2":
        bunzip = bz2.BZ2Decompressor()
        while not bunzip.eof:
            packed = file.read(_BLOCK) if bunzip.needs_input else b""
            if bunzip.needs_input and not packed:
                return
            yield bunzip.decompress(packed, _BLOCK)
        return
    unpacker = zlib.decompressobj(_GZIP if packing == "gzip" else _ZLIB)
    while not unpacker.eof:
        packed = unpacker.unconsumed_tail or file.read(_BLOCK)
        if not packed:
            raise zlib.error("incomplete or truncated stream")
        yield unpacker.decompress(packed, _BLOCK)
