"""Zarr folders: OME-Zarr, or a plain array where the source was one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prosma_core.io.layout import ZARR_UNITS, axis_aligned
from prosma_core.io.zarr_metadata import ZarrHeader

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from prosma_core.data.geometry import ImageSpec

_CHUNK = {"t": 1, "c": 1, "z": 64, "y": 256, "x": 256}


def write_zarr(path: Path, data: NDArray[Any], spec: ImageSpec, provenance: dict[str, str]) -> None:
    """Write an array as a new zarr folder of the version `spec` came from, or OME-Zarr 0.4.

    Parameters
    ----------
    path : Path
        Must not exist.
    data : ndarray
        Shape ``spec.shape``, axes ``spec.axes``.
    spec : ImageSpec
    provenance : dict
        Becomes the attribute ``prosma``.
    """
    import zarr

    header = spec.header if isinstance(spec.header, ZarrHeader) else ZarrHeader()
    origin, _ = axis_aligned(spec)
    notes: dict[str, Any] = {"prosma": provenance} if provenance else {}
    if header.ome:
        group = zarr.create_group(str(path), zarr_format=header.zarr_format)  # type: ignore[arg-type]
        _write_array(path / "0", data, spec, header)
        group.attrs.update({**_ome(spec, origin, header), **notes})
        return
    array = _write_array(path, data, spec, header)
    names = {"channel_names": list(spec.channel_names)} if spec.channel_names else {}
    grid = {"axes": list(spec.axes), "spacing": list(spec.spacing), "origin": list(origin), "unit": spec.unit}
    dimensions = {"_ARRAY_DIMENSIONS": list(spec.axes)} if header.zarr_format == 2 else {}
    array.attrs.update({**grid, **dimensions, **names, **notes})


def _write_array(path: Path, data: NDArray[Any], spec: ImageSpec, header: ZarrHeader) -> Any:
    import zarr

    separate: Any = {"name": "v2", "separator": "/"} if header.zarr_format == 2 else None
    array = zarr.create_array(
        str(path),
        shape=data.shape,
        dtype=data.dtype,
        chunks=tuple(min(_CHUNK[axis], size) for axis, size in zip(spec.axes, spec.shape, strict=True)),
        zarr_format=header.zarr_format,  # type: ignore[arg-type]
        chunk_key_encoding=separate,
        dimension_names=list(spec.axes) if header.zarr_format == 3 else None,
        config={"write_empty_chunks": True},  # so that a missing chunk always means a damaged copy
    )
    array[...] = data
    return array


def _ome(spec: ImageSpec, origin: tuple[float, ...], header: ZarrHeader) -> dict[str, Any]:
    """Attributes of an OME-Zarr image of one level."""
    spacing = dict(zip(spec.spatial_axes, spec.spacing, strict=True))
    start = dict(zip(spec.spatial_axes, origin, strict=True))
    steps = [
        {"type": "scale", "scale": [spacing.get(letter, 1.0) for letter in spec.axes]},
        {"type": "translation", "translation": [start.get(letter, 0.0) for letter in spec.axes]},
    ]
    modern = header.zarr_format == 3
    multiscale: dict[str, Any] = {
        "axes": [_axis(letter, spec.unit) for letter in spec.axes],
        "datasets": [{"path": "0", "coordinateTransformations": steps}],
    }
    version = {"version": "0.5" if modern else "0.4"}
    content: dict[str, Any] = {"multiscales": [multiscale if modern else {**version, **multiscale}]}
    if spec.channel_names:
        content["omero"] = {"channels": [{"label": name} for name in spec.channel_names]}
    return {"ome": {**version, **content}} if modern else content


def _axis(letter: str, unit: str) -> dict[str, str]:
    kind = {"t": "time", "c": "channel"}.get(letter, "space")
    named = {"unit": ZARR_UNITS[unit]} if kind == "space" and unit in ZARR_UNITS else {}
    return {"name": letter, "type": kind, **named}
