"""Registry of image formats: check a file before any library opens it, read a scan or a label map, write a result."""

from __future__ import annotations

import logging
import os
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import prosma_core
from prosma_core.data.geometry import ImageSpec, Scan
from prosma_core.data.intensities import single_precision
from prosma_core.errors import FileFormatError, GeometryError, LabelError, OutputError
from prosma_core.io.atomic import make_folder, put_back, replace_dir, write_atomic
from prosma_core.io.axes_units import axis_aligned
from prosma_core.io.dicom import check_dicom, read_dicom
from prosma_core.io.downloads import fetched, is_streamed, remote_format
from prosma_core.io.labels import as_labels, one_channel, scale_step
from prosma_core.io.metaimage import check_metaimage, read_metaimage, write_metaimage
from prosma_core.io.names import (
    COMMON_SUFFIXES,
    FORMATS,
    HINTS,
    IMAGE_SUFFIXES,
    LABEL_SUFFIXES,
    WRITTEN_SUFFIXES,
    image_suffix,
    is_dicom_file,
    is_dicom_folder,
    is_image_path,
    result_name,
    stem,
)
from prosma_core.io.nibabel_formats import check_nibabel, read_nibabel
from prosma_core.io.nifti import check_nifti, declared_nifti, lazy_nifti, read_nifti, write_nifti
from prosma_core.io.nrrd import check_nrrd, read_nrrd, write_nrrd
from prosma_core.io.output_plan import check_replace
from prosma_core.io.raster import check_raster, read_raster, write_raster
from prosma_core.io.remote import RemotePath
from prosma_core.io.tiff import check_tiff, lazy_tiff, read_tiff, write_tiff
from prosma_core.io.zarr_checks import check_zarr, load_node
from prosma_core.io.zarr_images import lazy_zarr, read_zarr, write_zarr
from prosma_core.io.zarr_labels import image_of, list_label_image, plan_label_image
from prosma_core.io.zarr_stores import is_zipped

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = [
    "IMAGE_SUFFIXES",
    "LABEL_SUFFIXES",
    "WRITTEN_SUFFIXES",
    "is_image_path",
    "preflight",
    "read_image",
    "read_labels",
    "result_name",
    "stem",
    "write_image",
    "write_labels",
]
_LOG = logging.getLogger(__name__)


SMALL = 16 << 20
"""Bytes of a file that is always read whole."""


class _Format(NamedTuple):
    """Functions of a format."""

    check: Callable[[Path], None]
    read: Callable[..., Scan]
    """Of a path and axes; with `tells_labels`, ``labels=`` says whether a label map is read."""
    write: Callable[[Path, NDArray[Any], ImageSpec, dict[str, str]], None] | None = None
    """None: only read."""
    tells_labels: bool = False
    """Label maps are read differently, such as palettes."""
    oriented: bool = False
    """Files keep any orientation of a scan, not its voxel size alone."""
    lazy: Callable[[Path, str | None], Scan | None] | None = None
    """Opens what can be read by parts; None for a file that cannot."""


_FUNCTIONS = {
    "nifti": _Format(check_nifti, read_nifti, write_nifti, oriented=True, lazy=lazy_nifti),
    "tiff": _Format(check_tiff, read_tiff, write_tiff, tells_labels=True, lazy=lazy_tiff),
    "raster": _Format(check_raster, read_raster, write_raster, tells_labels=True),
    "zarr": _Format(check_zarr, read_zarr, write_zarr, tells_labels=True, lazy=lazy_zarr),
    "nrrd": _Format(check_nrrd, read_nrrd, write_nrrd, oriented=True),
    "metaimage": _Format(check_metaimage, read_metaimage, write_metaimage, oriented=True),
    "dicom": _Format(check_dicom, read_dicom),
    "nibabel": _Format(check_nibabel, read_nibabel),
}
"""By the reader that `FORMATS` names."""


def preflight(path: Path) -> None:
    """Check an image file or folder without keeping its voxels.

    NIfTI, NRRD, MHA and PNG are read to the end and compared with their checksums and declared sizes; for the other
    formats the declared size is compared with the bytes that are there. `read_image` and `read_labels` do the same by
    themselves.

    Raises
    ------
    FileFormatError
        It is missing, empty, truncated, damaged, of an unknown format, or declares more than it holds.
    GeometryError
        An axis has no voxels, or the affine is not finite and invertible.
    """
    with fetched(path) as file:
        _FUNCTIONS[reader_of(path)].check(file)


