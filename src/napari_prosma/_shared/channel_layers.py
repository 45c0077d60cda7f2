"""Several image layers as the channels of one scan, as napari opens an image with a channel axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from napari.layers import Image

from napari_prosma._shared.layer_scan import METADATA, LayerScan, read
from napari_prosma._shared.placement import same_grid
from prosma_core.errors import GeometryError, ProsmaError


def read_channels(layers: Sequence[Any]) -> LayerScan:
    """Layers of one channel each, on one grid, as one scan; voxels are not copied.

    Parameters
    ----------
    layers : sequence of napari.layers.Image
        In the order of the channels; their names are those of the channels.

    Raises
    ------
    GeometryError
        A layer has channels of its own, or two lie on different grids.
    """
    import dask.array as da

    scans = [read(layer) for layer in layers]
    first = scans[0]
    for scan in scans:
        if "c" in scan.axes:
            msg = f"{scan.name} has channels of its own: select layers of one channel each, or this one alone."
            raise GeometryError(msg)
        here = scan.placement.matrix, first.placement.matrix
        if (scan.axes, scan.spec.shape) != (first.axes, first.spec.shape) or not same_grid(*here, first.spec.spacing):
            msg = f"{first.name} and {scan.name} are no channels of one scan: their grids differ. Select one image."
            raise GeometryError(msg)
    names = tuple(scan.name for scan in scans)
    return replace(
        first,
        name=" + ".join(names),
        axes=f"c{first.axes}",
        spec=first.spec.with_channels(names),
        data=da.stack([da.asarray(scan.data) for scan in scans]),  # type: ignore[no-untyped-call]
        path=None,
        placement=first.placement.with_channel(),
        note="",
    )


def are_channels(layers: Sequence[Any]) -> bool:
    """Whether layers can be the channels of one scan."""
    try:
        read_channels(layers)
    except ProsmaError:
        return False
    return True


def joined_layer(layers: Sequence[Any]) -> Image:
    """A hidden layer of several as the channels of one scan, where they lie; voxels are not copied.

    Parameters
    ----------
    layers : sequence of napari.layers.Image
        As of `read_channels`, which says when this fails.
    """
    scan = read_channels(layers)
    return Image(
        scan.data,
        name=scan.name,
        rgb=False,
        visible=False,
        **scan.placement.arguments(),
        metadata={METADATA: {"spec": scan.spec, "axes": scan.axes}},
    )
