"""A window and a person at it, models, copies of real scans, and what must hold of a result."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from napari import Viewer
from napari.components import ViewerModel
from napari.layers import Layer
from napari.utils.notifications import notification_manager
from npe2 import PluginManager
from pytestqt.qtbot import QtBot
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication, QLabel, QPushButton, QScrollArea, QTableWidget, QWidget

from napari_prosma.jobs.boundary import Jobs
from napari_prosma.jobs.qt_loop import QtEventLoop
from napari_prosma.jobs.session import Session
from prosma_core.config import ChannelIntensity, ClassInfo, GateConfig, ModelConfig, ModelHeader, PreprocessConfig
from prosma_core.data.intensities import COLOR
from prosma_core.io.bundle import ModelEntry, save_bundle
from prosma_core.model.unet import build_model
from prosma_core.model.weights import weights_of

LARGE = Path(__file__).parents[1] / "large"
"""What an engine imports for which every scan is large."""
PATIENCE = 180_000
"""Milliseconds after which a test gives up."""


class Desk:
    """A viewer with one of the widgets, docked where it has a window, and a person's hands and eyes."""

    WIDGET: type[QWidget]
    NAME: str

    def __init__(self, viewer: Any, session: Session, qtbot: QtBot) -> None:
        self.viewer, self.session, self.qtbot = viewer, session, qtbot
        self.clicks = 0
        if isinstance(viewer, Viewer):
            viewer.window.resize(1000, 700)  # each change of any part draws all of it anew
        self.widget = self.dock()
        self.until(lambda: session.jobs.ready is not None)

    def dock(self) -> Any:
        """Open the widget: in the window, or on its own where there is none."""
        self.widget = self.WIDGET(self.viewer, self.session)
        if isinstance(self.viewer, Viewer):
            self.viewer.window.add_dock_widget(self.widget, name=self.NAME, area="right")
        else:
            self.qtbot.addWidget(self.widget)
            self.widget.resize(420, 860)
            self.widget.show()
        return self.widget

    @property
    def controller(self) -> Any:
        return self.widget.controller

    def open(self, path: Path | str) -> Any:
        """Open a file or URL as a person would; napari itself reads pictures and TIFF."""
        builtin = Path(path).suffix in {".png", ".jpg", ".tif"}
        return self.viewer.open(str(path), plugin="napari" if builtin else "napari-prosma")[0]

    def model(self, name: str) -> ModelEntry:
        return next(m for m in self.session.models() if m.header.name == name)

    def choose(self, name: str) -> None:
        self.controller.choose_model(self.model(name))

    def text(self, part: str) -> str:
        """What a label says, empty where it is hidden."""
        label = self.widget.findChild(QLabel, part)
        return "" if label.isHidden() else label.text()

    def cells(self, name: str) -> list[list[str]]:
        """What a table shows."""
        table = self.widget.findChild(QTableWidget, name)
        rows = [[table.item(r, c) for c in range(table.columnCount())] for r in range(table.rowCount())]
        return [[item.text() if item else "" for item in row] for row in rows]

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
        self.clicks += 1

    def until(self, so: Callable[[], bool]) -> None:
        self.qtbot.waitUntil(so, timeout=PATIENCE)


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
    made = Jobs(QtEventLoop())
    yield made
    made.close()


@contextmanager
def engine_of_large_scans() -> Iterator[Jobs]:
    """Give an engine, and a window, for which every scan that can be read by parts is too large for memory."""
    before = os.environ.get("PYTHONPATH")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(LARGE), *([before] if before else [])]))
        for name in ("layers.source.IN_CORE", "_reader.IN_CORE", "_reader.SMALL"):
            patch.setattr(f"napari_prosma.{name}", 0)
        made = Jobs(QtEventLoop())
        yield made
        made.close()


@pytest.fixture
def session(jobs: Jobs, tmp_path: Path) -> Iterator[Session]:
    """Return what the widgets share; the test fails where napari had to tell of an error."""
    notification_manager.records.clear()
    made = Session(tmp_path / "settings", jobs)
    made.widget_opened()  # one that stays: the engine is warm for the next test
    yield made
    assert [r.message for r in notification_manager.records if r.severity == "error"] == []


@pytest.fixture
def bare_viewer(display: None) -> ViewerModel:
    """Return a viewer that draws nothing: its layers, a widget beside it and the engine are those of a window.

    To open a window takes longer than most of these tests, and so does all that is drawn in it.
    """
    PluginManager.instance().discover()  # as the first window does
    return ViewerModel()


@pytest.fixture
def volume(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(100, 20, (12, 40, 48)).astype(np.float32)


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
        "large-2d": _save_model(tmp_path_factory.mktemp("models"), "large-2d", 2, ("image",), tile=(256, 256)),
        "attention-3d": _save_model(
            tmp_path_factory.mktemp("models"), "attention-3d", 3, ("image",), gate="attention", tile=(16, 32, 32)
        ),
        "ungated-3d": _save_model(
            tmp_path_factory.mktemp("models"), "ungated-3d", 3, ("image",), gate="none", tile=(16, 32, 32)
        ),
        "color-3d": _save_model(tmp_path_factory.mktemp("models"), "color-3d", 3, COLOR, tile=(4, 8, 8)),
        "spine-3d": _save_model(
            tmp_path_factory.mktemp("models"), "spine-3d", 3, ("mt0", "mt1", "t1w"), tile=(8, 64, 64)
        ),
    }  # fmt: skip


def _save_model(
    folder: Path, name: str, dims: int, channels: tuple[str, ...], gate: str = "prosma", **preprocess: Any
) -> Path:
    network = ModelConfig.parse(
        {
            "dims": dims,
            "in_channels": len(channels),
            "num_classes": 3,
            "widths": (4, 8),
            "strides": ((1,) * dims, (2,) * dims),
            "kernels": ((3,) * dims,) * 2,
            "gate": GateConfig.parse({"kind": gate}, "gate"),
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
