"""Zarr v2 and v3 arrays and OME-Zarr images (the finest level): reading and writing."""

from __future__ import annotations

import asyncio
import logging
import warnings
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prosma_core.data.geometry import AXIS_ORDER, Box, ImageSpec, Scan, box_slices
from prosma_core.data.lazy import LazyArray
from prosma_core.errors import FileFormatError, PartUnreadableError, ProsmaError
from prosma_core.io.axes_units import (
    ZARR_UNITS,
    arrange,
    axis_aligned,
    parse_axes,
    to_canonical,
)
from prosma_core.io.read_errors import damaged_part, excerpt, reading
from prosma_core.io.zarr_checks import (
    Empty,
    Node,
    check_array,
    check_there,
    checked_store,
    chunk_place,
    coarser_levels,
    load_node,
    locate_array,
)
from prosma_core.io.zarr_geometry import axes_of, grid_of
from prosma_core.io.zarr_labels import LabelImage, fill_levels, foreign_notes, plan_label_image
from prosma_core.io.zarr_stores import Place

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from prosma_core.io.zarr_checks import ZarrHeader


_LOG = logging.getLogger(__name__)


def read_zarr(path: Path, axes: str | None, *, labels: bool = False) -> Scan:
    """The array of a zarr folder, read whole.

    Parameters
    ----------
    path : Path
    axes : str, optional
        Letters for the dimensions of the array. If not given they come from OME-Zarr, the dimension names, or the
        attributes ``axes`` or ``_ARRAY_DIMENSIONS``; otherwise ``yx`` and ``zyx`` are assumed.
    labels : bool
        Whether the values are class numbers: chunks without any are missing as a rule.

    Raises
    ------
    FileFormatError
        As in `zarr_checks.check_zarr`, or a chunk cannot be unpacked.
    GeometryError
        The axes cannot be told, or the voxel size cannot be used.
    """
    with reading(path, "a zarr folder"):
        opened = _open(path, axes, coarser=False, labels=labels)
        data: Any = _read(opened)
    if not data.dtype.isnative:
        data = data.astype(data.dtype.newbyteorder("="))
    return Scan(to_canonical(data, opened.axes)[0], opened.spec)


def _read(opened: OpenZarr) -> Any:
    """All voxels of the finest level; where most chunks are missing, only those that are there are looked for."""
    array, parts = opened.levels[0], opened.parts
    if parts is None or 2 * len(parts) >= array.nchunks or array.fill_value is None:
        return _part(opened, (slice(None),) * array.ndim)
    data = np.full(array.shape, array.fill_value, array.dtype)
    for part in parts.values():
        data[part] = array[part]
    return data


def _part(opened: OpenZarr, part: tuple[slice, ...]) -> Any:
    """A part of the finest level; raises `FileFormatError` where a server lost the array since it was opened."""
    data, store = opened.levels[0][part], opened.levels[0].store
    if getattr(store, "missing", False):  # a chunk that is not there is legal, unless nothing is there any more
        store.missing = False
        check_there(opened.node)
    return data


@dataclass(frozen=True, eq=False)
class OpenZarr:
    """A zarr folder whose voxels are still on disk.

    Attributes
    ----------
    levels : list of zarr.Array
        Resolution levels, finest first; axes `axes`.
    axes : str
        Letters of the arrays' dimensions, in their order.
    spec : ImageSpec
        Of the finest level, in canonical axis order.
    notes : dict
        What `write_zarr` was given as provenance; of other folders the classes that OME-Zarr names, if any.
    parts : dict of place to tuple of slice, or None
        The files of the finest level and the parts that they hold; None where they are not listed.
    labels : bool
        Whether the folder says that it holds labels of an image.
    node : Node
        Metadata of the finest level.
    bad : dict of str to ProsmaError
        Files of the finest level that are damaged, with the reason, where it is read by parts.
    """

    levels: list[Any]
    axes: str
    spec: ImageSpec
    notes: dict[str, Any]
    parts: dict[Place, tuple[slice, ...]] | None
    labels: bool
    node: Node
    bad: dict[str, ProsmaError]


