"""The runs of an experiment: which there are, which are measured already, which can be started now."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from evidence.experiment import Experiment
from prosma_core.config.training import merge, resolve_run

Phase = Literal["tune", "judge"]
Result = dict[str, Any]
"""Content of the JSON of a run."""

NOT_OF_THE_RUN = {"data", "pairs", "out", "device", "init", "name", "description", "licence", "attribution", "purpose"}
HOW_IT_RUNS = {"run.training.compile", "run.training.graph"}
"""Settings that change the time of a step, not what it computes."""
ADDED: dict[str, Any] = {
    "run.gate.offset": 0.0,
    "run.network.encoder": "residual",
    "run.training.augment.shift": 0.0,
    "run.training.encoder_rate": 1.0,
    "run.training.augment.p_bias": 0.0,
    "run.validation": [],
    "run.voxel_size": None,
    "run.labels.gray": "refuse",
    "run.labels.separate": False,
    "run.labels.geometry": "own",
}
"""Settings that came when there were results already, and what all of those had."""
DIVERGED = -1.0
"""Score of a learning rate whose training diverged."""


@dataclass(frozen=True)
class Run:
    """One training: to choose by, on a part of the training cases (``tune``), or on all of them (``judge``)."""

    experiment: Experiment
    row: str
    phase: Phase
    seed: int
    rate: float

    @property
    def values(self) -> dict[str, Any]:
        """Values of its `RunConfig`, but for data, place and device."""
        tuning = self.experiment.tuning_steps if self.phase == "tune" else None
        values = self.experiment.values(self.row, self.rate, self.seed, tuning or self.experiment.steps)
        return merge({"network": {"encoder": "residual"}}, values)

    @property
    def config(self) -> dict[str, Any]:
        """Everything that its result depends on, but for the images themselves; plain values."""
        config = resolve_run({**self.values, "out": "x.safetensors"})
        values = config.model_dump(mode="json", exclude=NOT_OF_THE_RUN)
        row = self.experiment.rows[self.row]
        if row.network != "own":
            values["gate"] = {"kind": row.network}
        elif config.gate.kind != "prosma":
            values["gate"] = {"kind": config.gate.kind}  # the other settings do nothing
        choose = {"choose": self.experiment.choose.model_dump(mode="json")} if self.phase == "tune" else {}
        variant = {"variant": row.variant} if row.variant else {}
        return {"run": values, "network": row.network, "most_cases": self.experiment.most_cases, **variant, **choose}

    @property
    def key(self) -> str:
        """Name of its files."""
        digest = config_hash(self.config)
        return f"{self.experiment.data}--{self.row}--{self.phase}--rate{self.rate:g}--seed{self.seed}--{digest}"


def config_hash(config: dict[str, Any]) -> str:
    """Eight letters and digits that differ where the settings do."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:8]


TABLE = "runs.jsonl.gz"
"""Table of a folder of results: for each run a line with its key and its result, sorted by key."""


def read_results(folder: Path) -> list[Result]:
    """What was measured: the table of a folder, and every JSON beside it, which replaces the line of its key."""
    return list(_by_key(folder).values())


def pack_results(folder: Path) -> int:
    """Put every JSON of a folder into its table, and remove it; return how many runs the table has."""
    found = _by_key(folder)
    lines = "".join(json.dumps([key, result], separators=(",", ":")) + "\n" for key, result in found.items())
    table, new = folder / TABLE, folder / f"{TABLE}.new"
    new.write_bytes(gzip.compress(lines.encode(), mtime=0))  # the same bytes for the same results
    new.replace(table)
    for path in folder.glob("*.json"):
        path.unlink()
    return len(found)


def _by_key(folder: Path) -> dict[str, Result]:
    table = folder / TABLE
    text = gzip.decompress(table.read_bytes()).decode() if table.is_file() else ""
    packed: dict[str, Result] = dict(json.loads(line) for line in text.splitlines())
    loose = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")}
    return dict(sorted((packed | loose).items(), key=lambda item: f"{item[0]}.json"))


