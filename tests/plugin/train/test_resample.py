"""Labels of another grid on the image's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from napari.components import ViewerModel
from napari.layers import Image, Labels
from napari.layers._layer_actions import _duplicate_layer

from napari_prosma._writer import write_labels_layer
from napari_prosma.layers.results import editable_copy, labels_layer
from napari_prosma.layers.scan import read
from napari_prosma.layers.slices import mark, slice_states
from napari_prosma.train.export_pairs import resampled
from napari_prosma.train.pairs import Pair, check
from napari_prosma.train.sources import Source, layer_source
from prosma_core.config.model import ClassInfo
from prosma_core.config.training import LabelsConfig
from prosma_core.data.geometry import array_spec, spacing_affine
from prosma_core.errors import GeometryError
from prosma_core.io.images import write_image, write_labels

CLASSES = (ClassInfo(value=0, name="background"), ClassInfo(value=1, name="organ"))


def pair_of(image: Any, labels: Any) -> Pair:
    return Pair(layer_source(image), layer_source(labels))


@given(
    scale=st.tuples(*[st.floats(0.4, 3)] * 3),
    flips=st.tuples(*[st.sampled_from([-1, 1])] * 3),
    shift=st.tuples(*[st.integers(-20, 20).map(lambda n: n / 10 + 0.033)] * 3),
    seed=st.integers(0, 1000),
)
def test_each_voxel_gets_the_label_drawn_at_its_center(scale: Any, flips: Any, shift: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    image = Image(np.zeros((6, 7, 8)), scale=(2, 1, 1.5), translate=(10, -5, 3), units="mm", name="scan")
    values = rng.integers(0, 4, (9, 10, 12))
    affine = spacing_affine(tuple(s * f for s, f in zip(scale, flips, strict=True)))
    affine[:3, 3] = np.array((10, -5, 3)) + shift + np.where(np.array(flips) < 0, np.array(scale) * (8, 9, 11), 0)
    labels = Labels(values, affine=affine, units="mm", name="drawn")
    result = resampled(pair_of(image, labels))
    assert result.data.shape == image.data.shape
    corners = np.stack(np.meshgrid(*map(np.arange, image.data.shape), indexing="ij"), -1).reshape(-1, 3)
    centers = corners * (2, 1, 1.5) + (10, -5, 3)
    np.testing.assert_allclose(labels.data_to_world((1, 2, 3)), (affine @ (1, 2, 3, 1))[:3])
    there = np.linalg.solve(affine, np.c_[centers, np.ones(len(centers))].T)[:3].T
    sure = np.all(np.abs(there - np.floor(there) - 0.5) > 1e-6, axis=1)  # no tie between two voxels
    index = np.rint(there).astype(int)
    inside = np.all((index >= 0) & (index < values.shape), axis=1)
    expected = np.where(inside, values[tuple(np.clip(index, 0, np.array(values.shape) - 1).T)], 0)
    np.testing.assert_array_equal(result.data.reshape(-1)[sure], expected[sure])
    assume((sure & inside).any())
    np.testing.assert_allclose(result.data_to_world((1, 2, 3)), image.data_to_world((1, 2, 3)))


def test_the_row_offers_it_where_they_overlap_and_the_result_can_be_trained_on() -> None:
    image = Image(np.zeros((10, 20, 20)), scale=(2, 1, 1), units="mm", name="scan")
    values = np.zeros((20, 40, 40), np.int32)
    values[4:8, 10:20, 10:20] = 7
    labels = Labels(values, scale=(1, 0.5, 0.5), units="mm", name="fine", opacity=0.3)
    row = check(pair_of(image, labels), LabelsConfig())
    assert row.fixes == ("resample",)
    assert "another grid (20 × 40 × 40) than the image (10 × 20 × 20)" in row.problem
    result = resampled(row.pair)
    assert (result.name, result.data.shape) == ("fine on scan", (10, 20, 20))
    assert check(pair_of(image, result), LabelsConfig()).problem == ""
    assert labels.data is values
    assert set(np.unique(values)) == {0, 7}
    np.testing.assert_array_equal(result.colormap.map(7), labels.colormap.map(7))


def test_it_is_not_offered_for_labels_of_another_place() -> None:
    image = Image(np.zeros((10, 20, 20)), name="scan")
    labels = Labels(np.ones((5, 5, 5), int), translate=(0, 100, 0), name="other")
    row = check(pair_of(image, labels), LabelsConfig())
    assert row.fixes == ()
    assert "belong to another scan" in row.problem


def test_files_are_resampled_in_the_patients_world(tmp_path: Path, open_layer: Callable[[Path], Any]) -> None:
    nib.Nifti1Image(np.zeros((12, 12, 12), np.int16), np.diag([-1, -1, 1, 1])).to_filename(tmp_path / "i.nii")
    values = np.zeros((6, 6, 6), np.uint8)
    values[0, 0, 0] = 5
    affine = np.diag([2.0, 2, 2, 1])
    affine[:3, 3] = (-10.5, -10.5, 0.5)
    nib.Nifti1Image(values, affine).to_filename(tmp_path / "l.nii")
    pair = Pair(Source(path=tmp_path / "i.nii", title="i"), Source(path=tmp_path / "l.nii", title="l"))
    assert check(pair, LabelsConfig()).fixes == ("resample",)
    result = resampled(pair)
    assert np.argwhere(result.data == 5).min(0).tolist() == [0, 10, 10]
    assert np.argwhere(result.data == 5).max(0).tolist() == [1, 11, 11]
    assert check(Pair(pair.image, layer_source(result)), LabelsConfig()).problem == ""
    image = open_layer(tmp_path / "i.nii")
    assert check(pair_of(image, result), LabelsConfig()).problem == ""


def test_labels_without_time_are_brought_to_the_frames_grid() -> None:
    image = Image(np.zeros((3, 6, 8, 8)), axis_labels=tuple("tzyx"), name="contrasts")
    labels = Labels(np.ones((6, 4, 4), int), scale=(1, 2, 2), translate=(0, 0.5, 0.5), name="coarse")
    assert check(pair_of(image, labels), LabelsConfig()).fixes == ("channels",)  # time is no channel by itself
    row = check(Pair(layer_source(image, "czyx"), layer_source(labels)), LabelsConfig())
    assert row.fixes == ("resample",)
    result = resampled(row.pair)
    assert result.data.shape == (6, 8, 8)
    assert result.data.min() == 1
    assert check(Pair(row.pair.image, layer_source(result)), LabelsConfig()).problem == ""


@pytest.mark.parametrize("from_file", [False, True])
def test_labels_without_a_transform_take_the_images_place_and_lose_nothing(
    tmp_path: Path, from_file: bool, rng: np.random.Generator, open_layer: Callable[[Path], Any]
) -> None:
    values = rng.integers(0, 3, (12, 10, 8)).astype(np.uint8)
    affine = np.diag([0.5, 0.7, 3.0, 1.0])
    affine[:3, 3] = -100, 40, 900  # nowhere near the origin
    for name, matrix in (("i.nii", affine), ("l.nii", np.eye(4))):
        nib.Nifti1Image(values.T, matrix).to_filename(tmp_path / name)
    image, labels = open_layer(tmp_path / "i.nii"), Labels(values.astype(int), name="painted")
    file_pair = Pair(Source(path=tmp_path / "i.nii", title="i"), Source(path=tmp_path / "l.nii", title="l"))
    pair = file_pair if from_file else pair_of(image, labels)
    row = check(pair, LabelsConfig())
    assert row.fixes[0] == "place"
    assert "no transform" in row.problem
    result = resampled(pair, voxel_by_voxel=True)
    placed = check(Pair(pair.image, layer_source(result)), LabelsConfig())
    assert placed.problem == ""
    assert placed.values == {v: int((values == v).sum()) for v in (1, 2)}
    assert check(pair_of(image, result), LabelsConfig()).problem == ""
    assert labels.scale.tolist() == [1, 1, 1]  # the person's own stays as it is
    with pytest.raises(GeometryError, match="Resample it"):
        resampled(pair_of(image, Labels(np.ones((12, 10, 7), int), name="other")), voxel_by_voxel=True)


def test_frames_are_resampled_one_by_one() -> None:
    image = Image(np.zeros((2, 8, 8)), axis_labels=tuple("tyx"), name="film")
    values = np.stack([np.full((4, 4), 1), np.full((4, 4), 2)])
    labels = Labels(values, scale=(1, 2, 2), translate=(0, 0.5, 0.5), axis_labels=tuple("tyx"), name="coarse")
    result = resampled(pair_of(image, labels))
    assert (result.data[0] == 1).all()
    assert (result.data[1] == 2).all()


def test_what_cannot_be_resampled_is_refused(tmp_path: Path) -> None:
    image = Image(np.zeros((5, 8, 8)), name="scan")
    with pytest.raises(GeometryError, match="cannot be resampled to scan"):
        resampled(pair_of(image, Labels(np.ones((8, 8), int), name="flat")))
    write_image(tmp_path / "i.nii", np.zeros((5, 8, 8), np.uint8), array_spec((5, 8, 8), "zyx"))
    write_labels(tmp_path / "l.tif", np.ones((8, 8), np.uint8), array_spec((8, 8), "yx"))
    pair = Pair(Source(path=tmp_path / "i.nii", title="i"), Source(path=tmp_path / "l.tif", title="l"))
    with pytest.raises(GeometryError, match="l cannot be resampled to i"):
        resampled(pair)


def test_labels_that_a_model_made_are_known_as_such_whatever_becomes_of_them(tmp_path: Path) -> None:
    """A duplicate in napari, a resampled copy, a file that is opened again: their training gives no verdict."""
    viewer = ViewerModel()
    image = viewer.add_image(np.random.default_rng(0).normal(size=(10, 20, 20)), scale=(2, 1, 1), units="mm")
    values = np.zeros((20, 40, 40), np.uint8)
    values[4:8, 10:20, 10:20] = 1
    classes = (ClassInfo(value=0, name="background"), ClassInfo(value=1, name="liver"))
    scan = read(Image(np.zeros(values.shape), scale=(1, 0.5, 0.5), units="mm", name="scan"))
    notes = {"program": "prosma", "model": "liver"}
    made = editable_copy(labels_layer(scan, values, classes, "result", notes))
    viewer.add_layer(made)
    viewer.layers.selection = {made}
    _duplicate_layer(viewer.layers)
    duplicate = viewer.layers["result corrected copy"]
    copy = resampled(pair_of(image, duplicate))
    write_labels_layer(str(tmp_path / "labels.nii.gz"), *duplicate.as_layer_data_tuple()[:2])
    file = Source(path=tmp_path / "labels.nii.gz", title="labels.nii.gz")
    for pair in (pair_of(image, duplicate), pair_of(image, copy), Pair(layer_source(image), file)):
        assert check(pair, LabelsConfig()).provenance.items() >= notes.items()


@pytest.mark.filterwarnings("ignore:Non-orthogonal slicing")
@pytest.mark.parametrize("turned", [False, True])
def test_what_was_corrected_stays_so_on_another_grid(turned: bool, tmp_path: Path) -> None:
    affine = np.diag([2.0, 1.0, 1.0, 1.0])
    if turned:
        affine[:2, :2] = [[np.cos(0.5), -np.sin(0.5)], [np.sin(0.5), np.cos(0.5)]]
    image = Image(np.zeros((6, 7, 8)), affine=affine, units="mm", name="scan")
    bare = Image(np.zeros((12, 7, 8)), units="mm", name="fine")
    notes = {"program": "prosma", "model": "phantom-3d"}
    made = labels_layer(read(bare), np.ones((12, 7, 8), np.uint8), CLASSES, "organ", notes)
    copy = editable_copy(made)
    copy.data[4, 3:5, 3:5] = 0  # slice 2 of the scan; the next one lies between two of them
    mark(copy, 8, slice_states(copy))
    states = slice_states(resampled(pair_of(image, copy)))
    assert states.only
    if turned:
        assert states.partly
        assert (states.checked, states.edited) == ((), ())
        return
    assert (states.axis, states.checked, states.edited) == ("z", (4,), (2,))
    write_labels_layer(str(tmp_path / "labels.nii.gz"), *copy.as_layer_data_tuple()[:2])
    file = Source(path=tmp_path / "labels.nii.gz", title="labels.nii.gz")
    found = slice_states(resampled(Pair(layer_source(image), file)))
    assert {len(found.checked), len(found.edited)} == {1}  # in the file's world, that may run the other way


def test_what_was_checked_and_edited_stays_where_voxels_are_copied() -> None:
    scan = Image(np.zeros((6, 7, 8)), scale=(2, 1, 1), units="mm", name="scan")
    bare = Image(np.zeros((6, 7, 8)), name="without a transform")
    made = labels_layer(read(bare), np.ones((6, 7, 8), np.uint8), CLASSES, "organ", {"model": "phantom-3d"})
    copy = editable_copy(made)
    copy.data[2, 3, 3] = 0
    mark(copy, 4, slice_states(copy))
    result = resampled(pair_of(scan, copy), voxel_by_voxel=True)
    assert slice_states(result) == slice_states(copy)
    assert slice_states(result).annotated == (2, 4)
