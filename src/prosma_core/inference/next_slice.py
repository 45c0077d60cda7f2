"""Which slice to annotate next: the entropy of a model's probabilities in each slice of some scans."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from prosma_core.config.inference import InferenceConfig
from prosma_core.config.model import ModelHeader
from prosma_core.data.frames import slice_axis
from prosma_core.data.geometry import ImageSpec, Scan
from prosma_core.data.next_slice import Ranking, rank_slices
from prosma_core.errors import ChannelError, GeometryError, IntensityError, ProsmaError
from prosma_core.events import Event, StageStarted
from prosma_core.inference.results import Segmentation
from prosma_core.inference.segment import Segmenter

ENTROPY = InferenceConfig(entropy=True, overlap=0.25)
"""How a scan is segmented for its entropy."""
MOST_COUNTED = 2**22
"""Voxels of a slice that are counted at once: that takes twenty times their memory."""


class AnnotatedScan(NamedTuple):
    """A scan, and which of its slices are annotated.

    Attributes
    ----------
    name : str
    read : callable
        Reads it, as a generator, when it is needed.
    axis : str or None
        Letter of the slices' axis; empty for a picture, which is one slice. None is the usual one of the scan.
    annotated : collection of int
        Slices, numbered time point by time point.
    """

    name: str
    read: Callable[[], Generator[Event, None, Scan]]
    axis: str | None
    annotated: Collection[int]


def suggest(segmenter: Segmenter, scans: Sequence[AnnotatedScan], seed: int = 0) -> Generator[Event, None, Ranking]:
    """Rank the slices of scans by a model; one scan is in memory at a time, and a tile is a place to stop.

    Scans that cannot be read, or that the model cannot segment, are left out, which is reported, as long as there is
    another.

    Parameters
    ----------
    segmenter : Segmenter
    scans : sequence of AnnotatedScan
    seed : int
        As of `rank_slices`.

    Raises
    ------
    ProsmaError
        As `slice_entropy` does, for the first scan, where none can be segmented.
    """
    entropy: dict[int, NDArray[np.float64]] = {}
    failures: list[ProsmaError] = []
    for number, each in enumerate(scans):
        try:
            scan = yield from each.read()
        except ProsmaError as error:
            failures.append(error)
            if len(scans) > 1:
                yield StageStarted(f"{each.name} is left out. {error}")
            continue
        try:
            axis = usual_axis(scan.spec) if each.axis is None else each.axis
            entropy[number] = yield from slice_entropy(segmenter, scan, axis)
        except (GeometryError, ChannelError, IntensityError) as error:
            failures.append(error)
            if len(scans) > 1:
                yield StageStarted(f"{each.name} is left out. {error}")
    if not entropy:
        raise failures[0]
    order, turn = rank_slices(list(entropy.values()), [scans[number].annotated for number in entropy], seed)
    numbers = list(entropy)
    return Ranking([(numbers[scan], index) for scan, index in order], turn)


def usual_axis(spec: ImageSpec) -> str:
    """Letter of the axis that a scan's slices lie along, unless a person chose another; empty for a picture."""
    return spec.spatial_axes[slice_axis(spec)] if spec.spatial_ndim == 3 else ""


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
    return entropy_by_slice((yield from segmenter.segment(scan, ENTROPY)), segmenter.header, axis)


def entropy_by_slice(found: Segmentation, header: ModelHeader, axis: str) -> NDArray[np.float64]:
    """Entropy of the slices of a scan that was segmented with its entropy.

    Parameters
    ----------
    found : Segmentation
    header : ModelHeader
        Of the model.
    axis : str
        As of `slice_entropy`, which says what is returned.
    """
    assert found.entropy is not None
    spatial = found.labels.spec.spatial_axes
    values = np.array([info.value for info in header.classes])
    numbers = np.zeros(int(values.max()) + 1, np.int64)
    numbers[values] = np.arange(len(values))
    labels, entropy = (np.asarray(each.data) for each in (found.labels, found.entropy))
    if "t" not in found.labels.spec.axes:
        labels, entropy = labels[None], entropy[None]
    at = 1 + spatial.index(axis) if axis else None
    planes, unsure = (each[:, None] if at is None else np.moveaxis(each, at, 1) for each in (labels, entropy))
    sums = np.zeros((*planes.shape[:2], len(values)))
    for where in np.ndindex(planes.shape[:2]):
        plane, weights = planes[where], unsure[where]
        rows = max(1, MOST_COUNTED // plane.shape[1])
        for i in range(0, len(plane), rows):
            part = slice(i, i + rows)
            sums[where] += np.bincount(numbers[plane[part]].ravel(), weights[part].ravel(), len(values))
        sums[where] /= plane.size
    return sums
