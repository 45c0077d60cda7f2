"""View of the Train widget: signals out, setters in, no decisions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QAbstractSpinBox, QCheckBox, QDoubleSpinBox, QSpinBox, QVBoxLayout, QWidget

from napari_prosma.scan.selection import ModelGroups
from napari_prosma.scan.view import ModelBox
from napari_prosma.train.label_semantics_panel import LabelSemanticsPanel
from napari_prosma.train.pairs_table import PairsTable
from napari_prosma.train.plots import TrainingPlots
from napari_prosma.train.runs_panel import RunsPanel, TrainedModelPanel
from napari_prosma.train.series_panel import SeriesPanel
from napari_prosma.train.slice_bar import SlicePanel
from napari_prosma.widgets.config_form import ConfigForm
from napari_prosma.widgets.fields import Fold, NameField, button, call_it, combo, fill, note_label, row, say
from napari_prosma.widgets.job_view import JobView
from prosma_core.config.model import ClassInfo, EncoderKind
from prosma_core.config.training import LabelsConfig, TrainingConfig
from prosma_core.data.slices import SliceStates
from prosma_core.printable import plain

if TYPE_CHECKING:
    from napari_prosma.train.pairs import PairRow
    from prosma_core.runs.run_state import RunState


BUDGETS = {"preset": "Preset default", "epochs": "Epochs", "minutes": "Minutes"}
FIRST_EPOCHS, FIRST_MINUTES = 20, 10.0
"""What the boxes hold before a user writes into them."""
ESTIMATE = "Read the pairs and time a few steps on this device. Nothing is written."


class StartPanel(QWidget):
    """Start model, preset and budget; `inputs` are what changes them."""

    start_chosen = Signal(object)
    browse_clicked = Signal()
    preset_chosen = Signal(str)
    budget_chosen = Signal(object)
    estimate_clicked = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.problems = {"start": note_label("problem"), "budget": note_label("problem")}
        self._start = ModelBox("A new network, or a model to fine-tune, also with other classes.")
        self._start.model_chosen.connect(self.start_chosen)
        self._start.browse_clicked.connect(self.browse_clicked)
        self._facts, self._fit = note_label("facts"), note_label("warning")
        self._preset = combo("How large the network and how long the training is.")
        self._preset.activated.connect(lambda _: self.preset_chosen.emit(self._preset.currentData()))
        self._times = note_label("facts")
        self._estimate = button("Estimate the time", ESTIMATE, self.estimate_clicked)
        self._budget = combo("When training ends. It can be stopped at any time and resumed later.")
        self._budget.setMinimumContentsLength(2)  # a number stands beside it
        for kind, text in BUDGETS.items():
            self._budget.addItem(text, kind)
        self._budget.activated.connect(self._budget_edited)
        self._epochs = QSpinBox()
        self._epochs.setRange(1, 100_000)
        self._epochs.setValue(FIRST_EPOCHS)
        self._minutes = QDoubleSpinBox()
        self._minutes.setRange(0.1, 100_000)
        self._minutes.setDecimals(1)
        self._minutes.setSingleStep(5)
        self._minutes.setValue(FIRST_MINUTES)
        call_it(self._epochs, "Epochs", "How many epochs are trained.")
        call_it(self._minutes, "Minutes", "How many minutes the training takes.")
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for part in (row("Start from", self._start), self.problems["start"], self._facts, self._fit):
            layout.addWidget(part)
        layout.addWidget(row("Preset", self._preset))
        layout.addWidget(self._times)
        layout.addWidget(row("Budget", self._budget, self._epochs, self._minutes))
        layout.addWidget(self.problems["budget"])
        layout.addWidget(self._estimate)
        for box in (self._epochs, self._minutes):
            box.setKeyboardTracking(False)
            box.setButtonSymbols(QAbstractSpinBox.ButtonSymbols.NoButtons)
            box.setFixedWidth(60)
            box.valueChanged.connect(self._budget_edited)
        self.inputs = (self._start, self._preset, self._estimate, self._budget, self._epochs, self._minutes)
        parts = {"start": self._start, "start_facts": self._facts, "preset": self._preset, "estimate": self._estimate}
        parts |= {"times": self._times, "start_fit": self._fit}
        parts |= {"budget": self._budget, "epochs": self._epochs, "minutes": self._minutes}
        for name, widget in parts.items():
            widget.setObjectName(name)
        self.show_budget(None, None)

    def show_starts(self, groups: ModelGroups, current: Any, facts: str) -> None:
        """New networks (of value None, 2 or 3) and models, the chosen one and facts about it."""
        self._start.show_models(groups, current)
        say(self._facts, facts)

    def show_start_fit(self, warning: str) -> None:
        """Why the start model may not be meant for the scans; empty hides it."""
        say(self._fit, warning)

    def show_preset(self, presets: Sequence[str], current: str, times: str) -> None:
        """Presets, the chosen one, and the time of each as text."""
        fill(self._preset, [(name, name) for name in presets], current)
        say(self._times, times)

    def show_estimate(self, reason: str) -> None:
        """Whether the time can be estimated: a reason why not, or empty."""
        self._estimate.setEnabled(not reason)
        self._estimate.setToolTip(plain(reason or ESTIMATE))

    def show_budget(self, epochs: int | None, minutes: float | None) -> None:
        """How long training may take; both None: as the preset says."""
        kind = "epochs" if epochs is not None else "minutes" if minutes is not None else "preset"
        self._budget.setCurrentIndex(self._budget.findData(kind))
        boxes: Sequence[tuple[Any, float | None]] = ((self._epochs, epochs), (self._minutes, minutes))
        for box, value in boxes:
            box.setVisible(value is not None)
            if value is not None:
                box.blockSignals(True)
                box.setValue(value)
                box.blockSignals(False)

    def _budget_edited(self) -> None:
        kind = self._budget.currentData()
        budget = (
            self._epochs.value() if kind == "epochs" else None,
            self._minutes.value() if kind == "minutes" else None,
        )
        self.show_budget(*budget)
        self.budget_chosen.emit(budget)


OPTIONS = {
    "steps": "Steps per epoch",
    "batch_size": "Patches per step",
    "learning_rate": "Learning rate",
    "trained_share": "Share of trained weights",
    "distillation": "Distillation weight",
    "optimizer": "Optimizer",
    "weight_decay": "Weight decay",
    "foreground": "Foreground share",
    "deep_supervision": "Deep supervision",
    "removed_target": "Removed share",
    "patience": "Patience (epochs)",
    "validation_every": "Validate every",
    "validation_cases": "Validation cases",
    "keep": "Keep",
    "seed": "Seed",
}
NONE = {
    "batch_size": "planned",
    "trained_share": "automatic",
    "distillation": "automatic",
    "removed_target": "learned",
    "patience": "off",
}


ENCODERS: dict[EncoderKind | None, tuple[str, str]] = {
    None: ("automatic", "Pretrained for 2D images of 1 or 3 channels, else from scratch."),
    "efficientnet-lite0": ("pretrained (efficientnet-lite0)", "ImageNet weights, for 2D images of 1 or 3 channels."),
    "residual": ("from scratch (residual)", "The residual encoder of the ProSMA-UNet paper."),
}


class TrainAdvanced(Fold):
    """Advanced settings of a training; their defaults come from the preset."""

    encoder_chosen = Signal(object)
    options_changed = Signal(object)
    defaults_clicked = Signal()

    def __init__(self) -> None:
        super().__init__("Advanced")
        self.problem = note_label("problem")
        self._form = ConfigForm(TrainingConfig, OPTIONS, NONE)
        self._form.changed.connect(self.options_changed.emit)
        defaults = button(
            "Restore defaults", "All advanced settings back to those of the preset.", self.defaults_clicked
        )
        defaults.setObjectName("advanced_defaults")
        self._encoder = combo("What a new network reads images with. A model that is fine-tuned keeps its own.")
        self._encoder.setObjectName("encoder")
        for kind, (text, tooltip) in ENCODERS.items():
            self._encoder.addItem(text, kind)
            self._encoder.setItemData(self._encoder.count() - 1, tooltip, Qt.ItemDataRole.ToolTipRole)
        self._encoder.activated.connect(lambda _: self.encoder_chosen.emit(self._encoder.currentData()))
        self._encoder_row = row("Encoder", self._encoder)
        self.add(self.problem, self._encoder_row, self._form.native, defaults)

    def show_encoder(self, encoder: EncoderKind | None, *, new: bool) -> None:
        """Encoder of a new network; hidden where a model is fine-tuned."""
        self._encoder.setCurrentIndex(list(ENCODERS).index(encoder))
        self._encoder_row.setVisible(new)

    def show_options(self, options: TrainingConfig) -> None:
        """Show settings; those that have no field here are kept as they are."""
        self._form.set(options)


class TrainView(JobView):
    """Labels, training, curves, outcome, details and earlier runs from top to bottom; Train and status under them."""

    TITLE, PURPOSE = "ProSMA Train", "Train a model on annotated scans."
    PAGE = "train-widget"

    add_active_clicked = Signal()
    add_files_clicked = Signal()
    add_folder_clicked = Signal()
    series_clicked = Signal()
    series_files_clicked = Signal()
    remove_clicked = Signal(object)
    """Numbers of the selected pairs (list of int)."""
    fix_clicked = Signal(int, str)
    """Number of a pair, and one of its `PairRow.fixes`."""
    mark_clicked = Signal()
    slice_clicked = Signal(int)
    next_clicked = Signal()
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
    encoder_chosen = Signal(object)
    """EncoderKind, or None: planned."""
    options_changed = Signal(object)
    """TrainingConfig."""
    defaults_clicked = Signal()
    name_chosen = Signal(str)
    preview_toggled = Signal(bool)
    live_toggled = Signal(bool)
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
        self._pairs, self._meaning, self._start = PairsTable(), LabelSemanticsPanel(), StartPanel()
        self._slices, self.series = SlicePanel(), SeriesPanel()
        self._advanced, self._plots, self._outcome, self._runs = (
            TrainAdvanced(),
            TrainingPlots(),
            TrainedModelPanel(),
            RunsPanel(),
        )
        self._problems |= {"pairs": self._pairs.problem, "advanced": self._advanced.problem}
        self._problems |= self._meaning.problems | self._start.problems
        self._name = NameField("Name of the model, and of its file.")
        self._name.editingFinished.connect(lambda: self.name_chosen.emit(self._name.text().strip()))
        self._add(self._slices)
        self._choices = self._begin_part()
        self.series.listed.connect(lambda: self._reveal(self.series))
        self._add(self.series)
        self._begin_section("Labels")
        self._add(self._pairs)
        self._add_size("of the images that state none.")
        self._add(self._meaning)
        self._end_part()
        self._begin_section("Training")
        self._add(self._start)
        self._add_device()
        self._add(row("Name", self._name), self._problems["name"])
        self._end_part()
        self._add(self._advanced)
        self._end_part()
        self._add(self._plots)
        self._add_preview()
        self._add_looks()
        self._add(self._outcome)
        self._add_run("Train")
        self._add(self._runs)
        self._locked += [
            self._pairs.buttons,
            *self._start.inputs,
            self._size,
            self._name,
            self._advanced,
            self._runs.buttons,
        ]
        self._worded.append(self._advanced)
        self._pass_on()
        live = {"live": self._live, "live_facts": self._live_facts}
        self._finish(name=self._name, size=self._size, preview=self._preview, preview_facts=self._preview_facts, **live)

    def _add_preview(self) -> None:
        self._preview = QCheckBox("Preview on the scan")
        self._preview.setToolTip("After each validation, segment the scan in view and show the result.")
        self._preview.clicked.connect(self.preview_toggled)
        self._preview_facts = note_label("facts")
        self._preview.setVisible(False)
        self._live = QCheckBox("Live: learn what is painted meanwhile")
        self._live.setToolTip(
            "Labels that you paint while it trains are learned within an epoch. Training continues as long as you "
            "paint, then for its budget, and waits some minutes for more. Off: labels as they were when it began."
        )
        self._live.clicked.connect(self.live_toggled)
        self._live_facts = note_label("facts")
        self._add(self._preview, self._preview_facts, self._live, self._live_facts)

    def _pass_on(self) -> None:
        """Make the panels' signals this view's."""
        names: dict[QWidget, str] = {
            self._pairs: "add_active_clicked add_files_clicked add_folder_clicked remove_clicked fix_clicked "
            "series_clicked series_files_clicked",
            self._slices: "mark_clicked slice_clicked next_clicked",
            self._meaning: "labels_changed class_changed",
            self._start: "start_chosen browse_clicked preset_chosen budget_chosen estimate_clicked",
            self._advanced: "encoder_chosen options_changed defaults_clicked",
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
            self._choices.setVisible(True)

    def show_training(self) -> None:
        """A training has begun: its curves take the place of the choices."""
        self.show_running(True)
        self.show_notes("")
        self._choices.setVisible(False)

    def show_pairs(self, rows: Sequence[PairRow]) -> None:
        """Pairs to train on, with what each holds and what is wrong with it."""
        self._pairs.show_pairs(rows)

    def show_slices(self, states: SliceStates | None, name: str) -> None:
        """States of the slices of the labels of this name; None hides them."""
        self._slices.show_slices(states, name)

    def show_slice(self, index: int | None) -> None:
        """Number of the slice in view; None where none is."""
        self._slices.show_slice(index)

    def show_next(self, *, enabled: bool, tooltip: str) -> None:
        """Whether a slice can be suggested, and by whom, or why not."""
        self._slices.show_next(enabled=enabled, tooltip=tooltip)

    def show_suggestion(self, text: str) -> None:
        """Which slice was suggested last, and why; empty hides it."""
        self._slices.show_suggestion(text)

    def show_size(self, size: str, *, asked: bool, word: str) -> None:
        """As of `JobView`; labels and settings have the word, too."""
        super().show_size(size, asked=asked, word=word)
        self._meaning.show_word(word)

    def show_labels(self, labels: LabelsConfig, why: str = "") -> None:
        """Meaning of the label values, and why the widget chose it."""
        self._meaning.show_labels(labels, why)

    def show_corrected(self, corrected: bool) -> None:
        """Whether all labels are such that only checked and edited slices count."""
        self._meaning.show_corrected(corrected)

    def show_classes(self, classes: Sequence[ClassInfo], problem: str = "") -> None:
        """The classes, without the background; `problem` says why one was not changed."""
        self._meaning.show_classes(classes, problem)

    def show_starts(self, groups: ModelGroups, current: Any, facts: str) -> None:
        """New networks (of value None, 2 or 3) and models, the chosen one and facts about it."""
        self._start.show_starts(groups, current, facts)

    def show_start_fit(self, warning: str) -> None:
        """Why the start model may not be meant for the scans; empty hides it."""
        self._start.show_start_fit(warning)

    def show_preset(self, presets: Sequence[str], current: str, times: str) -> None:
        """Presets, the chosen one, and the time of each as text."""
        self._start.show_preset(presets, current, times)

    def show_estimate(self, reason: str) -> None:
        """Whether the time can be estimated: a reason why not, or empty."""
        self._start.show_estimate(reason)

    def show_budget(self, epochs: int | None, minutes: float | None) -> None:
        """How long training may take; both None: as the preset says."""
        self._start.show_budget(epochs, minutes)

    def show_encoder(self, encoder: EncoderKind | None, *, new: bool) -> None:
        """Encoder of a new network (None: planned); hidden where a model is fine-tuned."""
        self._advanced.show_encoder(encoder, new=new)

    def show_options(self, options: TrainingConfig) -> None:
        """Settings of the loop."""
        self._advanced.show_options(options)

    def show_name(self, name: str) -> None:
        """Name of the model, unless a user is writing it."""
        if not self._name.hasFocus():
            self._name.setText(name)

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

    def show_live(self, *, checked: bool, text: str) -> None:
        """Whether a training learns what is painted while it runs, and what it has learned so."""
        self._live.setChecked(checked)
        say(self._live_facts, text)

    def show_outcome(
        self, before: Mapping[str, float] | None, after: Mapping[str, float | None], words: str, held_out: str
    ) -> None:
        """Dice per class of the start model (None: there was none) and of the new one, and a text comparing them."""
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
