"""Results of a segmentation: classes, probabilities and entropy on the scan's own grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import log
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prosma_core.config.inference import InferenceConfig
from prosma_core.data.frames import Frame
from prosma_core.data.geometry import ImageSpec, Scan
from prosma_core.data.grid import NetworkGrid
from prosma_core.data.resample import resize


Allocate = Callable[[str, tuple[int, ...], "np.dtype[Any]"], NDArray[Any]]
"""Gives the zero-filled array for a result: its name ("labels", "probabilities" or "entropy"), shape and dtype."""


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Result of one scan.

    Attributes
    ----------
    labels : Scan
        uint8 or uint16 class values on the scan's grid, axes (t)(z)yx.
    probabilities : Scan or None
        float32, axes (t)c(z)yx, one channel per class, summing to 1.
    entropy : Scan or None
        float32, axes (t)(z)yx, 0 (sure) to 1 (all classes equally likely).
    """

    labels: Scan
    probabilities: Scan | None = None
    entropy: Scan | None = None


class Extras:
    """Probabilities and entropy of all frames, where they are asked for."""

    def __init__(self, config: InferenceConfig, shape: tuple[int, ...], timed: bool, classes: int) -> None:
        self.classes, self.lead = classes, int(timed)
        with_classes = (*shape[: self.lead], classes, *shape[self.lead :])
        self.probabilities = np.zeros(with_classes, np.float32) if config.probabilities else None
        self.entropy = np.zeros(shape, np.float32) if config.entropy else None

    def put_blank(self, frame: Frame) -> None:
        """Take a frame without content: surely background."""
        if self.probabilities is not None:
            self.probabilities[(*frame.index[: self.lead], 0, *frame.index[self.lead :])] = 1

    def put(self, frame: Frame, logits: Tensor, grid: NetworkGrid) -> None:
        """Take a frame's logits, float32, shape (K, *grid.shape)."""
        if self.probabilities is None and self.entropy is None:
            return
        p = torch.softmax(resize(logits, grid.oriented, grid.thick), dim=0)
        if self.probabilities is not None:
            at = (*frame.index[: self.lead], slice(None), *frame.index[self.lead :])
            self.probabilities[at] = grid.restore(p.cpu().numpy())
        if self.entropy is not None:
            entropy = -torch.xlogy(p, p).sum(0) / log(self.classes)
            self.entropy[frame.index] = grid.restore(entropy.clamp(0, 1).cpu().numpy())

    def scans(self, spec: ImageSpec, names: tuple[str, ...]) -> tuple[Scan | None, Scan | None]:
        """Probabilities and entropy of all frames; None where not asked for."""
        p = None if self.probabilities is None else Scan(self.probabilities, spec.with_channels(names))
        e = None if self.entropy is None else Scan(self.entropy, replace(spec))
        return p, e


def argmax_on(logits: Tensor, shape: tuple[int, ...], nearest: tuple[int, ...]) -> NDArray[Any]:
    """Strongest class at each voxel of another grid; classes are resampled one at a time.

    Parameters
    ----------
    logits : Tensor, float32, shape (K, *grid)
    shape : tuple of int
        The other grid, over the same extent.
    nearest : tuple of int
        Axes to resample by nearest neighbour.

    Returns
    -------
    ndarray, uint8 or int32, shape `shape`
    """
    dtype = torch.uint8 if logits.shape[0] <= 256 else torch.int32
    if tuple(logits.shape[1:]) == shape:
        return logits.argmax(0).to(dtype).cpu().numpy()
    best = resize(logits[:1], shape, nearest)[0]
    winner = torch.zeros(shape, dtype=dtype, device=logits.device)
    for k in range(1, logits.shape[0]):
        value = resize(logits[k : k + 1], shape, nearest)[0]
        stronger = value > best
        winner[stronger] = k
        best = torch.where(stronger, value, best)
    return winner.cpu().numpy()
