"""Small widgets: rows, buttons, notes, tables, text windows, colors of plots."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from qtpy.QtCore import QEvent, Qt, Signal
from qtpy.QtGui import (
    QColor,
    QFontDatabase,
    QFontMetrics,
    QGuiApplication,
    QHelpEvent,
    QIcon,
    QKeyEvent,
    QPaintEvent,
    QResizeEvent,
    QShowEvent,
)
from qtpy.QtWidgets import (
    QAbstractButton,
    QAbstractItemView,
    QComboBox,
    QDialog,
    QDialogButtonBox,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QLineEdit,
    QPlainTextEdit,
    QPushButton,
    QSizePolicy,
    QStyle,
    QStyleOptionComboBox,
    QStylePainter,
    QTableWidget,
    QTableWidgetItem,
    QToolTip,
    QVBoxLayout,
    QWidget,
)
from superqt import QCollapsible

from prosma_core.printable import plain, shown, visible

NO_LIMIT = 16_777_215
"""Height of a widget that may be as high as it likes (QWIDGETSIZE_MAX)."""
BROWSE = "Browse…"
"""Last entry of a box of models."""


class PlainLabel(QLabel):
    """A label that shows any text letter by letter. All labels are of this class: names from files are no HTML."""

    def __init__(self, text: str = "") -> None:
        super().__init__()
        self.setTextFormat(Qt.TextFormat.PlainText)
        self.setText(text)

    def setText(self, text: str | None) -> None:
        """Show a text."""
        super().setText(shown(text or ""))


class NoteLabel(PlainLabel):
    """A label of wrapped text; a word that is wider than the label loses its middle, a path that of its folder."""

    def __init__(self) -> None:
        self._whole = ""
        super().__init__()
        self.setWordWrap(True)
        self.setMinimumWidth(1)  # a long name does not widen the dock

    def setText(self, text: str | None) -> None:
        """Show a text."""
        self._whole = shown(text or "")
        self._fit()

    def text(self) -> str:
        """The whole text."""
        return self._whole

    def keep_height(self) -> None:
        """Do not become lower from now on, so that what stands below does not jump with the text."""
        self.setMinimumHeight(max(self.minimumHeight(), self.heightForWidth(self.width())))

    def resizeEvent(self, event: QResizeEvent | None) -> None:
        """Shorten words for the present width."""
        super().resizeEvent(event)
        self._fit()

    def _fit(self) -> None:
        if self.textFormat() != Qt.TextFormat.PlainText:
            super().setText(self._whole)
            return
        metrics, room = self.fontMetrics(), self.contentsRect().width() - EDGE
        fitting = WORD.sub(lambda word: fitted(word[0], metrics, max(room, SHORTEST)), self._whole)
        if fitting != super().text():
            super().setText(fitting)


def fitted(word: str, metrics: QFontMetrics, room: int) -> str:
    """A word that takes at most `room` pixels: of a path the folder is shortened, and the file's name only after it."""
    if metrics.horizontalAdvance(word) <= room:
        return word
    folder, name = PATH.fullmatch(word).groups(default="")
    left = room - metrics.horizontalAdvance(folder[-1:] + name)
    if folder and left >= metrics.horizontalAdvance("…"):
        return metrics.elidedText(folder[:-1], Qt.TextElideMode.ElideMiddle, left) + folder[-1] + name
    return metrics.elidedText(name, Qt.TextElideMode.ElideMiddle, room)


PATH = re.compile(r"(.*[\\/](?=[^\\/]))?(.*)")
"""A path: its folder, with what ends it, and the name in it."""
WORD = re.compile(r"\S{12,}")
"""Words that may be too wide."""
EDGE, SHORTEST = 10, 60
"""Pixels of the edge and padding of a problem or warning, and that a word has at least."""


TITLE_STYLE = """
QPushButton, QPushButton:checked, QPushButton:disabled {
    text-align: left; font-weight: bold; background: transparent; border: none;
}
"""
"""Style sheet of a section's title, the same open and closed."""


