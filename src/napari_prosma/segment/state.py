"""Choices of a segmentation, and their plan: request, output file and command line. No Qt."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from napari_prosma.layers.scan import LayerScan
from napari_prosma.layers.viewport import Region
from napari_prosma.scan.selection import Problem, ScanChoices, scan_notes, scan_problem
from prosma_core.config.inference import InferenceConfig
from prosma_core.data.geometry import size_text, sized_for
from prosma_core.engine.messages import SegmentRequest
from prosma_core.io.bundle import ModelEntry
from prosma_core.io.names import FORMATS, command_line, image_suffix, result_name, safe_name, stem

if TYPE_CHECKING:
    from napari.layers import Labels


@dataclass(frozen=True)
class SegmentChoices(ScanChoices):
    """Choices for a segmentation."""

    options: InferenceConfig = field(default_factory=InferenceConfig)
    name: str = ""


@dataclass(frozen=True)
class SegmentPlan:
    """Valid choices as a request (without its scan), name of the result, and notes."""

    scan: LayerScan
    model: ModelEntry
    request: SegmentRequest
    result_name: str
    notes: tuple[str, ...]


def resolve(choices: SegmentChoices, region: Region | None) -> SegmentPlan | Problem:
    """Plan of these choices, or the first problem; `region` as of `scan_problem`."""
    problem = scan_problem(choices, choices.options.slice_axis, region)
    if problem or choices.scan is None or choices.model is None:
        return problem or Problem("image", "")
    options = choices.options.replace(region=None if choices.part == "whole" else region)
    request = SegmentRequest(model=str(choices.model.path), device=choices.device, config=options, on=choices.on)
    name = choices.name or f"{choices.scan.name} {choices.model.header.name}"
    return SegmentPlan(choices.scan, choices.model, request, name, _notes(choices.scan, choices.model, options))


def _notes(scan: LayerScan, model: ModelEntry, options: InferenceConfig) -> tuple[str, ...]:
    """Notes before the run, a sentence each."""
    notes = scan_notes(scan, model, options.slice_axis, options.region, "segmented", "labels")
    if options.mirror and model.header.mirror_axes:
        notes += (f"Mirrored copies take {2 ** len(model.header.mirror_axes)} times as long.",)
    return notes


LONGEST_NAME = 220
"""Bytes of a file name that leave room for what is written beside it."""


def save_path(plan: SegmentPlan, *, corrected: bool = False, by_parts: bool = False) -> Path | None:
    """File beside the scan for its labels, such as ``case_hippocampus-mri.nii.gz``; None for a scan without a file.

    Of corrected labels the name ends with ``_corrected``; labels that are written by parts become a zarr.
    """
    path = plan.scan.path
    if path is None or not path.exists():
        return None
    name = Path(result_name(path, plan.scan.spec))
    end = "_corrected" if corrected else ""
    suffix = image_suffix(name)
    if by_parts and FORMATS.get(suffix.lower()) != "zarr":
        suffix = ".zarr"
    room = LONGEST_NAME - len(os.fsencode(name.name + end))
    return path.with_name(f"{stem(name)}_{safe_name(plan.model.header.name, most=room)}{end}{suffix}")


def writer(labels: Labels, path: Path) -> Callable[[], object]:
    """Function that writes a result layer with the geometry and header of its scan; may run in a thread.

    It raises `OutputError` where the file cannot be written.

    Raises
    ------
    OutputError
        The file is the scan of an open layer.
    """
    from napari_prosma._writer import labels_writer  # with the file formats: late, to open sooner

    data, meta, _ = labels.as_layer_data_tuple()
    return labels_writer(str(path), data, meta)


NO_FILE = (
    "SCAN stands for a file: what was segmented is not in a file of its own (a sample, a layer made by a program, "
    "channels put together, a coarser level). Save its layer by File > Save Selected Layers…, and put the name of that "
    "file in place of SCAN."
)


def run_command(plan: SegmentPlan) -> str:
    """The ``prosma segment`` line that gives the same labels; where no file holds the scan as it is, it is SCAN."""
    config, scan = plan.request.config, plan.scan
    path = _file(scan)
    out = save_path(plan) if path else None
    parts = ["prosma", "segment", str(path or "SCAN"), "--model", plan.model.argument]
    parts += ["--out", str(out or "LABELS.nii.gz"), *_axes(scan), *_spacing(plan), *_flags(config)]
    if plan.request.device != "auto":
        parts += ["--device", plan.request.device]
    if plan.request.on:
        parts += ["--on", plan.request.on]
    return command_line(parts)


def run_command_note(scan: LayerScan) -> str:
    """What is to be known of `run_command`: where no file holds the scan as it is, what SCAN means; else empty."""
    return NO_FILE if _file(scan) is None else ""


def _file(scan: LayerScan) -> Path | None:
    """The file that holds the scan; None for a coarser level, and for a layer cut from files or put together."""
    source, kept = scan.metadata.get("spec"), str(scan.metadata.get("axes", ""))
    if scan.path is None or scan.level:
        return None
    if source is not None and tuple(source.size(letter) for letter in kept) != tuple(scan.data.shape):
        return None
    return scan.path


def _axes(scan: LayerScan) -> list[str]:
    """How the file's axes are read, where that is not certain to be what the file says."""
    source, kept = scan.metadata.get("spec"), str(scan.metadata.get("axes", ""))
    if _file(scan) is None or kept == scan.axes or len(scan.axes) < 3 or scan.rgb:
        return []
    if source is None:  # another reader's array: in the order of the file
        return ["--axes", scan.axes]
    here = dict(zip(kept, scan.axes, strict=True))
    in_file = "".join(here[letter] for letter in source.axes)
    return ["--axes", in_file[::-1] if source.format == "nifti" else in_file]


def _spacing(plan: SegmentPlan) -> list[str]:
    """The voxel size that was used, where the file states none."""
    spec, source, pre = plan.scan.spec, plan.scan.metadata.get("spec"), plan.model.header.preprocess
    used = sized_for(spec, pre)
    as_file = source is not None and (source.unit, source.spacing) == (spec.unit, spec.spacing)
    if used.unit == "pixel" or as_file or (source is not None and source.unit != "pixel"):
        return []
    return ["--spacing", size_text(used)]


def _flags(config: InferenceConfig) -> list[str]:
    """An option for each setting that is not its default; the command line names them as `InferenceConfig` does."""
    flags = []
    for name, setting in InferenceConfig.model_fields.items():
        value = getattr(config, name)
        if value == setting.default or name == "batch_size":  # which does not change the labels
            continue
        flags.append("--" + name.replace("_", "-"))
        if name == "region":
            flags.append(",".join(f"{start}:{stop}" for start, stop in value))
        elif value is not True:
            flags.append(str(value))
    return flags
