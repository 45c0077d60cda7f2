"""Trainings by several processes that the engine starts: real ones, which exchange by gloo on this CPU."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml
from safetensors.numpy import load_file

from prosma_core.config.training import RunConfig
from prosma_core.engine.client import Engine
from prosma_core.engine.messages import ArrayReady, Cancelled, Failed, Finished, TrainRequest
from prosma_core.errors import ConfigError, TrainingError
from prosma_core.events import EpochDone, PreviewDone, StageStarted, StepDone
from prosma_core.io.images import read_image
from prosma_core.runs.run_folder import RunFolder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="several GPUs are for Linux, which has NCCL"),
]

LONG = {"epochs": 500, "steps": 20}


def ranks(engine: Engine) -> list[psutil.Process]:
    """The processes of the training, the first one first."""
    found = psutil.Process(engine.pid).children(recursive=True)
    ours = [each for each in found if "prosma_core.engine.rank" in each.cmdline()]
    return sorted(ours, key=lambda each: int(each.environ()["RANK"]))


def started(engine: Engine, begin: Any, run: RunConfig) -> tuple[Any, list[psutil.Process]]:
    """A training by two processes, in its first steps."""
    heard = begin(engine, TrainRequest(run=run, processes=2))
    heard.wait_for(StepDone, Failed)
    assert not heard.of(Failed), heard.messages[-1]
    both = ranks(engine)
    assert len(both) == 2
    return heard, both


def test_weights_are_those_of_torchrun_and_all_is_reported(
    engine: Engine, begin: Any, hand_over: Any, make_run: Callable[..., RunConfig], tmp_path: Path
) -> None:
    run = make_run("m")
    scan = read_image(run.pairs[0][0])
    heard = begin(engine, TrainRequest(run=run, processes=2, preview=hand_over(engine, scan)))
    finished = heard.end()
    assert isinstance(finished, Finished), finished
    assert any("with 2 processes that divide each batch" in each.message for each in heard.of(StageStarted))
    assert [each.epoch for each in heard.of(EpochDone)] == [1, 2]
    assert len(heard.of(StepDone)) == 8
    assert heard.of(PreviewDone)
    assert heard.of(ArrayReady)[0].array.shape == scan.data.shape
    assert finished.result.device.startswith("2 × CPU")
    assert finished.result.mean_dice is not None
    assert ranks(engine) == []

    other = tmp_path / "other.safetensors"
    values = {**run.model_dump(mode="json", exclude_unset=True), "out": str(other)}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "prosma_core.cli", "train", "--config", str(tmp_path / "run.yaml")]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    wanted, found = (load_file(RunFolder.beside(path).state) for path in (other, run.out))
    for name, value in wanted.items():
        if name.startswith(("model.", "average.")):
            np.testing.assert_array_equal(found[name], value)


def test_a_training_is_stopped_and_the_engine_lives_on(
    engine: Engine, begin: Any, make_run: Callable[..., RunConfig]
) -> None:
    heard, both = started(engine, begin, make_run("stopped", LONG))
    process, began = engine.pid, time.monotonic()
    heard.job.cancel()
    assert isinstance(heard.end(), Cancelled)
    assert time.monotonic() - began < 10
    assert not any(each.is_running() for each in both)
    assert isinstance(begin(engine, TrainRequest(run=make_run("next"))).end(), Finished)
    assert engine.pid == process


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_is_killed_ends_the_training_with_a_plain_error(
    rank: int, engine: Engine, begin: Any, make_run: Callable[..., RunConfig]
) -> None:
    heard, both = started(engine, begin, make_run(f"killed{rank}", LONG))
    process, began = engine.pid, time.monotonic()
    both[rank].kill()
    failed = heard.end()
    assert time.monotonic() - began < 60
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, TrainingError)
    assert str(failed.error).startswith(f"Process {rank + 1} of 2 of this training was ended (SIGKILL)")
    assert "resume it under Earlier runs" in str(failed.error)
    assert not any(each.is_running() for each in both)
    assert isinstance(begin(engine, TrainRequest(run=make_run(f"next{rank}"))).end(), Finished)
    assert engine.pid == process


def test_an_error_of_all_is_the_engines_and_a_killed_engine_leaves_none(
    own_engine: Engine, begin: Any, make_run: Callable[..., RunConfig]
) -> None:
    engine = own_engine
    failed = begin(engine, TrainRequest(run=make_run("m", {"batch_size": 1}), processes=2)).end()
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, ConfigError)
    assert "A batch of 1 cannot be divided among 2 processes" in str(failed.error)
    heard, both = started(engine, begin, make_run("left", LONG))
    psutil.Process(engine.pid).kill()
    assert isinstance(heard.end(), Failed)
    assert psutil.wait_procs(both, 30)[1] == []
