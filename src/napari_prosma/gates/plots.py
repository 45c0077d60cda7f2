"""Plots of a level: how far its fields are from the threshold, what each channel removes, and the channel gate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QBuffer, QByteArray, QEvent, QIODevice, QPointF, Qt, Signal
from qtpy.QtGui import QColor, QKeyEvent, QMouseEvent, QPainter, QPaintEvent, QPalette, QPixmap, QShowEvent
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_prosma.gates.maps import KEPT, REMOVED
from napari_prosma.widgets.fields import clear, moved, note_label, say, tab_after
from napari_prosma.widgets.plot_area import DRESSED_ANEW, dress, plot_area
from prosma_core.config.inspection import HISTOGRAM_EDGES, LevelSummary
from prosma_core.config.model import ONE_SIDED, GateForm
from prosma_core.printable import plain

GATE = "#30a46c"
"""Color of the channel gate."""
BARS = "Click a bar, or press arrow keys, to show its channel."
NO_PLOTS = "An attention gate has no threshold and removes nothing: there is no distribution to draw."


class GatePlots(QWidget):
    """Three plots, made when they are first needed: importing what draws them takes a third of a second."""

    channel_clicked = Signal(int)

    def __init__(self) -> None:
        super().__init__()
        self._made: tuple[BarPlot, BarPlot, BarPlot] | None = None
        self._order = np.empty(0, np.intp)
        self._said = note_label("facts")
        self._layout = QVBoxLayout(self)
        self._layout.setContentsMargins(0, 6, 0, 0)
        self._layout.addWidget(self._said)

    def show_level(self, summary: LevelSummary, form: GateForm, channel: int) -> None:
        """Draw a level; `channel` stands out."""
        if summary.threshold is None or not summary.channel_removed:
            for plot in self._made or ():
                plot.setVisible(False)
            say(self._said, NO_PLOTS)
            return
        say(self._said, "")
        removed = 100 * np.array(summary.channel_removed)
        self._order = np.argsort(-removed, kind="stable")
        place = int(np.flatnonzero(self._order == channel)[0])
        distribution, shares, gates = self._plots()
        distribution.setVisible(bool(summary.histogram))
        if summary.histogram:
            distribution.show_bars(_heading(summary, form, channel), _distribution(summary, channel))
        words = f"Removed % of each channel, sorted. Channel {channel}: {removed[channel]:.0f} %"
        shares.show_bars(words, Bars(removed[self._order], (REMOVED,) * len(removed), marked=place, top=100))
        shares.setVisible(True)
        gates.setVisible(bool(summary.channel_gate))
        if summary.channel_gate:
            weights = np.array(summary.channel_gate)
            words = f"Channel gate (0 off, 1 on), same order. Channel {channel}: {weights[channel]:.2f}"
            gates.show_bars(words, Bars(weights[self._order], (GATE,) * len(weights), marked=place, top=1))

    def png(self) -> bytes:
        """The plots as a PNG file, empty where there are none."""
        parts = [plot.picture() for plot in self._made or () if not plot.isHidden()]
        if not parts:
            return b""
        ratio = parts[0].devicePixelRatio()
        whole = QPixmap(max(part.width() for part in parts), sum(part.height() for part in parts))
        whole.setDevicePixelRatio(ratio)
        whole.fill(self.palette().color(QPalette.ColorRole.Window))
        painter, top = QPainter(whole), 0.0
        for part in parts:
            painter.drawPixmap(QPointF(0, top), part)
            top += part.height() / ratio
        painter.end()
        content = QByteArray()
        buffer = QBuffer(content)
        buffer.open(QIODevice.OpenModeFlag.WriteOnly)
        whole.save(buffer, "PNG")
        return bytes(content.data())

    def _plots(self) -> tuple[BarPlot, BarPlot, BarPlot]:
        if self._made is None:
            self._made = (
                BarPlot(
                    "Distribution of distances to the threshold",
                    "Share of the values at each distance |z| / τ, on average over the channels (bars) and of the "
                    "chosen channel (line). Left of the dashed line they are removed. The last bar holds all beyond.",
                ),
                BarPlot("Removed share of each channel", f"Share of its values that each channel removes. {BARS}"),
                BarPlot("Channel gate of each channel", f"Weight the decoder gives each channel. {BARS}"),
            )
            for plot, name in zip(self._made, ("distribution", "removed", "channel_gate"), strict=True):
                plot.setObjectName(f"plot_{name}")
                self._layout.addWidget(plot)
            tab_after(self, self._made[1:])
            for plot in self._made[1:]:
                plot.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
                plot.bar_clicked.connect(lambda bar: self.channel_clicked.emit(int(self._order[bar])))
        return self._made


def _heading(summary: LevelSummary, form: GateForm, channel: int) -> str:
    threshold = f", τ {summary.thresholds[channel]:.2f}" if channel < len(summary.thresholds) else ""
    beyond = "; negative z is removed as well" if form in ONE_SIDED else ""
    return f"% of values at |z| / τ: mean (bars), channel {channel}{threshold} (line){beyond}"


def _distribution(summary: LevelSummary, channel: int) -> Bars:
    edges = np.array(HISTOGRAM_EDGES)
    shares = 100 * np.array(summary.histogram)
    colors = [REMOVED if e < 1 else KEPT for e in edges[:-1]]
    return Bars(shares.mean(axis=0), colors, edges, line=shares[channel], threshold=1.0)


HEIGHT = 118
"""Pixels of the bars, without the heading."""
LEAST_TOP = 5.0
"""Percent that a scale holds at least, so that noise does not look like a distribution."""


@dataclass(frozen=True, eq=False)
class Bars:
    """Data of one bar plot.

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
    """Bars under a heading. The wheel scrolls what it stands in; a click tells which bar, as do arrow keys.

    Parameters
    ----------
    name : str
        What a screen reader calls it.
    tooltip : str
        What is drawn, in full.
    """

    bar_clicked = Signal(int)

    def __init__(self, name: str, tooltip: str) -> None:
        super().__init__()
        self._heading = note_label("facts")
        self._bars: Bars | None = None
        self._stale = True
        self._area = plot_area(HEIGHT)
        self._item = self._area.getPlotItem()
        self.setAccessibleName(name)
        self.setToolTip(plain(tooltip))
        layout = QVBoxLayout(self)
        layout.setContentsMargins(1, 1, 1, 1)
        layout.setSpacing(2)
        layout.addWidget(self._heading)
        layout.addWidget(self._area)

    def show_bars(self, heading: str, bars: Bars) -> None:
        """Show these bars and no others."""
        say(self._heading, heading)
        self._heading.setToolTip("")
        self.setAccessibleDescription(heading)
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
        """Follow the window's theme and font."""
        super().changeEvent(event)
        if event is not None and event.type() in DRESSED_ANEW:
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

    def keyPressEvent(self, event: QKeyEvent | None) -> None:
        """Tell which bar is beside the marked one, or the first or last."""
        bars = self._bars
        found = None if bars is None else moved(event, bars.marked, len(bars.heights))
        if found is None:
            super().keyPressEvent(event)
        else:
            self.bar_clicked.emit(found)

    def paintEvent(self, event: QPaintEvent | None) -> None:
        """Draw a frame where keys lead here."""
        super().paintEvent(event)
        if self.hasFocus():
            painter = QPainter(self)
            painter.setPen(self.palette().color(QPalette.ColorRole.Highlight))
            painter.drawRect(self.rect().adjusted(0, 0, -1, -1))
            painter.end()

    def _draw(self) -> None:
        self._stale = False
        text, back = dress(self._area, self, ("left", "bottom"), aligned=True)
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
    return max(float(bars.heights.max()), float(line.max()), LEAST_TOP)
