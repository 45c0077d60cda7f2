"""What the widget does when the person or the viewer does something; the engine is played by the test."""

from __future__ import annotations

import numpy as np
import pytest
from napari.layers import Image, Labels
from qtpy.QtWidgets import QPushButton
from tests.plugin.gates.conftest import Widget, made_up

from prosma_core.engine.messages import Failed
from prosma_core.errors import EngineError
from prosma_core.events import TileDone

SHAPE = (12, 40, 44)


@pytest.fixture
def looked(widget: Widget, scan_data: np.ndarray) -> Widget:
    """Return a widget after a look at a scan with the phantom's model."""
    widget.viewer.add_image(scan_data, name="mri", scale=(3, 1, 1), units=("mm",) * 3)
    widget.choose("phantom-3d")
    widget.inspect()
    return widget


def test_without_a_scan_inspect_is_disabled_and_says_why(widget: Widget) -> None:
    assert not widget.can_run
    assert "Open a scan" in widget.text("problem_image")


def test_without_a_level_inspect_is_disabled(widget: Widget, scan_data: np.ndarray) -> None:
    widget.viewer.add_image(scan_data, name="mri")
    widget.choose("phantom-3d")
    for level in range(4):
        widget.part(f"level_{level}").click()
    assert not widget.can_run
    assert "at least one" in widget.text("problem_levels")


def test_inspect_becomes_cancel_and_leaves_nothing_when_it_is_cancelled(widget: Widget, scan_data: np.ndarray) -> None:
    widget.viewer.add_image(scan_data, name="mri")
    job = widget.start()
    assert widget.text("run") == "Cancel"
    job.say(TileDone(9, 36))
    assert widget.view.progress_text().startswith("Inspecting: 25 %")
    widget.controller.start_or_cancel()
    assert job.cancelled
    assert widget.text("run") == "Cancelling…"
    job.end_cancelled()
    assert widget.text("run") == "Inspect"
    assert widget.maps == {}


def test_a_look_adds_the_finest_level_and_shows_what_it_removed(looked: Widget) -> None:
    names = ["removed", "energy", "kept", "field", "dilation 1", "dilation 2", "dilation 4"]
    assert sorted(looked.maps) == sorted(f"level 0 {name}" for name in names)
    assert [name for name, layer in looked.maps.items() if layer.visible] == ["level 0 removed"]
    assert looked.viewer.layers[-1].name == "mri gates: level 0 removed"
    assert [row[0] for row in looked.cells("levels_table")][:2] == ["0: 12×40×44", "1: 12×20×22"]
    assert [layer.name for layer in looked.viewer.layers.selection] == ["mri"]


def test_another_level_shows_its_maps_in_the_place_of_the_first(looked: Widget, qtbot) -> None:
    looked.maps["level 0 field"].visible = True
    looked.controller.shown_result.show_level(2)
    qtbot.waitUntil(lambda: not looked.controller.shown_result.adding)
    visible = {name for name, layer in looked.maps.items() if layer.visible}
    assert visible == {"level 2 removed", "level 2 field"}
    looked.controller.shown_result.show_level(0)
    assert {name for name, layer in looked.maps.items() if layer.visible} == {"level 0 removed", "level 0 field"}
    qtbot.waitUntil(lambda: not looked.controller.shown_result.adding)
    assert len(looked.maps) == 14


def test_slider_bar_and_colors_follow_each_other(looked: Widget) -> None:
    summary = looked.controller.shown_result.found.level(0)
    looked.view.result.plots.channel_clicked.emit(5)
    assert looked.viewer.dims.current_step[0] == 5
    looked.viewer.dims.set_current_step(0, 9)
    assert looked.controller.shown_result.channel == 9
    field = looked.maps["level 0 field"]
    assert field.contrast_limits == pytest.approx((-4 * summary.thresholds[9], 4 * summary.thresholds[9]))
    # the band |z| <= tau has one color, and what lies beyond it another
    inside, edge, beyond = field.colormap.map(np.array([0.5, 0.5 + 0.124, 0.5 + 0.127]))
    np.testing.assert_allclose(inside, edge, atol=1e-6)
    assert np.abs(beyond - inside).max() > 0.1


