"""The Train widget as a person sees it: signals out, setters in, no decisions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QCheckBox, QLineEdit, QWidget

from napari_prosma.train.label_semantics_panel import MeaningPanel
from napari_prosma.train.pairs_table import PairsTable
from napari_prosma.train.plots import TrainingPlots
from napari_prosma.train.runs_panel import OutcomePanel, RunsPanel
from napari_prosma.train.start_panel import StartPanel, TrainAdvanced
from napari_prosma.widgets.fields import note_label, row
from napari_prosma.widgets.job_view import JobView
from prosma_core.config.model import ClassInfo
from prosma_core.config.training import LabelsConfig, TrainingConfig

if TYPE_CHECKING:
    from napari_prosma.train.pairs import PairRow
    from prosma_core.runs.run_state import RunState


class TrainView(JobView):
    """Pairs, meaning of labels, start, budget, the Train button, curves, outcome and earlier runs, top to bottom."""

    add_active_clicked = Signal()
    add_files_clicked = Signal()
    add_folder_clicked = Signal()
    remove_clicked = Signal(object)
    """Numbers of the selected pairs (list of int)."""
    fix_clicked = Signal(int, str)
    """Number of a pair, and one of its `PairRow.fixes`."""
    labels_changed = Signal(object)
    """LabelsConfig."""
    class_changed = Signal(int, str, str)
    """Value, name, color."""
    start_chosen = Signal(object)
    """What `show_starts` was given: 2, 3 or a model."""
    browse_clicked = Signal()
    preset_chosen = Signal(str)
    budget_chosen = Signal(object)
    """(epochs or None, minutes or None); both None: as the preset says."""
    estimate_clicked = Signal()
    options_changed = Signal(object)
    """TrainingConfig."""
    defaults_clicked = Signal()
    name_chosen = Signal(str)
    size_chosen = Signal(str)
    preview_toggled = Signal(bool)
    use_clicked = Signal()
    save_as_clicked = Signal()
    folder_clicked = Signal()
    resume_clicked = Signal(object)
    """RunState, as of the three below."""
    more_clicked = Signal(object, int)
    keep_clicked = Signal(object)
    run_folder_clicked = Signal(object)

    def __init__(self) -> None:
        super().__init__(("size", "device", "name"))
        self._pairs, self._meaning, self._start = PairsTable(), MeaningPanel(), StartPanel()
        self._advanced, self._plots, self._outcome, self._runs = (
            TrainAdvanced(),
            TrainingPlots(),
            OutcomePanel(),
            RunsPanel(),
        )
        self._problems |= {"pairs": self._pairs.problem, "advanced": self._advanced.problem}
        self._problems |= self._meaning.problems | self._start.problems
        self._name = QLineEdit()
        self._name.setToolTip("Name of the model, and of its file.")
        self._name.editingFinished.connect(lambda: self.name_chosen.emit(self._name.text().strip()))
        self._setup = self._begin_section()
        self._size = QLineEdit()
        self._size.setPlaceholderText("unknown: z, y, x mm")
        self._size.setToolTip("Size of a voxel of the images that state none, such as 3, 1, 1 mm.")
        self._size.editingFinished.connect(lambda: self.size_chosen.emit(self._size.text().strip()))
        self._size_row = row("Voxel size", self._size)
        self._size_row.setVisible(False)
        self._add(self._pairs, self._size_row, self._problems["size"], self._meaning, self._start)
        self._add_device()
        self._add(row("Name", self._name), self._problems["name"], self._advanced)
        self._end_section()
        self._add_run("Train")
        self._add_preview()
        self._add(self._plots, self._outcome, self._runs)
        self._locked += [
            self._pairs.buttons,
            *self._start.inputs,
            self._size,
            self._name,
            self._advanced,
            self._runs.buttons,
        ]
        self._pass_on()
        self._finish(name=self._name, size=self._size, preview=self._preview, preview_facts=self._preview_facts)

    def _add_preview(self) -> None:
        self._preview = QCheckBox("Preview on the scan")
        self._preview.setToolTip("After each validation, show what the model makes of the scan in view.")
        self._preview.clicked.connect(self.preview_toggled)
        self._preview_facts = note_label("facts")
        self._preview.setVisible(False)
        self._add(self._preview, self._preview_facts)

    def _pass_on(self) -> None:
        """Make the panels' signals this view's."""
        names: dict[QWidget, str] = {
            self._pairs: "add_active_clicked add_files_clicked add_folder_clicked remove_clicked fix_clicked",
            self._meaning: "labels_changed class_changed",
            self._start: "start_chosen browse_clicked preset_chosen budget_chosen estimate_clicked",
            self._advanced: "options_changed defaults_clicked",
            self._outcome: "use_clicked save_as_clicked folder_clicked",
            self._runs: "resume_clicked more_clicked keep_clicked run_folder_clicked",
        }
        for panel, signals in names.items():
            for name in signals.split():
                getattr(panel, name).connect(getattr(self, name))

    # --- Setters ----------------------------------------------------------------------------------------------------

    def show_running(self, running: bool) -> None:
        """Lock the choices while a job runs."""
        super().show_running(running)
        self._meaning.lock(running)
        if not running:
            self._setup.setVisible(True)

    def show_training(self) -> None:
        """A training has begun: its curves take the place of the choices."""
        self.show_running(True)
        self.show_notes("")
        self._setup.setVisible(False)

    def show_pairs(self, rows: Sequence[PairRow]) -> None:
        """Pairs to train on, with what each holds and what is wrong with it."""
        self._pairs.show_pairs(rows)

    def show_labels(self, labels: LabelsConfig) -> None:
        """What the label values mean."""
        self._meaning.show_labels(labels)

    def show_classes(self, classes: Sequence[ClassInfo]) -> None:
        """The classes, without the background."""
        self._meaning.show_classes(classes)

    def show_starts(self, items: Sequence[tuple[str, Any]], current: Any, facts: str) -> None:
        """What to start from, as (words, 2 | 3 | model); the one chosen and what it means."""
        self._start.show_starts(items, current, facts)

    def show_preset(self, current: str, times: str) -> None:
        """The preset chosen, and how long each takes, in words."""
        self._start.show_preset(current, times)

    def show_estimate(self, reason: str) -> None:
        """Whether the time can be estimated: a reason why not, or empty."""
        self._start.show_estimate(reason)

    def show_budget(self, epochs: int | None, minutes: float | None) -> None:
        """How long training may take; both None: as the preset says."""
        self._start.show_budget(epochs, minutes)

    def show_options(self, options: TrainingConfig) -> None:
        """Settings of the loop."""
        self._advanced.show_options(options)

    def show_name(self, name: str) -> None:
        """Name of the model, unless a person is writing it."""
        if not self._name.hasFocus():
            self._name.setText(name)

    def show_size(self, size: str, *, asked: bool) -> None:
        """Voxel size of the images that state none, unless a person is writing it; hidden where it is of no use."""
        if not self._size.hasFocus():
            self._size.setText(size)
        self._size_row.setVisible(asked)

    def show_problem(self, field: str | None, text: str) -> None:
        """Why Train is disabled, under its field; None: it is not."""
        super().show_problem(field, text)
        if field == "advanced":
            self._advanced.expand()

    def show_history(self, rows: Sequence[Mapping[str, Any]], classes: Sequence[ClassInfo]) -> None:
        """Curves of all epochs so far, from rows of history.csv; none hides them."""
        self._plots.show_history(rows, classes)

    def show_step(self, epoch: float, loss: float) -> None:
        """The loss of one step; `epoch` counts from 0 and has a fraction: 2.5 is in the middle of the third."""
        self._plots.show_step(epoch, loss)

    def show_preview(self, *, checked: bool, enabled: bool, text: str) -> None:
        """Whether the present prediction is shown on the scan, and what is to be known of it."""
        self._preview.setChecked(checked)
        self._preview.setEnabled(enabled)
        self._preview.setVisible(True)
        self._preview_facts.setText(text)
        self._preview_facts.setVisible(bool(text))

    def show_outcome(
        self, before: Mapping[str, float] | None, after: Mapping[str, float | None], words: str, held_out: str
    ) -> None:
        """Dice per class of the start model (None: there was none) and of the new one, and both in words."""
        self._outcome.show_outcome(before, after, words, held_out)
        self._reveal(self._outcome)

    def hide_outcome(self) -> None:
        """Nothing was trained yet, or it is trained anew."""
        self._outcome.setVisible(False)

    def show_runs(self, runs: Sequence[RunState]) -> None:
        """Earlier runs, the newest first."""
        self._runs.show_runs(runs)

    def unfold_runs(self) -> None:
        """Have the earlier runs open."""
        self._runs.expand()
