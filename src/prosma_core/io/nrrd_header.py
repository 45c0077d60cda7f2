"""Headers of NRRD files, parsed and checked: what they declare, and where the voxels are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from prosma_core.errors import FileFormatError
from prosma_core.io.raw_voxels import Voxels, declared_shape, file_beside, header_lines, whole_numbers
from prosma_core.io.read_errors import damaged, shown
from prosma_core.printable import counted

if TYPE_CHECKING:
    from pathlib import Path

_TYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
_DTYPES = {name: dtype for dtype, names in _TYPES.items() for name in names}
_ENCODINGS = {"raw": "raw", "gzip": "gzip", "gz": "gzip", "bzip2": "bzip2", "bz2": "bzip2"}
PATIENT_SPACES = {
    "right-anterior-superior": (1.0, 1.0, 1.0),
    "left-anterior-superior": (-1.0, 1.0, 1.0),
    "left-posterior-superior": (-1.0, -1.0, 1.0),
}
"""Spaces that name a patient: signs that turn their axes to right, anterior, superior."""

_SHORT = {"ras": "right-anterior-superior", "las": "left-anterior-superior", "lps": "left-posterior-superior"}
_SHORT_TIME = {"rast", "last", "lpst"}
_OTHER_SPACES = {"scanner-xyz", "3d-right-handed", "3d-left-handed"}


@dataclass(frozen=True)
class NrrdFields:
    """A parsed header.

    Attributes
    ----------
    fields, notes : dict of str to str
        Fields (names in lower case) and key-value pairs.
    kinds, vectors : tuple of str
        For each axis, the fastest first; ``"???"`` for unknown kinds, ``vectors`` empty without space directions.
    space : str
        Long name in lower case, without time.
    dims : int
        Dimensions of the space, 0 where the header does not say.
    voxels : Voxels
    """

    fields: dict[str, str]
    notes: dict[str, str]
    kinds: tuple[str, ...]
    vectors: tuple[str, ...]
    space: str
    dims: int
    voxels: Voxels


def read_nrrd_header(path: Path) -> NrrdFields:
    """Parse the header; the voxels are not opened.

    Raises
    ------
    FileFormatError
        The header is damaged, or an encoding or arrangement of files is not supported.
    GeometryError
        An axis has no voxels.
    """
    with path.open("rb") as file:
        if not file.read(8).startswith(b"NRRD000"):
            raise damaged(path, "it does not start as an NRRD file")
        file.readline(8)
        lines = header_lines(file, path) if path.suffix.lower() != ".nhdr" else _detached_lines(file, path)
        start = file.tell()
    fields: dict[str, str] = {}
    notes: dict[str, str] = {}
    for line in lines:
        if line.startswith("#"):
            continue
        key, assigned, value = line.partition(":=")
        if assigned and ": " not in key:
            notes[key] = value.replace("\\n", "\n").replace("\\\\", "\\")
            continue
        name, colon, value = line.partition(":")
        if not colon:
            raise damaged(path, f"its header has the line {shown(line, 40)!r}")
        fields[name.strip().lower().replace("datafile", "data file")] = value.strip()
    return _declared(path, fields, notes, start)


def _detached_lines(file: Any, path: Path) -> list[str]:
    """Lines of a header that is a file of its own, which may end without an empty line."""
    text = file.read(1 << 20).decode("utf-8", "replace")
    if file.read(1):
        raise damaged(path, "its header is longer than 1 MiB")
    return [line for line in text.partition("\n\n")[0].splitlines() if line.strip()]


def _declared(path: Path, fields: dict[str, str], notes: dict[str, str], start: int) -> NrrdFields:
    dtype = _DTYPES.get(fields.get("type", "").lower())
    if dtype is None:
        raise damaged(path, f"its header declares the type {shown(fields.get('type'), 40)!r}")
    shape = declared_shape(fields.get("sizes", ""), "sizes", path)
    if whole_numbers(fields.get("dimension", str(len(shape))), "dimension", path) != (len(shape),):
        raise damaged(
            path, f"its header declares dimension {shown(fields['dimension'], 20)} but {counted(len(shape), 'size')}"
        )
    kinds = tuple(fields.get("kinds", "").lower().split())
    kinds = kinds if len(kinds) == len(shape) else ("???",) * len(shape)
    space, dims = _space(fields.get("space", ""))
    if not dims and "space dimension" in fields:
        dims = whole_numbers(fields["space dimension"], "space dimension", path)[0]
    vectors = _vectors(fields.get("space directions", ""))
    if vectors and len(vectors) != len(shape):
        raise damaged(
            path, f"its header has {counted(len(vectors), 'space direction')} for {counted(len(shape), 'axis', 'axes')}"
        )
    endian = fields.get("endian", "little").lower()
    if endian not in {"little", "big"}:
        raise damaged(path, f"its header has endian {shown(endian, 20)!r}")
    voxels = _voxels(path, fields, start, shape, np.dtype(("<" if endian == "little" else ">") + dtype))
    return NrrdFields(fields, notes, kinds, vectors, space, dims, voxels)


def _space(text: str) -> tuple[str, int]:
    """Name of a space in its long form without time, and the number of its dimensions; 0 where it is not known."""
    space = text.lower()
    time = space.endswith("-time") or space in _SHORT_TIME
    space = space.removesuffix("-time") if space not in _SHORT_TIME else space[:-1]
    space = _SHORT.get(space, space)
    return space, 3 + time if space in PATIENT_SPACES or space in _OTHER_SPACES else 0


def _vectors(text: str) -> tuple[str, ...]:
    """``(1,0,0)`` or ``none`` for each axis; spaces inside the brackets are allowed."""
    found: list[str] = []
    rest = text.strip()
    while rest:
        if rest.startswith("("):
            inside, _, rest = rest[1:].partition(")")
            found.append("(" + "".join(inside.split()) + ")")
        else:
            word, _, rest = rest.partition(" ")
            found.append(word.lower())
        rest = rest.strip()
    return tuple(found)


def _voxels(path: Path, fields: dict[str, str], start: int, shape: tuple[int, ...], dtype: Any) -> Voxels:
    """Where the voxels are: after the header, or in the one file that it names."""
    encoding = fields.get("encoding", "raw").lower()
    if encoding not in _ENCODINGS:
        msg = (
            f"{path} has the encoding {shown(encoding, 20)!r}; raw, gzip and bzip2 are read. Save it with one of them."
        )
        raise FileFormatError(msg)
    skip = whole_numbers(fields.get("byte skip", fields.get("byteskip", "0")), "byte skip", path)[0]
    lines = whole_numbers(fields.get("line skip", fields.get("lineskip", "0")), "line skip", path)[0]
    named = fields.get("data file")
    if named is None:
        if path.suffix.lower() == ".nhdr":
            raise damaged(path, "it names no file with the voxels")
        return Voxels(path, start, shape, dtype, _ENCODINGS[encoding])
    if named.upper().startswith("LIST") or "%" in named or (len(named.split()) > 1 and named.split()[-1].isdigit()):
        msg = f"The voxels of {path} are in several files; one is needed. Save it as one .nrrd file."
        raise FileFormatError(msg)
    other = file_beside(path, named)
    if lines < 0 or skip < -1 or (skip == -1 and encoding != "raw"):
        raise damaged(path, f"its header has byte skip {skip} and line skip {lines}")
    with other.open("rb") as file:
        for _ in range(lines):
            if not file.readline(1 << 20):
                raise damaged(other, f"it has fewer than the {lines} lines that {path.name} skips")
        start = -1 if skip < 0 else file.tell() + skip
    return Voxels(other, start, shape, dtype, _ENCODINGS[encoding])
