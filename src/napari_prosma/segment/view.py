"""View of the Segment widget: signals out, setters in, no decisions."""

from __future__ import annotations

from collections.abc import Sequence
from math import floor, log10

from qtpy.QtCore import Signal
from qtpy.QtGui import QGuiApplication
from qtpy.QtWidgets import QHBoxLayout, QVBoxLayout, QWidget

from napari_prosma.scan.view import PartFields, ScanView
from napari_prosma.segment.measures import ClassRow
from napari_prosma.widgets.config_form import ConfigForm
from napari_prosma.widgets.fields import SMALL, Fold, NameField, button, cell, note_label, row, say, table
from prosma_core.config.inference import InferenceConfig
from prosma_core.printable import plain

CORRECT = "Make an editable copy of the labels and pick the brush."
CORRECT_CLOSED = "The scan was closed: the labels can be corrected and saved, but not trained on."
GATES = "See what the skip connections kept and removed."
GATES_CLOSED = "The scan was closed. Open it and segment it again to inspect the gates."


class SegmentResultPanel(QWidget):
    """Result of a segmentation; hidden until there is one."""

    save_clicked = Signal()
    correct_clicked = Signal()
    gates_clicked = Signal()
    command_clicked = Signal()
    recount_clicked = Signal()
    shown = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._rows: Sequence[ClassRow] = ()
        self._size = ""
        self._title = note_label("facts")
        self._title.setObjectName("result_title")
        self._table = table("Size of each class", ("Class", "Count", "Size"))
        self._table.setStyleSheet(SMALL)
        self.save = button("Save result", "Write the labels next to the scan, with its geometry.", self.save_clicked)
        self._correct = button("Correct && fine-tune", CORRECT, self.correct_clicked)
        self._gates = button("Inspect gates", GATES, self.gates_clicked)
        self._command = button(
            "Show run command", "The command that repeats this without napari.", self.command_clicked
        )
        self._copy = button("Copy CSV", "Copy the table as comma-separated values.", self._copy_csv)
        self._recount = button("Count again", "Labels changed since: count them again.", self.recount_clicked)
        self._recount.setVisible(False)
        self._nothing = note_label("warning")
        self._nothing.setObjectName("nothing_found")
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 8, 0, 0)
        head = QHBoxLayout()
        head.addWidget(self._title, 1)
        head.addWidget(self._copy)
        head.addWidget(self._recount)
        layout.addLayout(head)
        layout.addWidget(self._nothing)
        layout.addWidget(self._table)
        for part in (self._correct, self._gates, self._command):
            layout.addWidget(part)
        self.hide()

    def show_result(
        self, title: str, rows: Sequence[ClassRow], size: str, nothing: str = "", counted: str = "Voxels"
    ) -> None:
        """Show a result.

        Parameters
        ----------
        title : str
        rows : sequence of ClassRow
        size : str
            Heading of the sizes, such as "Volume (mL)", empty where there are none.
        nothing : str
            What to say of an empty result.
        counted : str
            Heading of the counts: pixels where the scan is a picture.
        """
        self._rows, self._counted, self._size = rows, counted.lower(), size
        say(self._nothing, nothing)
        say(self._title, title)
        self._table.setHorizontalHeaderLabels(["Class", counted, size.replace(" (", "\n(")])  # room for the names
        self._table.setColumnHidden(2, not size)
        self._table.setRowCount(len(rows))
        numbers = _numbers([line.size for line in rows])
        for i, (line, number) in enumerate(zip(rows, numbers, strict=True)):
            self._table.setItem(i, 0, cell(f"{line.value}  {line.name}", color=line.color, tooltip=line.name))
            self._table.setItem(i, 1, cell(f"{line.voxels:,}", right=True))
            self._table.setItem(i, 2, cell(number, right=True))
        self._table.fit_height(8 * self._table.verticalHeader().defaultSectionSize())
        self.setVisible(True)
        self.save.setVisible(True)
        self.shown.emit()

    def hide(self) -> None:
        """Hide the panel, and the button that saves, which stands elsewhere."""
        self.setVisible(False)
        self.save.setVisible(False)

    def show_stale(self, stale: bool) -> None:
        """Whether the labels were changed since they were counted, and are counted again only on demand."""
        self._recount.setVisible(stale)
        self._copy.setVisible(not stale)

    def show_scan_open(self, is_open: bool) -> None:
        """Whether the scan is in the viewer still."""
        self._gates.setEnabled(is_open)
        self._gates.setToolTip(plain(GATES if is_open else GATES_CLOSED))
        self._correct.setToolTip(plain(CORRECT if is_open else CORRECT_CLOSED))

    def show_title(self, title: str) -> None:
        """The heading alone: the name of the result's layer."""
        say(self._title, title)

    def _copy_csv(self) -> None:
        QGuiApplication.clipboard().setText(self.csv())

    def csv(self) -> str:
        """The table as comma-separated values."""
        lines = [f"value,name,{self._counted}" + (f",{self._size}" if self._size else "")]
        for line in self._rows:
            name = '"' + line.name.replace('"', '""') + '"'
            lines.append(f"{line.value},{name},{line.voxels}" + (f",{line.size:.9g}" if line.size is not None else ""))
        return "\n".join(lines) + "\n"


