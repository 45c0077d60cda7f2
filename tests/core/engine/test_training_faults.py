"""What goes wrong while a model is trained is said in words, and what was reached before stays whole."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from prosma_core import errors
from prosma_core.config.training import RunConfig
from prosma_core.engine.client import Engine
from prosma_core.engine.handlers import Services
from prosma_core.engine.messages import Failed, Finished, PlanRequest, TrainRequest
from prosma_core.engine.serving import Inbox
from prosma_core.events import EpochDone, StepDone
from prosma_core.runs.run_folder import RunFolder
from prosma_core.runs.run_state import keep_stopped, read_history, run_state
from prosma_core.training.cases import TrainingCase
from prosma_core.training.trainer import Trainer

Begin = Callable[..., Any]
MakeRun = Callable[..., RunConfig]


def test_a_loss_that_is_not_finite_is_said_and_the_engine_lives_on(
    engine: Engine, begin: Begin, make_run: MakeRun
) -> None:
    run = make_run(training={"dice_weight": 1e39})  # infinite as a float32
    end = begin(engine, TrainRequest(run=run)).end()
    assert isinstance(end.error, errors.TrainingError)
    assert "Loss inf" in str(end.error)
    assert "epoch 1, step 1" in str(end.error)
    pid = engine.pid
    assert not run.out.exists()
    assert isinstance(begin(engine, TrainRequest(run=make_run("other", {"epochs": 1}))).end(), Finished)
    assert engine.pid == pid


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the files of a running process")
def test_a_disk_that_fills_up_is_said_and_the_state_of_the_last_epoch_stays(
    engine: Engine, begin: Begin, make_run: MakeRun
) -> None:
    run = make_run(training={"epochs": 4, "steps": 12})
    folder = RunFolder.beside(run.out)
    heard = begin(engine, TrainRequest(run=run))
    heard.wait_for(StepDone, so=lambda event: event.epoch == 2)
    process = psutil.Process(engine.pid)
    process.rlimit(psutil.RLIMIT_FSIZE, (folder.best.stat().st_size - 1, -1))
    end = heard.end()
    assert isinstance(end, Failed)
    assert isinstance(end.error, errors.OutputError)
    assert "Check the free space" in str(end.error)
    reached = max(event.epoch for event in heard.of(EpochDone))
    assert run_state(folder).epochs_done == reached
    assert keep_stopped(folder).epoch in range(1, reached + 1)
    assert len(read_history(folder)) == reached
    assert not list(folder.root.rglob(".*"))
    process.rlimit(psutil.RLIMIT_FSIZE, (-1, -1))
    again = begin(engine, TrainRequest(run=RunConfig(out=run.out), resume=True))
    assert isinstance(again.end(), Finished)
    assert [event.epoch for event in again.of(EpochDone)] == list(range(reached + 1, 5))
    assert engine.pid == process.pid


def test_a_folder_that_cannot_be_written_is_said(
    engine: Engine, begin: Begin, make_run: MakeRun, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"1")
    end = begin(engine, TrainRequest(run=make_run(out=tmp_path / "file" / "m.safetensors"))).end()
    assert isinstance(end.error, errors.OutputError)
    assert "Cannot write" in str(end.error)


@pytest.fixture
def only_new_objects() -> None:
    """Let `gc.get_objects` leave out what is there already: to look through it takes longer than a training."""
    gc.collect()
    gc.freeze()


@pytest.mark.parametrize("end", ["finished", "cancelled", "failed", "planned"])
def test_nothing_of_a_training_stays_in_memory(end: str, make_run: MakeRun, only_new_objects: None) -> None:
    def living() -> list[Any]:
        return [thing for thing in gc.get_objects() if type(thing) in {Trainer, TrainingCase}]

    services, most = Services(), 0
    run = make_run(training={"dice_weight": 1e39} if end == "failed" else {})
    work = services.run(PlanRequest(run=run) if end == "planned" else TrainRequest(run=run), None, Inbox(lambda: None))
    with contextlib.suppress(errors.TrainingError):
        for event in work:
            most = max(most, len(living()))
            if end == "cancelled" and isinstance(event, StepDone):
                break
    work.close()
    assert most > 2
    services.tidy()
    assert living() == []
