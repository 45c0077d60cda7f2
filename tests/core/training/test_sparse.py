"""Training on little: pairs, a few slices, scribbles, and what is said about it."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prosma_core.cli.train import measured
from prosma_core.config.training import load_run_yaml, resolve_run
from prosma_core.data.geometry import array_spec
from prosma_core.data.slices import SliceStates
from prosma_core.errors import ConfigError, DatasetError, GeometryError, OutputError
from prosma_core.events import EpochDone, StageStarted
from prosma_core.io.bundle import read_header
from prosma_core.io.images import write_image, write_labels
from prosma_core.io.notes import slices_note
from prosma_core.runs.run_folder import RunFolder, resumed_settings
from prosma_core.runs.run_state import FAVORS_START, NO_VALIDATION, format_before_after, got_worse, keep_stopped
from prosma_core.training.loop import TrainingResult, train
from prosma_core.training.optimization import learning_rate

SHAPE = (24, 32, 32)
SPEC = array_spec(SHAPE, "zyx", (1.0, 1.0, 1.0), "mm")
TINY = {
    "device": "cpu",
    "network": {"width": 4, "max_width": 8, "max_stages": 3},
    "preprocess": {"tile": [16, 16, 16]},
    "training": {"epochs": 1, "steps": 2, "batch_size": 2, "ema_decay": 0.9},
}


def ball(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a noisy bright ball with a core, and its labels 1 and 2."""
    rng = np.random.default_rng(seed)
    distance = np.sqrt(sum((g - c) ** 2 for g, c in zip(np.indices(SHAPE), (12, 15, 16), strict=True)))
    labels = (distance < 9).astype(np.uint8) + (distance < 5)
    return (labels * 50 + rng.normal(0, 10, SHAPE)).astype(np.float32), labels


@pytest.fixture
def pair(tmp_path: Path):
    """Return a maker of pairs of files: seed, and the labels, whole or as a function of the whole ones."""

    def make(seed: int, change=lambda labels: labels) -> tuple[Path, Path]:
        image, labels = ball(seed)
        paths = tmp_path / f"scan{seed}.nii.gz", tmp_path / f"painted{seed}.nii.gz"
        labels = change(labels)
        write_image(paths[0], image, SPEC, overwrite=True)
        spec = SPEC if labels.ndim == 3 else array_spec(labels.shape, "yx")
        write_labels(paths[1], labels, spec, overwrite=True)
        return paths

    return make


def on_slices(*slices: int):
    def change(labels: np.ndarray) -> np.ndarray:
        kept = np.zeros_like(labels)
        kept[list(slices)] = labels[list(slices)]
        return kept

    return change


def run_of(tmp_path: Path, pairs, **changes: Any):
    values = {**TINY, "pairs": pairs, "out": tmp_path / "m.safetensors", **changes}
    values["training"] = {**TINY["training"], **changes.get("training", {})}
    return resolve_run(values)


def drain(run) -> tuple[TrainingResult, list[str], list[EpochDone]]:
    events = []
    while True:
        try:
            events.append(next(run))
        except StopIteration as stop:
            said = [e.message for e in events if isinstance(e, StageStarted)]
            return stop.value, said, [e for e in events if isinstance(e, EpochDone)]


SLICES = {"zero": "annotated_slices"}


@pytest.mark.slow
def test_few_annotated_slices_train_a_model_that_is_validated_on_others(pair, tmp_path: Path) -> None:
    pairs = [pair(i, on_slices(6, 9, 12, 15, 18)) for i in range(3)]
    run = run_of(tmp_path, pairs, labels=SLICES, training={"epochs": 1, "steps": 50, "learning_rate": 0.02})
    result, said, _ = drain(train(run))
    assert any("3 annotated slices of the same scans are held out" in s for s in said)
    assert any("annotated slices z 6, 9, 12, 15, 18" in s for s in said)
    assert result.header.training["validation"] == "slices"
    assert [c.value for c in result.header.classes] == [0, 1, 2]
    assert result.validation.mean > 0.6
    stored = json.loads(RunFolder.beside(run.out).splits.read_text())
    assert all(len(h["slices"]) == 1 for h in stored["held_out"].values())


