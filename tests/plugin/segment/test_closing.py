"""A layer that is moved after it was read, and a widget that is closed: its window stays usable."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Labels
from napari.utils.notifications import notification_manager
from pytestqt.qtbot import QtBot

from napari_prosma.jobs.session import Session
from napari_prosma.segment.widget import SegmentWidget
from prosma_core.engine.messages import Ready
from prosma_core.errors import OutputError
from prosma_core.events import TileDone

READY = Ready(version="1", torch="2", devices={"auto": "CPU, 2 cores"}, why_not={})


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("translate", (5, 6, 7)),
        ("rotate", np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])),
        ("shear", (0.1, 0, 0)),
        ("units", ("mm", "mm", "mm")),
        ("axis_labels", ("z", "y", "x")),
    ],
)
def test_a_layer_that_was_moved_is_segmented_where_it_is_now(
    widget, scan_data: np.ndarray, attribute: str, value: object
) -> None:
    scan = widget.viewer.add_image(scan_data)
    widget.choose("phantom-3d")
    setattr(scan, attribute, value)
    widget.start().give_labels()
    (result,) = (layer for layer in widget.viewer.layers if isinstance(layer, Labels))
    np.testing.assert_array_equal(getattr(result, attribute), getattr(scan, attribute))


def test_the_facts_follow_the_layer_s_units(widget, scan_data: np.ndarray) -> None:
    scan = widget.viewer.add_image(scan_data)
    scan.units = ("mm", "mm", "mm")
    assert widget.text("image_facts").endswith("mm")


def test_a_layer_of_before_the_widget_may_be_renamed(make_widget: Callable, scan_data: np.ndarray) -> None:
    viewer = ViewerModel()
    for name in ("one", "two"):
        viewer.add_image(scan_data, name=name)
    made = make_widget(viewer)
    viewer.layers["one"].name = "uno"
    assert made.entries("image") == ["two", "uno"]


def test_two_widgets_hear_that_the_engine_is_ready(make_widget: Callable) -> None:
    one, other = make_widget(ViewerModel()), make_widget(ViewerModel())
    other.jobs.started.emit(READY)
    assert other.text("device_facts") == "CPU, 2 cores"
    one.jobs.started.emit(READY)
    assert one.text("device_facts") == "CPU, 2 cores"


def test_a_save_that_fails_after_its_widget_was_closed_is_said_by_napari(
    tmp_path: Path, qtbot: QtBot, make_jobs: Callable
) -> None:
    closed, gone = SegmentWidget(ViewerModel(), Session(tmp_path, make_jobs())), []
    closed.destroyed.connect(lambda: gone.append(True))
    closed._not_saved(OutputError("The disk is full."))
    assert closed.error_text() == "The labels were not saved: The disk is full."
    notification_manager.records.clear()
    closed.deleteLater()
    qtbot.waitUntil(lambda: gone == [True])
    closed._not_saved(OutputError("The disk is full."))
    assert [record.message for record in notification_manager.records] == [
        "The labels were not saved: The disk is full."
    ]


def test_a_closed_widget_touches_nothing_more(
    widget, tmp_path: Path, scan_data: np.ndarray, qtbot: QtBot, make_jobs: Callable
) -> None:
    closed = type(widget)(ViewerModel(), tmp_path / "settings", make_jobs())  # not one that the fixture closes again
    layers, jobs = closed.viewer.layers, closed.jobs
    scan = closed.viewer.add_image(scan_data)
    closed.choose("phantom-3d")
    job = closed.start()
    job.give_labels()
    closed.controller.close()
    gone = []
    closed.view.destroyed.connect(lambda: gone.append(True))
    closed.view.deleteLater()
    qtbot.waitUntil(lambda: gone == [True])
    assert job.cancelled
    job.say(TileDone(1, 2))
    job.end_cancelled()
    assert list(layers) == [scan]
    jobs.started.emit(READY)
    scan.name = "renamed"
    scan.scale = (1, 2, 3)
    closed.viewer.dims.set_current_step(0, 1)
    closed.viewer.add_image(scan_data)
    layers.clear()
