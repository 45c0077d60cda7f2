"""Validation while training: Dice per class on the network's grid, and what the gates remove."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from prosma_core.config.inference import InferenceConfig
from prosma_core.config.model import ClassInfo
from prosma_core.data.labels import IGNORED
from prosma_core.errors import DivergedError
from prosma_core.events import Event, LevelStats
from prosma_core.inference.tiled import TiledPredictor
from prosma_core.model.unet import UNet
from prosma_core.training.cases import TrainingCase


@dataclass(frozen=True)
class Validation:
    """Dice per foreground class (mean over cases), its mean, the gates, finest level first, and how many cases.

    A class that is in no case has no Dice and no part in the mean, which is None where there is none at all.
    """

    dice: dict[str, float]
    mean: float | None
    levels: tuple[LevelStats, ...]
    count: int


def validate(
    model: UNet,
    cases: Sequence[TrainingCase],
    tile: tuple[int, ...],
    classes: tuple[ClassInfo, ...],
    device: torch.device,
    *,
    amp: bool,
    meant: Tensor | None = None,
    look: Callable[[TrainingCase, Tensor], None] | None = None,
) -> Generator[Event, None, Validation]:
    """Segment each case by the same tiles as `prosma segment` and compare; yields after each tile.

    Parameters
    ----------
    model : UNet
        On `device`; left in evaluation mode.
    cases : sequence of TrainingCase
        At least one.
    tile : tuple of int
    classes : tuple of ClassInfo
        The first is the background.
    device : torch.device
    amp : bool
        bf16 autocast on CUDA; a CPU validates as it trains, in float32.
    meant : Tensor, optional, int64, shape (outputs of the model,)
        Class index that each output of another model stands for.
    look : callable, optional
        Called with each case and the class indices that were found in it, integer, shape (*grid).

    Raises
    ------
    DivergedError
        The network gives NaN or infinity.
    """
    model.eval()
    overlap, batch_size = InferenceConfig().overlap, 4 if device.type == "cuda" else 1
    predictor = TiledPredictor(
        model, tile, device, overlap=overlap, batch_size=batch_size, amp=amp and device.type == "cuda"
    )
    scores: list[list[float]] = []
    present = np.zeros(len(classes) - 1, bool)
    with model.counting() as levels:
        for case in cases:
            logits = yield from predictor.predict(case.image, device)
            if not bool(torch.isfinite(logits).all()):
                msg = (
                    "The network gives NaN or infinity on validation case "
                    f"{case.name}. Lower the learning rate and resume."
                )
                raise DivergedError(msg)
            found = logits.argmax(0)
            found = found if meant is None else meant.to(found.device)[found]
            if look is not None:
                look(case, found)
            scores.append(dice_per_class(found, case.labels.to(logits.device), len(classes)))
            present |= np.isin(np.arange(1, len(classes)), list(case.present))
    mean = np.mean(scores, axis=0)
    dice = {c.name: float(d) for c, d, there in zip(classes[1:], mean, present, strict=True) if there}
    return Validation(dice, float(mean[present].mean()) if dice else None, tuple(levels), len(scores))


def dice_per_class(prediction: Tensor, reference: Tensor, num_classes: int) -> list[float]:
    """Dice of each foreground class over the voxels whose reference is known, 1 where a class is in neither.

    Parameters
    ----------
    prediction : Tensor, integer, shape (*grid)
    reference : Tensor, integer, shape (*grid)
        Class indices, `IGNORED` where nothing is known.
    num_classes : int
        Background included.
    """
    prediction = torch.where(reference.int() == IGNORED, IGNORED, prediction.int())
    result = []
    for k in range(1, num_classes):
        p, r = prediction == k, reference == k
        total = int(p.sum()) + int(r.sum())
        result.append(2 * int((p & r).sum()) / total if total else 1.0)
    return result
