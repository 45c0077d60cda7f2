"""Dice before and after fine-tuning, in words."""

from __future__ import annotations

from collections.abc import Mapping

SMALLEST_CHANGE = 0.005
"""Dice that two models must differ by for one to be called worse."""


def compare(before: Mapping[str, float], after: Mapping[str, float]) -> str:
    """Both in words, as in ``liver 0.81 -> 0.88; spleen got worse: 0.90 -> 0.86.``, and what to do about it."""
    parts = []
    for name, old, new in _both(before, after):
        worse = new < old - SMALLEST_CHANGE
        parts.append(f"{name}{' got worse:' if worse else ''} {old:.2f} -> {new:.2f}")
    words = "; ".join(parts) + "."
    if got_worse(before, after):
        words += (
            " Fine-tuning made the model worse: keep the one it started from, or annotate more, train for longer, or "
            "lower training.learning_rate."
        )
    return words


def got_worse(before: Mapping[str, float], after: Mapping[str, float]) -> bool:
    """Whether the mean Dice of the classes before fell by more than chance would have it."""
    changes = [new - old for _, old, new in _both(before, after)]
    return sum(changes) < -SMALLEST_CHANGE * len(changes)


def _both(before: Mapping[str, float], after: Mapping[str, float]) -> list[tuple[str, float, float]]:
    """Classes that both have a Dice of."""
    return [(name, old, after[name]) for name, old in before.items() if name in after]
