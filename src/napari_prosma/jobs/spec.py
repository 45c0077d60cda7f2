"""Specifications of jobs: frozen data, and how requests are prepared from them. No Qt."""

from __future__ import annotations

import hashlib
import itertools
import math
import secrets
import shutil
import weakref
from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from napari_prosma.layers.scan import LayerScan, class_numbers
from napari_prosma.layers.source import is_large, source_of
from prosma_core.engine.client import Engine
from prosma_core.engine.messages import InspectRequest, Request, ScanRef, SegmentRequest, WhatIfRequest, spec_message
from prosma_core.errors import EngineError

Preparation = Generator[str, None, Request]


class JobSpec(Protocol):
    """Protocol of a job's specification: frozen data that prepares a request."""

    def prepare(self, engine: Engine) -> Preparation:
        """Make the request, in a thread: yields what is done at the moment; what it shares is in the request."""
        ...


@dataclass(frozen=True)
class RequestSpec:
    """A request that names all it needs.

    Attributes
    ----------
    request : Request
    """

    request: Request

    def prepare(self, _: Engine) -> Preparation:
        """The request as it is."""
        yield from ()
        return self.request


@dataclass(frozen=True, eq=False)
class ScanSpec:
    """A request about the scan of a layer.

    Attributes
    ----------
    request : SegmentRequest, InspectRequest or WhatIfRequest
        Its `scan`, and `truth`, are filled in.
    scan : LayerScan
        Shared by reference where the engine can open it itself, else copied to shared memory.
    truth : LayerScan or None
        Labels to compare with, of a what-if request.
    """

    request: SegmentRequest | InspectRequest | WhatIfRequest
    scan: LayerScan
    truth: LayerScan | None = None

    def prepare(self, engine: Engine) -> Preparation:
        """Build the request, with references to the current voxels."""
        if self.truth is None:
            return _stored(engine, self.request.replace(scan=(yield from share_scan(engine, self.scan))))
        labels = yield from _share_labels(engine, self.truth)
        try:
            return self.request.replace(scan=(yield from share_scan(engine, self.scan)), truth=labels)
        except BaseException:
            release_scans(labels)
            raise


def share_scan(engine: Engine, scan: LayerScan) -> Generator[str, None, ScanRef]:
    """Reference to a layer's scan: its file where the engine can open that, else a copy.

    The copy lies in shared memory; of a large scan that is computed or read by parts, in a zarr folder on the disk,
    which is written once for an array.

    Raises
    ------
    EngineError
        There is no room for the copy.
    """
    if type(scan.data) is not np.ndarray:
        found = source_of(scan)
        if found is not None:
            return _file_ref(scan, found.path, found.axes, found.select)
        if is_large(scan):
            return _file_ref(scan, (yield from _written(engine, scan)), scan.spec.axes, {})
    shared = engine.allocate(scan.spec.shape, scan.dtype)
    try:
        for share in scan.fill(shared.array):
            yield f"Reading the scan: {share:.0%}"
        yield "Starting…"  # the engine takes seconds where it is not loaded yet
    except BaseException:
        shared.release()
        raise
    return ScanRef(array=shared.ref, spec=spec_message(scan.spec))


def _file_ref(scan: LayerScan, path: Path, axes: str | None, select: dict[str, int]) -> ScanRef:
    return ScanRef(file=str(path), axes=axes, select=select, spec=spec_message(scan.spec), dtype=scan.dtype.str)


_WRITTEN: dict[int, tuple[weakref.ref[Any], Path]] = {}
"""Where arrays were written to, in this process, by their ids."""


def _written(engine: Engine, scan: LayerScan) -> Generator[str, None, Path]:
    """Zarr folder with the voxels of a scan, in its canonical axis order."""
    from prosma_core.io.zarr_checks import ZarrHeader  # late, to open the widgets sooner
    from prosma_core.io.zarr_images import create_zarr

    folder = engine.disk_folder() / "scans"
    there, known = _WRITTEN.get(id(scan.data), (None, folder))
    if there is not None and there() is scan.data and known.is_dir() and known.parent == folder:
        return known
    size, free = math.prod(scan.spec.shape) * scan.dtype.itemsize, shutil.disk_usage(folder.parent).free
    if size > free:
        msg = (
            f"{scan.name} is no file that can be read by parts, and a copy of it in a temporary folder would take "
            f"{size >> 20} MiB of {folder.parent.parent}, where {free >> 20} MiB are free. Save it as .zarr and open "
            "that, or let the environment variable TMPDIR name a folder with more room."
        )
        raise EngineError(msg)
    folder.mkdir(exist_ok=True)
    path = folder / f"{secrets.token_hex(8)}.zarr"
    try:
        spec = replace(scan.spec, header=ZarrHeader(ome=""))
        array = create_zarr(path, scan.dtype, spec, {}, scan.chunks if max(scan.chunks) > 1 else None)
        for share in scan.fill(array):
            yield f"Copying the scan to the disk ({size >> 20} MiB at most): {share:.0%}"
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise
    _WRITTEN[id(scan.data)] = weakref.ref(scan.data), path
    weakref.finalize(scan.data, shutil.rmtree, path, ignore_errors=True)
    return path


def _stored(engine: Engine, request: Request) -> Request:
    """The request, with a zarr folder for the result where the scan is a file that may be too large for memory."""
    if not isinstance(request, SegmentRequest) or request.scan is None or request.scan.file is None:
        return request
    what = (request.scan, request.model, request.config)
    key = hashlib.sha256("".join(str(each) for each in what).encode()).hexdigest()[:16]
    folder = engine.disk_folder() / "results"
    number = next(n for n in itertools.count() if not (folder / f"{key}-{n}.zarr").exists())
    return request.replace(store=str(folder / f"{key}-{number}.zarr"))


def release_scans(*scans: ScanRef | None) -> None:
    """Remove the copies of scans that the engine will not see."""
    for scan in scans:
        if scan is not None and scan.array is not None:
            Path(scan.array.path).unlink(missing_ok=True)


def _share_labels(engine: Engine, labels: LayerScan) -> Generator[str, None, ScanRef]:
    """Reference to the class numbers of a Labels layer, copied."""
    yield "Reading the labels"
    numbers = class_numbers(labels)
    shared = engine.allocate(numbers.shape, numbers.dtype)
    shared.array[...] = numbers
    return ScanRef(array=shared.ref, spec=spec_message(labels.spec.labels_spec()))
