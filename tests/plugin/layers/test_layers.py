"""Layers read as scans, and results that lie on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given
from hypothesis import strategies as st
from napari.components import ViewerModel
from napari.layers import Image, Labels
from npe2 import PluginManifest

from napari_prosma.layers.placement import Placement
from napari_prosma.layers.results import editable_copy, image_layer, is_result, labels_layer, refresh
from napari_prosma.layers.scan import LayerScan, guess_axes, levels, read, read_arrays
from napari_prosma.layers.source import Source, source_of
from napari_prosma.layers.viewport import current_slice, slab_in_view, view_box
from prosma_core.config.model import ClassInfo
from prosma_core.data.geometry import array_spec
from prosma_core.errors import GeometryError

Classes = tuple[ClassInfo, ...]

AFFINE = np.array([[0, 1.5, 0.1, 30], [1.2, 0, 0.1, -20], [0, 0.2, 0.8, 10], [0, 0, 0, 1]])
PLACED: list[dict[str, Any]] = [
    {},
    {"scale": (3, 0.5, 0.7), "translate": (-10, 20, 30), "units": ("mm", "mm", "mm"), "axis_labels": ("z", "y", "x")},
    {"scale": (3, 0.5, 0.7), "rotate": (10, 20, 30), "shear": [0.1, 0.2, 0.3], "translate": (1, 2, 3)},
    {"scale": (-2, 1, 1), "shear": np.array([[1, 0, 0], [0.3, 1, 0], [0.1, 0.2, 1]]), "affine": AFFINE},
]

by_hand = pytest.mark.filterwarnings("ignore:Non-orthogonal slicing is being requested:UserWarning")
"""Layers that a person turned out of the view's plane; napari says so each time it draws them."""


def blank(scan: LayerScan) -> np.ndarray:
    return np.zeros(scan.spec.labels_spec().shape, np.uint8)


def lies_on(result: Any, source: Any, *, moved: tuple[int, ...] = ()) -> None:
    """Compare where both draw the corners of their array; axes in `moved` are not compared."""
    for corner in np.ndindex((2,) * source.ndim):
        at = np.array(corner) * (np.array(source.level_shapes[0][: source.ndim]) - 1)
        there = [0 if axis in moved else n for axis, n in enumerate(at)]
        expected, got = np.array(source.data_to_world(at)), np.array(result.data_to_world(there))
        keep = [axis for axis in range(source.ndim) if axis not in moved]
        np.testing.assert_allclose(got[keep], expected[keep], atol=1e-9)


@by_hand
@pytest.mark.parametrize("placed", PLACED)
def test_labels_lie_on_their_scan_and_are_not_copied(placed: dict[str, Any], classes: Classes) -> None:
    image = Image(np.zeros((4, 5, 6)), name="scan", **placed)
    scan = read(image)
    labels = blank(scan)
    result = labels_layer(scan, labels, classes, "result", {"model": "m"})
    lies_on(result, image)
    assert result.data is labels
    for name in ("scale", "translate", "rotate", "shear"):
        np.testing.assert_array_equal(getattr(result, name), getattr(image, name))
    np.testing.assert_array_equal(result.affine.affine_matrix, image.affine.affine_matrix)
    assert (result.units, result.axis_labels) == (image.units, image.axis_labels)


@by_hand
@given(
    scale=st.tuples(*[st.floats(0.1, 9)] * 3),
    rotate=st.tuples(*[st.floats(-180, 180)] * 3),
    shear=st.tuples(*[st.floats(-1, 1)] * 3),
    translate=st.tuples(*[st.floats(-500, 500)] * 3),
)
def test_the_spec_of_a_layer_says_where_napari_draws_its_voxels(
    scale: Any, rotate: Any, shear: Any, translate: Any
) -> None:
    image = Image(np.zeros((3, 4, 5)), scale=scale, rotate=rotate, shear=shear, translate=translate, units="um")
    spec = read(image).spec
    assert (spec.unit, spec.world) == ("um", "image")
    np.testing.assert_allclose((spec.affine @ (2, 3, 4, 1))[:3], image.data_to_world((2, 3, 4)), atol=1e-6)
    np.testing.assert_allclose(spec.spacing, np.linalg.norm(spec.affine[:3, :3], axis=0))


