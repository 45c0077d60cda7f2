"""The engine trains as the library does; a run that was stopped keeps what it has, and goes on as if it had not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from prosma_core import errors
from prosma_core.config.training import RunConfig, load_run_yaml, resolve_run
from prosma_core.data.geometry import Scan, array_spec
from prosma_core.engine.client import Engine
from prosma_core.engine.messages import (
    Cancelled,
    Failed,
    Finished,
    PlanRequest,
    TimesRequest,
    TrainRequest,
    spec_message,
)
from prosma_core.events import EpochDone, StageStarted, StepDone, Working
from prosma_core.io.bundle import load_bundle, read_header
from prosma_core.runs.run_folder import RunFolder
from prosma_core.runs.run_state import keep_stopped, read_history, run_state
from prosma_core.training.loop import TrainingResult, train

Submit = Callable[..., Any]
Begin = Callable[..., Any]
MakeRun = Callable[..., RunConfig]
Noise = Callable[..., Scan]


def in_process(run: RunConfig) -> tuple[TrainingResult, list[Any]]:
    work, events = train(run), []
    while True:
        try:
            events.append(next(work))
        except StopIteration as stop:
            return stop.value, events


def losses(events: list[Any]) -> list[float]:
    return [event.loss for event in events if isinstance(event, StepDone)]


LONGER = {"epochs": 3, "steps": 15}


@pytest.fixture(scope="module")
def uninterrupted(
    pairs: list[tuple[Path, Path]], tiny_run: MakeRun, tmp_path_factory: pytest.TempPathFactory
) -> TrainingResult:
    """Return what a longer run gives that nothing interrupts."""
    return in_process(tiny_run(tmp_path_factory.mktemp("whole") / "whole.safetensors", LONGER))[0]


def stop_in_epoch(engine: Engine, begin: Begin, run: RunConfig, number: int, step: int = 1) -> Any:
    """Return the listener of a training that was canceled in the middle of an epoch."""
    heard = begin(engine, TrainRequest(run=run))
    heard.wait_for(StepDone, so=lambda event: event.epoch == number and event.step >= step)
    heard.job.cancel()
    return heard


def test_training_is_that_of_the_library(engine: Engine, begin: Begin, make_run: MakeRun) -> None:
    expected, events = in_process(make_run("library"))
    run = make_run("engine")
    heard = begin(engine, TrainRequest(run=run))
    end = heard.end()
    assert isinstance(end, Finished)
    assert losses(heard.messages) == losses(events)
    assert read_header(run.out).sha256 == expected.header.sha256
    assert Path(end.result.model) == run.out
    assert end.result.dice == expected.validation.dice
    assert (end.result.mean_dice, end.result.before, end.result.words) == (expected.validation.mean, None, "")
    assert [event.epoch for event in heard.of(EpochDone)] == [1, 2]


def test_names_and_colors_of_classes_are_in_the_model_and_the_run(
    engine: Engine, begin: Begin, make_run: MakeRun
) -> None:
    run = make_run(class_names={1: "disc"}, class_colors={1: "#0080ff"}, training={"epochs": 1, "steps": 1})
    assert isinstance(begin(engine, TrainRequest(run=run)).end(), Finished)
    (_, disc) = read_header(run.out).classes
    assert (disc.name, disc.color) == ("disc", "#0080ff")
    assert resolve_run(load_run_yaml(RunFolder.beside(run.out).run_yaml)).class_colors[1] == "#0080ff"


def test_a_run_that_was_stopped_is_kept_and_goes_on_as_if_it_had_never_been(
    engine: Engine, begin: Begin, make_run: MakeRun, uninterrupted: TrainingResult
) -> None:
    run = make_run("cut", LONGER)
    folder = RunFolder.beside(run.out)
    heard = stop_in_epoch(engine, begin, run, 2)
    pid = engine.pid
    assert isinstance(heard.end(), Cancelled)
    assert max(event.step for event in heard.of(StepDone) if event.epoch == 2) < LONGER["steps"]
    assert not run.out.exists()
    state = run_state(folder)
    assert (state.epochs_done, state.epochs, state.finished, state.model_written) == (1, 3, False, False)
    (row,) = read_history(folder)
    kept = keep_stopped(folder)
    assert (kept.path, kept.epoch, kept.before, kept.words) == (run.out, 1, None, "")
    assert kept.dice == pytest.approx({"class 1": row["dice class 1"]}, abs=1e-4)
    assert load_bundle(run.out)[0] == load_bundle(folder.best)[0]
    assert run_state(folder).model_written
    again = begin(engine, TrainRequest(run=RunConfig(out=run.out), resume=True))
    assert isinstance(again.end(), Finished)
    assert engine.pid == pid
    assert [event.epoch for event in again.of(EpochDone)] == [2, 3]
    assert read_header(run.out).sha256 == uninterrupted.header.sha256
    assert run_state(folder).finished
    assert [row["epoch"] for row in read_history(folder)] == [1, 2, 3]


def test_a_finished_run_trains_for_more_epochs(engine: Engine, begin: Begin, make_run: MakeRun) -> None:
    run = make_run(training={"minutes": 60, "patience": 1})
    assert isinstance(begin(engine, TrainRequest(run=run)).end(), Finished)
    more = begin(engine, TrainRequest(run=RunConfig(out=run.out), resume=True, more_epochs=2))
    assert isinstance(more.end(), Finished)
    done = run_state(RunFolder.beside(run.out))
    assert (done.epochs_done, done.epochs, done.minutes, done.finished) == (4, 4, None, True)


def test_what_cannot_be_resumed_or_is_there_already_is_said(engine: Engine, begin: Begin, make_run: MakeRun) -> None:
    run = make_run(training={"epochs": 1, "steps": 1})
    nothing = begin(engine, TrainRequest(run=run, resume=True)).end()
    assert isinstance(nothing.error, errors.TrainingError)
    assert "no training to resume" in str(nothing.error)
    assert isinstance(begin(engine, TrainRequest(run=run)).end(), Finished)
    before = run.out.read_bytes()
    again = begin(engine, TrainRequest(run=run)).end()
    assert isinstance(again.error, errors.OutputError)
    assert "exists already" in str(again.error)
    other = begin(engine, TrainRequest(run=run.replace(training=run.training.replace(seed=5)), resume=True)).end()
    assert isinstance(other.error, errors.ConfigError)
    assert run.out.read_bytes() == before


def test_a_killed_run_is_kept_and_resumed_from_its_last_epoch(
    engine: Engine, begin: Begin, make_run: MakeRun, uninterrupted: TrainingResult
) -> None:
    run = make_run("cut", LONGER)
    heard = begin(engine, TrainRequest(run=run))
    heard.wait_for(StepDone, so=lambda event: event.epoch == 2 and event.step > 2)
    psutil.Process(engine.pid).kill()
    end = heard.end()
    assert isinstance(end, Failed)
    assert type(end.error) is errors.EngineError
    assert run_state(RunFolder.beside(run.out)).epochs_done == 1
    assert keep_stopped(RunFolder.beside(run.out)).epoch == 1
    again = begin(engine, TrainRequest(run=RunConfig(out=run.out), resume=True))
    assert isinstance(again.end(), Finished)
    assert read_header(run.out).sha256 == uninterrupted.header.sha256


def test_fine_tuning_takes_the_models_gate_and_says_before_and_after(
    engine: Engine, begin: Begin, make_run: MakeRun
) -> None:
    first = make_run("first", {"epochs": 2, "steps": 8}, gate={"kind": "none"})
    start = begin(engine, TrainRequest(run=first)).end().result
    run = make_run("second", {"epochs": 3, "steps": 15, "learning_rate": 1e-6}, init=str(first.out))
    heard = stop_in_epoch(engine, begin, run, 2)
    assert isinstance(heard.end(), Cancelled)
    kept, folder = keep_stopped(RunFolder.beside(run.out)), RunFolder.beside(run.out)
    assert kept.before == pytest.approx(start.dice)
    assert kept.words.startswith("class 1 ")
    assert folder.before_after.read_text(encoding="utf-8").count(kept.words) == 1
    end = begin(engine, TrainRequest(run=RunConfig(out=run.out), resume=True)).end()
    assert end.result.before == pytest.approx(start.dice)
    assert end.result.words.startswith("class 1 ")
    assert read_header(run.out).model.gate.kind == "none"
    assert run_state(folder).start == str(first.out)


def test_what_was_measured_on_a_part_of_what_is_held_out_says_so(
    engine: Engine, begin: Begin, make_run: MakeRun, pairs: list[Any]
) -> None:
    first = make_run("first")
    assert isinstance(begin(engine, TrainRequest(run=first)).end(), Finished)
    few = {"training": {"epochs": 9, "steps": 10, "validation_cases": 1}, "pairs": pairs[:2], "init": str(first.out)}
    heard = stop_in_epoch(engine, begin, make_run("second", **few), 2)
    assert isinstance(heard.end(), Cancelled)
    folder = RunFolder.beside(first.out.with_stem("second"))
    assert keep_stopped(folder).words.endswith("Measured on 1 of the 2 scans or slices that are held out.")
    assert run_state(folder).held_out.startswith("No independent validation")


def test_nothing_is_kept_of_a_run_without_a_validated_epoch(engine: Engine, begin: Begin, make_run: MakeRun) -> None:
    run = make_run(training={"steps": 1000})
    assert isinstance(stop_in_epoch(engine, begin, run, 1).end(), Cancelled)
    folder = RunFolder.beside(run.out)
    with pytest.raises(errors.TrainingError, match="no epoch was validated"):
        keep_stopped(folder)
    state = run_state(folder)
    assert (state.epochs_done, state.dice, state.finished, read_history(folder)) == (0, None, False, [])
    with pytest.raises(errors.TrainingError, match="holds no run"):
        run_state(RunFolder(folder.root / "elsewhere"))


def test_one_job_at_a_time_also_where_it_trains(
    engine: Engine, begin: Begin, submit: Submit, make_run: MakeRun, noise: Noise, model_2d: Path
) -> None:
    heard = begin(engine, TrainRequest(run=make_run(training={"steps": 1000})))
    heard.wait_for(StepDone)
    with pytest.raises(errors.EngineBusyError):
        begin(engine, TrainRequest(run=make_run("other")))
    with pytest.raises(errors.EngineBusyError):
        submit(engine, model_2d, noise((20, 20), "yx"))
    heard.job.cancel()
    assert isinstance(heard.end(), Cancelled)


def test_a_training_drops_the_loaded_model_and_segmenting_loads_it_again(
    engine: Engine, begin: Begin, submit: Submit, make_run: MakeRun, noise: Noise, model_2d: Path
) -> None:
    loads = []
    for train_between in (False, False, True):
        if train_between:
            assert isinstance(begin(engine, TrainRequest(run=make_run(training={"epochs": 1}))).end(), Finished)
        heard = submit(engine, model_2d, noise((20, 20), "yx"))
        assert isinstance(heard.end(), Finished)
        loads.append(sum("Loading the model" in event.message for event in heard.of(StageStarted)))
    assert loads[1:] == [0, 1]


def test_a_plan_says_what_would_be_and_writes_nothing(engine: Engine, begin: Begin, make_run: MakeRun) -> None:
    run = make_run(training={"epochs": 1000, "steps": 100})
    before = set(run.out.parent.iterdir())
    heard = begin(engine, PlanRequest(run=run))
    end = heard.end()
    assert isinstance(end, Finished)
    plan = end.result
    assert "2D, 1 channel (zscore)" in plan.words
    assert "3 training and 1 validation case" in plan.words
    assert 0 < 100 * plan.step_seconds < plan.epoch_seconds < plan.seconds / 1000
    assert set(run.out.parent.iterdir()) == before
    assert any("Timing" in event.message for event in heard.of(Working))
    short = begin(engine, PlanRequest(run=make_run(training={"epochs": 10**5, "minutes": 0.5}))).end().result
    assert 30 < short.seconds < 10**5 * short.epoch_seconds


def test_times_are_expected_of_grids_alone_and_the_loaded_model_stays(
    engine: Engine, begin: Begin, submit: Submit, make_run: MakeRun, noise: Noise, model_2d: Path
) -> None:
    submit(engine, model_2d, noise((20, 20), "yx")).end()
    runs = {name: make_run(pairs=[], training={"epochs": n}) for name, n in (("short", 10), ("long", 1000))}
    request = TimesRequest(runs=runs, scans=(spec_message(array_spec((30, 30), "yx")),) * 5, num_classes=2)
    end = begin(engine, request).end()
    assert isinstance(end, Finished)
    assert 0 < 50 * end.result.seconds["short"] < end.result.seconds["long"]
    again = submit(engine, model_2d, noise((20, 20), "yx"))
    assert isinstance(again.end(), Finished)
    assert not any("Loading the model" in event.message for event in again.of(StageStarted))


def test_a_plan_of_few_slices_says_what_is_held_out_and_errors_are_those_of_training(
    engine: Engine, begin: Begin, make_run: MakeRun, pairs: list[Any]
) -> None:
    few = begin(engine, PlanRequest(run=make_run(pairs=pairs[:1]))).end().result
    assert "expect lower Dice on new scans" in few.words
    gone = (pairs[0][0].with_stem("gone"), pairs[0][1])
    missing = begin(engine, PlanRequest(run=make_run(pairs=[gone]))).end()
    assert isinstance(missing.error, errors.ProsmaError)
    assert "gone.tif" in str(missing.error)
