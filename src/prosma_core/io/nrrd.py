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
from prosma_core.io.nrrd_header import PATIENT_SPACES, NrrdFields, read_nrrd_header
from prosma_core.io.raw_voxels import check_voxels, numbers, read_voxels
from prosma_core.io.read_errors import damaged, reading, shown
from prosma_core.printable import counted

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from prosma_core.data.geometry import ImageSpec


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
            raise ask_for_axes(path, f"NRRD with the kinds {shown(', '.join(declared.kinds), 60)}", data.shape)
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
