"""Learning rate over a run, optimizer, and the moving average of the weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from prosma_core.config.training import TrainingConfig


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
