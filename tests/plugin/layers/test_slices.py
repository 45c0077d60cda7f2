"""Which slices of a labels layer were checked or edited: by comparison with what it was made from, whatever is done."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from napari.components import ViewerModel
from napari.layers import Image, Labels

from napari_prosma._writer import write_labels_layer
from napari_prosma.layers.results import editable_copy, labels_layer, objects_layer, show_labels
from napari_prosma.layers.scan import METADATA, read
from napari_prosma.layers.slices import (
    edited_voxels,
    mark,
    marks_of,
    noted_marks,
    remember,
    slice_states,
    states_of,
)
from napari_prosma.train.export_pairs import autosave
from napari_prosma.train.pair_list import PairList
from napari_prosma.train.pairs import Pair, check
from napari_prosma.train.sources import layer_source
from prosma_core.config.model import ClassInfo
from prosma_core.config.training import LabelsConfig
from prosma_core.data.labels import read_annotation
from prosma_core.io.images import read_labels
from prosma_core.io.notes import noted_slices, read_notes

CLASSES = (ClassInfo(value=0, name="background"), ClassInfo(value=1, name="organ"), ClassInfo(value=2, name="core"))
NOTES = {"program": "prosma", "model": "phantom-3d"}
SHAPE = (5, 6, 7)
RUNS_NOTHING: Any = SimpleNamespace(run=lambda *_: None, timer=lambda _: None)


def result(shape: tuple[int, ...] = SHAPE, **arguments: Any) -> Labels:
    """A model's result on a scan of this shape."""
    image = Image(np.zeros(shape, np.float32), **arguments)
    made = np.random.default_rng(3).integers(0, 3, shape).astype(np.uint8)
    made[..., :2, :] = 0
    return labels_layer(read(image), made, CLASSES, "organ", NOTES)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("paint"), st.integers(0, 4), st.integers(0, 5), st.integers(0, 6), st.integers(0, 2)),
        st.tuples(st.sampled_from(["undo", "redo", "rename", "copy", "replace"])),
        st.tuples(st.just("mark"), st.integers(0, 4), st.booleans()),
    ),
    max_size=15,
)


@settings(max_examples=60)
@given(steps)
def test_whatever_is_done_the_states_are_those_of_a_comparison(steps) -> None:
    made = result()
    base, layer, checked = np.array(made.data), editable_copy(made), set()
    del made  # the result itself may be gone
    for name, *values in steps:
        if name == "paint":
            *at, value = values
            layer.data_setitem(tuple(np.array([i]) for i in at), value)
        elif name == "mark":
            index, wanted = values
            mark(layer, index, slice_states(layer), checked=wanted)
            checked = checked | {index} if wanted else checked - {index}
        elif name == "rename":
            layer.name = "another name"
        elif name == "copy":
            layer = editable_copy(layer)
        elif name == "replace":
            layer.data = np.array(layer.data)
        else:
            getattr(layer, name)()
    states = slice_states(layer)
    edited = {i for i in range(5) if not np.array_equal(base[i], layer.data[i])}
    assert (set(states.checked), set(states.edited)) == (checked, edited)
    assert set(states.untouched) == set(range(5)) - checked - edited
    assert states.only
    np.testing.assert_array_equal(edited_voxels(layer), base != layer.data)


def test_what_is_painted_into_the_result_itself_counts_from_when_it_is_known() -> None:
    made = result()
    remember(made)
    made.data[2, 3, 3] = 3
    assert slice_states(made).edited == (2,)
    assert slice_states(editable_copy(made)).edited == (2,)
    remember(made)  # it stays what was remembered first
    assert slice_states(made).edited == (2,)


