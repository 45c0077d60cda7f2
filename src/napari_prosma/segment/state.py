"""What the person chose, and the request that follows from it. No Qt."""

from __future__ import annotations

from dataclasses import dataclass, field

from napari_prosma.jobs.models import ModelEntry
from napari_prosma.layers.access import LayerScan, Region
from napari_prosma.scan.selection import Problem, ScanChoices, scan_notes, scan_problem
from prosma_core.config.inference import InferenceConfig
from prosma_core.engine.messages import SegmentRequest

__all__ = ["Choices", "Plan", "Problem", "resolve"]


@dataclass(frozen=True)
class Choices(ScanChoices):
    """What the person chose for a segmentation."""

    options: InferenceConfig = field(default_factory=InferenceConfig)
    name: str = ""


@dataclass(frozen=True)
class Plan:
    """A valid choice: the request (without its scan), the result's name, and what is worth knowing before."""

    scan: LayerScan
    model: ModelEntry
    request: SegmentRequest
    result_name: str
    notes: tuple[str, ...]


def resolve(choices: Choices, region: Region | None) -> Plan | Problem:
    """The plan, or the first problem; `region` as of `scan_problem`."""
    problem = scan_problem(choices, choices.options.slice_axis, region)
    if problem or choices.scan is None or choices.model is None:
        return problem or Problem("image", "")
    options = choices.options.replace(region=None if choices.part == "whole" else region)
    request = SegmentRequest(model=str(choices.model.path), device=choices.device, config=options)
    name = choices.name or f"{choices.scan.name} {choices.model.header.name}"
    return Plan(choices.scan, choices.model, request, name, _notes(choices.scan, choices.model, options))


def _notes(scan: LayerScan, model: ModelEntry, options: InferenceConfig) -> tuple[str, ...]:
    """What the person may want to know before the run, a sentence each."""
    notes = scan_notes(scan, model, options.slice_axis, options.region, "segmented", "labels")
    if options.mirror and model.header.mirror_axes:
        notes += (f"Mirrored copies take {2 ** len(model.header.mirror_axes)} times as long.",)
    return notes
