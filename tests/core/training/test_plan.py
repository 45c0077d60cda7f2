"""Planning follows the data."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prosma_core.config.training import PRETRAINED, PlanOptions, resolve_run, with_defaults
from prosma_core.data.geometry import array_spec
from prosma_core.errors import ConfigError, DatasetError
from prosma_core.training.dataset_summary import Fingerprint, usual_dims
from prosma_core.training.plan import (
    LITE0_TRAINING_WIDTH,
    MEMORY_SHARE,
    MIN_EDGE,
    TRAINING_TENSORS,
    plan_preprocess,
    plan_run,
    plan_stages,
    plan_tile,
    target_spacing,
    with_usual,
)

GIB = 2**30


def case(shape=(40, 50, 40), spacing=(1.0, 1.0, 1.0), unit="mm", **changes) -> Fingerprint:
    values = {
        "shape": shape,
        "spacing": spacing,
        "unit": unit,
        "oriented": unit == "mm" and len(shape) == 3,
        "channels": 1,
        "channel_names": (),
        "color": False,
        "low": 0.0,
        "high": 255.0,
        "whole_numbers": True,
        "foreground": np.linspace(-50, 150, 200, dtype=np.float32)[None],
        "label_values": (0, 1),
    }
    return Fingerprint(**{**values, **changes})


def run_of(**explicit):
    return resolve_run({"data": "d", "out": "o.safetensors", **explicit})


def test_isotropic_volumes_get_isotropic_stages() -> None:
    pre, model, _ = plan_run([case()], 3, 3, run_of(), (), 64 * GIB)
    assert pre.spacing == (1.0, 1.0, 1.0)
    assert pre.orientation == "RAS"
    assert set(model.strides[1:]) == {(2, 2, 2)}
    assert pre.tile == (40, 56, 40)


def test_thick_slices_are_not_halved_while_they_are_the_coarsest() -> None:
    pre, model, _ = plan_run([case((10, 256, 224), (10.0, 1.5, 1.5))], 3, 4, run_of(), (), 64 * GIB)
    assert model.strides[1] == model.strides[2] == (1, 2, 2)
    assert model.kernels[0] == model.kernels[1] == (1, 3, 3)
    assert model.kernels[-1] == (3, 3, 3)
    assert pre.spacing == (10.0, 1.5, 1.5)


def test_a_strongly_anisotropic_axis_takes_the_tenth_percentile() -> None:
    spacings = [(z, 1.0, 1.0) for z in (3.0, 4.0, 5.0, 6.0, 7.0)]
    shapes = [(20, 200, 200)] * 5
    assert target_spacing(spacings, shapes)[0] == pytest.approx(np.percentile([3, 4, 5, 6, 7], 10))
    assert target_spacing([(1.0, 1.0, 2.0)] * 3, [(50, 50, 50)] * 3) == (1.0, 1.0, 2.0)


def test_ct_is_recognized_and_clipped_to_its_foreground() -> None:
    pre = plan_preprocess([case(low=-1024.0)], 3, PlanOptions(), ())
    (rule,) = pre.intensities
    assert rule.kind == "ct"
    assert -50 <= rule.low < rule.high <= 150
    assert plan_preprocess([case(low=0.0)], 3, PlanOptions(), ()).intensities[0].kind == "zscore"
    assert plan_preprocess([case(low=0.0)], 3, PlanOptions(), ("CT",)).intensities[0].kind == "ct"


def test_pictures_sized_to_one_longest_side_are_recognized() -> None:
    pictures = [case(shape, (1.0, 1.0), "pixel") for shape in ((352, 280), (300, 352), (352, 352))]
    pre = plan_preprocess(pictures, 2, PlanOptions(), ())
    assert (pre.resample, pre.longest_side) == ("longest_side", 352)
    alike = [case((512, 512), (1.0, 1.0), "pixel")] * 3
    assert plan_preprocess(alike, 2, PlanOptions(), ()).resample == "none"


def test_what_is_chosen_by_hand_wins() -> None:
    run = run_of(preprocess={"tile": [16, 32, 32], "spacing": [2, 1, 1]}, network={"width": 8, "max_width": 16})
    pre, model, _ = plan_run([case()], 3, 2, run, (), 64 * GIB)
    assert pre.tile == (16, 32, 32)
    assert pre.spacing == (2.0, 1.0, 1.0)
    assert max(model.widths) == 16


def test_little_memory_gives_a_smaller_tile() -> None:
    large, _, _ = plan_run([case((300, 300, 300))], 3, 2, run_of(), (), 256 * GIB)
    small, _, _ = plan_run([case((300, 300, 300))], 3, 2, run_of(), (), 2 * GIB)
    assert prod(small.tile) < prod(large.tile)


def test_mixed_units_are_refused() -> None:
    with pytest.raises(DatasetError, match="different units"):
        plan_preprocess([case(), case(unit="um")], 3, PlanOptions(), ())


def test_mixed_channels_are_refused_but_gray_and_color_may_mix() -> None:
    with pytest.raises(DatasetError, match="numbers of channels"):
        plan_preprocess([case(), case(channels=2)], 3, PlanOptions(), ())
    mixed = [case(), case(), case(channels=3, color=True)]
    assert plan_preprocess(mixed, 3, PlanOptions(), ()).channels == ("image",)


@given(
    st.lists(st.integers(4, 300), min_size=2, max_size=3),
    st.lists(st.floats(0.2, 12), min_size=3, max_size=3),
    st.integers(2, 7),
)
def test_stages_keep_their_promises(tile: list[int], voxel: list[float], most: int) -> None:
    spacing = tuple(voxel[: len(tile)])
    strides, kernels = plan_stages(tuple(tile), spacing, most)
    size, current = list(tile), list(spacing)
    assert len(strides) == len(kernels) <= most
    assert set(strides[0]) == {1}
    for stride in strides[1:]:
        assert max(stride) == 2
        for axis, step in enumerate(stride):
            assert step == 1 or size[axis] >= 2 * MIN_EDGE
            size[axis] //= step
            current[axis] *= step
    assert all(k in (1, 3) for kernel in kernels for k in kernel)


@given(st.lists(st.integers(3, 500), min_size=2, max_size=3), st.integers(12, 20))
def test_tiles_are_legal_and_bounded(shape: list[int], log_voxels: int) -> None:
    spacing = (1.0,) * len(shape)
    tile, (strides, _) = plan_tile([tuple(shape)], spacing, 2**log_voxels, 6)
    divisor = [prod(s[a] for s in strides) for a in range(len(shape))]
    assert all(t % d == 0 for t, d in zip(tile, divisor, strict=True))
    assert prod(tile) <= 2**log_voxels
    assert all(t < max(n, 2 * MIN_EDGE) + d for t, n, d in zip(tile, shape, divisor, strict=True))


@pytest.mark.parametrize("preset", ["quick", "balanced", "best"])
@pytest.mark.parametrize("free", [4, 8, 24, 80])
@pytest.mark.parametrize("shape", [(300, 300, 300), (900, 1200)])
def test_tile_and_batch_together_fit_the_memory(preset: str, free: int, shape: tuple[int, ...]) -> None:
    run = run_of(preset=preset)
    unit, spacing = ("mm", (1.0,) * 3) if len(shape) == 3 else ("pixel", (1.0,) * 2)
    pre, model, batch = plan_run([case(shape, spacing, unit)], len(shape), 2, run, (), free * GIB)
    width = LITE0_TRAINING_WIDTH if model.encoder == "efficientnet-lite0" else model.widths[0]
    needed = 4 * width * TRAINING_TENSORS * prod(pre.tile) * batch
    assert needed <= MEMORY_SHARE * free * GIB


def test_three_contrasts_are_not_taken_for_color() -> None:
    with pytest.raises(DatasetError, match="numbers of channels"):
        plan_preprocess([case(), case(channels=3)], 3, PlanOptions(), ())


def test_a_tile_chosen_by_hand_gets_strides_that_fit_it() -> None:
    pre, model, _ = plan_run([case()], 3, 2, run_of(preprocess={"tile": [60, 60, 60]}), (), 64 * GIB)
    assert pre.tile == (60, 60, 60)
    assert model.divisor == (4, 4, 4)


def test_a_tile_that_does_not_fit_the_strides_is_refused_with_the_legal_ones() -> None:
    strides = [[1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 2, 2], [2, 2, 2]]
    run = run_of(preprocess={"tile": [60, 64, 64]}, network={"strides": strides, "kernels": [[3, 3, 3]] * 5})
    with pytest.raises(
        ConfigError, match=r"Tile 60 along axis 0 is not a multiple of 16 \(network stride\); use 48 or 64"
    ):
        plan_run([case()], 3, 2, run, (), 64 * GIB)


def test_strides_chosen_by_hand_get_a_tile_that_fits() -> None:
    strides = [[1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 2, 2], [2, 2, 2]]
    pre, model, _ = plan_run([case()], 3, 2, run_of(network={"strides": strides}), (), 64 * GIB)
    assert len(model.kernels) == 5
    assert all(t % 16 == 0 for t in pre.tile)


PICTURE = ((480, 640), (1.0, 1.0), "pixel")


@pytest.mark.parametrize(
    ("changes", "chosen"),
    [
        ({}, "efficientnet-lite0"),
        ({"network": {"encoder": "residual"}}, "residual"),
        ({"network": {"width": 8}}, "residual"),
        ({"preprocess": {"tile": [96, 64]}}, "efficientnet-lite0"),
        ({"preprocess": {"tile": [60, 60]}}, "residual"),
    ],
)
def test_pictures_are_learned_by_the_pretrained_encoder_unless_something_else_is_chosen(changes, chosen: str) -> None:
    pre, model, _ = plan_run([case(*PICTURE)], 2, 2, run_of(**changes), (), 64 * GIB)
    assert model.encoder == chosen
    assert all(t % d == 0 for t, d in zip(pre.tile, model.divisor, strict=True))


def test_without_the_weights_a_residual_encoder_is_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prosma_core.config.model.PACKAGE", "efficientnet-nowhere")
    assert plan_run([case(*PICTURE)], 2, 2, run_of(), (), 64 * GIB)[1].encoder == "residual"


def test_two_channels_and_volumes_are_learned_by_a_residual_encoder() -> None:
    assert plan_run([case(*PICTURE, channels=2)], 2, 2, run_of(), (), 64 * GIB)[1].encoder == "residual"
    assert plan_run([case()], 3, 2, run_of(), (), 64 * GIB)[1].encoder == "residual"


@pytest.mark.parametrize(("diameter", "side"), [(100.0, 256), (15.0, None)])
def test_pictures_are_made_smaller_only_where_objects_stay_large(diameter: float, side: int | None) -> None:
    run = with_defaults(run_of(), PRETRAINED["balanced"])
    pre, _, _ = plan_run([case(*PICTURE, object_size=diameter)], 2, 2, run, (), 64 * GIB)
    assert pre.longest_side == side
    assert (pre.resample == "longest_side") == (side is not None)


def test_small_pictures_are_not_made_larger() -> None:
    run = with_defaults(run_of(), PRETRAINED["balanced"])
    pre, _, _ = plan_run([case((48, 64), (1.0, 1.0), "pixel", object_size=30.0)], 2, 2, run, (), 64 * GIB)
    assert (pre.resample, pre.tile) == ("none", (64, 64))


@pytest.mark.parametrize("name", ["strides", "kernels"])
def test_stages_of_other_axes_are_refused_in_words(name: str) -> None:
    run = run_of(network={name: [[1, 1], [2, 2]]})
    with pytest.raises(ConfigError, match=rf"network\.{name}.*3D: give 3"):
        plan_run([case()], 3, 2, run, (), 64 * GIB)


def test_fine_tuning_takes_its_own_preset_and_needs_a_model() -> None:
    run = run_of(init="phantom-3d")
    assert (run.preset, run.training.epochs, run.training.steps) == ("fine-tune", 3, 20)
    assert run_of(init="phantom-3d", preset="quick").training.epochs == 40
    assert run_of().preset == "balanced"
    with pytest.raises(ConfigError, match="quick, balanced, best"):
        run_of(preset="fine-tune")


@pytest.mark.parametrize(("axis", "expected"), [("z", 2), ("y", 3), ("x", 3), ("", 2)])
def test_few_slices_across_thick_ones_are_not_learned_slice_by_slice(axis: str, expected: int) -> None:
    thick = array_spec((9, 64, 64), "zyx", spacing=(10, 1.5, 1.5), unit="mm")
    assert usual_dims(thick, sparse=True, axis=axis) == expected
    assert usual_dims(thick, axis=axis) == 3


SPARSE = {"labels": {"zero": "annotated_slices"}}


@pytest.mark.parametrize(("dims", "mirror", "rate"), [(2, "", 3e-3), (3, "x", 4e-3)])
def test_few_slices_of_a_body_are_not_mirrored_as_photographs_are(dims: int, mirror: str, rate: float) -> None:
    scans = [case(unit="mm") if dims == 3 else case((256, 216), (1.5, 1.5), "mm")]
    training = with_usual(run_of(preset="quick", **SPARSE), None, dims, scans).training
    assert (training.augment.mirror, training.learning_rate) == (mirror, rate)
    asked = run_of(preset="quick", **SPARSE, training={"augment": {"mirror": "zyx"}, "learning_rate": 1e-2})
    training = with_usual(asked, None, dims, scans).training
    assert (training.augment.mirror, training.learning_rate) == ("zyx", 1e-2)


@pytest.mark.parametrize("labels", [{}, SPARSE])
def test_whole_scans_and_microscopy_are_mirrored_along_all_axes(labels: dict[str, Any]) -> None:
    scan = case(unit="µm" if labels else "mm")
    assert with_usual(run_of(preset="quick", **labels), None, 3, [scan]).training.augment.mirror == "zyx"


def test_very_small_pictures_get_a_network_all_the_same() -> None:
    run = run_of(network={"encoder": "residual"})
    pre, model, _ = plan_run([case((6, 6), (1.0, 1.0), "pixel")], 2, 2, run, (), 64 * GIB)
    assert pre.tile == (8, 8)
    assert len(model.widths) == 2
