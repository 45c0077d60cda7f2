"""Going through a series of scans in the widget, with an engine that the test plays."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from napari.components import ViewerModel
from napari.utils.notifications import notification_manager
from qtpy.QtWidgets import QPushButton, QTableWidget
from tests.plugin.train.conftest import Widget

from napari_prosma.layers.slices import marks_of
from napari_prosma.train import export_pairs
from prosma_core.data.phantom import phantom_3d
from prosma_core.engine.messages import Finished, SegmentResult, SuggestResult
from prosma_core.errors import DatasetError
from prosma_core.io.images import read_image, write_image, write_labels
from prosma_core.io.notes import noted_slices, read_notes

SHAPE = (8, 32, 32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with three scans, the second of which is broken."""
    root = tmp_path / "scans"
    root.mkdir()
    for i in range(3):
        scan, _ = phantom_3d(i, SHAPE)
        write_image(root / f"s{i}.nii.gz", scan.data, scan.spec)
    (root / "s1.nii.gz").write_bytes(b"nothing")
    return root


class Series:
    """Shorthands."""

    def __init__(self, widget: Any) -> None:
        self.widget, self.work, self.viewer = widget, widget.controller.series, widget.viewer
        self.table = widget.view.findChild(QTableWidget, "series_table")

    @property
    def rows(self) -> list[tuple[str, str, str]]:
        return [tuple(self.table.item(i, c).text() for c in range(3)) for i in range(self.table.rowCount())]

    @property
    def states(self) -> list[str]:
        return [row[1] for row in self.rows]

    @property
    def layers(self) -> list[str]:
        return [layer.name for layer in self.viewer.layers]

    @property
    def labels(self) -> Any:
        return self.viewer.layers[-1]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        return [(row.image, row.problem or row.facts) for row in self.widget.controller._pairs.rows]

    def click(self, part: str) -> None:
        button = self.widget.view.findChild(QPushButton, f"series_{part}")
        assert button.isEnabled()
        button.click()

    def paint(self, z: int) -> None:
        self.labels.data[z, 5:15, 5:15] = 1
        self.labels.refresh()


def segmented(series: Series) -> None:
    """Let the engine find an object in slices 2 and 3 of the scan that was opened last."""
    job = series.widget.jobs.jobs[-1]
    job.give_labels()[2:4, 5:15, 5:15] = 1
    job.say(Finished(SegmentResult(voxels={}, seconds=1.0, device="CPU")))


def scroll(series: Series) -> None:
    """Go to another slice, and refresh the layer, which says by it that it was painted in, perhaps."""
    saving = series.work._open.saving
    series.viewer.dims.set_point(0, 1)
    assert not saving.unsaved
    series.labels.refresh()
    assert saving.unsaved


@pytest.fixture
def series(widget: Any, folder: Path) -> Series:
    widget.controller.series.begin(folder)
    return Series(widget)


def test_open_correct_next_close_reopen(series: Series, folder: Path) -> None:
    assert series.states == ["untouched"] * 3
    assert not series.viewer.layers
    series.click("next")
    assert series.layers == ["s0.nii.gz", "s0.nii.gz labels"]
    assert series.viewer.layers.selection.active is series.labels
    series.paint(2)
    series.paint(3)
    series.click("next")  # the broken one is left out
    assert series.layers == ["s2.nii.gz", "s2.nii.gz labels"]
    assert series.states[:2] == ["done: 2 of 8", "cannot be opened"]
    assert "s1.nii.gz cannot be opened" in series.widget.text("series_problem")
    (file,) = series.widget.models.glob("* annotations/s0*.nii.gz")
    assert series.table.item(0, 1).toolTip() == f"s0.nii.gz\nLabels: {file}"
    assert series.table.item(2, 1).toolTip() == series.states[2]  # nothing is saved yet
    assert series.pairs[0] == ("s0.nii.gz", "0 checked, 2 edited, 6 untouched; 1 class on checked and edited slices")
    assert "6 untouched slices take no part." in series.widget.text("notes")  # no model made them
    series.paint(1)
    series.click("leave")
    assert series.layers == []
    assert series.table.isHidden()
    assert [name for name, _ in series.pairs] == ["s0.nii.gz", "s2.nii.gz"]

    series.work.begin(folder)
    assert series.states == ["done: 2 of 8", "untouched", "done: 1 of 8"]
    assert len(series.pairs) == 2
    series.table.selectRow(0)
    series.click("open")
    assert np.flatnonzero(series.labels.data.any((1, 2))).tolist() == [2, 3]
    assert series.states[0] == "open: 2 of 8"
    assert len(series.pairs) == 2
    assert sorted(path.name for path in folder.iterdir()) == ["s0.nii.gz", "s1.nii.gz", "s2.nii.gz"]


