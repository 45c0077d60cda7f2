"""A first answer in seconds: a linear classifier of frozen features of a pretrained encoder, pixel by pixel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prosma_core.config.model import ModelConfig
from prosma_core.model.encoders import LITE0_SKIPS, LITE0_STEM, EfficientNetLite0
from prosma_core.model.gate import SkipGate

SIGMAS = (1.0, 2.0, 4.0)
"""Of the Gaussians, in pixels, whose values are features beside those of the encoder."""
MOST_SLICES = 24
"""Annotated slices that are learned from."""
MOST_PIXELS = 1500
"""Pixels of each class that are learned from, and twice as many of the background."""
PENALTY = 1e-3
"""Of the squared weights."""
SMALL = 128
"""Pictures are enlarged twice for the encoder where tiles are smaller than this."""


class LightHead(nn.Module):
    """Linear classifier of each pixel: of an encoder's features at all levels, and of intensities at some scales.

    Volumes are taken slice by slice, along their first axis.

    Parameters
    ----------
    published : mapping of str to Tensor
        Weights of the encoder, as of `EfficientNetLite0.load_pretrained`.
    channels : int
        Of the images: 1 or 3.
    classes : int
        Background included.
    side : int
        Longest side of the tiles that it is asked for; where these are small, all pictures are enlarged for the
        encoder, so that it is asked at the scale that it was fitted at.
    """

    skip_gates: Sequence[SkipGate] = ()
    """None."""

    def __init__(self, published: Mapping[str, Tensor], channels: int, classes: int, side: int) -> None:
        super().__init__()
        self._larger = 2 if side < SMALL else 1
        config = ModelConfig.parse(
            {
                "dims": 2,
                "in_channels": channels,
                "num_classes": classes,
                "encoder": "efficientnet-lite0",
                "widths": LITE0_SKIPS,
                "strides": [[2, 2]] * len(LITE0_SKIPS),
                "kernels": [[3, 3]] * len(LITE0_SKIPS),
            },
            "The light model",
        )
        with torch.random.fork_rng(devices=[]):  # the training draws the same numbers with it as without
            self.encoder = EfficientNetLite0(config)
        self.encoder.load_pretrained(published)
        sizes = (channels * (1 + len(SIGMAS)), LITE0_STEM, *LITE0_SKIPS)
        self.weights = nn.ParameterList(torch.zeros(classes, size) for size in sizes)
        self.bias = nn.Parameter(torch.zeros(classes))
        self.requires_grad_(False)

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """As of a module; the layouts of volumes, which its kernels of slices cannot have, are passed over."""
        kwargs.pop("memory_format", None)
        return super().to(*args, **kwargs) if args or kwargs else self

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Logits, shape (B, K, *grid), of images of shape (B, C, *grid)."""
        if images.ndim == 5:
            b, c, d, h, w = images.shape
            flat: Tensor = self(images.movedim(2, 1).reshape(b * d, c, h, w))
            return flat.view(b, d, -1, h, w).movedim(1, 2)
        grid, found = images.shape[2:], []
        for features, weight in zip(self._features(images), self.weights, strict=True):
            found.append(self._on_grid(F.conv2d(features, weight[..., None, None]), grid))
        return sum(found, self.bias[:, None, None].expand(len(images), -1, *grid))

    def fit(self, slices: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Learn annotated slices.

        Parameters
        ----------
        slices : sequence of (Tensor, Tensor)
            Image, shape (C, H, W), and class indices, shape (H, W), negative where nothing is known.
        """
        chosen = [slices[i * len(slices) // MOST_SLICES] for i in range(MOST_SLICES)]
        chosen = chosen if len(slices) > MOST_SLICES else list(slices)
        rng = torch.Generator().manual_seed(0)
        parts, targets = [], []
        for image, labels in chosen:
            points, values = _points(labels.long(), len(self.bias), len(chosen), rng)
            features = self._features(image[None])
            parts.append(torch.cat([self._at(f, points, image.shape[1:]) for f in features], 1))
            targets.append(values)
        known, target = torch.cat(parts), torch.cat(targets)
        mean, deviation = known.mean(0), known.std(0, correction=min(1, len(known) - 1)) + 1e-5
        known = (known - mean) / deviation
        weight = torch.zeros(len(self.bias), known.shape[1], requires_grad=True)
        bias = torch.zeros(len(self.bias), requires_grad=True)
        search = torch.optim.LBFGS([weight, bias], max_iter=40, line_search_fn="strong_wolfe")

        def objective() -> Tensor:
            search.zero_grad()
            loss = F.cross_entropy(known @ weight.T + bias, target) + PENALTY * weight.square().sum()
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        with torch.enable_grad():
            search.step(objective)  # type: ignore[no-untyped-call]
        learned = weight.detach() / deviation
        self.bias.copy_(bias.detach() - learned @ mean)
        for own, part in zip(self.weights, torch.split(learned, [len(w[0]) for w in self.weights], 1), strict=True):
            own.copy_(part)

    @torch.no_grad()
    def _features(self, images: Tensor) -> list[Tensor]:
        """Intensities at some scales, then the encoder's features, the finest first; padded to whole strides."""
        padded = self._padded(images)
        x = F.relu6(self.encoder.stem(padded.expand(-1, 3, -1, -1)))
        found = [torch.cat([images, *(_blurred(images, sigma) for sigma in SIGMAS)], 1), x]
        for i, block in enumerate(self.encoder.blocks):
            x = block(x)
            if i in self.encoder.levels:
                found.append(x)
        return found

    def _padded(self, images: Tensor) -> Tensor:
        if self._larger > 1:
            images = F.interpolate(images, scale_factor=2, mode="bilinear", align_corners=False)
        h, w = images.shape[2:]
        return F.pad(images, (0, -w % 32, 0, -h % 32), mode="replicate")

    def _on_grid(self, values: Tensor, grid: Sequence[int]) -> Tensor:
        """Values of a level, at each pixel of the images."""
        if values.shape[2:] == tuple(grid):
            return values
        sizes = [n * self._larger for n in grid]
        padded = [n + -n % 32 for n in sizes]
        full = F.interpolate(values, padded, mode="bilinear", align_corners=False)[..., : sizes[0], : sizes[1]]
        return F.avg_pool2d(full, 2) if self._larger == 2 else full

    def _at(self, values: Tensor, points: Tensor, grid: Sequence[int]) -> Tensor:
        """Values of a level at some pixels, shape (n, channels)."""
        larger = self._larger
        own = values.shape[2:] == tuple(grid)
        sizes = [n if own else n * larger + -(n * larger) % 32 for n in grid]
        scale = torch.tensor([(1 if own else larger) * 2 / n for n in sizes])
        where = ((points + 0.5) * scale - 1).flip(-1)[None, None]
        found = F.grid_sample(values, where, mode="bilinear", padding_mode="border", align_corners=False)
        return found[0, :, 0].T


def _points(labels: Tensor, classes: int, slices: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Some annotated pixels of a slice, shape (n, 2), and their classes."""
    points, values = [], []
    for k in range(classes):
        there = torch.argwhere(labels == k)
        most = max(1, (2 if k == 0 else 1) * MOST_PIXELS // slices)
        there = there[torch.randperm(len(there), generator=rng)[:most]]
        points.append(there)
        values.append(torch.full((len(there),), k))
    return torch.cat(points), torch.cat(values)


def _blurred(images: Tensor, sigma: float) -> Tensor:
    """Images under a Gaussian."""
    reach = int(3 * sigma)
    line = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=images.device) / sigma) ** 2)
    line = (line / line.sum()).expand(images.shape[1], 1, 1, -1)
    for turned, pad in ((line, (reach, reach, 0, 0)), (line.mT, (0, 0, reach, reach))):
        images = F.conv2d(F.pad(images, pad, mode="replicate"), turned, groups=images.shape[1])
    return images
