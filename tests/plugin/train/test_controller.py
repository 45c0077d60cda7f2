"""What the Train widget does when a person, the viewer or the engine does something."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Labels
from napari.utils._proxies import PublicOnlyProxy
from napari.utils.notifications import notification_manager
from pytestqt.qtbot import QtBot
from qtpy.QtWidgets import QCheckBox, QComboBox, QPushButton, QTableWidget, QWidget

from napari_prosma.jobs.session import ScanMark, Session
from napari_prosma.layers.labels import brush_for
from napari_prosma.layers.scan import read
from napari_prosma.layers.viewport import view_box
from napari_prosma.scan.selection import fit_of
from napari_prosma.train import pair_list
from napari_prosma.train.controller import TrainController
from napari_prosma.train.run_library import list_runs
from napari_prosma.train.view import ENCODERS, TrainView
from napari_prosma.widgets.job_view import ActivityProgress
from prosma_core.config.training import FINE_TUNING_RATE, MOST_EPOCHS, LabelsConfig, RunConfig, resolve_run
from prosma_core.data.geometry import array_spec
from prosma_core.engine.messages import (
    ArrayReady,
    Cancelled,
    Failed,
    Finished,
    PlanRequest,
    PlanResult,
    Ready,
    TrainRequest,
    TrainResult,
)
from prosma_core.errors import DeviceError, ProsmaError
from prosma_core.events import EpochDone, LevelStats, PreviewDone, StageStarted, StepDone, Working
from prosma_core.io.bundle import find_model, load_bundle, save_bundle
from prosma_core.io.images import read_image, write_image, write_labels
from prosma_core.runs.run_folder import RunFolder
from prosma_core.runs.run_state import run_lock


def epoch(number: int = 1, *, seconds: float = 10.0, dice: float = 0.5) -> EpochDone:
    return EpochDone(number, 5, 0.7, 1e-3, {"class 1": dice}, dice, (LevelStats(0.3, 0.6),), True, seconds, 40.0)


def write_model(widget: Any, name: str) -> Any:
    """Put a model where a training would leave it; return its path."""
    header, weights = load_bundle(find_model("phantom-3d"))
    widget.models.mkdir(parents=True, exist_ok=True)
    path = widget.models / f"{name}.safetensors"
    save_bundle(path, header.replace(name=name), weights)
    return path


def begun(widget: Any, name: str = "liver model") -> RunFolder:
    """Write what a training has written when its first epoch begins."""
    folder = RunFolder.beside(widget.models / f"{name}.safetensors")
    values = {"out": folder.model, "name": name, "training": {"steps": 7}}
    folder.write_settings(resolve_run(values), {"train": ["a"], "val": ["a"]})
    return folder


def result(path: Any, before: dict[str, float] | None = None, after: float = 0.8) -> Finished:
    return Finished(
        TrainResult(
            model=str(path), dice={"organ": after}, mean_dice=after, before=before, words="in words" if before else "",
            held_out="", seconds=90.0, device="CPU, 2 threads (no GPU)",
        )
    )  # fmt: skip


def test_without_pairs_the_widget_says_what_to_do(widget: Any) -> None:
    assert not widget.can_run
    assert "Add selected image + labels" in widget.text("problem_pairs")


def test_the_selected_layers_become_a_pair_that_can_be_trained_on(widget: Any, annotated: Any) -> None:
    annotated(widget.viewer)
    widget.controller.pairs.add_active()
    assert widget.can_run
    assert widget.text("name") == "liver model"
    assert widget.text("problem_pairs") == ""


def test_a_second_scan_that_lies_elsewhere_is_shown(widget: Any, annotated: Any) -> None:
    annotated(widget.viewer)
    second = widget.viewer.add_image(np.zeros((12, 24, 28), np.float32), translate=(0, 500, 0))
    assert view_box(second, read(second), widget.viewer) == ((0, 12), (0, 24), (0, 28))


def test_a_pair_is_added_once(widget: Any, annotated: Any) -> None:
    annotated(widget.viewer)
    widget.controller.pairs.add_active()
    widget.controller.pairs.add_active()
    assert "already" in widget.text("status")


def test_nothing_is_trained_while_a_pair_is_being_read(widget: Any, annotated: Any) -> None:
    annotated(widget.viewer)
    widget.jobs.held = []
    widget.controller.pairs.add_active()
    assert not widget.can_run
    widget.jobs.held.pop()()
    assert widget.can_run


def test_paint_is_read_again_and_what_was_read_before_it_does_not_count(
    widget: Any, annotated: Any, qtbot: QtBot
) -> None:
    _, labels = annotated(widget.viewer)
    widget.controller.pairs.add_active()
    widget.jobs.held = []
    labels.paint((4, 4, 4), 2)
    labels.events.labels_update(data=labels.data, offset=(0, 0, 0))
    qtbot.waitUntil(lambda: len(widget.jobs.held) == 1)
    labels.paint((4, 4, 4), 3)
    labels.events.labels_update(data=labels.data, offset=(0, 0, 0))
    qtbot.wait(1000)  # until the strokes are over, and longer
    assert len(widget.jobs.held) == 1  # one after the other
    widget.jobs.held.pop(0)()
    assert not widget.can_run  # what was read is old
    widget.jobs.held.pop(0)()
    assert widget.can_run
    assert widget.controller._choices.rows[0].values.keys() >= {3}


def test_train_is_disabled_from_the_moment_in_which_a_layer_changes(
    widget: Any, annotated: Any, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not only when its pair is read again, a moment later: until then a click would do nothing."""
    monkeypatch.setattr(pair_list, "QUIET", 20)
    _, labels = annotated(widget.viewer)
    widget.controller.pairs.add_active()
    run, estimate = (widget.view.findChild(QPushButton, name) for name in ("run", "estimate"))
    usual = estimate.toolTip()
    labels.visible = False
    for each in (run, estimate):
        assert not each.isEnabled()
        assert "being read" in each.toolTip()
    qtbot.waitUntil(run.isEnabled)
    assert (estimate.isEnabled(), estimate.toolTip()) == (True, usual)
    widget.controller.choose_budget((0, None))
    assert not estimate.isEnabled()
    assert estimate.toolTip() == run.toolTip() != ""


def test_labels_changed_in_place_are_read_again_after_refresh(
    widget: Any, annotated: Any, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pair_list, "QUIET", 0)
    _, labels = annotated(widget.viewer)
    widget.controller.pairs.add_active()
    labels.data[4:6, 4:6, 4:6] = 3
    labels.refresh()  # as a plugin or a script does
    qtbot.waitUntil(lambda: 3 in widget.controller._choices.rows[0].values)
    labels.visible = False
    labels.data[4:6, 4:6, 4:6] = 4
    labels.visible = True
    qtbot.waitUntil(lambda: 4 in widget.controller._choices.rows[0].values)


@pytest.mark.parametrize("hidden", [False, True])
def test_a_move_of_the_slider_changes_nothing_about_the_pairs(widget: Any, annotated: Any, *, hidden: bool) -> None:
    _, labels = annotated(widget.viewer)
    labels.visible = not hidden
    widget.controller.pairs.add_active()
    widget.jobs.held = []
    for move in (lambda: widget.viewer.dims.set_point(0, 3), lambda: setattr(widget.viewer.dims, "order", (1, 0, 2))):
        move()
        assert widget.can_run
    labels.visible = False
    assert not widget.can_run  # a layer that is hidden tells of no refresh
    widget.controller._pairs._read_stale()
    widget.jobs.held.pop()()
    widget.viewer.dims.set_point(1, 5)
    assert widget.can_run
    labels.visible = True
    widget.controller._pairs._read_stale()
    widget.jobs.held.pop()()
    assert widget.can_run
    labels.data[5, 2, 2] = 3
    labels.refresh()
    assert not widget.can_run