def test_labels_are_kept_where_layers_are_deleted_and_when_the_widget_closes(series: Series) -> None:
    series.click("next")
    series.paint(2)
    series.viewer.layers.remove(series.labels)
    assert series.layers == []
    assert series.states[0] == "done: 1 of 8"
    series.table.selectRow(0)
    series.click("open")
    series.paint(4)
    series.widget.controller.close()
    (file,) = series.widget.models.glob("* annotations/*.nii.gz")
    assert np.flatnonzero(read_image(file).data.any((1, 2))).tolist() == [2, 4]
    assert len(series.viewer.layers) == 2  # they are left to the user


def test_where_labels_cannot_be_saved_they_stay_open(series: Series, monkeypatch: pytest.MonkeyPatch) -> None:
    series.click("next")
    series.paint(2)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(export_pairs, "write_labels", full)
        for leave in (lambda: series.click("next"), lambda: series.viewer.layers.remove(series.labels)):
            leave()
            assert sorted(series.layers) == ["s0.nii.gz", "s0.nii.gz labels"]
            assert "No space left" in series.widget.text("series_problem")
            assert "stays open" in series.widget.text("series_problem")
    series.click("next")
    assert series.states[0] == "done: 1 of 8"
    series.paint(2)
    monkeypatch.setattr(export_pairs, "write_labels", full)
    notification_manager.records.clear()
    series.widget.controller.close()  # the layers stay in the viewer
    assert "save their layer yourself" in notification_manager.records[-1].message


def test_a_folder_that_vanished_is_said(series: Series, folder: Path) -> None:
    series.click("next")
    series.paint(2)
    shutil.rmtree(folder)
    series.click("next")
    assert "not there any more" in series.widget.text("series_problem")
    assert series.states == ["done: 1 of 8", "untouched", "untouched"]
    series.work.begin(folder)
    assert "is not there" in series.widget.text("series_problem")


def test_two_windows_on_one_folder_lose_nothing_of_each_other(
    series: Series, folder: Path, tmp_path: Path, make_jobs: Any, qtbot: Any
) -> None:
    second = Widget(ViewerModel(), tmp_path, make_jobs())
    qtbot.addWidget(second.view)
    second.controller.series.begin(folder)
    other = Series(second)
    for each in (series, other):
        each.click("next")
        assert each.layers == ["s0.nii.gz", "s0.nii.gz labels"]
    other.paint(2)
    series.paint(5)
    other.click("next")
    assert other.layers[0] == "s2.nii.gz"
    series.click("next")  # the other window has it open: it is not done
    words = "Labels of s0.nii.gz were saved by another window or program since they were opened here: both are kept"
    assert words in series.widget.text("series_problem")
    saved = {path.name: path for path in series.widget.models.glob("* annotations/*.nii.gz")}
    (theirs, ours) = (saved[name] for name in sorted(saved, key=len))
    assert np.flatnonzero(read_image(theirs).data.any((1, 2))).tolist() == [2]
    assert np.flatnonzero(read_image(ours).data.any((1, 2))).tolist() == [5]
    assert ours.name.removesuffix(".nii.gz") in series.widget.text("series_problem")
    other.paint(3)
    other.work.validate([2])
    other.click("leave")
    series.work.validate([0])
    series.click("leave")
    second.controller.close()
    series.work.begin(folder)
    assert [row[2] for row in series.rows] == ["validation", "training", "validation"]
    assert series.states[2] == "done: 1 of 8"
    series.table.selectRow(0)
    series.click("open")
    assert np.flatnonzero(series.labels.data.any((1, 2))).tolist() == [5]  # those that were saved last
    names = [path.name.removesuffix(".nii.gz") for path in (ours, theirs)]
    words = "s0.nii.gz was opened with its labels {}; others are kept beside them: {}."
    assert series.widget.text("series_problem") == words.format(*names)


def test_a_scan_that_another_window_has_done_is_opened_with_its_labels(
    series: Series, folder: Path, tmp_path: Path, make_jobs: Any, qtbot: Any
) -> None:
    second = Widget(ViewerModel(), tmp_path, make_jobs())
    qtbot.addWidget(second.view)
    second.controller.series.begin(folder)
    other = Series(second)
    other.click("next")
    other.paint(2)
    other.click("leave")
    second.controller.close()
    series.click("next")
    assert series.layers[0] == "s2.nii.gz"
    series.table.selectRow(0)
    series.click("open")
    assert np.flatnonzero(series.labels.data.any((1, 2))).tolist() == [2]
    series.paint(4)
    series.click("leave")
    (file,) = series.widget.models.glob("* annotations/*.nii.gz")
    assert np.flatnonzero(read_image(file).data.any((1, 2))).tolist() == [2, 4]


