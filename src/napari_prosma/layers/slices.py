"""Labels layers as corrections: what they were made from, and which slices were checked or edited."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from napari_prosma.layers.labels import read_on
from napari_prosma.layers.scan import METADATA, LayerScan, class_numbers, read
from prosma_core.data.frames import planes_of, slice_axis
from prosma_core.data.geometry import ImageSpec, Scan
from prosma_core.data.slices import SliceStates, runs_of
from prosma_core.errors import ProsmaError
from prosma_core.io.notes import made_by_model, noted_slices

MARKS = "slices"
"""Key, in what this plugin keeps in a layer's metadata, of `Marks`."""
MOST_RUNS = 4000
"""Runs of voxels that partly edited slices may have: more do not fit into the notes of every format."""
Strokes = tuple[tuple[int, tuple[int, ...]], ...]


@dataclass(frozen=True, eq=False)
class Base:
    """Voxels that a layer was made from, slice by slice, compressed: it stays whatever becomes of the other layer.

    Attributes
    ----------
    slices : sequence of bytes
        In the order in which `SliceStates` numbers them; empty for a slice of zeros. Those of an array on disk are
        read once the first is asked for.
    dtype : str
    shape : tuple of int
        Of a slice.
    axis : str
        Letter of the axis that these slices lie along; those that are counted may lie along another.
    """

    slices: Sequence[bytes]
    dtype: str
    shape: tuple[int, ...]
    axis: str

    @classmethod
    def of(cls, labels: Scan, axis: str) -> Base:
        """Base of a label map as it is now, with slices along an axis."""
        planes = list(planes_of(labels, axis))
        return cls(_compressed(planes), np.asarray(labels.data).dtype.str, planes[0].shape, axis)

    @classmethod
    def on_disk(cls, load: Callable[[], NDArray[Any]], dtype: np.dtype[Any], spec: ImageSpec, axis: str) -> Base:
        """Base of a label map that `load` reads, once it is asked for: no layer can be painted in that lies on disk."""
        planes = list(planes_of(Scan(np.broadcast_to(np.zeros((), dtype), spec.shape), spec), axis))  # no memory
        slices = _LaterSlices(len(planes), lambda: _compressed(planes_of(Scan(load(), spec), axis)))
        return cls(slices, dtype.str, planes[0].shape, axis)

    @property
    def later(self) -> bool:
        """Whether its voxels are still to be read."""
        return isinstance(self.slices, _LaterSlices) and not self.slices.known

    def values(self, spec: ImageSpec) -> NDArray[Any] | None:
        """All voxels, of a label map of this geometry; None where they are not of its shape."""
        found = np.zeros(spec.shape, self.dtype)
        if not (self.axis in spec.spatial_axes if self.axis else spec.spatial_ndim == 2):
            return None
        planes = list(planes_of(Scan(found, spec), self.axis))
        if (len(self.slices), self.shape) != (len(planes), planes[0].shape):
            return None
        for kept, plane in zip(self.slices, planes, strict=True):
            if kept:
                plane[...] = np.frombuffer(zlib.decompress(kept), self.dtype).reshape(plane.shape)
        return found

    def differing(self, number: int, plane: NDArray[Any]) -> NDArray[np.bool_]:
        """Voxels of a slice, as it is now, that differ."""
        kept = self.slices[number]
        then: NDArray[Any] = np.zeros((), plane.dtype)
        if kept:
            then = np.frombuffer(zlib.decompress(kept), self.dtype).reshape(plane.shape)
        found: NDArray[np.bool_] = np.not_equal(plane, then)
        return found


def _compressed(planes: Iterable[NDArray[Any]]) -> tuple[bytes, ...]:
    return tuple(zlib.compress(plane.tobytes(), 1) if plane.any() else b"" for plane in planes)


class _LaterSlices(Sequence[bytes]):
    """Slices of a `Base` that are made once one is asked for, in the thread that asks."""

    def __init__(self, count: int, make: Callable[[], tuple[bytes, ...]]) -> None:
        self.known: tuple[bytes, ...] = ()
        self._count, self._make = count, make

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> bytes: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[bytes, ...]: ...

    def __getitem__(self, index: int | slice) -> bytes | tuple[bytes, ...]:
        if not self.known:
            self.known = self._make()
        return self.known[index]


