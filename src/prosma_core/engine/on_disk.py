"""Segmentation of a scan that is too large for memory, into zarr folders. Imports torch."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prosma_core.config.model import ModelHeader, provenance
from prosma_core.data.geometry import Scan
from prosma_core.data.lazy import LazyArray
from prosma_core.engine.requests import SegmentRequest
from prosma_core.events import Event, ResultStored, StageStarted, relay
from prosma_core.inference.device import free_memory
from prosma_core.inference.memory import SHARE
from prosma_core.inference.results import Allocate, StoredArray
from prosma_core.inference.segment import Segmenter
from prosma_core.inference.stored_results import Sharing, StoredResults
from prosma_core.io.remote import input_path
from prosma_core.io.zarr_checks import ZarrHeader, locate_array
from prosma_core.printable import counted

WORKING = 640 << 20
"""Bytes that a block takes at most: beside a viewer, less than alone, for a few more tiles."""


def goes_on_disk(request: SegmentRequest, scan: Scan, segmenter: Segmenter) -> bool:
    """Whether a result goes into the zarr folder of its request: that of a scan too large to be read whole."""
    return isinstance(scan.data, LazyArray) and segmenter.by_parts(scan, request.config)


def segment_to_disk(
    request: SegmentRequest,
    scan: Scan,
    segmenter: Segmenter,
    count: Callable[[Any, ModelHeader], dict[str, int]],
    allocate: Allocate,
) -> Generator[Event, None, dict[str, int]]:
    """Segment a scan by parts, into zarr folders; says where they are, at first and at the end.

    Parameters
    ----------
    request : SegmentRequest
        With a folder for the result.
    scan : Scan
        Of `open_scan`.
    segmenter : Segmenter
    count : callable
        Counts the voxels of each class in the label map, before that is moved to its place.
    allocate : callable
        Gives the array for the table of objects, which is no image.

    Returns
    -------
    dict of str to int
        What it counts.
    """
    config, header, places = request.config, segmenter.header, places_of(request.store)
    places["labels"].parent.mkdir(parents=True, exist_ok=True)
    with results_of(request, scan, header) as stored:
        if stored.done:
            yield StageStarted(f"{counted(len(stored.done), 'block')} of an earlier run stay.")
        made: list[str] = []

        def store(name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> StoredArray:
            made.append(name)
            return stored.allocate(name, shape, dtype)

        def change(event: Event) -> Iterator[Event]:
            yield from (tell_stored(name, stored.place(name)) for name in made)
            done.extend(made)
            made.clear()
            yield event

        done: list[str] = []
        before, segmenter.working = segmenter.working, min(WORKING, int(free_memory(torch.device("cpu")) * SHARE))
        try:
            result = yield from relay(segmenter.segment(scan, config, allocate=store), change)
        finally:
            segmenter.working = before
        voxels = count(result.labels.data, header)
        if result.object_table is not None:
            allocate("object_table", result.object_table.shape, result.object_table.dtype)[...] = result.object_table
    for name in done:
        yield tell_stored(name, places[name])
    return voxels


def places_of(store: str) -> dict[str, Path]:
    """Where each result goes, by its name in `Segmentation`."""
    target = Path(store)
    more = ("probabilities", "entropy", "objects")
    return {"labels": target, **{name: target.with_name(f"{target.stem}_{name}.zarr") for name in more}}


def results_of(
    request: SegmentRequest, scan: Scan, header: ModelHeader, sharing: Sharing | None = None
) -> StoredResults:
    """Results of a request that are written by parts; `sharing` as of `StoredResults`."""
    assert request.scan is not None
    assert request.scan.file is not None
    source = input_path(request.scan.file)
    notes = provenance(header, request.config, source.name)
    plain = replace(scan.spec, header=ZarrHeader(ome=""))
    return StoredResults(
        places_of(request.store),
        source,
        plain,
        header,
        request.config,
        notes,
        reading=[request.scan.axes, request.scan.select],
        sharing=sharing,
    )


def tell_stored(name: str, folder: Path) -> ResultStored:
    """Event that says where a result lies."""
    return ResultStored(name, str(locate_array(folder).array.path))
