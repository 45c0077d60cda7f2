"""Label values: what counts as class numbers, and the smallest integer type that holds them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from prosma_core.errors import LabelError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_ROUNDING = 1e-3  # of values that were computed
_LARGEST_STEP = 0.25  # of stored values that are scaled: with larger ones a rounded value could be another class


def as_labels(values: NDArray[Any], source: Path | str, step: float = 0.0) -> NDArray[Any]:
    """Class numbers in the smallest unsigned integer type that holds them.

    Parameters
    ----------
    values : ndarray, bool, integer, or float with whole values
        Any shape.
    source : Path or str
        Named in errors.
    step : float
        Distance of two values that the file can store next to each other, where it scales whole numbers: values are
        rounded by no more than that.

    Raises
    ------
    LabelError
        A value is negative, a fraction, NaN or infinite.
    """
    if values.dtype.kind == "f":
        values = _whole(values, source, step)
    elif values.dtype.kind not in "bui":
        msg = f"Labels of {source} are of type {values.dtype}; whole numbers from 0 are needed."
        raise LabelError(msg)
    low, high = int(values.min()), int(values.max())
    if low < 0:
        msg = f"Labels of {source} contain {low}; class numbers start at 0. Renumber the negative labels."
        raise LabelError(msg)
    return values.astype(np.min_scalar_type(high), copy=False)


def scale_step(header: Any) -> float:
    """Distance of two values that a NIfTI file can store next to each other; 0 where it does not scale."""
    if not hasattr(header, "get_slope_inter"):
        return 0.0
    slope = header.get_slope_inter()[0]
    return 0.0 if slope in (None, 1.0) else abs(float(slope))


def _whole(values: NDArray[Any], source: Path | str, step: float) -> NDArray[np.int64]:
    rounded = np.rint(values)
    tolerance = max(_ROUNDING, 1.01 * step if step <= _LARGEST_STEP else 0.0)
    with np.errstate(invalid="ignore"):  # infinity minus infinity is NaN and so counts as wrong
        wrong = ~(np.abs(values - rounded) <= tolerance) | (np.abs(rounded) > 2**53)
    if wrong.any():
        scaled = f" (stored as whole numbers times {step:g}, the slope in its header)" if step else ""
        msg = (
            f"Labels of {source} contain {values[wrong][0]:g}{scaled}, which is not a class number: whole numbers from "
            "0 are needed. Probabilities must be thresholded first."
        )
        raise LabelError(msg)
    whole: NDArray[np.int64] = rounded.astype(np.int64)
    return whole


def one_channel(labels: NDArray[Any], axes: str, source: Path | str) -> NDArray[Any]:
    """Labels without their channel axis, whose channels must all say the same (a gray picture saved as color).

    Parameters
    ----------
    labels : ndarray
        Axes `axes`.
    axes : str

    Raises
    ------
    LabelError
        The channels differ.
    """
    if "c" not in axes:
        return labels
    at = axes.index("c")
    first: NDArray[Any] = labels.take(0, axis=at)
    for channel in range(1, labels.shape[at]):
        if not np.array_equal(labels.take(channel, axis=at), first):
            msg = (
                f"Labels of {source} have {labels.shape[at]} channels that differ (a colored picture?); one channel "
                "of class numbers is needed."
            )
            raise LabelError(msg)
    return first
