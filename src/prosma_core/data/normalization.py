"""Normalization of intensities: measured in one pass over parts of a frame, then applied voxel by voxel.

What is measured does not depend on how a frame is read: it is summed over cells of fixed place and size, and the sums
of the cells are added exactly. So a scan in memory and one read by parts are normalized alike, to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from itertools import product
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from prosma_core.config.model import ChannelIntensity
from prosma_core.data.cells import Cells
from prosma_core.data.geometry import Box, first_voxel, is_repeated
from prosma_core.data.intensities import WHOLE, fit_channels, single_precision
from prosma_core.errors import IntensityError, PartUnreadableError
from prosma_core.events import Working
from prosma_core.printable import Passing, counted

CELL = 512
"""Side of the squares of one plane that are summed by themselves."""
PART = 64 << 20
"""Bytes, about, that are read at once."""
SAMPLE = 4096
"""Values, about, that are sampled of a channel."""
ABSURD = 1e6
"""A few voxels that lie this many times farther from the median than all others are taken for damage."""
FEW = 16
"""At most so many voxels, or one of 100,000."""


@dataclass(frozen=True)
class ChannelScale:
    """How the values of a channel become those of the network, each by itself.

    Attributes
    ----------
    clip : tuple of float, or None
        Lowest and highest value of a CT scan.
    shift : int or None
        What whole numbers are counted from that float64 has no room for.
    middle, half : float
        Where float32 has no room for the differences: values are brought to a range of 1 in float64 first.
    double : bool
        Whether to compute in float64.
    mean, std : float
        Subtracted, and divided by; a `std` of 0 gives 0.
    """

    clip: tuple[float, float] | None = None
    shift: int | None = None
    middle: float = 0.0
    half: float = 1.0
    double: bool = False
    mean: float = 0.0
    std: float = 0.0

    def apply(self, values: NDArray[Any], out: NDArray[np.float32]) -> None:
        """Write normalized values into an array of the same shape."""
        if not self.std:
            out[...] = 0
            return
        found: NDArray[Any] = out
        if self.double:
            found = self._centered(values)
        else:
            np.copyto(out, _from(values, self.shift), casting="unsafe")
        if self.clip:
            np.clip(found, *self.clip, out=found)
        found -= self.mean
        found /= self.std
        if self.double:
            out[...] = found

    def _centered(self, values: NDArray[Any]) -> NDArray[np.float64]:
        found = _from(values, self.shift).astype(np.float64)
        if not self.clip:
            found -= self.middle
            found /= self.half
        return found


def _from(values: NDArray[Any], shift: int | None) -> NDArray[Any]:
    """Whole numbers counted from one of them; exact, as what wraps wraps back."""
    return values if shift is None else values.astype(np.uint64) - np.uint64(shift % 2**64)


@dataclass(frozen=True)
class Normalization:
    """How a frame is normalized.

    Attributes
    ----------
    channels : tuple of ChannelScale
        One per channel of the network.
    low, high : float or int
        Smallest and largest value of all channels of the file.
    cells : Cells, optional
        Where the frame has one value, if that was asked for; in no document.
    """

    channels: tuple[ChannelScale, ...]
    low: float
    high: float
    cells: Cells | None = field(default=None, compare=False, repr=False)

    def as_json(self) -> dict[str, Any]:
        """For a document; numbers stay what they are to the bit."""
        return {"channels": tuple(map(asdict, self.channels)), "low": self.low, "high": self.high}

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Normalization:
        """The inverse of `as_json`; raises `KeyError` or `TypeError` for other documents."""
        scales = [
            ChannelScale(**{**scale, "clip": None if scale["clip"] is None else tuple(scale["clip"])})
            for scale in found["channels"]
        ]
        return cls(tuple(scales), found["low"], found["high"])

    @property
    def blank(self) -> bool:
        """Whether all voxels have one value."""
        return self.low == self.high

    def is_as(self, other: Normalization) -> bool:
        """Whether both give the same values for the network."""
        return (self.channels, self.blank) == (other.channels, other.blank)

    def apply(self, image: NDArray[Any], result: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Normalized values.

        Parameters
        ----------
        image : ndarray, integer or float, shape (C, *box)
            Channels as the network takes them.
        result : ndarray, float32, optional
            Where they are written.
        """
        result = np.empty(image.shape, np.float32) if result is None else result
        for scale, values, out in zip(self.channels, image, result, strict=True):
            scale.apply(values, out)
        return result


class Source(Protocol):
    """What is measured: a frame."""

    def where(self, voxel: tuple[Any, ...]) -> str:
        """Where a voxel lies."""

    def read(self, box: Box) -> NDArray[Any]:
        """Voxels of a box of the grid, shape (C, *box)."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Grid."""

    @property
    def chunks(self) -> tuple[int, ...]:
        """What is unpacked at once."""