@pytest.mark.parametrize("mode", ["paint", "fill", "erase", "polygon"])
@pytest.mark.parametrize("numbered", [False, True], ids=["classes", "objects"])
def test_a_result_remembers_what_the_model_gave_before_the_first_stroke_in_it(mode: str, numbered: bool) -> None:
    made = result()
    if numbered:
        made = objects_layer(read(Image(np.zeros(SHAPE))), np.array(made.data), {"index": [1, 2]}, "objects", NOTES)
    assert marks_of(made) is None  # nothing is read until then
    made.mode = mode
    made.data_setitem((np.array([2]), np.array([3]), np.array([3])), 5)
    pairs = PairList(RUNS_NOTHING, lambda: None)  # as Add selected image + labels does
    pairs.add([Pair(layer_source(Image(np.zeros(SHAPE))), layer_source(made))])
    assert slice_states(made).edited == (2,)
    assert slice_states(editable_copy(made)).edited == (2,)


def test_another_result_in_the_same_layer_is_what_it_is_compared_with() -> None:
    made = result()
    made.mode = "paint"
    show_labels(made, read(Image(np.zeros(SHAPE))), np.ones(SHAPE, np.uint8))
    assert slice_states(made).edited == ()
    made.data_setitem((np.array([2]), np.array([3]), np.array([3])), 5)
    assert slice_states(made).edited == (2,)


CUBE = (12, 12, 12)


def in_view(axis: str, at: int, *, shape: tuple[int, ...] = CUBE) -> tuple[ViewerModel, Labels]:
    """An editable copy of a result of all zeros, in a viewer that looks along an axis; slices are counted along z."""
    viewer = ViewerModel()
    scan = read(viewer.add_image(np.zeros(shape, np.float32)))
    layer = editable_copy(labels_layer(scan, np.zeros(shape, np.uint8), CLASSES, "organ", NOTES))
    viewer.add_layer(layer)
    layer.brush_size = 5
    look(viewer, axis, at)
    return viewer, layer


def look(viewer: ViewerModel, axis: str, at: int) -> None:
    dim = viewer.dims.ndim - 3 + "zyx".index(axis)
    viewer.dims.order = (dim, *(d for d in range(viewer.dims.ndim) if d != dim))
    viewer.dims.set_current_step(dim, at)


@pytest.mark.parametrize("axis", "zyx")
def test_slices_lie_along_the_axis_that_was_looked_along_at_the_first_stroke(axis: str) -> None:
    _, layer = in_view(axis, 6)
    layer.paint((6, 6, 6), 1)
    states = slice_states(layer)
    assert (states.axis, states.edited, states.partly) == (axis, (6,), ())
    layer.undo()
    assert slice_states(layer).annotated == ()


def test_a_stray_stroke_that_was_undone_decides_nothing() -> None:
    viewer, layer = in_view("x", 6)
    layer.paint((6, 6, 6), 1)
    layer.undo()
    look(viewer, "z", 6)
    layer.paint((6, 6, 6), 1)
    states = slice_states(layer)
    assert (states.axis, states.edited, states.partly) == ("z", (6,), ())


def test_of_slices_that_were_painted_on_from_the_side_only_changed_voxels_are_annotated(tmp_path: Path) -> None:
    viewer, layer = in_view("z", 6)
    layer.paint((6, 6, 6), 1)
    look(viewer, "x", 3)
    layer.paint((8, 6, 3), 2)
    states, changed = slice_states(layer), layer.data != 0
    assert (states.axis, states.edited, states.partly) == ("z", (6,), (7, 8, 9, 10))
    assert states.words() == "0 checked, 1 edited, 4 partly edited, 7 untouched"
    (path,) = write_labels_layer(str(tmp_path / "organ.nii.gz"), *layer.as_layer_data_tuple()[:2])
    read_back, noted = read_labels(Path(path)), noted_slices(read_notes(Path(path)))
    assert noted == states
    found = read_annotation(read_back, LabelsConfig(), noted)
    known = changed.copy()
    known[6] = True
    np.testing.assert_array_equal(~found.ignored, known)  # nothing of the model's own is ground truth
    np.testing.assert_array_equal(found.values, layer.data)
    assert found.validated == (6,)
    opened = noted_marks(read_notes(Path(path)), read_back)
    assert states_of(opened, read_back) == states  # nothing is lost when it is opened again
    mark(layer, 8, states)
    assert (slice_states(layer).checked, slice_states(layer).edited, slice_states(layer).partly) == (
        (8,),
        (6, 8),
        (7, 9, 10),
    )


