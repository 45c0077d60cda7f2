"""What a TIFF declares against the bytes of the file."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from prosma_core.errors import GeometryError
from prosma_core.io.failures import damaged

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

    from tifffile import TiffFrame, TiffPage, TiffPageSeries

_RATIOS = {1: 1, 5: 1400, 8: 1032, 32946: 1032, 32773: 64}  # none, LZW, deflate (two numbers), PackBits
_ANY_RATIO = 40_000  # the most that any other codec (Zstandard on zeros) makes of a byte


def check_pages(path: Path) -> None:
    """Follow the chain of pages from the first to the last.

    Raises
    ------
    FileFormatError
        It is no TIFF, or a page lies outside the file: libraries would silently leave out that page and the rest.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(16)
        order = {b"II": "little", b"MM": "big"}.get(start[:2])
        version = int.from_bytes(start[2:4], "little" if order == "little" else "big")
        if order is None or version not in {42, 43} or len(start) < 8:
            raise damaged(path, "it does not start with a TIFF header")
        big = version == 43
        offset = _number(start[8:16] if big else start[4:8], order)
        seen: set[int] = set()
        while offset:
            if offset in seen or offset >= size:
                raise damaged(path, f"page {len(seen) + 1} is said to start at byte {offset} of {size}")
            seen.add(offset)
            offset = _next_page(file, path, offset, big=big, order=order)
    if not seen:
        raise damaged(path, "it holds no page")


def _next_page(file: BinaryIO, path: Path, offset: int, *, big: bool, order: str) -> int:
    counter, entry, pointer = (8, 20, 8) if big else (2, 12, 4)
    file.seek(offset)
    count = _number(file.read(counter), order)
    if count > 65535:
        raise damaged(path, f"a page declares {count} tags")
    file.seek(offset + counter + count * entry)
    after = file.read(pointer)
    if len(after) < pointer:
        raise damaged(path, "it ends inside the list of tags of a page")
    return _number(after, order)


def _number(block: bytes, order: str) -> int:
    return int.from_bytes(block, "little" if order == "little" else "big")


def check_bytes(path: Path, series: TiffPageSeries) -> None:
    """Compare the declared pixels of an image with the strips and tiles that are there.

    Raises
    ------
    FileFormatError
        A plane, strip or tile is missing or lies outside the file, or they cannot hold the declared pixels.
    GeometryError
        An axis has no pixels.
    """
    if 0 in series.shape or series.dtype is None:
        msg = f"{path} has an axis without pixels: axes {series.axes}, shape {series.shape}. Every axis needs one."
        raise GeometryError(msg)
    declared = math.prod(series.shape) * series.dtype.itemsize
    size = path.stat().st_size if series.parent is None else int(series.parent.filehandle.size)
    if series.dataoffset is not None:
        if series.dataoffset + declared > size:
            raise damaged(path, f"it declares {declared} bytes of pixels from byte {series.dataoffset}, but has {size}")
        return
    present = 0
    for number, page in enumerate(series.pages):
        if page is None:
            raise damaged(path, f"plane {number + 1} of {len(series.pages)} is missing")
        present += _segment_bytes(path, page, number)
    ratio = _RATIOS.get(int(series.keyframe.compression), _ANY_RATIO)
    packed_bits = max(8 * series.dtype.itemsize // max(series.keyframe.bitspersample, 1), 1)
    if declared > present * ratio * packed_bits:
        raise damaged(path, f"it declares {declared} bytes of pixels but holds only {present}, too few for its codec")


def _segment_bytes(path: Path, page: TiffPage | TiffFrame, number: int) -> int:
    """Bytes in the strips or tiles of a plane, each of which must be inside the file."""
    size = path.stat().st_size if page.parent is None else int(page.parent.filehandle.size)
    offsets, counts = page.dataoffsets, page.databytecounts
    expected = math.prod(page.chunked)
    if len(offsets) < expected or len(counts) < expected:
        raise damaged(path, f"plane {number + 1} lists {len(offsets)} of its {expected} strips or tiles")
    for offset, count in zip(offsets, counts, strict=False):
        if count <= 0 or offset <= 0 or offset + count > size:
            raise damaged(path, f"plane {number + 1} has a strip or tile that is empty or lies outside the file")
    return sum(counts)
