"""A Train widget without an engine: what it asks for is recorded, what the engine answers is said by the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from pytestqt.qtbot import QtBot
from qtpy.QtWidgets import QComboBox, QLabel, QPushButton, QWidget

from napari_prosma.jobs.session import Session
from napari_prosma.train import autosave
from napari_prosma.train.controller import TrainController
from napari_prosma.train.view import TrainView
from prosma_core.io.bundle import ModelEntry


class Widget:
    """The parts of a Train widget, and shorthands of the tests."""

    def __init__(self, viewer: ViewerModel, folder: Path, jobs: Any) -> None:
        self.viewer, self.view, self.jobs = viewer, TrainView(), jobs
        self.session = Session(folder, jobs)
        self.controller = TrainController(viewer, self.view, self.session)

    @property
    def models(self) -> Path:
        return self.session.models_folder

    def model(self, name: str) -> ModelEntry:
        return next(m for m in self.session.models() if m.header.name == name)

    def text(self, part: str) -> str:
        """What a label or button says, or the chosen entry of a box; empty where it is hidden."""
        found = self.view.findChild(QWidget, part)
        if isinstance(found, QComboBox):
            return found.currentText()
        return "" if isinstance(found, QLabel) and found.isHidden() else found.text()

    @property
    def can_run(self) -> bool:
        return self.view.findChild(QPushButton, "run").isEnabled()

    def start(self) -> Any:
        self.controller.start_or_stop()
        return self.jobs.jobs[-1]


@pytest.fixture
def widget(qtbot: QtBot, tmp_path: Path, make_jobs: Callable[[], Any]) -> Iterator[Widget]:
    made = Widget(ViewerModel(), tmp_path, make_jobs())
    qtbot.addWidget(made.view)
    yield made
    made.controller.close()
    for saving in tuple(autosave._ending):  # a save that the test let fail is not tried again in the next one
        saving.leave()


@pytest.fixture
def annotated(rng: np.random.Generator) -> Callable[..., tuple[Any, Any]]:
    """Return what opens a scan and its labels in a viewer and selects both."""

    def open_in(viewer: ViewerModel, name: str = "liver", value: int = 1) -> tuple[Any, Any]:
        image = viewer.add_image(rng.normal(100, 20, (12, 24, 28)).astype(np.float32), name=name)
        data = np.zeros((12, 24, 28), np.uint8)
        data[3:9, 8:16, 8:16] = value
        labels = viewer.add_labels(data, name=f"{name} labels")
        viewer.layers.selection = {image, labels}
        return image, labels

    return open_in
