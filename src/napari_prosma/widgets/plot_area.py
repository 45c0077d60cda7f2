"""What all plots share: an area in the colors of the theme, with room for the figures of its scales in any font."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from qtpy.QtCore import QEvent, Qt
from qtpy.QtGui import QColor, QFontMetricsF, QPalette
from qtpy.QtWidgets import QWidget

from napari_prosma.widgets.fields import mixed

USUAL = 16
"""Pixels of a line in napari's usual font."""
WIDEST = "0.00"
"""Figures that the left scale of a plot of fixed scales has room for."""
BESIDE = 8
"""Pixels between the figures of a scale and the edge of the plot, and its line, together."""

DRESSED_ANEW = frozenset({QEvent.Type.StyleChange, QEvent.Type.PaletteChange, QEvent.Type.FontChange})
"""Events of a widget after which its plot is dressed anew."""


def plot_area(height: int) -> Any:
    """Make a PlotWidget of pyqtgraph that is a picture: the mouse passes through it to what it stands in.

    Parameters
    ----------
    height : int
        Pixels, in napari's usual font; in a larger one it is higher by what its figures take.
    """
    import pyqtgraph

    area = pyqtgraph.PlotWidget(enableMenu=False)
    area.setProperty("usual_height", height)
    area.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
    area.setFocusPolicy(Qt.FocusPolicy.NoFocus)
    area.getPlotItem().hideButtons()
    return area


def dress(area: Any, widget: QWidget, sides: Sequence[str], *, aligned: bool = False) -> tuple[QColor, QColor]:
    """Give an area the font and the colors of the widget it is in; returns the color of texts and of the background.

    Parameters
    ----------
    area : PlotWidget
    widget : QWidget
    sides : sequence of str
        Scales that are shown: ``left``, ``bottom``, ``right``.
    aligned : bool
        The left scale is as wide as that of other plots, whatever its figures are.
    """
    text, back = (widget.palette().color(role) for role in (QPalette.ColorRole.WindowText, QPalette.ColorRole.Window))
    metrics, item = QFontMetricsF(widget.font()), area.getPlotItem()
    line, digit = metrics.height(), math.ceil(metrics.horizontalAdvance("0"))
    above = math.ceil(line / 2) + 1  # the uppermost figure of a scale reaches out of it by half a line
    area.setBackground(back)
    for side in sides:
        axis = item.getAxis(side)
        axis.setPen(mixed(text, back))
        axis.setTextPen(text)
        axis.setTickFont(widget.font())
        axis.setStyle(hideOverlappingLabels=digit if side == "bottom" else above)  # most that figures reach out
    if aligned:
        item.getAxis("left").setWidth(math.ceil(metrics.horizontalAdvance(WIDEST)) + BESIDE)
    item.getAxis("bottom").setHeight(math.ceil(line) + 3)
    item.layout.setContentsMargins(1, above, digit, 1)
    area.setFixedHeight(area.property("usual_height") + max(0, math.ceil(4 * (line - USUAL))))
    return text, back
