"""Cells know where an image has one value, whatever the parts in which it is read."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from prosma_core.data.cells import SIDE, Cells


@pytest.mark.parametrize("dtype", [np.uint16, np.int8, np.float32])
@pytest.mark.parametrize("steps", [(64, 128, 256), (1, 40, 50), (33, 64, 100)])
def test_boxes_of_one_value_are_found(steps: tuple[int, int, int], dtype: Any) -> None:
    sizes = 70, 130, 100
    image = np.zeros((2, *sizes), dtype)
    image[:, 40:60, 70:90, 10:30] = np.random.default_rng(0).integers(0, 100, (2, 20, 20, 20))
    image[1, :, 96:] = 7
    cells = Cells(2, sizes)
    for start in product(*(range(0, size, step) for size, step in zip(sizes, steps, strict=True))):
        box = tuple((a, min(a + step, size)) for a, step, size in zip(start, steps, sizes, strict=True))
        part = image[(slice(None), *(slice(a, b) for a, b in box))]
        cells.add(box, np.broadcast_to(part[:, :1, :1, :1], part.shape) if np.ptp(part) == 0 else part)
    axes = [[(0, 32), (20, 50), (64, 70)], [(0, 64), (32, 64), (64, 130), (96, 128)], [(0, 32), (32, 100)]]
    found = cells.single(axes)
    assert found.shape == (3, 4, 2)
    for at in np.ndindex(found.shape):
        ends = [axes[axis][i] for axis, i in enumerate(at)]
        wide = tuple(slice(a // SIDE * SIDE, -(-b // SIDE) * SIDE) for a, b in ends)
        assert found[at] == all(np.ptp(channel[wide]) == 0 for channel in image), at
    assert 0 < found.sum() < found.size


def test_values_beyond_the_range_they_are_brought_to_are_one() -> None:
    cells = Cells(1, (64,))
    cells.add(((0, 64),), np.r_[-1024:-992, 0:32][None].astype(np.int16))
    assert cells.single([[(0, 32), (32, 64)]]).tolist() == [False, False]
    assert cells.single([[(0, 32), (32, 64)]], (-100.0, 300.0)).tolist() == [True, False]
