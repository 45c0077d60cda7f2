"""Training cases in memory, on the network's grid."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from prosma_core.config.model import ClassInfo, PreprocessConfig
from prosma_core.data.frames import frames
from prosma_core.data.geometry import Scan
from prosma_core.data.grid import network_grid
from prosma_core.data.intensities import check_channels, check_finite, check_plausible, fit_channels, normalise
from prosma_core.data.labels import IGNORED, Annotation, class_indices
from prosma_core.data.resample import resize, resize_labels
from prosma_core.errors import ChannelError, IntensityError

MAX_POINTS = 5000
"""Voxels kept per class, and of all that are annotated, to centre patches on."""


@dataclass(frozen=True, eq=False)
class TrainingCase:
    """One frame, ready for the network.

    Attributes
    ----------
    name : str
    image : Tensor, float32, shape (C, *grid)
        Normalised.
    labels : Tensor, uint8, int16 or int32, shape (*grid)
        Class indices, `IGNORED` where nothing is known.
    points : list of Tensor, int64, shape (n, dims)
        Voxels of each foreground class that is present.
    annotated : Tensor or None, int64, shape (n, dims)
        Of a sparsely annotated scan: voxels of any class, background too. Patches lie there, and nothing is known
        outside the scan. None where patches may lie anywhere.
    """

    name: str
    image: Tensor
    labels: Tensor
    points: list[Tensor]
    annotated: Tensor | None = None

    @cached_property
    def present(self) -> frozenset[int]:
        """Indices of the classes in its labels."""
        return frozenset(torch.unique(self.labels).tolist())

    @property
    def masked(self) -> bool:
        """Whether patches of it may hold ignored voxels."""
        return self.annotated is not None or bool((self.labels.int() == IGNORED).any())

    def to(self, device: torch.device) -> TrainingCase:
        """The same case with its arrays on a device (points stay on the CPU)."""
        return replace(self, image=self.image.to(device), labels=self.labels.to(device))


def prepare_case(
    name: str, image: Scan, labels: Annotation, pre: PreprocessConfig, classes: tuple[ClassInfo, ...], seed: int
) -> Iterator[TrainingCase]:
    """Training cases of a scan, one per frame; frames without annotation, and of one value in stacks, are left out.

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
    indices = class_indices(labels.values, classes, name)
    if labels.ignored is not None:
        indices = np.where(labels.ignored, np.int16(IGNORED), indices.astype(np.int16))
    grid = network_grid(image.spec, pre)
    rng = np.random.default_rng(seed)
    every = list(frames(image, pre.dims))
    for frame in every:
        wanted = grid.orient(indices[frame.index])
        if bool((wanted == IGNORED).all()) or (len(every) > 1 and frame.image.min() == frame.image.max()):
            continue
        try:
            check_finite(frame.image, frame.where)
            check_plausible(frame.image, pre.intensities, frame.where)
            values = normalise(grid.orient(fit_channels(frame.image, len(pre.channels))[0]), pre.intensities)
        except IntensityError as error:
            msg = f"{name}: {error}"
            raise IntensityError(msg) from error
        tensor = resize(torch.from_numpy(np.ascontiguousarray(values)), grid.shape, grid.thick)
        target = np.ascontiguousarray(resize_labels(np.ascontiguousarray(wanted), grid.shape, grid.thick))
        points = [_some_points(target == c, rng) for c in range(1, len(classes))]
        yield TrainingCase(
            f"{name} {frame.name}".strip(),
            tensor,
            torch.from_numpy(target),
            [p for p in points if len(p)],
            _some_points(target != IGNORED, rng) if labels.sparse else None,
        )


def _some_points(mask: np.ndarray, rng: np.random.Generator) -> Tensor:
    points = np.argwhere(mask)
    if len(points) > MAX_POINTS:
        points = points[rng.choice(len(points), MAX_POINTS, replace=False)]
    return torch.from_numpy(points)
