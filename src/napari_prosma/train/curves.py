"""A plot with two scales, a heading and a legend, in the colors of the window it stands in."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from qtpy.QtCore import QEvent, Qt
from qtpy.QtGui import QColor, QPalette, QShowEvent
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_prosma._shared.fields import note_label, say
from napari_prosma._shared.plot_colors import clear, mixed

HEIGHT = 156
"""Pixels of the curves, without heading and legend."""
ABOVE = 9
"""Pixels above the scales: their uppermost figures reach out of them by half a line."""
NAMED = 8
"""Most curves that a legend names."""
LONGEST_NAME = 28
"""Letters of a name in the legend; more are cut off."""
FEW = 30
"""Curves of fewer points show them."""


@dataclass(frozen=True)
class Curve:
    """What is drawn.

    Attributes
    ----------
    name : str
        In the legend; empty where another curve of the same color has it.
    color : str
        ``#rrggbb``; empty: that of texts.
    points : sequence of (float, float)
        Epochs and values.
    left : bool
        Measured on the left scale, not on the right one.
    dashed : bool
    """

    name: str
    color: str
    points: Sequence[tuple[float, float]]
    left: bool = False
    dashed: bool = False


class Plot(QWidget):
    """Curves over epochs. The mouse does nothing in it: the wheel scrolls what it stands in.

    Parameters
    ----------
    heading : str
        What is drawn, and on which scale.
    top : float
        Upper end of the right scale; the lower is 0. The left one fits its curves.
    """

    def __init__(self, heading: str, top: float) -> None:
        import pyqtgraph

        super().__init__()
        self._heading, self._legend = note_label("facts"), note_label("facts")
        self._legend.setTextFormat(Qt.TextFormat.RichText)
        self._legend.setObjectName("legend")
        say(self._heading, heading)
        self._curves: Sequence[Curve] = ()
        self._stale = True
        self._colors: tuple[QColor, QColor] | None = None
        self._left: list[bool] | None = None
        self._items: list[Any] = []
        self._area = pyqtgraph.PlotWidget(enableMenu=False)
        self._area.setFixedHeight(HEIGHT)
        self._area.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        self._item = self._area.getPlotItem()
        self._item.hideButtons()
        self._item.layout.setContentsMargins(1, ABOVE, 1, 1)
        self._item.showAxis("right")
        self._right = pyqtgraph.ViewBox(enableMenu=False)
        self._item.scene().addItem(self._right)
        self._item.getAxis("right").linkToView(self._right)
        self._right.setXLink(self._item)
        self._right.setYRange(0, top, padding=0.04)
        self._item.vb.sigResized.connect(lambda: self._right.setGeometry(self._item.vb.sceneBoundingRect()))
        self._step_curve = pyqtgraph.PlotDataItem()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        for part in (self._heading, self._area, self._legend):
            layout.addWidget(part)

    def show_curves(self, curves: Sequence[Curve]) -> None:
        """Show these curves and no others."""
        self._curves = curves
        self._draw_when_seen()

    def show_steps(self, steps: Sequence[tuple[float, float]]) -> None:
        """Show the values of single steps as well, in a thin line on the left scale."""
        self._step_curve.setData(*_columns(steps))
        self._fit()

    def changeEvent(self, event: QEvent | None) -> None:
        """Follow the window's theme."""
        super().changeEvent(event)
        if event.type() in {QEvent.Type.StyleChange, QEvent.Type.PaletteChange}:
            self._draw_when_seen()

    def showEvent(self, event: QShowEvent | None) -> None:
        """Draw what came while nobody saw it."""
        super().showEvent(event)
        if self._stale:
            self._draw()

    def _draw_when_seen(self) -> None:
        self._stale = True
        if self.isVisible():
            self._draw()

    def _draw(self) -> None:
        self._stale = False
        palette = self.palette()
        text, back = palette.color(QPalette.ColorRole.WindowText), palette.color(QPalette.ColorRole.Window)
        if (text, back) != self._colors:
            self._colors = text, back
            self._area.setBackground(back)
            for side in ("left", "bottom", "right"):
                self._item.getAxis(side).setPen(mixed(text, back))
                self._item.getAxis(side).setTextPen(text)
            self._step_curve.setPen(mixed(text, back))
        shown = [clear(QColor(c.color), text, back) if c.color else text for c in self._curves]
        curves = [replace(curve, color=color.name()) for curve, color in zip(self._curves, shown, strict=True)]
        self._make_items([curve.left for curve in curves])
        for item, curve in zip(self._items, curves, strict=True):
            item.setData(*_columns(curve.points), **_style(curve))
        self._item.showAxis("left", any(curve.left for curve in curves) or not curves)
        self._legend.setText(_legend(curves))
        self._legend.setVisible(bool(curves))
        self._fit()

    def _make_items(self, left: list[bool]) -> None:
        """Have an item for each curve on its scale; those of the last drawing are taken where they fit."""
        import pyqtgraph

        if left == self._left:
            return
        self._left = left
        self._item.clear()
        self._right.clear()
        self._item.addItem(self._step_curve)
        self._items = [pyqtgraph.PlotDataItem(antialias=True) for _ in left]
        for item, on_left in zip(self._items, left, strict=True):
            (self._item if on_left else self._right).addItem(item)

    def _fit(self) -> None:
        """Make the scale of the epochs begin at 0 and hold one epoch at least, and all curves."""
        ends = [1.0]
        ends += [curve.points[-1][0] for curve in self._curves if curve.points]
        steps, _ = self._step_curve.getData()
        ends += [] if steps is None or not len(steps) else [math.ceil(steps[-1])]  # one scale for all of an epoch
        self._item.setXRange(0, max(ends), padding=0.02)


def _columns(points: Sequence[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    values = np.array(points, np.float64).reshape(-1, 2)
    return values[:, 0], values[:, 1]


def _style(curve: Curve) -> dict[str, Any]:
    """How a curve is drawn, in pyqtgraph's words."""
    import pyqtgraph

    style = Qt.PenStyle.DashLine if curve.dashed else Qt.PenStyle.SolidLine
    pen = pyqtgraph.mkPen(curve.color, width=1.5, style=style)
    symbol = "o" if len(curve.points) < FEW else None
    return {"pen": pen, "symbol": symbol, "symbolSize": 4, "symbolBrush": curve.color, "symbolPen": None}


def _legend(curves: Sequence[Curve]) -> str:
    """A colored dot and the name of each curve that has one, as rich text."""
    named = [curve for curve in curves if curve.name]
    parts = []
    for curve in named[:NAMED]:
        name = curve.name if len(curve.name) <= LONGEST_NAME else curve.name[: LONGEST_NAME - 1] + "…"
        escaped = html.escape(name).replace(" ", "&nbsp;")
        parts.append(f'<span style="color: {curve.color}">●</span>&nbsp;{escaped}')
    more = f" and {len(named) - NAMED} more" if len(named) > NAMED else ""
    return "&nbsp; ".join(parts) + more
