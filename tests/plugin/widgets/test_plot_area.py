"""Figures on the scales of all plots lie inside of them, in any font."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyqtgraph
import pytest
from napari.qt import get_stylesheet
from pytestqt.qtbot import QtBot
from qtpy.QtCore import QRectF
from qtpy.QtGui import QFont, QFontMetricsF, QPainter, QPicture
from qtpy.QtWidgets import QApplication, QVBoxLayout, QWidget

from napari_prosma.gates.plots import GatePlots
from napari_prosma.train.plots import TrainingPlots
from prosma_core.config.inspection import HISTOGRAM_EDGES, LevelSummary
from prosma_core.config.model import ClassInfo

WIDTH = 320
"""Of the dock, in pixels."""


def gate_plots(*, top: float, channels: int) -> GatePlots:
    """The plots of a level; the distribution's highest bar is `top`, as a share."""
    bins = len(HISTOGRAM_EDGES) - 1
    shares = (top, *((1 - top) / (bins - 1),) * (bins - 1))
    share = tuple(np.linspace(0, 1, channels))
    plots = GatePlots()
    summary = LevelSummary(
        level=2,
        shape=(6, 80, 80),
        channels=channels,
        removed=0.3,
        energy=0.5,
        threshold=0.4,
        thresholds=(0.4,) * channels,
        channel_removed=share,
        channel_energy=share,
        channel_gate=share,
        histogram=(shares,) * channels,
    )
    plots.show_level(summary, "soft", 1)
    return plots


def training_plots(*, epochs: int, loss: float) -> TrainingPlots:
    """The plots of a training of so many epochs, whose loss begins with this."""
    plots = TrainingPlots()
    rows = [
        {"epoch": e, "loss": loss / e, "dice liver": 1.0, "removed level 0": 1.0, "threshold level 0": loss}
        for e in range(1, epochs + 1)
    ]
    plots.show_history(rows, (ClassInfo(value=1, name="liver", color="#e6194b"),))
    return plots


PLOTS: dict[str, Callable[[], QWidget]] = {
    **{f"gates, {top:.0%}": lambda top=top: gate_plots(top=top, channels=128) for top in (0.03, 0.2, 0.85, 0.93, 1.0)},
    "gates of 4 channels": lambda: gate_plots(top=0.5, channels=4),
    "training, 1 epoch": lambda: training_plots(epochs=1, loss=2.0),
    "training, 300 epochs": lambda: training_plots(epochs=300, loss=1234.5),
    "training, small loss": lambda: training_plots(epochs=40, loss=0.00013),
}


@pytest.mark.usefixtures("display")
@pytest.mark.parametrize("points", [9, 16, 24])
@pytest.mark.parametrize("name", PLOTS)
def test_figures_of_scales_lie_inside_of_their_plot(name: str, points: int, qtbot: QtBot) -> None:
    window = shown(PLOTS[name](), points, qtbot)
    areas = areas_of(window)
    for area in areas:
        room = QRectF(area.viewport().rect())
        found = {side: dict(texts_of(area, side)) for side in ("left", "bottom", "right")}
        cut = {f"{side} {text}": ink for side in found for text, ink in found[side].items() if not room.contains(ink)}
        assert cut == {}
        for ink in found["left"].values():
            assert ink.right() <= area.getPlotItem().vb.sceneBoundingRect().left() + 0.5
        height = QFontMetricsF(area.parentWidget().font()).tightBoundingRect("0").height()
        assert next(iter(found["left"].values())).height() == pytest.approx(height, abs=1)  # as large as other texts


@pytest.mark.usefixtures("display")
@pytest.mark.parametrize("name", ["gates, 100%", "training, 1 epoch"])
def test_plots_follow_a_font_that_changes(name: str, qtbot: QtBot) -> None:
    window, small = shown(PLOTS[name](), 24, qtbot), shown(PLOTS[name](), 9, qtbot)
    for wanted, changed in zip(areas_of(window), areas_of(small), strict=True):
        assert wanted.height() > changed.height()
    small.setStyleSheet(style(24))
    qtbot.wait(50)
    for wanted, changed in zip(areas_of(window), areas_of(small), strict=True):
        assert changed.height() == wanted.height()
        assert dict(texts_of(changed, "left")).keys() == dict(texts_of(wanted, "left")).keys()


def style(points: int) -> str:
    """The window's style in a font of so many points."""
    return f"{get_stylesheet('dark')} QWidget {{ font-size: {points}pt; }}"


def shown(plots: QWidget, points: int, qtbot: QtBot) -> QWidget:
    """A window as wide as a dock with these plots."""
    window = QWidget()
    qtbot.addWidget(window)
    window.setStyleSheet(style(points))
    layout = QVBoxLayout(window)
    layout.setContentsMargins(0, 0, 0, 0)
    layout.addWidget(plots)
    window.resize(WIDTH, 900)
    window.show()
    qtbot.waitExposed(window)

    def drawn() -> bool:
        areas = areas_of(window)
        return len(areas) > 1 and all(len(list(texts_of(a, side))) > 1 for a in areas for side in ("left", "bottom"))

    qtbot.waitUntil(drawn)
    return window


def areas_of(window: QWidget) -> list[Any]:
    """The plots that are seen."""
    return [area for area in window.findChildren(pyqtgraph.PlotWidget) if area.isVisible()]


def texts_of(area: Any, side: str) -> Iterator[tuple[str, QRectF]]:
    """Each figure of a scale with the rectangle of its ink in the plot, pixels."""
    axis = area.getPlotItem().getAxis(side)
    if not axis.isVisible():
        return
    font = axis.style["tickFont"] or QApplication.font()
    picture = QPicture()
    painter = QPainter(picture)
    painter.setFont(QFont(font))
    _, _, texts = axis.generateDrawSpecs(painter)
    metrics = QFontMetricsF(painter.font(), picture)
    for rect, flags, text in texts:
        line = painter.boundingRect(rect, int(flags), text)
        ink = metrics.tightBoundingRect(text)
        ink.translate(line.left(), line.top() + metrics.ascent())
        yield text, axis.mapRectToScene(ink)
    painter.end()
