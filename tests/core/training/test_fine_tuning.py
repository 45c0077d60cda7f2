"""Fine-tuning that does not forget: the mean with the start model's weights, and its own predictions as targets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from prosma_core.api import segment
from prosma_core.config.model import Purpose, ScanFacts
from prosma_core.config.training import AugmentConfig, load_run_yaml, resolve_run
from prosma_core.data.geometry import array_spec
from prosma_core.data.labels import IGNORED
from prosma_core.data.slices import SliceStates
from prosma_core.errors import TrainingError
from prosma_core.events import EpochDone, StageStarted
from prosma_core.inference.tiled import TiledPredictor
from prosma_core.io.bundle import description_text, load_bundle, read_header
from prosma_core.io.images import write_image, write_labels
from prosma_core.io.notes import slices_note
from prosma_core.runs.run_folder import RunFolder
from prosma_core.training import fine_tuning, processes
from prosma_core.training.cases import PatchSampler, TrainingCase
from prosma_core.training.fine_tuning import choose_by, keep_start, mean_weights
from prosma_core.training.loop import train
from prosma_core.training.optimization import distillation_loss, distillation_sums
from prosma_core.training.prepare import inherited, prepare_run

SHAPE = (16, 24, 24)
TINY: dict[str, Any] = {
    "device": "cpu",
    "network": {"width": 4, "max_width": 8, "max_stages": 3},
    "preprocess": {"tile": [16, 16, 16]},
}
LOOP: dict[str, Any] = {"epochs": 2, "steps": 3, "batch_size": 2, "ema_decay": 0.9}
SLICES = {"zero": "annotated_slices", "slice_axis": "z"}


def written(tmp_path: Path, name: str, slices: tuple[int, ...], classes: int = 1) -> tuple[Path, Path]:
    """Write a bright ball, with a core where it has two classes, and its labels on some slices; two files."""
    rng = np.random.default_rng(0)
    distance = np.sqrt(sum((g - c) ** 2 for g, c in zip(np.indices(SHAPE), (8, 11, 12), strict=True)))
    labels = (distance < 7).astype(np.uint8) + (distance < 4) * (classes > 1)
    kept = np.zeros(SHAPE, np.uint8)
    kept[list(slices)] = labels[list(slices)]
    spec = array_spec(SHAPE, "zyx", (1.0, 1.0, 1.0), "mm")
    paths = tmp_path / f"{name}.nii.gz", tmp_path / f"{name}-labels.nii.gz"
    write_image(paths[0], (labels * 50 + rng.normal(0, 10, SHAPE)).astype(np.float32), spec)
    write_labels(paths[1], kept, spec)
    return paths


def drain(run) -> tuple[Any, list[str]]:
    said = []
    while True:
        try:
            event = next(run)
        except StopIteration as stop:
            return stop.value, said
        if isinstance(event, StageStarted):
            said.append(event.message)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model of one class that learned a little."""
    root = tmp_path_factory.mktemp("start")
    pair = written(root, "whole", tuple(range(SHAPE[0])))
    values = {**TINY, "pairs": [pair], "out": root / "start.safetensors", "class_names": {0: "background", 1: "ball"}}
    values["purpose"] = {"modality": "MR", "not_for": "cubes"}
    loop = {**LOOP, "epochs": 1, "steps": 25, "learning_rate": 0.01}
    return drain(train(resolve_run({**values, "training": loop})))[0].path


def tuned(tmp_path: Path, start: Path, name: str = "tuned", **training: Any):
    """Return a run that goes on from the start model on three slices."""
    pair = tmp_path / "few.nii.gz", tmp_path / "few-labels.nii.gz"
    if not pair[0].is_file():
        written(tmp_path, "few", (4, 8, 11))
    values = {"device": "cpu", "pairs": [pair], "out": tmp_path / f"{name}.safetensors", "init": str(start)}
    classes = {0: "background", 1: "ball"}
    return resolve_run({**values, "labels": SLICES, "class_names": classes, "training": {**LOOP, **training}})


def same(one: Path, two: Path) -> bool:
    a, b = load_bundle(one)[1], load_bundle(two)[1]
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize(
    ("dice", "chosen"),
    [(1, (0.25, 1)), (0.85, (0.25, 1)), (0.84, (0.5, 1)), (0.5, (0.5, 1)), (0.49, (0.75, 0)), (0, (0.75, 0))],
)
def test_the_better_the_start_model_the_less_is_changed(dice: float, chosen: tuple[float, float]) -> None:
    assert choose_by(dice) == chosen


