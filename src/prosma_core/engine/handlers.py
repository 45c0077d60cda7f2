"""What the engine does for each kind of request: it drains the core's generators. Imports torch."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Generator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

import prosma_core
from prosma_core.config.model import ModelHeader
from prosma_core.engine.inspecting import Unchanged, serve_inspection, serve_what_if
from prosma_core.engine.messages import (
    InspectRequest,
    InspectResult,
    PlanRequest,
    Ready,
    Request,
    Result,
    SegmentRequest,
    SegmentResult,
    TimesRequest,
    WhatIfRequest,
    WhatIfResult,
)
from prosma_core.engine.scans import read_scan
from prosma_core.engine.training import Watched, serve_plan, serve_times, serve_training
from prosma_core.errors import DeviceError
from prosma_core.events import Event, StageStarted
from prosma_core.inference.cpu_tuning import start_threads
from prosma_core.inference.device import DeviceChoice, choose_device, name_memory_errors, prepare_device
from prosma_core.inference.results import Allocate
from prosma_core.inference.segment import Segmenter


def ready() -> Ready:
    """What this process can compute with."""
    start_threads()
    devices, why_not = {}, {}
    for name in ("auto", "cpu", "cuda", "mps"):
        try:
            devices[name] = choose_device(name).reason
        except DeviceError as error:
            why_not[name] = str(error)
    return Ready(version=prosma_core.__version__, torch=torch.__version__, devices=devices, why_not=why_not)


class Services:
    """Serves requests; keeps the model of the last one, and what it made of the scan whose gates were changed last."""

    def __init__(self) -> None:
        self._loaded: tuple[tuple[object, ...], Segmenter] | None = None
        self._unchanged = Unchanged()
        self._untidy = False

    def run(self, request: Request, allocate: Allocate, watched: Watched) -> Generator[Event, None, Result]:
        """Serve a request.

        Parameters
        ----------
        request : SegmentRequest, InspectRequest, WhatIfRequest, TrainRequest, PlanRequest or TimesRequest
        allocate : callable
            Gives the arrays of the result.
        watched : callable
            Gives the scan to segment while a model is trained.

        Raises
        ------
        ProsmaError
            As the core's own functions do.
        """
        with name_memory_errors():
            if isinstance(request, SegmentRequest):
                return (yield from self._segment(request, allocate))
            if isinstance(request, InspectRequest | WhatIfRequest):
                return (yield from self._look(request, allocate))
            self._untidy = True
            if isinstance(request, TimesRequest):
                return (yield from serve_times(request))
            self._loaded = None  # training has the memory to itself
            self._unchanged.forget()
            if isinstance(request, PlanRequest):
                return (yield from serve_plan(request))
            return (yield from serve_training(request, allocate, watched))

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
        scan = yield from read_scan(request.scan)
        result = yield from segmenter.segment(scan, request.config, allocate=allocate, preview=request.preview)
        voxels = _count(result.labels.data, segmenter.header)
        return SegmentResult(voxels=voxels, seconds=time.monotonic() - began, device=choice.inferring)

    def _look(
        self, request: InspectRequest | WhatIfRequest, allocate: Allocate
    ) -> Generator[Event, None, InspectResult | WhatIfResult]:
        began = time.monotonic()
        choice = yield from prepare_device(request.device)
        segmenter = yield from self._segmenter(Path(request.model), choice)
        assert self._loaded is not None
        given = segmenter, choice, allocate, began, self._unchanged, self._loaded[0]
        if isinstance(request, InspectRequest):
            return (yield from serve_inspection(request, *given))
        return (yield from serve_what_if(request, *given))

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


def _count(labels: NDArray[np.integer], header: ModelHeader) -> dict[str, int]:
    """Voxels of each class but the background, counted part by part: no second array of that size."""
    classes = header.classes[1:]
    counts = dict.fromkeys((c.name for c in classes), 0)
    for part in labels:
        for c in classes:
            counts[c.name] += int(np.count_nonzero(part == c.value))
    return counts
