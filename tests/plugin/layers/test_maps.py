"""Maps of a gate lie on the scan they were made from, however that is turned, to far less than a voxel."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image
from napari.utils.colormaps import Colormap

from napari_prosma.layers.maps import cross_layer, cross_voxel, map_layer, mask_layer
from napari_prosma.layers.scan import read
from napari_prosma.layers.viewport import voxel_at
from prosma_core.config.inspection import MapInfo
from prosma_core.config.model import VoxelSize
from prosma_core.data.geometry import map_spec

NOTES = {"program": "test"}
ANGLE = np.deg2rad(20)
TURN = np.array([[1, 0, 0], [0, np.cos(ANGLE), -np.sin(ANGLE)], [0, np.sin(ANGLE), np.cos(ANGLE)]])
AFFINE = np.array([[-1.5, 0, 0, 7], [0, 0.9, 0.3, -3], [0, -0.2, 1.1, 2], [0, 0, 0, 1.0]])
PLACES: dict[str, dict[str, Any]] = {
    "stretched": {"scale": (3, 1, 0.5), "translate": (5, -6, 7), "units": ("mm",) * 3},
    "turned": {"scale": (3, 1, 0.5), "rotate": TURN, "shear": (0.1, 0.2, 0.3), "translate": (1, 2, 3)},
    "affine": {"scale": (2, 1, 1), "affine": AFFINE, "axis_labels": ("z", "y", "x")},
}


def info_of(axes: str, ndim: int, level: int = 1) -> MapInfo:
    """A map whose voxels are not whole voxels of the scan, and that begins inside of it."""
    scale, offset = (2.0, 4.0, 2.5)[-ndim:], (0.5, 3.5, 1.25)[-ndim:]
    return MapInfo(name=f"level{level}/x", kind="removed", level=level, axes=axes, scale=scale, offset=offset)


def layer_of(scan: Any, info: MapInfo, data: np.ndarray, **options: Any) -> Image:
    return map_layer(scan, info, data, "map", NOTES, colormap="gray", visible=True, **options)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("channels", [False, True])
def test_every_voxel_of_a_map_lies_where_its_index_in_the_scan_says(place: str, channels: bool) -> None:
    source = Image(np.zeros((12, 40, 44)), name="scan", **PLACES[place])
    info = info_of("czyx" if channels else "zyx", 3)
    data = np.zeros((5,) * channels + (6, 8, 9), np.float16)
    layer = layer_of(read(source, "zyx"), info, data)
    assert layer.data.shape == data.shape
    for index in itertools.product((0, 5), (0, 7), (0, 3, 8)):
        there = np.array(info.scale) * index + np.array(info.offset)
        world = layer.data_to_world((2, *index) if channels else index)
        np.testing.assert_allclose(world[-3:], source.data_to_world(there), rtol=0, atol=1e-9)
    assert tuple(layer.units[-3:]) == tuple(source.units)
    assert tuple(layer.axis_labels[-3:]) == tuple(source.axis_labels)


@pytest.mark.parametrize(
    ("shape", "axes", "map_axes", "shown"),
    [
        ((40, 44), "yx", "yx", (8, 9)),
        ((40, 44), "yx", "cyx", (5, 8, 9)),
        ((3, 40, 44), "cyx", "yx", (8, 9)),
        ((3, 40, 44), "cyx", "cyx", (5, 1, 8, 9)),
        ((4, 12, 40, 44), "tzyx", "tczyx", (5, 4, 6, 8, 9)),
        ((12, 3, 40, 44), "zcyx", "zyx", (6, 1, 8, 9)),
        ((12, 3, 40, 44), "zcyx", "czyx", (5, 6, 1, 8, 9)),
        ((44, 40, 12), "xyz", "czyx", (5, 9, 8, 6)),
    ],
)
def test_axes_in_any_order_stay_on_the_scan(
    shape: tuple[int, ...], axes: str, map_axes: str, shown: tuple[int, ...], rng: np.random.Generator
) -> None:
    source = Image(np.zeros(shape), name="scan", rgb=False, scale=np.arange(1, len(shape) + 1) / 2)
    size = {"t": 4, "c": 5, "z": 6, "y": 8, "x": 9}
    info = info_of(map_axes, 3 if "z" in axes else 2)
    data = rng.random([size[letter] for letter in map_axes]).astype(np.float16)
    scan = read(source, axes)
    layer = layer_of(scan, info, data)
    assert layer.data.shape == shown
    where = dict(zip(scan.spec.spatial_axes, zip(info.scale, info.offset, strict=True), strict=True))
    index = {"t": 1, "c": 2, "z": 3, "y": 5, "x": 6}
    there = [index[a] * where[a][0] + where[a][1] if a in where else index[a] for a in axes]
    letters = axes if layer.ndim >= len(axes) else axes.replace("c", "")
    here = [0 if a == "c" else index[a] for a in letters]
    here = [index["c"]] * (layer.ndim - len(letters)) + here
    assert layer.data[tuple(here)] == data[tuple(index[a] for a in map_axes)]
    keep = [i for i, a in enumerate(axes) if a != "c"]
    own = [i + layer.ndim - len(letters) for i, a in enumerate(letters) if a != "c"]
    ours, theirs = np.array(layer.data_to_world(here)), np.array(source.data_to_world(there))
    np.testing.assert_allclose(ours[own], theirs[keep], rtol=0, atol=1e-9)


def test_colors_and_coarser_levels_of_the_scan_are_no_trouble() -> None:
    fine = np.zeros((40, 44, 3), np.uint8)
    picture = Image(fine, name="picture", rgb=True, scale=(2, 3))
    layer = layer_of(read(picture), info_of("yx", 2), np.zeros((8, 9), np.float16))
    np.testing.assert_allclose(layer.data_to_world((1, 1)), picture.data_to_world((7.5, 3.75)))
    pyramid = Image([np.zeros((40, 44)), np.zeros((20, 22))], name="pyramid", multiscale=True)
    layer = layer_of(read(pyramid, "yx", 1), info_of("yx", 2), np.zeros((4, 5), np.float16))
    np.testing.assert_allclose(layer.data_to_world((0, 0)), (2 * 3.5 + 0.5, 2 * 1.25 + 0.5))


def test_a_scan_and_the_means_of_its_blocks_are_drawn_over_each_other(rng: np.random.Generator) -> None:
    values = rng.random((12, 40, 44))
    source = Image(values, name="scan", **PLACES["affine"])
    means = values.reshape(6, 2, 10, 4, 22, 2).mean(axis=(1, 3, 5))
    info = MapInfo(name="m", kind="removed", level=1, axes="zyx", scale=(2.0, 4.0, 2.0), offset=(0.5, 1.5, 0.5))
    layer = layer_of(read(source, "zyx"), info, means)
    for voxel in rng.integers(0, values.shape, (50, 3)):
        block = tuple(voxel // (2, 4, 2))
        drawn = np.round(layer.world_to_data(source.data_to_world(voxel))).astype(int)
        assert layer.data[tuple(drawn)] == means[block]


def test_files_of_maps_lie_in_the_scans_world() -> None:
    scan = read(Image(np.zeros((12, 40, 44)), **PLACES["affine"]), "zyx")
    info = info_of("czyx", 3)
    spec = map_spec(scan.spec, info, (5, 6, 8, 9))
    assert (spec.axes, spec.shape, len(spec.channel_names)) == ("czyx", (5, 6, 8, 9), 5)
    index = np.array([3, 2, 7])
    there = np.append(np.array(info.scale) * index + info.offset, 1)
    np.testing.assert_allclose(spec.affine @ [*index, 1], scan.spec.affine @ there, rtol=0, atol=1e-9)
    layer = layer_of(scan, info, np.zeros((5, 6, 8, 9), np.float16))
    again = read(layer)
    np.testing.assert_allclose(again.spec.affine, spec.affine, rtol=0, atol=1e-9)
    assert again.axes == "czyx"
    bare = read(Image(np.zeros((12, 40, 44))), "zyx")
    sized = bare.with_size(VoxelSize(sizes=(3, 1, 0.5)))
    again = read(layer_of(sized, info, np.zeros((5, 6, 8, 9), np.float16)))
    np.testing.assert_allclose(again.spec.affine, map_spec(bare.spec, info, (5, 6, 8, 9)).affine)
    saved = again.to_save().spec
    np.testing.assert_allclose(saved.affine, map_spec(sized.spec, info, (5, 6, 8, 9)).affine)
    assert (saved.unit, saved.shape, len(saved.channel_names)) == ("mm", (5, 6, 8, 9), 5)


def test_a_mask_names_what_it_shows_and_shares_its_voxels() -> None:
    scan = read(Image(np.zeros((12, 40, 44))), "zyx")
    data = np.zeros((5, 6, 8, 9), bool)
    given = (scan, info_of("czyx", 3), data, "mask", NOTES)
    layer = mask_layer(*given, names=("removed", "kept"), colors=("#e8590c", "#3b9eff"), visible=False)
    assert np.shares_memory(layer.data, data)
    assert list(layer.features["name"]) == ["removed", "kept"]
    np.testing.assert_allclose(layer.get_color(1), Colormap(["#3b9eff"] * 2).colors[0])


@pytest.mark.parametrize("place", PLACES)
def test_a_cross_and_a_click_mean_the_same_voxel(place: str) -> None:
    viewer = ViewerModel()
    source = viewer.add_image(np.zeros((12, 40, 44)), name="scan", **PLACES[place])
    scan = read(source, "zyx")
    viewer.add_layer(layer_of(scan, info_of("czyx", 3), np.zeros((5, 6, 8, 9), np.float16)))
    voxel = {"z": 7, "y": 20, "x": 31}
    for shift in (-0.4, 0.4):
        there = np.array(source.data_to_world((7 + shift, 20, 31 - shift)))
        assert voxel_at(scan, viewer, (3, *there)) == voxel
    assert voxel_at(scan, viewer, (3, *source.data_to_world((7, 20, 44)))) is None
    cross = cross_layer(scan, voxel, "cross", NOTES)
    np.testing.assert_allclose(cross.data_to_world(cross.data[0]), source.data_to_world((7, 20, 31)))
    assert cross_voxel(cross, scan) == voxel


def test_a_map_that_begins_in_front_of_the_scan_hides_no_slice_of_it() -> None:
    viewer = ViewerModel()
    source = viewer.add_image(np.zeros((35, 40, 44)) + np.arange(35)[:, None, None], name="scan", translate=(1, 0, 0))
    info = MapInfo(name="m", kind="removed", level=2, axes="zyx", scale=(4.0,) * 3, offset=(-0.5, 1.5, 1.5))
    layer = viewer.add_layer(layer_of(read(source, "zyx"), info, np.zeros((10, 10, 11), np.float16)))
    np.testing.assert_allclose(layer.data_to_world((2, 0, 0)), source.data_to_world((7.5, 1.5, 1.5)), atol=1e-3)
    shown = []
    for step in range(int(viewer.dims.nsteps[0])):
        viewer.dims.set_current_step(0, step)
        shown.append(source.get_value((viewer.dims.point[0], 5, 5), world=True))
    assert [int(value) for value in shown if value is not None] == list(range(35))
