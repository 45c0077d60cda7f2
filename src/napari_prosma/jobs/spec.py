"""Specifications of jobs: frozen data, and how requests are prepared from them. No Qt."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from napari_prosma.layers.scan import LayerScan, class_numbers
from prosma_core.engine.client import Engine
from prosma_core.engine.messages import InspectRequest, Request, ScanRef, SegmentRequest, WhatIfRequest, spec_message

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
            return self.request.replace(scan=(yield from share_scan(engine, self.scan)))
        labels = yield from _share_labels(engine, self.truth)
        try:
            return self.request.replace(scan=(yield from share_scan(engine, self.scan)), truth=labels)
        except BaseException:
            release_scans(labels)
            raise


def share_scan(engine: Engine, scan: LayerScan) -> Generator[str, None, ScanRef]:
    """Reference to a layer's scan: its file where the engine can open that, else a copy in shared memory."""
    path = scan.reference()
    if path is not None:
        return ScanRef(file=str(path), axes=scan.axes, spec=spec_message(scan.spec))
    shared = engine.allocate(scan.spec.shape, scan.dtype)
    try:
        for share in scan.fill(shared.array):
            yield f"Reading the scan: {share:.0%}"
        yield "Starting…"  # the engine takes seconds where it is not loaded yet
    except BaseException:
        shared.release()
        raise
    return ScanRef(array=shared.ref, spec=spec_message(scan.spec))


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
