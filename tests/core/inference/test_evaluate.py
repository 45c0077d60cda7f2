"""Evaluation compares what segmentation gives with what the labels say."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch

from prosma_core.config.inference import InferenceConfig
from prosma_core.config.training import LabelsConfig
from prosma_core.data.geometry import Scan, array_spec
from prosma_core.data.slices import SliceStates
from prosma_core.errors import DatasetError
from prosma_core.events import StageStarted, Working
from prosma_core.inference.evaluate import evaluate_cases
from prosma_core.inference.postprocess import count_objects
from prosma_core.inference.segment import Segmenter
from prosma_core.io.images import read_image, read_labels, write_image, write_labels
from prosma_core.io.notes import slices_note


def drain(run, events=None):
    while True:
        try:
            event = next(run)
        except StopIteration as stop:
            return stop.value
        if events is not None:
            events.append(event)


@pytest.fixture
def segmenter(make_model, tmp_path) -> Segmenter:
    return Segmenter.load(make_model(tmp_path / "tiny.safetensors", dims=2), torch.device("cpu"))


def test_a_model_is_perfect_on_its_own_answers_in_every_frame(segmenter, tmp_path, rng) -> None:
    spec = array_spec((3, 24, 32), "tyx", (1.0, 1.0), "um")
    images, labels = tmp_path / "images", tmp_path / "labels"
    images.mkdir()
    labels.mkdir()
    data = rng.normal(size=spec.shape).astype(np.float32)
    write_image(images / "movie.tif", data, spec)
    answer = drain(segmenter.segment(Scan(data, spec), InferenceConfig()))
    assert set(np.unique(answer.labels.data)) == {0, 1}
    write_labels(labels / "movie.tif", answer.labels.data, spec)
    report = drain(evaluate_cases(segmenter, tmp_path, None, InferenceConfig(), 1.0))
    assert list(report["cases"]) == [f"movie frame {t}" for t in range(3)]
    assert all(m["dice"] == 1.0 for case in report["cases"].values() for m in case.values())
    assert report["summary"]["mean"]["dice"] == 1.0


def sentences(events: list) -> list[str]:
    return [e.message for e in events if isinstance(e, StageStarted)]


def test_progress_is_no_sentence_and_a_sentence_is_said_once(segmenter, tmp_path, make_data) -> None:
    events: list = []
    drain(evaluate_cases(segmenter, make_data(tmp_path / "data"), None, InferenceConfig(mirror=True), 1.0), events)
    said = sentences(events)
    assert said[0] == "Evaluating tiny on 4 cases of data."
    assert sum(message.startswith("Segmenting: ") for message in said) == 1
    working = [e.message for e in events if isinstance(e, Working)]
    assert [m for m in working if m.startswith("Reading")] == [f"Reading case_{n}" for n in range(4)]
    assert sum(m.startswith("case_3: Segmenting: ") for m in working) == 1


def test_without_a_split_all_cases_are_measured_and_it_is_said(segmenter, tmp_path, make_data) -> None:
    events: list = []
    report = drain(evaluate_cases(segmenter, make_data(tmp_path / "data"), None, InferenceConfig(), 1.0), events)
    assert len(report["cases"]) == 4
    assert report["split"] is None
    said = "has no splits.json: every case is measured (4 cases), possibly also those it was trained on."
    expected = f"{tmp_path / 'data'} {said}"
    assert expected in sentences(events)


def test_a_split_may_be_a_runs_own_file(segmenter, tmp_path, make_data) -> None:
    data, run = make_data(tmp_path / "data"), tmp_path / "splits.json"
    run.write_text('{"train": ["case_0", "case_1", "case_2"], "val": ["case_3"]}')
    events: list = []
    report = drain(evaluate_cases(segmenter, data, str(run), InferenceConfig(), 1.0), events)
    assert list(report["cases"]) == ["case_3"]
    assert report["split"] == str(run)
    assert not any("possibly also" in message for message in sentences(events))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"train": ["case_0"]}', "no split 'val' with cases"),
        ('{"train": ["case_0"], "val": []}', "no split 'val' with cases"),
        ('{"train": ["case_0"], "val": ["gone"]}', "'gone'"),
        ("[]", "no list of training cases"),
    ],
)
def test_a_file_of_splits_that_does_not_fit_is_named(segmenter, tmp_path, make_data, text: str, said: str) -> None:
    data, run = make_data(tmp_path / "data"), tmp_path / "other.json"
    run.write_text(text)
    with pytest.raises(DatasetError, match=said) as caught:
        drain(evaluate_cases(segmenter, data, str(run), InferenceConfig(), 1.0))
    assert "other.json" in str(caught.value)


def test_a_split_that_is_not_there_names_both_ways(segmenter, tmp_path, make_data) -> None:
    with pytest.raises(DatasetError, match=r"no split 'test' with cases.*path of a splits\.json"):
        drain(evaluate_cases(segmenter, make_data(tmp_path / "data"), "test", InferenceConfig(), 1.0))


def test_what_is_not_annotated_is_not_measured(segmenter, tmp_path, make_data, rng) -> None:
    root = make_data(tmp_path / "data", 2)
    for name in ("case_0", "case_1"):
        image = read_image(root / "images" / f"{name}.png")
        answer = drain(segmenter.segment(image, InferenceConfig())).labels
        wrong = 1 - answer.data
        wrong[:, :20] = answer.data[:, :20] + 5 * (answer.data[:, :20] == 0)  # 5 is painted background
        wrong[:, 20:] = 9 if name == "case_0" else 0
        write_labels(root / "labels" / f"{name}.png", wrong, answer.spec, overwrite=True)
    (root / "labels" / "case_1.png").unlink()
    write_labels(root / "labels" / "case_1.png", np.zeros((32, 32), np.uint8), answer.spec)
    meaning = LabelsConfig(zero="unlabeled", background=5, ignore=9)
    events: list = []
    report = drain(evaluate_cases(segmenter, root, None, InferenceConfig(), 1.0, meaning), events)
    assert list(report["cases"]) == ["case_0"]
    assert report["summary"]["mean"]["dice"] == 1.0
    assert "case_1 holds no annotation and is left out." in sentences(events)


def test_a_run_that_held_out_slices_is_no_fair_measure(segmenter, tmp_path, make_data) -> None:
    root, splits = make_data(tmp_path / "data"), tmp_path / "splits.json"
    for validation, unfair in (("slices", True), ("cases", False)):
        splits.write_text(json.dumps({"train": ["case_0"], "val": ["case_0"], "validation": validation}))
        events: list = []
        drain(evaluate_cases(segmenter, root, str(splits), InferenceConfig(), 1.0), events)
        assert any("no fair figure" in said for said in sentences(events)) == unfair


def test_labels_that_a_model_made_are_no_independent_labels(segmenter, tmp_path, make_data) -> None:
    folder = make_data(tmp_path / "data")
    path = next(iter(sorted((folder / "labels").iterdir())))
    labels, events = read_labels(path), []
    write_labels(path, labels.data, labels.spec, overwrite=True, provenance={"program": "prosma", "model": "tiny"})
    report = drain(evaluate_cases(segmenter, folder, None, InferenceConfig(), 1.0), events)
    assert report["derived_labels"] == ["case_0"]
    assert "No independent labels: those of 1 of 4 cases are a model's result" in "".join(sentences(events))


def test_evaluation_goes_on_past_pairs_that_cannot_be_measured(segmenter, tmp_path, make_data) -> None:
    data = make_data(tmp_path / "data")
    (data / "images" / "case_1.png").write_bytes(b"no picture")
    write_labels(data / "labels" / "case_2.png", np.ones((8, 8), np.uint8), array_spec((8, 8), "yx"), overwrite=True)
    events: list = []
    report = drain(evaluate_cases(segmenter, data, None, InferenceConfig(), 1.0), events)
    assert list(report["cases"]) == ["case_0", "case_3"]
    assert report["summary"]["cases"] == 2
    assert list(report["failed"]) == ["case_1", "case_2"]
    assert "different grids" in report["failed"]["case_2"]
    assert any(words.startswith("case_1 is left out: ") for words in sentences(events))
    for name in ("case_0", "case_3"):
        (data / "images" / f"{name}.png").write_bytes(b"no picture")
    with pytest.raises(DatasetError, match="None of 4 cases of data could be measured, for example case_0"):
        drain(evaluate_cases(segmenter, data, None, InferenceConfig(), 1.0))


def test_the_command_writes_what_it_measured_and_its_exit_code_says_that_it_is_not_all(
    prosma, make_model, tmp_path, make_data
) -> None:
    data, report = make_data(tmp_path / "data", count=2), tmp_path / "r.json"
    arguments = (
        "evaluate",
        "--model",
        make_model(tmp_path / "m.safetensors", dims=2),
        "--data",
        data,
        "--json",
        report,
    )
    assert prosma(*arguments)[0] == 0
    (data / "images" / "case_1.png").write_bytes(b"no picture")
    code, _, said = prosma(*arguments)
    assert code == 3
    assert "1 case could not be measured" in said.replace("\n", " ")
    assert list(json.loads(report.read_text())["cases"]) == ["case_0"]
    assert list(json.loads(report.read_text())["failed"]) == ["case_1"]


def test_time_points_without_labels_are_not_measured(segmenter, tmp_path, rng) -> None:
    spec = array_spec((3, 24, 32), "tyx", (1.0, 1.0), "um")
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    write_image(tmp_path / "images" / "movie.tif", rng.normal(size=spec.shape).astype(np.float32), spec)
    labels = np.zeros(spec.shape, np.uint8)
    labels[1, 4:9, 4:9] = 1
    write_labels(tmp_path / "labels" / "movie.tif", labels, spec)
    assert list(drain(evaluate_cases(segmenter, tmp_path, None, InferenceConfig(), 1.0))["cases"]) == ["movie frame 1"]


def test_a_class_that_is_in_no_case_has_no_dice(segmenter, tmp_path, make_data) -> None:
    data = make_data(tmp_path / "data", lesion=0)
    summary = drain(evaluate_cases(segmenter, data, None, InferenceConfig(), 1.0))["summary"]
    (found,) = summary["classes"].values()
    assert found["dice"] is found["surface_dice"] is summary["mean"]["dice"] is None
    assert found["absent"] == 4


def test_of_a_corrected_result_checked_and_edited_slices_are_measured(segmenter, tmp_path, make_data) -> None:
    folder = make_data(tmp_path / "data")
    for name, edited in (("case_0", ()), ("case_1", (0,))):
        path = next((folder / "labels").glob(f"{name}.*"))
        labels, notes = read_labels(path), {"program": "prosma", "model": "tiny"}
        states = SliceStates("", 1, edited=edited, only=True)
        write_labels(path, labels.data, labels.spec, overwrite=True, provenance=notes | slices_note(states))
    events: list = []
    report = drain(evaluate_cases(segmenter, folder, None, InferenceConfig(), 1.0), events)
    assert sorted(report["cases"]) == ["case_1", "case_2", "case_3"]
    assert "case_0 holds no annotation and is left out." in sentences(events)


def test_numbered_objects_are_counted_where_labels_are_one_class(segmenter, tmp_path, rng) -> None:
    spec = array_spec((24, 32), "yx", (1.0, 1.0), "um")
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    data = rng.normal(size=spec.shape).astype(np.float32)
    write_image(tmp_path / "images/cells.tif", data, spec)
    answer = np.asarray(drain(segmenter.segment(Scan(data, spec), InferenceConfig())).labels.data)
    numbers = (answer > 0) * np.where(np.arange(32) < 12, 7, 9).astype(np.uint16)
    write_labels(tmp_path / "labels/cells.tif", numbers, spec)
    one = LabelsConfig(one_class=True)
    report = drain(evaluate_cases(segmenter, tmp_path, None, InferenceConfig(), 1.0, one))
    ((_, measures),) = report["summary"]["classes"].items()
    counts = asdict(count_objects(answer > 0, numbers))
    assert counts["wanted"] == 2
    assert measures["objects"] == {**counts, "f1": 2 * counts["matched"] / (counts["found"] + 2)}
    ((_, alone),) = report["cases"]["cells"].items()
    assert alone["objects"] == counts
    empty = np.zeros(spec.shape, np.uint16)  # one that shows no object counts as well: what is found there is wrong
    write_image(tmp_path / "images/empty.tif", data[::-1].copy(), spec)
    write_labels(tmp_path / "labels/empty.tif", empty, spec)
    report = drain(evaluate_cases(segmenter, tmp_path, None, InferenceConfig(), 1.0, one))
    ((_, alone),) = report["cases"]["empty"].items()
    assert (alone["objects"]["wanted"], alone["objects"]["matched"]) == (0, 0)
    assert alone["objects"]["found"] > 0
    (tmp_path / "labels/cells.tif").unlink()
    write_labels(tmp_path / "labels/cells.tif", (numbers > 0).astype(np.uint8) * 7, spec)
    report = drain(evaluate_cases(segmenter, tmp_path, None, InferenceConfig(), 1.0, one))
    assert [m["objects"] for m in report["summary"]["classes"].values()] == [None]
