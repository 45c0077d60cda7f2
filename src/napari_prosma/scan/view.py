"""The box of models; fields for image, axes, level, model and region, shared by Segment and Gates."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from qtpy.QtCore import QModelIndex, QPoint, QRect, QSize, Qt, Signal
from qtpy.QtGui import QColor, QFont, QFontMetrics, QPainter, QPalette, QPixmap
from qtpy.QtWidgets import (
    QComboBox,
    QStyle,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QVBoxLayout,
    QWidget,
)

from napari_prosma.scan.selection import ModelGroups, ModelRow
from napari_prosma.scan.workers_panel import WorkersFields
from napari_prosma.widgets.fields import AMBER, BROWSE, ON_AMBER, DockBox, combo, fill, note_label, row, say
from napari_prosma.widgets.job_view import JobView
from prosma_core.errors import ProsmaError
from prosma_core.io.bundle import read_thumbnail
from prosma_core.printable import plain, visible

ROW, HEADING = Qt.ItemDataRole.UserRole + 1, Qt.ItemDataRole.UserRole + 2
"""Roles of an item: its `ModelRow`, and whether it is a heading."""
SIDE, GAP = 40, 6
"""Pixels of a thumbnail in the list, and around it and the texts."""
WIDEST = 420
"""Pixels of the list, which may be wider than its box."""


class ModelBox(DockBox):
    """A box of models under headings, in its list with thumbnail, fit and one line each; the last entry is a file's.

    Parameters
    ----------
    tooltip : str
        While none is chosen.
    """

    model_chosen = Signal(object)
    browse_clicked = Signal()

    def __init__(self, tooltip: str) -> None:
        super().__init__(tooltip)
        self._tooltip = tooltip
        self._shown: tuple[ModelGroups, Any] = ((), None)
        self._found = -1
        self.setItemDelegate(_ModelDelegate(self))
        self.setMaxVisibleItems(40)  # as many as the screen holds
        self.activated.connect(self._activated)

    def show_models(self, groups: ModelGroups, current: Any) -> None:
        """Show models, and which is chosen, without a signal."""
        if self._shown == (groups, current) and self.currentIndex() == self._found:
            return  # an open list stays as it is
        self.blockSignals(True)
        self.clear()
        items: Any = self.model()
        found = -1
        for title, rows in groups:
            if title:
                self.addItem(visible(title))
                self.setItemData(self.count() - 1, True, HEADING)
                items.item(self.count() - 1).setFlags(Qt.ItemFlag.NoItemFlags)
            for each in rows:
                if found < 0 and (each.value is current or each.value == current):
                    found = self.count()
                self.addItem(visible(each.name), each.value)
                self.setItemData(self.count() - 1, each, ROW)
                self.setItemData(self.count() - 1, plain(each.facts), Qt.ItemDataRole.ToolTipRole)
        self.insertSeparator(self.count())
        self.addItem(BROWSE)
        self.setCurrentIndex(found)
        self.blockSignals(False)
        self._shown, self._found = (groups, current), found
        chosen = self.itemData(found, ROW) if found >= 0 else None
        self.setToolTip(plain((chosen.facts or chosen.name) if chosen else self._tooltip))

    def showPopup(self) -> None:
        """Open the list, wide enough for a line of text and within the screen, however long a name is."""
        screen = self.screen().availableGeometry()
        frame, width = self.view().parentWidget(), max(self.width(), min(WIDEST, screen.width()))
        frame.setFixedWidth(width)
        super().showPopup()
        left = min(self.mapToGlobal(QPoint(0, 0)).x(), screen.right() + 1 - width)
        frame.move(max(left, screen.left()), frame.y())

    def _activated(self, index: int) -> None:
        if index == self.count() - 1:  # a model may have its name
            self.browse_clicked.emit()
        else:
            self.model_chosen.emit(self.itemData(index))


class _ModelDelegate(QStyledItemDelegate):
    """Draws headings, and models with thumbnail, name, fit and one line."""

    def sizeHint(self, option: QStyleOptionViewItem, index: QModelIndex) -> QSize:
        """As in Qt: two lines of text beside the thumbnail."""
        size = super().sizeHint(option, index)
        row = index.data(ROW)
        if row is None or not row.sign:
            return size
        return QSize(WIDEST, max(SIDE, 2 * option.fontMetrics.height()) + GAP)

    def paint(self, painter: QPainter | None, option: QStyleOptionViewItem, index: QModelIndex) -> None:
        """As in Qt."""
        row = index.data(ROW)
        if painter is None:
            return
        if index.data(HEADING):
            painter.save()
            font = QFont(option.font)
            font.setBold(True)
            painter.setFont(font)
            painter.setPen(option.palette.color(QPalette.ColorGroup.Active, QPalette.ColorRole.Text))
            painter.drawText(option.rect.adjusted(GAP, 0, 0, 0), Qt.AlignmentFlag.AlignVCenter, index.data())
            painter.restore()
            return
        if row is None or not row.sign:
            super().paint(painter, option, index)
            return
        painter.save()
        chosen = bool(option.state & QStyle.StateFlag.State_Selected)
        if chosen:
            painter.fillRect(option.rect, option.palette.highlight())
        ink = option.palette.color(QPalette.ColorRole.HighlightedText if chosen else QPalette.ColorRole.Text)
        painter.setPen(ink)
        inside = option.rect.adjusted(GAP, GAP // 2, -GAP, -GAP // 2)
        _draw_thumbnail(painter, QRect(inside.left(), inside.top(), SIDE, SIDE), row)
        texts = inside.adjusted(SIDE + GAP, 0, 0, 0)
        first = QRect(texts.left(), texts.top(), texts.width(), texts.height() // 2)
        metrics = option.fontMetrics
        if row.verdict:
            first = first.adjusted(0, 0, -_draw_verdict(painter, first, row, metrics) - GAP, 0)
        for place, text, where in (
            (first, index.data(), Qt.TextElideMode.ElideMiddle),
            (texts.adjusted(0, texts.height() // 2, 0, 0), visible(row.line), Qt.TextElideMode.ElideRight),
        ):
            painter.drawText(place, Qt.AlignmentFlag.AlignVCenter, metrics.elidedText(text, where, place.width()))
            ink.setAlphaF(0.75)
            painter.setPen(ink)
        painter.restore()


def _draw_verdict(painter: QPainter, place: QRect, row: ModelRow, metrics: QFontMetrics) -> int:
    """Draw whether a model fits at the right of a place, on amber where it does not; returns the width."""
    width = metrics.horizontalAdvance(row.verdict) + 2 * GAP
    box = QRect(place.right() - width + 1, place.top(), width, place.height()).adjusted(0, 1, 0, -1)
    painter.save()
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    if row.warned:
        painter.setBrush(QColor(AMBER))
        painter.setPen(Qt.PenStyle.NoPen)
    painter.drawRoundedRect(box, 3, 3)
    if row.warned:
        painter.setPen(QColor(ON_AMBER))
    painter.drawText(box, Qt.AlignmentFlag.AlignCenter, row.verdict)
    painter.restore()
    return width


def _draw_thumbnail(painter: QPainter, place: QRect, row: ModelRow) -> None:
    """Draw a model's picture, or a frame with its modality."""
    picture = _pixmap(row.file) if row.file else QPixmap()
    if not picture.isNull():
        painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform)
        painter.drawPixmap(place, picture)
        return
    painter.setOpacity(0.6)
    painter.drawRect(place.adjusted(0, 0, -1, -1))
    painter.drawText(place, Qt.AlignmentFlag.AlignCenter, visible(row.sign)[:4])
    painter.setOpacity(1)


