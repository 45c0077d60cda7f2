"""The light model learns a few annotated slices in a moment, and gives logits as a network does."""

from __future__ import annotations

import pytest
import torch

from prosma_core.model.light_head import LightHead
from prosma_core.model.pretrained import imagenet_weights


@pytest.mark.parametrize(("size", "side"), [(60, 60), (140, 140), (140, 48)])
def test_discs_and_rings_are_told_from_one_slice(size: int, side: int) -> None:
    grid = torch.stack(torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")).float()
    noise = torch.Generator().manual_seed(0)

    def picture(y: float, x: float) -> tuple[torch.Tensor, torch.Tensor]:
        away = ((grid - torch.tensor([y, x])[:, None, None]) ** 2).sum(0).sqrt()
        labels = (away < 20).int() + (away < 10).int()
        image = torch.tensor([0.0, 2.0, 1.0])[labels.long()] + 0.2 * torch.randn(size, size, generator=noise)
        return image[None], labels

    before = torch.get_rng_state()
    model = LightHead(imagenet_weights(), 1, 3, side)
    image, labels = picture(25, 28)
    labels[:5] = -1
    model.fit([(image, labels)])
    assert torch.equal(torch.get_rng_state(), before)  # a training draws the same numbers as without
    other, expected = picture(32, 26)
    found = model(other[None]).argmax(1)[0]
    for k in (1, 2):
        both = ((found == k) & (expected == k)).sum()
        assert 2 * both / ((found == k).sum() + (expected == k).sum()) > 0.85
    tile = model(other[None, :, :side, :side]).argmax(1)[0]  # of a scan that is larger than a tile
    inner = slice(8, side - 8)
    assert (tile[inner, inner] == found[inner, inner]).float().mean() > 0.95
    volume = torch.stack([image, other], 1)[None]  # (B, C, D, H, W)
    flat = torch.stack([model(image[None])[0], model(other[None])[0]], 1)
    torch.testing.assert_close(model.to(memory_format=torch.channels_last_3d)(volume)[0], flat, rtol=1e-3, atol=1e-3)


def test_a_single_annotated_pixel_is_learned() -> None:
    image, labels = torch.randn(1, 48, 48, generator=torch.Generator().manual_seed(0)), torch.full((48, 48), -1)
    labels[3, 4] = 1
    model = LightHead(imagenet_weights(), 1, 2, 48)
    model.fit([(image, labels)])
    assert (model(image[None]).argmax(1) == 1).all()
