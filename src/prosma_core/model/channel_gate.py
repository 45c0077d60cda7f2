"""Whole channels of a skip weighed by the decoder's global context."""

from __future__ import annotations

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
        nn.init.constant_(self.excite.bias, 2.0)  # sigmoid(2) = 0.88: open to begin with

    def forward(self, g: Tensor) -> Tensor:
        """Channel weights, shape (B, C, 1, ...), from decoder features g of shape (B, decoder_channels, *grid)."""
        c = self.weights(g.mean(dim=tuple(range(2, g.ndim))))  # (B, C)
        return c.view(*c.shape, *(1,) * (g.ndim - 2))

    def weights(self, context: Tensor) -> Tensor:
        """Channel weights, shape (B, C), from the mean of the decoder's features, shape (B, decoder_channels)."""
        c: Tensor = torch.sigmoid(self.excite(F.leaky_relu(self.squeeze(context), 0.01)))
        return c
