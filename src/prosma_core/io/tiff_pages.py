"""Pages of a TIFF: their tags, read without a library and within bounds, and what their samples stand for."""

from __future__ import annotations

import logging
import math
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from prosma_core.errors import FileFormatError, GeometryError
from prosma_core.io.read_errors import damaged

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO, Literal

    from numpy.typing import NDArray
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


_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_WHOLE = {1, 3, 4, 13, 16, 18}  # types of whole numbers
_DESCRIPTION, _SUBIFDS, _BITS, _FORMAT = 270, 330, 258, 339
_LAYOUT = (256, 257, _BITS, 259, 262, 277, 284, 317, 322, 323, 338, _FORMAT, 32997, 32998)
_MOST_TAGS = 65_535
_SLACK = 1 << 20
_LEAST_PAGE = 128  # bytes that no page with pixels is smaller than


@dataclass(frozen=True)
class Pages:
    """What the lists of tags of a file say.

    Attributes
    ----------
    layouts : list of tuple of int
        For each page its size, type, codec and tiles: pages of one image have the same.
    description : bytes
        The text of the first page, where OME-XML and ImageJ keep their notes.
    """

    layouts: list[tuple[int, ...]] = field(default_factory=list)
    description: bytes = b""

    def __len__(self) -> int:
        return len(self.layouts)