@lru_cache(maxsize=64)
def _pixmap(path: Path) -> QPixmap:
    """Thumbnail of a model file, read when it is drawn first; a null pixmap where there is none."""
    made = QPixmap()
    try:
        made.loadFromData(read_thumbnail(path), "PNG")
    except (ProsmaError, OSError):  # deleted meanwhile
        return QPixmap()
    return made


class ScanView(JobView):
    """Base view with fields for scan and model: signals out, setters in, no decisions."""

    image_chosen = Signal(object)
    axes_chosen = Signal(str)
    level_chosen = Signal(int)
    model_chosen = Signal(object)
    browse_clicked = Signal()

    # --- Building ---------------------------------------------------------------------------------------------------

    def _add_image(self, tooltip: str) -> None:
        self._image = combo(tooltip)
        self._image.activated.connect(lambda _: self.image_chosen.emit(self._image.currentData()))
        self._axes = combo("What each axis of the layer is, one letter each: t time, c channel, z y x space.")
        self._axes.setEditable(True)
        self._axes.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
        self._axes.activated.connect(lambda _: self.axes_chosen.emit(self._axes.currentText()))
        self._axes.lineEdit().editingFinished.connect(lambda: self.axes_chosen.emit(self._axes.currentText()))
        self._image_facts = note_label("facts")
        self._level = combo("Resolution level of a multiscale layer; 0 is the finest.")
        self._level.activated.connect(self.level_chosen)
        self._level_row = row("Level", self._level)
        self._add(row("Image", self._image), self._problems["image"], row("Axes", self._axes), self._level_row)
        self._add(self._problems["axes"], self._image_facts)
        self._add_size("the layer states none. Empty: that of the model's training scans is assumed.")
        self._locked += [self._image, self._axes, self._level, self._size]

    def _add_model(self) -> None:
        self._model = ModelBox("Shipped models, your own, or a file.")
        self._model.setPlaceholderText("No model chosen")
        self._model.model_chosen.connect(self.model_chosen)
        self._model.browse_clicked.connect(self.browse_clicked)
        self._model_facts = note_label("facts")
        self._fit = note_label("facts")
        self._fit_warning = note_label("warning")
        self._add(row("Model", self._model), self._problems["model"], self._model_facts, self._fit, self._fit_warning)
        self._locked.append(self._model)

    def _add_workers(self) -> None:
        """Add where is computed."""
        self.workers = WorkersFields()
        self._problems["workers"] = self.workers.problem
        self._add(self.workers)
        self._locked.append(self.workers)

    def _scan_parts(self) -> dict[str, QWidget]:
        """The fields by the object names they get."""
        return {
            "image": self._image,
            "axes": self._axes,
            "image_facts": self._image_facts,
            "level": self._level,
            "size": self._size,
            "model": self._model,
            "model_facts": self._model_facts,
            "fit": self._fit,
            "fit_warning": self._fit_warning,
        }

    # --- Setters ----------------------------------------------------------------------------------------------------

    def show_images(self, layers: Sequence[tuple[str, Any]], current: Any) -> None:
        """Layers to choose from, as (name, layer or layers), and the one chosen."""
        fill(self._image, layers, current)
        self._image.setEnabled(bool(layers) and not self.running)

    def show_axes(self, axes: str, readings: Sequence[str], facts: str) -> None:
        """How the axes are read, other plausible readings, and what follows from it."""
        fill(self._axes, [(reading, reading) for reading in readings], axes)
        self._axes.setEditText(axes)
        self._axes.setEnabled(bool(axes) and not self.running)
        say(self._image_facts, facts)

    def show_levels(self, shapes: Sequence[tuple[int, ...]], level: int) -> None:
        """Levels of a multiscale layer; hidden for others."""
        names = [f"{i}: {' × '.join(map(str, shape))}" for i, shape in enumerate(shapes)]
        fill(self._level, [(name, i) for i, name in enumerate(names)], level)
        self._level_row.setVisible(len(shapes) > 1)

    def show_models(self, models: ModelGroups, current: Any, facts: str) -> None:
        """Models under headings, the one chosen and its facts."""
        self._model.show_models(models, current)
        say(self._model_facts, facts)

    def show_fit(self, text: str, warning: str) -> None:
        """Whether the chosen model was trained on scans like this one; a warning where it was not."""
        say(self._fit, text)
        say(self._fit_warning, warning)


