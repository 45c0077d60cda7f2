"""Layers of gate maps, each at its own resolution on the grid of its scan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from napari.layers import Image, Labels, Layer, Points
from napari.utils.colormaps import Colormap, DirectLabelColormap
from numpy.typing import NDArray

from napari_prosma.layers.placement import Placement
from napari_prosma.layers.results import tools_later
from napari_prosma.layers.scan import METADATA, LayerScan
from prosma_core.config.inspection import MapInfo
from prosma_core.data.geometry import map_spec

OPACITY = 0.6
"""Of what lies over a scan that should still be seen."""
CROSS = 0.06
"""Size of a cross, as a share of the scan's shorter displayed side."""
NUDGE = 2.0**-10
"""Voxels by which a map is moved where napari's sliders would otherwise stand exactly between two slices."""
CHANNEL = "channel"
"""Label of the axis along which the channels of a map lie."""


def map_layer(
    scan: LayerScan,
    info: MapInfo,
    data: NDArray[Any],
    name: str,
    provenance: Mapping[str, str],
    *,
    colormap: Colormap | str,
    visible: bool,
) -> Image:
    """An Image layer with a map of shares, 0 to 1.

    Parameters
    ----------
    scan : LayerScan
        The scan that was inspected.
    info : MapInfo
        Where the map lies on it.
    data : ndarray, float, axes ``info.axes``
        Shown as it is, without a copy.
    name : str
    provenance : mapping of str to str
        How it was made; kept in the layer's metadata.
    """
    return _image(scan, info, data, name, provenance, colormap=colormap, visible=visible, opacity=OPACITY)


def field_layer(
    scan: LayerScan,
    info: MapInfo,
    data: NDArray[Any],
    name: str,
    provenance: Mapping[str, str],
    *,
    colormap: Colormap,
    limit: float,
    visible: bool,
) -> Image:
    """An Image layer with a field, whose colors are centered at 0; parameters as of `map_layer`.

    Parameters
    ----------
    limit : float
        Values from -limit to limit have the whole range of colors; see `set_limits`.
    """
    return _image(scan, info, data, name, provenance, colormap=colormap, visible=visible, limits=(-limit, limit))


def mask_layer(
    scan: LayerScan,
    info: MapInfo,
    data: NDArray[Any],
    name: str,
    provenance: Mapping[str, str],
    *,
    names: Sequence[str],
    colors: Sequence[str],
    visible: bool,
) -> Labels:
    """A Labels layer with a map of 0 and 1, whose names and colors are given; parameters as of `map_layer`."""
    placement, letters, shown = place_map(scan, info, data)
    table = {"index": list(range(len(names))), "name": list(names)}
    colored: dict[int | None, Any] = {**dict(enumerate(colors)), None: "white"}
    layer = Labels(
        shown.view(np.uint8) if shown.dtype == bool else shown,
        name=name,
        visible=visible,
        opacity=OPACITY,
        colormap=DirectLabelColormap(color_dict=colored),
        features=table,
        metadata=_metadata(scan, info, data, letters, provenance),
        **placement.arguments(),
    )
    return tools_later(layer)


def renew_layer(layer: Layer, like: Layer) -> bool:
    """Show the data of another layer in one that this module made, named as that one and where it lies.

    Only what differs is set, as napari computes much for each. Visibility, opacity and colors stay.

    Returns
    -------
    bool
        False, and nothing is done, where the layers differ in kind or number of axes.
    """
    if type(layer) is not type(like) or layer.ndim != like.ndim:
        return False
    layer.data = like.data
    Placement.of(like).put_on(layer)
    layer.metadata = like.metadata
    if layer.name != like.name:
        layer.name = like.name
    return True


def cross_layer(scan: LayerScan, voxel: Mapping[str, int], name: str, provenance: Mapping[str, str]) -> Points:
    """A Points layer with one cross on a voxel (index by letter) of a scan."""
    placement, _ = _plain(scan)
    spec = scan.spec
    shorter = min(spec.size(letter) for letter in spec.spatial_axes[-2:])
    return Points(
        _cross_place(scan, voxel),
        name=name,
        symbol="cross",
        size=max(3.0, CROSS * shorter),
        face_color="#ffe14d",
        border_color="#000000",
        border_width=0.08,
        metadata={METADATA: {"provenance": dict(provenance)}},
        **placement.arguments(),
    )