class Fold(QCollapsible):
    """A section under a title that opens and closes it; closed at first.

    The arrow is text, in the theme's color also after a change of the theme; the content is hidden while it is closed,
    so that the Tab key skips it, and as high as its wrapped texts need while it is open.
    """

    opened_by_user = Signal(bool)
    """It was opened or closed by a click, not by the program."""

    def __init__(self, title: str) -> None:
        super().__init__("", None, QIcon(), QIcon())
        self.setDuration(0)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Preferred)
        self.toggleButton().setStyleSheet(TITLE_STYLE)
        self.toggleButton().setToolTip("Show or hide this section.")
        self.layout().setAlignment(Qt.AlignmentFlag(0))
        self.layout().setContentsMargins(0, 2, 0, 2)
        self.content().layout().setContentsMargins(0, 0, 0, 0)
        self.setObjectName(f"section_{title.lower().replace(' ', '_')}")
        self.title = ""
        self.toggled.connect(self._show_content)
        self.toggleButton().clicked.connect(lambda: self.opened_by_user.emit(self.isExpanded()))
        self.show_title(title)
        self._show_content(False)

    def add(self, *parts: QWidget) -> None:
        """Add parts below those that are there."""
        for part in parts:
            self.content().layout().addWidget(part)

    def show_title(self, title: str) -> None:
        """Set the title beside the arrow."""
        self.title = title
        self.setText(f"{'▾' if self.isExpanded() else '▸'} {title}")
        self.toggleButton().setAccessibleName(title)

    def show_open(self, opened: bool) -> None:
        """Open or close it."""
        if opened:
            self.expand()
        else:
            self.collapse()

    def _show_content(self, opened: bool) -> None:
        self.content().setMaximumHeight(NO_LIMIT)
        self.content().setVisible(opened)
        self.show_title(self.title)


class DockBox(QComboBox):
    """A box to choose from that never widens the dock; a name that is too long loses its middle.

    Parameters
    ----------
    tooltip : str
        Shown after the whole of a name that lost its middle.
    """

    def __init__(self, tooltip: str) -> None:
        super().__init__()
        fit_dock(self, tooltip)

    def paintEvent(self, event: QPaintEvent | None) -> None:
        """Draw the box; the middle tells names apart least."""
        painter, option = QStylePainter(self), QStyleOptionComboBox()
        self.initStyleOption(option)
        if self.currentIndex() < 0:
            option.currentText = self.placeholderText()
        option.currentText = self._fitting(option.currentText or "")
        painter.drawComplexControl(QStyle.ComplexControl.CC_ComboBox, option)
        painter.drawControl(QStyle.ControlElement.CE_ComboBoxLabel, option)

    def event(self, event: QEvent | None) -> bool:
        """Tell the whole of a name that lost its middle."""
        name = self.currentText()
        if isinstance(event, QHelpEvent) and event.type() == QEvent.Type.ToolTip and self._fitting(name) != name:
            QToolTip.showText(event.globalPos(), plain(f"{name}\n{self.toolTip()}"), self)
            return True
        return bool(super().event(event))

    def _fitting(self, text: str) -> str:
        option = QStyleOptionComboBox()
        self.initStyleOption(option)
        field = QStyle.SubControl.SC_ComboBoxEditField
        room = self.style().subControlRect(QStyle.ComplexControl.CC_ComboBox, option, field, self).width()
        return self.fontMetrics().elidedText(text, Qt.TextElideMode.ElideMiddle, room)


def combo(tooltip: str) -> QComboBox:
    """A box to choose from that never widens the dock."""
    return DockBox(tooltip)


def fit_dock(box: QComboBox, tooltip: str) -> None:
    """Have a box take the width that there is, however long its entries are."""
    box.setToolTip(plain(tooltip))
    box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    box.setMinimumContentsLength(8)
    box.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)


def row(text: str, *widgets: QWidget) -> QWidget:
    """A label and its fields side by side."""
    line = QWidget()
    layout = QHBoxLayout(line)
    layout.setContentsMargins(0, 0, 0, 0)
    label = PlainLabel(text)
    label.setMinimumWidth(84)
    layout.addWidget(label)
    for widget in widgets:
        layout.addWidget(widget)
        call_it(widget, text)
    return line


def call_it(widget: QWidget, name: str, tooltip: str = "") -> None:
    """Give a control, and what it is put together from, the name that screen readers say, and its tooltip."""
    for part in (widget, *widget.findChildren(QWidget)):
        if not part.accessibleName():
            part.setAccessibleName(name)
        if not part.toolTip():
            part.setToolTip(plain(tooltip or widget.toolTip()))


STEPS = {
    Qt.Key.Key_Left: -1,
    Qt.Key.Key_Right: 1,
    Qt.Key.Key_PageUp: -10,
    Qt.Key.Key_PageDown: 10,
    Qt.Key.Key_Home: -(1 << 30),
    Qt.Key.Key_End: 1 << 30,
}
"""How far keys lead in a row of things."""


