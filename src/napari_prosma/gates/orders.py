"""What the engine is asked for by the Gates widget: a look, or what would be if."""

from __future__ import annotations

from collections.abc import Callable, Generator

from napari_prosma._shared.engine_job import Preparation, discard, hand_over
from napari_prosma._shared.layers import LayerScan, class_numbers
from prosma_core.engine.client import Engine
from prosma_core.engine.messages import InspectRequest, ScanRef, WhatIfRequest, spec_message


def look(scan: LayerScan, request: InspectRequest) -> Callable[[Engine], Preparation]:
    """What prepares a look into the gates: its scan is handed over."""

    def prepare(engine: Engine) -> Preparation:
        return request.replace(scan=(yield from hand_over(engine, scan)))

    return prepare


def question(scan: LayerScan, request: WhatIfRequest, truth: LayerScan | None) -> Callable[[Engine], Preparation]:
    """What prepares a question: its scan is handed over, and the labels to compare with as they are now."""

    def prepare(engine: Engine) -> Preparation:
        labels = None if truth is None else (yield from _hand_over_labels(engine, truth))
        try:
            return request.replace(scan=(yield from hand_over(engine, scan)), truth=labels)
        except BaseException:
            discard(labels)
            raise

    return prepare


def _hand_over_labels(engine: Engine, labels: LayerScan) -> Generator[str, None, ScanRef]:
    """Reference to the class numbers of a Labels layer, copied."""
    yield "Reading the labels"
    numbers = class_numbers(labels)
    shared = engine.allocate(numbers.shape, numbers.dtype)
    shared.array[...] = numbers
    return ScanRef(array=shared.ref, spec=spec_message(labels.spec.labels_spec()))
