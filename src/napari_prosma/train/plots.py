"""Curves of a training: loss and Dice, and what the gates do."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from qtpy.QtCore import QEvent, Qt, QTimer
from qtpy.QtGui import QColor, QShowEvent
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_prosma.widgets.fields import clear, mixed, note_label, say
from napari_prosma.widgets.plot_area import DRESSED_ANEW, dress, plot_area
from prosma_core.config.model import ClassInfo

REDRAW = 200
"""Least milliseconds between two drawings of the steps' losses."""
LEVELS = ("#3b9eff", "#e8590c", "#30a46c", "#d6409f", "#b58900", "#8e6fe8")
"""Colors of the levels, the finest first; they show on dark and on light."""
LOSS = ("#f2b134", "#3b9eff", "#d6409f", "#30a46c")
"""Colors of the loss: the one least like those of the classes."""


class TrainingPlots(QWidget):
    """Two plots; hidden, and not even made, while there is nothing to show."""

    def __init__(self) -> None:
        super().__init__()
        self._steps: list[tuple[float, float]] = []
        self._last = 0.0
        self._classes: Sequence[ClassInfo] = ()
        self._learning: Plot | None = None
        self._gates: Plot | None = None
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(REDRAW)
        self._timer.timeout.connect(self._draw_steps)
        self._layout = QVBoxLayout(self)
        self._layout.setContentsMargins(0, 0, 0, 0)
        self.setVisible(False)

    def show_history(self, rows: Sequence[Mapping[str, Any]], classes: Sequence[ClassInfo]) -> None:
        """Draw all epochs.

        Parameters
        ----------
        rows : sequence of mapping
            Rows of history.csv, numbers parsed; None where an epoch was not validated.
        classes : sequence of ClassInfo
            For the colors.
        """
        self._classes, self._last = classes, float(rows[-1]["epoch"]) if rows else 0.0
        self._steps = [step for step in self._steps if rows and step[0] > self._last]
        self.setVisible(bool(rows))
        if not rows and self._learning is None:
            return
        self._learning_plot().show_curves([_loss(rows, classes), *_dice(rows, classes)])
        levels = _levels(rows)
        if levels:
            self._gates_plot().show_curves(levels)
        if self._gates is not None:
            self._gates.setVisible(bool(levels))
        self._learning_plot().show_steps(self._steps)

    def show_step(self, epoch: float, loss: float) -> None:
        """Add the loss of a step of the present epoch; drawn a few times a second at most."""
        if epoch > self._last and math.isfinite(loss):
            self._steps.append((epoch, loss))
            if not self._timer.isActive():
                self._timer.start()

    def _draw_steps(self) -> None:
        if not self._steps:
            return
        if self._learning is not None and self._gates is None:
            self._gates_plot().setVisible(False)  # made ahead: the first epoch makes less at once
        self.setVisible(True)
        self._learning_plot().show_steps(self._steps)

    def _learning_plot(self) -> Plot:
        """The first plot, made when it is first needed: importing what draws it takes a third of a second."""
        if self._learning is None:
            self._learning = Plot("Training loss (left) and Dice (right) by epoch", 1)
            self._learning.show_curves([_loss((), self._classes)])
            self._layout.insertWidget(0, self._learning)
        return self._learning

    def _gates_plot(self) -> Plot:
        if self._gates is None:
            self._gates = Plot("Gates by epoch: median threshold (left, dashed), removed share in % (right)", 100)
            self._layout.addWidget(self._gates)
        return self._gates


def _loss(rows: Sequence[Mapping[str, Any]], classes: Sequence[ClassInfo]) -> Curve:
    return Curve("training loss", _loss_color(classes), _points(rows, "loss"), left=True)


def _loss_color(classes: Sequence[ClassInfo]) -> str:
    """The color of the loss that is farthest from every class's."""
    taken = [QColor(info.color).getRgb()[:3] for info in classes]

    def distance(color: str) -> float:
        return min((math.dist(QColor(color).getRgb()[:3], other) for other in taken), default=0.0)

    return max(LOSS, key=distance)


def _dice(rows: Sequence[Mapping[str, Any]], classes: Sequence[ClassInfo]) -> list[Curve]:
    """Validation Dice of each class in its color, and the mean where there are several."""
    colors = {f"dice {info.name}": info.color for info in classes}
    keys = _keys(rows, "dice ")
    curves = []
    for i, key in enumerate(keys):
        color = colors.get(key, LEVELS[i % len(LEVELS)])
        curves.append(Curve(key.removeprefix("dice "), color, _points(rows, key)))
    if len(keys) > 1:
        curves.append(Curve("mean (dashed)", "", _points(rows, "mean_dice"), dashed=True))
    return curves


