"""An experiment: data set, split, rows, seeds and budget, as one YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from prosma_core.config.base import Config
from prosma_core.config.training import load_run_yaml, merge, resolve_run
from prosma_core.errors import ConfigError

Variant = Literal[
    "self-gate",
    "normalized",
    "conditioned",
    "sharp",
    "grouped",
    "unrolled",
    "finest-gate",
    "coarse-gates",
]
FOLDER = Path(__file__).resolve().parent
RESULTS = FOLDER / "results"
EPOCH = 100
"""Steps per epoch: as often a run can be stopped and go on later."""


class InnerSplit(Config):
    """How the training cases are divided, to choose learning rates on what is never reported."""

    share: float = Field(default=0.2, gt=0, lt=1)
    """Share of the training cases that rates are chosen on."""
    seed: int = 0
    """Seed of the draw."""
    group: Literal["case", "alike", "prefix", "last"] = "case"
    """What stays on one side: each case for itself; pictures that look alike; cases of the same name up to the first
    underscore (a patient); or the last cases, in the order of their names (neighboring sections)."""


class Row(Config):
    """One network to be compared: its changes against the experiment's settings."""

    words: str = ""
    """What it is, for the page."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Values of `RunConfig` that differ."""
    network: Literal["own", "residual-encoder"] = "own"
    """``residual-encoder``: nnU-Net's ResidualEncoderUNet, of dynamic-network-architectures."""
    variant: Variant | None = None
    """Gates that the package does not have (`evidence.variants`)."""
    rate: float | None = Field(default=None, gt=0)
    """Its learning rate; none is chosen."""
    rate_of: str | None = None
    """Row whose learning rate is taken; its own is chosen where neither is given."""
    full: bool = False
    """Measured on corrupted and mirrored images, and with other thresholds, too (where `val` is judged)."""


class Experiment(Config):
    """Everything of an experiment; YAMLs may extend others."""

    name: str = Field(pattern="^[a-z0-9_-]+$")
    """Of the YAML."""
    data: str
    """Folder below ``--data``."""
    title: str = ""
    """For the page."""
    kind: Literal["comparison", "ablation", "longer"] = "comparison"
    """Where it stands on the page."""
    choose: InnerSplit = InnerSplit()
    """Training cases that rates are chosen on."""
    judged_on: Literal["val", "choose"] = "val"
    """What the rows are compared on. An ablation that defaults are chosen by must not see `val`: it takes the training
    cases of `choose`, and the steps of the runs that rates are chosen by."""
    seeds: tuple[int, ...] = Field(default=(0, 1, 2), min_length=1)
    """Seeds of the runs that are reported."""
    tuning_seed: int = 100
    """Seed of the runs that rates are chosen by."""
    steps: int = Field(default=2000, ge=1)
    """Steps of every run that is reported."""
    tuning_steps: int | None = Field(default=None, ge=1)
    """Steps of the runs that rates are chosen by; as many as the others unless given."""
    rates: tuple[float, ...] = Field(default=(3e-4, 1e-3, 3e-3, 1e-2), min_length=1)
    """Learning rates to choose among."""
    targets: dict[Literal["dice", "iou"], float] = Field(default_factory=dict)
    """What ProSMA is meant to reach."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Values of `RunConfig` that all rows have in common."""
    rows: dict[str, Row] = Field(min_length=1)
    """Networks by name."""
    only: tuple[str, ...] = ()
    """Rows that are kept, in this order; all unless given."""
    most_cases: int | None = None
    """Cases of each part; all unless given. For dry runs only."""
    alike: tuple[str, ...] = ()
    """Validation cases that look like a training one (`splits.alike_to_training`): the page says how it is without."""
    notes: str = ""
    """What else a reader has to know of the data, for the page."""

    def values(self, row: str, rate: float, seed: int, steps: int) -> dict[str, Any]:
        """Values of the `RunConfig` of one run, but for data, place and device."""
        epochs = max(1, round(steps / EPOCH))
        training = {
            "epochs": epochs,
            "steps": -(-steps // epochs),
            "learning_rate": rate,
            "seed": seed,
            "keep": "last",
            "validation_every": epochs,
            "validation_cases": 100_000,
        }
        return merge(merge(self.settings, self.rows[row].set), {"training": training})


def load(path: Path) -> Experiment:
    """Experiment of a YAML; ``extends`` names files beside it, of which later ones and the YAML itself win.

    Rows are not merged: a YAML that has some has no others.

    Raises
    ------
    ConfigError
        The YAML is not one of an experiment, or a row has settings that a run cannot have.
    """
    experiment = Experiment.parse({"name": path.stem.replace(".", "-"), **_read(path)}, str(path))
    if unknown := set(experiment.only) - experiment.rows.keys():
        msg = f"{path}: only: names {', '.join(sorted(unknown))}, which is no row. Rows: {', '.join(experiment.rows)}."
        raise ConfigError(msg)
    experiment = experiment.replace(rows={name: experiment.rows[name] for name in experiment.only or experiment.rows})
    if experiment.judged_on == "choose" and len(experiment.rates) > 1:
        msg = f"{path}: with judged_on: choose, rates would be chosen on the cases that are reported. Give one rate."
        raise ConfigError(msg)
    for name, row in experiment.rows.items():
        source = experiment.rows.get(row.rate_of) if row.rate_of else row
        if source is None or (source.rate_of and source is not row):
            msg = f"{path}: row {name!r} takes the rate of {row.rate_of!r}, which is not a row with a rate of its own."
            raise ConfigError(msg)
        if row.rate is not None and row.rate_of is not None:
            msg = f"{path}: row {name!r} has both a rate and rate_of. Give one of them."
            raise ConfigError(msg)
        resolve_run(
            {**experiment.values(name, 1e-3, 0, experiment.steps), "out": "x.safetensors"}, f"{path}, row {name!r}"
        )
    return experiment


def _read(path: Path) -> dict[str, Any]:
    values = load_run_yaml(path)
    result: dict[str, Any] = {}
    for name in values.pop("extends", []):
        below = _read(path.parent / name)
        rows = below.pop("rows", None)
        result = merge(result, below) | ({} if rows is None else {"rows": rows})
    if "rows" in values:
        result.pop("only", None)
    rows = values.pop("rows", result.get("rows"))
    return merge(result, values) | {"rows": rows}


def every(folder: Path = FOLDER) -> list[Experiment]:
    """All experiments of a folder, in the order of their names; files whose name begins with ``_`` are only parts."""
    return [load(path) for path in sorted(folder.glob("*.yaml")) if path.stem[0] != "_"]


def dry(experiment: Experiment) -> Experiment:
    """The same, so small that it only shows that everything runs: two steps, few cases, a tiny network."""
    tiny = {
        "network": {"width": 4, "max_width": 8, "max_stages": 3},
        "preprocess": {"tile": None, "tile_voxels": 4096, "longest_side": 64, "resample": "longest_side"},
        "training": {"batch_size": 1, "compile": False},
    }
    if experiment.settings.get("preprocess", {}).get("dims") == 3:
        tiny["preprocess"] = {"tile": None, "tile_voxels": 64**3}
    return experiment.replace(
        seeds=experiment.seeds[:1],
        steps=2,
        tuning_steps=None,
        rates=experiment.rates[:2],
        settings=merge(experiment.settings, tiny),
        most_cases=2,
    )
