"""What is ignored takes no part: not in the loss, not in its gradient, not in Dice, not in where patches lie."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.losses import DeepSupervisionLoss, DiceCELoss

from prosma_core.config.training import AugmentConfig, TrainingConfig
from prosma_core.data.labels import IGNORED
from prosma_core.training.cases import PatchSampler, TrainingCase
from prosma_core.training.optimization import SegmentationLoss
from prosma_core.training.validate import dice_per_class

CLASSES = 3
CONFIGS = [TrainingConfig(), TrainingConfig(batch_dice=False), TrainingConfig(deep_supervision=False)]


def drawn(seed: int, share: float) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Logits of two levels, and labels of which about `share` are ignored."""
    rng = torch.Generator().manual_seed(seed)
    levels = [torch.randn(2, CLASSES, n, n, generator=rng).requires_grad_() for n in (8, 4)]
    labels = torch.randint(CLASSES, (2, 1, 8, 8), generator=rng)
    return levels, labels.masked_fill(torch.rand(labels.shape, generator=rng) < share, IGNORED)


def loss_and_gradients(config: TrainingConfig, levels: list[torch.Tensor], labels: torch.Tensor, *, masked=True):
    levels = [level.detach().clone().requires_grad_() for level in levels]
    value = SegmentationLoss(config, masked=masked)(levels, labels)
    value.backward()
    return value.detach(), [torch.zeros_like(v) if v.grad is None else v.grad for v in levels]


@pytest.mark.parametrize("config", CONFIGS)
@given(seed=st.integers(0, 1000), share=st.floats(0, 1))
def test_logits_of_ignored_voxels_change_neither_loss_nor_gradient(config, seed: int, share: float) -> None:
    levels, labels = drawn(seed, share)
    unknown = [labels == IGNORED, (labels == IGNORED)[:, :, 1::2, 1::2]]  # coarser levels see every second voxel
    changed = [torch.where(where, 7 * level.flip(1) + 3, level) for level, where in zip(levels, unknown, strict=True)]
    one, two = (loss_and_gradients(config, values, labels) for values in (levels, changed))
    assert torch.equal(one[0], two[0])
    for a, b, where in zip(one[1], two[1], unknown, strict=True):
        assert torch.equal(a, b)
        assert not a.masked_select(where).any()


@pytest.mark.parametrize("config", CONFIGS)
def test_nothing_known_is_a_loss_of_zero_without_gradient(config) -> None:
    levels, labels = drawn(0, 1.1)
    assert bool((labels == IGNORED).all())
    value, gradients = loss_and_gradients(config, levels, labels)
    assert float(value) == pytest.approx(0, abs=1e-6)
    assert not any(g.any() for g in gradients)


@pytest.mark.parametrize("config", CONFIGS)
@given(seed=st.integers(0, 1000))
def test_where_everything_is_known_the_masked_loss_is_the_usual_one(config, seed: int) -> None:
    levels, labels = drawn(seed, 0)
    one, two = (loss_and_gradients(config, levels, labels, masked=masked) for masked in (True, False))
    torch.testing.assert_close(one[0], two[0])
    torch.testing.assert_close(one[1], two[1])


@pytest.mark.parametrize("config", CONFIGS)
def test_the_loss_is_that_of_monai_to_the_bit(config: TrainingConfig) -> None:
    one = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=config.batch_dice)
    theirs = (
        DeepSupervisionLoss(one, weight_mode="exp") if config.deep_supervision else lambda levels, y: one(levels[0], y)
    )
    for seed in range(5):
        levels, labels = drawn(seed, 0)
        value, gradients = loss_and_gradients(config, levels, labels, masked=False)
        expected = theirs(levels, labels.float())
        expected.backward()
        assert torch.equal(value, expected)
        for mine, level in zip(gradients, levels, strict=True):
            assert torch.equal(mine, torch.zeros_like(level) if level.grad is None else level.grad)


