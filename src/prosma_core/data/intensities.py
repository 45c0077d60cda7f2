"""Intensities: what float32 can hold, channels and colors, Hounsfield units, and the window to see them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prosma_core.data.geometry import Scan
from prosma_core.data.lazy import LazyArray
from prosma_core.errors import ChannelError, IntensityError
from prosma_core.printable import counted

LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)
"""Weights of red, green and blue in a gray picture (ITU-R BT.601)."""
COLOR = ("red", "green", "blue")
"""Channel names of a color picture."""


SMALLEST, LARGEST = 1e-30, 1e30
"""Ranges of values outside of which float32 has no room for their squares."""
OFFSET = 16.0
"""Values whose offset is larger than their range by more than this factor lose detail in float32."""
WHOLE = 2**53
"""Whole numbers up to which float64 tells each from its neighbors."""


def single_precision(low: float, high: float) -> bool:
    """Whether float32 holds values between these two with enough detail of their differences."""
    size, span = max(abs(low), abs(high)), high - low
    return size == 0 or (SMALLEST <= size <= LARGEST and (span == 0 or (span >= SMALLEST and size <= OFFSET * span)))


def from_smallest(values: NDArray[Any]) -> NDArray[Any]:
    """Whole numbers that float64 has no room for counted from the smallest of them; all other values as they are.

    Parameters
    ----------
    values : ndarray, integer or float, any shape

    Returns
    -------
    ndarray
        The same array, or uint64.
    """
    if values.dtype.kind not in "iu" or values.dtype.itemsize < 8 or not values.size:
        return values
    low, high = int(values.min()), int(values.max())
    if max(-low, high) <= WHOLE:
        return values
    shifted: NDArray[Any] = values.astype(np.uint64) - np.uint64(low % 2**64)  # wraps: the differences are exact
    return shifted


def check_varies(image: NDArray[Any] | LazyArray) -> None:
    """Raise `IntensityError` if all voxels have one value; read plane by plane, up to the first other value."""
    first: Any = None
    for index in np.ndindex(image.shape[:-2]):
        plane = np.asarray(image[index])
        first = plane[0, 0] if first is None else first
        if (plane != first).any():
            return
    msg = f"Every voxel has the value {float(first):g}: there is nothing to see in this image. Check that it is the "
    raise IntensityError(msg + "right file.")


def check_channels(scan: Scan, channels: tuple[str, ...]) -> None:
    """Raise `ChannelError` unless a scan has the model's channels, or only gray stands against red, green and blue."""
    given, names = scan.spec.num_channels, channels
    if given == len(channels):
        return
    if given == 3:
        names = scan.spec.channel_names or (COLOR if scan.data.dtype == np.uint8 else ())
    if {given, len(channels)} != {1, 3} or tuple(name.lower() for name in names) != COLOR:
        msg = (
            f"The scan has {counted(given, 'channel')}, the model takes {len(channels)} "
            f"({', '.join(channels)}). Give the channels it was trained on, "
            "as a channel axis or as files NAME_0000, NAME_0001, …"
        )
        raise ChannelError(msg)


def fit_channels(image: NDArray[Any], expected: int) -> tuple[NDArray[Any], str | None]:
    """Channels as the network takes them, after `check_channels`: color to gray, or gray to three equal channels.

    Parameters
    ----------
    image : ndarray, integer or float, shape (C, *grid)
    expected : int
        Channels the network takes.

    Returns
    -------
    image : ndarray, shape (expected, *grid)
        Of the same type; float32 (float64 where it was) of colors turned to gray.
    note : str or None
        What was done, in words.
    """
    if image.shape[0] == expected:
        return image, None
    if image.shape[0] == 1:
        return np.repeat(image, 3, axis=0), "the gray channel was used for red, green and blue"
    kind = np.float64 if image.dtype.itemsize > 4 else np.float32
    colors = zip(LUMINANCE.astype(kind), from_smallest(image), strict=True)
    red, green, blue = (share * values for share, values in colors)  # each voxel by itself, wherever it is read
    return (red + green + blue).astype(kind, copy=False)[None], "the three color channels were turned to gray"


AIR_HU = -500.0
"""CT is recognized by whole numbers that reach below this."""
BONE_HU = 2000.0
"""Half of the voxels of a CT scan at least lie below this."""
_SAMPLE = 1 << 18
"""Voxels that are sampled, at most."""
SOFT_TISSUE = (-160.0, 240.0)
"""Window in which soft tissue of a CT scan is seen: level 40, width 400."""
SEEN = (0.5, 99.5)
"""Percentiles of the values between which other scans are seen."""
FILLED = 0.2
"""Share of a window that the values must fill between those percentiles: else all of it is nearly black, or white."""


def looks_ct(data: Any) -> bool:
    """Whether voxels are Hounsfield units: whole numbers with air among them.

    Parameters
    ----------
    data : array-like
        Only a numpy array is checked, and of a large one a sample of voxels on a grid.
    """
    if not isinstance(data, np.ndarray) or data.dtype.kind not in "if" or data.ndim < 2:
        return False
    voxels = _sampled(data)
    low = voxels.min()
    whole = np.isfinite(voxels).all() and -5000 < low <= AIR_HU and (voxels == np.rint(voxels)).all()
    return bool(whole and np.median(voxels) < BONE_HU)


def _sampled(data: NDArray[Any]) -> NDArray[np.float64]:
    """Voxels on a grid, at most `_SAMPLE`."""
    step = max(1, math.ceil((data.size / _SAMPLE) ** (1 / data.ndim)))
    return np.asarray(data[(slice(None, None, step),) * data.ndim], np.float64)


def display_window(
    data: NDArray[Any], stated: tuple[float, float] | None = None, *, modality: str = ""
) -> tuple[float, float] | None:
    """Values between which a scan is drawn from black to white.

    Parameters
    ----------
    data : ndarray, integer or float
        Of a large one a sample of voxels on a grid counts.
    stated : tuple of (float, float), optional
        Lowest and highest value as the file says; taken where the values fill at least the share `FILLED` of it.
    modality : str
        As DICOM abbreviates it, where the file tells. CT is drawn in `SOFT_TISSUE`, also where the values tell it.

    Returns
    -------
    tuple of (float, float) or None
        Else the percentiles `SEEN`. None where these are equal, as of a mask.
    """
    if data.dtype.kind not in "iuf" or not data.size:
        return None
    values = _sampled(data)
    values = values[np.isfinite(values)]
    if not values.size:
        return None
    low, high = (float(v) for v in np.percentile(values, SEEN))
    for window in (stated, SOFT_TISSUE if modality == "CT" or (not modality and looks_ct(data)) else None):
        if window is not None and min(high, window[1]) - max(low, window[0]) >= FILLED * (window[1] - window[0]) > 0:
            return window
    return (low, high) if low < high else None


def finite_range(data: NDArray[Any]) -> tuple[float, float]:
    """Smallest and largest finite value, of which there must be one.

    Parameters
    ----------
    data : ndarray, integer or float
        Read once, in the order in which it lies in memory.
    """
    forward = data[tuple(slice(None, None, -1 if stride < 0 else 1) for stride in data.strides)]
    lows, highs = [], []
    for part in forward.transpose(np.argsort(forward.strides)[::-1]):
        low, high = part.min(), part.max()
        if not (np.isfinite(low) and np.isfinite(high)):
            finite = part[np.isfinite(part)]
            if not finite.size:
                continue
            low, high = finite.min(), finite.max()
        lows.append(float(low))
        highs.append(float(high))
    return min(lows), max(highs)