def moved(event: QKeyEvent | None, shown: int | None, count: int) -> int | None:
    """Where a key leads in a row of things of which one is shown, or none; None for other keys, and where it stays."""
    step = STEPS.get(Qt.Key(event.key())) if event is not None else None
    if step is None or count < 1:
        return None
    index = 0 if shown is None else min(max(shown + step, 0), count - 1)
    return None if index == shown else index


def tab_after(before: QWidget, parts: Iterable[QWidget]) -> None:
    """Let Tab lead to parts that are made later from what stands before, or around, them: else they come last."""
    listed = list(parts)
    if any(before.isAncestorOf(part) for part in listed) and before.focusPolicy() == Qt.FocusPolicy.NoFocus:
        earlier = before.previousInFocusChain()
        before = before if earlier is None else earlier  # a box without entries counts as false
    for part in listed:
        QWidget.setTabOrder(before, part)
        before = part


def button(text: str, tooltip: str, on_click: Any) -> QPushButton:
    """A button; `on_click` is a signal or a function without arguments."""
    made = QPushButton(text)
    made.setToolTip(plain(tooltip))
    made.clicked.connect(on_click)
    return made


AMBER, ON_AMBER = "#f2b134", "#1f1400"
"""Background and text of a warning, the same in all themes."""


def keeps_place(part: QWidget) -> None:
    """Have a part keep its place while it is hidden, so that nothing jumps."""
    policy = part.sizePolicy()
    policy.setRetainSizeWhenHidden(True)
    part.setSizePolicy(policy)


def note_label(kind: str) -> NoteLabel:
    """Label for facts, a problem or a warning, hidden while empty.

    A problem has a colored edge, a warning is dark on amber; both are visible in both themes.
    """
    label = NoteLabel()
    label.setVisible(False)
    if kind == "problem":
        label.setStyleSheet("QLabel { border-left: 3px solid #e8590c; padding-left: 6px; }")
    if kind == "warning":
        label.setStyleSheet(f"QLabel {{ background: {AMBER}; color: {ON_AMBER}; border-radius: 3px; padding: 4px; }}")
    return label


OPTIONS = re.compile(r" \((?:without )?--[a-z][^()]*\)")
"""Options of the command line in a message of the core."""


def say(label: QLabel, text: str) -> None:
    """Show a text, hidden where it is empty, and all of it in the tooltip, as words may be shortened.

    Messages of the core name options of the command line in parentheses, which are left out here.
    """
    text = OPTIONS.sub("", text)
    label.setText(text)
    label.setToolTip(plain(text))
    label.setVisible(bool(text))


def fill(box: QComboBox, items: Sequence[tuple[str, Any]], current: Any) -> None:
    """Put (text, data) items into a box and select by data, without a signal."""
    box.blockSignals(True)
    box.clear()
    for text, data in items:
        box.addItem(visible(text), data)
    found = next((i for i, (_, data) in enumerate(items) if data is current or data == current), -1)
    box.setCurrentIndex(found)
    box.blockSignals(False)


def show_text(parent: QWidget, title: str, text: str, note: str = "") -> None:
    """A window with text to read and copy, and under it what is to be known of it."""
    dialog = QDialog(parent)
    dialog.setWindowTitle(title)
    dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
    label = PlainLabel(title)
    box = QPlainTextEdit(shown(text))
    box.setReadOnly(True)
    box.setFont(QFontDatabase.systemFont(QFontDatabase.SystemFont.FixedFont))
    buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Close)
    copy = buttons.addButton("Copy", QDialogButtonBox.ButtonRole.ActionRole)
    copy.clicked.connect(lambda: QGuiApplication.clipboard().setText(text))
    buttons.rejected.connect(dialog.reject)
    layout = QVBoxLayout(dialog)
    layout.addWidget(label)
    layout.addWidget(box)
    about = note_label("facts")
    say(about, note)
    layout.addWidget(about)
    layout.addWidget(buttons)
    dialog.resize(640, 320)
    dialog.show()


CLEAR = 0.2
"""Least difference in brightness, 0 to 1, between what is drawn and what is behind it."""


def worded(text: str, word: str) -> str:
    """A text with what one place of a grid is called: voxel, of pictures pixel."""
    return GRID_WORD.sub(lambda found: word.capitalize() if found[0][0].isupper() else word, text)


GRID_WORD = re.compile(r"voxel|pixel", re.IGNORECASE)


