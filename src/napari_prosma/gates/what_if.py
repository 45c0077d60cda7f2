"""What-if: edits of the gates, queries to the engine, and their results as layers."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from napari.layers import Labels
from numpy.typing import NDArray

from napari_prosma.gates.job import InspectionResult
from napari_prosma.gates.state import GROUP, ChannelState, GateEdits, InspectPlan
from napari_prosma.jobs.boundary import JobName, Jobs
from napari_prosma.jobs.run import Handlers, JobRun, ViewSignal
from napari_prosma.jobs.spec import ScanSpec
from napari_prosma.layers.labels import colors_apart, lies_on, read_on
from napari_prosma.layers.numbers import PAINTED
from napari_prosma.layers.results import OUTLINED, add_layer_keep_selection, labels_layer, show_labels
from napari_prosma.layers.scan import METADATA, LayerScan
from napari_prosma.layers.viewport import on_change
from prosma_core.config.inspection import Edits, InspectConfig, Variant, VariantResult
from prosma_core.config.model import ClassInfo
from prosma_core.engine.messages import ArrayReady, Cancelled, Failed, Finished, WhatIfRequest, WhatIfResult
from prosma_core.errors import EngineBusyError, ProsmaError

if TYPE_CHECKING:
    from napari.components import ViewerModel


STOPPED = "The what-if was stopped for another job. Change it to ask again."
UNUSABLE = "There is no answer: the reference labels cannot be used. Choose others, or none."
CHANGED_REFERENCE = " The reference labels have changed since: choose them again to compare."
WHAT_IF = "what if"
"""Name of the variant that a user makes with the sliders."""


@dataclass(frozen=True, eq=False)
class Answer:
    """Answer to the newest query: variants and arrays, or the message where there are none."""

    variants: tuple[VariantResult, ...] = ()
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict, repr=False)
    none: str = ""


class WhatIfQueries:
    """Runs what-if queries; a new query cancels the pending one.

    Parameters
    ----------
    jobs : Jobs
    plan : InspectPlan
        Of the inspection that is queried.
    heard : callable
        Told the answer to the newest question.
    """

    def __init__(self, jobs: Jobs, plan: InspectPlan, heard: Callable[[Answer], None]) -> None:
        self._jobs, self._plan, self._heard = jobs, plan, heard
        self._generation = 0
        self._job: _Query | None = None
        self._next: Callable[[], None] | None = None
        self._key = plan.key or uuid.uuid4().hex

    def renew(self) -> None:
        """Drop the cached unedited result, since the scan may have changed."""
        self._key = uuid.uuid4().hex

    @property
    def key(self) -> str:
        """Names the scan as it is now: the engine caches the unchanged result under it."""
        return self._key

    @property
    def busy(self) -> bool:
        """Whether a query runs."""
        return self._job is not None

    def stop(self, then: Callable[[], None] | None = None) -> None:
        """Cancel the pending query, and the one that waits for its end; `then` waits for it instead."""
        self._generation += 1
        self._next = then
        if self._job is not None:
            self._job.cancel()
        else:
            self._go_on()

    def what_if(self, edits: Edits, truth: LayerScan | None) -> None:
        """Query the effect of edits."""
        given, plan = self._plan.request.config, self._plan
        config = InspectConfig(overlap=given.overlap, region=given.region, slice_axis=given.slice_axis)
        request = WhatIfRequest(
            model=plan.request.model,
            device=plan.request.device,
            variants=(Variant(name=WHAT_IF, edits=edits),),
            config=config,
            key=self._key,
        )
        spec = ScanSpec(request, plan.scan, truth, self._key)
        self.stop(lambda: self._submit(spec))

    def _submit(self, spec: ScanSpec) -> None:
        generation = self._generation

        def answered(answer: Answer) -> None:
            if generation == self._generation:
                self._heard(answer)

        def over() -> None:
            self._job = None
            self._go_on()

        query = _Query(answered, over)
        try:
            query.start(self._jobs, spec)
        except EngineBusyError as error:
            query.show_error(str(error), "")
        else:
            self._job = query

    def _go_on(self) -> None:
        """Do what waits for the engine, if anything does."""
        waiting, self._next = self._next, None
        if waiting is not None:
            waiting()


class _Query(JobRun):
    """Job of one query."""

    NAME = JobName("A what-if", "ProSMA Gates")
    YIELDS = True

    def __init__(self, answered: Callable[[Answer], None], over: Callable[[], None]) -> None:
        super().__init__()
        self._answered, self._told = answered, over
        self._arrays: dict[str, NDArray[Any]] = {}

    @property
    def handlers(self) -> Handlers:
        """As of `JobRun`."""
        return {
            ArrayReady: self._take,
            Finished: self._finish,
            Failed: lambda failed: self.show_error(str(failed.error), failed.details),
            Cancelled: lambda _: self._answered(Answer(none=STOPPED)),
        }

    def show_error(self, reason: str, details: str) -> None:
        """Answer with an error."""
        self._answered(Answer(none=f"There is no answer: {reason}"))

    def over(self) -> None:
        """The engine is free."""
        self._told()

    def _take(self, ready: ArrayReady) -> None:
        self._arrays[ready.name] = ready.array

    def _finish(self, message: Finished) -> None:
        result = message.result
        assert isinstance(result, WhatIfResult)
        self._answered(Answer(result.variants, self._arrays))


CHANGES = (
    ClassInfo(value=0, name="the same"),
    ClassInfo(value=1, name="added", color="#2fd07f"),
    ClassInfo(value=2, name="lost", color="#ff3d71"),
    ClassInfo(value=3, name="class changed", color="#ffd60a"),
)
"""Values of the layer that shows what changed, in the colors they have unless a class has one like them."""


def changes_beside(classes: Sequence[ClassInfo]) -> tuple[ClassInfo, ...]:
    """`CHANGES` in colors that none of the classes has, which are drawn over them."""
    same, *others = CHANGES
    colors = colors_apart([c.color for c in others], [c.color for c in classes[1:]])
    return (same, *(c.replace(color=color) for c, color in zip(others, colors, strict=True)))


def without_reference(results: Sequence[VariantResult]) -> tuple[VariantResult, ...]:
    """The same numbers without those that compare with reference labels."""
    none = {"truth_before": None, "truth_after": None}
    return tuple(r.replace(classes=tuple(c.replace(**none) for c in r.classes)) for r in results)


class AbstractWhatIfPanel(Protocol):
    """Edits of the gates, and their effect."""

    @property
    def threshold_chosen(self) -> ViewSignal:
        """Level (int) and factor (float)."""

    @property
    def state_chosen(self) -> ViewSignal:
        """Level (int) and state (str)."""

    @property
    def channel_gate_toggled(self) -> ViewSignal:
        """Whether it is on (bool)."""

    @property
    def channel_state_chosen(self) -> ViewSignal:
        """State (str)."""

    @property
    def truth_chosen(self) -> ViewSignal:
        """Labels layer or None."""

    @property
    def reset_clicked(self) -> ViewSignal:
        """Reset all gates to their learned state."""

    def make_rows(self, levels: Sequence[int], /, *, thresholds: bool) -> None:
        """Make a row of edits for each level."""

    def show_edits(self, edits: GateEdits, level: int, channel: int, /, *, channel_gate: bool) -> None:
        """Show the edits; those of single channels are of the shown level."""

    def show_truths(self, layers: Sequence[tuple[str, Any]], current: Any, problem: str, /) -> None:
        """Labels layers to compare with, the one chosen, and why it cannot be used."""

    def say(self, text: str, /) -> None:
        """A line over the numbers."""

    def show_changes(self, text: str, result: VariantResult, classes: Sequence[ClassInfo], /) -> None:
        """Show the effect of edits, class by class."""

    def reveal_answer(self) -> None:
        """Have the line and the numbers looked at."""

    def dim_changes(self) -> None:
        """Show the numbers as those of edits before."""

    def forget_changes(self) -> None:
        """Clear the numbers of the edits."""


class WhatIfController:
    """Edits of the gates of one inspection, and their effect on the result.

    Parameters
    ----------
    viewer : ViewerModel
    panel : AbstractWhatIfPanel
    jobs : Jobs
    found : InspectionResult
    notes : mapping of str to str
        How the maps were made.
    reference_changed : callable
        Told that the reference labels are others, or gone: what was compared with them is old.

    Attributes
    ----------
    queries : WhatIfQueries
    results : tuple of VariantResult
        The numbers of the edits that are shown; empty where none are, or while they are computed.
    reference : int
        Number of the current reference labels; another once others are chosen, or they are changed or deleted.
    """

    def __init__(
        self,
        viewer: ViewerModel,
        panel: AbstractWhatIfPanel,
        jobs: Jobs,
        found: InspectionResult,
        notes: Mapping[str, str],
        reference_changed: Callable[[], None],
    ) -> None:
        self._viewer, self._panel, self._found, self._notes = viewer, panel, found, dict(notes)
        self._reference_changed = reference_changed
        self.queries = WhatIfQueries(jobs, found.plan, self._heard)
        self._edits = GateEdits()
        self._level = self._channel = 0
        self._truth: Labels | None = None
        self._leave_truth: Callable[[], None] = lambda: None
        self.reference = self._asked_with = 0
        self._asked = 0.0
        self._old_truth = False
        self._shown: tuple[str, VariantResult] | None = None
        self._layers: dict[str, Labels] = {}
        self.results: tuple[VariantResult, ...] = ()
        self._gate = found.plan.model.header.model.gate
        levels = [summary.level for summary in found.inspection.levels]
        panel.make_rows(levels, thresholds=self._gate.kind == "prosma")
        panel.forget_changes()
        self.show_truths()

    # --- What the user does -------------------------------------------------------------------------------------------

    def show_level(self, level: int, channel: int) -> None:
        """Show the edits of this level and channel."""
        self._level, self._channel = level, channel
        gated = self._gate.kind == "prosma" and self._gate.channel_gate
        self._panel.show_edits(self._edits, level, channel, channel_gate=gated)

    def change(self, level: int, **values: Any) -> None:
        """Edit a level's gate and run a query; values as of `LevelEdit`."""
        self._take(self._edits.change(level, **values))

    def toggle_channel_gate(self, on: bool) -> None:
        """Turn the channel gate of the shown level on or off."""
        self.change(self._level, channel_gate=on)

    def change_channel(self, state: ChannelState) -> None:
        """Set the state of the selected channel of the shown level."""
        self._take(self._edits.change_channel(self._level, self._channel, state))

    def choose_truth(self, layer: Labels | None) -> None:
        """Compare with these labels from now on."""
        if layer is not self._truth or self._old_truth:
            self._take_truth(layer)
        self.show_truths()
        if self._edits.levels:
            self._ask()

    def stop(self) -> None:
        """Stop the pending query for another job."""
        if self.queries.busy:
            self._forget(STOPPED)

    def reset(self) -> None:
        """Reset all gates to their learned state."""
        self._take(GateEdits())

    def show_truths(self) -> None:
        """List Labels layers as reference labels, except our own results."""
        layers = [x for x in self._viewer.layers if isinstance(x, Labels) and not self._is_ours(x)]
        if self._truth is not None and self._truth not in layers:
            self._take_truth(None)
        _, problem = self.read_truth()
        self._panel.show_truths([(layer.name, layer) for layer in reversed(layers)], self._truth, problem)

    def read_truth(self) -> tuple[LayerScan | None, str]:
        """The reference labels, and why they cannot be compared with."""
        scan = self._found.plan.scan
        if self._truth is None:
            return None, ""
        try:
            labels = read_on(self._truth, scan)
        except ProsmaError as error:
            return None, str(error)
        if not lies_on(labels, scan):
            advice = f"Choose labels on its {self._found.unit}s, or none."
            return None, f"{self._truth.name} lies on another grid than {scan.name}. {advice}"
        return labels, ""

    def detach(self) -> None:
        """Stop the pending query, and follow the reference labels no more; layers stay."""
        self._leave_truth()
        self.queries.stop()

    @property
    def layers(self) -> list[Labels]:
        """Layers of the what-if result."""
        return list(self._layers.values())

    # --- Inside -----------------------------------------------------------------------------------------------------

    def _is_ours(self, layer: Labels) -> bool:
        return str(layer.name).startswith(GROUP)

    def _take_truth(self, layer: Labels | None) -> None:
        self._leave_truth()
        self._truth, self._old_truth = layer, False
        self._leave_truth = (lambda: None) if layer is None else on_change(layer, PAINTED, self._truth_painted)
        self._forget_reference()

    def _truth_painted(self, _event: Any) -> None:
        if not self._old_truth:
            self._old_truth = True
            self._forget_reference()

    def _forget_reference(self) -> None:
        """Take away what was compared with reference labels that are not the chosen ones, or not any more like this."""
        self.reference += 1
        self.results = without_reference(self.results)
        if self._shown is not None and self._shown[1] != (result := without_reference((self._shown[1],))[0]):
            text = f"{self._shown[0]}{CHANGED_REFERENCE if self._old_truth else ''}"
            self._shown = text, result
            self._panel.show_changes(text, result, self._found.plan.model.header.classes)
            if not self.results:  # new ones are computed
                self._dim()
        self._reference_changed()

    def _take(self, edits: GateEdits) -> None:
        if edits == self._edits:
            return
        self._edits = edits
        self.show_level(self._level, self._channel)
        if edits.levels:
            self._ask()
        else:
            self._forget()

    def _ask(self) -> None:
        truth, problem = self.read_truth()
        if problem:
            self._forget(UNUSABLE)
            self._panel.reveal_answer()
            return
        self.results, self._asked_with = (), self.reference
        self._dim()
        self._panel.reveal_answer()
        self._asked = time.monotonic()
        self.queries.what_if(self._edits.ordered, truth)

    def _dim(self) -> None:
        self._panel.dim_changes()
        self._panel.say(f"Segmenting with {self._edits.text()}…")

    def _forget(self, said: str = "") -> None:
        """Take away numbers and layers: they are of other edits, or compared with other labels."""
        self.queries.stop()
        self.results, self._shown = (), None
        self._panel.forget_changes()
        self._panel.say(said)
        self._remove()

    def _heard(self, answer: Answer) -> None:
        if answer.none:
            self._forget(answer.none)
        else:
            same = self._asked_with == self.reference
            self.results = answer.variants if same else without_reference(answer.variants)
            (result,) = self.results
            classes = self._found.plan.model.header.classes
            unit = self._found.unit
            took = time.monotonic() - self._asked
            changed = f"1 {unit} is" if result.changed == 1 else f"{result.changed:,} {unit}s are"
            text = f"With {self._edits.text()}: {changed} of another class ({took:.1f} s)."
            self._shown = text, result
            self._panel.show_changes(text, result, classes)
            self._show_layer("labels", "what if", answer, classes)
            self._show_layer("changes", "what if, changes", answer, changes_beside(classes))
        self._panel.reveal_answer()

    def _show_layer(self, array: str, title: str, answer: Answer, classes: tuple[ClassInfo, ...]) -> None:
        """Show an array in its layer; a new one where there is none, or the user deleted it."""
        if array not in answer.arrays:
            return
        scan, layer = self._found.plan.scan, self._layers.get(array)
        if layer is not None and layer in self._viewer.layers:
            show_labels(layer, scan, answer.arrays[array])
            return
        name = f"{GROUP}{title}"
        layer = labels_layer(scan, answer.arrays[array], classes, name, self._notes)
        if array == "changes":
            layer.opacity = 1.0  # no color of a class shines through
        else:
            layer.metadata[METADATA][OUTLINED] = True
        self._layers[array] = layer
        add_layer_keep_selection(self._viewer, layer)

    def _remove(self) -> None:
        layers, self._layers = self._layers, {}
        for layer in layers.values():
            if layer in self._viewer.layers:
                self._viewer.layers.remove(layer)
