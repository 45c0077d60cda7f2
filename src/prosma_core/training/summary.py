"""What a model file says about its training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prosma_core.printable import counted
from prosma_core.training.setup import Setup
from prosma_core.training.validate import Validation


def training_summary(
    setup: Setup, epochs: int, validation: Validation, before: Mapping[str, float] | None
) -> dict[str, Any]:
    """Entry ``training`` of the model's header.

    Parameters
    ----------
    setup : Setup
    epochs : int
        Epochs trained.
    validation : Validation
        Of the weights in the file.
    before : mapping of str to float, or None
        Dice of the start model on the same cases.
    """
    run, split = setup.run, setup.split
    summary: dict[str, Any] = {
        "data": run.data.name if run.data else counted(len(run.pairs), "pair"),
        "train_cases": len(split.train),
        "validation_cases": len(split.val),
        "validation": split.kind,
        "epochs": epochs,
        "steps_per_epoch": run.training.steps,
        "validation_dice": _rounded(validation.dice),
        "validation_mean_dice": None if validation.mean is None else round(validation.mean, 4),
        "removed_fraction": [round(level.removed, 4) for level in validation.levels],
        "median_threshold": [level.threshold and round(level.threshold, 4) for level in validation.levels],
    }
    if setup.synthetic:
        summary["synthetic"] = True
    if split.derived:
        summary["independent_labels"] = False
    if validation.count < len(setup.val):
        summary |= {"validated_frames": validation.count, "validation_frames": len(setup.val)}
    return summary if before is None else {**summary, "before": _rounded(before)}


def _rounded(dice: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in dice.items()}