@dataclass(frozen=True, eq=False)
class Marks:
    """What is kept of a labels layer's slices; never changed, but put in another's place.

    Attributes
    ----------
    axis : str
        Letter of the slices' axis; empty for a picture.
    checked : tuple of int
        Slices marked as checked, as `SliceStates` numbers them.
    edited : tuple of int
        Slices that were edited before the layer was opened from a file.
    base : Base or None
        What a model made; None for a layer drawn by hand, whose painted slices are the edited ones.
    strokes : tuple of (int, tuple of int)
        Voxels that were changed in partly edited slices before, as of `SliceStates`.
    seen, across : frozenset of int
        Slices that were in view when something was painted on them; and those that were painted on from the side, or
        along with the one in view. What was only painted across is edited in its changed voxels alone.
    """

    axis: str
    checked: tuple[int, ...] = ()
    edited: tuple[int, ...] = ()
    base: Base | None = None
    strokes: Strokes = ()
    seen: frozenset[int] = frozenset()
    across: frozenset[int] = frozenset()

    @property
    def unseen(self) -> frozenset[int]:
        """Slices that were changed, but never looked at as a whole."""
        return self.across - self.seen - set(self.checked)


def marks_of(layer: Any) -> Marks | None:
    """What is kept of a layer's slices; None where nothing is."""
    found = (layer.metadata.get(METADATA) or {}).get(MARKS)
    return found if isinstance(found, Marks) else None


def usual_axis(spec: ImageSpec) -> str:
    """Letter of the axis that slices are counted along; empty for a picture."""
    return "" if spec.spatial_ndim == 2 else spec.spatial_axes[slice_axis(spec)]


def remember(layer: Any) -> None:
    """Keep the voxels of a model's result as they are now as its base, unless one is kept already.

    Parameters
    ----------
    layer : napari.layers.Labels
        Any other layer is left alone.

    Raises
    ------
    GeometryError, LabelError
        It is no label map.
    """
    if marks_of(layer) is None and made_by_model((layer.metadata.get(METADATA) or {}).get("provenance", {})):
        keep(layer, packed(layer))
    elif marks_of(layer) is not None:
        listen(layer)


def packed(layer: Any) -> Marks:
    """Marks of a layer with its voxels, as they are now, as the base; reads them all, so that a thread may do it."""
    scan = read(layer)
    labels = Scan(class_numbers(scan), scan.spec.labels_spec())
    axis = usual_axis(labels.spec)
    return Marks(axis, base=Base.of(labels, axis))


def keep(layer: Any, marks: Marks) -> None:
    """Keep marks with a layer, and tell whoever listens to its metadata; copies of the layer keep their own."""
    listen(layer)
    own = layer.metadata.get(METADATA) or {}
    layer.metadata = {**layer.metadata, METADATA: {**own, MARKS: marks}}


def noted_marks(notes: Mapping[str, Any], labels: Scan) -> Marks | None:
    """Marks of a label map that was read from a file, from the file's notes; None where there is nothing to keep.

    Of a model's result, and of labels of which only checked and edited slices count, slices that were edited before
    stay so; what is read is the base of all others.
    """
    return noted_marks_of(notes, labels.spec, lambda axis: Base.of(labels, axis))


def noted_marks_of(notes: Mapping[str, Any], spec: ImageSpec, base: Callable[[str], Base]) -> Marks | None:
    """As `noted_marks`, for a label map of this geometry; `base` makes its base for the axis of its slices."""
    states = noted_slices(dict(notes))
    if states is not None and not states.fits(spec):
        states = None
    axis = states.axis if states is not None else usual_axis(spec)
    if made_by_model(dict(notes)) or (states is not None and states.only):
        kept = states or SliceStates(axis, 1)
        return Marks(axis, kept.checked, kept.edited, base(axis), kept.strokes)
    return Marks(axis, states.checked) if states is not None and states.checked else None


def states_of(marks: Marks | None, labels: Scan, axis: str | None = None) -> SliceStates:
    """Checked, edited and untouched slices of a label map.

    Parameters
    ----------
    marks : Marks or None
    labels : Scan, integer, without channels
        As it is now.
    axis : str, optional
        Letter of the slices' axis, where none is kept.
    """
    spec = labels.spec
    if marks is not None and marks.base is None and not marks.checked:
        marks = None
    marks = _on_axes(marks, spec, axis)
    size = spec.size(marks.axis) if marks.axis else 1
    states = SliceStates(marks.axis, size, spec.num_frames, only=marks.base is not None)
    checked, edited = (tuple(sorted(i for i in each if i < states.count)) for each in (marks.checked, marks.edited))
    if marks.base is None or (marks.base.axis == marks.axis and not marks.unseen and not marks.strokes):
        now = {number for number, part in enumerate(_differences(marks, labels)) if part.any()}
        return replace(states, checked=checked, edited=tuple(sorted({*edited, *now})))
    parts = list(planes_of(Scan(_differing(marks, labels), spec), marks.axis))
    now = {number for number, part in enumerate(parts) if part.any()}
    states = replace(states, checked=checked, edited=tuple(sorted({*edited, *(now - marks.unseen)})))
    before = {number: runs for number, runs in marks.strokes if number < states.count}
    partly = sorted({*before, *(now & marks.unseen)} - set(states.whole))
    return replace(states, strokes=_few_runs((i, _joined(before.get(i, ()), parts[i])) for i in partly))


