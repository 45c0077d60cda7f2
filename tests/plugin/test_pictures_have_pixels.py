"""What one place of a grid is called in the window: pixel of a picture, voxel of a scan."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from pytestqt.qtbot import QtBot
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QAbstractButton, QComboBox, QLabel, QLineEdit, QTabBar, QTableWidget, QWidget
from tests.plugin.conftest import FakeJobs
from tests.plugin.gates.conftest import made_up

from napari_prosma.gates.controller import GatesController
from napari_prosma.gates.view import GatesView
from napari_prosma.jobs.qt_loop import QtEventLoop
from napari_prosma.jobs.session import SETTINGS, ScanMark, Session
from napari_prosma.segment.controller import SegmentController
from napari_prosma.segment.view import SegmentView
from napari_prosma.train.controller import TrainController
from napari_prosma.train.view import TrainView
from prosma_core.config.training import LabelsConfig

TRAINED = {2: "breast-lesion-us", 3: "phantom-3d"}
"""A shipped model of so many dimensions."""


class Desk:
    """A viewer with a picture or a scan, and a session whose engine the test plays."""

    def __init__(self, dims: int, folder: Path) -> None:
        self.viewer, self.jobs = ViewerModel(), FakeJobs(QtEventLoop().timer)
        self.session = Session(folder, self.jobs)
        shape = (12, 40, 44)[-dims:]
        data = np.random.default_rng(0).normal(100, 20, shape).astype(np.float32)
        self.image = self.viewer.add_image(data, name="image")
        self.labels = self.viewer.add_labels((data > 130).astype(np.uint8), name="labels")
        self.model = next(m for m in self.session.models() if m.header.name == TRAINED[dims])


def segment(desk: Desk, _: QtBot) -> tuple[Any, Any]:
    view = SegmentView()
    made = SegmentController(desk.viewer, view, desk.session)
    made.choose_model(desk.model)
    return view, made


def train(desk: Desk, qtbot: QtBot) -> tuple[Any, Any]:
    view = TrainView()
    made = TrainController(desk.viewer, view, desk.session)
    made.pairs.add_layers(desk.image, desk.labels)
    made.choose_labels(LabelsConfig(zero="unlabeled"))
    qtbot.waitUntil(lambda: made._plan is not None)
    return view, made


def gates(desk: Desk, qtbot: QtBot) -> tuple[Any, Any]:
    view = GatesView()
    made = GatesController(desk.viewer, view, desk.session)
    made.choose_model(desk.model)
    made.start_or_cancel()
    desk.jobs.jobs[-1].answer(*made_up(made.run.plan))
    desk.jobs.jobs[-1].reply(())
    qtbot.waitUntil(lambda: not made.shown_result.adding, timeout=30_000)
    made.shown_result.what_if.change(0, state="open")
    desk.jobs.jobs[-1].reply(desk.image.data.shape)
    made.shown_result.picker.pick((0,) * desk.viewer.dims.ndim)
    return view, made


def texts(view: QWidget) -> Iterator[str]:
    """All that a view says, also in tooltips, to screen readers and in what is folded."""
    for part in view.findChildren(QWidget):
        yield from (part.toolTip(), part.accessibleName(), part.accessibleDescription())
        if isinstance(part, QLabel | QAbstractButton):
            yield part.text()
        if isinstance(part, QLineEdit):
            yield part.placeholderText()
        if isinstance(part, QTabBar):
            yield from (part.tabText(i) for i in range(part.count()))
        if isinstance(part, QComboBox) and part.objectName() not in (
            "model",
            "start",
        ):  # cards of models that may be for scans
            for i in range(part.count()):
                yield from (part.itemText(i), str(part.itemData(i, Qt.ItemDataRole.ToolTipRole) or ""))
        if isinstance(part, QTableWidget):
            heads = [part.horizontalHeaderItem(i) for i in range(part.columnCount())]
            cells = [part.item(i, j) for i in range(part.rowCount()) for j in range(part.columnCount())]
            yield from (text for item in (*heads, *cells) if item for text in (item.text(), item.toolTip()))


@pytest.mark.parametrize("make", [segment, train, gates])
@pytest.mark.parametrize("dims", [2, 3])
def test_windows_say_pixel_of_pictures_and_voxel_of_scans(
    make: Callable[..., tuple[Any, Any]], dims: int, tmp_path: Path, qtbot: QtBot
) -> None:
    view, controller = make(Desk(dims, tmp_path), qtbot)
    qtbot.addWidget(view)
    word, other = ("pixel", "voxel") if dims == 2 else ("voxel", "pixel")
    read = [text for text in texts(view) if text]
    assert any(word in text.lower() for text in read)
    assert [text for text in read if other in text.lower()] == []
    controller.close()


def test_a_widget_follows_from_a_picture_to_a_scan_and_back(tmp_path: Path, qtbot: QtBot) -> None:
    desk = Desk(2, tmp_path)
    view, controller = segment(desk, qtbot)
    qtbot.addWidget(view)
    scan = desk.viewer.add_image(np.zeros((12, 40, 44), np.float32), name="scan")
    for layer, said in ((scan, "voxel"), (desk.image, "pixel"), (scan, "voxel")):
        controller.choose_image(layer)
        assert f"Minimum size ({said}s)" in list(texts(view))
        assert any(f"fewer {said}s" in text for text in texts(view))
    controller.close()


def test_models_that_were_remembered_of_pictures_without_a_voxel_size_are_found(tmp_path: Path) -> None:
    desk = Desk(2, tmp_path)
    kept = {"folder": "", "look": {}, "model": str(desk.model.path), "trained": False}
    kinds = {
        "2D, 1 channel, no voxel size": "2D, 1 channel, no pixel size",
        "2D, color, voxel size": "2D, color, pixel size",
    }
    kinds["3D, 1 channel, no voxel size"] = "3D, 1 channel, no voxel size"
    stored = {"chosen_models": [{**kept, "kind": kind} for kind in kinds]}
    (tmp_path / SETTINGS).write_text(json.dumps(stored), encoding="utf-8")
    session = Session(tmp_path, desk.jobs)
    for kind in kinds.values():
        assert session.model_for(ScanMark(kind)) is not None
        session.prefer(desk.model, ScanMark(kind))
    assert sorted(known["kind"] for known in session.recall("chosen_models")) == sorted(kinds.values())
