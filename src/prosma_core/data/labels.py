"""Label values of files and class indices of the network."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from prosma_core.config.model import ClassInfo
from prosma_core.errors import LabelError

IGNORED = -1
"""Class index of a voxel that nothing is known of: no part of loss or measures, and no place for a patch."""


def class_indices(labels: NDArray[Any], classes: tuple[ClassInfo, ...], name: str) -> NDArray[Any]:
    """Label values as class indices.

    Parameters
    ----------
    labels : ndarray, integer, any shape
    classes : tuple of ClassInfo
        A 0/255 mask is taken where there is one foreground class.
    name : str
        Whose labels they are, for the error text.

    Returns
    -------
    ndarray, uint8 or int32, shape of `labels`

    Raises
    ------
    LabelError
        A value is none of the classes.
    """
    present = np.unique(labels)
    values = [c.value for c in classes]
    if len(classes) == 2 and len(present) <= 2 and set(present.tolist()) <= {0, 255, values[1]}:
        return (labels > 0).astype(np.uint8)
    unknown = sorted(set(present.tolist()) - set(values))
    if unknown:
        msg = (
            f"Labels of {name} hold {unknown[:5]}, which are none of "
            f"the classes {values}. Correct them or add the class."
        )
        raise LabelError(msg)
    lookup = np.zeros(max(values) + 1, np.uint8 if len(values) <= 256 else np.int32)
    lookup[values] = np.arange(len(values))
    indices: NDArray[Any] = lookup[labels]
    return indices
