"""A picture per validation: what the model makes of one slice of a held-out case, beside what was annotated."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from prosma_core.config.model import ClassInfo
from prosma_core.data.labels import IGNORED
from prosma_core.io.raster import gray_values, nearest_pixels, side_by_side, write_picture
from prosma_core.training.cases import TrainingCase

OPACITY = 0.45
"""Of predicted classes over the image."""


class CasePicture:
    """The slice with most labels of the case with most, each by its size.

    Of a sparsely annotated volume it is one across the axis along which the fewest slices are annotated, else across z.

    Parameters
    ----------
    cases : sequence of TrainingCase
        Those that are validated; at least one.
    spacing : sequence of float
        Voxel size of its grid.
    classes : sequence of ClassInfo
        The first is the background.
    """

    def __init__(self, cases: Sequence[TrainingCase], spacing: Sequence[float], classes: Sequence[ClassInfo]) -> None:
        case = max(cases, key=lambda case: float((case.labels > 0).float().mean()))
        labels = np.where(case.labels.int().cpu().numpy() == IGNORED, 0, case.labels.cpu().numpy())
        self._colors = np.array([[int(c.color[i : i + 2], 16) for i in (1, 3, 5)] for c in classes], np.float64)
        self._case, self._at = case, tuple[Any, ...]()
        if labels.ndim == 3:
            axis = _axis(case) if case.masked else 0
            index = int((labels > 0).sum(tuple(a for a in range(3) if a != axis)).argmax())
            self._at = (*[slice(None)] * axis, index)
            spacing = [s for a, s in enumerate(spacing) if a != axis]
        self._rows, self._columns = nearest_pixels(labels[self._at].shape, spacing)
        self._image = self._zoom(gray_values(case.image[(slice(None), *self._at)].cpu().numpy()))
        self._outline = _outline(self._zoom(labels[self._at]))
        self._found = np.zeros_like(labels[self._at])

    def take(self, case: TrainingCase, found: Tensor) -> None:
        """Look at what was found in a case: class indices, integer, shape (*grid)."""
        if case is self._case:
            self._found = found[self._at].cpu().numpy()

    def draw(self) -> NDArray[np.uint8]:
        """The slice as it is, and with the classes found as colors and the annotated ones as outlines.

        Returns
        -------
        ndarray, uint8, shape (height, width, 3)
        """
        classes = self._zoom(self._found)
        image = np.repeat(self._image[..., None], 3, axis=-1) if self._image.ndim == 2 else self._image
        colored = np.where(classes[..., None] > 0, (1 - OPACITY) * image + OPACITY * self._colors[classes], image)
        colored = np.where(self._outline[..., None] > 0, self._colors[self._outline], colored)
        return side_by_side([image, colored])

    def write(self, path: Path) -> None:
        """Write what `draw` gives as a PNG; raises `OutputError` where that fails."""
        write_picture(path, self.draw())

    def _zoom(self, array: NDArray[Any]) -> NDArray[Any]:
        zoomed: NDArray[Any] = array[self._rows][:, self._columns]
        return zoomed


def _axis(case: TrainingCase) -> int:
    """Axis along which the fewest slices are annotated."""
    known = case.labels.int().cpu().numpy() != IGNORED
    counts = [known.any(tuple(b for b in range(3) if b != a)).sum() for a in range(3)]
    return int(np.argmin(counts))


def _outline(labels: NDArray[Any]) -> NDArray[Any]:
    """Classes along their borders, 0 elsewhere."""
    edge = np.zeros_like(labels)
    for axis in (0, 1):
        one, other = (np.take(labels, range(a, labels.shape[axis] - 1 + a), axis) for a in (0, 1))
        border = np.where(one != other, np.maximum(one, other), 0)
        for a in (0, 1):
            part = np.moveaxis(edge, axis, 0)[a : labels.shape[axis] - 1 + a]
            np.maximum(part, np.moveaxis(border, axis, 0), out=part)
    return edge
