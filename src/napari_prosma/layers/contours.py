"""Results and previews of a viewer as contours, or filled. No Qt."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from napari.layers import Labels

from napari_prosma.layers.numbers import PAINTED, forget_numbers
from napari_prosma.layers.painting import guard_voxels
from napari_prosma.layers.results import CORRECTED, LOOKS, OBJECTS, OUTLINED, PAINTING, PREVIEW
from napari_prosma.layers.scan import METADATA, OPENED_AS
from napari_prosma.layers.slices import marks_of
from napari_prosma.layers.viewport import on_change
from prosma_core.io.notes import made_by_model

if TYPE_CHECKING:
    from napari.components import ViewerModel

THIN = 250
"""A contour is one pixel wide for so many pixels of the shorter side."""
WIDEST = 3
"""Most pixels of its width: what napari computes grows with its square."""
OPACITY = 0.7
"""Of a filled preview, as of napari's Labels layers; its contours are opaque."""
MOST_COMPARED = 200_000_000
"""Pixels that may be compared for the contours of a slice: about half a second of each time it is drawn."""

Made = TypeVar("Made")


class ContourView:
    """Draws the results and previews of a viewer as `LOOKS` says, and as what lies over what asks for.

    What a user chooses for a layer in napari's own controls stays until that changes. What a person paints is filled:
    layers that are drawn by hand, corrected copies, and a result once a tool that paints is chosen in it. A preview is
    filled only where nothing painted is visible: their colors would mix. In 3D napari draws no contours. Where
    a tool that paints is chosen, `guard_voxels` sees to it that there is something to paint in; where voxels change,
    `forget_numbers` that no old number stays in the features table.

    Parameters
    ----------
    viewer : napari.Viewer or ViewerModel
    """

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = weakref.ref(viewer)
        self._outlined = weakref.WeakKeyDictionary[Any, bool]()  # as last asked for here
        self._counted = weakref.WeakSet[Any]()  # whose numbers are forgotten
        self._flat = weakref.WeakKeyDictionary[Any, int]()  # widths in 2D, while the viewer is in 3D
        viewer.layers.events.inserted.connect(self._on_inserted)
        viewer.layers.events.removed.connect(self._on_removed)
        viewer.dims.events.ndisplay.connect(self._on_ndisplay)
        LOOKS.changed.connect(self._draw_all)
        for layer in viewer.layers:
            self._follow(layer)
        self._draw_all()

    def _follow(self, layer: Any) -> None:
        layer.events.visible.connect(self._draw_all)
        if isinstance(layer, Labels):
            layer.events.mode.connect(guard_voxels)
            layer.events.mode.connect(self._on_mode)
            layer.events.paint.connect(self._on_paint)
            if layer not in self._counted:
                self._counted.add(layer)
                on_change(layer, PAINTED, forget_numbers)

    def _on_inserted(self, event: Any) -> None:
        self._follow(event.value)
        self._draw_all()

    def _on_removed(self, event: Any) -> None:
        event.value.events.visible.disconnect(self._draw_all)
        self._draw_all()

    def _on_mode(self, event: Any) -> None:
        self._draw(event.source)

    def _on_paint(self, event: Any) -> None:
        """Keep that a result is a correction now; copies of the layer keep what they are."""
        layer = event.source
        if is_drawn(layer) and not is_painted(layer):
            layer.metadata = {**layer.metadata, METADATA: {**layer.metadata[METADATA], CORRECTED: True}}
            self._draw_all()

    def _draw_all(self, _event: Any = None) -> None:
        viewer = self._viewer()
        for layer in viewer.layers if viewer is not None else ():
            self._draw(layer)

    def _draw(self, layer: Any) -> None:
        viewer, own = self._viewer(), layer.metadata.get(METADATA) or {}
        if viewer is None:
            return
        mixed = bool(own.get(PREVIEW)) and any(map(_colors_of_a_person, viewer.layers))
        wanted = LOOKS.contours or mixed or bool(own.get(OUTLINED))
        if not (wanted or layer in self._outlined) or not is_drawn(layer):
            return
        outlined = wanted and layer.mode not in PAINTING and not is_painted(layer)
        before = self._outlined.get(layer, outlined and layer.contour > 0)
        self._outlined[layer] = outlined
        if outlined != before:
            self._set(layer, contour_width(layer) if outlined else 0)
            if own.get(PREVIEW):
                layer.opacity = 1.0 if outlined else OPACITY

    def _set(self, layer: Labels, width: int) -> None:
        self._flat.pop(layer, None)
        if width and self._is_flat(layer):
            self._flat[layer], width = width, 0
        if layer.contour != width:
            layer.contour = width

    def _is_flat(self, layer: Any) -> bool:
        viewer = self._viewer()
        return viewer is not None and viewer.dims.ndisplay == 3 and layer.ndim > 2

    def _on_ndisplay(self, _event: Any) -> None:
        """Fill what is seen in 3D: napari would warn of its contours whenever it draws, as it does once before this."""
        for layer in [layer for layer in self._outlined if layer.contour and self._is_flat(layer)]:
            self._set(layer, layer.contour)
        for layer in [layer for layer in self._flat if not self._is_flat(layer)]:
            self._set(layer, self._flat[layer])


