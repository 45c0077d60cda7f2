"""Choice of scan and model, what may be wrong with it, and whether a model is made for a scan. No Qt."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log
from pathlib import Path
from typing import Any, Literal

import numpy as np

from napari_prosma.jobs.session import ModelChoice, ScanMark
from napari_prosma.layers.scan import MADE_FOR, LayerScan
from napari_prosma.layers.viewport import Region
from prosma_core.data import fit
from prosma_core.data.fit import Fit, Verdict, compare
from prosma_core.data.frames import slice_axis as automatic_axis
from prosma_core.data.geometry import Scan, size_note
from prosma_core.data.grid import coarse_note, network_grid, unit_factor
from prosma_core.data.look import ScanKind, ScanLook, describe
from prosma_core.io.bundle import ModelEntry, figures_text, model_groups

MOST_LOOKS = 8
"""Scans whose numbers are kept."""
_LOOKS: dict[tuple[Any, ...], tuple[weakref.ref[Any], ScanLook]] = {}


def look_of(scan: LayerScan) -> ScanLook:
    """A layer's scan in numbers; voxels in memory are sampled, once for an array, however often a layer is read."""
    spec, read_from = scan.spec, getattr(scan.metadata.get("spec"), "header", None)
    modality = str(scan.metadata.get("modality", "")) or str(getattr(read_from, "modality", ""))
    synthetic = bool(scan.metadata.get("synthetic"))
    grid = (spec.axes, spec.shape, spec.spacing, spec.unit, spec.world, spec.channel_names, spec.affine.tobytes())
    key = (id(scan.data), scan.axes, *grid, modality, synthetic)
    kept = _LOOKS.get(key)
    if kept is not None and kept[0]() is scan.data:
        return kept[1]
    look = describe(spec, scan.data, scan.axes, modality, synthetic=synthetic)
    if isinstance(scan.data, np.ndarray):
        _LOOKS[key] = (weakref.ref(scan.data), look)
        for old in list(_LOOKS)[:-MOST_LOOKS]:
            _LOOKS.pop(old, None)  # another thread may have been first
    return look


def is_made_for(scan: LayerScan, model: ModelEntry) -> bool:
    """Whether a scan is sample data for a shipped model."""
    return model.shipped and scan.metadata.get(MADE_FOR) == model.header.name


def kind_of(scan: LayerScan) -> ScanKind:
    """Kind of a layer's scan; voxels in memory are sampled."""
    return look_of(scan).kind


def mark_of(scan: LayerScan) -> ScanMark:
    """What a choice of model for a layer's scan is remembered by."""
    look = look_of(scan)
    numbers = {str(name): round(value, 4) for name, value in (look.look or {}).items()}
    return ScanMark(look.kind.text, str(scan.path.parent) if scan.path is not None else "", numbers)


def fit_of(scan: LayerScan, model: ModelEntry) -> Fit:
    """Whether a model was trained on scans like this one; sample data is made for the model that it names alone."""
    if is_made_for(scan, model):
        return Fit("fits")
    if model.shipped and (made := scan.metadata.get(MADE_FOR)):
        return Fit("unfit", f"{model.header.name} was trained on other scans: this is sample data for {made}.")
    return compare(look_of(scan), model.header)


def differ(a: LayerScan, b: LayerScan) -> bool:
    """Whether two readings of a layer need other models."""
    return (a.spec.spatial_ndim, a.spec.num_channels) != (b.spec.spatial_ndim, b.spec.num_channels)


Part = Literal["whole", "view", "slice"]