@pytest.mark.slow
def test_a_sparse_run_repeats_from_its_yaml_and_resumes_with_its_slices(pair, tmp_path: Path) -> None:
    pairs = [pair(0, on_slices(6, 9, 12, 15, 18))]
    run = run_of(tmp_path, pairs, labels=SLICES)
    first, _, _ = drain(train(run))
    folder = RunFolder.beside(run.out)
    again = resolve_run({**load_run_yaml(folder.run_yaml), "out": tmp_path / "again.safetensors"})
    assert again.pairs == tuple(pairs)
    repeated, _, _ = drain(train(again))
    assert repeated.header.sha256 == first.header.sha256
    before = folder.splits.read_text()
    pair(0, on_slices(3, 6, 7, 8, 9, 12, 15, 18, 20))  # painted on since
    drain(train(resolve_run(resumed_settings(folder, {}, more_epochs=1)), resume=True))
    assert folder.splits.read_text() == before


def test_too_little_to_hold_out_is_said_and_stored(pair, tmp_path: Path) -> None:
    result, said, _ = drain(train(run_of(tmp_path, [pair(0, on_slices(10, 14))], labels=SLICES)))
    assert any("expect lower Dice on new scans" in s for s in said)
    assert read_header(result.path).training["validation"] == "none held out"
    assert measured(result.header) == "training"


def scribble(labels: np.ndarray) -> np.ndarray:
    painted = np.zeros_like(labels)
    painted[8:16:2, 15, 4:28] = np.where(labels == 0, 9, labels)[8:16:2, 15, 4:28]
    return painted


def test_scribbles_with_painted_background_train(pair, tmp_path: Path) -> None:
    meaning = {"zero": "unlabeled", "background": 9}
    result, said, _ = drain(train(run_of(tmp_path, [pair(i, scribble) for i in range(4)], labels=meaning)))
    assert [c.value for c in result.header.classes] == [0, 1, 2]
    assert result.header.training["validation"] == "cases"
    assert not any("every voxel" in s for s in said)


def test_scribbles_without_background_are_explained(pair, tmp_path: Path) -> None:
    pairs = [pair(i, scribble) for i in range(2)]
    _, said, _ = drain(train(run_of(tmp_path, pairs, labels={"zero": "unlabeled", "ignore": 9})))
    assert any("every voxel one of the painted classes (class 1, class 2)" in s for s in said)
    with pytest.raises(DatasetError, match="Only class 1 is painted"):
        drain(train(run_of(tmp_path, pairs, labels={"zero": "unlabeled", "ignore": 9, "one_class": True})))


def test_labels_with_empty_slices_between_are_asked_about(pair, tmp_path: Path) -> None:
    _, said, _ = drain(train(run_of(tmp_path, [pair(0, on_slices(6, 12, 18))])))
    assert any("3 slices between z 6 and 18 hold labels" in s and "--annotated-slices" in s for s in said)


@pytest.mark.slow
def test_what_is_ignored_changes_no_weight(pair, tmp_path: Path) -> None:
    def unsure(value: int):
        def change(labels: np.ndarray) -> np.ndarray:
            labels = labels.copy()
            labels[:, :16] = value
            return labels

        return change

    hashes = []
    for value in (200, 201):
        pairs = [pair(i, unsure(value)) for i in range(2)]
        run = run_of(tmp_path, pairs, labels={"ignore": value}, out=tmp_path / f"{value}.safetensors")
        hashes.append(drain(train(run))[0].header.sha256)
    assert hashes[0] == hashes[1]


def test_an_empty_pair_is_left_out_and_none_annotated_is_refused(pair, tmp_path: Path) -> None:
    empty = pair(1, np.zeros_like)
    _, said, _ = drain(train(run_of(tmp_path, [pair(0, on_slices(6, 9, 12, 15)), empty], labels=SLICES)))
    assert any("scan1 holds no annotation and is left out" in s for s in said)
    with pytest.raises(DatasetError, match=r"No case .* holds an annotation"):
        drain(train(run_of(tmp_path, [empty], labels=SLICES)))
    with pytest.raises(DatasetError, match="No training case has a labeled voxel"):
        drain(train(run_of(tmp_path, [empty])))


def test_labels_painted_on_a_picture_of_a_volume_are_refused(pair, tmp_path: Path) -> None:
    with pytest.raises(GeometryError, match=r"painted0\.nii\.gz\) for a volume .* cannot be told"):
        drain(train(run_of(tmp_path, [pair(0, lambda labels: labels[12])])))


