"""Networks that are not ours, through our training; and what a network costs."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from evidence.variants import vary
from prosma_core.config.model import ModelConfig
from prosma_core.model.gate_hooks import estimate_removed
from prosma_core.model.unet import UNet, count_parameters
from prosma_core.training.optimization import MovingAverage, build_optimizer
from prosma_core.training.trainer import Trainer

BLOCKS = (1, 3, 4, 6, 6, 6, 6, 6)
"""Residual blocks of each stage, as in nnU-Net's ResEnc presets."""
WIDTHS = {2: 512, 3: 320}
"""Most channels by number of spatial axes, likewise; the finest stage has 32."""


class ResidualEncoder(nn.Module):
    """nnU-Net's ResidualEncoderUNet with the strides and kernels that were planned for ours, and the same methods."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        try:
            from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet
        except ImportError as error:
            sys.exit(
                f"The row residual-encoder needs dynamic-network-architectures ({error}). Install it "
                "(pip install --no-deps dynamic-network-architectures), or name other rows with --only."
            )
        stages, three = len(config.widths), config.dims == 3
        widest = min(WIDTHS[config.dims], 16 * config.widths[0])
        self.skip_gates: list[Any] = []
        self.net = ResidualEncoderUNet(
            config.in_channels,
            stages,
            [min(widest, config.widths[0] * 2**i) for i in range(stages)],
            nn.Conv3d if three else nn.Conv2d,
            [list(kernel) for kernel in config.kernels],
            [list(stride) for stride in config.strides],
            BLOCKS[:stages],
            config.num_classes,
            1,
            conv_bias=True,
            norm_op=nn.InstanceNorm3d if three else nn.InstanceNorm2d,
            norm_op_kwargs={"eps": 1e-5, "affine": True},
            nonlin=nn.LeakyReLU,
            nonlin_kwargs={"inplace": True},
            deep_supervision=True,
        )

    def forward_deep(self, x: Tensor) -> list[Tensor]:
        """Logits of every level, finest first."""
        logits: list[Tensor] = self.net(x)
        return logits

    def forward(self, x: Tensor) -> Tensor:
        """Logits at full resolution."""
        return self.forward_deep(x)[0]


def build(config: ModelConfig, network: str, seed: int = 0, variant: str | None = None) -> nn.Module:
    """Network of a row with fresh weights, the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if network != "own":
            return ResidualEncoder(config)
        model = UNet(config)
        if variant is not None:
            vary(model, config, variant)
        return model


def replace_network(trainer: Trainer, network: str, variant: str | None = None) -> None:
    """Let a `Trainer` train another network, in everything else as it would its own."""
    if network == "own" and variant is None:
        return
    config, device = trainer.setup.header.model, trainer.device
    model: Any = build(config, network, trainer.config.seed, variant).to(device)
    trainer.model, trainer.forward = model, model.forward_deep
    trainer.average = MovingAverage(model, trainer.config.ema_decay)
    evaluated: Any = build(config, network, variant=variant).to(device)
    trainer.evaluated = evaluated
    trainer.optimizer = build_optimizer(model, trainer.config)
    if trainer.config.removed_target is not None:
        estimate_removed(model.skip_gates)


def cost(config: ModelConfig, network: str, tile: tuple[int, ...], variant: str | None = None) -> Mapping[str, int]:
    """Learned values of a network, and floating point operations of one tile through it.

    Counted on tensors without values: every operation is there, and none is done.
    """
    with torch.device("meta"):
        model = build(config, network, variant=variant).eval()
        image = torch.empty(1, config.in_channels, *tile)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(image)
    return {"parameters": count_parameters(model), "flops": counter.get_total_flops()}
