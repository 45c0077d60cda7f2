"""EfficientNet-lite0 as the encoder of a gated U-Net, for the experiments on training with few images.

Blocks, widths and padding are those of the published weights (see `pretrained_encoder.py`): their tensors, up to the
classifier, fit one to one, in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from prosma_core.config.model import GateConfig
from prosma_core.model.blocks import TRANSPOSED, ResidualBlock
from prosma_core.model.gate import SkipGate, build_gate

Norm = Literal["frozen", "affine", "trained", "folded"]
"""Batch norms of the encoder: frozen; with frozen statistics, but scale and offset trained; trained with batch
statistics; or folded into the convolutions, whose weights and biases are trained."""

STAGES = ((1, 3, 1, 1, 16), (6, 3, 2, 2, 24), (6, 5, 2, 2, 40), (6, 3, 3, 2, 80), (6, 5, 3, 1, 112), (6, 5, 4, 2, 192))
LAST = (6, 3, 1, 1, 320)
"""Expansion, kernel, blocks, stride and channels of each stage."""
SKIPS = (16, 24, 40, 112, 320)
"""Channels of what the decoder takes, at 1/2, 1/4, 1/8, 1/16 and 1/32 of the resolution."""


class Convolution(nn.Module):
    """Convolution, batch norm and, unless `linear`, ReLU6; padded as TensorFlow pads an even number of pixels."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, groups: int, *, linear: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, groups=groups, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.1)
        before = (kernel - stride) // 2 if stride > 1 else kernel // 2
        after = kernel - stride - before if stride > 1 else kernel // 2
        self.uneven = (before, after, before, after) if before != after else None
        if self.uneven is None:
            self.conv.padding = (before, before)
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        """Features of shape (B, outputs, y / stride, x / stride)."""
        x = self.norm(self.conv(x if self.uneven is None else F.pad(x, self.uneven)))
        return x if self.linear else F.relu6(x)

    def fold(self) -> None:
        """Write the batch norm into the convolution."""
        norm = self.norm
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = (norm.weight / (norm.running_var + norm.eps).sqrt()).detach()
        self.conv.weight = nn.Parameter(self.conv.weight.detach() * scale[:, None, None, None])
        self.conv.bias = nn.Parameter(norm.bias.detach() - norm.running_mean * scale)
        self.norm = nn.Identity()