def test_ten_thousand_objects_are_one_class_where_asked(pair, tmp_path: Path) -> None:
    def numbered(labels: np.ndarray) -> np.ndarray:
        return np.where(labels > 0, np.arange(labels.size).reshape(SHAPE) % 10_000, 0).astype(np.uint16)

    pairs = [pair(i, numbered) for i in range(2)]
    with pytest.raises(
        DatasetError, match=r"they number objects, not classes, or are an image\. To take all .*--one-class"
    ):
        drain(train(run_of(tmp_path, pairs)))
    result, _, _ = drain(train(run_of(tmp_path, pairs, labels={"one_class": True})))
    assert [c.value for c in result.header.classes] == [0, 1]


@pytest.mark.slow
def test_fine_tuning_is_compared_with_its_start_on_the_same_cases(pair, tmp_path: Path) -> None:
    pairs = [pair(i) for i in range(4)]
    good = {"epochs": 1, "steps": 40, "learning_rate": 0.01}
    start, _, _ = drain(
        train(run_of(tmp_path, pairs, training=good, class_names={0: "background", 1: "rim", 2: "core"}))
    )
    bad = {"epochs": 1, "steps": 10, "learning_rate": 1.0, "warmup": 0.0}
    out = tmp_path / "tuned.safetensors"
    tuned, said, _ = drain(train(run_of(tmp_path, pairs, init=str(start.path), out=out, training=bad)))
    assert any("before fine-tuning" in s for s in said)
    assert tuned.before == pytest.approx(
        {"class 1": start.validation.dice["rim"], "class 2": start.validation.dice["core"]}
    )
    assert set(read_header(out).training["before"]) == {"class 1", "class 2"}
    report = json.loads(RunFolder.beside(out).before_after.read_text())
    assert report["before"] == tuned.before
    assert report["after"] == tuned.validation.dice
    assert "got worse" in report["words"]
    assert "keep the one it started from" in report["words"]
    resumed, _, _ = drain(train(resolve_run(resumed_settings(RunFolder.beside(out), {}, more_epochs=1)), resume=True))
    assert resumed.before == tuned.before


@pytest.mark.slow
def test_more_epochs_go_on_at_the_rate_of_a_run_of_that_length(pair, tmp_path: Path) -> None:
    run = run_of(
        tmp_path, [pair(i) for i in range(2)], training={"epochs": 2, "minutes": 60, "patience": 1, "steps": 1}
    )
    drain(train(run))
    settings = resumed_settings(RunFolder.beside(run.out), {}, more_epochs=3)
    longer = resolve_run(settings)
    assert (longer.training.epochs, longer.training.minutes, longer.training.patience) == (5, None, None)
    _, _, epochs = drain(train(longer, resume=True))
    assert [e.epoch for e in epochs] == [3, 4, 5]
    assert [e.learning_rate for e in epochs] == [learning_rate(longer.training, done / 5) for done in (2, 3, 4)]


def test_a_full_disk_keeps_the_state_of_the_last_epoch(pair, tmp_path: Path, monkeypatch) -> None:
    run = run_of(tmp_path, [pair(i) for i in range(2)], training={"epochs": 3})
    folder, real = RunFolder.beside(run.out), Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if folder.state.exists() and path.suffix == ".safetensors":
            real(path, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="No space left on device"):
        drain(train(run))
    monkeypatch.undo()
    assert folder.epochs_done() == 1
    assert not [p for p in folder.root.iterdir() if p.name.startswith(".")]
    _, _, epochs = drain(train(resolve_run(resumed_settings(folder, {})), resume=True))
    assert [e.epoch for e in epochs] == [2, 3]


def result_of(pair, seed: int, states: SliceStates | None, change=lambda labels: labels) -> tuple[Path, Path]:
    """Write a pair whose labels are a model's result, with a note on what was checked and edited."""
    image, painted = pair(seed)
    notes = {"program": "prosma", "model": "start", **slices_note(states)}
    write_labels(painted, change(ball(seed)[1]), SPEC, overwrite=True, provenance=notes)
    return image, painted


