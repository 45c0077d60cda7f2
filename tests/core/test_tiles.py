"""Tiles cover every voxel, and blending puts back what was cut."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from prosma_core.data.tiles import gaussian_weight, padding_to, plan_tiles, tile_starts
from prosma_core.errors import GeometryError
from prosma_core.events import StageStarted, TileDone
from prosma_core.inference.tiled import TiledPredictor

CPU = torch.device("cpu")


def run(predictor: TiledPredictor, image: torch.Tensor) -> tuple[torch.Tensor, list]:
    events, generator = [], predictor.predict(image, CPU)
    while True:
        try:
            events.append(next(generator))
        except StopIteration as stop:
            return stop.value, events


@st.composite
def grids(draw):
    dims = draw(st.integers(2, 3))
    tile = tuple(draw(st.integers(1, 9)) for _ in range(dims))
    shape = tuple(draw(st.integers(1, 25)) for _ in range(dims))
    return shape, tile, draw(st.sampled_from([0.0, 0.25, 0.5, 0.8]))


@given(grids())
def test_tiles_cover_every_voxel_and_stay_inside(case) -> None:
    shape, tile, overlap = case
    padded = tuple(n + sum(p) for n, p in zip(shape, padding_to(shape, tile), strict=True))
    count = np.zeros(padded, int)
    for t in plan_tiles(padded, tile, overlap):
        assert all(a >= 0 and a + n <= size for a, n, size in zip(t.start, t.size, padded, strict=True))
        count[t.slices] += 1
    assert count.min() >= 1


@given(st.integers(1, 200), st.integers(1, 50), st.floats(0, 0.9))
def test_neighbours_overlap_at_least_as_asked(size: int, tile: int, overlap: float) -> None:
    starts = tile_starts(size, tile, overlap)
    steps = np.diff(starts)
    assert starts[0] == 0
    assert starts[-1] == max(0, size - tile)
    assert all(0 < step <= max(1, int(tile * (1 - overlap)) + 1) for step in steps)


def test_a_grid_smaller_than_the_tile_is_refused() -> None:
    with pytest.raises(GeometryError, match="smaller than the tile"):
        plan_tiles((4, 8), (8, 8), 0.5)


@given(st.lists(st.integers(1, 12), min_size=2, max_size=3))
def test_weights_are_symmetric_positive_and_largest_in_the_middle(tile: list[int]) -> None:
    weight = gaussian_weight(tuple(tile))
    assert weight.dtype == np.float32
    assert weight.min() >= 1e-3 - 1e-9
    assert weight.max() == pytest.approx(1)
    np.testing.assert_allclose(weight, weight[(slice(None, None, -1),) * len(tile)], rtol=1e-6)


@given(grids(), st.integers(1, 4))
def test_blending_the_identity_gives_the_image_back(case, batch: int) -> None:
    shape, tile, overlap = case
    image = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    result, events = run(TiledPredictor(nn.Identity(), tile, CPU, overlap=overlap, batch_size=batch), image)
    torch.testing.assert_close(result, image, rtol=1e-4, atol=1e-5)
    assert isinstance(events[-1], TileDone)
    assert events[-1].done == events[-1].total


def test_a_local_network_gives_the_same_tiled_and_whole() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(1, 3, 3, padding=1)
    image = torch.randn(1, 40, 33)
    tiled, _ = run(TiledPredictor(conv, (16, 16), CPU, overlap=0.5), image)
    with torch.no_grad():
        whole = conv(image[None])[0]
    inside = (slice(None), slice(8, -8), slice(8, -8))
    # at a tile's own edge the network sees padding; there the Gaussian weight is small but not zero
    torch.testing.assert_close(tiled[inside], whole[inside], rtol=0.1, atol=0.1)


def test_mirroring_averages_over_all_flips() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(1, 2, 3, padding=1)
    image = torch.randn(1, 8, 8)
    result, _ = run(TiledPredictor(conv, (8, 8), CPU, mirror=(0, 1)), image)
    flipped, _ = run(TiledPredictor(conv, (8, 8), CPU, mirror=(0, 1)), image.flip(1))
    torch.testing.assert_close(result, flipped.flip(1))
    single, _ = run(TiledPredictor(conv, (8, 8), CPU), image)
    assert not torch.allclose(result, single)


class Hungry(nn.Module):
    """Runs out of memory on more than `most` tiles."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[0] > self.most:
            msg = "CUDA out of memory"
            raise torch.OutOfMemoryError(msg)
        return x


def test_out_of_memory_halves_the_batch_says_so_and_loses_nothing() -> None:
    image = torch.randn(1, 32, 32)
    result, events = run(TiledPredictor(Hungry(2), (8, 8), CPU, batch_size=8), image)
    torch.testing.assert_close(result, image, rtol=1e-4, atol=1e-5)
    said = [e.message for e in events if isinstance(e, StageStarted)]
    assert said == [f"Memory ran out: going on with {n} tiles at a time." for n in (4, 2)]


def test_out_of_memory_on_a_single_tile_is_raised() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        run(TiledPredictor(Hungry(0), (8, 8), CPU, batch_size=2), torch.randn(1, 16, 16))
