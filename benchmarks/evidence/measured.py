"""What the results say of one experiment: values of rows by seed, and rows against each other."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any, Literal, TypeVar

from evidence.corruptions import CORRUPTIONS
from evidence.experiment import Experiment
from evidence.runs import Result, find, judged_runs, tuning_runs

Measure = Literal["dice", "iou"]
BySeed = dict[int, float]
Key = TypeVar("Key", int, str)


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over seeds (None of a single one)."""

    mean: float
    sd: float | None
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """None of nothing."""
        if not values:
            return None
        return cls(mean(values), stdev(values) if len(values) > 1 else None, len(values))

    @property
    def error(self) -> float | None:
        """Standard error of the mean."""
        return None if self.sd is None else self.sd / self.count**0.5


@dataclass(frozen=True)
class Measured:
    """Results of an experiment: by row, those of each seed that was measured and did not diverge.

    Attributes
    ----------
    experiment : Experiment
    results : mapping of str to mapping of int to dict
    failed : mapping of str to int
        Seeds that diverged, by row.
    tuning : mapping of str to mapping of float to float
        Score of each learning rate that was tried, by row; rows that choose none are left out.
    """

    experiment: Experiment
    results: Mapping[str, Mapping[int, Result]]
    failed: Mapping[str, int]
    tuning: Mapping[str, Mapping[float, float]]

    @classmethod
    def of(cls, experiment: Experiment, results: Sequence[Result]) -> Measured:
        """The results that belong to the experiment as it is now; those of other settings are left out."""
        rows: dict[str, dict[int, Result]] = {}
        failed: dict[str, int] = {}
        for row in experiment.rows:
            found = {run.seed: find(results, run) for run in judged_runs(experiment, row, results)}
            rows[row] = {seed: result for seed, result in found.items() if result and "failed" not in result}
            failed[row] = sum(result is not None and "failed" in result for result in found.values())
        tuning = {row: [(run.rate, find(results, run)) for run in tuning_runs(experiment, row)] for row in rows}
        scores = {row: {rate: r["score"] for rate, r in tried if r} for row, tried in tuning.items() if tried}
        return cls(experiment, rows, failed, scores)

    def complete(self, row: str) -> bool:
        """Whether all seeds of a row are measured."""
        return len(self.results.get(row, {})) == len(self.experiment.seeds)

    def there(self) -> list[str]:
        """Rows with results, but for those whose settings turned out to be another row's."""
        found = [row for row, by_seed in self.results.items() if by_seed]
        first = {tuple(map(id, self.results[row].values())): row for row in reversed(found)}
        return [row for row in found if row in first.values()]

    def missing(self) -> dict[str, int]:
        """Number of seeds that are not measured, by row."""
        counts = {row: len(self.experiment.seeds) - len(found) for row, found in self.results.items()}
        return {row: count for row, count in counts.items() if count}

    def clean(self, row: str, measure: Measure = "dice") -> BySeed:
        """Dice or IoU on the images as they are."""
        found = self.results.get(row, {}).items()
        if self.experiment.judged_on == "choose":
            return {seed: result["score"] for seed, result in found} if measure == "dice" else {}
        return {seed: result["summary"][measure] for seed, result in found}

    def without(self, row: str, names: Collection[str]) -> BySeed:
        """Dice on the images but for some: the mean over those that have a class, then over classes."""
        found = {}
        for seed, result in self.results.get(row, {}).items():
            kept = [case for name, case in result.get("scores", {}).items() if name not in names]
            classes = {name for case in kept for name, each in case.items() if each["present"]}
            means = [mean(case[c]["dice"] for case in kept if case[c]["present"]) for c in sorted(classes)]
            if means:
                found[seed] = mean(means)
        return found

    def by_image(self, row: str) -> dict[str, float]:
        """Dice of each image that has a class: the mean over its classes, then over seeds."""
        each: dict[str, list[float]] = {}
        for result in self.results.get(row, {}).values():
            for name, case in result.get("scores", {}).items():
                if present := [score["dice"] for score in case.values() if score["present"]]:
                    each.setdefault(name, []).append(mean(present))
        return {name: mean(values) for name, values in each.items()}

    def by_patient(self, row: str) -> dict[str, float]:
        """The same, images that have a name in common up to the first underscore (a patient's) counted as one."""
        each: dict[str, list[float]] = {}
        for name, value in self.by_image(row).items():
            each.setdefault(name.partition("_")[0], []).append(value)
        return {name: mean(values) for name, values in each.items()}

    def mirrored(self, row: str, measure: Measure = "dice") -> BySeed:
        """The same, averaged over mirrored copies."""
        found = self.results.get(row, {}).items()
        return {seed: result["mirrored"][measure] for seed, result in found if "mirrored" in result}

    def corrupted(self, row: str, strength: int, kind: str | None = None) -> BySeed:
        """Dice on images made worse: of one kind, or the mean of all kinds."""
        kinds = list(CORRUPTIONS) if kind is None else [kind]
        found = self.results.get(row, {}).items()
        return {
            seed: mean(result["corrupted"][each][str(strength)]["dice"] for each in kinds)
            for seed, result in found
            if "corrupted" in result
        }

    def levels(self, row: str) -> list[float]:
        """Removed fraction of each level, finest first: the mean over seeds."""
        each = [[level["removed"] for level in result["levels"]] for result in self.results.get(row, {}).values()]
        return [mean(values) for values in zip(*each, strict=True)] if each else []

    def least_removed(self, row: str) -> float:
        """Removed fraction of the level, of any seed, that removes least."""
        return min(level["removed"] for result in self.results[row].values() for level in result["levels"])

    def most_removed(self, row: str) -> float:
        """Largest removed fraction, mean over levels, on the curve that all seeds have; 0 without any."""
        ends = [mean(r["curve"][-1]["removed"]) for r in self.results.get(row, {}).values() if r.get("curve")]
        return min(ends, default=0.0)

    def value(self, row: str, name: str) -> Any:
        """A number that is the same for all seeds, or None."""
        return next((result[name] for result in self.results.get(row, {}).values()), None)


def paired(a: Mapping[Key, float], b: Mapping[Key, float]) -> Spread | None:
    """Differences a - b over the seeds, or images, that both have."""
    return Spread.of([a[key] - b[key] for key in sorted(a.keys() & b.keys())])
