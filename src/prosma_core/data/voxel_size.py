"""Scans whose voxel size is not known: what is assumed, and how a given size is put into their geometry."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from prosma_core.config.preprocess import PreprocessConfig
from prosma_core.config.voxel_size import VoxelSize
from prosma_core.data.geometry import ImageSpec, affine_spacing
from prosma_core.errors import GeometryError


def size_unknown(spec: ImageSpec) -> bool:
    """Whether a scan states no voxel size: neither a unit nor a scale other than 1."""
    return spec.unit == "pixel" and all(size == 1 for size in spec.spacing)


def with_voxel_size(spec: ImageSpec, given: VoxelSize | None) -> ImageSpec:
    """Geometry with a given voxel size where the scan states no unit; its origin stays at the same voxel.

    Parameters
    ----------
    spec : ImageSpec
    given : VoxelSize or None
        A 2D scan takes the last two of three sizes.

    Raises
    ------
    GeometryError
        Two sizes are given for a 3D scan.
    """
    if given is None or spec.unit != "pixel":
        return spec
    n = spec.spatial_ndim
    sizes = given.sizes * n if len(given.sizes) == 1 else given.sizes[-n:]
    if len(sizes) != n:
        msg = f"{len(sizes)} voxel sizes {sizes} do not fit a {n}D scan (axes {spec.axes}): give z,y,x or one number."
        raise GeometryError(msg)
    factors = np.array(sizes) / np.array(spec.spacing)
    affine = spec.affine.copy()
    affine[:n, -1] = affine[:n, :n] @ (np.linalg.solve(affine[:n, :n], affine[:n, -1]) * factors)
    affine[:n, :n] *= factors
    return replace(spec, spacing=affine_spacing(affine), unit=given.unit, affine=affine)


def size_text(spec: ImageSpec) -> str:
    """The voxel size as ``--spacing`` takes it, such as ``3,1,1mm``."""
    return ",".join(f"{size:.15g}" for size in spec.spacing) + spec.unit


def sized_for(spec: ImageSpec, pre: PreprocessConfig) -> ImageSpec:
    """Geometry as preprocessing takes it: a scale without a unit counts in the model's unit."""
    if spec.unit != "pixel" or pre.resample != "spacing" or size_unknown(spec):
        return spec
    return replace(spec, unit=pre.unit)


def size_note(spec: ImageSpec, pre: PreprocessConfig) -> str:
    """What is assumed of a scan without a voxel size or a unit, a sentence; empty where nothing is or it has no effect.

    Parameters
    ----------
    spec : ImageSpec
        Of the scan.
    pre : PreprocessConfig
    """
    if spec.unit != "pixel" or pre.resample != "spacing" or pre.unit == "pixel":
        return ""
    if size_unknown(spec):
        target = " × ".join(f"{size:.3g}" for size in pre.spacing)
        return f"Voxel size unknown: assumed that of the model's training scans ({target} {pre.unit}), not resampled."
    scale = " × ".join(f"{size:.3g}" for size in spec.spacing)
    return f"The voxel size {scale} has no unit: {pre.unit} is assumed, the unit of the model."
