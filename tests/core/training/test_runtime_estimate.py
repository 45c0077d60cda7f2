"""The expected time of a training follows from its plan and from the speed that was measured."""

from __future__ import annotations

from math import prod
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prosma_core.config.training import RunConfig, resolve_run
from prosma_core.data.geometry import array_spec
from prosma_core.errors import DatasetError, GeometryError
from prosma_core.events import Working
from prosma_core.training import runtime_estimate
from prosma_core.training.runtime_estimate import expected_seconds, small_patch

SMALL: dict[str, Any] = {"network": {"width": 4, "max_width": 8, "max_stages": 3}, "device": "cpu"}


def run_of(**changes: Any) -> RunConfig:
    training = {"epochs": 10, "steps": 20, "batch_size": 2, **changes.pop("training", {})}
    return resolve_run({"out": "o.safetensors", **SMALL, "training": training, **changes})


def seconds(runs: dict[str, RunConfig], shapes: list[tuple[int, ...]]) -> dict[str, float]:
    axes = "zyx"[-len(shapes[0]) :]
    work = expected_seconds(runs, [array_spec(shape, axes) for shape in shapes], 2)
    while True:
        try:
            assert isinstance(next(work), Working)
        except StopIteration as stop:
            return stop.value


@pytest.fixture
def speed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """A step takes 2 us a voxel, a forward 1 us; return the tiles of the networks that were timed."""
    timed = []

    def of(model: Any, tile: tuple[int, ...], *_: Any) -> Any:
        timed.append(tile)
        return 2e-6, 1e-6
        yield

    monkeypatch.setattr(runtime_estimate, "_speed", of)
    return timed


def test_steps_epochs_and_validation_are_counted(speed: list[tuple[int, ...]]) -> None:
    runs = {"a": run_of(), "b": run_of(training={"epochs": 20}), "c": run_of(training={"validation_cases": 1})}
    found = seconds(runs, [(32, 32)] * 10)
    step, tile = 2 * 1024 * 2e-6, 1024 * 1e-6
    assert speed == [(32, 32)]  # one network, one measurement
    assert found["a"] == pytest.approx(10 * (20 * step + 2 * tile) + 2 * tile)
    assert found["b"] == pytest.approx(20 * (20 * step + 2 * tile) + 2 * tile)
    assert found["c"] == pytest.approx(10 * (20 * step + tile) + 2 * tile)


def test_minutes_are_a_limit_and_few_scans_are_all_validated(speed: list[tuple[int, ...]]) -> None:
    found = seconds({"a": run_of(training={"minutes": 0.5, "epochs": 1000})}, [(16, 32, 32)] * 3)
    assert speed == [(16, 32, 32)]
    assert found["a"] == pytest.approx(30 + 3 * 16 * 1024 * 1e-6)


def test_a_2d_network_validates_each_slice(speed: list[tuple[int, ...]]) -> None:
    found = seconds({"a": run_of(preprocess={"dims": 2})}, [(12, 32, 32)])
    assert speed == [(32, 32)]
    assert found["a"] == pytest.approx(10 * 20 * 2 * 1024 * 2e-6 + 11 * 12 * 1024 * 1e-6)


def test_fine_tuning_has_the_network_and_the_scans_validated_of_the_model(speed: list[tuple[int, ...]]) -> None:
    runs = {
        preset: resolve_run({"out": "o", "preset": preset, "init": "phantom-3d", "device": "cpu"})
        for preset in ("quick", "best")
    }
    found = seconds(runs, [(40, 40, 40)] * 5)
    assert len(speed) == 1
    assert found["quick"] < found["best"]


def test_what_training_refuses_is_refused() -> None:
    with pytest.raises(GeometryError, match="3D"):
        seconds({"a": resolve_run({"out": "o", "init": "phantom-3d"})}, [(40, 40)])
    mixed = [array_spec((40, 40), "yx"), array_spec((3, 40, 40), "cyx")]
    with pytest.raises(DatasetError, match="channels"):
        list(expected_seconds({"a": run_of()}, mixed, 2))


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(40, 48, 40), (70, 90)])
def test_a_larger_network_takes_longer(shape: tuple[int, ...]) -> None:
    small, large = run_of(), run_of(network={"width": 32, "max_width": 64, "max_stages": 3})
    found = seconds({"small": small, "large": large}, [shape] * 5)
    assert 0 < found["small"] < found["large"]


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 12)), min_size=2, max_size=3), st.integers(1, 4), st.data())
def test_a_small_patch_fits_the_network(axes: list[tuple[int, int]], stages: int, data: Any) -> None:
    strides = tuple(tuple(data.draw(st.integers(1, 2)) for _ in axes) for _ in range(stages))
    divisor = tuple(prod(s[a] for s in strides) for a in range(len(axes)))
    tile = tuple(d * n for d, (_, n) in zip(divisor, axes, strict=True))
    most = data.draw(st.integers(1, 10**5))
    patch = small_patch(tile, strides, most)
    assert all(p % d == 0 and p <= t for p, d, t in zip(patch, divisor, tile, strict=True))
    assert prod(patch) <= max(most, prod(divisor))
    if prod(tile) <= most:
        assert patch == tile