def _joined(runs: tuple[int, ...], part: NDArray[np.bool_]) -> tuple[int, ...]:
    """Runs of a mask, and others."""
    found = part.reshape(-1).copy()
    for first, length in zip(runs[::2], runs[1::2], strict=True):
        found[first : first + length] = True
    return runs_of(found)


def _few_runs(strokes: Iterable[tuple[int, tuple[int, ...]]]) -> Strokes:
    """Runs of slices, in order, as far as all together have at most `MOST_RUNS`."""
    kept, left = [], 2 * MOST_RUNS
    for index, runs in strokes:
        if len(runs) <= left:
            kept.append((index, runs))
            left -= len(runs)
    return tuple(kept)


def noted_states(marks: Marks | None, provenance: Mapping[str, Any], spec: ImageSpec) -> SliceStates | None:
    """Checked and edited slices of a label map of this geometry in which nothing was painted, in their stored form."""
    made = bool(made_by_model(dict(provenance)))
    if marks is None and not made:
        return None
    marks = marks or Marks(usual_axis(spec))
    size, only = spec.size(marks.axis) if marks.axis else 1, made or marks.base is not None
    return SliceStates(marks.axis, size, spec.num_frames, marks.checked, marks.edited, only, marks.strokes)


def slice_states(layer: Any, image: LayerScan | None = None, axis: str | None = None) -> SliceStates:
    """Checked, edited and untouched slices of a Labels layer, as it is now; reads its voxels.

    Parameters
    ----------
    layer : napari.layers.Labels
    image : LayerScan, optional
        Image layer it is drawn over, whose axes a layer drawn by hand has.
    axis : str, optional
        As in `states_of`.

    Raises
    ------
    GeometryError, LabelError
        It is no label map.
    """
    return states_of(marks_of(layer), _label_map(layer, image), axis)


def edited_voxels(layer: Any, image: LayerScan | None = None) -> NDArray[np.bool_]:
    """Voxels of a Labels layer that differ from what it was made from; other parameters and errors as `slice_states`.

    Returns
    -------
    ndarray, bool, shape of the label map in canonical axis order
    """
    labels = _label_map(layer, image)
    return _differing(_on_axes(marks_of(layer), labels.spec), labels)


def mark(layer: Any, index: int, states: SliceStates, *, checked: bool = True) -> SliceStates:
    """Mark a slice as checked, or take the mark away; gives the states after it.

    Parameters
    ----------
    layer : napari.layers.Labels
    index : int
        As `SliceStates` numbers slices.
    states : SliceStates
        Of the layer.
    checked : bool
    """
    own = marks_of(layer)
    if own is not None and own.axis == states.axis:  # marks that were set since the states were read
        states = replace(states, checked=own.checked)
    elif own is not None:
        own = replace(own, strokes=(), seen=frozenset(), across=frozenset())
    after = states.marked(index, checked=checked)
    keep(layer, replace(own or Marks(states.axis), axis=states.axis, checked=after.checked))
    return after


# --- Strokes --------------------------------------------------------------------------------------------------------


def listen(layer: Any) -> None:
    """Keep, from now on, in which view something is painted in a layer that has a base."""
    if "paint" in layer.events:
        layer.events.paint.connect(_painted)


