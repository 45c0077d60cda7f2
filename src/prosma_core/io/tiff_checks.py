"""What a TIFF declares against the bytes of the file."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from prosma_core.errors import GeometryError
from prosma_core.io.failures import damaged

if TYPE_CHECKING:
    from pathlib import Path

    from tifffile import TiffFrame, TiffPage, TiffPageSeries

_RATIOS = {1: 1, 5: 1400, 8: 1032, 32946: 1032, 32773: 64}  # none, LZW, deflate (two numbers), PackBits
_ANY_RATIO = 40_000  # the most that any other codec (Zstandard on zeros) makes of a byte
_MOST_DIMENSIONS = 16


def check_shaped(path: Path, description: bytes) -> None:
    """Raise `FileFormatError` where the shape that tifffile noted has more dimensions than an image."""
    if description.startswith(b'{"shape"') and description[:4096].partition(b"]")[0].count(b",") > _MOST_DIMENSIONS:
        raise damaged(path, f"its notes declare a shape of more than {_MOST_DIMENSIONS} dimensions")


def check_frames(path: Path, frames: list[Any]) -> int:
    """Bytes of planes of one layout, compared with their strips and tiles; errors as in `check_series`."""
    page = frames[0]
    _check_pixels(path, page.shape, page.axes, page.dtype)
    declared: int = len(frames) * math.prod(page.shape) * page.dtype.itemsize
    _check_packed(path, page, declared, sum(_segment_bytes(path, frame, i) for i, frame in enumerate(frames)))
    return declared


def check_series(path: Path, series: TiffPageSeries) -> None:
    """Compare the declared pixels of an image with the strips and tiles that are there.

    Raises
    ------
    FileFormatError
        A plane, strip or tile is missing or lies outside the file, they cannot hold the declared pixels, or the
        pixels are of a type that is not read.
    GeometryError
        An axis has no pixels.
    """
    _check_pixels(path, series.shape, series.axes, series.dtype)
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
    _check_packed(path, series.keyframe, declared, present)


def _check_pixels(path: Path, shape: tuple[int, ...], axes: str, dtype: object) -> None:
    if 0 in shape:
        msg = f"{path} has an axis without pixels: axes {axes}, shape {shape}. Every axis needs one."
        raise GeometryError(msg)
    if dtype is None:
        raise damaged(path, "its pixels are of a type that is not read")


def _check_packed(path: Path, page: TiffPage, declared: int, present: int) -> None:
    ratio = _RATIOS.get(int(page.compression), _ANY_RATIO)
    size = path.stat().st_size if page.parent is None else int(page.parent.filehandle.size)
    if present > 2 * size:
        raise damaged(path, f"its strips and tiles overlap: {present} bytes are declared, and it has {size}")
    packed_bits = max(8 * page.dtype.itemsize // max(page.bitspersample, 1), 1)  # type: ignore[union-attr]
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
