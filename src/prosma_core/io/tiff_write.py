"""OME-TIFF files: axes, voxel size, unit and channel names in a form other programs read, too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from prosma_core.errors import OutputError
from prosma_core.io.layout import OME_UNITS
from prosma_core.io.tiff import AXES_NOTE

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from prosma_core.data.geometry import ImageSpec

_TYPES = {"uint8", "uint16", "uint32", "int8", "int16", "int32", "float32", "float64"}
_CLASSIC_BYTES = 1 << 31


def write_tiff(path: Path, data: NDArray[Any], spec: ImageSpec, provenance: dict[str, str]) -> None:
    """Write an array as deflated TIFF with OME-XML (also where the suffix is only ``.tif``).

    Parameters
    ----------
    path : Path
    data : ndarray
        Shape ``spec.shape``, axes ``spec.axes``.
    spec : ImageSpec
        Its spacing and unit become PhysicalSizeX, Y, Z.
    provenance : dict
        Becomes entries of a map annotation.

    Raises
    ------
    OutputError
        The dtype is none that OME-TIFF has.
    """
    import tifffile

    if data.dtype.name not in _TYPES:
        msg = f"OME-TIFF cannot hold {data.dtype} ({path.suffix}); write .zarr, or one of {', '.join(sorted(_TYPES))}."
        raise OutputError(msg)
    metadata: dict[str, Any] = {
        "axes": spec.axes.upper(),
        "MapAnnotation": {**provenance, AXES_NOTE: spec.axes},
    }
    if spec.unit != "pixel" or any(size != 1 for size in spec.spacing):
        for axis, size in zip(spec.spatial_axes.upper(), spec.spacing, strict=True):
            metadata[f"PhysicalSize{axis}"] = size
            metadata[f"PhysicalSize{axis}Unit"] = OME_UNITS.get(spec.unit, spec.unit)
    if spec.channel_names:
        metadata["Channel"] = {"Name": list(spec.channel_names)}
    tifffile.imwrite(
        path,
        np.ascontiguousarray(data),
        bigtiff=data.nbytes > _CLASSIC_BYTES,
        ome=True,
        photometric="minisblack",
        compression="zlib",
        metadata=metadata,
    )