@pytest.mark.parametrize("flat", [True, False], ids=["slices", "3D view"])
def test_a_brush_in_three_dimensions_annotates_the_slice_in_view_as_a_whole(flat: bool) -> None:
    viewer, layer = in_view("z", 6)
    layer.n_edit_dimensions = 3
    viewer.dims.ndisplay = 2 if flat else 3
    layer.paint((6, 6, 6), 1)
    states = slice_states(layer)
    assert states.edited == ((6,) if flat else ())
    assert states.annotated == (4, 5, 6, 7, 8)
    layer.fill((6, 6, 6), 0)  # painted back
    assert slice_states(layer).annotated == ()


def test_time_points_have_their_own_slices_in_view() -> None:
    viewer, layer = in_view("z", 6, shape=(2, *CUBE))
    viewer.dims.set_current_step(0, 1)
    layer.paint((1, 6, 6, 6), 1)
    look(viewer, "y", 4)
    layer.paint((1, 9, 4, 6), 1)
    states = slice_states(layer)
    assert (states.axis, states.edited, states.partly) == ("z", (18,), (19, 20, 21, 22, 23))
    look(viewer, "z", 2)
    layer.n_edit_dimensions = 4
    layer.fill((1, 2, 6, 6), 2)  # of all time points, one is in view
    states = slice_states(layer)
    assert states.edited == (14, 18)
    assert states.partly == tuple(sorted({*range(24)} - {14, 18}))


def test_marks_of_a_copy_are_its_own() -> None:
    one = editable_copy(result())
    mark(one, 1, slice_states(one))
    two = Labels(np.array(one.data), metadata=one.metadata)  # as napari duplicates a layer
    mark(two, 3, slice_states(two))
    assert slice_states(one).checked == (1,)
    assert slice_states(two).checked == (1, 3)


def test_marks_that_were_set_while_a_pair_was_read_are_kept() -> None:
    layer = editable_copy(result())
    then = slice_states(layer)
    mark(layer, 1, then)
    assert mark(layer, 3, then).checked == (1, 3)
    assert slice_states(layer).checked == (1, 3)


def test_painted_slices_of_drawn_labels_are_edited_and_the_others_untouched() -> None:
    image, labels = Image(np.zeros(SHAPE)), Labels(np.zeros(SHAPE, np.uint8))
    labels.data[3, 2, 2] = 1
    states = slice_states(labels, read(image))
    assert (states.edited, states.untouched, states.only) == ((3,), (0, 1, 2, 4), False)
    mark(labels, 0, states)
    assert slice_states(labels, read(image)).checked == (0,)
    assert edited_voxels(labels).sum() == 1
    remember(labels)  # nothing was made by a model
    assert not slice_states(labels, read(image)).only


@pytest.mark.parametrize(
    ("shape", "axis", "count"),
    [((6, 7), "", 1), ((5, 6, 7), "z", 5), ((2, 5, 6, 7), "z", 10), ((1, 6, 7), "z", 1)],
)
def test_pictures_stacks_and_series(shape: tuple[int, ...], axis: str, count: int) -> None:
    copy = editable_copy(result(shape, axis_labels=tuple("tzyx"[-len(shape) :])))
    states = slice_states(copy)
    assert (states.axis, states.count, states.annotated) == (axis, count, ())
    copy.data[..., 3, 3] = 9
    assert slice_states(copy).edited == tuple(range(count))


