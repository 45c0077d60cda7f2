"""How the Segment widget looks: nothing is cut off and all can be read, in each theme, also while it runs.

The pictures that each test looks at lie in its temporary folder (``--basetemp`` keeps them), to be looked at by people.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from napari.qt import get_stylesheet
from napari.utils.theme import register_theme, unregister_theme
from pytestqt.qtbot import QtBot
from qtpy.QtGui import QImage
from qtpy.QtWidgets import QApplication, QComboBox, QDoubleSpinBox, QLabel, QPushButton, QScrollArea, QSlider, QWidget

from napari_prosma.scan.selection import ModelRow
from napari_prosma.segment.measures import ClassRow
from napari_prosma.segment.view import SegmentView
from prosma_core.config.inference import InferenceConfig

ARROW = 40
"""Pixels of a box's arrow and margins."""
READABLE = 4.5
"""Ratio of luminances from which text can be read (WCAG 2, level AA)."""
STATES = ("refused", "running", "finished", "no model")


CONTRAST = {
    "id": "contrast",
    "label": "High contrast",
    "type": "dark",
    "syntax_style": "native",
    "canvas": "black",
    "console": "black",
    "background": "black",
    "foreground": "#1a1a1a",
    "primary": "#333333",
    "secondary": "white",
    "highlight": "#4d4d00",
    "text": "yellow",
    "icon": "yellow",
    "current": "#0033cc",
    "warning": "yellow",
    "error": "#ff5555",
}
"""A theme as another plugin may register it."""


@pytest.fixture(params=["dark", "light", "contrast"])
def theme(request: pytest.FixtureRequest) -> Iterator[str]:
    """Return the name of a theme; the one in napari's settings is another, as after napari's key for the next theme."""
    if request.param == "contrast":
        register_theme("contrast", CONTRAST, "test")
    yield request.param
    unregister_theme("contrast")


def fill(view: SegmentView, state: str) -> None:
    """Show choices with long names, and what belongs to a state."""
    view.show_images([("sub-07_ses-1_T2star.nii", 1)], 1)
    view.show_axes("tzyx", ("tzyx",), "t 12 · z 24 · y 320 · x 320; voxels 3.75 × 0.977 × 0.977 mm")
    view.show_levels(((24, 320, 320), (12, 160, 160)), 1)
    facts = (
        "Anterior and posterior hippocampus in T1-weighted MRI cropped around one hippocampus, 1 mm voxels.\n"
        "3D · 1 channel · 1 × 1 × 1 mm · anterior hippocampus, posterior · training Dice 0.885, not validated"
    )
    view.show_models([("MRI", [ModelRow("hippocampus-mri", 1)])], 1, facts)
    view.show_devices([("Auto", "auto")], "auto", "CPU, 2 threads (torch 2.13.0+cpu is a build without CUDA)")
    view.advanced.show_options(InferenceConfig(), "view", [("automatic", "")], "")
    view.show_run("Segment", enabled=True, tooltip="")
    if state == "refused":
        view.show_problem("axes", "Axes 'zyq' cannot be used: letters are t, c, z, y, x, each at most once.")
        view.show_problem("part", "Nothing of the scan is in view. Move the view to it, or choose the whole scan.")
        view.show_error("Main memory ran out. Close other programs, or crop the scan.", details=True)
    elif state == "no model":
        view.show_models([("MRI", [ModelRow("hippocampus-mri", 1)])], None, "")
        kind = "3D, 1 channel, patient geometry, CT"
        words = "train one from a few slices, or choose a model."
        view.show_problem("model", f"No shipped model is meant for this scan ({kind}): {words}")
    elif state == "running":
        view.show_notes("12 time points are segmented one by one.")
        view.show_run("Cancel", enabled=True, tooltip="")
        view.show_running(True)
        view.show_progress(2, 12, "Segmenting: 16 %, about 1 h 11 min left")
    else:
        view.advanced.expand()
        rows = [ClassRow(1, "anterior hippocampus", "#e6194b", 123_456_789, 1234.5)]
        view.result.show_result("sub-07_ses-1_T2star hippocampus-mri", rows, "Volume (mL)")
        view.show_messages(("Saved /data/scans/sub-07_ses-1_T2star_hippocampus-mri.nii.gz",))


