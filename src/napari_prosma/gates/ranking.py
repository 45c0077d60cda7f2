"""Ranking of levels by ablation: its job in the engine, what each level's gate does to the result, and a sentence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from napari_prosma.gates.job import InspectionResult
from napari_prosma.jobs.boundary import JobName, Jobs
from napari_prosma.jobs.run import Handlers, RunTexts, RunView, ShownRun
from napari_prosma.jobs.spec import ScanSpec
from napari_prosma.layers.scan import LayerScan
from prosma_core.config.inspection import ClassChange, InspectConfig, VariantResult, opened_one_at_a_time
from prosma_core.engine.messages import Cancelled, Failed, Finished, WhatIfRequest, WhatIfResult
from prosma_core.events import StageStarted, Working
from prosma_core.printable import counted

DECIDES = 0.9
"""Below this Dice with the present result, a level decides."""
MATTERS = 0.98
"""At or above it, a level does not matter."""
NEW = 0.01
"""Share of what is segmented from which on a class that the present result lacks is told of."""
FEW = 10
"""Voxels that such a class has at least."""

TEXTS = RunTexts(
    cancel="Stop ranking",
    cancel_tooltip="Stop the ranking of levels. Maps and numbers stay.",
    cancelling="Stopping…",
    doing="Ranking levels",
    broken="The ranking could not be shown: {reason}. Rank the levels again.",
)
RANKING = "Ranking levels by ablation…"
STOPPED = "The ranking was stopped: which level decides is not known. Rank levels computes it."
NOT_RANKED = "The levels were not ranked."
FAILED = "Which level decides is not known, as the ranking failed."


@dataclass(frozen=True)
class LevelEffect:
    """What becomes of the result without the gate of one level.

    Attributes
    ----------
    level : int
    changed : int
        Voxels of another class.
    worst : ClassChange or None
        The class of the present result whose Dice with it is lowest; None where nothing is segmented.
    classes : tuple of ClassChange
        All classes but the background.
    """

    level: int
    changed: int
    worst: ClassChange | None
    classes: tuple[ClassChange, ...]

    @property
    def dice(self) -> float:
        """The lowest Dice of a class with the present result; 1 where nothing is segmented."""
        return 1.0 if self.worst is None else self.worst.dice


def effects(levels: Sequence[int], results: Sequence[VariantResult]) -> list[LevelEffect]:
    """Effect of each level's gate, the largest first: the lowest Dice, then most changed voxels."""
    found = []
    for level, result in zip(levels, results, strict=True):
        worst = min((c for c in result.classes if c.before), key=lambda c: c.dice, default=None)
        found.append(LevelEffect(level, result.changed, worst, result.classes))
    return sorted(found, key=lambda effect: (effect.dice, -effect.changed, effect.level))


def headline(ranked: Sequence[LevelEffect], unit: str) -> str:
    """The ranking in a sentence or two.

    Parameters
    ----------
    ranked : sequence of LevelEffect
        As of `effects`, at least one.
    unit : str
        ``voxel``, or of a picture ``pixel``.
    """
    first, new = ranked[0], _new(ranked, unit)
    worst = first.worst
    if worst is None:
        return f"Nothing is segmented in this scan.{new or f' Without the gate of any one level, too: {_no(ranked)}.'}"
    without, dice = f"Without the gate of level {first.level}", f"the Dice of {worst.name} with the present result"
    if first.dice < DECIDES:
        said = f"{without}, {dice} falls to {first.dice:.2f}: this level decides."
    elif first.dice < MATTERS:
        said = f"{without}, {dice} falls to {first.dice:.2f}: this level matters most, and none decides alone."
    else:
        stays = f"Dice with the present result stays at {_floor(first.dice)} or above"
        said = f"Without the gate of any one level, {stays}: {_no(ranked)}."
    return said + _with_reference(first.level, worst) + new


def tell_classes(effect: LevelEffect, unit: str) -> str:
    """The effect on each class, a line each."""
    lines = []
    for c in effect.classes:
        if not c.before:
            lines.append(f"{c.name}: {counted(c.after, unit) if c.after else 'none'}, and none in the present result")
            continue
        reference = "" if c.truth_before is None else f"; with the reference {c.truth_before:.3f} → {c.truth_after:.3f}"
        lines.append(f"{c.name}: Dice {c.dice:.3f}{reference}")
    return "\n".join(lines)


