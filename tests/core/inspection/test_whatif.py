"""A changed segmentation against the unchanged one: the gates it was made with, and every number."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prosma_core.config import InferenceConfig, ModelHeader
from prosma_core.config.inspection import InspectConfig, LevelEdit, Variant, opened_one_at_a_time
from prosma_core.config.model import LITE0_STRIDES, ClassInfo, ModelConfig
from prosma_core.data.geometry import Scan
from prosma_core.errors import ConfigError, GeometryError, LabelError
from prosma_core.events import TileDone
from prosma_core.inference.segment import Segmenter
from prosma_core.inspection.whatif import Comparison, WhatIf, change_of, slabs, what_if
from prosma_core.model.unet import build_model

MakeHeader = Callable[..., ModelHeader]
Noise = Callable[..., Scan]
SAME = Variant(name="same", edits=(LevelEdit(level=0, threshold=1),))
OPEN = Variant(name="open", edits=(LevelEdit(level=0, state="open"),))


def drain(work: Generator[Any, None, Any]) -> tuple[Any, list[Any]]:
    events = []
    while True:
        try:
            events.append(next(work))
        except StopIteration as stop:
            return stop.value, events


@pytest.fixture(params=["residual", "efficientnet-lite0"])
def by(request: pytest.FixtureRequest, make_header: MakeHeader) -> Segmenter:
    """Return a network of three classes that finds all of them somewhere, with each encoder."""
    header = make_header(values=(0, 1, 2))
    if request.param != "residual":
        values = {"encoder": request.param, "strides": LITE0_STRIDES, "kernels": ((3, 3),) * 5, "widths": (4,) * 5}
        config = ModelConfig.parse({**header.model.model_dump(), **values}, "m")
        header = header.replace(model=config, preprocess=header.preprocess.replace(tile=(32, 32)))
    model = build_model(header.model, 4)
    with torch.no_grad():
        model.heads[0].bias.zero_()
        model.heads[0].weight.mul_(20)
    return Segmenter(header, model, torch.device("cpu"))


def test_a_factor_of_1_changes_nothing_and_an_open_gate_is_segmented_open(by: Segmenter, noise: Noise) -> None:
    scan = noise((20, 33), "yx")
    found: WhatIf
    found, events = drain(what_if(by, scan, (OPEN, SAME), InspectConfig()))
    opened, same = found.variants
    assert (same.changed, [c.dice for c in same.classes]) == (0, [1, 1])
    assert (same.name, opened.name) == ("same", "open")
    assert opened.changed > 0
    done = [e for e in events if isinstance(e, TileDone)]
    assert [e.done for e in done] == list(range(1, done[0].total + 1))
    before = found.unchanged.data
    np.testing.assert_array_equal(before, drain(by.segment(scan, InferenceConfig()))[0].labels.data)
    by.model.skip_gates[0].forced = "open"
    expected = drain(by.segment(scan, InferenceConfig()))[0].labels.data
    np.testing.assert_array_equal(found.labels.data, expected)
    np.testing.assert_array_equal(found.changes.data, change_of(before, expected, 0))
    assert opened.changed == (before != expected).sum() == (found.changes.data > 0).sum()


def test_only_the_region_is_compared_and_a_truth_is_measured_there(by: Segmenter, noise: Noise) -> None:
    scan, region = noise((3, 20, 33), "zyx"), ((1, 3), (2, 18), (5, 33))
    truth = Scan((scan.data > 100).astype(np.uint8), scan.spec)
    config = InspectConfig(region=region)
    found, _ = drain(what_if(by, scan, (OPEN,), config, truth=truth))
    (result,) = found.variants
    at = tuple(slice(*r) for r in region)
    before, after, reference = (a[at] for a in (found.unchanged.data, found.labels.data, truth.data))
    outside = np.ones(scan.data.shape, bool)
    outside[at] = False
    assert not found.changes.data[outside].any()
    for k, change in enumerate(result.classes, 1):
        b, a, t = before == k, after == k, reference == k
        assert (change.before, change.after) == (b.sum(), a.sum())
        assert change.turned_on == (a & (before == 0)).sum()
        assert change.turned_off == (b & (after == 0)).sum()
        for number, (one, other) in (
            (change.dice, (b, a)),
            (change.truth_before, (b, t)),
            (change.truth_after, (a, t)),
        ):
            both = one.sum() + other.sum()
            assert number == pytest.approx(2 * (one & other).sum() / both if both else 1)


def test_a_known_unchanged_result_is_not_computed_again(by: Segmenter, noise: Noise) -> None:
    scan = noise((16, 16), "yx")
    first, events = drain(what_if(by, scan, (OPEN,), InspectConfig()))
    again, fewer = drain(what_if(by, scan, (OPEN,), InspectConfig(), unchanged=first.unchanged, arrays=False))
    assert again.variants == first.variants
    assert (again.labels, again.changes) == (None, None)
    assert [len([e for e in es if isinstance(e, TileDone)]) for es in (events, fewer)] == [2, 1]


def test_a_stopped_comparison_leaves_the_gates_as_they_were(by: Segmenter, noise: Noise) -> None:
    scan = noise((40, 40), "yx")
    first, _ = drain(what_if(by, scan, (OPEN,), InspectConfig()))
    work = what_if(by, scan, (OPEN,), InspectConfig(), unchanged=first.unchanged)
    while by.model.skip_gates[0].forced is None:
        next(work)
    work.close()
    assert by.model.skip_gates[0].forced is None


def test_which_level_matters_is_a_variant_for_each_gate(make_header: MakeHeader) -> None:
    variants = opened_one_at_a_time(make_header().model)
    assert variants == (Variant(name="level 0 open", edits=(LevelEdit(level=0, state="open"),)),)
    with pytest.raises(ConfigError, match="plain U-Net"):
        opened_one_at_a_time(make_header(gate="none").model)


def test_what_does_not_fit_is_refused_in_words(by: Segmenter, noise: Noise) -> None:
    scan = noise((16, 16), "yx")
    levels = len(by.model.skip_gates)
    wrong = Variant(name="x", edits=(LevelEdit(level=levels, threshold=0),))
    with pytest.raises(ConfigError, match=f"no level {levels}"):
        next(what_if(by, scan, (wrong,), InspectConfig()))
    other = noise((16, 17), "yx")
    with pytest.raises(GeometryError, match="labels of this scan"):
        next(what_if(by, scan, (OPEN,), InspectConfig(), truth=Scan(other.data.astype(np.uint8), other.spec)))
    with pytest.raises(LabelError, match="none of"):
        next(what_if(by, scan, (OPEN,), InspectConfig(), truth=Scan(np.full((16, 16), 9, np.uint8), scan.spec)))


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(1, 4), min_size=2, max_size=4))
def test_counts_add_up_in_any_parts(seed: int, shape: list[int]) -> None:
    rng = np.random.default_rng(seed)
    values = np.array([3, 0, 9])  # the background need not be 0
    before, after = (values[rng.integers(0, 3, shape)] for _ in range(2))
    classes = tuple(ClassInfo(value=int(v), name=str(v)) for v in values)
    whole, rows = Comparison(classes), Comparison(classes)
    whole.add(before, after, None)
    for row in range(shape[0]):
        rows.add(before[row], after[row], None)
    assert whole.result("x") == rows.result("x")
    changes, result = change_of(before, after, 3), whole.result("x")
    assert result.changed == (changes > 0).sum() == (before != after).sum()
    assert sum(c.turned_on for c in result.classes) == (changes == 1).sum()
    assert sum(c.turned_off for c in result.classes) == (changes == 2).sum()


@pytest.mark.parametrize("shape", [(7,), (3, 5), (3000, 1500), (2, 3, 1000, 2000), (5, 2000, 3000)])
def test_parts_cover_an_array_once(shape: tuple[int, ...]) -> None:
    seen = np.zeros(shape, np.uint8)
    for index in slabs(shape):
        seen[index] += 1
        assert seen[index].size <= 1 << 22
    assert bool((seen == 1).all())
