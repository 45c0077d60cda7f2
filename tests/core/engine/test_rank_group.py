"""Processes of a training that end, or are silent, before they have anything to say: stand-ins of a few lines."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from prosma_core.config.training import RunConfig
from prosma_core.engine import ranks
from prosma_core.engine.messages import Said, TrainRequest, encode
from prosma_core.errors import TrainingError
from prosma_core.events import StepDone, Working

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="several GPUs are for Linux, which has NCCL")


@pytest.fixture
def group(
    tmp_path: Path, make_run: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], ranks._Group]]:
    """Return two processes that run a shell script in place of a training."""
    made = []

    def make(script: str) -> ranks._Group:
        path = tmp_path / "rank.sh"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o700)
        monkeypatch.setattr(ranks, "sys", SimpleNamespace(executable=str(path)))
        made.append(ranks._Group(TrainRequest(run=make_run("m"), processes=2)))
        return made[0]

    yield make
    for each in made:
        each.end()


@pytest.mark.parametrize("rank", [1, 0])
def test_a_process_that_ends_by_itself_while_the_others_wait_ends_the_training(
    rank: int, group: Callable[[str], ranks._Group], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks, "ENDING", 0.5)
    both = group(f'[ "$RANK" = {rank} ] || exec sleep 60\necho "ImportError: no GPU library" >&2\nexit 1')
    until = time.monotonic() + 20
    waiting = itertools.takewhile(lambda _: time.monotonic() < until, both.follow())
    reason = r"ended.*ImportError: no GPU library.*resume it under Earlier runs"
    with pytest.raises(TrainingError, match=reason) as told:
        list(waiting)
    assert ("Process 2 of 2 of this training has ended (exit code 1)" in str(told.value)) is (rank == 1)


def test_others_that_have_finished_are_no_reason_to_end(
    group: Callable[[str], ranks._Group], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks, "ENDING", 0.0)
    until = time.monotonic() + 2
    for event in group('[ "$RANK" = 1 ] || exec sleep 60').follow():
        assert isinstance(event, Working)
        if time.monotonic() > until:
            break


def test_there_is_a_place_to_stop_behind_a_step(
    group: Callable[[str], ranks._Group], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks, "SILENT", 0.5)
    step = StepDone(epoch=1, step=2, steps=4, loss=0.5)
    (tmp_path / "said").write_bytes(encode(Said.of(0, step)))
    both = group(f'[ "$RANK" = 1 ] || cat {tmp_path / "said"}\nexec sleep 20')
    heard = []
    for event in both.follow():
        heard.append(event)
        if step in heard and event != step:
            break
    assert heard[-2:] == [step, Working("Waiting for the processes")]
