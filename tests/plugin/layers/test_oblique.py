"""Oblique scans: drawn along their own axes so that every slice is reached, and written with their exact affine."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from napari.components import ViewerModel
from napari.layers import Image
from napari.utils.notifications import notification_manager
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from napari_prosma._reader import image_layer_data
from napari_prosma.layers.results import editable_copy, image_layer, labels_layer
from napari_prosma.layers.scan import read
from napari_prosma.layers.viewport import current_slice, view_box
from prosma_core.config.model import ClassInfo
from prosma_core.data.geometry import ImageSpec, affine_spacing, reverse_affine
from prosma_core.io.images import read_image

OpenLayer = Callable[[Path], Any]
SaveLayer = Callable[[Any, Path], list[str]]
Classes = tuple[ClassInfo, ...]

SHAPE = (5, 6, 7)
OBLIQUE_SAMPLES = {
    "ct_head_oblique16",
    "epi4d_oblique",
    "rgb_dtype",
    "spine_3contrast_oblique9",
    "spine_mt_3channel",
    "spine_t2s_aniso_oblique",
}


def oblique(degrees: float, spacing: tuple[float, ...] = (0.5, 0.75, 3.0)) -> NDArray[np.float64]:
    """NIfTI affine of a scan turned about the x axis, with rows that run to the left."""
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("x", degrees, degrees=True).as_matrix() @ np.diag(spacing)
    affine[:, 0] *= -1
    affine[:3, 3] = (40, -120, 300)
    return affine


def save_nifti(path: Path, affine: NDArray[np.float64], shape: tuple[int, ...] = SHAPE) -> Path:
    nib.save(nib.Nifti1Image(np.zeros(shape, np.int16), affine), path)
    return path


def drawn(affine: NDArray[np.float64]) -> Any:
    """The layer of a scan with this NIfTI affine."""
    there = reverse_affine(affine)
    spec = ImageSpec("zyx", SHAPE, affine_spacing(there), "mm", there, world="ras")
    data, arguments, _ = image_layer_data(np.zeros(SHAPE, np.float32), spec, "scan", None)
    return Image(data, **arguments)


def index_layer(layer: Any, axis: int) -> Image:
    """A layer where this one is drawn whose voxels hold their index along an axis."""
    shape = layer.level_shapes[0][: layer.ndim] if layer.multiscale else layer.data.shape[: layer.ndim]
    index = np.arange(shape[axis], dtype=np.float32).reshape([-1 if a == axis else 1 for a in range(layer.ndim)])
    names = ("scale", "translate", "rotate", "shear", "affine", "units", "axis_labels")
    return Image(np.broadcast_to(index, shape).copy(), **{name: getattr(layer, name) for name in names})


def shown_slices(layer: Any, axis: int) -> list[Any]:
    """Which index along an axis is in the middle of the picture at each position of that axis's slider."""
    viewer, probe = ViewerModel(), index_layer(layer, axis)
    viewer.add_layer(probe)
    lead, space = range(layer.ndim - 3), range(layer.ndim - 3, layer.ndim)
    viewer.dims.order = (*lead, axis, *[a for a in space if a != axis])
    middle = np.array(probe.data_to_world((np.array(probe.data.shape) - 1) // 2))
    found = []
    for step in range(viewer.dims.nsteps[axis]):
        viewer.dims.set_current_step(axis, step)
        position = [viewer.dims.point[a] if a in viewer.dims.not_displayed else middle[a] for a in range(layer.ndim)]
        found.append(probe.get_value(position, world=True))
    return found


def every_slice_is_reached(layer: Any) -> None:
    for axis in range(layer.ndim - 3, layer.ndim):
        size = layer.data.shape[axis]
        assert sorted(shown_slices(layer, axis), key=lambda v: -1 if v is None else v) == list(range(size)), axis


turns = st.tuples(st.floats(-180, 180), st.floats(-90, 90), st.floats(-180, 180))
spacings = st.tuples(*[st.floats(0.1, 9)] * 3)
flips = st.tuples(*[st.sampled_from((-1, 1))] * 3)
shears = st.tuples(*[st.floats(-0.2, 0.2)] * 3)
origins = st.tuples(*[st.floats(-500, 500)] * 3)


@st.composite
def affines(draw: Any) -> NDArray[np.float64]:
    """NIfTI affines turned, flipped and sheared in any way."""
    shear = np.eye(3)
    shear[np.triu_indices(3, 1)] = draw(shears)
    affine = np.eye(4)
    turn = Rotation.from_euler("zyx", draw(turns), degrees=True).as_matrix()
    affine[:3, :3] = turn @ shear @ np.diag(np.multiply(draw(spacings), draw(flips)))
    affine[:3, 3] = draw(origins)
    return affine


@pytest.mark.slow
@settings(max_examples=12)  # each moves through all slices of three axes
@given(affine=affines())
def test_every_slice_of_a_scan_turned_in_any_way_is_reached(affine: NDArray[np.float64]) -> None:
    layer = drawn(affine)
    assume("turn" in layer.metadata["prosma"])
    every_slice_is_reached(layer)


@given(affine=affines())
def test_a_scan_turned_in_any_way_is_read_with_its_own_affine_and_not_mirrored(affine: NDArray[np.float64]) -> None:
    layer = drawn(affine)
    spec = layer.metadata["prosma"]["spec"]
    assert read(layer).spec.affine is spec.affine
    turn = layer.metadata["prosma"].get("turn", np.eye(3))
    assert np.linalg.det(turn) > 0
    for index in np.ndindex(2, 2, 2):
        file_index = np.multiply(index, np.array(SHAPE) - 1)
        world = turn @ (spec.affine @ [*file_index, 1])[:3]
        there = [file_index["zyx".index(letter)] for letter in layer.axis_labels]
        np.testing.assert_allclose(layer.data_to_world(there), world, atol=1e-6)


@given(turn=turns, spacing=spacings, flip=flips, origin=origins)
def test_a_scan_without_shear_is_turned_about_the_worlds_origin(
    turn: Any, spacing: Any, flip: Any, origin: Any
) -> None:
    affine = np.eye(4)
    rotation = Rotation.from_euler("zyx", turn, degrees=True).as_matrix()
    affine[:3, :3], affine[:3, 3] = rotation @ np.diag(np.multiply(spacing, flip)), origin
    kept = drawn(affine).metadata["prosma"].get("turn", np.eye(3))
    np.testing.assert_allclose(kept @ kept.T, np.eye(3), atol=1e-6)


@given(affine=affines(), move=origins, angle=st.floats(-180, 180))
def test_a_moved_oblique_layer_is_read_in_the_patients_world(
    affine: NDArray[np.float64], move: tuple[float, ...], angle: float
) -> None:
    layer = drawn(affine)
    spec = layer.metadata["prosma"]["spec"]
    turn = layer.metadata["prosma"].get("turn", np.eye(3))
    before = np.array(layer.data_to_world((0, 0, 0)))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Non-orthogonal", UserWarning)
        layer.translate, layer.rotate = np.add(layer.translate, move), (0, 0, angle)
    moved = read(layer).spec
    index = (1, 2, 3)
    there = [index["zyx".index(letter)] for letter in layer.axis_labels]
    np.testing.assert_allclose(turn @ (moved.affine @ [*index, 1])[:3], layer.data_to_world(there), atol=1e-6)
    assert (moved.world, moved.unit) == ("ras", "mm")
    shift = np.array(layer.data_to_world((0, 0, 0))) - before
    np.testing.assert_allclose(moved.affine[:3, 3] - spec.affine[:3, 3], np.linalg.solve(turn, shift), atol=1e-6)


def test_scans_of_equal_obliquity_stay_registered(tmp_path: Path, open_layer: OpenLayer) -> None:
    other = oblique(16, (1.0, 1.5, 6.0))
    other[:3, 3] += oblique(16)[:3, :3] @ (1, 2, 3)
    a, b = open_layer(save_nifti(tmp_path / "a.nii", oblique(16))), open_layer(save_nifti(tmp_path / "b.nii", other))
    np.testing.assert_allclose(a.data_to_world((3, 2, 1)), b.data_to_world((0, 0, 0)), atol=1e-4)
    np.testing.assert_allclose(a.data_to_world((5, 6, 5)), b.data_to_world((1, 2, 2)), atol=1e-4)


def test_an_oblique_layer_needs_scale_and_flips_only(tmp_path: Path, open_layer: OpenLayer) -> None:
    layer = open_layer(save_nifti(tmp_path / "scan.nii", oblique(16)))
    np.testing.assert_allclose(layer.scale, (3, 0.75, 0.5), rtol=1e-6)
    np.testing.assert_array_equal(layer.affine.affine_matrix[:3, :3], np.diag([1, 1, -1]))


@pytest.mark.parametrize("degrees", [1e-6, 0.004])
def test_a_turn_too_small_to_see_is_not_spoken_of(degrees: float, tmp_path: Path, open_layer: OpenLayer) -> None:
    notification_manager.records.clear()
    layer = open_layer(save_nifti(tmp_path / "scan.nii", oblique(degrees)))
    assert not notification_manager.records
    assert read(layer).note == ""
    every_slice_is_reached(layer)
    world = reverse_affine(oblique(degrees)) @ (4, 5, 6, 1)
    there = [(4, 5, 6)["zyx".index(letter)] for letter in layer.axis_labels]
    np.testing.assert_allclose(layer.data_to_world(there), world[:3], atol=0.05)


def test_an_oblique_scan_is_drawn_along_its_own_axes_and_says_so(tmp_path: Path, open_layer: OpenLayer) -> None:
    notification_manager.records.clear()
    layer = open_layer(save_nifti(tmp_path / "head.nii", oblique(16)))
    says = (
        "head is oblique (16 degrees): it is drawn along its own axes so that every slice can be seen and painted; "
        "files keep its exact orientation."
    )
    assert [record.message for record in notification_manager.records] == [says]
    assert read(layer).note == says
    straight = open_layer(save_nifti(tmp_path / "straight.nii", np.diag([-1, 2, 3, 1.0])))
    assert len(notification_manager.records) == 1
    assert read(straight).note == ""
    assert "turn" not in straight.metadata["prosma"]


def test_a_result_lies_on_its_oblique_scan_through_file_and_back(
    tmp_path: Path, open_layer: OpenLayer, save_layer: SaveLayer, classes: Classes
) -> None:
    layer = open_layer(save_nifti(tmp_path / "scan.nii", oblique(16)))
    scan = read(layer)
    labels = np.zeros(scan.spec.shape, np.uint8)
    labels[1, 2, 3] = 5
    result = labels_layer(scan, labels, classes, "result", {"program": "prosma 1", "model": "m"})
    probabilities = image_layer(
        scan, np.zeros((2, *scan.spec.shape), np.float32), "czyx", "p", {}, channel_names=("a", "b")
    )
    save_layer(result, tmp_path / "labels.nii")
    save_layer(probabilities, tmp_path / "p.nii")
    for name in ("labels.nii", "p.nii"):
        assert np.array_equal(nib.load(tmp_path / name).affine, nib.load(tmp_path / "scan.nii").affine)
        again = open_layer(tmp_path / name)
        np.testing.assert_allclose(
            again.data_to_world([2] * again.ndim)[-3:], layer.data_to_world((2, 2, 2)), atol=1e-4
        )
    for own in (result, editable_copy(result)):
        np.testing.assert_array_equal(own.data_to_world((2, 1, 3)), layer.data_to_world((2, 1, 3)))
        assert read(own).spec.affine is scan.spec.affine
    assert np.array_equal(open_layer(tmp_path / "labels.nii").data, result.data)


def test_a_moved_oblique_layer_is_saved_in_the_patients_world_and_opens_where_it_was(
    tmp_path: Path, open_layer: OpenLayer, save_layer: SaveLayer
) -> None:
    layer = open_layer(save_nifti(tmp_path / "scan.nii", oblique(16)))
    layer.translate = (10, 20, 30)
    save_layer(layer, tmp_path / "moved.nii")
    moved = open_layer(tmp_path / "moved.nii")
    np.testing.assert_allclose(moved.data_to_world((2, 3, 4)), layer.data_to_world((2, 3, 4)), atol=1e-4)


def test_a_coarser_level_of_an_oblique_scan_keeps_its_place(classes: Classes) -> None:
    plain = drawn(oblique(16))
    names = ("scale", "translate", "affine", "units", "axis_labels", "metadata")
    fine = np.zeros((8, 8, 8), np.float32)
    image = Image([fine, fine[::2, ::2, ::2]], multiscale=True, **{name: getattr(plain, name) for name in names})
    assert read(image).spec.affine is plain.metadata["prosma"]["spec"].affine
    scan = read(image, level=1)
    expected = plain.metadata["prosma"]["spec"].affine @ np.array([0.5, 0.5, 0.5, 1])
    np.testing.assert_allclose(scan.spec.affine[:, 3], expected)
    result = labels_layer(scan, np.zeros((4, 4, 4), np.uint8), classes, "result", {})
    np.testing.assert_allclose(result.data_to_world((0, 0, 0)), image.data_to_world((0.5, 0.5, 0.5)))
    assert read(result).spec.affine is scan.spec.affine


def test_the_view_of_an_oblique_layer_is_told_in_its_own_slices(tmp_path: Path, open_layer: OpenLayer) -> None:
    viewer = ViewerModel()
    layer = viewer.add_layer(open_layer(save_nifti(tmp_path / "scan.nii", oblique(16), (40, 50, 9))))
    scan = read(layer)
    for step in range(9):
        viewer.dims.set_current_step(0, step)
        assert current_slice(layer, scan, viewer) == ((step, step + 1), (0, 50), (0, 40))
    viewer.canvas.size, viewer.scene.camera.zoom = (9, 5), 1
    viewer.scene.camera.center = layer.data_to_world((4, 20, 10))
    assert view_box(layer, scan, viewer) == ((0, 9), (14, 27), (5, 16))


@pytest.mark.slow
def test_real_oblique_scans_show_every_slice_and_say_so(data_root: Path, open_layer: OpenLayer) -> None:
    for path in sorted((data_root / "ui_samples").rglob("*.nii*")):
        layer = open_layer(path)
        oblique_one = path.parent.name in OBLIQUE_SAMPLES
        assert ("is oblique (" in read(layer).note) == oblique_one, path
        if oblique_one:
            first = layer.ndim - 3
            assert sorted(shown_slices(layer, first)) == list(range(layer.data.shape[first])), path


def test_real_oblique_scans_are_written_bit_for_bit(
    data_root: Path, tmp_path: Path, open_layer: OpenLayer, save_layer: SaveLayer
) -> None:
    for name in sorted(OBLIQUE_SAMPLES):
        for path in sorted((data_root / "ui_samples" / name).rglob("*.nii*")):
            save_layer(open_layer(path), tmp_path / "copy.nii.gz")
            a, b = nib.load(path), nib.load(tmp_path / "copy.nii.gz")
            assert np.array_equal(a.affine, b.affine), path
            np.testing.assert_array_equal(read_image(path).data, read_image(tmp_path / "copy.nii.gz").data)


def test_a_labels_layer_of_an_oblique_scan_is_painted_where_the_brush_is(
    tmp_path: Path, open_layer: OpenLayer, classes: Classes
) -> None:
    viewer = ViewerModel()
    layer = viewer.add_layer(open_layer(save_nifti(tmp_path / "scan.nii", oblique(16))))
    scan = read(layer)
    labels = viewer.add_layer(labels_layer(scan, np.zeros(scan.spec.shape, np.uint8), classes, "result", {}))
    viewer.dims.set_current_step(0, 3)
    labels.brush_size = 1
    point = labels.data_to_world((3, 2, 4))
    labels.paint(labels.world_to_data(point), 1)
    assert np.argwhere(labels.data).tolist() == [[3, 2, 4]]
    assert labels.get_value(point, world=True) == 1
