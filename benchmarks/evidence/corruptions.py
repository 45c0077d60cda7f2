"""Images made worse, in six ways and three strengths; pure functions, the same numbers for the same name.

MONAI has random transforms of most of these, with a strength that is drawn anew for every image, and no speckle; here
every network has to see the same image at the same strength.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from prosma_core.data.geometry import Scan
from prosma_core.data.phantom import smooth_field
from prosma_core.data.resample import resize

Image = NDArray[np.float32]
"""Shape (C, *grid)."""
Corruption = Callable[[Image, tuple[float, ...], float, np.random.Generator], Image]
"""Takes an image, for each grid axis the voxel size against the smallest, the strength, and random numbers."""

THICK = 2.0
"""An axis whose voxels are that much longer than the shortest is neither blurred nor made coarser."""
BROAD = 1 / 8
"""Width of what counts as the surroundings of a voxel, as a share of the longest side."""


def speckle(image: Image, voxel: tuple[float, ...], strength: float, rng: np.random.Generator) -> Image:
    """Noise in proportion to the value above the smallest: its deviation is `strength` of it."""
    low = _lowest(image)
    worse: Image = (low + (image - low) * (1 + strength * rng.standard_normal(image.shape))).astype(np.float32)
    return worse


def noise(image: Image, voxel: tuple[float, ...], strength: float, rng: np.random.Generator) -> Image:
    """Gaussian noise with a deviation of `strength` of the image's own."""
    worse: Image = (image + strength * image.std() * rng.standard_normal(image.shape)).astype(np.float32)
    return worse


def contrast(image: Image, voxel: tuple[float, ...], strength: float, rng: np.random.Generator) -> Image:
    """Differences to the surroundings reduced by the share `strength`, as by a veil.

    The same reduction everywhere would be undone by the normalization of any network.
    """
    around = _blur(image, voxel, BROAD * max(image.shape[1:]))
    return (around + (1 - strength) * (image - around)).astype(np.float32)


def blur(image: Image, voxel: tuple[float, ...], strength: float, rng: np.random.Generator) -> Image:
    """Gaussian blur of `strength` voxels in an image of 256; it grows with the square root of the longest side."""
    return _blur(image, voxel, strength * (max(image.shape[1:]) / 256) ** 0.5)


def bias(image: Image, voxel: tuple[float, ...], strength: float, rng: np.random.Generator) -> Image:
    """Gain that varies smoothly, the same for all channels: `strength` is the deviation of its logarithm."""
    low = _lowest(image)
    gain = np.exp(strength * smooth_field(rng, image.shape[1:], 3))
    return (low + (image - low) * gain).astype(np.float32)


def resolution(image: Image, voxel: tuple[float, ...], strength: float, rng: np.random.Generator) -> Image:
    """To a grid that is coarser by the factor `strength`, and back."""
    shape = image.shape[1:]
    coarse = [n if size >= THICK else max(1, round(n / strength)) for n, size in zip(shape, voxel, strict=True)]
    result: Image = resize(resize(torch.from_numpy(image), coarse), shape).numpy()
    return result


CORRUPTIONS: dict[str, tuple[Corruption, tuple[float, float, float]]] = {
    "speckle": (speckle, (0.15, 0.3, 0.5)),
    "noise": (noise, (0.15, 0.3, 0.6)),
    "contrast": (contrast, (0.3, 0.5, 0.7)),
    "blur": (blur, (1.0, 2.0, 3.0)),
    "bias": (bias, (0.2, 0.4, 0.6)),
    "resolution": (resolution, (1.5, 2.0, 3.0)),
}
"""Each with what its strengths 1, 2 and 3 are."""


def corrupted(scan: Scan, name: str, kind: str, strength: int) -> Scan:
    """A scan made worse; values of an 8-bit image stay within 0 to 255, though not whole numbers.

    Parameters
    ----------
    scan : Scan
        Axes (c)(z)yx.
    name : str
        Of the case: with `kind`, the seed of the random numbers. The strengths of a kind share them.
    kind : str
        One of `CORRUPTIONS`.
    strength : int
        1, 2 or 3.
    """
    change, strengths = CORRUPTIONS[kind]
    rng = np.random.default_rng(zlib.crc32(f"{name} {kind}".encode()))
    color = "c" in scan.spec.axes
    values = np.ascontiguousarray(scan.data if color else scan.data[None], dtype=np.float32)
    voxel = tuple(size / min(scan.spec.spacing) for size in scan.spec.spacing)
    worse = change(values, voxel, strengths[strength - 1], rng)
    if scan.data.dtype == np.uint8:
        worse = worse.clip(0, 255)
    return replace(scan, data=worse if color else worse[0])


def _lowest(image: Image) -> Image:
    """Smallest value of each channel, in a shape that fits the image."""
    lowest: Image = image.min(axis=tuple(range(1, image.ndim)), keepdims=True)
    return lowest


def _blur(image: Image, voxel: tuple[float, ...], sigma: float) -> Image:
    widths = (0.0, *(0.0 if size >= THICK else sigma / size for size in voxel))
    result: Image = gaussian_filter(image, widths, mode="nearest", truncate=3.0)
    return result
