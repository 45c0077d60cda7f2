"""NRRD files: one file, or a header (.nhdr) with the voxels in a file beside it; segmentations of 3D Slicer."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from prosma_core.data.geometry import METRES, ImageSpec, Scan, affine_spacing, reverse_affine
from prosma_core.errors import FileFormatError, GeometryError, OutputError
from prosma_core.io.axes_units import arrange, ask_for_axes, one_unit, parse_axes, to_canonical, unit_name
from prosma_core.io.labels import as_label_map, segments_of
from prosma_core.io.raw_voxels import (
    Voxels,
    check_voxels,
    declared_shape,
    file_beside,
    header_lines,
    numbers,
    read_voxels,
    whole_numbers,
)
from prosma_core.io.read_errors import damaged, excerpt, reading
from prosma_core.printable import counted

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from prosma_core.data.geometry import ImageSpec


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
            raise damaged(path, f"its header has the line {excerpt(line, 40)!r}")
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
        raise damaged(path, f"its header declares the type {excerpt(fields.get('type'), 40)!r}")
    shape = declared_shape(fields.get("sizes", ""), "sizes", path)
    if whole_numbers(fields.get("dimension", str(len(shape))), "dimension", path) != (len(shape),):
        raise damaged(
            path, f"its header declares dimension {excerpt(fields['dimension'], 20)} but {counted(len(shape), 'size')}"
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
        raise damaged(path, f"its header has endian {excerpt(endian, 20)!r}")
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
        given = excerpt(encoding, 20)
        msg = f"{path} has the encoding {given!r}; raw, gzip and bzip2 are read. Save it with one of them."
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


_COLORS = {"rgb-color", "rgba-color", "3-color", "4-color"}


def check_nrrd(path: Path) -> None:
    """Read the file to its end without keeping its voxels.

    Raises
    ------
    FileFormatError
        The header is damaged, an encoding or arrangement is not supported, or the voxels are fewer than declared.
    GeometryError
        An axis has no voxels, or the affine is not finite and invertible.
    """
    with reading(path, "an NRRD file"):
        declared = read_nrrd_header(path)
        letters = _letters(declared, path, layers=False)
        if letters is not None:
            _geometry(declared, [letters.index(letter) for letter in "xyz" if letter in letters], path)
        check_voxels(declared.voxels)


def nrrd_voxels_file(path: Path) -> Path:
    """The file that holds the voxels: `path` itself, or one beside it; errors as in `check_nrrd`."""
    with reading(path, "an NRRD file"):
        return read_nrrd_header(path).voxels.path


def read_nrrd(path: Path, axes: str | None) -> Scan:
    """The scan of an NRRD file.

    The unit is the file's own (``space units``), millimeters where it gives lengths without a unit. A space
    that does not name a patient's axes (or no space) gives the world ``"image"``.

    Parameters
    ----------
    path : Path
    axes : str, optional
        Letters for the dimensions of the array (those of the header in reverse order). Replaces the kinds of the
        header and leaves the orientation out.

    Raises
    ------
    FileFormatError, GeometryError
        As in `check_nrrd`, or the axes cannot be told.
    """
    with reading(path, "an NRRD file"):
        declared = read_nrrd_header(path)
        segments = segments_of(declared.notes)
        data = read_voxels(declared.voxels)
    letters = _letters(declared, path, layers=bool(segments) and axes is None)
    if axes is not None or letters is None or not {"x", "y"} <= set(letters):
        if axes is None:
            raise ask_for_axes(path, f"NRRD with the kinds {excerpt(', '.join(declared.kinds), 60)}", data.shape)
        names = parse_axes(axes, data.ndim, path)
        sizes, unit = _axis_sizes(declared, path)
        return arrange(data, names, scale=[s or 1.0 for s in reversed(sizes)], unit=unit, kind="nrrd")
    spatial = [letters.index(letter) for letter in "xyz" if letter in letters]
    header, unit, world = _geometry(declared, spatial, path)
    voxels, ordered = to_canonical(data, letters[::-1])
    classes: dict[int, str] = {}
    if segments:
        voxels, ordered, classes = as_label_map(voxels, ordered, segments, path)
        header = NrrdHeader(header.lines, header.affine, classes)
    colors = "c" in ordered and any(kind in _COLORS for kind in declared.kinds)
    channels = ("red", "green", "blue", "alpha")[: voxels.shape[ordered.index("c")]] if colors else ()
    spec = ImageSpec(
        ordered, voxels.shape, affine_spacing(header.affine), unit, header.affine, world, channels, "nrrd", header
    )
    return Scan(voxels, spec)


def _letters(declared: NrrdFields, path: Path, *, layers: bool) -> str | None:
    """A letter of ``"xyztc"`` for each axis of the header, None where they cannot be told."""
    spatial: list[int] = []
    letters: list[str] = []
    for index, kind in enumerate(declared.kinds):
        directed = not declared.vectors or declared.vectors[index].startswith("(")
        if kind == "complex":
            msg = f"{path} holds complex numbers; real ones are needed. Save magnitude or phase."
            raise FileFormatError(msg)
        if kind == "time" or (kind == "domain" and not directed):
            letters.append("t")
        elif kind in {"domain", "space", "???", "none"} and directed:
            letters.append(" ")
            spatial.append(index)
        else:
            letters.append("c")
    if layers and "c" not in letters and len(spatial) == 4:
        letters[spatial.pop(0)] = "c"
    if len(spatial) == 4 and "t" not in letters:
        letters[spatial.pop()] = "t"
    for letter, index in zip("xyz", spatial, strict=False):
        letters[index] = letter
    usable = " " not in letters and len(set(letters)) == len(letters) and len(spatial) in {2, 3}
    return "".join(letters) if usable else None


def _axis_sizes(declared: NrrdFields, path: Path) -> tuple[list[float | None], str]:
    """Size of a voxel along each axis of the header (None where it has none), and the unit."""
    sizes: list[float | None] = [None] * len(declared.kinds)
    for index, vector in enumerate(declared.vectors):
        if vector.startswith("("):
            sizes[index] = float(np.linalg.norm(_vector(vector, declared, path))) or None
    for index, word in enumerate(declared.fields.get("spacings", "").lower().split()[: len(sizes)]):
        if word != "nan" and not declared.vectors:
            sizes[index] = abs(numbers(word, 1, "spacings", path)[0]) or None
    units = _quoted(declared.fields.get("space units", declared.fields.get("units", "")))
    return sizes, unit_name(units[0]) if units else "mm" if any(sizes) else "pixel"


def _vector(text: str, declared: NrrdFields, path: Path) -> tuple[float, ...]:
    return numbers(text.strip("()"), max(declared.dims, 1), "space directions", path)


def _quoted(text: str) -> list[str]:
    """Words in quotation marks; without any, the words."""
    return text.split('"')[1::2] if '"' in text else text.split()


def _geometry(declared: NrrdFields, spatial: list[int], path: Path) -> tuple[NrrdHeader, str, Any]:
    """Header lines, unit and world of the axes x, y, (z), which are the axes `spatial` of the header."""
    n = len(spatial)
    fields = declared.fields
    lines: list[tuple[str, str]] = []
    affine = np.eye(n + 1)
    patient = declared.space in PATIENT_SPACES and n == 3
    if declared.vectors:
        if declared.dims not in {n, n + 1}:
            msg = f"{path} has {n} axes in a space of {declared.dims} dimensions. Save it without its space directions."
            raise GeometryError(msg)
        columns = [_vector(declared.vectors[index], declared, path) for index in spatial]
        affine[:n, :n] = np.array(columns)[:, :n].T
        vectors = " ".join(_shorter(declared.vectors[index], n) for index in spatial)
        place = (
            ("space", declared.space)
            if declared.space and (n == 3 or declared.space not in PATIENT_SPACES)
            else ("space dimension", str(n))
        )
        lines += [place, ("space directions", vectors)]
        if "space origin" in fields:
            text = "".join(fields["space origin"].split())
            affine[:n, n] = numbers(text.strip("()"), declared.dims, "space origin", path)[:n]
            lines.append(("space origin", _shorter(text, n)))
        units = _quoted(fields.get("space units", ""))[:n]
        if units:
            lines.append(("space units", " ".join(f'"{unit}"' for unit in units)))
    else:
        words = fields.get("spacings", "").split() or ["nan"] * len(declared.kinds)
        if len(words) != len(declared.kinds):
            raise damaged(
                path,
                f"its header has {counted(len(words), 'spacing')} for {counted(len(declared.kinds), 'axis', 'axes')}",
            )
        chosen = [words[index] for index in spatial]
        affine[:n, :n] = np.diag([1.0 if w.lower() == "nan" else numbers(w, 1, "spacings", path)[0] for w in chosen])
        if any(word.lower() != "nan" for word in chosen):
            lines.append(("spacings", " ".join(chosen)))
        units = _quoted(fields.get("units", ""))
        units = [units[index] for index in spatial] if len(units) == len(declared.kinds) else []
        if units:
            lines.append(("units", " ".join(f'"{unit}"' for unit in units)))
    _check_affine(affine, path)
    sized = bool(declared.vectors) or any(name == "spacings" for name, _ in lines)
    unit = "mm" if sized else "pixel"  # what 3D Slicer and ITK take lengths without a unit for
    if any(units):  # rows are the axes of the space; they are brought to one unit
        unit, factors = one_unit([*units, *units[-1:] * (n - len(units))])
        affine[:n] *= np.array(factors)[:, None]
    if patient:
        affine = np.diag([*PATIENT_SPACES[declared.space], 1.0]) @ affine
    header = NrrdHeader(tuple(lines), reverse_affine(affine))
    return header, unit, "ras" if patient else "image"


def _shorter(vector: str, n: int) -> str:
    return "(" + ",".join(vector.strip("()").split(",")[:n]) + ")"


def _check_affine(affine: NDArray[np.float64], path: Path) -> None:
    sizes = affine_spacing(affine)
    if not all(np.isfinite(size) and size > 0 for size in sizes):
        listed = ", ".join(f"{size:g}" for size in sizes)
        msg = f"{path} has voxels of the size {listed}; all must be above 0. Repair its header."
        raise GeometryError(msg)
    n = len(sizes)
    if abs(np.linalg.det(affine[:n, :n] / sizes)) < 1e-9:
        msg = f"Two axes of {path} point the same way (space directions). Repair its header."
        raise GeometryError(msg)


_WRITTEN = {
    "i1": "int8", "u1": "uint8", "i2": "int16", "u2": "uint16", "i4": "int32", "u4": "uint32", "i8": "int64",
    "u8": "uint64", "f4": "float", "f8": "double", "b1": "uint8",
}  # fmt: skip


@dataclass(frozen=True)
class NrrdHeader:
    """The lines of a header that say where voxels lie, kept to write a result with the same ones.

    Attributes
    ----------
    lines : tuple of (str, str)
        Field and value; per-axis values only for the spatial axes, in their order.
    affine : ndarray, float64, shape (n + 1, n + 1)
        Of the scan that was read from them, as in `ImageSpec.affine`.
    classes : dict of int to str
        Names of classes, from 3D Slicer's segments.
    """

    lines: tuple[tuple[str, str], ...]
    affine: NDArray[np.float64] = field(repr=False)
    classes: dict[int, str] = field(default_factory=dict)


def write_nrrd(path: Path, data: NDArray[Any], spec: ImageSpec, provenance: dict[str, str]) -> None:
    """Write an array as one NRRD file, gzipped, on the grid of `spec`.

    Parameters
    ----------
    path : Path
    data : ndarray
        Shape ``spec.shape``, axes ``spec.axes``.
    spec : ImageSpec
        A spec that came from NRRD gives the lines of its header: space, directions, origin and units stay as they
        were.
    provenance : dict
        Becomes key-value pairs of the header.

    Raises
    ------
    OutputError
        The array has time and channels both.
    """
    if "t" in spec.axes and "c" in spec.axes:
        msg = f"{path.suffix} cannot hold time and channels together (axes {spec.axes}); write .nii.gz or .zarr."
        raise OutputError(msg)
    at = spec.axes.index("c") if "c" in spec.axes else None
    array = np.moveaxis(data, at, -1) if at is not None else data
    array = np.ascontiguousarray(array)
    code = f"{array.dtype.kind}{array.dtype.itemsize}"
    lines = [
        ("type", next(names for dtype, names in _WRITTEN.items() if dtype == code)),
        ("dimension", str(array.ndim)),
        ("sizes", " ".join(str(size) for size in array.shape[::-1])),
        *_geometry_lines(spec),
        ("endian", "little"),
        ("encoding", "gzip"),
    ]
    order = ("type", "dimension", "space", "space dimension", "sizes")  # what a reader needs before the rest
    lines.sort(key=lambda line: order.index(line[0]) if line[0] in order else len(order))
    text = "".join(f"{name}: {value}\n" for name, value in lines)
    notes = "".join(f"{_plain(key)}:={_plain(value)}\n" for key, value in provenance.items())
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    with path.open("wb") as file:
        file.write(f"NRRD0005\n# https://teem.sourceforge.net/nrrd/format.html\n{text}{notes}\n".encode())
        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
        for block in little.reshape(-1, *little.shape[-2:]) if little.ndim > 2 else [little]:
            file.write(packer.compress(np.ascontiguousarray(block).data))
        file.write(packer.flush())


def _plain(text: str) -> str:
    return str(text).replace("\\", "\\\\").replace("\n", "\\n").replace("\r", " ").replace(":=", ": =")


def _geometry_lines(spec: ImageSpec) -> list[tuple[str, str]]:
    """Where the voxels lie: the lines of the source where it has the same affine, else made from the affine."""
    n = spec.spatial_ndim
    source = spec.header
    if isinstance(source, NrrdHeader) and np.array_equal(source.affine, spec.affine):
        lines = list(source.lines)
    else:
        lines = _made_lines(spec)
    time, channels = "t" in spec.axes, "c" in spec.axes
    kinds = ["vector"] * channels + ["domain"] * n + ["time"] * time
    return [
        *(_with_others(name, value, time=time, channels=channels) for name, value in lines),
        ("kinds", " ".join(kinds)),
    ]


def _with_others(name: str, value: str, *, time: bool, channels: bool) -> tuple[str, str]:
    """A header line of the spatial axes with entries for the axes of channels (first) and time (last)."""
    if time:
        value = {
            "space": f"{value}-time",
            "space dimension": str(int(value) + 1) if name == "space dimension" else "",
            "space directions": value.replace(")", ",0)") + " (" + "0," * value.count(")") + "1)",
            "space origin": value.replace(")", ",0)"),
            "space units": f'{value} ""',
            "spacings": f"{value} 1",
            "units": f'{value} ""',
        }[name]
    if channels:
        value = {"space directions": f"none {value}", "spacings": f"nan {value}", "units": f'"" {value}'}.get(
            name, value
        )
    return name, value


def _made_lines(spec: ImageSpec) -> list[tuple[str, str]]:
    """Lines from the affine; a patient's space is left, posterior, superior, as other programs write it."""
    n = spec.spatial_ndim
    affine = reverse_affine(spec.affine)
    unit = spec.unit
    if spec.world == "ras" and n == 3:
        affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
        if unit in METRES and unit != "mm":
            affine[:n] *= METRES[unit] / METRES["mm"]
        unit = "mm"
        place = ("space", "left-posterior-superior")
    else:
        place = ("space dimension", str(n))
    vectors = ["(" + ",".join(repr(float(v)) for v in affine[:n, axis]) + ")" for axis in range(n)]
    lines = [place, ("space directions", " ".join(vectors[:n]))]
    lines.append(("space origin", "(" + ",".join(repr(float(v)) for v in affine[:n, n]) + ")"))
    if unit in METRES:
        lines.append(("space units", " ".join([f'"{unit}"'] * n)))
    return lines