def _new(ranked: Sequence[LevelEffect], unit: str) -> str:
    """A sentence on the largest class that is in a result without a gate, but not in the present one."""
    found = [(c.after, effect.level, c.name) for effect in ranked for c in effect.classes if not c.before]
    after, level, name = max(found, default=(0, 0, ""))
    if after < max(FEW, NEW * sum(c.before for c in ranked[0].classes)):
        return ""
    return f" Without the gate of level {level}, {after:,} {unit}s of {name} appear: the present result has none."


def _no(ranked: Sequence[LevelEffect]) -> str:
    return "no level decides" if len(ranked) > 1 else "this level does not decide"


def _floor(dice: float) -> str:
    """Dice, rounded down: it must not seem higher than it is."""
    return f"{int(dice * 1000 + 1e-9) / 1000:.3f}"


def _with_reference(level: int, change: ClassChange) -> str:
    if change.truth_before is None or change.truth_after is None:
        return ""
    before, after = f"{change.truth_before:.2f}", f"{change.truth_after:.2f}"
    return f" Dice with the reference labels: {before} with all gates, {after} without that of level {level}."


class ShowButton(Protocol):
    """Shows the button that ranks levels, and stops that."""

    def __call__(self, text: str, /, *, enabled: bool, tooltip: str) -> None:
        """Show the button."""


class RankJob(ShownRun):
    """A running ranking: the scan segmented with the gate of each inspected level forced open, one at a time.

    It has a button of its own and locks no choices: the next job stops it.

    Parameters
    ----------
    found : InspectionResult
    key : str
        Names the scan, as of `WhatIfQueries`.
    reference : LayerScan or None
        Reference labels to compare with.
    said : sequence of str
        Messages of the inspection, which stay.
    view : RunView
    button : ShowButton
    jobs : Jobs
    ranked : callable
        Told, once, the results of the levels, finest first, or why there are none.
    over : callable
        Told, last, that the engine is free.
    """

    NAME = JobName("A ranking of levels", "ProSMA Gates")
    YIELDS = True

    def __init__(
        self,
        found: InspectionResult,
        key: str,
        reference: LayerScan | None,
        said: Sequence[str],
        view: RunView,
        button: ShowButton,
        jobs: Jobs,
        ranked: Callable[[tuple[VariantResult, ...] | str], None],
        over: Callable[[], None],
    ) -> None:
        self._ranked, self._told, self._button = ranked, over, button
        self._answer: tuple[VariantResult, ...] | str = FAILED
        super().__init__(view, TEXTS, f"ProSMA: ranking levels, {found.plan.scan.name}")
        for line in said:
            self.say(line)
        given = found.plan.request
        opened = opened_one_at_a_time(found.plan.model.header.model)
        request = WhatIfRequest(
            model=given.model,
            device=given.device,
            variants=tuple(opened[summary.level] for summary in found.inspection.levels),
            config=InspectConfig(
                overlap=given.config.overlap, region=given.config.region, slice_axis=given.config.slice_axis
            ),
            key=key,
            arrays=False,
        )
        self.start(jobs, ScanSpec(request, found.plan.scan, reference, key))

    @property
    def handlers(self) -> Handlers:
        """As of `JobRun`."""
        shown = super().handlers
        return {
            **shown,
            StageStarted: lambda _: self._run_view.show_progress(0, 0, RANKING),
            Working: lambda _: self._run_view.show_progress(0, 0, RANKING),
            Finished: self._finish,
            Failed: shown[Failed],
            Cancelled: self._stop,
        }

    def over(self) -> None:
        """The engine is free."""
        super().over()
        if not self.abandoned:
            self._told()
            self._ranked(self._answer)

    def _show_button(self, text: str, *, enabled: bool, tooltip: str) -> None:
        self._button(text, enabled=enabled, tooltip=tooltip)

    def _finish(self, message: Finished) -> None:
        result = message.result
        assert isinstance(result, WhatIfResult)
        self.say(f"Levels ranked in {self.duration}.")
        self._answer = result.variants

    def _stop(self, _: Cancelled) -> None:
        self._answer = STOPPED
