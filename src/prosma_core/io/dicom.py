"""DICOM series through SimpleITK (extra ``medical``)."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from prosma_core.data.geometry import ImageSpec, Scan, affine_spacing, reverse_affine
from prosma_core.errors import FileFormatError, GeometryError, MissingExtraError
from prosma_core.io.failures import damaged, reading
from prosma_core.io.layout import arrange, ask_for_axes, parse_axes
from prosma_core.io.names import is_dicom_file

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_LOG = logging.getLogger(__name__)
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_MISSING_SLICE = 0.5  # a distance of slices that differs by this part of the usual one
_UNEVEN_SLICES = 0.01


@dataclass(frozen=True)
class ItkHeader:
    """Geometry as SimpleITK has it: index order x, y, z (t); world axes left, posterior, superior."""

    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]

    def affine(self) -> NDArray[np.float64]:
        """Voxel index to world of the spatial axes, in the order of `ImageSpec.affine`; for 3D in RAS."""
        n = len(self.spacing)
        spatial = min(n, 3)
        affine = np.eye(spatial + 1)
        direction = np.array(self.direction).reshape(n, n)[:spatial, :spatial]
        affine[:spatial, :spatial] = direction * self.spacing[:spatial]
        affine[:spatial, spatial] = self.origin[:spatial]
        return reverse_affine(_LPS_TO_RAS @ affine if spatial == 3 else affine)


def read_dicom(path: Path, axes: str | None) -> Scan:
    """The scan of a DICOM folder; lengths in mm.

    Parameters
    ----------
    path : Path
    axes : str, optional
        Letters for the dimensions of the array, ``"zyx"`` or ``"tzyx"`` and a last ``"c"`` for several values per voxel
        if not given. Others than these leave the orientation out.

    Raises
    ------
    MissingExtraError
        SimpleITK is not installed.
    FileFormatError
        As in `check_dicom`; the voxels cannot be unpacked; or a folder holds several series or unreadable files.
    GeometryError
        The axes cannot be told, slices are missing, or the affine cannot be used.
    """
    sitk = _simpleitk()
    check_dicom(path)
    with reading(path, "a DICOM series"):
        image = _read_series(path, sitk)
        header = ItkHeader(image.GetSpacing(), image.GetOrigin(), image.GetDirection())
        components = image.GetNumberOfComponentsPerPixel()
        data: NDArray[Any] = sitk.GetArrayFromImage(image)
    samples = "c" if components > 1 else ""
    default = {2: "yx", 3: "zyx", 4: "tzyx"}.get(len(header.spacing), "") + samples
    if axes is None and len(default) != data.ndim:
        raise ask_for_axes(path, f"it has {len(header.spacing)} dimensions", data.shape)
    names = default if axes is None else parse_axes(axes, data.ndim, path)
    affine = header.affine()
    if names != default or "z" not in names:
        scale = [*reversed(header.spacing), *([1.0] if samples else [])]
        return arrange(data, names, scale=scale, unit="mm", kind="dicom", header=header)
    voxels = np.moveaxis(data, -1, -4) if samples else data
    ordered = names.replace("zyxc", "czyx")
    spec = ImageSpec(ordered, voxels.shape, affine_spacing(affine), "mm", affine, "ras", (), "dicom", header)
    return Scan(voxels, spec)


def check_dicom(path: Path) -> None:
    """Check the files of a DICOM folder without SimpleITK.

    Raises
    ------
    FileFormatError
        A file is too short.
    """
    for member in sorted(path.iterdir()):
        if is_dicom_file(member) and member.stat().st_size < 132:
            raise damaged(member, "it is too short for a DICOM file")


def _simpleitk() -> Any:
    try:
        import SimpleITK
    except ImportError as error:
        msg = "DICOM needs SimpleITK, which is not installed: pip install 'napari-prosma[medical]'"
        raise MissingExtraError(msg) from error
    return SimpleITK


def _read_series(folder: Path, sitk: Any) -> Any:
    """The image of a folder that holds one series, all of whose files can be read."""
    series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    if not series:
        raise damaged(folder, "none of its files can be read as DICOM")
    names = {uid: sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), uid) for uid in series}
    if len(series) > 1:
        listed = "; ".join(f"{uid} ({len(files)} files)" for uid, files in names.items())
        msg = f"{folder} holds {len(series)} DICOM series: {listed}. Put each into a folder of its own."
        raise FileFormatError(msg)
    files = names[series[0]]
    known = {file.rsplit("/", 1)[-1].rsplit("\\", 1)[-1] for file in files}
    dicom = (file.name for file in sorted(folder.iterdir()) if is_dicom_file(file) and file.name != "DICOMDIR")
    unread = [name for name in dicom if name not in known]
    if unread:
        raise damaged(folder, f"{', '.join(unread[:5])} cannot be read as part of its DICOM series")
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(files)
    reader.MetaDataDictionaryArrayUpdateOn()
    image = reader.Execute()
    _check_slices(folder, reader, image, len(files))
    return image


def _check_slices(folder: Path, reader: Any, image: Any, count: int) -> None:
    """Compare the distances of neighbouring slices."""
    tag = "0020|0032"
    if count < 3 or not all(reader.HasMetaDataKey(i, tag) for i in range(count)):
        return
    positions = np.array([[float(v) for v in reader.GetMetaData(i, tag).split("\\")] for i in range(count)])
    normal = np.array(image.GetDirection()).reshape(3, 3)[:, 2]
    distances = np.abs(np.diff(positions @ normal))
    usual = float(np.median(distances))
    worst = int(np.argmax(np.abs(distances - usual)))
    apart = f"slices {worst + 1} and {worst + 2} are {distances[worst]:.3g} mm apart, the others {usual:.3g} mm"
    if abs(distances[worst] - usual) > _MISSING_SLICE * usual:
        msg = f"{folder} lacks slices or has some twice: {apart}. Export the whole series again."
        raise GeometryError(msg)
    if abs(distances[worst] - usual) > _UNEVEN_SLICES * usual:
        _LOG.warning("%s: %s; all are taken as equally far apart.", folder, apart)
