"""NIfTI files, read in one pass that checks them against their own header to the last byte."""

from __future__ import annotations

import gzip
import json
import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from prosma_core.data.geometry import (
    AXIS_ORDER,
    METRES,
    Box,
    ImageSpec,
    Scan,
    affine_spacing,
    box_slices,
    reverse_affine,
)
from prosma_core.data.intensities import single_precision
from prosma_core.data.lazy import LazyArray
from prosma_core.errors import FileFormatError, GeometryError
from prosma_core.io.axes_units import arrange, ask_for_axes, parse_axes, to_canonical, unit_name
from prosma_core.io.read_errors import damaged, reading
from prosma_core.printable import counted

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

    from numpy.typing import NDArray

    from prosma_core.data.geometry import ImageSpec


_LOG = logging.getLogger(__name__)
_AXES = "xyztc"
_GZIP_RATIO = 1032  # what deflate packs into one byte at most
_CHUNK = 1 << 20
_CIFTI = range(3000, 3100)  # intent codes

NO_ORIENTATION = (
    "its first axis is taken to run to the left, the second to the front, the third to the head, around the center."
)
"""How nibabel places voxels of a header without an orientation."""
_HEADER_SIZES = {348: "Nifti1Header", 540: "Nifti2Header"}


@dataclass(frozen=True)
class _Declared:
    """What the header says about the bytes after it."""

    header: Any
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def check_nifti(path: Path) -> None:
    """Read the file to its end without keeping its voxels.

    Raises
    ------
    FileFormatError
        The header is damaged, or the bytes are fewer than it declares or fail the gzip checksum.
    GeometryError
        An axis has no voxels, or the affine is not finite and invertible.
    """
    declared, _ = _read_file(path, keep=False)
    _affine(declared.header, path)


def read_nifti(path: Path, axes: str | None) -> Scan:
    """The scan of a NIfTI file in axis order ``(t)(c)zyx``; ``(t)(c)yx`` for a file of two dimensions.

    Parameters
    ----------
    path : Path
    axes : str, optional
        Letters of the file's dimensions in the order of its header; ``"xyztc"`` up to their number if not given.

    Raises
    ------
    FileFormatError
        As in `check_nifti`, or the voxels are complex numbers.
    GeometryError
        The affine cannot be used, or the axes cannot be told.
    """
    declared, raw = _read_file(path, keep=True)
    if declared.dtype.names:  # RGB or RGBA: a record of bytes for each voxel
        bytes_first = raw.reshape((len(declared.dtype.names), *declared.shape), order="F")
        voxels = np.moveaxis(bytes_first[:3], 0, -1)
    elif declared.dtype.kind == "c":
        raise damaged(path, "its voxels are complex numbers, only real ones are read")
    else:
        voxels = _physical(raw.view(declared.dtype).reshape(declared.shape, order="F"), declared.header, path)
    names = _axis_names(voxels.shape, path, axes, rgb=bool(declared.dtype.names))
    kept = tuple(slice(None) if name else 0 for name in names)
    return _scan(voxels[kept], "".join(names), declared.header, path)


def declared_nifti(path: Path) -> tuple[int, int]:
    """Bytes of the voxels that a header declares, and their number; errors as in `check_nifti`."""
    with reading(path, "a NIfTI file"), path.open("rb") as plain:
        packed = plain.read(2) == b"\x1f\x8b"
        plain.seek(0)
        if not packed:
            declared = _read_header(plain, path)
        else:
            with gzip.GzipFile(fileobj=plain) as stream:
                declared = _read_header(stream, path)  # type: ignore[arg-type]
    return declared.nbytes, math.prod(declared.shape)


