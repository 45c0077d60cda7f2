"""What the widget does when the person or the viewer does something; the engine is played by the test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image, Labels
from qtpy.QtWidgets import QComboBox, QLineEdit, QPushButton, QWidget

from napari_prosma._reader import read_paths
from napari_prosma._writer import write_image_layer, write_labels_layer
from napari_prosma.layers.results import editable_copy
from napari_prosma.layers.scan import read
from napari_prosma.layers.viewport import current_slice, view_box
from napari_prosma.segment.state import run_command, writer
from prosma_core.config.inference import InferenceConfig
from prosma_core.engine.messages import ArrayReady, Failed, Finished, Ready
from prosma_core.errors import DeviceError
from prosma_core.events import SlabDone, StageStarted, TileDone
from prosma_core.io.bundle import shipped_models
from prosma_core.io.images import read_image
from prosma_core.io.notes import read_notes

if TYPE_CHECKING:
    from tests.plugin.segment.conftest import Widget


def labels_of(widget: Widget) -> list[Labels]:
    return [layer for layer in widget.viewer.layers if isinstance(layer, Labels)]


def test_without_a_scan_segment_is_disabled_and_says_why(widget: Widget) -> None:
    assert not widget.can_run
    assert "Open a scan" in widget.text("problem_image")


def test_the_active_scan_is_preselected(make_widget) -> None:
    viewer = ViewerModel()
    viewer.add_image(np.zeros((12, 40, 44)), name="first")
    viewer.add_image(np.zeros((40, 44)), name="second")
    viewer.add_labels(np.zeros((40, 44), int), name="labels")
    viewer.layers.selection.active = viewer.layers["first"]
    widget = make_widget(viewer)
    assert widget.entries("image") == ["second", "first"]
    assert widget.text("image") == "first"
    widget.choose("phantom-3d")
    assert widget.can_run


def test_a_second_scan_that_lies_elsewhere_is_shown(widget: Widget, scan_data: np.ndarray) -> None:
    widget.viewer.add_image(scan_data, name="mri")
    second = widget.viewer.add_image(scan_data, name="ct", translate=(-500, 0, 900))
    assert view_box(second, read(second), widget.viewer) == ((0, 12), (0, 40), (0, 44))
    assert current_slice(second, read(second), widget.viewer) is not None


def test_a_scan_that_is_opened_is_taken(widget: Widget, scan_data: np.ndarray) -> None:
    widget.viewer.add_image(scan_data, name="mri", scale=(3, 1, 1))
    assert widget.text("image") == "mri"
    assert widget.text("axes") == "zyx"
    assert "z 12 · y 40 · x 44" in widget.text("image_facts")
    assert "3 × 1 × 1" in widget.text("image_facts")


def test_the_list_follows_new_names_and_deletions(widget: Widget, scan_data: np.ndarray) -> None:
    layer = widget.viewer.add_image(scan_data, name="mri")
    other = widget.viewer.add_image(scan_data, name="other")
    layer.name = "renamed"
    assert widget.entries("image") == ["other", "renamed"]
    widget.viewer.layers.remove(other)
    assert widget.entries("image") == ["renamed"]
    assert widget.text("image") == "renamed"
    widget.viewer.layers.clear()
    assert not widget.can_run


def test_a_result_can_be_selected_in_3d_while_the_pointer_rests_on_the_canvas(
    widget: Widget, scan_data: np.ndarray, finished
) -> None:
    scan = widget.viewer.add_image(scan_data, name="mri")
    job = widget.start()
    job.give_labels()
    job.say(finished({"organ": 7}))
    widget.viewer.mouse_over_canvas = True
    widget.viewer.dims.ndisplay = 3
    for layer in (scan, *labels_of(widget)):
        widget.viewer.layers.selection.active = layer  # napari asks what is under the pointer
    assert widget.viewer.layers.selection.active is not scan


def test_axes_that_cannot_be_are_refused_under_their_field(widget: Widget, scan_data: np.ndarray) -> None:
    widget.viewer.add_image(scan_data, name="mri")
    widget.choose("phantom-3d")
    widget.controller.choose_axes("qyx")
    assert not widget.can_run
    assert "'qyx'" in widget.text("problem_axes")
    widget.controller.choose_axes("z y x")
    assert widget.can_run
    assert widget.text("problem_axes") == ""


def test_a_voxel_size_is_asked_for_where_the_layer_states_none(widget: Widget, scan_data: np.ndarray) -> None:
    layer = widget.viewer.add_image(scan_data, name="mri")
    widget.choose("phantom-3d")
    field = widget.view.findChild(QLineEdit, "size")
    assert not field.parentWidget().isHidden()
    assert "voxel size unknown" in widget.text("image_facts")
    assert "Voxel size unknown: assumed that of the model's training scans" in widget.text("notes")
    for text, problem in (("3; 1; 1 mm", ""), ("3, 1", "give z,y,x or one number"), ("3 foos", "is not a voxel size")):
        field.setText(text)
        field.editingFinished.emit()
        assert problem in widget.text("problem_size")
        assert widget.can_run == (not problem)
    field.setText("3,1,1 mm")
    field.editingFinished.emit()
    assert "Voxel size" not in widget.text("notes")
    widget.viewer.add_image(scan_data, name="sized", scale=(3, 1, 1), units=("mm",) * 3)
    assert field.parentWidget().isHidden()
    widget.controller.choose_image(layer)
    widget.choose("phantom-3d")
    assert field.text() == "3,1,1 mm"
    spec = widget.start().spec.scan.spec
    assert (spec.spacing, spec.unit) == ((3, 1, 1), "mm")
    assert layer.scale.tolist() == [1, 1, 1]
    assert " --spacing 3,1,1mm" in run_command(widget.controller._plan)
    layer.scale = (2, 0.5, 0.5)
    widget.controller.choose_size("")
    assert " --spacing 2,0.5,0.5mm" in run_command(widget.controller._plan)


def test_a_typed_voxel_size_is_in_the_files_that_are_saved_and_in_their_notes(
    widget: Widget, scan_data: np.ndarray, finished, tmp_path: Path
) -> None:
    widget.viewer.add_image(scan_data, name="stack")
    widget.choose("phantom-3d")
    widget.controller.choose_options(InferenceConfig(entropy=True))
    widget.controller.choose_size("3,1,0.5 mm")
    job = widget.start()
    job.give_labels()[:2] = 1
    job.say(ArrayReady("entropy", np.zeros(scan_data.shape, np.float32)))
    job.say(finished({"organ": 2 * 40 * 44}))
    labels = labels_of(widget)[0]
    assert labels.scale.tolist() == [1, 1, 1]
    for layer in (labels, editable_copy(labels), widget.viewer.layers["stack phantom-3d uncertainty"]):
        path = tmp_path / f"{layer.name}.ome.tif"
        data, meta, kind = layer.as_layer_data_tuple()
        {"labels": write_labels_layer, "image": write_image_layer}[kind](str(path), data, meta)
        spec = read_image(path).spec
        assert (spec.spacing, spec.unit) == ((3, 1, 0.5), "mm"), layer.name
        assert read_notes(path)["voxel_size"] == "3,1,0.5mm"
    labels.scale = (2, 1, 1)  # by a person, who knows better
    writer(labels, tmp_path / "moved.ome.tif")()
    assert read_image(tmp_path / "moved.ome.tif").spec.spacing == (2, 1, 1)


def test_how_a_scan_is_drawn_changes_nothing_of_what_is_segmented(widget: Widget, scan_data: np.ndarray) -> None:
    layer = widget.viewer.add_image(scan_data, name="mri", scale=(3, 1, 1), units=("mm",) * 3)
    before = widget.start()
    before.end_cancelled()
    widget.viewer.add_labels(np.zeros(scan_data.shape, int))
    layer.contrast_limits, layer.gamma, layer.opacity, layer.visible = (110, 111), 2, 0.1, False
    widget.viewer.layers.move(0, 1)
    after = widget.start()
    np.testing.assert_array_equal(after.spec.scan.load(), scan_data)
    assert (after.spec.scan.spec.spacing, after.spec.scan.spec.affine.tolist()) == (
        before.spec.scan.spec.spacing,
        before.spec.scan.spec.affine.tolist(),
    )
    assert after.request == before.request


def test_strokes_in_a_corrected_copy_are_undone_and_leave_the_result_alone(
    widget: Widget, scan_data: np.ndarray, finished
) -> None:
    widget.viewer.add_image(scan_data, name="mri")
    job = widget.start()
    result = job.give_labels()
    result[2:6, 10:20, 10:20] = 1
    job.say(finished({"organ": 400}))
    made = result.copy()
    copy = widget.controller.last.correct()
    assert (copy.mode, copy.visible) == ("paint", True)
    for stroke in ((3, 12, 12), (3, 30, 30)):
        copy.paint(stroke, 2)
    copy.n_edit_dimensions = 3
    copy.fill((0, 0, 0), 1)
    for _ in range(3):
        copy.undo()
    np.testing.assert_array_equal(copy.data, made)
    copy.redo()
    assert copy.data[3, 12, 12] == 2
    np.testing.assert_array_equal(result, made)


def test_a_scale_without_a_unit_counts_in_the_model_s(widget: Widget, scan_data: np.ndarray) -> None:
    widget.viewer.add_image(scan_data, name="mri", scale=(3, 1, 1))
    widget.choose("phantom-3d")
    assert "The voxel size 3 × 1 × 1 has no unit: mm is assumed" in widget.text("notes")
    assert "voxels 3 × 1 × 1 without a unit" in widget.text("image_facts")


def test_a_model_that_goes_by_no_voxel_size_does_not_ask_for_one(widget: Widget, scan_data: np.ndarray) -> None:
    widget.viewer.add_image(scan_data[0], name="picture")
    widget.choose("breast-lesion-us")
    asked = not widget.view.findChild(QLineEdit, "size").parentWidget().isHidden()
    assert asked == (widget.model("breast-lesion-us").header.preprocess.resample == "spacing")


def test_other_axes_change_what_is_segmented(widget: Widget, scan_data: np.ndarray) -> None:
    widget.viewer.add_image(scan_data, name="movie")
    widget.controller.choose_axes("tyx")
    widget.choose("breast-lesion-us")
    assert widget.start().spec.scan.spec.axes == "tyx"


def test_a_multiscale_layer_offers_its_levels(widget: Widget, scan_data: np.ndarray) -> None:
    widget.viewer.add_image([scan_data, scan_data[:, ::2, ::2]], name="pyramid", multiscale=True)
    widget.controller.choose_level(1)
    assert widget.start().spec.scan.spec.shape == (12, 20, 22)


def test_segment_becomes_cancel_and_shows_how_far_it_is(widget: Widget, scan_data: np.ndarray) -> None:
    widget.viewer.add_image(scan_data, name="mri")
    job = widget.start()
    assert widget.text("run") == "Cancel"
    job.say(StageStarted("Segmenting: 36 tiles."))
    job.say(TileDone(9, 36))
    assert widget.view.progress_text().startswith("Segmenting: 25 %")
    assert "36 tiles" in widget.text("messages")
    widget.controller.start_or_cancel()
    assert job.cancelled
    assert widget.text("run") == "Canceling…"
    job.end_cancelled()
    assert widget.text("run") == "Segment"
    assert widget.can_run


def test_finished_slabs_appear_in_a_layer_that_lies_on_the_scan(widget: Widget, scan_data: np.ndarray) -> None:
    scan = widget.viewer.add_image(
        scan_data, name="mri", scale=(3, 1, 2), translate=(5, 6, 7), units=("mm",) * 3, axis_labels=("z", "y", "x")
    )
    widget.choose("phantom-3d")
    job = widget.start()
    labels = job.give_labels()
    layer = labels_of(widget)[0]
    assert layer.name == "mri phantom-3d"
    assert np.array_equal(layer.scale, scan.scale)
    assert np.array_equal(layer.translate, scan.translate)
    assert layer.units == scan.units
    assert layer.axis_labels == scan.axis_labels
    drawn: list[object] = []
    layer.events.set_data.connect(lambda _: drawn.append(layer))
    widget.viewer.dims.set_current_step(0, 2)
    drawn.clear()
    labels[6:] = 1
    job.say(SlabDone((6, 0, 0), (12, 40, 44)))
    assert drawn == []  # not in view
    labels[:6] = 1
    job.say(SlabDone((0, 0, 0), (6, 40, 44)))
    assert drawn == [layer]
    assert np.asarray(layer.data).all()


def test_the_selection_stays_with_what_the_person_works_on(widget: Widget, scan_data: np.ndarray) -> None:
    scan = widget.viewer.add_image(scan_data, name="mri")
    job = widget.start()
    activated: list[object] = []
    widget.viewer.layers.selection.events.active.connect(lambda event: activated.append(event.value))
    job.give_labels()
    assert widget.viewer.layers.selection.active is scan
    assert set(widget.viewer.layers.selection) == {scan}
    assert labels_of(widget)[0] not in activated  # not even for a moment: napari would draw its layer controls


def test_a_finished_run_leaves_labels_a_table_and_measures(widget: Widget, scan_data: np.ndarray, finished) -> None:
    widget.viewer.add_image(scan_data, name="mri", scale=(3, 1, 1), units=("mm",) * 3)
    widget.choose("phantom-3d")
    job = widget.start()
    job.give_labels()[:2] = 1
    job.say(finished({"organ": 2 * 40 * 44, "lesion": 0}))
    layer = labels_of(widget)[0]
    assert widget.text("run") == "Segment"
    assert widget.view.result.csv().splitlines()[1] == '1,"organ",3520,10.56'
    row = layer.features.set_index("index").loc[1]
    assert (row["name"], row["voxels"]) == ("organ", 3520)
    notes = layer.metadata["prosma"]["provenance"]
    assert notes["model"] == "phantom-3d"
    assert len(notes["model_sha256"]) == 64
    assert notes["source"] == "mri"


def test_the_heading_of_a_result_follows_its_layers_name(widget: Widget, scan_data: np.ndarray, finished) -> None:
    widget.viewer.add_image(scan_data, name="liver", scale=(3, 1, 1))
    widget.choose("phantom-3d")
    job = widget.start()
    job.give_labels()[:2] = 1
    job.say(finished({"organ": 2 * 40 * 44, "lesion": 0}))
    (labels,) = labels_of(widget)
    labels.name = "patient 7"
    assert widget.text("result_title") == "patient 7"


def test_a_failure_is_said_in_words_and_takes_its_part_away(widget: Widget, scan_data: np.ndarray) -> None:
    widget.viewer.add_image(scan_data, name="mri")
    job = widget.start()
    job.give_labels()
    job.say(Failed(DeviceError("Main memory ran out."), "Traceback"))
    assert labels_of(widget) == []
    assert widget.text("error") == "Main memory ran out."
    assert widget.controller.details() == "Traceback"
    assert widget.can_run
    widget.start()
    assert widget.text("error") == ""


def test_deleting_the_scan_while_it_runs_harms_nothing(widget: Widget, scan_data: np.ndarray, finished) -> None:
    scan = widget.viewer.add_image(scan_data, name="mri", scale=(3, 1, 1))
    job = widget.start()
    widget.viewer.layers.remove(scan)
    job.give_labels()
    job.say(finished({"organ": 0, "lesion": 0}))
    assert np.array_equal(labels_of(widget)[0].scale, (3, 1, 1))
    assert not widget.can_run


def test_deleting_the_result_while_it_runs_cancels(widget: Widget, scan_data: np.ndarray) -> None:
    widget.viewer.add_image(scan_data, name="mri")
    job = widget.start()
    job.give_labels()
    widget.viewer.layers.remove(labels_of(widget)[0])
    assert job.cancelled
    job.end_cancelled()
    assert widget.text("run") == "Segment"


def test_probabilities_and_uncertainty_come_as_hidden_layers(widget: Widget, scan_data: np.ndarray, finished) -> None:
    widget.viewer.add_image(scan_data, name="mri", scale=(3, 1, 1))
    widget.choose("phantom-3d")
    widget.controller.choose_options(InferenceConfig(probabilities=True, entropy=True))
    job = widget.start()
    assert job.request.config.probabilities
    job.give_labels()
    job.say(ArrayReady("probabilities", np.zeros((3, *scan_data.shape), np.float32)))
    job.say(ArrayReady("entropy", np.zeros(scan_data.shape, np.float32)))
    job.say(finished({"organ": 0, "lesion": 0}))
    maps = {layer.name: layer for layer in widget.viewer.layers if isinstance(layer, Image) and layer.name != "mri"}
    assert set(maps) == {"mri phantom-3d probability", "mri phantom-3d uncertainty"}
    assert not any(layer.visible for layer in maps.values())
    assert widget.entries("image") == ["mri"]


def test_objects_come_as_a_hidden_layer_with_a_table(
    widget: Widget, scan_data: np.ndarray, finished, tmp_path: Path
) -> None:
    scan = widget.viewer.add_image(scan_data, name="mri", scale=(5, 2, 2), translate=(1, 2, 3), units=("mm",) * 3)
    widget.choose("phantom-3d")
    widget.controller.choose_options(InferenceConfig(threshold=0.35, min_size=12, objects=True))
    assert run_command(widget.controller._plan).count(" --threshold 0.35 --objects --min-size 12") == 1
    job = widget.start()
    labels = job.give_labels()
    objects = np.zeros(scan_data.shape, np.uint16)
    objects[2, 3:5, 3:8], objects[5:9, 20, 20], objects[7:9, 30, 30] = 1, 2, 3
    labels[...] = np.array([0, 1, 2, 2])[objects]
    table = np.array([[0, objects.size - 16], [1, 10], [2, 4], [2, 2]])
    job.say(ArrayReady("object_table", table))
    job.say(ArrayReady("objects", objects))
    job.say(finished({"organ": 10, "lesion": 6}))
    result, layer = labels_of(widget)
    assert (result.name, layer.name, layer.visible) == ("mri phantom-3d", "mri phantom-3d objects", False)
    assert np.array_equal(result.data, labels)
    assert np.array_equal(layer.data, objects)
    np.testing.assert_array_equal(layer.affine.affine_matrix, scan.affine.affine_matrix)
    assert (layer.scale.tolist(), layer.translate.tolist(), layer.units) == ([5, 2, 2], [1, 2, 3], scan.units)
    assert layer.features.to_dict("list") == {
        "index": [1, 2, 3],
        "class": ["organ", "lesion", "lesion"],
        "voxels": [10, 4, 2],
        "Volume (mL)": pytest.approx([0.2, 0.08, 0.04]),
    }
    layer.visible = True
    assert "class: lesion, voxels: 4" in layer.get_status(layer.data_to_world((5, 20, 20)), world=True)["coordinates"]
    saved = tmp_path / "objects.nii.gz"
    write_labels_layer(str(saved), *layer.as_layer_data_tuple()[:2])
    ((data, meta, kind),) = read_paths(str(saved))
    assert kind == "labels"
    assert np.array_equal(data, objects)
    assert meta["metadata"]["prosma"]["provenance"]["model"] == "phantom-3d"
    layer.paint((2, 20, 20), 3)
    assert layer.features.to_dict("list") == {"index": [1, 2, 3], "class": ["organ", "lesion", "lesion"]}
    assert list(result.features["voxels"]) == [None, 10, 6], "nothing was painted in the result"


def test_an_earlier_result_loses_its_numbers_when_it_is_painted_in(
    widget: Widget, scan_data: np.ndarray, finished: Callable[[dict[str, int]], Finished]
) -> None:
    widget.viewer.add_image(scan_data, name="mri", scale=(5, 2, 2), units=("mm",) * 3)
    widget.choose("phantom-3d")
    for _ in range(2):
        job = widget.start()
        job.give_labels()
        job.say(finished({"organ": 10, "lesion": 6}))
    earlier, last = labels_of(widget)
    for layer in (earlier, last):
        layer.paint((2, 20, 20), 1)
    widget.controller.last.measures.count()
    assert list(earlier.features.columns) == ["index", "name"]
    painted = int((last.data == 1).sum())
    assert list(last.features["voxels"]) == [None, painted, 0], "counted again"


def test_every_setting_has_a_field(widget: Widget) -> None:
    elsewhere = {"region", "slice_axis", "batch_size"}  # the part of the scan; planned from memory
    shown = {field.objectName() for field in widget.view.advanced.findChildren(QWidget)}
    assert [n for n in InferenceConfig.model_fields if n not in elsewhere and f"option_{n}" not in shown] == []


def test_a_correction_is_a_selected_copy_ready_to_paint(widget: Widget, scan_data: np.ndarray, finished) -> None:
    widget.viewer.add_image(scan_data, name="mri")
    job = widget.start()
    job.give_labels()
    job.say(finished({"organ": 0, "lesion": 0}))
    assert widget.controller.last is not None
    widget.controller.last.correct()
    result, copy = labels_of(widget)
    assert widget.viewer.layers.selection.active is copy
    assert copy.mode == "paint"
    assert not result.visible
    copy.paint((3, 5, 5), 1)
    assert not np.asarray(result.data).any()


def test_the_copy_that_is_corrected_is_the_only_one_and_stays_to_be_saved(
    widget: Widget, scan_data: np.ndarray, finished
) -> None:
    scan = widget.viewer.add_image(scan_data, name="mri")
    job = widget.start()
    job.give_labels()
    job.say(finished({"organ": 0, "lesion": 0}))
    last, panel = widget.controller.last, widget.view.result
    copy = last.correct()
    copy.paint((3, 5, 5), 1)
    copy.visible, copy.mode = False, "pan_zoom"
    widget.viewer.layers.selection.active = scan
    assert last.correct() is copy, "back to Train, say"
    assert widget.viewer.layers.selection.active is copy
    assert (copy.visible, copy.mode) == (True, "paint")
    assert labels_of(widget) == [last.labels, copy]
    widget.viewer.layers.remove(last.labels)
    assert last.correct() is last.to_save is copy
    assert widget.text("result_title") == copy.name
    assert not panel.isHidden()
    assert not panel.save.isHidden()
    widget.viewer.layers.remove(copy)
    assert (last.to_save, last.correct(), panel.isHidden()) == (None, None, True)


def test_what_was_chosen_is_remembered(widget: Widget, scan_data: np.ndarray, make_widget) -> None:
    widget.viewer.add_image(scan_data, name="mri")
    widget.choose("hippocampus-mri")
    widget.controller.choose_options(InferenceConfig(overlap=0.25))
    viewer = ViewerModel()
    viewer.add_image(scan_data)
    again = make_widget(viewer)
    assert again.text("model") == "hippocampus-mri"
    assert again.start().request.config.overlap == 0.25


def test_own_models_join_the_list_and_bad_files_are_refused(widget: Widget, tmp_path: Path) -> None:
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"nothing")
    widget.controller.add_model(bad)
    assert "bad.safetensors" in widget.text("error")
    own = tmp_path / "own.safetensors"
    own.write_bytes(widget.model("phantom-3d").path.read_bytes())
    widget.controller.add_model(own)
    own_one, *others = widget.entries("model")
    assert own_one == "phantom-3d (own.safetensors)"
    assert sorted(others) == sorted(shipped_models())
    assert others[-1] == "phantom-3d"
    own.unlink()
    assert len(widget.session.models()) == len(others)


def test_free_memory_ends_the_engine(widget: Widget) -> None:
    widget.controller.free_memory()
    assert widget.jobs.freed
    assert "next run" in widget.text("device_facts")


def test_the_shortcut_runs_while_the_widget_is_open(
    widget: Widget, scan_data: np.ndarray, press: Callable[[ViewerModel, str], None]
) -> None:
    widget.viewer.add_image(scan_data, name="mri")
    widget.choose("phantom-3d")
    press(widget.viewer, "Shift+S")
    assert len(widget.jobs.jobs) == 1
    widget.controller.close()
    assert widget.jobs.jobs[0].cancelled


@pytest.mark.parametrize("axes", ["yx", "zyx"])
def test_a_slice_of_the_scan_is_the_one_in_view(widget: Widget, scan_data: np.ndarray, axes: str) -> None:
    data = scan_data if axes == "zyx" else scan_data[0]
    widget.viewer.add_image(data, name="mri")
    widget.choose("breast-lesion-us")
    widget.viewer.dims.set_current_step(0, 4)
    widget.view.advanced.part.part_chosen.emit("slice")
    region = widget.start().request.config.region
    assert region == (((4, 5),) if axes == "zyx" else ()) + ((0, 40), (0, 44))


def test_a_remembered_device_that_is_not_here_is_said_under_its_field(make_widget, scan_data: np.ndarray) -> None:
    viewer = ViewerModel()
    viewer.add_image(scan_data, name="mri")
    widget = make_widget(viewer)
    widget.choose("phantom-3d")
    widget.controller.choose_device("cuda")
    ready = Ready(version="1", torch="2", devices={"auto": "CPU", "cpu": "CPU"}, why_not={"cuda": "No GPU here."})
    widget.jobs.started.emit(ready)
    assert widget.text("device") == "CUDA"
    assert widget.text("problem_device") == "No GPU here."
    assert not widget.can_run


def test_a_long_name_does_not_widen_the_dock(widget: Widget, scan_data: np.ndarray, finished) -> None:
    widget.viewer.add_image(scan_data, name="sub_01_" * 15)
    job = widget.start()
    job.give_labels()
    job.say(finished({"organ": 0, "lesion": 0}))
    widget.view.show_error("/a/long/path/without/any/space/" * 5, details=False)
    widget.view.resize(340, 800)
    assert widget.view.findChild(QPushButton, "run").parentWidget().minimumSizeHint().width() < 320


def test_a_result_deleted_at_the_last_moment_stays_deleted(widget: Widget, scan_data: np.ndarray, finished) -> None:
    widget.viewer.add_image(scan_data, name="mri")
    job = widget.start()
    job.give_labels()
    widget.viewer.layers.remove(labels_of(widget)[0])
    job.say(finished({"organ": 0, "lesion": 0}))
    assert labels_of(widget) == []
    assert widget.text("run") == "Segment"


def test_what_cannot_be_shown_is_said_and_the_widget_goes_on(
    widget: Widget, scan_data: np.ndarray, finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        msg = "the table is broken"
        raise RuntimeError(msg)

    widget.viewer.add_image(scan_data, name="mri")
    widget.choose("phantom-3d")
    job = widget.start()
    job.give_labels()
    monkeypatch.setattr(widget.view.result, "show_result", broken)
    job.say(finished({"organ": 0, "lesion": 0}))
    assert "could not be shown: RuntimeError: the table is broken" in widget.text("error")
    assert widget.text("run") == "Segment"
    assert widget.can_run


@pytest.mark.parametrize("error_shown", [True, False])
def test_progress_that_cannot_be_shown_ends_the_segmentation_and_frees_the_button(
    widget: Widget, scan_data: np.ndarray, error_shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        msg = "the view is broken"
        raise RuntimeError(msg)

    widget.viewer.add_image(scan_data, name="mri")
    widget.choose("phantom-3d")
    job = widget.start()
    job.give_labels()
    for name in ("show_progress", *([] if error_shown else ["show_error"])):
        monkeypatch.setattr(widget.view, name, broken)
    job.say(TileDone(1, 2))
    assert job.cancelled
    job.end_cancelled()
    assert (widget.controller.run, widget.text("run"), widget.can_run) == (None, "Segment", True)
    assert labels_of(widget) == []
    assert ("could not be shown: RuntimeError: the view is broken" in widget.text("error")) == error_shown


def test_the_shortcut_of_a_second_widget_leaves_the_first_its_own(
    make_widget, scan_data: np.ndarray, press: Callable[[ViewerModel, str], None]
) -> None:
    viewer = ViewerModel()
    viewer.add_image(scan_data, name="mri")
    first, second = make_widget(viewer), make_widget(viewer)
    first.choose("phantom-3d")
    second.controller.close()
    press(viewer, "Shift+S")
    assert len(first.jobs.jobs) == 1


def test_selected_layers_are_the_channels_of_one_scan(widget: Widget) -> None:
    """As napari opens a picture with a channel axis; only layers on one grid are offered, and none of them changes."""
    picture = np.random.default_rng(1).integers(0, 255, (64, 48, 3)).astype(np.uint8)
    layers = widget.viewer.add_image(picture, channel_axis=2, name=["R", "G", "B"], scale=(2, 3), translate=(5, 7))
    widget.viewer.layers.selection = set(layers)
    assert widget.entries("image") == ["B", "G", "R", "R + G + B (channels)"]
    box = widget.view.findChild(QComboBox, "image")
    box.setCurrentIndex(3)
    box.activated.emit(3)
    assert (widget.text("image"), widget.text("axes")) == ("R + G + B", "cyx")
    assert widget.text("image_facts").startswith("c 3 · y 64 · x 48; pixels 2 × 3")
    joined = widget.viewer.layers["R + G + B"]
    np.testing.assert_array_equal(np.moveaxis(np.asarray(joined.data), 0, -1), picture)
    np.testing.assert_array_equal(joined.extent.world[:, 1:], layers[0].extent.world)
    scan = read(joined)
    assert scan.spec.channel_names == ("R", "G", "B")
    np.testing.assert_array_equal(scan.load(), np.moveaxis(picture, -1, 0))
    other = widget.viewer.add_image(np.zeros((64, 50)), name="other")
    widget.viewer.layers.selection = {layers[0], other}
    assert not any("(channels)" in entry for entry in widget.entries("image"))


def test_an_empty_result_is_said_with_what_the_model_is_known_to_miss(
    widget: Widget, scan_data: np.ndarray, finished
) -> None:
    widget.viewer.add_image(scan_data[0], name="us")
    widget.choose("breast-lesion-us")
    for voxels, said in (
        (
            {"lesion": 0},
            "No lesion found. This model missed (Dice below 0.1) lesion in 2 of 30 held-out images that show it.",
        ),
        ({"lesion": 4}, ""),
    ):
        job = widget.start()
        job.give_labels()
        job.say(finished(voxels))
        assert widget.text("nothing_found") == said
        assert widget.view.findChild(QWidget, "nothing_found").isHidden() == (not said)
    widget.controller._set(part="slice")
    job = widget.start()
    job.give_labels()
    job.say(finished({"lesion": 0}))
    assert widget.text("nothing_found") == "No lesion found in this part of the scan."


def test_where_no_model_is_meant_training_one_is_offered_on_an_empty_layer(
    widget: Widget, scan_data: np.ndarray
) -> None:
    offer = widget.view.findChild(QPushButton, "train")
    assert widget.controller.draw_labels() is None
    assert offer.isHidden()
    layer = widget.viewer.add_image(scan_data, name="mri", scale=(3, 1, 1))
    assert not offer.isHidden()
    assert "No shipped model is meant for this scan" in widget.text("problem_model")
    image, labels = widget.controller.draw_labels()
    assert image is layer
    assert (labels.name, labels.mode, labels.data.any()) == ("mri labels", "paint", False)
    assert (labels.data.shape, list(labels.scale)) == (layer.data.shape, [3, 1, 1])
    assert widget.viewer.layers.selection.active is labels
    widget.viewer.layers.selection.active = layer
    assert widget.controller.draw_labels() == (layer, labels), "the layer that is drawn in, not one more"
    assert widget.viewer.layers.selection.active is labels
    widget.viewer.layers.remove(labels)
    assert widget.controller.draw_labels()[1] is not labels
    widget.choose("phantom-3d")
    assert offer.isHidden()
