"""Layers added while a person works on others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari.layers import Layer

if TYPE_CHECKING:
    from napari.components import ViewerModel


def add_quietly(viewer: ViewerModel, layer: Layer, below: Layer | None = None) -> None:
    """Add a layer, on top or below another, without taking the selection from what the person works on.

    Nobody is told that napari selects what it adds: to show its controls for a moment takes time.
    """
    selection = viewer.layers.selection
    selected = set(selection)
    place = viewer.layers.index(below) if below is not None and below in viewer.layers else len(viewer.layers)
    if not selected:
        viewer.layers.insert(place, layer)
        return
    with selection.events.blocker_all():
        viewer.layers.insert(place, layer)
        viewer.layers.selection = selected
