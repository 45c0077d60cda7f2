"""What is counted while a training validates."""

from __future__ import annotations

import numpy as np

from prosma_core.training.validate import missed_cases


def test_a_class_is_missed_as_in_figures_of_shipped_models() -> None:
    dice = np.array([[0.0, 0.9, 1.0], [0.0999, 0.0, 1.0], [0.1, 0.0, 1.0], [0.0, 0.05, 0.0]])
    shown = np.array([[True, True, False], [True, True, False], [True, False, False], [False, True, False]])
    assert missed_cases(["liver", "lesion", "stent"], dice, shown) == {"liver": (2, 3), "lesion": (2, 3)}
