"""What training minimises."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from prosma_core.config.training import TrainingConfig
from prosma_core.model.gate import SkipGate


def segmentation_loss(config: TrainingConfig) -> Callable[[Sequence[Tensor], Tensor], Tensor]:
    """Dice + cross-entropy over all levels (MONAI), weights 1, 1/2, 1/4, … with deep supervision.

    Returns
    -------
    callable
        Of logits per level, finest first, each of shape (B, K, *grid of the level), and labels, int64, shape
        (B, 1, *grid); gives a scalar.
    """
    from monai.losses import DeepSupervisionLoss, DiceCELoss

    one = DiceCELoss(
        include_background=False,
        to_onehot_y=True,
        softmax=True,
        batch=config.batch_dice,
        lambda_dice=config.dice_weight,
        lambda_ce=config.ce_weight,
    )
    deep = DeepSupervisionLoss(one, weight_mode="exp")

    def loss(logits: Sequence[Tensor], labels: Tensor) -> Tensor:
        levels = [level.float() for level in logits]
        value: Tensor = deep(levels, labels.float()) if config.deep_supervision else one(levels[0], labels)
        return value

    return loss


def sparsity_loss(gates: Sequence[SkipGate], target: float) -> Tensor | None:
    """Mean squared distance of each gate's removed fraction, in its last forward, to the target; None without gates."""
    fractions = [gate.estimate for gate in gates if gate.estimate is not None]
    if not fractions:
        return None
    return (torch.stack(fractions) - target).square().mean()