def garbage(*slices: int):
    """Return a change that leaves only these slices as they are."""

    def change(labels: np.ndarray) -> np.ndarray:
        wrong = np.random.default_rng(1).integers(0, 250, labels.shape).astype(np.uint8)
        wrong[list(slices)] = labels[list(slices)]
        return wrong

    return change


def test_what_nobody_checked_or_edited_changes_neither_weights_nor_dice(pair, tmp_path: Path) -> None:
    states = SliceStates("z", 24, 1, checked=(2, 9, 15), edited=(5, 7, 11, 12, 13), only=True)
    found = []
    for name, change in (("a", lambda labels: labels), ("b", garbage(*states.annotated))):
        pairs = [result_of(pair, 0, states, change)]
        result, said, epochs = drain(train(run_of(tmp_path, pairs, out=tmp_path / f"{name}.safetensors")))
        found.append((result.header.sha256, result.validation.dice, [e.loss for e in epochs], result.held_out, said))
    assert found[0] == found[1]
    assert any("8 slices (z 2, 5, 7, 9, 11, 12, 13, 15) checked or edited" in s for s in said)
    stored = json.loads(RunFolder.beside(tmp_path / "b.safetensors").splits.read_text())
    assert set(stored["held_out"]["scan0"]["slices"]) <= set(states.edited)
    assert stored["corrected"] == ["scan0"]


def test_a_corrected_result_is_compared_on_edited_slices_and_not_called_worse(pair, tmp_path: Path) -> None:
    start, _, _ = drain(train(run_of(tmp_path, [pair(i) for i in range(2)])))
    states = SliceStates("z", 24, 1, checked=(2, 9), edited=(5, 7, 11, 12, 13), only=True)
    bad = {"epochs": 1, "steps": 10, "learning_rate": 1.0, "warmup": 0.0, "trained_share": 1, "distillation": 0}
    run = run_of(
        tmp_path, [result_of(pair, 0, states)], init=str(start.path), out=tmp_path / "t.safetensors", training=bad
    )
    tuned, _, _ = drain(train(run))
    assert tuned.before is not None
    assert FAVORS_START in tuned.held_out
    assert "independent_labels" not in tuned.header.training
    for fall, worse in ((0.15, False), (0.25, True)):  # more than labels that favor the start model explain
        higher = {name: dice + fall for name, dice in tuned.validation.dice.items()}
        words = format_before_after(higher, tuned.validation.dice, tuned.held_out)
        assert [said in words for said in ("got worse", "made the model worse", "no verdict")] == [
            worse,
            worse,
            not worse,
        ]
        assert got_worse(higher, tuned.validation.dice, tuned.held_out) == worse
    assert keep_stopped(RunFolder.beside(run.out)).held_out == tuned.held_out


def test_a_result_that_was_only_checked_trains_and_is_not_compared(pair, tmp_path: Path) -> None:
    start, _, _ = drain(train(run_of(tmp_path, [pair(i) for i in range(2)])))
    everything = SliceStates("z", 24, 1, checked=tuple(range(24)), only=True)
    run = run_of(tmp_path, [result_of(pair, 0, everything)], init=str(start.path), out=tmp_path / "t.safetensors")
    tuned, said, _ = drain(train(run))
    assert tuned.before is None
    assert tuned.held_out.startswith(NO_VALIDATION)
    assert "Nothing is held out: before and after are not compared." in said
    assert measured(tuned.header) == "training"


@pytest.mark.parametrize(("corrected", "kind"), [((12, 14), "none held out"), ((8, 10, 12, 14), "slices")])
def test_the_only_corrected_scan_is_trained_on(corrected: tuple[int, ...], kind: str, pair, tmp_path: Path) -> None:
    untouched, checked, edited = (
        SliceStates("z", 24, 1, *each, only=True) for each in (((), ()), ((9, 12), ()), ((9,), corrected))
    )
    states = [untouched, checked, checked, checked, edited]
    pairs = [result_of(pair, i, each) for i, each in enumerate(states)]
    result, _, _ = drain(train(run_of(tmp_path, pairs)))
    stored = json.loads(RunFolder.beside(result.path).splits.read_text())
    assert (stored["train"], stored["validation"]) == (["scan1", "scan2", "scan3", "scan4"], kind)
    assert len(stored["held_out"].get("scan4", {"slices": ()})["slices"]) == (kind == "slices")
    assert set(stored["held_out"]) <= {"scan4"}
    with pytest.raises(DatasetError, match="holds an annotation"):
        drain(train(run_of(tmp_path, pairs[:1], out=tmp_path / "n.safetensors")))