def _numbers(sizes: Sequence[float | None]) -> list[str]:
    """Sizes with the same decimals: three digits of the largest, two of the smallest at least; never an exponent."""
    some = [size for size in sizes if size]
    decimals = max(0, 2 - floor(log10(max(some))), 1 - floor(log10(min(some)))) if some else 0
    return ["" if size is None else f"{size:,.{decimals}f}" if size else "0" for size in sizes]


class SegmentView(ScanView):
    """Fields, advanced settings, details and result from top to bottom; Segment, progress and status under them."""

    TITLE, PURPOSE = "ProSMA Segment", "Label a scan with a trained model."
    PAGE = "segment-widget"
    train_clicked = Signal()

    def __init__(self) -> None:
        super().__init__(("image", "axes", "size", "model", "device"))
        self.advanced = SegmentAdvanced()
        self._problems["part"] = self.advanced.part.problem
        self._add_image("The scan to segment: an Image layer.")
        self._add_model()
        self._train = button(
            "Train a model on this scan",
            "Paint a few slices of it and train: opens the Train widget.",
            self.train_clicked,
        )
        self._train.setVisible(False)
        self._add(self._train)
        self._add_device()
        self._add_looks()
        self.result = SegmentResultPanel()
        self._add(self.advanced)
        self._add_workers()
        self._add_run("Segment", self.result.save)
        self._add(self.result)
        self.result.shown.connect(lambda: self._reveal(self.result))
        self._locked += [self.advanced, self._train]
        self._worded.append(self.advanced)
        self._finish(**self._scan_parts(), train=self._train)

    def show_train(self, offered: bool) -> None:
        """Whether training a model on the scan is offered: where none is meant for it."""
        self._train.setVisible(offered)


OPTIONS = {
    "overlap": "Tile overlap",
    "mirror": "Average over mirrored copies",
    "probabilities": "Probability layer",
    "entropy": "Uncertainty layer (entropy)",
    "threshold": "Minimum probability",
    "min_size": "Minimum size (voxels)",
    "objects": "Separate objects",
    "keep_largest": "Keep largest piece per class",
    "fill_holes": "Fill holes",
}
NONE = {"threshold": "most likely class"}


class SegmentAdvanced(Fold):
    """Part of the scan, options of the segmentation, name of the result."""

    options_changed = Signal(object)
    name_chosen = Signal(str)
    defaults_clicked = Signal()

    def __init__(self) -> None:
        super().__init__("Advanced")
        self.part = PartFields("Only this part of the scan gets labels. The model sees its surroundings as well.")
        self._form = ConfigForm(InferenceConfig, OPTIONS, NONE)
        self._form.changed.connect(self.options_changed.emit)
        self._name = NameField("Name of the result layer.")
        self._name.editingFinished.connect(lambda: self.name_chosen.emit(self._name.text().strip()))
        defaults = button("Restore defaults", "All advanced settings back to their defaults.", self.defaults_clicked)
        self.add(self.part, self._form.native, row("Result name", self._name), defaults)

    def show_options(self, options: InferenceConfig, part: str, axes: Sequence[tuple[str, str]], name: str) -> None:
        """Show settings; `axes` are those a 2D model may walk along, empty where none are needed."""
        self._form.set(options)
        self.part.show_part(part, axes, options.slice_axis)
        if not self._name.hasFocus():
            self._name.setText(name)

    def show_name_hint(self, name: str) -> None:
        """Name the result gets unless another is given."""
        self._name.setPlaceholderText(name)