def test_removing_takes_all_of_it_and_a_new_look_replaces_it(looked: Widget, qtbot) -> None:
    scan = looked.viewer.layers["mri"]
    before = scan.as_layer_data_tuple()[1]
    looked.controller.shown_result.picker.pick((0, *scan.data_to_world((3, 4, 5))))
    looked.controller.shown_result.what_if.change(0, state="open")
    looked.jobs.jobs[-1].reply(SHAPE)
    assert {"voxel", "what if", "what if, changes"} <= set(looked.maps)
    looked.inspect()
    assert len(looked.maps) == 7
    assert not any("[" in name for name in looked.maps), "the old ones went before the new ones came"
    looked.part("remove", QPushButton).click()
    assert looked.view.result.isHidden()
    qtbot.waitUntil(lambda: list(looked.viewer.layers) == [scan])
    after = scan.as_layer_data_tuple()[1]
    assert {k: str(v) for k, v in after.items()} == {k: str(v) for k, v in before.items()}


def test_a_deleted_scan_leaves_what_was_found(looked: Widget) -> None:
    looked.viewer.layers.remove("mri")
    assert not looked.can_run
    looked.controller.shown_result.picker.pick((0, 3 * 3, 4, 5))
    assert looked.text("voxel_said").startswith("Voxel z 3, y 4, x 5. Level 0:")
    looked.controller.shown_result.what_if.change(0, state="open")
    looked.jobs.jobs[-1].reply(SHAPE)
    assert "what if" in looked.maps


def test_a_dead_engine_is_a_sentence_and_the_maps_stay(looked: Widget) -> None:
    job = looked.start()
    job.say(Failed(EngineError("The engine was killed: main memory ran out."), "log"))
    assert "main memory ran out" in looked.view.error_text()
    assert looked.can_run
    looked.controller.shown_result.what_if.change(0, state="closed")
    looked.jobs.jobs[-1].say(Failed(EngineError("The engine is busy with another job."), ""))
    assert "busy with another job" in looked.text("whatif_said")
    assert len(looked.maps) == 7


class TestVoxel:
    """A click in the viewer."""

    def test_a_cross_is_put_on_the_voxel_and_moves_with_the_next(self, looked: Widget) -> None:
        scan = looked.viewer.layers["mri"]
        for voxel in ((3, 4, 5), (7, 20, 31)):
            looked.controller.shown_result.picker.pick((0, *scan.data_to_world(voxel)))
            cross = looked.maps["voxel"]
            np.testing.assert_allclose(cross.data_to_world(cross.data[0]), scan.data_to_world(voxel))
        assert looked.text("voxel_said").startswith("Voxel z 7, y 20, x 31. Level 0:")
        assert looked.text("voxel_others").count("Level") == 3
        cross.data = np.array([[1.0, 2.0, 3.0]])  # dragged by the person
        assert looked.text("voxel_said").startswith("Voxel z 1, y 2, x 3.")
        looked.viewer.layers.remove(cross)
        looked.controller.shown_result.picker.pick((0, *scan.data_to_world((3, 4, 5))))
        assert "voxel" in looked.maps

    def test_outside_and_3d_are_said(self, looked: Widget) -> None:
        looked.controller.shown_result.picker.pick((0, -50, 0, 0))
        assert "outside of mri" in looked.text("voxel_said")
        looked.viewer.dims.ndisplay = 3
        looked.controller.shown_result.picker.pick((0, 0, 0, 0))
        assert "3D view" in looked.text("voxel_said")


