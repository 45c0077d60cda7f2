"""Labels layers as corrections: what they were made from, and which slices were checked or edited."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_prosma.layers.labels import class_numbers, read_on
from napari_prosma.layers.scan import METADATA, LayerScan, read
from prosma_core.data.frames import slice_axis
from prosma_core.data.geometry import ImageSpec, Scan
from prosma_core.data.slices import SliceStates
from prosma_core.io.notes import made_by_model, noted_slices

MARKS = "slices"
"""Key, in what this plugin keeps in a layer's metadata, of `Marks`."""


@dataclass(frozen=True, eq=False)
class Base:
    """Voxels that a layer was made from, slice by slice, compressed: it stays whatever becomes of the other layer.

    Attributes
    ----------
    slices : tuple of bytes
        In the order in which `SliceStates` numbers them; empty for a slice of zeros.
    dtype : str
    shape : tuple of int
        Of a slice.
    """

    slices: tuple[bytes, ...]
    dtype: str
    shape: tuple[int, ...]

    @classmethod
    def of(cls, labels: Scan, axis: str) -> Base:
        """Base of a label map as it is now, with slices along an axis."""
        planes = list(_planes(labels, axis))
        packed = (zlib.compress(p.tobytes(), 1) if p.any() else b"" for p in planes)
        return cls(tuple(packed), np.asarray(labels.data).dtype.str, planes[0].shape)

    def differing(self, number: int, plane: NDArray[Any]) -> NDArray[np.bool_]:
        """Voxels of a slice, as it is now, that differ."""
        kept = self.slices[number]
        then: NDArray[Any] = np.zeros((), plane.dtype)
        if kept:
            then = np.frombuffer(zlib.decompress(kept), self.dtype).reshape(plane.shape)
        found: NDArray[np.bool_] = np.not_equal(plane, then)
        return found


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
    """

    axis: str
    checked: tuple[int, ...] = ()
    edited: tuple[int, ...] = ()
    base: Base | None = None


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


def packed(layer: Any) -> Marks:
    """Marks of a layer with its voxels, as they are now, as the base; reads them all, so that a thread may do it."""
    scan = read(layer)
    labels = Scan(class_numbers(scan), scan.spec.labels_spec())
    axis = usual_axis(labels.spec)
    return Marks(axis, base=Base.of(labels, axis))


def keep(layer: Any, marks: Marks) -> None:
    """Keep marks with a layer, and tell whoever listens to its metadata; copies of the layer keep their own."""
    own = layer.metadata.get(METADATA) or {}
    layer.metadata = {**layer.metadata, METADATA: {**own, MARKS: marks}}


def noted_marks(notes: Mapping[str, Any], labels: Scan) -> Marks | None:
    """Marks of a label map that was read from a file, from the file's notes; None where there is nothing to keep.

    Of a model's result, and of labels of which only checked and edited slices count, slices that were edited before
    stay so; what is read is the base of all others.
    """
    states = noted_slices(dict(notes))
    if states is not None and not states.fits(labels.spec):
        states = None
    axis = states.axis if states is not None else usual_axis(labels.spec)
    if made_by_model(dict(notes)) or (states is not None and states.only):
        kept = states or SliceStates(axis, 1)
        return Marks(axis, kept.checked, kept.edited, Base.of(labels, axis))
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
    now = {number for number, part in enumerate(_differences(marks, labels)) if part.any()}
    checked, edited = (tuple(sorted(i for i in each if i < states.count)) for each in (marks.checked, marks.edited))
    return replace(states, checked=checked, edited=tuple(sorted({*edited, *now})))


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
    marks = _on_axes(marks_of(layer), labels.spec)
    found = np.empty(labels.spec.shape, bool)
    for plane, part in zip(_planes(Scan(found, labels.spec), marks.axis), _differences(marks, labels), strict=True):
        plane[...] = part
    return found


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
    after = states.marked(index, checked=checked)
    keep(layer, replace(own or Marks(states.axis), axis=states.axis, checked=after.checked))
    return after


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
    return marks if there else replace(marks, axis=usual_axis(spec), checked=(), edited=())


def _label_map(layer: Any, image: LayerScan | None) -> Scan:
    scan = read(layer) if image is None else read_on(layer, image)
    return Scan(class_numbers(scan), scan.spec.labels_spec())


def _differences(marks: Marks, labels: Scan) -> Iterator[NDArray[np.bool_]]:
    planes, base = list(_planes(labels, marks.axis)), marks.base
    other = base is not None and (len(base.slices), base.shape) != (len(planes), planes[0].shape)
    for number, plane in enumerate(planes):
        if base is None or other:  # the data was replaced by another array: nothing of it is the model's
            yield np.ones(plane.shape, bool) if other else np.not_equal(plane, 0)
        else:
            yield base.differing(number, plane)


def _planes(labels: Scan, axis: str) -> Iterator[NDArray[Any]]:
    """Slices of a label map as views, time point by time point."""
    spec, data = labels.spec, np.asarray(labels.data)
    for frame in data if "t" in spec.axes else data[None]:
        if axis:
            yield from np.moveaxis(frame, spec.spatial_axes.index(axis), 0)
        else:
            yield frame
