"""A layer, or several as channels, read as a scan: axes, geometry, voxels slab by slab. No Qt."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from napari.layers import Image
from numpy.typing import NDArray

from napari_prosma.layers.placement import Placement, oblique_note, rows_and_columns, same_grid
from prosma_core.config.model import VoxelSize
from prosma_core.data.geometry import AXIS_ORDER, ImageSpec, affine_spacing, size_text, size_unknown, with_voxel_size
from prosma_core.data.intensities import COLOR
from prosma_core.errors import GeometryError, LabelError, ProsmaError
from prosma_core.io.labels import as_labels
from prosma_core.io.names import FORMATS, image_suffix, written_path
from prosma_core.printable import counted

METADATA = "prosma"
"""Key of what this plugin keeps in a layer's metadata."""
OPENED_AS = "opened_as"
"""Key in it: ``"image"`` or ``"labels"`` for a layer that was read from its file, not computed from the scan there."""
SIZED = "sized"
"""Key in it: geometry of a result with the voxel size that a user gave for its scan, which states none."""
MADE_FOR = "made_for"
"""Key in it: name of the shipped model that sample data is made for."""
RANGE = "range"
"""Key in it: smallest and largest value of an image that was opened with an intensity window, until it is shown."""

_SLAB_BYTES = 32 << 20


@dataclass(frozen=True, eq=False)
class LayerScan:
    """A layer as a scan.

    Attributes
    ----------
    name : str
        The layer's.
    axes : str
        One letter of ``"tczyx"`` for each array axis, in the layer's order; RGB(A) layers end with ``"c"``.
    level : int
        Resolution level, 0 for the finest.
    spec : ImageSpec
        Geometry in canonical axis order; with the file's own affine and header where the layer still lies as read.
    data : array-like
        The layer's own array (numpy, dask or zarr), any dtype, axes `axes`; not copied.
    path : Path or None
        File the layer came from.
    placement : Placement
        Where the layer was drawn when it was read, at this level.
    rgb : bool
        Whether the last axis of `data` holds colors (and perhaps alpha, which is left out).
    metadata : dict
        What this plugin keeps in the layer's metadata.
    note : str
        What is worth knowing about how the layer was read; empty if nothing.
    stated : ImageSpec or None
        Geometry as the layer states it, where `spec` has a voxel size that a user gave; else None.
    """

    name: str
    axes: str
    level: int
    spec: ImageSpec
    data: Any = field(repr=False)
    path: Path | None
    placement: Placement = field(repr=False)
    rgb: bool = False
    metadata: dict[str, Any] = field(default_factory=dict, repr=False)
    note: str = ""
    stated: ImageSpec | None = None

    def with_size(self, given: VoxelSize | None) -> LayerScan:
        """The same with a voxel size that a user gave, where the layer states none; errors as `with_voxel_size`."""
        spec = with_voxel_size(self.spec, given)
        return self if spec is self.spec else replace(self, spec=spec, stated=self.spec)

    @property
    def given_size(self) -> str:
        """The voxel size that a user gave, as a text; empty where none was."""
        return "" if self.stated is None else size_text(self.spec)

    def notes(self, axes: str, geometry: Callable[[ImageSpec], ImageSpec]) -> dict[str, Any]:
        """Metadata of a layer made from this one: where it lies, also with the voxel size that a user gave.

        Parameters
        ----------
        axes : str
            Letters of the new layer's axes.
        geometry : callable
            Its geometry, from that of this scan.
        """
        turn = {"turn": self.metadata["turn"]} if "turn" in self.metadata else {}
        sized = {} if self.stated is None else {SIZED: geometry(self.spec)}
        path = str(self.path) if self.path else None
        return {"spec": geometry(self.stated or self.spec), "path": path, "axes": axes, **turn, **sized}

    def to_save(self) -> LayerScan:
        """Copy for writing to a file, with the voxel size given for its scan, unless the layer was moved."""
        sized, made = self.metadata.get(SIZED), self.metadata.get("spec")
        if sized is None or made.unit != self.spec.unit or not same_grid(self.spec.affine, made.affine, made.spacing):
            return self
        own = {"axes": self.spec.axes, "shape": self.spec.shape, "channel_names": self.spec.channel_names}
        return replace(self, spec=replace(sized, **own))

    @property
    def dtype(self) -> np.dtype[Any]:
        """The array's dtype in the machine's byte order."""
        native: np.dtype[Any] = np.dtype(self.data.dtype).newbyteorder("=")
        return native

    def fill(self, out: NDArray[Any]) -> Iterator[float]:
        """Copy the voxels slab by slab; yields the share done (0..1) after each.

        Parameters
        ----------
        out : ndarray or zarr array, shape ``spec.shape``
            Filled in canonical axis order.
        """
        total = math.prod(self.spec.shape)
        done = 0
        for at, values in self.parts():
            out[at] = values
            done += values.size
            yield done / total

    def parts(self) -> Iterator[tuple[tuple[slice, ...], NDArray[Any]]]:
        """Voxels part by part, each with where it lies; both in canonical axis order."""
        order = [self.axes.index(letter) for letter in self.spec.axes]
        shape = tuple(self.spec.size(letter) for letter in self.axes)
        for slab in _slabs(shape, _chunks(self.data), np.dtype(self.data.dtype).itemsize):
            yield tuple(slab[axis] for axis in order), _values(self.data, slab).transpose(order)

    @property
    def chunks(self) -> tuple[int, ...]:
        """Blocks in which the layer's array is stored or computed, in canonical axis order; 1 where it has none."""
        chunks = _chunks(self.data)
        return tuple(chunks[self.axes.index(letter)] for letter in self.spec.axes)

    def load(self) -> NDArray[Any]:
        """All voxels in canonical axis order: a view of a plain array, else a copy in memory."""
        if isinstance(self.data, np.ndarray) and self.dtype == self.data.dtype:
            view = self.data[..., : self.spec.num_channels] if self.rgb else self.data
            return view.transpose([self.axes.index(letter) for letter in self.spec.axes])
        out = np.empty(self.spec.shape, self.dtype)
        for _ in self.fill(out):
            pass
        return out


