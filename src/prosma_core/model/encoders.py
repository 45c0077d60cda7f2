"""Encoders of the U-Net: residual stages, or EfficientNet-lite0 with ImageNet weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prosma_core.config.model import ModelConfig
from prosma_core.model.blocks import ResidualBlock

LITE0_STAGES = (
    (1, 3, 1, 1, 16),
    (6, 3, 2, 2, 24),
    (6, 5, 2, 2, 40),
    (6, 3, 3, 2, 80),
    (6, 5, 3, 1, 112),
    (6, 5, 4, 2, 192),
    (6, 3, 1, 1, 320),
)
"""Expansion, kernel, blocks, stride and channels of each stage of EfficientNet-lite0 (Tan and Le, arXiv 1905.11946;
"lite": no squeeze-and-excitation, ReLU6)."""
LITE0_STEM = 32
LITE0_SKIPS = (16, 24, 40, 112, 320)
"""Channels of its features at 1/2, 1/4, 1/8, 1/16 and 1/32 of the resolution."""
BATCH_NORM_EPS = 1e-3
"""Of the published weights."""


def build_encoder(config: ModelConfig) -> nn.Module:
    """Encoder of a network: from a batch of shape (B, in_channels, *grid) to a list of features, finest first.

    Those of level i have shape (B, widths[i], *grid / strides[0] / … / strides[i]).
    """
    if config.encoder == "efficientnet-lite0":
        return EfficientNetLite0(config)
    dims, inputs = config.dims, (config.in_channels, *config.widths[:-1])
    return Stages(
        nn.Sequential(
            ResidualBlock(dims, before, width, kernel, stride),
            *(ResidualBlock(dims, width, width, kernel, (1,) * dims) for _ in range(config.blocks - 1)),
        )
        for before, width, kernel, stride in zip(inputs, config.widths, config.kernels, config.strides, strict=True)
    )


class Stages(nn.ModuleList):
    """Stages one after the other."""

    def forward(self, x: Tensor) -> list[Tensor]:
        """Features of every stage, finest first."""
        skips = []
        for stage in self:
            x = stage(x)
            skips.append(x)
        return skips


class EfficientNetLite0(nn.Module):
    """EfficientNet-lite0 without its classifier; each level's features are brought to the decoder's width.

    Batch norms are folded into the convolutions, whose weights and biases are learned: what a patch gives does not
    depend on the others of its batch, and a step on a CPU is quicker by about a tenth. One channel is shown to the
    three of the stem.

    Parameters
    ----------
    config : ModelConfig
        With ``encoder="efficientnet-lite0"``: 2D, 1 or 3 channels, five levels.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.stem = _Convolution(3, LITE0_STEM, 3, 2)
        self.blocks = nn.ModuleList()
        self.levels: list[int] = []  # index of the last block of each level
        inputs, first = LITE0_STEM, True
        for expansion, kernel, count, stride, outputs in LITE0_STAGES:
            if stride == 2 and not first:
                self.levels.append(len(self.blocks) - 1)
            first = False
            for i in range(count):
                self.blocks.append(_InvertedResidual(inputs, outputs, expansion, kernel, stride if i == 0 else 1))
                inputs = outputs
        self.levels.append(len(self.blocks) - 1)
        self.reduce = nn.ModuleList(nn.Conv2d(c, w, 1) for c, w in zip(LITE0_SKIPS, config.widths, strict=True))
        for module in self.modules():
            if isinstance(module, _Convolution):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]  # always there

    def forward(self, x: Tensor) -> list[Tensor]:
        """Features at 1/2, 1/4, 1/8, 1/16 and 1/32 of the resolution, finest first."""
        x = F.relu6(self.stem(x.expand(-1, 3, -1, -1)))
        skips: list[Tensor] = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in self.levels:
                skips.append(self.reduce[len(skips)](x))
        return skips

    def pretrained_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters that `load_pretrained` fills: all but those of `reduce`."""
        yield from self.stem.parameters()
        yield from self.blocks.parameters()

    def load_pretrained(self, published: Mapping[str, Tensor]) -> None:
        """Fill with published weights, by their names; batch norms are folded in.

        Parameters
        ----------
        published : mapping of str to Tensor, float32
            See `prosma_core.model.pretrained.imagenet_weights`.
        """
        self.stem.fold(published, "_conv_stem", "_bn0")
        for i, block in enumerate(self.blocks):
            assert isinstance(block, _InvertedResidual)
            for convolution, conv, norm in block.published():
                convolution.fold(published, f"_blocks.{i}.{conv}", f"_blocks.{i}.{norm}")


class _Convolution(nn.Conv2d):
    """Convolution padded as TensorFlow pads an even number of pixels: with stride 2, one more behind than before."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        before = (kernel - stride) // 2 if stride > 1 else kernel // 2
        after = kernel - stride - before if stride > 1 else kernel // 2
        even = before == after
        super().__init__(inputs, outputs, kernel, stride, before if even else 0, groups=groups)
        self.uneven = None if even else (before, after, before, after)

    def forward(self, x: Tensor) -> Tensor:
        """Features of shape (B, outputs, y / stride, x / stride)."""
        return super().forward(x if self.uneven is None else F.pad(x, self.uneven))

    def fold(self, published: Mapping[str, Tensor], conv: str, norm: str) -> None:
        """Take a published convolution and its batch norm, as one."""
        mean, variance = published[f"{norm}.running_mean"], published[f"{norm}.running_var"]
        scale = published[f"{norm}.weight"] / (variance + BATCH_NORM_EPS).sqrt()
        assert self.bias is not None
        with torch.no_grad():
            self.weight.copy_(published[f"{conv}.weight"] * scale[:, None, None, None])
            self.bias.copy_(published[f"{norm}.bias"] - mean * scale)


class _InvertedResidual(nn.Module):
    """Widen, filter each channel, narrow; added to what came in where the shape stays."""

    def __init__(self, inputs: int, outputs: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.expand = _Convolution(inputs, wide, 1) if expansion > 1 else None
        self.depthwise = _Convolution(wide, wide, kernel, stride, groups=wide)
        self.project = _Convolution(wide, outputs, 1)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Features of shape (B, outputs, y / stride, x / stride)."""
        wide = x if self.expand is None else F.relu6(self.expand(x))
        y: Tensor = self.project(F.relu6(self.depthwise(wide)))
        return x + y if self.residual else y

    def published(self) -> Iterator[tuple[_Convolution, str, str]]:
        """Convolutions with the published names of theirs and of their batch norms."""
        if self.expand is not None:
            yield self.expand, "_expand_conv", "_bn0"
        yield self.depthwise, "_depthwise_conv", "_bn1"
        yield self.project, "_project_conv", "_bn2"
