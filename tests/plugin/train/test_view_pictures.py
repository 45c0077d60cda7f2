"""How the Train widget looks: nothing is cut off, nothing overlaps, and texts can be read, in both of napari's themes.

The pictures that each test looks at lie in its temporary folder (``--basetemp`` keeps them), to be looked at by people.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.qt import get_stylesheet
from pytestqt.qtbot import QtBot
from qtpy.QtCore import QRect
from qtpy.QtGui import QImage
from qtpy.QtWidgets import QComboBox, QLabel, QPushButton, QScrollArea, QTableWidget, QWidget

from napari_prosma.scan.selection import ModelRow
from napari_prosma.train.pairs import Pair, PairRow
from napari_prosma.train.sources import Source
from napari_prosma.train.view import TrainView
from napari_prosma.widgets.fields import Fold
from prosma_core.config.model import ClassInfo
from prosma_core.config.training import LabelsConfig, TrainingConfig
from prosma_core.events import EpochDone, LevelStats
from prosma_core.runs.run_folder import history_row
from prosma_core.runs.run_state import RunState

CLASSES = (
    ClassInfo(value=1, name="anterior hippocampus", color="#e6194b"),
    ClassInfo(value=2, name="posterior hippocampus, as far as the tail", color="#3cb44b"),
    ClassInfo(value=7, name="lesion", color="#ffe119"),
)
ARROW = 40
"""Pixels of a box's arrow and margins."""
STATES = ("empty", "ready", "running", "finished")


def pair(image: str, labels: str, **said: Any) -> PairRow:
    return PairRow(Pair(Source(title=image), Source(title=labels)), image, labels, **said)


PAIRS = (
    pair("Phantom 3D", "Phantom 3D labels", facts="3 classes, 5 of 40 slices annotated (z), 2 % of voxels"),
    pair(
        "hippocampus_017_scan_with_a_long_name.nii.gz",
        "hippocampus_017_painted_by_hand.nii.gz",
        problem="The scan and the labels lie on different grids: shapes (24, 80, 80) and (12, 40, 40). 87 % of the "
        "second lies within the first: resample it onto the first's grid.",
        fixes=("resample",),
    ),
    pair("cells", "cells numbered", facts="812 classes", problem="They number objects.", fixes=("one_class",)),
)


def history(epochs: int) -> list[dict[str, Any]]:
    rows = []
    for epoch in range(1, epochs + 1):
        names = [info.name for info in CLASSES]
        dice = {n: 0.9 - math.exp(-epoch / (5 + 3 * i)) for i, n in enumerate(names)} if epoch % 2 == 0 else None
        mean = sum(dice.values()) / 3 if dice else None
        levels = tuple(LevelStats(0.8 - 0.1 * i, 0.6 + 0.02 * i * math.sin(epoch / 5)) for i in range(4))
        rows.append(history_row(EpochDone(epoch, 40, 2 * math.exp(-epoch / 9), 1e-3, dice, mean, levels)))
    return rows


def run(name: str, done: int, dice: float | None, **differs: Any) -> RunState:
    values: dict[str, Any] = {"epochs": 150, "minutes_spent": 1.0, "minutes": None, "start": None, "held_out": ""}
    values |= {"finished": False, "model_written": False}
    return RunState(name=name, out=Path(f"/{name}.safetensors"), epochs_done=done, dice=dice, **(values | differs))