def move_cross(layer: Points, scan: LayerScan, voxel: Mapping[str, int]) -> None:
    """Put the cross on another voxel."""
    layer.data = _cross_place(scan, voxel)


def cross_voxel(layer: Points, scan: LayerScan) -> dict[str, int] | None:
    """Voxel (index by letter) the cross stands on, None where it is gone or outside of the scan."""
    if not len(layer.data):
        return None
    _, letters = _plain(scan)
    voxel = {letter: round(float(at)) for letter, at in zip(letters, layer.data[0], strict=True)}
    inside = all(0 <= at < scan.spec.size(letter) for letter, at in voxel.items())
    return voxel if inside else None


def set_limits(layer: Image, limit: float) -> None:
    """Let the colors of a field reach from -limit to limit."""
    if tuple(layer.contrast_limits) != (-limit, limit):
        layer.contrast_limits_range = (-limit, limit)
        layer.contrast_limits = (-limit, limit)


def place_map(scan: LayerScan, info: MapInfo, data: NDArray[Any]) -> tuple[Placement, str, NDArray[Any]]:
    """Placement, letters of the axes and array (a view) of a map's layer.

    Channels come in front, on a slider of their own: the scan's channels are another axis, along which the map is one
    voxel wide. A map that begins in front of the scan is drawn `NUDGE` further in.
    """
    channels = "c" in info.axes
    placement, letters = _plain(scan, keep_channel=channels)
    offsets = [_off_the_edge(offset) for offset in info.offset]
    where = {letter: (s, o) for letter, s, o in zip(scan.spec.spatial_axes, info.scale, offsets, strict=True)}
    steps = [where.get(letter, (1.0, 0.0)) for letter in letters]
    placement = placement.moved([s for s, _ in steps], [o for _, o in steps])
    own = ["c"] if channels else []
    order = [info.axes.index(letter) for letter in [*own, *letters.replace("c", "")]]
    shown = data.transpose(order)
    if "c" in letters:
        shown = np.expand_dims(shown, letters.index("c") + channels)
    if channels:
        placement, letters = placement.with_channel(CHANNEL), "c" + letters
    return placement, letters, shown


def _cross_place(scan: LayerScan, voxel: Mapping[str, int]) -> NDArray[np.float64]:
    _, letters = _plain(scan)
    return np.array([[float(voxel.get(letter, 0)) for letter in letters]])


def _off_the_edge(offset: float) -> float:
    """An offset, moved by `NUDGE` where the positions of a slider that begins there would be halves of voxels.

    napari counts a slider's positions from the first voxel of all layers: from -1.5, a scan's slices would be shown
    twice or left out, as halves are rounded.
    """
    return offset + NUDGE if offset < 0 and abs(offset % 1 - 0.5) < NUDGE else offset


def _plain(scan: LayerScan, *, keep_channel: bool = False) -> tuple[Placement, str]:
    """Placement and letters of a layer without channels on a scan.

    A channel axis of the scan's own that cannot be left out, or that is to be kept, is one voxel that covers it all.
    """
    letters, placement = scan.axes, scan.placement
    if scan.rgb:
        return placement, letters[:-1]
    if "c" not in letters:
        return placement, letters
    at = letters.index("c")
    if at == 0 and not keep_channel:
        return placement.without(0), letters[1:]
    return placement.spread(at, scan.data.shape[at]), letters


def _image(
    scan: LayerScan,
    info: MapInfo,
    data: NDArray[Any],
    name: str,
    provenance: Mapping[str, str],
    *,
    colormap: Colormap | str,
    visible: bool,
    opacity: float = 1.0,
    limits: tuple[float, float] = (0.0, 1.0),
) -> Image:
    placement, letters, shown = place_map(scan, info, data)
    return Image(
        shown,
        name=name,
        rgb=False,
        colormap=colormap,
        contrast_limits=limits,
        visible=visible,
        opacity=opacity,
        interpolation2d="nearest",
        metadata=_metadata(scan, info, data, letters, provenance),
        **placement.arguments(),
    )


def _metadata(
    scan: LayerScan, info: MapInfo, data: NDArray[Any], letters: str, provenance: Mapping[str, str]
) -> dict[str, Any]:
    axes = letters if len(set(letters)) == len(letters) else ""
    kept = scan.notes(axes, lambda spec: map_spec(spec, info, data.shape))
    return {METADATA: kept | {"provenance": dict(provenance)}}
