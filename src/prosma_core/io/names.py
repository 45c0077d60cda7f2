"""Names of image files: format of a name, its stem, the name of a result; commands quoted for a shell."""

from __future__ import annotations

import os
import shlex
import subprocess
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING

from prosma_core.io.remote import RemotePath, input_path
from prosma_core.printable import unsafe

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    ".bmp": "raster",
    ".ome.zarr.zip": "zarr",
    ".zarr.zip": "zarr",
    ".ozx": "zarr",
    ".ome.zarr": "zarr",
    ".zarr": "zarr",
    ".seg.nrrd": "nrrd",
    ".nrrd": "nrrd",
    ".nhdr": "nrrd",
    ".mha": "metaimage",
    ".mhd": "metaimage",
    ".dcm": "dicom",
    ".mgz": "nibabel",
    ".mgh": "nibabel",
    ".mnc": "nibabel",
    ".par": "nibabel",
    ".hdr": "nibabel",
    ".head": "nibabel",
}
"""Reader for each suffix, longer suffixes before the shorter ones they end with."""

RESULT_SUFFIXES = {
    ".jpg": ".png",
    ".jpeg": ".png",
    ".bmp": ".png",
    ".nhdr": ".nrrd",
    ".mhd": ".mha",
    ".ome.zarr.zip": ".ome.zarr",
    ".zarr.zip": ".zarr",
    ".ozx": ".ome.zarr",
    **dict.fromkeys((".dcm", ".mgz", ".mgh", ".mnc", ".par", ".hdr", ".head"), ".nii.gz"),
}
"""Suffix of a label result for inputs whose own format is not written, or cannot hold labels."""

ZIPPED = (".ome.zarr.zip", ".zarr.zip", ".ozx")
"""Suffixes of a zip file that holds a zarr."""

_READ_ONLY = RESULT_SUFFIXES.keys() - {".jpg", ".jpeg"}

IMAGE_SUFFIXES = tuple(FORMATS)
"""Suffixes that are read."""

COMMON_SUFFIXES = ".nii.gz, .dcm, .nrrd, .mha, .mgz, .mnc, .hdr, .tif, .ome.tif, .zarr, .png, .jpg"
"""What messages name of them: one for each usual format."""

WRITTEN_SUFFIXES = tuple(suffix for suffix in FORMATS if suffix not in _READ_ONLY)
"""Suffixes that images can be written with."""

LABEL_SUFFIXES = tuple(suffix for suffix in WRITTEN_SUFFIXES if suffix not in {".jpg", ".jpeg"})
"""Suffixes that label maps can be written with: JPEG changes values."""

_MICROSCOPES = ".czi .lif .lof .xlef .nd2 .ims .oib .oif .oir .vsi .lsm .stk .dv .zvi .svs .ndpi .scn .mrxs .qptiff"
_PICTURES = ".jp2 .j2k .jpx .webp .gif .heic .avif .jxl .tga .ppm .pgm .pbm .psd .exr"
_ARRAYS = ".npy .npz .mat .h5 .hdf5 .n5 .ilastik .pkl"
HINTS = {
    **dict.fromkeys(_MICROSCOPES.split(), "Export it as OME-TIFF or OME-Zarr, in Fiji or with bfconvert."),
    **dict.fromkeys(_PICTURES.split(), "Save it as PNG or TIFF."),
    **dict.fromkeys(_ARRAYS.split(), "Save its array as .ome.tif, .zarr or .nii.gz, with the voxel size."),
    ".ome": "Give a TIFF of the set that it describes.",
    **dict.fromkeys((".img", ".rec", ".brik", ".raw", ".zraw"), "Give the header of the pair, which is beside it."),
    **dict.fromkeys((".trk", ".tck"), "It holds streamlines, no voxels."),
    ".gii": "It holds a surface, no voxels.",
    **dict.fromkeys((".v", ".gipl", ".vtk", ".vti", ".mif"), "Convert it to NIfTI (.nii.gz)."),
}
"""What to do with a file of another format, by the last suffix of its name."""

_ZARR_NODES = ("zarr.json", ".zarray", ".zgroup")


MOST_LETTERS = 100
"""Longest name of a file that is made of a text, without its suffix."""
MOST_BYTES = 150
"""The same in UTF-8: a suffix, a number and what is written beside it fit into the 255 bytes of file systems."""
_FORBIDDEN = frozenset('<>:"/\\|?*\x7f')
_RESERVED = {
    "con",
    "prn",
    "aux",
    "nul",
    "conin$",
    "conout$",
    *(f"{p}{n}" for p in ("com", "lpt") for n in "0123456789¹²³"),
}


