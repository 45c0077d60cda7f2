"""Scans of patients as radiologists expect them, whichever way they are stored; pictures as napari shows them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import napari
import nibabel as nib
import numpy as np
import PIL.Image
import pytest
import tifffile
from napari.components import ViewerModel
from napari.layers import Image, Labels, Layer
from napari.utils.camera_orientations import DEFAULT_ORIENTATION
from npe2 import PluginManager

from napari_prosma._reader import image_layer_data
from napari_prosma.layers.patient_view import (
    LETTERS,
    edge_letters,
    is_patient,
    patient_view,
    standing_order,
    standing_orientation,
)
from napari_prosma.layers.results import LOOKS
from prosma_core.data.geometry import ImageSpec, affine_spacing, reverse_affine

OpenLayer = Callable[[Path], Any]

ORIENTATIONS = [
    (order, signs) for order in itertools.permutations(range(3)) for signs in itertools.product((1, -1), repeat=3)
]
"""Row of the affine (0 right, 1 anterior, 2 superior) and direction of each axis of a file: all 48."""
SIZE = (5, 6, 7)
PLANES = {"axial": "APRL", "sagittal": "SIAP", "coronal": "SIRL"}
"""Letters at top, bottom, left and right of each plane, in the order in which napari rolls through them."""


def nifti_affine(order: tuple[int, ...], signs: tuple[int, ...], tilt: float = 0.0) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (row, sign) in enumerate(zip(order, signs, strict=True)):
        affine[row, axis] = sign * (axis + 1)
    cos, sin = np.cos(tilt), np.sin(tilt)
    affine[:3, :3] = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]]) @ affine[:3, :3]
    return affine


def layer_of(affine: np.ndarray, world: Any = "ras") -> Any:
    there = reverse_affine(affine)
    spec = ImageSpec("zyx", SIZE[::-1], affine_spacing(there), "mm", there, world)
    return Layer.create(*image_layer_data(np.zeros(SIZE[::-1], np.int16), spec, "scan", None))


def shown(viewer: ViewerModel) -> str:
    """Letters on the canvas: top, bottom, left, right."""
    overlays = viewer.canvas.overlays
    names = [f"prosma_{edge}" for edge in ("top", "bottom", "left", "right")]
    return "".join(overlays[name].text for name in names if name in overlays and overlays[name].visible)


def orientation(viewer: ViewerModel) -> tuple[str, ...]:
    return tuple(map(str, viewer.scene.camera.orientation))


def edges(displayed: tuple[int, ...], camera: tuple[str, ...], step: np.ndarray) -> list[str]:
    """Edges of a canvas in 2D to which a step in the viewer's world leads."""
    down, right = (
        step[axis] * (1 if says == positive else -1)
        for axis, says, positive in zip(displayed, camera[1:], ("down", "right"), strict=True)
    )
    vertical = ["bottom" if down > 0 else "top"] if abs(down) > 1e-6 else []
    return vertical + (["right" if right > 0 else "left"] if abs(right) > 1e-6 else [])


def test_each_letter_stands_where_the_file_says_that_the_patient_continues() -> None:
    for number, (order, signs) in enumerate(ORIENTATIONS):
        affine = nifti_affine(order, signs, tilt=0.3 * (number % 3 == 0))  # a third of them oblique
        layer = layer_of(affine)
        drawn = layer.metadata["prosma"]["axes"]
        for axis, letter in enumerate("xyz"):  # a step along each axis of the file
            first, second = (layer.data_to_world([n * (a == letter) for a in drawn]) for n in (0, 1))
            row = int(np.abs(affine[:3, axis]).argmax())
            towards = ("LR", "PA", "IS")[row][int(affine[row, axis] > 0)]
            for displayed in ((1, 2), (0, 1), (0, 2)):
                camera = standing_orientation(displayed, 3)
                at = edge_letters(displayed, 3, camera)
                step = np.subtract(second, first)
                assert [at[edge] for edge in edges(displayed, camera, step)] in ([], [towards])


def test_all_planes_stand_as_the_axes_are_rolled() -> None:
    viewer = ViewerModel()
    patient_view(viewer)
    viewer.add_layer(layer_of(nifti_affine((2, 0, 1), (1, -1, 1))))
    for letters in (*PLANES.values(), "APRL"):
        assert shown(viewer) == letters
        viewer.dims.roll()
    viewer.layers.clear()
    viewer.dims.order = (0, 1, 2)
    series = layer_of(nifti_affine((0, 1, 2), (1, 1, 1)))
    viewer.add_layer(Image(np.zeros((3, *SIZE[::-1])), scale=(1, *series.scale), metadata=series.metadata))
    for letters in (*PLANES.values(), "APRL"):
        assert shown(viewer) == letters
        viewer.dims.roll()


