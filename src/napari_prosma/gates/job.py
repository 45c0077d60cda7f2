"""Inspection job, its result (summary, maps, values at a voxel), and the export of both."""

from __future__ import annotations

import csv
import io
import json
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_prosma.gates.state import InspectPlan
from napari_prosma.jobs.boundary import JobName, Jobs
from napari_prosma.jobs.run import Handlers, RunTexts, RunView, ShownRun
from napari_prosma.jobs.spec import ScanSpec
from prosma_core.config.inspection import Inspection, LevelSummary, MapInfo, MapKind, VariantResult
from prosma_core.config.model import ONE_SIDED
from prosma_core.data.geometry import map_spec
from prosma_core.engine.messages import ArrayReady, Finished, InspectResult
from prosma_core.errors import OutputError
from prosma_core.io.atomic import replace_dir, write_bytes_atomic
from prosma_core.io.output_plan import OutputPlan, check_replace


@dataclass(frozen=True, eq=False)
class InspectionResult:
    """Result of an inspection: summary and maps.

    Attributes
    ----------
    plan : InspectPlan
        What was asked for.
    inspection : Inspection
        The summary, and where each map lies.
    arrays : dict of str to ndarray
        The maps by name, axes as their `MapInfo` says.
    """

    plan: InspectPlan
    inspection: Inspection
    arrays: Mapping[str, NDArray[Any]] = field(repr=False)

    @property
    def unit(self) -> str:
        """What a value of the scan is called: voxel, or of a picture pixel."""
        return self.plan.scan.spec.voxel_word

    def level(self, level: int) -> LevelSummary | None:
        """Summary of a level, None where it was not inspected."""
        return next((s for s in self.inspection.levels if s.level == level), None)

    def maps(self, kind: MapKind, level: int) -> list[MapInfo]:
        """Maps of a kind that are there."""
        found = [m for m in self.inspection.maps if m.kind == kind and m.level == level and m.name in self.arrays]
        return sorted(found, key=lambda m: m.dilation or 0)


@dataclass(frozen=True, eq=False)
class VoxelChannels:
    """Values of a level's gate at one voxel, one per channel; the channel furthest above its threshold first.

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
    """Values of a level's gate at a voxel of the scan.

    Parameters
    ----------
    found : InspectionResult
    level : int
    voxel : mapping of str to int
        Index along the axes of the scan, by letter.

    Returns
    -------
    VoxelChannels or None
        None where the voxel lies outside of the part that was inspected, or no map per channel was kept.
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
    return field if found.inspection.form in ONE_SIDED else np.abs(field)


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
    cancel_tooltip="Stop this inspection.",
    doing="Inspecting",
    broken="The gates could not be shown: {reason}. Inspect again.",
)


class InspectJob(ShownRun):
    """A running inspection of the gates.

    Parameters
    ----------
    plan : InspectPlan
    view : RunView
    jobs : Jobs
    found : callable
        Told what was found.
    over : callable
        Told, once and last, whether something was found and shown.
    """

    NAME = JobName("An inspection", "ProSMA Gates")

    def __init__(
        self,
        plan: InspectPlan,
        view: RunView,
        jobs: Jobs,
        found: Callable[[InspectionResult], None],
        over: Callable[[bool], None],
    ) -> None:
        self.plan = plan = replace(plan, key=uuid.uuid4().hex)
        self._found, self._told = found, over
        self._arrays: dict[str, NDArray[Any]] = {}
        self._shown = False
        view.show_running(True)
        super().__init__(view, TEXTS, f"ProSMA: inspecting {plan.scan.name}")
        self.start(jobs, ScanSpec(plan.request, plan.scan, key=plan.key))

    # --- Messages of the engine, in the GUI thread ------------------------------------------------------------------

    @property
    def handlers(self) -> Handlers:
        """As of `JobRun`."""
        return {**super().handlers, ArrayReady: self._take, Finished: self._finish}

    @property
    def said(self) -> list[str]:
        """Messages that are shown."""
        return self._lines[-self.LINES :]

    def over(self) -> None:
        """The engine is free."""
        super().over()
        if not self.abandoned:
            self._told(self._shown)

    def _take(self, ready: ArrayReady) -> None:
        self._arrays[ready.name] = ready.array

    def _finish(self, message: Finished) -> None:
        result = message.result
        assert isinstance(result, InspectResult)
        if result.words:
            self.say(result.words)
        self.say_done(result.device)
        self._found(InspectionResult(self.plan, result.inspection, self._arrays))
        self._shown = True