def lazy_nifti(path: Path, axes: str | None) -> Scan | None:
    """The scan of a NIfTI file that is neither packed nor scaled, read by parts when they are asked for; else None.

    Parameters and errors as in `read_nifti`.
    """
    with reading(path, "a NIfTI file"), path.open("rb") as plain:
        packed = plain.read(2) == b"\x1f\x8b"
        plain.seek(0)
        declared = None if packed else _read_header(plain, path)
        scaled = declared is not None and declared.header.get_slope_inter()[0] not in (None, 1.0)
        shifted = declared is not None and declared.header.get_slope_inter()[1] not in (None, 0.0)
    if declared is None or scaled or shifted or declared.dtype.kind not in "iuf" or declared.dtype.itemsize > 8:
        return None
    got = path.stat().st_size - declared.offset
    if got < declared.nbytes:
        raise damaged(path, f"its header declares {declared.nbytes} bytes of voxels but only {max(got, 0)} are there")
    names = _axis_names(declared.shape, path, axes, rgb=False)
    kept = tuple(slice(None) if name else 0 for name in names)
    native = declared.dtype.newbyteorder("=")

    def read(box: Box) -> NDArray[Any]:
        with reading(path, "a NIfTI file"):  # mapped for a moment: what was read counts as memory of this process
            mapped = np.memmap(path, declared.dtype, "r", declared.offset, declared.shape, order="F")
            return np.array(mapped[box_slices(box)], native)

    voxels = LazyArray(declared.shape, native, read)[kept]
    spec = _scan(np.broadcast_to(np.zeros((), native), voxels.shape), "".join(names), declared.header, path).spec
    ordered = "".join(letter for letter in AXIS_ORDER if letter in names)
    return Scan(voxels.transpose(tuple("".join(names).index(letter) for letter in ordered)), spec)


def _read_file(path: Path, *, keep: bool) -> tuple[_Declared, NDArray[np.uint8]]:
    """The checked header and, where `keep`, the bytes of the voxels."""
    with reading(path, "a NIfTI file"), path.open("rb") as plain:
        packed = plain.read(2) == b"\x1f\x8b"
        plain.seek(0)
        size = path.stat().st_size
        if not packed:
            return _read_stream(plain, path, size, keep=keep)
        with gzip.GzipFile(fileobj=plain) as stream:
            return _read_stream(stream, path, size * _GZIP_RATIO, keep=keep)  # type: ignore[arg-type]


def _read_stream(stream: BinaryIO, path: Path, at_most: int, *, keep: bool) -> tuple[_Declared, NDArray[np.uint8]]:
    """As `_read_file`; `at_most` is the largest number of bytes the stream can hold."""
    declared = _read_header(stream, path)
    if declared.offset + declared.nbytes > at_most:
        raise damaged(path, f"its header declares {declared.nbytes} bytes of voxels but the file is far too short")
    _skip(stream, declared.offset - stream.tell())
    raw = np.empty(declared.nbytes if keep else _CHUNK, dtype=np.uint8)
    got = 0
    while got < declared.nbytes:  # pages of `raw` that are never read into cost no memory
        want = min(_CHUNK, declared.nbytes - got)
        start = got if keep else 0
        count = stream.readinto(raw[start : start + want])  # type: ignore[attr-defined]
        if not count:
            raise damaged(path, f"its header declares {declared.nbytes} bytes of voxels but only {got} are there")
        got += count
    while stream.read(_CHUNK):  # the gzip checksum is only compared at the very end
        pass
    return declared, raw


