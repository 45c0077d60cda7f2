"""The layer of the map: one at a time, at its place, in the colors of its kind, with a legend; and the next look's."""

from __future__ import annotations

import numpy as np
import pytest
from napari.layers import Image, Labels
from pytestqt.qtbot import QtBot
from qtpy.QtWidgets import QComboBox, QPushButton
from tests.plugin.gates.conftest import Widget, made_up

from napari_prosma.gates.job import InspectionResult
from napari_prosma.gates.maps import LEGEND, legend
from prosma_core.config.inspection import MapInfo


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
    widget.jobs.jobs[-1].reply(())
    qtbot.waitUntil(lambda: not widget.controller.shown_result.adding)
    return widget.controller.shown_result.found


def moves(widget: Widget) -> list[str]:
    """Return a list that names of layers are written into when they come or go."""
    names: list[str] = []
    for event in (widget.viewer.layers.events.inserted, widget.viewer.layers.events.removed):
        event.connect(lambda event: names.append(event.value.name))
    return names


def test_every_map_is_chosen_in_the_box_and_shown_alone_with_its_legend(looked: Widget, qtbot: QtBot) -> None:
    _, arrays = made_up(looked.controller.shown_result.found.plan)
    box = looked.part("map", QComboBox)
    said = [box.itemText(i) for i in range(box.count())]
    assert said[0] == box.currentText() == "Removed"
    names = {"removed": "removed", "energy removed": "energy", "kept or removed": "kept", "field": "field"}
    names |= {f"field, dilation {d}": f"scale{d}" for d in (1, 2, 4)}
    assert {text.lower() for text in said} == set(names)
    for level in (2, 0):
        for place, text in enumerate(said):
            looked.controller.shown_result.show_level(level)
            box.setCurrentIndex(place)
            box.activated.emit(place)
            qtbot.waitUntil(lambda: not looked.controller.shown_result.adding)
            assert list(looked.maps) == [f"level {level} {text.lower()}"]
            (layer,) = looked.maps.values()
            np.testing.assert_array_equal(layer.data, arrays[f"level{level}/{names[text.lower()]}"])
            assert isinstance(layer, Labels if text == "Kept or removed" else Image)
            assert isinstance(layer, Labels) or layer.colorbar.visible
            channel = ", channel 0" if layer.ndim == 4 else ""
            assert looked.legend.startswith(f"Level {level}{channel}\n")


def test_a_legend_is_there_while_its_map_is_seen(looked: Widget) -> None:
    (layer,) = looked.maps.values()
    assert looked.legend == "Level 0\nRemoved share of the channels\n0 none, 1 all"
    layer.visible = False
    assert looked.legend == ""
    layer.visible = True
    assert looked.legend
    looked.viewer.layers.remove(layer)
    assert LEGEND not in looked.viewer.canvas.overlays
    assert looked.show(0, "field") in looked.viewer.layers
    tau = looked.controller.shown_result.found.level(0).thresholds
    looked.controller.shown_result.show_channel(3)
    assert looked.legend.startswith(f"Level 0, channel 3\nField z\nGray: removed (z within ± {tau[3]:.2f})\nBlue")
    looked.close()
    assert LEGEND not in looked.viewer.canvas.overlays


def test_the_legend_of_a_one_sided_gate_knows_no_negative_values() -> None:
    where = {"level": 1, "scale": (1, 1), "offset": (0, 0)}
    info = MapInfo(name="level1/field", kind="field", axes="cyx", **where)
    said = legend(info, 2, 0.5, "nonnegative")
    assert said == "Level 1, channel 2\nField z\nGray: removed (z up to 0.50)\nOrange: kept"


def test_no_layer_comes_or_goes_when_another_look_is_shown(looked: Widget, qtbot: QtBot) -> None:
    field = looked.show(1, "field")
    looked.controller.shown_result.show_channel(5)
    field.opacity, field.colormap = 0.4, "gray"
    before, moved = looked.maps, moves(looked)
    found = look_again(looked, qtbot)
    assert moved == []
    assert looked.maps == before
    np.testing.assert_array_equal(field.data, found.arrays["level1/field"])
    shown_result = looked.controller.shown_result
    assert (shown_result.level, shown_result.channel, looked.viewer.dims.current_step[0]) == (1, 5, 5)
    assert (field.visible, field.opacity, field.colormap.name) == (True, 0.4, "gray")
    tau = found.level(1).thresholds[5]
    assert field.contrast_limits == pytest.approx((-4 * tau, 4 * tau))
    assert looked.show(2) is field
    assert (field.opacity, field.colormap.name) == (0.4, "gray")
    assert looked.show(2, "field, dilation 4").colormap.name != "gray", "another kind has its own colors"


