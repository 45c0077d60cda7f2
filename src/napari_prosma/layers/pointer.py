"""What lies under the mouse pointer: not asked for in 3D before the pointer has moved. No Qt."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from napari_prosma.layers.contours import one_per_viewer

if TYPE_CHECKING:
    from napari.components import ViewerModel


class PointerView:
    """Keeps a viewer in 3D from asking what lies under a pointer of which it does not know where it points.

    Napari learns that from the next move of the mouse. Until then its line of status fails for Labels layers with a
    features table ("len() of unsized object", napari 0.9.2), in whoever adds or selects such a layer. So the pointer
    counts as not over the canvas meanwhile.

    Parameters
    ----------
    viewer : napari.viewer.Viewer or ViewerModel
    """

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer, self._waits = weakref.ref(viewer), False
        viewer.dims.events.ndisplay.connect(self._turned)
        viewer.events.mouse_over_canvas.connect(self._entered)
        viewer.mouse_move_callbacks.append(self._moved)
        self._turned()

    def _turned(self, _event: Any = None) -> None:
        viewer = self._viewer()
        if viewer is not None and viewer.dims.ndisplay == 3:
            self._waits = True
            viewer.mouse_over_canvas = False

    def _entered(self, _event: Any) -> None:
        viewer = self._viewer()
        if viewer is not None and self._waits:
            viewer.mouse_over_canvas = False

    def _moved(self, viewer: ViewerModel, _event: Any) -> None:
        if self._waits:
            self._waits = False
            viewer.mouse_over_canvas = True


pointer_view = one_per_viewer(PointerView)
"""The one of a viewer."""
