"""Every setting says what it does."""

from __future__ import annotations

import pytest

from prosma_core import config
from prosma_core.config.base import Config
from prosma_core.config.training import LabelsConfig

SETTINGS = [getattr(config, name) for name in config.__all__ if name not in {"Config"}] + [LabelsConfig]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda each: each.__name__)
def test_every_setting_has_an_explanation(settings: type[Config]) -> None:
    explanations = settings.explanations()
    assert set(explanations) == set(settings.model_fields)
    assert all(text.strip() for text in explanations.values())


def test_an_explanation_is_the_text_below_the_setting() -> None:
    assert config.TrainingConfig.explanations()["grad_clip"] == "Largest gradient norm."