def _levels(rows: Sequence[Mapping[str, Any]]) -> list[Curve]:
    """Removed share and median threshold of each level, in a color of its own."""
    curves = []
    for i, key in enumerate(_keys(rows, "removed ")):
        level, color = key.removeprefix("removed "), LEVELS[i % len(LEVELS)]
        name = f"{level} (finest)" if i == 0 else level
        curves.append(Curve(name, color, [(x, 100 * y) for x, y in _points(rows, key)]))
        thresholds = _points(rows, f"threshold {level}")
        if thresholds:
            curves.append(Curve("", color, thresholds, left=True, dashed=True))
    return curves


def _keys(rows: Sequence[Mapping[str, Any]], prefix: str) -> list[str]:
    """Columns with this prefix, in their order; an epoch that was not validated may have none of them."""
    return [key for key in dict.fromkeys(key for row in rows for key in row) if key.startswith(prefix)]


def _points(rows: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    """Epochs and values of a column, where it has any."""
    return [(float(row["epoch"]), float(row[key])) for row in rows if row.get(key) is not None]


HEIGHT = 156
"""Pixels of the curves, without heading and legend."""
NAMED = 8
"""Most curves that a legend names."""
LONGEST_NAME = 28
"""Letters of a name in the legend; more are cut off."""
FEW, VERY_FEW = 30, 4
"""Curves of fewer points show them, and show them large."""
FEW_EPOCHS = 8
"""Up to so many epochs, each has its figure on the scale."""
USUAL = 95
"""Percentile of the steps' losses that the scale holds: a single one does not press the others flat."""
MANY_STEPS = 40
"""From so many steps on; of fewer it holds all, which fall from the first on."""


@dataclass(frozen=True)
class Curve:
    """Data of one curve.

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
        Upper end of the right scale; the lower is 0. The left one begins at 0, too, and holds its curves: what hardly
        changes looks like it.
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
        self._undressed = False
        self._left: list[bool] | None = None
        self._items: list[Any] = []
        self._area = plot_area(HEIGHT)
        self._item = self._area.getPlotItem()
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
        """Follow the window's theme and font."""
        super().changeEvent(event)
        if event is not None and event.type() in DRESSED_ANEW:
            self._undressed = True
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
        if self._colors is None or self._undressed:
            self._colors, self._undressed = dress(self._area, self, ("left", "bottom", "right")), False
        text, back = self._colors
        shown = [clear(QColor(c.color), text, back) if c.color else text for c in self._curves]
        curves = [replace(curve, color=color.name()) for curve, color in zip(self._curves, shown, strict=True)]
        self._make_items([curve.left for curve in curves])
        own = {curve.color for curve in curves if curve.left}
        left = QColor(own.pop()) if len(own) == 1 else text
        self._item.getAxis("left").setTextPen(left)  # of one curve, in its color
        self._step_curve.setPen(mixed(left, back))
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
        """Make the scales begin at 0; that of the epochs holds one epoch at least, and all curves."""
        ends = [1.0]
        ends += [curve.points[-1][0] for curve in self._curves if curve.points]
        steps, _ = self._step_curve.getData()
        ends += [] if steps is None or not len(steps) else [math.ceil(steps[-1])]  # one scale for all of an epoch
        self._item.setXRange(0, max(ends), padding=0.02)
        spacing = (1.0, 1.0) if max(ends) <= FEW_EPOCHS else (None, None)
        self._item.getAxis("bottom").setTickSpacing(*spacing)
        values = [y for curve in self._curves if curve.left for _, y in curve.points]
        usual, losses = [], self._step_curve.getData()[1]
        if losses is not None and len(losses):
            usual = [float(np.percentile(losses, USUAL) if len(losses) >= MANY_STEPS else losses.max())]
        self._item.setYRange(min([0.0, *values]), max([*values, *usual], default=0.0) or 1.0, padding=0.04)


def _columns(points: Sequence[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    values = np.array(points, np.float64).reshape(-1, 2)
    return values[:, 0], values[:, 1]


def _style(curve: Curve) -> dict[str, Any]:
    """How a curve is drawn, in pyqtgraph's words."""
    import pyqtgraph

    style = Qt.PenStyle.DashLine if curve.dashed else Qt.PenStyle.SolidLine
    pen = pyqtgraph.mkPen(curve.color, width=1.5, style=style)
    symbol, size = "o" if len(curve.points) < FEW else None, 7 if len(curve.points) < VERY_FEW else 4
    return {"pen": pen, "symbol": symbol, "symbolSize": size, "symbolBrush": curve.color, "symbolPen": None}


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