class TestWhatIf:
    """Changes of the gates."""

    def test_the_newest_question_counts(self, looked: Widget) -> None:
        what_if = looked.controller.shown_result.what_if
        what_if.change(0, threshold=0.5)
        first = looked.jobs.jobs[-1]
        what_if.change(0, threshold=0.25)
        what_if.change(0, threshold=0.0)
        assert first.cancelled
        assert looked.jobs.jobs[-1] is first, "the engine does one thing at a time"
        first.reply(SHAPE, changed=99)  # it was finished before it heard of the cancel
        assert "99" not in looked.text("whatif_said")
        assert "what if" not in looked.maps
        second = looked.jobs.jobs[-1]
        assert [e.threshold for e in second.request.variants[0].edits] == [0.0]
        assert second.request.key == first.request.key
        arrays = second.reply(SHAPE)
        assert np.shares_memory(looked.maps["what if"].data, arrays["labels"])
        assert "level 0: threshold × 0: 5 voxels" in looked.text("whatif_said")
        assert looked.cells("whatif_classes")[0][1:4] == ["5", "0", "0.970"]

    def test_the_next_answer_is_shown_in_the_same_layers(self, looked: Widget) -> None:
        what_if = looked.controller.shown_result.what_if
        what_if.change(0, state="open")
        looked.jobs.jobs[-1].reply(SHAPE)
        before = looked.maps["what if"], looked.maps["what if, changes"]
        what_if.change(1, state="closed")
        arrays = looked.jobs.jobs[-1].reply(SHAPE)
        assert (looked.maps["what if"], looked.maps["what if, changes"]) == before
        assert np.shares_memory(before[1].data, arrays["changes"])
        names = ["the same", "turned on", "turned off", "class changed"]
        assert list(before[1].features["name"]) == names
        np.testing.assert_array_equal(before[0].scale, looked.viewer.layers["mri"].scale)

    def test_reset_takes_the_changed_result_away(self, looked: Widget) -> None:
        what_if = looked.controller.shown_result.what_if
        what_if.toggle_channel_gate(False)
        what_if.change_channel("closed")
        job = looked.jobs.jobs[-1]
        job.reply(SHAPE)
        looked.jobs.jobs[-1].reply(SHAPE)
        (edit,) = looked.jobs.jobs[-1].request.variants[0].edits
        assert (edit.channel_gate, edit.closed_channels) == (False, (0,))
        looked.part("reset", QPushButton).click()
        assert not {"what if", "what if, changes"} & set(looked.maps)
        assert looked.text("whatif_said") == ""

    def test_which_level_matters_is_a_table_with_the_largest_change_first(self, looked: Widget) -> None:
        looked.part("ranking", QPushButton).click()
        request = looked.jobs.jobs[-1].request
        assert not request.arrays
        assert [(v.edits[0].level, v.edits[0].state) for v in request.variants] == [(i, "open") for i in range(4)]
        looked.jobs.jobs[-1].reply(SHAPE)
        rows = [row[:2] for row in looked.cells("whatif_levels")]
        assert rows == [[f"level {i} open", str(5 * (i + 1))] for i in (3, 2, 1, 0)]
        assert "what if" not in looked.maps

    def test_labels_on_another_grid_are_refused_under_their_field(self, looked: Widget) -> None:
        other = looked.viewer.add_labels(np.zeros((6, 40, 44), np.uint8), name="other")
        looked.view.result.what_if.truth_chosen.emit(other)
        assert "other lies on another grid" in looked.view.result.what_if.problem.text()
        same = looked.viewer.add_labels(np.zeros(SHAPE, np.uint8), name="same", scale=(3, 1, 1), units=("mm",) * 3)
        looked.view.result.what_if.truth_chosen.emit(same)
        assert looked.view.result.what_if.problem.text() == ""
        looked.viewer.layers.remove(same)
        assert looked.text("truth") == "none"

    def test_a_look_waits_for_the_question_before_it(self, looked: Widget) -> None:
        looked.controller.shown_result.what_if.change(0, state="open")
        question = looked.jobs.jobs[-1]
        looked.controller.start_or_cancel()
        assert question.cancelled
        assert looked.controller.run is None
        question.end_cancelled()
        assert looked.controller.run is not None

    def test_a_scan_that_changes_is_segmented_anew(self, looked: Widget) -> None:
        what_if = looked.controller.shown_result.what_if
        what_if.change(0, state="open")
        looked.jobs.jobs[-1].reply(SHAPE)
        first = looked.jobs.jobs[-1].request.key
        looked.viewer.layers["mri"].data = looked.viewer.layers["mri"].data + 1
        what_if.change(0, state="closed")
        assert looked.jobs.jobs[-1].request.key != first

    def test_the_first_question_names_the_scan_as_the_look_did(self, looked: Widget) -> None:
        looked.controller.shown_result.what_if.change(0, state="open")
        look, question = looked.jobs.jobs
        assert look.request.key
        assert question.request.key == look.request.key

    def test_a_scan_that_changes_during_the_look_is_segmented_anew(self, looked: Widget) -> None:
        look = looked.start()
        looked.viewer.layers["mri"].data = looked.viewer.layers["mri"].data + 1
        look.answer(*made_up(looked.controller.run.plan))
        looked.controller.shown_result.what_if.change(0, state="open")
        assert looked.jobs.jobs[-1].request.key not in ("", look.request.key)


