"""The next slice to annotate: which are ranked, that a seed repeats it, whose entropy it is, and scans left out."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prosma_core.config import InferenceConfig, ModelHeader
from prosma_core.data.geometry import Scan
from prosma_core.data.next_slice import power_scores, rank_slices
from prosma_core.errors import ChannelError, FileFormatError, GeometryError
from prosma_core.events import Event, StageStarted, TileDone, drain
from prosma_core.inference import next_slice
from prosma_core.inference.next_slice import AnnotatedScan, slice_entropy, suggest
from prosma_core.inference.segment import Segmenter
from prosma_core.model.unet import build_model

shapes = st.tuples(st.integers(1, 2), st.integers(1, 9), st.integers(2, 4))


@st.composite
def pools(draw: Any) -> tuple[list[np.ndarray], list[set[int]]]:
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    entropy = [
        rng.random(shape) * (rng.random(shape) > 0.4) for shape in draw(st.lists(shapes, min_size=1, max_size=3))
    ]
    entropy = [each[..., : min(e.shape[-1] for e in entropy)] for each in entropy]
    return entropy, [set(draw(st.lists(st.integers(0, 20)))) for _ in entropy]


@given(pools(), st.integers(0, 9))
def test_what_is_not_annotated_is_ranked_once_and_neighbors_come_last(pool: Any, seed: int) -> None:
    entropy, annotated = pool
    order, turn = rank_slices(entropy, annotated, seed)
    known = [{i for i in each if i < e.shape[0] * e.shape[1]} for each, e in zip(annotated, entropy, strict=True)]
    everything = {(scan, i) for scan, e in enumerate(entropy) for i in range(e.shape[0] * e.shape[1])}
    assert sorted(order) == sorted(everything - {(scan, i) for scan, each in enumerate(known) for i in each})
    beside = [
        any(
            abs(i - other) == 1 and i // entropy[scan].shape[1] == other // entropy[scan].shape[1]
            for other in known[scan]
        )
        for scan, i in order
    ]
    assert beside == sorted(beside)
    assert 0 <= turn < entropy[0].shape[-1]
    assert rank_slices(entropy, annotated, seed) == (order, turn)


@given(pools(), st.floats(0.01, 100))
def test_the_unit_of_entropy_does_not_matter(pool: Any, factor: float) -> None:
    entropy, annotated = [each + 0.01 for each in pool[0]], pool[1]
    assert rank_slices([each * factor for each in entropy], annotated) == rank_slices(entropy, annotated)


def test_classes_take_turns_every_third_choice_is_that_of_all_and_noise_halves() -> None:
    rng = np.random.default_rng(0)
    entropy = rng.random((200, 3)) + 0.1
    left = np.ones(200, bool)
    turns = [power_scores(entropy, step, left, rng)[1] for step in range(1, 10)]
    assert turns == [1, 2, 0, 1, 2, 0, 1, 2, 0]
    spread = [np.std(power_scores(entropy, step, left, rng)[0] - np.log(entropy[:, 1])) for step in (1, 7)]
    assert spread[0] / spread[1] == pytest.approx(8, rel=0.5)
    exact, _ = power_scores(entropy, 7, left, rng, noise=0)
    assert exact.argmax() == entropy[:, 2 if turns[6] == 2 else 1].argmax()
    entropy[:, 1] = 0  # never predicted: that of all classes ranks
    assert power_scores(entropy, 1, left, rng)[1] == 0


Noise = Callable[..., Scan]


def finished(work: Generator[Any, None, Any]) -> tuple[Any, list[Any]]:
    events: list[Any] = []
    return drain(work, events.append), events


def mixed(header: ModelHeader) -> Segmenter:
    """Return a network whose random weights give every class somewhere."""
    model = build_model(header.model, 0)
    with torch.no_grad():
        for head in model.heads:
            head.bias.zero_()
            head.weight.mul_(20)
    return Segmenter(header, model, torch.device("cpu"))


def opened(name: str, scan: Scan, axis: str | None, annotated: tuple[int, ...] = ()) -> AnnotatedScan:
    def read() -> Generator[Any, None, Scan]:
        yield from ()
        return scan

    return AnnotatedScan(name, read, axis, annotated)


@pytest.mark.parametrize(
    ("dims", "shape", "axes", "axis"),
    [
        (2, (40, 33), "yx", ""),
        (2, (3, 40, 33), "zyx", "z"),
        (3, (2, 12, 24, 18), "tzyx", "x"),
        (3, (12, 24, 18), "zyx", "y"),
    ],
)
def test_entropy_of_a_slice_is_the_mean_of_the_map_where_a_class_is_predicted(
    dims: int,
    shape: tuple[int, ...],
    axes: str,
    axis: str,
    noise: Noise,
    make_header: Callable[..., ModelHeader],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(next_slice, "MOST_COUNTED", 70)  # a large picture is counted row by row
    scan, segmenter = noise(shape, axes), mixed(make_header(dims))
    found, events = finished(slice_entropy(segmenter, scan, axis))
    wanted, _ = finished(segmenter.segment(scan, InferenceConfig(entropy=True, overlap=0.25)))
    assert (found[..., 1:] > 0).any()
    for k, info in enumerate(segmenter.header.classes):
        part = np.where(wanted.labels.data == info.value, wanted.entropy.data, 0).astype(float)
        other = tuple(i for i, letter in enumerate(axes) if letter not in ("t", axis))
        np.testing.assert_allclose(found[..., k].ravel(), part.mean(other).ravel(), rtol=1e-6)
    assert found.shape[:2] == (shape[0] if axes[0] == "t" else 1, shape[axes.index(axis)] if axis else 1)
    assert any(isinstance(event, TileDone) for event in events)


def test_the_usual_axis_is_taken_where_none_is_known_yet_and_broken_files_are_left_out(
    noise: Noise, make_header: Callable[..., ModelHeader]
) -> None:
    segmenter = mixed(make_header(3))
    scan = noise((12, 20, 18), "zyx")

    def broken() -> Generator[Event, None, Scan]:
        yield StageStarted("Reading.")
        raise FileFormatError("The file ends too early.")

    known, _ = finished(suggest(segmenter, [opened("a scan", scan, "z")]))
    (order, turn), events = finished(
        suggest(segmenter, [AnnotatedScan("broken", broken, None, ()), opened("a scan", scan, None)])
    )
    assert [(0, index) for _, index in order] == known.order
    assert turn == known.turn
    assert {number for number, _ in order} == {1}
    assert any("broken is left out. The file ends too early." in e.message for e in events if hasattr(e, "message"))


def test_scans_that_the_model_cannot_segment_are_left_out_as_long_as_there_is_another(
    noise: Noise, make_header: Callable[..., ModelHeader]
) -> None:
    segmenter = mixed(make_header(3))
    flat, blank = noise((30, 30), "yx"), noise((12, 20, 18), "zyx")
    blank.data[...] = 7
    scan = noise((12, 20, 18), "zyx")
    (order, _), events = finished(
        suggest(segmenter, [opened("a picture", flat, ""), opened("a scan", scan, "z", (4,))])
    )
    assert {number for number, _ in order} == {1}
    assert len(order) == 11
    assert any("a picture is left out." in event.message for event in events if isinstance(event, StageStarted))
    with pytest.raises(GeometryError):
        finished(suggest(segmenter, [opened("a picture", flat, "")]))
    with pytest.raises(GeometryError, match="Slices along z"):
        finished(suggest(segmenter, [opened("a picture", flat, "z")]))
    channels = noise((2, 12, 20, 18), "czyx")
    with pytest.raises(ChannelError):
        finished(suggest(segmenter, [opened("two channels", channels, "z"), opened("blank", blank, "z")]))