def measure(
    frames: Sequence[Source],
    intensities: tuple[ChannelIntensity, ...],
    unreadable: list[PartUnreadableError] | None = None,
) -> list[Normalization]:
    """How frames of one shape are to be normalized; each part of the scan is read once, as a rule.

    Parameters
    ----------
    frames : sequence of Source
    intensities : tuple of ChannelIntensity
        One per channel of the model.
    unreadable : list of PartUnreadableError, optional
        Gets the errors of parts that cannot be read, which are left out; the first is raised where it is None, and
        where a frame has no other parts.

    Raises
    ------
    IntensityError
        Voxels are NaN or infinite, or a few lie absurdly far from all others.
    PartUnreadableError
        See `unreadable`.
    """
    work = _passes(frames, intensities, unreadable)
    while True:
        try:
            next(work)
        except StopIteration as stop:
            found: list[Normalization] = stop.value
            return found


def measuring(
    frames: Sequence[Source],
    intensities: tuple[ChannelIntensity, ...],
    unreadable: list[PartUnreadableError] | None = None,
    of: str = "",
    *,
    cells: bool = False,
) -> Generator[Working, None, list[Normalization]]:
    """The same as `measure`; yields after each part, and may be closed there.

    `of` names the scan in what it yields; `cells` has it note where each frame has one value.
    """
    shown: dict[_Pass, Passing] = {}
    with closing(_passes(frames, intensities, unreadable, cells=cells)) as work:
        while True:
            try:
                now = next(work)
            except StopIteration as stop:
                found: list[Normalization] = stop.value
                return found
            words = ("Checking intensities" if now.again else "Reading intensities") + (f" of {of}" if of else "")
            yield Working(shown.setdefault(now, Passing(words, now.parts)).another())


@dataclass(frozen=True, eq=False)
class _Pass:
    """A pass over so many parts: the first, or a further one."""

    parts: int
    again: bool = False


def _passes(
    frames: Sequence[Source],
    intensities: tuple[ChannelIntensity, ...],
    unreadable: list[PartUnreadableError] | None,
    *,
    cells: bool = False,
) -> Generator[_Pass, None, list[Normalization]]:
    sums = [_FrameSums(frame, len(intensities), cells=cells) for frame in frames]
    boxes = list(_parts(frames[0])) if frames else []
    reading = _Pass(len(boxes) * len(sums))
    for box in boxes:
        for each in sums:
            try:
                each.add(box)
            except PartUnreadableError as error:
                if unreadable is None:
                    raise
                unreadable.append(error)
                each.without.add(box)
            yield reading
    if unreadable and not all(each.given for each in sums):
        raise unreadable[0]
    found = []
    for each in sums:
        one = yield from each.normalization(intensities)
        found.append(one)
    return found


def normalize(image: NDArray[Any], intensities: tuple[ChannelIntensity, ...]) -> NDArray[np.float32]:
    """Channels normalized as the training set fixed it.

    Parameters
    ----------
    image : ndarray, integer or float, shape (C, *grid)
        Values of the file.
    intensities : tuple of ChannelIntensity
        One per channel.

    Raises
    ------
    IntensityError
        As `measure`, or all voxels have one value.
    """
    found = measure([_Whole(image)], intensities)[0]
    check_not_blank(found)
    return found.apply(image)


def check_not_blank(found: Normalization) -> None:
    """Raise `IntensityError` if all voxels have one value."""
    if found.blank:
        msg = (
            f"Every voxel has the value {float(found.low):g}: there is "
            "nothing to see in this image. Check that it is the right file."
        )
        raise IntensityError(msg)


@dataclass(frozen=True, eq=False)
class _Whole:
    """A frame in memory."""

    image: NDArray[Any]

    def where(self, voxel: tuple[Any, ...]) -> str:
        return str(voxel)

    def read(self, box: Box) -> NDArray[Any]:
        return self.image[(slice(None), *(slice(a, b) for a, b in box))]

    @property
    def sizes(self) -> tuple[int, ...]:
        return self.image.shape[1:]

    @property
    def chunks(self) -> tuple[int, ...]:
        return (1,) * (self.image.ndim - 1)


