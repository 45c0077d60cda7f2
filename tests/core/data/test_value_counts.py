"""Counting of label values, and one pass over labels of which most parts hold one value."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from prosma_core.config.model import ChannelIntensity, ClassInfo
from prosma_core.data.frames import frames
from prosma_core.data.geometry import Box, Scan, array_spec
from prosma_core.data.labels import IGNORED, class_indices, value_counts
from prosma_core.data.lazy import LazyArray, as_lazy
from prosma_core.data.normalization import measure
from prosma_core.data.point_table import PointTable
from prosma_core.errors import IntensityError
from prosma_core.events import drain

CHUNK = 8


@given(
    st.sampled_from([bool, np.uint8, np.int16, np.uint16, np.int32, np.uint64]),
    st.integers(0, 2**31),
    st.integers(0, 40),
)
def test_it_is_what_numpy_counts(dtype: type, span: int, size: int) -> None:
    rng = np.random.default_rng(size)
    low = -1 if np.dtype(dtype).kind == "i" else 0
    high = 1 if dtype is bool else min(span, np.iinfo(dtype).max)
    labels = rng.integers(low, high, (size, 2), np.int64, endpoint=True).astype(dtype)
    values, numbers = np.unique(labels, return_counts=True)
    assert value_counts(labels) == dict(zip(values.tolist(), numbers.tolist(), strict=True))


@pytest.mark.parametrize(
    "labels",
    [
        np.array([2**63, 2**63 + 3, 2**63], np.uint64),
        np.array([2**64 - 1, 2**64 - 2], np.uint64),
        np.array([2**32 - 1, 2**32 - 2], np.uint32),
        np.array([-128, 127, 127], np.int8),
        np.array([-(2**63), 3 - 2**63]),
        np.array([-(2**63), 2**63 - 1]),
        np.array([0.5, 1.5, 0, 1]),
        np.array([0.5, 0.5], np.float32),
    ],
    ids=str,
)
def test_the_largest_numbers_and_fractions_are_counted(labels: np.ndarray) -> None:
    values, numbers = np.unique(labels, return_counts=True)
    assert value_counts(labels) == dict(zip(values.tolist(), numbers.tolist(), strict=True))


def test_of_repeated_voxels_one_is_read_and_the_result_repeats_it() -> None:
    labels = np.broadcast_to(np.uint16(7), (2**20, 2**20, 2**10))  # would fit into no memory
    assert value_counts(labels) == {7: 2**50}
    found = class_indices(labels, (ClassInfo(value=0, name="background"), ClassInfo(value=7, name="nucleus")), "cells")
    assert (found.shape, int(found[5, 5, 5]), set(found.strides)) == (labels.shape, 1, {0})


@pytest.mark.parametrize("fill", [IGNORED, 0, 1])
def test_a_table_of_parts_that_are_not_read_is_that_of_all_voxels(fill: int) -> None:
    voxels = np.full((24, 16, 40), fill, np.int16)
    voxels[8:16, :8, 8:24] = np.random.default_rng(0).integers(-1, 3, (8, 8, 16))

    def single(box: tuple[tuple[int, int], ...]) -> int | None:
        part = voxels[tuple(slice(*ends) for ends in box)]
        return fill if (part == fill).all() else None

    sparse = LazyArray(
        voxels.shape, voxels.dtype, lambda box: voxels[tuple(slice(*e) for e in box)], (CHUNK,) * 3, single
    )
    found, wanted = (
        drain(PointTable.count(array, 3, "Counting"), lambda _: None) for array in (sparse, as_lazy(voxels))
    )
    assert found.facts.present == wanted.facts.present
    assert found.facts.hull == wanted.facts.hull
    for name in ("planes", "known_planes"):
        for one, other in zip(getattr(found.facts, name), getattr(wanted.facts, name), strict=True):
            np.testing.assert_array_equal(one, other)
    drawn = [table.draw([1, 2, IGNORED], 50, np.random.default_rng(1)) for table in (found, wanted)]
    for one, other in zip(*drawn, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32, np.int32, np.float64])
def test_what_was_not_read_stays_one_voxel_until_it_is_normalized(dtype: type) -> None:
    def read(box: Box) -> NDArray[Any]:
        msg = f"read at {box}"
        raise AssertionError(msg)

    empty = LazyArray((40, 4096, 4096), np.dtype(dtype), read, (8, 256, 256), lambda _box: 7)
    (frame,) = frames(Scan(empty, array_spec(empty.shape, "zyx", (1.0, 1.0, 1.0), "mm")), 3)
    found = frame.read(((0, 40), (0, 4096), (0, 4096)))
    assert (found.shape, set(found.strides), float(found[0, 1, 2, 3])) == ((1, 40, 4096, 4096), {0}, 7.0)
    assert found.dtype == np.dtype(dtype) if np.dtype(dtype).itemsize > 2 else found.dtype == np.float32


def test_a_voxel_far_outside_is_found_among_parts_that_are_not_read() -> None:
    voxels = np.full((16, 512, 1024), 100, np.float32)
    voxels[3, 5, 6], voxels[3, 5, 7] = 1e12, 101

    def read(box: Box) -> NDArray[Any]:
        return voxels[tuple(slice(*ends) for ends in box)]

    def single(box: Box) -> float | None:
        return None if box[1][0] == 0 and box[0][0] <= 3 < box[0][1] else 100.0

    said = []
    for array in (LazyArray(voxels.shape, voxels.dtype, read, (1, 256, 256), single), as_lazy(voxels)):
        scan = Scan(array, array_spec(voxels.shape, "zyx", (1.0, 1.0, 1.0), "mm"))
        with pytest.raises(IntensityError, match=r"One voxel lies far outside .*1e.12 at z 3, y 5, x 6") as told:
            measure(list(frames(scan, 3)), (ChannelIntensity(kind="zscore"),))
        said.append(str(told.value))
    assert said[0] == said[1]
