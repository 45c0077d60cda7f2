"""Checked and edited slices: what of a label map is annotated, what may be validated on, and their note in files."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prosma_core.config.training import LabelsConfig
from prosma_core.data.frames import planes_of
from prosma_core.data.geometry import Scan, array_spec
from prosma_core.data.labels import read_annotation
from prosma_core.data.pair_check import check_pair
from prosma_core.data.slices import SliceStates, runs_of
from prosma_core.errors import GeometryError
from prosma_core.io.notes import noted_slices, slices_note

SHAPE = (6, 8, 9)
indices = st.lists(st.integers(0, 5), unique=True).map(lambda found: tuple(sorted(found)))


def labels(values: np.ndarray | None = None) -> Scan:
    data = np.ones(SHAPE, np.uint8) if values is None else values
    return Scan(data, array_spec(data.shape, "tzyx"[-data.ndim :], (3.0, 1.0, 1.0)[3 - min(data.ndim, 3) :], "mm"))


@given(indices, indices)
def test_every_slice_is_checked_edited_or_untouched_and_the_note_says_so(checked, edited) -> None:
    states = SliceStates("z", 6, 1, checked, edited, only=True)
    assert sorted((*states.annotated, *states.untouched)) == list(range(6))
    assert set(states.annotated) == {*checked, *edited}
    counts = [int(part.split()[0]) for part in states.words().split(", ")]
    assert sum(counts) == 6
    assert counts[0] == len(checked)
    assert noted_slices(slices_note(states)) == states
    toggled = states.marked(3, checked=3 not in checked)
    assert (3 in toggled.checked) != (3 in checked)
    assert toggled.marked(3, checked=3 in checked) == states


@given(indices, indices, st.sampled_from(["background", "unlabeled", "annotated_slices"]))
def test_of_a_result_only_checked_and_edited_slices_are_known(checked, edited, zero) -> None:
    states = SliceStates("z", 6, 1, checked, edited, only=True)
    painted = labels()
    painted.data[:, 0] = 0
    found = read_annotation(painted, LabelsConfig(zero=zero), states)
    known = np.ones(SHAPE, bool) if found.ignored is None else ~found.ignored
    for i in range(6):
        whole = i in checked or (i in edited and zero != "unlabeled")
        assert known[i].all() == whole
        assert known[i].any() == (i in states.annotated)
    assert set(found.slices) == set(states.annotated)
    assert set(found.validated) == set(edited)
    garbage = painted.data.copy()
    garbage[list(states.untouched)] = np.random.default_rng(0).integers(0, 256, (len(states.untouched), 8, 9))
    other = read_annotation(labels(garbage), LabelsConfig(zero=zero), states)
    np.testing.assert_array_equal(other.values, found.values)
    assert (other.slices, other.marked, other.sparse) == (found.slices, found.marked, found.sparse)


def test_a_checked_slice_counts_though_nothing_is_painted_on_it() -> None:
    painted = labels(np.zeros(SHAPE, np.uint8))
    painted.data[2, 2:4, 2:4] = 1
    for only in (True, False):
        states = SliceStates("z", 6, 1, checked=(4,), edited=(2,), only=only)
        found = read_annotation(painted, LabelsConfig(zero="annotated_slices"), states)
        assert found.marked == (2, 4)
        assert found.slices == (2,)
        assert not found.ignored[[2, 4]].any()
        assert found.ignored[[0, 1, 3, 5]].all()


def test_marks_on_drawn_labels_take_nothing_away() -> None:
    states = SliceStates("z", 6, 1, checked=(4,))
    assert read_annotation(labels(), LabelsConfig(), states).ignored is None


def test_when_every_slice_is_checked_nothing_is_ignored() -> None:
    found = read_annotation(labels(), LabelsConfig(), SliceStates("z", 6, 1, tuple(range(6)), (), only=True))
    assert found.ignored is None
    assert not found.sparse
    assert found.validated == ()  # they are all the model's own


def test_time_points_have_slices_of_their_own() -> None:
    states = SliceStates("z", 6, 2, checked=(1,), edited=(7, 8), only=True)  # slices 1 and 2 of time point 1
    found = read_annotation(labels(np.ones((2, *SHAPE), np.uint8)), LabelsConfig(), states)
    assert np.argwhere(~found.ignored.all(axis=(2, 3))).tolist() == [[0, 1], [1, 1], [1, 2]]
    assert found.validated == (2,)  # slice 1 is the model's own at time point 0
    assert states.name(8) == "time point 1, slice 2 (z)"


@given(st.sampled_from("zyx"), st.integers(0, 2**32 - 1), st.integers(0, 5), st.integers(0, 5))
def test_changed_voxels_are_all_that_is_known_of_slices_that_nobody_looked_at(axis, seed, edited, checked) -> None:
    rng, spec = np.random.default_rng(seed), labels().spec
    changed = rng.random(SHAPE) < rng.choice([0.0, 0.1, 0.9, 1.0])
    planes = list(planes_of(Scan(changed, spec), axis))
    strokes = tuple((i, runs_of(plane)) for i, plane in enumerate(planes) if plane.any())
    states = SliceStates(axis, spec.size(axis), 1, (checked,), (edited,), only=True, strokes=strokes)
    for i in (edited, checked):
        planes[i][...] = True
    np.testing.assert_array_equal(np.broadcast_to(states.known(spec), SHAPE), changed)
    assert noted_slices(slices_note(states)) == states
    assert states.partly == tuple(i for i, _ in strokes if i not in (edited, checked))
    found = read_annotation(labels(), LabelsConfig(), states)
    np.testing.assert_array_equal(np.zeros(SHAPE, bool) if found.ignored is None else found.ignored, ~changed)
    assert set(found.validated) <= {edited}


def test_a_picture_counts_whole() -> None:
    picture = labels(np.ones((8, 9), np.uint8))
    none, edited = (SliceStates("", 1, 1, (), each, only=True) for each in ((), (0,)))
    assert read_annotation(picture, LabelsConfig(), none).known == 0
    assert read_annotation(picture, LabelsConfig(), edited).ignored is None
    assert edited.name(0) == "picture"


@pytest.mark.parametrize("zero", ["background", "annotated_slices"])
def test_a_result_that_nobody_looked_at_is_no_pair_with_labels(zero) -> None:
    found = check_pair(labels().spec, labels(), LabelsConfig(zero=zero), states=SliceStates("z", 6, only=True))
    assert (found.values, found.annotated, found.problem) == ({}, 0, "")


def test_slices_that_were_given_are_numbers_of_slices() -> None:
    given = SliceStates("", 0, edited=(2, 5), only=True)
    assert given.on(labels().spec, None, "a") == SliceStates("z", 6, 1, (), (2, 5), only=True)
    assert given.on(labels().spec, "y", "a").axis == "y"
    with pytest.raises(GeometryError, match="Slice 6 of a is given as annotated, but it has 6 slices along z"):
        SliceStates("", 0, edited=(6,), only=True).on(labels().spec, None, "a")
    assert SliceStates("z", 7, only=True).on(labels().spec, None, "a") is None  # a note of another label map


@pytest.mark.parametrize(
    "change",
    [{"size": 0}, {"axis": "t"}, {"checked": [9]}, {"edited": "x"}, {"only": 1}, {"frames": None}]
    + [{"strokes": each} for each in ({"9": [0, 1]}, {"3": [0]}, {"3": [-1, 2]}, {"x": [0, 1]}, [3])],
)
def test_a_damaged_note_says_nothing(change) -> None:
    values = SliceStates("z", 6, 1, (1,), (2,), only=True).as_json()
    assert noted_slices({"slices": json.dumps(values)}) is not None
    assert noted_slices({"slices": json.dumps(values | change)}) is None
    assert noted_slices({"slices": "{"}) is None
    assert noted_slices({}) is None


@given(st.integers(1, 3), st.integers(1, 9), st.sets(st.integers(0, 26)), st.sets(st.integers(0, 26)))
def test_slices_are_spread_evenly_where_something_is(frames: int, size: int, known: set, blank: set) -> None:
    count = frames * size
    states = SliceStates("z", size, frames, checked=tuple(sorted(i for i in known if i < count)))
    found = states.evenly(lambda index: index not in blank)
    assert (found is None) == (not states.untouched)
    if found is None:
        return
    assert found in states.untouched
    assert found not in blank or blank.issuperset(states.untouched)
    once = states.marked(found, checked=True)
    assert once.evenly(lambda _: True) != found


def test_the_middle_comes_first_then_the_middles_of_what_is_left() -> None:
    states, found = SliceStates("z", 31, 1), []
    for _ in range(7):
        index = states.evenly(lambda _: True)
        assert index is not None
        found.append(index)
        states = states.marked(index, checked=True)
    assert found == [15, 7, 23, 3, 11, 19, 27]
