"""A look after another: the layers stay and get new data; only what differs comes or goes."""

from __future__ import annotations

import numpy as np
import pytest
from pytestqt.qtbot import QtBot
from qtpy.QtWidgets import QPushButton
from tests.plugin.gates.conftest import Widget, made_up

from napari_prosma.gates.job import InspectionResult


@pytest.fixture
def looked(widget: Widget, scan_data: np.ndarray) -> Widget:
    """Return a widget after a look at a scan with the phantom's model."""
    widget.viewer.add_image(scan_data, name="mri", scale=(3, 1, 1), units=("mm",) * 3)
    widget.choose("phantom-3d")
    widget.inspect()
    return widget


def look_again(widget: Widget, qtbot: QtBot, seed: int = 1) -> InspectionResult:
    """Look at what is chosen now; the engine finds something else."""
    job = widget.start()
    job.answer(*made_up(widget.controller.run.plan, seed))
    qtbot.waitUntil(lambda: not widget.controller.shown_result.adding)
    return widget.controller.shown_result.found


def moves(widget: Widget) -> list[str]:
    """Return a list that names of layers are written into when they come or go."""
    names: list[str] = []
    for event in (widget.viewer.layers.events.inserted, widget.viewer.layers.events.removed):
        event.connect(lambda event: names.append(event.value.name))
    return names


def test_no_layer_comes_or_goes_and_all_show_the_new_maps(looked: Widget, qtbot: QtBot) -> None:
    before, moved = looked.maps, moves(looked)
    found = look_again(looked, qtbot)
    assert moved == []
    assert looked.maps == before
    for kind, title in (("removed", "removed"), ("kept", "kept"), ("field", "field"), ("scale4", "dilation 4")):
        data = looked.maps[f"level 0 {title}"].data
        np.testing.assert_array_equal(data, found.arrays[f"level0/{kind}"])
    tau = found.level(0).thresholds[0]
    assert looked.maps["level 0 field"].contrast_limits == pytest.approx((-4 * tau, 4 * tau))


def test_level_channel_and_what_a_person_has_set_stay(looked: Widget, qtbot: QtBot) -> None:
    looked.controller.shown_result.show_level(1)
    qtbot.waitUntil(lambda: not looked.controller.shown_result.adding)
    field = looked.maps["level 1 field"]
    field.visible, field.opacity, field.colormap = True, 0.4, "gray"
    looked.controller.shown_result.show_channel(5)
    found = look_again(looked, qtbot)
    shown_result = looked.controller.shown_result
    assert (shown_result.level, shown_result.channel, looked.viewer.dims.current_step[0]) == (1, 5, 5)
    assert (field.visible, field.opacity, field.colormap.name) == (True, 0.4, "gray")
    assert {name for name, layer in looked.maps.items() if layer.visible} == {"level 1 removed", "level 1 field"}
    tau = found.level(1).thresholds[5]
    assert field.contrast_limits == pytest.approx((-4 * tau, 4 * tau))


def test_a_part_of_the_scan_lies_where_it_was_looked_at(looked: Widget, qtbot: QtBot) -> None:
    layer = looked.maps["level 0 removed"]
    looked.viewer.dims.set_point(1, 3 * 7.0)  # the axis in front is the channels'
    looked.view.part.part_chosen.emit("slice")
    found = look_again(looked, qtbot)
    (region, *_) = found.plan.request.config.region
    assert region == (7, 8)
    assert looked.maps["level 0 removed"] is layer
    assert layer.data.shape[0] == 1
    scan = looked.viewer.layers["mri"]
    np.testing.assert_allclose(layer.data_to_world((0, 2, 3)), scan.data_to_world((7, 2, 3)))
    assert layer.metadata["prosma"]["spec"].shape == layer.data.shape


def test_another_scan_gives_the_layers_its_name(looked: Widget, qtbot: QtBot, scan_data: np.ndarray) -> None:
    layer = looked.maps["level 0 removed"]
    other = looked.viewer.add_image(scan_data[:, :32], name="ct", scale=(2, 1, 1), translate=(5, 0, 0))
    looked.controller.choose_image(other)
    look_again(looked, qtbot)
    assert layer.name == "ct gates: level 0 removed"
    np.testing.assert_allclose(layer.data_to_world((1, 2, 3)), other.data_to_world((1, 2, 3)))
    assert not [x.name for x in looked.viewer.layers if x.name.startswith("mri gates")]


def test_what_has_no_map_any_more_goes_and_what_was_deleted_comes(looked: Widget, qtbot: QtBot) -> None:
    looked.viewer.layers.remove(looked.maps["level 0 energy"])
    looked.maps["level 0 dilation 1"].name = "mine"
    options = looked.controller.shown_result.found.plan.request.config
    looked.controller.choose_options(options.replace(maps=("removed", "energy", "kept", "scales")))
    moved = moves(looked)
    look_again(looked, qtbot)
    assert set(moved[:2]) == {"mine", "mri gates: level 0 field"}
    assert set(moved[2:]) == {"mri gates: level 0 energy", "mri gates: level 0 dilation 1"}
    names = ["removed", "energy", "kept", "dilation 1", "dilation 2", "dilation 4"]
    assert sorted(looked.maps) == sorted(f"level 0 {name}" for name in names)


def test_another_kind_of_gate_replaces_all(looked: Widget, qtbot: QtBot) -> None:
    looked.viewer.add_image(np.zeros((40, 44)), name="flat")
    looked.controller.choose_image(looked.viewer.layers["flat"])
    looked.choose("breast-lesion-us")
    look_again(looked, qtbot)
    assert all(layer.ndim == 2 + ("c" in layer.metadata["prosma"]["axes"]) for layer in looked.maps.values())
    assert all(layer.name.startswith("flat gates: level 0") for layer in looked.maps.values())


def test_removed_while_the_maps_are_renewed_all_go(looked: Widget, qtbot: QtBot) -> None:
    job = looked.start()
    job.answer(*made_up(looked.controller.run.plan, 1))
    looked.part("remove", QPushButton).click()
    qtbot.waitUntil(lambda: [layer.name for layer in looked.viewer.layers] == ["mri"])


def test_looks_that_follow_each_other_at_once_leave_one_set(looked: Widget, qtbot: QtBot) -> None:
    for seed in (1, 2):
        job = looked.start()
        job.answer(*made_up(looked.controller.run.plan, seed))
    qtbot.waitUntil(lambda: not looked.controller.shown_result.adding)
    found = looked.controller.shown_result.found
    assert len(looked.maps) == 7
    np.testing.assert_array_equal(looked.maps["level 0 removed"].data, found.arrays["level0/removed"])


def test_a_layer_is_added_without_a_word_about_the_selection(looked: Widget, qtbot: QtBot) -> None:
    told: list[object] = []
    looked.viewer.layers.selection.events.changed.connect(told.append)
    looked.controller.shown_result.show_level(1)
    qtbot.waitUntil(lambda: not looked.controller.shown_result.adding)
    assert len(looked.maps) == 14
    assert told == []
    assert looked.viewer.layers.selection.active is looked.viewer.layers["mri"]
