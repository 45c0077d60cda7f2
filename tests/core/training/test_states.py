"""The training state is finite or not written, there are two of them, and a resume takes the newest that is whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.core.training.test_train import drain, equal_states, settings, small

from prosma_core.data.phantom import phantom_2d
from prosma_core.errors import DivergedError, OutputError, RunLockedError, TrainingError
from prosma_core.events import EpochDone, StageStarted, StepDone
from prosma_core.io.bundle import load_bundle
from prosma_core.io.images import write_image, write_labels
from prosma_core.runs.run_folder import RunFolder, check_run_targets
from prosma_core.runs.run_state import LOCK_NAME, run_state
from prosma_core.training.loop import train
from prosma_core.training.trainer import Trainer

Poison = Callable[[Trainer], None]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for name in ("images", "labels"):
        (root / name).mkdir()
    for seed in range(4):
        image, labels = (small(s) for s in phantom_2d(seed))
        write_image(root / "images" / f"case{seed}.png", image.data, image.spec)
        write_labels(root / "labels" / f"case{seed}.png", labels.data, labels.spec)
    return root


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the model of a run of three epochs that was never stopped."""
    out = tmp_path_factory.mktemp("whole") / "whole.safetensors"
    drain(train(settings(data, out)))
    return out


@pytest.fixture(scope="module")
def stopped(data: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Return the folder of a run that was stopped after two epochs of three."""
    out = tmp_path_factory.mktemp("stopped") / "cut.safetensors"
    work = train(settings(data, out))
    assert next(event for event in work if isinstance(event, EpochDone) and event.epoch == 2)
    work.close()
    return RunFolder.beside(out)


@pytest.fixture
def cut(stopped: RunFolder, tmp_path: Path) -> Path:
    """Return the model of a copy of that run."""
    shutil.copytree(stopped.root, tmp_path / stopped.root.name)
    return tmp_path / "cut.safetensors"


def moment(trainer: Trainer) -> None:
    next(iter(trainer.optimizer.state.values()))["exp_avg_sq"].view(-1)[3] = torch.nan


def weight(trainer: Trainer) -> None:
    with torch.no_grad():
        next(iter(trainer.model.parameters())).view(-1)[3] = torch.inf


def average(trainer: Trainer) -> None:
    next(iter(trainer.average.weights.values())).view(-1)[3] = torch.nan


@pytest.mark.slow
@pytest.mark.parametrize(
    ("poison", "named"), [(moment, "optimizer.0.exp_avg_sq"), (weight, "model."), (average, "average.")]
)
def test_what_the_last_step_of_an_epoch_spoils_never_replaces_the_epoch_before(
    poison: Poison, named: str, data: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, real = settings(data, tmp_path / "m.safetensors"), Trainer.step
    folder, kept = RunFolder.beside(run.out), {}

    def step(self: Trainer, rng: torch.Generator) -> torch.Tensor:
        read = real(self, rng)
        if self.progress.epoch == 1 and self.optimizer.state[next(iter(self.optimizer.state))]["step"] == 4:
            kept.update({path: path.read_bytes() for path in (folder.state, folder.best, folder.last, folder.history)})
            poison(self)
        return read

    monkeypatch.setattr(Trainer, "step", step)
    with pytest.raises(DivergedError, match=f"{named}.* at the end of epoch 2.* Epoch 1 is kept in") as error:
        drain(train(run))
    assert len(str(error.value)) <= 400
    assert {path: path.read_bytes() for path in kept} == kept
    assert run_state(folder).epochs_done == 1
    monkeypatch.undo()
    _, events = drain(train(run, resume=True))
    assert [event.epoch for event in events if isinstance(event, EpochDone)] == [2, 3]
    assert equal_states(folder.state, RunFolder.beside(whole).state)


def test_nothing_is_kept_of_a_first_epoch_that_was_spoilt(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, real = settings(data, tmp_path / "m.safetensors"), Trainer.step
    monkeypatch.setattr(Trainer, "step", lambda self, rng: (real(self, rng), moment(self))[0])
    with pytest.raises(DivergedError, match="at the end of epoch 1") as error:
        drain(train(run))
    assert "kept" not in str(error.value)
    assert [path.name for path in run.out.parent.rglob("*.safetensors")] == []


def truncated(state: Path) -> None:
    state.write_bytes(state.read_bytes()[:-100])


def one_bit(state: Path) -> None:
    content = bytearray(state.read_bytes())
    content[-1000] ^= 1
    state.write_bytes(content)


def not_finite(state: Path) -> None:
    """Write what versions before this check could write: it is complete, and has no hash."""
    tensors = load_file(state)
    tensors["optimizer.0.exp_avg"].view(-1)[0] = torch.nan
    save_file(tensors, state, metadata={"progress": json.dumps(progress_of(state)), "average_steps": "4"})


def missing(state: Path) -> None:
    state.unlink()


def progress_of(state: Path) -> dict[str, Any]:
    return RunFolder(state.parent).progress()


@pytest.mark.parametrize("damage", [truncated, one_bit, not_finite, missing])
def test_a_resume_takes_the_newest_state_that_is_whole_and_says_so(
    damage: Callable[[Path], None], data: Path, whole: Path, cut: Path
) -> None:
    folder = RunFolder.beside(cut)
    assert [RunFolder.progress(folder)["epoch"], len(folder.states())] == [2, 2]
    damage(folder.state)
    assert run_state(folder).epochs_done == (1 if damage in {truncated, missing} else 2)
    _, events = drain(train(settings(data, cut), resume=True))
    (said,) = (e.message for e in events if isinstance(e, StageStarted) and e.message.startswith("Resuming"))
    assert "Resuming after epoch 1 of 3" in said
    assert ("The state before it is used." in said) == (damage is not missing)
    assert [event.epoch for event in events if isinstance(event, EpochDone)] == [2, 3]
    assert equal_states(folder.state, RunFolder.beside(whole).state)
    mine, theirs = load_bundle(cut)[1], load_bundle(whole)[1]
    assert all(np.array_equal(mine[name], theirs[name]) for name in theirs)


def test_the_good_state_is_never_given_up_for_a_damaged_one(
    data: Path, cut: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder.beside(cut)
    good = folder.previous_state.read_bytes()
    one_bit(folder.state)
    work = train(settings(data, cut), resume=True)
    assert next(event for event in work if isinstance(event, StepDone))
    work.close()
    assert [path.read_bytes() == good for path in folder.states()] == [True, True]
    assert folder.state.samefile(folder.previous_state)
    check_run_targets(settings(data, cut), resume=True)  # it can be resumed again, although both names are one file
    monkeypatch.setattr("prosma_core.runs.run_folder._link_or_copy", shutil.copyfile)  # a file system without links
    folder.write_state(b"newer")
    assert [path.read_bytes() for path in folder.states()] == [b"newer", good]


def test_a_state_that_does_not_read_back_is_not_taken(cut: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, real = RunFolder.beside(cut), Path.read_bytes
    before = {path: path.read_bytes() for path in folder.root.iterdir() if path.is_file()}
    monkeypatch.setattr(Path, "read_bytes", lambda self: real(self)[:-1])
    with pytest.raises(OutputError, match="does not read back"):
        folder.write_state(b"a new state")
    monkeypatch.undo()
    assert {path: path.read_bytes() for path in folder.root.iterdir() if path.is_file()} == before


def test_where_no_state_is_whole_the_run_is_refused(data: Path, cut: Path) -> None:
    for state in RunFolder.beside(cut).states():
        truncated(state)
    with pytest.raises(
        TrainingError, match=r"state\.safetensors is damaged.*Start a new training \(without --resume\)"
    ):
        drain(train(settings(data, cut), resume=True))


def test_a_run_folder_of_an_older_version_is_resumed(data: Path, whole: Path, cut: Path) -> None:
    folder = RunFolder.beside(cut)
    tensors, progress = load_file(folder.state), progress_of(folder.state)
    save_file(tensors, folder.state, metadata={"progress": json.dumps(progress), "average_steps": "4"})
    folder.previous_state.unlink()
    drain(train(settings(data, cut), resume=True))
    assert equal_states(folder.state, RunFolder.beside(whole).state)


@pytest.mark.parametrize("resume", [False, True])
def test_a_second_training_into_the_folder_is_refused_and_the_first_is_whole(
    resume: bool, data: Path, whole: Path, tmp_path: Path
) -> None:
    run = settings(data, tmp_path / "m.safetensors")
    first = train(run)
    assert next(event for event in first if isinstance(event, EpochDone))
    with pytest.raises(RunLockedError, match="Another training writes to"):
        drain(train(run, resume=resume))
    drain(first)
    folder = RunFolder.beside(run.out)
    assert not (folder.root / LOCK_NAME).exists()
    assert equal_states(folder.state, RunFolder.beside(whole).state)


def test_the_command_of_a_run_can_be_pasted_whatever_its_name(tmp_path: Path, data: Path) -> None:
    shlex = pytest.importorskip("shlex")
    folder = RunFolder.beside(tmp_path / 'it\'s $(touch x) "a" model.safetensors')
    folder.write_settings(settings(data, folder.model), {"train": [], "val": []})
    line = (folder.root / "command.txt").read_text()
    assert shlex.split(line) == ["prosma", "train", "--config", str(folder.run_yaml), "--overwrite"]
