"""The harness of the evidence: what is run, what is left out, and what is written."""

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

from prosma_core.errors import ConfigError, DivergedError, TrainingError
from prosma_core.events import EpochDone
from prosma_core.io.dataset_folder import open_dataset

ROOT = Path(__file__).resolve().parents[2]
Make = Callable[..., Any]
PLAIN = {"plain": {"set": {"gate": {"kind": "none"}}}}


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
    results = ev.runs.read_results(ev.experiment.RESULTS)
    by_key: dict[str, tuple[str, Any]] = {}
    for each in ev.experiment.every():
        for row in each.rows:
            for run in (*ev.runs.tuning_runs(each, row), *ev.runs.judged_runs(each, row, results)):
                same = (row, {**run.values, "phase": run.phase})
                assert by_key.setdefault(run.key, same) == same
    assert len(by_key) > 100


@pytest.mark.parametrize(
    ("rows", "changes", "words"),
    [
        ({"a": {"rate_of": "b"}}, {}, "'b', which is not a row"),
        ({"a": {}, "b": {"rate_of": "a"}, "c": {"rate_of": "b"}}, {}, "not a row with a rate of its own"),
        ({"a": {"rate": 0.1, "rate_of": "b"}, "b": {}}, {}, "both a rate and rate_of"),
        ({"a": {}}, {"judged_on": "choose", "rates": [0.1, 0.2]}, "Give one rate"),
    ],
)
def test_rates_that_could_be_misread_are_refused(
    ev: SimpleNamespace, tmp_path: Path, rows: Any, changes: Any, words: str
) -> None:
    (tmp_path / "x.yaml").write_text(yaml.safe_dump({"rows": rows, "data": "x", **changes}))
    with pytest.raises(ConfigError, match=words):
        ev.experiment.load(tmp_path / "x.yaml")


@pytest.mark.parametrize("name", ["busi", "glas", "kvasir"])
def test_validation_pictures_that_look_like_training_ones_are_named(ev: SimpleNamespace, name: str) -> None:
    each = ev.experiment.load(ev.experiment.FOLDER / f"{name}.yaml")
    folder = ROOT.parent / "shared" / "data" / each.data
    if not folder.is_dir():
        pytest.skip(f"needs {each.data} in ../shared/data")
    assert ev.splits.alike_to_training(open_dataset(folder)) == sorted(each.alike)


def test_ablations_never_see_the_cases_that_are_reported(ev: SimpleNamespace, experiment: Make, data: Path) -> None:
    for each in ev.experiment.every():
        if each.kind == "ablation":
            runs = ev.runs.ready(each, [])
            assert {run.phase for run in runs} == {"tune"}
            assert len(runs) == len(each.rows) * len(each.seeds)
            assert {run.values["training"]["epochs"] * 100 for run in runs} == {each.tuning_steps}
    ablation = experiment(kind="ablation", judged_on="choose", seeds=(7,))
    split = ev.fit.split_of(ev.runs.ready(ablation, [])[0], data / "tiny")
    assert not {*split.train, *split.val} & {"p2_4", "p2_5"}


def test_given_rate_is_taken_and_none_is_chosen(ev: SimpleNamespace, experiment: Make) -> None:
    two = experiment(rates=(1e-3, 1e-2), rows={"prosma": {"rate": 0.02}, "signed": {"rate_of": "prosma"}})
    assert [(run.row, run.phase, run.rate) for run in ev.runs.ready(two, [])] == [
        ("prosma", "judge", 0.02),
        ("signed", "judge", 0.02),
    ]


def test_extended_yaml_has_its_own_rows_only(
    ev: SimpleNamespace, tmp_path: Path, tiny_settings: dict[str, Any]
) -> None:
    (tmp_path / "_a.yaml").write_text(yaml.safe_dump({"rows": {"plain": {}}, "settings": tiny_settings, "data": "x"}))
    (tmp_path / "b.yaml").write_text(yaml.safe_dump({"extends": ["_a.yaml"], "rows": {"prosma": {}}, "steps": 7}))
    (only,) = ev.experiment.every(tmp_path)
    assert (list(only.rows), only.steps, only.data) == (["prosma"], 7, "x")


def test_yaml_may_keep_some_of_the_rows_it_extends(
    ev: SimpleNamespace, tmp_path: Path, tiny_settings: dict[str, Any]
) -> None:
    rows = {"plain": {"set": {"gate": {"kind": "none"}}}, "prosma": {}, "signed": {"set": {"gate": {"form": "signed"}}}}
    (tmp_path / "_a.yaml").write_text(yaml.safe_dump({"rows": rows, "settings": tiny_settings, "data": "x"}))
    (tmp_path / "b.yaml").write_text(yaml.safe_dump({"extends": ["_a.yaml"], "only": ["signed", "prosma"]}))
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"extends": ["b.yaml"], "rows": {"own": {}}}))
    assert [list(each.rows) for each in ev.experiment.every(tmp_path)] == [["signed", "prosma"], ["own"]]
    (tmp_path / "d.yaml").write_text(yaml.safe_dump({"extends": ["_a.yaml"], "only": ["sined"]}))
    with pytest.raises(ConfigError, match="only: names sined, which is no row"):
        ev.experiment.load(tmp_path / "d.yaml")


