"""Whether a model can take a scan, and which of several is nearest to it."""

from __future__ import annotations

from collections.abc import Sequence
from math import log

from napari_prosma._shared.layers import LayerScan
from napari_prosma._shared.session import ModelEntry
from prosma_core.data.frames import frame_spec
from prosma_core.data.geometry import Scan
from prosma_core.data.grid import network_grid, unit_factor
from prosma_core.data.intensities import check_channels
from prosma_core.errors import ProsmaError


def fits(scan: LayerScan, model: ModelEntry) -> bool:
    """Whether a model can take a scan at all."""
    return not misfit(scan, model, None)


def nearest(scan: LayerScan, models: Sequence[ModelEntry]) -> ModelEntry | None:
    """The model that takes a scan and is nearest to it, in dimensions and then in voxel size; None where none does."""
    return min((m for m in models if fits(scan, m)), key=lambda m: distance(scan, m), default=None)


def distance(scan: LayerScan, model: ModelEntry) -> tuple[bool, float]:
    """How far a model is from what a scan is: in dimensions, then in voxel size (sum of log ratios, sorted axes)."""
    pre, spec = model.header.preprocess, scan.spec
    if pre.dims != spec.spatial_ndim:
        return True, 0.0
    if pre.resample != "spacing" or spec.unit == "pixel":
        return False, 0.0
    scale = unit_factor(spec.unit, pre.unit)
    pairs = zip(sorted(pre.spacing), sorted(spec.spacing), strict=True)
    return False, sum(abs(log(wanted / (given * scale))) for wanted, given in pairs)


def misfit(scan: LayerScan, model: ModelEntry, slice_axis: str | None) -> str:
    """Why this model cannot take this scan, empty where it can; the checks are those the engine would fail with.

    Parameters
    ----------
    scan : LayerScan
    model : ModelEntry
    slice_axis : str or None
        Axis along which a 2D model walks through a 3D scan; None: the automatic one.
    """
    header = model.header
    try:
        frame_spec(scan.spec, header.model.dims, slice_axis)
        check_channels(Scan(scan.data, scan.spec), header.preprocess.channels)
        network_grid(scan.spec, header.preprocess, slice_axis)
    except ProsmaError as error:
        return str(error)
    return ""
