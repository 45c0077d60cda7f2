"""Tiles cover every voxel, and blending puts back what was cut."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from prosma_core.data.grid import gaussian_weight, padding_to, plan_tiles, tile_starts
from prosma_core.errors import GeometryError
from prosma_core.events import StageStarted, TileDone
from prosma_core.inference import tiled
from prosma_core.inference.tiled import TiledPredictor, wanted_tiles

CPU = torch.device("cpu")


def run(predictor: TiledPredictor, image: torch.Tensor, *args, **more) -> tuple[torch.Tensor, list]:
    events, generator = [], predictor.predict(image, CPU, *args, **more)
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


@given(st.integers(1, 200), st.integers(1, 50), st.integers(0, 90))
def test_neighbors_overlap_at_least_as_asked(size: int, tile: int, percent: int) -> None:
    starts = tile_starts(size, tile, percent / 100)
    assert starts[0] == 0
    assert starts[-1] == max(0, size - tile)
    for step in np.diff(starts):
        assert step == 1 or 0 < 100 * step <= (100 - percent) * tile


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


@given(grids(), st.data())
def test_a_box_has_the_logits_it_has_in_the_whole_grid(case, data) -> None:
    shape, tile, overlap = case
    starts = [data.draw(st.integers(0, n - 1)) for n in shape]
    box = tuple((a, data.draw(st.integers(a + 1, n))) for a, n in zip(starts, shape, strict=True))
    image = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    whole, events = run(TiledPredictor(nn.Tanh(), tile, CPU, overlap=overlap), image)
    part, fewer = run(TiledPredictor(nn.Tanh(), tile, CPU, overlap=overlap), image, box)
    assert torch.equal(part, whole[(slice(None), *(slice(a, b) for a, b in box))])
    assert len(fewer) == len(wanted_tiles(shape, tile, overlap, box)[0]) <= len(events)


@pytest.mark.slow
@given(grids(), st.integers(1, 4))
def test_planes_are_shown_once_in_order_when_no_tile_can_change_them(case, batch: int) -> None:
    shape, tile, overlap = case
    shown: list[tuple[int, torch.Tensor, torch.Tensor]] = []
    image = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    predictor = TiledPredictor(nn.Identity(), tile, CPU, overlap=overlap, batch_size=batch)
    result, _ = run(predictor, image, show=lambda first, *both: shown.append((first, *(t.clone() for t in both))))
    end = 0
    for first, sums, weights in shown:
        assert first == end
        end += sums.shape[1]
        assert torch.equal(sums / weights, result[:, first:end])
    assert end < shape[0]


@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.8])
def test_a_network_without_neighborhood_gives_the_same_tiled_and_whole(overlap: float) -> None:
    conv = nn.Conv2d(2, 3, 1)
    image = torch.randn(2, 40, 33, generator=torch.Generator().manual_seed(0))
    found, _ = run(TiledPredictor(conv, (16, 16), CPU, overlap=overlap), image)
    with torch.no_grad():
        torch.testing.assert_close(found, conv(image[None])[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("largest", "dtype"), [(60.0, torch.float16), (100.0, torch.bfloat16)])
def test_what_float16_cannot_hold_is_computed_in_bfloat16(
    largest: float, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiled, "inference_dtype", lambda device: torch.float16)
    conv = nn.Conv2d(1, 2, 1, bias=False)
    nn.init.constant_(conv.weight, 1000.0)
    image = torch.rand(1, 40, 33, generator=torch.Generator().manual_seed(0))
    image[0, 30, 20] = largest
    predictor = TiledPredictor(conv, (16, 16), CPU, overlap=0.5, batch_size=2)
    logits, _ = run(predictor, image)
    torch.testing.assert_close(logits, (1000 * image).expand(2, -1, -1), rtol=1e-2, atol=0)
    assert predictor.dtype == dtype  # of the tiles that follow as well


def test_a_tiles_rim_counts_by_its_weight_only() -> None:
    """There a convolution of 3 x 3 sees zeros in place of the image; everywhere else tiled and whole are equal."""
    torch.manual_seed(0)
    conv = nn.Conv2d(1, 3, 3, padding=1)
    image = torch.randn(1, 40, 33)
    found, _ = run(TiledPredictor(conv, (16, 16), CPU, overlap=0.5), image)
    with torch.no_grad():
        difference = (found - conv(image[None])[0]).abs().amax(0).numpy()
        largest = float(conv.weight.abs().sum((1, 2, 3)).max() * image.abs().max())
    weight = gaussian_weight((16, 16)).astype(np.float64)
    rim = np.ones((16, 16), bool)
    rim[1:-1, 1:-1] = False
    on_rim, total = np.zeros((40, 33)), np.zeros((40, 33))
    for t in plan_tiles((40, 33), (16, 16), 0.5):
        on_rim[t.slices] += weight * rim
        total[t.slices] += weight
    share = on_rim / total
    assert (difference <= share * largest + 1e-5).all()
    assert (share == 0).mean() > 0.4
    assert share[8:-8, 8:-8].max() < 0.03


def test_the_overlap_has_no_second_default() -> None:
    with pytest.raises(TypeError, match="overlap"):
        TiledPredictor(nn.Identity(), (8, 8), CPU)  # type: ignore[call-arg]


def test_mirroring_averages_over_all_flips() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(1, 2, 3, padding=1)
    image = torch.randn(1, 8, 8)
    result, _ = run(TiledPredictor(conv, (8, 8), CPU, overlap=0.5, mirror=(0, 1)), image)
    flipped, _ = run(TiledPredictor(conv, (8, 8), CPU, overlap=0.5, mirror=(0, 1)), image.flip(1))
    torch.testing.assert_close(result, flipped.flip(1))
    single, _ = run(TiledPredictor(conv, (8, 8), CPU, overlap=0.5), image)
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
    result, events = run(TiledPredictor(Hungry(2), (8, 8), CPU, overlap=0.5, batch_size=8), image)
    torch.testing.assert_close(result, image, rtol=1e-4, atol=1e-5)
    said = [e.message for e in events if isinstance(e, StageStarted)]
    assert said == [f"Memory ran out: continuing with {n} tiles at a time." for n in (4, 2)]


def test_out_of_memory_on_a_single_tile_is_raised() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        run(TiledPredictor(Hungry(0), (8, 8), CPU, overlap=0.5, batch_size=2), torch.randn(1, 16, 16))


class Counting(nn.Module):
    """A convolution that counts the scans it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3, padding=1)
        self.seen = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen += len(x)
        return torch.tanh(self.conv(x))


