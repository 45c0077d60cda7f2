"""PNG, JPEG and BMP pictures, and slices of scans as pictures."""

from __future__ import annotations

import logging
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prosma_core.errors import GeometryError, OutputError
from prosma_core.io.atomic import make_folder, write_atomic
from prosma_core.io.axes_units import arrange, parse_axes
from prosma_core.io.read_errors import check_unpacked, damaged, reading
from prosma_core.io.tiff_pages import warn_orientation

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

    from numpy.typing import NDArray
    from PIL import Image
    from PIL.ImageFile import ImageFile

    from prosma_core.data.geometry import ImageSpec, Scan


_LOG = logging.getLogger(__name__)


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


_PNG = b"\x89PNG\r\n\x1a\n"
_BLOCK = 1 << 20
_ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
_GRAY_STEP = {2: 85, 4: 17}  # pillow spreads gray of 2 and 4 bits over 0..255


@dataclass(frozen=True)
class _Header:
    """What the first chunk of a PNG declares (for a JPEG or BMP: 8 bits)."""

    width: int = 0
    height: int = 0
    depth: int = 8
    color: int = 0
    interlaced: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes of all rows before packing: each has one byte for its filter."""
        bits = self.depth * {2: 3, 4: 2, 6: 4}.get(self.color, 1)
        passes = _ADAM7 if self.interlaced else [(0, 0, 1, 1)]
        total = 0
        for x, y, step_x, step_y in passes:
            width, height = -(-(self.width - x) // step_x), -(-(self.height - y) // step_y)
            total += height * (1 + -(-width * bits // 8)) if width > 0 and height > 0 else 0
        return total


def check_raster(path: Path) -> None:
    """Check every chunk of a PNG; of a JPEG and a BMP, the declared size against that of the file.

    Raises
    ------
    FileFormatError
        It is none of the three, a chunk is cut or fails its checksum, or the declared size cannot be in the file.
    GeometryError
        Width or height is 0.
    """
    _read_header(path)


def _read_header(path: Path) -> _Header:
    """The header of a PNG whose chunks are whole, or the size of another picture."""
    header, rows = _Header(), _Rows()
    with reading(path, "a picture"), path.open("rb") as file:
        start = file.read(len(_PNG))
        if start[:2] in {b"\xff\xd8", b"BM"}:
            check = check_jpeg if start[:2] == b"\xff\xd8" else check_bmp
            return _Header(*check(path, file))
        if start != _PNG:
            raise damaged(path, "it is neither a PNG nor a JPEG or BMP picture")
        kind = b""
        while kind != b"IEND":
            head = file.read(8)
            if len(head) < 8:
                raise damaged(path, "it ends before its last chunk")
            length, kind = struct.unpack(">I4s", head)
            first = _check_chunk(file, path, length, kind, rows)
            if kind == b"IHDR" and len(first) >= 13:
                header = _Header(*struct.unpack(">IIBBxxB", first[:13]))
                rows.limit = header.nbytes
    if 0 in (header.width, header.height):
        msg = f"{path} has an axis without pixels: {header.width} x {header.height}. Every axis needs at least one."
        raise GeometryError(msg)
    if rows.count < header.nbytes:
        size = f"{header.width} x {header.height}"
        raise damaged(path, f"it declares {size} pixels but holds {rows.count} bytes of {header.nbytes}")
    return header


class _Rows:
    """Counts the bytes of the packed rows without keeping them."""

    def __init__(self) -> None:
        self.limit = 0
        self.count = 0
        self._unpacker = zlib.decompressobj()

    def add(self, block: bytes) -> None:
        while block and self.count < self.limit:
            self.count += len(self._unpacker.decompress(block, _BLOCK))
            block = self._unpacker.unconsumed_tail


def _check_chunk(file: BinaryIO, path: Path, length: int, kind: bytes, rows: _Rows) -> bytes:
    """Compare a chunk with its checksum; add it to the rows if it is part of them; return its first block."""
    checksum, left, first = zlib.crc32(kind), length, b""
    while left > 0:
        block = file.read(min(left, _BLOCK))
        if not block:
            raise damaged(path, "it ends inside a chunk")
        checksum, left, first = zlib.crc32(block, checksum), left - len(block), first or block
        if kind == b"IDAT":
            rows.add(block)
    if file.read(4) != struct.pack(">I", checksum):
        raise damaged(path, f"the checksum of its {kind.decode('latin-1')} chunk is wrong")
    return first


def read_raster(path: Path, axes: str | None, *, labels: bool = False) -> Scan:
    """The pixels of a picture: axes ``yx``, or ``cyx`` for color; the pixel grid as stored, EXIF not applied.

    Parameters
    ----------
    path : Path
    axes : str, optional
        Letters of rows, columns and (color) samples, in this order; ``"yx"`` or ``"yxc"`` if not given.
    labels : bool
        Give the indices of a palette, and gray of 2 or 4 bits as stored, not as colors.

    Raises
    ------
    FileFormatError
        As in `check_raster`, or the pixels cannot be decoded.
    """
    header = _read_header(path)
    with reading(path, "a picture"), open_picture(path) as picture:
        if not labels:
            unpacked = picture.width * picture.height * len(picture.getbands())
            check_unpacked(path, path.stat().st_size, unpacked)
        picture.load()
        warn_orientation(path, _orientation(picture))
        kind = str(picture.format).lower()
        pixels = _pixels(picture, path, labels=labels)
    if labels and header.color == 0 and header.depth in _GRAY_STEP:
        pixels = pixels // np.uint8(_GRAY_STEP[header.depth])
    if header.depth == 16 and header.color != 0:
        _LOG.warning("%s: color of 16 bits is read with 8 bits; save it as TIFF to keep all.", path)
    guess = "yxc" if pixels.ndim == 3 else "yx"
    names = guess if axes is None else parse_axes(axes, pixels.ndim, path)
    channels = ("red", "green", "blue") if "c" in names else ()
    return arrange(pixels, names, scale=[1.0] * pixels.ndim, unit="pixel", kind=kind, channel_names=channels)


def open_picture(path: Path) -> ImageFile:
    """A PNG, JPEG or BMP as pillow opens it, without its limit of 358 million pixels."""
    from PIL.BmpImagePlugin import BmpImageFile
    from PIL.JpegImagePlugin import JpegImageFile
    from PIL.PngImagePlugin import PngImageFile

    with path.open("rb") as file:
        start = file.read(2)
    kinds: dict[bytes, type[ImageFile]] = {b"\xff\xd8": JpegImageFile, b"BM": BmpImageFile}
    return kinds.get(start, PngImageFile)(path)


def _pixels(picture: Image.Image, path: Path, *, labels: bool) -> NDArray[Any]:
    """Gray of the stored depth, or color as rows, columns, (red, green, blue)."""
    mode = picture.mode
    if mode == "P":
        return _palette(picture, path, labels=labels)
    if mode in {"LA", "PA", "RGBA", "La", "RGBa"}:
        opaque = picture.getchannel("A" if mode.endswith("A") else "a").getextrema() == (255, 255)
        (_LOG.info if opaque else _LOG.warning)("%s: the alpha channel is left out.", path)
    if mode == "CMYK":
        _LOG.warning("%s: colors are converted from CMYK to red, green, blue.", path)
    if mode == "1":
        return np.asarray(picture).astype(np.uint8)
    if mode in {"L", "F"} or mode.startswith("I"):
        pixels = np.asarray(picture)
        return pixels.astype(np.uint16) if mode == "I" else pixels.astype(pixels.dtype.newbyteorder("="))
    return np.asarray(picture.convert("L" if mode in {"LA", "La"} else "RGB"))


def _palette(picture: Image.Image, path: Path, *, labels: bool) -> NDArray[Any]:
    """Class numbers are the indices, but in a mask of black and white; in an image the colors, or gray."""
    indices = np.asarray(picture)
    colors = np.zeros((256, 3), np.uint8)
    given = np.array(picture.getpalette("RGB") or [], np.uint8).reshape(-1, 3)[:256]
    colors[: len(given)] = given
    used = np.unique(indices)
    if labels:
        if used[-1] <= 1 and len(given) > 1 and given[:2].tolist() == [[255] * 3, [0] * 3]:
            _LOG.warning("%s: 0 is white in its palette; white is taken as the object.", path)
            return np.asarray(indices == 0, np.uint8)
        return indices
    values, shades = colors[indices], colors[used]
    return np.asarray(values[..., 0] if (shades == shades[:, :1]).all() else values)


def _orientation(picture: Image.Image) -> int:
    value = picture.getexif().get(0x0112, 1)
    return value if isinstance(value, int) else 1


def write_raster(path: Path, data: NDArray[Any], spec: ImageSpec, provenance: dict[str, str]) -> None:
    """Write a picture: uint8 or uint16 of axes ``yx``, or uint8 of axes ``cyx`` with 3 channels.

    Raises
    ------
    OutputError
        The array does not fit into a PNG (or JPEG).
    """
    from PIL import Image, PngImagePlugin

    gray = spec.axes == "yx" and data.dtype in (np.uint8, np.uint16)
    color = spec.axes == "cyx" and data.shape[0] == 3 and data.dtype == np.uint8
    png = path.suffix.lower() == ".png"
    if not (gray or color) or (not png and data.dtype != np.uint8):
        msg = (
            f"Axes {spec.axes}, shape {data.shape}, {data.dtype} cannot be written as {path.suffix}: it holds one 2D "
            "picture, uint8 or (PNG, gray) uint16. Choose a name that ends with .tif, .zarr or .nii.gz."
        )
        raise OutputError(msg)
    picture = Image.fromarray(np.ascontiguousarray(np.moveaxis(data, 0, -1) if color else data))
    if not png:
        picture.save(path, format="JPEG", quality=95)
        return
    info = PngImagePlugin.PngInfo()
    for key, value in provenance.items():
        info.add_itxt(key[:79], value)
    picture.save(path, format="PNG", pnginfo=info)


PICTURE_SIDE = 384
"""Length of the longer side of a slice, in pixels."""
PICTURE_GAP = 4
"""Pixels between two slices side by side."""


def nearest_pixels(shape: Sequence[int], spacing: Sequence[float]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Row and column of a slice that each row and column of the picture shows."""
    lengths = [n * s for n, s in zip(shape, spacing, strict=True)]
    sizes = [max(1, round(PICTURE_SIDE * length / max(lengths))) for length in lengths]
    rows, columns = ((np.arange(size) * n // size).astype(np.intp) for n, size in zip(shape, sizes, strict=True))
    return rows, columns


def gray_values(image: NDArray[np.floating]) -> NDArray[np.float64]:
    """A slice (C, y, x) as values 0..255: three channels as colors (y, x, 3), else the first one (y, x)."""
    shown = np.moveaxis(image, 0, -1) if len(image) == 3 else image[0]
    low, high = np.percentile(shown, (1, 99))
    values: NDArray[np.float64] = np.clip((shown - low) / max(high - low, 1e-6), 0, 1) * 255.0
    return values


def side_by_side(slices: Sequence[NDArray[np.floating]]) -> NDArray[np.uint8]:
    """Slices (y, x) or (y, x, 3) of one size, values 0..255, as one picture in color with white gaps."""
    gap = np.full((len(slices[0]), PICTURE_GAP, 3), 255.0)
    parts: list[NDArray[np.floating]] = []
    for shown in slices:
        parts += [gap, np.repeat(shown[..., None], 3, axis=-1) if shown.ndim == 2 else shown]
    return np.concatenate(parts[1:], axis=1).round().astype(np.uint8)


def write_picture(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write a PNG, its folder made where it is missing; raises `OutputError` where that fails."""
    from PIL import Image

    picture = Image.fromarray(pixels)
    make_folder(path.parent)
    write_atomic(path, lambda temporary: picture.save(temporary, format="PNG"))
