"""Controller of the Train widget. No Qt, no torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.layers import Image, Labels

from napari_prosma.cleanup import run_all
from napari_prosma.jobs.run import Failure
from napari_prosma.jobs.session import Session
from napari_prosma.layers.labels import fit_brush
from napari_prosma.layers.patient_view import patient_view
from napari_prosma.layers.results import is_result
from napari_prosma.layers.viewport import bring_into_view
from napari_prosma.scan.selection import Problem
from napari_prosma.shortcuts import offer
from napari_prosma.train.job import TrainingPreview, scan_in_view
from napari_prosma.train.next_slice import Adviser, NextSlice, Preview
from napari_prosma.train.pair_list import PairActions, PairList
from napari_prosma.train.presenter import PAIRS_READ, AbstractTrainView, TrainPresenter
from napari_prosma.train.run_library import free_name
from napari_prosma.train.runtime_estimate import RuntimeEstimator
from napari_prosma.train.series_work import SeriesWork
from napari_prosma.train.slice_marks import SliceMarks
from napari_prosma.train.state import (
    OF_GPUS,
    SEVERAL,
    TrainChoices,
    TrainPlan,
    asks_for_size,
    classes_of,
    edited,
    known_preset,
    resolve,
    usual_budget,
    usual_meaning,
    usual_name,
    usual_training,
    voxel_word,
)
from napari_prosma.train.training_manager import TrainingManager
from prosma_core.config.model import LONGEST_CLASS_NAME, EncoderKind
from prosma_core.config.training import LabelsConfig, Preset, TrainingConfig
from prosma_core.engine.messages import Ready
from prosma_core.errors import EngineBusyError, ProsmaError
from prosma_core.io.bundle import ModelEntry
from prosma_core.runs.run_state import RunState

if TYPE_CHECKING:
    from napari.components import ViewerModel

Budget = tuple[int | None, float | None]
"""Epochs, or minutes, or neither: as the preset says."""


class TrainController:
    """Keeps the view in sync with the pairs and the choices, and runs trainings.

    Parameters
    ----------
    viewer : ViewerModel
    view : AbstractTrainView
    session : Session

    Attributes
    ----------
    pairs : PairActions
        What is trained on.
    series : SeriesWork
        Scans that are gone through, one after the other.
    slices : SliceMarks
        Which slices of the labels that are worked on were checked or edited.
    next : NextSlice
        Which of them to annotate next.
    trainings : TrainingManager
        The one that runs, and what came of the last.
    """

    def __init__(self, viewer: ViewerModel, view: AbstractTrainView, session: Session) -> None:
        self.viewer, self.view, self.session = viewer, view, session
        patient_view(viewer)
        self._choices = TrainChoices(device=session.recall("device", "auto"))
        self._own_preset: dict[bool, Preset | None] = {False: known_preset(session.recall("preset")), True: None}
        self._own_budget: Budget | None = None
        self._other_mode: tuple[Budget | None, dict[str, Any]] = (None, {})
        self._own_meaning = False
        self._ready: Ready | None = None
        self._own_name = ""
        self._edited: dict[int, tuple[str, str]] = {}
        self._plan: TrainPlan | Problem | None = None
        self._failure = Failure()
        self._usual: TrainingConfig | None = None
        self._presenter = TrainPresenter(view, session)
        self._pairs = PairList(session.jobs, self._pairs_changed)
        self.pairs = PairActions(viewer, self._pairs, session.jobs, self._say, self._tell)
        self.series = SeriesWork(viewer, view.series, session, self._pairs, self._first_labels, self._show_plan)
        self.slices = SliceMarks(viewer, view, self._pairs, self._say)
        self._preview = TrainingPreview(viewer, view)
        self._estimate = RuntimeEstimator(view, session.jobs, self._show_times, self._show_plan, self._begun)
        self.trainings = TrainingManager(view, session, self._pairs, self._preview, self._training_over, self._begun)
        self.next = NextSlice(
            viewer,
            view,
            session.jobs,
            self._pairs,
            self.slices,
            self.series,
            self._adviser,
            self._show_plan,
            self._begun,
        )
        self._no_looks = session.follow_looks(viewer, view)
        self._no_shortcuts = offer(
            viewer, {"train": self.start_or_stop, "mark_slice": self.slices.toggle, "next_slice": self.next.go}
        )
        self._connect()
        for layer in viewer.layers:
            self._fit_brush(layer)
        session.widget_opened()
        self._show_everything()

    def close(self) -> None:
        """Disconnect from the viewer; a running training stops, and is listed when the widget is opened again."""
        run_all(
            "The Train widget could not be closed",
            self.trainings.close,  # what is painted comes first
            self._no_shortcuts,
            self._no_looks,
            self.series.close,
            lambda: self.viewer.layers.events.inserted.disconnect(self._layer_added),
            lambda: self.viewer.layers.events.inserted.disconnect(self._layer_arrived),
            lambda: self.viewer.layers.events.removed.disconnect(self._layer_removed),
            lambda: self.viewer.layers.selection.events.active.disconnect(self._show_preview),
            lambda: self.session.models_changed.disconnect(self.show_starts),
            lambda: self.session.scan_left.disconnect(self._leave_scan),
            lambda: self.session.jobs.started.disconnect(self._show_devices),
            self._estimate.close,
            self.next.close,
            self.slices.close,
            self._pairs.close,
            self.session.widget_closed,
        )

    # --- What the user chooses ----------------------------------------------------------------------------------------

    def _pairs_changed(self) -> None:
        rows = tuple(self._pairs.rows)
        if not rows:
            self._edited.clear()  # other scans, other classes
        self._choices = replace(self._choices, rows=rows)
        self._name_it()
        self.show_starts()
        self.view.show_pairs(rows)
        self.slices.show()
        self.trainings.pairs_changed()
        self.series.show()
        self._show_classes()
        self._show_preview()
        self._show_plan()
        meaning, why = usual_meaning(rows, self._choices.labels, self._choices.start)
        if not self._own_meaning and meaning != self._choices.labels:
            self._choose_labels(meaning, why)
        elif not self._own_meaning and self._choices.labels != LabelsConfig():
            self.view.show_labels(self._choices.labels, why)  # more slices are painted by now
        self.view.show_corrected(bool(rows) and all(row.result is not None for row in rows))

    def choose_labels(self, labels: LabelsConfig) -> None:
        """Give the label values another meaning."""
        self._own_meaning = True
        self._choose_labels(labels)

    def _choose_labels(self, labels: LabelsConfig, why: str = "") -> None:
        self._choices = replace(self._choices, labels=labels)
        self.view.show_labels(labels, why)
        self._pairs.read_as(labels)

    def _fix(self, number: int, fix: str) -> None:
        labels = self._choices.labels
        if fix == "one_class":
            apart = self._choices.rows[number].numbers
            self.choose_labels(labels.replace(one_class=True, separate=bool(apart)))
        elif fix in {"threshold", "classes"}:
            self.choose_labels(labels.replace(gray=fix))
        elif fix == "channels":
            self.pairs.as_channels(number)
        else:
            self.pairs.resample(number, voxel_by_voxel=fix == "place")

    def choose_class(self, value: int, name: str, color: str) -> None:
        """Set name and color of a class; a name that cannot be used is not kept, and the field says why."""
        if len(name) > LONGEST_CLASS_NAME:
            allowed = f"at most {LONGEST_CLASS_NAME} are allowed"
            self._show_classes(f"That class name has {len(name):,} characters; {allowed}. Give a shorter one.")
            return
        self._edited[value] = (name, color)
        self._show_classes()
        self._show_plan()

    def fine_tune(self, image: Image, labels: Any, model: ModelEntry) -> None:
        """Add an image layer and the corrected labels that a model gave it, and start from that model."""
        self.pairs.add_layers(image, labels)
        self.choose_start(model)

    def choose_start(self, start: Any) -> None:
        """Choose a new network of 2 or 3 dimensions (None: as the scans have), or a model to fine-tune."""
        model = start if isinstance(start, ModelEntry) else None
        if (model is None) != (self._choices.start is None):
            self._change_mode()
        self._set(start=model, dims=start if start in (2, 3) else None)
        self._name_it()
        self.show_starts()
        self._budget_it()
        self._show_classes()
        self._show_plan()

    def add_model(self, path: Path) -> None:
        """Start from a model file."""
        try:
            self.choose_start(self.session.add_model(path))
        except ProsmaError as error:
            self._say(error)

    def choose_preset(self, preset: Preset) -> None:
        """Choose the preset, of new models or of fine-tuning."""
        fine_tuning = self._choices.start is not None
        if not fine_tuning:
            self.session.remember("preset", preset)
        self._own_preset[fine_tuning] = preset
        self._budget_it()
        self._show_plan()

    def _change_mode(self) -> None:
        """New models and fine-tuning have their own budget and advanced settings, as far as the user chose any."""
        own = self._own_budget, self._choices.training
        (self._own_budget, training), self._other_mode = self._other_mode, own
        self._choices = replace(self._choices, training=training)

    def choose_budget(self, budget: Budget) -> None:
        """Set the budget: epochs, or minutes, or neither (preset default)."""
        self._own_budget = budget
        self._set(epochs=budget[0], minutes=budget[1])
        self.view.show_budget(*budget)

    def choose_encoder(self, encoder: EncoderKind | None) -> None:
        """Choose the encoder of a new network; None is planned from the data."""
        self._set(encoder=encoder)

    def choose_options(self, options: TrainingConfig) -> None:
        """Advanced settings; those that the run has by itself are left to it."""
        usual = usual_training(self._choices)
        given = {name: getattr(options, name) for name in type(options).model_fields}
        self._set(
            training={n: v for n, v in given.items() if v != getattr(usual, n) and n not in {"epochs", "minutes"}}
        )

    def restore_defaults(self) -> None:
        """All advanced settings as the preset has them."""
        self._set(training={}, encoder=None)
        self._presenter.options(self._choices)

    def choose_device(self, device: str) -> None:
        """Choose the device, or several GPUs, which is for this window alone."""
        several = OF_GPUS.fullmatch(device)
        if several is None:
            self.session.remember("device", device)
        self._set(device=SEVERAL if several else device, gpus=int(several[1]) if several else 1)
        self.trainings.choose_gpus(self._choices.gpus)
        self._show_devices(self.session.jobs.ready)

    def choose_size(self, size: str) -> None:
        """Voxel size of the images that state none; empty: it is not known."""
        self._set(size=size)

    def choose_name(self, name: str) -> None:
        """Name of the model; empty: the usual one."""
        self._own_name = name
        self._set(name=name)
        self._name_it()
        self._show_plan()

    def _set(self, **changes: Any) -> None:
        self._choices = replace(self._choices, **changes)
        self._show_plan()

    def _budget_it(self) -> None:
        """Set preset and budget by the device, and by whether a model is fine-tuned, unless the user did."""
        ready = self._ready = self.session.jobs.ready or self._ready  # an engine that ended had the same devices
        device = self._choices.device
        gpu = ready is not None and device != "cpu" and not {"auto", "cpu"}.issuperset(ready.devices)
        fine_tuning = self._choices.start is not None
        preset, minutes = usual_budget(self._own_preset[fine_tuning], fine_tuning=fine_tuning, gpu=gpu)
        epochs, minutes = self._own_budget or (None, minutes)
        self._choices = replace(self._choices, preset=preset, epochs=epochs, minutes=minutes)
        self.view.show_budget(epochs, minutes)
        self._show_times()
        self._presenter.options(self._choices)

    def _name_it(self) -> None:
        """Give the model a free name, unless the user did."""
        if not self._own_name:
            self._choices = replace(self._choices, name=usual_name(self._choices, self.session.models_folder))
        self.view.show_name(self._choices.name)

    # --- Trainings --------------------------------------------------------------------------------------------------

    def start_or_stop(self) -> str:
        """Main button: start a training, or stop what runs; why neither was done, else empty."""
        if self.trainings.running:
            if self.trainings.run is not None:
                self.trainings.run.cancel()
            return ""
        for other in (self._estimate, self.next, self.series):
            if other.running:
                other.cancel()
                return ""
        self._show_plan()  # the name may have been taken meanwhile
        if not isinstance(self._plan, TrainPlan):
            return PAIRS_READ if self._plan is None else self._plan.text
        self._show_preview()
        why_not = self.trainings.start(self._plan, self._choices.classes)
        self.next.show()
        return why_not

    def resume(self, state: RunState, more_epochs: int | None = None) -> None:
        """Resume an earlier run, to its end or for more epochs than planned."""
        if not self.trainings.running and not self._estimate.running and not self.next.running:
            self._show_preview()
            self.trainings.resume(state, more_epochs, self._choices.device, self._choices.gpus)
            self.next.show()

    def estimate(self) -> None:
        """Time the chosen settings on this machine."""
        if not self.trainings.running and isinstance(self._plan, TrainPlan):
            self.view.show_error("", details=False)
            self._estimate.begin(self._choices.preset, self._plan, self._pairs.pairs)
            self._show_plan()

    def _first_labels(self) -> tuple[ModelEntry | None, str]:
        """Model whose result is corrected on the next scan of a series (the last trained, or the start), and device."""
        outcome = self.trainings.outcome
        trained = (m for m in self.session.models() if outcome is not None and m.path == outcome.model.resolve())
        last = None if outcome is None or outcome.worse else next(trained, None)
        return last or self._choices.start, self._choices.device

    def free_memory(self) -> None:
        """End the engine, unless a job has it; it starts again with the next job."""
        try:
            self.session.jobs.unload()
        except EngineBusyError as error:
            self._say(f"Nothing was unloaded. {error}")
        else:
            self._show_devices(None)

    def details(self) -> str:
        """Log or traceback of the last failure."""
        return self._failure.details or self.session.jobs.log()

    def _begun(self, failure: Failure) -> None:
        self._failure = failure

    def _training_over(self) -> None:
        if self._own_name:
            self._choices = replace(self._choices, name=free_name(self._own_name, self.session.models_folder))
        self._name_it()
        self.trainings.show_runs()
        self._show_devices(self.session.jobs.ready)
        self._show_plan()

    # --- What the viewer does ---------------------------------------------------------------------------------------

    def _layer_added(self, event: Any) -> None:
        self._fit_brush(event.value)
        self._pairs.open_layer(event.value)

    def _layer_arrived(self, event: Any) -> None:
        if isinstance(event.value, Image) and not is_result(event.value):
            bring_into_view(self.viewer, event.value)

    def _fit_brush(self, layer: Any) -> None:
        if isinstance(layer, Labels):
            fit_brush(layer)

    def _layer_removed(self, event: Any) -> None:
        if self.series.layer_removed(event.value):
            return
        if self._pairs.close_layer(event.value) and not self.trainings.running:
            self._tell(f"{event.value.name} was closed; its pair stays in the list until you choose “Remove”.")
        self.slices.show()
        self._show_preview()

    def _leave_scan(self, layer: object) -> None:
        self._preview.leave(layer)
        self.next.leave_scan()

    def _toggle_preview(self, wanted: bool) -> None:
        self._preview.toggle(wanted)
        self.next.show()

    def _show_preview(self, _event: Any = None) -> None:
        self._preview.choose(scan_in_view(self.viewer, self._pairs.pairs))

    # --- Showing ----------------------------------------------------------------------------------------------------

    def _show_everything(self) -> None:
        self.view.show_labels(self._choices.labels)
        self.show_starts()
        self._show_devices(self.session.jobs.ready)
        self.trainings.show_runs()
        self._pairs_changed()

    def _show_classes(self, problem: str = "") -> None:
        classes = edited(classes_of(self._choices.rows, self._choices.start), self._edited)
        self._choices = replace(self._choices, classes=classes)
        self.view.show_classes(classes[1:], problem)

    def show_starts(self) -> None:
        """Show what to start from, and what is chosen."""
        self._presenter.starts(self._choices)

    def _show_times(self) -> None:
        self._presenter.preset(self._choices, self._estimate.times, self._estimate.text)

    def _show_devices(self, ready: Ready | None) -> None:
        self._presenter.devices(self._choices, ready)
        self._budget_it()
        missing = ready.why_not.get(self._choices.device, "") if ready else ""
        if missing != self._choices.device_error:
            self._set(device_error=missing)

    def _show_plan(self) -> None:
        self._plan = None if self._pairs.reading else resolve(self._choices, self.session.models_folder)
        self._estimate.plan_is(self._plan, self._choices)
        usual = usual_training(self._choices)
        if usual != self._usual:  # else somebody may be at work in its fields
            self._usual = usual
            self._presenter.options(self._choices)
        self.view.show_size(self._choices.size, asked=asks_for_size(self._choices), word=voxel_word(self._choices.rows))
        running = self.trainings.running or self.next.running
        cancels = "Stop estimating." if self._estimate.running else ""
        if self.series.running:
            cancels = "Stop segmenting the scan: its labels are drawn by hand then."
        self._presenter.plan(self._plan, running=running, cancels=cancels, told=self.trainings.held_out)
        self.next.show()

    def _adviser(self) -> Adviser:
        """Who is asked which slice to annotate next."""
        start, outcome = self._choices.start, self.trainings.outcome
        model = outcome.model if outcome is not None else start.path if start is not None else None
        run = self.trainings.run
        preview = (
            None if run is None or self._preview.unsure is None else Preview(*self._preview.unsure, run.order.classes)
        )
        return Adviser(model, self._choices.device, self._choices.size, run is not None, preview)

    def _remove(self, numbers: Iterable[int]) -> None:
        """Take pairs out of the list, with what was told of them."""
        self._pairs.remove(numbers)
        self.view.show_messages(())

    def _tell(self, text: str) -> None:
        """Show what is no failure, in the line on how things stand."""
        self.view.show_messages((text,))

    def _say(self, words: object) -> None:
        self.view.show_error(str(words), details=False)

    def _connect(self) -> None:
        view = self.view
        for signal, call in (
            (view.add_active_clicked, self.pairs.add_active),
            (view.remove_clicked, self._remove),
            (view.fix_clicked, self._fix),
            (view.labels_changed, self.choose_labels),
            (view.class_changed, self.choose_class),
            (view.start_chosen, self.choose_start),
            (view.preset_chosen, self.choose_preset),
            (view.budget_chosen, self.choose_budget),
            (view.encoder_chosen, self.choose_encoder),
            (view.options_changed, self.choose_options),
            (view.defaults_clicked, self.restore_defaults),
            (view.device_chosen, self.choose_device),
            (view.name_chosen, self.choose_name),
            (view.size_chosen, self.choose_size),
            (view.run_clicked, self.start_or_stop),
            (view.estimate_clicked, self.estimate),
            (view.preview_toggled, self._toggle_preview),
            (view.live_toggled, self.trainings.choose_live),
            (view.resume_clicked, self.resume),
            (view.more_clicked, self.resume),
            (view.keep_clicked, self.trainings.keep),
            (view.free_clicked, self.free_memory),
        ):
            signal.connect(call)
        self.viewer.layers.events.inserted.connect(self._layer_added)
        self.viewer.layers.events.inserted.connect(self._layer_arrived, position="last")
        self.viewer.layers.events.removed.connect(self._layer_removed)
        self.viewer.layers.selection.events.active.connect(self._show_preview)
        self.session.models_changed.connect(self.show_starts)
        self.session.scan_left.connect(self._leave_scan)
        self.session.jobs.started.connect(self._show_devices)
