"""Files opened in napari: geometry, axes, units, and label maps that come back with their classes."""

from __future__ import annotations

import json
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
import zarr
from napari.components import ViewerModel
from napari.layers import Layer
from PIL import Image
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication, QProgressDialog
from tests.servers import serving

from napari_prosma import _reader
from napari_prosma._open import NOTHING, read_for_window
from napari_prosma._reader import get_reader, read_paths
from napari_prosma.jobs.opening import QUICK_S
from napari_prosma.layers.patient_view import patient_view
from napari_prosma.layers.results import file_notes
from napari_prosma.layers.scan import levels, read
from napari_prosma.layers.source import Source, source_of
from napari_prosma.layers.stored import FileArray
from napari_prosma.scan.selection import kind_of
from prosma_core.config.model import ClassInfo
from prosma_core.data.geometry import array_spec
from prosma_core.errors import FileFormatError
from prosma_core.io import remote_objects
from prosma_core.io.class_notes import noted_classes
from prosma_core.io.images import read_image, write_image, write_labels
from prosma_core.io.names import FORMATS, WRITTEN_SUFFIXES
from prosma_core.io.zarr_images import open_zarr

OpenLayer = Callable[[Path | str], Any]

STRAIGHT = np.array([[0, 0, 2.5, -10], [-0.8, 0, 0, 20], [0, -0.9, 0, 5], [0, 0, 0, 1.0]])
TURNED = np.array([[0, 0, 2.5, -10], [-0.8, 0.1, 0, 20], [0.1, -0.9, 0, 5], [0, 0, 0, 1.0]])


def save_nifti(path: Path, shape: tuple[int, ...], affine: np.ndarray) -> Path:
    values = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    nib.save(nib.Nifti1Image(values, affine), path)
    return path


def voxel_at(layer: Any, affine: np.ndarray, index: tuple[int, int, int]) -> None:
    """Compare world position and value of voxel (i, j, k) of the file with the layer's."""
    world = (affine @ [*index, 1])[2::-1]
    there = layer.world_to_data(world)
    np.testing.assert_allclose(there, np.round(there), atol=1e-6)
    np.testing.assert_allclose(layer.data_to_world(there), world, atol=1e-9)


@pytest.mark.parametrize("affine", [np.diag([0.5, 0.7, 3, 1]), np.diag([-0.5, -0.7, 3, 1]), STRAIGHT])
def test_a_nifti_is_drawn_in_its_world_with_z_y_x_for_superior_anterior_right(
    affine: np.ndarray, tmp_path: Path, open_layer: OpenLayer
) -> None:
    path = save_nifti(tmp_path / "scan.nii.gz", (4, 5, 6), affine)
    layer = open_layer(path)
    values = np.asarray(nib.load(path).dataobj)
    for index in ((0, 0, 0), (3, 4, 5), (1, 2, 3)):
        voxel_at(layer, affine, index)
        there = tuple(np.round(layer.world_to_data((affine @ [*index, 1])[2::-1])).astype(int))
        assert layer.data[there] == values[index]
    assert [str(unit) for unit in layer.units] == ["millimeter"] * 3
    assert sorted(layer.axis_labels) == ["x", "y", "z"]
    assert layer.name == "scan"


def test_each_axis_is_shown_along_the_patients_axis_it_is_closest_to(tmp_path: Path, open_layer: OpenLayer) -> None:
    layer = open_layer(save_nifti(tmp_path / "scan.nii", (4, 5, 6), TURNED))
    assert layer.axis_labels == ("y", "x", "z")  # superior, anterior, right of a file whose axes are A, S, R
    assert layer.data.shape == (5, 4, 6)
    viewer = ViewerModel()
    viewer.add_layer(layer)
    assert abs(np.linalg.det(layer.affine.affine_matrix[1:3, 1:3])) > 0.1  # the two displayed axes are not flat


