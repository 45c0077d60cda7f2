"""Segmentation of scan files, a result file for each."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prosma_core.config.inference import InferenceConfig
from prosma_core.config.model import VoxelSize, provenance
from prosma_core.data.fit import warn_unfit
from prosma_core.data.geometry import Scan, size_text, with_voxel_size
from prosma_core.data.intensities import COLOR
from prosma_core.errors import DatasetError, OutputError, ProsmaError
from prosma_core.events import CaseDone, CaseFailed, Event, StageStarted
from prosma_core.inference.device import name_memory_errors
from prosma_core.inference.results import Segmentation
from prosma_core.inference.segment import Segmenter
from prosma_core.io.atomic import check_length
from prosma_core.io.bundle import missed_text
from prosma_core.io.dataset_folder import channel_name, first_of_sets, image_files, read_channels
from prosma_core.io.images import is_image_path, read_image, result_name, stem, write_image, write_labels
from prosma_core.io.names import image_suffix
from prosma_core.io.notes import known_of
from prosma_core.io.output_plan import OutputPlan, check_replace


@dataclass(frozen=True)
class ScanFiles:
    """One scan: its name and its files, one per channel or one with all."""

    name: str
    files: tuple[Path, ...]


def collect_scans(inputs: Sequence[Path], channels: tuple[str, ...]) -> list[ScanFiles]:
    """Scans among files and folders; ``NAME_0000, NAME_0001, …`` are one scan where a file is there for each channel.

    Files are never taken for the colors of a picture: those of a model of colors stay apart.

    Parameters
    ----------
    inputs : sequence of Path
    channels : tuple of str
        Names of the model's channels.

    Raises
    ------
    DatasetError
        A folder holds no scan.
    """
    files: list[Path] = []
    for path in inputs:
        if path.is_dir() and not is_image_path(path):
            found = image_files(path)
            if not found:
                msg = (
                    f"{path} holds no scan of a known format. Give files, "
                    "or a folder with .nii.gz, .tif, .png, .zarr, … in it."
                )
                raise DatasetError(msg)
            files += found
        else:
            files.append(path)
    files = first_of_sets(files)
    if len(channels) == 1 or tuple(name.lower() for name in channels) == COLOR:
        return [ScanFiles(stem(p), (p,)) for p in files]
    groups: dict[tuple[Path, str], list[Path]] = {}
    for path in files:
        groups.setdefault((path.parent, channel_name(path)), []).append(path)
    jobs: list[ScanFiles] = []
    for (_, name), group in groups.items():
        numbered = sorted(group, key=stem)
        if [stem(p) for p in numbered] == [f"{name}_{n:04d}" for n in range(len(channels))]:
            jobs.append(ScanFiles(name, tuple(numbered)))
        else:
            jobs += [ScanFiles(stem(p), (p,)) for p in group]
    return jobs


def segment_files(
    inputs: Sequence[Path],
    out: Path,
    segmenter: Segmenter,
    config: InferenceConfig,
    *,
    axes: str | None = None,
    voxel_size: VoxelSize | None = None,
    overwrite: bool = False,
    protected: Sequence[Path] = (),
) -> Generator[Event, None, list[CaseFailed]]:
    """Segment files one by one; a bad one is reported and the others go on.

    Parameters
    ----------
    inputs : sequence of Path
        Files and folders.
    out : Path
        Folder, or with one scan also a file name of a known format.
    segmenter : Segmenter
    config : InferenceConfig
    axes : str, optional
        How the files' axes are read.
    voxel_size : VoxelSize, optional
        Of scans that state none; the results state it.
    overwrite : bool
        Replace existing results; otherwise a scan whose result exists is reported as failed.
    protected : sequence of Path
        Files that are read besides the scans, such as the model.

    Returns
    -------
    list of CaseFailed

    Raises
    ------
    DatasetError, OutputError
        Nothing to segment, or `out` is a file name for several scans.
    """
    jobs = _apart(collect_scans(inputs, segmenter.header.preprocess.channels))
    check_length(out)
    single = names_file(out)
    if single and len(jobs) > 1:
        msg = f"--out {out} is a file name, but there are {len(jobs)} scans. Give a folder."
        raise OutputError(msg)
    folder = out.parent if single else out
    targets = [out if single else folder / _target_name(job) for job in jobs]
    names = _names(jobs)
    refused = _refused(jobs, names, targets, config, protected)
    if len(refused) < len(jobs):
        _make_folder(folder)
    failures: list[CaseFailed] = []
    for number, (job, name, target) in enumerate(zip(jobs, names, targets, strict=True)):
        began = time.monotonic()
        try:
            if number in refused:
                raise refused[number]
            with name_memory_errors():
                scan = _read(job, axes)
                if voxel_size is not None and scan.spec.unit != "pixel":
                    yield StageStarted(f"{name} states a voxel size of its own, which is used.")
                spec = with_voxel_size(scan.spec, voxel_size)
                given = "" if spec is scan.spec else size_text(spec)
                scan = Scan(scan.data, spec)
                _check_target(target, scan, config, overwrite=overwrite)
                yield StageStarted(f"{name}: {scan.spec.axes} {'x'.join(map(str, scan.spec.shape))}")
                if unknown := warn_unfit(scan, segmenter.header, name, **known_of(job.files[0])):
                    yield StageStarted(unknown)
                result = yield from segmenter.segment(scan, config)
                notes = provenance(segmenter.header, config, ", ".join(p.name for p in job.files), given)
                _write(target, result, notes, overwrite=overwrite)
                counts = _count(result, segmenter)
                if nothing := missed_text(segmenter.header, counts, part=config.region is not None):
                    yield StageStarted(f"{name}: {nothing}")
                yield CaseDone(name, str(target), time.monotonic() - began, counts)
        except ProsmaError as error:
            failures.append(CaseFailed(name, str(error)))
            yield failures[-1]
    return failures


def _apart(jobs: Sequence[ScanFiles]) -> list[ScanFiles]:
    """The jobs, those apart again whose first file holds several channels by itself: scans whose names are numbers."""
    found: list[ScanFiles] = []
    for job in jobs:
        several = False
        if len(job.files) > 1:
            with contextlib.suppress(ProsmaError, MemoryError):  # said when its turn comes
                spec = read_image(job.files[0]).spec
                several = spec.num_channels > 1 or spec.num_frames == len(job.files)
        found += [ScanFiles(stem(file), (file,)) for file in job.files] if several else [job]
    return found


def _names(jobs: Sequence[ScanFiles]) -> list[str]:
    """What each scan is called in messages: its name, or so much of its path that no other scan is called the same."""
    ways: tuple[Callable[[ScanFiles], str], ...] = (
        lambda job: job.name,
        lambda job: job.files[0].name,
        lambda job: "/".join(job.files[0].parts[-2:]),
        lambda job: str(job.files[0]),
    )
    called = [[way(job) for job in jobs] for way in ways]
    often = [Counter(each) for each in called]
    return [
        next((each[i] for each, times in zip(called, often, strict=True) if times[each[i]] == 1), called[-1][i])
        for i in range(len(jobs))
    ]


def _refused(
    jobs: Sequence[ScanFiles],
    names: Sequence[str],
    targets: Sequence[Path],
    config: InferenceConfig,
    protected: Sequence[Path],
) -> dict[int, OutputError]:
    """Jobs whose results would replace what any of them reads, or the result of another; before any is written."""
    plan = OutputPlan([*(file for job in jobs for file in job.files), *protected])
    refused: dict[int, OutputError] = {}
    for number, (name, target) in enumerate(zip(names, targets, strict=True)):
        try:
            for path in _wanted(target, config):
                plan.add(path, name)
        except OutputError as error:
            refused[number] = error
    return refused


def _read(job: ScanFiles, axes: str | None) -> Scan:
    return read_image(job.files[0], axes=axes) if len(job.files) == 1 else read_channels(job.files)


def _target_name(job: ScanFiles) -> str:
    name = result_name(job.files[0])
    return name if len(job.files) == 1 else job.name + name.removeprefix(stem(job.files[0]))


def names_file(out: Path) -> bool:
    """Whether a person who gave this ``--out`` means a file (or a zarr), not a folder for results."""
    suffix = image_suffix(out).lower()
    return bool(suffix) and (suffix.endswith(".zarr") or not out.is_dir())


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"The folder {folder} for results cannot be made ({error.strerror}). Choose another --out."
        raise OutputError(msg) from error


def _check_target(target: Path, scan: Scan, config: InferenceConfig, *, overwrite: bool) -> None:
    """Refuse what could only fail after the work is done."""
    for path in _wanted(target, config):
        check_replace(path, overwrite=overwrite)
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
    suffix = image_suffix(target)
    suffix = ".tif" if suffix.lower() == ".png" else suffix
    return {
        kind: target.with_name(f"{stem(target)}_{kind}{suffix}") for kind in ("probabilities", "entropy", "objects")
    }


def _write(target: Path, result: Segmentation, notes: dict[str, str], *, overwrite: bool) -> None:
    """Extra results first: where the label map exists, everything does."""
    extras = _extra_targets(target)
    for kind, scan in (("probabilities", result.probabilities), ("entropy", result.entropy)):
        if scan is not None:
            write_image(extras[kind], scan.data, scan.spec, overwrite=overwrite, provenance=notes)
    if result.objects is not None:
        objects = result.objects
        write_labels(extras["objects"], objects.data, objects.spec, overwrite=overwrite, provenance=notes)
    write_labels(target, result.labels.data, result.labels.spec, overwrite=overwrite, provenance=notes)


def _count(result: Segmentation, segmenter: Segmenter) -> dict[str, int]:
    return {c.name: int(np.count_nonzero(result.labels.data == c.value)) for c in segmenter.header.classes[1:]}
