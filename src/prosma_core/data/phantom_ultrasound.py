"""The parts of an ultrasound-like phantom: echo levels in dB of tissue, lesions and shadows, and their picture."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prosma_core.data.random_fields import FloatArray, smooth_field, texture


def tissue_layers(rng: np.random.Generator, shape: tuple[int, int]) -> FloatArray:
    """Echo level in dB: skin, fat, gland, muscle and rib-side fascia, with bright boundaries and uneven texture."""
    height, width = shape
    rows = np.arange(height)[:, None] / height
    level = np.full(shape, -4.0)
    starts = (rng.uniform(0.03, 0.05), rng.uniform(0.14, 0.3), rng.uniform(0.62, 0.78), rng.uniform(0.88, 0.98))
    for start, below in zip(starts, (-14.0, -8.0, -12.0, -16.0), strict=True):
        sway = min(0.03, start / 4) * smooth_field(rng, (width,), 5)
        edge = rows - start - sway[None, :]
        level = np.where(edge > 0, below + rng.uniform(-1.5, 1.5), level)
        level += rng.uniform(3.0, 6.0) * np.exp(-((edge * height / 1.5) ** 2))
    return level + 1.5 * texture(rng, shape, (2.0, 6.0)) + 1.5 * texture(rng, shape, (5.0, 14.0))


def lesion_2d(rng: np.random.Generator, level: FloatArray) -> tuple[NDArray[np.bool_], FloatArray]:
    """Mask of one lesion, and the change in dB it makes to this level, enhancement below it included."""
    from scipy.ndimage import gaussian_filter

    height, width = shape = (level.shape[0], level.shape[1])
    middle = (rng.uniform(0.25, 0.65) * height, rng.uniform(0.15, 0.85) * width)
    radius, flat = rng.uniform(0.07, 0.17) * min(shape), rng.uniform(0.6, 1.0)
    y, x = (np.arange(n).reshape(s) - m for n, s, m in zip(shape, ((-1, 1), (1, -1)), middle, strict=True))
    y = y / flat
    angle, outline = np.arctan2(y, x), np.ones(shape)
    for order in range(2, 7):
        outline += rng.normal(0.0, 0.22) / order * np.cos(order * angle + rng.uniform(0.0, 2 * np.pi))
    lesion = np.hypot(y, x) < radius * np.maximum(outline, 0.5)
    dark = 0.8 * (level[lesion].mean() - level) - rng.uniform(6.0, 11.0)
    change = dark * gaussian_filter(lesion.astype(np.float64), rng.uniform(0.8, 2.0))
    if rng.random() < 0.5:
        bottom = (middle[0] + radius * flat) / height
        change += enhancement(shape, middle[1] / width, bottom, 0.8 * radius / width, rng.uniform(2.0, 5.0))
    return lesion, change


def enhancement(shape: tuple[int, int], column: float, top: float, half_width: float, gain: float) -> FloatArray:
    """Gain in dB of a bright column below `top`; places and widths as fractions of the picture."""
    y, x = (np.arange(n).reshape(s) / n for n, s in zip(shape, ((-1, 1), (1, -1)), strict=True))
    below = np.clip((y - top) / 0.05, 0.0, 1.0) * np.exp(-np.maximum(y - top, 0.0) / 0.3)
    return gain * below * np.exp(-(((x - column) / half_width) ** 4))


def shadow(rng: np.random.Generator, shape: tuple[int, int]) -> FloatArray:
    """Change in dB of a bright reflector and the dark wedge below it."""
    y, x = (np.arange(n).reshape(s) / n for n, s in zip(shape, ((-1, 1), (1, -1)), strict=True))
    top, column, half_width = rng.uniform(0.15, 0.6), rng.uniform(0.05, 0.95), rng.uniform(0.02, 0.06)
    across, below = np.abs(x - column), np.maximum(y - top, 0.0)
    reflector = np.exp(-(((y - top - 2.0 * across**2) / 0.01) ** 2) - (across / half_width) ** 4)
    wedge = half_width + rng.uniform(0.0, 0.1) * below
    dark = (1.0 - np.exp(-below / 0.04)) / (1.0 + np.exp((across - wedge) / 0.008))
    return rng.uniform(8.0, 14.0) * reflector - rng.uniform(6.0, 14.0) * dark


def ultrasound_picture(rng: np.random.Generator, level: FloatArray) -> NDArray[np.uint8]:
    """Log-compressed envelope of random scatterers of this level (dB), two looks averaged; Rayleigh speckle."""
    from scipy.ndimage import gaussian_filter

    spread = (rng.uniform(0.8, 1.2), rng.uniform(1.5, 2.3))
    envelope = np.zeros(level.shape)
    for _ in range(2):
        field = rng.standard_normal((2, *level.shape)) * 10.0 ** (level / 20.0)
        real, imaginary = gaussian_filter(field, (0.0, *spread), truncate=3.0)
        envelope += np.hypot(real, imaginary)
    decibel = 20.0 * np.log10(envelope / 2 * np.sqrt(4 * np.pi * spread[0] * spread[1]) + 1e-3)
    gray = 255.0 * (decibel + rng.uniform(36.0, 42.0)) / rng.uniform(44.0, 50.0)
    picture: NDArray[np.uint8] = np.clip(np.rint(gray), 0, 255).astype(np.uint8)
    return picture