@pytest.mark.parametrize("config", CONFIGS[:1])
def test_the_masked_loss_is_that_of_the_known_voxels_alone(config) -> None:
    levels, labels = drawn(3, 0)
    labels[..., 4:] = IGNORED
    whole, _ = loss_and_gradients(config, levels[:1], labels)
    part, _ = loss_and_gradients(config, [levels[0][..., :4]], labels[..., :4], masked=False)
    torch.testing.assert_close(whole, part)


@given(seed=st.integers(0, 1000), share=st.floats(0, 1))
def test_predictions_at_ignored_voxels_do_not_change_dice(seed: int, share: float) -> None:
    levels, labels = drawn(seed, share)
    prediction, reference = levels[0].argmax(1)[0], labels[0, 0]
    changed = torch.where(reference == IGNORED, (prediction + 1) % CLASSES, prediction)
    assert dice_per_class(prediction, reference, CLASSES) == dice_per_class(changed, reference, CLASSES)
    known = reference != IGNORED
    assert dice_per_class(prediction, reference, CLASSES) == dice_per_class(
        prediction[known], reference[known], CLASSES
    )


def test_the_last_of_256_classes_is_not_taken_for_ignored() -> None:
    reference = torch.tensor([255, 255, 0], dtype=torch.uint8)
    assert dice_per_class(torch.tensor([255, 0, 0]), reference, 256)[-1] == pytest.approx(2 / 3)


def sparse_case(grid: tuple[int, ...], row: int) -> TrainingCase:
    """Known on one row only, whose right half is class 1; the image holds class + 2 there, and 1 elsewhere."""
    labels = torch.full(grid, IGNORED, dtype=torch.int16)
    labels[row] = 0
    labels[row, ..., grid[-1] // 2 :] = 1
    image = torch.where(labels == IGNORED, 1, labels + 2).float()[None]
    return TrainingCase("c", image, labels, [torch.argwhere(labels == 1)], torch.argwhere(labels != IGNORED))


@pytest.mark.parametrize("foreground", [0.0, 1.0])
@pytest.mark.parametrize("grid", [(40, 40), (9, 30, 30)])
def test_patches_lie_where_annotations_are(foreground: float, grid: tuple[int, ...]) -> None:
    augment = AugmentConfig(p_rotate=0, p_scale=0)
    sampler = PatchSampler([sparse_case(grid, 5)], (8,) * len(grid), (1.0,) * len(grid), foreground, augment)
    _, labels = sampler.draw(40, torch.Generator().manual_seed(0))
    assert bool((labels != IGNORED).flatten(1).any(1).all())
    if not foreground:  # background that is annotated counts as well
        assert bool((labels == 0).any())


def test_turning_keeps_what_is_known_and_outside_of_the_scan_nothing_is() -> None:
    augment = AugmentConfig(p_rotate=1, p_scale=1, rotate_degrees=180)
    sampler = PatchSampler([sparse_case((20, 20), 10)], (32, 32), (1.0, 1.0), 1.0, augment)
    images, labels = sampler.draw(30, torch.Generator().manual_seed(0))
    assert set(labels.unique().tolist()) == {IGNORED, 0, 1}
    assert bool((labels[images == 0] == IGNORED).all())
    assert np.isclose(float((labels != IGNORED).sum() / 30), 20, rtol=0.5)


def test_a_crop_is_filled_with_ignored_only_where_annotation_is_sparse() -> None:
    augment = AugmentConfig(p_rotate=0, p_scale=0, mirror="")
    sparse = sparse_case((4, 30), 1)
    dense = TrainingCase("d", torch.ones(1, 4, 30), torch.zeros(4, 30, dtype=torch.uint8), [])
    for case, filled in ((sparse, IGNORED), (dense, 0)):
        images, labels = PatchSampler([case], (8, 8), (1.0, 1.0), 0.0, augment).draw(8, torch.Generator())
        assert set(labels[images == 0].tolist()) == {filled}