def _read_header(stream: BinaryIO, path: Path) -> _Declared:
    import nibabel as nib

    first = stream.read(4)
    sizes = {int.from_bytes(first, "little"), int.from_bytes(first, "big")} & set(_HEADER_SIZES)
    if len(first) < 4 or not sizes:
        raise damaged(path, "it does not start with a NIfTI header")
    size = sizes.pop()
    cls = getattr(nib, _HEADER_SIZES[size])
    block = first + stream.read(size - 4)
    if len(block) < size:
        raise damaged(path, "it ends inside its header")
    header = cls(block)  # without the extensions: they may hold what belongs to a patient, and nothing here needs them
    offset = float(header["vox_offset"])
    if not 0 <= offset < 1 << 62:
        raise damaged(path, f"its voxels are declared to start at byte {offset}")
    if bytes(header["magic"].item())[:3] not in {b"n+1", b"n+2"}:
        raise damaged(path, "it is one half of a .hdr/.img pair; save it as one .nii or .nii.gz file")
    if int(header["intent_code"]) in _CIFTI:
        msg = f"{path} is a CIFTI file: values on a surface or a matrix, no image of voxels. Give the scan itself."
        raise FileFormatError(msg)
    shape = tuple(int(n) for n in header.get_data_shape())
    if any(n < 0 for n in shape):
        raise damaged(path, f"its header declares the shape {shape}")
    if 0 in shape:
        msg = f"{path} has an axis without voxels: shape {shape}. Every axis needs at least one; export the scan again."
        raise GeometryError(msg)
    return _Declared(header, header.get_data_dtype(), shape, max(int(offset), header.single_vox_offset))


def _skip(stream: BinaryIO, count: int) -> None:
    while count > 0:
        block = stream.read(min(count, _CHUNK))
        if not block:
            return
        count -= len(block)


def _axis_names(shape: tuple[int, ...], path: Path, axes: str | None, *, rgb: bool) -> list[str]:
    """A letter for each dimension of the voxels; an empty one for a dimension of size 1 that is left out."""
    ndim = len(shape)
    if axes is not None:
        named = len(axes.strip())
        trailing = [""] * (ndim - named) if not rgb and all(n == 1 for n in shape[named:]) else []
        return [*parse_axes(axes, ndim - len(trailing), path), *trailing]
    grid = ndim - 1 if rgb else ndim
    names = [_AXES[i] if i < 3 or (i < len(_AXES) and shape[i] > 1) else "" for i in range(grid)]
    unnamed = any(name == "" and n > 1 for name, n in zip(names, shape[:grid], strict=True))
    if grid < 2 or unnamed or (rgb and "c" in names):
        raise ask_for_axes(path, f"NIfTI with {counted(ndim, 'dimension')}", shape)
    return [*names, "c"] if rgb else names


def _physical(voxels: NDArray[Any], header: Any, path: Path) -> NDArray[Any]:
    """Voxels in the machine's byte order; with slope and intercept applied where the header has them, as floats."""
    with reading(path, "a NIfTI file"):
        slope, intercept = header.get_slope_inter()
    if not voxels.dtype.isnative:
        voxels = voxels.byteswap(inplace=True).view(voxels.dtype.newbyteorder("="))
    if voxels.dtype.itemsize > 8:  # 128-bit floats
        voxels = voxels.astype(np.float64)
    if slope is None or (slope, intercept) == (1.0, 0.0):
        return voxels
    scaled = np.empty(voxels.shape, dtype=_scaled_type(voxels, slope, intercept), order="F")
    for index in range(voxels.shape[-1]):  # by slices: the float64 in between stays small
        with np.errstate(over="ignore", invalid="ignore"):
            scaled[..., index] = voxels[..., index].astype(np.float64) * slope + intercept
    return scaled


def _scaled_type(voxels: NDArray[Any], slope: float, intercept: float) -> type[np.floating]:
    """float32 where it holds the differences between the scaled values, else float64."""
    with np.errstate(over="ignore", invalid="ignore"):
        ends = [float(v) * slope + intercept for v in (voxels.min(), voxels.max())]
    return np.float32 if not np.isfinite(ends).all() or single_precision(min(ends), max(ends)) else np.float64