def test_an_axis_aligned_nifti_needs_no_affine(tmp_path: Path, open_layer: OpenLayer) -> None:
    affine = np.diag([0.5, 0.75, 3, 1])
    affine[:3, 3] = (10, 20, 30)
    layer = open_layer(save_nifti(tmp_path / "scan.nii", (4, 5, 6), affine))
    np.testing.assert_array_equal(layer.affine.affine_matrix, np.eye(4))
    np.testing.assert_array_equal(layer.scale, (3, 0.75, 0.5))
    np.testing.assert_array_equal(layer.translate, (30, 20, 10))


def test_a_time_series_has_seconds_on_its_first_axis(tmp_path: Path, open_layer: OpenLayer) -> None:
    path = tmp_path / "series.nii.gz"
    image = nib.Nifti1Image(np.zeros((4, 5, 6, 3), np.int16), np.diag([2, 2, 4, 1]))
    image.header.set_xyzt_units("mm", "msec")
    image.header.set_zooms((2, 2, 4, 1500))
    nib.save(image, path)
    layer = open_layer(path)
    assert layer.axis_labels == ("t", "z", "y", "x")
    assert [str(unit) for unit in layer.units] == ["millisecond", *["millimeter"] * 3]
    np.testing.assert_array_equal(layer.scale, (1500, 4, 2, 2))
    assert read(layer).spec.spacing == (4, 2, 2)


def test_units_survive_beside_each_other(tmp_path: Path, open_layer: OpenLayer) -> None:
    image = nib.Nifti1Image(np.zeros((4, 5, 6, 3), np.int16), np.diag([2, 2, 4, 1]))
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, tmp_path / "series.nii")
    viewer = ViewerModel()
    viewer.add_layer(open_layer(tmp_path / "series.nii"))
    viewer.add_layer(open_layer(save_nifti(tmp_path / "a.nii", (4, 5, 6), np.diag([1, 1, 1, 1]))))
    assert [str(unit) for unit in viewer.layers.units] == ["second", *["millimeter"] * 3]


def test_channels_are_one_layer_with_a_slider(tmp_path: Path, open_layer: OpenLayer) -> None:
    path = save_nifti(tmp_path / "c.nii", (4, 5, 6, 1, 2), np.eye(4))
    layer = open_layer(path)
    assert layer.axis_labels == ("c", "z", "y", "x")
    assert layer.data.shape == (2, 6, 5, 4)