def guess_axes(layer: Any) -> str:
    """Letters of a layer's array axes: its axis labels where they name them, else as it was read, else by number.

    Returns
    -------
    str
        In the layer's order; RGB(A) layers end with ``"c"``.

    Raises
    ------
    GeometryError
        The layer has more than five axes.
    """
    kept = layer.metadata.get(METADATA) or {}
    return guess(
        Placement.of(layer).physical.axis_labels, str(kept.get("axes", "")), rgb=bool(getattr(layer, "rgb", False))
    )


def read(layer: Any, axes: str | None = None, level: int = 0) -> LayerScan:
    """A layer as a scan.

    Parameters
    ----------
    layer : napari.layers.Image or Labels
    axes : str, optional
        Letter of each array axis in the layer's order; `guess_axes` if not given.
    level : int
        Resolution level of a multiscale layer.

    Raises
    ------
    GeometryError
        The axes cannot be those of a scan, a level is asked for that is not there, or the voxels are no real numbers.
    """
    data = list(layer.data) if layer.multiscale else [layer.data]
    state = {"name": layer.name, "rgb": bool(getattr(layer, "rgb", False)), "metadata": layer.metadata}
    path = layer.source.path
    return read_arrays(data, Placement.of(layer), state, axes=axes, level=level, path=source_path(path))


def source_path(text: str | None) -> Path | None:
    """What a layer was opened from, of a layer's source or notes; None where that is not known."""
    return (written_path(text) if ":/" in text else Path(text)) if text else None


def read_arrays(
    data: list[Any],
    placement: Placement,
    state: dict[str, Any],
    *,
    axes: str | None = None,
    level: int = 0,
    path: Path | None = None,
) -> LayerScan:
    """As `read`, for the arrays and attributes that a layer consists of (finest level first)."""
    rgb, kept = bool(state.get("rgb")), dict(state.get("metadata", {}).get(METADATA) or {})
    if not 0 <= level < len(data):
        msg = f"The layer has {len(data)} resolution levels; level {level} is none of them."
        raise GeometryError(msg)
    shape = tuple(int(n) for n in data[level].shape)
    axes = axes or guess(placement.physical.axis_labels, str(kept.get("axes", "")), rgb=rgb)
    axes = check_axes(axes, shape, rgb=rgb)
    for axis, letter in enumerate(axes[: placement.ndim]):
        if letter in "tc":
            placement.check_apart(axis, letter)
    factors = [big / small for big, small in zip(data[0].shape, shape, strict=True)][: placement.ndim]
    here = placement.at_level(factors)
    if np.dtype(data[level].dtype).kind not in "buif":
        msg = (
            f"The layer holds values of type {data[level].dtype}; real numbers are needed. Convert it, e.g. to float32."
        )
        raise GeometryError(msg)
    spec = _spec(here, axes, shape, kept, rgb=rgb)
    path = source_path(kept.get("path")) or path
    name = str(state.get("name", ""))
    note = _note(spec, path, oblique_note(name, kept.get("turn")), ours="spec" in kept, alpha=rgb and shape[-1] == 4)
    return LayerScan(name, axes, level, spec, data[level], path, here, rgb, kept, note)


