"""Widgets of this plugin that open each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from qtpy.QtWidgets import QWidget

if TYPE_CHECKING:
    import napari

W = TypeVar("W", bound=QWidget)


def open_dock(viewer: napari.Viewer, title: str, make: Callable[[], W]) -> W:
    """The widget of this title, in front: the one that is docked, else a new one, in a tab beside the others.

    Parameters
    ----------
    viewer : napari.Viewer
    title : str
        As in the manifest: the menu then finds the same widget.
    make : callable
        Gives a new widget.
    """
    name = f"{title} (napari-prosma)"  # what napari calls a plugin's widget
    widget = viewer.window.dock_widgets.get(name)
    if widget is None:
        widget = make()
        viewer.window.add_dock_widget(widget, name=name, area="right", tabify=True)
    dock = widget.parent()
    if isinstance(dock, QWidget):
        dock.show()
        dock.raise_()
    found: W = widget
    return found