def test_voxels_of_color_are_shown_in_color(tmp_path: Path, open_layer: OpenLayer) -> None:
    voxels = np.zeros((4, 5, 6), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    voxels["G"][1, 2, 3] = 200
    nib.save(nib.Nifti1Image(voxels, np.diag([1, 2, 3, 1])), tmp_path / "rgb.nii")
    layer = open_layer(tmp_path / "rgb.nii")
    assert layer.rgb
    assert layer.data[3, 2, 1].tolist() == [0, 200, 0]
    np.testing.assert_array_equal(layer.scale, (3, 2, 1))
    scan = read(layer)
    assert scan.spec.header is not None
    np.testing.assert_array_equal(scan.load(), read_image(tmp_path / "rgb.nii").data)


def test_a_scan_of_small_integers_opens_as_an_image(tmp_path: Path, open_layer: OpenLayer) -> None:
    path = tmp_path / "mask.nii.gz"
    nib.save(nib.Nifti1Image(np.ones((4, 5, 6), np.uint8), TURNED), path)
    viewer = ViewerModel()
    image = viewer.add_layer(open_layer(path))
    assert type(image).__name__ == "Image"
    data, state, _ = image.as_layer_data_tuple()  # what "Convert to Labels" hands on
    labels = viewer.add_labels(data, **{k: state[k] for k in ("scale", "translate", "affine", "units", "metadata")})
    assert read(labels).spec.affine is read(image).spec.affine


def test_a_label_map_of_ours_opens_with_names_and_colors(
    tmp_path: Path, open_layer: OpenLayer, classes: tuple[ClassInfo, ...]
) -> None:
    source = read_image(save_nifti(tmp_path / "scan.nii", (4, 5, 6), TURNED))
    labels = np.zeros(source.spec.shape, np.uint8)
    labels[1, 2, 3] = 5
    made = {"program": "prosma 1", "model": "m"}
    for name in ("r.nii.gz", "r.zarr", "r.ome.tif", "r.nrrd", "r.mha"):
        write_labels(tmp_path / name, labels, source.spec, provenance=file_notes(made, classes, "labels"))
        layer = open_layer(tmp_path / name)
        assert type(layer).__name__ == "Labels", name
        assert layer.features["name"].tolist() == ["background", "organ", "lesion"]
        assert layer.metadata["prosma"]["provenance"] == made
        assert layer.metadata["prosma"]["classes"] == classes
        np.testing.assert_allclose(layer.get_color(5), (0, 1, 0, 1))
        np.testing.assert_array_equal(read(layer).load(), labels)


@pytest.mark.parametrize("suffix", [s for s in WRITTEN_SUFFIXES if FORMATS[s] != "raster" and s != ".seg.nrrd"])
def test_every_format_opens_with_the_geometry_that_the_command_line_reads(
    suffix: str, tmp_path: Path, open_layer: OpenLayer, rng: np.random.Generator
) -> None:
    spec = array_spec((2, 4, 5, 6), "tzyx", (3.0, 0.5, 0.7), "um")
    write_image(tmp_path / f"a{suffix}", rng.integers(0, 99, spec.shape).astype(np.uint16), spec)
    scan, layer = read_image(tmp_path / f"a{suffix}"), open_layer(tmp_path / f"a{suffix}")
    found = read(layer)
    assert repr(found.spec) == repr(scan.spec)
    np.testing.assert_array_equal(found.load(), scan.data)
    assert found.note == ""
    assert found.spec.spacing[0] == pytest.approx(4.285714 * found.spec.spacing[2], rel=1e-4)


def test_segments_of_3d_slicer_open_as_labels_with_their_names(tmp_path: Path, open_layer: OpenLayer) -> None:
    data = np.zeros((4, 5, 6), np.uint8)
    data[1, 2, 3], data[2, 2, 2] = 1, 2
    header = (
        "NRRD0005\ntype: unsigned char\ndimension: 3\nspace: left-posterior-superior\nsizes: 6 5 4\n"
        "space directions: (1,0,0) (0,1,0) (0,0,3)\nspace origin: (0,0,0)\nencoding: raw\n"
    )
    for number, name in enumerate(("liver", "tumor")):
        header += (
            f"Segment{number}_ID:=s{number}\nSegment{number}_Name:={name}\nSegment{number}_LabelValue:={number + 1}\n"
        )
        header += f"Segment{number}_Layer:=0\n"
    (tmp_path / "a.seg.nrrd").write_bytes(header.encode() + b"\n" + data.tobytes())
    layer = open_layer(tmp_path / "a.seg.nrrd")
    assert type(layer).__name__ == "Labels"
    assert layer.features["name"].tolist() == ["background", "liver", "tumor"]
    assert read(layer).spec.spacing == (3, 1, 1)


@pytest.mark.parametrize("text", ["[" * 100_000, "[NaN]", "{", "7", '[{"value": 1}]'])
def test_class_names_in_notes_that_cannot_be_used_are_left_out(text: str) -> None:
    assert noted_classes({"classes": text}) == ()


def test_pictures_keep_their_colors_and_masks_their_values(tmp_path: Path, open_layer: OpenLayer) -> None:
    color = np.random.default_rng(0).integers(0, 255, (6, 7, 3), dtype=np.uint8)
    for name in ("a.png", "a.tif", "a.jpg"):
        Image.fromarray(color).save(tmp_path / name)
        layer = open_layer(tmp_path / name)
        assert layer.rgb
        assert layer.data.shape == (6, 7, 3)
    mask = np.eye(6, 7, dtype=np.uint8)
    notes = {"program": "prosma 1", "model": "m"}
    write_labels(tmp_path / "a_mask.png", mask, array_spec((6, 7), "yx"), provenance=notes)
    layer = open_layer(tmp_path / "a_mask.png")
    assert type(layer).__name__ == "Labels"
    np.testing.assert_array_equal(layer.data, mask)


def test_a_result_of_the_command_line_opens_as_labels_and_its_probabilities_as_an_image(
    tmp_path: Path, open_layer: OpenLayer
) -> None:
    spec = array_spec((4, 5, 6), "zyx")
    notes = {"program": "prosma 1", "model": "m"}
    write_labels(tmp_path / "r.nii", np.ones(spec.shape, np.uint8), spec, provenance=notes)
    write_image(tmp_path / "p.nii", np.ones(spec.shape, np.float32), spec, provenance=notes)
    assert type(open_layer(tmp_path / "r.nii")).__name__ == "Labels"
    assert type(open_layer(tmp_path / "p.nii")).__name__ == "Image"


@pytest.mark.parametrize("content", [b"not json", b'{"program": "p", "kind": "labels", "classes": "[{}]"}', b"[1]"])
def test_damaged_notes_do_no_harm(content: bytes, tmp_path: Path, open_layer: OpenLayer) -> None:
    image = nib.Nifti1Image(np.ones((4, 5, 6), np.uint8), np.eye(4))
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", content))
    nib.save(image, tmp_path / "r.nii.gz")
    assert open_layer(tmp_path / "r.nii.gz").data.shape == (6, 5, 4)


def test_a_zarr_is_opened_without_reading_it(tmp_path: Path, open_layer: OpenLayer) -> None:
    spec = array_spec((4, 50, 60), "zyx", (3, 1, 2), "um")
    write_image(tmp_path / "scan.zarr", np.zeros(spec.shape, np.uint16), spec)
    layer = open_layer(tmp_path / "scan.zarr")
    assert isinstance(layer.data, zarr.Array)
    np.testing.assert_array_equal(layer.scale, (3, 1, 2))
    assert [str(unit) for unit in layer.units] == ["micrometer"] * 3
    scan = read(layer)
    found = source_of(scan)
    assert found is not None
    assert read_image(found.path, axes=found.axes).data.shape == scan.spec.shape


@pytest.mark.parametrize("name", ["scan.ome.zarr", "scan.nii.gz", "scan.ozx"])
def test_a_url_is_opened(name: str, tmp_path: Path, open_layer: OpenLayer) -> None:
    spec = array_spec((4, 50, 60), "zyx", (3, 1, 2), "mm")
    voxels = np.arange(4 * 50 * 60, dtype=np.uint16).reshape(spec.shape)
    for each in ("scan.ome.zarr", "scan.nii.gz"):
        write_image(tmp_path / each, voxels, spec)
    with zipfile.ZipFile(tmp_path / "scan.ozx", "w") as packed:
        for file in (tmp_path / "scan.ome.zarr").rglob("*"):
            packed.write(file, file.relative_to(tmp_path / "scan.ome.zarr"))
    with serving(tmp_path) as server:
        layer = open_layer(f"{server.url}/{name}")
        scan = read(layer)
        assert (layer.name, str(scan.path)) == ("scan", f"{server.url}/{name}")
        np.testing.assert_array_equal(layer.scale, (3, 1, 2))
        np.testing.assert_array_equal(scan.load(), voxels)
        found = source_of(scan)
        assert found is None if name.endswith(".gz") else found is not None
        if found is not None:
            np.testing.assert_array_equal(read_image(found.path, axes=found.axes).data, voxels)
    assert open_layer((tmp_path / "scan.nii.gz").as_uri()).data.shape == spec.shape
    assert source_of(read(open_layer(tmp_path / "scan.ozx"))) == Source(tmp_path / "scan.ozx", "zyx")


def test_what_a_url_does_not_lead_to_is_named(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        for name in ("none.zarr", "none.nii"):
            with pytest.raises(FileFormatError, match=f"{server.url}/{name} cannot be read: the server has no"):
                read_paths(f"{server.url}/{name}")


SLOW = {"scan.ome.zarr": (".zarray", "0"), "scan.nii.gz": (".nii.gz",)}
"""Names of files at a URL that come late; of the zarr those of an array and of its only chunk."""


@pytest.fixture
def ticks(qapp: Any) -> Iterator[list[float]]:
    """Return the times at which the event loop of the window ran."""
    found: list[float] = []
    timer = QTimer()
    timer.timeout.connect(lambda: found.append(time.monotonic()))
    timer.start(20)
    yield found
    timer.stop()


def dialogs() -> list[QProgressDialog]:
    return [each for each in QApplication.topLevelWidgets() if isinstance(each, QProgressDialog) and each.isVisible()]


@pytest.mark.parametrize("name", SLOW)
def test_a_slow_server_leaves_the_window_alive(
    name: str, tmp_path: Path, open_layer: OpenLayer, ticks: list[float]
) -> None:
    spec = array_spec((4, 50, 60), "zyx", (3, 1, 2), "mm")
    voxels = np.arange(4 * 50 * 60, dtype=np.uint16).reshape(spec.shape)
    write_image(tmp_path / name, voxels, spec)
    texts: list[str] = []
    look = QTimer()
    look.timeout.connect(lambda: texts.extend(each.labelText() for each in dialogs()))
    look.start(100)
    with serving(tmp_path) as server:
        server.delay, server.delayed = 1.5, SLOW[name]
        began = time.monotonic()
        layer = open_layer(f"{server.url}/{name}")
        QApplication.processEvents()
        while_it_opened = [t for t in ticks if t - began > QUICK_S]
        look.stop()
        server.delay = 0
        np.testing.assert_array_equal(read(layer).load(), voxels)
    assert len(while_it_opened) > 20
    assert max(np.diff(while_it_opened)) < 1
    assert any(f"Opening {server.url}/{name}" in text for text in texts)
    assert not dialogs()


SHOWN = {
    "volume": (((40, 50, 60), (8, 32, 32)),),
    "picture": (((50, 60), (32, 32)),),
    "levels": (((40, 200, 240), (8, 64, 64)), ((40, 100, 120), (8, 64, 64)), ((40, 50, 60), (8, 64, 64))),
}


@pytest.mark.parametrize("case", SHOWN)
def test_what_is_shown_first_of_a_zarr_on_a_server_is_there_before_its_layer_and_not_asked_for_again(
    case: str, tmp_path: Path
) -> None:
    group = zarr.create_group(tmp_path / "scan.zarr", zarr_format=2)
    axes = [{"name": letter, "type": "space"} for letter in "zyx"[-len(SHOWN[case][0][0]) :]]
    paths = []
    for number, (shape, chunks) in enumerate(SHOWN[case]):
        array = group.create_array(str(number), shape=shape, chunks=chunks, dtype="u2")
        array[...] = np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)
        scale = [float(a / b) for a, b in zip(SHOWN[case][0][0], shape, strict=True)]
        paths.append({"path": str(number), "coordinateTransformations": [{"type": "scale", "scale": scale}]})
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": paths}]
    with serving(tmp_path) as server:
        (layer,) = read_for_window(f"{server.url}/scan.zarr")
        server.status = 503
        shown = ViewerModel().add_layer(Layer.create(*layer))
        assert shown.multiscale == (case == "levels")
        for level in range(len(SHOWN[case])):
            wanted = zarr.open_group(tmp_path / "scan.zarr")[str(level)][...]
            middle = tuple((size - 1) // 2 for size in wanted.shape[:-2])
            found = (shown.data[level] if shown.multiscale else shown.data)[middle]
            np.testing.assert_array_equal(found, wanted[middle])


@pytest.mark.parametrize("name", SLOW)
def test_a_server_that_does_not_answer_can_be_left(name: str, tmp_path: Path, ticks: list[float]) -> None:
    write_image(tmp_path / name, np.zeros((4, 50, 60), np.uint16), array_spec((4, 50, 60), "zyx"))
    QTimer.singleShot(1000, lambda: [each.cancel() for each in dialogs()])
    with serving(tmp_path) as server:
        server.delay, server.delayed = 8.0, SLOW[name]
        began = time.monotonic()
        assert read_for_window(f"{server.url}/{name}") == NOTHING
        assert time.monotonic() - began < 5
    assert len(ticks) > 20
    assert not dialogs()


@pytest.mark.parametrize("name", SLOW)
def test_a_dead_server_is_named_soon(
    name: str, tmp_path: Path, ticks: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_objects, "WINDOW_S", 2)
    write_image(tmp_path / name, np.zeros((4, 50, 60), np.uint16), array_spec((4, 50, 60), "zyx"))
    with serving(tmp_path) as server:
        server.stall = SLOW[name][0]
        began = time.monotonic()
        with pytest.raises(FileFormatError, match=r"no byte came for 2 s\. The server is slow or does not answer"):
            read_for_window(f"{server.url}/{name}")
        assert time.monotonic() - began < 10
    assert max(np.diff(ticks)) < 1


def test_a_zarr_of_several_levels_is_a_multiscale_layer(tmp_path: Path, open_layer: OpenLayer) -> None:
    group = zarr.create_group(tmp_path / "scan.zarr", zarr_format=2)
    paths = []
    for level in range(3):
        size = 64 >> level
        group.create_array(str(level), shape=(2, size, size), dtype="u1", chunks=(1, 16, 16))[:] = level + 1
        scale = {"type": "scale", "scale": [1, 0.5 * 2**level, 0.5 * 2**level]}
        paths.append({"path": str(level), "coordinateTransformations": [scale]})
    axes = [{"name": name, "type": kind} for name, kind in (("c", "channel"), ("y", "space"), ("x", "space"))]
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": paths}]
    layer = open_layer(tmp_path / "scan.zarr")
    assert levels(layer) == [(2, 64, 64), (2, 32, 32), (2, 16, 16)]
    coarse = read(layer, level=2)
    assert (coarse.spec.axes, coarse.spec.spacing) == ("cyx", (2, 2))
    assert coarse.load().max() == 3
    assert read_image(tmp_path / "scan.zarr").data.max() == 1  # the command line reads the finest
    paths[1]["path"] = "../elsewhere"
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": paths}]
    with pytest.raises(FileFormatError, match="outside"):
        open_zarr(tmp_path / "scan.zarr")


def test_members_of_a_zarr_open_with_their_geometry_and_labels_as_labels(tmp_path: Path, open_layer: OpenLayer) -> None:
    root = zarr.create_group(tmp_path / "exp.zarr", zarr_format=2)
    for name in ("0", "1", "0/labels/cells"):
        group = root.create_group(name)
        group.create_array("0", shape=(4, 5, 6), dtype="u1")[:] = 1
        scale = {"type": "scale", "scale": [3, 1, 1]}
        axes = [{"name": name, "type": "space", "unit": "millimeter"} for name in "zyx"]
        group.attrs["multiscales"] = [{"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": [scale]}]}]
    for member, kind in (("0", "Image"), ("0/labels/cells", "Labels")):
        layer = open_layer(tmp_path / "exp.zarr" / member)
        assert type(layer).__name__ == kind
        assert tuple(layer.scale) == (3, 1, 1)


