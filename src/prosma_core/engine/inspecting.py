"""What the engine does to look into the gates and to change them: it drains the core's generators. Imports torch."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator

from prosma_core.data.geometry import Scan
from prosma_core.engine.messages import InspectRequest, InspectResult, WhatIfRequest, WhatIfResult
from prosma_core.engine.scans import read_scan
from prosma_core.events import Event, TileDone, relay
from prosma_core.inference.device import DeviceChoice
from prosma_core.inference.results import Allocate
from prosma_core.inference.segment import Segmenter
from prosma_core.inspection.inspect import inspect_scan
from prosma_core.inspection.whatif import segment_unchanged, what_if

QUICK_TILES = 4
"""Tiles of a 2D network that take a fraction of a second."""


class Unchanged:
    """The unchanged result of the last scan that was changed, kept while scan, model and settings stay."""

    def __init__(self) -> None:
        self._key: tuple[object, ...] | None = None
        self._labels: Scan | None = None

    def get(self, key: tuple[object, ...]) -> Scan | None:
        """The result under this key, if it is the last one."""
        return self._labels if key == self._key else None

    def put(self, key: tuple[object, ...], labels: Scan) -> None:
        """Keep a result instead of the last one."""
        self._key, self._labels = key, labels

    def forget(self) -> None:
        """Keep nothing."""
        self._key, self._labels = None, None


def serve_inspection(
    request: InspectRequest,
    segmenter: Segmenter,
    choice: DeviceChoice,
    allocate: Allocate,
    began: float,
    unchanged: Unchanged,
    model_key: tuple[object, ...],
) -> Generator[Event, None, InspectResult]:
    """Look into the gates; errors as of `inspect_scan`.

    A look stops the network at its finest gate. Where the rest is quick as well, the scan is segmented after it, so
    that the first what-if need not do it.

    Parameters
    ----------
    request, segmenter, choice, allocate, began
        As of `Services`.
    unchanged : Unchanged
        Where the unchanged result is kept, if the request has a key.
    model_key : tuple
        Tells the model file and the device from others.
    """
    scan = yield from read_scan(request.scan)
    total = 0

    def count(event: Event) -> Iterator[Event]:
        nonlocal total
        total = event.total if isinstance(event, TileDone) else total
        yield event

    found = yield from relay(inspect_scan(segmenter, scan, request.config, allocate), count)
    if request.key and segmenter.header.model.dims == 2 and 0 < total <= QUICK_TILES:
        labels = yield from segment_unchanged(segmenter, scan, request.config)
        unchanged.put(_key(request, model_key, scan), labels)
    return InspectResult(
        inspection=found.inspection, words=found.words, seconds=time.monotonic() - began, device=choice.inferring
    )


def serve_what_if(
    request: WhatIfRequest,
    segmenter: Segmenter,
    choice: DeviceChoice,
    allocate: Allocate,
    began: float,
    unchanged: Unchanged,
    model_key: tuple[object, ...],
) -> Generator[Event, None, WhatIfResult]:
    """Change the gates; errors as of `what_if`.

    Parameters
    ----------
    request, segmenter, choice, allocate, began, unchanged, model_key
        As of `serve_inspection`.
    """
    scan = yield from read_scan(request.scan)
    truth = None if request.truth is None else (yield from read_scan(request.truth))
    how = request.config
    key = _key(request, model_key, scan)
    found = yield from what_if(
        segmenter,
        scan,
        request.variants,
        how,
        truth=truth,
        unchanged=unchanged.get(key) if request.key else None,
        arrays=request.arrays,
        allocate=allocate,
    )
    if request.key:
        unchanged.put(key, found.unchanged)
    return WhatIfResult(variants=found.variants, seconds=time.monotonic() - began, device=choice.inferring)


def _key(request: InspectRequest | WhatIfRequest, model_key: tuple[object, ...], scan: Scan) -> tuple[object, ...]:
    """What an unchanged result depends on."""
    how = request.config
    return (request.key, model_key, how.overlap, how.region, how.slice_axis, scan.spec.shape)