@pytest.mark.parametrize("shape", [(5, 9, 7), (4, 6, 7), (6, 7), (2, 5, 6, 7)])
def test_data_that_was_replaced_by_another_array_is_edited_and_can_be_saved(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    viewer, copy = ViewerModel(), editable_copy(result())
    mark(copy, 1, slice_states(copy))
    copy.data = np.ones(shape, np.uint8)  # as a plugin that crops or resamples does
    states = slice_states(copy)
    assert states.edited == tuple(range(states.count))
    assert states.only
    assert edited_voxels(copy).all()
    mark(copy, 0, states)
    assert slice_states(copy).checked == ((0,) if len(shape) == 2 else (0, 1))
    image = viewer.add_image(np.zeros(shape, np.float32))
    pair = Pair(layer_source(image), layer_source(copy))
    assert check(pair, LabelsConfig()).problem == ""
    (path,) = autosave([pair], tmp_path)
    np.testing.assert_array_equal(np.asarray(read_labels(path).data), copy.data)


def test_a_picture_that_became_a_stack_has_slices() -> None:
    copy = editable_copy(result((6, 7)))
    mark(copy, 0, slice_states(copy))
    copy.data = np.ones(SHAPE, np.uint8)
    states = slice_states(copy)
    assert (states.axis, states.checked, states.edited) == ("z", (), (0, 1, 2, 3, 4))


def test_the_thickest_axis_is_the_one_of_slices() -> None:
    copy = editable_copy(result((8, 5, 7), scale=(1, 4, 1)))
    copy.data[1, 2, 3] = 9
    states = slice_states(copy)
    assert (states.axis, states.count, states.edited) == ("y", 5, (2,))


@pytest.mark.parametrize("suffix", [".nii.gz", ".ome.zarr", ".ome.tif", ".nrrd"])
def test_what_was_checked_and_edited_is_in_a_saved_file(
    tmp_path: Path, open_layer: Callable[[Path], Any], suffix: str
) -> None:
    copy = editable_copy(result(scale=(3, 1, 1), units=("mm",) * 3))
    copy.data[2, 3, 3] = 1 + (copy.data[2, 3, 3] == 1)
    mark(copy, 4, slice_states(copy))
    data, state, _ = copy.as_layer_data_tuple()
    (path,) = write_labels_layer(str(tmp_path / f"saved{suffix}"), data, state)
    again = open_layer(Path(path))
    states = slice_states(again)
    assert (states.checked, states.edited, states.only) == ((4,), (2,), True)
    assert not [key for key in again.metadata[METADATA]["provenance"] if key == "slices"]
    values = np.array(again.data)
    values[1, 3, 3] = 1 + (values[1, 3, 3] == 1)
    again.data = values
    assert slice_states(again).edited == (1, 2)
    assert marks_of(again).edited == (2,)


def test_a_result_in_a_zarr_is_read_once_its_slices_are_compared_and_by_a_copy(
    tmp_path: Path, open_layer: Callable[[Path], Any]
) -> None:
    data, state, _ = result(scale=(3, 1, 1), units=("mm",) * 3).as_layer_data_tuple()
    (path,) = write_labels_layer(str(tmp_path / "saved.ome.zarr"), data, state)
    layer = open_layer(Path(path))
    assert marks_of(layer).base.later
    copy = editable_copy(layer)
    assert not marks_of(copy).base.later, "the file may be replaced while the copy is corrected"
    shutil.rmtree(path)
    copy.data[1, 3, 3] = 1 + (copy.data[1, 3, 3] == 1)
    assert (slice_states(copy).edited, slice_states(copy).only) == ((1,), True)
    assert marks_of(layer).base.later


def test_autosave_keeps_them_and_a_pair_of_files_knows_them(tmp_path: Path, open_layer: Callable[[Path], Any]) -> None:
    viewer = ViewerModel()
    image = viewer.add_image(np.zeros(SHAPE, np.float32), scale=(3, 1, 1), units=("mm",) * 3)
    copy = editable_copy(labels_layer(read(image), result().data, CLASSES, "organ", NOTES))
    copy.data[2, 3, 3] = 1 + (copy.data[2, 3, 3] == 1)
    mark(copy, 4, slice_states(copy))
    pair = Pair(layer_source(image), layer_source(copy))
    (path,) = autosave([pair], tmp_path)
    again = open_layer(path)
    assert slice_states(again) == slice_states(copy)
    row = check(pair, LabelsConfig())
    assert row.states == slice_states(copy)
    assert row.slices == (2, 4)
    assert "1 checked, 1 edited, 3 untouched" in row.facts