PARTS = {"whole": "Whole scan", "view": "What the view shows", "slice": "Current slice"}


class PartFields(QWidget):
    """Fields for the part of the scan and the slice axis.

    Parameters
    ----------
    tooltip : str
        Of the first box.
    """

    part_chosen = Signal(str)
    slice_axis_chosen = Signal(str)

    def __init__(self, tooltip: str) -> None:
        super().__init__()
        self.problem = note_label("problem")
        self._part = combo(tooltip)
        self._part.setObjectName("part")
        for part, text in PARTS.items():
            self._part.addItem(text, part)
        self._part.activated.connect(lambda _: self.part_chosen.emit(self._part.currentData()))
        self._slice_axis = combo("The axis along which a 2D model walks through the scan.")
        self._slice_axis.setObjectName("slice_axis")
        self._slice_axis.activated.connect(lambda _: self.slice_axis_chosen.emit(self._slice_axis.currentData()))
        self._slice_row = row("Slices along", self._slice_axis)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for widget in (row("Part", self._part), self.problem, self._slice_row):
            layout.addWidget(widget)

    def show_part(self, part: str, axes: Sequence[tuple[str, str]], slice_axis: str | None) -> None:
        """Show a choice; `axes` are those a 2D model may walk along, empty where none are needed."""
        self._part.setCurrentIndex(self._part.findData(part))
        fill(self._slice_axis, axes, slice_axis or "")
        self._slice_row.setVisible(bool(axes))
