"""Geometry: what a spec accepts, and what label maps and channels make of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prosma_core.data.geometry import (
    AXIS_ORDER,
    ImageSpec,
    affine_spacing,
    array_spec,
    check_axes,
    reverse_affine,
    spacing_affine,
)
from prosma_core.errors import GeometryError

sizes = st.integers(1, 5)
numbers = st.floats(-100, 100, allow_nan=False)


@st.composite
def specs(draw: st.DrawFn) -> ImageSpec:
    axes = "".join(a for a in AXIS_ORDER if a in "yx" or draw(st.booleans()))
    shape = tuple(draw(sizes) for _ in axes)
    spacing = tuple(draw(st.floats(0.01, 50)) for a in axes if a in "zyx")
    return array_spec(shape, axes, spacing, "um")


@given(specs())
def test_labels_have_no_channel_and_the_same_grid(spec: ImageSpec) -> None:
    labels = spec.labels_spec()
    assert "c" not in labels.axes
    assert labels.spatial_shape == spec.spatial_shape
    assert labels.num_frames == spec.num_frames
    assert labels.spacing == spec.spacing


@given(specs(), st.integers(1, 4))
def test_with_channels_replaces_or_adds_the_channel_axis(spec: ImageSpec, count: int) -> None:
    names = tuple(f"channel {i}" for i in range(count))
    made = spec.with_channels(names)
    check_axes(made.axes, len(made.shape))
    assert made.num_channels == count
    assert made.channel_names == names
    assert made.labels_spec().shape == spec.labels_spec().shape


@given(st.lists(numbers, min_size=16, max_size=16))
def test_reverse_affine_is_its_own_inverse_to_the_bit(values: list[float]) -> None:
    affine = np.array(values).reshape(4, 4)
    assert np.array_equal(reverse_affine(reverse_affine(affine)), affine)


def test_reverse_affine_maps_reversed_indices_to_reversed_positions(rng: np.random.Generator) -> None:
    affine = np.eye(4)
    affine[:3] = rng.normal(size=(3, 4))
    index = np.array([3.0, 5.0, 7.0])
    world = affine @ [*index, 1]
    assert np.allclose(reverse_affine(affine) @ [*index[::-1], 1], [*world[:3][::-1], 1])


@given(st.lists(st.floats(0.01, 50), min_size=2, max_size=3))
def test_affine_spacing_gives_back_the_spacing(spacing: list[float]) -> None:
    assert np.allclose(affine_spacing(spacing_affine(tuple(spacing))), spacing)


@pytest.mark.parametrize(("axes", "ndim"), [("xy", 2), ("zy", 2), ("yx", 3), ("yxc", 3), ("qyx", 3), ("yyx", 3)])
def test_axes_out_of_order_unknown_or_of_wrong_number_are_refused(axes: str, ndim: int) -> None:
    with pytest.raises(GeometryError, match="tczyx"):
        check_axes(axes, ndim)


def test_an_axis_without_voxels_is_refused() -> None:
    with pytest.raises(GeometryError, match="no voxels"):
        array_spec((0, 4, 4), "zyx")


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (1.0, 0.0, 1.0), (1.0, -1.0, 1.0), (1.0, np.nan, 1.0)])
def test_a_spacing_that_does_not_fit_is_refused(spacing: tuple[float, ...]) -> None:
    spec = array_spec((2, 3, 4), "zyx")
    with pytest.raises(GeometryError, match="Spacing"):
        replace(spec, spacing=spacing)


@pytest.mark.parametrize(
    ("affine", "problem"),
    [
        (np.eye(3), "shape"),
        (np.diag([1.0, np.inf, 1.0, 1.0]), "finite"),
        (np.array([[1.0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "invertible"),
    ],
)
def test_an_unusable_affine_is_refused(affine: np.ndarray, problem: str) -> None:
    spec = array_spec((2, 3, 4), "zyx")
    with pytest.raises(GeometryError, match=problem):
        replace(spec, affine=affine)


def test_orientation_names_the_patient_axes_of_x_y_z() -> None:
    spec = replace(array_spec((2, 3, 4), "zyx"), affine=np.diag([1.0, 1.0, -1.0, 1.0]), world="ras")
    assert spec.orientation == "LAS"
    assert replace(spec, world="image").orientation is None