@dataclass(frozen=True)
class ScanChoices:
    """Choices of scan, model, device and part; `scan_error`, `size_error` and `device_error` say what cannot be used.

    `size` is the voxel size as the user typed it for a layer that states no unit (`sizeless`); `scan` has it then.
    `rivals` are names of the shipped models that fit the scan, where none was chosen for that reason; `untold` is
    whether nothing speaks against some of them, but nothing tells what the scan shows either. `remembered` is whether
    the model was chosen for another scan of the same folder. `address` is that of Dask workers, which compute where
    `workers` is true.
    """

    scan: LayerScan | None = None
    scan_error: str = ""
    sizeless: bool = False
    size: str = ""
    size_error: str = ""
    model: ModelEntry | None = None
    rivals: tuple[str, ...] = ()
    untold: bool = False
    remembered: bool = False
    device: str = "auto"
    device_error: str = ""
    part: Part = "whole"
    workers: bool = False
    address: str = ""

    @property
    def on(self) -> str:
        """Address of the workers that compute; empty: this computer does."""
        return self.address if self.workers else ""


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
        return Problem("model", no_model_text(choices.scan, choices.rivals, untold=choices.untold))
    wrong = misfit(choices.scan, choices.model, slice_axis)
    if wrong:
        return Problem("model", wrong)
    if choices.workers:
        from napari_prosma.scan.workers import address_problem  # late: few compute elsewhere

        if wrong := address_problem(choices.address):
            return Problem("workers", wrong)
    elif choices.device_error:
        return Problem("device", choices.device_error)
    if choices.part == "slice" and region is None:
        return Problem("part", "The view shows no single slice of the scan: go to one in 2D view, or take all of it.")
    if choices.part == "view" and region is None:
        return Problem("part", "Nothing of the scan is in view. Move the view to it, or choose the whole scan.")
    return None


def no_model_text(scan: LayerScan, rivals: Sequence[str] = (), *, untold: bool = False) -> str:
    """Why no model is chosen, and what to do; for `rivals` and `untold` see `ScanChoices`."""
    kind = kind_of(scan).text
    if len(rivals) > 1:
        return f"This scan ({kind}) may be one for {' or '.join(rivals)}: choose the one that is for what it shows."
    few = "slices" if scan.spec.spatial_ndim == 3 else "images"
    if untold:
        advice = f"choose a model that is for it, or train one from a few {few}."
        return f"Nothing tells what this scan shows ({kind}): {advice}"
    return f"No shipped model is meant for this scan ({kind}): train one from a few {few}, or choose a model."


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
    notes = []
    if note := size_note(spec, model.header.preprocess):
        notes.append(f"{note} Enter the true one under {spec.voxel_word.capitalize()} size if it differs.")
    if note := coarse_note(spec, model.header.preprocess, network_grid(spec, model.header.preprocess, slice_axis)):
        notes.append(note)
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
    """Shipped model known to be trained on scans like this one, or None.

    A model that merely can take the scan is not enough: it would give labels of something that is not there. A model
    of synthetic phantoms is chosen for sample data alone, and none without a Dice on held-out data. Of several
    for one part of the body the one with the nearest voxel size is taken; between those for several, as all for
    ultrasound, a person chooses.
    """
    made = next((m for m in models if is_made_for(scan, m)), None)
    found = fitting_models(scan, models)
    if made is None and len({model.header.purpose.body_part for model in found}) > 1:
        return None
    return made or min(found, key=lambda model: distance(scan, model), default=None)


def fitting_models(scan: LayerScan, models: Sequence[ModelEntry], verdict: Verdict = "fits") -> list[ModelEntry]:
    """Shipped models of real scans, with a Dice on held-out data, that fit a scan, or are of another verdict."""
    usual = [m for m in models if m.shipped and m.header.validated and not m.header.synthetic]
    return [m for m in usual if not misfit(scan, m, None) and fit_of(scan, m).verdict == verdict]


WEAK = 0.5
"""Validation Dice below which a model that was trained here gives way to a shipped one that fits."""


def is_weak(model: ModelEntry) -> bool:
    """Whether a model that was trained here has learned little."""
    return not model.shipped and model.header.validated and model.header.training["validation_mean_dice"] < WEAK


def unsuited(scan: LayerScan, model: ModelEntry) -> str:
    """Why a model is not chosen automatically for a scan; empty where nothing speaks against it."""
    return misfit(scan, model, None) or fit_of(scan, model).text


