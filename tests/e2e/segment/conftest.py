"""A real window with the real engine, and what a person does with the Segment widget in it."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari import Viewer
from napari.components import ViewerModel
from napari.layers import Image, Labels
from napari.utils.notifications import notification_manager
from npe2 import PluginManager
from pytestqt.qtbot import QtBot
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication, QComboBox, QDialog, QLabel, QPlainTextEdit, QPushButton, QScrollArea
from typer.testing import CliRunner

from napari_prosma.jobs.boundary import Jobs
from napari_prosma.jobs.session import Session
from napari_prosma.segment import SegmentWidget
from prosma_core.cli.main import app
from prosma_core.data.geometry import array_spec
from prosma_core.io.bundle import ModelEntry
from prosma_core.io.images import write_image

PATIENCE = 120_000
"""Milliseconds after which a test gives up."""


class Desk:
    """A viewer with the Segment widget, docked where it has a window, and a person's hands and eyes."""

    def __init__(self, viewer: Any, session: Session, qtbot: QtBot) -> None:
        self.viewer, self.session, self.qtbot = viewer, session, qtbot
        self.widget = SegmentWidget(viewer, session)
        if isinstance(viewer, Viewer):
            viewer.window.resize(1400, 860)
            viewer.window.add_dock_widget(self.widget, name="Segment", area="right")
        else:
            qtbot.addWidget(self.widget)
            self.widget.resize(420, 860)
            self.widget.show()
        self.until(lambda: session.jobs.ready is not None)

    @property
    def controller(self) -> Any:
        return self.widget.controller

    def open(self, path: Path) -> Image:
        """Open a file as a person would; napari itself reads pictures and TIFF."""
        builtin = path.suffix in {".png", ".jpg", ".tif"}
        layers = self.viewer.open(str(path), plugin="napari" if builtin else "napari-prosma")
        return layers[0]

    def model(self, name: str) -> ModelEntry:
        return next(m for m in self.session.models() if m.header.name == name)

    def choose(self, name: str) -> None:
        self.controller.choose_model(self.model(name))

    def pick(self, part: str, text: str) -> None:
        """Choose the entry of a box that starts with a text."""
        box = self.widget.findChild(QComboBox, part)
        index = next(i for i in range(box.count()) if box.itemText(i).startswith(text))
        box.setCurrentIndex(index)
        box.activated.emit(index)

    def type_in(self, part: str, text: str) -> None:
        """Type into a box that can be edited, and press Enter."""
        line = self.widget.findChild(QComboBox, part).lineEdit()
        line.setFocus()
        line.selectAll()
        self.qtbot.keyClicks(line, text)
        self.qtbot.keyClick(line, Qt.Key.Key_Return)

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
        QApplication.processEvents()  # what was just shown takes its place
        self.widget.findChild(QScrollArea).ensureWidgetVisible(button)
        self.qtbot.mouseClick(button, Qt.MouseButton.LeftButton)

    def until(self, so: Callable[[], bool]) -> None:
        self.qtbot.waitUntil(so, timeout=PATIENCE)

    def wait(self) -> None:
        """Wait for the end of the run."""
        self.until(lambda: self.controller.run is None)

    def segment(self) -> Labels:
        """Click Segment, wait, and return the result."""
        before = self.controller.last
        self.click("run")
        self.wait()
        assert self.text("error") == ""
        assert self.controller.last is not before
        return self.controller.last.labels

    def start(self) -> Labels:
        """Click Segment and wait until the first labels are there; return the growing result."""
        self.click("run")
        self.until(lambda: self.controller.run is None or self.progress().startswith("Tile"))
        assert self.controller.run is not None, "it was over before it could be watched"
        return self.controller.run.labels

    def progress(self) -> str:
        return self.widget.progress_text()

    def save(self) -> Path:
        """Click Save next to the scan, wait, and return the file."""
        self.click("Save next to the scan")
        said = self.widget.result.findChildren(QLabel)
        self.until(lambda: any(label.text().startswith("Saved ") for label in said) or self.text("error") != "")
        assert self.text("error") == ""
        return Path(next(label.text() for label in said if label.text().startswith("Saved ")).removeprefix("Saved "))

    def command(self) -> str:
        """Click Show run command, read it, and close its window."""
        self.click("Show run command")
        (dialog,) = self.widget.findChildren(QDialog)
        text = dialog.findChild(QPlainTextEdit).toPlainText()
        gone: list[bool] = []
        dialog.destroyed.connect(lambda: gone.append(True))
        dialog.reject()
        self.until(lambda: gone == [True])
        return text

    def command_line(self) -> Path:
        """Run the command that the widget shows for its last result, as it is; return its output."""
        words = shlex.split(self.command())
        result = CliRunner().invoke(app, words[1:], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return Path(words[words.index("--out") + 1])

    def picture(self, path: Path) -> None:
        """Take a picture of the window, and check that something is drawn on its canvas."""
        self.viewer.reset_view()
        self.qtbot.wait(200)
        canvas = self.viewer.screenshot(canvas_only=True, flash=False)
        assert len(np.unique(canvas[..., :3])) > 1
        self.viewer.screenshot(str(path), canvas_only=False, flash=False)


@pytest.fixture
def session(jobs: Jobs, own_models: dict[str, Path], tmp_path: Path) -> Iterator[Session]:
    """Return what the widgets share; the test fails where napari had to tell of an error."""
    notification_manager.records.clear()
    made = Session(tmp_path / "settings", jobs)
    for path in own_models.values():
        made.add_model(path)
    made.widget_opened()  # one that stays: the engine is warm for the next test
    yield made
    assert [r.message for r in notification_manager.records if r.severity == "error"] == []


@pytest.fixture
def desk(display: None, make_napari_viewer: Any, session: Session, qtbot: QtBot) -> Desk:
    """Return a window with the widget."""
    return Desk(make_napari_viewer(show=True), session, qtbot)


@pytest.fixture
def bare_desk(display: None, session: Session, qtbot: QtBot) -> Iterator[Desk]:
    """Return the widget beside a viewer that draws nothing: layers, widget and engine are those of a window."""
    PluginManager.instance().discover()  # as the first window does
    made = Desk(ViewerModel(), session, qtbot)
    yield made
    made.widget.close()


@pytest.fixture
def volume(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(100, 20, (12, 40, 48)).astype(np.float32)


@pytest.fixture
def scan_file(volume: np.ndarray, tmp_path: Path) -> Path:
    """Return a NIfTI of voxels of 3 x 2 x 1 mm."""
    write_image(tmp_path / "scan.nii.gz", volume, array_spec(volume.shape, "zyx", (3.0, 2.0, 1.0), "mm"))
    return tmp_path / "scan.nii.gz"