def test_an_array_with_channels_last_on_disk_is_shown_as_it_is(tmp_path: Path, open_layer: OpenLayer) -> None:
    array = zarr.create_array(tmp_path / "a.zarr", shape=(2, 40, 50, 3), dtype="u1", zarr_format=2)
    array.attrs["axes"] = ["z", "y", "x", "c"]
    layer = open_layer(tmp_path / "a.zarr")
    assert layer.axis_labels == ("z", "y", "x", "c")
    scan = read(layer)
    assert scan.spec.shape == (3, 2, 40, 50)
    array.attrs["channel_names"] = ["red", "green", "blue"]
    assert open_layer(tmp_path / "a.zarr").rgb


def test_a_run_folder_says_what_it_is(tmp_path: Path) -> None:
    run = tmp_path / "model.prosma"
    run.mkdir()
    reader = get_reader(str(run))
    assert reader is not None
    with pytest.raises(FileFormatError, match=r"training run.*model\.safetensors"):
        reader(str(run))
    (run / "best.safetensors").touch()
    with pytest.raises(FileFormatError, match=r"model\.prosma.best\.safetensors"):
        reader(str(run))
    (tmp_path / "model.safetensors").touch()  # of a run that finished, be it by the best weights or by the last
    with pytest.raises(FileFormatError, match=r": \S*model\.safetensors"):
        reader(str(run))
    spec = array_spec((4, 5), "yx")
    write_image(run / "preview.png", np.zeros((4, 5), np.uint8), spec)
    ((data, arguments, kind),) = reader(str(run))
    assert (data.shape, arguments["name"], kind) == ((4, 5), "preview", "image")


