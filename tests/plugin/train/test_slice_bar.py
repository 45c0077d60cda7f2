"""The bar of slices, the button and the key that mark them, in a real view."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from pytestqt.qtbot import QtBot
from qtpy.QtCore import QPoint, Qt
from qtpy.QtWidgets import QPushButton

from napari_prosma.layers.results import editable_copy, labels_layer
from napari_prosma.layers.scan import read
from napari_prosma.layers.slices import slice_states
from napari_prosma.train.slice_bar import COLORS, MARK, UNMARK, SliceBar
from prosma_core.config.model import ClassInfo
from prosma_core.data.slices import SliceStates


def test_slices_are_marked_by_key_and_button_and_the_bar_follows(
    widget: Any, annotated: Any, press: Any, qtbot: QtBot
) -> None:
    image, drawn = annotated(widget.viewer)
    classes = (ClassInfo(value=0, name="background"), ClassInfo(value=1, name="organ"))
    notes = {"program": "prosma", "model": "phantom-3d"}
    copy = widget.viewer.add_layer(editable_copy(labels_layer(read(image), np.array(drawn.data), classes, "o", notes)))
    widget.controller.pairs.add_layers(image, copy)
    view = widget.view
    view.resize(360, 900)
    view.show()
    qtbot.waitExposed(view)
    bar, button = view.findChild(SliceBar, "slice_bar"), view.findChild(QPushButton, "mark_slice")
    assert widget.text("slice_counts") == "o corrected: 0 checked, 0 edited, 12 untouched"
    widget.viewer.dims.set_point(0, 4)
    assert button.toolTip().endswith("(K)")
    press(widget.viewer, "K")
    assert slice_states(copy).checked == (4,)
    assert widget.text("slice_counts") == "o corrected: 1 checked, 0 edited, 11 untouched"
    assert button.text() == UNMARK
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)
    assert slice_states(copy).checked == ()
    assert button.text() == MARK
    assert widget.text("zero_facts").startswith("Only checked and edited slices count")
    qtbot.mouseClick(bar, Qt.MouseButton.LeftButton, pos=QPoint(int(bar.width() * 7.5 / 12), 5))
    assert widget.viewer.dims.current_step[0] == 7
    press(widget.viewer, "K")
    for key, number in ((Qt.Key.Key_Left, 6), (Qt.Key.Key_Home, 0), (Qt.Key.Key_PageDown, 10), (Qt.Key.Key_End, 11)):
        qtbot.keyClick(bar, key)
        assert widget.viewer.dims.current_step[0] == number
    assert (bar.accessibleName(), bar.accessibleDescription()) == ("Slices", "Slice 11 (z): untouched")
    assert bar.text_at(bar.width() * 7.5 / 12) == "Slice 7 (z): checked"
    assert bar.text_at(bar.width() * 2.5 / 12) == "Slice 2 (z): untouched"
    assert bar.text_at(bar.width() + 1) == ""


def test_a_stroke_in_another_view_counts_the_slice_that_was_in_view(
    widget: Any, annotated: Any, press: Any, qtbot: QtBot
) -> None:
    image, drawn = annotated(widget.viewer)
    classes = (ClassInfo(value=0, name="background"), ClassInfo(value=1, name="organ"))
    made = labels_layer(read(image), np.array(drawn.data), classes, "o", {"program": "prosma", "model": "phantom-3d"})
    copy = widget.viewer.add_layer(editable_copy(made))
    widget.controller.pairs.add_layers(image, copy)
    assert "12 untouched" in widget.text("slice_counts")
    viewer, size = widget.viewer, copy.data.shape[2]
    viewer.dims.order = (2, 0, 1)
    viewer.dims.set_current_step(2, 3)
    copy.brush_size = 6
    copy.paint((6, 6, 3), 1 - int(copy.data[6, 6, 3]))
    qtbot.waitUntil(lambda: "1 edited" in widget.text("slice_counts"))
    assert widget.text("slice_counts") == f"o corrected: 0 checked, 1 edited, {size - 1} untouched"
    press(viewer, "K")
    assert slice_states(copy).words() == f"1 checked (1 of them edited), {size - 1} untouched"
    widget.controller.slices.go_to(5)
    assert viewer.dims.current_step[2] == 5


def test_counts_say_which_of_the_checked_slices_were_edited() -> None:
    states = SliceStates("z", 31, checked=(3, 4, 5), edited=(5, 8, 9), only=True)
    assert states.words() == "3 checked (1 of them edited), 2 edited, 26 untouched"
    assert replace(states, edited=(3, 4)).words() == "3 checked (2 of them edited), 28 untouched"
    assert replace(states, edited=()).words() == "3 checked, 0 edited, 28 untouched"
    picture = SliceStates("", 1, only=True)
    assert picture.words() == "untouched"
    assert replace(picture, edited=(0,)).words() == "edited"
    assert replace(picture, checked=(0,), edited=(0,)).words() == "checked and edited"


def test_a_slice_that_the_view_cannot_show_is_said(widget: Any, annotated: Any) -> None:
    annotated(widget.viewer)
    widget.controller.pairs.add_active()
    for name, value in (("ndisplay", 3), ("ndisplay", 2), ("order", (1, 0, 2)), ("order", (0, 1, 2))):
        setattr(widget.viewer.dims, name, value)
        widget.controller.slices.go_to(5)
        shown = (name, value) in {("ndisplay", 2), ("order", (0, 1, 2))}
        words = "" if shown else "To see slice 5 (z), switch to 2D view with a slider along z."
        assert widget.text("error") == words
    assert widget.viewer.dims.current_step[0] == 5


def test_why_no_slice_can_be_marked_is_said(widget: Any, annotated: Any) -> None:
    viewer = widget.viewer
    widget.controller.slices.toggle()
    assert "add an image and its labels" in widget.text("error")
    _, labels = annotated(viewer)
    labels.data = np.where(labels.data == 1, -1, 0)
    widget.controller.pairs.add_active()
    widget.controller.slices.toggle()
    assert "contain -1" in widget.text("error")
    widget.jobs.held = []
    _, other = annotated(viewer, "other")
    widget.controller.pairs.add_active()
    viewer.layers.selection.active = other
    widget.controller.slices.toggle()
    assert widget.text("error") == "No slice can be marked: other labels is being read. Try again in a moment."


def test_states_are_told_apart_by_height_and_by_blue_and_orange(qtbot: QtBot) -> None:
    bar = SliceBar()
    qtbot.addWidget(bar)
    bar.resize(300, bar.height())
    bar.show_states(SliceStates("z", 4, 1, checked=(0,), edited=(1,), strokes=((2, (0, 1)),)))
    picture = bar.grab().toImage()
    low, middle, high = picture.height() - 5, picture.height() // 2, 5
    at = [round((i + 0.5) * picture.width() / 4) for i in range(4)]
    assert [picture.pixelColor(x, low).name() for x in at] == list(COLORS.values())
    assert picture.pixelColor(at[0], high).name() == COLORS["checked"]
    assert picture.pixelColor(at[1], high).name() != COLORS["edited"]
    assert picture.pixelColor(at[1], middle).name() == COLORS["edited"]
    assert picture.pixelColor(at[2], middle).name() != COLORS["edited"]
    many = SliceStates("z", 5000, 1, checked=(0, 4999))
    bar.show_states(many)
    bar.grab()
    assert bar.slice_at(299.99) == 4999
