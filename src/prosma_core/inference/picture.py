"""Pictures of a slice with its labels drawn over it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prosma_core.config.model import ClassInfo

OPACITY = 0.5


def overlay(image: NDArray[Any], labels: NDArray[Any], classes: Sequence[ClassInfo]) -> NDArray[np.uint8]:
    """Grey picture of a slice, its classes tinted.

    Parameters
    ----------
    image : ndarray, real, shape (Y, X)
        Shown from its 1st to its 99th percentile.
    labels : ndarray, integer, shape (Y, X)
        Class values; 0 stays grey.
    classes : sequence of ClassInfo
        Colours by value.

    Returns
    -------
    ndarray, uint8, shape (Y, X, 3)
    """
    low, high = np.percentile(image, [1, 99])
    grey = np.clip((image.astype(np.float32) - low) / max(float(high - low), 1e-6), 0, 1) * 255
    picture = np.repeat(grey[..., None], 3, axis=2)
    for c in classes:
        if c.value:
            colour = np.array([int(c.color[i : i + 2], 16) for i in (1, 3, 5)], np.float32)
            here = labels == c.value
            picture[here] = (1 - OPACITY) * picture[here] + OPACITY * colour
    return picture.astype(np.uint8)


def contact_sheet(rows: Sequence[Sequence[NDArray[np.uint8]]], height: int, gap: int = 4) -> NDArray[np.uint8]:
    """Pictures side by side in rows, each enlarged by a whole factor to at least `height` pixels.

    Parameters
    ----------
    rows : sequence of sequences of ndarray, uint8, shape (Y, X, 3)
        All of one shape.
    height : int
        Least height of one picture.
    gap : int
        White pixels between pictures.

    Returns
    -------
    ndarray, uint8, shape (rows, columns, 3)
    """
    first = rows[0][0]
    factor = max(1, -(-height // first.shape[0]))
    y, x = first.shape[0] * factor, first.shape[1] * factor
    columns = max(len(row) for row in rows)
    sheet = np.full((len(rows) * (y + gap) - gap, columns * (x + gap) - gap, 3), 255, np.uint8)
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            large = picture.repeat(factor, axis=0).repeat(factor, axis=1)
            sheet[i * (y + gap) : i * (y + gap) + y, j * (x + gap) : j * (x + gap) + x] = large
    return sheet
