"""Pixel format and decoding of DICOM frames: RLE here, JPEG and JPEG 2000 by Pillow, the others by SimpleITK."""

from __future__ import annotations

import struct
import tempfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prosma_core.errors import MissingExtraError
from prosma_core.io.dicom_header import (
    DicomFile,
)
from prosma_core.io.read_errors import damaged
from prosma_core.printable import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from prosma_core.io.dicom_header import DicomFile


@dataclass(frozen=True)
class PixelFormat:
    """How the pixels of a file are stored; numbers as in the attributes of the same names."""

    frames: int
    rows: int
    columns: int
    samples: int
    planar: bool
    photometric: str
    bits: int
    stored: int
    high: int
    signed: bool
    floating: bool

    @property
    def nbytes(self) -> int:
        """Size of all frames where they are not packed."""
        values = self.frames * self.rows * self.columns * self.samples
        if self.photometric == "YBR_FULL_422" and self.samples == 3:
            values = values * 2 // 3
        return (values * self.bits + 7) // 8

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of one stored value, in the machine's byte order."""
        if self.floating:
            return np.dtype(f"f{self.bits // 8}")
        return np.dtype(f"{'i' if self.signed else 'u'}{max(self.bits // 8, 1)}")


JPEG = "1.2.840.10008.1.2.4."
BASELINE, EXTENDED = f"{JPEG}50", f"{JPEG}51"
JPEG2000 = {f"{JPEG}90", f"{JPEG}91"}
BY_SIMPLEITK = {EXTENDED, *JPEG2000, *(f"{JPEG}{number}" for number in (57, 70, 80, 81))}


