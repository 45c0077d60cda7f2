"""Network output back on the scan's grid: logits of a region resampled, and their argmax."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import ceil, log, log1p, prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prosma_core.data.geometry import Box, box_shape
from prosma_core.data.grid import NetworkGrid
from prosma_core.data.resample import PIECE, resize_box


@dataclass(frozen=True)
class RegionOfInterest:
    """The region of a frame that is segmented.

    Attributes
    ----------
    grid : NetworkGrid
    oriented : tuple of (int, int)
        Its box on the turned scan's grid.
    network : tuple of (int, int)
        The box of the network's grid that it is resampled from.
    """

    grid: NetworkGrid
    oriented: Box
    network: Box

    @property
    def source(self) -> Box:
        """Its box on the frame's own grid."""
        return self.grid.restore_box(self.oriented)

    def nearest(self) -> list[NDArray[np.intp]]:
        """For each axis: the plane of the network box nearest to each plane of the oriented box."""
        planes = []
        sizes = zip(self.grid.shape, self.grid.oriented, self.oriented, self.network, strict=True)
        for size, target, (start, stop), (low, high) in sizes:
            centers = (np.arange(start, stop) + 0.5) * (size / target)
            planes.append(np.clip(centers.astype(np.intp), low, high - 1) - low)
        return planes


def plan_part(grid: NetworkGrid, box: Box) -> RegionOfInterest:
    """Region of interest of a frame for a box of its own grid."""
    oriented = grid.orient_box(box)
    return RegionOfInterest(grid, oriented, grid.network_box(oriented))


def resize_part(image: Tensor, part: RegionOfInterest) -> Tensor:
    """Values on the turned scan's grid: those that `resize` gives there for the whole network grid.

    Parameters
    ----------
    image : Tensor, float32, shape (K, *network box)
    part : RegionOfInterest

    Returns
    -------
    Tensor, float32, shape (K, *oriented box)
    """
    grid = part.grid
    if grid.shape == grid.oriented and part.network == part.oriented:
        return image
    return resize_box(image, part.network, grid.shape, part.oriented, grid.oriented, grid.thick)


def argmax_part(logits: Tensor, part: RegionOfInterest, threshold: float | None = None) -> NDArray[Any]:
    """Class of each voxel of a part as `argmax_streaming` says; some planes of one class are resampled at a time.

    Parameters
    ----------
    logits : Tensor, float32, shape (K, *network box)
    part : RegionOfInterest
    threshold : float, optional

    Returns
    -------
    ndarray, uint8 or int32, shape (*oriented box)
    """
    planes = planes_at_once(box_shape(part.network), box_shape(part.oriented))
    (start, stop), *rest = part.oriented
    found = []
    for first in range(start, stop, planes):
        box = (first, min(first + planes, stop))
        piece, values = replace(part, oriented=(box, *rest)), logits
        if part.grid.shape[0] == part.grid.oriented[0]:
            piece = replace(piece, network=(box, *part.network[1:]))
            values = logits[:, box[0] - start : box[1] - start]
        classes = (resize_part(values[k : k + 1], piece)[0] for k in range(len(values)))
        found.append(argmax_streaming(classes, len(values), threshold))
    return found[0] if len(found) == 1 else np.concatenate(found)


def planes_at_once(network: Sequence[int], source: Sequence[int]) -> int:
    """Planes of a part that get their classes at once: about `PIECE` voxels, and no more pieces than cost little.

    The first axis is resampled as a whole for each piece, the others are not.

    Parameters
    ----------
    network, source : sequence of int
        Shapes of the part on the network's grid and on the scan's.
    """
    least = max(1, PIECE // prod(source[1:]))
    if network[0] == source[0]:
        return least
    pieces = max(1, prod(source) // (source[0] * prod(network[1:])))
    return max(least, ceil(source[0] / pieces))


def argmax_streaming(classes: Iterable[Tensor], count: int, threshold: float | None = None) -> NDArray[Any]:
    """Number of the largest of several arrays at each voxel, the first of equals; the arrays are taken one by one.

    Parameters
    ----------
    classes : iterable of Tensor, float32, all of one shape
        With a threshold: logits, those of the background first.
    count : int
        How many they are.
    threshold : float, optional
        Between 0 and 1. Where given, a voxel whose probability (softmax) of all classes but the first is at least this
        gets the largest of those classes, any other voxel 0.

    Returns
    -------
    ndarray, uint8 up to 256 arrays, else int32
    """
    numbered = enumerate(classes)
    background = None if threshold is None else next(numbered)[1]
    first, values = next(numbered)
    best = values.clone()  # many times faster on a CPU than argmax along the first axis
    together = None if background is None else values.clone()
    winner = torch.full(best.shape, first, dtype=torch.uint8 if count <= 256 else torch.int32, device=best.device)
    for number, values in numbered:
        winner.masked_fill_(values > best, number)
        torch.maximum(best, values, out=best)
        if together is not None:
            torch.logaddexp(together, values, out=together)
    if threshold is not None and background is not None and together is not None:
        together -= background  # the log of the odds of foreground
        winner *= together >= log(threshold) - log1p(-threshold)
    return winner.cpu().numpy()