def is_drawn(layer: Any) -> bool:
    """Whether a layer is a result of a model, or a preview, that can be drawn as contours."""
    own = layer.metadata.get(METADATA) or {}
    known = own.get("classes") or own.get(OBJECTS) or own.get(OPENED_AS) == "labels"
    return isinstance(layer, Labels) and bool(known and made_by_model(own.get("provenance", {})))


def is_painted(layer: Any) -> bool:
    """Whether a person painted in a result, here or before it was saved."""
    marks = marks_of(layer)
    painted = marks is not None and bool(marks.edited or marks.strokes)
    return painted or bool((layer.metadata.get(METADATA) or {}).get(CORRECTED))


def _colors_of_a_person(layer: Any) -> bool:
    """Whether labels are visible that are no result of a model, or corrected."""
    made = made_by_model((layer.metadata.get(METADATA) or {}).get("provenance", {}))
    return isinstance(layer, Labels) and layer.visible and (not made or is_painted(layer))


def contour_width(layer: Labels) -> int:
    """Pixels of a contour that is seen where all of a slice is in view; 0 where napari would take too long for it."""
    shape: tuple[int, ...] = (layer.data[-1] if layer.multiscale else layer.data).shape
    pixels = math.prod(sorted(shape[-3:])[-2:])
    wanted = min(WIDEST, max(1, round(min(shape[-2:]) / THIN)))
    widths = (width for width in range(wanted, 0, -1) if pixels * _compared(width) <= MOST_COMPARED)
    return next(widths, 0)


def _compared(width: int) -> int:
    """Pixels that napari compares with each other for one of a contour: a diamond of its width, and of one."""
    return 2 * width * (width + 1) + 1 + 5


def one_per_viewer(make: Callable[[ViewerModel], Made]) -> Callable[[ViewerModel], Made]:
    """A function that makes something for a viewer the first time, and gives it from then on."""
    known: dict[int, tuple[Callable[[], ViewerModel | None], Made]] = {}  # a viewer is not hashable

    def of(viewer: ViewerModel) -> Made:
        there, made = known.get(id(viewer), (None, None))
        if there is None or made is None or there() is not viewer:
            for key in [key for key, (reference, _) in known.items() if reference() is None]:
                del known[key]
            made = make(viewer)
            known[id(viewer)] = weakref.ref(viewer), made
        return made

    return of


contour_view = one_per_viewer(ContourView)
"""The one of a viewer."""


def toggle_contours(viewer: ViewerModel) -> None:
    """Draw all results and previews as contours, or filled where they are contours now; also those to come."""
    contour_view(viewer)
    LOOKS.choose(contours=not LOOKS.contours)