def test_logits_coarser_than_the_scan_are_compared_on_its_grid() -> None:
    coarse = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    soft = torch.rand(1, 2, 8, 8, generator=torch.Generator().manual_seed(1)).softmax(1)
    labels = torch.full((1, 1, 8, 8), IGNORED)
    fine = torch.nn.functional.interpolate(coarse, (8, 8), mode="bilinear")
    torch.testing.assert_close(
        distillation_sums(coarse, soft, labels, (0, 1)), distillation_sums(fine, soft, labels, (0, 1))
    )


def test_targets_reach_only_what_is_not_annotated_and_only_classes_that_the_start_model_has() -> None:
    logits = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = torch.full((2, 1, 6, 6), IGNORED)
    labels[:, :, 2:4] = 2
    soft = torch.rand(2, 2, 6, 6, generator=torch.Generator().manual_seed(1)).softmax(1)
    soft[:, :, 5] = 0  # outside of the scan
    loss = distillation_loss(*distillation_sums(logits, soft, labels, (0, 2)))
    loss.backward()
    assert logits.grad is not None
    reached = logits.grad != 0
    assert not reached[:, 1].any()
    assert not reached[:, :, 2:4].any()
    assert not reached[:, :, 5].any()
    assert reached[:, [0, 2]][:, :, [0, 1, 4]].all()
    known = logits[:, [0, 2]][:, :, [0, 1, 4]]
    expected = torch.nn.functional.cross_entropy(known, soft[:, :, [0, 1, 4]])
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("grid", [(40, 30), (9, 40, 30)])
@pytest.mark.parametrize("turned", [0, 1])
def test_targets_are_cropped_mirrored_turned_and_zoomed_as_the_image(grid: tuple[int, ...], turned: int) -> None:
    axes = torch.meshgrid(*(torch.arange(1.0, n + 1) for n in grid), indexing="ij")
    case = TrainingCase("c", torch.stack(axes), torch.zeros(grid, dtype=torch.uint8), [])
    case = replace(case, probabilities=(case.image / 64).half())
    augment = AugmentConfig(p_rotate=turned, p_scale=turned, shift=0.3)
    patch, spacing = (16,) * len(grid), (1.5, 1.0, 0.7)[: len(grid)]
    drawn, _ = PatchSampler([case], patch, spacing, 0.0, augment).draw(12, torch.Generator().manual_seed(0))
    image, soft = drawn.split(len(grid), 1)
    torch.testing.assert_close(soft * 64, image, atol=2e-3 * turned, rtol=0)


def test_a_case_without_targets_has_none_beside_one_that_has() -> None:
    one = TrainingCase("one", torch.ones(1, 20, 20), torch.zeros(20, 20, dtype=torch.uint8), [])
    other = replace(one, image=-one.image, probabilities=torch.full((2, 20, 20), 0.5).half())
    drawn, _ = PatchSampler([one, other], (8, 8), (1.0, 1.0), 0.0, AugmentConfig()).draw(30, torch.Generator())
    first = drawn[:, 0].amax((1, 2)) > 0
    assert bool(first.any())
    assert not drawn[first, 1:].any()
    assert drawn[~first, 1:].flatten(1).any(1).all()


def test_the_mean_of_weights_has_its_ends_to_the_bit_and_leaves_what_is_new() -> None:
    start, trained = {"a": torch.randn(9)}, {"a": torch.randn(9), "new": torch.randn(3)}
    assert torch.equal(mean_weights(start, trained, 0)["a"], start["a"])
    assert torch.equal(mean_weights(start, trained, 1)["a"], trained["a"])
    middle = mean_weights(start, trained, 0.25)
    torch.testing.assert_close(middle["a"], 0.75 * start["a"] + 0.25 * trained["a"])
    assert torch.equal(middle["new"], trained["new"])


def test_a_share_of_zero_is_the_start_model_and_one_is_what_was_trained(tmp_path: Path, start: Path) -> None:
    models = {}
    for share in (0.0, 0.5, 1.0):
        run = tuned(tmp_path, start, f"share{share:g}", trained_share=share, distillation=1)
        result, said = drain(train(run))
        models[share] = load_bundle(result.path)[1]
        if not share:
            files = RunFolder.beside(result.path)
            assert all(same(path, start) for path in (result.path, files.best, files.last))
            assert result.before is None  # nothing is held out
            assert any(s.startswith("As set, the model has none of the trained weights, and its own") for s in said)
    assert not np.allclose(models[1]["heads.0.weight"], models[0]["heads.0.weight"], atol=1e-5)
    for name, value in models[0.5].items():  # model files hold half precision
        np.testing.assert_allclose(value, (models[0][name] + models[1][name]) / 2, atol=1e-3)


