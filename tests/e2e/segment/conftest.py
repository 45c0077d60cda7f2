"""A real window with the real engine, and what a person does with the Segment widget in it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Labels
from pytestqt.qtbot import QtBot
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QComboBox, QDialog, QPlainTextEdit
from tests.e2e.conftest import Desk
from typer.testing import CliRunner

from napari_prosma.jobs.session import Session
from napari_prosma.segment import SegmentWidget
from prosma_core.cli.main import app
from prosma_core.data.geometry import array_spec
from prosma_core.io.images import write_image


class SegmentDesk(Desk):
    """A viewer with the Segment widget, docked where it has a window."""

    WIDGET, NAME = SegmentWidget, "Segment (ProSMA)"

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
        self.until(lambda: self.controller.run is None or self.progress().startswith("Segmenting: "))
        assert self.controller.run is not None, "it was over before it could be watched"
        return self.controller.run.labels

    def progress(self) -> str:
        return self.widget.progress_text()

    def save(self) -> Path:
        """Click Save result, wait, and return the file."""
        self.click("Save result")
        self.until(lambda: self.text("status").startswith("Saved ") or self.text("error") != "")
        assert self.text("error") == ""
        return Path(self.text("status").removeprefix("Saved "))

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
def session(session: Session, own_models: dict[str, Path]) -> Session:
    """Return what the widgets share, with models for all kinds of scans in it."""
    for path in own_models.values():
        session.add_model(path)
    return session


@pytest.fixture
def desk(display: None, make_napari_viewer: Any, session: Session, qtbot: QtBot) -> SegmentDesk:
    """Return a window with the widget."""
    return SegmentDesk(make_napari_viewer(show=True), session, qtbot)


@pytest.fixture
def bare_desk(bare_viewer: ViewerModel, session: Session, qtbot: QtBot) -> Iterator[SegmentDesk]:
    """Return the widget beside a viewer that draws nothing."""
    made = SegmentDesk(bare_viewer, session, qtbot)
    yield made
    made.widget.close()


@pytest.fixture
def scan_file(volume: np.ndarray, tmp_path: Path) -> Path:
    """Return a NIfTI of voxels of 3 x 2 x 1 mm."""
    write_image(tmp_path / "scan.nii.gz", volume, array_spec(volume.shape, "zyx", (3.0, 2.0, 1.0), "mm"))
    return tmp_path / "scan.nii.gz"
