"""Preprocessing from a training set: target grid, orientation, normalisation, channels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from prosma_core.config.preprocess import ChannelIntensity, PreprocessConfig, Resample
from prosma_core.config.run import PlanOptions
from prosma_core.data.fingerprint import Fingerprint
from prosma_core.data.grid import STRONG_ANISOTROPY
from prosma_core.data.intensities import COLOR
from prosma_core.errors import DatasetError
from prosma_core.printable import counted

AIR_HU = -500.0
"""CT is recognised by whole numbers that reach below this in most scans."""


def plan_preprocess(
    prints: Sequence[Fingerprint], dims: int, options: PlanOptions, channel_names: tuple[str, ...]
) -> PreprocessConfig:
    """Preprocessing for a training set; the tile is only bounded by the data, see `plan_tile`.

    Raises
    ------
    DatasetError
        The cases differ in unit or in number of channels.
    """
    channels = _common_channels(prints)
    unit = _common_unit(prints)
    oriented = all(p.oriented for p in prints)
    orientation = options.orientation or ("RAS" if oriented else "keep")
    resample = options.resample or _choose_resample(prints, unit, dims)
    longest = options.longest_side
    if resample == "longest_side" and longest is None:
        longest = int(np.median([max(p.shape) for p in prints]))
    spacing = options.spacing or target_spacing([p.spacing for p in prints], [p.shape for p in prints])
    names = channel_names if len(channel_names) == channels else _channel_names(prints, channels)
    if options.intensities is None or isinstance(options.intensities, str):
        intensities = plan_intensities(prints, channels, options.intensities, names)
    else:
        intensities = options.intensities
    return PreprocessConfig.parse(
        {
            "dims": dims,
            "channels": names,
            "orientation": "RAS" if orientation == "RAS" else None,
            "resample": resample,
            "spacing": spacing if resample == "spacing" else (),
            "unit": unit,
            "longest_side": longest if resample == "longest_side" else None,
            "intensities": intensities,
            "tile": options.tile or (1,) * dims,
        },
        "The planned preprocessing",
    )


def _choose_resample(prints: Sequence[Fingerprint], unit: str, dims: int) -> Resample:
    if unit != "pixel":
        return "spacing"
    sides = Counter(max(p.shape) for p in prints)
    side, count = sides.most_common(1)[0]
    varied = len({p.shape for p in prints}) > 1
    return "longest_side" if dims == 2 and varied and side >= 8 and count >= 0.8 * len(prints) else "none"


def _common_channels(prints: Sequence[Fingerprint]) -> int:
    counts = Counter(p.channels for p in prints)
    most = counts.most_common(1)[0][0]
    color = all(p.color for p in prints if p.channels == 3)
    if len(counts) > 1 and not (set(counts) == {1, 3} and color):
        msg = f"The images have different numbers of channels ({sorted(counts)}); all need the same."
        raise DatasetError(msg)
    return most


def _common_unit(prints: Sequence[Fingerprint]) -> str:
    units = {p.unit for p in prints}
    if len(units) > 1:
        unknown = sum(p.unit == "pixel" for p in prints)
        msg = f"The images have different units ({', '.join(sorted(units))}); bring them to one."
        if unknown:
            msg = (
                f"Of {len(prints)} images, {counted(unknown, 'has', 'have')} no voxel size or no unit of it. Give the "
                "size of those that have none (--spacing z,y,x and a unit), or train without them."
            )
        raise DatasetError(msg)
    return units.pop()


def _channel_names(prints: Sequence[Fingerprint], channels: int) -> tuple[str, ...]:
    for p in prints:
        if len(p.channel_names) == channels:
            return p.channel_names
    if channels == 3 and all(p.color for p in prints if p.channels == 3):
        return COLOR
    return tuple(f"channel {i}" for i in range(channels)) if channels > 1 else ("image",)


def target_spacing(spacings: Sequence[tuple[float, ...]], shapes: Sequence[tuple[int, ...]]) -> tuple[float, ...]:
    """Median spacing; along a strongly anisotropic axis the 10th percentile, so that thin-sliced scans keep detail.

    Parameters
    ----------
    spacings, shapes : sequence of tuple
        Per case, in the same axis order.
    """
    all_spacings = np.asarray(spacings)
    target = np.median(all_spacings, axis=0)
    size = np.median(np.asarray(shapes), axis=0)
    thick = int(np.argmax(target))
    others = [a for a in range(len(target)) if a != thick]
    if target[thick] > STRONG_ANISOTROPY * max(target[others]) and size[thick] * STRONG_ANISOTROPY < min(size[others]):
        fine = float(np.percentile(all_spacings[:, thick], 10))
        target[thick] = max(fine, max(target[others]))
    return tuple(float(t) for t in target)


def plan_intensities(
    prints: Sequence[Fingerprint], channels: int, kind: str | None, names: tuple[str, ...]
) -> tuple[ChannelIntensity, ...]:
    """Normalisation per channel: CT by its name or its values, z-score otherwise."""
    looks_ct = sum(p.whole_numbers and p.low <= AIR_HU for p in prints) >= 0.8 * len(prints)
    result = []
    for c in range(channels):
        ct = kind == "ct" or (kind is None and (names[c].lower() == "ct" or (channels == 1 and looks_ct)))
        values = np.concatenate([p.foreground[c] for p in prints if p.channels == channels]) if ct else np.empty(0)
        if not ct or values.size == 0:
            result.append(ChannelIntensity())
            continue
        low, high = np.percentile(values, [0.5, 99.5])
        clipped = np.clip(values, low, high)
        std = float(clipped.std()) or 1.0
        result.append(
            ChannelIntensity(kind="ct", low=float(low), high=float(high), mean=float(clipped.mean()), std=std)
        )
    return tuple(result)
