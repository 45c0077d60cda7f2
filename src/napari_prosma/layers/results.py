"""Results as layers on the grid of the layer they were made from, and the notes on how they were made."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Labels, Layer
from napari.utils.colormaps import DirectLabelColormap
from numpy.typing import NDArray
from psygnal import Signal

import prosma_core
from napari_prosma.layers.labels import fit_brush, write_columns
from napari_prosma.layers.numbers import NUMBERS
from napari_prosma.layers.placement import Placement
from napari_prosma.layers.scan import METADATA, LayerScan
from napari_prosma.layers.slices import keep, listen, marks_of, packed, remember
from napari_prosma.layers.stored import DiskArray
from prosma_core.config.model import ClassInfo
from prosma_core.data.geometry import ImageSpec
from prosma_core.data.slices import SliceStates
from prosma_core.errors import ProsmaError
from prosma_core.io.class_notes import CLASSES, classes_note
from prosma_core.io.notes import SLICES, slices_note

if TYPE_CHECKING:
    from napari.components import ViewerModel


class Looks:
    """How results and scans look in all viewers of this process; the session of the widgets remembers it.

    Attributes
    ----------
    changed : Signal
        Emitted after a change.
    contours : bool
        Whether results and previews are drawn as contours, not filled.
    letters : bool
        Whether letters at the edges of the canvas tell the directions of a patient.
    recalled : bool
        Whether these are the remembered ones, or newer.
    """

    changed = Signal()

    def __init__(self) -> None:
        self.contours, self.letters, self.recalled = False, True, False

    def choose(self, *, contours: bool | None = None, letters: bool | None = None) -> None:
        """Change what is given."""
        self.recalled = True
        before = self.contours, self.letters
        self.contours = self.contours if contours is None else contours
        self.letters = self.letters if letters is None else letters
        if before != (self.contours, self.letters):
            self.changed.emit()


LOOKS = Looks()
"""Those of this process."""
OBJECTS = "objects"
"""Key in a layer's metadata: its values are numbers of objects."""
PREVIEW = "preview"
"""Key in a layer's metadata: it shows a model in training."""
CORRECTED = "corrected"
"""Key in a layer's metadata: a copy of a result that is painted in, which stays filled."""
OUTLINED = "outlined"
"""Key in a layer's metadata: it is drawn as contours in any case, as what lies below it is to be seen."""
PAINTING = ("paint", "fill", "erase", "polygon")
"""Tools of a Labels layer that change voxels, by napari's names for them."""


def labels_layer(
    scan: LayerScan,
    labels: NDArray[Any] | DiskArray,
    classes: Sequence[ClassInfo],
    name: str,
    provenance: dict[str, str],
) -> Labels:
    """A Labels layer on a scan.

    Parameters
    ----------
    scan : LayerScan
    labels : ndarray or DiskArray, integer, shape ``scan.spec.labels_spec().shape``
        Shown as it is, without a copy: what is written into it later shows after `refresh`.
    classes : sequence of ClassInfo
        Names and colors; the first is the background.
    name : str
    provenance : dict of str
        How it was made; kept in the layer's metadata and written into files.

    Returns
    -------
    Labels
        Transform, units and axis labels are the scan's, without its channel axis. A channel axis that is not the
        first stays, one voxel wide, so that the labels show at every channel. Before anything is painted in it, it
        remembers what a model gave (see `napari_prosma.layers.slices`).
    """
    placement, axes, shown = _without_channel(scan, labels)
    notes = scan.notes(axes, ImageSpec.labels_spec)
    layer = Labels(
        shown,
        name=name,
        **placement.arguments(),
        **class_arguments(classes),
        metadata={METADATA: notes | {"provenance": dict(provenance), "classes": tuple(classes)}},
    )
    return _remembering(layer)


def objects_layer(
    scan: LayerScan,
    objects: NDArray[Any],
    features: dict[str, Any],
    name: str,
    provenance: dict[str, str],
    *,
    visible: bool = True,
) -> Labels:
    """A Labels layer on a scan whose numbers are objects, in napari's own colors; other parameters as `labels_layer`.

    Parameters
    ----------
    objects : ndarray, integer, shape ``scan.spec.labels_spec().shape``
        Shown as it is, without a copy.
    features : dict
        Columns with a value for each object; ``index`` holds its number. Those with sizes go as soon as its voxels
        change (see `napari_prosma.layers.numbers`).
    """
    placement, axes, shown = _without_channel(scan, objects)
    layer = Labels(
        shown,
        name=name,
        visible=visible,
        features={key: values for key, values in features.items() if key not in NUMBERS},
        **placement.arguments(),
        metadata={METADATA: scan.notes(axes, ImageSpec.labels_spec) | {"provenance": dict(provenance), OBJECTS: True}},
    )
    write_columns(layer, {key: values for key, values in features.items() if key in NUMBERS})
    return _remembering(layer)


