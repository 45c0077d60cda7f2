"""Slices as pictures: their pixels, and their values as grays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SIDE = 384
"""Length of the longer side of a slice, in pixels."""
GAP = 4
"""Pixels between two slices side by side."""


def nearest_pixels(shape: Sequence[int], spacing: Sequence[float]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Row and column of a slice that each row and column of the picture shows."""
    lengths = [n * s for n, s in zip(shape, spacing, strict=True)]
    sizes = [max(1, round(SIDE * length / max(lengths))) for length in lengths]
    rows, columns = ((np.arange(size) * n // size).astype(np.intp) for n, size in zip(shape, sizes, strict=True))
    return rows, columns


def gray(image: NDArray[np.floating]) -> NDArray[np.float64]:
    """A slice (C, y, x) as values 0..255: three channels as colors (y, x, 3), else the first one (y, x)."""
    shown = np.moveaxis(image, 0, -1) if len(image) == 3 else image[0]
    low, high = np.percentile(shown, (1, 99))
    values: NDArray[np.float64] = np.clip((shown - low) / max(high - low, 1e-6), 0, 1) * 255.0
    return values


def side_by_side(slices: Sequence[NDArray[np.floating]]) -> NDArray[np.uint8]:
    """Slices (y, x) or (y, x, 3) of one size, values 0..255, as one picture in color with white gaps."""
    gap = np.full((len(slices[0]), GAP, 3), 255.0)
    parts: list[NDArray[np.floating]] = []
    for shown in slices:
        parts += [gap, np.repeat(shown[..., None], 3, axis=-1) if shown.ndim == 2 else shown]
    return np.concatenate(parts[1:], axis=1).round().astype(np.uint8)
