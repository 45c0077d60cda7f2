"""Measures against values worked out by hand, and against their definitions."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from prosma_core.errors import ConfigError, GeometryError
from prosma_core.inference.evaluate import ClassMeasures, measure_case, summarize
from prosma_core.inference.postprocess import ObjectCounts, count_objects, number_pieces

Labels = NDArray[np.integer[Any]]

CUBE = {1: "cube"}


def cube(z: int, y: int = 4, x: int = 4) -> Labels:
    """Map of a 4 x 4 x 4 cube that starts at this voxel."""
    labels = np.zeros((12, 12, 12), np.uint8)
    labels[z : z + 4, y : y + 4, x : x + 4] = 1
    return labels


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Labels, Labels]:
    """Two label maps of one shape, 2D or 3D, with classes 0 to 2."""
    shape = draw(array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=6))
    one, other = (draw(arrays(np.uint8, shape, elements=st.integers(0, 2))) for _ in range(2))
    return one, other


def test_cubes_shifted_along_z_have_the_values_worked_out_by_hand() -> None:
    # Shift of one 3 mm slice: 48 of 64 voxels shared; the union has 80. A cube has 64 - 8 = 56 surface voxels.
    # Without a partner at distance 0 are the 16 voxels of the far face (3 mm) and the 4 inner ones of the face that
    # lies within the other cube: these are 1 mm from its walls in plane, less than 3 mm along z, so 1 mm.
    measures = measure_case(cube(5), cube(4), (3.0, 1.0, 1.0), CUBE, surface_tolerance=1.0)["cube"]
    assert measures.dice == pytest.approx(0.75)
    assert measures.iou == pytest.approx(0.6)
    assert measures.hd95 == pytest.approx(3.0)
    assert measures.surface_dice == pytest.approx((56 - 16) / 56)
    assert (measures.reference_voxels, measures.predicted_voxels) == (64, 64)


@pytest.mark.parametrize(
    ("spacing", "tolerance", "surface", "hd95"),
    [
        ((3.0, 1.0, 1.0), 0.0, (56 - 16 - 4) / 56, 3.0),
        ((3.0, 1.0, 1.0), 2.9, (56 - 16) / 56, 3.0),
        ((3.0, 1.0, 1.0), 3.0, 1.0, 3.0),
        ((0.5, 1.0, 1.0), 0.5, 1.0, 0.5),
    ],
)
def test_spacing_and_tolerance_count_along_the_axis_they_belong_to(
    spacing: tuple[float, float, float], tolerance: float, surface: float, hd95: float
) -> None:
    measures = measure_case(cube(5), cube(4), spacing, CUBE, tolerance)["cube"]
    assert measures.surface_dice == pytest.approx(surface)
    assert measures.hd95 == pytest.approx(hd95)


def test_2d_points_are_their_distance_apart() -> None:
    prediction, reference = np.zeros((2, 9, 9), np.uint8)
    prediction[1, 1] = reference[4, 5] = 1
    measures = measure_case(prediction, reference, (2.0, 0.5), CUBE, 1.0)["cube"]
    assert measures.hd95 == pytest.approx(np.hypot(3 * 2.0, 4 * 0.5))
    assert (measures.dice, measures.iou, measures.surface_dice) == (0.0, 0.0, 0.0)


@given(pairs())
def test_dice_and_iou_are_their_definition(pair: tuple[Labels, Labels]) -> None:
    prediction, reference = pair
    measures = measure_case(prediction, reference, (1.5,) * prediction.ndim, {1: "one", 2: "two"}, 1.0)
    for number, name in ((1, "one"), (2, "two")):
        predicted, wanted = prediction == number, reference == number
        both, either = (predicted & wanted).sum(), (predicted | wanted).sum()
        total = predicted.sum() + wanted.sum()
        assert measures[name].dice == pytest.approx(2 * both / total if total else 1.0)
        assert measures[name].iou == pytest.approx(both / either if either else 1.0)
        assert (measures[name].predicted_voxels, measures[name].reference_voxels) == (predicted.sum(), wanted.sum())


@given(pairs())
def test_measures_do_not_depend_on_which_map_is_the_reference(pair: tuple[Labels, Labels]) -> None:
    spacing = (1.5, 0.7, 1.0)[: pair[0].ndim]
    forth = measure_case(*pair, spacing, CUBE, 1.0)["cube"]
    back = measure_case(*pair[::-1], spacing, CUBE, 1.0)["cube"]
    assert (forth.dice, forth.iou, forth.surface_dice) == pytest.approx((back.dice, back.iou, back.surface_dice))
    assert forth.hd95 == (None if back.hd95 is None else pytest.approx(back.hd95))


@given(pairs())
def test_a_map_agrees_with_itself(pair: tuple[Labels, Labels]) -> None:
    labels = pair[0]
    assume(labels.any())
    for measures in measure_case(labels, labels, (2.0,) * labels.ndim, {1: "one", 2: "two"}, 0.0).values():
        assert (measures.dice, measures.iou, measures.hd95, measures.surface_dice) == (1.0, 1.0, 0.0, 1.0)


def test_class_in_neither_map_is_full_agreement() -> None:
    measures = measure_case(cube(4), cube(4), (1.0, 1.0, 1.0), {7: "absent"}, 1.0)["absent"]
    assert measures == ClassMeasures(1.0, 1.0, 0.0, 1.0, 0, 0)


def test_class_in_one_map_only_has_no_distance() -> None:
    empty = np.zeros_like(cube(4))
    missed = measure_case(empty, cube(4), (1.0, 1.0, 1.0), CUBE, 1.0)["cube"]
    invented = measure_case(cube(4), empty, (1.0, 1.0, 1.0), CUBE, 1.0)["cube"]
    assert missed == ClassMeasures(0.0, 0.0, None, 0.0, 64, 0)
    assert invented == ClassMeasures(0.0, 0.0, None, 0.0, 0, 64)


def test_a_map_that_is_all_one_class_is_measured() -> None:
    full = np.ones((3, 4), np.int64)
    measures = measure_case(full, full, (1.0, 1.0), CUBE, 1.0)["cube"]
    assert measures == ClassMeasures(1.0, 1.0, 0.0, 1.0, 12, 12)


def test_maps_of_different_shape_are_refused() -> None:
    with pytest.raises(GeometryError, match=r"shape \(12, 12, 12\), the reference \(12, 12\)"):
        measure_case(cube(4), cube(4)[0], (1.0, 1.0, 1.0), CUBE, 1.0)


def test_maps_with_a_time_axis_are_refused() -> None:
    frames = np.zeros((2, 3, 4, 5), np.uint8)
    with pytest.raises(GeometryError, match="each time frame"):
        measure_case(frames, frames, (1.0, 1.0, 1.0), CUBE, 1.0)


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (1.0, 0.0, 1.0), (1.0, float("nan"), 1.0)])
def test_spacing_that_does_not_fit_is_refused(spacing: tuple[float, ...]) -> None:
    with pytest.raises(GeometryError, match="does not fit a 3D map"):
        measure_case(cube(4), cube(4), spacing, CUBE, 1.0)


@pytest.mark.parametrize("tolerance", [-1.0, float("nan"), float("inf")])
def test_tolerance_that_is_no_distance_is_refused(tolerance: float) -> None:
    with pytest.raises(ConfigError, match="Surface tolerance"):
        measure_case(cube(4), cube(4), (1.0, 1.0, 1.0), CUBE, tolerance)


def test_two_classes_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="same name: cube, cube"):
        measure_case(cube(4), cube(4), (1.0, 1.0, 1.0), {1: "cube", 2: "cube"}, 1.0)


def test_summary_separates_present_absent_and_undefined() -> None:
    cases = {
        "found": {"lesion": ClassMeasures(0.8, 0.6, 2.0, 0.9, 10, 10)},
        "missed": {"lesion": ClassMeasures(0.0, 0.0, None, 0.0, 10, 0)},
        "invented": {"lesion": ClassMeasures(0.0, 0.0, None, 0.0, 0, 5)},
        "empty": {"lesion": ClassMeasures(1.0, 1.0, 0.0, 1.0, 0, 0)},
    }
    summary = summarize(cases)
    assert summary["cases"] == 4
    assert summary["classes"]["lesion"] == {
        "cases": 4,
        "dice": pytest.approx(0.45),
        "iou": pytest.approx(0.4),
        "surface_dice": pytest.approx(0.475),
        "hd95": pytest.approx(1.0),
        "hd95_undefined": 2,
        "present": 2,
        "dice_present": pytest.approx(0.4),
        "absent": 2,
        "absent_predicted_empty": 1,
        "objects": None,
    }
    assert summary["mean"]["dice"] == pytest.approx(0.45)
    assert summary["mean_dice"] == {"value": pytest.approx(0.4), "cases": 2}


def test_summary_gives_each_class_the_same_weight_in_the_mean() -> None:
    good, bad = ClassMeasures(1.0, 1.0, 0.0, 1.0, 5, 5), ClassMeasures(0.0, 0.0, None, 0.0, 5, 0)
    summary = summarize({"a": {"one": good, "two": bad}, "b": {"one": good}})
    assert summary["mean"] == {"dice": 0.5, "iou": 0.5, "surface_dice": 0.5, "hd95": 0.0, "dice_present": 0.5}
    assert summary["mean_dice"] == {"value": 0.75, "cases": 2}, "of each case the classes that it shows, as in cards"
    assert summary["classes"]["two"]["hd95"] is None


@given(st.lists(pairs(), max_size=3))
def test_summary_survives_strict_json(several: list[tuple[Labels, Labels]]) -> None:
    classes = {1: "one", 2: "two"}
    cases = {str(i): measure_case(*pair, (1.0,) * pair[0].ndim, classes, 1.0) for i, pair in enumerate(several)}
    summary = summarize(cases)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_objects_are_counted_by_pieces_that_cover_more_than_half() -> None:
    numbers = np.zeros((6, 20), np.uint16)
    numbers[:, 0:4], numbers[:, 4:8], numbers[:3, 10:14], numbers[:, 16:19] = 3, 700, 9, 12
    prediction = numbers > 0
    prediction[:, 16:19] = False  # missed
    prediction[4:, 10:14] = True  # a piece that is no object
    assert count_objects(prediction, numbers) == ObjectCounts(found=3, wanted=4, matched=1)  # two touch
    prediction[:, 3:5] = False  # a gap
    assert count_objects(prediction, numbers) == ObjectCounts(found=4, wanted=4, matched=3)
    assert count_objects(numbers < 0, numbers) == ObjectCounts(found=0, wanted=4, matched=0)
    assert count_objects(numbers >= 0, np.full_like(numbers, 5)) == ObjectCounts(found=1, wanted=1, matched=1)


@given(pairs())
def test_every_piece_is_its_own_match(labels: tuple[Labels, Labels]) -> None:
    pieces = np.zeros(labels[0].shape, np.uint32)
    count = sum(len(sizes) for _, sizes in number_pieces((labels[0] > 0).astype(np.uint8), 2, pieces))
    assert count_objects(labels[0] > 0, pieces) == ObjectCounts(count, count, count)


def test_objects_of_all_cases_are_counted_together() -> None:
    part = {"dice": 0.5, "iou": 0.4, "hd95": 1.0, "surface_dice": 0.5, "reference_voxels": 9, "predicted_voxels": 9}
    counts = (ObjectCounts(4, 5, 3), ObjectCounts(1, 3, 1))
    cases = {str(i): {"nucleus": ClassMeasures(**part, objects=each)} for i, each in enumerate(counts)}
    found = summarize(cases)["classes"]["nucleus"]["objects"]
    assert found == {"found": 5, "wanted": 8, "matched": 4, "f1": pytest.approx(8 / 13)}