def _painted(event: Any) -> None:
    """Keep which slices were in view of a stroke.

    Slices lie along the axis that is looked along while nothing counts yet. Later strokes in another view, and what a
    stroke changes before and behind the slice in view, are seen from the side.
    """
    layer, item = event.source, getattr(event, "value", None)
    known, view = marks_of(layer), getattr(layer, "_get_pt_not_disp", None)
    if known is None or known.base is None or not known.axis or not item or view is None:
        return
    marks = known
    try:
        axes = read(layer).axes
        shown = {axes[dim]: int(at) for dim, at in view().items()}
        looked = [letter for letter in shown if letter in "zyx"]
        axis = looked[0] if len(looked) == 1 else ""
        if axis and axis != marks.axis and not (marks.across or _counts(layer, marks, item)):
            marks = replace(marks, axis=axis, strokes=(), seen=frozenset(), across=frozenset())
        size = layer.data.shape[axes.index(marks.axis)]
        touched = {number for atom in item for number in _touched(atom, axes, marks.axis, layer.data.shape)}
    except (ProsmaError, ValueError, IndexError, TypeError):  # no scan, or strokes of another kind: as if not known
        return
    in_view = {shown.get("t", 0) * size + shown[axis]} if axis == marks.axis else set()
    seen = touched if in_view and len(touched) == 1 else touched & in_view
    after = replace(marks, seen=marks.seen | seen, across=marks.across | (touched - seen))
    if (after.axis, after.seen, after.across) != (known.axis, known.seen, known.across):
        keep(layer, after)


def _touched(atom: Any, axes: str, axis: str, shape: tuple[int, ...]) -> set[int]:
    """Slices along an axis that a change of napari's history touches, as `SliceStates` numbers them."""
    letters = [letter for letter in ("t", axis) if letter in axes]
    dims = [axes.index(letter) for letter in letters]
    if not hasattr(atom, "slice_key"):  # places of single voxels
        at = [np.arange(shape[d])[atom[0][d]] for d in dims]
    elif atom.mask is None:
        ranges = [np.arange(shape[d])[atom.slice_key[d]] for d in dims]
        at = list(np.meshgrid(*ranges))
    else:
        hit = atom.mask.any(axis=tuple(d for d in range(atom.mask.ndim) if d not in dims), keepdims=True)
        at = [np.nonzero(hit)[d] + (atom.slice_key[d].start or 0) for d in dims]
    frame = at[0] if "t" in letters else 0
    return set(np.unique(frame * shape[dims[-1]] + at[-1]).tolist())


def _counts(layer: Any, marks: Marks, item: Any) -> bool:
    """Whether any slice was checked or edited before a change of napari's history."""
    if marks.checked or marks.edited or marks.strokes:
        return True
    before = np.array(layer.data)
    for atom in reversed(item):
        if not hasattr(atom, "slice_key"):
            before[atom[0]] = atom[1]
        elif atom.mask is None:
            before[atom.slice_key] = atom.old_values
        else:
            before[atom.slice_key][atom.mask] = atom.old_values
    scan = replace(read(layer), data=before)
    labels = Scan(class_numbers(scan), scan.spec.labels_spec())
    return any(part.any() for part in _differences(marks, labels))


def _on_axes(marks: Marks | None, spec: ImageSpec, axis: str | None = None) -> Marks:
    """The marks; without the checked slices where these lie along an axis that the label map has not, or not any more.

    Parameters
    ----------
    marks : Marks or None
    spec : ImageSpec
        Of the label map.
    axis : str, optional
        As in `states_of`.
    """
    if marks is None:
        return Marks(usual_axis(spec) if axis is None else axis)
    there = marks.axis in spec.spatial_axes if marks.axis else spec.spatial_ndim == 2
    return marks if there else Marks(usual_axis(spec), base=marks.base)


def _label_map(layer: Any, image: LayerScan | None) -> Scan:
    scan = read(layer) if image is None else read_on(layer, image)
    return Scan(class_numbers(scan), scan.spec.labels_spec())


def _walked(marks: Marks, spec: ImageSpec) -> str:
    """Axis along which a layer is compared with its base, slice by slice."""
    base = marks.base
    there = base is not None and (base.axis in spec.spatial_axes if base.axis else spec.spatial_ndim == 2)
    return base.axis if base is not None and there else marks.axis


def _differing(marks: Marks, labels: Scan) -> NDArray[np.bool_]:
    """Voxels that differ from the base, shape of the label map."""
    found = np.empty(labels.spec.shape, bool)
    planes = planes_of(Scan(found, labels.spec), _walked(marks, labels.spec))
    for plane, part in zip(planes, _differences(marks, labels), strict=True):
        plane[...] = part
    return found


def _differences(marks: Marks, labels: Scan) -> Iterator[NDArray[np.bool_]]:
    """Voxels of each slice that differ from the base, along the base's axis."""
    planes, base = list(planes_of(labels, _walked(marks, labels.spec))), marks.base
    other = base is not None and (len(base.slices), base.shape) != (len(planes), planes[0].shape)
    for number, plane in enumerate(planes):
        if base is None or other:  # the data was replaced by another array: nothing of it is the model's
            yield np.ones(plane.shape, bool) if other else np.not_equal(plane, 0)
        else:
            yield base.differing(number, plane)
