"""Preparation of a scan for the network: frames and region to compute, each frame turned, normalized, resampled."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

import numpy as np
import torch
from torch import Tensor

from prosma_core.config.model import ModelHeader, PreprocessConfig
from prosma_core.data.frames import (
    Frame,
    count_frames,
    frame_region,
    time_as_channels,
    time_means_channels,
)
from prosma_core.data.geometry import Box, Scan, check_region
from prosma_core.data.grid import NetworkGrid, network_grid
from prosma_core.data.intensities import check_channels, check_finite, check_plausible, fit_channels, normalise
from prosma_core.data.resample import resize
from prosma_core.inference.grid_restore import RegionOfInterest, plan_part


@dataclass(frozen=True, eq=False)
class ScanPlan:
    """Frames and region of a scan that the network computes.

    Attributes
    ----------
    scan : Scan
        With its axes as the model reads them.
    note : str or None
        How they were read, in words, where that is not how the file has them.
    region : tuple of (int, int)
        Box of the scan that is wanted.
    part : RegionOfInterest
        The same of each frame.
    frames, whole : int
        Frames to compute, and there are.
    """

    scan: Scan
    note: str | None
    region: Box
    part: RegionOfInterest
    frames: int
    whole: int


def plan_scan(scan: Scan, header: ModelHeader, region: Box | None, along: str | None) -> ScanPlan:
    """Plan for a scan.

    Parameters
    ----------
    scan : Scan
    header : ModelHeader
    region : tuple of (int, int), optional
        Box of the scan that is wanted; all of it for None.
    along : str, optional
        Letter of the axis a 2D network walks along, where a person chose it.

    Raises
    ------
    GeometryError, ChannelError
        The scan does not fit the model or the region.
    """
    dims, channels, note = header.model.dims, header.preprocess.channels, None
    if time_means_channels(scan.spec, channels):
        scan = time_as_channels(scan, len(channels))
        note = f"The fourth axis is read as the model's {len(channels)} channels."
    check_channels(scan, channels)
    box = check_region(region, scan.spec)
    grid = network_grid(scan.spec, header.preprocess, along)
    part = plan_part(grid, frame_region(scan.spec, dims, along, box))
    wanted, whole = (count_frames(scan.spec, dims, along, of) for of in (box, None))
    return ScanPlan(scan, note, box, part, wanted, whole)


def network_image(frame: Frame, grid: NetworkGrid, preprocess: PreprocessConfig) -> tuple[Tensor, str | None]:
    """A frame turned, normalised and resampled.

    Returns
    -------
    image : Tensor, float32, shape (C, *grid.shape)
    note : str or None
        What was done to its channels, in words.

    Raises
    ------
    IntensityError
        The frame cannot be computed with.
    """
    check_finite(frame.image, frame.where)
    check_plausible(frame.image, preprocess.intensities, frame.where)
    image, note = fit_channels(frame.image, len(preprocess.channels))
    image = normalise(np.ascontiguousarray(grid.orient(image)), preprocess.intensities)
    return resize(torch.from_numpy(image), grid.shape, grid.thick), note


def is_blank(frame: Frame) -> bool:
    """Whether a frame has one finite value everywhere."""
    low = frame.image.min()
    return isfinite(low) and bool(low == frame.image.max())
