"""Pixels of DICOM files: format, checks against the bytes present, decoding of frames, colors.

RLE is decoded here, JPEG and JPEG 2000 by Pillow, other codecs by SimpleITK.
"""

from __future__ import annotations

import itertools
import struct
import tempfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prosma_core.errors import FileFormatError, MissingExtraError
from prosma_core.io.dicom_header import (
    BIG_ENDIAN,
    DEFLATED,
    DOUBLE_PIXELS,
    EXPLICIT,
    FLOAT_PIXELS,
    IMPLICIT,
    PIXELS,
    RLE,
    DicomFile,
)
from prosma_core.io.dicom_stack import no_image
from prosma_core.io.read_errors import damaged, excerpt
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


def rgb_of_ybr(values: NDArray[Any]) -> NDArray[np.uint8]:
    """YBR_FULL of 8 bits as RGB (PS3.3 C.7.6.3.1.2)."""
    bright, blue, red = (values[..., i].astype(np.float32) - (128 if i else 0) for i in range(3))
    rgb = np.stack([bright + 1.402 * red, bright - 0.344136 * blue - 0.714136 * red, bright + 1.772 * blue], axis=-1)
    return np.clip(np.floor(rgb + 0.5), 0, 255).astype(np.uint8)


def rgb_of_palette(values: NDArray[Any], file: DicomFile) -> NDArray[Any]:
    """Colors of a palette, as RGB of 8 or 16 bits."""
    channels = []
    for offset in range(3):
        described = file.data.numbers(0x00281101 + offset)
        element = file.data.elements.get(0x00281201 + offset)
        if len(described) != 3 or element is None or described[2] not in {8, 16}:
            raise damaged(file.path, "its palette of colors is missing or segmented")
        count, first, bits = int(described[0]) or 65536, int(described[1]), int(described[2])
        order = ">" if file.data.big else "<"
        wide = bits == 16 or len(element.value) >= 2 * count
        table = np.frombuffer(element.value[: len(element.value) // 2 * 2 if wide else None], f"{order}u{1 + wide}")
        if len(table) < count:
            raise damaged(file.path, f"its palette declares {count} colors, {len(table)} are there")
        table = table[:count].astype(np.uint16 if bits == 16 else np.uint8)
        channels.append(table[np.clip(values.astype(np.int64) - first, 0, count - 1)])
    return np.stack(channels, axis=-1)


_NATIVE = {IMPLICIT, EXPLICIT, DEFLATED, BIG_ENDIAN}
_BITS = {1, 8, 16, 32, 64}
_MOST_FRAMES = 1 << 20
_MOST_UNPACKED = 200  # times the packed bytes, or 64 MiB if that is more
_LEAST_BOUND = 64 << 20
_YBR = {"YBR_FULL", "YBR_FULL_422"}
_COLORS = {"RGB", "YBR_RCT", "YBR_ICT", *_YBR}


def pixel_format(file: DicomFile) -> PixelFormat:
    """How the pixels are stored, checked against the bytes that are there.

    Raises
    ------
    FileFormatError
        There are no pixels, a number is missing or impossible, the packing is not supported, or the pixels are cut.
    """
    data = file.data
    tag = next((tag for tag in (PIXELS, FLOAT_PIXELS, DOUBLE_PIXELS) if tag in data), None)
    if tag is None:
        raise no_image(file)
    numbers = {name: data.number(number) for name, number in _NUMBERS.items()}
    bits = {FLOAT_PIXELS: 32, DOUBLE_PIXELS: 64}.get(tag) or _whole(numbers["Bits Allocated"])
    text = data.text(0x00280008)
    frames = 1 if 0x00280008 not in data or not text else _whole(data.number(0x00280008))
    sizes = {"Rows": _whole(numbers["Rows"]), "Columns": _whole(numbers["Columns"]), "Bits Allocated": bits}
    if not all(sizes.values()) and not (data.text(0x00080016) or file.file_class):
        raise no_image(file)
    for name, value in {**sizes, "Number of Frames": frames}.items():
        if not value or value > _MOST_FRAMES or (name == "Bits Allocated" and value not in _BITS):
            given = excerpt(text, 20) if name == "Number of Frames" else value
            raise damaged(file.path, f"its attribute {name} is {given!r}")
    samples = _whole(numbers["Samples per Pixel"]) or 1
    photometric = data.text(0x00280004) or "MONOCHROME2"
    if samples not in {1, 3, 4} or (samples == 1 and photometric in _COLORS):
        raise damaged(file.path, f"it has {samples} samples for each pixel of {excerpt(photometric, 20)}")
    stored = _whole(numbers["Bits Stored"]) or bits
    high = numbers["High Bit"]
    form = PixelFormat(
        frames,
        sizes["Rows"],
        sizes["Columns"],
        samples,
        data.number(0x00280006) == 1,
        photometric,
        bits,
        min(stored, bits),
        int(high) if high is not None and stored <= high + 1 <= bits else min(stored, bits) - 1,
        data.number(0x00280103) == 1,
        tag != PIXELS,
    )
    _check_present(file, form, tag)
    return form


_NUMBERS = {
    "Samples per Pixel": 0x00280002,
    "Rows": 0x00280010,
    "Columns": 0x00280011,
    "Bits Allocated": 0x00280100,
    "Bits Stored": 0x00280101,
    "High Bit": 0x00280102,
}


def _whole(value: float | None) -> int:
    return int(value) if value is not None and value == int(value) and value > 0 else 0


def _check_present(file: DicomFile, form: PixelFormat, tag: int) -> None:
    """Declared against present bytes, and whether the packing is one that is read."""
    element = file.data.elements[tag]
    if element.fragments is None:
        if file.syntax not in _NATIVE:
            raise _unsupported(file, form)
        present = len(element.value)
        if present < form.nbytes:
            reason = f"its header declares {form.nbytes} bytes of pixels but {present} are there"
            raise damaged(file.path, reason)
        return
    if file.syntax != RLE and file.syntax != BASELINE and file.syntax not in BY_SIMPLEITK:
        raise _unsupported(file, form)
    packed = sum(map(len, element.fragments[1:]))
    if file.data.cut == tag or len(element.fragments) - 1 < form.frames:
        reason = f"its header declares {form.frames} packed frames, the pixels end before"
        raise damaged(file.path, reason)
    if form.nbytes > max(_LEAST_BOUND, _MOST_UNPACKED * packed):
        raise damaged(file.path, f"its header declares {form.nbytes} bytes of pixels, packed into {packed}")


def _unsupported(file: DicomFile, form: PixelFormat) -> FileFormatError:
    names = {"100": "MPEG2", "102": "MPEG-4 (H.264)", "107": "HEVC (H.265)", "201": "HTJ2K", "92": "JPEG 2000 Part 2"}
    number = file.syntax.removeprefix(JPEG)
    name = next((text for start, text in names.items() if number.startswith(start)), "this")
    return FileFormatError(
        f"{file.path} has {name} compression (transfer syntax {excerpt(file.syntax, 64)}), which is not read. "
        "Decompress it first, for example with gdcmconv --raw or dcmdjpeg."
    )


def decode_frames(file: DicomFile, form: PixelFormat) -> NDArray[Any]:
    """Stored values of all frames.

    Returns
    -------
    ndarray
        Shape (frames, rows, columns), or (frames, rows, columns, 3) for color (RGB, whatever the file stores).

    Raises
    ------
    FileFormatError
        The pixels cannot be unpacked.
    MissingExtraError
        SimpleITK is needed to unpack them and is not installed.
    """
    tag = next(tag for tag in (PIXELS, FLOAT_PIXELS, DOUBLE_PIXELS) if tag in file.data)
    element = file.data.elements[tag]
    if element.fragments is None:
        values = _native(element.value, element.vr, file, form)
        color = form.photometric
    else:
        frames = list(_frames(file, form, element.fragments))
        if file.syntax == RLE:
            values, color = np.stack([unpack_rle(frame, form, file.path) for frame in frames]), form.photometric
        elif for_pillow(file, form, frames[0]):
            decoded = [by_pillow(frame, form, file) for frame in frames]
            values, color = np.stack(decoded), "RGB" if form.samples == 3 else form.photometric
        else:
            values, color = np.stack(list(by_simpleitk(frames, form, file))), "RGB"
    values = _meant_bits(values, form)
    if form.samples == 3 and color in _YBR and form.bits == 8:
        return rgb_of_ybr(values)
    if form.photometric == "PALETTE COLOR" and form.samples == 1:
        return rgb_of_palette(values, file)
    return values


def _native(value: memoryview, vr: str, file: DicomFile, form: PixelFormat) -> NDArray[Any]:
    big = file.syntax == BIG_ENDIAN
    raw = np.frombuffer(value, np.uint8)
    if big and vr == "OW" and form.bits <= 8:  # pairs of bytes are words, which are swapped
        even = np.append(raw, np.uint8(0)) if len(raw) % 2 else raw
        raw = np.ascontiguousarray(even.reshape(-1, 2)[:, ::-1]).ravel()
    raw = raw[: form.nbytes]
    shape = (form.frames, form.rows, form.columns)
    if form.bits == 1:
        count = form.frames * form.rows * form.columns
        return np.unpackbits(raw, bitorder="little", count=count).reshape(shape)
    if form.photometric == "YBR_FULL_422" and form.samples == 3 and form.bits == 8:
        quads = raw.reshape(-1, 4)  # two of brightness, then one each of blue and red for both
        pairs = np.stack([quads[:, [0, 2, 3]], quads[:, [1, 2, 3]]], axis=1)
        return pairs.reshape(*shape, 3)
    values = raw.view(form.dtype.newbyteorder(">" if big else "<")).astype(form.dtype, copy=False)
    if form.samples == 1:
        return values.reshape(shape)
    if form.planar:
        return np.moveaxis(values.reshape(form.frames, form.samples, form.rows, form.columns), 1, -1)
    return values.reshape(*shape, form.samples)


def _meant_bits(values: NDArray[Any], form: PixelFormat) -> NDArray[Any]:
    """Values without the bits around those that are stored (old files keep overlays there)."""
    size = values.dtype.itemsize * 8
    if form.floating or form.stored >= size or form.bits == 1 or values.dtype.kind == "f":
        return values
    up, down = size - form.high - 1, size - form.stored
    if up < 0:
        return values
    shifted: NDArray[Any] = np.right_shift(np.left_shift(values, up), down)
    return shifted


def _frames(file: DicomFile, form: PixelFormat, fragments: list[memoryview]) -> Iterator[bytes]:
    """Packed bytes of each frame."""
    table, parts = fragments[0], fragments[1:]
    if form.frames == 1:
        yield b"".join(parts)
        return
    if len(parts) == form.frames:
        yield from (bytes(part) for part in parts)
        return
    count = len(table) // 4
    offsets = struct.unpack(("<" if not file.data.big else ">") + "I" * count, table[: count * 4])
    starts = {0}
    at = 0
    where: dict[int, int] = {}
    for index, part in enumerate(parts):
        where[at] = index
        at += 8 + len(part)
    if count != form.frames or not set(offsets) <= set(where) or offsets[0] not in starts:
        raise damaged(
            file.path, f"{counted(form.frames, 'frame')} in {counted(len(parts), 'piece')}, and no table says which"
        )
    bounds = [where[offset] for offset in offsets] + [len(parts)]
    for start, end in itertools.pairwise(bounds):
        yield b"".join(parts[start:end])
