"""Inspection job, and its result: summary, maps, and values at a voxel."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_prosma.gates.state import Plan
from napari_prosma.jobs.boundary import Jobs
from napari_prosma.jobs.run import Handlers, RunTexts, RunView, ShownRun
from napari_prosma.jobs.spec import ScanSpec
from prosma_core.config.inspection import Inspection, LevelSummary, MapInfo, MapKind
from prosma_core.engine.messages import ArrayReady, Finished, InspectResult
from prosma_core.printable import format_duration


@dataclass(frozen=True, eq=False)
class InspectionResult:
    """A finished look into the gates.

    Attributes
    ----------
    plan : Plan
        What was asked for.
    inspection : Inspection
        The summary, and where each map lies.
    arrays : dict of str to ndarray
        The maps by name, axes as their `MapInfo` says.
    key : str
        Names the scan as it was looked at: under it the engine may know the unchanged result. Empty where it changed.
    """

    plan: Plan
    inspection: Inspection
    arrays: Mapping[str, NDArray[Any]] = field(repr=False)
    key: str = ""

    def level(self, level: int) -> LevelSummary | None:
        """Summary of a level, None where it was not looked at."""
        return next((s for s in self.inspection.levels if s.level == level), None)

    def maps(self, kind: MapKind, level: int) -> list[MapInfo]:
        """Maps of a kind that are there."""
        found = [m for m in self.inspection.maps if m.kind == kind and m.level == level and m.name in self.arrays]
        return sorted(found, key=lambda m: m.dilation or 0)


@dataclass(frozen=True, eq=False)
class VoxelChannels:
    """What a level's gate did at one voxel, one entry per channel; the channel furthest above its threshold first.

    Attributes
    ----------
    level : int
    channels : ndarray, int
    columns : dict of str to ndarray
        Values by what they are: ``z1``, ``z2``, … of each dilation, ``z`` combined, ``τ`` the threshold; those that
        were recorded.
    kept : ndarray of bool, or None
        None where nothing can be removed.
    """

    level: int
    channels: NDArray[np.intp]
    columns: Mapping[str, NDArray[np.float64]]
    kept: NDArray[np.bool_] | None


def at_voxel(found: InspectionResult, level: int, voxel: Mapping[str, int]) -> VoxelChannels | None:
    """What a level's gate did at a voxel of the scan.

    Parameters
    ----------
    found : InspectionResult
    level : int
    voxel : mapping of str to int
        Index along the axes of the scan, by letter.

    Returns
    -------
    VoxelChannels or None
        None where the voxel lies outside of the part that was looked at, or no map per channel was kept.
    """
    summary = found.level(level)
    columns: dict[str, NDArray[np.float64]] = {}
    for info in found.maps("scales", level):
        columns[f"z{info.dilation}"] = _values(found, info, voxel)
    for kind, name in (("field", "z"), ("gate", "a")):
        for info in found.maps(kind, level):  # type: ignore[arg-type]
            columns[name] = _values(found, info, voxel)
    masks = [_values(found, info, voxel) for info in found.maps("kept", level)]
    sizes = [len(values) for values in (*columns.values(), *masks)]
    if summary is None or not sizes or 0 in sizes:
        return None
    channels = np.arange(sizes[0])
    kept = masks[0].astype(bool) if masks else None
    if len(summary.thresholds) == len(channels):
        columns["τ"] = np.array(summary.thresholds)
        if "z" in columns:
            above = _signed(found, columns["z"]) - columns["τ"]
            kept = above > 0 if kept is None else kept
            channels = np.argsort(-above, kind="stable")
    elif "a" in columns:
        channels = np.argsort(-columns["a"], kind="stable")
    ordered = {name: values[channels] for name, values in columns.items()}
    return VoxelChannels(level, channels, ordered, None if kept is None else kept[channels])


def _signed(found: InspectionResult, field: NDArray[np.float64]) -> NDArray[np.float64]:
    """What is compared with the threshold: the field's size, or of a nonnegative gate the field itself."""
    return field if found.inspection.form == "nonnegative" else np.abs(field)


def _values(found: InspectionResult, info: MapInfo, voxel: Mapping[str, int]) -> NDArray[np.float64]:
    """Values of a map's channels where a voxel of the scan lies; empty outside of the map."""
    array = found.arrays[info.name]
    spatial = found.plan.scan.spec.spatial_axes
    index: list[int | slice] = []
    for letter, size in zip(info.axes, array.shape, strict=True):
        if letter == "c":
            index.append(slice(None))
            continue
        at = voxel.get(letter, 0)
        if letter in spatial:
            i = spatial.index(letter)
            at = int(np.floor((at - info.offset[i]) / info.scale[i] + 0.5))
        if not 0 <= at < size:
            return np.empty(0)
        index.append(at)
    return np.atleast_1d(np.asarray(array[tuple(index)], np.float64))


TEXTS = RunTexts(
    cancel_tooltip="Stop looking.",
    broken="The gates could not be shown: {reason}. Inspect again.",
)


class InspectJob(ShownRun):
    """A running inspection of the gates.

    Parameters
    ----------
    plan : Plan
    view : RunView
    jobs : Jobs
    over : callable
        Told, once, what was found; None where nothing was.
    """

    def __init__(self, plan: Plan, view: RunView, jobs: Jobs, over: Callable[[InspectionResult | None], None]) -> None:
        self.plan = plan
        self._told = over
        self._arrays: dict[str, NDArray[Any]] = {}
        self._shown = False
        self._key = uuid.uuid4().hex
        view.show_running(True)
        super().__init__(view, TEXTS, f"ProSMA: {plan.group}")
        self.start(jobs, ScanSpec(plan.request.replace(key=self._key), plan.scan))

    def scan_changed(self, _event: Any = None) -> None:
        """The scan may not be what is looked at any more: no result for it is used again."""
        self._key = ""

    # --- Messages of the engine, in the GUI thread ------------------------------------------------------------------

    @property
    def handlers(self) -> Handlers:
        """As of `JobRun`."""
        return {**super().handlers, ArrayReady: self._take, Finished: self._finish}

    def over(self) -> None:
        """There is nothing to show, or it could not be shown."""
        super().over()
        if not (self._shown or self.abandoned):
            self._told(None)

    def _take(self, ready: ArrayReady) -> None:
        self._arrays[ready.name] = ready.array

    def _finish(self, message: Finished) -> None:
        result = message.result
        assert isinstance(result, InspectResult)
        if result.words:
            self.say(result.words)
        self.say(f"Done in {format_duration(result.seconds)} on {result.device.partition(' (')[0]}.")
        self._told(InspectionResult(self.plan, result.inspection, self._arrays, self._key))
        self._shown = True
