"""Presenter of the Train widget, and the Protocol of its view. No Qt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from napari_prosma.jobs.run import RunView, ViewSignal
from napari_prosma.jobs.session import LooksView, Session, format_devices
from napari_prosma.scan.selection import ModelGroups, ModelRow, Problem, model_rows
from napari_prosma.shortcuts import with_key
from napari_prosma.train.pairs import PairRow
from napari_prosma.train.series_work import AbstractSeriesView
from napari_prosma.train.slice_marks import AbstractSliceView
from napari_prosma.train.state import TrainChoices, TrainPlan, gpu_choices, start_warning, usual_training, voxel_word
from prosma_core.config.model import ClassInfo, EncoderKind
from prosma_core.config.training import LabelsConfig, TrainingConfig, presets_for
from prosma_core.data.fit import compare
from prosma_core.data.look import describe
from prosma_core.engine.messages import Ready
from prosma_core.runs.run_state import RunState

PAIRS_READ = "The pairs are being read."
NEW = {None: "New model", 2: "New 2D model", 3: "New 3D model"}
NEW_FACTS = "Size, {} size and tile are planned from the pairs."


class AbstractTrainView(RunView, AbstractSliceView, LooksView, Protocol):
    """Protocol of the Train widget's view."""

    @property
    def add_active_clicked(self) -> ViewSignal:
        """Add the selected layers."""

    @property
    def remove_clicked(self) -> ViewSignal:
        """Numbers of the selected pairs (list of int)."""

    @property
    def fix_clicked(self) -> ViewSignal:
        """Number of a pair (int), and one of its `PairRow.fixes` (str)."""

    @property
    def labels_changed(self) -> ViewSignal:
        """LabelsConfig."""

    @property
    def class_changed(self) -> ViewSignal:
        """Value (int), name and color (str)."""

    @property
    def start_chosen(self) -> ViewSignal:
        """What `show_starts` was given: None, 2, 3 or a model."""

    @property
    def preset_chosen(self) -> ViewSignal:
        """Name of a preset (str)."""

    @property
    def budget_chosen(self) -> ViewSignal:
        """(epochs or None, minutes or None); both None: as the preset says."""

    @property
    def encoder_chosen(self) -> ViewSignal:
        """Encoder of a new network, or None: planned."""

    @property
    def options_changed(self) -> ViewSignal:
        """TrainingConfig."""

    @property
    def defaults_clicked(self) -> ViewSignal:
        """All advanced settings as the run has them by itself."""

    @property
    def device_chosen(self) -> ViewSignal:
        """Name of a device (str)."""

    @property
    def name_chosen(self) -> ViewSignal:
        """Name of the model as typed (str)."""

    @property
    def size_chosen(self) -> ViewSignal:
        """Voxel size as typed (str)."""

    @property
    def run_clicked(self) -> ViewSignal:
        """The main button."""

    @property
    def estimate_clicked(self) -> ViewSignal:
        """Estimate the time."""

    @property
    def preview_toggled(self) -> ViewSignal:
        """Whether it is wanted (bool)."""

    @property
    def live_toggled(self) -> ViewSignal:
        """Whether a training learns what is painted while it runs (bool)."""

    @property
    def resume_clicked(self) -> ViewSignal:
        """RunState."""

    @property
    def more_clicked(self) -> ViewSignal:
        """RunState, and epochs more than it was meant to have (int)."""

    @property
    def keep_clicked(self) -> ViewSignal:
        """RunState."""

    @property
    def free_clicked(self) -> ViewSignal:
        """End the engine."""

    @property
    def series(self) -> AbstractSeriesView:
        """Scans that are gone through."""

    def show_training(self) -> None:
        """A training has begun: its curves take the place of the choices."""

    def show_pairs(self, rows: Sequence[PairRow], /) -> None:
        """Pairs to train on, with what each holds and what is wrong with it."""

    def show_labels(self, labels: LabelsConfig, why: str = "", /) -> None:
        """Meaning of the label values, and why the widget chose it."""

    def show_corrected(self, corrected: bool, /) -> None:
        """Whether all labels are such that only checked and edited slices count."""

    def show_classes(self, classes: Sequence[ClassInfo], problem: str = "", /) -> None:
        """The classes, without the background; `problem` says why one was not changed."""

    def show_starts(self, groups: ModelGroups, current: Any, facts: str, /) -> None:
        """Start models as (text, None | 2 | 3 | model), the chosen one and facts about it."""

    def show_start_fit(self, warning: str, /) -> None:
        """Why the start model may not be meant for the scans; empty where nothing says so."""

    def show_preset(self, presets: Sequence[str], current: str, times: str, /) -> None:
        """Presets, the chosen one, and the time of each as text."""

    def show_estimate(self, reason: str, /) -> None:
        """Whether the time can be estimated: a reason why not, or empty."""

    def show_budget(self, epochs: int | None, minutes: float | None, /) -> None:
        """How long training may take; both None: as the preset says."""

    def show_encoder(self, encoder: EncoderKind | None, /, *, new: bool) -> None:
        """Encoder of a new network (None: planned); hidden where a model is fine-tuned."""

    def show_options(self, options: TrainingConfig, /) -> None:
        """Settings of the loop."""

    def show_name(self, name: str, /) -> None:
        """Name of the model, unless a user is writing it."""

    def show_size(self, size: str, /, *, asked: bool, word: str) -> None:
        """Voxel size of the images that state none; hidden where it is of no use. `word`: voxel, of pictures pixel."""

    def show_devices(self, devices: Sequence[tuple[str, str]], current: str, facts: str, /) -> None:
        """Devices as (text, name), the chosen one and facts about it."""

    def show_problem(self, field: str | None, text: str, /) -> None:
        """Why the main button is disabled, under its field; None: it is not."""

    def show_notes(self, text: str, /) -> None:
        """Notes before the run."""

    def show_history(self, rows: Sequence[Mapping[str, Any]], classes: Sequence[ClassInfo], /) -> None:
        """Curves of all epochs so far, from rows of history.csv; none hides them."""

    def show_step(self, epoch: float, loss: float, /) -> None:
        """The loss of one step; `epoch` counts from 0 and has a fraction."""

    def show_preview(self, *, checked: bool, enabled: bool, text: str) -> None:
        """Whether the present prediction is shown on the scan, and what is to be known of it."""

    def show_live(self, *, checked: bool, text: str) -> None:
        """Whether a training learns what is painted while it runs, and what it has learned so."""

    def show_runs(self, runs: Sequence[RunState], /) -> None:
        """Earlier runs, the newest first."""

    def unfold_runs(self) -> None:
        """Have the earlier runs open."""

    def hide_outcome(self) -> None:
        """Nothing was trained yet, or it is trained anew."""

    def show_outcome(
        self, before: Mapping[str, float] | None, after: Mapping[str, float | None], words: str, held_out: str, /
    ) -> None:
        """Dice per class of the start model (None: there was none) and of the new one, and a text comparing them."""