def holds(scan: LayerScan, choice: ModelChoice, shipped: ModelEntry | None) -> bool:
    """Whether a choice that was made for another scan of the same kind holds for this one, too.

    Where the model is known to be trained on scans like this one it does; where nothing tells, for scans of the same
    folder and those that look like it; where something speaks against it, for scans of the same folder for which
    nothing shipped is meant, if a person chose it.

    Parameters
    ----------
    scan : LayerScan
    choice : ModelChoice
    shipped : ModelEntry or None
        What is chosen for the scan otherwise.
    """
    model = choice.model
    if not fits(scan, model) or (model.header.synthetic and not kind_of(scan).synthetic):
        return False
    if shipped is not None and is_weak(model):
        return False
    fit = fit_of(scan, model)
    if fit.text:
        return choice.near and not choice.trained and shipped is None
    return fit.verdict == "fits" or choice.near or choice.like


def distance(scan: LayerScan, model: ModelEntry) -> float:
    """How far a model's voxel size is from a scan's: sum of log ratios, over sorted axes."""
    pre, spec = model.header.preprocess, scan.spec
    if pre.resample != "spacing" or spec.unit == "pixel" or pre.dims != spec.spatial_ndim:
        return 0.0
    scale = unit_factor(spec.unit, pre.unit)
    pairs = zip(sorted(pre.spacing), sorted(spec.spacing), strict=True)
    return sum(abs(log(wanted / (given * scale))) for wanted, given in pairs)


def misfit(scan: LayerScan, model: ModelEntry, slice_axis: str | None) -> str:
    """Why this model cannot take this scan, empty where it can; `slice_axis` as of `scan_problem`."""
    return fit.misfit(Scan(scan.data, scan.spec), model.header, slice_axis)


@dataclass(frozen=True)
class ModelRow:
    """An entry of a box of models.

    Attributes
    ----------
    name : str
    value : object
        What is chosen with it: a `ModelEntry`, or what else can stand in such a box.
    line : str
        What it is for, in one line.
    verdict : str
        Whether it was trained on scans like the chosen one, in a few words; empty where nothing is known.
    facts : str
        All that is worth knowing, for a tooltip.
    file : Path or None
        The model's, which may hold a thumbnail.
    sign : str
        What stands in place of a thumbnail: a modality, or 2D or 3D.
    """

    name: str
    value: Any
    line: str = ""
    verdict: str = ""
    facts: str = ""
    file: Path | None = None
    sign: str = ""

    @property
    def warned(self) -> bool:
        """Whether it was trained on other scans, or cannot take this one."""
        return self.verdict not in ("", fit.VERDICTS["fits"])


ModelGroups = Sequence[tuple[str, Sequence[ModelRow]]]
"""Rows under headings; those under an empty heading have none."""


def model_rows(models: Sequence[ModelEntry], look: Callable[[ModelEntry], Fit | str] | None = None) -> ModelGroups:
    """Models by modality, those that fit first.

    Parameters
    ----------
    models : sequence of ModelEntry
    look : callable, optional
        Whether a model fits, or why it cannot be used at all; without it no text is shown.
    """
    found = {model.path: look(model) for model in models} if look else {}
    said = {model.path: fit.verdict_text(found.get(model.path)) for model in models}

    def made(model: ModelEntry) -> ModelRow:
        known, header = found.get(model.path), model.header
        own = "" if model.shipped else str(model.path)
        name = f"{header.name} ({model.path.name})" if own and model.path.stem != header.name else header.name
        why = known.text if isinstance(known, Fit) else known
        facts = "\n".join(filter(None, (name, why, model.description, model.facts, figures_text(header), own)))
        sign = fit.model_modality(header) or f"{header.model.dims}D"
        return ModelRow(name, model, model.line, said[model.path], facts, model.path, sign)

    groups = model_groups(models, lambda model: fit.rank_of(said[model.path]))
    return [(title, [made(model) for model in each]) for title, each in groups]


def listed_for(scan: LayerScan | None) -> tuple[ScanLook, Any] | None:
    """What the order of `rows_for` follows from: it stays the same where this does."""
    return None if scan is None else (look_of(scan), scan.metadata.get(MADE_FOR))


def rows_for(scan: LayerScan | None, models: Sequence[ModelEntry]) -> ModelGroups:
    """Models by modality, those that fit a scan first."""
    if scan is None:
        return model_rows(models)
    return model_rows(models, lambda model: misfit(scan, model, None) or fit_of(scan, model))