def unpack_rle(packed: bytes, form: PixelFormat, path: Path) -> NDArray[Any]:
    """One frame: a segment for each byte of each sample, the highest byte first."""
    each = form.bits // 8
    count = struct.unpack_from("<I", packed)[0] if len(packed) >= 64 else 0
    if form.bits == 1 or count != each * form.samples:
        raise damaged(path, f"its run-length pixels have {counted(count, 'segment')}, not {each * form.samples}")
    offsets = [*struct.unpack_from(f"<{count}I", packed, 4), len(packed)]
    size = form.rows * form.columns
    planes = np.empty((form.samples, each, size), np.uint8)
    for index in range(count):
        plain = _unpacked_bits(packed[offsets[index] : offsets[index + 1]], size)
        if len(plain) < size:
            raise damaged(path, f"its run-length pixels end after {len(plain)} of {size} bytes")
        planes[index // each, each - 1 - index % each] = np.frombuffer(plain, np.uint8)
    values = np.ascontiguousarray(planes.transpose(2, 0, 1)).view(form.dtype.newbyteorder("<"))[..., 0]
    values = values.astype(form.dtype, copy=False).reshape(form.rows, form.columns, form.samples)
    return values[..., 0] if form.samples == 1 else values


def _unpacked_bits(packed: bytes, size: int) -> bytes:
    """PackBits, at most `size` bytes."""
    plain = bytearray()
    at, end = 0, len(packed)
    while at < end and len(plain) < size:
        head = packed[at]
        if head < 128:
            plain += packed[at + 1 : at + 2 + head]
            at += 2 + head
        else:
            if head > 128:
                plain += packed[at + 1 : at + 2] * (257 - head)
            at += 2
    return bytes(plain[:size])


def codestream_size(packed: bytes) -> tuple[int, int, int, int, bool]:
    """Rows, columns, samples, bits and sign that a JPEG, JPEG-LS or JPEG 2000 stream itself declares; zeros if none."""
    head = packed.find(b"\xff\x4f\xff\x51", 0, 1024)  # boxes of a .jp2 file may come first
    if head >= 0 and len(packed) >= head + 43:
        right, bottom, left, top = struct.unpack_from(">4I", packed, head + 8)
        samples, depth = struct.unpack_from(">HB", packed, head + 40)
        return bottom - top, right - left, samples, (depth & 0x7F) + 1, depth > 127
    at = 2
    while packed[:2] == b"\xff\xd8" and at + 10 <= len(packed):
        if packed[at] != 0xFF:
            break
        marker = packed[at + 1]
        if (0xC0 <= marker <= 0xCF and marker not in {0xC4, 0xC8, 0xCC}) or marker == 0xF7:
            rows, columns = struct.unpack_from(">HH", packed, at + 5)
            return rows, columns, packed[at + 9], packed[at + 4], False
        at += 1 if marker == 0xFF else 2 + struct.unpack_from(">H", packed, at + 2)[0]
    return 0, 0, 0, 0, False


def _check_stream(packed: bytes, form: PixelFormat, path: Path) -> tuple[int, bool]:
    """Bits and sign of a stream whose sizes are those of the header."""
    rows, columns, samples, bits, signed = codestream_size(packed)
    if (rows, columns, samples) != (form.rows, form.columns, form.samples):
        found = f"{rows} x {columns} x {samples}" if rows else "no image"
        declared = f"{form.rows} x {form.columns} x {form.samples}"
        raise damaged(path, f"its header declares {declared} pixels, the packed stream holds {found}")
    return bits, signed


def for_pillow(file: DicomFile, form: PixelFormat, frame: bytes) -> bool:
    """Whether Pillow unpacks this without loss: JPEG of 8 bits, JPEG 2000 of 8 bits or of one sample."""
    bits, _ = _check_stream(frame, form, file.path)
    if file.syntax in {BASELINE, EXTENDED}:
        return bits == 8
    return file.syntax in JPEG2000 and (bits <= 8 or (bits <= 16 and form.samples == 1))


def by_pillow(frame: bytes, form: PixelFormat, file: DicomFile) -> NDArray[Any]:
    """One frame of JPEG or JPEG 2000: stored values, shape (rows, columns), or (rows, columns, 3) in RGB."""
    from PIL import Image

    bits, signed = _check_stream(frame, form, file.path)
    with Image.open(BytesIO(frame), formats=("JPEG", "JPEG2000")) as picture:
        plain = form.samples == 3 and form.photometric == "RGB" and file.syntax not in JPEG2000
        if plain and "adobe_transform" not in picture.info:  # Pillow would take RGB for brightness and color
            picture.draft("YCbCr", picture.size)
        values = np.asarray(picture if plain or form.samples == 1 else picture.convert("RGB"))
    if file.syntax not in JPEG2000 or form.samples == 3:
        return values.astype(form.dtype)
    size = values.dtype.itemsize * 8
    whole = values.astype(np.int64) >> (size - bits) if bits < size else values.astype(np.int64)
    if signed:
        whole -= 1 << (bits - 1)
    elif form.signed:  # the sign is in the bits
        whole = np.where(whole >= 1 << (bits - 1), whole - (1 << bits), whole)
    return whole.astype(form.dtype)


def by_simpleitk(frames: list[bytes], form: PixelFormat, file: DicomFile) -> Iterator[NDArray[Any]]:
    """Frames unpacked one by one, each from a file with nothing but its pixels in it."""
    try:
        import SimpleITK as sitk
    except ImportError as error:
        msg = (
            f"The compression of {file.path} needs SimpleITK, which is not installed: "
            "pip install 'napari-prosma[medical]'"
        )
        raise MissingExtraError(msg) from error
    with tempfile.TemporaryDirectory(prefix="prosma-dicom-") as folder:
        path = Path(folder, "frame.dcm")
        for frame in frames:
            _check_stream(frame, form, file.path)
            path.write_bytes(_bare_file(frame, form, file.syntax))
            try:
                image = sitk.ReadImage(str(path), imageIO="GDCMImageIO")
            except RuntimeError as error:
                raise damaged(file.path, "its compressed pixels cannot be unpacked") from error
            values = sitk.GetArrayFromImage(image)
            values = values.reshape(form.rows, form.columns, *([form.samples] if form.samples > 1 else []))
            yield values.astype(form.dtype)


def _bare_file(frame: bytes, form: PixelFormat, syntax: str) -> bytes:
    """A DICOM file with one packed frame and what is needed to unpack it."""

    def element(tag: int, vr: str, value: bytes) -> bytes:
        value += (b"\0" if vr in {"UI", "OB"} else b" ") * (len(value) % 2)
        head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr.encode())
        long = vr in {"OB", "OW"}
        return head + struct.pack("<HI" if long else "<H", *((0, len(value)) if long else (len(value),))) + value

    def number(tag: int, value: int) -> bytes:
        return element(tag, "US", struct.pack("<H", value))

    kind, uid = b"1.2.840.10008.5.1.4.1.1.7", b"1.2.3"
    meta = element(0x00020001, "OB", b"\0\1") + element(0x00020002, "UI", kind) + element(0x00020003, "UI", uid)
    meta += element(0x00020010, "UI", syntax.encode()) + element(0x00020012, "UI", uid)
    color = "MONOCHROME2" if form.samples == 1 else form.photometric
    body = element(0x00080016, "UI", kind) + element(0x00080018, "UI", uid) + element(0x00080060, "CS", b"OT")
    body += element(0x0020000D, "UI", uid) + element(0x0020000E, "UI", uid) + number(0x00280002, form.samples)
    body += element(0x00280004, "CS", color.encode())
    body += number(0x00280006, int(form.planar)) if form.samples > 1 else b""
    body += number(0x00280010, form.rows) + number(0x00280011, form.columns) + number(0x00280100, form.bits)
    body += number(0x00280101, form.stored) + number(0x00280102, form.stored - 1)
    body += number(0x00280103, int(form.signed))
    frame += b"\0" * (len(frame) % 2)
    item = struct.Struct("<HHI")
    pixels = struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF) + item.pack(0xFFFE, 0xE000, 0)
    pixels += item.pack(0xFFFE, 0xE000, len(frame)) + frame + item.pack(0xFFFE, 0xE0DD, 0)
    length = element(0x00020000, "UL", struct.pack("<I", len(meta)))
    return bytes(128) + b"DICM" + length + meta + body + pixels
