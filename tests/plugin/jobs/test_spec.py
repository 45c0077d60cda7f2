"""What is shared with the engine for a job, and that nothing of it is left behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.layers import Image, Labels

from napari_prosma.jobs.boundary import EngineJob
from napari_prosma.jobs.spec import ScanSpec
from napari_prosma.layers.labels import read_on
from napari_prosma.layers.scan import read
from prosma_core.config.inspection import Variant
from prosma_core.engine.client import Engine
from prosma_core.engine.messages import Cancelled, WhatIfRequest

REQUEST = WhatIfRequest(model="m", variants=(Variant(name="as learned", edits=()),))


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    """Return the files that are made for the engine."""
    made: list[Path] = []
    allocate = Engine.allocate

    def noted(engine: Engine, *what: Any) -> Any:
        shared = allocate(engine, *what)
        made.append(Path(shared.ref.path))
        return shared

    monkeypatch.setattr(Engine, "allocate", noted)
    yield made
    for path in made:
        path.unlink(missing_ok=True)


def prepared() -> ScanSpec:
    """Return a question on a small scan with labels."""
    scan = read(Image(np.random.default_rng(0).normal(size=(8, 9))), "yx", 0)
    truth = read_on(Labels(np.eye(8, 9, dtype=np.uint8)), scan)
    return ScanSpec(REQUEST, scan, truth)


def test_scan_and_labels_are_copied(copies: list[Path]) -> None:
    engine = Engine()
    work = prepared().prepare(engine)
    while len(copies) < 2:
        next(work)
    assert next(work) == "Starting…", "what it waits for after that is the engine, not the scan"
    with pytest.raises(StopIteration) as stop:
        next(work)
    request = stop.value.value
    assert [Path(ref.array.path) for ref in (request.truth, request.scan)] == copies
    assert all(path.is_file() for path in copies)


def test_a_question_that_is_left_leaves_no_copy_of_the_labels(copies: list[Path]) -> None:
    engine = Engine()
    work = prepared().prepare(engine)
    while len(copies) < 2:
        next(work)
    work.close()
    assert not any(path.exists() for path in copies)


def test_a_question_that_is_cancelled_when_it_is_prepared_leaves_no_copies(copies: list[Path]) -> None:
    said: list[Any] = []
    engine = Engine()
    job = EngineJob(engine, said.append)
    spec = prepared()

    class CancelledAtTheEnd:
        def prepare(self, engine: Engine) -> Any:
            request = yield from spec.prepare(engine)
            job.cancel()
            return request

    job.run(CancelledAtTheEnd())
    assert [message for message in said if isinstance(message, Cancelled)] == [Cancelled()]
    assert len(copies) == 2
    assert not any(path.exists() for path in copies)
