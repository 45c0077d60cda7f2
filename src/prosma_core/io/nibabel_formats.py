"""Formats that nibabel reads besides NIfTI: FreeSurfer, MINC, PAR/REC, Analyze and SPM, AFNI; sizes checked before."""

from __future__ import annotations

import gzip
import importlib.util
import logging
import math
import struct
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prosma_core.data.geometry import ImageSpec, Scan, affine_spacing, reverse_affine
from prosma_core.data.intensities import single_precision
from prosma_core.errors import FileFormatError, GeometryError, MissingExtraError
from prosma_core.io.axes_units import arrange, ask_for_axes, parse_axes, to_canonical
from prosma_core.io.nifti import NO_ORIENTATION
from prosma_core.io.read_errors import damaged, reading
from prosma_core.printable import counted

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LOG = logging.getLogger(__name__)
_KINDS = {
    ".mgz": "mgh", ".mgh": "mgh", ".mnc": "minc", ".par": "parrec", ".hdr": "analyze", ".head": "afni",
}  # fmt: skip
_NAMES = {
    "mgh": "a FreeSurfer volume",
    "minc": "a MINC file",
    "parrec": "a PAR/REC pair",
    "analyze": "an Analyze or NIfTI pair",
    "afni": "an AFNI data set",
}
_VOXELS = {".par": (".rec",), ".hdr": (".img",), ".head": (".brik", ".brik.gz")}
"""Suffixes of the file beside a header that holds its voxels."""
_MGH_HEADER = 284
_MGH_TYPES = {0, 1, 3, 4, 10}
_BLOCK = 1 << 20
_LONGEST_HEADER = 64 << 20
_LEAST_BOUND, _MOST_PACKED = 64 << 20, 1032
_MINC_AXES = {"xspace": "x", "yspace": "y", "zspace": "z", "time": "t"}


@dataclass(frozen=True)
class _Opened:
    """An image whose voxels are not read yet, and the letters of its dimensions."""

    image: Any
    letters: str


def check_nibabel(path: Path) -> None:
    """Open the header and compare its sizes with the bytes that are there.

    Raises
    ------
    FileFormatError
        The header is damaged, the file with the voxels is missing, or the voxels are fewer than declared.
    GeometryError
        The affine is not finite and invertible.
    MissingExtraError
        MINC 2 needs h5py, which is not installed.
    """
    opened = _open(path, None)
    _affine(opened.image, path)


