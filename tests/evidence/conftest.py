"""What the tests of the evidence share: its modules, tiny experiments, and made-up results."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from prosma_core.data.geometry import array_spec
from prosma_core.data.phantom import phantom_2d
from prosma_core.io.images import write_image, write_labels

ROOT = Path(__file__).resolve().parents[2]
TINY_ROWS = {
    "plain": {"set": {"gate": {"kind": "none"}}},
    "prosma": {},
    "signed": {"rate_of": "prosma", "set": {"gate": {"form": "signed"}}},
}
TINY = {
    "network": {"width": 4, "max_width": 4, "max_stages": 2},
    "preprocess": {"dims": 2, "tile": [16, 16]},
    "training": {"batch_size": 1},
}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Compute tiny networks with one thread: several wait for each other longer than they work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def ev(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Return the modules of the harness, which is no installed package."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from evidence import (
        claims,
        corruptions,
        defaults,
        experiment,
        fit,
        judge,
        many,
        measured,
        networks,
        one,
        page,
        runs,
        splits,
        variants,
    )

    return SimpleNamespace(
        claims=claims,
        corruptions=corruptions,
        defaults=defaults,
        experiment=experiment,
        fit=fit,
        judge=judge,
        many=many,
        measured=measured,
        networks=networks,
        one=one,
        page=page,
        runs=runs,
        splits=splits,
        variants=variants,
    )


@pytest.fixture
def tiny_settings() -> dict[str, Any]:
    """Return settings of a tiny network."""
    return TINY


@pytest.fixture
def experiment(ev: SimpleNamespace) -> Callable[..., Any]:
    """Return a maker of experiments; its arguments are changes."""

    def make(**changes: Any) -> Any:
        values = {
            "name": "tiny",
            "data": "tiny",
            "steps": 2,
            "seeds": (0,),
            "rates": (1e-3,),
            "rows": TINY_ROWS,
            "settings": TINY,
        }
        return ev.experiment.Experiment.parse({**values, **changes}, "tiny")

    return make


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return a folder that holds a data set of six pictures of 32 x 32."""
    root = tmp_path / "sets" / "tiny"
    (root / "images").mkdir(parents=True)
    (root / "labels").mkdir()
    for number in range(6):
        scan, _ = phantom_2d(number, (32, 32))
        mask = np.zeros((32, 32), np.uint8)
        mask[8:20, 10:24] = 1
        write_image(root / "images" / f"p{number // 2}_{number}.png", scan.data, array_spec((32, 32), "yx"))
        write_labels(root / "labels" / f"p{number // 2}_{number}.png", mask, array_spec((32, 32), "yx"))
    splits = {"train": ["p0_0", "p0_1", "p1_2", "p1_3"], "val": ["p2_4", "p2_5"]}
    (root / "splits.json").write_text(json.dumps(splits))
    return root.parent


@pytest.fixture
def result(ev: SimpleNamespace) -> Callable[..., dict[str, Any]]:
    """Return a maker of what a measured run would have written: the run, its Dice, and what differs."""

    def make(run: Any, dice: float = 0.8, **more: Any) -> dict[str, Any]:
        both = {"dice": dice, "iou": dice / (2 - dice)}
        values = {
            "data": run.experiment.data,
            "row": run.row,
            "phase": run.phase,
            "seed": run.seed,
            "rate": run.rate,
            "config": json.loads(json.dumps(run.config)),
            "parameters": 100,
            "flops": 1000,
            "tile": [16, 16],
            "cases": {"train": 4, "judged": 2},
            "levels": [{"removed": 0.5, "threshold": 0.6}],
            "summary": both,
            "mirrored": both,
            "corrupted": {
                kind: {str(s): {"dice": dice - s / 10} for s in (1, 2, 3)} for kind in ev.corruptions.CORRUPTIONS
            },
            "curve": [{"scale": 1.0, "removed": [0.5], "dice": dice}],
            "seconds": {"train": 1.0},
            "machine": {"device": "cpu", "name": "x"},
            "versions": {"torch": "2", "prosma_core": "0"},
        }
        return values | more

    return make


@pytest.fixture
def judged(ev: SimpleNamespace, result: Callable[..., dict[str, Any]]) -> Callable[..., list[dict[str, Any]]]:
    """Return a maker of results of every seed: the Dice of each row, and a little more for each further seed."""

    def make(experiment: Any, dice: dict[str, float], **more: Any) -> list[dict[str, Any]]:
        return [
            result(ev.runs.Run(experiment, row, "judge", seed, experiment.rates[0]), value + seed / 1000, **more)
            for row, value in dice.items()
            for seed in experiment.seeds
        ]

    return make
