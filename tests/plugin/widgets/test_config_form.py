"""Forms made from settings classes, and the sections they stand in."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import Field
from pytestqt.qtbot import QtBot
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QComboBox, QDoubleSpinBox, QLabel, QPushButton, QVBoxLayout, QWidget

from napari_prosma.widgets.config_form import ConfigForm
from napari_prosma.widgets.fields import Fold
from prosma_core.config.base import Config
from prosma_core.config.inference import InferenceConfig
from prosma_core.config.training import TrainingConfig

LABELS = {"overlap": "Tile overlap", "mirror": "Average over mirrored copies"}


class Every(Config):
    """A field of each kind."""

    whole: int = Field(default=3, ge=1, le=10)
    """A whole number."""
    share: float = Field(default=0.4, ge=0, le=1)
    small: float = Field(default=1e-3, gt=0, le=1)
    large: float = Field(default=5.0, gt=0)
    count: int | None = Field(default=None, ge=1)
    part: float | None = Field(default=None, ge=0, lt=1)
    kind: Literal["one", "two"] = "one"
    flag: bool = True


ALL = {name: name.title() for name in Every.model_fields}


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


def test_fields_that_are_not_shown_stay_as_they_were_set(qtbot: QtBot) -> None:
    form = ConfigForm(InferenceConfig, LABELS)
    qtbot.addWidget(form.native)
    form.set(InferenceConfig(slice_axis="x", batch_size=3))
    assert form.value == InferenceConfig(slice_axis="x", batch_size=3)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {
            "whole": 10,
            "share": 0.95,
            "small": 0.00025,
            "large": 0.1,
            "count": 7,
            "part": 0.0,
            "kind": "two",
            "flag": False,
        },
        {"whole": 1, "share": 0.0, "small": 1.0, "large": 1000.0, "count": 1, "part": 0.99, "flag": False},
    ],
)
def test_every_kind_of_field_gives_back_what_is_set(values: dict[str, Any], qtbot: QtBot) -> None:
    form = ConfigForm(Every, ALL, {"count": "never"})
    qtbot.addWidget(form.native)
    form.set(Every(**values))
    assert form.value == Every(**values)
    form.set(Every())
    assert form.value == Every()


def test_an_edit_is_told_with_all_values(qtbot: QtBot) -> None:
    form = ConfigForm(Every, ALL)
    qtbot.addWidget(form.native)
    seen: list[Every] = []
    form.changed.connect(seen.append)
    form.native.findChild(QDoubleSpinBox, "option_count").setValue(5)
    form.native.findChild(QComboBox, "option_kind").setCurrentText("two")
    assert seen == [Every(count=5), Every(count=5, kind="two")]


def test_none_is_said_in_words(qtbot: QtBot) -> None:
    form = ConfigForm(Every, ALL, {"count": "never"})
    qtbot.addWidget(form.native)
    assert form.native.findChild(QDoubleSpinBox, "option_count").text() == "never"
    assert form.native.findChild(QDoubleSpinBox, "option_part").text() == "none"
    form.set(Every(count=2))
    assert form.native.findChild(QDoubleSpinBox, "option_count").text() == "2"


def test_none_stands_at_a_bound_that_is_no_value_itself(qtbot: QtBot) -> None:
    form = ConfigForm(InferenceConfig, {"threshold": "Minimum probability"}, {"threshold": "most likely class"})
    qtbot.addWidget(form.native)
    box = form.native.findChild(QDoubleSpinBox)
    assert (box.text(), form.value.threshold) == ("most likely class", None)
    box.stepUp()
    assert form.value.threshold == 0.05
    box.setValue(1)
    assert form.value.threshold == 0.99
    box.setValue(0)
    assert form.value.threshold is None


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [("whole", 1, 10), ("small", 1e-5, 1), ("large", 0.01, 1e6), ("count", None, 1e6), ("part", None, 0.99)],
)
def test_no_input_leaves_the_bounds(name: str, least: float | None, most: float, qtbot: QtBot) -> None:
    form = ConfigForm(Every, ALL)
    qtbot.addWidget(form.native)
    box = form.native.findChild(QDoubleSpinBox, f"option_{name}")
    box.setValue(-1e9)
    assert getattr(form.value, name) == (least if least is None else pytest.approx(least))
    box.setValue(1e6)
    assert getattr(form.value, name) == pytest.approx(most)


def test_names_and_explanations_stand_beside_the_inputs(qtbot: QtBot) -> None:
    form = ConfigForm(Every, ALL)
    qtbot.addWidget(form.native)
    said = {label.text() for label in form.native.findChildren(QLabel)}
    assert {"Whole", "Share", "Kind"} <= said
    assert form.native.findChild(QWidget, "option_whole").toolTip() == "A whole number."


def test_a_number_with_many_digits_can_be_written(qtbot: QtBot) -> None:
    form = ConfigForm(TrainingConfig, {"learning_rate": "Learning rate"})
    qtbot.addWidget(form.native)
    form.native.findChild(QDoubleSpinBox).setValue(0.00003)
    assert form.value == TrainingConfig(learning_rate=0.00003)


@pytest.mark.usefixtures("display")
def test_a_section_opens_by_keyboard_and_the_tab_key_skips_what_it_hides(qtbot: QtBot) -> None:
    page, fold, after = QWidget(), Fold("Advanced"), QPushButton("After")
    inside = [QPushButton("One"), QPushButton("Two")]
    fold.add(*inside)
    QVBoxLayout(page).addWidget(fold)
    page.layout().addWidget(after)
    qtbot.addWidget(page)
    with qtbot.waitExposed(page):
        page.show()
    title = fold.toggleButton()
    title.setFocus()
    assert title.text() == "▸ Advanced"
    qtbot.keyClick(title, Qt.Key.Key_Tab)
    assert page.focusWidget() is after
    title.setFocus()
    qtbot.keyClick(title, Qt.Key.Key_Space)
    assert title.text() == "▾ Advanced"
    assert all(part.isVisible() and part.height() >= part.sizeHint().height() for part in inside)
    qtbot.keyClick(title, Qt.Key.Key_Tab)
    assert page.focusWidget() is inside[0]
    fold.collapse()
    assert not any(part.isVisible() for part in inside)
    assert not fold.isExpanded()
    fold.show_title("Other")
    assert title.text() == "▸ Other"
