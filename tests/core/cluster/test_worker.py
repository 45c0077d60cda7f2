"""What a worker keeps for its clients."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from prosma_core.cluster import worker
from prosma_core.cluster.jobs import Sent
from prosma_core.cluster.worker import ModelFile


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