def test_axes_in_another_order_are_read_and_the_result_is_turned_back(classes: Classes) -> None:
    image = Image(np.arange(120).reshape(4, 5, 6), scale=(1, 2, 3), translate=(7, 8, 9))
    scan = read(image, "xzy")
    assert (scan.spec.axes, scan.spec.shape, scan.spec.spacing) == ("zyx", (5, 6, 4), (2, 3, 1))
    assert tuple(scan.spec.affine[:3, 3]) == (8, 9, 7)
    labels = blank(scan)
    labels[1, 2, 3] = 5
    result = labels_layer(scan, labels, classes, "result", {})
    assert result.data[3, 1, 2] == 5
    assert np.shares_memory(result.data, labels)
    lies_on(result, image)
    np.testing.assert_array_equal(scan.load(), image.data.transpose(1, 2, 0))


def test_a_leading_channel_axis_is_left_out_of_the_result(classes: Classes) -> None:
    image = Image(np.zeros((3, 4, 5, 6)), scale=(1, 3, 0.5, 0.7), translate=(0, 1, 2, 3), axis_labels=tuple("czyx"))
    scan = read(image)
    result = labels_layer(scan, blank(scan), classes, "result", {})
    assert (result.data.shape, result.axis_labels) == ((4, 5, 6), ("z", "y", "x"))
    np.testing.assert_allclose(result.data_to_world((1, 2, 3)), image.data_to_world((2, 1, 2, 3))[1:])


def test_a_channel_axis_in_the_middle_stays_so_that_labels_show_at_every_channel(classes: Classes) -> None:
    image = Image(np.zeros((4, 3, 5, 6)), scale=(3, 1.5, 0.5, 0.7), translate=(1, 2, 3, 4))
    scan = read(image, "zcyx")
    labels = blank(scan)
    labels[2] = 1
    result = labels_layer(scan, labels, classes, "result", {})
    assert result.data.shape == (4, 1, 5, 6)
    lies_on(result, image, moved=(1,))
    viewer = ViewerModel()
    viewer.add_layer(image)
    viewer.add_layer(result)
    assert viewer.layers.extent.world[:, 1].tolist() == [2, 5]
    for channel in range(3):
        viewer.dims.set_point((0, 1), (image.data_to_world((2, 0, 0, 0))[0], 2 + 1.5 * channel))
        assert result.get_value(image.data_to_world((2, channel, 1, 1)), world=True) == 1
    assert guess_axes(result) == "zcyx"


def test_color_layers_are_read_with_their_channels_first_and_without_alpha(classes: Classes) -> None:
    data = np.random.default_rng(0).integers(0, 255, (5, 6, 4), np.uint8)
    image = Image(data, rgb=True, scale=(2, 3))
    scan = read(image)
    assert (scan.axes, scan.spec.axes, scan.spec.shape) == ("yxc", "cyx", (3, 5, 6))
    assert scan.spec.channel_names == ("red", "green", "blue")
    np.testing.assert_array_equal(scan.load(), data[..., :3].transpose(2, 0, 1))
    assert scan.note == "The alpha channel is left out."
    result = labels_layer(scan, blank(scan), classes, "result", {})
    assert result.data.shape == (5, 6)
    lies_on(result, image)


@by_hand
@pytest.mark.parametrize("placed", PLACED)
def test_a_coarser_level_covers_what_the_finest_does(placed: dict[str, Any], classes: Classes) -> None:
    fine = np.zeros((4, 12, 20))
    image = Image([fine, fine[:, ::2, ::4]], multiscale=True, **placed)
    assert levels(image) == [(4, 12, 20), (4, 6, 5)]
    scan = read(image, level=1)
    result = labels_layer(scan, blank(scan), classes, "result", {})
    for end in (-0.5, 0.5):  # outer faces of the first and the last voxel
        coarse = np.array([3, 5, 4]) * (end > 0) + end
        finest = np.array([3, 11, 19]) * (end > 0) + end
        np.testing.assert_allclose(result.data_to_world(coarse), image.data_to_world(finest), atol=1e-9)
        np.testing.assert_allclose((scan.spec.affine @ [*coarse, 1])[:3], image.data_to_world(finest), atol=1e-9)
    with pytest.raises(GeometryError, match="2 resolution levels"):
        read(image, level=2)


