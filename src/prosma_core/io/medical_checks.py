"""What NRRD and MHA headers declare against the bytes after them, and whether the files of a DICOM folder are whole."""

from __future__ import annotations

import math
import zlib
from typing import TYPE_CHECKING

from prosma_core.errors import FileFormatError, GeometryError
from prosma_core.io.failures import damaged, reading
from prosma_core.io.names import is_dicom_file

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

_NRRD_BYTES = {
    "signed char": 1, "int8": 1, "int8_t": 1, "uchar": 1, "unsigned char": 1, "uint8": 1, "uint8_t": 1,
    "short": 2, "short int": 2, "signed short": 2, "signed short int": 2, "int16": 2, "int16_t": 2,
    "ushort": 2, "unsigned short": 2, "unsigned short int": 2, "uint16": 2, "uint16_t": 2,
    "int": 4, "signed int": 4, "int32": 4, "int32_t": 4, "uint": 4, "unsigned int": 4, "uint32": 4, "uint32_t": 4,
    "longlong": 8, "long long": 8, "int64": 8, "int64_t": 8, "ulonglong": 8, "unsigned long long": 8,
    "uint64": 8, "uint64_t": 8, "float": 4, "double": 8,
}  # fmt: skip
_MHA_BYTES = {
    "MET_CHAR": 1, "MET_UCHAR": 1, "MET_SHORT": 2, "MET_USHORT": 2, "MET_INT": 4, "MET_UINT": 4,
    "MET_LONG": 4, "MET_ULONG": 4, "MET_LONG_LONG": 8, "MET_ULONG_LONG": 8, "MET_FLOAT": 4, "MET_DOUBLE": 8,
}  # fmt: skip
_BLOCK = 1 << 20
_MOST_LINES = 10_000
_GZIP, _ZLIB = 31, 15  # zlib's window arguments


def check_medical(path: Path) -> None:
    """Check an NRRD or MHA file, or the files of a DICOM folder, without SimpleITK.

    Raises
    ------
    FileFormatError
        The header is damaged, the voxels are in another file, or they are fewer than declared.
    GeometryError
        An axis has no voxels.
    """
    if path.is_dir():
        for member in sorted(path.iterdir()):
            if is_dicom_file(member) and member.stat().st_size < 132:
                raise damaged(member, "it is too short for a DICOM file")
        return
    with reading(path, "an image"), path.open("rb") as file:
        check = _check_nrrd if path.suffix.lower() == ".nrrd" else _check_mha
        check(file, path)


def _check_nrrd(file: BinaryIO, path: Path) -> None:
    if not file.readline(_BLOCK).startswith(b"NRRD"):
        raise damaged(path, "it does not start as an NRRD file")
    fields: dict[str, str] = {}
    for _ in range(_MOST_LINES):
        line = file.readline(_BLOCK)
        if not line.endswith(b"\n"):
            raise damaged(path, "it ends inside its header")
        text = line.decode("utf-8", "replace").strip()
        if not text:
            break
        name, _, value = text.partition(": ")
        fields[name.strip().lower()] = value.strip()
    if "data file" in fields or "datafile" in fields:
        raise _detached(path, ".nrrd")
    size = _NRRD_BYTES.get(fields.get("type", "").lower())
    if size is None:
        raise damaged(path, f"its header declares the type {fields.get('type')!r}")
    declared = _declared(path, fields.get("sizes", ""), size)
    encoding = fields.get("encoding", "").lower()
    if encoding == "raw":
        _check_raw(file, path, declared)
    elif encoding in {"gzip", "gz"}:
        _check_packed(file, path, declared, _GZIP)


def _check_mha(file: BinaryIO, path: Path) -> None:
    fields: dict[str, str] = {}
    for _ in range(_MOST_LINES):
        line = file.readline(_BLOCK)
        if not line.endswith(b"\n"):
            raise damaged(path, "it ends inside its header")
        name, _, value = line.decode("utf-8", "replace").partition("=")
        fields[name.strip()] = value.strip()
        if name.strip() == "ElementDataFile":
            break
    if fields.get("ElementDataFile", "").upper() != "LOCAL":
        raise _detached(path, ".mha")
    size = _MHA_BYTES.get(fields.get("ElementType", ""))
    if size is None:
        raise damaged(path, f"its header declares the type {fields.get('ElementType')!r}")
    declared = _declared(path, fields.get("DimSize", ""), size * int(fields.get("ElementNumberOfChannels", "1")))
    if fields.get("CompressedData", "").lower() == "true":
        _check_packed(file, path, declared, _ZLIB)
    elif fields.get("BinaryData", "True").lower() == "true":
        _check_raw(file, path, declared)


def _declared(path: Path, sizes: str, item: int) -> int:
    shape = [int(size) for size in sizes.split()]
    if not shape or item < 1 or any(size < 0 for size in shape):
        raise damaged(path, f"its header declares the sizes {sizes!r}")
    if 0 in shape:
        msg = f"{path} has an axis without voxels: sizes {sizes}. Every axis needs at least one."
        raise GeometryError(msg)
    return math.prod(shape) * item


def _check_raw(file: BinaryIO, path: Path, declared: int) -> None:
    present = path.stat().st_size - file.tell()
    if present < declared:
        raise damaged(path, f"its header declares {declared} bytes of voxels but only {present} are there")


def _check_packed(file: BinaryIO, path: Path, declared: int, window: int) -> None:
    """Unpack to the end, keeping nothing; zlib compares its checksum there."""
    unpacker, got = zlib.decompressobj(window), 0
    while got <= declared and not unpacker.eof:
        block = unpacker.unconsumed_tail or file.read(_BLOCK)
        if not block:
            break
        got += len(unpacker.decompress(block, _BLOCK))
    if got != declared or not unpacker.eof:
        raise damaged(path, f"its header declares {declared} bytes of voxels but {got} could be unpacked")


def _detached(path: Path, suffix: str) -> FileFormatError:
    return FileFormatError(f"The voxels of {path} are in another file. Save it as one {suffix} file.")
