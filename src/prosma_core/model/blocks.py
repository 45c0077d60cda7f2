"""Building blocks of the U-Net: convolutions, residual blocks, upsampling, channel gate."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ChannelGate(nn.Module):
    """Weight c in (0, 1) of each channel from the decoder's global context: sigmoid(MLP(GAP(g)))."""

    def __init__(self, decoder_channels: int, channels: int, reduction: int) -> None:
        super().__init__()
        hidden = max(4, channels // reduction)
        self.squeeze = nn.Linear(decoder_channels, hidden)
        self.excite = nn.Linear(hidden, channels)
        nn.init.constant_(self.excite.bias, 2.0)  # sigmoid(2) = 0.88: open at first

    def forward(self, context: Tensor) -> Tensor:
        """Channel weights, shape (B, C), from the mean of the decoder features, shape (B, decoder_channels)."""
        c: Tensor = torch.sigmoid(self.excite(F.leaky_relu(self.squeeze(context), 0.01)))
        return c


SMALL = 20480
"""Values along the first four axes up to which PyTorch computes one image by its own, slower kernel."""


class Conv2d(nn.Conv2d):
    """`nn.Conv2d` with zero padding."""

    def forward(self, x: Tensor) -> Tensor:
        """Features of shape (B, outputs, y, x) from (B, inputs, y, x)."""
        return _onednn(self, x) if _small(self, x) else super().forward(x)


class Conv3d(nn.Conv3d):
    """`nn.Conv3d` with zero padding."""

    def forward(self, x: Tensor) -> Tensor:
        """Features of shape (B, outputs, z, y, x) from (B, inputs, z, y, x)."""
        return _onednn(self, x) if _small(self, x) else super().forward(x)


CONV: dict[int, Any] = {2: Conv2d, 3: Conv3d}
"""By the number of spatial axes."""


def _small(conv: nn.Conv2d | nn.Conv3d, x: Tensor) -> bool:
    """Whether PyTorch would not use oneDNN although it could."""
    return (
        not torch.compiler.is_compiling()
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.shape[0] == 1
        and prod(x.shape[:4]) <= SMALL
        and conv.groups == 1
        and max(conv.kernel_size) > 1
        and not torch.is_autocast_enabled("cpu")
        and torch._C._get_mkldnn_enabled()
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    )


def _onednn(conv: nn.Conv2d | nn.Conv3d, x: Tensor) -> Tensor:
    assert not isinstance(conv.padding, str)
    return torch.mkldnn_convolution(
        x.contiguous(), conv.weight, conv.bias, conv.padding, conv.stride, conv.dilation, conv.groups
    )


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
