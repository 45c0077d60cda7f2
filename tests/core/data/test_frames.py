"""A scan as frames: which axis a 2D network walks along, and where each frame lies."""

from __future__ import annotations

import numpy as np
import pytest

from prosma_core.data.frames import count_frames, frame_spec, frames, slice_axis
from prosma_core.data.geometry import Scan, array_spec
from prosma_core.errors import GeometryError


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


def test_a_chosen_axis_is_walked_instead() -> None:
    spec = array_spec((3, 8, 5), "zyx", (4.0, 1.0, 1.0), "mm")
    assert count_frames(spec, 2, "x") == 5
    assert frame_spec(spec, 2, "x").shape == (3, 8)
    assert frame_spec(spec, 2, "x").spacing == (4.0, 1.0)
    assert frame_spec(spec, 3, "x").shape == (3, 8, 5)
    scan = Scan(np.arange(120).reshape(3, 8, 5), spec)
    for k, frame in enumerate(frames(scan, 2, "x")):
        np.testing.assert_array_equal(frame.image[0], scan.data[:, :, k])
        np.testing.assert_array_equal(scan.data[frame.index], scan.data[:, :, k])


def test_an_axis_that_is_not_there_is_refused() -> None:
    for dims in (2, 3):
        with pytest.raises(GeometryError, match="cannot be sliced along 't'"):
            frame_spec(array_spec((2, 3, 8, 5), "tzyx"), dims, "t")


@pytest.mark.parametrize(("dims", "count"), [(2, 4), (3, 2)])
def test_frames_hold_their_part_of_a_region(dims: int, count: int) -> None:
    scan = Scan(np.zeros((2, 6, 8, 5)), array_spec((2, 6, 8, 5), "tzyx"))
    region = ((1, 4), (2, 4), (0, 5))
    found = list(frames(scan, dims, "y", region))
    assert len(found) == count_frames(scan.spec, dims, "y", region) == count
    for frame in found:
        place = tuple(slice(start, stop) for start, stop in frame.place(frame.region))
        scan.data[place] += 1
    assert (scan.data[:, 1:4, 2:4, :] == 1).all()
    assert scan.data.sum() == 2 * 3 * 2 * 5
