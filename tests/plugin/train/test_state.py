"""From choices to a run, without a window."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import numpy as np
import pytest
import torch
from napari.components import ViewerModel
from napari.layers import Image, Labels

from napari_prosma.layers.results import editable_copy, labels_layer
from napari_prosma.layers.scan import read
from napari_prosma.scan.selection import Problem
from napari_prosma.train.export_pairs import write_pairs
from napari_prosma.train.pairs import Pair, PairRow, check
from napari_prosma.train.requests import times_request
from napari_prosma.train.sources import layer_source
from napari_prosma.train.state import (
    TrainChoices,
    TrainPlan,
    asks_for_size,
    classes_of,
    resolve,
    sized,
    usual_budget,
    usual_meaning,
    usual_training,
)
from prosma_core.config.model import ClassInfo, VoxelSize
from prosma_core.config.training import PRESETS, LabelsConfig, Preset, load_run_yaml, resolve_run
from prosma_core.data.slices import SliceStates
from prosma_core.io.bundle import ModelEntry, find_model, read_header, shipped_models
from prosma_core.io.dataset_folder import open_cases
from prosma_core.io.images import read_labels
from prosma_core.runs.run_folder import RunFolder, check_new_run
from prosma_core.training.classes import format_classes
from prosma_core.training.dataset_summary import read_split, thick_words
from prosma_core.training.prepare import prepare_run
from prosma_core.training.split import choose_cases, class_counts

SPARSE = LabelsConfig(zero="annotated_slices")


def entry(name: str) -> ModelEntry:
    path = shipped_models()[name]
    return ModelEntry(path, read_header(path), shipped=True)


def row(
    shape: tuple[int, ...] = (10, 20, 20),
    name: str = "scan",
    config: LabelsConfig | None = None,
    slices: tuple[int, ...] = (2, 3, 4, 5, 6),
    values: tuple[int, ...] = (1,),
    **image: Any,
) -> PairRow:
    """A checked pair of layers: an object of each value on some slices."""
    scan = Image(np.zeros(shape, image.pop("dtype", np.float32)), name=name, **image)
    data = np.zeros(shape[: scan.ndim], np.uint8)
    for i, value in enumerate(values):
        place = (slice(2 + 4 * i, 5 + 4 * i), slice(4, 9))
        if data.ndim > 2:
            data[..., list(slices), place[0], place[1]] = value
        else:
            data[place] = value
    labels = Labels(data, name=f"{name} drawn", scale=scan.scale, units=scan.units, axis_labels=scan.axis_labels)
    found = check(Pair(layer_source(scan), layer_source(labels)), config or LabelsConfig())
    assert found.facts
    return found


def choices(*rows: PairRow, **changes: Any) -> TrainChoices:
    rows = rows or (row(),)
    given = TrainChoices(rows=rows, name="mine", **changes)
    return replace(given, classes=classes_of(rows, given.start)) if "classes" not in changes else given


def plan_of(given: TrainChoices, folder: Path) -> TrainPlan:
    plan = resolve(given, folder)
    assert isinstance(plan, TrainPlan), plan
    return plan


def finished(steps: Generator[Any, None, Any]) -> Any:
    """What a generator returns at its end."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value


def problem_of(given: TrainChoices, folder: Path) -> Problem:
    problem = resolve(given, folder)
    assert isinstance(problem, Problem), problem
    return problem


def test_the_voxel_size_of_images_that_state_none_is_asked_for_and_trained_with(tmp_path: Path) -> None:
    mixed = choices(row(units="mm"), row(name="bare"))
    assert asks_for_size(mixed)
    problem = problem_of(mixed, tmp_path)
    assert (problem.field, "Of 2 images, 1 has no voxel size, for example bare" in problem.text) == ("size", True)
    for text, said in (("3 foos", "is not a voxel size"), ("3,1", "give z,y,x or one number")):
        problem = problem_of(replace(mixed, size=text), tmp_path)
        assert problem.field == "size"
        assert said in problem.text
    run = resolve_run(plan_of(replace(mixed, size="3,1,1"), tmp_path).request_values)
    assert run.voxel_size == VoxelSize(sizes=(3, 1, 1), unit="mm")
    assert {each.spec.unit for each in sized(replace(mixed, size="3,1,1")) if each.spec} == {
        "mm"
    }  # as times are asked for
    assert resolve_run(plan_of(choices(row()), tmp_path).request_values).voxel_size is None
    assert not asks_for_size(choices(row(units="mm")))
    start = choices(row(), start=entry("phantom-3d"))
    assert any("Voxel size unknown" in note for note in plan_of(start, tmp_path).notes)
    assert not any("Voxel size" in note for note in plan_of(replace(start, size="1"), tmp_path).notes)


