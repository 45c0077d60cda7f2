"""What a worker keeps for its clients."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from prosma_core.cluster import blocks, worker
from prosma_core.cluster.blocks import InBlocks, Shared
from prosma_core.cluster.jobs import Sent
from prosma_core.cluster.worker import ModelFile
from prosma_core.events import SlabDone, StageStarted, TileDone


def test_a_client_that_ends_leaves_the_same_model_of_another_client_on_the_worker(
    make_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_LOADED", {})
    content = make_model(tmp_path / "m.safetensors").read_bytes()
    memory, state = SimpleNamespace(memory_limit=None), SimpleNamespace(nthreads=torch.get_num_threads())
    there: Any = SimpleNamespace(local_directory=str(tmp_path / "there"), memory_manager=memory, state=state)
    Path(there.local_directory).mkdir()
    ours, theirs = (ModelFile(topic, content, own=False) for topic in ("prosma-a", "prosma-b"))
    ours.setup(there)
    theirs.setup(there)
    theirs.teardown(there)
    report: Any = SimpleNamespace(put=lambda event: None)
    first = worker._segmenter(there, Sent("prosma-a", "5ac1", "cpu", {}), report)
    ours.teardown(there)
    assert list(Path(there.local_directory).iterdir()) == []
    assert worker._segmenter(there, Sent("prosma-c", "5ac1", "cpu", {}), report) is first


def test_each_block_that_is_done_is_reported_at_once() -> None:
    said: list[dict[str, Any]] = []
    there: Any = SimpleNamespace(log_event=lambda _, values: said.append(values))
    report = worker._Report(there, "prosma-a", 1)
    for event in (TileDone(1, 2), SlabDone((0,), (4,)), TileDone(2, 2), SlabDone((4,), (8,)), StageStarted("Over.")):
        report.put(event)
    assert [each["kind"] for each in said] == ["TileDone", "SlabDone", "SlabDone", "StageStarted"]


def test_the_remaining_time_of_shared_blocks_is_that_of_their_work(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=100.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(blocks, "time", clock)
    boxes = [((n, n + 1),) for n in range(4)]
    work = dict(zip(boxes, (3.0, 3.0, 0.06, 0.06), strict=True))
    nothing: Any = None
    shared = Shared(nothing, InBlocks(nothing, tuple(boxes), frozenset({((9, 10),)}), work), 2)
    assert (shared.share, shared.seconds_left, shared.total) == (0, None, 5)
    clock.now += 30
    shared.hear(SlabDone((0,), (1,)))
    assert shared.share == pytest.approx(3 / 6.12)
    assert shared.seconds_left == pytest.approx(31.2)
    for n in (1, 2, 3):
        shared.hear(SlabDone((n,), (n + 1,)))
    assert (shared.share, shared.seconds_left) == (1.0, 0.0)