class Block(nn.Sequential):
    """Widen, filter each channel, narrow; added to what came in where the shape stays."""

    def __init__(self, inputs: int, outputs: int, expansion: int, kernel: int, stride: int) -> None:
        wide = inputs * expansion
        widen = [Convolution(inputs, wide, 1, 1, 1, linear=False)] if expansion > 1 else []
        super().__init__(
            *widen,
            Convolution(wide, wide, kernel, stride, wide, linear=False),
            Convolution(wide, outputs, 1, 1, 1, linear=True),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Features of shape (B, outputs, y / stride, x / stride)."""
        y: Tensor = super().forward(x)
        return x + y if self.residual else y


class Lite0(nn.Module):
    """Features of an RGB image, normalized by (x - 127) / 128, at five resolutions; sides are multiples of 32.

    Parameters
    ----------
    weights : Path or None
        Safetensors with the published tensors in their order (see `pretrained_encoder.py`); None initializes at random.
    norm : Norm
    still : int
        Number of frozen blocks, counted from the image, the stem included.
    """

    def __init__(self, weights: Path | None, norm: Norm, still: int = 0) -> None:
        super().__init__()
        blocks: list[nn.Module] = [Convolution(3, 32, 3, 2, 1, linear=False)]
        self.taken = []
        inputs = 32
        for expansion, kernel, count, stride, outputs in (*STAGES, LAST):
            for i in range(count):
                if i == 0 and stride == 2:
                    self.taken.append(len(blocks) - 1)
                blocks.append(Block(inputs, outputs, expansion, kernel, stride if i == 0 else 1))
                inputs = outputs
        self.taken.append(len(blocks) - 1)
        self.blocks = nn.ModuleList(blocks)
        if weights is not None:
            fill(self, weights)
        else:
            for module in self.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, mode="fan_out")
        self.norm, self.still = norm, still
        if norm == "folded":
            for module in self.modules():
                if isinstance(module, Convolution):
                    module.fold()
        for name, parameter in self.named_parameters():
            still_norm = norm == "frozen" and ".norm." in name
            parameter.requires_grad_(not still_norm and int(name.split(".")[1]) >= still)

    def train(self, mode: bool = True) -> Lite0:
        """As `nn.Module.train`; batch norms that are not trained keep their statistics."""
        super().train(mode)
        if self.norm != "trained":
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def forward(self, x: Tensor) -> list[Tensor]:
        """Features at 1/2, 1/4, 1/8, 1/16 and 1/32, finest first, from an image of shape (B, 3, y, x)."""
        found = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in self.taken:
                found.append(x)
        return found


def fill(encoder: nn.Module, weights: Path) -> None:
    """Copy tensors from a file in their published order; the classifier at its end is not needed.

    Raises
    ------
    ValueError
        A tensor has another shape.
    """
    given = load_file(weights)
    order = sorted(given, key=_place)
    with torch.no_grad():
        for (name, value), source in zip(encoder.state_dict().items(), order, strict=False):
            if value.shape != given[source].shape:
                msg = f"{weights}: {source} has shape {tuple(given[source].shape)}, {name} needs {tuple(value.shape)}."
                raise ValueError(msg)
            value.copy_(given[source])


def _place(name: str) -> tuple[int, int, int]:
    """Where a published tensor stands: safetensors files are sorted by name."""
    parts = name.split(".")
    block = int(parts[1]) if parts[0] == "_blocks" else (-1 if parts[0] in ("_conv_stem", "_bn0") else 99)
    layers = ("_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2")
    outer = ("_conv_stem", "_bn0", "_conv_head", "_bn1", "_fc")
    layer = layers.index(parts[2]) if block in range(99) else outer.index(parts[0])
    return block, layer, ("weight", "bias", "running_mean", "running_var", "num_batches_tracked").index(parts[-1])


class PretrainedUNet(nn.Module):
    """A light decoder over the gated skips of `Lite0`, with a head at every level.

    Parameters
    ----------
    encoder : Lite0
    channels, classes : int
        Of the image: 1 (shown three times) or 3; background included.
    widths : sequence of int
        Of the decoder at 1/2, 1/4, 1/8, 1/16 and 1/32; with one more in front, it has a level at full resolution, whose
        skip is a convolution of the image.
    gate : GateConfig
    """

    def __init__(self, encoder: Lite0, channels: int, classes: int, widths: Sequence[int], gate: GateConfig) -> None:
        super().__init__()
        self.encoder, self.channels = encoder, channels
        self.full = nn.Conv2d(3, widths[0], 3, padding=1) if len(widths) == 6 else None
        deep = widths[1:] if self.full is not None else widths
        self.reduce = nn.ModuleList(nn.Conv2d(c, w, 1) for c, w in zip(SKIPS, deep, strict=True))
        levels = range(len(widths) - 1)
        self.upsample = nn.ModuleList(TRANSPOSED[2](widths[i + 1], widths[i], 2, 2) for i in levels)
        self.gates = nn.ModuleList(build_gate(widths[i], (3, 3), gate) for i in levels)
        self.decoder = nn.ModuleList(ResidualBlock(2, 2 * widths[i], widths[i], (3, 3), (1, 1)) for i in levels)
        self.heads = nn.ModuleList(nn.Conv2d(widths[i], classes, 1) for i in levels)

    def forward_deep(self, x: Tensor) -> list[Tensor]:
        """Logits of every level, finest first, from a normalized image of shape (B, channels, y, x)."""
        x = x if x.shape[1] == 3 else x.expand(-1, 3, -1, -1)
        skips = [reduce(f) for reduce, f in zip(self.reduce, self.encoder(x), strict=True)]
        if self.full is not None:
            skips.insert(0, self.full(x))
        y, logits = skips[-1], list[Tensor]()
        for i in reversed(range(len(self.decoder))):
            g = self.upsample[i](y)
            y = self.decoder[i](torch.cat([self.gates[i](skips[i], g), g], dim=1))
            logits.insert(0, self.heads[i](y))
        return logits

    def forward(self, x: Tensor) -> Tensor:
        """Logits of shape (B, classes, y, x), from a normalized image of shape (B, channels, y, x)."""
        logits = self.forward_deep(x)[0]
        return logits if self.full is not None else F.interpolate(logits, x.shape[2:], mode="bilinear")

    @property
    def skip_gates(self) -> list[SkipGate]:
        """Gate of each level, finest first."""
        return [gate for gate in self.gates if isinstance(gate, SkipGate)]