@pytest.mark.parametrize(
    ("bound", "memory", "words", "share", "weight"),
    [
        (-1.0, 10**9, "corrected carefully (a quarter of the trained weights, and its own predictions wh", 0.25, 1.0),
        (
            -1.0,
            0,
            "(a quarter of the trained weights). The start model's predictions would take 1 MiB",
            0.25,
            0.0,
        ),
        (2.0, 10**9, "retrained (three quarters of the trained weights).", 0.75, 0.0),
    ],
)
def test_what_is_kept_is_chosen_by_the_start_models_dice_and_said(
    tmp_path: Path,
    start: Path,
    monkeypatch: pytest.MonkeyPatch,
    bound: float,
    memory: int,
    words: str,
    share: float,
    weight: float,
) -> None:
    monkeypatch.setattr(fine_tuning, "GOOD", bound)
    monkeypatch.setattr(fine_tuning, "FAIR", bound)
    monkeypatch.setattr(processes, "free_memory", lambda _: memory)
    result, said = drain(train(tuned(tmp_path, start, epochs=1, steps=1)))
    (sentence,) = (s for s in said if "on the annotated voxels" in s)
    assert sentence.startswith("The start model has Dice 0.")
    assert words in sentence
    chosen = load_run_yaml(RunFolder.beside(result.path).run_yaml)["training"]
    assert (chosen["trained_share"], chosen["distillation"]) == (share, weight)


@pytest.mark.parametrize("flat", [False, True], ids=["3D", "2D"])
def test_slices_that_were_only_checked_do_not_make_a_poor_start_model_good(
    flat: bool, tmp_path: Path, start: Path
) -> None:
    """Of a result, the start model's own labels on checked slices count only where nothing else holds a class."""
    image, _ = written(tmp_path, "scan", ())
    spec, notes = array_spec(SHAPE, "zyx", (1.0, 1.0, 1.0), "mm"), {"program": "prosma", "model": "start"}
    if flat:
        pair = written(tmp_path, "whole", tuple(range(SHAPE[0])))
        values = {
            **TINY,
            "pairs": [pair],
            "out": tmp_path / "flat.safetensors",
            "preprocess": {"dims": 2, "tile": [32] * 2},
            "network": {**TINY["network"], "encoder": "residual"},
        }
        loop = {**LOOP, "epochs": 1, "steps": 25, "learning_rate": 0.01}
        start = drain(train(resolve_run({**values, "class_names": {1: "ball"}, "training": loop})))[0].path
    found = segment(image, start)
    corrected, checked = np.array(found), tuple(i for i in range(16) if i not in (6, 8))
    corrected[[6, 8]] = 1 - corrected[[6, 8]]  # all of it was wrong there
    said = []
    for edited in ((6, 8),) if flat else ((6, 8), ()):
        states = SliceStates("z", SHAPE[0], 1, checked, edited, only=True)
        labels = tmp_path / f"{len(edited)}.nii.gz"
        write_labels(labels, corrected if edited else found, spec, provenance=notes | slices_note(states))
        values = {"device": "cpu", "pairs": [(image, labels)], "out": tmp_path / f"{len(edited)}.safetensors"}
        run = resolve_run({**values, "init": str(start), "training": {**LOOP, "epochs": 1, "steps": 1}})
        said.append(next(s for s in drain(train(run))[1] if "has Dice" in s))
    assert said[0].startswith("The start model has Dice 0.00 on edited slices: it is retrained")
    assert flat or said[1].startswith(
        "The start model has Dice 1.00 on the annotated voxels: it is corrected carefully"
    )


