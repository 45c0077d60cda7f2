"""Handlers of the engine, one for each kind of request: they drain the generators of the core. Imports torch."""

from __future__ import annotations

import contextlib
import gc
import sys
import time
from collections.abc import Generator
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import prosma_core
from prosma_core.config.inference import InferenceConfig
from prosma_core.config.model import ModelHeader
from prosma_core.config.training import RunConfig, resolve_run
from prosma_core.data.geometry import Scan
from prosma_core.data.lazy import IN_CORE, LazyArray, chunks_of, in_memory
from prosma_core.engine.arrays import attach
from prosma_core.engine.messages import (
    InspectRequest,
    InspectResult,
    PlanRequest,
    PlanResult,
    Ready,
    Request,
    Result,
    ScanRef,
    SegmentRequest,
    SegmentResult,
    SuggestRequest,
    SuggestResult,
    TimesRequest,
    TimesResult,
    TrainRequest,
    TrainResult,
    WhatIfRequest,
    WhatIfResult,
)
from prosma_core.engine.on_disk import goes_on_disk, segment_to_disk
from prosma_core.engine.watching import Input, Previews, Watcher
from prosma_core.errors import DeviceError, EngineError, GeometryError
from prosma_core.events import Event, StageStarted, Working, relay
from prosma_core.inference.cpu_tuning import start_threads
from prosma_core.inference.device import (
    DeviceChoice,
    choose_device,
    free_memory,
    name_memory_errors,
    prepare_device,
)
from prosma_core.inference.memory import SHARE
from prosma_core.inference.next_slice import AnnotatedScan, suggest
from prosma_core.inference.results import Allocate
from prosma_core.inference.scan_state import ScanState
from prosma_core.inference.segment import Segmenter
from prosma_core.inspection.inspect import inspect_scan
from prosma_core.inspection.whatif import what_if
from prosma_core.io.images import open_image
from prosma_core.io.names import written_path
from prosma_core.io.remote import input_path
from prosma_core.printable import counted, gib
from prosma_core.runs.run_folder import RunFolder, check_new_run, check_run_targets, resumed_settings
from prosma_core.runs.run_state import format_before_after
from prosma_core.training.live import discard
from prosma_core.training.loop import TrainingResult, train
from prosma_core.training.runtime_estimate import estimate, expected_seconds


def serve_training(request: TrainRequest, allocate: Allocate, live: Input) -> Generator[Event, None, TrainResult]:
    """Train, and segment the watched scan after each validation, and sooner at first and after new labels.

    Parameters
    ----------
    request : TrainRequest
    allocate : callable
        Gives the array of the watched scan's classes.
    live : Input

    Raises
    ------
    ProsmaError
        As `train` does; or the run exists already, or what is to be resumed does not.
    """
    began = time.monotonic()
    run = _run(request)
    folder = RunFolder.beside(run.out)
    choice = yield from prepare_device(run.device)
    previews = Previews(Watcher(live.watched, allocate, choice.device, watched_scan), live, folder.last, choice.device)
    try:
        if request.processes > 1:
            from prosma_core.engine.ranks import train_by_several  # late: few have several GPUs

            several = train_by_several(TrainRequest(run=run, resume=request.resume, processes=request.processes))
            found = yield from relay(several, previews.follow)
            reason = f"{request.processes} × {choice.reason}"
            return found.replace(seconds=time.monotonic() - began, device=reason)
        result = yield from relay(train(run, resume=request.resume, live=live), previews.follow)
    finally:
        changed, late = live.take()
        discard([*changed.values(), *late])
    return train_result(result, choice.reason, time.monotonic() - began)


def train_result(result: TrainingResult, device: str, seconds: float) -> TrainResult:
    """What is told of a finished training."""
    dice = result.validation.dice
    return TrainResult(
        model=str(result.path),
        dice=dice,
        mean_dice=result.validation.mean,
        before=result.before,
        words=format_before_after(result.before, dice, result.held_out) if result.before else "",
        held_out=result.held_out,
        seconds=seconds,
        device=device,
    )


