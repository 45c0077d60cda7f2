"""A Segment widget without an engine: what it asks for is recorded, what the engine answers is said by the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from psygnal import Signal
from pytestqt.qtbot import QtBot
from qtpy.QtWidgets import QComboBox, QPushButton, QWidget

from napari_prosma._shared.layers import LayerScan
from napari_prosma._shared.session import ModelEntry, Session
from napari_prosma.segment.controller import SegmentController
from napari_prosma.segment.view import SegmentView
from prosma_core.engine.client import ArrayReady, Cancelled, Finished, Message
from prosma_core.engine.messages import Ready, SegmentRequest, SegmentResult


class FakeJob:
    """A job that ends when the test says so."""

    def __init__(self, scan: LayerScan, request: SegmentRequest, listener: Callable[[Message], None]) -> None:
        self.scan, self.request, self.say = scan, request, listener
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True

    def give_labels(self) -> np.ndarray:
        """Hand over the labels' array, as the engine does before the first tile."""
        labels = np.zeros(self.scan.spec.labels_spec().shape, np.uint8)
        self.say(ArrayReady("labels", labels))
        return labels

    def end_cancelled(self) -> None:
        self.say(Cancelled())


class FakeJobs:
    """Stands in for the boundary to the engine."""

    started = Signal(Ready)

    def __init__(self) -> None:
        self.jobs: list[FakeJob] = []
        self.ready: Ready | None = None
        self.pid: int | None = None
        self.alive = False
        self.freed = False

    def start(self) -> None:
        self.pid, self.alive = 1, True

    def segment(self, scan: LayerScan, request: SegmentRequest, listener: Callable[[Message], None]) -> FakeJob:
        self.jobs.append(FakeJob(scan, request, listener))
        return self.jobs[-1]

    def free(self) -> None:
        self.freed, self.alive, self.pid, self.ready = True, False, None, None

    def log(self) -> str:
        return "the log"

    def close(self) -> None:
        self.pid = None


class Widget:
    """The parts of a Segment widget, and shorthands of the tests."""

    def __init__(self, viewer: ViewerModel, folder: Path) -> None:
        self.viewer, self.view, self.jobs = viewer, SegmentView(), FakeJobs()
        self.session = Session(folder, self.jobs)  # type: ignore[arg-type]
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

    def start(self) -> FakeJob:
        """Click the main button; where nothing is meant for the scan, the phantom's model is chosen first."""
        if not self.text("model"):
            self.choose("phantom-3d")
        self.controller.start_or_cancel()
        return self.jobs.jobs[-1]


@pytest.fixture
def make_widget(qtbot: QtBot, tmp_path: Path) -> Iterator[Callable[[ViewerModel], Widget]]:
    """Return what makes a widget for a viewer; all of them share one folder of settings."""
    made: list[Widget] = []

    def make(viewer: ViewerModel) -> Widget:
        made.append(Widget(viewer, tmp_path))
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