def test_slices_that_a_2d_model_learns_are_not_segmented_for_targets_that_they_have_no_place_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flat = {**TINY, "preprocess": {"dims": 2, "tile": [16] * 2}}
    whole = written(tmp_path, "whole", tuple(range(SHAPE[0])))
    names = {0: "background", 1: "ball"}
    loop = {**LOOP, "epochs": 1, "steps": 25, "learning_rate": 0.01}
    values = {**flat, "pairs": [whole], "out": tmp_path / "start.safetensors", "class_names": names, "training": loop}
    start = drain(train(resolve_run(values)))[0].path
    segmented: list[tuple[int, ...]] = []
    predict = TiledPredictor.predict
    monkeypatch.setattr(TiledPredictor, "predict", lambda s, x, *a: segmented.append(x.shape) or predict(s, x, *a))
    monkeypatch.setattr(fine_tuning, "GOOD", 0.0)
    run = tuned(tmp_path, start, epochs=1, steps=1, validation_cases=1)
    ready, _ = drain(prepare_run(run, torch.device("cpu")))
    assert len(ready.train) > 1
    assert all(case.masked for case in ready.train)  # what lies beyond their edges is not known
    segmented.clear()
    (ready, _), said = drain(keep_start(ready, torch.device("cpu"), resume=False))
    assert len(segmented) == 1  # for the Dice
    assert said[-1].endswith("it is corrected carefully (a quarter of the trained weights).")
    assert all(case.probabilities is None for case in ready.train)


def test_a_fine_tuning_that_is_resumed_equals_one_that_was_never_stopped(tmp_path: Path, start: Path) -> None:
    chosen = {"trained_share": 0.25, "distillation": 1}
    whole, _ = drain(train(tuned(tmp_path, start, "whole", **chosen)))
    moved = start.rename(tmp_path / "moved.safetensors")
    work = train(cut := tuned(tmp_path, moved, "cut", **chosen))
    assert next(event.epoch for event in work if isinstance(event, EpochDone)) == 1
    work.close()
    moved.rename(start)  # a resume needs the run folder alone
    result, _ = drain(train(resolve_run(load_run_yaml(RunFolder.beside(cut.out).run_yaml)), resume=True))
    assert same(whole.path, result.path)
    one, two = (load_file(RunFolder.beside(model.path).state) for model in (whole, result))
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert result.before == whole.before
    for each, name in ((whole, "start"), (result, "moved")):
        assert description_text(each.header) == f"Fine-tuned from {name} on 1 scan. Not for: cubes."
    RunFolder.beside(cut.out).start.unlink()
    with pytest.raises(TrainingError, match="the model that this fine-tuning started from"):
        drain(train(resolve_run(load_run_yaml(RunFolder.beside(cut.out).run_yaml)), resume=True))


def test_what_a_start_model_is_not_for_holds_for_what_it_becomes_unless_that_is_of_other_scans(start: Path) -> None:
    base, facts = read_header(start), ScanFacts(scans=3, dims=3, channels=1, world="patient", modality="MR")
    phantom = base.replace(facts=facts.replace(synthetic=True), purpose=Purpose(not_for="real scans"))
    assert inherited(Purpose(), base, facts).not_for == "cubes"
    assert inherited(Purpose(), base, facts.replace(modality="")).not_for == "cubes"
    assert inherited(Purpose(), base, None).not_for == "cubes"
    assert inherited(Purpose(not_for="rods", modality="MR"), base, facts) == Purpose(not_for="rods", modality="MR")
    assert inherited(Purpose(shows="balls"), base, facts) == Purpose(shows="balls", not_for="cubes")
    assert inherited(Purpose(), base, facts.replace(modality="CT")) == Purpose()
    assert inherited(Purpose(), phantom, facts) == Purpose()
    assert inherited(Purpose(), phantom, facts.replace(synthetic=True)).not_for == "real scans"


def test_with_other_classes_new_outputs_take_no_part_in_the_mean(tmp_path: Path, start: Path) -> None:
    pair = written(tmp_path, "two", (4, 8, 11), classes=2)
    values = {"device": "cpu", "pairs": [pair], "init": str(start), "labels": SLICES}
    names = {0: "background", 1: "ball", 2: "core"}
    runs = {
        share: resolve_run(
            {**values, "out": tmp_path / f"{share}.safetensors", "class_names": names, "training": {**LOOP, **given}}
        )
        for share, given in (("chosen", {}), ("none", {"trained_share": 0.0, "distillation": 1.0}))
    }
    chosen, said = drain(train(runs["chosen"]))
    assert any("on the annotated voxels, and other classes: all of the trained weights" in s for s in said)
    assert load_run_yaml(RunFolder.beside(chosen.path).run_yaml)["training"]["trained_share"] == 1
    none, _ = drain(train(runs["none"]))
    old, new = load_bundle(start)[1], load_bundle(none.path)[1]
    for name, value in new.items():
        assert name.startswith("heads.") != np.array_equal(value, old.get(name))