def say_word(panel: QWidget, word: str) -> None:
    """Have the fixed texts of a panel say voxel, or of pictures pixel.

    Notes, entries of boxes and cells stay: they may quote names.

    Parameters
    ----------
    panel : QWidget
    word : {"voxel", "pixel"}
    """
    for part in (panel, *panel.findChildren(QWidget)):
        _change(part.toolTip, part.setToolTip, word)
        _change(part.accessibleName, part.setAccessibleName, word)
        _change(part.accessibleDescription, part.setAccessibleDescription, word)
        if isinstance(part, QAbstractButton | QLabel) and not isinstance(part, NoteLabel):
            _change(part.text, part.setText, word)
        heads = (
            [part.horizontalHeaderItem(i) for i in range(part.columnCount())] if isinstance(part, QTableWidget) else []
        )
        for head in filter(None, heads):
            _change(head.toolTip, head.setToolTip, word)


def _change(get: Callable[[], str], put: Callable[[str], object], word: str) -> None:
    if (new := worded(get(), word)) != get():
        put(new)


def mixed(a: QColor, b: QColor) -> QColor:
    """The color in the middle of two."""
    return QColor(*((p + q) // 2 for p, q in zip(a.getRgb()[:3], b.getRgb()[:3], strict=True)))


def clear(color: QColor, text: QColor, back: QColor) -> QColor:
    """Color of a class, mixed with the text color where its contrast with the background is too low."""
    return color if abs(_brightness(color) - _brightness(back)) >= CLEAR else mixed(color, text)


def _brightness(color: QColor) -> float:
    return 0.299 * color.redF() + 0.587 * color.greenF() + 0.114 * color.blueF()


SMALL = "QTableView, QHeaderView { font-size: 8pt; } QTableView::item { padding: 0px; }"
"""Style sheet of a table with so many columns that they would be cut off in a dock."""
FRAME = 4
"""Pixels of a table's frame, above and below together."""


class NameField(QLineEdit):
    """A line for a name, or for one that is proposed; the tooltip has all of it, as it may be longer than the line."""

    def __init__(self, tooltip: str) -> None:
        super().__init__()
        self._about = tooltip
        self.textChanged.connect(lambda _: self._tell())
        self._tell()

    def setPlaceholderText(self, text: str | None) -> None:
        """Propose a name."""
        super().setPlaceholderText(text)
        self._tell()

    def _tell(self) -> None:
        name = self.text() or self.placeholderText()
        self.setToolTip(plain("\n".join(filter(None, (name, self._about)))))


class FittingTable(QTableWidget):
    """A table that is as high as its rows once `fit_height` was called, also where a style sheet comes later."""

    _most: int | None = None

    def fit_height(self, most: int) -> None:
        """Be as high as the rows, but not higher than `most` pixels; the rest is scrolled to."""
        self._most = most
        rows = sum(self.rowHeight(i) for i in range(self.rowCount()))
        self.setFixedHeight(min(rows, most) + self.horizontalHeader().sizeHint().height() + FRAME)

    def showEvent(self, event: QShowEvent | None) -> None:
        """Take the heights that style sheets give."""
        super().showEvent(event)
        self._fit()

    def changeEvent(self, event: QEvent | None) -> None:
        """Take the heights of another style sheet."""
        super().changeEvent(event)
        if event is not None and event.type() == QEvent.Type.StyleChange:
            self._fit()

    def _fit(self) -> None:
        if self._most is not None:
            self.fit_height(self._most)


def table(name: str, columns: Sequence[str], *, stretched: int = 0) -> FittingTable:
    """Read-only table without selection; the column `stretched` takes the remaining width; the tooltip is its name."""
    made = FittingTable(0, len(columns))
    made.setAccessibleName(name)
    made.setToolTip(plain(name))
    made.setCornerButtonEnabled(False)
    made.setTabKeyNavigation(False)  # Tab leads on to what is below
    made.setHorizontalHeaderLabels(list(columns))
    made.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
    made.setSelectionMode(QAbstractItemView.SelectionMode.NoSelection)
    made.setWordWrap(False)
    made.setTextElideMode(Qt.TextElideMode.ElideMiddle)  # names often differ at their end
    made.verticalHeader().setVisible(False)
    header = made.horizontalHeader()
    header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
    header.setSectionResizeMode(stretched, QHeaderView.ResizeMode.Stretch)
    return made


def cell(text: str, *, right: bool = False, color: str = "", tooltip: str = "") -> QTableWidgetItem:
    """A text in a table, at the right for numbers, with a colored square before it where a color is given."""
    item = QTableWidgetItem(shown(text))
    item.setToolTip(plain(tooltip))
    if right:
        item.setTextAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
    if color:
        item.setData(Qt.ItemDataRole.DecorationRole, QColor(color))
    return item
