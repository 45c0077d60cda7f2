"""Numbers in the features tables of Labels layers, which hold only until the voxels change. No Qt."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from napari.layers import Labels

from napari_prosma.layers.contours import one_per_viewer
from napari_prosma.layers.results import is_result
from napari_prosma.layers.viewport import on_change

if TYPE_CHECKING:
    from napari.components import ViewerModel

VOXELS, PIXELS = "voxels", "pixels"
"""Columns with the number of voxels, of a picture pixels."""
ML, MM2, UM3, UM2 = "Volume (mL)", "Area (mm²)", "Volume (µm³)", "Area (µm²)"
"""Columns with sizes."""
PAINTED = ("data", "paint", "labels_update")
"""Events of a Labels layer after which its voxels may be others."""


def mean_heading(heading: str) -> str:
    """Heading of sizes that are means over the time points."""
    return f"Mean {heading[0].lower()}{heading[1:]}"


NUMBERS = {VOXELS, PIXELS, *(name for size in (ML, MM2, UM3, UM2) for name in (size, mean_heading(size)))}
"""Columns that are computed from the voxels."""


class NumbersView:
    """Takes the numbers out of the features table of any result in a viewer whose voxels change.

    Names of classes and objects stay. Who counts again adds the new numbers.

    Parameters
    ----------
    viewer : napari.viewer.Viewer or ViewerModel
    """

    def __init__(self, viewer: ViewerModel) -> None:
        self._followed = weakref.WeakSet[Any]()
        viewer.layers.events.inserted.connect(lambda event: self._follow(event.value))
        for layer in viewer.layers:
            self._follow(layer)

    def _follow(self, layer: Any) -> None:
        if isinstance(layer, Labels) and layer not in self._followed:
            self._followed.add(layer)
            on_change(layer, PAINTED, _forget_numbers)


numbers_view = one_per_viewer(NumbersView)
"""The one of a viewer."""


def _forget_numbers(event: Any) -> None:
    layer = event.source
    old = is_result(layer) and [name for name in layer.features.columns if name in NUMBERS]
    if old:
        layer.features = layer.features.drop(columns=old)
