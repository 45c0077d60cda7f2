"""Opens dock widgets of this plugin by their names in the manifest."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from npe2 import PluginManifest
from npe2.manifest.utils import import_python_name
from qtpy.QtWidgets import QWidget

if TYPE_CHECKING:
    import napari

MANIFEST = Path(__file__).parents[1] / "napari.yaml"


def open_dock(viewer: napari.Viewer, name: str, *args: Any) -> Any:
    """Bring the widget of this name to the front: the docked one, else a new one in a tab.

    Parameters
    ----------
    viewer : napari.Viewer
    name : str
        As in the manifest: the menu then finds the same widget.
    *args
        What a new widget is made with, beside the viewer.
    """
    title = f"{name} (napari-prosma)"  # what napari calls a plugin's widget
    widget = viewer.window.dock_widgets.get(title)
    if widget is None:
        widget = import_python_name(_widgets()[name])(viewer, *args)
        viewer.window.add_dock_widget(widget, name=title, area="right", tabify=True)
    dock = widget.parent()
    if isinstance(dock, QWidget):
        dock.show()
        dock.raise_()
    return widget


@cache
def _widgets() -> dict[str, str]:
    """Where each widget of the manifest is, by its name."""
    contributions = PluginManifest.from_file(MANIFEST).contributions
    places = {command.id: str(command.python_name) for command in contributions.commands or ()}
    return {widget.display_name: places[widget.command] for widget in contributions.widgets or ()}
