"""Resampling: every axis alike, voxel edges where they were, whatever the shape."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prosma_core.data.labels import IGNORED
from prosma_core.data.resample import resize, resize_labels

shapes = st.lists(st.integers(1, 14), min_size=2, max_size=3)


@given(shapes, st.data())
def test_every_axis_is_treated_alike(shape: list[int], data: st.DataObject) -> None:
    """Resizing a transposed array is the transpose of the resized one."""
    target = [data.draw(st.integers(1, 20)) for _ in shape]
    nearest = data.draw(st.sampled_from([(), (0,)]))
    order = data.draw(st.permutations(range(len(shape))))
    image = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0))
    straight = resize(image, target, nearest)
    turned = resize(
        image.permute(0, *(a + 1 for a in order)).contiguous(),
        [target[a] for a in order],
        [order.index(a) for a in nearest],
    )
    torch.testing.assert_close(turned, straight.permute(0, *(a + 1 for a in order)))


@given(shapes, st.data())
def test_a_constant_stays_and_a_flip_stays_a_flip(shape: list[int], data: st.DataObject) -> None:
    target = [data.draw(st.integers(1, 20)) for _ in shape]
    image = torch.rand(2, *shape, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(resize(torch.full_like(image, 3), target), torch.full((2, *target), 3.0))
    torch.testing.assert_close(resize(image.flip(-1), target), resize(image, target).flip(-1))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("size", "target"), [(12, 24), (12, 6), (12, 7), (12, 37)])
def test_a_ramp_stays_a_ramp(axis: int, size: int, target: int) -> None:
    """Linear values at voxel centers stay linear, to a tenth of a voxel, away from the ends."""
    shape, new = [5, 5, 5], [5, 5, 5]
    shape[axis], new[axis] = size, target
    centers = (torch.arange(size) + 0.5) / size
    image = torch.empty(shape)
    image.movedim(axis, -1)[...] = centers
    found = resize(image[None], new)[0].movedim(axis, -1)
    inside = slice(target // 4, target - target // 4)
    expected = ((torch.arange(target) + 0.5) / target).expand(5, 5, -1)
    torch.testing.assert_close(found[..., inside], expected[..., inside], atol=0.1 / size, rtol=0)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_thick_axis_takes_whole_slices(axis: int) -> None:
    shape, new = [4, 4, 4], [4, 4, 4]
    new[axis] = 8
    image = torch.rand(1, *shape)
    torch.testing.assert_close(resize(image, new, (axis,)), image.repeat_interleave(2, axis + 1), rtol=0, atol=0)


@pytest.mark.parametrize("nearest", [(), (0, 1, 2)])
@pytest.mark.parametrize("target", [(9, 3, 20), (5, 7, 4), (2, 7, 11)])
def test_many_rows_are_resized_in_parts_and_give_the_same(
    target: tuple[int, ...], nearest: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = torch.rand(4, 5, 7, 11, generator=torch.Generator().manual_seed(0))
    whole = resize(image, target, nearest)
    monkeypatch.setattr("prosma_core.data.resample.MAX_ROWS", 3)
    torch.testing.assert_close(resize(image, target, nearest), whole, rtol=0, atol=0)


def test_no_call_takes_more_rows_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, interpolate = [], torch.nn.functional.interpolate

    def counted(part: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        rows.append(part.shape[2])
        return interpolate(part, *args, **kwargs)

    monkeypatch.setattr("torch.nn.functional.interpolate", counted)
    monkeypatch.setattr("prosma_core.data.resample.MAX_ROWS", 16)
    resize(torch.rand(2, 3, 7, 11), (3, 7, 20))
    assert rows == [16, 16, 10]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_labels_go_there_and_back(axis: int) -> None:
    labels = np.zeros((8, 8, 8), np.uint16)
    labels[2:6, 2:6, 2:6] = 300
    labels[6:, 2:6, 2:6] = 7
    new = [8, 8, 8]
    new[axis] = 24
    fine = resize_labels(labels, new)
    assert fine.dtype == np.uint16
    np.testing.assert_array_equal(fine, labels.repeat(3, axis))
    np.testing.assert_array_equal(resize_labels(fine, labels.shape), labels)


@pytest.mark.parametrize("new", [3, 7, 19, 20, 33, 60])
@given(slices=st.sets(st.integers(0, 19), min_size=1, max_size=6), thick=st.booleans())
def test_annotated_slices_survive_resampling_and_do_not_spread(new: int, slices: set[int], thick: bool) -> None:
    labels = np.full((20, 6, 6), IGNORED, np.int16)
    chosen = sorted(slices)
    labels[chosen], labels[chosen, 2:5, 2:5] = 0, 1
    out = resize_labels(labels, (new, 6, 6), (0,) if thick else ())
    known = (out != IGNORED).all(axis=(1, 2))
    np.testing.assert_array_equal(known, (out != IGNORED).any(axis=(1, 2)))
    nearest = {int((2 * i + 1) * new // 40) for i in chosen}
    if new <= 20:
        assert set(np.flatnonzero(known)) == nearest
    else:
        assert {int((2 * j + 1) * 20 // (2 * new)) for j in np.flatnonzero(known)} == slices
    for found in out[known]:
        np.testing.assert_array_equal(found, labels[chosen[0]])


def test_a_scribble_of_one_voxel_survives_in_every_direction() -> None:
    labels = np.full((11, 12, 13), IGNORED, np.int16)
    labels[5, 6, 7], labels[1, 1, 1] = 2, 0
    out = resize_labels(labels, (4, 5, 6))
    assert sorted(out[out != IGNORED].tolist()) == [0, 2]
