"""Results are written into the arrays the caller gives, and classes can be seen there while they are computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from prosma_core.config import InferenceConfig, ModelHeader
from prosma_core.data.geometry import ImageSpec, Scan, array_spec, spacing_affine
from prosma_core.events import SlabDone, TileDone
from prosma_core.inference.segment import Segmentation, Segmenter
from prosma_core.model.unet import build_model

CPU = torch.device("cpu")
PLAIN = InferenceConfig()
MakeHeader = Callable[..., ModelHeader]
Noise = Callable[..., Scan]


class Arrays:
    """Gives arrays and remembers them."""

    def __init__(self) -> None:
        self.given: dict[str, NDArray[Any]] = {}

    def __call__(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        assert name not in self.given
        self.given[name] = np.zeros(shape, dtype)
        return self.given[name]


class Watched:
    """A segmentation with a preview: its events, and the label map as it was at each."""

    def __init__(self, by: Segmenter, scan: Scan, config: InferenceConfig = PLAIN) -> None:
        arrays, self.events, self.seen = Arrays(), [], []
        work = by.segment(scan, config, allocate=arrays, preview=True)
        while True:
            try:
                event = next(work)
            except StopIteration as stop:
                self.result: Segmentation = stop.value
                break
            self.events.append(event)
            self.seen.append(arrays.given["labels"].copy() if "labels" in arrays.given else None)
        self.labels = arrays.given["labels"]

    @property
    def slabs(self) -> list[tuple[tuple[slice, ...], NDArray[Any]]]:
        """Box of each slab, and the label map at that time."""
        pairs = zip(self.events, self.seen, strict=True)
        return [(box(event), seen) for event, seen in pairs if isinstance(event, SlabDone)]


def box(slab: SlabDone) -> tuple[slice, ...]:
    return tuple(slice(a, b) for a, b in zip(slab.start, slab.stop, strict=True))


def segmenter(header: ModelHeader) -> Segmenter:
    model = build_model(header.model, 0)
    with torch.no_grad():
        for gate in model.heads:
            gate.bias.zero_()
            gate.weight.mul_(20)
    return Segmenter(header, model, CPU)


def run(by: Segmenter, scan: Scan, config: InferenceConfig = PLAIN, **more: Any) -> tuple[Segmentation, list[Any]]:
    events, work = [], by.segment(scan, config, **more)
    while True:
        try:
            events.append(next(work))
        except StopIteration as stop:
            return stop.value, events


def turned(scan: Scan) -> Scan:
    affine = spacing_affine((1.5, 1.0, 2.0))[:, [1, 0, 2, 3]]
    affine[:, 2] *= -1
    return Scan(scan.data, ImageSpec("zyx", scan.data.shape, (1.0, 1.5, 2.0), "mm", affine, "ras"))


def test_results_are_written_into_the_arrays_given(make_header: MakeHeader, noise: Noise) -> None:
    by, scan, arrays = segmenter(make_header(3, values=(0, 300, 7))), noise((2, 18, 19, 20), "tzyx"), Arrays()
    config = InferenceConfig(probabilities=True, entropy=True, fill_holes=True)
    expected, _ = run(by, scan, config)
    result, _ = run(by, scan, config, allocate=arrays)
    for name in ("labels", "probabilities", "entropy"):
        found, wanted = getattr(result, name), getattr(expected, name)
        assert found.data is arrays.given[name]
        assert found.data.dtype == wanted.data.dtype
        np.testing.assert_array_equal(found.data, wanted.data)
    assert result.labels.data.dtype == by.header.label_dtype == "uint16"


def test_only_the_arrays_that_are_asked_for_are_allocated(make_header: MakeHeader, noise: Noise) -> None:
    arrays = Arrays()
    run(segmenter(make_header(2)), noise((20, 21), "yx"), allocate=arrays)
    assert list(arrays.given) == ["labels"]


def test_without_a_preview_there_are_no_slabs(make_header: MakeHeader, noise: Noise) -> None:
    _, events = run(segmenter(make_header(2)), noise((3, 40, 41), "zyx"))
    assert not any(isinstance(e, SlabDone) for e in events)


MM: dict[str, Any] = {"resample": "spacing", "unit": "mm", "orientation": "RAS"}
CASES = {
    "volume": (3, {}, (40, 18, 20), "zyx", None),
    "small volume": (3, {}, (8, 9, 10), "zyx", None),
    "volume, turned": (3, {"orientation": "RAS"}, (20, 40, 18), "turned", None),
    "volume, turned and finer": (3, {**MM, "spacing": (0.7,) * 3}, (20, 30, 18), "turned", None),
    "volume, turned and coarser": (3, {**MM, "spacing": (1.3,) * 3}, (20, 64, 18), "turned", None),
    "part of a volume": (3, {}, (40, 18, 20), "zyx", ((5, 37), (2, 10), (3, 4))),
    "part of a volume, turned and finer": (3, {**MM, "spacing": (0.7,) * 3}, (20, 30, 18), "turned", ((2, 9),) * 3),
    "frames in time": (3, {}, (2, 33, 18, 20), "tzyx", None),
    "slices": (2, {}, (4, 40, 20), "zyx", None),
    "part of slices in time": (2, {}, (2, 4, 40, 20), "tzyx", ((1, 3), (4, 30), (2, 20))),
    "picture": (2, {}, (60, 20), "yx", None),
}


@pytest.fixture(params=list(CASES))
def watched(request: pytest.FixtureRequest, make_header: MakeHeader, noise: Noise) -> tuple[Watched, Any]:
    dims, more, shape, axes, region = CASES[request.param]
    scan = turned(noise(shape, "zyx")) if axes == "turned" else noise(shape, axes)
    by = segmenter(make_header(dims, values=(0, 4, 9), **more))
    config = InferenceConfig(region=region)
    return Watched(by, scan, config), run(by, scan, config)[0].labels.data


@pytest.mark.slow
def test_a_preview_does_not_change_the_result(watched: tuple[Watched, NDArray[Any]]) -> None:
    live, expected = watched
    assert live.result.labels.data is live.labels
    np.testing.assert_array_equal(live.labels, expected)


@pytest.mark.slow
def test_slabs_lie_in_the_label_map_and_cover_all_that_gets_labels(watched: tuple[Watched, NDArray[Any]]) -> None:
    live, expected = watched
    covered = np.zeros(expected.shape, bool)
    for at, _ in live.slabs:
        assert len(at) == expected.ndim
        assert all(0 <= s.start < s.stop <= n for s, n in zip(at, expected.shape, strict=True))
        covered[at] = True
    assert covered[expected > 0].all()


@pytest.mark.slow
def test_classes_appear_only_in_boxes_that_are_announced(watched: tuple[Watched, NDArray[Any]]) -> None:
    live, expected = watched
    announced = np.zeros(expected.shape, bool)
    for at, seen in live.slabs:
        announced[at] = True
        assert not seen[~announced].any()
        assert set(np.unique(seen)) <= {0, 4, 9}
        assert seen[at].any()


@pytest.mark.parametrize("case", ["volume", "volume, turned", "frames in time", "slices", "picture"])
def test_what_is_shown_is_final_where_nothing_is_resampled(case: str, make_header: MakeHeader, noise: Noise) -> None:
    dims, more, shape, axes, _ = CASES[case]
    scan = turned(noise(shape, "zyx")) if axes == "turned" else noise(shape, axes)
    live = Watched(segmenter(make_header(dims, **more)), scan)
    assert len(live.slabs) > 1
    for at, seen in live.slabs:
        np.testing.assert_array_equal(seen[at], live.labels[at])


@pytest.mark.parametrize("spacing", [0.6, 1.0, 1.7])
def test_what_is_shown_lies_where_it_will_be(spacing: float, make_header: MakeHeader) -> None:
    """A ball, found by a network that answers with its input's sign, is shown in its place."""
    z, y, x = np.ogrid[:60, :30, :32]
    data = ((z - 22) ** 2 / 3 + (y - 13) ** 2 + (x - 18) ** 2 < 100).astype(np.float32)
    scan = turned(Scan(data, array_spec(data.shape, "zyx")))
    header = make_header(3, **{**MM, "spacing": (spacing,) * 3})
    live = Watched(Segmenter(header, Sign(), CPU), scan)  # type: ignore[arg-type]
    early = live.slabs[:-1]
    assert early
    for at, seen in early:
        assert (seen[at] == data[at]).mean() > 0.97


