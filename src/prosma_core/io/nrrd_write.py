"""NRRD files written with the header lines of the scan they belong to, or lines made from its affine."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from prosma_core.data.geometry import METRES, reverse_affine
from prosma_core.errors import OutputError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from prosma_core.data.geometry import ImageSpec

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
