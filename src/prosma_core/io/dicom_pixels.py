"""Pixels of DICOM files: how they are stored, checked against the bytes that are there, and their stored values."""

from __future__ import annotations

import itertools
import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from prosma_core.errors import FileFormatError
from prosma_core.io.dicom_codecs import (
    BASELINE,
    BY_SIMPLEITK,
    JPEG,
    PixelFormat,
    by_pillow,
    by_simpleitk,
    for_pillow,
    unpack_rle,
)
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
from prosma_core.io.dicom_slices import no_image
from prosma_core.io.read_errors import damaged, shown
from prosma_core.printable import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from prosma_core.io.dicom_header import DicomFile


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
            given = shown(text, 20) if name == "Number of Frames" else value
            raise damaged(file.path, f"its attribute {name} is {given!r}")
    samples = _whole(numbers["Samples per Pixel"]) or 1
    photometric = data.text(0x00280004) or "MONOCHROME2"
    if samples not in {1, 3, 4} or (samples == 1 and photometric in _COLORS):
        raise damaged(file.path, f"it has {samples} samples for each pixel of {shown(photometric, 20)}")
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
        f"{file.path} has {name} compression (transfer syntax {shown(file.syntax, 64)}), which is not read. "
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
