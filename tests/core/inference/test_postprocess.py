"""Largest piece and holes: what is removed, what is added, and what never changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from scipy import ndimage

from prosma_core.inference.postprocess import fill_holes, keep_largest

Labels = NDArray[Any]

NUM_CLASSES = 4


def label_maps(classes: int = NUM_CLASSES) -> st.SearchStrategy[Labels]:
    """Small 2D and 3D maps, background at any share."""
    return st.sampled_from([np.uint8, np.uint16]).flatmap(
        lambda dtype: arrays(
            dtype, array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=7), elements=st.integers(0, classes - 1)
        )
    )


@given(label_maps())
def test_keep_largest_is_idempotent(labels: Labels) -> None:
    once = keep_largest(labels, NUM_CLASSES)
    assert np.array_equal(keep_largest(once, NUM_CLASSES), once)


@given(label_maps())
def test_keep_largest_only_removes_and_leaves_its_input(labels: Labels) -> None:
    before = labels.copy()
    result = keep_largest(labels, NUM_CLASSES)
    assert np.array_equal(labels, before)
    assert result.dtype == labels.dtype
    assert np.all((result == labels) | (result == 0))


@given(label_maps())
def test_keep_largest_leaves_one_largest_piece_of_each_class(labels: Labels) -> None:
    result = keep_largest(labels, NUM_CLASSES)
    structure = np.ones((3,) * labels.ndim)
    for number in range(1, NUM_CLASSES):
        pieces, count = ndimage.label(labels == number, structure)
        assert ndimage.label(result == number, structure)[1] == min(count, 1)
        if count:
            assert (result == number).sum() == np.bincount(pieces.ravel())[1:].max()


@given(label_maps())
def test_fill_holes_is_idempotent(labels: Labels) -> None:
    once = fill_holes(labels)
    assert np.array_equal(fill_holes(once), once)


@given(label_maps())
def test_fill_holes_only_adds_to_background_and_leaves_its_input(labels: Labels) -> None:
    before = labels.copy()
    result = fill_holes(labels)
    assert np.array_equal(labels, before)
    assert (result.dtype, result.shape) == (labels.dtype, labels.shape)
    assert np.all((result == labels) | (labels == 0))
    assert set(np.unique(result)) <= set(np.unique(labels))


@given(arrays(np.uint8, array_shapes(min_dims=2, max_dims=3, min_side=2, max_side=8), elements=st.integers(0, 1)))
def test_fill_holes_of_one_class_is_binary_hole_filling(labels: Labels) -> None:
    assert np.array_equal(fill_holes(labels), ndimage.binary_fill_holes(labels))


@pytest.mark.parametrize("shape", [(5, 6), (3, 4, 5), (1, 1), (1, 1, 1)])
def test_empty_maps_stay_empty(shape: tuple[int, ...]) -> None:
    labels = np.zeros(shape, np.uint16)
    assert np.array_equal(keep_largest(labels, 3), labels)
    assert np.array_equal(fill_holes(labels), labels)


def test_pieces_that_touch_at_a_corner_are_one() -> None:
    labels = np.zeros((3, 5, 5), np.uint8)
    labels[0, 0, 0] = labels[1, 1, 1] = 1
    labels[2, 4, 4] = 1
    assert np.argwhere(keep_largest(labels, 2)).tolist() == [[0, 0, 0], [1, 1, 1]]


def test_of_equal_pieces_the_first_stays() -> None:
    labels = np.array([[1, 1, 0, 1, 1]], np.uint8)
    assert keep_largest(labels, 2).tolist() == [[1, 1, 0, 0, 0]]


def test_classes_beyond_the_number_are_not_touched() -> None:
    labels = np.array([[1, 0, 1, 0, 2, 0, 2]], np.uint8)
    assert keep_largest(labels, 2).tolist() == [[1, 0, 0, 0, 2, 0, 2]]


def test_gap_around_a_lesion_becomes_organ_and_hole_in_it_becomes_lesion() -> None:
    labels = np.zeros((11, 11), np.uint8)
    labels[1:10, 1:10] = 1
    labels[2:9, 2:9] = 0
    labels[3:8, 3:8] = 2
    labels[5, 5] = 0
    filled = fill_holes(labels)
    assert filled[5, 5] == 2
    assert filled[2, 2] == 1
    assert (filled == 0).sum() == (labels[[0, -1]] == 0).sum() + (labels[1:-1, [0, -1]] == 0).sum()


def test_gap_that_two_classes_close_only_together_stays() -> None:
    labels = np.zeros((5, 6), np.uint8)
    labels[:, :3] = 1
    labels[:, 3:] = 2
    labels[2, 2:4] = 0
    assert np.array_equal(fill_holes(labels), labels)


def test_hole_open_in_the_next_slice_is_no_hole_in_3d() -> None:
    ring = np.ones((3, 3), np.uint8)
    ring[1, 1] = 0
    closed = np.stack([np.ones_like(ring), ring, np.ones_like(ring)])
    opened = np.stack([np.ones_like(ring), ring, ring])
    assert fill_holes(closed).all()
    assert np.array_equal(fill_holes(opened), opened)


def test_single_slice_is_filled_as_a_2d_map() -> None:
    ring = np.ones((1, 3, 3), np.uint8)
    ring[0, 1, 1] = 0
    assert fill_holes(ring).tolist() == np.ones((1, 3, 3)).tolist()