@pytest.mark.usefixtures("display")
def test_a_result_is_in_view_on_a_small_screen_without_scrolling(qtbot: QtBot) -> None:
    view = SegmentView()
    qtbot.addWidget(view)
    view.resize(320, 480)  # what is left of 960 x 600 by the menu, the title and the status bar
    fill(view, "running")
    with qtbot.waitExposed(view):
        view.show()
    fill(view, "finished")
    qtbot.wait(700)
    assert view.result.visibleRegion().boundingRect() == view.result.rect()


@pytest.mark.usefixtures("display")
def test_locked_choices_follow_a_theme_that_changes_while_they_are_shown(
    qtbot: QtBot, pixels: Callable[[QImage], np.ndarray]
) -> None:
    view = SegmentView()
    qtbot.addWidget(view)
    fill(view, "running")
    view.resize(320, 700)
    with qtbot.waitExposed(view):
        view.show()
    inner = view.findChild(QScrollArea).widget()
    for theme in ("light", "dark", "light"):
        view.setStyleSheet(get_stylesheet(theme))
        QApplication.processEvents()
        drawn = pixels(inner.grab().toImage())
        for box in visible(inner, QComboBox):
            assert contrast(box, inner, drawn, ARROW) > READABLE, f"{theme}: {box.currentText()}"


@pytest.mark.slow
@pytest.mark.usefixtures("display")
@pytest.mark.parametrize("state", STATES)
def test_everything_can_be_read(
    theme: str, state: str, qtbot: QtBot, tmp_path: Path, pixels: Callable[[QImage], np.ndarray]
) -> None:
    view = SegmentView()
    qtbot.addWidget(view)
    view.setStyleSheet(get_stylesheet(theme))
    fill(view, state)
    view.resize(320, 700)  # what is left of a 13-inch screen
    with qtbot.waitExposed(view):
        view.show()
    inner = view.findChild(QScrollArea).widget()
    assert view.width() == 320
    assert inner.width() == view.findChild(QScrollArea).viewport().width(), "something is wider than the dock"
    picture = inner.grab()
    assert picture.save(str(tmp_path / f"{theme}-{state}.png"))
    drawn = pixels(picture.toImage())
    for label in visible(inner, QLabel):
        needed = label.heightForWidth(label.width()) if label.wordWrap() else label.sizeHint().height()
        assert label.height() >= needed, f"cut off: {label.text()}"
        assert contrast(label, inner, drawn) > READABLE, f"hard to read: {label.text()}"
    for button in visible(inner, QPushButton):
        needed = button.fontMetrics().horizontalAdvance(button.text().replace("&&", "&"))
        assert button.width() > needed, f"cut off: {button.text()}"
    if state == "finished":  # its advanced settings are unfolded
        for box in visible(inner, QDoubleSpinBox):
            assert box.lineEdit().width() > box.fontMetrics().horizontalAdvance(box.text()), f"cut off: {box.text()}"
        assert all(slider.width() > 60 for slider in visible(inner, QSlider)), "too short to be moved"
    for box in visible(inner, QComboBox):
        needed = box.fontMetrics().horizontalAdvance(box.currentText())
        assert box.width() > needed + ARROW, f"cut off: {box.currentText()}"
        assert contrast(box, inner, drawn, ARROW) > READABLE, f"hard to read: {box.currentText()}"
    for width in (300, 340, 400):
        view.resize(width, 700)
        QApplication.processEvents()
        for label in visible(inner, QLabel):
            assert not label.wordWrap() or label.height() >= label.heightForWidth(label.width()), label.text()


def visible(inside_of: QWidget, kind: type[QWidget]) -> list[QWidget]:
    found = [part for part in inside_of.findChildren(kind) if part.isVisible()]
    assert found
    return found


def contrast(part: QWidget, inner: QWidget, drawn: np.ndarray, right: int = 0) -> float:
    """Ratio of the brightest to the darkest luminance (WCAG 2) of a text, without the edge of its part."""
    place = part.mapTo(inner, part.rect().topLeft())
    rows = slice(place.y() + 2, place.y() + part.height() - 2)
    color = drawn[rows, place.x() + 6 : place.x() + part.width() - 2 - right]
    linear = np.where(color <= 0.04045, color / 12.92, ((color + 0.055) / 1.055) ** 2.4)
    luminance = linear @ (0.2126, 0.7152, 0.0722)
    return float((luminance.max() + 0.05) / (luminance.min() + 0.05))