@pytest.mark.parametrize("frames", [1, 3])
def test_planes_are_rolled_without_time_where_napari_leaves_it_out(frames: int) -> None:
    viewer = ViewerModel()
    patient_view(viewer)
    series = layer_of(nifti_affine((0, 1, 2), (1, 1, 1)))
    viewer.add_layer(Image(np.zeros((frames, *SIZE[::-1])), scale=(1, *series.scale), metadata=series.metadata))
    viewer.dims.rollable = (False, True, True, True)  # as a person unticks it
    for letters in (*PLANES.values(), *PLANES.values()):
        assert shown(viewer) == letters
        viewer.dims.roll()


def test_order_of_axes() -> None:
    planes = [(0, 1, 2, 3), (0, 3, 1, 2), (0, 2, 1, 3), (0, 1, 2, 3)]  # of a time series
    for before, after in itertools.pairwise(planes):
        assert standing_order((before[-1], *before[:-1]), before) == after
    assert standing_order((1, 2, 0), (0, 1, 2)) == (1, 0, 2)  # chosen at once
    assert standing_order((0, 2, 1), (0, 1, 2)) == (0, 2, 1)  # transposed
    assert standing_order((1, 0, 3, 2), (0, 1, 2, 3)) == (1, 0, 3, 2)
    for order in ((3, 2, 0, 1), (3, 1, 0, 2)):  # time in the plane
        assert standing_order(order, (0, 1, 2, 3)) == order


def test_no_view_is_a_mirror_image() -> None:
    for order in itertools.permutations(range(3)):
        signs = [1 if standing_orientation(order, 3)[i] == ("towards", "up", "right")[i] else -1 for i in range(3)]
        axes = np.zeros((3, 3))  # columns: superior, anterior, right on the screen (right, up, towards the person)
        for place, axis in enumerate(order):
            axes[2 - place, axis] = signs[place]
        superior, anterior, right = axes.T
        assert np.array_equal(np.cross(right, anterior), superior)


def test_in_3d_the_patient_is_seen_from_the_front_and_letters_follow_the_camera() -> None:
    viewer = ViewerModel()
    patient_view(viewer)
    viewer.add_layer(layer_of(nifti_affine((0, 1, 2), (-1, -1, 1))))
    viewer.dims.ndisplay = 3
    assert shown(viewer) == "SIRL"
    camera = viewer.scene.camera
    camera.set_view_direction((0, 0, -1), (1, 0, 0))  # from the patient's right
    assert shown(viewer) == "SIPA"  # whose face is at the right
    camera.angles = (20, 50, 110)
    assert shown(viewer) == ""
    viewer.reset_view()
    assert shown(viewer) == "SIRL"


def test_in_3d_a_picture_is_not_turned_as_the_patient_before() -> None:
    viewer = ViewerModel()
    patient_view(viewer)
    cells = viewer.add_layer(layer_of(np.eye(4), "image"))
    scan = viewer.add_layer(layer_of(nifti_affine((0, 1, 2), (1, 1, 1))))
    viewer.dims.ndisplay = 3
    camera = viewer.scene.camera
    front = tuple(camera.angles)
    assert any(front)
    viewer.layers.selection.active = cells
    assert (orientation(viewer), tuple(camera.angles)) == (DEFAULT_ORIENTATION, (0, 0, 0))
    viewer.layers.selection.active = scan
    assert tuple(camera.angles) == front
    camera.angles = (20, 50, 110)  # a person turns it
    viewer.layers.selection.active = cells
    assert tuple(camera.angles) == pytest.approx((20, 50, 110))


def test_pictures_stand_as_napari_shows_them_and_what_is_selected_decides(
    tmp_path: Path, open_layer: OpenLayer
) -> None:
    tifffile.imwrite(tmp_path / "cells.tif", np.zeros((30, 40), np.uint8))
    viewer = ViewerModel()
    patient_view(viewer)
    picture = viewer.add_layer(open_layer(tmp_path / "cells.tif"))
    assert (orientation(viewer), shown(viewer)) == (DEFAULT_ORIENTATION, "")
    scan = viewer.add_layer(layer_of(nifti_affine((0, 1, 2), (1, 1, 1))))
    assert (orientation(viewer), shown(viewer)) == (("away", "up", "left"), "APRL")
    viewer.add_layer(Image(np.zeros(SIZE)))  # nothing is known of it: what a person computed from the scan
    assert (orientation(viewer), shown(viewer)) == (("away", "up", "left"), "APRL")
    viewer.layers.selection.active = picture
    assert (orientation(viewer), shown(viewer)) == (DEFAULT_ORIENTATION, "")
    patient_view(viewer).look_at(scan)  # chosen in Segment
    assert shown(viewer) == "APRL"
    viewer.layers.selection.active = scan
    viewer.layers.remove(scan)
    assert (orientation(viewer), shown(viewer)) == (DEFAULT_ORIENTATION, "")


def test_an_orientation_of_the_users_own_stays() -> None:
    viewer = ViewerModel()
    patient_view(viewer)
    scan = viewer.add_layer(layer_of(nifti_affine((0, 1, 2), (1, 1, 1))))
    viewer.scene.camera.orientation2d = ("up", "right")
    own = orientation(viewer)
    assert shown(viewer) == "APLR"  # letters tell the truth of any
    viewer.dims.roll()
    viewer.layers.remove(scan)
    viewer.add_layer(scan)
    assert orientation(viewer) == own
    other = ViewerModel()
    other.scene.camera.orientation2d = ("down", "left")  # also where it was set before
    patient_view(other)
    other.add_layer(layer_of(nifti_affine((0, 1, 2), (1, 1, 1))))
    assert (orientation(other)[1:], shown(other)) == (("down", "left"), "PARL")


