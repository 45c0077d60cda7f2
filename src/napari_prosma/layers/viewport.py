"""The viewer: what of a layer is in view, and events that controllers follow."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from math import ceil, floor
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Labels
from numpy.typing import NDArray

from napari_prosma.cleanup import run_all
from napari_prosma.layers.placement import Placement
from napari_prosma.layers.results import PAINTING
from napari_prosma.layers.scan import LayerScan
from prosma_core.data.geometry import SPATIAL_AXES

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Layer


Region = tuple[tuple[int, int], ...]


class FittedView:
    """Keeps layers that are fitted to the canvas fitted while the canvas changes its size; not what a person moved.

    Parameters
    ----------
    viewer : napari.Viewer or ViewerModel
    """

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer, self._fitted = viewer, False
        if not viewer.layers:
            return
        before = self._camera
        viewer.fit_to_view()
        if self._camera == before:
            self._seen, self._fitted = before, True
            viewer.canvas.events.size.connect(self._resized)
        else:  # somebody has moved it
            viewer.scene.camera.center, viewer.scene.camera.zoom = before

    def end(self) -> None:
        """Leave the camera alone from now on."""
        if self._fitted:
            self._fitted = False
            self._viewer.canvas.events.size.disconnect(self._resized)

    def _resized(self, _event: Any = None) -> None:
        if self._camera != self._seen:
            self.end()
            return
        self._viewer.fit_to_view()
        self._seen = self._camera

    @property
    def _camera(self) -> tuple[tuple[float, ...], float]:
        camera = self._viewer.scene.camera
        return tuple(camera.center), camera.zoom


SEEN = 0.05
"""Share of the canvas that a scan covers at least, and of a scan that the canvas shows, for it to be seen."""


def bring_into_view(viewer: ViewerModel, layer: Image) -> None:
    """Fit the view to a scan that was opened beside others, where it cannot be seen; not while labels are painted.

    It cannot be seen outside of the canvas or of the slice that is displayed, nor where it is far smaller or larger
    than what the canvas shows, unless the other layers are so, too: a person has zoomed then.

    Parameters
    ----------
    viewer : napari.Viewer or ViewerModel
        It has taken the layer up: its sliders are those of all layers.
    layer : napari.layers.Image
    """
    active = viewer.layers.selection.active
    others = [x for x in viewer.layers if x is not layer and isinstance(x, Image | Labels)]
    if not others or (isinstance(active, Labels) and str(active.mode) in PAINTING):
        return
    lead, (low, high) = viewer.dims.ndim - layer.ndim, _extent(layer, viewer)
    for axis in set(range(layer.ndim)) - set(_displayed(layer, viewer)):
        if not low[axis] <= viewer.dims.point[lead + axis] <= high[axis]:
            viewer.dims.set_point(lead + axis, float(low[axis] + high[axis]) / 2)
    shares = _shares(layer, viewer)
    if min(shares) >= SEEN or (max(shares) > 0 and all(min(_shares(x, viewer)) < SEEN for x in others)):
        return
    shown, places = _displayed(layer, viewer), _on_canvas(layer, viewer)
    size, canvas = (high - low)[shown], np.asarray(viewer.canvas.viewbox_size(viewer.layers), float)
    center = np.asarray(viewer.scene.camera.center, float)
    center[places] = (low + high)[shown] / 2
    viewer.scene.camera.center = tuple(float(x) for x in center)
    room = canvas.min() / np.linalg.norm(size) if viewer.dims.ndisplay == 3 else (canvas[places] / size).min()
    viewer.scene.camera.zoom = 0.95 * float(room)


def _extent(layer: Any, viewer: Any) -> NDArray[np.float64]:
    """Lowest and highest world coordinates of a layer in the units of the viewer, shape (2, axes of the layer)."""
    shape = (layer.data[0] if layer.multiscale else layer.data).shape[: layer.ndim]
    ends = np.stack([np.full(layer.ndim, -0.5), np.asarray(shape, float) - 0.5])
    matrix = _world(layer, viewer)
    each = matrix[:-1, :-1].T[None] * ends[:, :, None]  # (2, axis of the layer, axis of the world)
    extent: NDArray[np.float64] = np.stack([each.min(axis=0).sum(axis=0), each.max(axis=0).sum(axis=0)])
    return extent + matrix[:-1, -1]


def _shares(layer: Any, viewer: Any) -> tuple[float, float]:
    """Share of the canvas that a layer covers, and of the layer that the canvas shows; of the axes displayed.

    Both are 1 where none of its axes is displayed.
    """
    shown, places = _displayed(layer, viewer), _on_canvas(layer, viewer)
    low, high = _extent(layer, viewer)[:, shown]
    canvas = np.asarray(viewer.canvas.viewbox_size(viewer.layers), float)
    canvas = np.full(3, canvas.max()) if viewer.dims.ndisplay == 3 else canvas
    half = canvas[places] / viewer.scene.camera.zoom / 2
    center = np.asarray(viewer.scene.camera.center, float)[places]
    both = np.prod(np.clip(np.minimum(high, center + half) - np.maximum(low, center - half), 0, None))
    return float(both / np.prod(2 * half)), float(both / np.prod(high - low))


def view_box(layer: Any, scan: LayerScan, viewer: Any) -> Region | None:
    """Box of a scan that lies inside the canvas; the whole extent along axes that are not displayed, and in 3D view.

    Parameters
    ----------
    layer : napari.layers.Layer
    scan : LayerScan
        Of this layer.
    viewer : napari.Viewer or ViewerModel

    Returns
    -------
    tuple of (start, stop) or None
        In voxels of the scan per spatial axis, in canonical order; None where nothing of it is in view.
    """
    box = _whole(scan)
    shown = _displayed(layer, viewer)
    if viewer.dims.ndisplay == 2 and shown:
        places = _on_canvas(layer, viewer)
        center = np.asarray(viewer.scene.camera.center, float)[places]
        half = np.asarray(viewer.canvas.viewbox_size(viewer.layers), float)[places] / viewer.scene.camera.zoom / 2
        to_data = np.linalg.inv(_world(layer, viewer)[np.ix_([*shown, -1], [*shown, -1])])
        low, high = center - half, center + half
        corners = np.stack(np.meshgrid(*zip(low, high, strict=True), indexing="ij"), axis=-1).reshape(-1, len(shown))
        inside = corners @ to_data[:-1, :-1].T + to_data[:-1, -1]
        for place, axis in enumerate(shown):
            box[axis] = _voxels(layer, scan, axis, float(inside[:, place].min()), float(inside[:, place].max()))
    return _region(scan, box)


def current_slice(layer: Any, scan: LayerScan, viewer: Any) -> Region | None:
    """The slice of a scan that is displayed: one voxel thick along spatial axes that have a slider.

    Parameters
    ----------
    layer, scan, viewer
        As in `view_box`.

    Returns
    -------
    tuple of (start, stop) or None
        As in `view_box`; None in 3D view and where the viewer's position lies outside of the scan.
    """
    if viewer.dims.ndisplay == 3:
        return None
    box = _whole(scan)
    for axis, voxel in _at_sliders(layer, scan, viewer).items():
        box[axis] = (voxel, voxel + 1) if 0 <= voxel < scan.data.shape[axis] else (0, 0)
    return _region(scan, box)


def slice_in_view(layer: Any, scan: LayerScan, viewer: Any, axis: str) -> tuple[int, int] | None:
    """Time point and slice that are displayed.

    Parameters
    ----------
    layer, scan, viewer
        As in `view_box`.
    axis : str
        Letter of the slices' axis; empty for a picture, whose one slice is 0.

    Returns
    -------
    tuple of (int, int) or None
        None in 3D view, where the axis has no slider, and where the viewer's position lies outside of the scan.
    """
    if viewer.dims.ndisplay == 3:
        return None
    at = {scan.axes[number]: voxel for number, voxel in _at_sliders(layer, scan, viewer).items()}
    wanted = [letter for letter in ("t", axis) if letter and letter in scan.axes]
    if any(letter not in at or not 0 <= at[letter] < scan.data.shape[scan.axes.index(letter)] for letter in wanted):
        return None
    return at.get("t", 0), at.get(axis, 0)


def show_slice(layer: Any, scan: LayerScan, viewer: Any, axis: str, index: tuple[int, int]) -> None:
    """Move the sliders of the viewer to a time point and a slice; those of other axes stay.

    Parameters
    ----------
    layer, scan, viewer, axis
        As in `slice_in_view`.
    index : tuple of (int, int)
        As it gives it.
    """
    point = np.append(np.asarray(viewer.dims.point, float)[-layer.ndim :], 1)
    matrix = _world(layer, viewer)
    data = np.linalg.solve(matrix, point)
    moved = [(scan.axes.index(x), i) for x, i in zip(("t", axis), index, strict=True) if x and x in scan.axes]
    for number, voxel in moved:
        factor = _factor(layer, scan, number)
        data[number] = (voxel + 0.5) * factor - 0.5
    there = matrix @ data
    lead = viewer.dims.ndim - layer.ndim
    for number, _ in moved:
        viewer.dims.set_point(lead + number, float(there[number]))


def _at_sliders(layer: Any, scan: LayerScan, viewer: Any) -> dict[int, int]:
    """Voxel of the scan, which may lie outside of it, along each axis of the layer that has a slider."""
    shown = _displayed(layer, viewer)
    hidden = [axis for axis in range(layer.ndim) if axis not in shown]
    if not hidden:
        return {}
    point = np.asarray(viewer.dims.point, float)[-layer.ndim :]
    to_data = np.linalg.inv(_world(layer, viewer))[np.ix_([*hidden, -1], [*hidden, -1])]
    found = to_data[:-1, :-1] @ point[hidden] + to_data[:-1, -1]
    return {a: floor((np.round(v) + 0.5) / _factor(layer, scan, a)) for a, v in zip(hidden, found, strict=True)}


def slab_in_view(layer: Any, scan: LayerScan, viewer: Any, start: tuple[int, ...], stop: tuple[int, ...]) -> bool:
    """Whether a box of a result (axes of ``scan.spec.labels_spec()``) shows in the current view."""
    if viewer.dims.ndisplay == 3:
        return True
    region = current_slice(layer, scan, viewer)
    n = scan.spec.spatial_ndim
    return region is not None and all(
        a < high and b > low for (low, high), a, b in zip(region, start[-n:], stop[-n:], strict=True)
    )


def voxel_at(scan: LayerScan, viewer: Any, position: Sequence[float]) -> dict[str, int] | None:
    """The voxel of a scan at a place of the viewer.

    Parameters
    ----------
    scan : LayerScan
    viewer : napari.Viewer or ViewerModel
    position : sequence of float
        World coordinates, one per axis of the viewer.

    Returns
    -------
    dict or None
        Index along each of the scan's axes, by letter (colors are no axis); None where the place lies outside.
    """
    placement = scan.placement
    n = placement.ndim
    if len(position) < n:
        return None
    point = np.append(np.asarray(position[-n:], np.float64), 1)
    index = np.floor(np.linalg.solve(_in_viewer(placement, viewer), point)[:-1] + 0.5).astype(int)
    if np.any(index < 0) or np.any(index >= np.asarray(scan.data.shape[:n])):
        return None
    return dict(zip(scan.axes, index.tolist(), strict=False))


def shown_channel(layer: Any, viewer: Any) -> int:
    """Where the slider of a map's channels stands; the channels are the first axis of its layer."""
    return round(float(viewer.dims.point[viewer.dims.ndim - layer.ndim]))