def test_where_the_labels_of_a_folder_that_was_moved_are_is_said(series: Series, folder: Path) -> None:
    series.click("next")
    series.paint(2)
    series.click("leave")
    moved = folder.rename(folder.with_name("moved"))
    series.work.begin(moved)
    assert series.states == ["untouched"] * 3
    (kept,) = series.widget.models.glob("* annotations")
    words = series.widget.text("series_problem")
    assert str(folder) in words
    assert kept.name in words
    series.click("leave")
    kept.rename(kept.with_name(words.split("of the models to ")[1].split(", and open")[0]))
    series.work.begin(moved)
    assert series.states[0] == "done: 1 of 8"
    assert series.widget.text("series_problem") == ""


def test_nothing_here_is_a_negative(series: Series) -> None:
    series.click("next")
    series.paint(2)
    series.click("nothing")
    assert "Erase them first" in series.widget.text("series_problem")
    series.labels.data[:] = 0
    series.click("nothing")
    assert series.states[0] == "done: 8 of 8"
    assert series.layers[0] == "s2.nii.gz"
    series.paint(1)
    series.click("leave")
    assert series.pairs[0][1] == "8 checked, 0 edited, 0 untouched; no object on checked and edited slices"
    assert [row.problem for row in series.widget.controller._pairs.rows] == ["", ""]
    assert series.widget.controller._pairs.rows[0].states.checked == tuple(range(8))


def test_nothing_here_keeps_objects_of_checked_slices(series: Series) -> None:
    widget = series.widget
    widget.controller.choose_start(widget.model("phantom-3d"))
    series.click("next")
    segmented(series)
    widget.controller.slices.mark(series.labels, 2)
    series.click("nothing")
    assert "painted, edited or checked. Erase them first" in widget.text("series_problem")
    assert series.labels.data.any((1, 2)).tolist() == [False, False, True, True, *[False] * 4]
    widget.controller.slices.mark(series.labels, 2, checked=False)
    series.click("nothing")  # a wrong result that nobody checked
    assert series.states[0] == "done: 8 of 8"
    (file,) = widget.models.glob("* annotations/*.nii.gz")
    assert not read_image(file).data.any()


@pytest.mark.parametrize("drawn", [True, False])
def test_a_scan_that_was_only_scrolled_through_is_not_saved(series: Series, drawn: bool) -> None:
    widget = series.widget
    if not drawn:
        widget.controller.choose_start(widget.model("phantom-3d"))
    series.click("next")
    if not drawn:
        segmented(series)
    first = series.labels
    scroll(series)
    series.click("next")
    assert first not in series.viewer.layers
    assert series.states[0] == "untouched"
    assert not list(widget.models.glob("* annotations/*.nii.gz"))
    series.table.selectRow(0)
    series.click("open")
    if not drawn:
        segmented(series)
    series.paint(4)
    series.work._open.saving.save_now()  # as each minute
    series.labels.data[4] = first.data[4]
    series.labels.refresh()
    series.click("next")  # what was saved before is replaced, also by what it was at first
    (file,) = widget.models.glob("* annotations/*.nii.gz")
    np.testing.assert_array_equal(read_image(file).data, first.data)
    assert series.states[0] == "untouched"


def test_a_mark_alone_is_saved_and_a_done_scan_without_any_is_next(series: Series) -> None:
    series.click("next")
    scroll(series)
    series.widget.controller.slices.mark(series.labels, 2)
    series.click("next")
    assert series.states[0] == "done: 1 of 8"
    series.table.selectRow(0)
    series.click("open")
    series.widget.controller.slices.mark(series.labels, 2, checked=False)
    series.click("next")
    assert series.states[0] == "untouched"
    series.click("next")
    assert series.layers == ["s0.nii.gz", "s0.nii.gz labels"]


