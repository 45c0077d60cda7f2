"""Which slice to annotate next: slices ranked by the entropy of a model's probabilities, one class in turn."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FLOOR = 1e-12
"""Least entropy of a slice, so that it has a logarithm."""


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
        Of each scan, as `prosma_core.inference.next_slice.slice_entropy` gives it.
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


def _near(annotated: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Direct neighbors of annotated slices, time point by time point."""
    near = np.zeros_like(annotated)
    near[:, 1:] |= annotated[:, :-1]
    near[:, :-1] |= annotated[:, 1:]
    return near