class Sign(torch.nn.Module):
    """Class 1 where the normalized scan is above its mean."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.cat([-image, image], dim=1)


def test_a_volume_is_shown_before_its_last_tile(make_header: MakeHeader, noise: Noise) -> None:
    live = Watched(segmenter(make_header(3)), noise((64, 16, 16), "zyx"))
    kinds = [type(e) for e in live.events]
    assert kinds.index(SlabDone) < len(kinds) // 2
    last = max(i for i, e in enumerate(live.events) if isinstance(e, TileDone))
    shown = [box(e)[0] for e in live.events[:last] if isinstance(e, SlabDone)]
    assert [s.start for s in shown[1:]] == [s.stop for s in shown[:-1]]


def test_post_processing_is_in_the_array_at_the_end(make_header: MakeHeader, noise: Noise) -> None:
    by, scan, config = segmenter(make_header(2)), noise((40, 41), "yx"), InferenceConfig(keep_largest=True)
    live = Watched(by, scan, config)
    np.testing.assert_array_equal(live.labels, run(by, scan, config)[0].labels.data)
    assert (live.slabs[-1][1] != live.labels).any()


def test_a_background_of_another_value_fills_the_rest(make_header: MakeHeader, noise: Noise) -> None:
    by, scan = segmenter(make_header(2, values=(9, 1))), noise((3, 40, 41), "zyx")
    scan.data[1] = 0
    labels = run(by, scan, InferenceConfig(region=((0, 2), (0, 20), (0, 41))))[0].labels.data
    assert (labels[1:] == 9).all()
    assert (labels[:, 20:] == 9).all()
    assert set(np.unique(labels[0, :20])) == {1, 9}
