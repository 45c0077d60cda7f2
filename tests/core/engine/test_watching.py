"""A scan that is watched while a model is trained is segmented after each validation, into one array."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prosma_core.config import InferenceConfig
from prosma_core.config.training import RunConfig
from prosma_core.data.geometry import Scan, array_spec
from prosma_core.engine.client import Engine
from prosma_core.engine.messages import ArrayReady, Cancelled, Finished, ScanRef, TrainRequest
from prosma_core.events import EpochDone, PreviewDone, SlicesUnsure, StageStarted, StepDone, Working
from prosma_core.inference.segment import Segmenter
from prosma_core.io.bundle import read_header
from prosma_core.io.images import read_image
from prosma_core.runs.run_folder import RunFolder
from prosma_core.runs.run_state import read_history, run_state

Begin = Callable[..., Any]
MakeRun = Callable[..., RunConfig]
HandOver = Callable[..., ScanRef]

SIX = {"epochs": 6, "steps": 5}


def segmented(model: Path, scan: Scan) -> np.ndarray:
    work = Segmenter.load(model, torch.device("cpu")).segment(scan, InferenceConfig(overlap=0.25))
    while True:
        try:
            next(work)
        except StopIteration as stop:
            return stop.value.labels.data


@pytest.fixture(scope="module")
def scan(pairs: list[tuple[Path, Path]]) -> Scan:
    """Return a picture of two discs: larger than the tile."""
    disc = read_image(pairs[0][0])
    return Scan(np.concatenate([disc.data, disc.data[:, ::-1]]), array_spec((96, 48), "yx"))


def test_the_watched_scan_has_the_classes_of_the_last_epoch(
    engine: Engine,
    begin: Begin,
    make_run: MakeRun,
    hand_over: HandOver,
    scan: Scan,
    shared_files: Callable[..., list[Path]],
) -> None:
    run = make_run(training={"epochs": 4, "steps": 20, "validation_every": 2})
    heard = begin(engine, TrainRequest(run=run, preview=hand_over(engine, scan)))
    assert isinstance(heard.end(), Finished)
    (made,) = heard.of(ArrayReady)
    assert made.name == "preview"
    expected = segmented(RunFolder.beside(run.out).last, scan)
    assert expected.any()
    np.testing.assert_array_equal(made.array, expected)
    assert [event.epoch for event in heard.of(PreviewDone)] == [2, 4]
    unsure = heard.of(SlicesUnsure)[0]
    assert unsure.axis == ""
    ((background, disc),) = unsure.entropy
    assert 0 <= disc <= 1
    assert 0 < background + disc <= 1
    assert any(event.message.startswith("Preview of epoch 2: ") for event in heard.of(Working))
    assert [path for path in shared_files() if path.suffix == ".array"] == []


def test_watching_does_not_change_the_model_and_counts_among_its_minutes(
    engine: Engine, begin: Begin, make_run: MakeRun, hand_over: HandOver, scan: Scan
) -> None:
    plain, watched = make_run("plain"), make_run("watched")
    assert isinstance(begin(engine, TrainRequest(run=plain)).end(), Finished)
    large = Scan(np.tile(scan.data, (3, 6)), array_spec((3 * 96, 6 * 48), "yx"))
    heard = begin(engine, TrainRequest(run=watched, preview=hand_over(engine, large)))
    assert isinstance(heard.end(), Finished)
    assert read_header(watched.out).sha256 == read_header(plain.out).sha256
    folder = RunFolder.beside(watched.out)
    spent = 60 * run_state(folder).minutes_spent
    trained, shown = (
        sum(row["seconds"] for row in read_history(folder)),
        sum(e.seconds for e in heard.of(PreviewDone)),
    )
    assert trained + shown / 2 < spent  # previews count among the minutes


def test_a_scan_is_watched_from_the_middle_on_another_follows_and_none_ends_it(
    engine: Engine,
    begin: Begin,
    make_run: MakeRun,
    hand_over: HandOver,
    scan: Scan,
    shared_files: Callable[..., list[Path]],
) -> None:
    def arrays() -> list[str]:
        return [str(path) for path in shared_files() if path.suffix == ".array"]

    heard = begin(engine, TrainRequest(run=make_run(training={**SIX, "epochs": 1000})))
    heard.wait_for(EpochDone)
    assert heard.of(PreviewDone) == []
    one, two = hand_over(engine, scan), hand_over(engine, Scan(scan.data[:40], array_spec((40, 48), "yx")))
    heard.job.preview(one)
    first = heard.wait_for(PreviewDone)
    heard.job.preview(one)
    assert set(arrays()) == {one.array.path, two.array.path}
    heard.job.preview(two)
    assert arrays() == [two.array.path]
    second = heard.wait_for(ArrayReady, so=lambda message: message.array.shape == (40, 48))
    heard.wait_for(PreviewDone, so=lambda event: event.epoch > first.epoch + 1)
    assert [message.array.shape for message in heard.of(ArrayReady)] == [(96, 48), (40, 48)]
    heard.job.preview(None)
    assert arrays() == []
    until = heard.wait_for(PreviewDone, so=lambda event: event is heard.of(PreviewDone)[-1]).epoch
    heard.wait_for(EpochDone, so=lambda event: event.epoch >= until + 3)
    assert max(event.epoch for event in heard.of(PreviewDone)) <= until + 1
    heard.job.cancel()
    assert isinstance(heard.end(), Cancelled)
    assert second.array.any()
    three = hand_over(engine, scan)
    heard.job.preview(three)
    assert arrays() == []


def test_a_scan_that_is_opened_meanwhile_is_predicted_on_at_the_next_step(
    engine: Engine, begin: Begin, make_run: MakeRun, hand_over: HandOver, scan: Scan
) -> None:
    training = {"epochs": 1000, "steps": 20, "validation_every": 20}
    scans = [hand_over(engine, each) for each in (scan, Scan(scan.data[:40], array_spec((40, 48), "yx")))]
    heard = begin(engine, TrainRequest(run=make_run(training=training)))

    def validated() -> int:
        return sum(epoch.dice is not None for epoch in heard.of(EpochDone))

    heard.wait_for(EpochDone, so=lambda epoch: epoch.dice is not None)
    for number, ref in enumerate(scans, start=1):  # the second one soon after the first
        before = validated()
        heard.job.preview(ref)
        heard.wait_for(PreviewDone, so=lambda _, number=number: len(heard.of(PreviewDone)) == number)
        assert validated() == before
    assert len(heard.of(ArrayReady)) == 2
    heard.job.cancel()
    assert isinstance(heard.end(), Cancelled)


@pytest.mark.parametrize("wrong", ["constant", "channels", "gone"])
def test_a_scan_that_does_not_fit_is_said_once_and_training_goes_on(
    wrong: str, engine: Engine, begin: Begin, make_run: MakeRun, hand_over: HandOver, scan: Scan
) -> None:
    bad = {
        "constant": lambda: hand_over(engine, Scan(np.ones((2, 40, 40), np.float32), array_spec((2, 40, 40), "zyx"))),
        "channels": lambda: hand_over(engine, Scan(np.eye(40)[None].repeat(2, 0), array_spec((2, 40, 40), "cyx"))),
        "gone": lambda: ScanRef(file="no-such-scan.nii.gz"),
    }[wrong]()
    heard = begin(engine, TrainRequest(run=make_run(training=SIX), preview=bad))
    said = heard.wait_for(StageStarted, so=lambda event: "no preview" in event.message)
    heard.job.preview(hand_over(engine, scan))
    assert isinstance(heard.end(), Finished)
    assert [event for event in heard.of(StageStarted) if "no preview" in event.message] == [said]
    assert said.message.startswith("There is no preview, and training continues. ")
    assert [event.epoch for event in heard.of(EpochDone)] == list(range(1, 7))
    assert heard.of(PreviewDone)


def test_a_training_is_cancelled_in_the_middle_of_a_preview(
    engine: Engine, begin: Begin, make_run: MakeRun, hand_over: HandOver, long_scan: Scan
) -> None:
    heard = begin(engine, TrainRequest(run=make_run(training=SIX), preview=hand_over(engine, long_scan)))
    heard.wait_for(Working, so=lambda event: "Preview of epoch 1: " in event.message)
    pid = engine.pid
    heard.job.cancel()
    assert isinstance(heard.end(), Cancelled)
    assert heard.of(PreviewDone) == []
    assert [event.epoch for event in heard.of(StepDone)][-1] == 1
    assert engine.pid == pid