def lazy_zarr(path: Path, axes: str | None) -> Scan:
    """The array of a zarr folder, read by parts when they are asked for; a sparse one may lack nearly all chunks.

    Parameters and errors as in `read_zarr`; a chunk that cannot be unpacked, or that is gone, is named when it is read.
    """
    with reading(path, "a zarr folder"):
        opened = _open(path, axes, coarser=False, labels=False, sparse=True)
    array, folder = opened.levels[0], opened.node.path
    chunks = tuple(int(n) for n in (array.shards or array.chunks))
    parts = opened.parts or {}
    files = {tuple(s.start // n for s, n in zip(at, chunks, strict=True)): file for file, at in parts.items()}
    there = np.full(
        tuple(-(-size // n) for size, n in zip(array.shape, chunks, strict=True)), opened.parts is None, bool
    )
    for index in files:
        there[index] = True
    fill = 0 if array.fill_value is None else array.fill_value
    native = array.dtype.newbyteorder("=")

    def grid(box: Box) -> tuple[slice, ...]:
        return tuple(slice(a // n, -(-b // n)) for (a, b), n in zip(box, chunks, strict=True))

    def single(box: Box) -> Any:
        return None if there[grid(box)].any() else fill

    def read(box: Box) -> Any:
        start = [part.start for part in grid(box)]
        wanted = [tuple(map(int, index + start)) for index in np.argwhere(there[grid(box)])]
        if opened.bad and (bad := [name for i in wanted if (name := str(files.get(i))) in opened.bad]):
            raise PartUnreadableError(str(opened.bad[bad[0]]), files=bad)
        try:
            data = _part(opened, box_slices(box))
        except (MemoryError, ProsmaError):
            raise
        except Exception as error:  # of any codec
            places = {
                chunk_place(opened.node, at): tuple((i * n, (i + 1) * n) for i, n in zip(at, chunks, strict=True))
                for at in wanted
            }
            raise _chunk_error(array, places, error) from error
        known = (file for index in wanted if isinstance(file := files.get(index), Path))
        if gone := [str(file) for file in known if not file.exists()]:
            msg = f"{gone[0]} is gone since {path.name} was opened. Check the disk or the connection, and run it again."
            if isinstance(folder, Path) and not folder.is_dir():  # all of it
                raise FileFormatError(msg)
            raise PartUnreadableError(msg, files=gone)
        return data.astype(native, copy=False)

    ordered = "".join(letter for letter in AXIS_ORDER if letter in opened.axes)
    data = LazyArray(tuple(array.shape), native, read, chunks, single)
    return Scan(data.transpose(tuple(opened.axes.index(letter) for letter in ordered)), opened.spec)


def _chunk_error(array: Any, files: dict[Place, Box], error: Exception) -> ProsmaError:
    """The error for a part that cannot be read: names the first chunk, found by reading them one by one."""
    bad: dict[str, Exception] = {}
    for file, box in files.items():
        try:
            array[box_slices(box)]
        except ProsmaError as own:
            return own
        except Exception as own:  # noqa: BLE001  (of any codec)
            bad[str(file)] = own
    first, reason = next(iter(bad.items()), (str(next(iter(files))), error))
    text = excerpt(str(reason)) or type(reason).__name__
    return damaged_part(first, f"this chunk cannot be unpacked ({text})", files=list(bad) or [first])


def open_zarr(path: Path) -> OpenZarr:
    """Open a zarr folder without reading its voxels; axes and errors as in `read_zarr`."""
    with reading(path, "a zarr folder"):
        return _open(path, None, coarser=True, labels=False)


def _open(path: Path, axes: str | None, *, coarser: bool, labels: bool, sparse: bool = False) -> OpenZarr:
    import zarr

    found = locate_array(path)
    nodes = [found.array, *(coarser_levels(found) if coarser else [])]
    usual = labels or found.labels
    empty: Empty = "usual" if usual else "reported" if coarser else "sparse" if sparse else "refused"
    bad: dict[str, ProsmaError] = {}
    parts = [check_array(node, empty, bad if sparse else None) for node in nodes]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # codecs that the specification does not have are checked above
        arrays: list[Any] = [
            zarr.open_array(
                str(node.path) if isinstance(node.path, Path) else checked_store(node),
                path="" if isinstance(node.path, Path) else node.path.key,
                mode="r",
                zarr_format=node.zarr_format,  # type: ignore[arg-type]
            )
            for node in nodes
        ]
    shape = tuple(arrays[0].shape)
    names = axes_of(path, found, shape) if axes is None else parse_axes(axes, len(shape), path)
    scale, origin, unit = grid_of(path, found, names)
    placeholder = np.broadcast_to(np.zeros((), arrays[0].dtype), shape)  # costs no memory
    spec = arrange(
        placeholder,
        names,
        scale=scale,
        origin=origin,
        unit=unit,
        kind="ome-zarr" if found.header.ome else "zarr",
        channel_names=found.channel_names or tuple(found.array.attributes.get("channel_names", ())),
        header=found.header,
    ).spec
    group = load_node(path)
    notes = group.attributes.get("prosma") or foreign_notes(group) if group else {}
    notes = notes if isinstance(notes, dict) else {}
    return OpenZarr(arrays, names, spec, notes, parts[0], found.labels, found.array, bad)


_CHUNK = {"t": 1, "c": 1, "z": 64, "y": 256, "x": 256}


_LONGEST_WRITE_S = 30.0


@contextmanager
def writes_ended() -> Iterator[None]:
    """Where writing a zarr fails, wait on leaving for the writes beside it, which zarr does not stop.

    Otherwise one of them makes a folder again that was removed because of the failure.
    """
    try:
        yield
    except BaseException:
        from zarr.core.sync import sync

        with suppress(Exception):  # the first error counts
            sync(_others_ended())
        raise


async def _others_ended() -> None:
    if others := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(others, timeout=_LONGEST_WRITE_S)


def write_zarr(
    path: Path, data: NDArray[Any], spec: ImageSpec, provenance: dict[str, str], image: LabelImage | None = None
) -> None:
    """Write an array as a new zarr folder; parameters as of `create_zarr`.

    Parameters
    ----------
    path, spec, provenance, image
    data : ndarray
        Shape ``spec.shape``, axes ``spec.axes``.
    """
    image = image or plan_label_image(path, spec, provenance)
    with writes_ended():
        array = create_zarr(path, data.dtype, spec, provenance, image=image)
        array[...] = data
        for _ in complete_zarr(path, array, image):
            pass


def complete_zarr(path: Path, array: Any, image: LabelImage) -> Iterator[tuple[int, int]]:
    """Fill the coarser levels of what `create_zarr` has made, once its array is filled; yields as `fill_levels`."""
    if not image.levels:
        return
    names = tuple(array.metadata.dimension_names or ()) if array.metadata.zarr_format == 3 else ()

    def create(place: Path, shape: tuple[int, ...]) -> Any:
        chunks = tuple(min(chunk, size) for chunk, size in zip(array.chunks, shape, strict=True))
        return _create(place, array.dtype, shape, names, image.header, chunks, array.fill_value)

    yield from fill_levels(path, array, image.levels, create)


def zarr_chunks(spec: ImageSpec) -> tuple[int, ...]:
    """Chunks of the arrays that are written."""
    return tuple(min(_CHUNK[axis], size) for axis, size in zip(spec.axes, spec.shape, strict=True))


def open_written(path: Path) -> Any:
    """The array that `create_zarr` has made at a path, to be filled further."""
    import zarr

    found = locate_array(path).array
    return zarr.open_array(
        str(found.path),
        mode="r+",
        zarr_format=found.zarr_format,  # type: ignore[arg-type]
        config={"write_empty_chunks": True},
    )


def create_zarr(
    path: Path,
    dtype: np.dtype[Any],
    spec: ImageSpec,
    provenance: dict[str, str],
    chunks: tuple[int, ...] | None = None,
    fill: int = 0,
    image: LabelImage | None = None,
) -> Any:
    """A new zarr folder of the version `spec` came from, or OME-Zarr 0.4, to be filled.

    Parameters
    ----------
    path : Path
        Must not exist.
    dtype : numpy.dtype
    spec : ImageSpec
    provenance : dict
        Becomes the attribute ``prosma``.
    chunks : tuple of int, optional
        Those of `zarr_chunks` unless given.
    fill : int
        Value of what is never written.
    image : LabelImage, optional
        Of `plan_label_image`, for the place where it will lie; `path` unless given.

    Returns
    -------
    zarr.Array
    """
    import zarr

    image = image or plan_label_image(path, spec, provenance)
    header, chunks = image.header, chunks or zarr_chunks(spec)
    origin, _ = axis_aligned(spec)
    notes: dict[str, Any] = {"prosma": provenance} if provenance else {}
    if header.ome:
        group = zarr.create_group(str(path), zarr_format=header.zarr_format)  # type: ignore[arg-type]
        array = _create(path / "0", dtype, spec.shape, tuple(spec.axes), header, chunks, fill)
        group.attrs.update({**_ome(spec, origin, image), **notes})
        return array
    array = _create(path, dtype, spec.shape, tuple(spec.axes), header, chunks, fill)
    names = {"channel_names": list(spec.channel_names)} if spec.channel_names else {}
    grid = {"axes": list(spec.axes), "spacing": list(spec.spacing), "origin": list(origin), "unit": spec.unit}
    dimensions = {"_ARRAY_DIMENSIONS": list(spec.axes)} if header.zarr_format == 2 else {}
    array.attrs.update({**grid, **dimensions, **names, **notes})
    return array


def _create(
    path: Path,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    names: tuple[str, ...],
    header: ZarrHeader,
    chunks: tuple[int, ...],
    fill: int,
) -> Any:
    import zarr

    separate: Any = {"name": "v2", "separator": "/"} if header.zarr_format == 2 else None
    return zarr.create_array(
        str(path),
        shape=shape,
        dtype=dtype,
        chunks=chunks,
        fill_value=fill,
        zarr_format=header.zarr_format,  # type: ignore[arg-type]
        chunk_key_encoding=separate,
        dimension_names=list(names) if header.zarr_format == 3 else None,
        config={"write_empty_chunks": True},  # so that a missing chunk always means a damaged copy
    )


def _ome(spec: ImageSpec, origin: tuple[float, ...], image: LabelImage) -> dict[str, Any]:
    """Attributes of an OME-Zarr image."""
    time = image.time
    by_letter = {"t": time.step, **dict(zip(spec.spatial_axes, spec.spacing, strict=True))}
    start = {"t": time.start, **dict(zip(spec.spatial_axes, origin, strict=True))}
    scale = [by_letter.get(letter, 1.0) for letter in spec.axes]
    first = [start.get(letter, 0.0) for letter in spec.axes]
    places = [(scale, first)]
    for level in image.levels:
        sizes = zip(scale, first, level.ratio, level.shift, strict=True)
        placed = [(size * ratio, begin + size * shift) for size, begin, ratio, shift in sizes]
        places.append(([size for size, _ in placed], [begin for _, begin in placed]))
    modern = image.header.zarr_format == 3
    multiscale: dict[str, Any] = {
        "axes": [_axis(letter, time.unit if letter == "t" else ZARR_UNITS.get(spec.unit, "")) for letter in spec.axes],
        "datasets": [
            {
                "path": str(number),
                "coordinateTransformations": [
                    {"type": "scale", "scale": size},
                    {"type": "translation", "translation": begin},
                ],
            }
            for number, (size, begin) in enumerate(places)
        ],
    }
    version = {"version": "0.5" if modern else "0.4"}
    content: dict[str, Any] = {"multiscales": [multiscale if modern else {**version, **multiscale}]}
    if image.attributes:
        content["image-label"] = image.attributes
    if spec.channel_names:
        content["omero"] = {"channels": [{"label": name} for name in spec.channel_names]}
    return {"ome": {**version, **content}} if modern else content


def _axis(letter: str, unit: str) -> dict[str, str]:
    kind = {"t": "time", "c": "channel"}.get(letter, "space")
    return {"name": letter, "type": kind, **({"unit": unit} if unit and kind != "channel" else {})}
