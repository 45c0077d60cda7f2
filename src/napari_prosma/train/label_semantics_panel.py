"""Meaning of the label values: unlabeled voxels, special values, classes with names and colors."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QColor
from qtpy.QtWidgets import (
    QAbstractItemView,
    QCheckBox,
    QColorDialog,
    QSizePolicy,
    QSpinBox,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_prosma.widgets.fields import PlainLabel, call_it, cell, combo, note_label, row, say, say_word, table, worded
from prosma_core.config.model import ClassInfo
from prosma_core.config.training import LabelsConfig
from prosma_core.errors import ConfigError
from prosma_core.printable import plain

ZERO = {
    "background": ("Background", "Every unlabeled voxel is background."),
    "unlabeled": (
        "Ignored (scribbles)",
        "Only labeled voxels count. Label some background as well.",
    ),
    "annotated_slices": (
        "Ignored in other slices",
        "Slices containing labels are fully annotated; other slices are ignored.",
    ),
}
CORRECTED = "Only checked and edited slices count; unlabeled voxels in them are background."
GRAY = {
    "refuse": ("Ask", "Gray values in a mask are named in its row, with what can be done."),
    "threshold": ("Threshold at half", "Above half of the largest value is one class."),
    "classes": ("Each value is a class", "Gray values are classes like others."),
}
AXES = {None: "automatic", "z": "z", "y": "y", "x": "x"}
NONE = "none"
ALL_EDITS, NO_EDITS = QAbstractItemView.EditTrigger.AllEditTriggers, QAbstractItemView.EditTrigger.NoEditTriggers
CLASSES_HEIGHT = 210
"""Most pixels of the rows of classes; more are scrolled to."""


class LabelSemanticsPanel(QWidget):
    """Meaning of 0, special values, and the table of classes."""

    labels_changed = Signal(object)
    class_changed = Signal(int, str, str)

    def __init__(self) -> None:
        super().__init__()
        self.problems = {"labels": note_label("problem"), "classes": note_label("problem")}
        self._labels, self._why, self._corrected, self._word = LabelsConfig(), "", False, "voxel"
        self._classes: Sequence[ClassInfo] = ()
        self._zero = combo("What unlabeled voxels (value 0) are.")
        for value, (text, tooltip) in ZERO.items():
            self._zero.addItem(text, value)
            self._zero.setItemData(self._zero.count() - 1, tooltip, Qt.ItemDataRole.ToolTipRole)
        self._zero_facts = note_label("facts")
        self._axis = combo("The axis of the annotated slices. Automatic: the sparsest axis.")
        for axis, text in AXES.items():
            self._axis.addItem(text, axis)
        self._axis_row = row("Slices along", self._axis)
        self._ignore = _value_box("Value of voxels that take no part in training and measures.")
        self._background = _value_box("The painted value that means background, needed where 0 does not.")
        self._background_row = row("Background", self._background)
        self._gray = combo(
            "What to do with masks that have gray edges (JPEG, resized), and with images given as labels."
        )
        for value, (text, tooltip) in GRAY.items():
            self._gray.addItem(text, value)
            self._gray.setItemData(self._gray.count() - 1, tooltip, Qt.ItemDataRole.ToolTipRole)
        self._gray_row = row("Gray masks", self._gray)
        self._one_class = QCheckBox("Merge labels into one class")
        self._one_class.setToolTip("For labels that number objects, such as cells: all above 0 become class 1.")
        self._separate = QCheckBox("Keep touching objects apart")
        self._separate.setToolTip(
            "For labels that number objects: what lies between touching ones becomes background, so that the model's "
            "connected pieces count them (Segment: Separate objects)."
        )
        self._table = table("Classes: label value and name", ("Value", "Name"), stretched=1)
        self._table.setEditTriggers(ALL_EDITS)
        self._table.itemChanged.connect(self._renamed)
        self._table.cellActivated.connect(self._pick_color)
        self._table.cellClicked.connect(self._pick_color)
        self._connect_and_name()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        call_it(self._zero, "Unlabeled voxels are")
        for part in (
            PlainLabel("Unlabeled voxels are"),
            self._zero,
            self._zero_facts,
            self._axis_row,
            self._background_row,
        ):
            layout.addWidget(part)
        for part in (
            row("Ignore value", self._ignore),
            self._gray_row,
            self._one_class,
            self._separate,
            self.problems["labels"],
            self._table,
        ):
            layout.addWidget(part)
        layout.addWidget(self.problems["classes"])
        self.show_labels(self._labels)
        self.show_classes(())

    def _connect_and_name(self) -> None:
        for name, box in (("zero", self._zero), ("slice_axis", self._axis), ("gray", self._gray)):
            box.setObjectName(name)
            box.activated.connect(self._edited)
        for name, spin in (("ignore", self._ignore), ("background_value", self._background)):
            spin.setObjectName(name)
            spin.valueChanged.connect(self._edited)
        for name, check in (("one_class", self._one_class), ("separate", self._separate)):
            check.setObjectName(name)
            check.clicked.connect(self._edited)
        self._zero_facts.setObjectName("zero_facts")
        self._table.setObjectName("classes")

    def show_labels(self, labels: LabelsConfig, why: str = "") -> None:
        """Show the meaning of the values, and why it was chosen; a background value is asked for where 0 is none."""
        self._labels, self._why = labels, why
        self._zero.setCurrentIndex(self._zero.findData(labels.zero))
        self._show_meaning()
        self._axis.setCurrentIndex(list(AXES).index(labels.slice_axis))
        self._axis_row.setVisible(labels.zero == "annotated_slices")
        self._background_row.setVisible(labels.sparse or labels.background is not None)
        self._gray.setCurrentIndex(list(GRAY).index(labels.gray))
        self._gray_row.setVisible(labels.gray != "refuse")
        self._one_class.setChecked(labels.one_class)
        self._separate.setChecked(labels.separate)
        self._separate.setVisible(labels.one_class)
        for spin, value in ((self._ignore, labels.ignore), (self._background, labels.background)):
            spin.blockSignals(True)
            spin.setValue(value or 0)
            spin.blockSignals(False)

    def show_corrected(self, corrected: bool) -> None:
        """Whether all labels are such that only checked and edited slices count."""
        self._corrected = corrected
        self._show_meaning()

    def show_word(self, word: str) -> None:
        """What one place of the images is called: voxel, or of pictures pixel."""
        if word == self._word:
            return
        self._word = word
        say_word(self, word)
        for i, (_, tooltip) in enumerate(ZERO.values()):
            self._zero.setItemData(i, worded(tooltip, word), Qt.ItemDataRole.ToolTipRole)
        self._show_meaning()

    def _show_meaning(self) -> None:
        zero, facts = self._labels.zero, worded(CORRECTED, self._word)
        if not self._corrected or zero != "background":
            facts = f"{worded(ZERO[zero][1], self._word)} {self._why}".strip()
        say(self._zero_facts, facts)

    def show_classes(self, classes: Sequence[ClassInfo], problem: str = "") -> None:
        """The classes, of which a click on a color or a name changes it; `problem` says why one was not changed."""
        self._classes = classes
        self._table.blockSignals(True)
        self._table.setRowCount(len(classes))
        for i, info in enumerate(classes):
            value = cell(str(info.value), color=info.color, tooltip="Click to choose another color.")
            value.setFlags(value.flags() & ~Qt.ItemFlag.ItemIsEditable)
            self._table.setItem(i, 0, value)
            self._table.setItem(i, 1, cell(info.name, tooltip=f"{info.name}\nClick to change the name."))
        self._table.blockSignals(False)
        self._table.setVisible(bool(classes))
        self._table.fit_height(CLASSES_HEIGHT)
        if problem:
            say(self.problems["classes"], problem)

    def lock(self, locked: bool) -> None:
        """Let nothing be changed, while all of it can be read."""
        for box in (
            self._zero,
            self._axis,
            self._ignore,
            self._background,
            self._gray,
            self._one_class,
            self._separate,
        ):
            box.setEnabled(not locked)
        self._table.setEditTriggers(NO_EDITS if locked else ALL_EDITS)

    def _edited(self) -> None:
        values = {
            "zero": self._zero.currentData(),
            "slice_axis": self._axis.currentData(),
            "ignore": self._ignore.value() or None,
            "background": self._background.value() or None,
            "gray": self._gray.currentData(),
            "one_class": self._one_class.isChecked(),
            "separate": self._one_class.isChecked() and self._separate.isChecked(),
        }
        try:
            labels = LabelsConfig.parse({**self._labels.model_dump(), **values}, "The meaning of the labels")
        except ConfigError:
            same = self._ignore.value()
            self.show_labels(self._labels)
            say(self.problems["labels"], f"Ignore value and background cannot both be {same}: give two values.")
            return
        say(self.problems["labels"], "")
        self.show_labels(labels)
        self.labels_changed.emit(labels)

    def _renamed(self, item: QTableWidgetItem) -> None:
        info, name = self._classes[item.row()], item.text().strip()
        if not name:
            self.show_classes(self._classes)
        elif name != info.name:
            self.class_changed.emit(info.value, name, info.color)

    def _pick_color(self, line: int, column: int) -> None:
        if column != 0 or self._table.editTriggers() == NO_EDITS or self.findChild(QColorDialog) is not None:
            return
        info = self._classes[line]
        dialog = QColorDialog(QColor(info.color), self)
        dialog.setWindowTitle(f"Color of {info.name}")
        dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        dialog.colorSelected.connect(lambda color: self.class_changed.emit(info.value, info.name, color.name()))
        dialog.open()


def _value_box(tooltip: str) -> QSpinBox:
    """A box for a label value; 0 stands for none."""
    box = QSpinBox()
    box.setRange(0, 65535)
    box.setSpecialValueText(NONE)
    box.setKeyboardTracking(False)
    box.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
    box.setToolTip(plain(tooltip))
    return box