def test_a_valid_choice_gives_a_run_that_can_be_written_and_repeated(tmp_path: Path) -> None:
    given = choices(row(values=(1, 2)), preset="quick", device="cpu", training={"seed": 3})
    plan = plan_of(given, tmp_path)
    files = finished(write_pairs([each.pair for each in given.rows], tmp_path / "mine.prosma" / "data"))
    run = resolve_run(plan.request_values | {"pairs": files})
    assert (run.out, run.name, run.device, run.preset) == (tmp_path / "mine.safetensors", "mine", "cpu", "quick")
    assert run.training.seed == 3
    assert run.training.epochs == PRESETS["quick"]["training"]["epochs"]
    assert run.class_names == {c.value: c.name for c in given.classes}
    assert run.class_colors == {c.value: c.color for c in given.classes}
    folder = RunFolder.beside(run.out)
    check_new_run(run.out, folder, overwrite=False)
    folder.write_settings(run, {"train": [], "val": []})
    assert resolve_run(load_run_yaml(folder.run_yaml)) == run


@pytest.mark.parametrize(
    ("epochs", "minutes", "expected"),
    [(None, None, (40, None)), (7, None, (7, None)), (None, 2.5, (100_000, 2.5)), (7, 2.5, (7, 2.5))],
)
def test_the_budget(
    epochs: int | None, minutes: float | None, expected: tuple[int, float | None], tmp_path: Path
) -> None:
    run = resolve_run(plan_of(choices(epochs=epochs, minutes=minutes), tmp_path).request_values)
    assert (run.training.epochs, run.training.minutes) == expected


@pytest.mark.parametrize(
    ("chosen", "fine_tuning", "gpu", "expected"),
    [
        (None, False, False, ("quick", 10)),
        (None, False, True, ("balanced", None)),
        (None, True, False, ("fine-tune", None)),
        ("best", False, False, ("best", None)),
        ("quick", False, False, ("quick", 10)),
        ("quick", False, True, ("quick", None)),
        ("quick", True, False, ("quick", None)),
        ("balanced", True, True, ("balanced", None)),
    ],
)
def test_preset_and_minutes_fit_device_and_start(
    chosen: Preset | None, fine_tuning: bool, gpu: bool, expected: tuple[Preset, float | None]
) -> None:
    assert usual_budget(chosen, fine_tuning=fine_tuning, gpu=gpu) == expected


def test_a_start_model_is_named_as_the_command_line_does(tmp_path: Path) -> None:
    plan = plan_of(choices(start=entry("phantom-3d"), dims=3), tmp_path)
    assert find_model(plan.request_values["init"]) == shipped_models()["phantom-3d"]
    assert "preprocess" not in plan.request_values
    own = replace(entry("phantom-3d"), shipped=False)
    assert Path(plan_of(choices(start=own), tmp_path).request_values["init"]) == own.path


def test_a_model_may_have_any_name_and_its_file_has_a_safe_one(tmp_path: Path) -> None:
    plan = plan_of(replace(choices(), name="CT/MR liver"), tmp_path)
    assert plan.out == tmp_path / "CT_MR liver.safetensors"
    assert resolve_run(plan.request_values).name == "CT/MR liver"


@pytest.mark.parametrize(("dims", "expected"), [(None, None), (2, 2), (3, 3)])
def test_dimensions_of_a_new_model(dims: Any, expected: int | None, tmp_path: Path) -> None:
    run = resolve_run(plan_of(choices(dims=dims), tmp_path).request_values)
    assert run.preprocess.dims == expected


THICK = {"scale": (8, 1, 1), "units": ("mm",) * 3}


def few(axis: int, **image: Any) -> PairRow:
    """A scan of which two slices along an axis are annotated."""
    scan = Image(np.random.default_rng(0).normal(size=(24, 32, 32)).astype(np.float32), name="few", **image)
    data = np.zeros(scan.data.shape, np.uint8)
    np.moveaxis(data, axis, 0)[[5, 12], 4:9, 4:9] = 1
    labels = Labels(data, name="few drawn", scale=scan.scale, units=scan.units)
    return check(Pair(layer_source(scan), layer_source(labels)), SPARSE)