def test_our_layers_are_offered_to_nobody_as_scans_or_truth(looked: Widget) -> None:
    box = looked.part("image")
    assert [box.itemText(i) for i in range(box.count())] == ["mri"]
    truth = looked.part("truth")
    assert [truth.itemText(i) for i in range(truth.count())] == ["none"]


def test_a_closed_widget_leaves_its_maps_and_touches_nothing_more(looked: Widget) -> None:
    looked.controller.shown_result.what_if.change(0, state="open")
    question, before = looked.jobs.jobs[-1], list(looked.viewer.layers)
    looked.close()
    assert question.cancelled
    question.reply(SHAPE)
    looked.viewer.dims.set_current_step(0, 1)
    looked.viewer.layers["mri"].data = looked.viewer.layers["mri"].data + 1
    assert list(looked.viewer.layers) == before


def test_made_up_maps_are_what_the_layers_show(looked: Widget) -> None:
    _, arrays = made_up(looked.controller.shown_result.found.plan)
    np.testing.assert_array_equal(looked.maps["level 0 removed"].data, arrays["level0/removed"])
    assert isinstance(looked.maps["level 0 kept"], Labels)
    assert isinstance(looked.maps["level 0 dilation 4"], Image)


def broken(*_: object, **__: object) -> None:
    msg = "the view is broken"
    raise RuntimeError(msg)


@pytest.mark.parametrize("at", ["progress", "result", "result, and its error"])
def test_a_message_that_cannot_be_shown_ends_the_inspection_and_frees_the_button(
    widget: Widget, scan_data: np.ndarray, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    widget.viewer.add_image(scan_data, name="mri")
    widget.choose("phantom-3d")
    usual = widget.text("run")
    job = widget.start()
    monkeypatch.setattr(widget.view, "show_progress", broken)
    monkeypatch.setattr(widget.view.result.levels, "show_levels", broken)
    if at.endswith("error"):
        monkeypatch.setattr(widget.view, "show_error", broken)
    if at == "progress":
        job.say(TileDone(1, 2))
        assert job.cancelled
        job.end_cancelled()
    else:
        job.answer(*made_up(widget.controller.run.plan))
    assert (widget.controller.run, widget.text("run"), widget.can_run) == (None, usual, True)
    if not at.endswith("error"):
        assert "could not be shown: RuntimeError: the view is broken" in widget.text("error")
    monkeypatch.undo()
    widget.inspect()


def test_an_answer_that_cannot_be_shown_is_said_and_the_next_question_is_asked(
    looked: Widget, monkeypatch: pytest.MonkeyPatch
) -> None:
    what_if = looked.controller.shown_result.what_if
    what_if.change(0, state="open")
    monkeypatch.setattr(looked.view.result.what_if, "show_changes", broken)
    looked.jobs.jobs[-1].reply(SHAPE)
    assert "the view is broken" in looked.text("whatif_said")
    monkeypatch.undo()
    asked = len(looked.jobs.jobs)
    what_if.change(1, state="open")
    assert len(looked.jobs.jobs) == asked + 1
