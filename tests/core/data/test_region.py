"""A part of a scan is segmented as it is within the whole, and costs only what it needs."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from math import prod
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prosma_core.config import InferenceConfig, ModelHeader
from prosma_core.data import resample
from prosma_core.data.geometry import Box, ImageSpec, Scan, array_spec, box_slices, spacing_affine
from prosma_core.data.grid import NetworkGrid
from prosma_core.errors import GeometryError
from prosma_core.events import StageStarted, TileDone
from prosma_core.inference import grid_restore
from prosma_core.inference.segment import Segmentation, Segmenter
from prosma_core.model.unet import build_model

CPU = torch.device("cpu")
EXTRAS = InferenceConfig(probabilities=True, entropy=True)
MakeHeader = Callable[..., ModelHeader]
Noise = Callable[..., Scan]


def segmenter(header: ModelHeader) -> Segmenter:
    """Return a network whose random weights give every class somewhere."""
    model = build_model(header.model, 0)
    with torch.no_grad():
        for gate in model.heads:
            gate.bias.zero_()
            gate.weight.mul_(20)
    return Segmenter(header, model, CPU)


def run(by: Segmenter, scan: Scan, config: InferenceConfig) -> tuple[Segmentation, list[Any]]:
    events = []
    work = by.segment(scan, config)
    while True:
        try:
            events.append(next(work))
        except StopIteration as stop:
            return stop.value, events


def words(events: list[Any]) -> str:
    return " ".join(e.message for e in events if isinstance(e, StageStarted))


def tiles(events: list[Any]) -> int:
    done = [e for e in events if isinstance(e, TileDone)]
    assert done[-1].done == done[-1].total == len(done)
    return len(done)


def turned_spec(shape: tuple[int, ...]) -> ImageSpec:
    """Return the geometry of a scan whose axes are exchanged and run against the patient's."""
    affine = spacing_affine((1.5, 1.0, 2.0))[:, [1, 0, 2, 3]]
    affine[:, 2] *= -1
    return ImageSpec("zyx", shape, (1.0, 1.5, 2.0), "mm", affine, "ras")


MM: dict[str, Any] = {"resample": "spacing", "unit": "mm"}
CASES: dict[str, tuple[int, dict[str, Any], str, tuple[int, ...]]] = {
    "picture": (2, {}, "yx", (40, 37)),
    "picture, resampled": (2, {"resample": "longest_side", "longest_side": 64}, "yx", (40, 37)),
    "volume": (3, {}, "zyx", (20, 33, 29)),
    "volume, turned": (3, {"orientation": "RAS"}, "turned", (20, 33, 29)),
    "volume, turned and finer": (3, {**MM, "orientation": "RAS", "spacing": (0.8,) * 3}, "turned", (12, 21, 23)),
    "volume, turned and coarser": (3, {**MM, "orientation": "RAS", "spacing": (1.7,) * 3}, "turned", (26, 33, 37)),
    "volume smaller than the tile": (3, {}, "zyx", (5, 33, 9)),
    "volume with a thick axis": (3, {**MM, "spacing": (2.0, 0.7, 0.7)}, "thick", (7, 24, 25)),
    "frames in time": (3, {}, "tzyx", (2, 20, 21, 18)),
    "stack of slices": (2, {}, "zyx", (4, 40, 37)),
    "stack of slices in time, resampled": (2, {"resample": "longest_side", "longest_side": 50}, "tzyx", (2, 3, 40, 37)),
}


@cache
def scan_of(case: str) -> Scan:
    _, _, axes, shape = CASES[case]
    data = np.random.default_rng(3).normal(100, 20, shape).astype(np.float32)
    if axes == "turned":
        return Scan(data, turned_spec(shape))
    if axes == "thick":
        return Scan(data, array_spec(shape, "zyx", (4.0, 1.0, 1.0), "mm"))
    return Scan(data, array_spec(shape, axes))


@cache
def whole_result(case: str, by: Segmenter) -> Segmentation:
    return run(by, scan_of(case), EXTRAS)[0]


@cache
def segmenter_of(case: str, make_header: MakeHeader) -> Segmenter:
    dims, more, _, _ = CASES[case]
    return segmenter(make_header(dims, values=(0, 5, 2), **more))


@st.composite
def boxes(draw: st.DrawFn, shape: tuple[int, ...]) -> Box:
    box = []
    for size in shape:
        start = draw(st.integers(0, size - 1))
        box.append((start, draw(st.integers(start + 1, size))))
    return tuple(box)


def outside(data: np.ndarray, at: tuple[Any, ...]) -> np.ndarray:
    rest = data.copy()
    rest[at] = 0
    return rest


