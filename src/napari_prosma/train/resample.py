"""Labels of another grid, brought onto the image's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from napari.layers import Labels
from numpy.typing import NDArray

from napari_prosma._shared.layers import LayerScan, labels_layer
from napari_prosma.train.pairs import Pair
from napari_prosma.train.sources import classes_known, image_scan, labels_scan, provenance_of
from prosma_core.config.model import ClassInfo
from prosma_core.data.geometry import ImageSpec, Scan
from prosma_core.errors import GeometryError


def resampled(pair: Pair, *, voxel_by_voxel: bool = False) -> Labels:
    """The labels of a pair on the grid of its image, as a new layer; the person's own stays as it is.

    To be run in a thread.

    Parameters
    ----------
    pair : Pair
        Of layers or files.
    voxel_by_voxel : bool
        Take each voxel of the labels for the image's of the same index, wherever the labels lie.

    Returns
    -------
    Labels
        Each voxel has the value of the one nearest to it, and 0 outside of the labels. Not yet in a viewer.

    Raises
    ------
    GeometryError
        They have another number of axes or time points, or another shape where it has to be the same.
    ProsmaError
        One of the two cannot be read.
    """
    image = image_scan(pair.image)
    labels = labels_scan(pair.labels, image if pair.image.layer is not None else None)
    if labels.spec.num_frames == 1 and "t" in image.axes:
        image = _first_frame(image)
    if labels.spec.spatial_ndim != image.spec.spatial_ndim or labels.spec.num_frames != image.spec.num_frames:
        msg = (
            f"{pair.labels.name} cannot be resampled to {pair.image.name}: axes {labels.spec.axes} and shape "
            f"{labels.spec.shape} do not go with {image.spec.axes} and {image.spec.shape}."
        )
        raise GeometryError(msg)
    if voxel_by_voxel and labels.spec.spatial_shape != image.spec.spatial_shape:
        msg = (
            f"{pair.labels.name} has the shape {labels.spec.spatial_shape}, {pair.image.name} "
            f"{image.spec.spatial_shape}: its voxels are not those of the image. Resample it."
        )
        raise GeometryError(msg)
    values = labels.data if voxel_by_voxel else _nearest(labels, image.spec)
    known = classes_known(pair.labels, tuple(int(v) for v in np.unique(values) if v))
    classes = known if known and known[0].value == 0 else (_BACKGROUND, *known)
    name = f"{pair.labels.name} on {pair.image.name}"
    shape, provenance = image.spec.labels_spec().shape, provenance_of(pair.labels)
    result = labels_layer(image, values.reshape(shape), classes, name, provenance)
    if pair.labels.layer is not None:
        result.colormap = pair.labels.layer.colormap
    return result


_BACKGROUND = ClassInfo(value=0, name="background", color="#000000")


def _nearest(labels: Scan, grid: ImageSpec) -> NDArray[np.integer]:
    """Labels at the voxels of a grid; shape (frames, *grid)."""
    from scipy import ndimage

    n = grid.spatial_ndim
    to_labels = np.linalg.solve(labels.spec.affine, grid.affine)
    frames = labels.data.reshape(-1, *labels.spec.spatial_shape)
    out = np.zeros((len(frames), *grid.spatial_shape), labels.data.dtype)
    for frame, target in zip(frames, out, strict=True):
        ndimage.affine_transform(
            frame, to_labels[:n, :n], to_labels[:n, n], grid.spatial_shape, target, order=0, mode="grid-constant"
        )
    return out


def _first_frame(scan: LayerScan) -> LayerScan:
    """One time point of a scan, for labels without time."""
    at = scan.axes.index("t")
    spec, first = scan.spec, scan.spec.axes.index("t")
    shape = spec.shape[:first] + spec.shape[first + 1 :]
    return replace(
        scan,
        axes=scan.axes.replace("t", ""),
        spec=replace(spec, axes=spec.axes.replace("t", ""), shape=shape),
        data=scan.data[(slice(None),) * at + (0,)],
        placement=scan.placement.without(at),
    )
