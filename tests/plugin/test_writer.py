"""Layers saved: with the exact grid of their file where they still lie on it, else where they are drawn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array as da
import napari
import nibabel as nib
import numpy as np
import pytest
import tifffile
import zarr
from napari.components import ViewerModel
from napari.layers import Image, Labels

from napari_prosma import _writer
from napari_prosma._reader import get_reader
from napari_prosma.layers import source
from napari_prosma.layers.results import editable_copy, image_layer, labels_layer
from napari_prosma.layers.scan import METADATA, LayerScan, read
from napari_prosma.layers.stored import DiskArray
from napari_prosma.segment.state import writer
from prosma_core.config.model import ClassInfo
from prosma_core.data.geometry import array_spec, reverse_affine
from prosma_core.errors import LabelError, OutputError, ProsmaError
from prosma_core.io.images import read_image, read_labels, write_image
from prosma_core.io.notes import read_notes

OpenLayer = Callable[[Path], Any]
SaveLayer = Callable[[Any, Path], list[str]]
Classes = tuple[ClassInfo, ...]

TURNED = np.array([[0, 0, 2.5, -10], [-0.8, 0.1, 0, 20], [0.1, -0.9, 0, 5], [0, 0, 0, 1.0]])


def result_of(layer: Any, classes: Classes) -> tuple[Labels, np.ndarray]:
    """A result on a layer with every class in it, and its array in canonical order."""
    scan = read(layer)
    labels = np.zeros(scan.spec.labels_spec().shape, np.uint8)
    labels.flat[::7], labels.flat[1::5] = 5, 1
    return labels_layer(scan, labels, classes, "result", {"program": "prosma 1", "model": "m"}), labels


def same_header(path: Path, source: Path) -> None:
    """Compare place and units of two NIfTI files with nibabel alone."""
    a, b = nib.load(source), nib.load(path)
    assert type(a) is type(b)
    assert np.array_equal(a.affine, b.affine), source
    for field in ("qform_code", "sform_code", "xyzt_units", "pixdim", "quatern_b", "srow_x"):
        assert np.array_equal(a.header[field], b.header[field]), (source, field)


@pytest.mark.parametrize("name", ["labels.nii.gz", "labels.nii"])
def test_labels_are_saved_with_the_exact_grid_of_their_file(
    name: str, tmp_path: Path, open_layer: OpenLayer, save_layer: SaveLayer, classes: Classes
) -> None:
    source = tmp_path / "scan.nii.gz"
    image = nib.Nifti1Image(np.zeros((4, 5, 6), np.int16), TURNED)
    image.set_qform(TURNED, "scanner", strip_shears=True)
    image.set_sform(TURNED, "mni")
    nib.save(image, source)
    layer = open_layer(source)
    result, labels = result_of(layer, classes)
    assert save_layer(result, tmp_path / name) == [str(tmp_path / name)]
    same_header(tmp_path / name, source)
    assert np.array_equal(read_labels(tmp_path / name).data, labels)
    again = open_layer(tmp_path / name)
    assert again.features["name"].tolist() == ["background", "organ", "lesion"]
    assert again.metadata["prosma"]["provenance"] == {"program": "prosma 1", "model": "m"}
    assert save_layer(again, tmp_path / "again.nii.gz")
    same_header(tmp_path / "again.nii.gz", source)


def test_a_corrected_copy_is_saved_on_the_same_grid(
    tmp_path: Path, open_layer: OpenLayer, save_layer: SaveLayer, classes: Classes
) -> None:
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 6), np.int16), TURNED), tmp_path / "scan.nii")
    result, labels = result_of(open_layer(tmp_path / "scan.nii"), classes)
    copy = editable_copy(result)
    copy.data_setitem((np.array([0]), np.array([0]), np.array([0])), 1)
    save_layer(copy, tmp_path / "copy.nii")
    same_header(tmp_path / "copy.nii", tmp_path / "scan.nii")
    assert (read_labels(tmp_path / "copy.nii").data != labels).sum() == 1


def test_a_moved_layer_is_saved_where_it_is_drawn(tmp_path: Path, open_layer: OpenLayer, save_layer: SaveLayer) -> None:
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 6), np.int16), np.diag([1, 2, 3, 1])), tmp_path / "scan.nii")
    layer = open_layer(tmp_path / "scan.nii")
    layer.translate, layer.rotate = (10, 20, 30), (0, 0, 90)
    save_layer(layer, tmp_path / "moved.nii.gz")
    world = nib.load(tmp_path / "moved.nii.gz").affine @ (3, 4, 5, 1)
    np.testing.assert_allclose(world[2::-1], layer.data_to_world((5, 4, 3)), atol=1e-5)


def test_layers_that_came_from_no_file_are_saved_with_their_transform(tmp_path: Path, save_layer: SaveLayer) -> None:
    layer = Labels(np.arange(60).reshape(3, 4, 5), scale=(3, 0.5, 0.7), translate=(1, 2, 3), units="um")
    save_layer(layer, tmp_path / "l.nii.gz")
    saved = nib.load(tmp_path / "l.nii.gz")
    np.testing.assert_allclose(reverse_affine(saved.affine), read(layer).spec.affine)
    assert saved.header.get_xyzt_units()[0] == "micron"
    save_layer(layer, tmp_path / "l.ome.tif")
    spec = read_image(tmp_path / "l.ome.tif").spec
    assert (spec.unit, spec.spacing, spec.axes) == ("um", (3, 0.5, 0.7), "zyx")
    assert np.array_equal(tifffile.imread(tmp_path / "l.ome.tif"), layer.data)


def test_labels_drawn_by_hand_open_as_labels_again(
    tmp_path: Path, save_layer: SaveLayer, open_layer: OpenLayer
) -> None:
    save_layer(Labels(np.ones((3, 4, 5), np.int64)), tmp_path / "drawn.nii.gz")
    layer = open_layer(tmp_path / "drawn.nii.gz")
    assert type(layer).__name__ == "Labels"
    assert layer.data.dtype == np.uint8


def test_labels_of_a_stack_with_channels_are_saved_without_them(
    tmp_path: Path, save_layer: SaveLayer, classes: Classes
) -> None:
    image = Image(np.zeros((4, 3, 5, 6)), scale=(3, 1, 0.5, 0.7), units=("mm", "pixel", "mm", "mm"))
    scan = read(image, "zcyx")
    labels = np.random.default_rng(0).integers(0, 2, (4, 5, 6)).astype(np.uint8)
    result = labels_layer(scan, labels, classes, "result", {})
    save_layer(result, tmp_path / "r.nii.gz")
    saved = read_labels(tmp_path / "r.nii.gz")
    assert (saved.spec.axes, saved.spec.spacing) == ("zyx", pytest.approx((3, 0.5, 0.7)))
    assert np.array_equal(saved.data, labels)


@pytest.mark.parametrize("dtype", ["bool", "uint8", ">i2", "int64", "float16", "float64"])
def test_images_of_any_type_are_saved(dtype: str, tmp_path: Path, save_layer: SaveLayer) -> None:
    data = (np.random.default_rng(0).random((3, 4, 5)) * 50).astype(dtype)
    save_layer(Image(data), tmp_path / "i.nii.gz")
    np.testing.assert_allclose(read_image(tmp_path / "i.nii.gz").data, data.astype(float), rtol=1e-6)


def test_color_lazy_and_multiscale_images_are_saved(tmp_path: Path, save_layer: SaveLayer) -> None:
    color = np.random.default_rng(0).integers(0, 255, (4, 5, 3), np.uint8)
    save_layer(Image(color, rgb=True), tmp_path / "c.ome.tif")
    again = read_image(tmp_path / "c.ome.tif")
    assert again.spec.channel_names == ("red", "green", "blue")
    assert np.array_equal(again.data, color.transpose(2, 0, 1))
    lazy = da.from_array(np.arange(60.0, dtype=np.float32).reshape(3, 4, 5), chunks=2)
    save_layer(Image([lazy, lazy[:, ::2, ::2]], multiscale=True), tmp_path / "m.nii")
    assert np.array_equal(read_image(tmp_path / "m.nii").data, lazy.compute())


def test_what_is_there_is_replaced_because_napari_has_asked(tmp_path: Path, save_layer: SaveLayer) -> None:
    for value in (1, 2):
        save_layer(Labels(np.full((3, 4, 5), value)), tmp_path / "l.nii.gz")
    assert read_labels(tmp_path / "l.nii.gz").data.max() == 2


def test_what_cannot_be_saved_is_refused_in_words(tmp_path: Path, save_layer: SaveLayer) -> None:
    with pytest.raises(LabelError, match="start at 0"):
        save_layer(Labels(np.full((3, 4), -1)), tmp_path / "l.nii.gz")
    with pytest.raises(OutputError, match="does not exist"):
        save_layer(Labels(np.ones((3, 4), int)), tmp_path / "none" / "l.nii.gz")
    with pytest.raises(OutputError, match="cannot hold int64"):
        save_layer(Image(np.ones((3, 4), np.int64)), tmp_path / "i.ome.tif")
    with pytest.raises(ProsmaError, match="6 axes"):
        save_layer(Image(np.ones((1, 1, 1, 1, 2, 2))), tmp_path / "i.nii.gz")


@pytest.mark.slow
def test_results_on_real_scans_keep_the_exact_grid(
    data_root: Path, tmp_path: Path, open_layer: OpenLayer, save_layer: SaveLayer, classes: Classes
) -> None:
    scans = sorted((data_root / "ui_samples").rglob("*.nii*"))
    scans += sorted((data_root / "msd_hippocampus" / "images").iterdir())[:5]
    assert len(scans) > 25
    for path in scans:
        result, labels = result_of(open_layer(path), classes)
        save_layer(result, tmp_path / "r.nii.gz")
        same_header(tmp_path / "r.nii.gz", path)
        assert np.array_equal(read_labels(tmp_path / "r.nii.gz").data, labels), path


def nifti(path: Path, dtype: type = np.int16) -> Path:
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 6), dtype), TURNED), path)
    return path


def test_labels_are_not_saved_over_the_scan_they_are_of(
    tmp_path: Path, open_layer: OpenLayer, save_layer: SaveLayer, classes: Classes
) -> None:
    scan = nifti(tmp_path / "scan.nii.gz")
    before = scan.read_bytes()
    layer = open_layer(scan)
    result, _ = result_of(layer, classes)
    (tmp_path / "linked.nii.gz").symlink_to(scan)
    converted = Labels(layer.data, metadata=layer.metadata)  # as napari converts an image
    for labels in (result, editable_copy(result), converted):
        for target in (scan, tmp_path / "linked.nii.gz"):
            with pytest.raises(OutputError, match="not saved over the scan of a layer"):
                save_layer(labels, target)
    assert scan.read_bytes() == before
    assert save_layer(layer, scan)  # itself: napari has asked


def test_a_save_from_the_widget_is_refused_before_a_thread_writes(
    tmp_path: Path, open_layer: OpenLayer, classes: Classes, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = nifti(tmp_path / "scan.nii.gz")
    result, _ = result_of(open_layer(scan), classes)
    with pytest.raises(OutputError, match="not saved over the scan of a layer"):
        writer(result, scan)
    write = writer(result, tmp_path / "labels.nii.gz")
    monkeypatch.setattr(_writer, "_open_layers", lambda **_: pytest.fail("viewers are looked into while it is written"))
    write()
    assert (tmp_path / "labels.nii.gz").is_file()


def test_painted_labels_are_saved_over_their_own_file_and_over_earlier_labels(
    tmp_path: Path, open_layer: OpenLayer, save_layer: SaveLayer, classes: Classes
) -> None:
    result, _ = result_of(open_layer(nifti(tmp_path / "scan.nii.gz")), classes)
    save_layer(result, tmp_path / "labels.nii.gz")
    again = open_layer(tmp_path / "labels.nii.gz")
    assert type(again).__name__ == "Labels"
    again.data[0, 0, 0] = 1
    save_layer(again, tmp_path / "labels.nii.gz")
    save_layer(editable_copy(again), tmp_path / "labels.nii.gz")
    save_layer(result, tmp_path / "labels.nii.gz")
    with pytest.raises(OutputError, match="not saved over the scan of a layer"):
        save_layer(Image(again.data, metadata=again.metadata), tmp_path / "labels.nii.gz")


def test_nothing_is_saved_into_the_folder_of_a_scan(tmp_path: Path, save_layer: SaveLayer) -> None:
    write_image(tmp_path / "scan.zarr", np.zeros((4, 5, 6), np.uint8), array_spec((4, 5, 6), "zyx"))
    reader = get_reader(str(tmp_path / "scan.zarr"))
    assert reader is not None
    _, arguments, _ = reader(str(tmp_path / "scan.zarr"))[0]
    labels = Labels(np.zeros((4, 5, 6), np.uint8), metadata=arguments["metadata"])
    with pytest.raises(OutputError, match="lies inside the input"):
        save_layer(labels, tmp_path / "scan.zarr" / "labels.nii.gz")
    place = tmp_path / "scan.zarr" / "labels" / "drawn.zarr"
    with pytest.raises(OutputError, match="lies inside the input"):
        save_layer(Image(labels.data, metadata=arguments["metadata"]), place)
    save_layer(labels, place)  # the labels of an image are the place for them
    assert read_labels(place).data.shape == (4, 5, 6)


def test_the_files_of_other_layers_are_not_replaced(
    tmp_path: Path, open_layer: OpenLayer, save_layer: SaveLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan, labels = nifti(tmp_path / "scan.nii.gz"), tmp_path / "labels.nii.gz"
    save_layer(Labels(np.zeros((6, 5, 4), np.uint8), name="first"), labels)
    viewer = ViewerModel()
    for path in (scan, labels):
        viewer.add_layer(open_layer(path))
    monkeypatch.setattr(napari, "current_viewer", lambda: viewer)
    drawn = viewer.add_labels(np.ones((6, 5, 4), np.uint8), name="drawn")
    other = viewer.add_image(np.ones((6, 5, 4), np.float32), name="other")
    for layer, target in ((drawn, scan), (other, scan), (other, labels)):
        with pytest.raises(OutputError, match="would replace the input"):
            save_layer(layer, target)
    save_layer(drawn, labels)
    save_layer(viewer.layers["labels"], labels)
    save_layer(viewer.layers["scan"], scan)
    here = ViewerModel()
    here.add_image(np.ones((6, 5, 4), np.float32), name="scan")
    monkeypatch.setattr(napari, "current_viewer", lambda: here)
    monkeypatch.setattr(_writer, "open_viewers", lambda: [here, viewer])
    with pytest.raises(OutputError, match="would replace the input"):
        save_layer(here.layers["scan"], scan)


def test_a_file_of_another_kind_is_not_replaced(tmp_path: Path, save_layer: SaveLayer) -> None:
    (tmp_path / "notes.tif").write_text("years of work")
    with pytest.raises(OutputError, match="is never replaced"):
        save_layer(Labels(np.zeros((4, 5), np.uint8)), tmp_path / "notes.tif")
    assert (tmp_path / "notes.tif").read_text() == "years of work"


def on_disk(folder: Path, shape: tuple[int, ...], dtype: str, chunks: tuple[int, ...]) -> DiskArray:
    """A result in a zarr folder."""
    array = zarr.create_array(str(folder), shape=shape, dtype=dtype, chunks=chunks)
    array[...] = np.random.default_rng(0).integers(0, 3, shape).astype(dtype)
    return DiskArray(folder)


@pytest.mark.parametrize("axes", ["zyx", "czyx", "zcyx"])
def test_a_large_result_is_saved_part_by_part(
    axes: str,
    tmp_path: Path,
    open_layer: OpenLayer,
    save_layer: SaveLayer,
    classes: Classes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(source, "IN_CORE", 0)
    monkeypatch.setattr(LayerScan, "load", None)
    shape, at = (21, 33, 30), axes.find("c")
    wide = shape if at < 0 else (*shape[:at], 2, *shape[at:])
    scan = read(Image(np.zeros(wide), axis_labels=tuple(axes)))
    data = on_disk(tmp_path / "a", shape, "u1", (4, 16, 16))
    layer = labels_layer(scan, data, classes, "result", {"program": "prosma 1", "model": "m"})
    with pytest.raises(OutputError, match=r"too large to be written to labels.nii.gz as a whole.*end with .zarr"):
        save_layer(layer, tmp_path / "labels.nii.gz")
    save_layer(layer, tmp_path / "labels.zarr")
    found = read_labels(tmp_path / "labels.zarr")
    np.testing.assert_array_equal(found.data, np.asarray(data))
    assert read_notes(tmp_path / "labels.zarr")["model"] == "m"
    again = open_layer(tmp_path / "labels.zarr")
    assert [c.name for c in again.metadata[METADATA]["classes"]] == [c.name for c in classes]
    save_layer(again, tmp_path / "copy.zarr")
    np.testing.assert_array_equal(read_labels(tmp_path / "copy.zarr").data, found.data)
    assert read_notes(tmp_path / "copy.zarr") == read_notes(tmp_path / "labels.zarr")


def test_large_probabilities_are_saved_part_by_part(
    tmp_path: Path, save_layer: SaveLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "IN_CORE", 0)
    scan = read(Image(np.zeros((6, 8, 9))))
    data = on_disk(tmp_path / "a", (3, 6, 8, 9), "f4", (1, 4, 8, 8))
    layer = image_layer(scan, data, "czyx", "p", {"program": "prosma 1"}, channel_names=("a", "b", "c"))
    save_layer(layer, tmp_path / "p.zarr")
    found = read_image(tmp_path / "p.zarr")
    assert found.spec.channel_names == ("a", "b", "c")
    np.testing.assert_array_equal(found.data, np.asarray(data))


def test_large_labels_of_signed_numbers_are_refused(
    tmp_path: Path, save_layer: SaveLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "IN_CORE", 0)
    layer = Labels(da.zeros((4, 5, 6), dtype=np.int32))
    with pytest.raises(LabelError, match="int32; unsigned integers are needed"):
        save_layer(layer, tmp_path / "labels.zarr")
