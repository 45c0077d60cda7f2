"""Building blocks of the U-Net: residual convolutions and upsampling."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from prosma_core.model.conv import CONV

NORM: dict[int, Any] = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
TRANSPOSED: dict[int, Any] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
SLOPE = 0.01


class ResidualBlock(nn.Module):
    """Two convolutions with instance norm and leaky ReLU around a shortcut; the first may stride.

    Every convolution keeps its bias: some backends are far slower without one.
    """

    def __init__(self, dims: int, inputs: int, outputs: int, kernel: tuple[int, ...], stride: tuple[int, ...]) -> None:
        super().__init__()
        conv, norm = CONV[dims], NORM[dims]
        padding = tuple(k // 2 for k in kernel)
        self.conv1 = conv(inputs, outputs, kernel, stride, padding)
        self.norm1 = norm(outputs, affine=True)
        self.conv2 = conv(outputs, outputs, kernel, 1, padding)
        self.norm2 = norm(outputs, affine=True)
        self.pool = {2: F.avg_pool2d, 3: F.avg_pool3d}[dims] if max(stride) > 1 else None
        self.stride = stride
        self.project = conv(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        """Features of shape (B, outputs, *grid / stride) from (B, inputs, *grid)."""
        shortcut = x if self.pool is None else self.pool(x, self.stride)  # (B, inputs, *grid / stride)
        if self.project is not None:
            shortcut = self.project(shortcut)  # (B, outputs, *grid / stride)
        x = F.leaky_relu(self.norm1(self.conv1(x)), SLOPE)  # (B, outputs, *grid / stride)
        return F.leaky_relu(self.norm2(self.conv2(x)) + shortcut, SLOPE)