def serve_plan(request: PlanRequest) -> Generator[Event, None, PlanResult]:
    """Plan a training, and say how long it will take; errors as in `estimate`."""
    found = yield from estimate(request.run)
    return PlanResult(
        words=found.words,
        step_seconds=found.step_seconds,
        epoch_seconds=found.epoch_seconds,
        seconds=found.seconds,
        device=choose_device(request.run.device).reason,
    )


def serve_times(request: TimesRequest) -> Generator[Event, None, TimesResult]:
    """Say how long trainings would take; errors as in `expected_seconds`."""
    scans = [scan.spec() for scan in request.scans]
    return TimesResult(seconds=(yield from expected_seconds(request.runs, scans, request.num_classes)))


def _run(request: TrainRequest) -> RunConfig:
    """The run to train."""
    folder = RunFolder.beside(request.run.out)
    if not request.resume:
        check_run_targets(request.run)
        check_new_run(request.run.out, folder, overwrite=False)
        return request.run
    given: dict[str, Any] = request.run.model_dump(mode="json", exclude_unset=True)
    return resolve_run(resumed_settings(folder, given, request.more_epochs), str(folder.run_yaml))


class Unchanged:
    """Cache of one segmentation with unchanged gates, valid while scan, model and settings stay."""

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


def serve_segmentation(
    request: SegmentRequest, scan: Scan, segmenter: Segmenter, choice: DeviceChoice, allocate: Allocate, began: float
) -> Generator[Event, None, SegmentResult]:
    """Segment a scan; errors as of `Segmenter.segment`.

    Parameters
    ----------
    request, segmenter, choice, allocate, began
        As of `Services`.
    scan : Scan
        Of `open_scan`.
    """
    if request.store and goes_on_disk(request, scan, segmenter):
        voxels = yield from segment_to_disk(request, scan, segmenter, count_classes, allocate)
    else:
        result = yield from segmenter.segment(scan, request.config, allocate=allocate, preview=request.preview)
        voxels = count_classes(result.labels.data, segmenter.header)
    return SegmentResult(voxels=voxels, seconds=time.monotonic() - began, device=choice.inferring)


