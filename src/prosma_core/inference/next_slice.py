"""Which slice to annotate next: slices ranked by the entropy of a model's probabilities, one class in turn."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from prosma_core.config.inference import InferenceConfig
from prosma_core.data.geometry import Scan
from prosma_core.errors import ChannelError, GeometryError, IntensityError, ProsmaError
from prosma_core.events import Event, StageStarted
from prosma_core.inference.segment import Segmenter

FLOOR = 1e-12
"""Least entropy of a slice, so that it has a logarithm."""
ENTROPY = InferenceConfig(entropy=True, overlap=0.25)
"""How a scan is segmented for its entropy."""


class Ranking(NamedTuple):
    """Slices of several scans, the one to annotate first at the top.

    Attributes
    ----------
    order : list of (int, int)
        Number of a scan, and of its slice.
    turn : int
        Class whose entropy ranks them; 0 where that of all classes does.
    """

    order: list[tuple[int, int]]
    turn: int


class AnnotatedScan(NamedTuple):
    """A scan, and which of its slices are annotated.

    Attributes
    ----------
    name : str
    read : callable
        Reads it, as a generator, when it is needed.
    axis : str
        Letter of the slices' axis; empty for a picture, which is one slice.
    annotated : collection of int
        Slices, numbered time point by time point.
    """

    name: str
    read: Callable[[], Generator[Event, None, Scan]]
    axis: str
    annotated: Collection[int]


def suggest(segmenter: Segmenter, scans: Sequence[AnnotatedScan], seed: int = 0) -> Generator[Event, None, Ranking]:
    """Rank the slices of scans by a model; one scan is in memory at a time, and a tile is a place to stop.

    Scans that the model cannot segment are left out, which is said, as long as there is another.

    Parameters
    ----------
    segmenter : Segmenter
    scans : sequence of AnnotatedScan
    seed : int
        As of `rank_slices`.

    Raises
    ------
    ProsmaError
        As `slice_entropy` does, for the first scan, where the model can segment none.
    """
    entropy: dict[int, NDArray[np.float64]] = {}
    failures: list[ProsmaError] = []
    for number, each in enumerate(scans):
        try:
            entropy[number] = yield from slice_entropy(segmenter, (yield from each.read()), each.axis)
        except (GeometryError, ChannelError, IntensityError) as error:
            failures.append(error)
            if len(scans) > 1:
                yield StageStarted(f"{each.name} is left out. {error}")
    if not entropy:
        raise failures[0]
    order, turn = rank_slices(list(entropy.values()), [scans[number].annotated for number in entropy], seed)
    numbers = list(entropy)
    return Ranking([(numbers[scan], index) for scan, index in order], turn)


def power_scores(
    entropy: NDArray[np.float64], step: int, left: NDArray[np.bool_], rng: np.random.Generator, *, noise: float = 1.0
) -> tuple[NDArray[np.float64], int]:
    """ClaSP PE (arXiv 2601.13677) for slices: two of three choices by the entropy of one class in turn, with noise.

    The logarithm of the entropy gets Gumbel noise, less with each slice: early choices vary, later ones follow the
    entropy.

    Parameters
    ----------
    entropy : ndarray, shape (slices, K)
        Mean over a slice of the entropy of voxels that are predicted to be of a class; 0 is the background.
    step : int
        Slices annotated so far, at least 1.
    left : ndarray, bool, shape (slices,)
        Which may be chosen.
    rng : Generator
    noise : float
        Scale of the noise of the first choice.

    Returns
    -------
    scores : ndarray, shape (slices,)
        The highest is the slice to annotate next.
    turn : int
        As of `Ranking`.
    """
    turn = 0 if step % 3 == 0 else 1 + (step - 1 - (step - 1) // 3) % (entropy.shape[1] - 1)
    if turn and not (entropy[left, turn] > 0).any():
        turn = 0
    scores = entropy[:, turn] if turn else entropy.sum(1)
    gumbel = rng.gumbel(size=len(scores)) * noise / 2 ** ((step - 1) / 2)
    return np.log(np.maximum(scores, FLOOR)) + gumbel, turn


def rank_slices(entropy: Sequence[NDArray[np.float64]], annotated: Sequence[Collection[int]], seed: int = 0) -> Ranking:
    """Rank the slices of scans that are not annotated, their annotated slices' direct neighbors last.

    Parameters
    ----------
    entropy : sequence of ndarray, shape (time points, slices, K)
        Of each scan, as `slice_entropy` gives it.
    annotated : sequence of collection of int
        Slices of each scan, numbered time point by time point.
    seed : int
        With the same slices annotated, the same seed gives the same ranking.
    """
    place = [(scan, index) for scan, each in enumerate(entropy) for index in range(each.shape[0] * each.shape[1])]
    known = [np.zeros(each.shape[:2], bool) for each in entropy]
    for flags, numbers in zip(known, annotated, strict=True):
        flags.reshape(-1)[[index for index in numbers if index < flags.size]] = True
    left = ~np.concatenate([flags.ravel() for flags in known])
    near = np.concatenate([_near(flags).ravel() for flags in known])
    step = max(1, int((~left).sum()))
    every = np.concatenate([each.reshape(-1, each.shape[-1]) for each in entropy])
    candidates = left & ~near if (left & ~near).any() else left
    scores, turn = power_scores(every, step, candidates, np.random.default_rng((seed, step)))
    order = np.lexsort((-scores, near))
    return Ranking([place[number] for number in order if left[number]], turn)


def slice_entropy(segmenter: Segmenter, scan: Scan, axis: str) -> Generator[Event, None, NDArray[np.float64]]:
    """Segment a scan, and give the entropy of its slices; yields as `Segmenter.segment` does.

    Parameters
    ----------
    segmenter : Segmenter
    scan : Scan
    axis : str
        As of `AnnotatedScan`.

    Returns
    -------
    ndarray, shape (time points, slices, K)
        As `power_scores` takes it.

    Raises
    ------
    GeometryError, ChannelError, IntensityError, DeviceError
        As `Segmenter.segment` does; or the scan has no such axis.
    """
    spatial = scan.spec.spatial_axes
    if axis and axis not in spatial:
        msg = f"Slices along {axis} are to be ranked, but the scan has the axes {spatial}. Open scan and labels again."
        raise GeometryError(msg)
    found = yield from segmenter.segment(scan, ENTROPY)
    assert found.entropy is not None
    values = np.array([info.value for info in segmenter.header.classes])
    numbers = np.zeros(int(values.max()) + 1, np.int64)
    numbers[values] = np.arange(len(values))
    labels, entropy = (np.asarray(each.data) for each in (found.labels, found.entropy))
    if "t" not in found.labels.spec.axes:
        labels, entropy = labels[None], entropy[None]
    at = 1 + spatial.index(axis) if axis else None
    planes, unsure = (each[:, None] if at is None else np.moveaxis(each, at, 1) for each in (labels, entropy))
    sums = np.zeros((*planes.shape[:2], len(values)))
    for where in np.ndindex(planes.shape[:2]):
        classes, weights = numbers[planes[where]].ravel(), unsure[where].ravel()
        sums[where] = np.bincount(classes, weights, len(values)) / len(classes)
    return sums


def _near(annotated: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Direct neighbors of annotated slices, time point by time point."""
    near = np.zeros_like(annotated)
    near[:, 1:] |= annotated[:, :-1]
    near[:, :-1] |= annotated[:, 1:]
    return near
