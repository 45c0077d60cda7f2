"""MetaImage files: one file (.mha), or a header (.mhd) with the voxels in a file beside it; lengths in mm."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from prosma_core.data.geometry import METRES, ImageSpec, Scan, affine_spacing, reverse_affine
from prosma_core.errors import FileFormatError, GeometryError, OutputError
from prosma_core.io.axes_units import arrange, ask_for_axes, parse_axes, to_canonical
from prosma_core.io.raw_voxels import (
    Voxels,
    check_voxels,
    declared_shape,
    file_beside,
    numbers,
    read_voxels,
    whole_numbers,
)
from prosma_core.io.read_errors import damaged, excerpt, reading
from prosma_core.printable import counted

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}  # fmt: skip
_WRITTEN = {dtype: name for name, dtype in _TYPES.items() if "LONG" not in name or "LONG_LONG" in name}
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_MOST_LINES = 10_000
_LONGEST_HEADER = 1 << 20
_MOST_CHANNELS = 1 << 16
_GEOMETRY = ("Offset", "TransformMatrix", "CenterOfRotation", "ElementSpacing")
_OTHER_NAMES = {
    "Position": "Offset",
    "Origin": "Offset",
    "Rotation": "TransformMatrix",
    "Orientation": "TransformMatrix",
    "BinaryDataByteOrderMSB": "ElementByteOrderMSB",
}


@dataclass(frozen=True)
class MetaHeader:
    """The lines of a header that say where voxels lie, kept to write a result with the same ones.

    Attributes
    ----------
    lines : tuple of (str, str)
        Field and value, for all dimensions of the grid.
    affine : ndarray, float64, shape (n + 1, n + 1)
        Of the scan that was read from them, as in `ImageSpec.affine`.
    """

    lines: tuple[tuple[str, str], ...]
    affine: NDArray[np.float64] = field(repr=False)


def check_metaimage(path: Path) -> None:
    """Read the file to its end without keeping its voxels.

    Raises
    ------
    FileFormatError
        The header is damaged, an encoding or arrangement is not supported, or the voxels are fewer than declared.
    GeometryError
        An axis has no voxels, or the affine cannot be used.
    """
    with reading(path, "a MetaImage file"):
        fields, declared, channels = _read_header(path)
        _geometry(fields, len(declared.shape) - (channels > 1), path)
        check_voxels(declared)


def metaimage_voxels_file(path: Path) -> Path:
    """The file that holds the voxels: `path` itself, or one beside it; errors as in `check_metaimage`."""
    with reading(path, "a MetaImage file"):
        return _read_header(path)[1].path


def read_metaimage(path: Path, axes: str | None) -> Scan:
    """The scan of a MetaImage file; three dimensions lie in the world of the patient, as the format prescribes.

    Parameters
    ----------
    path : Path
    axes : str, optional
        Letters for the dimensions of the array, ``"zyx"`` or ``"tzyx"`` and a last ``"c"`` for several values per voxel
        if not given. Others than these leave the orientation out.

    Raises
    ------
    FileFormatError, GeometryError
        As in `check_metaimage`; or the axes cannot be told, or the affine cannot be used.
    """
    with reading(path, "a MetaImage file"):
        fields, declared, channels = _read_header(path)
        data = read_voxels(declared)
        header, spacing = _geometry(fields, len(declared.shape) - (channels > 1), path)
    n = len(spacing)
    samples = "c" if channels > 1 else ""
    default = {2: "yx", 3: "zyx", 4: "tzyx"}.get(n, "") + samples
    if axes is None and len(default) != data.ndim:
        raise ask_for_axes(path, f"it has {counted(n, 'dimension')}", data.shape)
    names = default if axes is None else parse_axes(axes, data.ndim, path)
    if names != default:
        return arrange(data, names, scale=[*reversed(spacing), *[1.0] * len(samples)], unit="mm", kind="mha")
    voxels, ordered = to_canonical(data, names)
    world: Any = "ras" if "z" in names else "image"
    spec = ImageSpec(
        ordered, voxels.shape, affine_spacing(header.affine), "mm", header.affine, world, (), "mha", header
    )
    return Scan(voxels, spec)


def write_metaimage(path: Path, data: NDArray[Any], spec: ImageSpec, provenance: dict[str, str]) -> None:
    """Write an array as one .mha file, compressed, on the grid of `spec`.

    Parameters
    ----------
    path : Path
    data : ndarray
        Shape ``spec.shape``, axes ``spec.axes``.
    spec : ImageSpec
        A spec that came from MetaImage gives the lines of its header.
    provenance : dict
        Becomes fields of the header.

    Raises
    ------
    OutputError
        The array has time and channels both.
    """
    if "t" in spec.axes and "c" in spec.axes:
        msg = f"{path.suffix} cannot hold time and channels together (axes {spec.axes}); write .nii.gz or .zarr."
        raise OutputError(msg)
    array = np.moveaxis(data, spec.axes.index("c"), -1) if "c" in spec.axes else data
    little = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False))
    packed = zlib.compress(little.data, 6)
    code = "u1" if little.dtype.kind == "b" else f"{little.dtype.kind}{little.dtype.itemsize}"
    sizes = [spec.size(letter) for letter in "xyzt" if letter in spec.axes]
    source = spec.header
    same = isinstance(source, MetaHeader) and np.array_equal(source.affine, spec.affine)
    lines = [
        ("ObjectType", "Image"),
        ("NDims", str(len(sizes))),
        *((_tag(key), " ".join(str(value).split())) for key, value in provenance.items()),
        ("BinaryData", "True"),
        ("BinaryDataByteOrderMSB", "False"),
        ("CompressedData", "True"),
        ("CompressedDataSize", str(len(packed))),
        *(source.lines if same and _fits(source, len(sizes)) else _made_lines(spec, len(sizes))),
        ("DimSize", " ".join(str(size) for size in sizes)),
        *([("ElementNumberOfChannels", str(spec.num_channels))] if "c" in spec.axes else []),
        ("ElementType", _WRITTEN[code]),
        ("ElementDataFile", "LOCAL"),
    ]
    with path.open("wb") as file:
        file.write("".join(f"{name} = {value}\n" for name, value in lines).encode())
        file.write(packed)


def _tag(key: str) -> str:
    return "".join(c for c in key if c.isalnum() or c in "_-") or "note"


def _fits(header: MetaHeader, dims: int) -> bool:
    return all(len(value.split()) == dims for name, value in header.lines if name == "ElementSpacing")


def _read_header(path: Path) -> tuple[dict[str, str], Voxels, int]:
    """Fields, where the voxels are, and the number of values for each voxel."""
    fields: dict[str, str] = {}
    with path.open("rb") as file:
        for _ in range(_MOST_LINES):
            line = file.readline(_LONGEST_HEADER)
            if not line.endswith(b"\n") and not (line.startswith(b"ElementDataFile") and path.suffix.lower() == ".mhd"):
                raise damaged(path, "it ends inside its header")
            name, _, value = line.decode("utf-8", "replace").partition("=")
            name = _OTHER_NAMES.get(name.strip(), name.strip())
            fields[name] = value.strip()
            if name == "ElementDataFile":
                break
        start = file.tell()
    element = fields.get("ElementType", "").upper().removesuffix("_ARRAY")
    if element not in _TYPES:
        raise damaged(path, f"its header declares the type {excerpt(fields.get('ElementType'), 40)!r}")
    channels = whole_numbers(fields.get("ElementNumberOfChannels", "1"), "ElementNumberOfChannels", path)[0]
    if not 1 <= channels <= _MOST_CHANNELS:
        raise damaged(path, f"its header declares {counted(channels, 'channel')}, 1 to {_MOST_CHANNELS} are possible")
    shape = declared_shape(fields.get("DimSize", ""), "DimSize", path)
    if whole_numbers(fields.get("NDims", str(len(shape))), "NDims", path) != (len(shape),):
        raise damaged(
            path, f"its header declares NDims {excerpt(fields['NDims'], 20)} but {counted(len(shape), 'size')}"
        )
    order = ">" if fields.get("ElementByteOrderMSB", "False").lower() in {"true", "1"} else "<"
    shape = (channels, *shape) if channels > 1 else shape
    return fields, _voxels(path, fields, start, shape, np.dtype(order + _TYPES[element])), channels


def _voxels(path: Path, fields: dict[str, str], start: int, shape: tuple[int, ...], dtype: Any) -> Voxels:
    """Where the voxels are: after the header, or in the one file that it names."""
    if fields.get("BinaryData", "True").lower() not in {"true", "1"}:
        msg = f"{path} holds its voxels as text (BinaryData = False); binary ones are read. Save it as binary .mha."
        raise FileFormatError(msg)
    packing = "zlib" if fields.get("CompressedData", "False").lower() in {"true", "1"} else "raw"
    named = fields.get("ElementDataFile", "")
    if named.upper() == "LOCAL":
        return Voxels(path, start, shape, dtype, packing)
    if named.upper().startswith("LIST") or "%" in named:
        msg = f"The voxels of {path} are in several files; one is needed. Save it as one .mha file."
        raise FileFormatError(msg)
    other = file_beside(path, named)
    skip = whole_numbers(fields.get("HeaderSize", "0"), "HeaderSize", path)[0]
    if skip < -1 or (skip == -1 and packing != "raw"):
        raise damaged(path, f"its header has HeaderSize {skip}")
    return Voxels(other, skip, shape, dtype, packing)


def _geometry(fields: dict[str, str], n: int, path: Path) -> tuple[MetaHeader, tuple[float, ...]]:
    """The header lines of the grid with its affine, and the size of a voxel along each of its `n` dimensions."""
    size_of = "ElementSpacing" if "ElementSpacing" in fields else "ElementSize"
    text = fields.get(size_of, "1 " * n)
    spacing = numbers(text, n, size_of, path)
    if min(spacing) <= 0:
        msg = f"{path} has voxels of the size {excerpt(text, 60)} ({size_of}); all must be above 0. Repair its header."
        raise GeometryError(msg)
    matrix_text = fields.get("TransformMatrix", " ".join("1" if i % (n + 1) == 0 else "0" for i in range(n * n)))
    matrix = np.array(numbers(matrix_text, n * n, "TransformMatrix", path)).reshape(n, n).T
    origin = numbers(fields.get("Offset", "0 " * n), n, "Offset", path)
    spatial = min(n, 3)
    direction = matrix[:spatial, :spatial]
    lengths = affine_spacing(np.block([[direction, np.zeros((spatial, 1))], [np.zeros((1, spatial)), np.eye(1)]]))
    if min(lengths) == 0 or abs(np.linalg.det(direction / lengths)) < 1e-9:
        msg = f"Two axes of {path} point the same way (TransformMatrix {excerpt(matrix_text, 60)}). Repair its header."
        raise GeometryError(msg)
    affine = np.eye(spatial + 1)
    affine[:spatial, :spatial] = direction * spacing[:spatial]
    affine[:spatial, spatial] = origin[:spatial]
    affine = _LPS_TO_RAS @ affine if spatial == 3 else affine
    lines = [(name, fields[name]) for name in _GEOMETRY if name in fields]
    if size_of == "ElementSize":
        lines.append(("ElementSpacing", text))
    return MetaHeader(tuple(lines), reverse_affine(affine)), spacing


def _made_lines(spec: ImageSpec, dims: int) -> list[tuple[str, str]]:
    """Lines from the affine, for `dims` dimensions; lengths in mm."""
    n = spec.spatial_ndim
    affine = reverse_affine(spec.affine)
    if spec.world == "ras" and n == 3:
        affine = _LPS_TO_RAS @ affine
    if spec.unit in METRES:
        affine[:n] *= METRES[spec.unit] / METRES["mm"]
    sizes = affine_spacing(affine)
    direction = np.eye(dims)
    direction[:n, :n] = affine[:n, :n] / sizes
    more = dims - n
    return [
        ("TransformMatrix", " ".join(repr(float(v)) for v in direction.T.ravel())),
        ("Offset", " ".join(repr(float(v)) for v in [*affine[:n, n], *[0.0] * more])),
        ("CenterOfRotation", " ".join(["0"] * dims)),
        ("ElementSpacing", " ".join(repr(float(v)) for v in [*sizes, *[1.0] * more])),
    ]