def read_nibabel(path: Path, axes: str | None) -> Scan:
    """The scan of a file that nibabel reads, with nibabel's affine; lengths in mm.

    Parameters
    ----------
    path : Path
        The header where header and voxels are two files.
    axes : str, optional
        Letters of the file's dimensions in nibabel's order; ``"xyzt"`` up to their number if not given, for MINC what
        its header says.

    Raises
    ------
    FileFormatError, GeometryError, MissingExtraError
        As in `check_nibabel`, or the axes cannot be told.
    """
    opened = _open(path, axes)
    kind = _KINDS[path.suffix.lower()]
    affine = _affine(opened.image, path)
    with reading(path, _NAMES[kind]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        voxels = np.asanyarray(opened.image.dataobj)
        on_disk = opened.image.get_data_dtype()
    voxels = _machine_type(voxels, on_disk)
    kept = tuple(slice(None) if letter != "." else 0 for letter in opened.letters)
    voxels, letters = voxels[kept], opened.letters.replace(".", "")
    if not {"x", "y", "z"} <= set(letters):
        sizes = dict(zip("xyz", affine_spacing(affine), strict=True))
        return arrange(voxels, letters, scale=[sizes.get(c, 1.0) for c in letters], unit="mm", kind=kind)
    spatial_letters = [letter for letter in letters if letter in "xyz"]
    spatial = reverse_affine(affine[:, [*(spatial_letters.index(letter) for letter in "xyz"), 3]])
    data, ordered = to_canonical(voxels, letters)
    spec = ImageSpec(ordered, data.shape, affine_spacing(spatial), "mm", spatial, "ras", (), kind)
    return Scan(data, spec)


def _open(path: Path, axes: str | None) -> _Opened:
    """The image, checked, without its voxels."""
    import nibabel as nib

    kind = _KINDS[path.suffix.lower()]
    voxels = _file_with_voxels(path)
    if path.stat().st_size > _LONGEST_HEADER and voxels != path:
        raise damaged(path, "its header is longer than 64 MiB")
    with reading(path, _NAMES[kind]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "minc":
            _check_hdf5(path)
        if kind == "mgh":
            _check_mgh(path)
        matrix = path.with_suffix(".mat")
        if kind == "analyze" and matrix.is_file() and matrix.stat().st_size > _BLOCK:
            raise damaged(matrix, "it is too large for the orientation of an SPM image")
        image: Any = _par_rec(path, voxels) if kind == "parrec" else nib.load(path)
        if not hasattr(image, "affine") or not hasattr(image, "dataobj"):
            msg = f"{path} holds no image of voxels. Give the image file."
            raise FileFormatError(msg)
        shape = tuple(int(n) for n in image.shape)
        dtype = np.dtype(image.get_data_dtype())
        if any(n < 0 for n in shape):
            raise damaged(path, f"its header declares the shape {shape}")
        if 0 in shape:
            msg = f"{path} has an axis without voxels: shape {shape}. Every axis needs at least one."
            raise GeometryError(msg)
        if dtype.kind not in "iufb":
            msg = f"{path} holds voxels of the type {dtype}; one real number for each is needed. Save it as such."
            raise FileFormatError(msg)
        letters = _letters(image, kind, shape, path, axes)
        _check_size(path, voxels, kind, image, math.prod(shape) * dtype.itemsize)
    if kind == "analyze" and not _has_orientation(image):
        _LOG.warning("%s gives no orientation: %s", path, NO_ORIENTATION)
    return _Opened(image, letters)


def _check_mgh(path: Path) -> None:
    """Refuse what nibabel would leave open: no FreeSurfer header, or a type of voxel that it does not know."""
    with gzip.open(path) if path.suffix.lower() == ".mgz" else path.open("rb") as stream:
        header = stream.read(_MGH_HEADER)
    if len(header) < _MGH_HEADER:
        raise damaged(path, "it ends inside its header")
    version, *shape, kind = struct.unpack_from(">6i", header)
    if version != 1 or kind not in _MGH_TYPES or any(n < 0 for n in shape):
        raise damaged(path, "it does not start with a FreeSurfer header")


def _par_rec(path: Path, voxels: Path) -> Any:
    """A PAR/REC pair; nibabel's own loader leaves the file with the voxels open."""
    from nibabel import parrec

    with path.open(encoding="latin-1") as file:
        header = parrec.PARRECHeader.from_fileobj(file)  # type: ignore[no-untyped-call]
    data: Any = parrec.PARRECArrayProxy(str(voxels), header)  # type: ignore[no-untyped-call]
    return parrec.PARRECImage(data, header.get_affine(), header)


def _file_with_voxels(path: Path) -> Path:
    """The file that holds the voxels: the one beside the header, or the file itself."""
    suffixes = _VOXELS.get(path.suffix.lower())
    if suffixes is None:
        return path
    wanted = {path.name[: -len(path.suffix)].lower() + suffix for suffix in suffixes}
    for other in sorted(path.parent.iterdir()):
        if other.name.lower() in wanted and other.is_file():
            return other
    suffix = suffixes[0].upper() if path.suffix.isupper() else suffixes[0]
    msg = f"The voxels of {path} are in a file {path.stem}{suffix}, which is not beside it. Copy both files."
    raise FileFormatError(msg)


def _letters(image: Any, kind: str, shape: tuple[int, ...], path: Path, axes: str | None) -> str:
    """A letter for each dimension; a dot for a dimension of size 1 that is left out."""
    named = ""
    if kind == "minc":
        names = [str(name) for name in image.dataobj.minc_file._dim_names]
        named = "".join(_MINC_AXES.get(name, "?") for name in names)
    elif len(shape) >= 3:
        named = "xyzt"[: len(shape)] + "." * (len(shape) - 4)
        if len(shape) > 3 and shape[3] == 1:
            named = named[:3] + "." * (len(shape) - 3)
    elif len(shape) == 2:
        named = "xy"
    if axes is not None:
        return parse_axes(axes, len(shape), path)
    if "?" in named or not named or any(n > 1 for n, letter in zip(shape, named, strict=True) if letter == "."):
        raise ask_for_axes(path, f"it has {counted(len(shape), 'dimension')}", shape)
    return named


def _check_size(path: Path, voxels: Path, kind: str, image: Any, declared: int) -> None:
    """Declared against present bytes; packed files are read to their end."""
    if kind == "minc":
        return _check_minc_size(path, image, declared)
    start = _MGH_HEADER if kind == "mgh" else 0
    if kind == "analyze":
        start = max(int(float(image.header["vox_offset"])), 0)
    present = voxels.stat().st_size
    if voxels.name.lower().endswith((".gz", ".mgz")):
        if start + declared > present * _MOST_PACKED:
            raise damaged(voxels, f"its header declares {declared} bytes of voxels but the file is far too short")
        present = 0
        with gzip.open(voxels) as stream:
            while block := stream.read(_BLOCK):  # the checksum is only compared at the very end
                present += len(block)
    if start + declared > present:
        raise damaged(voxels, f"its header declares {declared} bytes of voxels but {max(present - start, 0)} are there")
    return None


def _check_minc_size(path: Path, image: Any, declared: int) -> None:
    present = path.stat().st_size
    if path.open("rb").read(4)[1:4] == b"HDF":
        data = image.dataobj.minc_file._image
        if data.is_virtual or data.external:
            msg = f"{path} keeps its voxels in other files. Copy it into one file, for example with mincreshape."
            raise FileFormatError(msg)
        stored = int(data.id.get_storage_size())
        bound = max(_LEAST_BOUND, _MOST_PACKED * stored) if data.chunks and data.compression else stored
        if declared > bound or not stored:
            raise damaged(path, f"its header declares {declared} bytes of voxels but {stored} are there")
    elif declared > present:
        raise damaged(path, f"its header declares {declared} bytes of voxels but the file has {present}")


def _check_hdf5(path: Path) -> None:
    with path.open("rb") as file:
        if file.read(4) != b"\x89HDF":
            return
    if importlib.util.find_spec("h5py") is None:
        msg = f"{path} is MINC 2 and needs h5py, which is not installed: pip install 'napari-prosma[medical]'"
        raise MissingExtraError(msg)


def _has_orientation(image: Any) -> bool:
    """Whether a .hdr/.img pair says where it lies: NIfTI codes, or an SPM matrix."""
    header = image.header
    if "sform_code" in list(header.keys()):
        return bool(int(header["sform_code"]) or int(header["qform_code"]))
    matrix = image.file_map.get("mat")
    return matrix is not None and bool(matrix.filename) and Path(matrix.filename).is_file()


def _affine(image: Any, path: Path) -> NDArray[np.float64]:
    with reading(path, "an image"):
        affine: NDArray[np.float64] = np.asarray(image.affine, dtype=np.float64)
    if affine.shape != (4, 4) or not np.isfinite(affine).all():
        msg = f"The affine of {path} has entries that are not finite. Repair its header, or convert it to NIfTI."
        raise GeometryError(msg)
    with np.errstate(over="ignore", invalid="ignore"):
        volume = abs(np.linalg.det(affine[:3, :3]))
    if not volume > 1e-12 * math.prod(affine_spacing(affine)):
        msg = f"The affine of {path} is not invertible (two voxel axes point the same way, or a size is 0)."
        raise GeometryError(msg)
    return affine


def _machine_type(voxels: NDArray[Any], on_disk: np.dtype[Any]) -> NDArray[Any]:
    """The machine's byte order; scaled integers as float32 where it holds their differences."""
    if not voxels.dtype.isnative:
        voxels = voxels.astype(voxels.dtype.newbyteorder("="))
    if voxels.dtype.kind == "f" and voxels.dtype.itemsize > 4 and on_disk.kind in "iub":
        low, high = float(voxels.min()), float(voxels.max())
        if math.isfinite(low) and math.isfinite(high) and single_precision(low, high):
            return voxels.astype(np.float32)
    return voxels.astype(np.float64) if voxels.dtype.itemsize > 8 else voxels
