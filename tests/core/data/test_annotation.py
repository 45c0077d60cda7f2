"""What label values mean: background, nothing known, to be ignored, slices."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from prosma_core.config.training import LabelsConfig
from prosma_core.data.geometry import Scan, array_spec
from prosma_core.data.labels import LEAST_OBJECTS, Annotation, number_objects, read_annotation
from prosma_core.data.pair_check import check_pair
from prosma_core.errors import ConfigError, GeometryError
from prosma_core.io.images import read_labels


def volume(axis: int = 0, slices: tuple[int, ...] = (2, 5), shape: tuple[int, ...] = (9, 10, 11)) -> Scan:
    """Labels of two classes on some slices along an axis."""
    labels = np.zeros(shape, np.uint8)
    turned = np.moveaxis(labels, axis, 0)
    for i in slices:
        turned[i, 1:9, 2:8], turned[i, 3:5, 3:5] = 1, 2
    return Scan(labels, array_spec(shape, "zyx", (1.0, 1.0, 1.0), "mm"))


def test_a_large_picture_is_checked_in_a_few_times_its_memory() -> None:
    labels = np.zeros((3000, 3000), np.uint8)
    labels[100:200, 100:300] = 3
    spec = array_spec(labels.shape, "yx")
    tracemalloc.start()
    try:
        found = check_pair(spec, Scan(labels, spec), LabelsConfig())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (found.values, found.class_slices, found.problem) == ({3: 20_000}, {3: (0,)}, "")
    assert peak < 8 * labels.nbytes


def read(labels: Scan, **config) -> Annotation:
    return read_annotation(labels, LabelsConfig.parse(config, "labels"))


def test_zero_is_background_unless_said_otherwise() -> None:
    labels = volume()
    plain = read(labels)
    assert plain.ignored is None
    assert plain.values is labels.data
    assert plain.slices == (2, 5)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_on_annotated_slices_zero_is_background_and_elsewhere_nothing_is_known(axis: int) -> None:
    labels = volume(axis)
    found = read(labels, zero="annotated_slices")
    assert found.axis_name == "zyx"[axis]
    assert found.slices == found.marked == (2, 5)
    known = ~np.moveaxis(found.ignored, axis, 0)
    assert known[[2, 5]].all()
    assert known.sum() == found.known == 2 * known[0].size


def test_the_axis_of_slices_is_found_for_narrow_objects_and_for_lines() -> None:
    narrow = volume(0, ())
    narrow.data[[0, 2, 4, 6, 8], 4:6, 3:5] = 1
    assert read(narrow, zero="annotated_slices").axis == 0
    line = volume(0, ())
    line.data[3, 5, 2:9] = 1
    assert read(line, zero="annotated_slices").axis == 0
    side_by_side = volume(1, (3, 4, 5))
    assert read(side_by_side, zero="annotated_slices").axis == 1


def test_the_axis_of_the_slices_can_be_named() -> None:
    assert read(volume(0), zero="annotated_slices", slice_axis="y").axis == 1
    with pytest.raises(GeometryError, match="no slices along 'z'"):
        read(Scan(np.ones((4, 4), np.uint8), array_spec((4, 4), "yx")), slice_axis="z")


def test_a_slice_painted_with_background_only_is_annotated() -> None:
    labels = volume()
    labels.data[7, 0, 0] = 9
    found = read(labels, zero="annotated_slices", background=9)
    assert found.marked == (2, 5, 7)
    assert found.slices == (2, 5)
    assert set(np.unique(found.values)) == {0, 1, 2}
    assert not found.ignored[7].any()


def test_scribbles_are_known_where_they_are_painted() -> None:
    labels = volume()
    labels.data[4, 0] = 3
    found = read(labels, zero="unlabeled", background=3)
    np.testing.assert_array_equal(found.ignored, labels.data == 0)
    assert not found.values[4, 0].any()


def test_the_ignored_value_is_no_class_and_annotates_nothing() -> None:
    labels = volume()
    labels.data[2, 0], labels.data[8] = 255, 255
    plain = read(labels, ignore=255)
    np.testing.assert_array_equal(plain.ignored, labels.data == 255)
    assert plain.values.max() == 2
    sparse = read(labels, ignore=255, zero="annotated_slices")
    assert sparse.marked == (2, 5)
    assert sparse.ignored[2, 0].all()


def test_numbered_objects_become_one_class() -> None:
    data = np.arange(100, dtype=np.uint16).reshape(10, 10)
    found = read(Scan(data, array_spec((10, 10), "yx")), one_class=True, background=5, ignore=7)
    assert set(np.unique(found.values)) == {0, 1}
    assert (found.values == 0).sum() == 3


def test_time_points_are_annotated_one_by_one() -> None:
    data = np.zeros((3, 4, 6, 6), np.uint8)
    data[1, 2, 1:3, 1:5] = 1
    found = read(Scan(data, array_spec(data.shape, "tzyx")), zero="annotated_slices")
    assert np.argwhere(~found.ignored.all(axis=(2, 3))).tolist() == [[1, 2]]


def test_slices_can_be_kept_apart() -> None:
    found = read(volume(1, (1, 4, 8)), zero="annotated_slices")
    rest, held = found.without({4}), found.only({4})
    assert (rest.slices, held.slices) == ((1, 8), (4,))
    assert not (~rest.ignored & ~held.ignored).any()
    np.testing.assert_array_equal(~rest.ignored | ~held.ignored, ~found.ignored)
    dense = read(volume(0, tuple(range(9))))
    assert dense.without({3}).known == dense.values.size - 110
    assert dense.only({3}).known == 110


@pytest.mark.parametrize("values", [{"ignore": 0}, {"ignore": 3, "background": 3}, {"zero": "nothing"}])
def test_meanings_that_cannot_be_are_refused(values) -> None:
    with pytest.raises(ConfigError):
        LabelsConfig.parse(values, "labels")


@st.composite
def numbered(draw: st.DrawFn) -> np.ndarray:
    """Boxes with numbers, side by side or apart, in 2D or 3D; later ones lie above earlier ones."""
    shape = draw(st.sampled_from([(16, 20), (5, 14, 12)]))
    numbers = np.zeros(shape, np.uint16)
    for number in draw(st.lists(st.integers(1, 60), min_size=1, max_size=5, unique=True)):
        starts = [draw(st.integers(0, side - 1)) for side in shape]
        numbers[tuple(slice(a, a + draw(st.integers(1, 9))) for a in starts)] = number
    return numbers


@given(numbered(), st.sampled_from([1.0, 4.0]))
def test_a_piece_of_separated_labels_is_of_one_object_or_of_small_ones(numbers: np.ndarray, thick: float) -> None:
    spec = array_spec(numbers.shape, "zyx"[-numbers.ndim :], (thick, 1.0, 1.0)[-numbers.ndim :], "um")
    apart = read_annotation(Scan(numbers, spec), LabelsConfig(one_class=True, separate=True))
    whole = read_annotation(Scan(numbers, spec), LabelsConfig(one_class=True))
    assert apart.values.dtype == whole.values.dtype
    assert not ((apart.values > 0) & (whole.values == 0)).any()
    structure = np.ones((3,) * numbers.ndim, bool)
    if numbers.ndim == 3 and thick > 1:
        structure[[0, 2]] = False  # thick slices are separated one by one
    pieces, count = ndimage.label(apart.values, structure)
    sizes, left = (np.bincount(each, minlength=61) for each in (numbers.ravel(), numbers[apart.values > 0]))
    assert (4 * left[1:] >= sizes[1:]).all()  # none is lost
    for piece in range(1, count + 1):
        there = np.unique(numbers[pieces == piece])
        assert len(there) == 1 or (left[there] == sizes[there]).all()  # too small to be kept apart


def test_objects_far_from_others_stay_whole_and_touching_ones_lose_two_voxels() -> None:
    numbers = np.zeros((9, 30), np.uint8)
    numbers[:, 2:8], numbers[:, 8:14], numbers[:, 19:25] = 5, 7, 6
    labels = Scan(numbers, array_spec(numbers.shape, "yx"))
    apart = read(labels, one_class=True, separate=True)
    assert np.array_equal(np.flatnonzero(apart.values[4]), [*range(2, 6), *range(10, 14), *range(19, 25)])


@pytest.mark.parametrize(
    ("side", "pieces", "kept"), [(3, 5, 0.9), (4, 64, 0.25), (6, 64, 0.44), (8, 64, 0.56), (16, 64, 0.56)]
)
def test_small_objects_side_by_side_are_not_lost(side: int, pieces: int, kept: float) -> None:
    numbers = np.kron(np.arange(1, 65).reshape(8, 8), np.ones((side, side), np.int64)).astype(np.uint16)
    apart = read(Scan(numbers, array_spec(numbers.shape, "yx")), one_class=True, separate=True)
    assert ndimage.label(apart.values, np.ones((3, 3)))[1] == pieces
    assert apart.values.mean() >= kept


def test_separated_labels_must_be_one_class() -> None:
    with pytest.raises(ConfigError, match="set one_class as well"):
        LabelsConfig.parse({"separate": True}, "The settings")


def test_values_of_many_small_pieces_number_objects_and_those_of_organs_or_regions_do_not(rng) -> None:
    cells = np.zeros((64, 80), np.uint16)
    for i in range(20):
        cells[12 * (i // 5) + 2 :, 15 * (i % 5) + 2 :][:9, :13] = 5 * i + 2
    spec = array_spec(cells.shape, "yx")
    assert number_objects(cells, spec) == {5 * i + 2 for i in range(20)}
    large = np.kron(np.arange(1, 101, dtype=np.uint32).reshape(10, 10) * 70_000, np.ones((300, 300), np.uint32))
    assert len(number_objects(large, array_spec(large.shape, "yx"))) == 64  # of the middle
    assert number_objects(np.stack([np.zeros_like(cells), cells]), array_spec((2, 64, 80), "tyx"))
    assert number_objects(np.stack([cells] * 4), array_spec((4, 64, 80), "zyx"))
    assert not number_objects(np.where(cells < 30, cells, 0), spec)  # six of them may be classes
    assert not number_objects(rng.permutation(cells.reshape(-1)).reshape(cells.shape), spec)  # regions in many parts
    stripes = np.repeat(np.arange(16, dtype=np.uint8), 4)[:, None].repeat(80, 1)
    assert not number_objects(stripes, spec)  # layers of a tissue
    assert not number_objects(np.stack([cells] * 4), array_spec((4, 64, 80), "zyx", (1.0, 1.0, 1.0), "mm"))
    assert not number_objects(np.arange(1, 5121).reshape(64, 80), spec)  # each voxel by itself
    assert not number_objects(np.zeros_like(cells), spec)
    assert number_objects(np.where(cells, cells, 999), spec)  # without a 0


@pytest.mark.parametrize(
    ("name", "numbered"),
    [("dsb2018_fluo", True), ("axonmyelin_sem", False), ("busi", False)],
)
def test_real_label_maps_that_number_objects_are_told(name: str, numbered: bool, data_root) -> None:
    told = []
    for path in sorted((data_root / name / "labels").iterdir())[:12]:
        labels = read_labels(path)
        if len(np.unique(labels.data)) > LEAST_OBJECTS or not numbered:
            told.append(bool(number_objects(np.asarray(labels.data), labels.spec)))
    assert told
    assert set(told) == {numbered}