@pytest.mark.parametrize("given", [True, False], ids=["annotated_slices", "corrected copies"])
def test_few_slices_of_a_body_are_learned_without_mirroring_whatever_says_that_they_are_few(
    given: bool, pair, tmp_path: Path
) -> None:
    states = SliceStates("z", 24, 1, checked=(9,), edited=(5, 7, 11, 13), only=True)
    pairs = [pair(0) if given else result_of(pair, 0, states), pair(1)]
    slices = {"scan0": states.annotated, "scan1": states.annotated} if given else {"scan0": states.annotated}
    run = run_of(tmp_path, pairs, **({"annotated_slices": slices} if given else {}))
    result, _, _ = drain(train(run))
    assert result.header.mirror_axes == ("x" if given else "zyx")  # most of the scans, not one of two


def test_edited_slices_that_are_only_checked_at_another_time_point_are_not_validated_on(tmp_path: Path) -> None:
    spec = array_spec((2, *SHAPE), "tzyx", (1.0, 1.0, 1.0), "mm")
    states = SliceStates("z", 24, 2, checked=(24 + 9, 24 + 12), edited=(9, 12), only=True)
    assert not states.judges
    pairs = []
    for i in range(4):
        image, labels = (np.stack([each] * 2) for each in ball(i))
        pairs.append((tmp_path / f"scan{i}.nii.gz", tmp_path / f"painted{i}.nii.gz"))
        write_image(pairs[-1][0], image, spec)
        result = {"program": "prosma", "model": "start", **slices_note(states)} if i else None
        write_labels(pairs[-1][1], labels, spec, provenance=result)
    result, _, _ = drain(train(run_of(tmp_path, pairs)))
    stored = json.loads(RunFolder.beside(result.path).splits.read_text())
    assert stored["val"] == ["scan0"]
    assert "corrected" not in stored


def test_a_marked_scan_that_was_only_checked_takes_the_verdict_from_no_other(pair, tmp_path: Path) -> None:
    start, _, _ = drain(train(run_of(tmp_path, [pair(i) for i in range(2)])))
    edited, checked = (SliceStates("z", 24, 1, (9,), each, only=True) for each in ((12, 14), ()))
    pairs = [result_of(pair, i, edited) for i in range(2)] + [result_of(pair, 2, checked)]
    run = run_of(tmp_path, pairs, init=str(start.path), out=tmp_path / "t.safetensors", validation=[1, 2])
    tuned, said, _ = drain(train(run))
    stored = json.loads(RunFolder.beside(run.out).splits.read_text())
    assert (stored["train"], stored["val"], stored["corrected"]) == (["scan0"], ["scan1"], ["scan1"])
    assert any("was edited there: scan2. They are not trained on." in s for s in said)
    assert tuned.before is not None
    assert "independent_labels" not in tuned.header.training


def test_annotated_slices_are_given_by_case(pair, tmp_path: Path) -> None:
    given = {"scan0": [5, 7, 9, 11, 12, 13, 20]}
    hashes = []
    for name, change in (("a", lambda labels: labels), ("b", garbage(*given["scan0"]))):
        run = run_of(tmp_path, [pair(0, change), pair(1)], annotated_slices=given, out=tmp_path / f"{name}.safetensors")
        result, _, _ = drain(train(run))
        hashes.append(result.header.sha256)
        assert result.header.training["validation"] == "slices"
    assert hashes[0] == hashes[1]
    again = resolve_run({**load_run_yaml(RunFolder.beside(run.out).run_yaml), "out": tmp_path / "again.safetensors"})
    assert drain(train(again))[0].header.sha256 == hashes[0]
    with pytest.raises(ConfigError, match="annotated_slices names 'scan9', which is no case; the cases are scan0"):
        drain(train(run_of(tmp_path, [pair(0)], annotated_slices={"scan9": [1]}, out=tmp_path / "n.safetensors")))
    with pytest.raises(GeometryError, match="Slice 24 of scan0 is given as annotated, but it has 24 slices along z"):
        drain(train(run_of(tmp_path, [pair(0)], annotated_slices={"scan0": [24]}, out=tmp_path / "n.safetensors")))
