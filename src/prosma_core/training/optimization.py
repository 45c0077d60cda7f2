"""Loss, optimizer, learning-rate schedule, and the moving average of the weights."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prosma_core.config.training import TrainingConfig
from prosma_core.data.labels import IGNORED
from prosma_core.model.gate import LINEAR, SkipGate
from prosma_core.model.unet import UNet

SMOOTH = 1e-5
"""Added to both sides of the fraction of Dice, which is then defined where a class is nowhere."""


def dice_sums(probabilities: Tensor, wanted: Tensor, *, batch: bool) -> list[Tensor]:
    """What the Dice of the foreground's classes is computed from: overlap, predicted, wanted.

    Parameters
    ----------
    probabilities, wanted : Tensor
        Shape (B, K, *grid), floating point; `wanted` is one-hot, or 0 where nothing is known.
    batch : bool
        Whether the sums are over all B together, shape (K - 1,), else of each by itself, shape (B, K - 1).
    """
    predicted, target = probabilities[:, 1:], wanted[:, 1:]
    axes = [0] * batch + list(range(2, target.ndim))
    return [(predicted * target).sum(axes), predicted.sum(axes), target.sum(axes)]


def dice_loss(both: Tensor, predicted: Tensor, wanted: Tensor) -> Tensor:
    """1 - soft Dice, on average, from `dice_sums`: `DiceLoss` of MONAI, whose import takes three seconds."""
    only_predicted, only_wanted = predicted - both, wanted - both
    union = both + only_predicted * 0.5 + only_wanted * 0.5
    return (1 - (2 * both + SMOOTH) / (2 * union + SMOOTH)).mean()


class SegmentationLoss:
    """Dice + cross-entropy over all levels, weights 1, 1/2, 1/4, … down to 1/16 with deep supervision.

    It is computed in two steps, so that several processes, each with a part of the batch, can add up in between.

    Parameters
    ----------
    config : TrainingConfig
    masked : bool
        Whether labels may hold `IGNORED`; such voxels take no part.
    """

    def __init__(self, config: TrainingConfig, *, masked: bool = False) -> None:
        self.config, self.masked = config, masked

    def __call__(self, logits: Sequence[Tensor], labels: Tensor) -> Tensor:
        """The loss, a scalar, of a whole batch; parameters as of `sums`."""
        return self.of(self.sums(logits, labels))

    def sums(self, logits: Sequence[Tensor], labels: Tensor, share: float = 1.0) -> list[Tensor]:
        """What the loss is computed from, to be added up over all parts of a batch.

        Parameters
        ----------
        logits : sequence of Tensor, shape (B, K, *grid of the level)
            Per level, finest first.
        labels : Tensor, int64, shape (B, 1, *grid)
        share : float
            Share of the batch's patches.
        """
        target, sums = labels.float(), list[Tensor]()
        for values in logits if self.config.deep_supervision else logits[:1]:
            grid = values.shape[2:]
            there = target if grid == target.shape[2:] else F.interpolate(target, grid, mode="nearest-exact")
            sums += self._of_level(values.float(), there[:, 0].long(), share)
        return sums

    def of(self, sums: Sequence[Tensor]) -> Tensor:
        """The loss, a scalar, from the sums of a whole batch."""
        config, each = self.config, []
        dice_parts = 3 if config.batch_dice else 1
        parts = dice_parts + (2 if self.masked else 1)
        for level in range(len(sums) // parts):
            own = sums[level * parts : (level + 1) * parts]
            dice = dice_loss(own[0], own[1], own[2]) if config.batch_dice else own[0]
            entropy = own[-2] / own[-1].clamp_min(1) if self.masked else own[-1]
            each.append(max(0.5**level, 0.0625) * (config.dice_weight * dice + config.ce_weight * entropy))
        return sum(each[1:], each[0])  # from a level on: a CUDA graph holds no number of the CPU

    def _of_level(self, logits: Tensor, target: Tensor, share: float) -> list[Tensor]:
        """Sums of one level: those of Dice, or its mean over patches; cross-entropy, its sum and number, or its mean.

        Parameters
        ----------
        logits : Tensor, float32, shape (B, K, *grid)
        target : Tensor, int64, shape (B, *grid)
        share : float
            Factor of what is a mean, so that the parts of a batch add up to the mean of all.
        """
        probabilities, batch = logits.softmax(1), self.config.batch_dice
        if self.masked:
            known = target != IGNORED
            wanted = F.one_hot(target.clamp_min(0), logits.shape[1]).movedim(-1, 1) * known[:, None]
            dice = dice_sums(probabilities * known[:, None], wanted.to(logits.dtype), batch=batch)
            entropy = [F.cross_entropy(logits, target, ignore_index=IGNORED, reduction="sum"), known.sum()]
        else:
            wanted = logits.new_zeros(logits.shape).scatter_(1, target[:, None], 1)
            dice = dice_sums(probabilities, wanted, batch=batch)
            entropy = [F.cross_entropy(logits, target) * share]
        return [*(dice if batch else [dice_loss(*dice) * share]), *entropy]


def distillation_sums(logits: Tensor, probabilities: Tensor, labels: Tensor, classes: Sequence[int]) -> list[Tensor]:
    """Cross-entropy to a start model's probabilities of the voxels that are not annotated: its sum, and their number.

    Parameters
    ----------
    logits : Tensor, shape (B, K, *grid of the finest level)
    probabilities : Tensor, shape (B, len(classes), *grid)
        Where their sum is at most 0.5, outside of a scan or in classes that are not learned, nothing is known.
    labels : Tensor, int64, shape (B, 1, *grid)
    classes : sequence of int
        Class of each probability; logits of other classes take no part.
    """
    known = (labels[:, 0] == IGNORED) & (probabilities.sum(1) > 0.5)
    chosen = logits if len(classes) == logits.shape[1] else torch.stack([logits[:, k] for k in classes], 1)
    if chosen.shape[2:] != labels.shape[2:]:  # the finest level is coarser than the scan
        chosen = F.interpolate(chosen.float(), labels.shape[2:], mode=LINEAR[labels.ndim - 2])
    entropy = -(probabilities * chosen.float().log_softmax(1)).sum(1)
    return [(entropy * known).sum(), known.sum()]


def distillation_loss(entropy: Tensor, known: Tensor) -> Tensor:
    """Mean of the cross-entropy from `distillation_sums`; 0 where no voxel takes part."""
    return entropy / known.clamp_min(1)


def removed_fractions(gates: Sequence[SkipGate]) -> list[Tensor]:
    """Fraction that each gate removed in its last forward, with a gradient; none of gates that keep no estimate."""
    return [gate.estimate for gate in gates if gate.estimate is not None]


def sparsity_loss(fractions: Sequence[Tensor], target: float) -> Tensor:
    """Mean squared distance of removed fractions, at least one, to the target."""
    return (torch.stack(list(fractions)) - target).square().mean()


def learning_rate(config: TrainingConfig, progress: float) -> float:
    """Learning rate at a share of the run, 0 to 1: linear warm-up, then cosine or polynomial down to 0."""
    progress = min(max(progress, 0.0), 1.0)
    if progress < config.warmup:
        return config.learning_rate * max(progress / config.warmup, 0.01)
    t = (progress - config.warmup) / (1 - config.warmup)
    shape = 0.5 * (1 + math.cos(math.pi * t)) if config.schedule == "cosine" else (1 - t) ** 0.9
    return config.learning_rate * shape


def build_optimizer(model: UNet, config: TrainingConfig) -> torch.optim.Optimizer:
    """AdamW or SGD; weight decay on kernels and matrices only.

    Groups of pretrained weights have the share ``encoder_rate`` of the learning rate, all others 1 (see `set_rate`).
    """
    pretrained = {id(p) for p in model.pretrained_parameters()}
    groups = []
    for share, wanted in ((1.0, False), (config.encoder_rate, True)):
        chosen = [p for p in model.parameters() if (id(p) in pretrained) == wanted]
        for parameters, decay in (
            ([p for p in chosen if p.ndim > 1], config.weight_decay),
            ([p for p in chosen if p.ndim <= 1], 0.0),
        ):
            if parameters:
                groups.append({"params": parameters, "weight_decay": decay, "share": share})
    if config.optimizer == "sgd":
        return _eager(torch.optim.SGD)(groups, lr=config.learning_rate, momentum=0.99, nesterov=True)
    fused = next(model.parameters()).device.type == "cuda"
    return _eager(torch.optim.AdamW)(groups, lr=config.learning_rate, fused=fused)


def _eager(kind: type[torch.optim.Optimizer]) -> Callable[..., torch.optim.Optimizer]:
    """An optimizer of torch without the wrappers for its use in compiled code: they import the compiler, two seconds.

    It computes the same; a compiled forward does not reach it.
    """
    wrapped = ("add_param_group", "load_state_dict", "state_dict", "step", "zero_grad")
    methods: dict[str, Any] = {name: inspect.unwrap(getattr(kind, name)) for name in wrapped}
    methods["step"] = torch.no_grad()(methods["step"])
    return type(kind.__name__, (kind,), methods)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Learning rate of the next step, of each group its share."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["share"]


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
