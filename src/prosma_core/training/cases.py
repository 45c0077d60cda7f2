"""Training cases in memory, on the network's grid."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from prosma_core.config.model import ClassInfo
from prosma_core.config.preprocess import PreprocessConfig
from prosma_core.data.frames import frame_spec, frames
from prosma_core.data.geometry import Scan
from prosma_core.data.grid import plan_grid
from prosma_core.data.intensities import check_channels, fit_channels, normalise
from prosma_core.data.labels import class_indices
from prosma_core.data.resample import resize, resize_labels
from prosma_core.errors import ChannelError, IntensityError

MAX_POINTS = 5000
"""Foreground voxels kept per class to centre patches on."""


@dataclass(frozen=True, eq=False)
class TrainingCase:
    """One frame, ready for the network.

    Attributes
    ----------
    name : str
    image : Tensor, float32, shape (C, *grid)
        Normalised.
    labels : Tensor, uint8 or int32, shape (*grid)
        Class indices.
    points : list of Tensor, int64, shape (n, dims)
        Voxels of each foreground class that is present.
    """

    name: str
    image: Tensor
    labels: Tensor
    points: list[Tensor]

    def to(self, device: torch.device) -> TrainingCase:
        """The same case with its arrays on a device (points stay on the CPU)."""
        return TrainingCase(self.name, self.image.to(device), self.labels.to(device), self.points)


def prepare_case(
    name: str, image: Scan, labels: Scan, pre: PreprocessConfig, classes: tuple[ClassInfo, ...], seed: int
) -> Iterator[TrainingCase]:
    """Training cases of a scan, one per frame; frames of one value are left out of stacks.

    Raises
    ------
    ProsmaError
        Of the kinds `segment` raises, with the case named, or `LabelError` for values outside the classes.
    """
    try:
        check_channels(image, pre.channels)
    except ChannelError as error:
        msg = f"{name}: {error}"
        raise ChannelError(msg) from error
    indices = class_indices(labels.data, classes, name)
    grid = plan_grid(frame_spec(image.spec, pre.dims), pre)
    rng = np.random.default_rng(seed)
    every = list(frames(image, pre.dims))
    for frame in every:
        if len(every) > 1 and frame.image.min() == frame.image.max():
            continue
        try:
            values = normalise(grid.orient(fit_channels(frame.image, len(pre.channels))[0]), pre.intensities)
        except IntensityError as error:
            msg = f"{name}: {error}"
            raise IntensityError(msg) from error
        tensor = resize(torch.from_numpy(np.ascontiguousarray(values)), grid.shape, grid.thick)
        target = np.ascontiguousarray(
            resize_labels(np.ascontiguousarray(grid.orient(indices[frame.index])), grid.shape, grid.thick)
        )
        points = [_some_points(target == c, rng) for c in range(1, len(classes))]
        yield TrainingCase(
            f"{name} {frame.name}".strip(), tensor, torch.from_numpy(target), [p for p in points if len(p)]
        )


def _some_points(mask: np.ndarray, rng: np.random.Generator) -> Tensor:
    points = np.argwhere(mask)
    if len(points) > MAX_POINTS:
        points = points[rng.choice(len(points), MAX_POINTS, replace=False)]
    return torch.from_numpy(points)
