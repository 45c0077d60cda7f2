"""A look at a file before any library opens it: is it there, and does it hold what it declares."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prosma_core.errors import FileFormatError
from prosma_core.io.atomic import put_back
from prosma_core.io.dicom import check_dicom
from prosma_core.io.metaimage import check_metaimage
from prosma_core.io.names import COMMON_SUFFIXES, FORMATS, HINTS, image_suffix, is_dicom_file, is_dicom_folder
from prosma_core.io.nibabel_formats import check_nibabel
from prosma_core.io.nifti import check_nifti
from prosma_core.io.nrrd import check_nrrd
from prosma_core.io.raster import check_raster
from prosma_core.io.tiff import check_tiff
from prosma_core.io.zarr_checks import check_zarr
from prosma_core.io.zarr_metadata import load_node

if TYPE_CHECKING:
    from pathlib import Path


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
    checks = {
        "nifti": check_nifti,
        "tiff": check_tiff,
        "raster": check_raster,
        "zarr": check_zarr,
        "nrrd": check_nrrd,
        "metaimage": check_metaimage,
        "dicom": check_dicom,
        "nibabel": check_nibabel,
    }
    checks[reader_of(path)](path)


def reader_of(path: Path) -> str:
    """Which reader opens `path`: a value of `FORMATS`, ``"dicom"`` for a DICOM folder or file.

    Raises
    ------
    FileFormatError
        `path` does not exist, is empty, is of an unknown format, or is a folder where a file is needed.
    """
    put_back(path)
    if not path.exists():
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
    if path.is_dir() != (kind == "zarr"):
        found, wanted = ("folder", "file") if path.is_dir() else ("file", "folder")
        msg = f"{path} is a {found}, but {suffix} names a {wanted}. Check the name."
        raise FileFormatError(msg)
    if path.is_file() and path.stat().st_size == 0:
        msg = f"{path} is empty (0 bytes). Copy or export it again."
        raise FileFormatError(msg)
    return kind
