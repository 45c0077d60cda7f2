"""Where another process finds the voxels of a layer: the file that holds them as the layer shows them. No Qt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, combinations, product
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from napari_prosma.layers.placement import same_grid
from napari_prosma.layers.scan import LayerScan
from napari_prosma.layers.stored import FileArray
from napari_prosma.layers.zarr_slices import ZarrArray
from prosma_core.data.geometry import SPATIAL_AXES, Scan
from prosma_core.data.lazy import IN_CORE
from prosma_core.errors import ProsmaError
from prosma_core.io.remote import RemotePath
from prosma_core.io.zarr_stores import StoredPath, is_zipped

PER_VOXEL = 24
"""Bytes that a segmentation takes at least for each voxel beside those of the scan: values, two classes, the result."""
SHARE = 0.8
"""Share of the free memory that is planned with."""
PROBES = 24
"""Places at which a layer is compared with its file."""
PROBED = 16
"""Voxels of such a place along each axis, at most."""
MOST_PARTS = 512
"""Channels and time points of a file among which a layer is looked for."""


@dataclass(frozen=True)
class Source:
    """A file that holds a layer's scan.

    Attributes
    ----------
    path : Path
        A file, a zarr folder, or an array in one.
    axes : str or None
        How the file's axes are read; None: as the file says.
    select : dict of str to int
        Index along axes of the file that the layer does not have, by letter.
    """

    path: Path
    axes: str | None = None
    select: dict[str, int] = field(default_factory=dict)


def free_memory() -> int:
    """Bytes of memory that are planned with."""
    return int(psutil.virtual_memory().available * SHARE)


def is_large(scan: LayerScan) -> bool:
    """Whether a scan that is not in memory is too large to be segmented as a whole, told by its size alone."""
    if type(scan.data) is np.ndarray:
        return False
    needed = scan.dtype.itemsize * prod(scan.spec.shape) + PER_VOXEL * prod(scan.spec.labels_spec().shape)
    return bool(needed > min(IN_CORE, free_memory()))


def source_of(scan: LayerScan) -> Source | None:
    """The file that holds a layer's scan as the layer shows it; None where none is known to. Reads a few voxels.

    A zarr array is found by its store; a dask array of a large scan by the zarr array in its graph, or the file that
    the layer was read from, where voxels are the same at some places.
    """
    if scan.rgb and scan.spec.num_channels != scan.data.shape[-1]:
        return None
    if isinstance(scan.data, FileArray):
        order = tuple(scan.data.order[scan.axes.index(letter)] for letter in scan.spec.axes)
        return Source(scan.data.path) if order == tuple(range(len(order))) else None
    array = _zarr_array(scan.data)
    if array is not None:
        folder = _folder(array)
        if folder is None and scan.level == 0 and scan.path is not None and is_zipped(scan.path):
            return Source(scan.path, scan.axes) if isinstance(_place(array), StoredPath) else None
        return None if folder is None else Source(folder, scan.axes)
    if not is_large(scan) or not hasattr(scan.data, "dask"):
        return None
    array = _zarr_in(scan.data)
    if array is not None:
        return _in_zarr(scan, array)
    return _in_file(scan) if scan.path is not None and _has_no_zarr(scan.data) else None


def own_file(scan: LayerScan) -> Path | None:
    """The local file of a large layer that says the same of its scan as the layer does; None where there is none.

    Another program that reads this file alone, by parts, has the voxels, axes and voxel size that are shown; also by a
    link that lies in another folder.
    """
    from prosma_core.io.images import lazy_image  # with all file formats: late, to open the widgets sooner

    found = source_of(scan) if is_large(scan) else None
    if found is None or found.select or isinstance(found.path, RemotePath):
        return None
    try:
        path = found.path.absolute() if found.axes is None else _says_axes(found.path.absolute(), found.axes)
        stored = None if path is None else lazy_image(path)
    except ProsmaError:
        return None
    if stored is None or stored.data.dtype != scan.dtype:
        return None
    mine, its = scan.spec, stored.spec
    same = (mine.axes, mine.shape, mine.unit, mine.world) == (its.axes, its.shape, its.unit, its.world)
    return path if same and same_grid(mine.affine, its.affine, its.spacing) else None


def _says_axes(array: Path, axes: str) -> Path | None:
    """The zarr that is this array, and says itself that these are its axes; None where there is none.

    That of the finest level of an OME-Zarr is the image around it, which names the axes.
    """
    from prosma_core.io.zarr_checks import locate_array  # late, as above
    from prosma_core.io.zarr_geometry import axes_of

    path, found = array, locate_array(array)
    if found.multiscale and found.array.path == array:
        path, found = array.parent, locate_array(array.parent)
        if found.array.path != array:
            return None
    return path if axes_of(path, found, tuple(found.array.metadata["shape"])) == axes else None


def _zarr_array(data: Any) -> Any:
    """The zarr array that a layer shows, None where it shows none, or shows it turned."""
    if isinstance(data, ZarrArray):
        return data.array if data.order == tuple(range(data.array.ndim)) else None
    return data if _is_zarr(data) else None


def _is_zarr(data: Any) -> bool:
    return type(data).__module__.partition(".")[0] == "zarr" and hasattr(data, "store")


def _place(array: Any) -> Any:
    """Where the store of a zarr array of our reader is; None of another store, and of a folder."""
    return getattr(array.store, "place", None)


def _folder(array: Any) -> Path | None:
    """Folder of a zarr array on this computer, or its URL."""
    store, place = array.store, _place(array)
    if isinstance(place, StoredPath):
        return place.url
    root = getattr(store, "root", None)
    if root is None and "file" in np.atleast_1d(getattr(getattr(store, "fs", None), "protocol", "")):
        root = getattr(store, "path", None)
    if root is None:
        return None
    folder = Path(str(root)) / str(getattr(array, "path", ""))
    return folder if folder.is_absolute() and folder.is_dir() else None


def _tasks(data: Any) -> Iterator[tuple[str, Any]]:
    """Layers of a dask graph: the name and the first task of each."""
    for name, layer in data.dask.layers.items():
        yield str(name), next(iter(dict(layer).values()), None)


def _has_no_zarr(data: Any) -> bool:
    return not any(_is_zarr(task) or isinstance(task, ZarrArray) for _, task in _tasks(data))


def _zarr_in(data: Any) -> Any:
    """The zarr array that a dask array is, or is a part of; None where anything is computed."""
    found = None
    for name, task in _tasks(data):
        kind, array = name.removeprefix("original-").rpartition("-")[0], _zarr_array(task)
        if kind not in {"from-zarr", "array", "getitem"} or (found is not None and array is not None):
            return None
        found = found if array is None else array
    return found


def _in_zarr(scan: LayerScan, array: Any) -> Source | None:
    folder = _folder(array)
    if folder is None or array.dtype != scan.data.dtype:
        return None
    if tuple(array.shape) == tuple(scan.data.shape) and not any(n.startswith("getitem") for n, _ in _tasks(scan.data)):
        return Source(folder, scan.axes)
    missing = "".join(letter for letter in "tc" if letter not in scan.axes)
    more = array.ndim - scan.data.ndim
    for at in combinations(range(array.ndim), more):
        if tuple(n for axis, n in enumerate(array.shape) if axis not in at) != tuple(scan.data.shape):
            continue
        index = _found(scan.data, array, at)
        if index is not None and more <= len(missing):
            names, letters = iter(missing[-more:]), iter(scan.axes)
            axes = "".join(next(names) if axis in at else next(letters) for axis in range(array.ndim))
            return Source(folder, axes, {axes[axis]: i for axis, i in zip(at, index, strict=True)})
    return None


def _in_file(scan: LayerScan) -> Source | None:
    """The file that a layer was read from, where it can be read by parts."""
    from prosma_core.io.images import open_image  # with all file formats: late, to open the widgets sooner

    try:
        found = open_image(scan.path) if scan.path is not None else None
    except ProsmaError:
        return None
    if found is None or isinstance(found.data, np.ndarray) or found.data.dtype != scan.dtype:
        return None
    missing = [letter for letter in found.spec.axes if letter not in scan.spec.axes]
    kept = "".join(letter for letter in found.spec.axes if letter in scan.spec.axes)
    shape = tuple(found.spec.size(letter) for letter in kept)
    if kept != scan.spec.axes or shape != scan.spec.shape or set(missing) & set(SPATIAL_AXES):
        return None
    turned = scan.data.transpose([scan.axes.index(letter) for letter in kept])
    at = tuple(found.spec.axes.index(letter) for letter in missing)
    index = _found(turned, _Voxels(found), at)
    return None if index is None else Source(scan.path, None, dict(zip(missing, index, strict=True)))  # type: ignore[arg-type]


class _Voxels:
    """Boxes of a scan that is read by parts."""

    def __init__(self, scan: Scan) -> None:
        self.data, self.shape, self.ndim = scan.data, scan.spec.shape, len(scan.spec.shape)

    def __getitem__(self, index: Sequence[slice]) -> Any:
        return self.data.read(tuple((part.start, part.stop) for part in index))


def _found(data: Any, array: Any, at: tuple[int, ...]) -> tuple[int, ...] | None:
    """Index along some axes of an array under which it holds dask's data, told by voxels; None where that is unsure.

    Boxes are compared, not single voxels: most of an image may be empty, and so may be what it holds when mirrored.
    """
    kept = list(product(*(range(array.shape[axis]) for axis in at)))
    if len(kept) > MOST_PARTS:
        return None
    several, first = False, None
    draw = np.random.default_rng(0)
    for _ in range(PROBES):
        box = tuple(_near(int(draw.integers(sum(blocks))), blocks) for blocks in data.chunks)
        values = np.asarray(data[box])
        first = values.flat[0] if first is None else first
        several = several or bool((values != first).any())
        rest = [(index, (slice(i, i + 1) for i in index), iter(box)) for index in kept]
        kept = [
            index
            for index, mine, others in rest
            if np.array_equal(
                np.asarray(
                    array[tuple(next(mine) if axis in at else next(others) for axis in range(array.ndim))]
                ).squeeze(at),
                values,
                equal_nan=values.dtype.kind == "f",
            )
        ]
        if not kept:
            return None
    return kept[0] if len(kept) == 1 and several else None


def _near(place: int, blocks: Sequence[int]) -> slice:
    """Up to `PROBED` places from one on, within its block along an axis."""
    end = next(stop for stop in accumulate(blocks) if stop > place)
    return slice(place, min(place + PROBED, end))
