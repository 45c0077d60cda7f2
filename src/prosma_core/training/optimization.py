"""Loss, optimizer, learning-rate schedule, and the moving average of the weights."""

from __future__ import annotations

import math
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


def learning_rate(config: TrainingConfig, progress: float) -> float:
    """Learning rate at a share of the run, 0 to 1: linear warm-up, then cosine or polynomial down to 0."""
    progress = min(max(progress, 0.0), 1.0)
    if progress < config.warmup:
        return config.learning_rate * max(progress / config.warmup, 0.01)
    t = (progress - config.warmup) / (1 - config.warmup)
    shape = 0.5 * (1 + math.cos(math.pi * t)) if config.schedule == "cosine" else (1 - t) ** 0.9
    return config.learning_rate * shape


def build_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """AdamW or SGD; weight decay on kernels and matrices only."""
    decay = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": config.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.learning_rate, momentum=0.99, nesterov=True)
    fused = next(model.parameters()).device.type == "cuda"
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=fused)


class MovingAverage:
    """Exponential moving average of a network's weights; quick at first, so that start values are forgotten."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.weights: dict[str, Tensor] = {k: v.detach().clone() for k, v in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move towards the network's present weights."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(list(self.weights.values()), list(model.state_dict().values()), 1 - decay)