def test_the_models_result_is_corrected_and_untouched_slices_do_not_count(series: Series) -> None:
    widget = series.widget
    model = widget.model("phantom-3d")
    widget.controller.choose_start(model)
    series.click("next")
    assert series.layers == ["s0.nii.gz"]
    (job,) = widget.jobs.jobs
    assert job.request.model == str(model.path)
    job.give_labels()[2:4, 5:15, 5:15] = 1
    job.say(Finished(SegmentResult(voxels={}, seconds=1.0, device="CPU")))
    assert series.layers == ["s0.nii.gz", "s0.nii.gz labels"]
    assert series.states[0] == "open: 0 of 8"
    series.click("next")
    assert series.states[0] == "untouched"  # nothing was checked: it is not saved, a better model may come
    assert not list(widget.models.glob("* annotations/*.nii.gz"))
    series.table.selectRow(0)
    series.click("open")  # gives the segmentation of the other up
    assert widget.jobs.jobs[1].cancelled
    job = widget.jobs.jobs[2]
    job.give_labels()[2:4, 5:15, 5:15] = 1
    job.say(Finished(SegmentResult(voxels={}, seconds=1.0, device="CPU")))
    series.paint(4)
    widget.controller.slices.mark(series.labels, 2)
    series.click("next")
    (file,) = widget.models.glob("* annotations/*.nii.gz")
    states = noted_slices(read_notes(file))
    assert states is not None
    assert (states.only, states.checked, states.edited) == (True, (2,), (4,))
    assert series.pairs[0][1].startswith("a model's result: 1 checked, 1 edited, 6 untouched")
    series.table.selectRow(0)
    series.click("open")
    marks = marks_of(series.labels)
    assert (marks.checked, marks.edited) == ((2,), (4,))


def test_scans_that_are_not_open_are_suggested_and_opened_at_their_slice(series: Series, folder: Path) -> None:
    widget, suggestion = series.widget, lambda: series.widget.text("suggestion")
    widget.controller.choose_start(widget.model("phantom-3d"))
    button = widget.view.findChild(QPushButton, "next_slice")
    assert button.isEnabled()
    widget.controller.next.go()
    job = widget.jobs.jobs[-1]
    assert (job.spec.scans, job.spec.closed) == ((), tuple((f"s{i}.nii.gz", folder / f"s{i}.nii.gz") for i in range(3)))
    job.say(Finished(SuggestResult(ranked=((2, 5), (1, 0), (0, 3)), of="organ", seconds=1.0, device="CPU")))
    assert suggestion() == "Opening s2.nii.gz: phantom-3d is unsure about organ there."
    segmented(series)
    assert series.layers == ["s2.nii.gz", "s2.nii.gz labels"]
    assert suggestion() == "Slice 5 (z): phantom-3d is unsure about organ there."
    assert widget.viewer.dims.current_step[0] == 5
    widget.controller.slices.mark(series.labels, 5)
    assert suggestion() == ""
    widget.controller.next.go()  # the open one first, then the others
    job = widget.jobs.jobs[-1]
    assert [(scan.name, states.annotated) for scan, states in job.spec.scans] == [("s2.nii.gz", (5,))]
    assert [name for name, _ in job.spec.closed] == ["s0.nii.gz", "s1.nii.gz"]
    job.say(Finished(SuggestResult(ranked=((2, 0), (0, 3)), of="", seconds=1.0, device="CPU")))
    assert suggestion() == ""  # s1 is broken
    assert series.states == ["untouched", "cannot be opened", "done: 1 of 8"]
    widget.controller.next.go()
    job = widget.jobs.jobs[-1]
    assert [name for name, _ in job.spec.closed] == ["s0.nii.gz"]
    series.click("next")  # while the engine ranks
    job.say(Finished(SuggestResult(ranked=((1, 3),), of="", seconds=1.0, device="CPU")))
    assert not suggestion().startswith("Opening")


def test_the_segmentation_of_a_scan_is_cancelled_by_the_main_button(series: Series) -> None:
    widget = series.widget
    widget.controller.choose_start(widget.model("phantom-3d"))
    series.click("next")
    assert widget.text("run") == "Cancel"
    widget.controller.start_or_stop()
    (job,) = widget.jobs.jobs
    assert job.cancelled
    job.end_cancelled()
    assert widget.text("run") == "Train"
    assert series.layers == ["s0.nii.gz", "s0.nii.gz labels"]
    assert "Its labels are to be drawn" in widget.text("series_problem")


