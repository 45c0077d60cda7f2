"""What is held out: cases where there are enough, slices where there are few, nothing where that says nothing."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prosma_core.config.model import ClassInfo
from prosma_core.config.training import LabelsConfig
from prosma_core.data.geometry import Scan, array_spec
from prosma_core.data.labels import read_annotation
from prosma_core.data.slices import SliceStates
from prosma_core.errors import DatasetError, TrainingError
from prosma_core.runs.run_state import FAVORS_START, format_before_after
from prosma_core.training.classes import check_background, format_classes
from prosma_core.training.split import (
    FEW_HELD_OUT,
    FEW_SLICES,
    HeldOut,
    Split,
    draw_cases,
    hold_out_slices,
    keep_classes,
    leave_unjudged,
    unjudged_words,
)
from prosma_core.training.validate import common_classes

annotated = st.dictionaries(
    st.sampled_from("abc"), st.lists(st.integers(0, 60), unique=True, max_size=25).map(sorted), min_size=1
)


@given(annotated, st.integers(0, 99))
def test_held_out_slices_and_their_neighbors_are_not_trained_on(slices: dict[str, list[int]], seed: int) -> None:
    split = hold_out_slices(slices, seed)
    assert split == hold_out_slices(slices, seed)
    assert split == Split.from_json(json.loads(json.dumps(split.as_json())))
    assert set(split.train) == set(slices)
    assert (split.kind == "none held out") == (sum(map(len, slices.values())) < FEW_SLICES)
    for name, held in split.held.items():
        assert set(held.slices) | set(held.left_out) <= set(slices[name])
        rest = set(slices[name]) - set(held.slices) - set(held.left_out)
        assert rest
        assert len(rest) >= 2 * len(slices[name]) / 3 or not held.left_out
        labels = np.zeros((61, 4, 4), np.uint8)
        labels[slices[name]] = 1
        scan = Scan(labels, array_spec(labels.shape, "zyx"))
        found = read_annotation(scan, LabelsConfig(zero="annotated_slices", slice_axis="z"))
        assert split.part("train", name, found).slices == tuple(sorted(rest))
        assert split.part("val", name, found).slices == held.slices


def test_neighbors_are_left_out_where_enough_remains() -> None:
    dense = hold_out_slices({"a": range(10, 40)}, 0).held["a"]
    assert len(dense.slices) == 6
    assert dense.left_out == (dense.slices[0] - 1, dense.slices[-1] + 1)
    assert hold_out_slices({"a": range(10, 15)}, 0).held["a"].left_out == ()
    assert 1 < hold_out_slices({"a": [1, 8, 15, 22, 29]}, 0).held["a"].slices[0] < 29


def test_words_say_what_the_figure_means() -> None:
    assert Split(("a",), ("b",)).words() == ""
    assert "1 annotated slice of the same scans" in Split(("a",), ("a",), "slices", {"a": HeldOut((3,))}).words()
    assert "expect lower Dice on new scans" in Split(("a",), ("a",), "none held out").words()


@pytest.mark.parametrize("values", [{}, {"train": ["a"], "val": ["a"], "held_out": [1]}, {"train": 1, "val": 2}])
def test_a_damaged_split_is_refused(values) -> None:
    with pytest.raises(TrainingError, match=r"splits\.json cannot be read"):
        Split.from_json(values)


def infos(*pairs: tuple[int, str]) -> tuple[ClassInfo, ...]:
    return tuple(ClassInfo(value=v, name=n) for v, n in ((0, "background"), *pairs))


def test_classes_of_two_models_are_matched_by_name_then_by_value() -> None:
    start = infos((1, "Liver"), (2, "spleen"), (5, "class 5"))
    assert common_classes(start, infos((1, "spleen"), (3, "liver"))) == {1: 2, 2: 1}
    assert common_classes(start, infos((1, "class 1"), (5, "tumour"))) == {1: 1, 3: 2}
    assert common_classes(start, infos((1, "kidney"))) == {}


def test_what_got_worse_is_said() -> None:
    words = format_before_after({"liver": 0.81, "spleen": 0.9}, {"liver": 0.884, "spleen": 0.86, "new": 0.1})
    assert words == "liver 0.81 -> 0.88; spleen got worse: 0.90 -> 0.86."
    favored = format_before_after({"a": 0.35, "b": 0.0}, {"a": 0.0, "b": 0.0}, FAVORS_START)
    assert favored == "a got worse: 0.35 -> 0.00; b 0.00 -> 0.00."  # one class fell by more than that explains
    assert "keep the one it started from" in format_before_after({"liver": 0.9}, {"liver": 0.8})
    assert "worse" not in format_before_after({"liver": 0.9}, {"liver": 0.899})


def test_scribbles_need_background() -> None:
    one, two = infos((1, "cell")), infos((1, "cell"), (2, "wall"))
    sparse = LabelsConfig(zero="unlabeled")
    assert check_background(one, LabelsConfig(), painted=False) == ""
    assert check_background(one, sparse, painted=True) == ""
    with pytest.raises(DatasetError, match=r"Only cell is painted.*--background N"):
        check_background(one, sparse, painted=False)
    with pytest.raises(DatasetError, match="no voxel is painted 7"):
        check_background(one, LabelsConfig(zero="unlabeled", background=7), painted=False)
    assert "every voxel one of the painted classes (cell, wall)" in check_background(two, sparse, painted=False)


def test_few_held_out_scans_or_slices_choose_no_weights() -> None:
    names = tuple(map(str, range(20)))
    held = {"a": HeldOut((3, 4)), "b": HeldOut((1,))}
    assert [Split(names[n:], names[:n]).keep(16) for n in (1, FEW_HELD_OUT - 1, FEW_HELD_OUT)] == [
        "last",
        "last",
        "best",
    ]
    assert (Split(("a", "b"), ("a", "b"), "slices", held).held_out, Split(names, names, "none held out").held_out) == (
        3,
        0,
    )
    assert Split(("a",), ("a",), "slices", {"a": HeldOut(tuple(range(FEW_HELD_OUT)))}).keep(1) == "best"
    assert Split(names[10:], names[:10]).keep(FEW_HELD_OUT - 1) == "last"  # each validation sees no more


def test_a_class_only_in_a_validation_case_moves_to_training_and_as_many_cases_validate() -> None:
    split = Split(("a", "b", "c", "d"), ("e",))
    train = {"a": {1, 3}, "b": {1}, "c": {1}, "d": {1}}
    found, moved = keep_classes(split, train, {"e": {1, 2}})
    assert (found.train, found.val, moved) == (("a", "c", "d", "e"), ("b",), ("e",))  # a alone has class 3
    slices = {"a": {1: (0,), 3: (2,)}, "b": {1: (4,)}, "c": {1: (0,)}, "d": {1: (9,)}, "e": {1: (1,), 2: (1, 2)}}
    assert keep_classes(split, slices, {}) == (found, moved)
    assert keep_classes(split, train, {"e": {1}}) == (split, ())
    assert keep_classes(Split(("a",), ("e",)), {"a": {1}}, {"e": {2}}) == (Split(("a",), ("e",)), ())
    both, moved = keep_classes(Split(("a",), ("e", "f")), {"a": {1}}, {"e": {2}, "f": {1}})
    assert (both.train, both.val, moved) == (("a", "e"), ("f",), ("e",))
    empty = {"a": set[int](), "b": {1}, "c": {1}}
    assert keep_classes(Split(("a", "b", "c"), ("e",)), empty, {"e": {1, 2}})[0].val == ("b",)  # it shows something


cases_with_classes = st.dictionaries(
    st.sampled_from("abcdefgh"), st.sets(st.integers(1, 4), max_size=3), min_size=4, max_size=8
)


@given(cases_with_classes, st.integers(1, 2))
def test_every_class_is_trained_on_where_that_can_be(cases: dict[str, set[int]], held: int) -> None:
    names = sorted(cases)
    split = Split(tuple(names[held:]), tuple(names[:held]))
    found, _ = keep_classes(split, {n: cases[n] for n in split.train}, {n: cases[n] for n in split.val})
    assert sorted((*found.train, *found.val)) == names
    assert found.val
    trained, everything = set().union(*(cases[n] for n in found.train)), set().union(*cases.values())
    assert set().union(*(cases[n] for n in split.train)) <= trained
    assert trained == everything or len(found.val) == 1


@pytest.mark.parametrize(("corrected", "checked", "held"), [(1, 4, 0), (3, 7, 0), (4, 16, 1), (10, 0, 2), (20, 5, 4)])
def test_of_corrected_scans_a_fifth_is_held_out_however_many_others_were_only_checked(
    corrected: int, checked: int, held: int
) -> None:
    yes, no = (SliceStates("z", 24, 1, *each, only=True) for each in (((9,), (12, 14)), ((9, 12), ())))
    states = {f"{i:02}": yes if i < corrected else no for i in range(corrected + checked)}
    split = draw_cases(states, 0, states)
    assert (len(split.val) if split.kind == "cases" else 0) == held
    assert sum(states[name] is yes for name in split.train) == corrected - held
    assert split.kind == ("cases" if held else "none held out")


def test_marked_scans_without_an_edited_slice_are_left_out_of_validation_and_named() -> None:
    edited, checked = (SliceStates("z", 24, 1, (9,), each, only=True) for each in ((12,), ()))
    split = Split(("a", "b"), ("c", "d"))
    for states, left in (({"c": edited, "d": edited}, ()), ({"c": edited, "d": checked}, ("d",))):
        found = leave_unjudged(split, 0, states)
        assert (found.train, found.val) == (split.train, tuple(name for name in split.val if name not in left))
        assert ("d" in unjudged_words(split.val, found)) == bool(left)
    none = leave_unjudged(split, 0, dict.fromkeys("cd", checked))
    assert none == Split(("a", "b"), ("a", "b"), "none held out")
    assert "c, d. They are not trained on. What is validated on is drawn" in unjudged_words(split.val, none)


def test_slices_that_alone_hold_a_class_are_trained_on() -> None:
    slices = {"a": range(10, 30)}
    for seed in range(8):
        drawn = hold_out_slices(slices, seed)
        taken = drawn.held["a"].slices
        values = {"a": {1: range(10, 30), 2: (taken[1], taken[2])}}
        moved = hold_out_slices(slices, seed, values)
        assert len(moved.held["a"].slices) == len(taken)
        left = set(slices["a"]) - set(moved.held["a"].slices) - set(moved.held["a"].left_out)
        assert left & {taken[1], taken[2]}
        assert hold_out_slices(slices, seed, {"a": {1: range(10, 30)}}) == drawn


def test_classes_are_listed_and_those_that_a_part_lacks_are_named() -> None:
    classes = tuple(ClassInfo(value=v, name=n) for v, n in enumerate(("background", "organ", "lesion", "duct")))
    assert format_classes(classes, {1: 3, 2: 2}, {1: 1, 3: 1}, "case") == [
        "Classes, in training and validation cases: organ (1) in 3 and 1; lesion (2) in 2 and 0; duct (3) in 0 and 1.",
        "No validation case holds lesion: no validation Dice (–), no part in the mean.",
        "No training case holds duct: this cannot be learned here.",
    ]
    assert format_classes(classes[:3], {1: 3, 2: 2}, {1: 3, 2: 2}, "slice", held_out=False) == [
        "Classes, in annotated slices: organ (1) in 3; lesion (2) in 2."
    ]
    many = tuple(ClassInfo(value=v, name=f"class {v}") for v in range(41))
    assert format_classes(many, dict.fromkeys(range(41), 1), dict.fromkeys(range(41), 1), "slice")[0].endswith(
        "28 more."
    )


def test_classes_without_a_dice_have_no_part_in_the_comparison() -> None:
    assert format_before_after({"liver": 0.8, "spleen": 0.9}, {"liver": 0.9}) == "liver 0.80 -> 0.90."
