"""Names of image files: which format a name stands for, its stem, and the name of a result."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from prosma_core.data.geometry import ImageSpec

FORMATS = {
    ".nii.gz": "nifti",
    ".nii": "nifti",
    ".ome.tiff": "tiff",
    ".ome.tif": "tiff",
    ".tiff": "tiff",
    ".tif": "tiff",
    ".png": "raster",
    ".jpeg": "raster",
    ".jpg": "raster",
    ".ome.zarr": "zarr",
    ".zarr": "zarr",
    ".seg.nrrd": "nrrd",
    ".nrrd": "nrrd",
    ".nhdr": "nrrd",
    ".mha": "metaimage",
    ".mhd": "metaimage",
}
"""Reader for each suffix, longer suffixes before the shorter ones they end with."""

RESULT_SUFFIXES = {".jpg": ".png", ".jpeg": ".png", ".nhdr": ".nrrd", ".mhd": ".mha"}
"""Suffix of a label result for inputs whose own format is not written, or cannot hold labels."""

IMAGE_SUFFIXES = tuple(FORMATS)
"""Suffixes that are read."""

WRITTEN_SUFFIXES = tuple(suffix for suffix in FORMATS if suffix not in {".nhdr", ".mhd"})
"""Suffixes that images can be written with."""

LABEL_SUFFIXES = tuple(suffix for suffix in WRITTEN_SUFFIXES if suffix not in {".jpg", ".jpeg"})
"""Suffixes that label maps can be written with: JPEG changes values."""


def image_suffix(path: Path) -> str:
    """The (compound) image suffix of a name as it is spelled there, empty where it has none."""
    for suffix in IMAGE_SUFFIXES:
        if path.name.lower().endswith(suffix) and len(path.name) > len(suffix):
            return path.name[-len(suffix) :]
    return ""


def stem(path: Path) -> str:
    """The name without its image suffix: ``case`` for ``case.nii.gz``; a folder's whole name."""
    suffix = image_suffix(path)
    if suffix:
        return path.name[: -len(suffix)]
    return path.name if path.is_dir() else path.stem


def is_image_path(path: Path) -> bool:
    """Whether `path` has the name of an image, or is a folder that holds a DICOM series."""
    return bool(image_suffix(path)) or is_dicom_folder(path)


def is_dicom_folder(path: Path) -> bool:
    """Whether `path` is a folder, not a zarr, that holds files named ``.dcm`` or DICOM files without a suffix."""
    if not path.is_dir() or image_suffix(path):
        return False
    return any(is_dicom_file(file) for file in sorted(path.iterdir()))


def is_dicom_file(path: Path) -> bool:
    """Whether a file is named ``.dcm``, or has no suffix (DICOM identifiers contain dots) and DICOM's signature."""
    if not path.is_file() or path.name.startswith("."):
        return False
    if path.suffix.lower() == ".dcm":
        return True
    if path.suffix and not path.suffix[1:].isdigit():
        return False
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:  # no permission
        return False


def result_name(path: Path, spec: ImageSpec) -> str:
    """Name of the label result for an input: the same name, or with the nearest format that can hold labels.

    Parameters
    ----------
    path : Path
        The input, e.g. ``case.nii.gz`` (stays), ``x.jpg`` (``x.png``), a DICOM folder or file ``d`` (``d.nii.gz``).
    spec : ImageSpec
        What was read from it.
    """
    suffix = image_suffix(path)
    if spec.format == "dicom" or not suffix:
        return f"{stem(path)}.nii.gz"
    other = RESULT_SUFFIXES.get(suffix.lower())
    return f"{stem(path)}{other}" if other else path.name