_TOOLS = ("polygon", "brush_stroke")
"""What napari draws a Labels layer's tools with, by its names for them."""


def tools_later(layer: Labels) -> Labels:
    """The layer, for which napari makes what it draws its tools with once one is chosen.

    To make these visuals is half of the time that adding the layer takes.
    """
    for tool in _tools(layer):
        tool.visible = False
    layer.events.mode.connect(_show_tools)
    return layer


def _tools(layer: Any) -> list[Any]:
    overlays = getattr(layer, "_overlays", {})
    return [overlays[name] for name in _TOOLS if name in overlays]


def _show_tools(event: Any) -> None:
    if event.source.mode != "pan_zoom":
        for tool in _tools(event.source):
            tool.visible = True


def _remembering(layer: Labels) -> Labels:
    """The layer, which remembers what a model gave when a tool that changes voxels is chosen."""
    layer.events.mode.connect(_before_painting)
    return tools_later(layer)


def _before_painting(event: Any) -> None:
    layer = event.source
    if layer.mode in PAINTING:
        with contextlib.suppress(ProsmaError):  # it cannot be told what is painted in it
            remember(layer)


def image_layer(
    scan: LayerScan,
    data: NDArray[Any] | DiskArray,
    axes: str,
    name: str,
    provenance: dict[str, str],
    *,
    channel_names: tuple[str, ...] = (),
    colormap: str = "gray",
    contrast_limits: tuple[float, float] = (0.0, 1.0),
    visible: bool = True,
) -> Image:
    """An Image layer on a scan: probabilities (a slider steps through the classes) or entropy.

    Parameters
    ----------
    scan : LayerScan
    data : ndarray or DiskArray
        Shown as it is, without a copy.
    axes : str
        Canonical letters of `data`: those of the scan without channels, or with c for one channel per class.
    channel_names : tuple of str
        Of the channels in `data`.
    """
    if "c" not in axes:
        placement, layer_axes, shown = _without_channel(scan, data)
        notes = scan.notes(layer_axes, ImageSpec.labels_spec)
    else:
        placement, layer_axes = _with_channel(scan)
        shown = data.transpose(tuple(axes.index(letter) for letter in layer_axes))
        names = channel_names or tuple(f"channel {i}" for i in range(data.shape[axes.index("c")]))
        notes = scan.notes(layer_axes, lambda spec: spec.with_channels(names))
    return Image(
        shown,
        name=name,
        rgb=False,
        colormap=colormap,
        contrast_limits=contrast_limits,
        visible=visible,
        **placement.arguments(),
        metadata={METADATA: notes | {"provenance": dict(provenance)}},
    )


def drawing_layer(scan: LayerScan, name: str) -> Labels:
    """An empty Labels layer on a scan, to be painted by hand."""
    placement, axes, shown = _without_channel(scan, np.zeros(scan.spec.labels_spec().shape, np.uint8))
    notes = scan.notes(axes, ImageSpec.labels_spec)
    layer = Labels(shown, name=name, **placement.arguments(), metadata={METADATA: notes})
    fit_brush(layer)
    return layer


def editable_copy(layer: Labels, name: str | None = None) -> Labels:
    """A Labels layer with a copy of the voxels, to be corrected by hand; it keeps geometry, colors and metadata.

    It remembers what it was made from (see `napari_prosma.layers.slices`): the voxels that the model gave.
    """
    copy = Labels(
        np.array(layer.data),
        name=name or f"{layer.name} corrected",
        **Placement.of(layer).arguments(),
        colormap=layer.colormap,
        features=layer.features.copy(),
        metadata=layer.metadata | {METADATA: dict(layer.metadata.get(METADATA) or {}) | {CORRECTED: True}},
    )
    marks = marks_of(copy)
    if marks is not None and marks.base is not None and marks.base.later:  # the file may be replaced
        keep(copy, replace(marks, base=packed(copy).base))
    remember(copy)
    listen(copy)
    fit_brush(copy)
    return copy