def show_channel(layer: Any, viewer: Any, channel: int) -> None:
    """Move the slider of a map's channels."""
    viewer.dims.set_point(viewer.dims.ndim - layer.ndim, channel)


def _whole(scan: LayerScan) -> dict[int, tuple[int, int]]:
    return {axis: (0, int(size)) for axis, size in enumerate(scan.data.shape)}


def _region(scan: LayerScan, box: dict[int, tuple[int, int]]) -> Region | None:
    """Box per layer axis as a region per spatial axis; None where any axis has nothing in it."""
    if any(stop <= start for start, stop in box.values()):
        return None
    return tuple(box[scan.axes.index(letter)] for letter in scan.spec.axes if letter in SPATIAL_AXES)


def _displayed(layer: Any, viewer: Any) -> list[int]:
    """The layer's axes that are displayed; a viewer may have more axes than the layer, in front."""
    lead = viewer.dims.ndim - layer.ndim
    return [axis - lead for axis in viewer.dims.displayed if axis >= lead]


def _on_canvas(layer: Any, viewer: Any) -> NDArray[np.int_]:
    """Where these axes are among those of the canvas and the camera, counted from the last, which is -1."""
    displayed = list(viewer.dims.displayed)
    lead = viewer.dims.ndim - layer.ndim
    return np.array([displayed.index(lead + axis) - len(displayed) for axis in _displayed(layer, viewer)], int)