def _affine(header: Any, path: Path) -> NDArray[np.float64]:
    """The header's best affine, x y z.

    Raises
    ------
    GeometryError
        It is not finite, or not invertible.
    """
    from nibabel.spatialimages import HeaderDataError

    try:
        affine: NDArray[np.float64] = np.asarray(header.get_best_affine(), dtype=np.float64)
    except (HeaderDataError, ValueError, ArithmeticError, np.linalg.LinAlgError) as error:
        msg = f"The orientation in the header of {path} cannot be used ({error}). Repair its qform or sform."
        raise GeometryError(msg) from error
    if not np.isfinite(affine).all():
        msg = f"The affine of {path} has entries that are not finite. Repair its qform or sform."
        raise GeometryError(msg)
    spacing = affine_spacing(affine)
    if abs(np.linalg.det(affine[:3, :3])) <= 1e-12 * math.prod(spacing):
        msg = f"The affine of {path} is not invertible (two voxel axes point the same way). Repair its qform or sform."
        raise GeometryError(msg)
    return affine


def _unit(header: Any) -> str:
    try:
        name = header.get_xyzt_units()[0]
    except KeyError:
        name = "unknown"
    return "mm" if name == "unknown" else unit_name(name)


def _scan(voxels: NDArray[Any], axes: str, header: Any, path: Path) -> Scan:
    affine = _affine(header, path)
    if not int(header["qform_code"]) and not int(header["sform_code"]):
        _LOG.warning("%s gives no orientation (qform and sform codes are 0): %s", path, NO_ORIENTATION)
    channels = ("red", "green", "blue") if header.get_data_dtype().names else ()
    if "z" not in axes or not set(axes[:3]) <= set("xyz"):
        zooms = [*affine_spacing(affine)[:3], *[1.0] * 5][: len(axes)]
        return arrange(
            voxels, axes, scale=zooms, unit=_unit(header), kind="nifti", channel_names=channels, header=header
        )
    order = [axes.index(letter) for letter in "xyz"]
    spatial = reverse_affine(affine[:, [*order, 3]])
    data, ordered = to_canonical(voxels, axes)
    spec = ImageSpec(
        ordered, data.shape, affine_spacing(spatial), _unit(header), spatial, "ras", channels, "nifti", header
    )
    return Scan(data, spec)


def write_nifti(path: Path, data: NDArray[Any], spec: ImageSpec, provenance: dict[str, str]) -> None:
    """Write an array as NIfTI, gzipped where `path` ends with ``.gz``.

    Parameters
    ----------
    path : Path
    data : ndarray, integer or float
        Shape ``spec.shape``, axes ``spec.axes``; stored unscaled in its own dtype.
    spec : ImageSpec
        A spec that came from NIfTI gives its header: class, qform, sform, their codes, units and zooms stay as they
        were. Channels become the fifth dimension, time the fourth.
    provenance : dict
        Goes into the header's ``descrip`` (the first 79 characters) and, whole, into a comment extension (JSON).
    """
    import nibabel as nib
    from nibabel.nifti1 import Nifti1Extension

    present, shape = _stored_as(spec)
    array = data.transpose([spec.axes.index(letter) for letter in present]).reshape(shape, order="A")
    header = _header(spec, wide=max(array.shape) > np.iinfo(np.int16).max)
    header.set_data_dtype(array.dtype)
    if provenance:
        note = "; ".join(f"{key}={value}" for key, value in provenance.items())
        header["descrip"] = note.encode("ascii", "replace")[:79]
    cls: Any = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    image = cls(array, None, header)
    if provenance:
        comment = Nifti1Extension("comment", json.dumps(provenance).encode())
        image.header.extensions.append(comment)
    image.to_filename(str(path))


def _stored_as(spec: ImageSpec) -> tuple[str, tuple[int, ...]]:
    """Letters of a scan's axes in the order of a file, and the dimensions there: of one voxel where it has no axis."""
    present = "".join(letter for letter in _AXES if letter in spec.axes)
    return present, tuple(spec.size(letter) for letter in _AXES[: _AXES.index(present[-1]) + 1])