def paint_in(viewer: ViewerModel, layer: Labels) -> None:
    """Have a layer painted in, which is added where it is not there: shown, selected, with the brush."""
    if layer not in viewer.layers:
        viewer.add_layer(layer)
    layer.visible = True
    viewer.layers.selection.active = layer
    layer.mode = "paint"


def class_arguments(classes: Sequence[ClassInfo]) -> dict[str, Any]:
    """Colors and the features table (a row per class) of a Labels layer."""
    colors: dict[int | None, Any] = {c.value: c.color for c in classes[1:]}
    colors |= {classes[0].value: "transparent", None: "white"}
    features = {"index": [c.value for c in classes], "name": [c.name for c in classes]}
    return {"colormap": DirectLabelColormap(color_dict=colors), "features": features}


def is_result(layer: Any) -> bool:
    """Whether a layer was made by this plugin from a scan."""
    return bool((layer.metadata.get(METADATA) or {}).get("provenance"))


def hide_results(viewer: ViewerModel, scan: LayerScan) -> None:
    """Hide what was made from a scan that is not there any more, of this plugin's layers; none is lost."""
    for layer in viewer.layers:
        own = layer.metadata.get(METADATA) or {}
        notes, path = own.get("provenance") or {}, own.get("path")
        if scan.path is None:
            of_it = path is None and notes.get("source") == scan.name
        else:
            of_it = path == str(scan.path) if path else notes.get("source") == scan.path.name
        if notes and of_it:
            layer.visible = False


def refresh(layer: Any) -> None:
    """Show what was written into a layer's array since; draws the current slice only."""
    layer.refresh(thumbnail=False, highlight=False, extent=False)


def show_labels(layer: Labels, scan: LayerScan, labels: NDArray[Any]) -> None:
    """Show another result on the same scan in a layer that `labels_layer` made; shape as there."""
    _, _, shown = _without_channel(scan, labels)
    layer.data = shown
    if is_result(layer) and marks_of(layer) is not None:  # those of the result before
        keep(layer, packed(layer))


def _without_channel(scan: LayerScan, data: Any) -> tuple[Placement, str, Any]:
    """Placement, axes and array (a view) of a result without channels, for data in canonical order."""
    axes, placement = scan.axes, scan.placement
    kept = "".join(letter for letter in axes if letter != "c")
    canonical = scan.spec.labels_spec().axes
    shown = data if kept == canonical else data.transpose(tuple(canonical.index(letter) for letter in kept))
    if "c" not in axes or scan.rgb:
        return placement, kept, shown
    at = axes.index("c")
    if at == 0:
        return placement.without(0), kept, shown
    wide = shown.expand(at) if isinstance(shown, DiskArray) else np.expand_dims(shown, at)
    return placement.spread(at, scan.data.shape[at]), axes, wide


def _with_channel(scan: LayerScan) -> tuple[Placement, str]:
    """Placement and axes of a result with a channel axis of its own, where the scan's was or in front of space."""
    if "c" in scan.axes and not scan.rgb:
        return scan.placement, scan.axes
    axes = scan.axes.replace("c", "")
    return scan.placement.with_channel(), "c" + axes


def file_notes(
    provenance: Mapping[str, str], classes: Sequence[ClassInfo], kind: str, states: SliceStates | None = None
) -> dict[str, str]:
    """Notes for a file.

    Parameters
    ----------
    provenance : mapping of str to str
        How a result was made; empty for a layer drawn by hand.
    classes : sequence of ClassInfo
        Empty where they are not known.
    kind : {"labels", "image"}
    states : SliceStates, optional
        Checked and edited slices of labels.
    """
    notes = dict(provenance) or {"program": f"napari-prosma {prosma_core.__version__}"}
    notes["kind"] = kind
    return notes | classes_note(classes) | slices_note(states)


def says_labels(notes: Mapping[str, Any], dtype: Any, axes: str) -> bool:
    """Whether a file with these notes holds class numbers: it says so, or is a result of whole numbers."""
    if "c" in axes or dtype.kind != "u" or not notes:
        return False
    return bool(notes.get("kind", "labels") == "labels")


def noted_provenance(notes: Mapping[str, Any]) -> dict[str, str]:
    """How a result was made, without what describes the file itself."""
    return {str(key): str(value) for key, value in notes.items() if key not in {"kind", CLASSES, SLICES}}


def add_layer_keep_selection(viewer: ViewerModel, layer: Layer, below: Layer | None = None) -> None:
    """Add a layer, on top or below another, without taking the selection from what the user works on.

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
