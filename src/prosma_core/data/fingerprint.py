"""What planning needs to know of one training case."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prosma_core.data.frames import frame_spec, frames
from prosma_core.data.geometry import ImageSpec, Scan
from prosma_core.data.grid import orient_axes
from prosma_core.data.intensities import single_precision

SAMPLES = 2000
"""Foreground values kept per case and channel."""


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """One case in numbers.

    Attributes
    ----------
    shape : tuple of int
        Spatial shape of a frame, turned to RAS where the file knows its orientation.
    spacing : tuple of float
        Voxel size, in the same order, in `unit`.
    unit : str
    oriented : bool
        Whether the file knows the patient's axes.
    channels : int
    channel_names : tuple of str
    color : bool
        Whether the channels are red, green and blue.
    low, high : float
        Smallest and largest value.
    whole_numbers : bool
        Whether all values are whole numbers.
    foreground : ndarray, float32 or float64, shape (C, up to SAMPLES)
        Values at labelled voxels; float64 where float32 cannot hold their differences.
    label_values : tuple of int
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    unit: str
    oriented: bool
    channels: int
    channel_names: tuple[str, ...]
    color: bool
    low: float
    high: float
    whole_numbers: bool
    foreground: NDArray[np.floating]
    label_values: tuple[int, ...]


def fingerprint(image: Scan, labels: Scan, dims: int, rng: np.random.Generator) -> Fingerprint:
    """Numbers of one case for a network of `dims` spatial axes.

    Parameters
    ----------
    image, labels : Scan
        On the same grid.
    dims : int
        2 or 3.
    rng : numpy Generator
        Draws the foreground samples.
    """
    values = image.data
    chosen = [frame.image[:, np.asarray(labels.data)[frame.index] > 0] for frame in frames(image, dims)]
    foreground = np.concatenate(chosen, axis=1)
    if foreground.shape[1] > SAMPLES:
        foreground = foreground[:, rng.choice(foreground.shape[1], SAMPLES, replace=False)]
    low, high = float(values.min()), float(values.max())
    return Fingerprint(
        **_geometry(image.spec, dims),
        color=image.spec.num_channels == 3 and values.dtype == np.uint8,
        low=low,
        high=high,
        whole_numbers=bool(np.issubdtype(values.dtype, np.integer) or (values == np.rint(values)).all()),
        foreground=foreground.astype(np.float32 if single_precision(low, high) else np.float64),
        label_values=tuple(int(v) for v in np.unique(labels.data)),
    )


def grid_fingerprint(spec: ImageSpec, dims: int) -> Fingerprint:
    """What a scan's grid alone tells: as of a scan of no values, and no labels."""
    nothing = np.empty((spec.num_channels, 0), np.float32)
    known: dict[str, Any] = {"color": False, "low": 0.0, "high": 0.0, "whole_numbers": False, "label_values": ()}
    return Fingerprint(**_geometry(spec, dims), **known, foreground=nothing)


def _geometry(image: ImageSpec, dims: int) -> dict[str, Any]:
    spec = frame_spec(image, dims)
    order, _ = orient_axes(spec)
    return {
        "shape": tuple(spec.shape[a] for a in order),
        "spacing": tuple(spec.spacing[a] for a in order),
        "unit": spec.unit,
        "oriented": spec.world == "ras" and dims == 3,
        "channels": image.num_channels,
        "channel_names": image.channel_names,
    }
