"""A scan in numbers: its kind, field of view, voxels and values; and what training scans have in common."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from prosma_core.config.model import Look, ScanFacts, ScanWorld, Span
from prosma_core.data.geometry import ImageSpec
from prosma_core.data.grid import orient_axes, unit_factor
from prosma_core.data.intensities import COLOR, looks_ct
from prosma_core.errors import GeometryError
from prosma_core.printable import counted

MIXED = 0.05
"""Training scans are in color and gray where this share of them at least is of the rarer kind."""
MOST_SAMPLED = 1 << 16
"""Voxels of a scan that are looked at, about."""
LAG = 64
"""Smoothness is the correlation of voxels that are the longest side divided by this apart."""
DARK = 0.02
"""Voxels are dark that are less than this share of the range of values above the 1st percentile."""
GRAY = 0.95
"""Share of pixels with equal colors from which on a picture is gray."""


@dataclass(frozen=True)
class ScanKind:
    """Kind of a scan: what a model must be trained for.

    Attributes
    ----------
    dims : int
        Spatial axes.
    channels : int
        3 for a picture in color; a picture of three equal channels is gray and has 1.
    color : bool
        Whether the channels are red, green and blue.
    world : {"patient", "sized", "pixels"}
        Whether the file knows the patient's axes, only a voxel size, or neither.
    modality : str
        As DICOM abbreviates it; empty where nothing tells it.
    synthetic : bool
        Whether it is a phantom of this program.
    guessed : bool
        Whether the modality is told by the values alone (CT).
    """

    dims: int
    channels: int
    color: bool
    world: ScanWorld
    modality: str = ""
    synthetic: bool = False
    guessed: bool = False

    @property
    def text(self) -> str:
        """In a few words, such as ``3D, 1 channel, CT``; equal kinds have equal texts."""
        channels = "color" if self.color else counted(self.channels, "channel")
        size = "pixel size" if self.dims == 2 else "voxel size"
        world = {"patient": "patient geometry", "sized": size, "pixels": f"no {size}"}[self.world]
        kind = self.modality + " phantom" * self.synthetic
        return ", ".join(part for part in (f"{self.dims}D", channels, world, kind.strip()) if part)


@dataclass(frozen=True)
class ScanLook:
    """A scan in numbers.

    Attributes
    ----------
    kind : ScanKind
    unit : str
        ``"mm"``, or ``"pixel"`` where the scan has no unit.
    sides, spacing : tuple of float
        Field of view and voxel size along z, y and x in `unit`, turned to RAS where the file knows the patient.
    dtype : str
    values : tuple of float
        1st, 50th and 99th percentile of the values, empty where there was nothing to measure.
    look : dict of str to float
        See `LOOKS`; empty where the voxels are not in memory, not finite, or all equal.
    """

    kind: ScanKind
    unit: str
    sides: tuple[float, ...]
    spacing: tuple[float, ...]
    dtype: str = ""
    values: tuple[float, ...] = ()
    look: dict[Look, float] | None = None


USUAL = (1, 50, 99)
"""Percentiles of the training scans between which the numbers of a look are usual."""
LOOKS: tuple[Look, ...] = get_args(Look)


def describe(
    spec: ImageSpec, data: Any = None, axes: str = "", modality: str = "", *, synthetic: bool = False
) -> ScanLook:
    """A scan in numbers; of a large one a sample of its voxels is looked at, of one that is not in memory none.

    Parameters
    ----------
    spec : ImageSpec
    data : array-like, optional
        Its voxels; only a numpy array is looked at.
    axes : str
        Letters of the axes of `data`; those of `spec` unless given.
    modality : str
        Where it is known.
    synthetic : bool
        Whether it is known to be a phantom.
    """
    voxels = data if isinstance(data, np.ndarray) and data.dtype.kind in "buif" and data.size else None
    axes = axes or spec.axes
    gray = spec.num_channels == 3 and spec.channel_names == COLOR and voxels is not None and _is_gray(voxels, axes)
    kind = kind_from(spec, data, modality, synthetic=synthetic, gray=gray)
    order, _ = orient_axes(spec)
    try:
        scale, unit = (1.0, "pixel") if spec.unit == "pixel" else (unit_factor(spec.unit, "mm"), "mm")
    except GeometryError:
        scale, unit = 1.0, "pixel"
    spacing = tuple(spec.spacing[a] * scale for a in order)
    sides = tuple(spec.spatial_shape[a] * size for a, size in zip(order, spacing, strict=True))
    if voxels is None:
        return ScanLook(kind, unit, sides, spacing)
    values, look = _look(voxels, axes, spec.num_channels)
    return ScanLook(kind, unit, sides, spacing, str(voxels.dtype.newbyteorder("=")), values, look)


def kind_from(
    spec: ImageSpec, data: Any = None, modality: str = "", *, synthetic: bool = False, gray: bool = False
) -> ScanKind:
    """Kind of a scan of this geometry.

    Parameters
    ----------
    spec : ImageSpec
    data : array-like, optional
        Its voxels, to tell CT by; ``None`` does not.
    modality : str
        Where it is known.
    synthetic : bool
    gray : bool
        Whether its colors are known to be equal.
    """
    world: ScanWorld = "patient" if spec.world == "ras" else "pixels" if spec.unit == "pixel" else "sized"
    color = spec.num_channels == 3 and spec.channel_names == COLOR and not gray
    guessed = not modality and world != "pixels" and spec.num_channels == 1 and looks_ct(data)
    channels = 1 if gray else spec.num_channels
    return ScanKind(spec.spatial_ndim, channels, color, world, "CT" if guessed else modality, synthetic, guessed)


def _is_gray(data: NDArray[Any], axes: str) -> bool:
    """Whether the colors of a picture are equal, but for a few marks, as far as some of its pixels tell."""
    some = np.moveaxis(data, axes.index("c"), 0)
    step = max(1, math.isqrt(some[0].size * 3 // (MOST_SAMPLED * 4)))
    some = some[..., ::step, ::step]
    return bool(((some[0] == some[1]) & (some[0] == some[2])).mean() >= GRAY)


def _look(data: NDArray[Any], axes: str, channels: int) -> tuple[tuple[float, ...], dict[Look, float]]:
    """Percentiles of the values, and what tells scans apart by them, whatever their scale."""
    free = [a for a, letter in enumerate(axes) if letter != "c"]
    step = max(1, math.ceil((math.prod(data.shape[a] for a in free) / MOST_SAMPLED) ** (1 / len(free))))

    def some(axis: int = -1, start: int = 0, stop: int | None = None) -> NDArray[np.float64]:
        index = [slice(None, channels) if letter == "c" else slice(None, None, step) for letter in axes]
        if axis >= 0:
            index[axis] = slice(start, stop, step)
        part = data[tuple(index)].astype(np.float64)
        return part.mean(axes.index("c")) if "c" in axes else part

    with np.errstate(all="ignore"):
        sample = some().ravel()
        sample = sample[np.isfinite(sample)]
        if not sample.size:
            return (), {}
        low, middle, high = (float(v) for v in np.percentile(sample, (1, 50, 99)))
        values = (low, middle, high)
        if not low < high:
            low, high = float(sample.min()), float(sample.max())
        span = high - low
        if not 0 < span < math.inf:
            return values, {}
        scaled = np.clip((sample - low) / span, 0, 1)
        counts = np.histogram(scaled, 64, (0, 1))[0] / sample.size
        entropy = -float((counts[counts > 0] * np.log(counts[counts > 0])).sum()) / math.log(64)
        quartiles = [float(v) for v in np.percentile(scaled, (25, 50, 75))]
        lag = max(1, round(max(data.shape[axes.index(a)] for a in "yx") / LAG))
        pairs = [
            (some(a, 0, data.shape[a] - lag), some(a, lag, None)) for a in map(axes.index, "yx") if data.shape[a] > lag
        ]
        related = [_correlation(*(np.clip((p - low) / span, 0, 1) for p in pair)) for pair in pairs]
    dark = float((sample <= low + DARK * span).mean())
    smooth = float(np.mean(related)) if related else 0.0
    return values, dict(zip(LOOKS, (dark, *quartiles, entropy, smooth), strict=True))


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Correlation of two samples, 0 where one of them does not vary or is not finite."""
    a, b = a.ravel() - a.mean(), b.ravel() - b.mean()
    size = math.sqrt(float((a * a).sum()) * float((b * b).sum()))
    found = float((a * b).sum()) / size if size > 0 else 0.0
    return found if math.isfinite(found) else 0.0


