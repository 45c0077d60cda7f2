"""Procedural scans with ground truth, made from a seed: low-contrast ultrasound in 2D, a body in MR or CT in 3D."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from prosma_core.data.geometry import ImageSpec, Scan, array_spec, spacing_affine
from prosma_core.errors import GeometryError

__all__ = ["Modality", "phantom_2d", "phantom_3d", "phantom_case"]

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


Modality = Literal["mr", "ct"]

SPACING_3D = (3.0, 1.0, 1.0)
"""Voxel size (z, y, x) in mm."""

Z_SAMPLES = 4
"""Thin slices that are averaged into one thick slice."""

_LEVELS: dict[Modality, dict[str, float]] = {
    "mr": {"air": 0.0, "fat": 0.95, "soft": 0.45, "organ": 0.59, "lesion": 0.8, "bone": 0.22, "vessel": 0.12},
    "ct": {"air": -1000.0, "fat": -95.0, "soft": 42.0, "organ": 72.0, "lesion": 108.0, "bone": 380.0, "vessel": 160.0},
}
"""Brightness of each tissue: relative signal (MR), Hounsfield units (CT)."""


def varied_levels(rng: np.random.Generator, modality: Modality) -> dict[str, float]:
    """Tissue levels of one subject: contrasts to soft tissue vary by 15 %, air and soft tissue stay."""
    levels = _LEVELS[modality]
    soft = levels["soft"]
    change = {name: soft + (value - soft) * rng.uniform(0.85, 1.15) for name, value in levels.items()}
    return change | {"air": levels["air"], "soft": soft}


def anatomy(
    rng: np.random.Generator, shape: tuple[int, int, int], levels: dict[str, float]
) -> tuple[FloatArray, NDArray[np.bool_], NDArray[np.bool_]]:
    """Noise-free brightness, organ mask (lesions included) and lesion mask, on thin slices."""
    extent = np.array(shape) * (SPACING_3D[0] / Z_SAMPLES, *SPACING_3D[1:])
    points = [axis + 0.07 * smooth_field(rng, shape, 4) for axis in _grid(shape)]
    body = _radius(points, (0.0, 0.0, 0.0), (1.5, rng.uniform(0.72, 0.82), rng.uniform(0.82, 0.92)))
    bone = _radius(points, (0.0, -0.5, 0.0), (9.0, 0.15, 0.16)) < 1
    vessel = _radius(points, (0.0, -0.25, rng.uniform(0.05, 0.15)), (9.0, 0.08, 0.08)) < 1
    place = rng.uniform((-0.15, 0.0, -0.35), (0.15, 0.15, -0.2))
    size = rng.uniform((0.5, 0.32, 0.34), (0.65, 0.42, 0.44))
    organ_radius = _radius(points, place, size) + 0.08 * smooth_field(rng, shape, 7)
    organ = (organ_radius < 1) & (body < 0.85) & ~bone & ~vessel
    rough = 0.12 * smooth_field(rng, shape, 9)

    def blobs(count: int, where: NDArray[np.bool_], least: float, most: float) -> NDArray[np.bool_]:
        found, candidates = np.zeros(shape, bool), np.flatnonzero(where)
        for at in rng.choice(candidates, count) if candidates.size else ():
            radii = rng.uniform(least, most) * rng.uniform(0.85, 1.15, 3) * extent.min() / extent
            found |= _radius(points, [axis.flat[at] for axis in points], radii) + rough < 1
        return found

    lesion = blobs(int(rng.integers(1, 4)), organ & (organ_radius < 0.6), 0.14, 0.24) & organ
    outside = (body < 0.75) & (organ_radius > 1.4)
    like_lesion = blobs(int(rng.integers(2, 5)), outside, 0.12, 0.2) & (organ_radius > 1.1)
    like_organ = blobs(int(rng.integers(1, 4)), outside, 0.12, 0.2) & (organ_radius > 1.1)
    image = np.full(shape, levels["air"])
    parts = (("fat", body < 1), ("soft", body < 0.87), ("organ", like_organ), ("lesion", like_lesion))
    for name, mask in (*parts, ("bone", bone), ("vessel", vessel), ("organ", organ), ("lesion", lesion)):
        image[mask & (body < 1)] = levels[name]
    uneven = 0.2 * (levels["organ"] - levels["soft"])
    image += np.where(body < 1, uneven * texture(rng, shape, (4.0, 2.0, 2.0)), 0.0)
    return image, organ, lesion


def _radius(points: list[FloatArray], center: Any, radii: Any) -> FloatArray:
    """Distance from the center of an ellipsoid, 1 on its surface."""
    squares = [((axis - c) / r) ** 2 for axis, c, r in zip(points, center, radii, strict=True)]
    radius: FloatArray = np.sqrt(squares[0] + squares[1] + squares[2])
    return radius


def _grid(shape: tuple[int, ...]) -> list[FloatArray]:
    """Coordinates of voxel centers, one open array per axis, -1 to 1 across the volume."""
    return list(np.meshgrid(*((2 * np.arange(n) + 1) / n - 1 for n in shape), indexing="ij", sparse=True))


def thick_slices(fine: NDArray[Any]) -> FloatArray:
    """Mean of each group of thin slices."""
    thick: FloatArray = fine.reshape(-1, Z_SAMPLES, *fine.shape[1:]).mean(axis=1)
    return thick


def mr_picture(rng: np.random.Generator, clean: FloatArray) -> NDArray[np.int16]:
    """MR picture: in-plane blur, bias field, Rician noise, arbitrary scale."""
    from scipy.ndimage import gaussian_filter

    signal = gaussian_filter(clean, (0.0, 0.6, 0.6)) * np.exp(0.15 * smooth_field(rng, clean.shape, 3))
    noise = rng.uniform(0.03, 0.06) * rng.standard_normal((2, *clean.shape))
    magnitude = np.exp(rng.uniform(5.5, 8.0)) * np.hypot(signal + noise[0], noise[1])
    picture: NDArray[np.int16] = np.rint(magnitude).astype(np.int16)
    return picture


def ct_picture(rng: np.random.Generator, clean: FloatArray) -> NDArray[np.int16]:
    """CT picture: in-plane blur and correlated noise, in HU."""
    from scipy.ndimage import gaussian_filter

    noise = rng.uniform(10.0, 18.0) * texture(rng, clean.shape, (0.0, 0.6, 0.6))
    hounsfield = gaussian_filter(clean, (0.0, 0.6, 0.6)) + noise
    picture: NDArray[np.int16] = np.clip(np.rint(hounsfield), -1024, 3071).astype(np.int16)
    return picture


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
    center = tuple(-(n - 1) / 2 * s for n, s in zip(shape, SPACING_3D, strict=True))
    origin = tuple(c + float(shift) for c, shift in zip(center, rng.uniform(-20.0, 20.0, 3), strict=True))
    spec = ImageSpec("zyx", shape, SPACING_3D, "mm", spacing_affine(SPACING_3D, origin), "ras")
    image = mr_picture(rng, clean) if modality == "mr" else ct_picture(rng, clean)
    return Scan(image, spec), Scan(labels, spec)


def _check_shape(shape: tuple[int, ...], least: tuple[int, ...]) -> None:
    if len(shape) != len(least) or any(n < m for n, m in zip(shape, least, strict=True)):
        msg = f"A phantom of shape {shape} has no room for its anatomy; use at least {least}."
        raise GeometryError(msg)


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