def corrected(axis: int, **image: Any) -> PairRow:
    """A scan with a model's result that was corrected in one slice, seen along an axis."""
    viewer = ViewerModel()
    scan = viewer.add_image(np.random.default_rng(0).normal(size=(24, 32, 32)).astype(np.float32), name="c", **image)
    classes = (ClassInfo(value=0, name="background"), ClassInfo(value=1, name="organ"))
    found = np.zeros(scan.data.shape, np.uint8)
    found[2:20, 5:15, 5:15] = 1
    copy = editable_copy(labels_layer(read(scan), found, classes, "organ", {"program": "prosma", "model": "m"}))
    viewer.add_layer(copy)
    viewer.dims.order = (axis, *(a for a in range(3) if a != axis))
    viewer.dims.set_point(axis, copy.data_to_world([9] * 3)[axis])
    at = [np.arange(5, 12)] * 3
    at[axis] = np.full(7, 9)
    copy.data_setitem(tuple(at), 0)
    return check(Pair(layer_source(scan), layer_source(copy)), LabelsConfig())


@pytest.mark.parametrize("preset", ["quick", "balanced"])
@pytest.mark.parametrize(
    ("make", "given", "dims"),
    [
        (lambda: row((96, 96), name="picture", dtype=np.uint8), {}, 2),
        (lambda: row((96, 96), name="picture", dtype=np.uint8), {"encoder": "residual"}, 2),
        (lambda: row((24, 32, 32), **THICK), {}, 3),
        (lambda: few(0, **THICK), {"labels": SPARSE}, 2),
        (lambda: few(1, **THICK), {"labels": SPARSE}, 3),
        (lambda: few(0, **THICK), {"labels": SPARSE, "dims": 3}, 3),
        (lambda: corrected(0, **THICK), {}, 2),
        (lambda: corrected(1, **THICK), {}, 3),
        (lambda: few(0, scale=(1, 1, 1), units=("mm",) * 3), {"labels": SPARSE}, 3),
        (lambda: row((24, 32, 32), **THICK), {"start": "phantom-3d"}, 3),
    ],
    ids=[
        "picture",
        "residual",
        "whole",
        "thick",
        "thick across",
        "thick in 3D",
        "corrected",
        "corrected across",
        "isotropic",
        "start",
    ],
)
def test_the_settings_shown_and_timed_are_those_that_are_trained_with(
    make: Any, given: dict[str, Any], dims: int, preset: Preset, tmp_path: Path
) -> None:
    there = make()
    assert there.problem == ""
    there.pair.image.layer.data = np.random.default_rng(0).integers(0, 200, there.pair.image.layer.data.shape)
    given = given | ({"start": entry(given["start"])} if "start" in given else {})
    chosen = choices(there, preset=preset, training={"patience": 7}, device="cpu", **given)
    plan = plan_of(chosen, tmp_path)
    files = finished(write_pairs([there.pair], tmp_path / "data"))
    setup = finished(prepare_run(resolve_run(plan.request_values | {"pairs": files}), torch.device("cpu")))
    assert plan.dims == setup.header.model.dims == dims
    shown, trained = usual_training(chosen).replace(**chosen.training), setup.run.training
    planned = {"keep": trained.keep} | ({} if shown.batch_size else {"batch_size": trained.batch_size})
    mirror = {"augment": trained.augment} if "start" in given else {}  # that of the model, which has no field
    assert shown.replace(**planned, **mirror) == trained
    said = f"{thick_words(there.spec)} For a 3D one, choose New 3D model."
    assert (said in plan.notes) == (dims == 2 and there.spec.spatial_ndim == 3)
    request = times_request(plan, sized(chosen), 2)
    if "start" not in given:
        assert {run.preprocess.dims for run in request.runs.values()} == {dims}


def test_pictures_among_scans_make_a_2d_model(tmp_path: Path) -> None:
    given = choices(row(), row((20, 20), name="picture"))
    plan = plan_of(given, tmp_path)
    assert resolve_run(plan.request_values).preprocess.dims == 2
    assert "The model is 2D: scans are taken slice by slice, along z." in plan.notes


def bad_rows() -> tuple[PairRow, ...]:
    pair = Pair(layer_source(Image(np.zeros((4, 5)), name="odd")), layer_source(Labels(np.ones((3, 3), int))))
    return (row(), check(pair, LabelsConfig()))


