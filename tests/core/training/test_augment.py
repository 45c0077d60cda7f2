"""Intensity augmentation: each effect does what its name says, per patch."""

from __future__ import annotations

import pytest
import torch
from scipy.ndimage import gaussian_filter

from prosma_core.config.training import AugmentConfig
from prosma_core.data.augment import augment_intensities, bias_field, blur, gamma_curve, low_resolution

NOTHING = {f"p_{name}": 0.0 for name in ("gamma", "contrast", "noise", "blur", "low_resolution", "bias")}


def batch(dims: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.randn(6, 2, *(12,) * dims, generator=torch.Generator().manual_seed(seed))


def test_nothing_drawn_changes_nothing() -> None:
    images = batch()
    assert torch.equal(augment_intensities(images, AugmentConfig(**NOTHING), torch.Generator()), images)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("effect", sorted(NOTHING))
def test_each_effect_changes_every_patch_keeps_shape_and_is_repeatable(effect: str, dims: int) -> None:
    images = batch(dims)
    config = AugmentConfig(**{**NOTHING, effect: 1.0})
    one, two = (augment_intensities(images, config, torch.Generator().manual_seed(0)) for _ in range(2))
    assert torch.equal(one, two)
    assert one.shape == images.shape
    assert bool(one.isfinite().all())
    assert bool((one != images).flatten(1).any(1).all())


def test_patches_are_drawn_one_by_one() -> None:
    images = batch()
    changed = augment_intensities(images, AugmentConfig(**{**NOTHING, "p_contrast": 0.5}), torch.Generator())
    different = (changed != images).flatten(1).any(1)
    assert 0 < int(different.sum()) < len(images)


@pytest.mark.parametrize("dims", [2, 3])
def test_blur_is_a_gaussian_of_the_asked_width(dims: int) -> None:
    images = batch(dims)
    sigma = torch.tensor([0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    blurred = blur(images, sigma)
    for i, s in enumerate(sigma.tolist()):
        expected = gaussian_filter(images[i, 0].numpy(), s, mode="nearest", radius=3)
        torch.testing.assert_close(blurred[i, 0], torch.from_numpy(expected), rtol=1e-4, atol=1e-5)


def test_gamma_keeps_mean_and_deviation_and_order() -> None:
    images = batch()
    curved = gamma_curve(images, torch.full((6, 1, 1, 1), 1.4))
    for before, after in zip(images.flatten(2), curved.flatten(2), strict=True):
        torch.testing.assert_close(after.mean(-1), before.mean(-1), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(after.std(-1), before.std(-1), rtol=1e-3, atol=1e-3)
        assert torch.equal(before.argsort(-1), after.argsort(-1))


def test_low_resolution_loses_detail_not_level() -> None:
    images = batch()
    coarse = low_resolution(images + 5, 0.5)
    assert coarse.shape == images.shape
    assert coarse.diff(dim=-1).abs().mean() < images.diff(dim=-1).abs().mean()
    assert float(coarse.mean()) == pytest.approx(5, abs=0.3)


@pytest.mark.parametrize("dims", [2, 3])
def test_bias_is_a_smooth_gain_that_channels_share_and_keeps_level(dims: int) -> None:
    images = torch.rand(6, 2, *(12,) * dims, generator=torch.Generator().manual_seed(0)) + 1
    waves = torch.randn(6, *(3,) * dims, generator=torch.Generator().manual_seed(1))
    strength = torch.full((6, *(1,) * (dims + 1)), 0.3)
    changed = bias_field(images, waves, strength)
    for before, after in zip(images.flatten(2), changed.flatten(2), strict=True):
        torch.testing.assert_close(after.mean(-1), before.mean(-1), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(after.std(-1), before.std(-1), rtol=1e-3, atol=1e-3)
    flat = torch.ones(6, 2, *(12,) * dims)
    flat[..., 0] = 0  # what is lowest, so that the gain shows in the rest
    gain = bias_field(flat, waves, strength)[..., 1:]
    torch.testing.assert_close(gain[:, 0], gain[:, 1])
    span = gain.flatten(1).amax(1) - gain.flatten(1).amin(1)
    assert float(span.min()) > 0.1
    assert bool((gain.diff(dim=-1).abs().flatten(1).amax(1) < 0.4 * span).all())


def test_bias_of_no_strength_changes_nothing() -> None:
    images = batch()
    same = bias_field(images, torch.randn(6, 3, 3), torch.zeros(6, 1, 1, 1))
    torch.testing.assert_close(same, images, rtol=1e-4, atol=1e-4)


def test_bias_leaves_the_other_effects_as_they_were() -> None:
    """A run without a bias field is the run it was before there was one."""
    images, config = batch(), AugmentConfig(**{**NOTHING, "p_contrast": 0.5, "p_gamma": 0.5})
    before = augment_intensities(images, config, torch.Generator().manual_seed(0))
    after = augment_intensities(images, config.replace(p_bias=0.5), torch.Generator().manual_seed(0))
    same = (before == after).flatten(1).all(1)
    assert 0 < int(same.sum()) < len(images)
