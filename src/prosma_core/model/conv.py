"""Convolutions as PyTorch's, but that a CPU always computes small ones by oneDNN."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor, nn

SMALL = 20480
"""Values along the first four axes up to which PyTorch computes one image by a kernel of its own, which is slower."""


class Conv2d(nn.Conv2d):
    """`nn.Conv2d` with zeros beyond the edge."""

    def forward(self, x: Tensor) -> Tensor:
        """Features of shape (B, outputs, y, x) from (B, inputs, y, x)."""
        return _onednn(self, x) if _small(self, x) else super().forward(x)


class Conv3d(nn.Conv3d):
    """`nn.Conv3d` with zeros beyond the edge."""

    def forward(self, x: Tensor) -> Tensor:
        """Features of shape (B, outputs, z, y, x) from (B, inputs, z, y, x)."""
        return _onednn(self, x) if _small(self, x) else super().forward(x)


CONV: dict[int, Any] = {2: Conv2d, 3: Conv3d}
"""By the number of spatial axes."""


def _small(conv: nn.Conv2d | nn.Conv3d, x: Tensor) -> bool:
    """Whether PyTorch would not take oneDNN although it could."""
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