@pytest.mark.parametrize(
    ("make", "field", "words"),
    [
        (lambda: TrainChoices(name="mine"), "pairs", "Add an image and its labels"),
        (lambda: choices(*bad_rows()), "pairs", "odd: The labels have another grid"),
        (lambda: choices(row(units="mm"), row(units="um")), "pairs", "different units (mm, um)"),
        (lambda: choices(classes=()), "classes", "No object is painted yet"),
        (
            lambda: choices(classes=(*classes_of([row()], None), ClassInfo(value=2, name="class 1"))),
            "classes",
            "Two classes are named 'class 1'",
        ),
        (lambda: choices(row((20, 20)), start=entry("phantom-3d")), "start", "scan is a 2D picture, the model is 3D"),
        (lambda: choices(row((20, 20)), dims=3), "start", "choose a 2D model"),
        (
            lambda: choices(row(units="km"), start=entry("hippocampus-mri")),
            "start",
            "voxel size or unit of the scan is wrong",
        ),
        (lambda: choices(epochs=0), "budget", "Epochs: must be at least 1 (given: 0)."),
        (lambda: choices(minutes=-1.0), "budget", "Minutes: must be more than 0 (given: -1.0)."),
        (lambda: choices(device_error="There is no such device."), "device", "There is no such device."),
        (lambda: replace(choices(), name="  "), "name", "Give the new model a name"),
        (lambda: replace(choices(), name="a" * 101), "name", "101 characters"),
        (lambda: replace(choices(), name="ta:ken"), "name", "already"),
        (lambda: replace(choices(), name="phantom-3d"), "name", "already"),
        (lambda: replace(choices(), name="Taken"), "name", "already"),
        (lambda: choices(training={"learning_rate": 5}), "advanced", "Learning rate: must be at most 1 (given: 5)"),
    ],
)
def test_what_is_wrong_is_said_under_its_field(make: Any, field: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "taken.prosma").mkdir()
    (tmp_path / "ta_ken.safetensors").touch()
    problem = problem_of(make(), tmp_path)
    assert problem.field == field
    assert words in problem.text


def test_images_of_different_channels_are_refused_but_gray_and_color_go_together(tmp_path: Path) -> None:
    gray, color = row((20, 20), name="gray"), row((20, 20, 3), name="color", rgb=True, dtype=np.uint8)
    assert plan_of(choices(gray, color), tmp_path)
    two = row((2, 10, 20, 20), name="two", axis_labels=tuple("czyx"))
    problem = problem_of(choices(row(), row(name="other"), two), tmp_path)
    assert problem.field == "pairs"
    assert "numbers of channels (1, 2), for example two" in problem.text


def test_one_class_of_scribbles_without_background_is_refused(tmp_path: Path) -> None:
    config = LabelsConfig(zero="unlabeled")
    problem = problem_of(choices(row(config=config), labels=config), tmp_path)
    assert problem.field == "labels"
    assert "Paint some background" in problem.text
    unpainted = config.replace(background=7)
    assert (
        "no voxel has the background value 7"
        in problem_of(choices(row(config=unpainted), labels=unpainted), tmp_path).text
    )
    painted = config.replace(background=2)
    plan = plan_of(choices(row(config=painted, values=(1, 2)), labels=painted), tmp_path)
    assert resolve_run(plan.request_values).labels == painted
    two = plan_of(choices(row(config=config, values=(1, 2)), labels=config), tmp_path)
    assert any("every voxel one of class 1, class 2" in note for note in two.notes)


def test_what_is_held_out_is_said(tmp_path: Path) -> None:
    def said(*rows: PairRow) -> str:
        return " ".join(plan_of(choices(*rows, labels=SPARSE), tmp_path).notes)

    def scan(name: str, *slices: int) -> PairRow:
        return row(config=SPARSE, name=name, slices=slices)

    assert "No independent validation" in said(scan("a", 1, 4, 8))
    assert "1 annotated slice of the same scans" in said(scan("a", 1, 4, 6, 8))
    assert "2 annotated slices of the same scans" in said(scan("a", 1, 3, 5, 7), scan("b", 0, 2, 4, 6, 8))
    assert "held out" not in said(*(scan(name, 1, 4, 8) for name in "abcd"))