def reader_of(path: Path) -> str:
    """Which reader opens `path`: a value of `FORMATS`, ``"dicom"`` for a DICOM folder or file.

    Raises
    ------
    FileFormatError
        `path` does not exist, is empty, is of an unknown format, or is a folder where a file is needed.
    """
    if isinstance(path, RemotePath):
        return remote_format(path)
    put_back(path)
    if not os.path.exists(path):  # noqa: PTH110  (False for a name that is too long, where pathlib raises)
        msg = f"{path} does not exist. Check the name and the folder."
        raise FileFormatError(msg)
    if is_dicom_folder(path):
        return "dicom"
    if path.is_file() and path.stat().st_size and is_dicom_file(path):
        return "dicom"
    suffix = image_suffix(path).lower()
    if not suffix and path.is_dir() and load_node(path) is not None:  # a member of a zarr folder
        return "zarr"
    if not suffix:
        last = path.name.lower().removesuffix(".gz").rpartition(".")
        more = f" {HINTS['.' + last[2]]}" if last[0] and "." + last[2] in HINTS else ""
        msg = f"{path} is not an image that can be read: {COMMON_SUFFIXES}, a DICOM folder and others.{more}"
        raise FileFormatError(msg)
    kind = FORMATS[suffix]
    if path.is_dir() != (kind == "zarr" and not is_zipped(path)):
        found, wanted = ("folder", "file") if path.is_dir() else ("file", "folder")
        msg = f"{path} is a {found}, but {suffix} names a {wanted}. Check the name."
        raise FileFormatError(msg)
    if path.is_file() and path.stat().st_size == 0:
        msg = f"{path} is empty (0 bytes). Copy or export it again."
        raise FileFormatError(msg)
    return kind


def read_image(path: Path, *, axes: str | None = None) -> Scan:
    """A scan in canonical axis order (a subset of ``"tczyx"``, in that order), with its geometry.

    Parameters
    ----------
    path : Path
        A file of a format in `IMAGE_SUFFIXES`, a zarr folder, or a folder with one DICOM series.
    axes : str, optional
        What each dimension of the file is, one letter each: for NIfTI in the order of its header (``"xyz…"``), for
        all others in the order of the array (``"…yx"``). Replaces what the file says or the guess.

    Returns
    -------
    Scan
        The file's dtype in the machine's byte order; float32 where NIfTI scales its integers. Values are not checked.

    Raises
    ------
    FileFormatError
        The file is missing, empty, damaged, of an unknown format, or not what its header declares.
    GeometryError
        Axes cannot be told or do not fit, an axis has no voxels, or the affine is not invertible.
    MissingExtraError
        The format needs SimpleITK, which is not installed.
    """
    return _read(path, axes, labels=False)


def open_image(path: Path, *, axes: str | None = None, least: int = SMALL) -> Scan:
    """A scan as of `read_image`, whose voxels are a `LazyArray` where the file can be read by parts.

    These are zarr folders, gray TIFF, and NIfTI that is neither packed nor scaled; of at least so many bytes.
    """
    found = lazy_image(path, least, axes=axes)
    return _read(path, axes, labels=False) if found is None else found


def lazy_image(path: Path, least: int | None = None, *, axes: str | None = None) -> Scan | None:
    """A scan as of `open_image`; None where it cannot be read by parts."""
    least = SMALL if least is None else least
    kind = _FUNCTIONS[reader_of(path)]
    small = (path.is_file() and path.stat().st_size < least) or (isinstance(path, RemotePath) and not is_streamed(path))
    return None if small or kind.lazy is None else kind.lazy(path, axes)


def least_bytes(path: Path) -> int:
    """Bytes of memory that a file at least takes which is read whole: of NIfTI its voxels, as floats as well.

    Told by the header of NIfTI, by the size of other files; 0 for what is read by parts, and for folders.
    """
    if not path.is_file() or path.stat().st_size == 0:
        return 0
    kind = reader_of(path)
    if kind != "nifti":
        return 0 if _FUNCTIONS[kind].lazy is not None else path.stat().st_size
    stored, voxels = declared_nifti(path)
    return stored + 4 * voxels if path.stat().st_size < stored or path.stat().st_size < SMALL else 0


def read_labels(path: Path) -> Scan:
    """A label map: class numbers in the smallest unsigned integer type that holds them, without a channel axis.

    Raises
    ------
    LabelError
        Values are negative or fractions, or the file is a picture in color.
    FileFormatError, GeometryError, MissingExtraError
        As in `read_image`.
    """
    scan = _read(path, None, labels=True)
    data = as_labels(one_channel(scan.data, scan.spec.axes, path), path, scale_step(scan.spec.header))
    return Scan(data, scan.spec.labels_spec())


