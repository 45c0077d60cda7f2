"""Choice of scan and model, what may be wrong with it, and whether a model is made for a scan. No Qt."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import log
from typing import Any, Literal

import numpy as np

from napari_prosma.layers.scan import LayerScan
from napari_prosma.layers.viewport import Region
from prosma_core.data.frames import frame_spec
from prosma_core.data.frames import slice_axis as automatic_axis
from prosma_core.data.geometry import ImageSpec, Scan, size_note
from prosma_core.data.grid import network_grid, unit_factor
from prosma_core.data.intensities import COLOR, check_channels, looks_ct
from prosma_core.errors import ProsmaError
from prosma_core.io.bundle import ModelEntry
from prosma_core.io.dicom import dicom_modality
from prosma_core.printable import counted

World = Literal["patient", "sized", "pixels"]
_SAMPLE = 1 << 18


@dataclass(frozen=True)
class ScanKind:
    """Kind of a scan: what a model must be trained for.

    Attributes
    ----------
    dims : int
        Spatial axes.
    channels : int
        3 for a picture in color; a picture of three equal channels is gray and has 1.
    color : bool
        Whether the channels are red, green and blue.
    world : {"patient", "sized", "pixels"}
        Whether the file knows the patient's axes, only a voxel size, or neither.
    modality : str
        As DICOM abbreviates it; empty where nothing tells it.
    synthetic : bool
        Whether it is a phantom of this program.
    """

    dims: int
    channels: int
    color: bool
    world: World
    modality: str = ""
    synthetic: bool = False

    @property
    def text(self) -> str:
        """In a few words, such as ``3D, 1 channel, CT``; equal kinds have equal texts."""
        channels = "color" if self.color else counted(self.channels, "channel")
        world = {"patient": "patient geometry", "sized": "voxel size", "pixels": "no voxel size"}[self.world]
        kind = self.modality + " phantom" * self.synthetic
        return ", ".join(part for part in (f"{self.dims}D", channels, world, kind.strip()) if part)


def kind_of(scan: LayerScan) -> ScanKind:
    """Kind of a layer's scan; voxels in memory are sampled."""
    modality = str(scan.metadata.get("modality", ""))
    if not modality and scan.path is not None and scan.spec.format == "dicom":
        modality = dicom_modality(scan.path)
    gray = scan.rgb and _is_gray(scan.data)
    return kind_from(scan.spec, scan.data, modality, synthetic=bool(scan.metadata.get("synthetic")), gray=gray)


def kind_from(
    spec: ImageSpec, data: Any = None, modality: str = "", *, synthetic: bool = False, gray: bool = False
) -> ScanKind:
    """Kind of a scan of this geometry.

    Parameters
    ----------
    spec : ImageSpec
    data : array-like, optional
        Its voxels, to tell CT by; ``None`` does not.
    modality : str
        Where it is known.
    synthetic : bool
    gray : bool
        Whether its colors are known to be equal.
    """
    world: World = "patient" if spec.world == "ras" else "pixels" if spec.unit == "pixel" else "sized"
    color = spec.num_channels == 3 and spec.channel_names == COLOR and not gray
    if not modality and world != "pixels" and spec.num_channels == 1 and looks_ct(data):
        modality = "CT"
    channels = 1 if gray else spec.num_channels
    return ScanKind(spec.spatial_ndim, channels, color, world, modality, synthetic)


def differ(a: LayerScan, b: LayerScan) -> bool:
    """Whether two readings of a layer need other models."""
    return (a.spec.spatial_ndim, a.spec.num_channels) != (b.spec.spatial_ndim, b.spec.num_channels)