def test_marked_scans_that_were_only_checked_are_named_and_corrected_ones_trained_on(tmp_path: Path) -> None:
    def scan(name: str, part: str, *edited: int) -> PairRow:
        found = row(name=name, slices=(1, 2, 4, 8))
        pair = replace(found.pair, part=part, splits="series" if part else "")
        return replace(found, pair=pair, states=SliceStates("z", 10, 1, (1,), edited, only=True))

    def plan(*rows: PairRow) -> tuple[Any, str]:
        found = plan_of(choices(*rows), tmp_path)
        return found.request_values.get("validation"), " ".join(found.notes)

    marked, said = plan(scan("a", "train", 2, 4), scan("b", "val", 2), scan("c", "val"))
    assert marked == (1, 2)  # the core leaves out the same
    assert "was edited there: c. They are not trained on." in said
    assert "Of a model's result, edited slices alone" in said
    marked, said = plan(scan("a", "train", 2, 4), scan("b", "train", 2), scan("c", "val"))
    assert "What is validated on is drawn from the other cases. No independent validation" in said
    corrected = [scan("a", "", 2, 4), *(scan(name, "") for name in "bcde")]
    assert "No independent validation" in plan(*corrected)[1]  # the only corrected scan is trained on


def test_painted_values_far_apart_are_classes_of_these_values(tmp_path: Path) -> None:
    data = np.zeros((10, 20, 20), np.int64)
    data[2:5, 4:8, 4:8], data[6:9, 4:8, 4:8] = 200, 1220
    pair = Pair(layer_source(Image(np.zeros((10, 20, 20)), name="scan")), layer_source(Labels(data, name="painted")))
    given = choices(check(pair, LabelsConfig()))
    run = resolve_run(plan_of(given, tmp_path).request_values)
    assert run.class_names == {0: "background", 200: "class 200", 1220: "class 1220"}
    ((_, path),) = finished(write_pairs([pair], tmp_path / "data"))
    np.testing.assert_array_equal(read_labels(path).data, data)


def with_values(*values: tuple[int, ...], part: tuple[str, ...] = ()) -> tuple[PairRow, ...]:
    """Pairs whose labels hold these classes; `part` is what the splits of their folder use them for."""
    made = [row(name=f"scan {i}", values=each) for i, each in enumerate(values)]
    if not part:
        return tuple(made)
    return tuple(
        replace(r, pair=replace(r.pair, part=p, splits="splits.json")) for r, p in zip(made, part, strict=True)
    )


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            lambda: with_values((1, 2), (1,), (1,), (1,), (1,), (1,)),
            ["No validation case holds class 2: no validation Dice (–), no part in the mean."],
        ),
        (
            lambda: with_values((1,), (1,), (1, 2), part=("train", "train", "val")),
            ["No training case holds class 2: this cannot be learned here."],
        ),
        (
            lambda: (row(), row(slices=(9,), values=(2,))),
            ["No validation slice holds class 2: no validation Dice (–), no part in the mean."],
        ),
        (  # the case that is drawn for validation holds it alone: it is trained on
            lambda: with_values((1,), (1,), (1, 2), (1,)),
            ["No validation case holds class 2: no validation Dice (–), no part in the mean."],
        ),
        (lambda: with_values((1, 2), (1, 2), (1, 2), (1, 2)), []),
        (lambda: with_values((1, 2), ()), []),
    ],
)
def test_classes_that_training_or_validation_lacks_are_said_before_the_training(
    rows: Any, said: list[str], tmp_path: Path
) -> None:
    """In the words of the engine, which reads the files of the pairs: the same draw, the same classes."""
    given = choices(*rows())
    plan = plan_of(given, tmp_path)
    assert [note for note in plan.notes if note.startswith("No ") and " holds class " in note] == said
    files = finished(write_pairs([each.pair for each in given.rows], tmp_path / "data"))
    run = resolve_run(plan.request_values | {"pairs": files})
    folder = open_cases(run.data, run.pairs, run.validation)
    _, facts, split = finished(read_split(folder, choose_cases(folder, run.training.seed), run, 3, fresh=True))
    counts = class_counts(split, facts.values, facts.validation)
    assert format_classes(given.classes, *counts, split.unit)[1:] == said
    assert split.words() in plan.notes or not split.words()


def test_slices_that_look_unfinished_are_asked_about(tmp_path: Path) -> None:
    def asked(*slices: int, labels: LabelsConfig | None = None) -> bool:
        config = labels or LabelsConfig()
        given = choices(row(config=config, slices=slices), labels=config)
        return any("the others count as background" in note for note in plan_of(given, tmp_path).notes)

    assert asked(2, 5, 8)
    assert asked(4)
    assert not asked(2, 3, 4, 5)
    assert not asked(2, 5, 8, labels=SPARSE)


