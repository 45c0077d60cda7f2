"""Which axis a 2D network walks along."""

from __future__ import annotations

import pytest

from prosma_core.data.frames import count_frames, frame_spec, slice_axis
from prosma_core.data.geometry import array_spec


@pytest.mark.parametrize(
    ("shape", "spacing", "axis"),
    [
        ((1, 64, 64), (1.0, 1.5, 1.5), 0),
        ((64, 64, 1), (5.0, 1.0, 1.0), 2),
        ((1, 64, 1), (1.0, 1.0, 5.0), 2),
        ((9, 64, 64), (1.0, 5.0, 1.0), 1),
        ((9, 64, 64), (1.0, 1.0, 1.0), 0),
    ],
    ids=["thin voxels", "thick voxels elsewhere", "two flat axes", "a stack", "equal voxels"],
)
def test_the_flat_axis_is_walked_else_the_thickest(
    shape: tuple[int, ...], spacing: tuple[float, ...], axis: int
) -> None:
    spec = array_spec(shape, "zyx", spacing, "mm")
    assert slice_axis(spec) == axis
    assert count_frames(spec, 2) == shape[axis]
    assert frame_spec(spec, 2).shape == tuple(n for a, n in enumerate(shape) if a != axis)
