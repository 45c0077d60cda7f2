"""Procedural scans with ground truth, made from a seed: low-contrast ultrasound in 2D, MR or CT in 3D."""

from __future__ import annotations

from typing import Literal

import numpy as np

from prosma_core.data.geometry import ImageSpec, Scan, array_spec, spacing_affine
from prosma_core.data.phantom_body import (
    SPACING_3D,
    Z_SAMPLES,
    Modality,
    anatomy,
    ct_picture,
    mr_picture,
    thick_slices,
    varied_levels,
)
from prosma_core.data.phantom_ultrasound import enhancement, lesion_2d, shadow, tissue_layers, ultrasound_picture
from prosma_core.errors import GeometryError

__all__ = ["Modality", "phantom_2d", "phantom_3d", "phantom_case"]

_SPACING_2D = (0.3, 0.3)


def phantom_case(seed: int, dims: Literal[2, 3]) -> tuple[Scan, Scan]:
    """Image and labels of one phantom of the default size: ultrasound-like for 2 dimensions, MR-like for 3."""
    return phantom_2d(seed) if dims == 2 else phantom_3d(seed)


def phantom_2d(seed: int, shape: tuple[int, int] = (192, 224)) -> tuple[Scan, Scan]:
    """Image and labels of an ultrasound-like picture with none to three lesions.

    Tissue layers, hypo-echoic lesions of irregular outline, shadows below bright reflectors and enhancement are
    drawn as echo levels in dB; speckle follows from random scatterers seen through the point spread function.
    About one seed in ten has no lesion. The same seed and shape give the same bits.

    Parameters
    ----------
    seed : int
        At least 0.
    shape : tuple of int
        Size (y, x), at least (32, 32).

    Returns
    -------
    image : Scan
        uint8, axes ``"yx"``, 0..255, spacing (0.3, 0.3) mm.
    labels : Scan
        uint8, the same grid; 0 background, 1 lesion.

    Raises
    ------
    GeometryError
        If `shape` is too small.
    """
    _check_shape(shape, (32, 32))
    rng = np.random.default_rng(seed)
    level, labels = tissue_layers(rng, shape), np.zeros(shape, bool)
    has_lesion = rng.random() >= 0.1
    for _ in range(int(rng.choice([1, 2, 3], p=[0.7, 0.2, 0.1])) if has_lesion else 0):
        lesion, change = lesion_2d(rng, level)
        level += np.where(labels, 0.0, change)
        labels |= lesion
    for _ in range(int(rng.integers(0, 3))):
        level += shadow(rng, shape)
    if rng.random() < 0.4:
        level += enhancement(shape, rng.uniform(0.1, 0.9), rng.uniform(0.2, 0.6), 0.08, rng.uniform(3.0, 5.0))
    depth = np.linspace(0.0, 1.0, shape[0])[:, None]
    level -= rng.uniform(3.0, 9.0) * depth**1.5
    spec = array_spec(shape, "yx", _SPACING_2D, "mm")
    return Scan(ultrasound_picture(rng, level), spec), Scan(labels.astype(np.uint8), spec)


def phantom_3d(seed: int, shape: tuple[int, int, int] = (24, 80, 80), modality: Modality = "mr") -> tuple[Scan, Scan]:
    """Image and labels of a body with one organ of low contrast, lesions in it, and look-alikes outside it.

    The anatomy is drawn on slices four times thinner, smoothly deformed, and averaged along z (partial volume).
    MR has a bias field, Rician noise and an arbitrary scale; CT has Hounsfield units with air outside.
    The same seed, shape and modality give the same bits.

    Parameters
    ----------
    seed : int
        At least 0.
    shape : tuple of int
        Size (z, y, x), at least (8, 32, 32).
    modality : {"mr", "ct"}

    Returns
    -------
    image : Scan
        int16, axes ``"zyx"``, spacing (3, 1, 1) mm, patient world; CT in HU, MR >= 0.
    labels : Scan
        uint8, the same grid; 0 background, 1 organ, 2 lesion.

    Raises
    ------
    GeometryError
        If `shape` is too small.
    """
    _check_shape(shape, (8, 32, 32))
    rng = np.random.default_rng(seed)
    fine, organ, lesion = anatomy(rng, (shape[0] * Z_SAMPLES, *shape[1:]), varied_levels(rng, modality))
    clean, labels = thick_slices(fine), (thick_slices(organ) >= 0.5).astype(np.uint8)
    labels[thick_slices(lesion) >= 0.5] = 2
    centre = tuple(-(n - 1) / 2 * s for n, s in zip(shape, SPACING_3D, strict=True))
    origin = tuple(c + float(shift) for c, shift in zip(centre, rng.uniform(-20.0, 20.0, 3), strict=True))
    spec = ImageSpec("zyx", shape, SPACING_3D, "mm", spacing_affine(SPACING_3D, origin), "ras")
    image = mr_picture(rng, clean) if modality == "mr" else ct_picture(rng, clean)
    return Scan(image, spec), Scan(labels, spec)


def _check_shape(shape: tuple[int, ...], least: tuple[int, ...]) -> None:
    if len(shape) != len(least) or any(n < m for n, m in zip(shape, least, strict=True)):
        msg = f"A phantom of shape {shape} has no room for its anatomy; use at least {least}."
        raise GeometryError(msg)
