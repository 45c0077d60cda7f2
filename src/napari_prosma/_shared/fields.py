"""Small parts that the widgets are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QComboBox, QHBoxLayout, QLabel, QSizePolicy, QWidget


def combo(tooltip: str) -> QComboBox:
    box = QComboBox()
    box.setToolTip(tooltip)
    box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    box.setMinimumContentsLength(8)
    box.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
    return box


def row(text: str, *widgets: QWidget) -> QWidget:
    row = QWidget()
    layout = QHBoxLayout(row)
    layout.setContentsMargins(0, 0, 0, 0)
    label = QLabel(text)
    label.setMinimumWidth(78)
    layout.addWidget(label)
    for widget in widgets:
        layout.addWidget(widget)
    return row


def note_label(kind: str) -> QLabel:
    """Small text under a field: facts, or a problem in a colour that stands out in both of napari's themes."""
    label = QLabel()
    label.setTextFormat(Qt.TextFormat.PlainText)
    label.setWordWrap(True)
    label.setVisible(False)
    if kind == "problem":
        label.setStyleSheet("QLabel { color: #f0883e; }")
    return label


def say(label: QLabel, text: str) -> None:
    label.setText(text)
    label.setVisible(bool(text))


def fill(box: QComboBox, items: Sequence[tuple[str, Any]], current: Any) -> None:
    """Put (text, data) items into a box and select by data, without a signal."""
    box.blockSignals(True)
    box.clear()
    for text, data in items:
        box.addItem(text, data)
    found = next((i for i, (_, data) in enumerate(items) if data is current or data == current), -1)
    box.setCurrentIndex(found)
    box.blockSignals(False)