def levels(layer: Any) -> list[tuple[int, ...]]:
    """Array shape of each resolution level, finest first; one for a plain layer."""
    arrays = layer.data if layer.multiscale else [layer.data]
    return [tuple(int(n) for n in array.shape) for array in arrays]


def _spec(placement: Placement, axes: str, shape: tuple[int, ...], kept: dict[str, Any], *, rgb: bool) -> ImageSpec:
    """Geometry in canonical order from the layer's transform; the source's own numbers where they say the same."""
    source: ImageSpec | None = kept.get("spec")
    canonical = "".join(letter for letter in AXIS_ORDER if letter in axes)
    size = dict(zip(axes, shape, strict=True))
    if rgb:
        size["c"] = min(size["c"], 3)
    rows, columns = rows_and_columns(axes, source)
    unit, factors = placement.unit(rows)
    affine = np.diag([*factors, 1.0]) @ placement.matrix[np.ix_([*rows, -1], [*columns, -1])]
    turn = kept.get("turn")
    if turn is not None and len(columns) == 3:
        affine[:3] = np.linalg.solve(turn, affine[:3])
    names: tuple[str, ...] = COLOR if rgb else ()
    if not names and source is not None and len(source.channel_names) == size.get("c", 0):
        names = source.channel_names
    spacing = affine_spacing(affine)
    own = {"axes": canonical, "shape": tuple(size[letter] for letter in canonical), "channel_names": names}
    if source is None:
        return ImageSpec(**own, spacing=spacing, unit=unit, affine=affine)  # type: ignore[arg-type]
    if unit == source.unit and same_grid(affine, source.affine, source.spacing):
        return replace(source, **own)  # type: ignore[arg-type]
    world = source.world if source.spatial_ndim == len(columns) else "image"
    return replace(source, **own, spacing=spacing, unit=unit, affine=affine, world=world, header=None)  # type: ignore[arg-type]


def _note(spec: ImageSpec, path: Path | None, oblique: str, *, ours: bool, alpha: bool) -> str:
    notes = [oblique] if oblique else []
    if alpha:
        notes.append("The alpha channel is left out.")
    if not ours and size_unknown(spec) and path and FORMATS.get(image_suffix(path).lower(), "raster") != "raster":
        notes.append(
            f"napari's own reader leaves out the {spec.voxel_word} size: open the file with ProSMA if it has one."
        )
    return " ".join(notes)


def _chunks(data: Any) -> tuple[int, ...]:
    """Size of the blocks in which an array is stored or computed; 1 along each axis of a plain array."""
    chunks = getattr(data, "chunks", None)
    if not chunks:
        return (1,) * len(data.shape)
    return tuple(int(c if isinstance(c, int) else max(c)) for c in chunks)


def _values(data: Any, slab: tuple[slice, ...]) -> NDArray[Any]:
    """A part of an array; of dask computed past napari's cache, which would keep it."""
    part = data[slab]
    return np.asarray(part.compute(callbacks=()) if hasattr(part, "dask") else part)


