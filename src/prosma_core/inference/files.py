"""Any number of scan files in, a result file for each out."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import prosma_core
from prosma_core.config.inference import InferenceConfig
from prosma_core.data.geometry import Scan
from prosma_core.errors import DatasetError, OutputError, ProsmaError
from prosma_core.events import CaseDone, CaseFailed, Event, StageStarted
from prosma_core.inference.segment import Segmentation, Segmenter
from prosma_core.io.dataset_folder import group_channels, read_channels
from prosma_core.io.images import is_image_path, read_image, result_name, stem, write_image, write_labels


@dataclass(frozen=True)
class Job:
    """One scan: its name and its files, one per channel or one with all."""

    name: str
    files: tuple[Path, ...]


def collect_jobs(inputs: Sequence[Path], channels: int) -> list[Job]:
    """Scans among files and folders; ``NAME_0000, NAME_0001, …`` are one scan where the model takes several channels.

    Raises
    ------
    DatasetError
        A folder holds no scan, or channels are incomplete.
    """
    files: list[Path] = []
    for path in inputs:
        if path.is_dir() and not is_image_path(path):
            found = sorted(p for p in path.iterdir() if is_image_path(p))
            if not found:
                msg = (
                    f"{path} holds no scan of a known format. Give files, "
                    "or a folder with .nii.gz, .tif, .png, .zarr, … in it."
                )
                raise DatasetError(msg)
            files += found
        else:
            files.append(path)
    if channels == 1:
        return [Job(stem(p), (p,)) for p in files]
    return [Job(name, group) for name, group in group_channels(files).items()]


def segment_files(
    inputs: Sequence[Path],
    out: Path,
    segmenter: Segmenter,
    config: InferenceConfig,
    *,
    axes: str | None = None,
    overwrite: bool = False,
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
    overwrite : bool
        Replace existing results; otherwise a scan whose result exists is reported as failed.

    Returns
    -------
    list of CaseFailed

    Raises
    ------
    DatasetError, OutputError
        Nothing to segment, or `out` is a file name for several scans.
    """
    jobs = collect_jobs(inputs, segmenter.header.model.in_channels)
    single = len(jobs) == 1 and is_image_path(out) and not out.is_dir()
    if is_image_path(out) and not single and not out.is_dir():
        msg = f"--out {out} is a file name, but there are {len(jobs)} scans. Give a folder."
        raise OutputError(msg)
    folder = out.parent if single else out
    folder.mkdir(parents=True, exist_ok=True)
    taken: dict[Path, str] = {}
    failures: list[CaseFailed] = []
    for job in jobs:
        began = time.monotonic()
        try:
            scan = _read(job, axes)
            target = out if single else folder / _target_name(job, scan)
            if target in taken:
                msg = (
                    f"{job.name} and {taken[target]} would both be written "
                    f"to {target}. Segment them into different folders."
                )
                raise OutputError(msg)
            taken[target] = job.name
            if target.exists() and not overwrite:
                msg = f"{target} exists already; add --overwrite to replace it, or choose another --out."
                raise OutputError(msg)
            yield StageStarted(f"{job.name}: {scan.spec.axes} {'x'.join(map(str, scan.spec.shape))}")
            result = yield from segmenter.segment(scan, config)
            _write(target, result, provenance(segmenter, job, config), overwrite=overwrite)
            yield CaseDone(job.name, str(target), time.monotonic() - began, _count(result, segmenter))
        except ProsmaError as error:
            failures.append(CaseFailed(job.name, str(error)))
            yield failures[-1]
    return failures


def _read(job: Job, axes: str | None) -> Scan:
    return read_image(job.files[0], axes=axes) if len(job.files) == 1 else read_channels(job.files)


def _target_name(job: Job, scan: Scan) -> str:
    name = result_name(job.files[0], scan.spec)
    return name if len(job.files) == 1 else job.name + name.removeprefix(stem(job.files[0]))


def _write(target: Path, result: Segmentation, notes: dict[str, str], *, overwrite: bool) -> None:
    """Extra results first: where the label map exists, everything does."""
    for kind, scan in (("probabilities", result.probabilities), ("entropy", result.entropy)):
        if scan is not None:
            suffix = target.name.removeprefix(stem(target))
            suffix = ".tif" if suffix == ".png" else suffix
            path = target.with_name(f"{stem(target)}_{kind}{suffix}")
            write_image(path, scan.data, scan.spec, overwrite=overwrite, provenance=notes)
    write_labels(target, result.labels.data, result.labels.spec, overwrite=overwrite, provenance=notes)


def provenance(segmenter: Segmenter, job: Job, config: InferenceConfig) -> dict[str, str]:
    """What made a result: program, model and its hash, settings, source."""
    return {
        "program": f"prosma {prosma_core.__version__}",
        "model": segmenter.header.name,
        "model_sha256": segmenter.header.sha256,
        "settings": config.model_dump_json(exclude_defaults=True),
        "source": ", ".join(p.name for p in job.files),
    }


def _count(result: Segmentation, segmenter: Segmenter) -> dict[str, int]:
    return {c.name: int(np.count_nonzero(result.labels.data == c.value)) for c in segmenter.header.classes[1:]}
