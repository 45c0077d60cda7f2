"""What a run folder says of its run, whatever state it was left in."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prosma_core.config.training import load_run_yaml, resolve_run
from prosma_core.errors import ConfigError, ModelFileError, TrainingError
from prosma_core.runs.run_folder import RunFolder
from prosma_core.runs.run_state import keep_stopped, read_history, run_state
from prosma_core.training.loop import train

TINY = {
    "device": "cpu",
    "network": {"width": 4, "max_width": 8, "max_stages": 3},
    "preprocess": {"tile": [32, 32]},
    "training": {"epochs": 2, "steps": 1, "batch_size": 1, "ema_decay": 0.5},
}


@pytest.fixture
def trained(tmp_path: Path, make_data: Callable[..., Path]) -> Callable[..., RunFolder]:
    """Return a maker of finished runs; it takes changes of the loop."""

    def make(**training: Any) -> RunFolder:
        data, out = make_data(tmp_path / "data"), tmp_path / "lesion.safetensors"
        work = train(resolve_run({**TINY, "data": data, "out": out, "training": {**TINY["training"], **training}}))
        for _ in work:
            pass
        return RunFolder.beside(out)

    return make


def test_a_finished_run_is_told_from_one_that_goes_on(trained: Callable[..., RunFolder]) -> None:
    folder = trained()
    state = run_state(folder)
    assert (state.name, state.out, state.start, state.held_out) == ("lesion", folder.model, None, "")
    assert (state.epochs_done, state.epochs, state.minutes, state.finished) == (2, 2, None, True)
    rows = read_history(folder)
    assert [row["epoch"] for row in rows] == [1, 2]
    assert state.dice == rows[-1]["mean_dice"]
    assert state.minutes_spent == pytest.approx(sum(row["seconds"] for row in rows) / 60, abs=1e-3)
    folder.model.unlink()
    assert not run_state(folder).finished


def history(folder: RunFolder, dice: list[float]) -> None:
    """Let the run's epochs have these Dice."""
    first, *lines = folder.history.read_text(encoding="utf-8").splitlines()
    at = first.split(",").index("mean_dice")
    rows = [line.split(",") for line in lines]
    changed = [",".join([*row[:at], str(value), *row[at + 1 :]]) for row, value in zip(rows, dice, strict=True)]
    folder.history.write_text("\n".join([first, *changed]) + "\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("keep", "expected", "dice"), [("auto", "last", 0.6), ("best", "best", None), ("last", "last", 0.6)]
)
def test_the_weights_that_are_kept_are_those_that_the_settings_say_and_their_dice_is_shown(
    trained: Callable[..., RunFolder], keep: str, expected: str, dice: float | None
) -> None:
    folder = trained(keep=keep)  # one scan is held out
    history(folder, [1.7, 0.6])  # the first on other labels, which have changed since
    assert load_run_yaml(folder.run_yaml)["training"]["keep"] == expected
    assert run_state(folder).dice == (dice or folder.progress()["best_dice"])
    kept = keep_stopped(folder).path.read_bytes()
    assert kept == (folder.best if expected == "best" else folder.last).read_bytes()


def test_run_whose_history_is_damaged_can_go_on(trained: Callable[..., RunFolder]) -> None:
    folder = trained()
    for text in ("epoch,mean_dice\n1,what\n", "epoch,loss\n1,0.5\n"):
        folder.history.write_text(text, encoding="utf-8")
        assert run_state(folder).dice == folder.progress()["best_dice"]
        assert run_state(folder).epochs_done == 2


def test_epochs_that_were_not_validated_have_no_dice(trained: Callable[..., RunFolder]) -> None:
    rows = read_history(trained(validation_every=2))
    assert [row["mean_dice"] is None for row in rows] == [True, False]
    assert isinstance(rows[0]["loss"], float)


def test_patience_ends_a_run(trained: Callable[..., RunFolder]) -> None:
    state = run_state(trained(epochs=500, patience=1, learning_rate=1e-12))
    assert state.epochs_done < 500
    assert state.finished


def test_patience_counts_from_where_new_labels_were_learned(
    trained: Callable[..., RunFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = trained(epochs=9, patience=2, steps=1)
    at = {**folder.progress(), "epoch": 5, "best_epoch": 1, "budget_epoch": 2}
    monkeypatch.setattr(RunFolder, "progress", lambda _: at)
    assert run_state(folder).finished
    at["epoch"] = 4
    assert not run_state(folder).finished


@pytest.mark.parametrize("keep", ["best", "last"])
def test_the_model_that_the_run_would_have_kept_is_kept(trained: Callable[..., RunFolder], keep: str) -> None:
    folder = trained(keep=keep)
    folder.model.unlink()
    splits = json.loads(folder.splits.read_text(encoding="utf-8"))
    folder.splits.write_text(json.dumps({**splits, "words": "2 slices are held out."}), encoding="utf-8")
    kept = keep_stopped(folder)
    assert kept.held_out == "2 slices are held out."
    assert kept.path.read_bytes() == (folder.best if keep == "best" else folder.last).read_bytes()
    assert keep == "best" or kept.epoch == 2
    folder.splits.write_text("damaged")
    assert keep_stopped(folder).held_out == ""


@pytest.mark.parametrize(
    ("file", "error", "words"),
    [
        ("run.yaml", ConfigError, "run.yaml"),
        ("state.safetensors", TrainingError, "state.safetensors is damaged"),
        ("splits.json", TrainingError, "splits.json cannot be read"),
    ],
)
@pytest.mark.parametrize("content", [b"", b"\xff\x00garbage: [", b"[1, 2]"])
def test_a_damaged_folder_is_said_by_its_file(
    trained: Callable[..., RunFolder], file: str, error: type, words: str, content: bytes
) -> None:
    folder = trained()
    (folder.root / file).write_bytes(content)
    folder.previous_state.unlink()
    with pytest.raises(error, match=words):
        run_state(folder)


@pytest.mark.parametrize(
    "content",
    [b"epoch,loss\n1,many\n", b"epoch,loss\n1,2,3\n", b"loss\n1\n", b"epoch,loss\n,1\xff\n", b"epoch,loss\ninf,1\n"],
)
def test_a_damaged_history_is_said(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "history.csv").write_bytes(content)
    with pytest.raises(TrainingError, match=r"history\.csv cannot be read"):
        read_history(RunFolder(tmp_path))


def test_a_damaged_model_is_not_kept(trained: Callable[..., RunFolder]) -> None:
    folder = trained()
    before = folder.model.read_bytes()
    folder.last.write_bytes(folder.last.read_bytes()[:40])
    with pytest.raises(ModelFileError):
        keep_stopped(folder)
    assert folder.model.read_bytes() == before


def test_the_list_of_runs_needs_no_torch() -> None:
    code = "import sys, prosma_core.runs.run_state, prosma_core.engine.client; print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert answer.stdout.strip() == "False"