def test_what_is_not_ours_is_left_to_others(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    assert get_reader(str(tmp_path / "folder")) is None
    assert get_reader(str(tmp_path / "a.csv")) is None
    assert get_reader([str(tmp_path / "a.nii"), str(tmp_path / "a.csv")]) is None
    assert get_reader([]) is None


def test_the_modality_of_a_dicom_is_known_without_its_files(tmp_path: Path, open_layer: OpenLayer) -> None:
    file = tmp_path / "scan.dcm"
    file.write_bytes((Path(pydicom.__file__).parent / "data" / "test_files" / "MR_small.dcm").read_bytes())
    layer = open_layer(file)
    file.unlink()
    assert kind_of(read(layer)).modality == "MR"
    layer.scale = [2 * step for step in layer.scale]
    assert kind_of(read(layer)).modality == "MR"


def test_a_dicom_segmentation_opens_as_labels_with_its_names(open_layer: OpenLayer) -> None:
    layer = open_layer(Path(pydicom.__file__).parent / "data" / "test_files" / "liver_1frame.dcm")
    assert type(layer).__name__ == "Labels"
    assert [c.name for c in layer.metadata["prosma"]["classes"]] == ["background", "Liver"]
    assert read(layer).spec.world == "ras"


def test_several_files_become_several_layers(tmp_path: Path) -> None:
    paths = [str(save_nifti(tmp_path / f"{n}.nii", (4, 5, 6), np.eye(4))) for n in "ab"]
    reader = get_reader(paths)
    assert reader is not None
    assert [arguments["name"] for _, arguments, _ in reader(paths)] == ["a", "b"]


def test_a_damaged_file_is_refused_in_words(tmp_path: Path, open_layer: OpenLayer) -> None:
    path = save_nifti(tmp_path / "scan.nii", (4, 5, 6), np.eye(4))
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(FileFormatError, match="bytes"):
        open_layer(path)


def test_real_scans_open_where_their_file_says_along_their_own_axes(data_root: Path, open_layer: OpenLayer) -> None:
    found = sorted((data_root / "ui_samples").rglob("*.nii*"))
    assert len(found) > 20
    for path in found:
        layer, affine = open_layer(path), nib.load(path).affine
        turn = layer.metadata["prosma"].get("turn", np.eye(3))
        last = tuple(n - 1 for n in nib.load(path).shape[:3])
        for index in ((0, 0, 0), last):
            world = turn @ (affine @ [*index, 1])[2::-1]
            there = layer.world_to_data([0] * (layer.ndim - 3) + world.tolist())[-3:]
            np.testing.assert_allclose(there, np.round(there), atol=1e-5, err_msg=str(path))
        source = layer.metadata["prosma"]["spec"]
        assert read(layer).spec.header is source.header, path
        assert read(layer).spec.affine is source.affine, path
        np.testing.assert_array_equal(read(layer).load(), read_image(path).data)


def test_a_dicom_series_opens_from_its_folder(data_root: Path, open_layer: OpenLayer) -> None:
    pytest.importorskip("SimpleITK", reason="DICOM needs the extra 'medical'")
    layer = open_layer(data_root / "ui_samples" / "dicom_hippocrop")
    spec = read(layer).spec
    assert (spec.format, spec.world, spec.unit) == ("dicom", "ras", "mm")
    np.testing.assert_allclose((spec.affine @ (1, 2, 3, 1))[:3], layer.data_to_world((1, 2, 3)))


def test_a_scan_opens_in_a_window_of_values_and_the_sliders_reach_all_of_them(
    tmp_path: Path, open_layer: OpenLayer
) -> None:
    values = np.linspace(-1000, 1500, 8000).round().astype(np.int16).reshape(20, 20, 20)
    nib.save(nib.Nifti1Image(values, np.diag([1, 1, 2, 1])), tmp_path / "ct.nii")
    layer = open_layer(tmp_path / "ct.nii")
    assert layer.contrast_limits == [-160, 240]
    viewer = ViewerModel()
    patient_view(viewer)
    viewer.add_layer(layer)
    assert (layer.contrast_limits, layer.contrast_limits_range) == ([-160, 240], [-1000, 1500])
    np.testing.assert_array_equal(np.sort(layer.data.ravel()), np.sort(values.ravel()))
    spec = read_image(tmp_path / "ct.nii").spec
    write_labels(tmp_path / "labels.nii", (values > 0).astype(np.uint8), spec, provenance={"program": "p"})
    Image.fromarray(np.zeros((8, 9, 3), np.uint8)).save(tmp_path / "mask.png")
    for name in ("labels.nii", "mask.png"):
        ((_, arguments, _),) = read_paths(str(tmp_path / name))
        assert "contrast_limits" not in arguments


def test_labels_of_an_image_open_with_all_levels_names_and_colors(tmp_path: Path, open_layer: OpenLayer) -> None:
    spec = array_spec((2, 600, 40), "zyx", (2.0, 0.5, 0.5), "um")
    classes = [
        ClassInfo(value=0, name="background", color="#000000"),
        ClassInfo(value=7, name="nucleus", color="#00ff00"),
    ]
    labels = np.zeros(spec.shape, np.uint8)
    labels[:, 300:] = 7
    write_image(tmp_path / "scan.ome.zarr", labels, spec)
    place = tmp_path / "scan.ome.zarr" / "labels" / "nuclei"
    write_labels(place, labels, spec, provenance=file_notes({}, classes, "labels"))
    write_labels(tmp_path / "own.ome.zarr", labels, spec, provenance=file_notes({}, classes, "labels"))
    for path, count in ((place, 1), (tmp_path / "own.ome.zarr", 2)):
        layer = open_layer(path)
        assert type(layer).__name__ == "Labels"
        assert (len(layer.data) if layer.multiscale else 1) == count
        assert layer.features["name"].tolist() == ["background", "nucleus"]
        np.testing.assert_allclose(layer.get_color(7), (0, 1, 0, 1))
        np.testing.assert_allclose(layer.scale, (2, 0.5, 0.5))
    attributes = tmp_path / "own.ome.zarr" / ".zattrs"
    content = json.loads(attributes.read_text())
    del content["prosma"]
    attributes.write_text(json.dumps(content))
    layer = open_layer(tmp_path / "own.ome.zarr")  # as of another program
    assert layer.features["name"].tolist() == ["background", "nucleus"]
    np.testing.assert_allclose(layer.get_color(7), (0, 1, 0, 1))


@pytest.mark.parametrize("name", ["scan.nii", "scan.tif"])
def test_a_large_file_is_opened_without_reading_it(
    name: str, tmp_path: Path, open_layer: OpenLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, data = array_spec((7, 20, 21), "zyx", (3, 1, 2), "mm"), np.arange(7 * 20 * 21, dtype=np.uint16)
    write_image(tmp_path / name, data.reshape(spec.shape), spec)
    whole = open_layer(tmp_path / name)
    assert isinstance(whole.data, np.ndarray)
    monkeypatch.setattr(_reader, "SMALL", 0)
    monkeypatch.setattr(_reader, "IN_CORE", 1000)
    lazy = open_layer(tmp_path / name)
    assert isinstance(lazy.data, FileArray)
    np.testing.assert_array_equal(lazy.data[3], whole.data[3])
    np.testing.assert_array_equal(lazy.scale, whole.scale)
    np.testing.assert_array_equal(lazy.affine.affine_matrix, whole.affine.affine_matrix)
    specs = [read(layer).spec for layer in (lazy, whole)]
    for field in ("axes", "shape", "spacing", "unit", "world", "format"):
        assert getattr(specs[0], field) == getattr(specs[1], field)
    assert type(specs[0].header) is type(specs[1].header)
    labels = tmp_path / f"labels{name[4:]}"
    write_labels(labels, (data % 3).astype(np.uint8).reshape(spec.shape), spec, provenance={"program": "prosma 1"})
    opened = open_layer(labels)
    assert type(opened).__name__ == "Labels"
    assert isinstance(opened.data, FileArray)
