"""Whether a model was trained on scans like this one: a scan described in numbers, and compared with training scans."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from prosma_core.config.model import Look, ModelHeader, ScanFacts, ScanWorld, Span
from prosma_core.data.geometry import ImageSpec
from prosma_core.data.grid import orient_axes, unit_factor
from prosma_core.data.intensities import COLOR, looks_ct
from prosma_core.errors import GeometryError
from prosma_core.printable import counted

Verdict = Literal["fits", "doubtful", "unfit", "unknown"]
MOST_SAMPLED = 1 << 16
"""Voxels of a scan that are looked at, about."""
LAG = 64
"""Smoothness is the correlation of voxels that are the longest side divided by this apart."""
DARK = 0.02
"""Voxels are dark that are less than this share of the range of values above the 1st percentile."""
GRAY = 0.95
"""Share of pixels with equal colors from which on a picture is gray."""
OTHER_VOXELS = 2.0
"""Voxels this many times smaller or larger than any of the training scans are others."""


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
        world = {"patient": "patient geometry", "sized": "voxel size", "pixels": "no voxel size"}[self.world]
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
        color=sum(scan.kind.color for scan in scans) * 2 > len(scans),
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


@dataclass(frozen=True)
class Fit:
    """Whether a model was trained on scans like this one.

    Attributes
    ----------
    verdict : {"fits", "doubtful", "unfit", "unknown"}
        ``unknown``: nothing speaks against it, and nothing tells what the scan shows.
    text : str
        Why it may not fit, in a sentence; empty for ``fits`` and ``unknown``.
    """

    verdict: Verdict
    text: str = ""


def compare(scan: ScanLook, header: ModelHeader) -> Fit:
    """Compare a scan that a model can take with the scans it was trained on.

    One sign of another kind of scan makes a model doubtful; two, another modality or color, or a synthetic model unfit.
    """
    kind, facts, name = scan.kind, header.facts, header.name
    if header.synthetic:
        if kind.synthetic:
            return Fit("fits")
        return Fit("unfit", f"{name} was trained on synthetic phantoms: on real scans its labels mean nothing.")
    modality = model_modality(header)
    hard, soft = list(_contradictions(kind, header, modality)), list(_differences(scan, header))
    if hard or soft:
        reasons = [*soft[: 1 if hard else 2], *hard[:1]]
        text = f"{name} was trained on {_trained_on(header, modality)}; this scan {' and '.join(reasons)}."
        return Fit("unfit" if hard or len(soft) > 1 else "doubtful", text)
    known = bool(modality) and kind.modality == modality
    narrow = facts is not None and facts.world == kind.world == "patient" and bool(facts.sides) and bool(scan.look)
    return Fit("fits" if known or narrow else "unknown")


def model_modality(header: ModelHeader) -> str:
    """Modality that a model is for; empty where it is not known."""
    ct = any(intensity.kind == "ct" for intensity in header.preprocess.intensities)
    return header.purpose.modality or (header.facts.modality if header.facts else "") or ("CT" if ct else "")


def _trained_on(header: ModelHeader, modality: str) -> str:
    if header.purpose.shows:
        return header.purpose.shows
    facts = header.facts
    words = [f"{facts.dims if facts else header.model.dims}D", modality, "color" if _in_color(header) else ""]
    return " ".join(filter(None, (*words, "scans")))


def _in_color(header: ModelHeader) -> bool:
    return tuple(channel.lower() for channel in header.preprocess.channels) == COLOR


def _contradictions(kind: ScanKind, header: ModelHeader, modality: str) -> Iterator[str]:
    """Why a scan is of another kind than a model is for, certainly."""
    if modality and kind.modality and modality != kind.modality:
        yield f"looks like {kind.modality}" if kind.guessed else f"is {kind.modality}"
    if _in_color(header) and not kind.color:
        yield "is gray"
    if not _in_color(header) and kind.color and len(header.preprocess.channels) == 1:
        yield "is in color"


def _differences(scan: ScanLook, header: ModelHeader) -> Iterator[str]:
    """Signs that a scan differs from the training scans, the clearest first."""
    kind, facts, pre = scan.kind, header.facts, header.preprocess
    dims = facts.dims if facts else header.model.dims
    if kind.dims != dims:
        yield "is a single 2D image" if kind.dims == 2 else "is 3D"
    world = facts.world if facts else "patient" if pre.orientation else "pixels" if pre.resample != "spacing" else ""
    if world == "patient" and kind.world != "patient":
        yield "has no patient geometry"
    elif world == "sized" and kind.world == "pixels" and pre.resample == "spacing":
        yield "has no voxel size"
    elif world == "pixels" and kind.world == "patient" and kind.dims == 3:
        yield "has patient geometry"
    if facts is None or kind.dims != dims:
        return
    if scan.unit == facts.unit == "mm":
        if kind.world == facts.world == "patient" and kind.dims == 3 and (words := _size(scan.sides, facts)):
            yield words
        if words := _voxels(scan.spacing, facts):
            yield words
    if scan.look and facts.look and (words := _values(scan.look, facts)):
        yield words


def _size(sides: Sequence[float], facts: ScanFacts) -> str:
    """How much larger or smaller the field of view is; a range of n scans is widened by 10 % and by 50 % / √n."""
    wide = 1.1 + 0.5 / math.sqrt(facts.scans)
    pairs = list(zip(sides, facts.sides, strict=True))
    larger = max((side / middle for side, (_, middle, high) in pairs if side > high * wide), default=0.0)
    smaller = max((middle / side for side, (low, middle, _) in pairs if side < low / wide), default=0.0)
    if not larger and not smaller:
        return ""
    given = " × ".join(f"{side:.0f}" for side in sides)
    ratio, word = (larger, "larger") if larger >= smaller else (smaller, "smaller")
    return f"is {_times(ratio)} {word} ({given} mm)"


def _times(ratio: float) -> str:
    return f"{ratio:.0f} times" if ratio >= 3 else f"{ratio:.1f} times"


def _voxels(spacing: Sequence[float], facts: ScanFacts) -> str:
    """Whether voxels are much smaller or larger than any of the training scans."""
    ratios = [
        max(given / (high * OTHER_VOXELS), low / (given * OTHER_VOXELS))
        for given, (low, _, high) in zip(sorted(spacing), sorted(facts.spacing), strict=True)
    ]
    if not ratios or max(ratios) <= 1:
        return ""
    given, usual = (" × ".join(f"{v:.3g}" for v in each) for each in (spacing, [m for _, m, _ in facts.spacing]))
    return f"has voxels of {given} mm instead of {usual} mm"


_WORDS: dict[Look, tuple[str, str]] = {
    "dark": ("has less dark background", "has more dark background"),
    "lower": ("is darker", "is brighter"),
    "middle": ("is darker", "is brighter"),
    "upper": ("is darker", "is brighter"),
    "entropy": ("has fewer gray values", "has more gray values"),
    "smoothness": ("has a finer texture", "is smoother"),
}
"""What is said of a scan whose number is lower, or higher, than that of any training scan."""


def _values(look: dict[Look, float], facts: ScanFacts) -> str:
    """The clearest difference of the values; a range of n scans is widened by 10 % and by 0.2 / √n."""
    room = 0.2 / math.sqrt(facts.scans)
    worst, words = 0.0, ""
    for name, (low, _, high) in facts.look.items():
        wide = 0.1 * (high - low) + room
        beyond = max(low - look[name], look[name] - high) / (high - low + room)
        if beyond * (high - low + room) > wide and beyond > worst:
            worst, words = beyond, _WORDS[name][look[name] > high]
    return f"{words} than nearly all of these" if words else ""
