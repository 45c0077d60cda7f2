"""Shortcuts: in napari's preferences, done by the widget that is open, and none of napari's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from napari.components import ViewerModel
from napari.layers import Image, Labels, Points, Shapes
from napari.settings import get_settings
from napari.utils.action_manager import action_manager
from napari.utils.key_bindings import KeyBinding, coerce_keybinding
from napari.utils.shortcuts import default_shortcuts
from qtpy.QtWidgets import QPushButton

from napari_prosma import shortcuts
from napari_prosma.layers.results import LOOKS
from napari_prosma.segment.view import SegmentView
from napari_prosma.shortcuts import PREFIX, SHORTCUTS, WITHOUT_WIDGET, offer, with_key
from prosma_core.printable import plain


def test_no_key_is_one_of_napari_s_own() -> None:
    taken = {str(coerce_keybinding(key)) for keys in default_shortcuts.values() for key in keys}
    ours = {shortcut.key for shortcut in SHORTCUTS.values()}
    offer(ViewerModel(), {})
    for kind in (Image, Labels, Points, Shapes, ViewerModel):
        mine = {str(key) for key in kind.class_keymap} & ours if kind is ViewerModel else set()
        taken |= {str(key) for key in kind.class_keymap} - mine
    assert "V" in taken
    assert not ours & taken
    assert len(ours) == len(SHORTCUTS)


@pytest.mark.parametrize("name", sorted(SHORTCUTS.keys() - WITHOUT_WIDGET.keys()))
def test_a_key_does_what_the_open_widget_offers_in_its_viewer(
    name: str, press: Callable[[Any, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer, other, done, said = ViewerModel(), ViewerModel(), [], []
    monkeypatch.setattr(shortcuts, "show_info", said.append)
    withdraw = offer(viewer, {name: lambda: done.append(name)})
    press(viewer, SHORTCUTS[name].key)
    assert done == [name]
    refuse = offer(viewer, {name: lambda: "Draw `labels` first."})
    press(viewer, SHORTCUTS[name].key)
    refuse()
    assert said.pop() == plain("Draw `labels` first."), "the widget may be behind another tab"
    press(other, SHORTCUTS[name].key)
    withdraw()
    press(viewer, SHORTCUTS[name].key)
    assert done == [name]
    assert said == [f"Open {SHORTCUTS[name].widget} first: Plugins > ProSMA."] * 2


def test_a_widget_that_is_closed_late_leaves_the_one_opened_after_it(press: Callable[[Any, str], None]) -> None:
    viewer, done = ViewerModel(), []
    first = offer(viewer, {"segment": lambda: done.append(1)})
    offer(viewer, {"segment": lambda: done.append(2)})
    first()
    press(viewer, "Shift+S")
    assert done == [2]


def test_napari_s_preferences_list_every_action_and_a_key_chosen_there_counts(
    press: Callable[[Any, str], None], qtbot: Any
) -> None:
    from napari._qt.widgets.qt_keyboard_settings import ShortcutEditor

    viewer, done = ViewerModel(), []
    offer(viewer, {"segment": lambda: done.append(1)})
    editor = ShortcutEditor()
    qtbot.addWidget(editor)
    listed = editor.key_bindings_strs[editor.VIEWER_KEYBINDINGS]
    assert {f"{PREFIX}:{name}" for name in SHORTCUTS} <= set(listed)
    assert listed[f"{PREFIX}:segment"].description == "ProSMA Segment: Segment the chosen scan, or cancel"
    assert with_key("Segment the scan", "segment") == "Segment the scan (Shift+S)"
    view = SegmentView()
    qtbot.addWidget(view)
    view.show_run("Segment", enabled=True, tooltip=with_key("Segment the scan", "segment"))
    action, settings = f"{PREFIX}:segment", get_settings().shortcuts
    try:
        action_manager.unbind_shortcut(action)
        action_manager.bind_shortcut(action, "Shift+Q")
        settings.shortcuts = {**settings.shortcuts, action: [KeyBinding.from_str("Shift+Q")]}
        press(viewer, "Shift+Q")
        assert done == [1]
        assert with_key("Segment the scan", "segment") == "Segment the scan (Shift+Q)"
        assert view.findChild(QPushButton, "run").toolTip() == "Segment the scan (Shift+Q)"
        settings.shortcuts = {**settings.shortcuts, action: []}
        assert with_key("Segment the scan", "segment") == "Segment the scan"
        assert view.findChild(QPushButton, "run").toolTip() == "Segment the scan"
    finally:
        settings.shortcuts = {name: keys for name, keys in settings.shortcuts.items() if name != action}
        action_manager.unbind_shortcut(action)
        action_manager.bind_shortcut(action, "Shift+S")


def test_contours_need_no_open_widget(press: Callable[[Any, str], None]) -> None:
    viewer, before = ViewerModel(), LOOKS.contours
    offer(viewer, {})
    press(viewer, "Shift+C")
    assert LOOKS.contours is not before
    press(viewer, "Shift+C")
    assert LOOKS.contours is before


def test_a_viewer_s_own_key_goes_first() -> None:
    viewer, done = ViewerModel(), []
    offer(viewer, {"mark_slice": lambda: done.append("ours")})
    viewer.bind_key("K", lambda _viewer: done.append("its own"))
    {str(key): call for key, call in viewer.keymap.items()}["K"](viewer)
    assert done == ["its own"]


def test_the_page_of_the_widget_lists_every_shortcut() -> None:
    page = (Path(__file__).parents[2] / "docs" / "segment-widget.md").read_text(encoding="utf-8")
    for shortcut in SHORTCUTS.values():
        assert f"| {shortcut.key} | {shortcut.widget}: {shortcut.text} |" in page


def test_a_key_that_another_plugin_has_stays_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(ViewerModel(), {})
    registered, bound = [], []
    taken = {KeyBinding.from_str("Shift+D"): print}
    monkeypatch.setattr(ViewerModel, "class_keymap", taken)
    monkeypatch.setattr(action_manager, "register_action", lambda name, *_: registered.append(name))
    monkeypatch.setattr(action_manager, "bind_shortcut", lambda name, _: bound.append(name))
    shortcuts._register.cache_clear()
    try:
        assert with_key("Train", "train") == "Train"
        assert with_key("Segment", "segment") == "Segment (Shift+S)"
        assert set(registered) - set(bound) == {f"{PREFIX}:train"}
    finally:
        shortcuts._register.cache_clear()
        monkeypatch.undo()
        offer(ViewerModel(), {})
    assert with_key("Train", "train") == "Train (Shift+D)", "registered anew, its own keys are no other plugin's"