def check_pages(path: Path) -> Pages:
    """Follow the chain of pages from the first to the last.

    Raises
    ------
    FileFormatError
        It is no TIFF; a page lies outside the file, or the chain runs in a circle, where libraries would silently
        leave out that page and the rest; or its tags declare more than the file holds.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        walk = _Walk(path, file, size)
        offset, seen, pages = walk.first(), set[int](), Pages()
        description = b""
        while offset:
            if offset in seen or offset >= size:
                raise damaged(path, f"page {len(seen) + 1} is declared to start at byte {offset} of {size}")
            seen.add(offset)
            layout, text, offset = walk.page(offset, described=len(seen) == 1)
            pages.layouts.append(layout)
            description = text or description
    if not seen:
        raise damaged(path, "it holds no page")
    return Pages(pages.layouts, description)


def first_description(path: Path) -> bytes:
    """The text of the first page; empty where `path` is no TIFF or has none. Errors as in `check_pages`."""
    with path.open("rb") as file:
        walk = _Walk(path, file, path.stat().st_size)
        offset = walk.first()
        return walk.page(offset, described=True)[1] if 0 < offset < walk.size else b""


class _Walk:
    """Reads lists of tags, and counts what they declare in all."""

    def __init__(self, path: Path, file: BinaryIO, size: int) -> None:
        self.path, self.file, self.size = path, file, size
        self.order: Literal["little", "big"] = "little"
        self.big = False
        self._values = 0
        self._subpages = 0

    def first(self) -> int:
        """Where the first page starts."""
        start = self.file.read(16)
        known = start[:2] in {b"II", b"MM"}
        self.order = "big" if start[:2] == b"MM" else "little"
        version = self._number(start[2:4])
        if not known or version not in {42, 43} or len(start) < 8:
            raise damaged(self.path, "it does not start with a TIFF header")
        self.big = version == 43
        return self._number(start[8:16] if self.big else start[4:8])

    def page(self, offset: int, *, described: bool) -> tuple[tuple[int, ...], bytes, int]:
        """The layout of a page, its text where that is wanted, and where the next page starts."""
        counter, width, pointer = (8, 20, 8) if self.big else (2, 12, 4)
        self.file.seek(offset)
        count = self._number(self.file.read(counter))
        if count > _MOST_TAGS:
            raise damaged(self.path, f"a page declares {count} tags")
        block = self.file.read(count * width + pointer)
        if len(block) < count * width + pointer:
            raise damaged(self.path, "it ends inside the list of tags of a page")
        layout, text = dict[int, int](), b""
        entries = ("<" if self.order == "little" else ">") + ("HHQ8s" if self.big else "HHI4s")
        for code, kind, values, inline in struct.iter_unpack(entries, block[: count * width]):
            length = values * _SIZES.get(kind, 1)
            place = -1 if length <= pointer else self._number(inline)
            if place + length > self.size:
                continue  # values that cannot be in the file: unused tags of some programs have them
            self._values += length
            if code in _LAYOUT and code not in layout:
                layout[code] = self._whole(inline if place < 0 else place, kind, values)
            elif code == _DESCRIPTION and described:
                text = (inline[:length] if place < 0 else self._read(place, length)).rstrip(b"\0 ")
            elif code == _SUBIFDS:
                self._count_subpages(values)
        if self._values > 2 * self.size + _SLACK:
            raise damaged(self.path, f"its tags declare more than {2 * self.size} bytes, twice what it holds")
        return tuple(layout.get(code, 0) for code in _LAYOUT), text, self._number(block[count * width :])

    def _whole(self, where: bytes | int, kind: int, values: int) -> int:
        """A whole number; for several, one that stands for them."""
        if kind not in _WHOLE:
            return -1
        width = _SIZES[kind]
        length = min(values, 64) * width
        block = where[:length] if isinstance(where, bytes) else self._read(where, length)
        if values == 1:
            return self._number(block)
        numbers = {self._number(block[i : i + width]) for i in range(0, len(block), width)}
        return numbers.pop() if len(numbers) == 1 else hash(block)

    def _count_subpages(self, values: int) -> None:
        self._subpages += values
        if self._subpages > max(self.size // _LEAST_PAGE, 1):
            raise damaged(self.path, f"it declares {self._subpages} reduced images, more than it can hold")

    def _read(self, place: int, length: int) -> bytes:
        self.file.seek(place)
        return self.file.read(length)

    def _number(self, block: bytes) -> int:
        return int.from_bytes(block, self.order)


def same_layout(path: Path, pages: Pages, numbers: list[int]) -> None:
    """Raise `FileFormatError` unless these pages can be planes of one image."""
    for number in numbers:
        if pages.layouts[number] != pages.layouts[numbers[0]]:
            one, other = _size(pages.layouts[numbers[0]]), _size(pages.layouts[number])
            differ = f"{one} and {other} pixels" if one != other else "type or codec"
            raise damaged(path, f"pages {numbers[0] + 1} and {number + 1} are planes of one image but differ: {differ}")


def _size(layout: tuple[int, ...]) -> str:
    return f"{layout[0]} x {layout[1]}"


def covers(numbers: list[tuple[int, ...]]) -> tuple[tuple[int, int], ...] | None:
    """First and last index along each axis of a set of index tuples that fill a box; None where they do not."""
    if not numbers:
        return None
    sides = tuple((min(axis), max(axis)) for axis in zip(*numbers, strict=True))
    volume = math.prod(last - first + 1 for first, last in sides)
    return sides if volume == len(numbers) == len(set(numbers)) else None


_LOG = logging.getLogger(__name__)

_ALPHA = {1, 2}  # EXTRASAMPLE values: associated and unassociated alpha
_WHITE_IS_ZERO, _PALETTE, _CMYK, _YCBCR = 0, 3, 5, 6
_REFUSED = {8: "CIELab", 9: "ICCLab", 10: "ITULab", 32803: "the raw mosaic of a camera", 32844: "LogL", 32845: "LogLuv"}
_DECODED_AS_RGB = {6, 7, 33003, 33005, 33007, 34712}  # JPEG and JPEG 2000


def plain_samples(
    path: Path, data: NDArray[Any], letters: str, page: TiffPage, *, labels: bool, stored: bool
) -> tuple[NDArray[Any], str]:
    """Values as gray or as red, green, blue: without alpha, palette and inversion.

    Parameters
    ----------
    path : Path
    data : ndarray
        Axes `letters`, ``S`` for the samples of a pixel.
    letters : str
    page : TiffPage
        The first of the image.
    labels : bool
        Whether the values are class numbers: those of a palette are its indices.
    stored : bool
        Whether the file keeps measured values, whatever colors it shows them in (ImageJ, OME-TIFF).

    Returns
    -------
    ndarray, str
        The values and their axes.

    Raises
    ------
    FileFormatError
        The colors are of a kind that is not converted.
    """
    kind = int(page.photometric) if "PhotometricInterpretation" in page.tags else None  # the library guesses white is 0
    if kind in _REFUSED:
        msg = f"{path} stores its colors as {_REFUSED[kind]}, which is not read. Save it as gray or RGB."
        raise FileFormatError(msg)
    data, letters = _without_alpha(path, data, letters, page)
    if data.dtype == bool:
        data = data.astype(np.uint8)
    if kind == _WHITE_IS_ZERO:
        return _brighter_is_larger(path, data, page, labels=labels, stored=stored), letters
    if kind == _PALETTE and not (labels or stored):
        return _through_palette(path, data, letters, page)
    if kind == _CMYK:
        return _as_rgb(path, data, letters, "CMYK"), letters
    if kind == _YCBCR and int(page.compression) not in _DECODED_AS_RGB:
        return _as_rgb(path, data, letters, "YCbCr"), letters
    return data, letters


def warn_orientation(path: Path, number: int) -> None:
    """Report that a picture is to be turned for display; its pixels are read as they are stored."""
    if number in range(2, 9):
        _LOG.warning(
            "%s has EXIF orientation %d: viewers turn or mirror it. Its pixels are read as stored; labels drawn on the "
            "turned picture do not fit them. Save it without the orientation to avoid this.",
            path,
            number,
        )


def _without_alpha(path: Path, data: NDArray[Any], letters: str, page: TiffPage) -> tuple[NDArray[Any], str]:
    if "S" not in letters:
        return data, letters
    at = letters.index("S")
    extra = [int(kind) for kind in page.extrasamples or ()]
    first = data.shape[at] - len(extra)
    alpha = [first + i for i, kind in enumerate(extra) if kind in _ALPHA]
    if not alpha or first < 1:
        return data, letters
    top = np.iinfo(data.dtype).max if data.dtype.kind in "ui" else 1
    log = _LOG.info if (data.take(alpha, axis=at) == top).all() else _LOG.warning
    log("%s: the alpha channel is left out.", path)
    data = data.take([i for i in range(data.shape[at]) if i not in alpha], axis=at)
    if data.shape[at] == 1:
        return data.take(0, axis=at), letters.replace("S", "")
    return data, letters


def _brighter_is_larger(path: Path, data: NDArray[Any], page: TiffPage, *, labels: bool, stored: bool) -> NDArray[Any]:
    """Values of which 0 is white, turned round; class numbers and measured values are kept."""
    bits = int(page.bitspersample)
    if data.dtype.kind != "u" or stored or bits > 8 * data.dtype.itemsize:
        _LOG.warning("%s shows 0 as white (photometric MinIsWhite); its values are kept as stored.", path)
        return data
    top = (1 << bits) - 1
    if labels and not np.isin(data, (0, top)).all():
        _LOG.warning("%s shows 0 as white (photometric MinIsWhite); its class numbers are kept as stored.", path)
        return data
    what = "white is taken as the object" if labels else "its values are inverted, so that brighter is larger"
    _LOG.warning("%s shows 0 as white (photometric MinIsWhite); %s.", path, what)
    turned: NDArray[Any] = data.dtype.type(top) - data
    return turned


def _through_palette(path: Path, data: NDArray[Any], letters: str, page: TiffPage) -> tuple[NDArray[Any], str]:
    colors = page.colormap
    if colors is None:
        return data, letters
    if not (colors & 255).any() or (colors >> 8 == colors & 255).all():
        colors = (colors >> 8).astype(np.uint8)
    if (colors == colors[:1]).all():
        return colors[0][data], letters
    _LOG.info("%s: colors of its palette are read as red, green, blue.", path)
    return np.moveaxis(colors[:, data], 0, -1), letters + "S"


def _as_rgb(path: Path, data: NDArray[Any], letters: str, mode: str) -> NDArray[Any]:
    from PIL import Image

    samples = 4 if mode == "CMYK" else 3
    if letters != "YXS" or data.dtype != np.uint8 or data.shape[-1] != samples:
        msg = f"{path} stores its colors as {mode}, {data.dtype}, axes {letters}; that is not read. Save it as RGB."
        raise FileFormatError(msg)
    _LOG.warning("%s: colors are converted from %s to red, green, blue.", path, mode)
    picture = Image.frombuffer(mode, data.shape[1::-1], np.ascontiguousarray(data), "raw", mode, 0, 1)
    return np.asarray(picture.convert("RGB"))