class TrainPresenter:
    """Formats choices and plans as texts and lists, and shows them on the view.

    Parameters
    ----------
    view : AbstractTrainView
    session : Session
    """

    def __init__(self, view: AbstractTrainView, session: Session) -> None:
        self._view, self._session = view, session

    def starts(self, choices: TrainChoices) -> None:
        """Start models, and facts about the chosen one."""
        models, start = self._session.models(), choices.start
        row = next((row for row in choices.rows if row.spec is not None), None)
        look = None if row is None or row.spec is None else row.look or describe(row.spec)
        groups = model_rows(models, (lambda m: compare(look, m.header)) if look is not None else None)
        groups = [(title, [replace(row, verdict="") for row in rows]) for title, rows in groups]  # it will learn them
        new = [ModelRow(text, dims) for dims, text in NEW.items()]
        current = next((m for m in models if start is not None and m.path == start.path), choices.dims)
        self._view.show_starts(
            [("", new), *groups],
            current,
            f"Fine-tuning: {start.facts}" if start else NEW_FACTS.format(voxel_word(choices.rows)),
        )
        self._view.show_start_fit(start_warning(choices))

    def preset(self, choices: TrainChoices, times: Mapping[str, str], otherwise: str) -> None:
        """Preset, and the time of each as far as it is known; else the text `otherwise`."""
        presets = presets_for(fine_tuning=choices.start is not None)
        known = " · ".join(f"{name}: {times[name]}" for name in presets if name in times)
        if known and choices.minutes is not None and choices.epochs is None:
            known = "Ends by the clock: in the same time a larger network takes fewer steps."
        self._view.show_preset(presets, choices.preset, known or otherwise)

    def options(self, choices: TrainChoices) -> None:
        """Advanced settings: those of the run, and over them what the user changed."""
        self._view.show_options(usual_training(choices).replace(**choices.training))
        self._view.show_encoder(choices.encoder, new=choices.start is None)

    def devices(self, choices: TrainChoices, ready: Ready | None) -> None:
        """Devices that the engine found, several GPUs where there are some, and facts about the chosen one."""
        items, facts = format_devices(choices.device, ready, alive=self._session.jobs.alive)
        several = gpu_choices(max(ready.gpus if ready is not None else 0, choices.gpus))
        chosen = f"{choices.gpus} GPUs" if choices.gpus > 1 else choices.device
        self._view.show_devices([*items, *((name, name) for name in several)], chosen, facts)

    def plan(self, plan: TrainPlan | Problem | None, *, running: bool, cancels: str, told: str) -> None:
        """Why Train is disabled, or what it will do (a running one says it itself); None while pairs are read.

        `cancels`: what the button stops, where that is no training. `told`: a note that is shown elsewhere.
        """
        problem = plan if isinstance(plan, Problem) else None
        self._view.show_problem(problem.field if problem else None, problem.text if problem else "")
        notes = plan.notes if isinstance(plan, TrainPlan) and not running else ()
        self._view.show_notes("\n".join(note for note in notes if note != told))
        if cancels and not running:
            self._view.show_run("Cancel", enabled=True, tooltip=cancels)
        elif not running:
            reason = problem.text if problem else "" if plan else PAIRS_READ
            self._view.show_run(
                "Train", enabled=not reason, tooltip=reason or with_key("Train on these pairs", "train")
            )
            self._view.show_estimate(reason)
