"""Keyboard shortcuts: actions in napari's preferences, done by the widget that is open in the viewer. No Qt."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from napari.components import ViewerModel
from napari.settings import get_settings
from napari.utils.action_manager import action_manager
from napari.utils.notifications import show_info

from napari_prosma.layers.contours import toggle_contours
from prosma_core.printable import plain

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX = "napari-prosma"
"""Before the colon of an action's name, as napari asks for."""


@dataclass(frozen=True)
class Shortcut:
    """An action with its key.

    Attributes
    ----------
    key : str
        Default: none of napari's own, and all within reach of the left hand or on K.
    text : str
        What it does, as napari's preferences list it.
    widget : str
        Title of the widget that does it, or of the plugin.
    """

    key: str
    text: str
    widget: str


SHORTCUTS = {
    "segment": Shortcut("Shift+S", "Segment the chosen scan, or cancel", "ProSMA Segment"),
    "train": Shortcut("Shift+D", "Train, or stop the training", "ProSMA Train"),
    "mark_slice": Shortcut("K", "Mark the slice in view as checked, or unmark it", "ProSMA Train"),
    "next_slice": Shortcut("Shift+K", "Go to the next suggested slice", "ProSMA Train"),
    "contours": Shortcut("Shift+C", "Show results and previews as contours, or filled", "ProSMA"),
}
"""Every shortcut of the plugin, by the name of its action."""

WITHOUT_WIDGET: dict[str, Callable[[Any], None]] = {"contours": toggle_contours}
"""Actions that need no open widget."""

_OFFERED: defaultdict[tuple[int, str], list[Callable[[], object]]] = defaultdict(list)
"""What an action does in a viewer (by its identity, as a viewer is not hashable): what was offered last and stands."""


def offer(viewer: ViewerModel, calls: Mapping[str, Callable[[], object]]) -> Callable[[], None]:
    """Let actions of `SHORTCUTS` do something in a viewer.

    Parameters
    ----------
    viewer : ViewerModel
    calls : mapping
        What to call, by the name of the action; gives why nothing was done, or nothing.

    Returns
    -------
    callable
        Takes the offer back.
    """
    _register()
    mine = {(id(viewer), name): call for name, call in calls.items()}
    for place, call in mine.items():
        _OFFERED[place].append(call)

    def withdraw() -> None:
        for place, call in mine.items():
            if call in _OFFERED[place]:
                _OFFERED[place].remove(call)

    return withdraw


def with_key(text: str, name: str) -> str:
    """A tooltip with the key of its action, as the preferences have it; without one that another plugin has."""
    return text + _key(name)


def _key(name: str) -> str:
    """What stands behind a tooltip; empty without a key."""
    free = _register()
    chosen = get_settings().shortcuts.shortcuts.get(f"{PREFIX}:{name}")
    keys = [SHORTCUTS[name].key] * (name in free) if chosen is None else list(map(str, chosen))
    return f" ({' or '.join(keys)})" if keys else ""


def follow_keys(changed: Callable[[Callable[[str], str]], object]) -> Callable[[], None]:
    """Tell of keys that are changed in napari's preferences.

    Parameters
    ----------
    changed : callable
        Called with what turns a tooltip with the key it had into one with its new key; others stay.

    Returns
    -------
    callable
        Ends it.
    """
    known = {name: _key(name) for name in SHORTCUTS}

    def tell(_event: Any = None) -> None:
        before, now = dict(known), {name: _key(name) for name in SHORTCUTS}
        known.update(now)

        def renewed(text: str) -> str:
            name = next((name for name, key in before.items() if key and text.endswith(key)), None)
            return text if name is None else text.removesuffix(before[name]) + now[name]

        if now != before:
            changed(renewed)

    events = get_settings().shortcuts.events.shortcuts
    events.connect(tell)
    return lambda: events.disconnect(tell)


@cache
def _register() -> frozenset[str]:
    """Tell napari of every action, once a process; the actions whose keys no other plugin has."""
    ours = {_name(name) for name in SHORTCUTS}
    keymap = ViewerModel.class_keymap.items()
    chosen = get_settings().shortcuts.shortcuts
    taken = {str(bound) for bound, call in keymap if getattr(call, "__name__", "") not in ours}
    for name, shortcut in SHORTCUTS.items():
        action = f"{PREFIX}:{name}"
        action_manager.register_action(action, _command(name), f"{shortcut.widget}: {shortcut.text}", ViewerModel)
        if action not in chosen and shortcut.key not in taken:
            action_manager.bind_shortcut(action, shortcut.key)
    return frozenset(name for name, shortcut in SHORTCUTS.items() if shortcut.key not in taken)


def _name(name: str) -> str:
    """What an action's function is called, by which napari tells active shortcuts, and the plugin its own."""
    return f"prosma_{name}"


def _command(name: str) -> Callable[[Any], None]:
    def command(viewer: Any) -> None:
        calls = _OFFERED[id(viewer), name]
        if name in WITHOUT_WIDGET:
            WITHOUT_WIDGET[name](viewer)
        elif calls:
            if why_not := calls[-1]():
                show_info(plain(str(why_not)))  # the widget may be behind another tab
        else:
            show_info(plain(f"Open {SHORTCUTS[name].widget} first: Plugins > ProSMA."))

    command.__name__ = _name(name)
    command.__annotations__ = {}  # napari passes the viewer on itself, as the first argument
    return command
