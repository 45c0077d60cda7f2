"""A plot of bars, in the colors of the window it stands in; a click tells which bar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QEvent, Qt, Signal
from qtpy.QtGui import QColor, QMouseEvent, QPalette, QPixmap, QShowEvent
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_prosma._shared.fields import note_label, say
from napari_prosma._shared.plain_text import plain
from napari_prosma._shared.plot_colors import clear, mixed

HEIGHT = 118
"""Pixels of the bars, without the heading."""


@dataclass(frozen=True, eq=False)
class Bars:
    """What is drawn.

    Attributes
    ----------
    heights : ndarray, float
        Of each bar, from left to right.
    colors : sequence of str
        Of each bar, ``#rrggbb``.
    edges : ndarray, float, one more than bars, or None
        Where each begins and ends; None: side by side, one unit wide.
    marked : int or None
        Bar that stands out.
    line : ndarray, float, or None
        Other heights, drawn as a line of steps over the bars.
    top : float or None
        Upper end of the scale; None fits the bars.
    threshold : float or None
        Where a vertical line is drawn.
    """

    heights: NDArray[np.float64]
    colors: Sequence[str]
    edges: NDArray[np.float64] | None = None
    marked: int | None = None
    line: NDArray[np.float64] | None = None
    top: float | None = None
    threshold: float | None = None


class BarPlot(QWidget):
    """Bars under a heading. The wheel scrolls what it stands in; a click tells which bar.

    Parameters
    ----------
    tooltip : str
        What is drawn, in full.
    """

    bar_clicked = Signal(int)

    def __init__(self, tooltip: str) -> None:
        import pyqtgraph

        super().__init__()
        self._heading = note_label("facts")
        self._bars: Bars | None = None
        self._stale = True
        self._area = pyqtgraph.PlotWidget(enableMenu=False)
        self._area.setFixedHeight(HEIGHT)
        self._area.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        self._item = self._area.getPlotItem()
        self._item.hideButtons()
        self._item.getAxis("left").setWidth(34)
        self.setToolTip(plain(tooltip))
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addWidget(self._heading)
        layout.addWidget(self._area)

    def show_bars(self, heading: str, bars: Bars) -> None:
        """Show these bars and no others."""
        say(self._heading, heading)
        self._heading.setToolTip("")
        self._bars = bars
        self._stale = True
        if self.isVisible():
            self._draw()

    def picture(self) -> QPixmap:
        """What is shown, also where it is hidden behind another tab."""
        if self._stale:
            self._draw()
        return self.grab()

    def bar_at(self, x: float) -> int | None:
        """The bar at a place of the horizontal scale."""
        if self._bars is None:
            return None
        edges = _edges(self._bars)
        found = int(np.searchsorted(edges, x, side="right")) - 1
        return found if 0 <= found < len(self._bars.heights) else None

    def changeEvent(self, event: QEvent | None) -> None:
        """Follow the window's theme."""
        super().changeEvent(event)
        if event is not None and event.type() in {QEvent.Type.StyleChange, QEvent.Type.PaletteChange}:
            self._stale = True
            if self.isVisible():
                self._draw()

    def showEvent(self, event: QShowEvent | None) -> None:
        """Draw what came while nobody saw it."""
        super().showEvent(event)
        if self._stale:
            self._draw()

    def mouseReleaseEvent(self, event: QMouseEvent | None) -> None:
        """Tell which bar was clicked."""
        super().mouseReleaseEvent(event)
        if event is None or event.button() != Qt.MouseButton.LeftButton:
            return
        inside = self._area.mapFrom(self, event.position().toPoint())
        view = self._item.vb
        place = view.mapSceneToView(self._area.mapToScene(inside))
        found = self.bar_at(place.x())
        if found is not None and view.sceneBoundingRect().contains(self._area.mapToScene(inside)):
            self.bar_clicked.emit(found)

    def _draw(self) -> None:
        self._stale = False
        palette = self.palette()
        text, back = palette.color(QPalette.ColorRole.WindowText), palette.color(QPalette.ColorRole.Window)
        self._area.setBackground(back)
        for side in ("left", "bottom"):
            self._item.getAxis(side).setPen(mixed(text, back))
            self._item.getAxis(side).setTextPen(text)
        self._item.clear()
        if self._bars is not None and len(self._bars.heights):
            for item in _items(self._bars, text, back):
                self._item.addItem(item)
            edges = _edges(self._bars)
            self._item.setXRange(float(edges[0]), float(edges[-1]), padding=0.01)
            self._item.setYRange(0, 1.08 * (self._bars.top or _top(self._bars)), padding=0)


def _items(bars: Bars, text: QColor, back: QColor) -> list[Any]:
    """What pyqtgraph draws: bars, the marked one in the color of texts, the line and the threshold."""
    import pyqtgraph

    edges = _edges(bars)
    brushes = [clear(QColor(c), text, back) for c in bars.colors]
    if bars.marked is not None and bars.marked < len(brushes):
        brushes[bars.marked] = text
    items: list[Any] = [
        pyqtgraph.BarGraphItem(x0=edges[:-1], x1=edges[1:], height=bars.heights, brushes=brushes, pen=None)
    ]
    if bars.line is not None:
        pen = pyqtgraph.mkPen(text, width=1.5)
        items.append(pyqtgraph.PlotDataItem(edges, bars.line, stepMode="center", pen=pen))
    if bars.threshold is not None:
        pen = pyqtgraph.mkPen(text, width=1, style=Qt.PenStyle.DashLine)
        items.append(pyqtgraph.InfiniteLine(bars.threshold, pen=pen))
    return items


def _edges(bars: Bars) -> NDArray[np.float64]:
    return bars.edges if bars.edges is not None else np.arange(len(bars.heights) + 1, dtype=np.float64) - 0.5


def _top(bars: Bars) -> float:
    line = bars.line if bars.line is not None else bars.heights
    return max(float(bars.heights.max()), float(line.max()), 1e-6)
