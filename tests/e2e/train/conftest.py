"""A real window with the real engine, and what a person does with the Train widget in it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image, Labels
from napari.layers._layer_actions import _convert_to_labels
from pytestqt.qtbot import QtBot
from qtpy.QtWidgets import QComboBox
from tests.e2e.conftest import Desk

from napari_prosma.jobs.session import Session
from napari_prosma.train import TrainWidget
from prosma_core.config.training import PRESETS
from prosma_core.data.phantom import phantom_3d
from prosma_core.errors import EngineBusyError
from prosma_core.io.images import write_image, write_labels

TINY = {
    "network": {"width": 4, "max_width": 16, "max_stages": 3},
    "preprocess": {"tile_voxels": 2**14},  # smaller ones overlap so much that validation is slow
    "training": {"ema_decay": 0.9},
}


class TrainDesk(Desk):
    """A window with the Train widget docked in it."""

    WIDGET, NAME = TrainWidget, "Train (ProSMA)"

    @property
    def models(self) -> Path:
        return self.session.models_folder

    def open_labels(self, path: Path) -> Labels:
        """Open a label map that other software wrote: it is an image at first, and converted by right click."""
        image = self.open(path)
        self.viewer.layers.selection = {image}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # napari says that labels have no mean projection
            _convert_to_labels(self.viewer.layers)
        labels = self.viewer.layers[-1]
        assert isinstance(labels, Labels)
        return labels

    def add(self, image: Image, labels: Labels) -> None:
        """Select both layers and click Add selected image + labels."""
        count = len(self.controller._choices.rows)
        self.viewer.layers.selection = {image, labels}
        self.click("add_active")
        self.read(count + 1)

    def read(self, pairs: int) -> None:
        """Wait until so many pairs are read."""

        def done() -> None:
            assert self.text("error") == ""
            assert len(self.controller._choices.rows) == pairs
            assert not self.controller._pairs.reading

        self.qtbot.waitUntil(done, timeout=8_000)

    def short(self, *, epochs: int = 2, steps: int = 3) -> None:
        """Choose the smallest network and a training of seconds."""
        self.pick("preset", "quick")
        self.controller.choose_budget((epochs, None))
        self.controller._set(training={"steps": steps, "batch_size": 1, "validation_cases": 2})

    def pick(self, part: str, data: Any) -> None:
        """Choose the entry of a box that stands for something."""
        box = self.widget.findChild(QComboBox, part)
        index = box.findData(data)
        assert index >= 0
        box.setCurrentIndex(index)
        box.activated.emit(index)

    def idle(self) -> bool:
        """Whether the engine has nothing to do."""
        try:
            self.session.jobs.check_idle()
        except EngineBusyError:
            return False
        return True

    def begin(self, *, epochs: int = 1) -> Any:
        """Click Train and wait until so many epochs are finished; return the run."""
        self.click("run")
        run = self.controller.trainings.run
        assert run is not None, self.text("error")
        self.until(lambda: self.controller.trainings.run is None or len(run._rows) >= epochs)
        assert self.text("error") == ""
        return run

    def wait(self) -> Any:
        """Wait for the end of the training and return its outcome."""
        self.until(lambda: self.controller.trainings.run is None)
        return self.controller.trainings.outcome

    def train(self) -> Any:
        """Click Train, wait, and return the outcome."""
        self.click("run")
        outcome = self.wait()
        assert self.text("error") == ""
        return outcome

    def picture(self, path: Path) -> None:
        self.qtbot.wait(300)
        self.viewer.screenshot(str(path), canvas_only=False, flash=False)


@pytest.fixture
def untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let presets not be timed unasked."""
    monkeypatch.setattr("napari_prosma.train.runtime_estimate.AFTER", 3600)


@pytest.fixture
def tiny(untimed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the networks of *quick* and *fine-tune* be tiny: most tests are about everything else."""
    monkeypatch.setitem(PRESETS, "quick", TINY)
    monkeypatch.setitem(PRESETS, "fine-tune", TINY)


@pytest.fixture
def usual_desk(display: None, untimed: None, make_napari_viewer: Any, session: Session, qtbot: QtBot) -> TrainDesk:
    """Return a window with the widget as it is for everybody."""
    return TrainDesk(make_napari_viewer(show=True), session, qtbot)


@pytest.fixture
def desk(tiny: None, usual_desk: TrainDesk) -> TrainDesk:
    """Return a window with the widget; networks are tiny."""
    return usual_desk


@pytest.fixture
def bare_desk(tiny: None, bare_viewer: ViewerModel, session: Session, qtbot: QtBot) -> Iterator[TrainDesk]:
    """Return the widget beside a viewer that draws nothing; networks are tiny."""
    made = TrainDesk(bare_viewer, session, qtbot)
    yield made
    made.widget.close()


@pytest.fixture
def phantoms(tmp_path: Path) -> list[tuple[Path, Path]]:
    """Return files of two small scans and their labels."""
    files = []
    for seed in (3, 4):
        scan, truth = phantom_3d(seed, (12, 48, 48))
        files.append((tmp_path / f"scan{seed}.nii.gz", tmp_path / f"truth{seed}.nii.gz"))
        write_image(files[-1][0], scan.data, scan.spec)
        write_labels(files[-1][1], truth.data.astype(np.uint8), scan.spec)
    return files
