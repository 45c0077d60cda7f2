"""The parts of an MR- or CT-like phantom: anatomy on thin slices, and the picture a scanner makes of it."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from prosma_core.data.random_fields import FloatArray, smooth_field, texture

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


def _radius(points: list[FloatArray], centre: Any, radii: Any) -> FloatArray:
    """Distance from the centre of an ellipsoid, 1 on its surface."""
    squares = [((axis - c) / r) ** 2 for axis, c, r in zip(points, centre, radii, strict=True)]
    radius: FloatArray = np.sqrt(squares[0] + squares[1] + squares[2])
    return radius


def _grid(shape: tuple[int, ...]) -> list[FloatArray]:
    """Coordinates of voxel centres, one open array per axis, -1 to 1 across the volume."""
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
