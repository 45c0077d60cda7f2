"""Preparation of a scan for the network: frames and region to compute, each frame turned, normalized, resampled."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, prod

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
from prosma_core.data.geometry import Box, Scan, box_shape, check_region
from prosma_core.data.geometry import whole as whole_box
from prosma_core.data.grid import NetworkGrid, network_grid
from prosma_core.data.intensities import check_channels, fit_channels
from prosma_core.data.normalization import Normalization, check_not_blank, measure
from prosma_core.data.resample import PIECE, resize_box
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


def network_image(
    frame: Frame,
    grid: NetworkGrid,
    preprocess: PreprocessConfig,
    how: Normalization | None = None,
    box: Box | None = None,
) -> tuple[Tensor, str | None]:
    """A frame turned, normalized and resampled, or a box of that.

    Parameters
    ----------
    frame : Frame
    grid : NetworkGrid
    preprocess : PreprocessConfig
    how : Normalization, optional
        As it was measured; measured here for None.
    box : tuple of (int, int), optional
        Box of the network's grid; all of it for None. Only what it is resampled from is read.

    Returns
    -------
    image : Tensor, float32, shape (C, *box)
    note : str or None
        What was done to its channels, in words.

    Raises
    ------
    IntensityError
        The frame cannot be computed with.
    """
    if how is None:
        how = measure([frame], preprocess.intensities)[0]
        check_not_blank(how)
    box = box or whole_box(grid.shape)
    turned = grid.oriented_box(box)
    values = np.empty((len(preprocess.channels), *box_shape(turned)), np.float32)
    (start, stop), *rest = grid.restore_box(turned)
    step, note = max(frame.chunks[0], ceil(PIECE / prod(box_shape((*rest,))))), None
    out = grid.restore(values)
    for first in range(start // step * step, stop, step):  # the values of the file beside those few at a time
        low, high = max(first, start), min(first + step, stop)
        image, note = fit_channels(frame.read(((low, high), *rest)), len(values))
        how.apply(image, out[:, low - start : high - start])
    if grid.shape == grid.oriented:
        return torch.from_numpy(values), note
    return resize_box(torch.from_numpy(values), turned, grid.oriented, box, grid.shape, grid.thick), note
