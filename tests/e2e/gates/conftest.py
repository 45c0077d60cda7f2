"""A real window with the real engine, and what a person does with the Gates widget in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from napari.components import ViewerModel
from pytestqt.qtbot import QtBot
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFileDialog, QSlider, QTableView
from tests.e2e.conftest import Desk

from napari_prosma.gates import GatesWidget
from napari_prosma.gates.state import GROUP
from napari_prosma.jobs.session import Session


class GatesDesk(Desk):
    """A window with the Gates widget docked in it."""

    WIDGET, NAME = GatesWidget, "Gates (ProSMA)"

    @property
    def maps(self) -> dict[str, Any]:
        """Layers of ours, by what follows the group's name."""
        names = [layer.name for layer in self.viewer.layers if layer.name.startswith(GROUP)]
        return {name.removeprefix(GROUP): self.viewer.layers[name] for name in names}

    def slide(self, level: int, value: int) -> None:
        """Move the slider of a level's thresholds."""
        self.widget.findChild(QSlider, f"threshold_{level}").setValue(value)

    def voxel_rows(self) -> list[list[str]]:
        """Texts of the voxel's table."""
        model = self.widget.findChild(QTableView, "voxel_table").model()
        columns = range(model.columnCount())
        return [[str(model.index(row, c).data() or "") for c in columns] for row in range(model.rowCount())]

    def inspect(self) -> Any:
        """Click Inspect, wait for the ranking and the layer, and return what was found."""
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
        self.qtbot.mouseClick(canvas, Qt.MouseButton.LeftButton, pos=canvas.rect().center())


@pytest.fixture
def desk(
    display: None, make_napari_viewer: Any, session: Session, own_models: dict[str, Path], qtbot: QtBot
) -> GatesDesk:
    """Return a window with the widget, and models of each kind of gate."""
    for name in ("plain-3d", "attention-3d", "ungated-3d"):
        session.add_model(own_models[name])
    return GatesDesk(make_napari_viewer(show=True), session, qtbot)


@pytest.fixture
def bare_desk(
    bare_viewer: ViewerModel, session: Session, own_models: dict[str, Path], qtbot: QtBot
) -> Iterator[GatesDesk]:
    """Return the widget beside a viewer that draws nothing, and models of each kind of gate."""
    for name in ("plain-3d", "attention-3d", "ungated-3d"):
        session.add_model(own_models[name])
    made = GatesDesk(bare_viewer, session, qtbot)
    yield made
    made.widget.close()


@pytest.fixture
def save_as(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Return what lets the next dialog answer with a path."""

    def answer(path: Path) -> None:
        monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(path), ""))

    return answer