def test_axes_come_from_labels_then_from_how_it_was_read_then_from_their_number() -> None:
    assert guess_axes(Image(np.zeros((3, 4)))) == "yx"
    assert guess_axes(Image(np.zeros((2, 3, 4)))) == "zyx"
    assert guess_axes(Image(np.zeros((2, 2, 3, 4)))) == "tzyx"
    assert guess_axes(Image(np.zeros((2, 4, 5, 3)), rgb=True)) == "zyxc"
    named = Image(np.zeros((2, 3, 4, 5)), axis_labels=("Channel", "depth", "y", "x"))
    assert guess_axes(named) == "czyx"
    kept = {"prosma": {"axes": "czyx"}}
    assert guess_axes(Image(np.zeros((2, 3, 4, 5)), metadata=kept)) == "czyx"
    assert guess_axes(Image(np.zeros((2, 3, 4, 5)), metadata=kept, axis_labels=tuple("tzyx"))) == "tzyx"
    with pytest.raises(GeometryError, match="6 axes"):
        guess_axes(Image(np.zeros((1, 1, 1, 1, 2, 2))))


@pytest.mark.parametrize(
    ("axes", "says"), [("zyy", "cannot be used"), ("zcx", "cannot be used"), ("yx", "name 2 axes"), ("qyx", "letters")]
)
def test_axes_that_cannot_be_are_refused_in_words(axes: str, says: str) -> None:
    with pytest.raises(GeometryError, match=says):
        read(Image(np.zeros((3, 4, 5))), axes)


@by_hand
def test_what_is_no_scan_is_refused_in_words() -> None:
    with pytest.raises(GeometryError, match="end with c"):
        read(Image(np.zeros((4, 5, 3)), rgb=True), "cyx")
    with pytest.raises(GeometryError, match="rotated"):
        read(Image(np.zeros((3, 4, 5)), rotate=(0, 30, 0)), "cyx")
    with pytest.raises(GeometryError, match="complex64"):
        read_arrays([np.zeros((4, 5), np.complex64)], Placement.from_state({}, 2), {})
    with pytest.raises(GeometryError, match="not invertible"):
        read(Image(np.zeros((4, 5)), affine=[[1, 1, 0], [1, 1, 0], [0, 0, 1]]))


def test_units_of_space_that_differ_are_brought_to_that_of_x() -> None:
    spec = read(Image(np.zeros((2, 3, 4)), scale=(0.003, 2, 5), units=("mm", "um", "um"))).spec
    assert spec.unit == "um"
    assert spec.spacing == pytest.approx((3, 2, 5))
    assert read(Image(np.zeros((2, 3)), scale=(2, 5), units=("pixel", "um"))).spec.unit == "pixel"


@pytest.mark.parametrize("dtype", ["bool", ">i2", "float16", "uint64"])
def test_voxels_of_any_type_are_handed_over_in_the_machines_byte_order(dtype: str) -> None:
    data = (np.random.default_rng(0).random((3, 1, 5)) * 50).astype(dtype)
    scan = read(Image(data))
    out = np.zeros(scan.spec.shape, scan.dtype)
    assert list(scan.fill(out))[-1] == 1
    assert out.dtype.isnative
    np.testing.assert_array_equal(out, data)


def test_a_lazy_array_is_copied_block_by_block() -> None:
    computed: list[int] = []

    def block(block_info: Any) -> np.ndarray:
        shape = block_info[None]["chunk-shape"]
        computed.append(int(np.prod(shape)))
        return np.full(shape, block_info[None]["chunk-location"][0], np.float32)

    lazy = da.map_blocks(block, chunks=((8,) * 8, (1024,), (1024,)), dtype=np.float32)
    scan = read(Image(lazy, contrast_limits=(0, 1)), "tyx")
    computed.clear()
    out = np.zeros(scan.spec.shape, np.float32)
    shares = []
    for share in scan.fill(out):
        shares.append(share)
        assert sum(computed) == round(share * out.size)  # nothing is computed ahead, nothing twice
    assert len(shares) == 8
    np.testing.assert_array_equal(out[::8, 0, 0], np.arange(8))


def test_a_large_array_is_copied_in_slabs_along_any_axis() -> None:
    data = np.arange(3 * 5000 * 4000, dtype=np.uint32).reshape(1, 3, 5000, 4000)
    scan = read(Image(data, contrast_limits=(0, 1)), "tcyx")
    out = np.zeros(scan.spec.shape, data.dtype)
    assert len(list(scan.fill(out))) > 3
    assert np.array_equal(out, data)


def test_a_zarr_array_is_handed_over_by_reference(tmp_path: Path) -> None:
    group = zarr.create_group(tmp_path / "scan.zarr")
    array = group.create_array("a", shape=(4, 5, 6), dtype="u2", chunks=(1, 5, 6))
    scan = read(Image(array, contrast_limits=(0, 1)))
    assert source_of(scan) == Source(tmp_path / "scan.zarr" / "a", "zyx")
    assert scan.data is array
    assert source_of(read(Image(np.zeros((2, 3))))) is None
    in_memory = zarr.create_array(zarr.storage.MemoryStore(), shape=(4, 5), dtype="u2")
    assert source_of(read(Image(in_memory, contrast_limits=(0, 1)))) is None


