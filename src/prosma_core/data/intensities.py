"""Voxel values to what the network expects."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prosma_core.config.preprocess import ChannelIntensity
from prosma_core.data.geometry import Scan
from prosma_core.errors import ChannelError, IntensityError

LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)
"""Weights of red, green and blue in a grey picture (ITU-R BT.601)."""
COLOUR = ("red", "green", "blue")
"""Channel names of a colour picture."""


def normalise(image: NDArray[np.float32], intensities: tuple[ChannelIntensity, ...]) -> NDArray[np.float32]:
    """Channels normalised as the training set fixed it.

    Parameters
    ----------
    image : ndarray, float32, shape (C, *grid)
        Values of the file.
    intensities : tuple of ChannelIntensity
        One per channel.

    Returns
    -------
    ndarray, float32, shape (C, *grid)

    Raises
    ------
    IntensityError
        See `check_finite` and `check_varies`.
    """
    check_finite(image)
    check_varies(image)
    result = np.empty_like(image)
    for channel, rule, out in zip(image, intensities, result, strict=True):
        if rule.kind == "ct":
            np.clip(channel, rule.low, rule.high, out=out)
            mean, std = rule.mean, rule.std
        else:
            mean, std = float(channel.mean(dtype=np.float64)), float(channel.std(dtype=np.float64))
            np.copyto(out, channel)
        out -= mean
        out /= max(std, 1e-8)
    return result


def check_finite(image: NDArray[np.floating]) -> None:
    """Raise `IntensityError` if any voxel is NaN or infinite."""
    bad = image.size - int(np.isfinite(image).sum())
    if bad:
        msg = (
            f"{bad} of {image.size} voxels are NaN or infinite; replace "
            "them (for example by the background value) and try again."
        )
        raise IntensityError(msg)


def check_varies(image: NDArray[np.floating]) -> None:
    """Raise `IntensityError` if all voxels have one value."""
    if float(image.max()) == float(image.min()):
        msg = (
            f"Every voxel has the value {float(image.flat[0]):g}: there is "
            "nothing to see in this image. Check that it is the right file."
        )
        raise IntensityError(msg)


def check_channels(scan: Scan, channels: tuple[str, ...]) -> None:
    """Raise `ChannelError` unless a scan has the model's channels, or only grey stands against red, green and blue."""
    given, names = scan.spec.num_channels, channels
    if given == len(channels):
        return
    if given == 3:
        names = scan.spec.channel_names or (COLOUR if scan.data.dtype == np.uint8 else ())
    if {given, len(channels)} != {1, 3} or tuple(name.lower() for name in names) != COLOUR:
        msg = (
            f"The scan has {given} channel{'s' * (given != 1)}, the model takes {len(channels)} "
            f"({', '.join(channels)}). Give the channels it was trained on, "
            "as a channel axis or as files NAME_0000, NAME_0001, …"
        )
        raise ChannelError(msg)


def fit_channels(image: NDArray[np.float32], expected: int) -> tuple[NDArray[np.float32], str | None]:
    """Channels as the network takes them, after `check_channels`: colour to grey, or grey to three equal channels.

    Parameters
    ----------
    image : ndarray, float32, shape (C, *grid)
    expected : int
        Channels the network takes.

    Returns
    -------
    image : ndarray, float32, shape (expected, *grid)
    note : str or None
        What was done, in words.
    """
    if image.shape[0] == expected:
        return image, None
    if image.shape[0] == 1:
        return np.repeat(image, 3, axis=0), "the grey channel was used for red, green and blue"
    grey = np.tensordot(LUMINANCE, image, axes=1)[None].astype(np.float32)
    return grey, "the three colour channels were turned to grey"
