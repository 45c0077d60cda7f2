"""Patches come from where they should, turned as they should be."""

from __future__ import annotations

import pytest
import torch

from prosma_core.config.training import AugmentConfig
from prosma_core.training.cases import PatchSampler, TrainingCase

STILL = AugmentConfig(p_rotate=0, p_scale=0, mirror="")


def coordinates_case(grid=(20, 24), labeled=None) -> TrainingCase:
    """Each voxel's value is its own position + 1 (channels = axes)."""
    axes = torch.meshgrid(*(torch.arange(1.0, n + 1) for n in grid), indexing="ij")
    labels = torch.zeros(grid, dtype=torch.uint8)
    points = []
    if labeled:
        labels[labeled] = 1
        points = [torch.tensor([labeled])]
    return TrainingCase("case", torch.stack(axes), labels, points)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_plain_patches_are_crops_of_the_scan() -> None:
    sampler = PatchSampler([coordinates_case()], (8, 8), (1.0, 1.0), 0.0, STILL)
    images, labels = sampler.draw(16, rng())
    assert images.shape == (16, 2, 8, 8)
    assert labels.shape == (16, 1, 8, 8)
    assert labels.dtype == torch.int64
    steps = images.diff(dim=2)[:, 0], images.diff(dim=3)[:, 1]
    assert all(bool((s == 1).all()) for s in steps)
    assert images.min() >= 1


def test_a_scan_smaller_than_the_patch_is_padded_with_zeros_and_kept_whole() -> None:
    sampler = PatchSampler([coordinates_case((5, 30))], (8, 8), (1.0, 1.0), 0.0, STILL)
    images, _ = sampler.draw(8, rng())
    assert bool(((images[:, 0] > 0).any(-1).sum(-1) == 5).all())


def test_foreground_patches_contain_the_foreground() -> None:
    case = coordinates_case((40, 40), labeled=(3, 36))
    sampler = PatchSampler([case], (8, 8), (1.0, 1.0), 1.0, AugmentConfig(mirror="yx", p_rotate=0, p_scale=0))
    _, labels = sampler.draw(32, rng())
    assert bool((labels.sum(dim=(1, 2, 3)) == 1).all())


def test_a_tiny_lesion_is_drawn_as_often_as_the_organ_around_it() -> None:
    """Of 4 voxels in 4,000: else a class so small is hardly ever seen."""
    case = coordinates_case((16, 250))
    case.labels[2:12, 5:200] = 1
    case.labels[3:5, 100:102] = 2
    points = [torch.nonzero(case.labels == value) for value in (1, 2)]
    sampler = PatchSampler(
        [TrainingCase("c", case.image, case.labels, points)], (8, 8), (1.0, 1.0), 0.5, AugmentConfig()
    )
    _, labels = sampler.draw(400, rng())
    share = (labels == 2).flatten(1).any(1).float().mean()
    assert 0.2 < float(share) < 0.35  # a quarter is centered on it, few others hold it by chance


def test_no_rotation_about_another_axis_than_the_thick_one() -> None:
    augment = AugmentConfig(p_rotate=1, p_scale=0, mirror="")
    middle = coordinates_case((12, 40, 40), labeled=(6, 20, 20))
    sampler = PatchSampler([middle], (4, 8, 8), (10.0, 1.0, 1.0), 1.0, augment)
    images, _ = sampler.draw(16, rng())
    slices = images[:, 0]
    torch.testing.assert_close(slices, slices.mean(dim=(2, 3), keepdim=True).expand_as(slices), rtol=0, atol=1e-3)


def test_image_and_labels_are_turned_alike() -> None:
    case = coordinates_case((30, 30))
    case.labels[10:20, 10:20] = 1
    image = case.labels[None].float() + 1
    sampler = PatchSampler(
        [TrainingCase("c", image, case.labels, [])], (24, 24), (1.0, 1.0), 0.0, AugmentConfig(p_rotate=1, p_scale=1)
    )
    images, labels = sampler.draw(16, rng())
    inside = images[:, :1] > 1.9
    assert bool((labels[inside] == 1).all())
    outside = (images[:, :1] < 1.1) & (images[:, :1] > 0)
    assert bool((labels[outside] == 0).all())


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.0, 1.0, 1.0)])
def test_rotations_keep_distances_in_space(spacing) -> None:
    augment = AugmentConfig(p_rotate=1, p_scale=0, mirror="")
    middle = coordinates_case((60, 60, 60), labeled=(30, 30, 30))
    sampler = PatchSampler([middle], (6, 6, 6), spacing, 1.0, augment)
    images, _ = sampler.draw(8, rng(3))
    step = images.diff(dim=-1)[..., 2, 2, 2] * torch.tensor(spacing)
    torch.testing.assert_close(step.norm(dim=1), torch.full((8,), spacing[-1]), rtol=1e-3, atol=1e-3)


def test_the_same_generator_gives_the_same_patches() -> None:
    cases = [coordinates_case(), coordinates_case((32, 32), labeled=(4, 4))]
    sampler = PatchSampler(cases, (8, 8), (1.0, 1.0), 0.5, AugmentConfig())
    a, b = sampler.draw(6, rng(7)), sampler.draw(6, rng(7))
    assert torch.equal(a[0], b[0])
    assert torch.equal(a[1], b[1])
    assert not torch.equal(a[0], sampler.draw(6, rng(8))[0])