def write_labels(
    path: Path,
    labels: NDArray[Any],
    spec: ImageSpec,
    *,
    overwrite: bool = False,
    provenance: dict[str, str] | None = None,
) -> None:
    """Write a label map on the grid of a scan, in the format that the name of `path` says; whole or not at all.

    Parameters
    ----------
    path : Path
        Any suffix of `LABEL_SUFFIXES`.
    labels : ndarray, bool or integer, shape ``spec.labels_spec().shape``
        Class numbers; stored in the smallest unsigned type that holds them.
    spec : ImageSpec
        Of the scan (a channel axis in it is left out).
    overwrite : bool
        Replace what is at `path`: a file of the same format, or a zarr that holds only what this program wrote.
    provenance : dict of str, optional
        How the result was made; stored where the format has a place for notes.

    Raises
    ------
    OutputError
        `path` exists, cannot be written, or has a suffix that cannot hold labels.
    LabelError
        Labels are not whole numbers from 0.
    GeometryError
        The shape is not the one of `spec`.
    """
    spec = spec.labels_spec()
    if image_suffix(path).lower() in {".jpg", ".jpeg"}:
        msg = f"Labels cannot be written to {path}: JPEG changes values. Use {stem(path)}.png."
        raise OutputError(msg)
    if labels.dtype.kind not in "bui":
        msg = f"Labels for {path} are of type {labels.dtype}; integers are needed."
        raise LabelError(msg)
    check_output(path, overwrite=overwrite)
    _check_shape(labels, spec, path)
    _write(path, as_labels(labels, path), spec, provenance, "labels")


def write_image(
    path: Path,
    data: NDArray[Any],
    spec: ImageSpec,
    *,
    overwrite: bool = False,
    provenance: dict[str, str] | None = None,
) -> None:
    """Write an image or probabilities on the grid of a scan; whole or not at all.

    Parameters
    ----------
    path : Path
        Any suffix of `WRITTEN_SUFFIXES`. PNG and JPEG only hold 2D pictures of uint8 (PNG: or gray uint16).
    data : ndarray, integer or float, shape ``spec.shape``
        float64, float16 and bool are stored as float32, float32 and uint8; float64 stays where float32 cannot hold
        the differences between its values.
    spec, overwrite, provenance
        As in `write_labels`; a channel axis in `spec` is kept.

    Raises
    ------
    OutputError, GeometryError
        As in `write_labels`.
    """
    check_output(path, overwrite=overwrite)
    _check_shape(data, spec, path)
    kinds: dict[str, Any] = {"float16": np.float32, "bool": np.uint8}
    if data.dtype == np.float64:
        ends = [float(of.reduce(data, axis=None)) for of in (np.fmin, np.fmax)]  # which pass over NaN
        if not np.isfinite(ends).all() or single_precision(*ends):
            kinds["float64"] = np.float32
    _write(path, data.astype(kinds.get(data.dtype.name, data.dtype), copy=False), spec, provenance, "image")


def check_output(path: Path, *, overwrite: bool) -> None:
    """Raise `OutputError` unless `path` has a known suffix and nothing is there, or what `overwrite` may replace."""
    if not written_format(path):
        msg = f"{path} names no format that can be written; let it end with one of {', '.join(WRITTEN_SUFFIXES)}."
        raise OutputError(msg)
    check_replace(path, overwrite=overwrite)


def written_format(path: Path) -> str:
    """The value of `FORMATS` that a result of this name is written in; empty where it names none.

    A name in the `labels` group of an OME-Zarr image is a zarr, whatever its suffix.
    """
    suffix = image_suffix(path).lower()
    if image_of(path) is not None:
        return "zarr"
    return FORMATS[suffix] if suffix in WRITTEN_SUFFIXES else ""


def _check_shape(data: NDArray[Any], spec: ImageSpec, path: Path) -> None:
    if data.shape != spec.shape:
        msg = f"The array for {path} has shape {data.shape}; its grid has {spec.shape} (axes {spec.axes})."
        raise GeometryError(msg)


def _read(path: Path, axes: str | None, *, labels: bool) -> Scan:
    """Check and read in one go: the readers check what they open, NIfTI in the same pass."""
    kind = _FUNCTIONS[reader_of(path)]
    with fetched(path) if isinstance(path, RemotePath) else nullcontext(path) as file:
        return kind.read(file, axes, labels=labels) if kind.tells_labels else kind.read(file, axes)


def warn_of_orientation(path: Path, spec: ImageSpec) -> None:
    """Log a warning where the format of a name that is written does not keep the orientation of a scan."""
    if not (_FUNCTIONS[written_format(path)].oriented or axis_aligned(spec)[1] or spec.format == "array"):
        _LOG.warning("%s: this format keeps the voxel size, not the orientation of the scan.", path)


def _write(path: Path, data: NDArray[Any], spec: ImageSpec, provenance: dict[str, str] | None, what: str) -> None:
    kind = written_format(path)
    write, notes = _FUNCTIONS[kind].write, dict(provenance or {})
    assert write is not None  # `check_output` asks for one of WRITTEN_SUFFIXES
    warn_of_orientation(path, spec)
    if kind == "zarr":
        notes = notes or {"program": f"prosma {prosma_core.__version__}", "kind": what}  # by which it may be replaced
        image = plan_label_image(path, spec, {"kind": what, **notes})
        if image_of(path) is not None:
            make_folder(path.parent)
        replace_dir(path, lambda temporary: write_zarr(temporary, data, spec, notes, image))
        list_label_image(path)
    else:
        write_atomic(path, lambda temporary: write(temporary, data, spec, notes))
