"""Forms made from settings classes."""

from __future__ import annotations

from pytestqt.qtbot import QtBot

from napari_prosma._shared.config_form import ConfigForm
from prosma_core.config.inference import InferenceConfig

LABELS = {"overlap": "Tile overlap", "mirror": "Average over mirrored copies"}


def test_a_form_begins_with_the_defaults_and_gives_back_what_is_set(qtbot: QtBot) -> None:
    form = ConfigForm(InferenceConfig, LABELS)
    qtbot.addWidget(form.native)
    assert form.value == InferenceConfig()
    form.set(InferenceConfig(overlap=0.25, mirror=True))
    assert form.value == InferenceConfig(overlap=0.25, mirror=True)


def test_showing_settings_is_no_edit(qtbot: QtBot) -> None:
    form = ConfigForm(InferenceConfig, LABELS)
    qtbot.addWidget(form.native)
    seen: list[InferenceConfig] = []
    form.changed.connect(seen.append)
    form.set(InferenceConfig(mirror=True))
    assert seen == []
