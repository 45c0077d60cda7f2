"""Intensities: checks, normalization for the network, whether they are Hounsfield units, and the window to see them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prosma_core.config.model import ChannelIntensity
from prosma_core.data.geometry import Scan
from prosma_core.errors import ChannelError, IntensityError
from prosma_core.printable import counted

Place = Callable[[tuple[Any, ...]], str]
"""Text that locates a voxel of a frame in its scan, from its index."""

LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)
"""Weights of red, green and blue in a gray picture (ITU-R BT.601)."""
COLOR = ("red", "green", "blue")
"""Channel names of a color picture."""


SMALLEST, LARGEST = 1e-30, 1e30
"""Ranges of values outside of which float32 has no room for their squares."""
OFFSET = 16.0
"""Values whose offset is larger than their range by more than this factor lose detail in float32."""
BLOCK = 2**20
"""Values that are summed at once."""
WHOLE = 2**53
"""Whole numbers up to which float64 tells each from its neighbors."""
ABSURD = 1e6
"""A few voxels that lie this many times farther from the median than all others are taken for damage."""
FEW = 16
"""At most so many voxels, or one of 100,000."""


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


def normalise(image: NDArray[Any], intensities: tuple[ChannelIntensity, ...]) -> NDArray[np.float32]:
    """Channels normalised as the training set fixed it.

    Parameters
    ----------
    image : ndarray, integer or float, shape (C, *grid)
        Values of the file.
    intensities : tuple of ChannelIntensity
        One per channel.

    Returns
    -------
    ndarray, float32, shape (C, *grid)
        Computed in float64 where float32 cannot hold the differences between the values.

    Raises
    ------
    IntensityError
        See `check_finite` and `check_varies`.
    """
    check_finite(image)
    check_varies(image)
    result = np.empty(image.shape, np.float32)
    for given, rule, out in zip(image, intensities, result, strict=True):
        channel = given if rule.kind == "ct" else from_smallest(given)
        low, high = float(channel.min()), float(channel.max())
        if low == high and rule.kind == "zscore":
            out[...] = 0
            continue
        if not single_precision(low, high):
            out[...] = _normalised(channel.astype(np.float64), rule)
            continue
        np.copyto(out, channel, casting="unsafe")
        if rule.kind == "ct":
            np.clip(out, rule.low, rule.high, out=out)
            mean, std = rule.mean, rule.std
        else:
            mean, std = _mean_std(out)
        out -= mean
        out /= std
    return result


def _mean_std(values: NDArray[np.float32]) -> tuple[float, float]:
    """Mean and standard deviation in float64, without a copy of all values in it; `values` lie one behind the other."""
    flat = values.reshape(-1)
    mean = float(flat.mean(dtype=np.float64))
    blocks = (flat[start : start + BLOCK].astype(np.float64) - mean for start in range(0, flat.size, BLOCK))
    return mean, math.sqrt(sum(float(block @ block) for block in blocks) / flat.size)


def _normalised(values: NDArray[np.float64], rule: ChannelIntensity) -> NDArray[np.float64]:
    """Values of a channel normalised in place; those of a z-score brought to a range of 1 first."""
    if rule.kind == "ct":
        np.clip(values, rule.low, rule.high, out=values)
        mean, std = rule.mean, rule.std
    else:
        low, high = float(values.min()), float(values.max())
        middle, half = low / 2 + high / 2, high / 2 - low / 2
        values -= middle
        values /= half
        mean, std = float(values.mean()), float(values.std())
    values -= mean
    values /= std
    return values


def check_finite(image: NDArray[Any], place: Place | None = None) -> None:
    """Raise `IntensityError` if any voxel is NaN or infinite.

    Parameters
    ----------
    image : ndarray, integer or float, shape (C, *grid)
    place : callable, optional
        Says where a voxel lies, from its index in `image`.
    """
    if image.dtype.kind != "f":
        return
    finite = np.isfinite(image)
    bad = image.size - int(finite.sum())
    if bad:
        first = np.unravel_index(int(np.argmin(finite)), image.shape)
        where = f", the first at {place(first)}" if place else ""
        msg = (
            f"All {bad} voxels are NaN or infinite{where}: there is nothing to see in them. Check that it is the "
            "right file."
            if bad == image.size
            else f"Of {image.size} voxels, {counted(bad, 'is', 'are')} NaN or infinite{where}; replace "
            "them (for example by the background value) and try again."
        )
        raise IntensityError(msg)


def check_plausible(image: NDArray[Any], intensities: tuple[ChannelIntensity, ...], place: Place) -> None:
    """Raise `IntensityError` if a few finite voxels of a channel lie absurdly far from all others.

    They would decide over mean and standard deviation alone. A channel that is clipped (CT) may hold such voxels.

    Parameters
    ----------
    image : ndarray, integer or float, shape (C, *grid), or (1, *grid) or (3, *grid) where colors are exchanged
        Finite.
    intensities : tuple of ChannelIntensity
        One per channel of the model.
    place : callable
        Says where a voxel lies, from its index in `image`.
    """
    for c, channel in enumerate(image):
        if intensities[min(c, len(intensities) - 1)].kind == "ct":
            continue
        values = from_smallest(channel)
        some = _some(values)
        middle = float(np.median(some))
        reach = max(float(values.max()) - middle, middle - float(values.min())) / ABSURD
        if np.count_nonzero(np.abs(some - middle) > reach) > FEW * 4:  # as of any usual scan
            continue
        near = (values >= middle - reach) & (values <= middle + reach)
        far = channel.size - int(np.count_nonzero(near))
        if not 0 < far <= max(FEW, channel.size // 100_000):
            continue
        rest = channel[near]
        low, high = rest.min(), rest.max()
        if low < high:
            first = np.unravel_index(int(np.argmin(near)), channel.shape)
            count = "One voxel lies" if far == 1 else f"{far} voxels lie"
            msg = (
                f"{count} far outside of all others: {float(channel[first]):g} at {place((c, *first))}, while the "
                f"others are between {float(low):g} and {float(high):g}. Replace it (for example by the background "
                "value) and try again."
            )
            raise IntensityError(msg)


def _some(channel: NDArray[Any]) -> NDArray[Any]:
    """About 4,000 values, evenly spread, as floats."""
    flat = channel.reshape(-1) if channel.flags.c_contiguous else channel.ravel(order="K")
    return flat[:: max(1, flat.size // 4096)].astype(np.float64)


def check_varies(image: NDArray[Any]) -> None:
    """Raise `IntensityError` if all voxels have one value."""
    if image.max() == image.min():
        msg = (
            f"Every voxel has the value {float(image.flat[0]):g}: there is "
            "nothing to see in this image. Check that it is the right file."
        )
        raise IntensityError(msg)


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
    image = from_smallest(image)
    gray = np.tensordot(LUMINANCE.astype(kind), image.astype(kind, copy=False), axes=1)[None]
    return gray, "the three color channels were turned to gray"


AIR_HU = -500.0
"""CT is recognised by whole numbers that reach below this."""
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
