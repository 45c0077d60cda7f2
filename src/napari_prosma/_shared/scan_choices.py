"""What a person chose in a widget that lets a model look at a scan, and what may be wrong with it. No Qt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from napari_prosma._shared.fitting import doubts, misfit
from napari_prosma._shared.layers import LayerScan, Region
from napari_prosma._shared.scan_kind import kind_of
from napari_prosma._shared.session import ModelEntry
from prosma_core.data.frames import slice_axis as automatic_axis
from prosma_core.data.geometry import size_note

Part = Literal["whole", "view", "slice"]


@dataclass(frozen=True)
class ScanChoices:
    """What the person chose; `scan_error`, `size_error` and `device_error` say why something cannot be used as chosen.

    `size` is the voxel size as the person typed it for a layer that states no unit (`sizeless`); `scan` has it then.
    """

    scan: LayerScan | None = None
    scan_error: str = ""
    sizeless: bool = False
    size: str = ""
    size_error: str = ""
    model: ModelEntry | None = None
    device: str = "auto"
    device_error: str = ""
    part: Part = "whole"


@dataclass(frozen=True)
class Problem:
    """Why the main button is disabled: the field to look at, and what to do."""

    field: str
    text: str


def scan_problem(choices: ScanChoices, slice_axis: str | None, region: Region | None) -> Problem | None:
    """The first problem with scan, model, device and part; None where there is none.

    Parameters
    ----------
    choices : ScanChoices
    slice_axis : str or None
        Axis along which a 2D model walks through a 3D scan; None: the automatic one.
    region : tuple of (int, int), or None
        Box of the scan for ``choices.part`` other than ``"whole"``, per spatial axis; None where it cannot be told.
    """
    if choices.scan_error:
        return Problem("axes", choices.scan_error)
    if choices.scan is None:
        return Problem("image", "Open a scan: File > Open File(s), drag it into the window, or File > Open Sample.")
    if choices.size_error:
        return Problem("size", choices.size_error)
    if choices.model is None:
        kind = kind_of(choices.scan).text
        return Problem("model", f"No model chosen: none is known to be made for this scan ({kind}). Choose one.")
    wrong = misfit(choices.scan, choices.model, slice_axis)
    if wrong:
        return Problem("model", wrong)
    if choices.device_error:
        return Problem("device", choices.device_error)
    if choices.part == "slice" and region is None:
        return Problem("part", "The view shows no single slice of the scan: go to one in 2D view, or take all of it.")
    if choices.part == "view" and region is None:
        return Problem("part", "Nothing of the scan is in view. Move the view to it, or choose the whole scan.")
    return None


def scan_notes(
    scan: LayerScan, model: ModelEntry, slice_axis: str | None, region: Region | None, verb: str, gets: str
) -> tuple[str, ...]:
    """What the person may want to know of how the model sees the scan, a sentence each.

    Parameters
    ----------
    scan, model
    slice_axis, region
        As of `scan_problem`.
    verb : str
        What is done to slices and time points, such as ``"segmented"``.
    gets : str
        What a single slice then has, such as ``"labels"``.
    """
    spec, dims = scan.spec, model.header.model.dims
    notes = list(doubts(spec, model, kind_of(scan)))
    if note := size_note(spec, model.header.preprocess):
        notes.append(f"{note} Enter the true one under Voxel size if it differs.")
    if dims < spec.spatial_ndim:
        axis = slice_axis or spec.spatial_axes[automatic_axis(spec)]
        start, stop = region[spec.spatial_axes.index(axis)] if region else (0, spec.size(axis))
        if stop - start > 1:
            notes.append(f"The model is 2D: the {stop - start} slices along {axis} are {verb} one by one.")
    elif region and dims == 3 and min(stop - start for start, stop in region) == 1:
        notes.append(f"The model is 3D: it looks at the neighbouring slices as well, and only this slice gets {gets}.")
    if spec.num_channels == 3 and model.header.model.in_channels == 1:
        notes.append("Colors are turned to gray: the model takes one channel.")
    if spec.num_frames > 1:
        notes.append(f"{spec.num_frames} time points are {verb} one by one.")
    return tuple(notes)