def test_learning_rates_come_first_and_the_best_is_taken(ev: SimpleNamespace, experiment: Make, result: Make) -> None:
    two = experiment(rates=(1e-3, 1e-2), seeds=(0, 1), rows={"prosma": {}, "signed": {"rate_of": "prosma"}})
    tuning = ev.runs.ready(two, [])
    assert [(run.phase, run.row, run.rate) for run in tuning] == [("tune", "prosma", 1e-3), ("tune", "prosma", 1e-2)]
    assert ev.runs.count_left(two, []) == 6
    results = [result(run, score=score) for run, score in zip(tuning, (0.3, 0.4), strict=True)]
    found = ev.runs.ready(two, results)
    assert [(run.row, run.seed) for run in found] == [("prosma", 0), ("signed", 0), ("prosma", 1), ("signed", 1)]
    assert {run.rate for run in found} == {1e-2}


def test_what_is_measured_is_left_out_until_its_settings_change(
    ev: SimpleNamespace, experiment: Make, result: Make, tiny_settings: dict[str, Any]
) -> None:
    tiny = experiment()
    results = [result(run) for run in ev.runs.ready(tiny, [])]
    assert ev.runs.ready(tiny, results) == []
    other = experiment(settings={**tiny_settings, "gate": {"threshold": 0.3}})
    assert [run.row for run in ev.runs.ready(other, results)] == ["prosma", "signed"]  # no threshold in a plain net


def test_setting_that_did_not_exist_counts_as_what_it_was_not_as_todays_default(
    ev: SimpleNamespace, experiment: Make, result: Make
) -> None:
    rows = {"prosma": {}, "open": {"set": {"gate": {"offset": 1.6}}}}
    closed, opened = ev.runs.ready(experiment(rows=rows), [])
    old = result(closed)
    del old["config"]["run"]["gate"]["offset"]
    assert ev.runs.find([old], closed) is not None
    assert ev.runs.find([{**old, "row": "open"}], opened) is None
    del old["config"]["run"]["gate"]["channel_reduction"]  # nobody said what it was
    assert ev.runs.find([old], closed) is None


def test_how_a_step_runs_is_not_what_it_computes(ev: SimpleNamespace) -> None:
    run = {"training": {"graph": True, "compile": False, "steps": 5}}
    assert ev.runs.same({"run": run}, {"run": {"training": {"graph": False, "compile": True, "steps": 5}}})
    assert not ev.runs.same({"run": run}, {"run": {"training": {**run["training"], "steps": 6}}})


def test_row_that_is_to_be_measured_fully_is_measured_again(
    ev: SimpleNamespace, experiment: Make, result: Make
) -> None:
    full = experiment(rows={"prosma": {"full": True}})
    (run,) = ev.runs.ready(full, [])
    part = {key: value for key, value in result(run).items() if key != "corrupted"}
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


