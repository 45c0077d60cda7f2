"""A widget, or its viewer, that is closed in the moment in which a job of it begins: napari lets events come then."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from pytestqt.qtbot import QtBot
from qtpy.compat import isalive
from qtpy.QtCore import QEvent
from qtpy.QtWidgets import QApplication
from tests.plugin.conftest import FakeJobs
from tests.plugin.gates.conftest import made_up

from napari_prosma.gates.widget import GatesWidget
from napari_prosma.jobs.qt_loop import QtEventLoop
from napari_prosma.jobs.session import Session
from napari_prosma.segment.widget import SegmentWidget
from napari_prosma.train.widget import TrainWidget
from napari_prosma.widgets.job_view import JobView
from prosma_core.engine.messages import Finished, SegmentResult
from prosma_core.events import TileDone


class Desk:
    """A viewer with a scan and its labels, a session, and an engine that the test plays."""

    def __init__(self, viewer: Any, folder: Path) -> None:
        self.viewer, self.jobs = viewer, FakeJobs(QtEventLoop().timer)
        self.session = Session(folder, self.jobs)
        rng = np.random.default_rng(0)
        self.image = viewer.add_image(rng.normal(100, 20, (12, 40, 44)).astype(np.float32), name="liver")
        self.labels = viewer.add_labels((self.image.data > 130).astype(np.uint8), name="liver labels")

    @property
    def model(self) -> Any:
        return next(m for m in self.session.models() if m.header.name == "phantom-3d")


def segment(desk: Desk) -> tuple[Any, Callable[[], Any]]:
    made = SegmentWidget(desk.viewer, desk.session)
    made.controller.choose_image(desk.image)
    made.controller.choose_model(desk.model)
    return made, made.controller.start_or_cancel


def gates(desk: Desk) -> tuple[Any, Callable[[], Any]]:
    made = GatesWidget(desk.viewer, desk.session)
    made.controller.choose_image(desk.image)
    made.controller.choose_model(desk.model)
    return made, made.controller.start_or_cancel


def ranking(desk: Desk) -> tuple[Any, Callable[[], Any]]:
    made, start = gates(desk)
    start()
    job = desk.jobs.jobs[-1]
    return made, lambda: job.answer(*made_up(made.controller.run.plan))


def train(desk: Desk) -> tuple[Any, Callable[[], Any]]:
    made = TrainWidget(desk.viewer, desk.session)
    made.controller.pairs.add_layers(desk.image, desk.labels)
    return made, made.controller.start_or_stop


def suggestion(desk: Desk) -> tuple[Any, Callable[[], Any]]:
    desk.labels.data = np.zeros_like(desk.labels.data)
    made, _ = train(desk)
    made.controller.choose_start(desk.model)
    return made, made.controller.next.go


STARTS = {"Segment": segment, "Gates": gates, "ranking": ranking, "Train": train, "suggestion": suggestion}


@pytest.mark.parametrize("kind", STARTS)
@pytest.mark.parametrize("closed", ["widget", "viewer"])
def test_no_job_is_left_of_a_widget_that_was_closed_while_it_began(
    kind: str,
    closed: str,
    tmp_path: Path,
    make_napari_viewer: Any,
    qtbot: QtBot,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    viewer = ViewerModel() if closed == "widget" else make_napari_viewer()
    desk = Desk(viewer, tmp_path)
    widget, start = STARTS[kind](desk)
    if closed == "viewer":
        viewer.window.add_dock_widget(widget, name=kind, area="right")
    qtbot.waitUntil(lambda: kind not in ("Train", "suggestion") or widget.controller._plan is not None)
    before, begin, begun = len(desk.jobs.jobs), JobView.begin_activity, []

    def close_meanwhile(self: JobView, *args: Any) -> Any:
        made = begin(self, *args)
        begun.append(made)
        if closed == "viewer":
            viewer.close()
        else:
            self.deleteLater()
            QApplication.sendPostedEvents(self, QEvent.Type.DeferredDelete.value)
        return made

    monkeypatch.setattr(JobView, "begin_activity", close_meanwhile)
    with caplog.at_level(logging.WARNING):
        start()
    assert len(begun) == 1
    QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete.value)
    qtbot.waitUntil(lambda: not isalive(widget))
    left = [job for job in desk.jobs.jobs[before:] if not job.cancelled]
    assert left == []
    with caplog.at_level(logging.WARNING):
        for job in desk.jobs.jobs[before:]:
            job.say(TileDone(1, 2))
            job.end_cancelled()
    assert caplog.messages == []
    assert desk.session._widgets == 0
    desk.jobs.check_idle()


def test_a_job_that_is_canceled_in_the_activity_dock_while_it_begins_is_canceled(
    tmp_path: Path, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(ViewerModel(), tmp_path)
    widget, start = segment(desk)
    begin = JobView.begin_activity

    def cancel_meanwhile(self: JobView, title: str, on_cancel: Any) -> Any:
        made = begin(self, title, on_cancel)
        made.cancel()
        return made

    monkeypatch.setattr(JobView, "begin_activity", cancel_meanwhile)
    start()
    (job,) = desk.jobs.jobs
    assert job.cancelled
    job.end_cancelled()
    assert widget.controller.run is None
    widget.deleteLater()


def test_an_error_of_a_widget_that_is_deleted_by_a_message_is_no_failure(
    tmp_path: Path, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    desk = Desk(ViewerModel(), tmp_path)
    widget, start = segment(desk)
    start()
    (job,) = desk.jobs.jobs
    job.give_labels()
    progress = JobView.show_progress

    def close_meanwhile(self: JobView, *args: Any) -> None:
        self.deleteLater()
        QApplication.sendPostedEvents(self, QEvent.Type.DeferredDelete.value)
        progress(self, *args)

    monkeypatch.setattr(JobView, "show_progress", close_meanwhile)
    with caplog.at_level(logging.WARNING):
        job.say(TileDone(1, 2))
        assert not isalive(widget)
        assert job.cancelled
        job.say(Finished(SegmentResult(voxels={"organ": 1}, seconds=1.0, device="CPU")))
    assert caplog.messages == []
    assert [layer.name for layer in desk.viewer.layers] == ["liver", "liver labels"]
