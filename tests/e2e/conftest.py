"""A real window with the real engine: what a person does with the Segment widget, and what must hold of a result."""

from __future__ import annotations

import itertools
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from napari.layers import Image, Labels, Layer
from napari.utils.notifications import notification_manager
from pytestqt.qtbot import QtBot
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QComboBox, QDialog, QLabel, QPlainTextEdit, QPushButton, QScrollArea
from typer.testing import CliRunner

from napari_prosma._shared.jobs import Jobs
from napari_prosma._shared.session import ModelEntry, Session
from napari_prosma.segment import SegmentWidget
from prosma_core.cli.main import app
from prosma_core.config import ChannelIntensity, ClassInfo, GateConfig, ModelConfig, ModelHeader, PreprocessConfig
from prosma_core.data.intensities import COLOUR
from prosma_core.io.bundle import save_bundle
from prosma_core.model.unet import build_model
from prosma_core.model.weights import weights_of

PATIENCE = 120_000
"""Milliseconds after which a test gives up."""


@pytest.fixture(scope="session")
def one_thread() -> Iterator[None]:
    """Let the engine and this process compute with one thread: their results are then the same to the last bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def jobs(one_thread: None, qapp: Any) -> Iterator[Jobs]:
    """Return the engine that all tests share, warm after the first."""
    made = Jobs()
    yield made
    made.close()


@pytest.fixture(scope="session")
def own_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return models of random weights, by name: fast on any scan, and their labels are nowhere all the same."""
    return {
        "coarse-3d": _save_model(
            tmp_path_factory.mktemp("models"), "coarse-3d", 3, ("image",), orientation="RAS", resample="spacing",
            spacing=(6.0, 4.0, 4.0), unit="mm", tile=(16, 32, 32),
        ),
        "plain-3d": _save_model(tmp_path_factory.mktemp("models"), "plain-3d", 3, ("image",), tile=(16, 32, 32)),
        "plain-2d": _save_model(tmp_path_factory.mktemp("models"), "plain-2d", 2, ("image",), tile=(64, 64)),
        "colour-3d": _save_model(tmp_path_factory.mktemp("models"), "colour-3d", 3, COLOUR, tile=(4, 8, 8)),
        "spine-3d": _save_model(
            tmp_path_factory.mktemp("models"), "spine-3d", 3, ("mt0", "mt1", "t1w"), tile=(8, 64, 64)
        ),
    }  # fmt: skip


def _save_model(folder: Path, name: str, dims: int, channels: tuple[str, ...], **preprocess: Any) -> Path:
    network = ModelConfig.parse(
        {
            "dims": dims,
            "in_channels": len(channels),
            "num_classes": 3,
            "widths": (4, 8),
            "strides": ((1,) * dims, (2,) * dims),
            "kernels": ((3,) * dims,) * 2,
            "gate": GateConfig.parse({"kind": "prosma"}, "gate"),
        },
        "network",
    )
    intensities = (ChannelIntensity(),) * len(channels)
    settings = {"dims": dims, "channels": channels, "intensities": intensities, **preprocess}
    header = ModelHeader(
        name=name,
        model=network,
        preprocess=PreprocessConfig.parse(settings, "preprocessing"),
        classes=tuple(
            ClassInfo(value=i, name=f"class {i}", color=c) for i, c in enumerate(("#000000", "#e6194b", "#3cb44b"))
        ),
        mirror_axes="zyx"[-dims:],
    )
    save_bundle(folder / f"{name}.safetensors", header, weights_of(build_model(network, 0).state_dict()))
    return folder / f"{name}.safetensors"


class Desk:
    """A window with the Segment widget docked in it, and a person's hands and eyes."""

    def __init__(self, viewer: Any, session: Session, qtbot: QtBot) -> None:
        self.viewer, self.session, self.qtbot = viewer, session, qtbot
        viewer.window.resize(1400, 860)
        self.widget = SegmentWidget(viewer, session)
        viewer.window.add_dock_widget(self.widget, name="Segment", area="right")
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
        with self.qtbot.waitSignal(dialog.destroyed):
            dialog.reject()
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
    for path in own_models.values():
        session.add_model(path)
    made = Desk(make_napari_viewer(show=True), session, qtbot)
    yield made
    assert [r.message for r in notification_manager.records if r.severity == "error"] == []


@pytest.fixture
def copy_of(data_root: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Return what copies a real scan (a file, or a folder of DICOM) to a place where results may be saved beside it."""

    def copy(name: str) -> Path:
        source, target = data_root / name, tmp_path / Path(name).name
        if source.is_dir():
            shutil.copytree(source, target, copy_function=shutil.copyfile)
        else:
            shutil.copyfile(source, target)
        return target

    return copy


@pytest.fixture
def lies_on() -> Callable[[Layer, Layer, str], None]:
    """Return what checks that a result lies on its scan: result, scan, letters of the scan's axes."""

    def check(result: Layer, scan: Layer, axes: str) -> None:
        keep = [i for i in range(scan.ndim) if axes[i] != "c"] if result.ndim < scan.ndim else list(range(scan.ndim))
        square = np.ix_(keep, keep)
        for own, source in (
            (result.scale, scan.scale[keep]),
            (result.translate, scan.translate[keep]),
            (result.rotate, scan.rotate[square]),
            (np.asarray(result.affine)[:-1, :-1], np.asarray(scan.affine)[:-1, :-1][square]),
            (np.asarray(result.affine)[:-1, -1], np.asarray(scan.affine)[:-1, -1][keep]),
        ):
            np.testing.assert_array_equal(own, source)
        if result.ndim == scan.ndim:
            np.testing.assert_array_equal(result.shear, scan.shear)
        assert tuple(result.units) == tuple(scan.units[i] for i in keep)
        assert tuple(result.axis_labels) == tuple(scan.axis_labels[i] for i in keep)
        shape = [scan.data.shape[i] for i in keep]
        assert result.data.shape == tuple(shape)
        for corner in itertools.product(*((0, n - 1) for n in shape)):
            there = np.zeros(scan.ndim)
            there[keep] = corner
            np.testing.assert_array_equal(result.data_to_world(corner), np.asarray(scan.data_to_world(there))[keep])

    return check


@pytest.fixture
def same_nifti() -> Callable[[Path, Path], None]:
    """Return what compares the headers of a scan and a label map with nibabel alone."""

    def check(scan: Path, labels: Path) -> None:
        a, b = nibabel.load(scan), nibabel.load(labels)
        np.testing.assert_array_equal(b.affine, a.affine)
        for name in ("get_qform", "get_sform"):
            before, after = getattr(a, name)(coded=True), getattr(b, name)(coded=True)
            assert after[1] == before[1]
            np.testing.assert_array_equal(after[0], before[0])
        assert b.shape == a.shape
        assert b.header.get_zooms() == a.header.get_zooms()
        assert b.header.get_xyzt_units() == a.header.get_xyzt_units()

    return check