def test_what_labels_mean_is_told_and_stays() -> None:
    cells = row((60, 60), "cells", values=tuple(range(3, 16)))
    few = row((60, 60), "few", values=(2, 5))
    other = row((60, 60), "other", values=tuple(range(1, 12)))
    apart, start = LabelsConfig(one_class=True, separate=True), entry("hippocampus-mri")
    assert usual_meaning((cells, few), LabelsConfig(), None) == (apart, ANY)
    assert "cells drawn number objects" in usual_meaning((few, cells), LabelsConfig(), None)[1]
    assert usual_meaning((cells, other), LabelsConfig(), None)[0] == apart
    assert usual_meaning((cells, replace(cells, labels="b")), LabelsConfig(), None) == (LabelsConfig(), "")  # teeth
    assert usual_meaning((cells,), LabelsConfig(), start) == (LabelsConfig(), "")  # it knows two classes
    named = replace(cells, classes=(ClassInfo(value=3, name="incisor"),))
    assert usual_meaning((named,), LabelsConfig(), None) == (LabelsConfig(), "")
    begun = row((40, 60, 60), "stack", slices=(3, 20), values=tuple(range(3, 16)))
    before, why = usual_meaning((begun,), LabelsConfig(), None)
    assert before == apart.replace(zero="annotated_slices")
    assert "2 of 40 slices" in why
    more = row((40, 60, 60), "stack", slices=tuple(range(3, 14)), values=tuple(range(3, 16)))
    assert usual_meaning((more,), before, None)[0] == before  # what was chosen stays
    assert usual_meaning((), before, None) == (LabelsConfig(), "")


def test_what_fine_tuning_loses_is_said(tmp_path: Path) -> None:
    def said(given: TrainChoices) -> str:
        return " ".join(plan_of(given, tmp_path).notes)

    start = entry("hippocampus-mri")
    assert "will not know posterior hippocampus" in said(choices(row(values=(1,)), start=start))
    assert "will not know" not in said(choices(row(values=(1, 2)), start=start))
    two = row((2, 10, 20, 20), axis_labels=tuple("czyx"), values=(1, 2))
    assert "takes 1 channel, these images have 2: its first layer starts afresh" in said(choices(two, start=start))
    color = row((20, 20, 3), rgb=True, dtype=np.uint8)
    words = said(choices(color, start=entry("breast-lesion-us")))
    assert "Colors are turned to gray" in words
    assert "starts afresh" not in words


def test_an_image_in_two_pairs_is_said(tmp_path: Path) -> None:
    once = row()
    again = check(
        Pair(once.pair.image, layer_source(Labels(once.pair.labels.layer.data, name="other"))), LabelsConfig()
    )
    notes = plan_of(choices(once, again), tmp_path).notes
    assert any("scan is in more than one pair" in note for note in notes)
    assert not any("more than one pair" in note for note in plan_of(choices(row(), row()), tmp_path).notes)


def test_pairs_of_a_folder_with_splits_are_validated_on_as_these_say(tmp_path: Path) -> None:
    rows = tuple(
        replace(each, pair=replace(each.pair, part=part, splits="splits.json of data" if part else ""))
        for each, part in ((row(), "train"), (row(name="b"), "val"), (row(name="drawn"), ""))
    )
    plan = plan_of(choices(*rows), tmp_path)
    assert resolve_run({**plan.request_values, "pairs": [("a", "b")] * 3}).validation == (1,)
    assert "Validation: 1 of 3 pairs, as splits.json of data says." in plan.notes
    assert not any("Too few" in note for note in plan.notes)
    without = plan_of(choices(rows[0], rows[2]), tmp_path)
    assert "validation" not in without.request_values
    assert any("are not used: no validation pair" in note for note in without.notes)


def test_scans_without_an_object_are_negatives_unless_all_are(tmp_path: Path) -> None:
    empty = row(name="normal", values=())
    plan = plan_of(choices(row(), empty), tmp_path)
    assert any("No object in 1 of 2 label maps (normal drawn)" in note for note in plan.notes)
    assert "No object is painted yet" in problem_of(choices(empty, empty), tmp_path).text
    sparse = LabelsConfig(zero="annotated_slices")
    undecided = row(name="new", values=(), config=sparse)
    assert "No class is painted" in problem_of(choices(row(config=sparse), undecided, labels=sparse), tmp_path).text
