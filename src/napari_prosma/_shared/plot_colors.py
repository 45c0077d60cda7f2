"""Colors of plots that can be told from what is behind them, in napari's dark and light theme."""

from __future__ import annotations

from qtpy.QtGui import QColor

CLEAR = 0.2
"""Least difference in brightness, 0 to 1, between what is drawn and what is behind it."""


def mixed(a: QColor, b: QColor) -> QColor:
    """The color in the middle of two."""
    return QColor(*((p + q) // 2 for p, q in zip(a.getRgb()[:3], b.getRgb()[:3], strict=True)))


def clear(color: QColor, text: QColor, back: QColor) -> QColor:
    """A class's color, moved towards that of texts where it could not be told from what is behind it."""
    return color if abs(_brightness(color) - _brightness(back)) >= CLEAR else mixed(color, text)


def _brightness(color: QColor) -> float:
    return 0.299 * color.redF() + 0.587 * color.greenF() + 0.114 * color.blueF()