@pytest.mark.slow
@pytest.mark.parametrize("case", list(CASES))
@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_region_has_the_labels_it_has_in_the_whole_scan(
    case: str, make_header: MakeHeader, data: st.DataObject
) -> None:
    by, scan = segmenter_of(case, make_header), scan_of(case)
    region = data.draw(boxes(scan.spec.spatial_shape))
    whole = whole_result(case, by)
    part, _ = run(by, scan, EXTRAS.replace(region=region))
    assert len(np.unique(whole.labels.data)) == 3
    assert whole.probabilities is not None
    assert part.probabilities is not None
    assert whole.entropy is not None
    assert part.entropy is not None
    at = (..., *box_slices(region))
    np.testing.assert_array_equal(part.labels.data[at], whole.labels.data[at])
    np.testing.assert_allclose(part.probabilities.data[at], whole.probabilities.data[at], atol=1e-5)
    np.testing.assert_allclose(part.entropy.data[at], whole.entropy.data[at], atol=1e-5)
    for scan in (part.labels, part.probabilities, part.entropy):
        assert not outside(scan.data, at).any()


def test_a_part_resampled_in_pieces_is_the_same(make_header: MakeHeader, monkeypatch: pytest.MonkeyPatch) -> None:
    case = "volume, turned and finer"
    by, region = segmenter_of(case, make_header), ((3, 9), (10, 20), (2, 22))
    expected, _ = run(by, scan_of(case), EXTRAS.replace(region=region))
    for module in (grid_restore, resample):
        monkeypatch.setattr(module, "PIECE", 100)
    found, _ = run(by, scan_of(case), EXTRAS.replace(region=region))
    np.testing.assert_array_equal(found.labels.data, expected.labels.data)