def _is_gray(data: Any) -> bool:
    """Whether the colors of a picture are equal everywhere, as far as some of its pixels tell."""
    if not isinstance(data, np.ndarray):
        return False
    step = max(1, math.isqrt(data.size // _SAMPLE))
    some = data[..., ::step, ::step, :]
    return bool((some[..., 0] == some[..., 1]).all() and (some[..., 0] == some[..., 2]).all())


Part = Literal["whole", "view", "slice"]


@dataclass(frozen=True)
class ScanChoices:
    """Choices of scan, model, device and part; `scan_error`, `size_error` and `device_error` say what cannot be used.

    `size` is the voxel size as the user typed it for a layer that states no unit (`sizeless`); `scan` has it then.
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
    """Notes on how the model reads the scan, a sentence each.

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
        notes.append(f"The model is 3D: it reads the neighboring slices as well, and only this slice gets {gets}.")
    if spec.num_channels == 3 and model.header.model.in_channels == 1:
        notes.append("Colors are turned to gray: the model takes one channel.")
    if spec.num_frames > 1:
        notes.append(f"{spec.num_frames} time points are {verb} one by one.")
    return tuple(notes)


def fits(scan: LayerScan, model: ModelEntry) -> bool:
    """Whether a model can take a scan at all."""
    return not misfit(scan, model, None)


def suitable_model(scan: LayerScan, models: Sequence[ModelEntry]) -> ModelEntry | None:
    """Model known to be trained for scans like this one, or None.

    A model that merely can take the scan is not enough: it would give labels of something that is not there.
    """
    kind = kind_of(scan)
    found = [model for model in models if _is_known(kind, model) and not unsuited(scan, model, kind)]
    return min(found, key=lambda m: (m.purpose.synthetic != kind.synthetic, distance(scan, m)), default=None)


def _is_known(kind: ScanKind, model: ModelEntry) -> bool:
    """Whether something says that a model is for this kind of scan, and not only nothing that it is not."""
    purpose = model.purpose
    if purpose.synthetic:
        return kind.synthetic
    return purpose.extent is not None or (model.shipped and bool(kind.modality) and purpose.modality == kind.modality)


def unsuited(scan: LayerScan, model: ModelEntry, kind: ScanKind | None = None) -> str:
    """Why a model is not chosen automatically for a scan; empty where nothing speaks against it."""
    kind = kind or kind_of(scan)
    wrong = misfit(scan, model, None)
    if wrong:
        return wrong
    name, header = model.header.name, model.header
    if header.model.dims != kind.dims:
        return f"{name} is a {header.model.dims}D model, the scan is {kind.dims}D."
    color = tuple(channel.lower() for channel in header.preprocess.channels) == COLOR
    if color != kind.color:
        return f"{name} was trained on {'pictures in color' if color else 'gray values'}, unlike this scan."
    return _other_geometry(model, kind) or next(doubts(scan.spec, model, kind), "")


def _other_geometry(model: ModelEntry, kind: ScanKind) -> str:
    """Why the scans that a model was trained on had another kind of geometry; empty where they had not."""
    name, pre = model.header.name, model.header.preprocess
    if pre.orientation is not None and kind.world != "patient":
        return f"{name} was trained on scans with patient geometry, this one has none."
    if pre.orientation is None and pre.resample == "spacing" and kind.world == "pixels":
        return f"{name} was trained on voxels of known size, this scan has no voxel size."
    if pre.resample == "longest_side" and kind.world == "patient" and kind.dims == 3:
        return f"{name} was trained on pictures, this is a scan with patient geometry."
    return ""


def doubts(spec: ImageSpec, model: ModelEntry, kind: ScanKind) -> Iterator[str]:
    """Signs that a compatible model was trained on other scans, a sentence each."""
    name, purpose = model.header.name, model.purpose
    if purpose.synthetic and not kind.synthetic:
        yield f"{name} was trained on synthetic phantoms: on real scans its labels mean nothing."
    if purpose.modality and kind.modality and purpose.modality != kind.modality:
        yield f"{name} was trained on {purpose.modality} scans, this one is {kind.modality}."
    if purpose.extent is not None and kind.world != "pixels":
        scale = unit_factor(spec.unit, "mm")
        sides = [n * size * scale for n, size in zip(spec.spatial_shape, spec.spacing, strict=True)]
        if min(sides) < purpose.extent[0] or max(sides) > purpose.extent[1]:
            low, high = purpose.extent
            given = " × ".join(f"{side:.0f}" for side in sides)
            yield f"{name} was trained on scans of {low:g} to {high:g} mm along each side, this one has {given} mm."


def distance(scan: LayerScan, model: ModelEntry) -> float:
    """How far a model's voxel size is from a scan's: sum of log ratios, over sorted axes."""
    pre, spec = model.header.preprocess, scan.spec
    if pre.resample != "spacing" or spec.unit == "pixel" or pre.dims != spec.spatial_ndim:
        return 0.0
    scale = unit_factor(spec.unit, pre.unit)
    pairs = zip(sorted(pre.spacing), sorted(spec.spacing), strict=True)
    return sum(abs(log(wanted / (given * scale))) for wanted, given in pairs)


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