def test_labels_changed_in_place_during_a_training_are_saved(widget: Any, annotated: Any) -> None:
    _, labels = annotated(widget.viewer)
    widget.controller.pairs.add_active()
    job = widget.start()
    folder = begun(widget)
    labels.data[0, 0, :5] = 3
    labels.refresh()
    job.say(Cancelled())
    saved = read_image(next((folder.root / "annotations").iterdir())).data
    assert int((saved == 3).sum()) == 5


def test_rows_follow_the_names_of_layers(
    widget: Any, annotated: Any, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, labels = annotated(widget.viewer, "patient 3")
    widget.controller.pairs.add_active()
    image.name, labels.name = "patient 4", "painted 4"
    row = widget.controller._pairs.rows[0]
    assert (row.pair.image.name, row.pair.labels.name) == ("patient 4", "painted 4")
    qtbot.waitUntil(lambda: widget.controller._choices.rows[0].image == "patient 4")
    assert widget.text("name") == "patient 4 model"


def test_pairs_of_closed_layers_stay_until_they_are_removed(widget: Any, annotated: Any) -> None:
    """As in a series of scans that are opened, painted, added and closed one after the other."""
    image, labels = annotated(widget.viewer)
    data, painted = np.asarray(image.data), np.asarray(labels.data)
    widget.controller.pairs.add_active()
    widget.viewer.layers.clear()
    assert "liver labels was closed" in widget.text("status")
    assert widget.controller._pairs.rows[0].closed
    annotated(widget.viewer, "next")
    widget.controller.pairs.add_active()
    assert [row.closed for row in widget.controller._pairs.rows] == [True, False]
    assert widget.view.findChild(QTableWidget, "pairs").item(1, 0).text().endswith(", layer closed")
    first, _ = widget.start().prepared().run.pairs
    np.testing.assert_array_equal(read_image(first[0]).data, data)
    np.testing.assert_array_equal(read_image(first[1]).data, painted)


def test_a_pair_is_open_again_once_all_of_its_layers_are_in_the_viewer_again(widget: Any, annotated: Any) -> None:
    def facts() -> str:
        return str(widget.view.findChild(QTableWidget, "pairs").item(1, 0).text())

    image, labels = annotated(widget.viewer)
    widget.controller.pairs.add_active()
    before = facts()
    widget.viewer.layers.clear()
    assert facts() == f"{before}, layer closed"
    widget.viewer.add_layer(image)
    assert facts() == f"{before}, layer closed", "its labels are closed"
    widget.controller.choose_labels(LabelsConfig())  # read anew
    assert facts() == f"{before}, layer closed"
    widget.viewer.add_layer(labels)
    assert facts() == before
    widget.start().say(Failed(DeviceError("Memory of cuda ran out."), ""))
    assert not (widget.models / "liver model.prosma").exists()


def test_labels_that_number_objects_are_taken_as_one_class_where_the_person_says_so(widget: Any, rng: Any) -> None:
    image = widget.viewer.add_image(rng.normal(size=(40, 50)), name="cells")
    cells = widget.viewer.add_labels(np.arange(2000, dtype=np.uint16).reshape(40, 50), name="numbers")
    widget.viewer.layers.selection = {image, cells}
    widget.controller.pairs.add_active()
    assert "number objects" in widget.text("problem_pairs")
    widget.view.fix_clicked.emit(0, "one_class")
    assert widget.can_run
    assert widget.start().prepared().run.labels == LabelsConfig(one_class=True)


def test_labels_of_another_grid_are_resampled_into_a_new_layer(widget: Any, annotated: Any) -> None:
    image, labels = annotated(widget.viewer)
    coarse = widget.viewer.add_labels(labels.data[:, ::2, ::2].copy(), name="coarse", scale=(1, 2, 2))
    before = coarse.data.copy()
    widget.viewer.layers.selection = {image, coarse}
    widget.controller.pairs.add_active()
    assert not widget.can_run
    widget.view.fix_clicked.emit(0, "resample")
    assert widget.can_run
    assert widget.viewer.layers[-1].data.shape == image.data.shape
    np.testing.assert_array_equal(coarse.data, before)


def test_a_class_name_that_is_too_long_is_said_and_not_kept(widget: Any, annotated: Any) -> None:
    annotated(widget.viewer)
    widget.controller.pairs.add_active()
    table = widget.view.findChild(QTableWidget, "classes")
    problem = widget.view._problems["classes"]
    table.item(0, 1).setText("l" * 201)
    assert "201 characters; at most 200" in problem.text()
    assert (table.item(0, 1).text(), widget.can_run) == ("class 1", True)
    table.item(0, 1).setText("l" * 200)
    assert (table.item(0, 1).text(), problem.text(), widget.can_run) == ("l" * 200, "", True)


def test_the_request_holds_what_was_chosen_and_files_of_the_layers(widget: Any, annotated: Any) -> None:
    image, labels = annotated(widget.viewer, value=3)
    widget.controller.pairs.add_active()
    widget.controller.choose_labels(LabelsConfig(zero="annotated_slices"))
    widget.controller.choose_class(3, "tumour", "#00ff00")
    widget.controller.choose_preset("quick")
    widget.controller.choose_budget((None, 3.0))
    widget.controller.choose_name("mine")
    request = widget.start().prepared()
    assert isinstance(request, TrainRequest)
    run = request.run
    assert run.out == widget.models / "mine.safetensors"
    assert (run.preset, run.training.minutes, run.labels.zero) == ("quick", 3.0, "annotated_slices")
    assert (run.class_names[3], run.class_colors[3]) == ("tumour", "#00ff00")
    ((scan, painted),) = run.pairs
    np.testing.assert_array_equal(read_image(scan).data, image.data)
    np.testing.assert_array_equal(read_image(painted).data, labels.data)
    assert scan.is_relative_to(RunFolder.beside(run.out).root)


def test_layers_files_and_folders_are_trained_on_together(widget: Any, annotated: Any, tmp_path: Path) -> None:
    image, labels = annotated(widget.viewer)
    widget.controller.pairs.add_active()
    spec = array_spec(image.data.shape, "zyx")
    for folder in ("images", "labels"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    for name in ("single", "data/images/case"):
        write_image(tmp_path / f"{name}.tif", image.data, spec)
    for name in ("painted", "data/labels/case"):
        write_labels(tmp_path / f"{name}.tif", labels.data, spec)
    widget.controller.pairs.add_files([tmp_path / "single.tif"], [tmp_path / "painted.tif"])
    widget.controller.pairs.add_folder(tmp_path / "data")
    assert widget.can_run, [widget.text(f"problem_{field}") for field in ("pairs", "labels", "start", "classes")]
    pairs = widget.start().prepared().run.pairs
    assert pairs[0][0].is_relative_to(widget.models / "liver model.prosma" / "data")
    assert pairs[1] == (tmp_path / "single.tif", tmp_path / "painted.tif")
    assert pairs[2] == (tmp_path / "data" / "images" / "case.tif", tmp_path / "data" / "labels" / "case.tif")


def test_annotations_are_saved_at_the_start(widget: Any, annotated: Any) -> None:
    _, labels = annotated(widget.viewer)
    widget.controller.pairs.add_active()
    widget.start()
    (saved,) = (widget.models / "liver model.prosma" / "annotations").iterdir()
    np.testing.assert_array_equal(read_image(saved).data, labels.data)


def test_paint_during_a_training_is_saved_at_its_end(widget: Any, annotated: Any) -> None:
    _, labels = annotated(widget.viewer)
    widget.controller.pairs.add_active()
    job = widget.start()
    labels.paint((0, 2, 2), 1)
    labels.events.labels_update(data=labels.data, offset=(0, 0, 0))
    begun(widget)
    job.say(Cancelled())
    (saved,) = (widget.models / "liver model.prosma" / "annotations").iterdir()
    assert read_image(saved).data[0, 2, 2] == 1


def test_paint_is_saved_where_the_image_was_deleted_meanwhile(widget: Any, annotated: Any) -> None:
    image, labels = annotated(widget.viewer)
    widget.controller.pairs.add_active()
    job = widget.start()
    widget.viewer.layers.remove(image)
    labels.paint((0, 2, 2), 1)
    labels.events.labels_update(data=labels.data, offset=(0, 0, 0))
    job.say(Cancelled())
    (saved,) = (widget.models / "liver model.prosma" / "annotations").iterdir()
    assert read_image(saved).data[0, 2, 2] == 1


def test_runs_are_read_in_a_thread_and_the_newest_list_is_shown(widget: Any, annotated: Any) -> None:
    annotated(widget.viewer)
    widget.controller.pairs.add_active()
    widget.start()
    begun(widget)
    table = widget.view.findChild(QTableWidget, "runs")
    widget.jobs.held = []
    widget.controller.trainings.show_runs()
    assert (len(widget.jobs.held), table.rowCount()) == (1, 0)
    widget.controller.trainings.show_runs()
    before, newest = widget.jobs.held
    newest()
    assert table.rowCount() == 1
    shutil.rmtree(widget.models)
    before()
    assert table.rowCount() == 1, "what was read before does not count"


def test_paint_while_a_resumed_run_trains_is_saved_too_and_other_labels_beside_it(widget: Any, annotated: Any) -> None:
    _, labels = annotated(widget.viewer)
    widget.controller.pairs.add_active()
    job, folder = widget.start(), begun(widget)
    job.say(Cancelled())
    (saved,) = (folder.root / "annotations").iterdir()
    labels.data[0, 2, 2] = 1  # before the run goes on: saved at its start
    widget.controller.resume(list_runs(widget.models)[0])
    assert read_image(saved).data[0, 2, 2] == 1
    widget.jobs.jobs[-1].say(Cancelled())
    annotated(widget.viewer, "spleen")
    widget.controller.pairs.add_active()
    widget.controller.resume(list_runs(widget.models)[0])
    assert sorted(path.name for path in folder.root.glob("annotations*")) == ["annotations", "annotations-2"]
    assert len(list((folder.root / "annotations-2").iterdir())) == 2


def test_training_more_says_which_pairs_are_not_in_the_run_as_they_are_now(widget: Any, annotated: Any) -> None:
    _, labels = annotated(widget.viewer)
    widget.controller.pairs.add_active()
    job = widget.start()
    folder = RunFolder.beside(widget.models / "liver model.safetensors")
    folder.write_settings(job.prepared().run, {"train": ["liver"], "val": ["liver"]})
    job.say(Cancelled())
    (state,) = list_runs(widget.models)
    widget.controller.resume(state, 3)
    assert "own copies" not in widget.text("messages")
    widget.jobs.jobs[-1].say(Cancelled())
    labels.data[3, 9, 9] = 0
    annotated(widget.viewer, "spleen")
    widget.controller.pairs.add_active()
    widget.controller.resume(state, 3)
    assert "own copies of 1 pair" in widget.text("messages")
    assert "Not in it: liver (changed since), spleen (added since)." in widget.text("messages")


def test_a_class_without_a_dice_has_a_dash(widget: Any, annotated: Any) -> None:
    annotated(widget.viewer)
    widget.controller.pairs.add_active()
    job = widget.start()
    job.say(result(write_model(widget, "liver model")))  # of two classes, one of which has a Dice
    table = widget.view.findChild(QTableWidget, "outcome")
    rows = [[table.item(i, c).text() for c in (0, 2)] for i in range(table.rowCount())]
    assert rows == [["organ", "0.800"], ["lesion", "–"]]


@pytest.mark.parametrize(("fix", "values"), [("threshold", {1}), ("classes", None)])
def test_gray_masks_are_thresholded_or_kept_where_the_person_says_so(
    widget: Any, rng: Any, fix: str, values: set[int] | None
) -> None:
    yy, xx = np.mgrid[:96, :96]
    gray = np.clip(255 * (24 - np.hypot(yy - 48, xx - 40)) / 6, 0, 255).astype(np.uint8)
    image = widget.viewer.add_image(rng.normal(size=(96, 96)), name="scan")
    widget.viewer.layers.selection = {image, widget.viewer.add_labels(gray, name="soft")}
    widget.controller.pairs.add_active()
    assert "gray edges" in widget.text("problem_pairs")
    assert len(widget.controller._choices.classes) == 0
    widget.view.fix_clicked.emit(0, fix)
    assert widget.can_run
    assert widget.text("gray") != "Ask"
    assert widget.start().prepared().run.labels.gray == fix
    found = set(widget.controller._choices.rows[0].values)
    assert found == values if values else len(found) > 20
    widget.view.labels_changed.emit(LabelsConfig())
    assert "gray edges" in widget.controller._choices.rows[0].problem


def test_labels_without_a_transform_take_the_images_place(widget: Any, annotated: Any) -> None:
    image, labels = annotated(widget.viewer)
    image.scale = (3, 0.5, 0.5)
    widget.controller.pairs.add_active()
    assert "no transform" in widget.text("problem_pairs")
    widget.view.fix_clicked.emit(0, "place")
    assert widget.can_run
    placed = widget.viewer.layers[-1]
    assert placed is not labels
    assert np.array_equal(placed.data, labels.data)
    assert placed.scale.tolist() == [3, 0.5, 0.5]


def test_several_selected_images_are_the_channels_of_one_scan(widget: Any, rng: Any) -> None:
    data = rng.normal(100, 20, (3, 8, 24, 24)).astype(np.float32)
    layers = widget.viewer.add_image(data, channel_axis=0, name=["DAPI", "actin", "tubulin"], scale=(2, 0.5, 0.5))
    numbers = np.zeros((8, 24, 24), np.uint8)
    numbers[2:6, 6:16, 6:16] = 1
    labels = widget.viewer.add_labels(numbers, name="cells", scale=(2, 0.5, 0.5))
    widget.viewer.layers.selection = {*layers, labels}
    widget.controller.pairs.add_active()
    (row,) = widget.controller._choices.rows
    assert (row.image, row.problem) == ("DAPI + actin + tubulin", "")
    assert row.facts.endswith("3 channels")
    widget.controller.pairs.add_active()
    assert "already" in widget.text("status")
    ((image, painted),) = widget.start().prepared().run.pairs
    assert np.array_equal(read_image(image).data, data)
    assert read_image(painted).spec.spatial_shape == (8, 24, 24)
    widget.viewer.layers.remove(layers[1])
    assert widget.controller._pairs.rows[0].closed


def test_images_of_different_grids_are_no_channels(widget: Any, annotated: Any, rng: Any) -> None:
    image, labels = annotated(widget.viewer)
    other = widget.viewer.add_image(rng.normal(size=(12, 24, 28)), scale=(2, 1, 1), name="other")
    widget.viewer.layers.selection = {image, other, labels}
    widget.controller.pairs.add_active()
    assert "Which pair is meant cannot be told" in widget.text("error")


def test_time_points_are_channels_only_where_the_person_says_so(widget: Any, rng: Any) -> None:
    film = widget.viewer.add_image(rng.normal(size=(3, 8, 20, 20)), name="film", axis_labels=tuple("tzyx"))
    data = np.zeros((8, 20, 20), np.uint8)
    data[2:6, 4:12, 4:12] = 1
    widget.viewer.layers.selection = {film, widget.viewer.add_labels(data, name="one map")}
    widget.controller.pairs.add_active()
    assert "time series" in widget.text("problem_pairs")
    widget.view.fix_clicked.emit(0, "channels")
    assert widget.can_run
    ((image, _),) = widget.start().prepared().run.pairs
    assert read_image(image).spec.num_channels == 3


def test_what_is_painted_is_saved_every_few_minutes(
    widget: Any, annotated: Any, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari_prosma.train.autosave.EVERY", 20)
    _, labels = annotated(widget.viewer)
    widget.controller.pairs.add_active()
    widget.start()
    (saved,) = (widget.models / "liver model.prosma" / "annotations").iterdir()
    written = saved.stat().st_mtime_ns
    qtbot.wait(60)
    assert saved.stat().st_mtime_ns == written  # nothing new, nothing written
    labels.paint((0, 2, 2), 1)
    labels.events.labels_update(data=labels.data, offset=(0, 0, 0))
    qtbot.waitUntil(lambda: read_image(saved).data[0, 2, 2] == 1)


@pytest.mark.parametrize("closed", [False, True])
def test_labels_that_cannot_be_saved_are_said(widget: Any, annotated: Any, *, closed: bool) -> None:
    annotated(widget.viewer)
    widget.controller.pairs.add_active()
    widget.jobs.held = []
    widget.start()
    (widget.models / "liver model.prosma").mkdir(parents=True)
    (widget.models / "liver model.prosma" / "annotations").write_text("in the way")
    notification_manager.records.clear()
    if closed:
        widget.controller.close()
    widget.jobs.held.pop()()
    said = widget.text("error") if not closed else notification_manager.records[-1].message
    assert ("save its layers yourself" if closed else "for now") in said
    assert "not saved" in said
    assert "annotations" in said


def test_a_training_that_ends_before_it_began_leaves_nothing_behind(widget: Any, annotated: Any) -> None:
    annotated(widget.viewer)
    widget.controller.pairs.add_active()
    widget.controller.choose_name("mine")
    job = widget.start()
    job.prepared()
    assert (widget.models / "mine.prosma" / "data").is_dir()
    job.say(Failed(DeviceError("Memory of cuda ran out."), ""))
    assert not (widget.models / "mine.prosma").exists()
    assert widget.text("name") == "mine"
    assert widget.can_run


def test_its_folder_stays_where_a_layer_is_gone(widget: Any, annotated: Any) -> None:
    _, labels = annotated(widget.viewer)
    widget.controller.pairs.add_active()
    job = widget.start()
    widget.viewer.layers.remove(labels)
    job.say(Failed(DeviceError("Memory of cuda ran out."), ""))
    assert len(list((widget.models / "liver model.prosma" / "annotations").iterdir())) == 1


def test_the_next_model_has_a_free_name(widget: Any, annotated: Any) -> None:
    annotated(widget.viewer)
    widget.controller.pairs.add_active()
    widget.controller.choose_name("mine")
    job = widget.start()
    job.say(result(write_model(widget, "mine")))
    assert widget.text("name") == "mine-2"
    assert widget.can_run


def test_a_stopped_training_says_what_its_dice_is_of_and_offers_to_go_on(widget: Any, annotated: Any) -> None:
    annotated(widget.viewer)
    widget.controller.pairs.add_active()
    job, folder = widget.start(), begun(widget)
    folder.splits.write_text('{"words": "2 slices are held out."}')
    header, weights = load_bundle(find_model("phantom-3d"))
    save_bundle(folder.best, header, weights)
    job.say(epoch())
    assert not widget.view.findChild(QPushButton, "resume").isVisibleTo(widget.view)
    job.say(Cancelled())
    assert widget.controller.trainings.outcome.held_out == "2 slices are held out."
    assert widget.view.findChild(QPushButton, "resume").isVisibleTo(widget.view)
    assert widget.view.findChild(QPushButton, "resume").isEnabled()


def test_a_run_that_cannot_go_on_leaves_its_finished_model_as_it_was(widget: Any, annotated: Any) -> None:
    folder = begun(widget, "old")
    header, weights = load_bundle(find_model("phantom-3d"))
    save_bundle(folder.best, header.replace(name="best"), weights)
    save_bundle(folder.last, header.replace(name="last"), weights)
    before = write_model(widget, "old").read_bytes()
    widget.controller.resume(list_runs(widget.models)[0], 5)
    widget.jobs.jobs[-1].say(Failed(DeviceError("The data are gone."), ""))
    assert folder.model.read_bytes() == before
    assert widget.controller.trainings.outcome is None
    assert "as it was" in widget.text("status")


def test_a_run_stopped_in_its_first_epoch_begins_anew(widget: Any) -> None:
    folder = begun(widget, "old")
    widget.controller.resume(list_runs(widget.models)[0])
    request = widget.jobs.jobs[-1].prepared()
    assert not request.resume
    assert request.run.out == folder.model
    assert request.run.training.steps == 7


def test_a_second_click_while_the_first_is_still_taken_in_is_none(
    widget: Any, annotated: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Impatient(ActivityProgress):  # napari's progress bars let the event loop run when they are made
        def __init__(self, *args: Any) -> None:
            widget.controller.start_or_stop()
            super().__init__(*args)

    annotated(widget.viewer)
    widget.controller.pairs.add_active()
    monkeypatch.setattr("napari_prosma.widgets.job_view.ActivityProgress", Impatient)
    widget.start()
    assert len(widget.jobs.jobs) == 1


def test_a_busy_engine_is_said_at_once(widget: Any, annotated: Any) -> None:
    annotated(widget.viewer)
    widget.controller.pairs.add_active()
    widget.jobs.busy = True
    widget.controller.start_or_stop()
    assert "busy" in widget.text("error")
    widget.controller.estimate()
    assert "busy" in widget.text("error")
    assert widget.jobs.jobs == []
    assert not widget.models.exists()
    assert widget.can_run


def test_fine_tuning_keeps_the_models_classes_and_names_the_model_after_it(widget: Any, annotated: Any) -> None:
    image, labels = annotated(widget.viewer)
    widget.controller.fine_tune(image, labels, widget.model("phantom-3d"))
    assert widget.text("start") == "phantom-3d"
    assert widget.text("start_facts").startswith("Fine-tuning: 3D")
    assert widget.text("name") == "phantom-3d tuned"
    run = widget.start().prepared().run
    assert run.init == "phantom-3d"
    assert run.class_names[1] == "organ"


def test_a_few_painted_slices_are_not_taken_as_background_elsewhere(widget: Any, annotated: Any) -> None:
    _, labels = annotated(widget.viewer)
    labels.data = np.zeros_like(labels.data)
    labels.data[4:6, 5:9, 5:9] = 1
    widget.controller.pairs.add_active()
    facts = widget.text("zero_facts")
    assert "2 of 12 slices" in facts
    assert widget.start().prepared().run.labels.zero == "annotated_slices"


def cells(shape: tuple[int, int] = (60, 70)) -> np.ndarray:
    """Numbers of cells that touch side by side."""
    numbers = np.zeros(shape, np.uint16)
    for i in range(12):
        y, x = 5 + 18 * (i // 4), 4 + 15 * (i % 4)
        numbers[y : y + 12, x : x + 15] = 3 * i + 1
    return numbers


def test_numbered_cells_are_taken_as_one_class_that_is_kept_apart(widget: Any, rng: Any) -> None:
    image = widget.viewer.add_image(rng.normal(size=(60, 70)), name="cells")
    layer = widget.viewer.add_labels(cells(), name="numbers")
    widget.viewer.layers.selection = {image, layer}
    widget.controller.pairs.add_active()
    assert "numbers number objects" in widget.text("zero_facts")
    assert widget.view.findChild(QCheckBox, "separate").isChecked()
    assert not widget.view.findChild(QCheckBox, "separate").isHidden()
    assert widget.start().prepared().run.labels == LabelsConfig(one_class=True, separate=True)
    widget.controller.choose_labels(LabelsConfig())
    assert widget.view.findChild(QCheckBox, "separate").isHidden()
    assert not widget.controller._choices.labels.one_class


def test_a_meaning_that_was_chosen_stays(widget: Any, annotated: Any) -> None:
    _, labels = annotated(widget.viewer)
    labels.data = np.zeros_like(labels.data)
    labels.data[4:6, 5:9, 5:9] = 1
    widget.controller.choose_labels(LabelsConfig())
    widget.controller.pairs.add_active()
    assert "slices of" not in widget.text("zero_facts")
    assert widget.start().prepared().run.labels.zero == "background"


def test_a_new_layer_has_a_brush_that_suits_the_scan(widget: Any, annotated: Any) -> None:
    annotated(widget.viewer)
    empty = widget.viewer.add_labels(np.zeros((20, 35, 50), np.uint8))
    assert empty.brush_size == 1
    large = widget.viewer.add_labels(np.zeros((20, 512, 512), np.uint8))
    assert large.brush_size == 10
    assert brush_for(np.zeros((0, 5000, 5000), np.uint8)) == 10
    picture = widget.viewer.add_labels(np.zeros((5000, 5000), np.uint8))
    assert picture.brush_size == 10
    own = Labels(np.zeros((20, 35, 50), np.uint8))
    own.brush_size = 4
    widget.viewer.add_layer(own)
    assert own.brush_size == 4


def test_layers_that_are_there_when_the_widget_opens_have_a_brush_that_suits_them(
    widget: Any, annotated: Any, make_jobs: Any, qtbot: QtBot
) -> None:
    viewer = ViewerModel()
    _, painted = annotated(viewer)
    own = viewer.add_labels(np.zeros((20, 35, 50), np.uint8))
    own.brush_size = 4
    assert painted.brush_size == 10
    view = TrainView()
    qtbot.addWidget(view)
    controller = TrainController(viewer, view, Session(widget.models, make_jobs()))
    assert (painted.brush_size, own.brush_size) == (brush_for(painted.data), 4)
    assert painted.brush_size < 10
    controller.close()


def test_the_encoder_of_a_new_network_can_be_chosen(widget: Any, annotated: Any) -> None:
    annotated(widget.viewer)
    widget.controller.pairs.add_active()
    box = widget.view.findChild(QComboBox, "encoder")
    assert [box.itemText(i) for i in range(box.count())] == [text for text, _ in ENCODERS.values()]
    box.setCurrentIndex(2)
    box.activated.emit(2)
    widget.controller.restore_defaults()
    assert (box.currentText(), widget.controller._choices.encoder) == ("automatic", None)
    widget.controller.choose_encoder("residual")
    assert widget.start().prepared().run.network.encoder == "residual"
    model = next(m for m in widget.session.models() if m.header.name == "phantom-3d")
    widget.controller.choose_start(model)
    assert box.parentWidget().isHidden()
    assert "network" not in widget.controller._plan.request_values


def shown_budget(widget: Any) -> tuple[str, str, bool]:
    """Preset, kind of the budget, and whether minutes are shown."""
    preset, budget = widget.view.findChild(QComboBox, "preset"), widget.view.findChild(QComboBox, "budget")
    return preset.currentText(), budget.currentText(), not widget.view.findChild(QWidget, "minutes").isHidden()


def test_a_beginner_gets_ten_minutes_and_fine_tuning_its_own_preset(widget: Any, annotated: Any) -> None:
    annotated(widget.viewer)
    widget.controller.pairs.add_active()
    assert shown_budget(widget) == ("quick", "Minutes", True)
    assert widget.start().prepared().run.training.minutes == 10
    model = next(m for m in widget.session.models() if m.header.name == "phantom-3d")
    widget.controller.choose_start(model)
    assert shown_budget(widget) == ("fine-tune", "Preset default", False)
    widget.controller.choose_preset("quick")
    widget.controller.choose_start(None)
    assert shown_budget(widget)[:2] == ("quick", "Minutes")
    widget.controller.choose_start(model)
    assert shown_budget(widget) == ("quick", "Preset default", False)


def test_new_models_and_fine_tuning_have_their_own_budget_and_settings(widget: Any, annotated: Any) -> None:
    annotated(widget.viewer)
    widget.controller.pairs.add_active()
    widget.controller.choose_budget((30, None))
    widget.controller._set(training={"learning_rate": 0.02})
    widget.controller.choose_start(widget.model("phantom-3d"))
    chosen = widget.controller._choices
    assert (chosen.epochs, chosen.minutes, chosen.training) == (None, None, {})
    assert widget.text("budget") == "Preset default"
    widget.controller.choose_budget((None, 2.0))
    widget.controller.choose_start(3)
    chosen = widget.controller._choices
    assert (chosen.epochs, chosen.minutes, chosen.training) == (30, None, {"learning_rate": 0.02})
    widget.controller.choose_start(widget.model("phantom-3d"))
    assert (widget.controller._choices.epochs, widget.controller._choices.minutes) == (None, 2.0)


def test_with_a_gpu_a_new_model_is_balanced_unless_the_user_chose(widget: Any, annotated: Any) -> None:
    annotated(widget.viewer)
    widget.controller.pairs.add_active()
    gpu = {"auto": "NVIDIA", "cpu": "CPU", "cuda": "NVIDIA"}
    widget.jobs.ready = Ready(version="1", torch="2", devices=gpu)
    widget.jobs.started.emit(widget.jobs.ready)
    assert shown_budget(widget) == ("balanced", "Preset default", False)
    widget.controller.free_memory()  # an engine that ended
    assert shown_budget(widget) == ("balanced", "Preset default", False)
    widget.controller.choose_device("cpu")
    assert shown_budget(widget) == ("quick", "Minutes", True)
    widget.controller.choose_budget((7, None))
    widget.controller.choose_device("cuda")
    assert shown_budget(widget)[:2] == ("balanced", "Epochs")


def test_advanced_settings_that_are_the_presets_are_left_to_it(widget: Any, annotated: Any) -> None:
    annotated(widget.viewer)
    widget.controller.pairs.add_active()
    widget.controller.choose_preset("quick")
    widget.controller.choose_budget((None, None))
    usual = RunConfig.model_fields["training"].default
    widget.controller.choose_options(usual.replace(epochs=40, steps=40, batch_size=2, learning_rate=0.01))
    training = widget.start().prepared().run.training
    assert training.learning_rate == 0.01
    assert (training.epochs, training.ema_decay, training.validation_cases) == (
        40,
        usual.ema_decay,
        usual.validation_cases,
    )
    widget.controller.restore_defaults()


def test_advanced_shows_what_the_scans_are_trained_with_and_each_value_can_be_chosen(widget: Any, rng: Any) -> None:
    form = widget.view._advanced._form
    image = widget.viewer.add_image(rng.normal(size=(60, 70)), name="photograph")
    drawn = np.zeros((60, 70), np.uint8)
    drawn[20:40, 20:40] = 1
    widget.viewer.layers.selection = {image, widget.viewer.add_labels(drawn, name="drawn")}
    widget.controller.choose_preset("balanced")
    assert form.value.steps == 100  # of a network from scratch, as long as there is no scan
    widget.controller.pairs.add_active()
    assert (form.value.steps, form.value.batch_size) == (40, 16)
    widget.controller.choose_options(form.value.replace(steps=100))
    assert resolve_run(widget.controller._plan.request_values).training.steps == 100
    widget.controller.choose_preset("quick")
    assert (form.value.steps, form.value.batch_size, form.value.learning_rate) == (100, 4, 3e-3)
    widget.controller.choose_encoder("residual")
    assert (form.value.batch_size, form.value.learning_rate) == (2, 1e-3)
    widget.controller.restore_defaults()
    assert (form.value.steps, form.value.batch_size) == (40, 4)
    assert widget.controller._plan.request_values["training"] == {"epochs": 100_000, "minutes": 10.0}


def test_the_learning_rate_shown_is_the_one_of_fine_tuning_and_that_of_new_models_can_be_chosen(
    widget: Any, annotated: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[Any] = []
    monkeypatch.setattr(widget.view, "show_options", shown.append)
    image, labels = annotated(widget.viewer)
    widget.controller.fine_tune(image, labels, widget.model("phantom-3d"))
    assert shown[-1].learning_rate == FINE_TUNING_RATE
    widget.controller.choose_options(shown[-1].replace(learning_rate=5e-4))
    training = widget.start().prepared().run.training
    assert training.learning_rate == 5e-4
    assert "learning_rate" in training.model_fields_set
    widget.controller.choose_start(None)
    widget.controller.restore_defaults()
    assert shown[-1].learning_rate == 1e-3


def test_epochs_are_drawn_and_the_time_left_is_said(widget: Any, annotated: Any) -> None:
    annotated(widget.viewer)
    widget.controller.pairs.add_active()
    assert "held out" in widget.text("notes")
    job = widget.start()
    assert widget.text("notes") == ""  # the training says it
    assert widget.text("run") == "Stop"
    job.say(StageStarted("Training on CPU."))
    job.say(StepDone(1, 3, 40, 0.9))
    assert widget.view.progress_text().startswith("Epoch 1, step 3 of 40")
    job.say(epoch(1))
    job.say(StepDone(2, 1, 40, 0.8))
    assert widget.view.progress_text() == "Epoch 2 of 5, step 1 of 40, about 40 s left"


@pytest.mark.filterwarnings("error")
def test_layers_are_known_again_by_whatever_proxy_napari_hands_them_over(widget: Any, annotated: Any) -> None:
    image, labels = annotated(widget.viewer)
    widget.controller.pairs.add_layers(PublicOnlyProxy(image), PublicOnlyProxy(labels))
    assert widget.can_run
    widget.controller.pairs.add_layers(image, labels)
    assert len(widget.controller._pairs.rows) == 1
    image.scale = (2, 1, 1)
    assert not widget.can_run  # it is read again


def test_a_run_by_the_clock_says_no_number_of_epochs_but_the_time_from_its_first_step(
    widget: Any, annotated: Any
) -> None:
    annotated(widget.viewer)
    widget.controller.pairs.add_active()
    job = widget.start()
    job.say(StepDone(1, 3, 40, 0.9, seconds_left=590.0, epochs=MOST_EPOCHS))
    assert widget.view.progress_text() == "Epoch 1, step 3 of 40, about 10 min left"
    job.say(replace(epoch(1), epochs=MOST_EPOCHS))
    job.say(StepDone(2, 1, 40, 0.8, seconds_left=540.0))
    assert widget.view.progress_text() == "Epoch 2, step 1 of 40, about 9 min left"


def test_every_line_of_a_running_training_names_the_epoch_and_the_time_left(widget: Any, annotated: Any) -> None:
    annotated(widget.viewer)
    widget.controller.pairs.add_active()
    job = widget.start()

    def said(event: Any) -> str:
        job.say(event)
        return str(widget.view.progress_text())

    assert said(Working("Reading scan 2")).startswith("Reading scan 2")
    assert said(StepDone(1, 1, 40, 0.9, epochs=20)) == "Epoch 1 of 20, step 1 of 40"
    assert said(StepDone(1, 40, 40, 0.9, 190.0, 20)) == "Epoch 1 of 20, step 40 of 40, about 3 min left"
    assert said(Working("Validating: 40 %")).startswith("Epoch 1 of 20, validating: 40 %, about 3 min left")
    job.say(replace(epoch(1), epochs=20, seconds_left=130.0))
    assert said(Working("Preview of epoch 1: 7 %")).startswith("Preview of epoch 1 of 20: 7 %, about 2 min left")
    assert said(Working("Training epoch 2")).startswith("Training epoch 2 of 20, about 2 min left")
    job.say(replace(epoch(20), epochs=20, seconds_left=0.0))
    last = said(Working("Validating the model: 50 %, about 9 s left"))
    assert last.startswith("Epoch 20 of 20, validating the model: 50 %, about 9 s left")


def test_a_start_model_that_was_trained_on_other_scans_is_warned_of_as_in_segment(widget: Any) -> None:
    image = widget.viewer.add_image(np.random.default_rng(0).normal(0, 1, (12, 24, 28)), name="knee")
    data = np.zeros((12, 24, 28), np.uint8)
    data[3:9, 8:16, 8:16] = 1
    labels = widget.viewer.add_labels(data)
    widget.controller.choose_start(widget.model("hippocampus-mri"))
    assert widget.text("start_fit") == ""
    widget.controller.pairs.add_layers(image, labels)
    warning = fit_of(read(image), widget.model("hippocampus-mri")).text
    assert widget.text("start_fit") == warning
    assert warning.startswith("hippocampus-mri was trained on T1-weighted MRI")
    assert widget.can_run
    widget.controller.choose_start(None)
    assert widget.text("start_fit") == ""
    widget.controller.choose_start(widget.model("phantom-3d"))
    assert "synthetic phantoms" in widget.text("start_fit")
    widget.view.remove_clicked.emit([0])
    assert widget.text("start_fit") == ""


def test_a_finished_model_is_in_segments_list_and_preferred(widget: Any, annotated: Any) -> None:
    annotated(widget.viewer)
    widget.controller.pairs.add_active()
    preferred: list[str] = []
    widget.session.model_preferred.connect(lambda entry: preferred.append(entry.header.name))
    job = widget.start()
    job.say(result(write_model(widget, "liver model")))
    assert "liver model" in [m.header.name for m in widget.session.models()]
    assert preferred == ["liver model"]
    chosen = widget.session.model_for(ScanMark("3D, 1 channel, no voxel size"))
    assert chosen is not None
    assert chosen.trained
    assert chosen.model.path == widget.models / "liver model.safetensors"
    assert widget.text("run") == "Train"
    assert widget.text("name") == "liver model-2"  # the next one


def test_a_model_is_remembered_for_the_scans_it_was_trained_on_whatever_is_listed_at_its_end(
    widget: Any, annotated: Any
) -> None:
    annotated(widget.viewer)
    widget.controller.pairs.add_active()
    job = widget.start()
    widget.view.remove_clicked.emit([0])
    brain = widget.viewer.add_image(np.ones((40, 44), np.float32), name="brain")
    widget.viewer.layers.selection = {brain, widget.viewer.add_labels(np.ones((40, 44), np.uint8))}
    widget.controller.pairs.add_active()
    job.say(result(write_model(widget, "liver model")))
    assert widget.session.model_for(ScanMark("3D, 1 channel, no voxel size")) is not None
    assert widget.session.model_for(ScanMark("2D, 1 channel, no pixel size")) is None


@pytest.mark.parametrize("more_epochs", [None, 5])
def test_a_run_that_is_resumed_says_nothing_of_the_pairs_that_are_listed(
    widget: Any, annotated: Any, more_epochs: int | None
) -> None:
    begun(widget, "brain")
    annotated(widget.viewer)
    widget.controller.pairs.add_active()
    widget.start().say(result(write_model(widget, "liver model")))
    widget.controller.resume(list_runs(widget.models)[0], more_epochs)
    widget.jobs.jobs[-1].say(result(write_model(widget, "brain")))
    chosen = widget.session.model_for(ScanMark("3D, 1 channel, no voxel size"))
    assert chosen is not None
    assert chosen.model.header.name == "liver model"


def test_a_model_kept_of_a_stopped_run_says_nothing_of_the_pairs_that_are_listed(widget: Any, annotated: Any) -> None:
    folder = begun(widget, "brain")
    header, weights = load_bundle(find_model("phantom-3d"))
    save_bundle(folder.best, header, weights)
    annotated(widget.viewer)
    widget.controller.pairs.add_active()
    preferred: list[str] = []
    widget.session.model_preferred.connect(lambda entry: preferred.append(entry.path.stem))
    widget.controller.trainings.keep(list_runs(widget.models)[0])
    assert widget.session.model_for(ScanMark("3D, 1 channel, no voxel size")) is None
    assert preferred == ["brain"], "the widgets take it where nothing speaks against it"


def test_what_is_held_out_is_said_once_at_the_end(widget: Any, annotated: Any) -> None:
    annotated(widget.viewer)
    widget.controller.pairs.add_active()
    job, words = widget.start(), "Validation: 5 annotated slices of the same scans are held out."
    job.say(StageStarted(words))
    assert words in widget.text("messages")
    done = result(write_model(widget, "liver model"))
    job.say(replace(done, result=done.result.replace(held_out=words)))
    assert words not in widget.text("messages")
    assert widget.text("held_out") == words


def test_what_was_held_out_is_no_note_on_the_next_training_while_it_stands_with_the_result(
    widget: Any, annotated: Any
) -> None:
    annotated(widget.viewer)
    widget.controller.pairs.add_active()
    (words,) = [note for note in widget.text("notes").split("\n") if "held out" in note]
    job = widget.start()
    done = result(write_model(widget, "liver model"))
    job.say(replace(done, result=done.result.replace(held_out=words)))
    assert widget.text("held_out") == words
    assert words not in widget.text("notes")
    widget.start().say(Failed(DeviceError("The device is gone."), ""))
    assert words in widget.text("notes"), "nothing else says it"


def test_fine_tuning_that_got_worse_is_listed_and_not_preferred(widget: Any, annotated: Any) -> None:
    image, labels = annotated(widget.viewer)
    widget.controller.fine_tune(image, labels, widget.model("phantom-3d"))
    preferred: list[str] = []
    widget.session.model_preferred.connect(lambda entry: preferred.append(entry.header.name))
    job = widget.start()
    job.say(result(write_model(widget, "phantom-3d tuned"), {"organ": 0.9}, 0.8))
    assert preferred == []
    assert widget.controller.trainings.outcome.worse
    assert "phantom-3d tuned" in [m.header.name for m in widget.session.models()]


def test_stopping_asks_the_engine_and_says_where_nothing_can_be_kept(widget: Any, annotated: Any) -> None:
    annotated(widget.viewer)
    widget.controller.pairs.add_active()
    job = widget.start()
    widget.controller.start_or_stop()
    assert job.cancelled
    assert not widget.can_run
    job.say(Cancelled())
    assert widget.can_run
    assert widget.controller.trainings.outcome is None
    assert "no model yet" in widget.text("status")


def test_a_failure_is_said_and_the_widget_can_go_on(widget: Any, annotated: Any) -> None:
    annotated(widget.viewer)
    widget.controller.pairs.add_active()
    job = widget.start()
    job.say(Failed(DeviceError("Memory of cuda ran out."), "a traceback"))
    assert widget.text("error") == "Memory of cuda ran out."
    assert widget.controller.details() == "a traceback"
    assert widget.can_run
    job.say(Cancelled())  # late words of a dead engine
    assert widget.text("error") == "Memory of cuda ran out."


def test_layers_may_go_while_it_trains(widget: Any, annotated: Any) -> None:
    annotated(widget.viewer)
    widget.controller.pairs.add_active()
    job = widget.start()
    widget.viewer.layers.clear()
    job.say(epoch())
    job.say(result(write_model(widget, "liver model")))
    assert widget.controller.trainings.outcome is not None


def test_the_preview_is_a_layer_that_follows_the_epochs(widget: Any, annotated: Any) -> None:
    image, _ = annotated(widget.viewer)
    widget.controller.pairs.add_active()
    job = widget.start()
    (scan,) = job.previews
    assert scan.name == "liver"
    classes = np.zeros(image.data.shape, np.uint8)
    job.say(epoch())
    selected = set(widget.viewer.layers.selection)
    job.say(ArrayReady("preview", classes))
    shown = widget.viewer.layers[-1]
    assert set(widget.viewer.layers.selection) == selected
    classes[6] = 1
    job.say(PreviewDone(1, 0.5))
    assert shown.name == "liver preview"
    assert shown.data[6].all()
    assert "Epoch 1" in widget.text("preview_facts")


def test_a_preview_of_a_second_stays_where_epochs_are_short(widget: Any, annotated: Any) -> None:
    image, _ = annotated(widget.viewer)
    widget.controller.pairs.add_active()
    job = widget.start()
    job.say(ArrayReady("preview", np.zeros(image.data.shape, np.uint8)))
    job.say(epoch(seconds=2))
    job.say(PreviewDone(1, 1.0))
    assert job.previews[-1] is not None


def test_a_slow_preview_is_switched_off_unless_the_person_wants_it(widget: Any, annotated: Any) -> None:
    image, _ = annotated(widget.viewer)
    widget.controller.pairs.add_active()
    job = widget.start()
    job.say(ArrayReady("preview", np.zeros(image.data.shape, np.uint8)))
    job.say(epoch(seconds=10))
    job.say(PreviewDone(1, 9.0))
    assert job.previews[-1] is None
    assert "switched off" in widget.text("preview_facts")
    widget.view.preview_toggled.emit(True)
    assert job.previews[-1] is not None
    job.say(PreviewDone(2, 9.0))
    assert job.previews[-1] is not None


def test_a_preview_that_is_deleted_is_not_asked_for_any_more(widget: Any, annotated: Any) -> None:
    image, _ = annotated(widget.viewer)
    widget.controller.pairs.add_active()
    job = widget.start()
    job.say(ArrayReady("preview", np.zeros(image.data.shape, np.uint8)))
    widget.viewer.layers.remove(widget.viewer.layers[-1])
    job.say(PreviewDone(1, 0.1))
    assert job.previews[-1] is None


@pytest.mark.parametrize("light", [True, False])
def test_a_preview_of_the_light_model_is_not_taken_for_the_trained_one(
    widget: Any, annotated: Any, light: bool
) -> None:
    image, _ = annotated(widget.viewer)
    widget.controller.pairs.add_active()
    job = widget.start()
    job.say(ArrayReady("preview", np.zeros(image.data.shape, np.uint8)))
    job.say(PreviewDone(1, 0.1, 0.85, "held-out slices", light=light))
    assert "Dice 0.85" in widget.text("preview_facts")
    job.end_cancelled()
    assert ("light model's. Segment the scan" in widget.text("preview_facts")) is light
    assert ("0.85" in widget.text("preview_facts")) is not light


def test_a_preview_that_was_deleted_comes_back_and_another_takes_its_place(widget: Any, annotated: Any) -> None:
    image, _ = annotated(widget.viewer)
    widget.controller.pairs.add_active()
    job = widget.start()
    job.say(ArrayReady("preview", np.zeros(image.data.shape, np.uint8)))
    widget.viewer.layers.remove(widget.viewer.layers[-1])
    job.say(PreviewDone(1, 0.1))
    widget.view.preview_toggled.emit(True)
    assert widget.viewer.layers[-1].name == "liver preview"
    job.say(ArrayReady("preview", np.ones(image.data.shape, np.uint8)))
    (shown,) = [layer for layer in widget.viewer.layers if layer.name.startswith("liver preview")]
    assert shown.data.all()


@pytest.mark.parametrize("use", ["none", "painted", "pair"])
def test_a_preview_goes_with_the_next_training_unless_it_was_painted_in_or_is_trained_on(
    widget: Any, annotated: Any, use: str
) -> None:
    image, _ = annotated(widget.viewer)
    widget.controller.pairs.add_active()
    job = widget.start()
    job.say(ArrayReady("preview", np.ones(image.data.shape, np.uint8)))
    shown = widget.viewer.layers[-1]
    assert not shown.editable
    job.say(Cancelled())
    assert shown.editable
    if use == "painted":
        shown.paint((1, 1, 1), 2)
        shown.events.paint(value=[])
    elif use == "pair":
        widget.controller.pairs.add_layers(image, shown)
    widget.start()
    assert (shown in widget.viewer.layers) == (use != "none")


def test_large_scans_are_not_previewed_unless_the_person_wants_it(widget: Any) -> None:
    image = widget.viewer.add_image(np.zeros((8, 1024, 1024), np.uint8), name="large")
    labels = widget.viewer.add_labels((image.data + (np.arange(1024) < 9)).astype(np.uint8), name="l")
    widget.viewer.layers.selection = {image, labels}
    widget.controller.pairs.add_active()
    assert widget.start().previews == []


def test_a_plan_of_four_lines_is_read_with_what_comes_after(widget: Any, annotated: Any) -> None:
    annotated(widget.viewer)
    widget.controller.pairs.add_active()
    job = widget.start()
    lines = [f"Line {number}." for number in range(7)]
    for line in lines:
        job.say(StageStarted(line))
    assert widget.text("messages").split("\n") == lines[1:]


def test_an_estimate_is_said_and_forgotten_when_something_else_would_be_trained(widget: Any, annotated: Any) -> None:
    annotated(widget.viewer)
    widget.controller.pairs.add_active()
    widget.controller.choose_preset("quick")
    widget.controller.choose_budget((None, None))
    widget.controller.estimate()
    job = widget.jobs.jobs[-1]
    assert isinstance(job.prepared(), PlanRequest)
    assert widget.text("run") == "Cancel"
    job.say(
        Finished(PlanResult(words="A plan.", step_seconds=1, epoch_seconds=40, seconds=1600, device="CPU (no GPU)"))
    )
    assert widget.text("times") == "quick: about 27 min"
    assert "A plan." in widget.text("messages")
    widget.controller.choose_budget((3, None))
    assert "27 min" not in widget.text("times")


def test_an_estimate_can_be_cancelled(widget: Any, annotated: Any) -> None:
    annotated(widget.viewer)
    widget.controller.pairs.add_active()
    widget.controller.estimate()
    widget.controller.start_or_stop()
    job = widget.jobs.jobs[-1]
    assert job.cancelled
    job.say(Cancelled())
    assert widget.text("run") == "Train"
    assert widget.can_run


def test_a_missing_device_is_said(widget: Any, annotated: Any) -> None:
    annotated(widget.viewer)
    widget.controller.pairs.add_active()
    widget.controller.choose_device("cuda")
    widget.jobs.started.emit(
        Ready(version="1", torch="2", devices={"auto": "CPU", "cpu": "CPU"}, why_not={"cuda": "No GPU."})
    )
    assert widget.text("problem_device") == "No GPU."
    assert not widget.can_run


@pytest.mark.parametrize("doing", ["estimate", "resample", "keep", "save_as"])
def test_what_comes_late_is_not_shown_by_a_widget_that_is_gone(
    widget: Any, annotated: Any, monkeypatch: pytest.MonkeyPatch, doing: str
) -> None:
    annotated(widget.viewer)
    widget.controller.pairs.add_active()
    if doing == "save_as":
        widget.start().say(result(write_model(widget, "liver model")))
    begun(widget, "old")
    widget.jobs.held, layers = [], len(widget.viewer.layers)
    if doing == "estimate":
        widget.controller.estimate()
    elif doing == "resample":
        widget.controller.pairs.resample(0)
    elif doing == "keep":
        widget.controller.trainings.keep(list_runs(widget.models)[0])
    else:
        widget.controller.trainings.save_as(widget.models / "copy")
    widget.controller.close()
    for name in (
        "show_error",
        "show_messages",
        "show_outcome",
        "show_running",
        "show_pairs",
        "show_run",
        "show_preset",
    ):
        monkeypatch.setattr(widget.view, name, lambda *_, **__: pytest.fail("The widget is gone."))
    if doing == "estimate":
        job = widget.jobs.jobs[-1]
        assert job.cancelled
        job.say(Cancelled())
    assert widget.jobs.held
    for call in widget.jobs.held:
        call()
    assert len(widget.viewer.layers) == layers
    monkeypatch.undo()
    widget.session.widget_opened()  # for the fixture, which closes again


@pytest.mark.parametrize("running", [False, True])
def test_closing_leaves_the_viewer_alone(widget: Any, annotated: Any, running: bool) -> None:
    _, labels = annotated(widget.viewer)
    widget.controller.pairs.add_active()
    job = widget.start() if running else None
    widget.controller.close()
    assert not widget.jobs.alive
    labels.paint((1, 1, 1), 1)
    widget.viewer.layers.clear()
    if job is not None:
        assert job.cancelled
        job.say(Cancelled())
    widget.session.widget_opened()  # for the fixture, which closes again


@pytest.mark.parametrize("at", ["progress", "result", "result, and its error"])
def test_a_message_that_cannot_be_shown_ends_the_training_once_and_frees_the_button(
    widget: Any, annotated: Any, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        msg = "the view is broken"
        raise RuntimeError(msg)

    annotated(widget.viewer)
    widget.controller.pairs.add_active()
    usual = widget.text("run")
    job = widget.start()
    begun(widget)
    model = write_model(widget, "liver model")
    kept = []
    monkeypatch.setattr("napari_prosma.train.job.keep_stopped", lambda folder: kept.append(folder) or broken())
    for name in ("show_progress", "show_messages", *(["show_error"] if at.endswith("error") else [])):
        monkeypatch.setattr(widget.view, name, broken)
    if at == "progress":
        job.say(StepDone(1, 1, 4, 0.5))
        assert job.cancelled
        assert widget.controller.trainings.run is not None  # the engine is at work still: nothing can be kept yet
        assert kept == []
        monkeypatch.undo()
        job.say(Cancelled())
    else:
        job.say(result(model))
    assert (widget.controller.trainings.run, widget.text("run"), widget.can_run) == (None, usual, True)
    if not at.endswith("error"):
        assert "could not be shown: RuntimeError: the view is broken" in widget.text("error")


@pytest.mark.parametrize("theirs", ["data", "lock"])
def test_a_run_folder_that_another_napari_took_a_moment_before_is_left_to_it(
    widget: Any, annotated: Any, theirs: str
) -> None:
    annotated(widget.viewer)
    widget.controller.pairs.add_active()
    job = widget.start()
    folder = RunFolder.beside(widget.models / "liver model.safetensors")
    with contextlib.ExitStack() as stack:
        if theirs == "lock":
            stack.enter_context(run_lock(folder))
        (folder.root / "data").mkdir(parents=True)
        (folder.root / "data" / "of another").touch()
        with pytest.raises(ProsmaError, match=r"nother training") as error:
            job.prepared()
        job.say(Failed(error.value, ""))
        assert str(error.value) in widget.text("error")
        assert widget.can_run
        assert (folder.root / "data" / "of another").exists()
        assert not (folder.root / "annotations").exists()
        assert not folder.model.exists()