def test_a_part_of_the_scan_lies_where_it_was_looked_at(looked: Widget, qtbot: QtBot) -> None:
    layer = looked.maps["level 0 removed"]
    looked.viewer.dims.set_point(0, 3 * 7.0)
    looked.view.part.part_chosen.emit("slice")
    found = look_again(looked, qtbot)
    (region, *_) = found.plan.request.config.region
    assert region == (7, 8)
    assert looked.maps["level 0 removed"] is layer
    assert layer.data.shape[0] == 1
    scan = looked.viewer.layers["mri"]
    np.testing.assert_allclose(layer.data_to_world((0, 2, 3)), scan.data_to_world((7, 2, 3)))
    assert layer.metadata["prosma"]["spec"].shape == layer.data.shape


def test_another_scan_is_shown_where_it_lies(looked: Widget, qtbot: QtBot, scan_data: np.ndarray) -> None:
    layer = looked.maps["level 0 removed"]
    other = looked.viewer.add_image(scan_data[:, :32], name="ct", scale=(2, 1, 1), translate=(5, 0, 0))
    looked.controller.choose_image(other)
    look_again(looked, qtbot)
    assert looked.maps == {"level 0 removed": layer}
    np.testing.assert_allclose(layer.data_to_world((1, 2, 3)), other.data_to_world((1, 2, 3)))


def test_a_renamed_map_is_the_users_and_a_deleted_one_comes_again(looked: Widget, qtbot: QtBot) -> None:
    mine = looked.maps["level 0 removed"]
    mine.name, data = "mine", mine.data
    assert looked.show(1).name == "Gates: level 1 removed"
    assert mine in looked.viewer.layers
    assert mine.data is data
    looked.viewer.layers.remove(looked.maps["level 1 removed"])
    look_again(looked, qtbot)
    assert list(looked.maps) == ["level 1 removed"]
    looked.part("remove", QPushButton).click()
    qtbot.waitUntil(lambda: [layer.name for layer in looked.viewer.layers] == ["mri", "mine"])


def test_a_kind_without_a_map_gives_way_to_the_first(looked: Widget, qtbot: QtBot) -> None:
    looked.show(0, "field")
    options = looked.controller.shown_result.found.plan.request.config
    looked.controller.choose_options(options.replace(maps=("removed", "energy")))
    look_again(looked, qtbot)
    assert list(looked.maps) == ["level 0 removed"]
    looked.viewer.add_image(np.zeros((40, 44)), name="flat")
    looked.controller.choose_image(looked.viewer.layers["flat"])
    looked.choose("breast-lesion-us")
    look_again(looked, qtbot)
    assert [layer.ndim for layer in looked.maps.values()] == [2]


def test_maps_chosen_in_quick_succession_leave_the_last_one_alone(looked: Widget, qtbot: QtBot) -> None:
    shown_result = looked.controller.shown_result
    for kind in ("field", "kept or removed", "removed", "field"):
        shown_result.show_map(kind)
        qtbot.waitUntil(lambda kind=kind: f"level 0 {kind}" in looked.maps)
    qtbot.waitUntil(lambda: not shown_result.adding)
    assert list(looked.maps) == ["level 0 field"]


def test_removed_while_the_map_is_renewed_it_goes(looked: Widget, qtbot: QtBot) -> None:
    job = looked.start()
    job.answer(*made_up(looked.controller.run.plan, 1))
    looked.part("remove", QPushButton).click()
    assert looked.jobs.jobs[-1].cancelled, "the ranking is of what is gone"
    looked.jobs.jobs[-1].end_cancelled()
    qtbot.waitUntil(lambda: [layer.name for layer in looked.viewer.layers] == ["mri"])


def test_a_layer_is_added_without_a_word_about_the_selection(looked: Widget) -> None:
    told: list[object] = []
    looked.viewer.layers.selection.events.changed.connect(told.append)
    looked.show(1, "field")
    looked.show(1, "kept or removed")
    assert told == []
    assert looked.viewer.layers.selection.active is looked.viewer.layers["mri"]