def test_probabilities_have_a_slider_for_the_classes(classes: Classes) -> None:
    for data, axes in ((np.zeros((4, 5, 6)), "zyx"), (np.zeros((2, 4, 5, 6)), "tzyx"), (np.zeros((5, 6, 3)), "yxc")):
        image = Image(data, rgb=axes == "yxc", scale=[2] * (3 if axes == "zyx" else len(axes) - (axes == "yxc")))
        scan = read(image, axes)
        spec = scan.spec.with_channels(("a", "b"))
        values = np.zeros(spec.shape, np.float32)
        layer = image_layer(scan, values, spec.axes, "p", {"model": "m"}, channel_names=("a", "b"))
        assert layer.data.shape[0] == 2
        assert np.shares_memory(layer.data, values)
        np.testing.assert_allclose(
            layer.data_to_world([0] + [1] * image.ndim)[1:], image.data_to_world([1] * image.ndim)
        )
        assert read(layer).spec.axes == spec.axes
        assert is_result(layer)
        assert not is_result(image)


def test_entropy_lies_on_the_scan() -> None:
    image = Image(np.zeros((3, 4, 5, 6)), scale=(1, 2, 3, 4))
    scan = read(image, "czyx")
    layer = image_layer(scan, np.zeros((4, 5, 6), np.float32), "zyx", "entropy", {}, colormap="viridis")
    np.testing.assert_allclose(layer.data_to_world((1, 1, 1)), image.data_to_world((0, 1, 1, 1))[1:])


def test_labels_have_the_names_and_colors_of_their_classes(classes: Classes) -> None:
    scan = read(Image(np.zeros((4, 5))))
    labels = blank(scan)
    labels[0, 1], labels[0, 2] = 1, 5
    result = labels_layer(scan, labels, classes, "result", {"model": "m"})
    assert result.features["name"].tolist() == ["background", "organ", "lesion"]
    assert result.features["index"].tolist() == [0, 1, 5]
    np.testing.assert_allclose(result.get_color(1), (1, 0, 0, 1))
    np.testing.assert_allclose(result.get_color(5), (0, 1, 0, 1))
    assert result.colormap.map(0)[3] == 0
    assert result.metadata["prosma"]["provenance"] == {"model": "m"}
    assert is_result(result)


@by_hand
def test_an_editable_copy_leaves_the_result_alone(classes: Classes) -> None:
    image = Image(np.zeros((4, 5, 6)), scale=(3, 1, 2), rotate=(10, 20, 30), units="mm")
    scan = read(image)
    result = labels_layer(scan, blank(scan), classes, "result", {"model": "m"})
    copy = editable_copy(result)
    copy.data[0, 0, 0] = 5
    assert result.data[0, 0, 0] == 0
    assert (copy.name, copy.units) == ("result corrected", image.units)
    assert copy.features.equals(result.features)
    np.testing.assert_array_equal(copy.get_color(5), result.get_color(5))
    lies_on(copy, image)


def test_what_is_written_into_the_array_shows_after_a_refresh(classes: Classes) -> None:
    viewer = ViewerModel()
    image = viewer.add_image(np.zeros((4, 5, 6)))
    scan = read(image)
    labels = blank(scan)
    result = viewer.add_layer(labels_layer(scan, labels, classes, "result", {}))
    viewer.dims.set_point(0, 1)
    labels[1] = 5
    refresh(result)
    assert result.get_value((1, 2, 2)) == 5
    assert slab_in_view(image, scan, viewer, (0, 0, 0), (2, 5, 6))
    assert not slab_in_view(image, scan, viewer, (2, 0, 0), (4, 5, 6))


def test_the_box_in_view_follows_the_camera() -> None:
    viewer = ViewerModel()
    image = viewer.add_image(np.zeros((10, 100, 200)), scale=(5, 2, 2), translate=(0, 10, 20), units="mm")
    scan = read(image)
    viewer.canvas.size = (40, 80)
    viewer.scene.camera.zoom = 1
    viewer.scene.camera.center = (0, 10 + 2 * 50, 20 + 2 * 100)
    assert view_box(image, scan, viewer) == ((0, 10), (40, 61), (80, 121))
    viewer.scene.camera.center = (0, 10, 20)
    assert view_box(image, scan, viewer) == ((0, 10), (0, 11), (0, 21))
    viewer.scene.camera.center = (0, 9000, 20)
    assert view_box(image, scan, viewer) is None
    viewer.dims.ndisplay = 3
    assert view_box(image, scan, viewer) == ((0, 10), (0, 100), (0, 200))


