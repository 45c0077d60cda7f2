"""Nothing of a scan of a series stays in view once another is opened: previews, results, maps of the gates, words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pytestqt.qtbot import QtBot
from tests.plugin.gates.conftest import made_up
from tests.plugin.train.conftest import Widget

from napari_prosma.gates.controller import GatesController
from napari_prosma.gates.maps import LEGEND
from napari_prosma.gates.state import GROUP
from napari_prosma.gates.view import GatesView
from napari_prosma.layers.results import editable_copy
from napari_prosma.segment.controller import SegmentController
from napari_prosma.segment.view import SegmentView
from prosma_core.data.phantom import phantom_3d
from prosma_core.engine.messages import ArrayReady, Cancelled, Finished, SegmentResult
from prosma_core.events import EpochDone, LevelStats, PreviewDone, SlicesUnsure
from prosma_core.io.images import write_image

SHAPE = (8, 32, 32)


@pytest.fixture
def series(widget: Widget, tmp_path: Path, qtbot: QtBot) -> Widget:
    """Return a Train widget whose first scan is open, with labels in two slices."""
    root = tmp_path / "scans"
    root.mkdir()
    for i in range(3):
        scan, _ = phantom_3d(i, SHAPE)
        write_image(root / f"s{i}.nii.gz", scan.data, scan.spec)
    widget.controller.series.begin(root)
    widget.controller.series.open_next()
    paint(widget)
    qtbot.waitUntil(lambda: widget.can_run)
    return widget


@pytest.fixture
def make_other(series: Widget, qtbot: QtBot) -> Iterator[Callable[[Any, Any], Any]]:
    """Return what makes another widget of the same window."""
    made = []

    def make(controller: Any, view: Any) -> Any:
        qtbot.addWidget(view)
        made.append(controller(series.viewer, view, series.session))
        made[-1].choose_image(series.viewer.layers["s0.nii.gz"])
        made[-1].choose_model(series.model("phantom-3d"))
        made[-1].start_or_cancel()
        return made[-1]

    yield make
    for each in made:
        each.close()


def paint(widget: Widget) -> None:
    labels = widget.viewer.layers[-1]
    for z in (2, 3):
        labels.data[z, 5:15, 5:15] = 1
    labels.refresh()


def seen(widget: Widget) -> list[str]:
    return [layer.name for layer in widget.viewer.layers if layer.visible]


def go_on(widget: Widget) -> None:
    widget.controller.series.open_next()
    assert "s1.nii.gz" in widget.viewer.layers
    assert "s0.nii.gz" not in widget.viewer.layers


NEXT = ["s1.nii.gz", "s1.nii.gz labels"]


def trained(widget: Widget) -> Any:
    """Begin a training whose preview is shown; return its job."""
    widget.controller._toggle_preview(True)
    job = widget.start()
    assert job.previews[-1].name == "s0.nii.gz"
    job.say(EpochDone(1, 5, 0.7, 1e-3, {"class 1": 0.5}, 0.5, (LevelStats(0.3, 0.6),), True, 10.0, 40.0))
    job.say(ArrayReady("preview", np.ones(SHAPE, np.uint8)))
    job.say(PreviewDone(1, 0.5))
    job.say(SlicesUnsure("z", tuple((0.5,) for _ in range(SHAPE[0]))))
    assert seen(widget)[-1] == "s0.nii.gz preview"
    return job


def test_the_preview_of_a_training_goes_with_its_scan_and_comes_on_the_next(series: Widget) -> None:
    job = trained(series)
    go_on(series)
    assert seen(series) == NEXT
    assert series.controller._preview.unsure is None
    assert job.previews[-1].name == "s1.nii.gz"
    job.say(PreviewDone(2, 0.5))  # of the scan before, late
    assert "off" not in series.text("preview_facts")
    job.say(ArrayReady("preview", np.ones(SHAPE, np.uint8)))
    assert seen(series) == [*NEXT, "s1.nii.gz preview"]


def test_an_array_of_the_scan_before_that_comes_late_is_not_shown(series: Widget) -> None:
    job = trained(series)
    go_on(series)
    job.say(ArrayReady("preview", np.ones((SHAPE[0], 16, 16), np.uint8)))
    assert seen(series) == NEXT


@pytest.mark.parametrize("painted", [False, True])
def test_the_preview_of_a_training_that_is_over_goes_unless_it_was_painted_in(series: Widget, painted: bool) -> None:
    trained(series).say(Cancelled())
    preview = series.viewer.layers[-1]
    if painted:
        preview.paint((1, 1, 1), 2)
        preview.events.paint(value=[])
    go_on(series)
    assert seen(series) == NEXT
    assert (preview in series.viewer.layers) == painted, "what a person made is hidden, not removed"


def test_results_of_a_scan_are_hidden_with_it_and_those_of_others_stay(series: Widget, make_other: Any) -> None:
    other = series.viewer.add_image(np.zeros((4, 4), np.float32), name="other")
    segment = make_other(SegmentController, SegmentView())
    job = series.jobs.jobs[-1]
    job.give_labels()[2:4] = 1
    job.say(Finished(SegmentResult(voxels={}, seconds=1.0, device="CPU")))
    result = segment.last.labels
    copy = series.viewer.add_layer(editable_copy(result))
    series.viewer.layers.remove(other)
    assert {result.name, copy.name} < set(seen(series))
    go_on(series)
    assert seen(series) == NEXT
    assert {result, copy} < set(series.viewer.layers)
    camera = series.viewer.scene.camera.zoom
    series.viewer.reset_view()
    assert series.viewer.scene.camera.zoom == camera, "the next scan fills the canvas"


def test_a_segmentation_of_a_scan_that_is_left_is_canceled(series: Widget, make_other: Any) -> None:
    segment = make_other(SegmentController, SegmentView())
    job = series.jobs.jobs[-1]
    job.give_labels()
    go_on(series)
    assert job.cancelled
    job.end_cancelled()
    assert seen(series) == NEXT
    segment.choose_image(series.viewer.layers["s1.nii.gz"])
    segment.choose_model(series.model("phantom-3d"))
    segment.start_or_cancel()
    series.session.scan_left.emit(SimpleNamespace())
    assert not series.jobs.jobs[-1].cancelled, "another scan was left"


@pytest.mark.parametrize("running", [False, True])
def test_maps_and_changes_of_the_gates_go_with_their_scan(
    series: Widget, make_other: Any, running: bool, qtbot: QtBot
) -> None:
    gates = make_other(GatesController, GatesView())
    job = series.jobs.jobs[-1]
    if not running:
        job.answer(*made_up(gates.run.plan))
        series.jobs.jobs[-1].reply(())
        qtbot.waitUntil(lambda: not gates.shown_result.adding, timeout=30_000)
        gates.shown_result.what_if.change(0, state="open")
        series.jobs.jobs[-1].reply(SHAPE)
        assert sum(name.startswith(GROUP) for name in seen(series)) >= 2
    go_on(series)
    qtbot.waitUntil(lambda: not any(layer.name.startswith(GROUP) for layer in series.viewer.layers))
    assert seen(series) == NEXT
    assert LEGEND not in series.viewer.canvas.overlays
    assert gates.shown_result is None
    if running:
        assert job.cancelled


def test_words_on_a_slice_of_a_scan_go_with_it(series: Widget) -> None:
    for z in range(SHAPE[0]):
        series.controller.slices.mark(series.viewer.layers[-1], z)
    series.controller.series.show()
    series.controller.next.go()
    assert series.text("suggestion") != ""
    go_on(series)
    assert series.text("suggestion") == ""
