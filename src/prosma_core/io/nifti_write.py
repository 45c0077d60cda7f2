"""NIfTI files written with the header of the scan they belong to, or one made from its affine."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from prosma_core.data.geometry import METRES, affine_spacing, reverse_affine

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from prosma_core.data.geometry import ImageSpec

_AXES = "xyztc"


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

    present = [letter for letter in _AXES if letter in spec.axes]
    letters = _AXES[: _AXES.index(present[-1]) + 1]
    array = data.transpose([spec.axes.index(letter) for letter in present])
    array = array.reshape([spec.size(letter) for letter in letters], order="A")
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
    """Affine and unit of a scan that did not come from NIfTI; units NIfTI has no code for become micrometres."""
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