def serve_inspection(
    request: InspectRequest, scan: Scan, segmenter: Segmenter, choice: DeviceChoice, allocate: Allocate, began: float
) -> Generator[Event, None, InspectResult]:
    """Inspect the gates; errors as of `inspect_scan`.

    Parameters
    ----------
    request, segmenter, choice, allocate, began
        As of `Services`.
    scan : Scan
        Of `open_scan`.
    """
    how = InferenceConfig(
        overlap=request.config.overlap, region=request.config.region, slice_axis=request.config.slice_axis
    )
    if isinstance(scan.data, LazyArray) and not segmenter.by_parts(scan, how):
        scan = Scan(in_memory(scan.data), scan.spec)
    found = yield from inspect_scan(segmenter, scan, request.config, allocate)
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
    request, segmenter, choice, allocate, began
        As of `Services`.
    unchanged : Unchanged
        Where the unchanged result is kept, if the request has a key.
    model_key : tuple
        Tells the model file and the device from others.
    """
    key = _key(request, model_key)
    scan = yield from open_scan(request.scan)
    check_labels_fit(scan, segmenter.header, 3 if request.arrays else 2)
    truth = None if request.truth is None else (yield from read_scan(request.truth))
    how = request.config
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


PREVIEWED = IN_CORE
"""Bytes up to which a scan is watched while a model is trained."""
PART = "Crop the layer to what matters, or choose a part of it where there is such a choice."
MOST_RANKED = 100
"""Slices of a ranking that are sent."""


def _key(request: WhatIfRequest, model_key: tuple[object, ...]) -> tuple[object, ...]:
    """What an unchanged result depends on; of a file, also what it holds now."""
    how, ref = request.config, request.scan
    voxels: tuple[object, ...] = ()
    if ref is not None and ref.file is not None:
        path = input_path(ref.file)
        voxels = (*ScanState(path, path).without(()), ref.axes, *sorted(ref.select.items()))
    shape = None if ref is None or ref.spec is None else ref.spec.shape
    return (request.key, model_key, how.overlap, how.region, how.slice_axis, shape, voxels)


def ready() -> Ready:
    """Message that this process is ready, with the devices it can use."""
    start_threads()
    devices, why_not = {}, {}
    for name in ("auto", "cpu", "cuda", "mps"):
        try:
            devices[name] = choose_device(name).reason
        except DeviceError as error:
            why_not[name] = str(error)
    gpus = torch.cuda.device_count() if "cuda" in devices and sys.platform == "linux" else 0
    return Ready(version=prosma_core.__version__, torch=torch.__version__, devices=devices, why_not=why_not, gpus=gpus)


class Services:
    """Serves requests; caches the last model, and the last segmentation with unchanged gates."""

    def __init__(self) -> None:
        self._loaded: tuple[tuple[object, ...], Segmenter] | None = None
        self._unchanged = Unchanged()
        self._untidy = False

    def run(self, request: Request, allocate: Allocate, live: Input) -> Generator[Event, None, Result]:
        """Serve a request.

        Parameters
        ----------
        request : Request
        allocate : callable
            Gives the arrays of the result.
        live : Input
            Of a training.

        Raises
        ------
        ProsmaError
            As the core's own functions do.
        """
        with name_memory_errors():
            if isinstance(request, SegmentRequest):
                return (yield from self._segment(request, allocate))
            if isinstance(request, InspectRequest | WhatIfRequest):
                return (yield from self._inspect(request, allocate))
            if isinstance(request, SuggestRequest):
                return (yield from self._suggest(request))
            self._untidy = True
            if isinstance(request, TimesRequest):
                return (yield from serve_times(request))
            self._loaded = None  # training has the memory to itself
            self._unchanged.forget()
            if isinstance(request, PlanRequest):
                return (yield from serve_plan(request))
            assert isinstance(request, TrainRequest)
            return (yield from serve_training(request, allocate, live))

    def tidy(self) -> None:
        """Give the memory of a training back, when nothing of it is in use any more."""
        if self._untidy:
            self._untidy = False
            gc.collect()
            if torch.cuda.is_available():
                with contextlib.suppress(RuntimeError):  # a device that broke down is the next job's error
                    torch.cuda.empty_cache()

    def _segment(self, request: SegmentRequest, allocate: Allocate) -> Generator[Event, None, SegmentResult]:
        began = time.monotonic()
        choice = yield from prepare_device(request.device)
        segmenter = yield from self._segmenter(Path(request.model), choice)
        scan = yield from open_scan(request.scan)
        return (yield from serve_segmentation(request, scan, segmenter, choice, allocate, began))

    def _inspect(
        self, request: InspectRequest | WhatIfRequest, allocate: Allocate
    ) -> Generator[Event, None, InspectResult | WhatIfResult]:
        began = time.monotonic()
        choice = yield from prepare_device(request.device)
        segmenter = yield from self._segmenter(Path(request.model), choice)
        assert self._loaded is not None
        given = segmenter, choice, allocate, began
        if isinstance(request, InspectRequest):
            scan = yield from open_scan(request.scan)
            return (yield from serve_inspection(request, scan, *given))
        return (yield from serve_what_if(request, *given, self._unchanged, self._loaded[0]))

    def _suggest(self, request: SuggestRequest) -> Generator[Event, None, SuggestResult]:
        began = time.monotonic()
        choice = yield from prepare_device(request.device)
        segmenter = yield from self._segmenter(Path(request.model), choice)
        scans = [AnnotatedScan(s.name, partial(read_scan, s.scan), s.axis, s.annotated) for s in request.scans]
        ranking = yield from suggest(segmenter, scans, request.seed)
        of = segmenter.header.classes[ranking.turn].name if ranking.turn else ""
        ranked = tuple(ranking.order[:MOST_RANKED])
        return SuggestResult(ranked=ranked, of=of, seconds=time.monotonic() - began, device=choice.inferring)

    def _segmenter(self, path: Path, choice: DeviceChoice) -> Generator[Event, None, Segmenter]:
        """The model, loaded unless the last request had the same file on the same device."""
        key: tuple[object, ...] = (path, choice.device)
        if path.is_file():  # otherwise loading says what is wrong
            key += (path.stat().st_mtime_ns, path.stat().st_size)
        if self._loaded is None or self._loaded[0] != key:
            yield StageStarted(f"Loading the model {path.stem}.")
            self._loaded = None  # two models at once may not fit
            self._loaded = (key, Segmenter.load(path, choice.device))
        return self._loaded[1]


def count_classes(labels: NDArray[np.integer] | LazyArray, header: ModelHeader) -> dict[str, int]:
    """Voxels of each class but the background, counted part by part: no second array of that size."""
    classes = header.classes[1:]
    counts = dict.fromkeys((c.name for c in classes), 0)
    for part in chunks_of(labels) if isinstance(labels, LazyArray) else labels:
        for c in classes:
            counts[c.name] += int(np.count_nonzero(part == c.value))
    return counts


def check_labels_fit(scan: Scan, header: ModelHeader, maps: int) -> None:
    """Raise `DeviceError` where so many label maps of a scan do not fit into memory."""
    voxels = prod(scan.spec.labels_spec().shape)
    needed, free = maps * voxels * np.dtype(header.label_dtype).itemsize, free_memory(torch.device("cpu"))
    if needed > free * SHARE:
        msg = f"{counted(maps, 'label map')} of this scan would take {gib(needed)} of memory; {gib(free)} are free. "
        raise DeviceError(msg + "Crop the layer to what matters.")


def open_scan(ref: ScanRef | None) -> Generator[Event, None, Scan]:
    """The scan behind a reference; of a file that can be read by parts still unread.

    Raises
    ------
    EngineError, GeometryError
        There is none, the array is gone, or it is not what the reference says: the file was changed since.
    FileFormatError
        As in `prosma_core.io.images.open_image`.
    """
    if ref is None:
        msg = "The request names no scan. Choose one."
        raise EngineError(msg)
    if ref.file is not None:
        path = written_path(ref.file)
        yield Working(f"Reading {path.name}.")
        scan = open_image(path, axes=ref.axes)
        data, spec = _selected(scan, ref.select), scan.spec if ref.spec is None else ref.spec.spec()
        if ref.dtype and data.dtype != np.dtype(ref.dtype):
            msg = f"{path} holds voxels of type {data.dtype}, the layer of {np.dtype(ref.dtype)}. Open it again."
            raise GeometryError(msg)
    else:
        assert ref.array is not None
        assert ref.spec is not None
        data, spec = attach(ref.array), ref.spec.spec()
    if data.shape != spec.shape:
        msg = f"The scan has shape {data.shape}, its geometry {spec.shape} (axes {spec.axes}). Open it again."
        raise GeometryError(msg)
    return Scan(data, spec)


def read_scan(ref: ScanRef | None, most: int | None = None) -> Generator[Event, None, Scan]:
    """The scan behind a reference, in memory; other errors as of `open_scan`.

    Parameters
    ----------
    ref : ScanRef or None
    most : int, optional
        Bytes that it may take; what is free unless given.

    Raises
    ------
    DeviceError
        It takes more.
    """
    scan = yield from open_scan(ref)
    if not isinstance(scan.data, LazyArray):
        return scan
    needed, free = scan.data.nbytes, int(free_memory(torch.device("cpu")) * SHARE)
    if needed > free or (most is not None and needed > most):
        limit = f"{gib(free)} are free" if needed > free else f"at most {gib(most or 0)} are taken"
        msg = f"The scan takes {gib(needed)} of memory, which it needs here as a whole; {limit}. {PART}"
        raise DeviceError(msg)
    return Scan(in_memory(scan.data), scan.spec)


def watched_scan(ref: ScanRef) -> Generator[Event, None, Scan]:
    """The scan that is watched while a model is trained; as of `read_scan`."""
    return (yield from read_scan(ref, PREVIEWED))


def _selected(scan: Scan, select: dict[str, int]) -> Any:
    """Voxels at an index along some axes; raises `GeometryError` where there is no such axis or index."""
    for letter, index in select.items():
        if letter not in scan.spec.axes or index >= scan.spec.size(letter):
            msg = f"The file has no {letter} {index} (axes {scan.spec.axes}, shape {scan.spec.shape}). Open it again."
            raise GeometryError(msg)
    return scan.data[tuple(select.get(letter, slice(None)) for letter in scan.spec.axes)] if select else scan.data
