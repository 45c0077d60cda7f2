"""Small parts that the widgets are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QComboBox, QHBoxLayout, QLabel, QPushButton, QSizePolicy, QWidget
from superqt import QCollapsible

BROWSE = "Browse…"
"""Last entry of a box of models."""


class Fold(QCollapsible):
    """Parts under a title that opens and closes them."""

    def __init__(self, title: str) -> None:
        super().__init__(expandedIcon=" ", collapsedIcon=" ")
        self.setDuration(0)
        self.show_title(title)
        self.toggled.connect(lambda _: self.show_title(self._title))

    def show_title(self, title: str) -> None:
        """What stands beside the arrow."""
        self._title = title
        self.setText(f"{'▾' if self.isExpanded() else '▸'} {title}")


def combo(tooltip: str) -> QComboBox:
    """A box to choose from that never widens the dock."""
    box = QComboBox()
    box.setToolTip(tooltip)
    box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    box.setMinimumContentsLength(8)
    box.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
    return box


def row(text: str, *widgets: QWidget) -> QWidget:
    """A label and its fields side by side."""
    line = QWidget()
    layout = QHBoxLayout(line)
    layout.setContentsMargins(0, 0, 0, 0)
    label = QLabel(text)
    label.setMinimumWidth(78)
    layout.addWidget(label)
    for widget in widgets:
        layout.addWidget(widget)
    return line


def button(text: str, tooltip: str, on_click: Any) -> QPushButton:
    """A button; `on_click` is a signal or a function without arguments."""
    made = QPushButton(text)
    made.setToolTip(tooltip)
    made.clicked.connect(on_click)
    return made


def note_label(kind: str) -> QLabel:
    """Small text, hidden while empty: facts, or a problem, whose coloured edge shows in both of napari's themes."""
    label = QLabel()
    label.setTextFormat(Qt.TextFormat.PlainText)
    label.setWordWrap(True)
    label.setMinimumWidth(1)  # a long name is cut off, with all of it in the tooltip, rather than widening the dock
    label.setVisible(False)
    if kind == "problem":
        label.setStyleSheet("QLabel { border-left: 3px solid #e8590c; padding-left: 6px; }")
    return label


def say(label: QLabel, text: str) -> None:
    """Show a text and, where it may be cut off, all of it in the tooltip."""
    label.setText(text)
    label.setToolTip(text)
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
