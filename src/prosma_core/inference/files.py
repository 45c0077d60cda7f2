"""Segmentation of scan files, a result file for each."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prosma_core.config.inference import InferenceConfig
from prosma_core.config.model import ModelHeader, VoxelSize, provenance
from prosma_core.data.fit import warn_unfit
from prosma_core.data.geometry import Scan, size_text, with_voxel_size
from prosma_core.data.lazy import LazyArray, chunks_of
from prosma_core.errors import OutputError, ProsmaError
from prosma_core.events import CaseFailed, Event, StageStarted, Working
from prosma_core.inference.scan_runs import ScanPlan, ScanTask, is_finished, run_scans, tasks_of
from prosma_core.io.atomic import check_length
from prosma_core.io.bundle import missed_text
from prosma_core.io.class_notes import classes_note
from prosma_core.io.dataset_folder import read_channels
from prosma_core.io.downloads import Downloads
from prosma_core.io.images import (
    open_image,
    read_labels,
    stem,
    warn_of_orientation,
    write_image,
    write_labels,
    written_format,
)
from prosma_core.io.names import image_suffix
from prosma_core.io.notes import known_of, made_by_model, read_notes
from prosma_core.io.output_plan import check_replace
from prosma_core.io.result_table import ResultTable, Row, class_rows
from prosma_core.io.scan_files import ScanChoice, ScanFiles, collect_scans, of_part, separate, target_name
from prosma_core.io.zarr_labels import image_of, is_listed, plan_label_image
from prosma_core.printable import counted

if TYPE_CHECKING:
    from prosma_core.inference.results import Segmentation
    from prosma_core.inference.segment import Blocks, Segmenter
    from prosma_core.inference.stored_results import Sharing, StoredResults


@dataclass(frozen=True)
class FileOptions:
    """How scan files are read and results written.

    Attributes
    ----------
    axes : str or None
        How the files' axes are read.
    voxel_size : VoxelSize or None
        Of scans that state none; the results state it.
    overwrite : bool
        Replace existing results; otherwise a scan whose result exists is reported as failed.
    skip_existing : bool
        Leave out scans all of whose results exist, before they are read.
    protected : tuple of Path
        Files that are read besides the scans, such as the model.
    """

    axes: str | None = None
    voxel_size: VoxelSize | None = None
    overwrite: bool = False
    skip_existing: bool = False
    protected: tuple[Path, ...] = ()


def plan_files(
    choice: ScanChoice, out: Path, header: ModelHeader, config: InferenceConfig, options: FileOptions
) -> ScanPlan:
    """What is to be segmented; where finished scans are left out, none of these is read.

    Parameters
    ----------
    choice : ScanChoice
    out : Path
        Folder, or with one scan also a file name of a known format.
    header : ModelHeader
    config : InferenceConfig
    options : FileOptions

    Raises
    ------
    DatasetError, OutputError
        Nothing to segment, or `out` is a file name for several scans.
    """
    check_length(out)
    single = names_file(out)
    scans = collect_scans(choice, header.preprocess.channels, None if single else out)
    if single and len(scans) > 1:
        msg = f"--out {out} is a file name, but there are {len(scans)} scans. Give a folder."
        raise OutputError(msg)

    def target(scan: ScanFiles) -> Path:
        return out if single else out / target_name(scan)

    def finished(scan: ScanFiles) -> bool:
        return options.skip_existing and is_finished(_wanted(target(scan), config))

    found: list[tuple[ScanFiles, bool]] = []
    for scan, mine in zip(scans, of_part(scans, choice.part), strict=True):
        apart = [scan]
        if mine and len(scan.files) > 1 and not finished(scan):
            each = separate(scan)
            apart = each if all(map(finished, each)) or _several_each(scan.files[0], len(scan.files)) else apart
        found += [(one, mine) for one in apart]
    tasks = tasks_of(
        [scan for scan, _ in found],
        [target(scan) for scan, _ in found],
        lambda path: _wanted(path, config),
        options.protected,
        labels=True,
    )
    ours = [task for task, (_, mine) in zip(tasks, found, strict=True) if mine]
    ready = [options.skip_existing and task.refused is None and is_finished(task.wanted) for task in ours]
    return ScanPlan(
        left=[task for task, there in zip(ours, ready, strict=True) if not there],
        finished=[task for task, there in zip(ours, ready, strict=True) if there],
        total=len(tasks),
        skip=options.skip_existing,
        folder=out.parent if single else out,
    )


def _several_each(file: Path, files: int) -> bool:
    """Whether a file of what may be one scan holds several channels by itself: scans whose names are numbers."""
    with contextlib.suppress(ProsmaError, MemoryError):  # said when its turn comes
        spec = open_image(file).spec
        return spec.num_channels > 1 or spec.num_frames == files
    return False


def segment_files(
    inputs: Sequence[Path],
    out: Path,
    segmenter: Segmenter,
    config: InferenceConfig,
    options: FileOptions | None = None,
) -> Generator[Event, None, list[CaseFailed]]:
    """Segment files and folders one by one, as `plan_files` and `segment_plan` do; returns the failures."""
    options = options or FileOptions()
    plan = plan_files(ScanChoice(tuple(inputs)), out, segmenter.header, config, options)
    yield from segment_plan(plan, segmenter, config, options)
    return plan.failed


def segment_plan(
    plan: ScanPlan,
    segmenter: Segmenter,
    config: InferenceConfig,
    options: FileOptions,
    table: ResultTable | None = None,
) -> Generator[Event, None, None]:
    """Segment what is left of a plan; a bad scan is reported, and the others go on.

    Parameters
    ----------
    plan : ScanPlan
        As of `plan_files`, with the same settings; what becomes of each scan is kept in it.
    segmenter : Segmenter
    config : InferenceConfig
    options : FileOptions
    table : ResultTable, optional
    """
    yield from run_scans(plan, SegmentFile(segmenter, config, options), table)


def describe_finished(plan: ScanPlan, header: ModelHeader, config: InferenceConfig) -> list[str]:
    """Sentences on the scans that are left out: how many, and whose results may not be what is asked for."""
    if not plan.finished:
        return []
    ours = len(plan.left) + len(plan.finished)
    said = [f"{counted(len(plan.finished), 'scan')} of {ours} finished already."]
    asked = (header.sha256, config.model_dump_json(exclude_defaults=True))
    foreign, other, elsewhere = [], [], []
    for task in plan.finished:
        notes = read_notes(task.target)
        if not notes:
            foreign.append(task.name)
        elif (notes.get("model_sha256"), notes.get("settings")) != asked:
            other.append(task.name)
        source = str(notes.get("source", ""))
        if image_suffix(Path(source)) and source != _source_name(task.scan):  # without: of a layer in napari
            elsewhere.append(f"{task.name} (made from {source})")
    for names, what in (
        (other, "made with another model or other settings"),
        (foreign, "without a note of a model"),
        (elsewhere, "of other files than the scan"),
    ):
        if names:
            each = counted(len(names), "result there is", "results there are")
            said.append(f"{each} {what}, such as that of {names[0]}. --overwrite alone replaces them.")
    return said


def _source_name(scan: ScanFiles) -> str:
    """What notes call a scan."""
    return ", ".join(file.name for file in scan.files)


def fill_table(plan: ScanPlan, header: ModelHeader, table: ResultTable) -> Generator[Event, None, None]:
    """Rows of finished scans that the table lacks, counted in their label maps; one that cannot be read has failed."""
    for task in [task for task in plan.finished if not table.has(task.target)]:
        yield Working(f"Reading the result of {task.name}")
        source = task.scan.files[0]
        try:
            labels = read_labels(task.target)
        except ProsmaError as error:
            plan.finished.remove(task)
            plan.failed.append(CaseFailed(task.name, f"its result cannot be read. {error}"))
            table.put(task.target, [Row(str(source), "failed", error=str(error))])
            yield plan.failed[-1]
            continue
        notes = read_notes(task.target)
        same = notes.get("model_sha256") == header.sha256
        names = {c.value: c.name for c in header.classes[1:]} if same else {}
        values, sizes = np.unique(labels.data, return_counts=True)
        found = dict(zip(values.tolist(), sizes.tolist(), strict=True))
        counts = {names.get(value, str(value)): found.get(value, 0) for value in names or found if value}
        table.put(task.target, class_rows(source, counts, labels.spec, made_by_model(notes)))
    table.flush()


@dataclass(frozen=True, eq=False)
class SegmentFile:
    """Segments one scan."""

    segmenter: Segmenter
    config: InferenceConfig
    options: FileOptions

    def __call__(self, task: ScanTask) -> Generator[Event, None, tuple[dict[str, int], list[Row]]]:
        """Read, segment and write it; returns voxels by class, and the rows of the table."""
        from prosma_core.inference.device import name_memory_errors  # late: needs torch

        began = time.monotonic()
        with name_memory_errors(), Downloads() as downloads:
            opened = yield from self.open(task, downloads)
            return (yield from self.compute(task, opened, began))

    def open(
        self, task: ScanTask, downloads: Downloads, *, by_parts: bool = False
    ) -> Generator[Event, None, OpenedScan]:
        """Open it, and read it where it fits in memory, unless it is planned already that it is read by parts."""
        from prosma_core.inference.stored_results import check_fits, is_zarr, read_whole_if_it_fits

        header, config, options = self.segmenter.header, self.config, self.options
        replaceable = _replaceable(task, options)
        files = yield from downloads.fetch_all(task.scan.files)
        check_fits(files)
        scan = _read(files, options.axes)
        if options.voxel_size is not None and scan.spec.unit != "pixel":
            yield StageStarted(f"{task.name} states a voxel size of its own, which is used.")
        spec = with_voxel_size(scan.spec, options.voxel_size)
        given = "" if spec is scan.spec else size_text(spec)
        scan = Scan(scan.data, spec)
        notes = provenance(header, config, _source_name(task.scan), given)
        of_labels = {**notes, "kind": "labels", **classes_note(header.classes)}
        _check_format(task.target, scan, config, of_labels)
        yield StageStarted(f"{task.name}: {scan.spec.axes} {'x'.join(map(str, scan.spec.shape))}")
        parts = by_parts
        if not by_parts:
            scan, parts = read_whole_if_it_fits(scan, self.segmenter, config, task.target)
        if unknown := warn_unfit(scan, header, task.name, **known_of(files[0])):
            yield StageStarted(unknown)
        return OpenedScan(scan, parts and is_zarr(task.target), notes, of_labels, replaceable, files[0])

    def compute(
        self,
        task: ScanTask,
        opened: OpenedScan,
        began: float,
        blocks: Blocks | None = None,
        sharing: Sharing | None = None,
    ) -> Generator[Event, None, tuple[dict[str, int], list[Row]]]:
        """Segment an opened scan and write the results; see `segment` and `StoredResults` for blocks and sharing."""
        header, config = self.segmenter.header, self.config
        if opened.by_parts:
            with self.stored(task, opened, sharing) as stored:
                if blocks is None and stored.done:
                    yield StageStarted(f"{task.name}: {counted(len(stored.done), 'block')} of an earlier run stay.")
                work = self.segmenter.segment(opened.scan, config, allocate=stored.allocate, blocks=blocks)
                result = yield from work
                counts = _count(result, self.segmenter)
                yield from stored.complete()
        else:
            result = yield from self.segmenter.segment(opened.scan, config)
            _write(task.target, result, opened.notes, opened.of_labels, opened.replaceable)
            counts = _count(result, self.segmenter)
        if nothing := missed_text(header, counts, part=config.region is not None):
            yield StageStarted(f"{task.name}: {nothing}")
        seconds = time.monotonic() - began
        return counts, class_rows(task.scan.files[0], counts, opened.scan.spec, header.name, seconds)

    def stored(self, task: ScanTask, opened: OpenedScan, sharing: Sharing | None = None) -> StoredResults:
        """Results of a scan that are written by parts."""
        from prosma_core.inference.stored_results import StoredResults

        places = {"labels": task.target, **_extra_targets(task.target)}
        source, spec, header = task.scan.files[0], opened.scan.spec, self.segmenter.header
        if sharing is None or sharing.begins:
            warn_of_orientation(task.target, spec)
        given = (self.config, opened.notes, opened.replaceable, opened.copy, self.options.axes, sharing)
        return StoredResults(places, source, spec, header, *given)


@dataclass(frozen=True, eq=False)
class OpenedScan:
    """A scan that is about to be segmented.

    Attributes
    ----------
    scan : Scan
    by_parts : bool
        Whether its results are written by parts.
    notes, of_labels : dict of str
        On how results are made; with what only a label map has.
    replaceable : set of Path
        Results that may be replaced.
    copy : Path
        Its first file, as it was downloaded.
    """

    scan: Scan
    by_parts: bool
    notes: dict[str, str]
    of_labels: dict[str, str]
    replaceable: set[Path]
    copy: Path


def _read(files: tuple[Path, ...], axes: str | None) -> Scan:
    return open_image(files[0], axes=axes) if len(files) == 1 else read_channels(files)


def names_file(out: Path) -> bool:
    """Whether a person who gave this ``--out`` means a file (or a zarr), not a folder for results."""
    if image_of(out) is not None:
        return True
    suffix = image_suffix(out).lower()
    return bool(suffix) and (suffix.endswith(".zarr") or not out.is_dir())


def _replaceable(task: ScanTask, options: FileOptions) -> set[Path]:
    """Files of a result that may be replaced; raises `OutputError` where one that is there may not."""
    from prosma_core.inference.stored_results import moved_before  # late: needs torch

    found = set(moved_before({"labels": task.target, **_extra_targets(task.target)}).values())
    for path in task.wanted:
        if options.overwrite or (options.skip_existing and _is_left(path, task.target)):
            found.add(path)
        check_replace(path, overwrite=path in found)
    return found


def _is_left(path: Path, target: Path) -> bool:
    """Whether a file is what an interrupted run left: empty, or an extra result whose label map did not follow.

    Of the labels of an OME-Zarr image: what its group does not name yet.
    """
    if not path.exists():
        return False
    empty = not path.stat().st_size if path.is_file() else not is_listed(path)
    return empty or (path != target and not is_finished([target]) and bool(read_notes(path)))


def _check_format(target: Path, scan: Scan, config: InferenceConfig, notes: dict[str, str]) -> None:
    """Refuse what could only fail after the work is done."""
    if written_format(target) == "zarr":
        plan_label_image(target, scan.spec.labels_spec(), notes)
    asked = [f"--{kind}" for kind in ("probabilities", "entropy") if getattr(config, kind)]
    if asked and image_of(target) is not None:
        msg = (
            f"{target} lies among the labels of an OME-Zarr image, where only label maps go. Leave out "
            f"{' and '.join(asked)}, or let --out be a file or folder of its own."
        )
        raise OutputError(msg)
    suffix = image_suffix(target).lower()
    if suffix in {".jpg", ".jpeg"} or (suffix == ".png" and scan.spec.labels_spec().axes != "yx"):
        msg = (
            f"{target} cannot hold the classes of a scan with axes {scan.spec.axes}: a JPEG changes values, "
            f"a PNG holds one 2D picture. Let --out end with .tif, .zarr or .nii.gz."
        )
        raise OutputError(msg)


def _wanted(target: Path, config: InferenceConfig) -> list[Path]:
    """All files that are written for a scan."""
    return [target, *(path for kind, path in _extra_targets(target).items() if getattr(config, kind))]


def _extra_targets(target: Path) -> dict[str, Path]:
    suffix, name = image_suffix(target), stem(target)
    if image_of(target) is not None:
        name = target.name.removesuffix(suffix)
    suffix = ".tif" if suffix.lower() == ".png" else suffix
    return {kind: target.with_name(f"{name}_{kind}{suffix}") for kind in ("probabilities", "entropy", "objects")}


def _write(
    target: Path, result: Segmentation, notes: dict[str, str], of_labels: dict[str, str], replaceable: set[Path]
) -> None:
    """Extra results first: where the label map exists, everything does."""
    extras = _extra_targets(target)
    for kind, scan in (("probabilities", result.probabilities), ("entropy", result.entropy)):
        if scan is not None:
            path = extras[kind]
            write_image(path, scan.data, scan.spec, overwrite=path in replaceable, provenance=notes)
    if result.objects is not None:
        objects, path = result.objects, extras["objects"]
        own = {**notes, "kind": "labels"}
        write_labels(path, objects.data, objects.spec, overwrite=path in replaceable, provenance=own)
    labels = result.labels
    write_labels(target, labels.data, labels.spec, overwrite=target in replaceable, provenance=of_labels)


def _count(result: Segmentation, segmenter: Segmenter) -> dict[str, int]:
    labels: Any = result.labels.data
    values = np.zeros(np.iinfo(labels.dtype).max + 1, np.int64)
    for part in chunks_of(labels) if isinstance(labels, LazyArray) else labels:
        values += np.bincount(part.reshape(-1), minlength=len(values))
    return {c.name: int(values[c.value]) for c in segmenter.header.classes[1:]}