def test_a_transposed_plane_stays_transposed() -> None:
    viewer = ViewerModel()
    patient_view(viewer)
    viewer.add_layer(layer_of(nifti_affine((0, 1, 2), (1, 1, 1))))
    viewer.dims.transpose()
    assert (viewer.dims.order, shown(viewer)) == ((0, 2, 1), "RLAP")


def test_time_has_no_letter_and_layers_are_not_changed(tmp_path: Path, open_layer: OpenLayer) -> None:
    nib.save(nib.Nifti1Image(np.zeros((*SIZE, 3), np.int16), nifti_affine((0, 1, 2), (-1, 1, 1))), tmp_path / "t.nii")
    before, layer = open_layer(tmp_path / "t.nii"), open_layer(tmp_path / "t.nii")
    viewer = ViewerModel()
    patient_view(viewer)
    viewer.add_layer(layer)
    assert shown(viewer) == "APRL"
    assert edge_letters((0, 3), 4, ("away", "up", "left")) == {"top": "", "bottom": "", "left": "R", "right": "L"}
    assert np.array_equal(layer.affine.affine_matrix, before.affine.affine_matrix)
    assert np.array_equal(layer.scale, before.scale)


def test_a_file_that_knows_no_orientation_is_no_patients(tmp_path: Path, open_layer: OpenLayer) -> None:
    image = nib.Nifti1Image(np.zeros(SIZE, np.int16), np.eye(4))
    image.set_sform(None, 0)
    image.set_qform(None, 0)
    nib.save(image, tmp_path / "unknown.nii")
    assert not is_patient(open_layer(tmp_path / "unknown.nii"))
    assert not is_patient(layer_of(np.eye(4), "image"))
    assert not is_patient(Labels(np.zeros(SIZE, np.uint8)))


def test_letters_can_be_switched_off() -> None:
    viewer = ViewerModel()
    patient_view(viewer)
    viewer.add_layer(layer_of(nifti_affine((0, 1, 2), (1, 1, 1))))
    LOOKS.choose(letters=False)
    try:
        assert shown(viewer) == ""
    finally:
        LOOKS.choose(letters=True)
    assert shown(viewer) == "APRL"
    assert set(LETTERS) == {-3, -2, -1}


def test_scans_stand_in_a_window_when_files_are_opened(display: None, make_napari_viewer: Any, tmp_path: Path) -> None:
    """What lies at the patient's left, front and top is seen there, of two scans that are stored in other ways."""
    viewer, later = make_napari_viewer(show=True), make_napari_viewer()
    assert later is napari.current_viewer()  # a file may be dropped on the other window
    for name, order, signs, planes in (("las", (0, 1, 2), (-1, 1, 1), 3), ("psr", (1, 2, 0), (-1, 1, 1), 1)):
        affine = nifti_affine(order, signs)
        data = np.zeros((20, 20, 20), np.int16)
        data[tuple(slice(14, None) if affine[r, a] * (-1, 1, 1)[r] > 0 else slice(6) for a, r in enumerate(order))] = 9
        nib.save(nib.Nifti1Image(data, affine), tmp_path / f"{name}.nii")
        viewer.layers.clear()
        layer = viewer.open(str(tmp_path / f"{name}.nii"), plugin="napari-prosma")[0]
        there = layer.data_to_world(np.argwhere(layer.data == 9).mean(axis=0))
        for letters, right in list(zip(PLANES.values(), (True, False, True), strict=True))[:planes]:
            slider = viewer.dims.order[0]
            viewer.dims.set_point(slider, there[slider])
            viewer.reset_view()
            assert shown(viewer) == letters
            light = viewer.screenshot(canvas_only=True, flash=False)[40:-40, 40:-40, 1] > 200  # without the letters
            rows, columns = np.nonzero(light)
            assert (rows.mean() < light.shape[0] / 2, columns.mean() > light.shape[1] / 2) == (True, right)
            viewer.dims.roll()
        viewer.dims.order = (0, 1, 2)


def test_pictures_that_napari_opened_are_pictures(tmp_path: Path) -> None:
    """Its layers name their file as a text."""
    PluginManager.instance().discover()  # as the first window does
    for name in ("gray.png", "photo.webp"):
        PIL.Image.fromarray(np.zeros((6, 7), np.uint8)).save(tmp_path / name)
        viewer = ViewerModel()
        patient_view(viewer)
        viewer.add_layer(layer_of(nifti_affine((2, 0, 1), (1, -1, 1))))
        (picture,) = viewer.open(str(tmp_path / name), plugin="napari")
        patient_view(viewer).look_at(picture)
        assert viewer.scene.camera.orientation == DEFAULT_ORIENTATION
