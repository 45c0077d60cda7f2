"""A Train widget without an engine: what it asks for is recorded, what the engine answers is said by the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from psygnal import Signal
from pytestqt.qtbot import QtBot
from qtpy.QtWidgets import QComboBox, QLabel, QPushButton, QWidget

from napari_prosma._shared.session import ModelEntry, Session
from napari_prosma.train.controller import TrainController
from napari_prosma.train.view import TrainView
from prosma_core.engine.client import Message
from prosma_core.engine.messages import Ready
from prosma_core.errors import EngineBusyError


class FakeJob:
    """A job that ends when the test says so; its preparation is run when the test wants the request."""

    def __init__(self, prepare: Callable[[Any], Any], listener: Callable[[Message], None]) -> None:
        self._prepare, self.say = prepare, listener
        self.cancelled = False
        self.previews: list[Any] = []

    def cancel(self) -> None:
        self.cancelled = True

    def preview(self, scan: Any) -> None:
        self.previews.append(scan)

    def wait_prepared(self) -> None:
        pass

    def request(self) -> Any:
        """Prepare the request as the thread would."""
        work = self._prepare(None)
        while True:
            try:
                next(work)
            except StopIteration as stop:
                return stop.value


class FakeJobs:
    """Stands in for the boundary to the engine; work for threads is done at once."""

    started = Signal(Ready)

    def __init__(self) -> None:
        self.jobs: list[FakeJob] = []
        self.held: list[Callable[[], None]] | None = None
        self.ready: Ready | None = None
        self.alive = self.busy = False
        self.asides: list[tuple[Any, Callable[[Message], None]]] = []
        self.aside_busy = False

    def check_idle(self) -> None:
        if self.busy:
            msg = "The engine is busy."
            raise EngineBusyError(msg)

    def start(self) -> None:
        self.alive = True

    def submit(self, prepare: Callable[[Any], Any], listener: Callable[[Message], None]) -> FakeJob:
        self.jobs.append(FakeJob(prepare, listener))
        return self.jobs[-1]

    def aside(self, request: Any, listener: Callable[[Message], None]) -> None:
        if self.busy or self.aside_busy:
            msg = "The second engine is busy."
            raise EngineBusyError(msg)
        self.asides.append((request, listener))

    def end_aside(self) -> None:
        pass

    def run(
        self,
        work: Callable[[], Any],
        done: Callable[[Any], None],
        failed: Callable[[Exception], None],
        *,
        lasting: bool = False,
    ) -> None:
        def call() -> None:
            try:
                result = work()
            except Exception as error:  # noqa: BLE001  (as the real one)
                failed(error)
            else:
                done(result)

        if self.held is None:
            call()
        else:
            self.held.append(call)

    def free(self) -> None:
        self.alive, self.ready = False, None

    def log(self) -> str:
        return "the log"

    def close(self) -> None:
        self.alive = False


class Widget:
    """The parts of a Train widget, and shorthands of the tests."""

    def __init__(self, viewer: ViewerModel, folder: Path) -> None:
        self.viewer, self.view, self.jobs = viewer, TrainView(), FakeJobs()
        self.session = Session(folder, self.jobs)  # type: ignore[arg-type]
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

    def start(self) -> FakeJob:
        self.controller.start_or_stop()
        return self.jobs.jobs[-1]


@pytest.fixture
def widget(qtbot: QtBot, tmp_path: Path) -> Iterator[Widget]:
    made = Widget(ViewerModel(), tmp_path)
    qtbot.addWidget(made.view)
    yield made
    made.controller.close()


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