def test_the_box_in_view_is_told_in_the_scans_axes_and_level() -> None:
    viewer = ViewerModel()
    fine = np.zeros((6, 100, 200))
    image = viewer.add_image([fine, fine[:, ::2, ::4]], multiscale=True)
    viewer.canvas.size, viewer.scene.camera.zoom = (20, 40), 1
    viewer.scene.camera.center = (0, 49.5, 99.5)
    assert view_box(image, read(image), viewer) == ((0, 6), (40, 60), (80, 120))
    assert view_box(image, read(image, level=1), viewer) == ((0, 6), (20, 30), (20, 30))
    assert view_box(image, read(image, "xzy"), viewer) == ((40, 60), (80, 120), (0, 6))


def test_the_current_slice_is_where_the_sliders_stand() -> None:
    viewer = ViewerModel()
    image = viewer.add_image(np.zeros((3, 10, 20, 30)), scale=(1, 5, 2, 2), translate=(0, -10, 0, 0))
    scan = read(image, "tzyx")
    viewer.dims.set_point((0, 1), (2, -10 + 5 * 7))
    assert current_slice(image, scan, viewer) == ((7, 8), (0, 20), (0, 30))
    viewer.dims.order = (0, 2, 1, 3)
    viewer.dims.set_point(2, 2 * 4)
    assert current_slice(image, scan, viewer) == ((0, 10), (4, 5), (0, 30))
    viewer.dims.ndisplay = 3
    assert current_slice(image, scan, viewer) is None


def test_the_current_slice_of_a_smaller_layer_beside_others() -> None:
    viewer = ViewerModel()
    viewer.add_image(np.zeros((4, 60, 20, 30)), scale=(1, 1e-3, 1, 1), units=("pixel", "mm", "mm", "mm"))
    image = viewer.add_image(np.zeros((6, 20, 30)), scale=(10, 1e3, 1e3), units="um")
    scan = read(image)
    viewer.dims.set_current_step(1, 30)  # the shared position is in the smaller unit
    position = viewer.dims.point[1] * {"micrometer": 1, "millimeter": 1e3}[str(viewer.dims.units[1])]
    assert current_slice(image, scan, viewer) == (
        (round(position / 10), round(position / 10) + 1),
        (0, 20),
        (0, 30),
    )
    viewer.dims.set_current_step(1, 59)
    far = read(Image(np.zeros((2, 20, 30))))
    viewer.add_image(np.zeros((2, 20, 30)), units="um", name="far")
    assert current_slice(viewer.layers["far"], far, viewer) is None


def test_a_layer_keeps_what_its_file_said_until_it_is_moved() -> None:
    spec = array_spec((4, 5, 6), "zyx", (3, 2, 1), "mm")
    own = {"prosma": {"spec": spec, "path": "/data/scan.nii.gz", "axes": "zyx"}}
    image = Image(np.zeros((4, 5, 6)), scale=(3, 2, 1), units="mm", metadata=own)
    scan = read(image)
    assert scan.spec.affine is spec.affine
    assert scan.path == Path("/data/scan.nii.gz")
    image.translate = (0, 5, 0)
    moved = read(image).spec
    assert moved.affine[:3, 3].tolist() == [0, 5, 0]
    image.translate, image.units = (0, 0, 0), "um"
    assert read(image).spec.unit == "um"


def test_labels_can_be_read_like_an_image() -> None:
    layer = Labels(np.ones((4, 5), np.int32), scale=(2, 3))
    assert read(layer).spec.spacing == (2, 3)


def test_a_tiff_without_a_voxel_size_in_napari_says_so(tmp_path: Path, npe2pm: Any) -> None:
    npe2pm.register(PluginManifest.from_distribution("napari"))
    tifffile.imwrite(tmp_path / "scan.tif", np.zeros((4, 5, 6), np.uint8), photometric="minisblack")
    viewer = ViewerModel()
    (layer,) = viewer.open(tmp_path / "scan.tif", plugin="napari")
    scan = read(layer)
    assert scan.path == tmp_path / "scan.tif"
    assert "voxel size" in scan.note
    layer.scale, layer.units = (3, 1, 1), "um"
    assert read(layer).note == ""
