"""JSON and YAML from files: what is refused, and that everything else is read as the libraries read it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from prosma_core.config.documents import load_json, load_yaml
from prosma_core.config.training import LabelsConfig, RunConfig, load_run_yaml, resolve_run
from prosma_core.errors import LONGEST_TEXT, ConfigError, DatasetError, ProsmaError
from prosma_core.io.dataset_folder import read_splits

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**62), 2**62)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(VALUES)
def test_json_is_read_as_by_the_library(values: object) -> None:
    assert load_json(json.dumps(values)) == values


@given(VALUES)
def test_yaml_is_read_as_by_the_library(values: object) -> None:
    text = yaml.safe_dump(values, allow_unicode=True)
    assert load_yaml(text) == yaml.safe_load(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": 1, "a": 2}', "twice"),
        ('{"a": NaN}', "NaN"),
        ('{"a": -Infinity}', "Infinity"),
        ('{"a": 1e999}', "out of range"),
        ('{"a": ' + "9" * 5000 + "}", "5000 digits"),
        ("[" * 100_000, "too deeply"),
        ('{"a": ', "Expecting"),
    ],
)
def test_json_that_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        load_json(text)


def test_json_of_zarr_may_hold_nan_but_is_bounded_all_the_same() -> None:
    assert str(load_json('{"a": NaN}', finite=False)) == "{'a': nan}"
    with pytest.raises(ValueError, match="twice"):
        load_json('{"a": NaN, "a": 1}', finite=False)


BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: 1\na: 2\n", "twice"),
        ("a: " + "9" * 5000, "5000 digits"),
        (BOMB, "stands for more than"),
        ("a: &x [*x]", "stands for more than"),
        ("[" * 50_000, "too deeply"),
        ("".join(f"{' ' * i}a:\n" for i in range(100)), "too deeply"),
        ("a: !!python/object/apply:os.system ['true']", "python/object"),
        ("a: [1\n", "expected"),
    ],
)
def test_yaml_that_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        load_yaml(text)


def test_yaml_aliases_of_usual_size_are_read() -> None:
    assert load_yaml("base: &b {epochs: 3}\ntraining: *b\n") == {"base": {"epochs": 3}, "training": {"epochs": 3}}


def test_settings_and_splits_that_cannot_be_read_name_their_file(tmp_path: Path) -> None:
    settings, splits = tmp_path / "run.yaml", tmp_path / "splits.json"
    settings.write_text("epochs: " + "9" * 5000)
    splits.write_text("[" * 100_000)
    with pytest.raises(ConfigError, match=r"run\.yaml"):
        load_run_yaml(settings)
    with pytest.raises(DatasetError, match=r"splits\.json"):
        read_splits(splits, [])


def test_many_wrong_settings_make_one_short_message() -> None:
    with pytest.raises(ConfigError, match="and 36 more") as caught:
        resolve_run({f"unknown{i}": "x" * 500 for i in range(38)})
    assert len(str(caught.value)) <= LONGEST_TEXT


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"training": {"epochs": 0}}, "training.epochs: must be at least 1 (given: 0)"),
        ({"training": {"batch_size": "x"}}, "training.batch_size: must be a whole number (given: 'x')"),
        ({"foo": 1}, "foo: there is no such setting (given: 1)"),
        ({"class_names": {1: ""}}, "class_names.1: must not be empty (given: '')"),
        ({"labels": {"ignore": 0}}, "labels: to ignore the value 0, set zero: unlabeled (given: {'ignore': 0})"),
        ({"init": 3}, "init: must be a text (given: 3)"),
    ],
)
def test_settings_are_refused_in_plain_words(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_run({"out": "a.safetensors", **values})
    assert caught.value.args[1] == said


def test_unlabeled_as_earlier_versions_spelled_it_is_read(tmp_path: Path) -> None:
    old = tmp_path / "run.yaml"
    old.write_text("out: a.safetensors\nlabels: {zero: unlabelled, background: 4}\n", encoding="utf-8")
    run = RunConfig.parse(load_run_yaml(old), str(old))
    assert run.labels == LabelsConfig(zero="unlabeled", background=4)
    assert run.labels.model_fields_set == {"zero", "background"}
    assert RunConfig.model_validate_json(run.model_dump_json().replace("unlabeled", "unlabelled")) == run
    assert LabelsConfig().replace(zero="unlabelled").zero == "unlabeled"
    with pytest.raises(ConfigError, match="must be one of 'background', 'unlabeled' or 'annotated_slices'"):
        LabelsConfig.parse({"zero": "unlabellled"}, "This")


def test_a_long_message_keeps_its_beginning_and_its_end() -> None:
    text = str(ProsmaError("The file " + "x" * 900 + " is too long. Choose another name."))
    assert len(text) == LONGEST_TEXT
    assert text.startswith("The file xxx")
    assert text.endswith("is too long. Choose another name.")