@given(
    batch=st.integers(1, 5),
    corner=st.tuples(st.integers(0, 20), st.integers(0, 20)),
    values=st.lists(st.sampled_from([0.0, -1.5]), min_size=2, max_size=2),
)
def test_empty_tiles_are_computed_once_and_change_nothing(batch: int, corner, values) -> None:
    image = torch.tensor(values).view(2, 1, 1).expand(2, 32, 28).clone()
    image[:, corner[0] : corner[0] + 6, corner[1] : corner[1] + 5] = torch.randn(2, 6, 5)[:, : 32 - corner[0]]
    model = Counting()
    predictor = TiledPredictor(model, (8, 8), CPU, overlap=0.5, batch_size=batch)
    found, events = run(predictor, image)
    tiles = plan_tiles((32, 28), (8, 8), 0.5)
    busy = sum(bool((image[(slice(None), *t.slices)] != torch.tensor(values).view(2, 1, 1)).any()) for t in tiles)
    assert model.seen == busy + 1 < len(tiles)
    assert events[-1] == TileDone(len(tiles), len(tiles))
    noise = 1e-30 * torch.randn_like(image)  # no tile has one value any more; no result changes by as much as rounding
    every, _ = run(predictor, image + noise + 1e-20)
    assert model.seen > busy + 1
    torch.testing.assert_close(found, every, rtol=1e-5, atol=1e-6)


def test_a_value_that_is_not_a_number_makes_no_tile_empty() -> None:
    model = Counting()
    image = torch.full((2, 16, 8), float("nan"))
    run(TiledPredictor(model, (8, 8), CPU, overlap=0.5), image)
    assert model.seen == 3