class NiftiVoxels:
    """Voxels of a NIfTI that is not packed, in the order of a scan's axes, to be written part by part.

    Parameters
    ----------
    path : Path
    dtype : numpy.dtype
        In the byte order of the file.
    offset : int
        Of the first voxel, in bytes.
    spec : ImageSpec
    """

    def __init__(self, path: Path, dtype: np.dtype[Any], offset: int, spec: ImageSpec) -> None:
        self._path, self._dtype, self._offset = path, dtype, offset
        present, _ = _stored_as(spec)
        self._shape = tuple(spec.size(letter) for letter in present)
        self._order = [present.index(letter) for letter in spec.axes]

    def __setitem__(self, index: tuple[slice, ...], values: NDArray[Any]) -> None:
        """Write a part; the file is mapped for a moment: what was written counts as memory of this process."""
        mapped = np.memmap(self._path, self._dtype, "r+", self._offset, self._shape, order="F")
        mapped.transpose(self._order)[index] = values
        mapped.flush()


def create_nifti(path: Path, dtype: np.dtype[Any], spec: ImageSpec) -> NiftiVoxels:
    """A new NIfTI that is not packed, of zeros, to be filled.

    Parameters
    ----------
    path : Path
        What is there is replaced.
    dtype : numpy.dtype
        Integer or float, of at least 8 bits and at most 64; stored unscaled.
    spec : ImageSpec
        As of `write_nifti`.
    """
    _, shape = _stored_as(spec)
    header = _header(spec, wide=max(shape) > np.iinfo(np.int16).max)
    header.set_data_dtype(dtype)
    header.set_data_shape(shape)
    header["vox_offset"] = offset = header.single_vox_offset
    stored = header.get_data_dtype()
    with path.open("wb") as file:
        header.write_to(file)
        file.truncate(offset + math.prod(shape) * stored.itemsize)
    return NiftiVoxels(path, stored, offset, spec)


def _header(spec: ImageSpec, *, wide: bool) -> Any:
    """A header for this geometry; `wide` asks for NIfTI-2, whose dimensions may exceed 32767."""
    import nibabel as nib

    source = spec.header if isinstance(spec.header, nib.Nifti1Header) else None
    header: Any
    if source is not None and _same_grid(source, spec):
        header = nib.Nifti2Header.from_header(source) if wide else source.copy()  # type: ignore[no-untyped-call]
    else:
        make: Any = nib.Nifti2Header if wide else nib.Nifti1Header
        header = make()
        header.set_data_shape([spec.size(letter) for letter in "xyz"])
        _set_geometry(header, spec)
    header.set_intent("none")
    for name, value in (
        ("scl_slope", np.nan),
        ("scl_inter", np.nan),
        ("cal_min", 0),
        ("cal_max", 0),
        ("vox_offset", 0),
        ("aux_file", b""),
    ):
        header[name] = value
    return header


def _same_grid(header: Any, spec: ImageSpec) -> bool:
    """Whether the header's affine is the one of `spec`, to the last bit."""
    affine = np.asarray(header.get_best_affine(), dtype=np.float64)
    if spec.spatial_ndim == 3:
        return np.array_equal(reverse_affine(affine), spec.affine)
    return affine_spacing(affine)[:2] == tuple(reversed(spec.spacing))


def _set_geometry(header: Any, spec: ImageSpec) -> None:
    """Affine and unit of a scan that did not come from NIfTI; units NIfTI has no code for become micrometers."""
    unit = {"mm": "mm", "um": "micron", "m": "meter", "pixel": "unknown"}.get(spec.unit, "micron")
    affine = np.eye(4)
    n = spec.spatial_ndim
    small = reverse_affine(spec.affine)
    affine[:n, :n], affine[:n, 3] = small[:n, :n], small[:n, n]
    if unit == "micron" and spec.unit in METRES:
        factor = METRES[spec.unit] / METRES["um"]
        affine[:3] *= 1.0 if spec.unit == "um" else factor
    code = "scanner" if spec.world == "ras" else "aligned"
    header.set_sform(affine, code)
    header.set_qform(affine, code, strip_shears=True)
    header.set_xyzt_units(unit, "sec" if "t" in spec.axes else "unknown")