def fill(view: TrainView, state: str) -> None:
    """Show what a person sees before pairs are added, with pairs, while it trains, and after."""
    view.show_starts([("", [ModelRow("New model 3D", 3)])], 3, "Size, voxel size and tile are planned from the pairs.")
    view.show_devices([("Auto", "auto")], "auto", "CPU, 2 threads (torch 2.13.0+cpu is a build without CUDA)")
    view.show_options(TrainingConfig())
    view.show_name("liver from five slices")
    view.show_preset(["quick", "balanced", "best"], "balanced", "")
    view.show_run("Train", enabled=state != "empty", tooltip="")
    if state == "empty":
        view.show_problem("pairs", "Add a pair: an Image layer and the Labels layer painted on it.")
        return
    view.show_pairs(PAIRS)
    view.show_labels(LabelsConfig(zero="annotated_slices", background=3))
    view.show_classes(CLASSES)
    times = "quick: about 4 min · balanced: about 1 h 35 min · best: about 16 h"
    view.show_preset(["quick", "balanced", "best"], "balanced", times)
    view.show_budget(None, 10)
    view.show_problem("labels", "Only one class is painted: paint the background, too, and give its value here.")
    view.show_notes("Whole cases are too few to hold one out: every fifth painted slice is held out instead.")
    view.show_preview(checked=True, enabled=True, text="Shown after epoch 24 (1.2 s).")
    if state == "ready":
        view.show_problem("advanced", "The learning rate is too high for SGD: choose 0.01 or less.")
        view.show_error("Main memory ran out. Close other programs, or crop the scan.", details=True)
        return
    view.show_history(history(24), CLASSES)
    if state == "running":
        view.show_run("Stop", enabled=True, tooltip="")
        view.show_running(True)
        view.show_progress(24, 150, "Epoch 25 of 150, step 40 of 100 · about 31 min left")
        view.show_messages(["Planning from 3 scans.", "Validating phantom-3d before fine-tuning."])
        return
    after = {info.name: 0.88 - 0.1 * i for i, info in enumerate(CLASSES)}
    words = "anterior hippocampus 0.81 -> 0.88; posterior hippocampus got worse: 0.90 -> 0.78."
    view.show_outcome({CLASSES[0].name: 0.81, CLASSES[1].name: 0.9}, after, words, "Measured on 4 of 20 slices.")
    runs = [run("liver from five slices, second try", 24, 0.812), run("phantom", 150, 0.9, finished=True)]
    view.show_runs([*runs, run("new", 0, None)])
    for fold in view.findChildren(Fold):
        fold.expand()


@pytest.mark.slow
@pytest.mark.usefixtures("display")
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("theme", ["dark", "light"])
def test_everything_can_be_read(
    theme: str, state: str, qtbot: QtBot, tmp_path: Path, pixels: Callable[[QImage], np.ndarray]
) -> None:
    view = TrainView()
    qtbot.addWidget(view)
    view.setStyleSheet(get_stylesheet(theme))
    fill(view, state)
    view.resize(320, 700)  # with a scroll bar
    with qtbot.waitExposed(view):
        view.show()
    area = view.findChild(QScrollArea)
    inner = area.widget()
    assert view.width() == 320
    if state != "empty":
        qtbot.waitUntil(lambda: area.verticalScrollBar().maximum() > 0)
    assert inner.width() == area.viewport().width(), "something is wider than the dock"
    picture = inner.grab()
    assert picture.save(str(tmp_path / f"{theme}-{state}.png"))
    drawn = pixels(picture.toImage())
    for label in visible(inner, QLabel):
        assert inside(label, inner), label.text()
        needed = label.heightForWidth(label.width()) if label.wordWrap() else label.sizeHint().height()
        assert label.height() >= needed, f"cut off: {label.text()}"
        if any(map(str.isalpha, label.text())):
            assert contrast(label, inner, drawn) > 0.4, f"hard to read: {label.text()}"
    for button in visible(inner, QPushButton):
        assert inside(button, inner), button.text()
        needed = button.fontMetrics().horizontalAdvance(button.text().replace("&&", "&"))
        assert button.width() > needed, f"cut off: {button.text()}"
    for box in visible(inner, QComboBox):
        needed = box.fontMetrics().horizontalAdvance(box.currentText())
        assert box.width() > needed + ARROW, f"cut off: {box.currentText()}"
    for table in visible(inner, QTableWidget):
        assert inside(table, inner), table.objectName()
        assert not table.horizontalScrollBar().isVisible(), table.objectName()
    for a, b in combinations([p for p in inner.children() if isinstance(p, QWidget) and p.isVisible()], 2):
        assert not a.geometry().intersects(b.geometry()), f"{a.objectName()} and {b.objectName()} overlap"


def visible(inside_of: QWidget, kind: type[Any]) -> list[Any]:
    found = [part for part in inside_of.findChildren(kind) if part.isVisible()]
    assert found or kind is QTableWidget
    return found


def inside(part: QWidget, outer: QWidget) -> bool:
    """Whether a part lies within another from left to right."""
    place = QRect(part.mapTo(outer, part.rect().topLeft()), part.size())
    return place.left() >= 0 and place.right() < outer.width()


def contrast(label: QLabel, inner: QWidget, drawn: np.ndarray) -> float:
    """Largest difference in brightness within a label as it is drawn, 0 to 1, without the edge of a problem."""
    place = label.mapTo(inner, label.rect().topLeft())
    part = drawn[place.y() : place.y() + label.height(), place.x() + 6 : place.x() + label.width()]
    lightness = (part.max(axis=-1) + part.min(axis=-1)) / 2
    return float(np.ptp(lightness))