@pytest.mark.parametrize("fails", [False, True])
def test_a_scan_deleted_while_its_labels_are_made_is_closed(
    series: Series, fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        msg = "no labels"
        raise DatasetError(msg)

    widget = series.widget
    if fails:
        monkeypatch.setattr("napari_prosma.train.series_work.labels_layer", broken)
    widget.controller.choose_start(widget.model("phantom-3d"))
    series.click("next")
    widget.jobs.held = []
    segmented(series)
    series.viewer.layers.clear()
    for call in widget.jobs.held:
        call()
    widget.jobs.held = None
    assert (series.layers, series.pairs, series.states[0]) == ([], [], "untouched")
    series.click("next")
    assert series.layers == ["s2.nii.gz"]


def test_a_layer_deleted_while_the_last_scan_is_saved_closes_the_scan(series: Series) -> None:
    for _ in range(2):
        series.click("next")
        series.paint(2)
    series.widget.jobs.held = held = []
    series.click("next")
    series.viewer.layers.remove(series.labels)
    series.widget.jobs.held = None
    for call in held:
        call()
    assert series.layers == []
    assert series.states == ["done: 1 of 8", "cannot be opened", "done: 1 of 8"]
    assert len(series.pairs) == 2
    series.table.selectRow(2)
    series.click("open")
    assert np.flatnonzero(series.labels.data.any((1, 2))).tolist() == [2]


def test_without_an_engine_labels_are_drawn(series: Series) -> None:
    widget = series.widget
    widget.controller.choose_start(widget.model("phantom-3d"))
    widget.jobs.busy = True
    series.click("next")
    assert series.layers == ["s0.nii.gz", "s0.nii.gz labels"]
    assert "are to be drawn" in widget.text("series_problem")


def test_scans_for_validation_are_kept_in_the_project(series: Series, folder: Path) -> None:
    for z in (2, 3):
        series.click("next")
        series.paint(z)
    series.table.selectRow(2)
    series.click("validation")
    series.click("leave")
    rows = series.widget.controller._pairs.rows
    assert [row.pair.part for row in rows] == ["", "val"]
    assert rows[1].facts.endswith("for validation")
    series.work.begin(folder)
    assert [use for _, _, use in series.rows] == ["training", "training", "validation"]
    plan = series.widget.controller._plan
    assert plan.request_values["validation"] == (1,)
    series.table.selectRow(2)
    series.click("validation")
    assert "validation" not in series.widget.controller._plan.request_values


def test_nothing_is_judged_by_a_scan_for_validation_that_is_untouched(series: Series) -> None:
    series.click("next")
    series.paint(2)
    series.click("next")
    series.table.selectRow(2)
    series.click("validation")
    assert [row.pair.part for row in series.widget.controller._pairs.rows] == ["", "val"]
    assert "validation" not in series.widget.controller._plan.request_values


def test_labels_of_the_folder_are_copied_and_channels_are_one_scan(widget: Any, tmp_path: Path) -> None:
    root = tmp_path / "set"
    (root / "imagesTr").mkdir(parents=True)
    (root / "labelsTr").mkdir()
    scan, truth = phantom_3d(1, SHAPE)
    for i in range(2):
        write_image(root / "imagesTr" / f"a_000{i}.nii.gz", scan.data + i, scan.spec)
        write_image(root / "imagesTr" / f"b_000{i}.nii.gz", scan.data + i, scan.spec)
    write_labels(root / "labelsTr" / "a.nii.gz", truth.data.astype(np.uint8), scan.spec)
    before = (root / "labelsTr" / "a.nii.gz").read_bytes()
    series = Series(widget)
    series.work.begin(root)
    assert series.states == ["done: own labels", "untouched"]
    series.click("next")
    assert series.layers == ["imagesTr/b", "imagesTr/b labels"]
    assert series.viewer.layers[0].data.shape == (2, *SHAPE)
    assert series.labels.data.shape == SHAPE
    series.paint(2)
    series.table.selectRow(0)
    series.click("open")
    np.testing.assert_array_equal(series.labels.data, truth.data)
    series.paint(2)
    series.click("leave")
    assert [row.spec.num_channels for row in widget.controller._pairs.rows] == [2, 2]
    assert [row.problem for row in widget.controller._pairs.rows] == ["", ""]
    assert (root / "labelsTr" / "a.nii.gz").read_bytes() == before
    assert widget.can_run


def test_a_picture_is_one_slice_and_a_label_map_is_no_scan(widget: Any, tmp_path: Path) -> None:
    root = tmp_path / "pictures"
    root.mkdir()
    PIL.Image.fromarray(np.arange(32 * 32, dtype=np.uint8).reshape(32, 32)).save(root / "a.png")
    scan, truth = phantom_3d(1, SHAPE)
    notes = {"program": "test", "kind": "labels"}
    write_labels(root / "b.nii.gz", truth.data.astype(np.uint8), scan.spec, provenance=notes)
    series = Series(widget)
    series.work.begin(root)
    series.click("next")
    series.labels.data[3:9, 3:9] = 1
    series.labels.refresh()
    series.click("next")
    assert series.states == ["done: 1 of 1", "cannot be opened"]
    assert "labels, not an image" in widget.text("series_problem")
    assert series.table.item(1, 1).toolTip()
    series.table.selectRow(0)
    series.table.doubleClicked.emit(series.table.model().index(0, 0))
    assert series.labels.data[4, 4] == 1
