"""What happens in the viewer, told to the controller."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from napari_prosma.each import each

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Layer

LAYER_EVENTS = ("data", "scale", "translate", "rotate", "shear", "affine", "units", "axis_labels")
"""Events after which a layer is read again."""


class ViewerWatch:
    """Listens to a viewer and to one of its layers until it is closed.

    Parameters
    ----------
    viewer : ViewerModel
    inserted : callable
        Called with the event of a new layer.
    changed : callable
        Called when layers were removed, reordered or renamed, or when the followed layer changed.
    moved : callable
        Called when the view was moved.
    selected : callable
        Called when other layers were selected.
    """

    def __init__(
        self,
        viewer: ViewerModel,
        inserted: Callable[[Any], None],
        changed: Callable[[], None],
        moved: Callable[[], None],
        selected: Callable[[], None],
    ) -> None:
        self._changed, self._selected = changed, selected
        self._layer: Layer | None = None
        events = viewer.layers.events
        self._wires = [(events.inserted, inserted)]
        self._wires += [(event, self._on_change) for event in (events.removed, events.reordered, events.renamed)]
        self._moved = moved
        self._wires += [(event, self._on_move) for event in (viewer.dims.events, viewer.scene.camera.events)]
        self._wires.append((viewer.layers.selection.events.changed, self._on_select))
        for event, callback in self._wires:
            event.connect(callback)

    def follow(self, layer: Layer | None) -> None:
        """Listen to this layer, and to no other."""
        for name in LAYER_EVENTS:
            if self._layer is not None:
                self._layer.events[name].disconnect(self._on_change)
            if layer is not None:
                layer.events[name].connect(self._on_change)
        self._layer = layer

    def close(self) -> None:
        """Listen no longer."""
        wires = (functools.partial(event.disconnect, callback) for event, callback in self._wires)
        each("A viewer could not be left", lambda: self.follow(None), *wires)

    def _on_change(self, _event: Any) -> None:
        self._changed()

    def _on_move(self, _event: Any) -> None:
        self._moved()

    def _on_select(self, _event: Any) -> None:
        self._selected()