def written_path(text: str) -> Path:
    """The path that a program wrote as `text`: of a local file, or of a URL as of `input_path`."""
    return input_path(text) if ":/" in text else Path(text)


def safe_name(text: str, *, most: int = MOST_BYTES) -> str:
    """A file name (without suffix) as near to a text as every system allows; ``"model"`` where nothing is left.

    Parameters
    ----------
    text : str
        Such as the name in a model's header: ``CT/MR liver`` gives ``CT_MR liver``. Characters that a file system
        forbids, and those that are invisible, become ``_``.
    most : int
        Most bytes of the name, never more than `MOST_BYTES`.
    """
    normal = unicodedata.normalize("NFC", text)
    name = "".join("_" if letter in _FORBIDDEN or unsafe(letter) else letter for letter in normal)
    name = _cut(name.strip(" .")[:MOST_LETTERS], min(most, MOST_BYTES)).strip(" .")
    if name.split(".")[0].strip().lower() in _RESERVED:
        return f"{name}_"
    return name or "model"


def _cut(name: str, most: int) -> str:
    """As many letters of a name as fit into so many bytes."""
    return name.encode()[: max(most, 1)].decode(errors="ignore")


def image_suffix(path: Path) -> str:
    """The (compound) image suffix of a name as it is spelled there, empty where it has none."""
    for suffix in IMAGE_SUFFIXES:
        if path.name.lower().endswith(suffix) and len(path.name) > len(suffix):
            return path.name[-len(suffix) :]
    return ""


def stem(path: Path) -> str:
    """The name without its image suffix: ``case`` for ``case.nii.gz``; a folder's whole name.

    A member of a zarr folder has the names of both: ``exp_0`` for ``exp.zarr/0``.
    """
    suffix = image_suffix(path)
    if suffix:
        return path.name[: -len(suffix)]
    root = next((parent for parent in path.parents if image_suffix(parent).lower().endswith(".zarr")), None)
    if root is not None:
        return "_".join((stem(root), *path.relative_to(root).parts))
    return path.name if path.is_dir() or path.suffix[1:].isdigit() else path.stem


def is_image_path(path: Path) -> bool:
    """Whether `path` has the name of an image, or is a DICOM file, a folder with a DICOM series, or a zarr node."""
    return bool(image_suffix(path)) or is_zarr_node(path) or is_dicom_folder(path) or is_dicom_file(path)


def is_zarr_node(path: Path) -> bool:
    """Whether `path` is a folder with the metadata of a zarr array or group, whatever its name."""
    return path.is_dir() and any((path / name).is_file() for name in _ZARR_NODES)


def is_zarr_member(path: Path) -> bool:
    """Whether a folder above `path` has the name of a zarr."""
    return any(image_suffix(parent).lower().endswith(".zarr") for parent in path.parents)


def is_dicom_folder(path: Path) -> bool:
    """Whether `path` is a folder, not a zarr, that holds files named ``.dcm`` or DICOM files without a suffix."""
    if not path.is_dir() or image_suffix(path).lower() not in {"", ".dcm"}:
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


def result_name(path: Path, spec: ImageSpec | None = None) -> str:
    """Name of the label result for an input: the same name, or with the nearest format that can hold labels.

    Parameters
    ----------
    path : Path
        The input, e.g. ``case.nii.gz`` (stays), ``x.jpg`` (``x.png``), a DICOM folder or file ``d`` (``d.nii.gz``).
    spec : ImageSpec, optional
        What was read from it.
    """
    suffix = image_suffix(path)
    folder = is_zarr_member(path) if isinstance(path, RemotePath) else path.is_dir() and not is_dicom_folder(path)
    member = folder if spec is None else spec.format in {"zarr", "ome-zarr"}
    if not suffix and member:
        return f"{stem(path)}.zarr"
    if (spec is not None and spec.format == "dicom") or not suffix:
        return f"{stem(path)}.nii.gz"
    other = RESULT_SUFFIXES.get(suffix.lower())
    return f"{stem(path)}{other}" if other else path.name


def command_line(parts: Sequence[str]) -> str:
    """A command as a person can paste it into a shell: every part quoted that needs it."""
    return subprocess.list2cmdline(parts) if os.name == "nt" else shlex.join(parts)
