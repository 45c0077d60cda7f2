"""What the widget looks like and how it is used by hand: plots, tables, sliders, in a window of 320 pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.qt import get_stylesheet
from pytestqt.qtbot import QtBot
from qtpy.QtCore import QPoint, Qt
from qtpy.QtGui import QColor, QPalette
from qtpy.QtWidgets import QApplication, QComboBox, QLabel, QPushButton, QScrollArea, QSlider, QTableView, QTableWidget
from tests.e2e.test_frame import faults_of
from tests.plugin.gates.conftest import Widget

from napari_prosma.gates.plots import BarPlot, Bars
from prosma_core.config.inspection import HISTOGRAM_EDGES

SHAPE = (12, 40, 44)


@pytest.fixture
def shown(widget: Widget, scan_data: np.ndarray, qtbot: QtBot) -> Widget:
    """Return a widget on the screen after a look."""
    widget.viewer.add_image(scan_data, name="mri", scale=(3, 1, 1))
    widget.choose("phantom-3d")
    widget.view.resize(320, 900)
    widget.view.show()
    qtbot.waitExposed(widget.view)
    widget.inspect()
    return widget


def test_a_click_on_a_row_shows_that_level(shown: Widget, qtbot: QtBot) -> None:
    table = shown.part("levels_table", QTableWidget)
    (line,) = [row for row in range(table.rowCount()) if table.item(row, 0).text() == "2"]
    place = table.visualItemRect(table.item(line, 1)).center()
    qtbot.mouseClick(table.viewport(), Qt.MouseButton.LeftButton, pos=place)
    assert shown.controller.shown_result.level == 2
    qtbot.waitUntil(lambda: "level 2 removed" in shown.maps)


@pytest.mark.usefixtures("display")
def test_the_answer_to_a_change_is_in_view_on_a_small_screen(shown: Widget, qtbot: QtBot) -> None:
    view, answer = shown.view, shown.part("whatif_answer")
    bar = view.findChild(QScrollArea).verticalScrollBar()
    view.resize(320, 600)  # what is left of 768 by the menu, titles and the status bar
    view.result.open_tab("What if")
    slider = shown.part("threshold_0", QSlider)
    qtbot.wait(500)
    bar.setValue(bar.value() + slider.mapTo(view, QPoint()).y() - 400)  # a person scrolls until the slider is in view
    slider.setSliderDown(True)
    slider.setValue(40)
    qtbot.waitUntil(lambda: shown.jobs.jobs[-1].request.arrays)
    before = bar.value()
    shown.jobs.jobs[-1].reply(SHAPE)
    qtbot.wait(700)
    assert bar.value() == before, "the slider is not drawn away under the pointer"
    slider.setSliderDown(False)
    slider.sliderReleased.emit()
    qtbot.waitUntil(lambda: answer.visibleRegion().boundingRect() == answer.rect())
    assert shown.part("whatif_classes").isVisible()
    assert not slider.visibleRegion().isEmpty()
    bar.setValue(0)
    shown.controller.shown_result.what_if.change(1, state="open")
    assert shown.text("whatif_said").startswith("Segmenting with")
    qtbot.waitUntil(lambda: answer.visibleRegion().boundingRect() == answer.rect())
    bar.setValue(0)
    shown.jobs.jobs[-1].reply(SHAPE)
    qtbot.waitUntil(lambda: answer.visibleRegion().boundingRect() == answer.rect())


def test_sliders_of_thresholds_are_wide_enough_to_be_set_in_a_narrow_dock(shown: Widget) -> None:
    shown.view.result.open_tab("What if")
    QApplication.processEvents()
    assert shown.view.width() == 320
    sliders = [slider for slider in shown.view.findChildren(QSlider) if slider.objectName().startswith("threshold_")]
    assert len(sliders) == len(shown.controller.shown_result.found.inspection.levels)
    for slider in sliders:
        level = slider.objectName().removeprefix("threshold_")
        assert slider.isVisible()
        assert slider.width() >= 120
        box = shown.part(f"state_{level}", QComboBox)
        assert box.mapTo(shown.view, QPoint()).y() < slider.mapTo(shown.view, QPoint()).y()
    assert list(faults_of(shown.view, shown.view.window())) == []


def test_keys_lead_from_level_to_level_and_controls_have_names(shown: Widget, qtbot: QtBot) -> None:
    table = shown.part("levels_table", QTableWidget)
    assert table.item(table.currentRow(), 0).text() == "0"
    second = int(table.item(table.currentRow() - 1, 0).text())
    qtbot.keyClick(table, Qt.Key.Key_Up)
    assert shown.controller.shown_result.level == second
    qtbot.waitUntil(lambda: f"level {second} removed" in shown.maps)
    named = {"threshold_1": "Threshold of level 1", "state_1": "Gate of level 1", "level_1": "Level 1"}
    named |= {"voxel_table": "Channels at the voxel", "plot_distribution": "Distribution of distances to the threshold"}
    named |= {"plot_removed": "Removed share of each channel", "plot_channel_gate": "Channel gate of each channel"}
    assert {part: shown.part(part).accessibleName() for part in named} == named


def test_a_click_on_a_bar_moves_the_slider_to_its_channel(shown: Widget, qtbot: QtBot) -> None:
    plot = shown.part("plot_removed", BarPlot)
    removed = np.array(shown.controller.shown_result.found.level(0).channel_removed)
    with qtbot.waitSignal(plot.bar_clicked) as clicked:
        qtbot.mouseClick(plot, Qt.MouseButton.LeftButton, pos=QPoint(plot.width() // 2, plot.height() - 40))
    wanted = int(np.argsort(-removed, kind="stable")[clicked.args[0]])
    qtbot.waitUntil(lambda: not shown.controller.shown_result.adding)
    assert (list(shown.maps), shown.text("map")) == (["level 0 field"], "Field"), "the first map has no channels"
    assert shown.viewer.dims.current_step[0] == wanted
    headings = [label.text() for label in plot.findChildren(QLabel)]
    assert f"Channel {wanted}: {100 * removed[wanted]:.0f} %" in headings[0]


def test_arrow_keys_lead_from_bar_to_bar(shown: Widget, qtbot: QtBot) -> None:
    plot = shown.part("plot_removed", BarPlot)
    assert plot.focusPolicy() & Qt.FocusPolicy.TabFocus
    order = np.argsort(-np.array(shown.controller.shown_result.found.level(0).channel_removed), kind="stable")
    shown.controller.shown_result.show_channel(int(order[3]))
    qtbot.keyClick(plot, Qt.Key.Key_Right)
    assert shown.controller.shown_result.channel == order[4]
    qtbot.keyClick(plot, Qt.Key.Key_End)
    qtbot.keyClick(plot, Qt.Key.Key_Right)
    assert shown.controller.shown_result.channel == order[-1]
    assert f"Channel {order[-1]}" in plot.accessibleDescription()
    qtbot.waitUntil(lambda: not shown.controller.shown_result.adding)


def test_the_distribution_holds_all_voxels_and_is_told_apart_at_the_threshold(shown: Widget) -> None:
    summary = shown.controller.shown_result.found.level(0)
    assert np.allclose(np.sum(summary.histogram, axis=1), 1)
    below = np.array(HISTOGRAM_EDGES[:-1]) < 1
    np.testing.assert_allclose(np.array(summary.histogram)[:, below].sum(axis=1), summary.channel_removed, atol=0.02)
    assert shown.part("plot_distribution", BarPlot).isVisible()


def test_bars_follow_the_theme(qtbot: QtBot) -> None:
    plot = BarPlot("bars", "bars")
    qtbot.addWidget(plot)
    plot.show_bars("heading", Bars(np.array([1.0, 2.0]), ("#101010", "#e8590c"), marked=1))
    for back, text in (("#262930", "#f0f1f2"), ("#efebe9", "#3b3a39")):
        palette = QPalette(plot.palette())
        palette.setColor(QPalette.ColorRole.Window, QColor(back))
        palette.setColor(QPalette.ColorRole.WindowText, QColor(text))
        plot.setPalette(palette)
        plot.show()
        qtbot.waitExposed(plot)
        picture = plot.picture().toImage()
        colors = {picture.pixelColor(x, y).name() for x in range(0, picture.width(), 2) for y in range(40, 120, 2)}
        assert {back, text} <= colors, "the marked bar has the color of texts"
    assert [plot.bar_at(x) for x in (-0.6, -0.4, 0.6, 1.6)] == [None, 0, 1, None]


def test_a_slider_asks_once_when_it_rests(shown: Widget, qtbot: QtBot) -> None:
    slider, jobs = shown.part("threshold_1", QSlider), shown.jobs.jobs
    before = len(jobs)
    for value in (18, 12, 5):
        slider.setValue(value)
    assert len(jobs) == before
    qtbot.waitUntil(lambda: len(jobs) > before)
    (edit,) = jobs[-1].request.variants[0].edits
    assert (edit.level, edit.threshold) == (1, 0.25)
    shown.part("state_2", QComboBox).textActivated.emit("closed")
    jobs[-1].reply(SHAPE)
    assert [e.level for e in jobs[-1].request.variants[0].edits] == [1, 2]
    shown.part("reset", QPushButton).click()
    assert slider.value() == 20
    assert shown.part("state_2", QComboBox).currentText() == "learned"


def test_a_slider_that_rests_after_all_was_removed_does_nothing(shown: Widget, qtbot: QtBot) -> None:
    shown.part("threshold_1", QSlider).setValue(3)
    shown.controller.remove_maps()
    before = len(shown.jobs.jobs)
    qtbot.wait(250)
    assert len(shown.jobs.jobs) == before


@pytest.mark.parametrize("act", ["what-if", "remove"])
def test_the_status_no_longer_tells_of_a_ranking_that_is_past(shown: Widget, act: str) -> None:
    assert shown.text("status").startswith("Levels ranked in ")
    if act == "remove":
        shown.controller.remove_maps()
    else:
        shown.part("state_2", QComboBox).textActivated.emit("closed")
        shown.jobs.jobs[-1].reply(SHAPE)
    assert "ranked" not in shown.text("status") + shown.text("messages")


def test_a_voxel_is_a_table_of_channels_and_a_row_moves_the_slider(shown: Widget, qtbot: QtBot) -> None:
    shown.view.result.open_tab("Voxel")
    arrays = shown.controller.shown_result.found.arrays
    arrays["level0/scale1"][:, 3, 4, 5] = -123.456  # a real network's fields are as large
    shown.controller.shown_result.picker.pick((0, *shown.viewer.layers["mri"].data_to_world((3, 4, 5))))
    table = shown.part("voxel_table", QTableView)
    model = table.model()
    heads = [model.headerData(i, Qt.Orientation.Horizontal) for i in range(model.columnCount())]
    assert heads == ["Ch.", "z1", "z2", "z4", "z", "τ", "Kept"]
    assert model.rowCount() == 16
    texts = [model.index(0, column).data() for column in range(6)]
    assert not any("…" in text for text in texts)
    widths = [table.columnWidth(i) for i in range(7)]
    head = table.horizontalHeader().fontMetrics().horizontalAdvance
    needed = [
        max(head(text), table.fontMetrics().horizontalAdvance(t)) for text, t in zip(heads, [*texts, ""], strict=True)
    ]
    assert all(width >= need for width, need in zip(widths, needed, strict=True))
    place = table.visualRect(model.index(4, 0)).center()
    qtbot.mouseClick(table.viewport(), Qt.MouseButton.LeftButton, pos=place)
    qtbot.waitUntil(lambda: not shown.controller.shown_result.adding)
    assert shown.viewer.dims.current_step[0] == int(model.index(4, 0).data())


def test_button_and_status_are_in_view_and_nothing_is_cut_off(shown: Widget, qtbot: QtBot) -> None:
    view = shown.view
    view.setStyleSheet(get_stylesheet("dark"))

    def whole() -> None:
        assert list(faults_of(view, view)) == [], tab

    for tab in ("Plots", "Voxel", "What if", "Export"):
        view.result.open_tab(tab)
        for height in (620, 800):
            view.resize(320, height)
            qtbot.waitUntil(whole)


def test_plots_become_a_picture(shown: Widget, tmp_path: Path) -> None:
    content = shown.view.result.plots.png()
    (tmp_path / "p.png").write_bytes(content)
    from PIL import Image as Picture

    with Picture.open(tmp_path / "p.png") as picture:
        assert picture.height > 300
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 10


@pytest.mark.slow
@pytest.mark.usefixtures("display")
def test_a_click_in_a_real_window_picks_the_voxel_and_a_drag_does_not(
    make_napari_viewer: Any, make_widget: Any, scan_data: np.ndarray, qtbot: QtBot
) -> None:
    viewer = make_napari_viewer(show=True)
    scan = viewer.add_image(scan_data, name="mri", scale=(3, 1, 1))
    viewer.dims.set_current_step(0, 6)
    made = make_widget(viewer)
    made.choose("phantom-3d")
    made.inspect()
    assert viewer.dims.current_step[-3] == 6, "new layers move no slider"
    made.part("probe", QPushButton).click()
    canvas = viewer.window._qt_viewer.canvas.native
    middle = canvas.rect().center()
    qtbot.mouseClick(canvas, Qt.MouseButton.LeftButton, pos=middle)
    said = made.text("voxel_said")
    assert said.startswith("Voxel z 6, y ")
    cross = made.maps["voxel"]
    there = np.asarray(scan.world_to_data(cross.data_to_world(cross.data[0])))
    assert np.abs(there[1:] - np.array([19.5, 21.5])).max() <= 1
    qtbot.mousePress(canvas, Qt.MouseButton.LeftButton, pos=middle)
    for step in (10, 40):
        qtbot.mouseMove(canvas, middle + QPoint(step, step))
    qtbot.mouseRelease(canvas, Qt.MouseButton.LeftButton, pos=middle + QPoint(40, 40))
    assert made.text("voxel_said") == said
    labels = viewer.add_labels(np.zeros(SHAPE, np.uint8), name="mine", scale=(3, 1, 1))
    labels.mode = "paint"
    qtbot.mouseClick(canvas, Qt.MouseButton.LeftButton, pos=middle - QPoint(60, 60))
    assert "mine has another tool in use" in made.text("voxel_said")
    made.close()
    assert not any("Probe" in repr(callback) for callback in viewer.mouse_drag_callbacks)


def test_a_2d_model_gives_maps_of_every_slice(make_widget: Any, rng: np.random.Generator) -> None:
    viewer = ViewerModel()
    viewer.add_image(rng.random((3, 40, 44)).astype(np.float32), name="stack", scale=(2, 1, 1))
    made = make_widget(viewer)
    made.choose("breast-lesion-us")
    assert "3 slices along z are inspected one by one" in made.text("notes")