KEYS = ("provenance", "inspection", "what_if")
"""Of a JSON file of numbers."""
COLUMNS = ("threshold", "removed", "energy_removed", "channel_gate", "kept_positive")
"""Numbers of each channel."""
LEVEL_COLUMNS = ("noise_gain", "flipped", "channel_gate_spread")
"""Numbers of each level alone."""


def numbers(found: InspectionResult, notes: Mapping[str, str], variants: Sequence[VariantResult]) -> dict[str, Any]:
    """All numbers of an inspection as plain values: provenance, levels, channels and what-if results."""
    found_values = found.inspection.model_dump(mode="json", exclude={"maps"})
    changed = [variant.model_dump(mode="json") for variant in variants]
    return dict(zip(KEYS, (dict(notes), found_values, changed), strict=True))


def channel_table(found: InspectionResult) -> str:
    """The numbers of each level (channel ``all``) and channel as comma-separated values."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("level", "channel", *COLUMNS, *LEVEL_COLUMNS))
    for summary in found.inspection.levels:
        level = (summary.noise_gain, summary.flipped, summary.channel_gate_spread)
        writer.writerow((summary.level, "all", summary.threshold, summary.removed, summary.energy, None, None, *level))
        for channel in range(summary.channels):
            values = (_at(values, channel) for values in _columns(summary))
            writer.writerow((summary.level, channel, *values, None, None, None))
    return out.getvalue()


def check_place(path: Path, sources: Iterable[Path]) -> None:
    """Raise `OutputError` unless numbers or plots may be written to `path`: no input, and no file of another kind."""
    OutputPlan(sources).check(path)
    keys = ("level", "channel") if path.suffix.lower() == ".csv" else KEYS
    check_replace(path, overwrite=True, keys=keys)


def write_numbers(
    path: Path, found: InspectionResult, notes: Mapping[str, str], variants: Sequence[VariantResult]
) -> Callable[[], Path]:
    """Function that writes the numbers as CSV or JSON, by the suffix of `path`; may run in a thread.

    It raises `OutputError` where the file cannot be written.
    """

    def write() -> Path:
        if path.suffix.lower() == ".csv":
            text = channel_table(found)
        else:
            text = json.dumps(numbers(found, notes, variants), indent=1)
        write_bytes_atomic(path, text.encode())
        return path

    return write


def write_maps(folder: Path, found: InspectionResult, notes: Mapping[str, str], suffix: str) -> Callable[[], Path]:
    """Function that writes all maps into a new folder, each with its affine; may run in a thread.

    It raises `OutputError` where the folder is there already, or they cannot be written; then nothing is left of them.
    """

    def write(target: Path) -> None:
        from prosma_core.io.images import write_image  # with all file formats: late, to open the widget sooner

        target.mkdir()
        for info in found.inspection.maps:
            if info.name in found.arrays:
                data = found.arrays[info.name]
                spec = map_spec(found.plan.scan.spec, info, data.shape)
                name = info.name.replace("/", "_") + suffix
                write_image(target / name, data, spec, provenance=dict(notes) | {"kind": "image"})

    def write_all() -> Path:
        if folder.exists():
            msg = f"{folder} is there already, and nothing in it is replaced. Choose a name for a new folder."
            raise OutputError(msg)
        replace_dir(folder, write)
        return folder

    return write_all


def _columns(summary: LevelSummary) -> tuple[Sequence[float], ...]:
    return (
        summary.thresholds,
        summary.channel_removed,
        summary.channel_energy,
        summary.channel_gate,
        summary.positive,
    )


def _at(values: Sequence[float], channel: int) -> float | None:
    return values[channel] if channel < len(values) else None
