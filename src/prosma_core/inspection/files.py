"""Inspection of a scan file into a folder: maps, numbers, pictures of the gates and of what changing them does."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import psutil
from numpy.typing import NDArray

from prosma_core.config.inference import InferenceConfig
from prosma_core.config.inspection import (
    InspectConfig,
    Inspection,
    MapInfo,
    Variant,
    VariantResult,
    check_edits,
    check_levels,
    opened_one_at_a_time,
)
from prosma_core.config.model import ModelHeader, VoxelSize, provenance
from prosma_core.data.geometry import Box, ImageSpec, Scan, check_region, map_spec, size_text, with_voxel_size
from prosma_core.errors import ConfigError, OutputError
from prosma_core.events import Event, StageStarted, Working, relay
from prosma_core.inference.device import name_memory_errors
from prosma_core.inference.scan_runs import ScanPlan, ScanTask, is_finished, run_scans, tasks_of
from prosma_core.inference.segment import Segmenter
from prosma_core.inspection.inspect import Inspected, inspect_scan
from prosma_core.inspection.maps import WHOLE
from prosma_core.inspection.whatif import OTHER_CLASS, TURNED_OFF, TURNED_ON, what_if
from prosma_core.io.atomic import PREFIX, check_length, make_folder, scratch_folder, sweep, write_bytes_atomic
from prosma_core.io.dataset_folder import read_channels
from prosma_core.io.images import read_image, read_labels, write_image, write_labels
from prosma_core.io.output_plan import OutputPlan, check_replace
from prosma_core.io.raster import gray_values, nearest_pixels, side_by_side, write_picture
from prosma_core.io.result_table import Row
from prosma_core.io.scan_files import ScanChoice, collect_scans, of_part
from prosma_core.printable import counted

RAMP = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
"""Colors of 0 to 1, evenly spread: from dark blue to yellow."""
COLORS = {TURNED_ON: (60, 180, 75), TURNED_OFF: (230, 25, 75), OTHER_CLASS: (255, 225, 25)}
"""Green where a class was added, red where it was lost, yellow where it is another."""


class SlicePicture:
    """One slice of a scan, across its first spatial axis where there are three, within a region; of the first frame.

    Parameters
    ----------
    scan : Scan
    region : tuple of (int, int)
    at : int, optional
        Index of the slice along the first spatial axis; the middle of the region unless given.
    """

    def __init__(self, scan: Scan, region: Box, at: int | None = None) -> None:
        spec = scan.spec
        self._first = 0 if spec.spatial_ndim == 2 else (sum(region[0]) // 2 if at is None else at)
        self._region, self._volume = region[-2:], spec.spatial_ndim == 3
        data = scan.data[0] if "t" in spec.axes else scan.data
        data = data if "c" in spec.axes else data[None]
        shown = self._of(data, self._first)
        self._rows, self._columns = nearest_pixels(shown.shape[1:], spec.spacing[-2:])
        self._image = gray_values(shown[:, self._rows][:, :, self._columns].astype(np.float64))

    def of_map(self, array: NDArray[Any], info: MapInfo) -> NDArray[np.uint8]:
        """The slice, and beside it a map of values from 0 to 1 in colors, uint8 (height, width, 3)."""
        array = array[0] if "t" in info.axes else array
        places = [np.arange(start, stop)[pixels] for (start, stop), pixels in self._pixels()]
        numbers = [np.array([self._first]), *places] if self._volume else places
        cells = [
            np.clip(np.rint((n - o) / s), 0, size - 1).astype(np.intp)
            for n, o, s, size in zip(numbers, info.offset, info.scale, array.shape, strict=True)
        ]
        values = array[np.ix_(*cells)].reshape(len(self._rows), len(self._columns)).astype(np.float64)
        stops = np.linspace(0, 1, len(RAMP))
        colors = np.stack([np.interp(values, stops, [color[k] for color in RAMP]) for k in range(3)], axis=-1)
        return side_by_side([self._image, colors])

    def of_changes(self, changes: NDArray[Any]) -> NDArray[np.uint8]:
        """The slice, and beside it the same with changes in color, uint8 (height, width, 3)."""
        frame = changes[0] if changes.ndim == 3 + self._volume else changes
        shown = self._of(frame[None], self._first)[0][np.ix_(self._rows, self._columns)]
        image = self._image if self._image.ndim == 3 else np.repeat(self._image[..., None], 3, axis=-1)
        for change, color in COLORS.items():
            image = np.where((shown == change)[..., None], np.array(color, np.float64), image)
        return side_by_side([self._image, image])

    def _of(self, data: NDArray[Any], index: int) -> NDArray[Any]:
        """The slice of an array (C, *grid), within the region."""
        rows, columns = (slice(*bounds) for bounds in self._region)
        found: NDArray[Any] = data[:, index, rows, columns] if self._volume else data[:, rows, columns]
        return found

    def _pixels(self) -> list[tuple[tuple[int, int], NDArray[np.intp]]]:
        return list(zip(self._region, (self._rows, self._columns), strict=True))


def slice_with_most(changes: NDArray[Any], region: Box, time: bool) -> int:
    """Index along the first spatial axis of the slice with most changes in the first frame."""
    frame = changes[0] if time else changes
    start, stop = region[0]
    return start + int((frame[start:stop] > 0).sum(tuple(range(1, frame.ndim))).argmax())


T = TypeVar("T")

MEDICAL = ("nifti", "nrrd", "mha", "dicom")
"""Formats of scans whose maps are written as NIfTI."""
_NAMES = re.compile(r"(level\d+_\w+|whatif\d+(_\w+)?)\.(nii|nii\.gz|zarr|png)|summary\.json", re.IGNORECASE)
"""Names of the files that are written."""
IN_MEMORY = 0.25
"""Share of the free memory that one map may take; a larger one is put together on the disk."""


@dataclass(frozen=True)
class Asked:
    """Options of the inspection of a scan file.

    Attributes
    ----------
    config : InspectConfig
    variants : tuple of Variant
        Changes of gates to compare, each by itself.
    which_level : bool
        Whether each gate is forced open as well, one at a time.
    truth : Path or None
        Labels of the scan to compare with.
    axes : str or None
        How the scan's axes are read.
    voxel_size : VoxelSize or None
        Of a scan that states none.
    overwrite : bool
        Whether files in the folder may be replaced.
    protected : tuple of Path
        Files that are read besides the scan and its labels, such as the model.
    """

    config: InspectConfig
    variants: tuple[Variant, ...] = ()
    which_level: bool = False
    truth: Path | None = None
    axes: str | None = None
    voxel_size: VoxelSize | None = None
    overwrite: bool = False
    protected: tuple[Path, ...] = ()


@dataclass(frozen=True, eq=False)
class Report:
    """What was found, as it stands in ``summary.json``."""

    inspection: Inspection
    words: str
    what_if: list[VariantResult] = field(default_factory=list)
    which_level: list[VariantResult] = field(default_factory=list)


def check_asked(header: ModelHeader, asked: Asked) -> None:
    """Raise `ConfigError` where a model has no such level or gate."""
    check_levels(header.model, asked.config.levels)
    for variant in asked.variants:
        check_edits(header.model, variant.edits)


def plan_inspections(
    choice: ScanChoice, out: Path, header: ModelHeader, asked: Asked, *, skip_existing: bool
) -> ScanPlan:
    """What is to be inspected: one scan that was given by itself into `out`, others into a folder in it for each.

    Raises
    ------
    DatasetError, OutputError
        Nothing to inspect, or the folder cannot be used.
    ConfigError
        Labels of one scan were given for several.
    """
    check_length(out)
    scans = collect_scans(choice, header.preprocess.channels, out)
    alone = choice == ScanChoice(choice.inputs) and len(scans) == 1 and scans[0].files[0] in choice.inputs
    if asked.truth is not None and len(scans) > 1:
        msg = f"--reference {asked.truth} belongs to one scan, and there are {len(scans)}. Inspect them one at a time."
        raise ConfigError(msg)
    targets = [out if alone else out / scan.folder / scan.name for scan in scans]
    protected = [*asked.protected, *([asked.truth] if asked.truth else [])]
    tasks = tasks_of(scans, targets, lambda target: [target / "summary.json"], protected)
    ours = [task for task, mine in zip(tasks, of_part(scans, choice.part), strict=True) if mine]
    ready = [skip_existing and task.refused is None and is_finished(task.wanted) for task in ours]
    return ScanPlan(
        left=[task for task, there in zip(ours, ready, strict=True) if not there],
        finished=[task for task, there in zip(ours, ready, strict=True) if there],
        total=len(tasks),
        skip=skip_existing,
    )


def inspect_plan(
    plan: ScanPlan, segmenter: Segmenter, asked: Asked, show: Callable[[str, Report], None]
) -> Generator[Event, None, None]:
    """Inspect what is left of a plan; a scan that fails is reported, and the others go on.

    Parameters
    ----------
    plan : ScanPlan
    segmenter : Segmenter
    asked : Asked
    show : callable
        Takes the name of each scan and what was found.
    """

    def work(task: ScanTask) -> Generator[Event, None, tuple[dict[str, int], list[Row]]]:
        with name_memory_errors():
            report = yield from inspect_file(segmenter, task.scan.files, task.target, asked)
        show(task.name, report)
        return {}, []

    yield from run_scans(plan, work)


def inspect_file(
    segmenter: Segmenter, image: Path | tuple[Path, ...], out: Path, asked: Asked
) -> Generator[Event, None, Report]:
    """Inspect the gates on a scan file, and write the results into a folder; ``summary.json`` comes last.

    Parameters
    ----------
    segmenter : Segmenter
    image : Path or tuple of Path
        A file, or one for each channel.
    out : Path
        Folder; made where it is not there.
    asked : Asked

    Raises
    ------
    OutputError
        The folder is not empty and nothing may be replaced, cannot be written, or holds an input, or something that
        is not of this program, under a name that is needed.
    ProsmaError
        As in `read_image`, `inspect_scan` and `what_if`.
    """
    files = image if isinstance(image, tuple) else (image,)
    check_asked(segmenter.header, asked)
    opened = opened_one_at_a_time(segmenter.header.model) if asked.which_level else ()
    _check_folder(files, out, asked)
    yield Working(f"Reading {files[0].name}")
    scan = read_image(files[0], axes=asked.axes) if len(files) == 1 else read_channels(files)
    spec = with_voxel_size(scan.spec, asked.voxel_size)
    given = "" if spec is scan.spec else size_text(spec)
    scan = Scan(scan.data, spec)
    truth = None if asked.truth is None else read_labels(asked.truth)
    config = asked.config.model_copy(update={"maps": tuple(dict.fromkeys((*WHOLE, *asked.config.maps)))})
    check_region(config.region, scan.spec)
    make_folder(out)
    said: set[str] = set()
    settings = InferenceConfig(overlap=config.overlap, region=config.region)
    notes = provenance(segmenter.header, settings, ", ".join(file.name for file in files), given)
    with scratch_folder(out) as folder:
        found = yield from _once(inspect_scan(segmenter, scan, config, _Arrays(folder)), said)
        scan = Scan(scan.data, found.spec)
        yield from _write_maps(out, found, notes, overwrite=asked.overwrite)
        _draw_levels(out, scan, found, config)
    report = Report(found.inspection, found.words)
    work = _Work(segmenter, scan, truth, config, notes, out, said)
    yield from _changes(work, asked, opened, report)
    summary = {
        **{key: value for key, value in notes.items() if key != "settings"},
        "settings": config.model_dump(mode="json"),
        "words": report.words,
        "inspection": report.inspection.model_dump(mode="json"),
        "what_if": [result.model_dump(mode="json") for result in report.what_if],
        "which_level": [result.model_dump(mode="json") for result in report.which_level],
    }
    write_bytes_atomic(out / "summary.json", json.dumps(summary, indent=1).encode())
    return report


@dataclass(frozen=True, eq=False)
class _Work:
    segmenter: Segmenter
    scan: Scan
    truth: Scan | None
    config: InspectConfig
    notes: dict[str, str]
    out: Path
    said: set[str]


def _once(work: Generator[Event, None, T], said: set[str]) -> Generator[Event, None, T]:
    """Do some work; sentences that were said before are only shown while it is done."""

    def change(event: Event) -> Iterator[Event]:
        if isinstance(event, StageStarted) and event.message in said:
            event = Working(event.message)
        elif isinstance(event, StageStarted):
            said.add(event.message)
        yield event

    return (yield from relay(work, change))


def _changes(work: _Work, asked: Asked, opened: Sequence[Variant], report: Report) -> Generator[Event, None, None]:
    """Compare all that was asked for with the unchanged result, which is computed once."""
    unchanged: Scan | None = None
    for number, variant in enumerate(asked.variants, 1):
        yield StageStarted(f"What if {variant.name}.")
        changed = what_if(work.segmenter, work.scan, (variant,), work.config, truth=work.truth, unchanged=unchanged)
        found = yield from _once(changed, work.said)
        unchanged = found.unchanged
        report.what_if.extend(found.variants)
        assert found.labels is not None
        assert found.changes is not None
        for what, labels in (("labels", found.labels), ("changes", found.changes)):
            path = work.out / f"whatif{number}_{what}{_suffix(labels.spec, per_channel=False)}"
            write_labels(path, labels.data, labels.spec, overwrite=asked.overwrite, provenance=work.notes)
        region = check_region(work.config.region, work.scan.spec)
        volume, time = work.scan.spec.spatial_ndim == 3, "t" in work.scan.spec.axes
        at = slice_with_most(found.changes.data, region, time) if volume else None
        picture = SlicePicture(work.scan, region, at)
        write_picture(work.out / f"whatif{number}.png", picture.of_changes(found.changes.data))
    if opened:
        yield StageStarted(f"Level ranking: {counted(len(opened), 'level')}, one at a time with its gate open.")
        changed = what_if(
            work.segmenter, work.scan, opened, work.config, truth=work.truth, unchanged=unchanged, arrays=False
        )
        found = yield from _once(changed, work.said)
        report.which_level.extend(found.variants)


def _write_maps(out: Path, found: Inspected, notes: dict[str, str], *, overwrite: bool) -> Generator[Event, None, None]:
    for info in found.inspection.maps:
        name = info.name.replace("/", "_") + _suffix(found.spec, per_channel="c" in info.axes)
        yield Working(f"Writing {name}")
        array = found.maps[info.name]
        write_image(out / name, array, map_spec(found.spec, info, array.shape), overwrite=overwrite, provenance=notes)


def _draw_levels(out: Path, scan: Scan, found: Inspected, config: InspectConfig) -> None:
    if not found.inspection.maps:
        return
    picture = SlicePicture(scan, check_region(config.region, scan.spec))
    for info in found.inspection.maps:
        if info.kind in WHOLE:
            name = info.name.replace("/", "_") + ".png"
            write_picture(out / name, picture.of_map(found.maps[info.name], info))


def _suffix(spec: ImageSpec, *, per_channel: bool) -> str:
    """How a map's file name ends: NIfTI where the scan knows a patient or came from a format that may, else zarr."""
    if spec.world != "ras" and spec.format not in MEDICAL:
        return ".zarr"
    return ".nii" if per_channel else ".nii.gz"


def _check_folder(files: tuple[Path, ...], out: Path, asked: Asked) -> None:
    check_length(out)
    if out.exists() and not out.is_dir():
        msg = f"{out} is a file; a folder is needed for the maps. Choose another --out."
        raise OutputError(msg)
    plan = OutputPlan([*files, *asked.protected, *([asked.truth] if asked.truth else [])])
    plan.check(out / "summary.json")
    sweep(out)
    there = [path for path in sorted(out.iterdir()) if not path.name.startswith(PREFIX)] if out.is_dir() else []
    for path in there:
        if _NAMES.fullmatch(path.name):
            plan.check(path)
            check_replace(path, overwrite=True, keys=("inspection",))
    if there and not asked.overwrite:
        msg = f"The folder {out} is not empty; add --overwrite to replace files in it, or choose another --out."
        raise OutputError(msg)


class _Arrays:
    """Gives arrays of zeros: in memory, or of large ones in files of a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        if prod(shape) * dtype.itemsize <= psutil.virtual_memory().available * IN_MEMORY:
            return np.zeros(shape, dtype)
        return np.memmap(self._folder / name.replace("/", "_"), dtype, "w+", shape=shape)
