"""A real window with the real engine, and what a person does with the Gates widget in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.layers import Image
from napari.utils.notifications import notification_manager
from pytestqt.qtbot import QtBot
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFileDialog, QLabel, QPushButton, QScrollArea, QSlider, QTableView, QTableWidget

from napari_prosma.gates import GatesWidget
from napari_prosma.jobs.boundary import Jobs
from napari_prosma.jobs.session import Session

PATIENCE = 180_000
"""Milliseconds after which a test gives up."""


class Desk:
    """A window with the Gates widget docked in it, and a person's hands and eyes."""

    def __init__(self, viewer: Any, session: Session, qtbot: QtBot) -> None:
        self.viewer, self.session, self._qtbot = viewer, session, qtbot
        viewer.window.resize(1400, 860)
        self.widget = GatesWidget(viewer, session)
        viewer.window.add_dock_widget(self.widget, name="Gates", area="right")
        self.until(lambda: session.jobs.ready is not None)

    @property
    def controller(self) -> Any:
        return self.widget.controller

    @property
    def maps(self) -> dict[str, Any]:
        """Layers of ours, by what follows the group's name."""
        names = [layer.name for layer in self.viewer.layers if " gates: " in layer.name]
        return {name.partition(" gates: ")[2]: self.viewer.layers[name] for name in names}

    def open(self, path: Path) -> Image:
        """Open a file as a person would; napari itself reads pictures."""
        builtin = path.suffix == ".png"
        return self.viewer.open(str(path), plugin="napari" if builtin else "napari-prosma")[0]

    def choose(self, name: str) -> None:
        self.controller.choose_model(next(m for m in self.session.models() if m.header.name == name))

    def text(self, part: str) -> str:
        """What a label says, empty where it is hidden."""
        label = self.widget.findChild(QLabel, part)
        return "" if label.isHidden() else label.text()

    def button(self, name: str) -> QPushButton:
        """The button with this object name or text."""
        buttons = self.widget.findChildren(QPushButton)
        return next(b for b in buttons if name in {b.objectName(), b.text()})

    def click(self, name: str) -> None:
        button = self.button(name)
        assert button.isEnabled(), button.toolTip()
        self.widget.findChild(QScrollArea).ensureWidgetVisible(button)
        self._qtbot.mouseClick(button, Qt.MouseButton.LeftButton)

    def slide(self, level: int, value: int) -> None:
        """Move the slider of a level's thresholds."""
        self.widget.findChild(QSlider, f"threshold_{level}").setValue(value)

    def cells(self, name: str) -> list[list[str]]:
        """Texts of a table."""
        table = self.widget.findChild(QTableWidget, name)
        columns = range(table.columnCount())
        return [[table.item(row, column).text() for column in columns] for row in range(table.rowCount())]

    def voxel_rows(self) -> list[list[str]]:
        """Texts of the voxel's table."""
        model = self.widget.findChild(QTableView, "voxel_table").model()
        columns = range(model.columnCount())
        return [[str(model.index(row, c).data() or "") for c in columns] for row in range(model.rowCount())]

    def until(self, so: Callable[[], bool]) -> None:
        self._qtbot.waitUntil(so, timeout=PATIENCE)

    def inspect(self) -> Any:
        """Click Inspect, wait for the layers, and return what was found."""
        self.click("run")
        self.until(lambda: self.controller.run is None)
        assert self.text("error") == ""
        self.until(lambda: not self.controller.shown_result.adding)
        return self.controller.shown_result.found

    def answered(self) -> None:
        """Wait for the answer to what was asked."""
        self.until(lambda: not self.controller.shown_result.what_if.queries.busy)

    def click_canvas(self) -> None:
        """Click the middle of the canvas."""
        canvas = self.viewer.window._qt_viewer.canvas.native
        self._qtbot.mouseClick(canvas, Qt.MouseButton.LeftButton, pos=canvas.rect().center())


@pytest.fixture
def desk(
    display: None,
    make_napari_viewer: Any,
    jobs: Jobs,
    own_models: dict[str, Path],
    tmp_path: Path,
    qtbot: QtBot,
) -> Iterator[Desk]:
    """Return a window with the widget; the test fails where napari had to tell of an error."""
    notification_manager.records.clear()
    session = Session(tmp_path / "settings", jobs)
    for name in ("plain-3d", "attention-3d", "ungated-3d"):
        session.add_model(own_models[name])
    session.widget_opened()  # one that stays: the engine is warm for the next test
    made = Desk(make_napari_viewer(show=True), session, qtbot)
    yield made
    assert [r.message for r in notification_manager.records if r.severity == "error"] == []


@pytest.fixture
def save_as(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Return what lets the next dialog answer with a path."""

    def answer(path: Path) -> None:
        monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(path), ""))

    return answer


@pytest.fixture
def volume(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(100, 20, (12, 40, 48)).astype(np.float32)
