"""The network's training forward, compiled."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from prosma_core.errors import TrainingError
from prosma_core.model.unet import UNet


def compiled(model: UNet) -> Callable[[Tensor], list[Tensor]]:
    """`UNet.forward_deep` of a model, compiled at its first call, which takes a minute or more.

    The call raises `TrainingError` where torch cannot compile, such as on a GPU without Triton.
    """
    from torch._dynamo.exc import TorchDynamoException  # slow to import

    fast = torch.compile(model.forward_deep, dynamic=False)

    def forward(images: Tensor) -> list[Tensor]:
        try:
            return fast(images)
        except TorchDynamoException as error:
            why = " ".join(str(error).split("\n")[:2])
            msg = f"The network cannot be compiled here ({why}). Train with training.compile set to false."
            raise TrainingError(msg) from error

    return forward
