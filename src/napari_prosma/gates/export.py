"""The numbers and maps of a look as files."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from napari_prosma.gates.job import InspectionResult
from prosma_core.config.inspection import LevelSummary, VariantResult
from prosma_core.data.geometry import map_spec
from prosma_core.errors import OutputError
from prosma_core.io.atomic import replace_dir, write_bytes_atomic
from prosma_core.io.images import write_image
from prosma_core.io.output_plan import OutputPlan, check_replace

KEYS = ("provenance", "inspection", "what_if")
"""Of a JSON file of numbers."""
COLUMNS = ("threshold", "removed", "energy_removed", "channel_gate", "kept_positive")
"""Numbers of each channel."""


def numbers(found: InspectionResult, notes: Mapping[str, str], variants: Sequence[VariantResult]) -> dict[str, Any]:
    """All numbers of a look, as plain values: how it was made, levels, channels, and what a change changed."""
    found_values = found.inspection.model_dump(mode="json", exclude={"maps"})
    changed = [variant.model_dump(mode="json") for variant in variants]
    return dict(zip(KEYS, (dict(notes), found_values, changed), strict=True))


def channel_table(found: InspectionResult) -> str:
    """The numbers of each level (channel ``all``) and channel as comma-separated values."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("level", "channel", *COLUMNS))
    for summary in found.inspection.levels:
        writer.writerow((summary.level, "all", summary.threshold, summary.removed, summary.energy, None, None))
        for channel in range(summary.channels):
            writer.writerow((summary.level, channel, *(_at(values, channel) for values in _columns(summary))))
    return out.getvalue()


def check_place(path: Path, sources: Iterable[Path]) -> None:
    """Raise `OutputError` unless numbers or plots may be written to `path`: no input, and no file of another kind."""
    OutputPlan(sources).check(path)
    keys = ("level", "channel") if path.suffix.lower() == ".csv" else KEYS
    check_replace(path, overwrite=True, keys=keys)


def write_numbers(
    path: Path, found: InspectionResult, notes: Mapping[str, str], variants: Sequence[VariantResult]
) -> Callable[[], Path]:
    """What writes the numbers as CSV or JSON, as the name of `path` says; may run in a thread.

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
    """What writes every map into a new folder, in the place of the scan's world where it lies; may run in a thread.

    It raises `OutputError` where the folder is there already, or they cannot be written; then nothing is left of them.
    """

    def write(target: Path) -> None:
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
