"""Docks of this plugin's widgets: one of each in a window, in tabs beside each other, however they are opened."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from npe2 import PluginManifest
from npe2.manifest.utils import import_python_name
from qtpy.QtCore import QEvent, QObject, QTimer
from qtpy.QtWidgets import QDockWidget, QLabel, QMainWindow, QWidget

from napari_prosma.layers.viewport import FittedView

if TYPE_CHECKING:
    import napari

ROOM = 1000
"""Milliseconds, from when a dock is first seen, in which a view that nobody moved is fitted to the canvas anew."""
MANIFEST = Path(__file__).parents[1] / "napari.yaml"


def open_dock(viewer: napari.Viewer, title: str, *args: Any) -> Any:
    """Bring the widget of this title to the front: the docked one, else a new one in a tab.

    Parameters
    ----------
    viewer : napari.Viewer
    title : str
        Of the dock: names of plugin and widget in the manifest.
    *args
        What a new widget is made with, beside the viewer.
    """
    docked = viewer.window.dock_widgets.values()
    widget = next((each for each in docked if getattr(each, "TITLE", "") == title), None)
    if widget is None:
        name, place = _widgets()[title]
        widget = import_python_name(place)(viewer, *args)
        viewer.window.add_dock_widget(widget, name=name, area="right")
    dock = widget.parent()
    if isinstance(dock, QDockWidget):
        _raise(dock)
    return widget


@cache
def _widgets() -> dict[str, tuple[str, str]]:
    """Name in napari's menus, and place, of each widget of the manifest, by its title."""
    manifest = PluginManifest.from_file(MANIFEST)
    plugin, places = manifest.display_name, {c.id: str(c.python_name) for c in manifest.contributions.commands or ()}
    widgets = manifest.contributions.widgets or ()
    return {f"{plugin} {w.display_name}": (f"{w.display_name} ({plugin})", places[w.command]) for w in widgets}


def settle(view: Any, dock: QDockWidget) -> None:
    """Give a new dock its widget's title and a place beside its sisters; a second one of its kind makes way at once.

    napari knows a widget under one name where its menu opens it and under another where the command line does: it would
    open both.

    Parameters
    ----------
    view : QWidget
        Widget of this plugin, with `TITLE`.
    dock : QDockWidget
        Its dock, which is not in a window yet.
    """
    _Settled(view, dock)


class _Settled(QObject):
    """What is done with a dock; it lives as long as the dock."""

    def __init__(self, view: Any, dock: QDockWidget) -> None:
        super().__init__(dock)
        self._view, self._dock = view, dock
        self._first = dock
        self._placed = self._front = False
        self._fitted = FittedView(view.controller.viewer) if hasattr(view, "controller") else None
        self._taken = QTimer(self)  # until then the canvas makes room for the dock
        self._taken.setSingleShot(True)
        self._taken.setInterval(ROOM)
        self._taken.timeout.connect(self._leave_view)
        self._soon = QTimer(self)  # napari goes on with a new dock first
        self._soon.setSingleShot(True)
        self._soon.timeout.connect(self._come)
        self._shown = QTimer(self)  # napari sizes its first window of all right after it shows it
        self._shown.setSingleShot(True)
        self._shown.timeout.connect(self._keep_on_screen)
        dock.setWindowTitle(view.TITLE)
        dock.dockLocationChanged.connect(self._place)
        dock.topLevelChanged.connect(self._show_title)
        dock.visibilityChanged.connect(self._seen)
        dock.installEventFilter(self)

    def _place(self, *_: object) -> None:
        """Once it is in a window: beside its sisters, or away, where the window has such a widget."""
        window = self._dock.window()
        if self._placed or not isinstance(window, QMainWindow):
            return
        self._placed = True
        self._show_title()
        sisters = [each for each in _docks(window) if each is not self._dock]
        self._first = next((each for each in sisters if type(each.widget()) is type(self._view)), self._dock)
        near = next((each for each in sisters if not each.isFloating()), None)
        if near is not None:
            window.tabifyDockWidget(near, self._dock)
            self._soon.start()

    def _come(self) -> None:
        """Come to the front, or close for the one that is there already."""
        if self._first is not self._dock:
            dock: Any = self._dock
            dock.destroyOnClose()
        _raise(self._first)

    def _leave_view(self) -> None:
        """Leave the camera alone: the dock and the window have their sizes."""
        if self._fitted is not None:
            self._fitted.end()
            self._fitted = None

    def _show_title(self, *_: object) -> None:
        """Have napari's own title bar, which it makes anew for a floating dock, show the title."""
        bar = self._dock.titleBarWidget()
        for label in bar.findChildren(QLabel) if bar is not None else ():
            if label.text():
                label.setText(self._view.TITLE)

    def _seen(self, seen: bool) -> None:
        self._front = seen
        if seen and self._fitted is not None:
            self._taken.start()
            self._shown.start()

    def _keep_on_screen(self) -> None:
        """Make a window no larger than the screens: napari's first one takes all the width that its docks ask for."""
        window = self._dock.window()
        screen = None if window is None else window.screen()
        if window is None or screen is None or window.isMaximized() or window.isFullScreen():
            return
        frame = window.frameGeometry().size() - window.size()
        window.resize(window.size().boundedTo(screen.availableVirtualSize() - frame))

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """Come to the front where napari's menu, which opens and hides in turns, hides a tab that is behind another."""
        if event is not None and event.type() == QEvent.Type.Close:
            self._front = True  # it is closed as a tab, too
        if event is not None and event.type() == QEvent.Type.Hide and self._dock.isHidden() and not self._front:
            self._soon.start()
        return bool(super().eventFilter(watched, event))


def _docks(window: QWidget) -> list[QDockWidget]:
    """Docks of this plugin's widgets in a window."""
    return [dock for dock in window.findChildren(QDockWidget) if getattr(dock.widget(), "TITLE", "")]


def _raise(dock: QDockWidget) -> None:
    dock.show()
    dock.raise_()
