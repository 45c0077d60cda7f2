"""Random smooth fields on a grid, from a seeded generator."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


def smooth_field(rng: np.random.Generator, shape: tuple[int, ...], order: int) -> FloatArray:
    """Random sum of cosines of fewer than `order` half periods per axis; zero mean, unit standard deviation."""
    waves = np.indices((order,) * len(shape))
    field: FloatArray = rng.standard_normal(waves.shape[1:]) / (1.0 + (waves**2).sum(axis=0))
    field.flat[0] = 0.0
    for size in shape:
        basis = np.cos(np.pi * np.arange(order)[:, None] * (np.arange(size) + 0.5) / size)
        field = np.einsum("k...,ki->...i", field, basis)
    field /= field.std()
    return field


def texture(rng: np.random.Generator, shape: tuple[int, ...], sigma: tuple[float, ...]) -> FloatArray:
    """Gaussian noise correlated over `sigma` voxels per axis; unit standard deviation."""
    from scipy.ndimage import gaussian_filter

    noise: FloatArray = gaussian_filter(rng.standard_normal(shape), sigma, truncate=3.0)
    noise /= noise.std()
    return noise
