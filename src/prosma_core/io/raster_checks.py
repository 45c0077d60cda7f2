"""Size of a JPEG or BMP picture against the bytes that are there, before a library takes memory for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prosma_core.errors import GeometryError
from prosma_core.io.failures import damaged

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # markers of a JPEG that give its size
_ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a length
_JPEG_RATIO = 1000  # a block of 8 x 8 equal pixels takes a few bits
_RUN = 255  # pixels of a run in a BMP of two bytes
_SLACK = 1 << 20


def check_jpeg(path: Path, file: BinaryIO) -> tuple[int, int]:
    """Width and height of a JPEG.

    Raises
    ------
    FileFormatError
        It ends before it gives them, or they cannot be in the file.
    GeometryError
        One of them is 0.
    """
    file.seek(2)
    while True:
        byte = file.read(1)
        while byte == b"\xff":
            byte = file.read(1)
        if not byte:
            raise damaged(path, "it ends before the size of the picture")
        kind = byte[0]
        if kind in _ALONE:
            continue
        length = int.from_bytes(file.read(2), "big")
        if kind in {0xD9, 0xDA} or length < 2:
            raise damaged(path, "it does not give the size of the picture")
        if kind in _FRAMES:
            frame = file.read(6)
            height, width = int.from_bytes(frame[1:3], "big"), int.from_bytes(frame[3:5], "big")
            samples = frame[5] if len(frame) == 6 else 1
            break
        file.seek(length - 2, 1)
    if len(frame) == 6 and 0 not in (width, height):
        _check(path, width, height, width * height * samples, _JPEG_RATIO * path.stat().st_size)
        return width, height
    raise _empty(path, width, height)


def check_bmp(path: Path, file: BinaryIO) -> tuple[int, int]:
    """Width and height of a BMP; errors as in `check_jpeg`."""
    file.seek(0)
    start = file.read(54)
    if len(start) < 26:
        raise damaged(path, "it ends inside its header")
    offset, header = int.from_bytes(start[10:14], "little"), int.from_bytes(start[14:18], "little")
    if header == 12:
        width, height = (int.from_bytes(start[i : i + 2], "little") for i in (18, 20))
        bits, packing = int.from_bytes(start[24:26], "little"), 0
    else:
        width, height = (int.from_bytes(start[i : i + 4], "little", signed=True) for i in (18, 22))
        bits, packing = int.from_bytes(start[28:30], "little"), int.from_bytes(start[30:34], "little")
    height = abs(height)  # below 0: the first row is the top one
    if width <= 0 or not height:
        raise _empty(path, width, height)
    size = path.stat().st_size
    if packing in {1, 2}:  # runs
        _check(path, width, height, width * height, _RUN * size)
    else:
        needed = (width * bits + 31) // 32 * 4 * height
        if needed > size - offset:
            raise damaged(path, f"it declares {width} x {height} pixels, {needed} bytes, and holds {size - offset}")
    return width, height


def _check(path: Path, width: int, height: int, declared: int, most: int) -> None:
    if declared > most + _SLACK:
        raise damaged(path, f"it declares {width} x {height} pixels, too many for its {path.stat().st_size} bytes")


def _empty(path: Path, width: int, height: int) -> GeometryError:
    return GeometryError(f"{path} has an axis without pixels: {width} x {height}. Every axis needs at least one.")
