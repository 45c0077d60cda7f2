"""Labels of a part of a scan, on whole voxels of it, put onto its whole grid."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from prosma_core.data.geometry import ImageSpec, Scan

_OF_A_VOXEL = 0.01
"""Largest distance between voxels that count as the same, in voxels."""


def pasted(labels: Scan, onto: ImageSpec) -> Scan | None:
    """Labels on the grid of a scan, 0 where they had no voxels; None where their voxels are none of the scan's.

    3D Slicer stores a segmentation cropped to what is segmented, at a whole number of voxels from the scan's first.

    Parameters
    ----------
    labels : Scan, integer, without channels
    onto : ImageSpec
        Of the scan, of as many spatial axes.

    Returns
    -------
    Scan or None
        None as well where voxels with labels lie outside of the scan.
    """
    own, n = labels.spec, onto.spatial_ndim
    if own.spatial_ndim != n or own.num_frames != onto.num_frames or {own.world, onto.world} != {"ras"}:
        return None
    if own.unit != onto.unit:
        return None
    to_scan = np.linalg.solve(onto.affine, own.affine)
    last = np.array([*(size - 1 for size in own.spatial_shape), 1.0])
    first, end = to_scan[:n, n], (to_scan @ last)[:n]
    shift = np.rint(first).astype(int)
    off = np.abs([*(first - shift), *(end - shift - last[:n])]).max()
    if off > _OF_A_VOXEL or np.abs(to_scan[:n, :n] - np.eye(n)).max() > _OF_A_VOXEL:
        return None
    low = np.clip(shift, 0, onto.spatial_shape)
    high = np.clip(shift + own.spatial_shape, 0, onto.spatial_shape)
    target = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    source = tuple(slice(int(a), int(b)) for a, b in zip(low - shift, high - shift, strict=True))
    data = np.asarray(labels.data)
    lead = (slice(None),) * (data.ndim - n)
    inside = data[lead + source]
    if np.count_nonzero(inside) < np.count_nonzero(data):
        return None
    out = np.zeros((*own.shape[: len(own.shape) - n], *onto.spatial_shape), data.dtype)
    out[lead + target] = inside
    return Scan(out, replace(onto.labels_spec(), axes=own.axes, shape=out.shape, header=own.header))
