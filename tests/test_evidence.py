"""The harness of the evidence: what is run, what is left out, and what the page says of results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from prosma_core.data.geometry import array_spec
from prosma_core.data.phantom import phantom_2d
from prosma_core.errors import TrainingError
from prosma_core.events import EpochDone
from prosma_core.io.dataset_folder import open_dataset
from prosma_core.io.images import write_image, write_labels

ROOT = Path(__file__).resolve().parent.parent
ROWS = {"plain": {"set": {"gate": {"kind": "none"}}}, "prosma": {}, "signed": {"rate_of": "prosma"}}
TINY = {
    "network": {"width": 4, "max_width": 4, "max_stages": 2},
    "preprocess": {"dims": 2, "tile": [16, 16]},
    "training": {"batch_size": 1},
}


@pytest.fixture
def ev(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Return the modules of the harness, which is no installed package."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from evidence import claims, experiment, fit, judge, many, measured, one, page, runs, splits

    return SimpleNamespace(
        claims=claims,
        experiment=experiment,
        fit=fit,
        judge=judge,
        many=many,
        measured=measured,
        one=one,
        page=page,
        runs=runs,
        splits=splits,
    )


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
            "rows": ROWS,
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


def result(ev: SimpleNamespace, run: Any, dice: float = 0.8, **more: Any) -> dict[str, Any]:
    """Return what a measured run would have written."""
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
        "levels": [{"removed": 0.5, "threshold": 0.6}],
        "summary": {"dice": dice, "iou": dice / (2 - dice)},
        "mirrored": {"dice": dice, "iou": dice / (2 - dice)},
        "corrupted": {kind: {str(s): {"dice": dice - s / 10} for s in (1, 2, 3)} for kind in ev.page.CORRUPTIONS},
        "curve": [{"scale": 1.0, "removed": [0.5], "dice": dice}],
        "seconds": {"train": 1.0},
        "machine": {"device": "cpu", "name": "x"},
        "versions": {"torch": "2", "prosma_core": "0"},
    }
    return values | more


def judged(ev: SimpleNamespace, experiment: Any, dice: dict[str, float], **more: Any) -> list[dict[str, Any]]:
    """Return results of every seed: the Dice of each row, and a little more for each further seed."""
    return [
        result(ev, ev.runs.Run(experiment, row, "judge", seed, experiment.rates[0]), value + seed / 1000, **more)
        for row, value in dice.items()
        for seed in experiment.seeds
    ]


def test_every_experiment_of_the_repository_is_valid_and_can_be_run_dry(ev: SimpleNamespace) -> None:
    experiments = ev.experiment.every()
    assert {"busi", "kvasir", "glas", "isbi", "hippocampus", "acdc"} <= {e.name for e in experiments}
    for each in map(ev.experiment.dry, experiments):
        for run in ev.runs.ready(each, []):
            assert run.config["run"]["training"]["steps"] * run.config["run"]["training"]["epochs"] == 2


def test_comparisons_differ_in_nothing_but_the_network(ev: SimpleNamespace) -> None:
    for each in ev.experiment.every():
        if each.kind == "comparison":
            assert all(set(row.set) <= {"gate", "network"} for row in each.rows.values())
            assert len(each.seeds) >= 3


def test_no_two_runs_share_a_file_unless_they_are_the_same(ev: SimpleNamespace) -> None:
    runs = [run for each in ev.experiment.every() for run in ev.runs.ready(each, [])]
    configs: dict[str, Any] = {}
    for run in runs:
        assert configs.setdefault(run.key, run.config) == run.config


def test_ablation_takes_over_the_runs_of_the_comparison(ev: SimpleNamespace) -> None:
    comparison, ablation = (ev.experiment.load(ev.experiment.FOLDER / f"busi{s}.yaml") for s in ("", "_ablation"))
    shared = {r.key for r in ev.runs.ready(comparison, [])} & {r.key for r in ev.runs.ready(ablation, [])}
    assert len(shared) == 2 * len(comparison.rates)  # plain and prosma


def test_extended_yaml_has_its_own_rows_only(ev: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "_a.yaml").write_text(yaml.safe_dump({"rows": {"plain": {}}, "settings": TINY, "data": "x"}))
    (tmp_path / "b.yaml").write_text(yaml.safe_dump({"extends": ["_a.yaml"], "rows": {"prosma": {}}, "steps": 7}))
    (only,) = ev.experiment.every(tmp_path)
    assert (list(only.rows), only.steps, only.data) == (["prosma"], 7, "x")


def test_learning_rates_come_first_and_the_best_is_taken(ev: SimpleNamespace, experiment: Callable[..., Any]) -> None:
    two = experiment(rates=(1e-3, 1e-2), seeds=(0, 1), rows={"prosma": {}, "signed": {"rate_of": "prosma"}})
    tuning = ev.runs.ready(two, [])
    assert [(run.phase, run.row, run.rate) for run in tuning] == [("tune", "prosma", 1e-3), ("tune", "prosma", 1e-2)]
    assert ev.runs.count_left(two, []) == 6
    results = [result(ev, run, score=score) for run, score in zip(tuning, (0.3, 0.4), strict=True)]
    found = ev.runs.ready(two, results)
    assert [(run.row, run.seed) for run in found] == [("prosma", 0), ("signed", 0), ("prosma", 1), ("signed", 1)]
    assert {run.rate for run in found} == {1e-2}


def test_what_is_measured_is_left_out_until_its_settings_change(
    ev: SimpleNamespace, experiment: Callable[..., Any]
) -> None:
    tiny = experiment()
    results = [result(ev, run) for run in ev.runs.ready(tiny, [])]
    assert ev.runs.ready(tiny, results) == []
    other = experiment(settings={**TINY, "gate": {"threshold": 0.3}})
    assert [run.row for run in ev.runs.ready(other, results)] == ["prosma", "signed"]  # no threshold in a plain net


def test_setting_that_did_not_exist_counts_as_its_default(ev: SimpleNamespace, experiment: Callable[..., Any]) -> None:
    (run, *_) = ev.runs.ready(experiment(rows={"prosma": {}}), [])
    old = result(ev, run)
    del old["config"]["run"]["gate"]["channel_reduction"]
    assert ev.runs.find([old], run) is not None
    old["config"]["run"]["gate"]["channel_reduction"] = 2
    assert ev.runs.find([old], run) is None


def test_row_that_is_to_be_measured_fully_is_measured_again(
    ev: SimpleNamespace, experiment: Callable[..., Any]
) -> None:
    full = experiment(rows={"prosma": {"full": True}})
    (run,) = ev.runs.ready(full, [])
    part = {key: value for key, value in result(ev, run).items() if key != "corrupted"}
    assert ev.runs.ready(full, [part]) == [run]
    assert ev.runs.ready(full, [{**part, "failed": "training diverged"}]) == []


def test_choosing_never_sees_what_is_judged_and_keeps_groups_together(ev: SimpleNamespace, data: Path) -> None:
    folder = open_dataset(data / "tiny")
    for group in ("case", "alike", "prefix", "last"):
        split = ev.experiment.InnerSplit(share=0.4, group=group)
        fit, rest = ev.splits.inner_split(folder, split)
        assert sorted(fit + rest) == sorted(folder.splits["train"])
        assert rest
        if group == "prefix":
            assert {n[:2] for n in fit}.isdisjoint(n[:2] for n in rest)
        if group == "last":
            assert rest == ["p1_2", "p1_3"]


def test_pictures_alike_are_grouped_through_others(ev: SimpleNamespace) -> None:
    vectors = np.array([[1, 0], [0.96, 0.28], [0.8432, 0.5376], [0, 1]], np.float32)
    assert ev.splits.alike(vectors, 0.93) == [[0, 1, 2], [3]]


def test_run_is_trained_judged_and_written(ev: SimpleNamespace, experiment: Callable[..., Any], data: Path) -> None:
    full = experiment(
        rows={"prosma": {"full": True}}, rates=(1e-3, 1e-2), settings={**TINY, "class_names": {1: "organ"}}
    )
    out, work = data / "out", data / "work"
    while runs := ev.runs.ready(full, ev.runs.read_results(out)):
        ev.one.measure(runs[0], data, out, work, "cpu")
    results = ev.runs.read_results(out)
    assert sorted(r["phase"] for r in results) == ["judge", "tune", "tune"]
    (found,) = [r for r in results if r["phase"] == "judge"]
    assert set(found["scores"]) == {"p2_4", "p2_5"}
    assert found["cases"] == {"train": 4, "judged": 2}
    assert set(found["scores"]["p2_4"]["organ"]) == {"dice", "iou", "present"}
    assert found["parameters"] > 0
    assert found["flops"] > 0
    assert len(found["levels"]) == 1
    assert set(found["corrupted"]) == set(ev.page.CORRUPTIONS)
    removed = [point["removed"][0] for point in found["curve"]]
    assert removed == sorted(removed)
    assert str(data) not in json.dumps(results)


def test_stopped_run_goes_on_where_it_was(
    ev: SimpleNamespace, experiment: Callable[..., Any], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ev.experiment, "EPOCH", 1)
    (run,) = ev.runs.ready(experiment(rows={"plain": ROWS["plain"]}), [])
    out, work = data / "out", data / "work"
    steps = ev.fit.fit(run, data / "tiny", work / f"{run.key}.safetensors", torch.device("cpu"))
    first = next(event for event in steps if isinstance(event, EpochDone))
    steps.close()
    assert (first.epoch, first.epochs) == (1, 2)
    state = work / f"{run.key}.prosma" / "state.safetensors"
    assert state.is_file()
    ev.one.measure(run, data, out, work, "cpu")
    assert len((state.parent / "history.csv").read_text().splitlines()) == 3  # a head and two epochs
    assert not state.exists()  # what is measured needs no state


def test_nothing_is_written_of_a_run_whose_time_is_up(
    ev: SimpleNamespace, experiment: Callable[..., Any], data: Path
) -> None:
    (run,) = ev.runs.ready(experiment(rows={"plain": ROWS["plain"]}), [])
    with pytest.raises(ev.one.OutOfTimeError):
        ev.one.measure(run, data, data / "out", data / "work", "cpu", until=time.time() - 1)
    assert not list((data / "out").glob("*.json"))


def test_training_that_diverges_is_a_result(
    ev: SimpleNamespace, experiment: Callable[..., Any], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = experiment(rows={"plain": ROWS["plain"]}, rates=(1e-3, 1e-2))

    def diverge(*_: Any) -> Any:
        msg = "Loss nan"
        raise TrainingError(msg)
        yield

    run, other = ev.runs.ready(two, [])
    results = [result(ev, run, score=0.2)]
    monkeypatch.setattr(ev.one, "fit", diverge)
    path = ev.one.measure(other, data, data / "out", data / "work", "cpu")
    results += [json.loads(path.read_text())]
    assert results[1]["failed"] == "training diverged"
    assert ev.runs.chosen_rate(two, "plain", results) == 1e-3


def test_crash_of_one_process_does_not_lose_the_others(
    ev: SimpleNamespace, experiment: Callable[..., Any], tmp_path: Path
) -> None:
    tiny = experiment()
    results = {run.key: json.dumps(result(ev, run)) for run in ev.runs.ready(tiny, [])}

    def command(run: Any, until: float | None) -> list[str]:
        if run.row == "plain":
            return [sys.executable, "-c", "raise SystemExit('no such thing')"]
        write = "import sys, pathlib; pathlib.Path(sys.argv[1]).write_text(sys.argv[2])"
        return [sys.executable, "-c", write, str(tmp_path / f"{run.key}.json"), results[run.key]]

    many = ev.many.Many([tiny], [], tmp_path, tmp_path / "work", command, parallel=2)
    assert many.run() == 1
    assert [key.split("--")[1] for key in many.failed] == ["plain"]
    assert len(ev.runs.read_results(tmp_path)) == 2


def test_nothing_is_started_when_time_is_nearly_up(
    ev: SimpleNamespace, experiment: Callable[..., Any], tmp_path: Path
) -> None:
    def command(run: Any, until: float | None) -> list[str]:
        raise AssertionError(run)

    many = ev.many.Many([experiment()], [], tmp_path, tmp_path / "work", command, until=time.time() + 1)
    assert many.run() == 3


def test_command_line_lists_what_can_start(tmp_path: Path, data: Path) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump({"data": "tiny", "rows": ROWS, "settings": TINY, "rates": [1e-3], "seeds": [0]}))
    words = [str(ROOT / "benchmarks" / "evidence.py"), str(path), "--data", str(data), "--out", str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    answer = subprocess.run(
        [sys.executable, *words, "--list", "--only", "plain"],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    assert answer.stdout.startswith("tiny--plain--judge--rate0.001--seed0--")
    assert len(answer.stdout.splitlines()) == 1


# --- What the page says ----------------------------------------------------------------------------------------------

COMPARED = {row: {"full": True} for row in ("plain", "attention", "prosma", "plain-wide")} | {
    "plain": {"full": True, "set": {"gate": {"kind": "none"}}},
    "attention": {"full": True, "set": {"gate": {"kind": "attention"}}},
}
WON = {"plain": 0.80, "attention": 0.81, "prosma": 0.83, "plain-wide": 0.80}


def verdicts(ev: SimpleNamespace, experiments: list[Any], results: list[dict[str, Any]]) -> list[str]:
    sets = [ev.measured.Measured.of(each, results) for each in experiments]
    return [claim.verdict for claim in ev.claims.claims(sets)]


def test_claims_hold_where_the_gate_wins(ev: SimpleNamespace, experiment: Callable[..., Any]) -> None:
    each = experiment(rows=COMPARED, seeds=(0, 1, 2), targets={"dice": 0.8})
    assert verdicts(ev, [each], judged(ev, each, WON)) == ["holds"] * 6


def test_claims_do_not_hold_where_it_loses(ev: SimpleNamespace, experiment: Callable[..., Any]) -> None:
    each = experiment(rows=COMPARED, seeds=(0, 1, 2), targets={"dice": 0.8})
    lost = judged(ev, each, {**WON, "prosma": 0.79}, levels=[{"removed": 0.5}, {"removed": 0.1}])
    assert verdicts(ev, [each], lost) == ["does not hold"] * 6
    text = ev.page.page([each], lost)
    assert "**Does not hold**: On images as they are" in text
    assert "below (-1.00 ± 0.00 against plain, -2.00 ± 0.00 against attention)" in text


def test_too_few_seeds_prove_nothing(ev: SimpleNamespace, experiment: Callable[..., Any]) -> None:
    each = experiment(rows=COMPARED, seeds=(0, 1, 2), targets={"dice": 0.8})
    two = [r for r in judged(ev, each, WON) if r["seed"] < 2]
    assert set(verdicts(ev, [each], two)) == {"cannot be said yet"}


def test_small_loss_is_allowed_but_no_win(ev: SimpleNamespace, experiment: Callable[..., Any]) -> None:
    each = experiment(rows=COMPARED, seeds=(0, 1, 2))
    close = judged(ev, each, {**WON, "prosma": 0.808})
    assert verdicts(ev, [each], close)[:2] == ["does not hold", "holds"]


def test_larger_network_wins_nothing(ev: SimpleNamespace, experiment: Callable[..., Any]) -> None:
    each = experiment(rows=COMPARED, seeds=(0, 1, 2))
    results = judged(ev, each, WON)
    for each_result in results:
        each_result["parameters"] += 50 * (each_result["row"] == "prosma")
    assert verdicts(ev, [each], results)[4] == "does not hold"


def test_four_of_six_can_be_lost_before_all_are_measured(ev: SimpleNamespace, experiment: Callable[..., Any]) -> None:
    six = [experiment(rows=COMPARED, seeds=(0, 1, 2), data=f"set{i}", name=f"set{i}") for i in range(6)]
    lost = [r for each in six[:3] for r in judged(ev, each, {**WON, "prosma": 0.7})]
    assert verdicts(ev, six, lost)[0] == "does not hold"
    assert verdicts(ev, six, [r for each in six[:3] for r in judged(ev, each, WON)])[0] == "cannot be said yet"
    assert verdicts(ev, six, [r for each in six[:4] for r in judged(ev, each, WON)])[0] == "holds"


def test_page_names_what_is_missing_and_what_diverged(ev: SimpleNamespace, experiment: Callable[..., Any]) -> None:
    each = experiment(rows=COMPARED, seeds=(0, 1, 2), title="Tiny set")
    results = judged(ev, each, {"plain": 0.8, "prosma": 0.82})
    results[0] = {**results[0], "failed": "training diverged"}
    text = ev.page.page([each], results)
    assert "- tiny: plain (1 of 3 seeds), attention (3 of 3 seeds), plain-wide (3 of 3 seeds)" in text
    assert "- tiny, diverged: plain (1)" in text
    assert "| prosma | 3 | 0.001 | 0.8210 ± 0.0010 |" in text
    assert "+2.00 ± 0.00" in text


def test_page_has_tables_of_robustness_curve_and_ablation(ev: SimpleNamespace, experiment: Callable[..., Any]) -> None:
    each = experiment(rows=COMPARED, seeds=(0, 1, 2))
    ablation = experiment(name="cut", kind="ablation", rows={"prosma": {"full": True}, "signed": {"rate_of": "prosma"}})
    results = judged(ev, each, WON)
    results += judged(ev, ablation, {"signed": 0.82}, levels=[{"removed": 0.25}])
    text = ev.page.page([each, ablation], results)
    assert "| speckle | 1 | 0.7010 ± 0.0010 |" in text
    assert "| **mean** | 3 |" in text
    assert "| 1 | 50.0 | 50.0 | 0.8310 ± 0.0010 |" in text
    assert "-1.00 (one seed) | 25 |" in text


def test_page_without_results_claims_nothing(ev: SimpleNamespace) -> None:
    text = ev.page.page(ev.experiment.every(), [])
    assert "**Holds**" not in text
    assert "**Does not hold**" not in text
    assert "- busi: plain (3 of 3 seeds)" in text
