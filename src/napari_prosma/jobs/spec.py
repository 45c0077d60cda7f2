"""Specifications of jobs: frozen data, and how requests are prepared from them. No Qt."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import math
import secrets
import shutil
import weakref
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from napari_prosma.layers.scan import LayerScan, class_numbers
from napari_prosma.layers.source import is_large, source_of
from prosma_core.engine.client import Engine
from prosma_core.engine.messages import InspectRequest, Request, ScanRef, SegmentRequest, WhatIfRequest, spec_message
from prosma_core.errors import EngineError
from prosma_core.io.atomic import cannot_write, disk_text, is_full
from prosma_core.printable import gib

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
    key : str
        Names the inspection that a request belongs to: a what-if takes the copy of the scan that this one was made
        on, without reading the layer again.
    """

    request: SegmentRequest | InspectRequest | WhatIfRequest
    scan: LayerScan
    truth: LayerScan | None = None
    key: str = ""

    def prepare(self, engine: Engine) -> Preparation:
        """Build the request, with references to the current voxels."""
        how = engine, self.scan, self.key, isinstance(self.request, WhatIfRequest)
        if self.truth is None:
            return _stored(engine, self.request.replace(scan=(yield from share_scan(*how))))
        labels = yield from _share_labels(engine, self.truth)
        try:
            return self.request.replace(scan=(yield from share_scan(*how)), truth=labels)
        except BaseException:
            release_scans(labels)
            raise


def share_scan(engine: Engine, scan: LayerScan, key: str = "", unread: bool = False) -> Generator[str, None, ScanRef]:
    """Reference to a layer's scan: its file where the engine can open that, else a copy.

    The copy lies in shared memory; of a large scan that is computed or read by parts, in a zarr folder on the disk,
    which is written again where the array holds something else by then. With `unread`, a copy that was made or compared
    under the same key, which is not empty, is taken without reading the array again.

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
            return _file_ref(scan, (yield from _written(engine, scan, key, unread)), scan.spec.axes, {})
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


@dataclass(frozen=True)
class _Copy:
    """A zarr folder that an array was written to, a digest of what it held then, and the keys that it was for."""

    array: weakref.ref[Any]
    path: Path
    digest: bytes
    keys: set[str]


_WRITTEN: dict[int, _Copy] = {}
"""Copies of arrays in this process, by the ids of these."""


def _written(engine: Engine, scan: LayerScan, key: str, unread: bool) -> Generator[str, None, Path]:
    """Zarr folder with the voxels of a scan, in its canonical axis order; an earlier one where it holds the same."""
    folder = engine.disk_folder() / "scans"
    known = _WRITTEN.get(id(scan.data))
    if known is not None and known.array() is scan.data and known.path.is_dir() and known.path.parent == folder:
        if unread and key and key in known.keys:
            return known.path
        digest, parts = _begun(scan), 0
        for _, values in scan.parts():
            digest.update(np.ascontiguousarray(values).data)
            parts += values.size
            yield f"Checking the copy of the scan: {parts / math.prod(scan.spec.shape):.0%}"
        if digest.digest() == known.digest:
            known.keys.add(key)
            return known.path
        shutil.rmtree(known.path, ignore_errors=True)
    size = math.prod(scan.spec.shape) * scan.dtype.itemsize
    if size > _free(folder.parent):
        raise _no_room(scan, size, folder)
    path = folder / f"{secrets.token_hex(8)}.zarr"
    try:
        copied = yield from _write(scan, path, size)
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise
    _WRITTEN[id(scan.data)] = _Copy(weakref.ref(scan.data), path, copied, {key})
    weakref.finalize(scan.data, shutil.rmtree, path, ignore_errors=True)
    return path


def _write(scan: LayerScan, path: Path, size: int) -> Generator[str, None, bytes]:
    """Write a scan as a new zarr folder; returns the digest of its voxels."""
    from prosma_core.io.zarr_checks import ZarrHeader  # late, to open the widgets sooner
    from prosma_core.io.zarr_images import create_zarr

    digest, parts, spec = _begun(scan), 0, replace(scan.spec, header=ZarrHeader(ome=""))
    with _room_for(scan, size, path.parent):
        path.parent.mkdir(exist_ok=True)
        array = create_zarr(path, scan.dtype, spec, {}, scan.chunks if max(scan.chunks) > 1 else None)
    for at, values in scan.parts():
        with _room_for(scan, size, path.parent):
            array[at] = values
        digest.update(np.ascontiguousarray(values).data)
        parts += values.size
        share = parts / math.prod(scan.spec.shape)
        yield f"Copying the scan to the disk ({size >> 20} MiB at most): {share:.0%}"
    return digest.digest()


def _begun(scan: LayerScan) -> hashlib.blake2b:
    """The digest of a scan without its voxels."""
    return hashlib.blake2b(repr((scan.spec.axes, scan.spec.shape, scan.dtype.str)).encode(), digest_size=32)


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free


@contextlib.contextmanager
def _room_for(scan: LayerScan, size: int, folder: Path) -> Iterator[None]:
    """Turn what the system says about writing a copy into an error for people."""
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise _no_room(scan, size, folder) from error
        raise EngineError(str(cannot_write(folder, error))) from error


def _no_room(scan: LayerScan, size: int, folder: Path) -> EngineError:
    return EngineError(
        f"{scan.name} is no file that can be read by parts, and a copy of it in a temporary folder would take up to "
        f"{gib(size)}: {disk_text(folder)}. Save it as .zarr and open that, or let the environment variable TMPDIR "
        "name a folder with more room."
    )


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
