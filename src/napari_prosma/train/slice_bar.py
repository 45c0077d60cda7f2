"""Panel of the slices of the labels that are worked on: counts, a bar with a cell for each, and a button."""

from __future__ import annotations

from qtpy.QtCore import QEvent, QPoint, QRectF, Qt, Signal
from qtpy.QtGui import QColor, QKeyEvent, QMouseEvent, QPainter, QPaintEvent
from qtpy.QtWidgets import QSizePolicy, QToolTip, QVBoxLayout, QWidget

from napari_prosma.shortcuts import with_key
from napari_prosma.widgets.fields import button, call_it, moved, note_label, say
from prosma_core.data.slices import SliceStates
from prosma_core.printable import plain

COLORS = {"checked": "#4c9be8", "edited": "#f0a030", "partly edited": "#f0a030", "untouched": "#8a8a8a"}
"""Blue, orange and gray: told apart also where red and green are not."""
HEIGHTS = {"checked": 1.0, "edited": 0.6, "partly edited": 0.35, "untouched": 0.2}
"""Share of the bar's height that a cell takes, so that states are told apart without colors."""
BAR_HEIGHT = 22
BAR_TOOLTIP = (
    "A cell for each slice: blue checked, orange edited, gray untouched. Click one, or press arrow keys, to go to it."
)
MARK = "Mark slice as checked"
UNMARK = "Unmark slice"
NEXT = "Next suggested slice"
NEXT_TOOLTIP = "Go to the slice that is worth annotating next."
TOOLTIP = (
    "The slice in view is right as it is, also where nothing is painted on it, and is trained on. Of a model's "
    "result, only checked and edited slices are trained and validated on."
)


class SliceBar(QWidget):
    """A thin strip with a cell for each slice; a click goes to it, and arrow keys to those beside the one in view."""

    clicked = Signal(int)

    def __init__(self) -> None:
        super().__init__()
        self.setFixedHeight(BAR_HEIGHT)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setMouseTracking(True)
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        call_it(self, "Slices", BAR_TOOLTIP)
        self._states: SliceStates | None = None
        self._shown: int | None = None

    def show_states(self, states: SliceStates | None) -> None:
        """Show these states."""
        self._states = states
        self.update()

    def show_slice(self, index: int | None) -> None:
        """Point at the slice in view."""
        self._shown = index
        self.setAccessibleDescription(self._text(index))
        self.update()

    def slice_at(self, x: float) -> int | None:
        """Number of the slice at a place of the bar; None outside."""
        count = self._states.count if self._states is not None else 0
        index = int(x * count / max(1, self.width()))
        return index if 0 <= index < count else None

    def text_at(self, x: float) -> str:
        """Name and state of the slice at a place of the bar."""
        return self._text(self.slice_at(x))

    def _text(self, index: int | None) -> str:
        if index is None or self._states is None or index >= self._states.count:
            return ""
        name = self._states.name(index)
        return f"{name[0].upper()}{name[1:]}: {self._states.state(index)}"

    def paintEvent(self, _event: QPaintEvent | None) -> None:
        """Draw the cells, the one in view under a frame."""
        states = self._states
        if states is None:
            return
        painter = QPainter(self)
        width, height = self.width() / states.count, self.height() - 4
        order = {"partly edited": states.partly, "edited": states.edited, "checked": states.checked}  # the last counts
        known = {index: state for state, those in order.items() for index in those}
        gap = 1.0 if width >= 4 else 0.0
        for index in range(states.count):
            state = known.get(index, "untouched")
            share = HEIGHTS[state] * height
            cell = QRectF(index * width, 2 + height - share, max(1.0, width - gap), share)
            painter.fillRect(cell, QColor(COLORS[state]))
        if self._shown is not None:
            painter.setPen(self.palette().text().color())
            painter.drawRect(QRectF(self._shown * width - 1, 0.5, max(3.0, width), self.height() - 1.5))
        if self.hasFocus():
            painter.setPen(self.palette().highlight().color())
            painter.drawRect(QRectF(0.5, 0.5, self.width() - 1, self.height() - 1))
        painter.end()

    def mousePressEvent(self, event: QMouseEvent | None) -> None:
        """Go to the slice under the mouse."""
        index = self.slice_at(event.position().x())
        if index is not None:
            self.clicked.emit(index)

    def keyPressEvent(self, event: QKeyEvent | None) -> None:
        """Go to a slice beside the one in view, or to the first or last."""
        count = self._states.count if self._states is not None else 0
        index = moved(event, self._shown, count)
        if index is None:
            super().keyPressEvent(event)
        else:
            self.clicked.emit(index)

    def event(self, event: QEvent | None) -> bool:
        """Say what the cell under the mouse is."""
        if event.type() == QEvent.Type.ToolTip:
            at: QPoint = event.pos()
            QToolTip.showText(event.globalPos(), self.text_at(at.x()), self)
            return True
        return bool(super().event(event))


class SlicePanel(QWidget):
    """Counts, bar and buttons; hidden where no labels are worked on."""

    mark_clicked = Signal()
    next_clicked = Signal()
    slice_clicked = Signal(int)

    def __init__(self) -> None:
        super().__init__()
        self._states: SliceStates | None = None
        self._name = ""
        self._text, self._bar = note_label("facts"), SliceBar()
        self._bar.clicked.connect(self.slice_clicked.emit)
        self._mark = button(MARK, with_key(TOOLTIP, "mark_slice"), self.mark_clicked)
        self._next, self._suggestion = (
            button(NEXT, "Go to the slice that is worth annotating next.", self.next_clicked),
            note_label("facts"),
        )
        buttons = QWidget()
        side = QVBoxLayout(buttons)  # side by side they are wider than the dock
        side.setContentsMargins(0, 0, 0, 0)
        side.setSpacing(2)
        for name, each in (("mark_slice", self._mark), ("next_slice", self._next)):
            each.setObjectName(name)
            side.addWidget(each)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 4, 0, 4)
        for name, part in (("slice_counts", self._text), ("slice_bar", self._bar), ("slice_buttons", buttons)):
            part.setObjectName(name)
            layout.addWidget(part)
        layout.addWidget(self._suggestion)
        self._suggestion.setObjectName("suggestion")
        self.show_slices(None, "")

    def show_slices(self, states: SliceStates | None, name: str) -> None:
        """States of the slices of the labels of this name; None hides them."""
        if name != self._name:
            self._name = name
            self._text.setMinimumHeight(0)
        self._states = states
        self._bar.show_states(states)
        say(self._text, f"{name}: {states.words()}" if states is not None else "")
        self._text.keep_height()  # the buttons below stay in their place while slices are painted
        self.setVisible(states is not None)

    def show_slice(self, index: int | None) -> None:
        """Number of the slice in view; None where none is."""
        self._bar.show_slice(index)
        marked = self._states is not None and index in self._states.checked
        self._mark.setText(UNMARK if marked else MARK)
        self._mark.setEnabled(index is not None)

    def show_next(self, *, enabled: bool, tooltip: str) -> None:
        """Whether a slice can be suggested, and by whom, or why not."""
        self._next.setEnabled(enabled)
        self._next.setToolTip(plain(with_key(tooltip, "next_slice") if enabled else tooltip))

    def show_suggestion(self, text: str) -> None:
        """Which slice was suggested last, and why; empty hides it."""
        say(self._suggestion, text)