def _world(layer: Any, viewer: Any) -> NDArray[np.float64]:
    """The layer's voxel to world matrix in the units of the viewer."""
    return _in_viewer(Placement.of(layer), viewer)


def _in_viewer(placement: Placement, viewer: Any) -> NDArray[np.float64]:
    units = viewer.dims.units
    if units is None or len(units) < placement.ndim:
        return placement.matrix
    own = placement.physical.units
    factors = [float((1 * a).to(b).magnitude) for a, b in zip(own, units[-placement.ndim :], strict=True)]
    scaled: NDArray[np.float64] = np.diag([*factors, 1.0]) @ placement.matrix
    return scaled


def _factor(layer: Any, scan: LayerScan, axis: int) -> float:
    """How many of the finest level's voxels one of the scan's covers."""
    finest = layer.data[0].shape if layer.multiscale else layer.data.shape
    return float(finest[axis] / scan.data.shape[axis])


def _voxels(layer: Any, scan: LayerScan, axis: int, low: float, high: float) -> tuple[int, int]:
    """Voxels of the scan that a stretch in the finest level's coordinates touches."""
    factor, size = _factor(layer, scan, axis), int(scan.data.shape[axis])
    return max(0, floor((low + 0.5) / factor)), min(size, ceil((high + 0.5) / factor))


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
    arrived : callable
        Called with the event of a new layer once the viewer has taken it up.
    """

    def __init__(
        self,
        viewer: ViewerModel,
        inserted: Callable[[Any], None],
        changed: Callable[[], None],
        moved: Callable[[], None],
        selected: Callable[[], None],
        arrived: Callable[[Any], None],
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
        events.inserted.connect(arrived, position="last")
        self._wires.append((events.inserted, arrived))

    def follow(self, layer: Layer | None) -> None:
        """Listen to this layer only."""
        for name in LAYER_EVENTS:
            if self._layer is not None:
                self._layer.events[name].disconnect(self._on_change)
            if layer is not None:
                layer.events[name].connect(self._on_change)
        self._layer = layer

    def close(self) -> None:
        """Disconnect."""
        wires = (functools.partial(event.disconnect, callback) for event, callback in self._wires)
        run_all("A viewer could not be left", lambda: self.follow(None), *wires)

    def _on_change(self, _event: Any) -> None:
        self._changed()

    def _on_move(self, _event: Any) -> None:
        self._moved()

    def _on_select(self, _event: Any) -> None:
        self._selected()


REFRESHED = "_extent_augmented"
"""Event of `Layer.refresh`, which a plugin or script calls that has written into the layer's array.

It is that of a move of the viewer's sliders, too, after which another slice of the layer is shown.
"""


def on_change(layer: Any, names: Iterable[str], call: Callable[[Any], object]) -> Callable[[], None]:
    """Call with those events of a layer, as far as it has them, that are no mere move to another slice of it.

    Returns
    -------
    callable
        Ends it.
    """
    shown = [_slice(layer)]

    def heard(event: Any) -> None:
        before, shown[0] = shown[0], _slice(layer)
        if event.type != REFRESHED or shown[0] == before:
            call(event)

    wires = [layer.events[name] for name in names if name in layer.events]
    for wire in wires:
        wire.connect(heard)

    def leave() -> None:
        for wire in wires:
            wire.disconnect(heard)

    return leave


def _slice(layer: Any) -> Any:
    """What says which slice of a layer is shown; None in a napari that has no such thing."""
    return getattr(layer, "_slice_input", None)
