"""What training minimises."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prosma_core.config.training import TrainingConfig
from prosma_core.data.labels import IGNORED
from prosma_core.model.gate import SkipGate


class MaskedDiceCE(nn.Module):
    """Dice + cross-entropy of the voxels that are not ignored; 0 where all are."""

    def __init__(self, config: TrainingConfig) -> None:
        from monai.losses import DiceLoss

        super().__init__()
        self.weights = config.dice_weight, config.ce_weight
        self.dice = DiceLoss(include_background=False, batch=config.batch_dice)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Scalar of logits, shape (B, K, *grid), and labels with `IGNORED`, shape (B, 1, *grid)."""
        target = labels[:, 0].long()
        known = target != IGNORED
        wanted = F.one_hot(target.clamp_min(0), logits.shape[1]).movedim(-1, 1) * known[:, None]
        dice: Tensor = self.dice(logits.softmax(1) * known[:, None], wanted.to(logits.dtype))
        entropy = F.cross_entropy(logits, target, ignore_index=IGNORED, reduction="sum") / known.sum().clamp_min(1)
        return self.weights[0] * dice + self.weights[1] * entropy


def segmentation_loss(config: TrainingConfig, *, masked: bool = False) -> Callable[[Sequence[Tensor], Tensor], Tensor]:
    """Dice + cross-entropy over all levels (MONAI), weights 1, 1/2, 1/4, … with deep supervision.

    Parameters
    ----------
    config : TrainingConfig
    masked : bool
        Whether labels may hold `IGNORED`.

    Returns
    -------
    callable
        Of logits per level, finest first, each of shape (B, K, *grid of the level), and labels, int64, shape
        (B, 1, *grid); gives a scalar.
    """
    from monai.losses import DeepSupervisionLoss, DiceCELoss

    one: Any = MaskedDiceCE(config)
    if not masked:
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
        if not config.deep_supervision:
            value: Tensor = one(logits[0].float(), labels)
            return value
        weights, target = deep.get_weights(levels=len(logits)), labels.float()
        # Its own sum begins with a number on the CPU, which a CUDA graph cannot hold.
        each = [w * deep.get_loss(z.float(), target) for w, z in zip(weights, logits, strict=True)]
        return sum(each[1:], each[0])

    return loss


def sparsity_loss(gates: Sequence[SkipGate], target: float) -> Tensor | None:
    """Mean squared distance of each gate's removed fraction, in its last forward, to the target; None without gates."""
    fractions = [gate.estimate for gate in gates if gate.estimate is not None]
    if not fractions:
        return None
    return (torch.stack(fractions) - target).square().mean()
