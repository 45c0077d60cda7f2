"""Threshold, least size and separate objects: against plain references, and through a whole segmentation."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from prosma_core.config import InferenceConfig, ModelHeader
from prosma_core.data.geometry import Scan, array_spec
from prosma_core.data.phantom import phantom_3d
from prosma_core.errors import ConfigError
from prosma_core.events import SlabDone
from prosma_core.inference import results
from prosma_core.inference.grid_restore import argmax_streaming
from prosma_core.inference.memory import plan_memory, sum_bytes
from prosma_core.inference.postprocess import find_pieces, number_pieces, remove_small
from prosma_core.inference.segment import Segmentation, Segmenter
from prosma_core.io.bundle import find_model
from prosma_core.model.unet import build_model

CPU = torch.device("cpu")
MakeHeader = Callable[..., ModelHeader]
Noise = Callable[..., Scan]
Maps = NDArray[Any]
FEW = settings(max_examples=40)

LABELS = arrays(
    np.uint8, array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=6), elements=st.sampled_from([0, 0, 0, 1, 2])
)


def segmenter(header: ModelHeader) -> Segmenter:
    """Return a network whose random weights give every class somewhere."""
    model = build_model(header.model, 0)
    with torch.no_grad():
        for gate in model.heads:
            gate.bias.zero_()
            gate.weight.mul_(20)
    return Segmenter(header, model, CPU)


def run(by: Segmenter, scan: Scan, config: InferenceConfig, *, preview: bool = False) -> tuple[Segmentation, list[Any]]:
    events, work = [], by.segment(scan, config, preview=preview)
    while True:
        try:
            events.append(next(work))
        except StopIteration as stop:
            return stop.value, events


def plain_objects(labels: Maps) -> list[tuple[int, set[tuple[int, ...]]]]:
    """Class and voxels of each object, by class and the first voxel: flooded voxel by voxel."""
    steps = [step for step in product((-1, 0, 1), repeat=labels.ndim) if any(step)]
    left = {at: int(labels[at]) for at in np.ndindex(labels.shape) if labels[at]}
    found = []
    for first, number in sorted(left.items(), key=lambda item: (item[1], item[0])):
        if first not in left:
            continue
        edge, inside = [first], set()
        while edge:
            at = edge.pop()
            if left.get(at) == number:
                del left[at]
                inside.add(at)
                edge += [tuple(a + s for a, s in zip(at, step, strict=True)) for step in steps]
        found.append((number, inside))
    return found


def plain_threshold(p: NDArray[np.float64], threshold: float) -> Maps:
    """Class numbers from probabilities of shape (K, ...)."""
    return np.where(p[1:].sum(0) >= threshold, 1 + p[1:].argmax(0), 0)


# --- The parts -------------------------------------------------------------------------------------------------------


@FEW
@given(
    arrays(np.float32, st.tuples(st.integers(2, 6), st.integers(1, 40)), elements=st.floats(-30, 30, width=32)),
    st.floats(1e-6, 1 - 1e-6),
)
def test_a_threshold_decides_as_the_softmax_says(logits: NDArray[np.float32], threshold: float) -> None:
    before = logits.copy()
    found = argmax_streaming(torch.from_numpy(logits), len(logits), threshold)
    assert np.array_equal(logits, before)
    p = np.exp(logits.astype(np.float64))
    p /= p.sum(0)
    odds = np.log(p[1:].sum(0)) - np.log(p[0])
    sure = np.abs(odds - np.log(threshold / (1 - threshold))) > 1e-4
    best = np.sort(logits[1:], axis=0)[-2:].astype(np.float64)  # unequal, but equal as probabilities: either is right
    sure &= (best[0] == best[-1]) | (np.exp(best[0]) < np.exp(best[-1]))
    assert np.array_equal(found[sure], plain_threshold(p, threshold)[sure])


def test_a_probability_of_just_the_threshold_is_foreground() -> None:
    logits = torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    assert argmax_streaming(logits, 2).tolist() == [0, 1, 0]
    assert argmax_streaming(logits, 2, 0.5).tolist() == [1, 1, 0]


@FEW
@given(LABELS, st.integers(0, 8))
def test_small_pieces_become_background(labels: Maps, least: int) -> None:
    expected = labels.copy()
    for _, voxels in plain_objects(labels):
        if len(voxels) < least:
            for at in voxels:
                expected[at] = 0
    before = labels.copy()
    assert np.array_equal(remove_small(labels, 3, least), expected)
    assert np.array_equal(labels, before)


@FEW
@given(LABELS, st.integers(1, 9))
def test_each_object_has_a_number_of_its_own(labels: Maps, first: int) -> None:
    numbers = np.zeros(labels.shape, np.uint32)
    sizes = number_pieces(labels, 3, numbers, first)
    expected = plain_objects(labels)
    assert [(number, size) for number, all_ in sizes for size in all_] == [(n, len(voxels)) for n, voxels in expected]
    for number, (_, voxels) in enumerate(expected, start=first):
        assert set(zip(*map(np.ndarray.tolist, np.nonzero(numbers == number)), strict=True)) == voxels
    assert np.array_equal(numbers > 0, labels > 0)


def test_voxels_are_counted_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.array([[1, 0, 1, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]], np.uint8)
    (found,) = find_pieces(labels, 2)
    monkeypatch.setattr("prosma_core.inference.postprocess.AT_ONCE", 4)
    assert found.sizes().tolist() == [7, 1, 2, 5]


@pytest.mark.parametrize("values", [{"threshold": 0.0}, {"threshold": 1.0}, {"threshold": -1}, {"min_size": -1}])
def test_values_out_of_bounds_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(values))):
        InferenceConfig.parse(values, "The command line")


def test_without_a_threshold_no_memory_is_planned_for_it() -> None:
    grid = (10, 10)
    assert sum_bytes(2, grid, grid, False) == 4 * 100 * 6 + 2 * 100
    assert sum_bytes(2, grid, grid, False, threshold=True) == 4 * 100 * 8 + 2 * 100
    assert sum_bytes(5, grid, grid, True, threshold=True) == sum_bytes(5, grid, grid, True)


def test_a_huge_picture_for_a_small_network_grid_needs_little_beside_itself() -> None:
    side = 20_000
    assert sum_bytes(2, (256, 256), (side, side), False) < 9 * side**2
    assert sum_bytes(2, (256, 256), (side, side), True) > 16 * side**2


def test_a_huge_color_picture_is_planned_with_all_that_is_alive_on_a_processor(
    make_header: Callable[..., ModelHeader], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prosma_core.inference.memory.free_memory", lambda _: 2**40)
    network = make_header(2, ("red", "green", "blue")).model
    side = (20_000, 20_000)
    cpu = torch.device("cpu")
    words = plan_memory(network, (16, 16), side, side, cpu, tiles=1, all_classes=False, batch_size=1).words
    planned = float(words.partition("about ")[2].split(" GiB")[0]) * 2**30
    alive = 3 + 4 * 3 + 4 * 3 + 4 * (network.num_classes + 1)  # file, its values, normalized, summed logits and weights
    assert planned > alive * 20_000**2


# --- A whole segmentation --------------------------------------------------------------------------------------------

CASES: dict[str, tuple[int, tuple[int, ...], str, dict[str, Any], dict[str, Any]]] = {
    "two classes": (2, (0, 1), "yx", {}, {}),
    "five classes, mirrored": (2, (9, 1, 2, 3, 300), "yx", {}, {"mirror": True, "overlap": 0.25}),
    "resampled": (3, (0, 4, 9), "zyx", {"resample": "spacing", "spacing": (1.5, 0.8, 1.0), "unit": "mm"}, {}),
    "slices in time": (2, (0, 4, 9), "tzyx", {}, {}),
    "region": (3, (0, 1, 2), "zyx", {}, {"region": ((2, 9), (3, 30), (0, 18))}),
}
SHAPES = {"yx": (40, 33), "zyx": (12, 33, 18), "tzyx": (2, 3, 20, 21)}


@pytest.mark.slow
@pytest.mark.parametrize("threshold", [0.2, 0.8])
@pytest.mark.parametrize("case", list(CASES))
def test_labels_follow_the_threshold(case: str, threshold: float, make_header: MakeHeader, noise: Noise) -> None:
    dims, values, axes, preprocess, given = CASES[case]
    spacing = (1.0,) * 3 if preprocess else None
    scan = noise(SHAPES[axes], axes, spacing) if spacing else noise(SHAPES[axes], axes)
    config = InferenceConfig(threshold=threshold, probabilities=True, entropy=True, **given)
    by = segmenter(make_header(dims, values=values, **preprocess))
    found, _ = run(by, scan, config)
    likeliest, _ = run(by, scan, config.replace(threshold=None))
    assert found.probabilities is not None
    assert likeliest.probabilities is not None
    assert found.entropy is not None
    assert likeliest.entropy is not None
    np.testing.assert_array_equal(found.probabilities.data, likeliest.probabilities.data)
    np.testing.assert_array_equal(found.entropy.data, likeliest.entropy.data)
    p = np.moveaxis(found.probabilities.data.astype(np.float64), axes.find("t") + 1, 0)
    expected = np.array(values)[plain_threshold(p, threshold)]
    sure = np.abs(p[1:].sum(0) - threshold) > 1e-5
    inside = np.zeros(found.labels.data.shape, bool)
    inside[tuple(slice(*span) for span in given.get("region", ()))] = True
    np.testing.assert_array_equal(found.labels.data[sure & inside], expected[sure & inside])
    assert (found.labels.data[~inside] == values[0]).all()
    assert (found.labels.data != likeliest.labels.data).any()


@pytest.mark.parametrize(("dims", "shape", "axes"), [(3, (40, 18, 20), "zyx"), (2, (60, 20), "yx")])
def test_what_is_shown_early_follows_the_threshold(
    dims: int, shape: tuple[int, ...], axes: str, make_header: MakeHeader, noise: Noise
) -> None:
    by, scan = segmenter(make_header(dims, values=(0, 1, 2))), noise(shape, axes)
    work, seen = by.segment(scan, InferenceConfig(threshold=0.7), preview=True, allocate=(kept := Kept())), []
    try:
        while True:
            if isinstance(slab := next(work), SlabDone):
                at = tuple(slice(*span) for span in zip(slab.start, slab.stop, strict=True))
                seen.append((at, kept.arrays["labels"][at].copy()))
    except StopIteration as stop:
        labels = stop.value.labels.data
    assert len(seen) > 1
    for at, then in seen:
        np.testing.assert_array_equal(then, labels[at])


class Kept:
    """Gives arrays and keeps them by name."""

    def __init__(self) -> None:
        self.arrays: dict[str, Maps] = {}

    def __call__(self, name: str, shape: tuple[int, ...], dtype: Any) -> Maps:
        return self.arrays.setdefault(name, np.zeros(shape, dtype))


def test_a_phantom_with_threshold_least_size_and_objects() -> None:
    """Two bodies side by side: pieces below the least size are gone, each organ and lesion has its own number."""
    bodies = [phantom_3d(seed, (12, 40, 40))[0] for seed in (7, 8)]
    data = np.concatenate([body.data for body in bodies], axis=2)
    scan = Scan(data, array_spec(data.shape, "zyx", bodies[0].spec.spacing, "mm"))
    by = Segmenter.load(find_model("phantom-3d"), CPU)
    asked = {"threshold": 0.4, "min_size": 20, "objects": True}
    plain, _ = run(by, scan, InferenceConfig(overlap=0, threshold=0.4))
    assert plain.objects is None
    assert plain.object_table is None
    found, events = run(by, scan, InferenceConfig(overlap=0, **asked))
    expected = [(value, voxels) for value, voxels in plain_objects(plain.labels.data) if len(voxels) >= 20]
    assert [value for value, _ in expected] == [1, 1, 2, 2]
    assert np.count_nonzero(plain.labels.data) > np.count_nonzero(found.labels.data)
    assert found.objects is not None
    assert found.object_table is not None
    assert found.objects.data.dtype == np.uint16
    assert found.objects.spec == found.labels.spec
    assert found.object_table[1:].tolist() == [[value, len(voxels)] for value, voxels in expected]
    assert found.object_table[0].tolist() == [0, int((found.labels.data == 0).sum())]
    for number, (value, voxels) in enumerate(expected, start=1):
        assert set(map(tuple, np.argwhere(found.objects.data == number).tolist())) == voxels
        assert all(found.labels.data[at] == value for at in voxels)
    assert np.array_equal(found.objects.data > 0, found.labels.data > 0)
    assert events[-1].message == "4 objects: organ 2, lesion 2."


def test_numbers_run_on_over_time_and_stay_in_the_region(make_header: MakeHeader, noise: Noise) -> None:
    by, scan = segmenter(make_header(2, values=(7, 300))), noise((3, 30, 31), "tyx")
    region = ((5, 25), (0, 31))
    found, _ = run(by, scan, InferenceConfig(objects=True, region=region))
    assert found.objects is not None
    assert found.object_table is not None
    expected = [
        {(t, *at) for at in voxels}
        for t, labels in enumerate(found.labels.data)
        for _, voxels in plain_objects(np.where(labels == 300, 1, 0))
    ]
    assert len(expected) == len(found.object_table) - 1 > 3
    for number, voxels in enumerate(expected, start=1):
        assert set(map(tuple, np.argwhere(found.objects.data == number).tolist())) == voxels
    assert (found.object_table[1:, 0] == 300).all()
    assert (found.object_table[0, 0], found.object_table[:, 1].sum()) == (7, scan.data.size)


def test_without_an_object_the_map_is_empty(make_header: MakeHeader, noise: Noise) -> None:
    config = InferenceConfig(objects=True, min_size=10**6)
    found, events = run(segmenter(make_header(2)), noise((20, 21), "yx"), config)
    assert found.objects is not None
    assert found.object_table is not None
    assert not found.objects.data.any()
    assert found.object_table.tolist() == [[0, 420]]
    assert events[-1].message == "No objects."


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({"organ": 1}, "1 object: organ 1."),
        ({f"class {n}": n for n in range(1, 9)}, "36 objects: class 1 1, class 2 2, class 3 3, class 4 4, class 5 5, "),
        ({f"class {n}": 2 for n in range(1, 10)}, "18 objects of 9 classes."),
    ],
)
def test_objects_are_counted_in_words(counts: dict[str, int], said: str) -> None:
    assert results._objects_text(counts).startswith(said)


def test_more_objects_than_16_bits_count_are_counted_in_32(make_header: MakeHeader) -> None:
    header = make_header(2)
    spots = np.zeros((600, 600), np.uint8)
    spots[::2, ::2] = 1
    spec = array_spec(spots.shape, "yx")
    made = results.Results(header, InferenceConfig(objects=True), spec, None, None)  # type: ignore[arg-type]
    made.labels[...] = spots
    assert made.separate(((0, 600), (0, 600))) == "90000 objects: class 1 90000."
    assert made.objects is not None
    assert made.objects.dtype == np.uint32
    assert made.objects.max() == 90000