def test_run_is_trained_judged_and_written(
    ev: SimpleNamespace, experiment: Make, data: Path, tiny_settings: dict[str, Any]
) -> None:
    full = experiment(
        rows={"prosma": {"full": True}}, rates=(1e-3, 1e-2), settings={**tiny_settings, "class_names": {1: "organ"}}
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
    assert set(found["corrupted"]) == set(ev.corruptions.CORRUPTIONS)
    removed = [point["removed"][0] for point in found["curve"]]
    assert removed == sorted(removed)
    assert (removed[0], removed[-1]) == (0, pytest.approx(1, abs=0.1))
    assert str(data) not in json.dumps(results)


def test_stopped_run_goes_on_where_it_was(
    ev: SimpleNamespace, experiment: Make, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ev.experiment, "EPOCH", 1)
    (run,) = ev.runs.ready(experiment(rows=PLAIN), [])
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


def test_nothing_is_written_of_a_run_whose_time_is_up(ev: SimpleNamespace, experiment: Make, data: Path) -> None:
    (run,) = ev.runs.ready(experiment(rows=PLAIN), [])
    with pytest.raises(ev.one.OutOfTimeError):
        ev.one.measure(run, data, data / "out", data / "work", "cpu", until=time.time() - 1)
    assert not list((data / "out").glob("*.json"))


def test_training_that_diverges_is_a_result(
    ev: SimpleNamespace, experiment: Make, data: Path, monkeypatch: pytest.MonkeyPatch, result: Make
) -> None:
    two = experiment(rows=PLAIN, rates=(1e-3, 1e-2))

    error = DivergedError

    def diverge(*_: Any) -> Any:
        msg = "Loss nan"
        raise error(msg)
        yield

    run, other = ev.runs.ready(two, [])
    results = [result(run, score=0.2)]
    monkeypatch.setattr(ev.one, "fit", diverge)
    path = ev.one.measure(other, data, data / "out", data / "work", "cpu")
    results += [json.loads(path.read_text())]
    assert results[1]["failed"] == "Loss nan"
    assert ev.runs.chosen_rate(two, "plain", results) == 1e-3
    error, path = TrainingError, data / "other"  # a state that does not fit, a compiler that is not there
    with pytest.raises(TrainingError):
        ev.one.measure(other, data, path, data / "work", "cpu")
    assert not path.exists()


def test_crash_of_one_process_does_not_lose_the_others(
    ev: SimpleNamespace, experiment: Make, tmp_path: Path, result: Make
) -> None:
    tiny = experiment()
    results = {run.key: json.dumps(result(run)) for run in ev.runs.ready(tiny, [])}

    def command(run: Any, until: float | None) -> list[str]:
        if run.row == "plain":
            return [sys.executable, "-c", "raise SystemExit('no such thing')"]
        write = "import sys, pathlib; pathlib.Path(sys.argv[1]).write_text(sys.argv[2])"
        return [sys.executable, "-c", write, str(tmp_path / f"{run.key}.json"), results[run.key]]

    many = ev.many.Many([tiny], [], tmp_path, tmp_path / "work", command, parallel=2)
    assert many.run() == 1
    assert [key.split("--")[1] for key in many.failed] == ["plain"]
    assert len(ev.runs.read_results(tmp_path)) == 2


def test_results_in_a_table_are_those_of_the_files(ev: SimpleNamespace, tmp_path: Path) -> None:
    for key, value in (("a--b", 1), ("a-", 2), ("c", 3)):
        (tmp_path / f"{key}.json").write_text(json.dumps({"dice": value}))
    before = ev.runs.read_results(tmp_path)
    assert ev.runs.pack_results(tmp_path) == 3
    assert [path.name for path in tmp_path.iterdir()] == [ev.runs.TABLE]
    assert ev.runs.read_results(tmp_path) == before
    table = (tmp_path / ev.runs.TABLE).read_bytes()
    (tmp_path / "c.json").write_text(json.dumps({"dice": 4}))  # measured anew
    assert [r["dice"] for r in ev.runs.read_results(tmp_path)] == [*(r["dice"] for r in before[:2]), 4]
    (tmp_path / "c.json").write_text(json.dumps({"dice": 3}))
    ev.runs.pack_results(tmp_path)
    assert (tmp_path / ev.runs.TABLE).read_bytes() == table


def test_runs_are_dealt_out_to_the_gpus(
    ev: SimpleNamespace, experiment: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(run: Any, until: float | None) -> list[str]:
        return [sys.executable, "-c", "import os, sys; sys.exit(10 + int(os.environ['CUDA_VISIBLE_DEVICES']))"]

    both = experiment(seeds=(0, 1))
    many = ev.many.Many([both], [], tmp_path, tmp_path / "work", command, parallel=6, gpus=["0", "1"])
    many.run()
    told = capsys.readouterr().out
    assert sorted(many.gpu_of.values()) == ["0", "0", "0", "1", "1", "1"]
    assert all(f"{key}: FAILED (1{gpu})" in told for key, gpu in many.gpu_of.items())


def test_nothing_is_started_when_time_is_nearly_up(ev: SimpleNamespace, experiment: Make, tmp_path: Path) -> None:
    def command(run: Any, until: float | None) -> list[str]:
        raise AssertionError(run)

    many = ev.many.Many([experiment()], [], tmp_path, tmp_path / "work", command, until=time.time() + 1)
    assert many.run() == 3


def test_only_what_will_end_in_time_is_started_where_that_is_asked_for(
    ev: SimpleNamespace, experiment: Make, tmp_path: Path, result: Make
) -> None:
    two = experiment(seeds=(0, 1), rows={**PLAIN, "prosma": {}})
    first = [run for run in ev.runs.ready(two, []) if run.seed == 0]
    for run in first:
        took = {"this_session": 500.0 if run.row == "plain" else 5.0}
        (tmp_path / f"{run.key}.json").write_text(json.dumps(result(run, seconds=took)))

    def started(whole: bool) -> set[str]:
        command = [sys.executable, "-c", ""]
        many = ev.many.Many(
            [two], [], tmp_path, tmp_path / "work", lambda *_: command, until=time.time() + 100, whole=whole
        )
        many.run()
        return {key.split("--")[1] for key in many.tried}

    assert (started(whole=True), started(whole=False)) == ({"prosma"}, {"plain", "prosma"})


def test_command_line_lists_what_can_start(tmp_path: Path, data: Path, tiny_settings: dict[str, Any]) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(
        yaml.safe_dump({"data": "tiny", "rows": PLAIN, "settings": tiny_settings, "rates": [1e-3], "seeds": [0]})
    )
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