def find(results: Sequence[Result], run: Run) -> Result | None:
    """The result of a run, or None where it was not measured with these settings.

    Rows are what their settings are, whatever they are called. A setting that did not exist yet when it was measured
    counts as having been what `ADDED` says.
    """
    wanted = None
    for result in results:
        told = ("data", run.experiment.data), ("phase", run.phase), ("seed", run.seed), ("rate", run.rate)
        if any(result[name] != value for name, value in told):
            continue
        wanted = wanted or run.config
        judged_fully = "corrupted" in result or "failed" in result
        if run.experiment.rows[run.row].full and run.phase == "judge" and not judged_fully:
            continue
        if same(result["config"], wanted):
            return result
    return None


def same(stored: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Whether two configurations of `Run` mean the same."""
    a, b = dict(_leaves(stored)), dict(_leaves(wanted))
    keys = (a.keys() | b.keys()) - HOW_IT_RUNS
    return all(a.get(key, ADDED.get(key)) == b.get(key, ADDED.get(key)) for key in keys)


def _leaves(values: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{path}{key}.")
        elif value != {}:
            yield f"{path}{key}", value


def tuning_runs(experiment: Experiment, row: str) -> list[Run]:
    """The runs that the learning rate of a row is chosen by; none where there is only one to choose."""
    values = experiment.rows[row]
    if len(experiment.rates) == 1 or values.rate_of is not None or values.rate is not None:
        return []
    return [Run(experiment, row, "tune", experiment.tuning_seed, rate) for rate in experiment.rates]


def chosen_rate(experiment: Experiment, row: str, results: Sequence[Result]) -> float | None:
    """Learning rate of a row: the best on the cases that rates are chosen on; None while that is not known."""
    source = experiment.rows[row].rate_of or row
    if (given := experiment.rows[source].rate) is not None:
        return given
    found = {run.rate: find(results, run) for run in tuning_runs(experiment, source)}
    scores = {rate: result["score"] for rate, result in found.items() if result is not None}
    if len(scores) < len(found):
        return None
    return max(scores, key=lambda rate: scores[rate]) if scores else experiment.rates[0]


def judged_runs(experiment: Experiment, row: str, results: Sequence[Result]) -> list[Run]:
    """The runs of a row that are reported, one for each seed; none while its learning rate is not chosen."""
    rate = chosen_rate(experiment, row, results)
    phase: Phase = "judge" if experiment.judged_on == "val" else "tune"
    return [] if rate is None else [Run(experiment, row, phase, seed, rate) for seed in experiment.seeds]


def ready(experiment: Experiment, results: Sequence[Result], rows: Sequence[str] = ()) -> list[Run]:
    """Runs that are not measured and can start: learning rates first, then one seed of all rows after the other.

    Parameters
    ----------
    experiment : Experiment
    results : sequence of dict
    rows : sequence of str
        Only these rows, and what their learning rates need; all unless given.
    """
    wanted = [row for row in experiment.rows if not rows or row in rows]
    sources = dict.fromkeys(experiment.rows[row].rate_of or row for row in wanted)
    tuning = [run for row in sources for run in tuning_runs(experiment, row)]
    judged = [run for row in wanted for run in judged_runs(experiment, row, results)]
    judged.sort(key=lambda run: experiment.seeds.index(run.seed))
    return [run for run in (*tuning, *judged) if find(results, run) is None]


def count_left(experiment: Experiment, results: Sequence[Result], rows: Sequence[str] = ()) -> int:
    """Number of runs that are not measured, those that cannot start yet among them."""
    wanted = [row for row in experiment.rows if not rows or row in rows]
    waiting = [row for row in wanted if not judged_runs(experiment, row, results)]
    return len(ready(experiment, results, rows)) + len(waiting) * len(experiment.seeds)
