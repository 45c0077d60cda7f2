"""A Segment widget without an engine: what it asks for is recorded, what the engine answers is said by the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from pytestqt.qtbot import QtBot
from qtpy.QtWidgets import QComboBox, QPushButton, QWidget

from napari_prosma.jobs.session import Session
from napari_prosma.segment.controller import SegmentController
from napari_prosma.segment.view import SegmentView
from prosma_core.engine.messages import Finished, SegmentResult
from prosma_core.io.bundle import ModelEntry


class Widget:
    """The parts of a Segment widget, and shorthands of the tests."""

    def __init__(self, viewer: ViewerModel, folder: Path, jobs: Any) -> None:
        self.viewer, self.view, self.jobs = viewer, SegmentView(), jobs
        self.session = Session(folder, jobs)
        self.controller = SegmentController(viewer, self.view, self.session)

    def model(self, name: str) -> ModelEntry:
        return next(m for m in self.session.models() if m.header.name == name)

    def choose(self, name: str) -> None:
        self.controller.choose_model(self.model(name))

    def text(self, part: str) -> str:
        """What a label or button says, or the chosen entry of a box."""
        found = self.view.findChild(QWidget, part)
        return found.currentText() if isinstance(found, QComboBox) else found.text()

    def entries(self, part: str) -> list[str]:
        """Entries of a box."""
        box = self.view.findChild(QComboBox, part)
        return [box.itemText(i) for i in range(box.count()) if box.itemData(i) is not None]

    @property
    def can_run(self) -> bool:
        return self.view.findChild(QPushButton, "run").isEnabled()

    def start(self) -> Any:
        """Click the main button; where nothing is meant for the scan, the phantom's model is chosen first."""
        if not self.text("model"):
            self.choose("phantom-3d")
        self.controller.start_or_cancel()
        return self.jobs.jobs[-1]


@pytest.fixture
def make_widget(
    qtbot: QtBot, tmp_path: Path, make_jobs: Callable[[], Any]
) -> Iterator[Callable[[ViewerModel], Widget]]:
    """Return what makes a widget for a viewer; all of them share one folder of settings."""
    made: list[Widget] = []

    def make(viewer: ViewerModel) -> Widget:
        made.append(Widget(viewer, tmp_path, make_jobs()))
        qtbot.addWidget(made[-1].view)
        return made[-1]

    yield make
    for widget in made:
        widget.controller.close()


@pytest.fixture
def widget(make_widget: Callable[[ViewerModel], Widget]) -> Widget:
    return make_widget(ViewerModel())


@pytest.fixture
def finished() -> Callable[[dict[str, int]], Finished]:
    """Return what makes the engine's last message from voxel counts."""

    def make(voxels: dict[str, int]) -> Finished:
        return Finished(SegmentResult(voxels=voxels, seconds=2.0, device="CPU"))

    return make


@pytest.fixture
def scan_data(rng: np.random.Generator) -> Any:
    return rng.normal(100, 20, (12, 40, 44)).astype(np.float32)
