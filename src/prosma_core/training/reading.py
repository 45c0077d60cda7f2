"""Which cases are read into memory, and which by parts: planned from the headers of files before voxels are read."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch

from prosma_core.config.model import ModelHeader
from prosma_core.config.training import RunConfig
from prosma_core.data.frames import frame_spec
from prosma_core.data.geometry import ImageSpec, with_voxel_size
from prosma_core.data.grid import network_grid
from prosma_core.errors import DeviceError, ProsmaError
from prosma_core.io.dataset_folder import Case
from prosma_core.io.images import lazy_image, least_bytes
from prosma_core.printable import counted, gib
from prosma_core.training.plan import target_spacing
from prosma_core.training.processes import ALONE, Processes

SHARE = 0.6
"""Share of the free main memory that the cases of a training may take."""
LEAST = 64 << 20
"""Bytes that may be taken in any case: what little a small data set takes is not planned."""
PREPARING = 16
"""Bytes that a voxel takes while its case is prepared, beside the file's own."""
NAMED = 3
"""Cases that are named; of more, the first ones and how many there are."""


@dataclass(frozen=True)
class _Size:
    """Bytes of a case that is ready for the network, and beside it while it is prepared."""

    ready: int
    preparing: int


@dataclass(frozen=True)
class Reading:
    """How the cases of a training are read.

    Attributes
    ----------
    by_parts : frozenset of str
        Names of the cases whose voxels stay on the disk.
    words : str
        The plan for people; empty where all cases are read into memory.
    """

    by_parts: frozenset[str] = frozenset()
    words: str = ""


def plan_reading(
    cases: Mapping[str, Case],
    names: Collection[str],
    run: RunConfig,
    start: ModelHeader | None,
    group: Processes = ALONE,
) -> Reading:
    """Which cases are read by parts: the largest of those that can be, until the others fit into memory.

    Parameters
    ----------
    cases : mapping of str to Case
    names : collection of str
        Of the cases that are trained or validated on.
    run : RunConfig
    start : ModelHeader or None
        Of the model to start from.
    group : Processes
        Each of which reads all cases.

    Raises
    ------
    DeviceError
        A case that cannot be read by parts does not fit into memory.
    """
    free = group.free_memory(torch.device("cpu"))
    specs: dict[str, tuple[ImageSpec, int]] = {}
    fixed: dict[str, int] = {}
    for name in sorted(names):
        found = _opened(cases[name])
        if found is None:
            fixed[name] = sum(map(least_bytes, cases[name].images))
        else:
            spec, size = found
            specs[name] = with_voxel_size(spec, run.voxel_size), size
    sizes = {name: _size(spec, size, run, start, list(specs.values())) for name, (spec, size) in specs.items()}
    room = max(int(SHARE * free), LEAST)
    others = sum(fixed.values())
    whole, by_parts = sum(each.ready for each in sizes.values()) + others, set[str]()
    left = sorted(sizes, key=lambda name: (sizes[name].ready, name))
    while left and _together([sizes[name] for name in left], others) > room:
        by_parts.add(left.pop())
    largest = max(fixed, key=lambda name: fixed[name], default="")
    if largest and fixed[largest] > max(free, LEAST):
        msg = (
            f"{cases[largest].images[0].name} takes about {gib(fixed[largest])} at least, and {gib(free)} are free. "
            "Only zarr, TIFF of one file, and NIfTI that is neither packed nor scaled can be read by parts: convert "
            "the scan, close other programs, or leave it out."
        )
        raise DeviceError(msg)
    if not by_parts:
        return Reading()
    named = sorted(by_parts)
    listed = ", ".join(named[:NAMED]) + (f" and {len(named) - NAMED} more" if len(named) > NAMED else "")
    verb = "is" if len(named) == 1 else "are"
    return Reading(
        frozenset(by_parts),
        f"{counted(len(named), 'case')} of {len(names)} {verb} read by parts ({listed}): in memory, all would take "
        f"about {gib(whole)}, and {gib(free)} are free.",
    )


def _opened(case: Case) -> tuple[ImageSpec, int] | None:
    """Geometry of an image that can be read by parts, and bytes of its voxels; None for any other."""
    if len(case.images) > 1:
        return None
    try:
        image = lazy_image(case.images[0])
    except ProsmaError:  # reading it as a whole says why
        return None
    return None if image is None else (image.spec, int(image.data.nbytes))


def _together(sizes: Sequence[_Size], fixed: int) -> int:
    """Bytes that cases take, and the largest while it is prepared."""
    return fixed + sum(each.ready for each in sizes) + max(each.preparing for each in sizes)


def _size(
    spec: ImageSpec, stored: int, run: RunConfig, start: ModelHeader | None, every: Sequence[tuple[ImageSpec, int]]
) -> _Size:
    own = prod(spec.spatial_shape)
    voxels = own * spec.num_frames
    ready = int(voxels * _finer(spec, run, start, [each for each, _ in every]) * (4 * spec.num_channels + 2))
    return _Size(ready, stored + PREPARING * own * spec.num_channels)


def _finer(spec: ImageSpec, run: RunConfig, start: ModelHeader | None, every: Sequence[ImageSpec]) -> float:
    """Voxels of the network's grid for each voxel of a scan."""
    if start is not None:
        try:
            grid = network_grid(spec, start.preprocess)
        except ProsmaError:  # told when it is read
            return 1.0
        return prod(grid.shape) / prod(grid.oriented)
    options = run.preprocess
    if spec.unit == "pixel" or options.resample not in (None, "spacing"):
        return 1.0
    alike = [each for each in every if each.spatial_ndim == spec.spatial_ndim]
    spacings = [frame_spec(each, each.spatial_ndim).spacing for each in alike]
    target = options.spacing or target_spacing(spacings, [each.spatial_shape for each in alike])
    return prod(spec.spacing) / prod(target) if len(target) == spec.spatial_ndim else 1.0