def _parts(frame: Source) -> Iterator[Box]:
    """Boxes of whole cells and, as far as they are not too large, whole chunks that together are the grid."""
    sizes, chunks = frame.sizes, frame.chunks
    cells = (*(1,) * (len(sizes) - 2), CELL, CELL)
    steps = [min(-(-chunk // cell) * cell, size) for chunk, cell, size in zip(chunks, cells, sizes, strict=True)]
    for axis in range(len(sizes)):  # too large: the first axis is read in single planes
        if math.prod(steps) * 4 > PART:
            steps[axis] = min(max(cells[axis], int(steps[axis] * PART / (4 * math.prod(steps)))), steps[axis])
            steps[axis] = max(steps[axis] // cells[axis], 1) * cells[axis]
    yield from product(*(_cuts(0, size, step) for size, step in zip(sizes, steps, strict=True)))


def _cuts(start: int, stop: int, step: int) -> list[tuple[int, int]]:
    return [(a, min(a + step, stop)) for a in range(start, stop, step)]


@dataclass
class _Sums:
    """What is summed of one channel: of each cell its voxels, their sum, and their squared distance from the mean."""

    count: list[int] = field(default_factory=list)
    total: list[float] = field(default_factory=list)
    squares: list[float] = field(default_factory=list)
    low: Any = None
    high: Any = None

    def add(self, values: NDArray[Any]) -> None:
        """Take a cell."""
        one = first_voxel(values) if is_repeated(values) else values
        low, high = one.min(), one.max()
        whole = values.dtype.kind in "biu"
        low, high = (int(low), int(high)) if whole else (float(low), float(high))
        self.low = low if self.low is None else min(self.low, low)
        self.high = high if self.high is None else max(self.high, high)
        self.count.append(values.size)
        if low == high:
            self.total.append(float(low) * values.size)
            self.squares.append(0.0)
            return
        with np.errstate(all="ignore"):  # of values that are brought to a range of 1 later
            spread = values.astype(np.float64, order="C")
            total = float(spread.sum())
            spread -= total / values.size
            np.square(spread, out=spread)
            self.total.append(total)
            self.squares.append(float(spread.sum()))

    def mean_std(self) -> tuple[float, float]:
        """Mean and standard deviation; the cells are added exactly, in any order."""
        voxels = sum(self.count)
        mean = math.fsum(self.total) / voxels
        cells = zip(self.count, self.total, self.squares, strict=True)
        squares = math.fsum(square + n * (total / n - mean) ** 2 for n, total, square in cells)
        return mean, math.sqrt(squares / voxels)


class _FrameSums:
    """Sums of the channels of a frame, as the file has them and as the network takes them."""

    def __init__(self, frame: Source, channels: int, *, cells: bool = False) -> None:
        self.frame, self.expected, self.noted = frame, channels, cells
        self.cells: Cells | None = None
        self.given: list[_Sums] = []
        self.fitted: list[_Sums] | None = None
        self.bad = self.voxels = 0
        self.first: tuple[int, ...] | None = None
        self.samples: list[list[NDArray[Any]]] = []
        self.without: set[Box] = set()
        self.step = max(1, round((math.prod(frame.sizes) / SAMPLE) ** (1 / len(frame.sizes))))

    def add(self, box: Box) -> None:
        """Take a part."""
        image = self.frame.read(box)
        if not self.given:
            self.given = [_Sums() for _ in image]
            self.samples = [[] for _ in image]
            if len(image) != self.expected:
                self.fitted = [_Sums() for _ in range(self.expected)]
        self.voxels += image.size
        if not self._finite(image, box):
            return
        if self.noted:
            self.cells = self.cells or Cells(len(image), self.frame.sizes)
            self.cells.add(box, image)
        fitted = None if self.fitted is None else fit_channels(image, self.expected)[0]
        for cell in _cells(box):
            for sums, values in zip(self.given, image, strict=True):
                sums.add(values[cell])
            if self.fitted is not None and fitted is not None:
                for sums, values in zip(self.fitted, fitted, strict=True):
                    sums.add(values[cell])
        every = tuple(slice(-a % self.step, None, self.step) for a, _ in box)
        for kept, values in zip(self.samples, image, strict=True):
            kept.append(np.array(values[every]).reshape(-1))

    def _finite(self, image: NDArray[Any], box: Box) -> bool:
        """Count voxels that are not finite; the first in array order is kept."""
        one = first_voxel(image) if is_repeated(image) else image
        if image.dtype.kind != "f" or np.isfinite(one.min()) & np.isfinite(one.max()):
            return True
        finite = np.isfinite(image)
        bad = image.size - int(np.count_nonzero(finite))
        if bad:
            self.bad += bad
            at = np.unravel_index(int(np.argmin(finite)), image.shape)
            first = (int(at[0]), *(int(i) + a for i, (a, _) in zip(at[1:], box, strict=True)))
            self.first = first if self.first is None else min(self.first, first)
        return not bad

    def normalization(self, intensities: tuple[ChannelIntensity, ...]) -> Generator[_Pass, None, Normalization]:
        """What was found; some of it is only known after further passes."""
        if self.bad and self.first is not None:
            raise not_finite(self.bad, self.voxels, self.frame.where(self.first))
        for c, sums in enumerate(self.given):
            if intensities[min(c, len(intensities) - 1)].kind != "ct":
                yield from self._check_plausible(c, sums)
        used = self.given if self.fitted is None else self.fitted
        scales = []
        for c, (each, rule) in enumerate(zip(used, intensities, strict=True)):
            scales.append((yield from self._scale(c, each, rule)))
        low, high = min(s.low for s in self.given), max(s.high for s in self.given)
        return Normalization(tuple(scales), low, high, self.cells)

    def _scale(self, channel: int, sums: _Sums, rule: ChannelIntensity) -> Generator[_Pass, None, ChannelScale]:
        low, high = sums.low, sums.high
        if rule.kind == "ct":
            double = not single_precision(float(low), float(high))
            return ChannelScale((rule.low, rule.high), double=double, mean=rule.mean, std=rule.std)
        if low == high:
            return ChannelScale()
        shift = None
        if isinstance(low, int) and max(-low, high) > WHOLE:
            shift, low, high = low, 0, high - low
        double = not single_precision(float(low), float(high))
        middle, half = float(low) / 2 + float(high) / 2, float(high) / 2 - float(low) / 2
        scale = ChannelScale(None, shift, *((middle, half) if double else (0.0, 1.0)), double)
        if double or shift is not None:
            sums = _Sums()
            boxes = self._readable()
            further = _Pass(len(boxes), again=True)
            for box in boxes:
                image = self.frame.read(box)
                image = image if self.fitted is None else fit_channels(image, self.expected)[0]
                for cell in _cells(box):
                    sums.add(scale._centered(image[channel][cell]))
                yield further
        mean, std = sums.mean_std()
        return ChannelScale(None, shift, scale.middle, scale.half, double, mean, std)

    def _readable(self) -> list[Box]:
        return [box for box in _parts(self.frame) if box not in self.without]

    def _check_plausible(self, c: int, sums: _Sums) -> Generator[_Pass, None, None]:
        """Raise `IntensityError` if a few voxels of a channel lie absurdly far from all others.

        They would decide over mean and standard deviation alone. A channel that is clipped (CT) may hold such voxels.
        """
        shift = sums.low if isinstance(sums.low, int) and max(-sums.low, sums.high) > WHOLE else None
        some = _from(np.concatenate(self.samples[c]), shift).astype(np.float64)
        low, high = (float(v - (shift or 0)) for v in (sums.low, sums.high))
        middle = float(np.median(some))
        reach = max(high - middle, middle - low) / ABSURD
        if np.count_nonzero(np.abs(some - middle) > reach) > FEW * 4:  # as of any usual scan
            return
        far, total, first, value = 0, 0, None, 0.0
        lows, highs = [], []
        boxes = self._readable()
        further = _Pass(len(boxes), again=True)
        for box in boxes:
            part = self.frame.read(box)[c]
            image = first_voxel(part) if is_repeated(part) else part
            values = _from(image, shift)
            near = (values >= middle - reach) & (values <= middle + reach)
            away = part.size // image.size * (image.size - int(np.count_nonzero(near)))
            far, total = far + away, total + part.size
            if away < part.size:
                lows.append(image[near].min())
                highs.append(image[near].max())
            if away:
                at = np.unravel_index(int(np.argmin(near)), image.shape)
                place = tuple(int(i) + a for i, (a, _) in zip(at, box, strict=True))
                if first is None or place < first:
                    first, value = place, float(image[at])
            yield further
        if first is None or not 0 < far <= max(FEW, total // 100_000) or min(lows) >= max(highs):
            return
        count = "One voxel lies" if far == 1 else f"{far} voxels lie"
        msg = (
            f"{count} far outside of all others: {value:g} at {self.frame.where((c, *first))}, while the "
            f"others are between {float(min(lows)):g} and {float(max(highs)):g}. Replace it (for example by the "
            "background value) and try again."
        )
        raise IntensityError(msg)


def _cells(box: Box) -> Iterable[tuple[slice, ...]]:
    """Index of each cell in a part of whole cells: squares of one plane."""
    *planes, rows, columns = (b - a for a, b in box)
    cuts = [*([(i, i + 1) for i in range(n)] for n in planes), _cuts(0, rows, CELL), _cuts(0, columns, CELL)]
    return (tuple(slice(a, b) for a, b in cell) for cell in product(*cuts))


def not_finite(bad: int, voxels: int, where: str = "") -> IntensityError:
    """The error for voxels that are no numbers."""
    at = f", the first at {where}" if where else ""
    if bad == voxels:
        msg = f"All {bad} voxels are NaN or infinite{at}: there is nothing to see in them. Check that it is the "
        return IntensityError(msg + "right file.")
    msg = f"Of {voxels} voxels, {counted(bad, 'is', 'are')} NaN or infinite{at}; replace "
    return IntensityError(msg + "them (for example by the background value) and try again.")
