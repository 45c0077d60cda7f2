"""What the widget does when the person or the viewer does something; the engine is played by the test."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QPushButton, QTableWidget
from tests.plugin.gates.conftest import Widget, made_up

from napari_prosma.gates.ranking import effects, headline
from napari_prosma.layers.results import LOOKS
from prosma_core.config.inspection import ClassChange, VariantResult
from prosma_core.engine.messages import Failed
from prosma_core.errors import EngineError
from prosma_core.events import TileDone, Working

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
    assert widget.text("run") == "Canceling…"
    job.end_cancelled()
    assert widget.text("run") == "Inspect"
    assert widget.maps == {}


def test_a_look_shows_what_the_finest_level_removed(looked: Widget) -> None:
    assert list(looked.maps) == ["level 0 removed"]
    assert looked.viewer.layers[-1].name == "Gates: level 0 removed"
    assert looked.text("level_facts").startswith("Level 0: 12 × 40 × 44, 16 channels; 40 % of the energy removed")
    assert "Noise gain 1.25: the gate amplifies noise" in looked.text("level_facts")
    assert [layer.name for layer in looked.viewer.layers.selection] == ["mri"]


def test_slider_bar_and_colors_follow_each_other(looked: Widget) -> None:
    summary, field = looked.controller.shown_result.found.level(0), looked.show(0, "field")
    looked.view.result.plots.channel_clicked.emit(5)
    assert looked.viewer.dims.current_step[0] == 5
    looked.viewer.dims.set_current_step(0, 9)
    assert looked.controller.shown_result.channel == 9
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
    assert list(looked.maps) == ["level 0 removed"]
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
    assert list(looked.maps) == ["level 0 removed"]


class TestRanking:
    """Which level decides: asked as part of each inspection."""

    def test_an_inspection_ends_with_a_sentence_and_the_levels_in_order(self, widget: Widget, scan_data: Any) -> None:
        widget.viewer.add_image(scan_data, name="mri")
        job = widget.start()
        job.answer(*made_up(widget.controller.run.plan), "the last words")
        assert widget.text("headline") == "Ranking levels by ablation…"
        assert [row[:2] for row in widget.cells("levels_table")] == [[str(i), "–"] for i in range(4)]
        assert (widget.text("run"), widget.text("ranking"), widget.can_run) == ("Inspect", "Stop ranking", True)
        assert not widget.view.result.what_if.isEnabled()
        ranking = widget.jobs.jobs[-1]
        assert not ranking.request.arrays
        assert [(v.edits[0].level, v.edits[0].state) for v in ranking.request.variants] == [
            (i, "open") for i in range(4)
        ]
        ranking.say(Working("Segmenting: 1 tile of 256x256, 1 at a time"))
        assert widget.view.progress_text().startswith("Ranking levels by ablation…")
        ranking.say(TileDone(2, 9))
        assert widget.view.progress_text().startswith("Ranking levels: 22 %")
        ranking.reply(())
        assert widget.text("headline").startswith("Without the gate of level 3, the Dice of organ with the present")
        assert [row[:2] for row in widget.cells("levels_table")] == [[str(i), "0.970"] for i in (3, 2, 1, 0)]
        assert "Without its gate, 5 voxels change class." in widget.text("level_facts")
        assert (widget.text("run"), widget.text("ranking"), widget.controller.run) == ("Inspect", "Rank levels", None)
        assert not widget.view.running
        assert widget.view.result.what_if.isEnabled()
        assert "the last words" in widget.text("messages")
        assert [result.changed for result in widget.controller.shown_result.results] == [5, 10, 15, 20]
        table = widget.part("levels_table", QTableWidget)
        table.cellClicked.emit(0, 0)
        assert widget.controller.shown_result.level == 3

    def test_it_can_be_stopped_and_asked_again_with_reference_labels(self, looked: Widget) -> None:
        looked.start().answer(*made_up(looked.controller.run.plan))
        looked.part("ranking", QPushButton).click()
        assert looked.jobs.jobs[-1].cancelled
        assert looked.text("ranking") == "Stopping…"
        looked.jobs.jobs[-1].end_cancelled()
        assert "was stopped" in looked.text("headline")
        looked.part("ranking", QPushButton).click()
        looked.controller.inspect_layer(looked.viewer.layers["mri"], looked.model("breast-lesion-us"))
        assert looked.jobs.jobs[-1].cancelled
        assert looked.text("model") == "breast-lesion-us"
        looked.jobs.jobs[-1].end_cancelled()
        looked.choose("phantom-3d")
        assert looked.maps
        assert looked.can_run
        same = looked.viewer.add_labels(np.zeros(SHAPE, np.uint8), name="same", scale=(3, 1, 1), units=("mm",) * 3)
        looked.view.result.what_if.truth_chosen.emit(same)
        looked.controller.shown_result.what_if.change(0, state="open")
        question = looked.jobs.jobs[-1]
        looked.part("ranking", QPushButton).click()
        assert question.cancelled
        before = [row[:2] for row in looked.cells("levels_table")]
        assert (before, looked.controller.shown_result.results) == ([[str(i), "–"] for i in range(4)], ())
        question.end_cancelled()
        again = looked.jobs.jobs[-1]
        assert again.spec.truth is not None
        assert again.request.key == question.request.key
        again.say(Failed(EngineError("The engine was killed."), "log"))
        assert "the ranking failed" in looked.text("headline")
        assert "The engine was killed." in looked.view.error_text()
        assert looked.can_run

    def test_scan_and_axes_can_be_chosen_meanwhile(self, looked: Widget, scan_data: Any) -> None:
        looked.start().answer(*made_up(looked.controller.run.plan))
        looked.viewer.add_image(scan_data[:, :30], name="other")
        looked.viewer.layers["mri"].scale = (2, 1, 1)
        assert looked.text("ranking") == "Stop ranking"
        assert all(looked.part(name).isEnabled() for name in ("image", "axes", "model", "device", "free"))
        assert looked.view.progress_text().startswith("Starting…")

    def test_clicks_while_a_job_begins_do_nothing(self, looked: Widget, monkeypatch: pytest.MonkeyPatch) -> None:
        begin, before = looked.view.begin_activity, len(looked.jobs.jobs)

        def click_meanwhile(title: str, on_cancel: Any) -> Any:
            looked.controller.start_or_cancel()
            looked.controller.rank_or_stop()
            return begin(title, on_cancel)

        monkeypatch.setattr(looked.view, "begin_activity", click_meanwhile)
        looked.start().answer(*made_up(looked.controller.run.plan))
        assert len(looked.jobs.jobs) == before + 2, "the inspection and its ranking"

    @pytest.mark.parametrize("by", ["Inspect", "another widget", "Remove inspection"])
    def test_whatever_comes_next_stops_it(self, looked: Widget, by: str) -> None:
        looked.start().answer(*made_up(looked.controller.run.plan))
        ranking = looked.jobs.jobs[-1]
        assert ranking.yields
        if by == "Inspect":
            job = looked.start()
            assert (job is not ranking, looked.text("run"), looked.text("ranking")) == (True, "Cancel", "Rank levels")
            assert not looked.part("ranking", QPushButton).isEnabled()
        elif by == "Remove inspection":
            looked.part("remove", QPushButton).click()
        else:
            looked.jobs.start(None, lambda _: None)
        assert ranking.cancelled
        ranking.end_cancelled()
        if by == "Inspect":
            assert looked.controller.run is not None
            job.end_cancelled()
        assert (looked.controller.run, looked.text("run"), looked.can_run) == (None, "Inspect", True)
        assert not looked.view.running
        assert by == "Remove inspection" or "was stopped" in looked.text("headline")


def change(name: str, dice: float, before: int = 100, after: int = 90, reference: Any = (None, None)) -> ClassChange:
    """Return what became of a class."""
    counts = {"before": before, "after": after, "turned_on": 0, "turned_off": 0}
    return ClassChange(name=name, dice=dice, truth_before=reference[0], truth_after=reference[1], **counts)


def test_the_sentence_on_the_ranking_says_what_a_person_wants_to_know() -> None:
    def said(*levels: tuple[ClassChange, ...], unit: str = "voxel") -> str:
        results = [VariantResult(name="x", changed=3, classes=classes) for classes in levels]
        return headline(effects(range(len(levels)), results), unit)

    fine, lost = change("liver", 0.999), change("lesion", 0.731, reference=(0.93, 0.9))
    start = "Without the gate of level 1, the Dice of lesion with the present result falls to 0.73: this level decides."
    assert said((fine, fine), (fine, lost)) == (
        f"{start} Dice with the reference labels: 0.93 with all gates, 0.90 without that of level 1."
    )
    assert "this level matters most, and none decides alone" in said((change("liver", 0.95),), (fine,))
    assert said((fine,), (fine,)).endswith("stays at 0.999 or above: no level decides.")
    assert "1.000" not in said((change("liver", 0.99999),))
    nothing = "Nothing is segmented in this scan. Without the gate of any one level, too: no level decides."
    none, one, many = (change("lesion", float(not n), 0, n) for n in (0, 1, 1200))
    assert said((none,), (none,)) == said((none,), (one,)) == nothing
    assert said((none,), (many,), unit="pixel") == (
        "Nothing is segmented in this scan. Without the gate of level 1, 1,200 pixels of lesion appear: the present "
        "result has none."
    )
    falls = "Without the gate of level 1, the Dice of organ with the present result falls to 0.30: this level decides."
    organ = change("organ", 0.99, 90_000, 90_000), change("organ", 0.3, 90_000, 27_000)
    appears = " Without the gate of level 0, 1,200 voxels of lesion appear: the present result has none."
    for appear, told in ((one, ""), (many, appears)):
        assert said((organ[0], appear), (organ[1], none)) == falls + told


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
        assert [(layer.contour, layer.opacity) for layer in before] == [(1, 0.7), (0, 1)]
        what_if.change(1, state="closed")
        arrays = looked.jobs.jobs[-1].reply(SHAPE)
        assert (looked.maps["what if"], looked.maps["what if, changes"]) == before
        assert np.shares_memory(before[1].data, arrays["changes"])
        names = ["the same", "added", "lost", "class changed"]
        assert list(before[1].features["name"]) == names
        table = looked.part("whatif_classes", QTableWidget)
        for value, column in ((1, 1), (2, 2)):  # Added and Lost are marked in the colors of the layer
            drawn = table.item(0, column).data(Qt.ItemDataRole.DecorationRole).getRgbF()
            np.testing.assert_allclose(drawn, before[1].get_color(value), atol=0.01)
        np.testing.assert_array_equal(before[0].scale, looked.viewer.layers["mri"].scale)

    def test_changes_are_contours_where_results_are(self, looked: Widget) -> None:
        looked.controller.shown_result.what_if.change(0, state="open")
        looked.jobs.jobs[-1].reply(SHAPE)
        layers = looked.maps["what if"], looked.maps["what if, changes"]
        assert [layer.contour for layer in layers] == [1, 0]
        LOOKS.choose(contours=True)
        try:
            assert [layer.contour for layer in layers] == [1, 1]
        finally:
            LOOKS.choose(contours=False)
        assert [layer.contour for layer in layers] == [1, 0]

    @pytest.mark.parametrize("pending", [False, True])
    @pytest.mark.parametrize("how", ["deleted", "painted", "another", "none"])
    def test_numbers_of_other_reference_labels_go(self, looked: Widget, how: str, pending: bool) -> None:
        spaced = {"scale": (3, 1, 1), "units": ("mm",) * 3}
        same, other = (
            looked.viewer.add_labels(np.zeros(SHAPE, np.uint8), name=name, **spaced) for name in ("same", "other")
        )
        shown, panel = looked.controller.shown_result, looked.view.result.what_if
        panel.truth_chosen.emit(same)
        looked.part("ranking", QPushButton).click()
        looked.jobs.jobs[-1].reply(SHAPE)
        shown.what_if.change(0, state="open")
        looked.jobs.jobs[-1].reply(SHAPE)
        table = looked.part("whatif_classes", QTableWidget)
        assert looked.cells("whatif_classes")[0][4] == "0.90 → 0.80"
        assert "Dice with the reference labels: 0.90 with all gates" in looked.text("headline")
        levels = looked.part("levels_table", QTableWidget)
        assert "with the reference 0.900 → 0.800" in levels.item(0, 1).toolTip()
        panel.truth_chosen.emit(same)  # the same again: nothing is old
        looked.jobs.jobs[-1].reply(SHAPE)
        assert "Dice with the reference labels" in looked.text("headline")
        if pending:
            shown.what_if.change(1, state="open")
        question = looked.jobs.jobs[-1]
        if how == "deleted":
            looked.viewer.layers.remove(same)
        elif how == "painted":
            same.paint((2, 5, 5), 1)
        else:
            panel.truth_chosen.emit(other if how == "another" else None)
            if pending:
                question.end_cancelled()
            question = looked.jobs.jobs[-1]
        assert table.isColumnHidden(4)
        assert "reference" not in looked.text("headline") + levels.item(0, 1).toolTip()
        if pending or how in ("another", "none"):
            assert looked.text("whatif_said").startswith("Segmenting with")
            assert not table.isEnabled()
            question.reply(SHAPE)
        assert table.isColumnHidden(4) is (how != "another")
        assert all(c.truth_before is None for r in shown.results[1:] for c in r.classes)
        if how == "painted":
            assert pending or "have changed since: choose them again" in looked.text("whatif_said")
            panel.truth_chosen.emit(same)
            looked.jobs.jobs[-1].reply(SHAPE)
            assert looked.cells("whatif_classes")[0][4] == "0.90 → 0.80"

    def test_a_ranking_is_not_compared_with_reference_labels_that_were_deleted_meanwhile(self, looked: Widget) -> None:
        same = looked.viewer.add_labels(np.zeros(SHAPE, np.uint8), name="same", scale=(3, 1, 1), units=("mm",) * 3)
        looked.view.result.what_if.truth_chosen.emit(same)
        looked.part("ranking", QPushButton).click()
        looked.viewer.layers.remove(same)
        looked.jobs.jobs[-1].reply(SHAPE)
        assert looked.text("headline").startswith("Without the gate of level 3")
        tooltip = looked.part("levels_table", QTableWidget).item(0, 1).toolTip()
        assert "reference" not in looked.text("headline") + tooltip

    @pytest.mark.parametrize("why", ["failed", "another widget", "Rank levels", "reference"])
    def test_a_question_without_an_answer_leaves_nothing_of_the_one_before(self, looked: Widget, why: str) -> None:
        shown = looked.controller.shown_result
        shown.what_if.change(0, threshold=0.5)
        looked.jobs.jobs[-1].reply(SHAPE)
        assert "what if" in looked.maps
        ranked = len(shown.results) - 1
        if why == "reference":
            other = looked.viewer.add_labels(np.zeros((6, 40, 44), np.uint8), name="other")
            looked.view.result.what_if.truth_chosen.emit(other)
            said = "the reference labels cannot be used"
        else:
            shown.what_if.change(0, threshold=0.25)
            question = looked.jobs.jobs[-1]
            table = looked.part("whatif_classes", QTableWidget)
            assert (table.isHidden(), table.isEnabled(), len(shown.results)) == (False, False, ranked)
            if why == "failed":
                question.say(Failed(EngineError("The engine was killed."), "log"))
                said = "There is no answer: The engine was killed."
            elif why == "another widget":
                looked.jobs.start(None, lambda _: None)
                question.end_cancelled()
                said = "was stopped for another job. Change it to ask again."
            else:
                looked.part("ranking", QPushButton).click()
                question.end_cancelled()
                said, ranked = "was stopped for another job", 0
        assert said in looked.text("whatif_said")
        assert looked.part("whatif_classes", QTableWidget).isHidden()
        assert not {"what if", "what if, changes"} & set(looked.maps)
        assert len(shown.results) == ranked

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

    def test_labels_on_another_grid_are_refused_under_their_field(self, looked: Widget) -> None:
        other = looked.viewer.add_labels(np.zeros((6, 40, 44), np.uint8), name="other")
        looked.view.result.what_if.truth_chosen.emit(other)
        assert "other lies on another grid" in looked.view.result.what_if.problem.text()
        same = looked.viewer.add_labels(np.zeros(SHAPE, np.uint8), name="same", scale=(3, 1, 1), units=("mm",) * 3)
        looked.view.result.what_if.truth_chosen.emit(same)
        assert looked.view.result.what_if.problem.text() == ""
        looked.viewer.layers.remove(same)
        assert looked.text("truth") == "none"

    def test_a_look_stops_the_question_before_it_and_nothing_moves_meanwhile(self, looked: Widget) -> None:
        edits = looked.view.result.what_if
        edits.state_chosen.emit(0, "open")
        question = looked.jobs.jobs[-1]
        assert question.yields
        looked.controller.start_or_cancel()
        assert question.cancelled
        job = looked.jobs.jobs[-1]
        assert job is not question, "the engine takes it when the question is over"
        assert not edits.isEnabled()
        edits.threshold_chosen.emit(1, 0.5)  # a slider that rests late
        looked.controller.rank_or_stop()
        assert looked.jobs.jobs[-1] is job
        question.end_cancelled()
        assert "was stopped for another job" in looked.text("whatif_said")
        job.end_cancelled()
        assert (looked.controller.run, looked.can_run, edits.isEnabled()) == (None, True, True)
        looked.inspect()

    def test_a_scan_that_changes_is_segmented_anew(self, looked: Widget) -> None:
        what_if = looked.controller.shown_result.what_if
        what_if.change(0, state="open")
        looked.jobs.jobs[-1].reply(SHAPE)
        first = looked.jobs.jobs[-1].request.key
        looked.viewer.layers["mri"].data = looked.viewer.layers["mri"].data + 1
        what_if.change(0, state="closed")
        assert looked.jobs.jobs[-1].request.key != first


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
