"""What the person chose, and the request that follows from it. No Qt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import log
from typing import Literal

from napari_prosma._shared.layers import LayerScan, Region
from napari_prosma._shared.session import ModelEntry
from prosma_core.config.inference import InferenceConfig
from prosma_core.data.frames import frame_spec, slice_axis
from prosma_core.data.geometry import Scan
from prosma_core.data.grid import plan_grid, unit_factor
from prosma_core.data.intensities import check_channels
from prosma_core.engine.messages import SegmentRequest
from prosma_core.errors import ProsmaError

Part = Literal["whole", "view", "slice"]


@dataclass(frozen=True)
class Choices:
    """What the person chose; `scan_error` and `device_error` say why a layer or a device cannot be used as chosen."""

    scan: LayerScan | None = None
    scan_error: str = ""
    model: ModelEntry | None = None
    device: str = "auto"
    device_error: str = ""
    options: InferenceConfig = field(default_factory=InferenceConfig)
    part: Part = "whole"
    name: str = ""


@dataclass(frozen=True)
class Problem:
    """Why Segment is disabled: the field to look at, and what to do."""

    field: Literal["image", "axes", "model", "device", "part"]
    text: str


@dataclass(frozen=True)
class Plan:
    """A valid choice: the request (without its scan), the result's name, and what is worth knowing before."""

    scan: LayerScan
    model: ModelEntry
    request: SegmentRequest
    result_name: str
    notes: tuple[str, ...]


def resolve(choices: Choices, region: Region | None) -> Plan | Problem:
    """The plan, or the first problem.

    Parameters
    ----------
    choices : Choices
    region : tuple of (int, int), or None
        Box of the scan for ``choices.part`` other than ``"whole"``, per spatial axis; None where it cannot be told.
    """
    if choices.scan_error:
        return Problem("axes", choices.scan_error)
    if choices.scan is None:
        return Problem("image", "Open a scan: File > Open File(s), drag it into the window, or File > Open Sample.")
    if choices.model is None:
        return Problem("model", "Choose a model.")
    problem = _misfit(choices.scan, choices.model, choices.options)
    if problem:
        return problem
    if choices.device_error:
        return Problem("device", choices.device_error)
    if choices.part == "slice" and region is None:
        return Problem("part", "The view shows no single slice of the scan: go to one in 2D view, or take all of it.")
    if choices.part == "view" and region is None:
        return Problem("part", "Nothing of the scan is in view. Move the view to it, or choose the whole scan.")
    options = choices.options.replace(region=None if choices.part == "whole" else region)
    request = SegmentRequest(model=str(choices.model.path), device=choices.device, config=options)
    name = choices.name or f"{choices.scan.name} {choices.model.header.name}"
    return Plan(choices.scan, choices.model, request, name, _notes(choices.scan, choices.model, options))


def fits(scan: LayerScan, model: ModelEntry) -> bool:
    """Whether a model can segment a scan at all."""
    return _misfit(scan, model, InferenceConfig()) is None


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


def _misfit(scan: LayerScan, model: ModelEntry, options: InferenceConfig) -> Problem | None:
    """Why this model cannot segment this scan; the checks are those the engine would fail with."""
    header = model.header
    try:
        spec = frame_spec(scan.spec, header.model.dims, options.slice_axis)
        check_channels(Scan(scan.data, scan.spec), header.preprocess.channels)
        plan_grid(spec, header.preprocess)
    except ProsmaError as error:
        return Problem("model", str(error))
    return None


def _notes(scan: LayerScan, model: ModelEntry, options: InferenceConfig) -> tuple[str, ...]:
    """What the person may want to know before the run, a sentence each."""
    spec, dims = scan.spec, model.header.model.dims
    notes = []
    if dims < spec.spatial_ndim:
        axis = options.slice_axis or spec.spatial_axes[slice_axis(spec)]
        start, stop = options.region[spec.spatial_axes.index(axis)] if options.region else (0, spec.size(axis))
        if stop - start > 1:
            notes.append(f"The model is 2D: the {stop - start} slices along {axis} are segmented one by one.")
    elif options.region and dims == 3 and min(stop - start for start, stop in options.region) == 1:
        notes.append("The model is 3D: it looks at the neighbouring slices as well, and only this slice gets labels.")
    if spec.num_channels == 3 and model.header.model.in_channels == 1:
        notes.append("Colours are turned to grey: the model takes one channel.")
    if spec.num_frames > 1:
        notes.append(f"{spec.num_frames} time points are segmented one by one.")
    if options.mirror and model.header.mirror_axes:
        notes.append(f"Mirrored copies take {2 ** len(model.header.mirror_axes)} times as long.")
    return tuple(notes)