@pytest.mark.parametrize("network", [(8, 12), (90, 12), (32, 200), (90, 110)])
@pytest.mark.parametrize("region", [None, ((7, 61), (20, 90))])
@pytest.mark.parametrize("threshold", [None, 0.4])
def test_classes_of_a_few_planes_at_a_time_are_those_of_all(
    network: tuple[int, int], region: Any, threshold: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = NetworkGrid((0, 1), (), (90, 110), network, (1.0, 1.0))
    part = grid_restore.plan_part(grid, region or ((0, 90), (0, 110)))
    logits = torch.randn(3, *(b - a for a, b in part.network), generator=torch.Generator().manual_seed(0))
    expected = grid_restore.argmax_part(logits, part, threshold)
    seen: list[int] = []
    real = grid_restore.argmax_streaming
    monkeypatch.setattr(grid_restore, "argmax_streaming", lambda *given: seen.append(1) or real(*given))
    monkeypatch.setattr(grid_restore, "PIECE", 500)
    np.testing.assert_array_equal(grid_restore.argmax_part(logits, part, threshold), expected)
    assert (len(seen) > 4) == (network in {(8, 12), (90, 12), (90, 110)})


def test_only_the_tiles_that_touch_the_region_are_computed(make_header: MakeHeader, noise: Noise) -> None:
    by, scan = segmenter(make_header(3)), noise((40, 33, 16), "zyx")
    count = tiles(run(by, scan, InferenceConfig())[1])
    _, events = run(by, scan, InferenceConfig(region=((3, 4), (0, 33), (0, 16))))
    assert tiles(events) == 4
    assert f"Only z 3 of 0-39 gets labels; computed for it: 4 of {count} tiles." in words(events)


def test_a_2d_model_leaves_out_the_slices_outside_the_region(make_header: MakeHeader, noise: Noise) -> None:
    by, scan = segmenter(make_header(2)), noise((9, 40, 33), "zyx")
    _, events = run(by, scan, InferenceConfig(region=((3, 5), (0, 5), (0, 33))))
    of_each = tiles(events) // 2
    assert f"Only z 3-4 of 0-8, y 0-4 of 0-39 gets labels; computed for it: 2 of 9 slices, {of_each} of" in words(
        events
    )


def test_a_whole_scan_is_not_said_to_be_a_part(make_header: MakeHeader, noise: Noise) -> None:
    _, events = run(segmenter(make_header(2)), noise((20, 21), "yx"), InferenceConfig(region=((0, 20), (0, 21))))
    assert "Only" not in words(events)


@pytest.mark.parametrize("resampled", [False, True])
def test_a_region_needs_memory_for_its_own_voxels_only(
    resampled: bool, make_header: MakeHeader, noise: Noise, monkeypatch: pytest.MonkeyPatch
) -> None:
    more: dict[str, Any] = {"resample": "longest_side", "longest_side": 150} if resampled else {}
    by, scan = segmenter(make_header(2, **more)), noise((300, 310), "yx")
    monkeypatch.setattr("prosma_core.inference.memory.free_memory", lambda _: 250_000)
    result, _ = run(by, scan, InferenceConfig(region=((7, 20), (30, 41))))
    assert result.labels.data.any()


def test_an_empty_slice_alone_is_background_as_it_is_in_its_stack(make_header: MakeHeader, noise: Noise) -> None:
    scan = noise((4, 20, 21), "zyx")
    scan.data[2] = 0
    result, events = run(segmenter(make_header(2)), scan, InferenceConfig(region=((2, 3), (0, 20), (0, 21))))
    assert not result.labels.data.any()
    assert "one value everywhere: 1 of 1 frame." in words(events)


def test_the_largest_piece_is_that_within_the_region(make_header: MakeHeader, noise: Noise) -> None:
    from scipy import ndimage

    by, scan = segmenter(make_header(2)), noise((60, 61), "yx")
    region = ((20, 50), (25, 60))
    plain, _ = run(by, scan, InferenceConfig(region=region))
    kept, _ = run(by, scan, InferenceConfig(region=region, keep_largest=True))
    pieces, count = ndimage.label(plain.labels.data, np.ones((3, 3)))
    sizes = np.bincount(pieces.ravel())[1:]
    assert count > 1
    assert kept.labels.data.sum() == sizes.max()


def test_tidying_keeps_the_values_of_classes(make_header: MakeHeader, noise: Noise) -> None:
    by, scan = segmenter(make_header(2, values=(0, 300, 7))), noise((2, 40, 41), "tyx")
    plain, _ = run(by, scan, InferenceConfig())
    tidy, _ = run(by, scan, InferenceConfig(keep_largest=True))
    assert set(np.unique(tidy.labels.data)) == {0, 7, 300}
    changed = tidy.labels.data != plain.labels.data
    assert changed.any()
    assert not tidy.labels.data[changed].any()


@pytest.mark.parametrize(
    ("region", "why"),
    [
        (((0, 5), (0, 5)), "it has 2 axes, not 3"),
        (((0, 5), (0, 5), (0, 5), (0, 5)), "it has 4 axes, not 3"),
        (((0, 9), (0, 5), (0, 5)), "reaches outside along z"),
        (((0, 8), (-1, 5), (0, 5)), "reaches outside along y"),
        (((0, 8), (0, 5), (5, 5)), "is empty along x"),
        (((0, 8), (7, 5), (0, 5)), "is empty along y"),
    ],
)
def test_a_region_that_does_not_fit_is_refused(region: Box, why: str, make_header: MakeHeader, noise: Noise) -> None:
    with pytest.raises(GeometryError, match=rf"scan of zyx 8x20x21 voxels.*{why}.*within 0:8,0:20,0:21"):
        run(segmenter(make_header(3)), noise((8, 20, 21), "zyx"), InferenceConfig(region=region))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_2d_model_walks_along_the_axis_that_is_chosen(axis: int, make_header: MakeHeader, noise: Noise) -> None:
    by, stack = segmenter(make_header(2)), noise((17, 18, 19), "zyx", (5.0, 1.0, 1.0))
    found, events = run(by, stack, InferenceConfig(slice_axis="zyx"[axis]))
    one = stack.data.take(4, axis=axis)
    expected, _ = run(by, Scan(one, array_spec(one.shape, "yx")), InferenceConfig())
    np.testing.assert_array_equal(found.labels.data.take(4, axis=axis), expected.labels.data)
    assert tiles(events) % stack.data.shape[axis] == 0


def test_an_axis_the_scan_lacks_cannot_be_walked_along(make_header: MakeHeader, noise: Noise) -> None:
    with pytest.raises(GeometryError, match="cannot be sliced along 'z': its spatial axes are y, x"):
        run(segmenter(make_header(2)), noise((20, 21), "yx"), InferenceConfig(slice_axis="z"))


def test_a_slice_axis_that_does_not_apply_is_said(make_header: MakeHeader, noise: Noise) -> None:
    by, scan = segmenter(make_header(3)), noise((18, 20, 21), "zyx")
    plain, _ = run(by, scan, InferenceConfig())
    found, events = run(by, scan, InferenceConfig(slice_axis="y"))
    assert "The model takes the 3D scan as a whole: it is not sliced along y." in words(events)
    np.testing.assert_array_equal(found.labels.data, plain.labels.data)


@given(st.data())
def test_boxes_are_turned_as_the_voxels_in_them(data: st.DataObject) -> None:
    from prosma_core.data.grid import NetworkGrid

    shape = tuple(data.draw(st.integers(1, 6)) for _ in range(3))
    order = tuple(data.draw(st.permutations(range(3))))
    flips = tuple(a for a in range(3) if data.draw(st.booleans()))
    oriented = tuple(shape[a] for a in order)
    grid = NetworkGrid(order, flips, oriented, oriented, (1.0, 1.0, 1.0))
    box = data.draw(boxes(shape))
    marked = np.zeros(shape, bool)
    marked[box_slices(box)] = True
    turned = grid.orient_box(box)
    assert grid.orient(marked)[box_slices(turned)].all()
    assert prod(b - a for a, b in turned) == marked.sum()
    assert grid.restore_box(turned) == box