def _slabs(shape: tuple[int, ...], chunks: tuple[int, ...], itemsize: int) -> Iterator[tuple[slice, ...]]:
    """Boxes that cover an array, of whole blocks and, as far as these allow, of at most `_SLAB_BYTES`."""
    steps = list(shape)
    for axis, size in enumerate(shape):
        others = itemsize * math.prod(steps) // size
        chunk = min(chunks[axis], size)
        steps[axis] = min(size, max(chunk, _SLAB_BYTES // others // chunk * chunk))
        if others * steps[axis] <= _SLAB_BYTES:
            break
    starts = [range(0, size, step) for size, step in zip(shape, steps, strict=True)]
    for corner in itertools.product(*starts):
        yield tuple(slice(a, min(a + s, n)) for a, s, n in zip(corner, steps, shape, strict=True))


def read_channels(layers: Sequence[Any]) -> LayerScan:
    """Layers of one channel each, on one grid, as one scan; voxels are not copied.

    Parameters
    ----------
    layers : sequence of napari.layers.Image
        In the order of the channels; their names are those of the channels.

    Raises
    ------
    GeometryError
        A layer has channels of its own, or two lie on different grids.
    """
    import dask.array as da

    scans = [read(layer) for layer in layers]
    first = scans[0]
    for scan in scans:
        if "c" in scan.axes:
            msg = f"{scan.name} has channels of its own: select layers of one channel each, or this one alone."
            raise GeometryError(msg)
        here = scan.placement.matrix, first.placement.matrix
        if (scan.axes, scan.spec.shape) != (first.axes, first.spec.shape) or not same_grid(*here, first.spec.spacing):
            msg = f"{first.name} and {scan.name} are no channels of one scan: their grids differ. Select one image."
            raise GeometryError(msg)
    names = tuple(scan.name for scan in scans)
    return replace(
        first,
        name=" + ".join(names),
        axes=f"c{first.axes}",
        spec=first.spec.with_channels(names),
        data=da.stack([da.asarray(scan.data) for scan in scans]),  # type: ignore[no-untyped-call]
        path=None,
        placement=first.placement.with_channel(),
        note="",
    )


def are_channels(layers: Sequence[Any]) -> bool:
    """Whether layers can be the channels of one scan."""
    try:
        read_channels(layers)
    except ProsmaError:
        return False
    return True


def joined_layer(layers: Sequence[Any]) -> Image:
    """A hidden layer of several as the channels of one scan, where they lie; voxels are not copied.

    Parameters
    ----------
    layers : sequence of napari.layers.Image
        As of `read_channels`, which says when this fails.
    """
    scan = read_channels(layers)
    return Image(
        scan.data,
        name=scan.name,
        rgb=False,
        visible=False,
        **scan.placement.arguments(),
        metadata={METADATA: {"spec": scan.spec, "axes": scan.axes}},
    )


_BY_NUMBER = {2: "yx", 3: "zyx", 4: "tzyx", 5: "tczyx"}
_NAMES = {
    "time": "t", "frame": "t",
    "ch": "c", "channel": "c", "channels": "c",
    "depth": "z", "plane": "z", "slice": "z",
    "height": "y", "row": "y",
    "width": "x", "column": "x", "col": "x",
}  # fmt: skip


def guess(axis_labels: Sequence[str], known: str, *, rgb: bool) -> str:
    """Letters of a layer's array axes.

    Parameters
    ----------
    axis_labels : sequence of str
        The layer's, which go first where they name axes.
    known : str
        Letters kept from reading, empty where there are none; used where they fit.
    rgb : bool
        Whether the array has a last axis of colors beside those that are labeled; it is ``"c"``.

    Raises
    ------
    GeometryError
        There are more than five axes, or only one.
    """
    ndim, colors = len(axis_labels), "c" if rgb else ""
    labels = [str(label).strip().lower() for label in axis_labels]
    letters = "".join(_NAMES.get(label, label) for label in labels) + colors
    if len(letters) == ndim + len(colors) and _usable(letters):
        return letters
    if len(known) == ndim + len(colors) and known.endswith(colors) and _usable(known):
        return known
    by_number = {2: "yx", 3: "zyx", 4: "tzyx"} if rgb else _BY_NUMBER
    if ndim not in by_number:
        msg = f"The layer has {ndim} axes; a scan has at most 5: time, channel, z, y, x. Take a part of it."
        raise GeometryError(msg)
    return by_number[ndim] + colors


def _usable(axes: str) -> bool:
    return set(axes) <= set(AXIS_ORDER) and len(set(axes)) == len(axes) and {"y", "x"} <= set(axes)


def check_axes(axes: str, shape: tuple[int, ...], *, rgb: bool) -> str:
    """The letters a user gave for an array's axes; raises `GeometryError` where they cannot be."""
    axes = axes.strip().lower()
    if not _usable(axes):
        msg = f"Axes {axes!r} cannot be used: letters are t, c, z, y, x, each at most once, y and x among them."
        raise GeometryError(msg)
    if len(axes) != len(shape):
        msg = f"Axes {axes!r} name {counted(len(axes), 'axis', 'axes')}, the layer has shape {shape}: one letter each."
        raise GeometryError(msg)
    if rgb and axes[-1] != "c":
        msg = f"Axes {axes!r}: the last axis of a color layer is its channel; let the letters end with c."
        raise GeometryError(msg)
    return axes


def class_numbers(scan: LayerScan) -> NDArray[Any]:
    """Voxels of a Labels layer as class numbers, a copy.

    Returns
    -------
    ndarray, smallest unsigned integer type that holds them, shape ``scan.spec.labels_spec().shape``
        Painted at any channel where the layer has a channel axis.

    Raises
    ------
    LabelError
        Values are negative, or two channels are painted with different values at the same place.
    """
    values = np.array(scan.load())
    if "c" in scan.spec.axes:
        at = scan.spec.axes.index("c")
        merged = values.max(axis=at, keepdims=True)
        if np.any((values != 0) & (values != merged)):
            msg = (
                f"The layer {scan.name} is painted differently at its {scan.spec.num_channels} channels: labels need "
                f"one value per {scan.spec.voxel_word}. Paint in a labels layer without a channel axis."
            )
            raise LabelError(msg)
        values = merged.squeeze(at)
    return as_labels(values, f"the layer {scan.name}")
