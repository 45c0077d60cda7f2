"""Curves of a training: loss and Dice, and what the gates do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_prosma.train.curves import Curve, Plot
from prosma_core.config.model import ClassInfo

REDRAW = 200
"""Least milliseconds between two drawings of the steps' losses."""
LEVELS = ("#3b9eff", "#e8590c", "#30a46c", "#d6409f", "#b58900", "#8e6fe8")
"""Colors of the levels, the finest first; they show on dark and on light."""


class TrainingPlots(QWidget):
    """Two plots; hidden, and not even made, while there is nothing to show."""

    def __init__(self) -> None:
        super().__init__()
        self._steps: list[tuple[float, float]] = []
        self._last = 0.0
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
        self._last = float(rows[-1]["epoch"]) if rows else 0.0
        self._steps = [step for step in self._steps if rows and step[0] > self._last]
        self.setVisible(bool(rows))
        if not rows and self._learning is None:
            return
        loss = [Curve("training loss", "", _points(rows, "loss"), left=True)] if rows else []
        self._learning_plot().show_curves([*loss, *_dice(rows, classes)])
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
            self._learning = Plot("Training loss (left), Dice (right)", 1)
            self._layout.insertWidget(0, self._learning)
        return self._learning

    def _gates_plot(self) -> Plot:
        if self._gates is None:
            self._gates = Plot("Gates: median threshold (left, dashed), removed share in % (right)", 100)
            self._layout.addWidget(self._gates)
        return self._gates


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