def facts_of(scans: Sequence[ScanLook], *, synthetic: bool = False) -> ScanFacts:
    """What training scans have in common.

    Parameters
    ----------
    scans : sequence of ScanLook
        At least one.
    synthetic : bool
        Whether all are known to be phantoms.
    """
    first = scans[0].kind
    colored = sum(scan.kind.color for scan in scans)
    alike = [scan for scan in scans if scan.kind.dims == first.dims]
    worlds, channels = ([scan.kind.world for scan in scans], [scan.kind.channels for scan in scans])
    modalities = {scan.kind.modality for scan in scans}
    units = {scan.unit for scan in alike}
    sized = alike if len(units) == 1 else []
    looks = [scan.look for scan in scans if scan.look]
    values = [scan.values for scan in scans if scan.values]
    return ScanFacts(
        scans=len(scans),
        dims=3 if first.dims == 3 else 2,
        channels=max(set(channels), key=channels.count),
        color=colored * 2 > len(scans),
        mixed=min(colored, len(scans) - colored) >= MIXED * len(scans) > 0,
        world=max(set(worlds), key=worlds.count),
        modality=modalities.pop() if len(modalities) == 1 else "",
        synthetic=synthetic,
        unit=units.pop() if len(units) == 1 else "pixel",
        sides=tuple(_span(each) for each in zip(*(scan.sides for scan in sized), strict=True)),
        spacing=tuple(_span(each) for each in zip(*(scan.spacing for scan in sized), strict=True)),
        dtypes=tuple(sorted({scan.dtype for scan in scans if scan.dtype})),
        values=tuple(_span(each) for each in zip(*values, strict=True)),
        look={name: _span([look[name] for look in looks], USUAL) for name in LOOKS} if looks else {},
    )


def _span(values: Sequence[float], percentiles: tuple[float, ...] = (0, 50, 100)) -> Span:
    low, middle, high = (float(f"{v:.4g}") for v in np.percentile(values, percentiles))
    return low, middle, high
