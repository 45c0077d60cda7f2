"""What the package's defaults rest on: changes to its settings, and learning rates, over all data sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from evidence.claims import LEAST_REMOVED, LEAST_SEEDS, Claim, Verdict, difference, points
from evidence.experiment import Row
from evidence.measured import Measured, Spread, paired
from evidence.runs import DIVERGED
from evidence.tables import table
from prosma_core.config.training import TrainingConfig

WANTED = 4
"""Data sets on which a change has to be above the default, to become it."""
RATE = TrainingConfig().learning_rate
STEPS = TrainingConfig().epochs * TrainingConfig().steps


@dataclass(frozen=True)
class Change:
    """Something else than a default: its difference to it, of Dice, on each data set that was asked."""

    name: str
    words: str
    by_set: Mapping[str, Spread]
    least_removed: float = 1.0
    """Removed fraction of the level, of any data set, that removes least (mean over seeds)."""

    @property
    def above(self) -> int:
        """Number of data sets where it is above the default, by the mean over seeds."""
        return sum(spread.mean > 0 for spread in self.by_set.values())

    @property
    def sparse(self) -> bool:
        """Whether every level still removes enough."""
        return self.least_removed >= LEAST_REMOVED

    @property
    def mean(self) -> float:
        """Difference in the mean over data sets."""
        return mean(spread.mean for spread in self.by_set.values())


def changes(sets: Sequence[Measured], ablations: Sequence[Measured]) -> list[Change]:
    """Changes to ProSMA that at least two data sets were asked, by the ablation ``<data set>_ablation`` of each."""
    of = {m.experiment.name: next((a for a in ablations if a.experiment.name == _ablation(m)), None) for m in sets}
    found: dict[str, dict[str, Spread]] = {}
    words: dict[str, str] = {}
    removed: dict[str, float] = {}
    for name, ablation in of.items():
        for row in (r for r, values in ablation.experiment.rows.items() if _changes_one(values)) if ablation else ():
            spread = paired(ablation.clean(row), ablation.clean("prosma"))
            if spread is not None and spread.count >= LEAST_SEEDS:
                found.setdefault(row, {})[name] = spread
                words[row] = ablation.experiment.rows[row].words
                removed[row] = min([removed.get(row, 1.0), *ablation.levels(row)])
    enough = min(2, len(sets))
    several = [Change(row, words[row], found[row], removed[row]) for row in found if len(found[row]) >= enough]
    return sorted(several, key=lambda change: -len(change.by_set))


def rates(sets: Sequence[Measured]) -> list[Change]:
    """ProSMA's other learning rates, by what rates are chosen by: one seed."""
    found: dict[float, dict[str, Spread]] = {}
    for measured in sets:
        scores = measured.tuning.get("prosma", {})
        for rate, score in scores.items():
            if rate != RATE and DIVERGED not in (score, scores.get(RATE, DIVERGED)):
                found.setdefault(rate, {})[measured.experiment.name] = Spread(score - scores[RATE], None, 1)
    return [Change(f"{rate:g}", "", found[rate]) for rate in sorted(found)]


def stands(sets: Sequence[Measured], ablations: Sequence[Measured]) -> list[Claim]:
    """Whether the defaults are those that the results support; nothing where none was asked."""
    asked = {
        "The settings of the package stand: at the learning rate of each ablation no change to them": changes(
            sets, ablations
        ),
        f"The learning rate of the package, {RATE:g}, stands: no other one": rates(sets),
    }
    return [_stands(text, len(sets), tried) for text, tried in asked.items() if tried]


def _stands(text: str, count: int, tried: Sequence[Change]) -> Claim:
    text = f"{text} is above the default on at least {min(WANTED, count)} of {count} data sets and in their mean."
    why = []
    for change in tried:
        told = f"{change.name}: above on {change.above} of the {len(change.by_set)} asked, mean {points(change.mean)}"
        few = f"; a level removes {100 * change.least_removed:.0f} %, too little"
        why.append(told if change.sparse else told + few)
    return Claim(text, verdict(tried, count), tuple(why))


def verdict(tried: Sequence[Change], count: int) -> Verdict:
    """Whether a default stands against changes that were asked of some or all of so many data sets."""
    wanted = min(WANTED, count)
    sparse = [change for change in tried if change.sparse]
    if any(change.above >= wanted and change.mean > 0 for change in sparse):
        return "does not hold"
    asked_of_some = [change for change in sparse if len(change.by_set) < count]
    left = any(change.above + count - len(change.by_set) >= wanted for change in asked_of_some)
    return "cannot be said" if left else "holds"


def defaults(sets: Sequence[Measured], ablations: Sequence[Measured]) -> str:
    """The page's section; nothing where nothing was asked."""
    names = [measured.experiment.name for measured in sets]
    gates, others = changes(sets, ablations), rates(sets)
    if not gates and not others:
        return ""
    parts = [
        "## What the defaults rest on\n",
        f"A change becomes the default where it is above it on at least {min(WANTED, len(names))} of {len(names)} data "
        "sets, by the mean over seeds, and in the mean over data sets, and every level still removes "
        f"{100 * LEAST_REMOVED:.0f} %. All of it is measured on training cases set "
        "aside; no validation case is seen. Changes have the learning rate of that data set's ablation, not one of "
        "their own, which favors the default. Dice points against it:\n",
    ]
    if gates:
        lines = [[c.name, c.words, *_cells(c, names, difference), _above(c)] for c in gates]
        parts.append(table(["change", "what", *names, "above on"], lines))
    if others:
        lines = [[c.name, *_cells(c, names, lambda s: points(s.mean)), _above(c), points(c.mean)] for c in others]
        parts += [
            f"Learning rates of ProSMA against {RATE:g}, the package's, as rates are chosen (one seed, few steps; the "
            f"package trains {STEPS}):\n",
            table(["rate", *names, "above on", "mean"], lines),
        ]
    return "\n".join(parts)


def _cells(change: Change, names: Sequence[str], words: Callable[[Spread], str]) -> list[str]:
    return [words(change.by_set[name]) if name in change.by_set else "" for name in names]


def _above(change: Change) -> str:
    return f"{change.above} of {len(change.by_set)}"


def _changes_one(row: Row) -> bool:
    """Whether a row is ProSMA with something changed, and at the same learning rate."""
    own = row.set.get("gate", {}).get("kind", "prosma") == "prosma"
    return own and row.rate is None and bool(row.set or row.variant)


def _ablation(measured: Measured) -> str:
    return f"{measured.experiment.name}_ablation"
