"""What can be chosen before the click and done after it, in a real window with the real engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from napari.layers import Image, Labels
from qtpy.QtWidgets import QCheckBox

from prosma_core.data.geometry import array_spec
from prosma_core.io.images import write_image
from prosma_core.io.zarr_write import write_zarr

pytestmark = pytest.mark.slow


@pytest.fixture
def volume(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(100, 20, (12, 40, 48)).astype(np.float32)


@pytest.fixture
def scan_file(volume: np.ndarray, tmp_path: Path) -> Path:
    """Return a NIfTI of voxels of 3 x 2 x 1 mm."""
    write_image(tmp_path / "scan.nii.gz", volume, array_spec(volume.shape, "zyx", (3.0, 2.0, 1.0), "mm"))
    return tmp_path / "scan.nii.gz"


def same_as_command_line(desk: Any, result: Labels) -> None:
    np.testing.assert_array_equal(desk.open(desk.command_line()).data, result.data)


@pytest.mark.parametrize("axis", ["z", "y", "x"])
def test_a_2d_model_walks_along_the_axis_that_is_chosen(axis: str, desk: Any, scan_file: Path) -> None:
    desk.open(scan_file)
    desk.choose("plain-2d")
    desk.pick("slice_axis", axis)
    assert f"slices along {axis} are segmented one by one" in desk.text("notes")
    same_as_command_line(desk, desk.segment())


def test_only_the_current_slice_gets_labels(desk: Any, scan_file: Path) -> None:
    scan = desk.open(scan_file)
    desk.choose("plain-3d")
    whole = desk.segment().data.copy()
    desk.viewer.dims.set_current_step(0, 5)
    desk.pick("part", "Current slice")
    assert "only this slice gets labels" in desk.text("notes")
    part = desk.segment()
    assert part.data.shape == scan.data.shape
    np.testing.assert_array_equal(part.data[5], whole[5])
    assert not part.data[np.arange(12) != 5].any()
    same_as_command_line(desk, part)


def test_only_what_the_view_shows_gets_labels(desk: Any, scan_file: Path) -> None:
    scan = desk.open(scan_file)
    desk.choose("plain-3d")
    desk.pick("part", "What the view shows")
    desk.viewer.scene.camera.center = scan.data_to_world((0, 10, 12))
    desk.viewer.scene.camera.zoom = 20 * 2
    part = desk.segment()
    (low, high), (left, right) = desk.controller.last.plan.request.config.region[1:]
    assert 0 <= low < 10 < high < 40
    assert 0 <= left < 12 < right < 48
    outside = part.data.copy()
    outside[:, low:high, left:right] = 0
    assert not outside.any()
    assert part.data.any()
    same_as_command_line(desk, part)


def test_a_time_series_is_segmented_frame_by_frame(
    desk: Any, volume: np.ndarray, tmp_path: Path, lies_on: Callable[..., None]
) -> None:
    series = np.stack([volume, volume[::-1] * 2, volume[:, ::-1]])
    path = tmp_path / "series.nii.gz"
    write_image(path, series, array_spec(series.shape, "tzyx", (3.0, 2.0, 1.0), "mm"))
    scan = desk.open(path)
    desk.choose("plain-3d")
    assert "3 time points are segmented one by one" in desk.text("notes")
    result = desk.segment()
    lies_on(result, scan, "tzyx")
    same_as_command_line(desk, result)
    desk.viewer.layers.clear()
    desk.viewer.add_image(series[1])
    desk.choose("plain-3d")
    np.testing.assert_array_equal(desk.segment().data, result.data[1])


def test_a_coarse_level_of_a_multiscale_layer_lies_on_the_fine_one(desk: Any, rng: np.random.Generator) -> None:
    fine = rng.normal(100, 20, (16, 64, 96)).astype(np.float32)
    levels = [fine, fine[:, ::2, ::2], fine[:, ::4, ::4]]
    scan = desk.viewer.add_image(levels, multiscale=True, scale=(3, 1, 1), translate=(5, 6, 7), units="mm")
    desk.choose("plain-3d")
    desk.pick("level", "1")
    result = desk.segment()
    assert result.data.shape == (16, 32, 48)
    np.testing.assert_allclose(result.scale, (3, 2, 2))
    np.testing.assert_allclose(result.data_to_world((-0.5, -0.5, -0.5)), scan.data_to_world((-0.5, -0.5, -0.5)))
    np.testing.assert_allclose(result.data_to_world((15.5, 31.5, 47.5)), scan.data_to_world((15.5, 63.5, 95.5)))
    desk.viewer.layers.clear()
    desk.viewer.add_image(levels[1], scale=(3, 2, 2), units="mm")
    desk.choose("plain-3d")
    np.testing.assert_array_equal(desk.segment().data, result.data)


def test_a_lazy_layer_is_computed_once_and_block_by_block(desk: Any, volume: np.ndarray) -> None:
    da = pytest.importorskip("dask.array")
    computed: list[tuple[int, int]] = []

    def block(block_info: Any = None) -> np.ndarray:
        (start, stop), *_ = block_info[None]["array-location"]
        computed.append((start, stop))
        return volume[start:stop]

    lazy = da.map_blocks(block, chunks=((1,) * 12, 40, 48), dtype=np.float32, meta=np.empty((0, 0, 0), np.float32))
    desk.viewer.add_image(lazy, name="lazy", contrast_limits=(0, 200), cache=False)
    desk.choose("plain-3d")
    computed.clear()
    result = desk.segment()
    assert sorted({start for start, _ in computed}) == list(range(12))
    assert len(computed) <= 12 + 2  # the viewer draws its slice as well
    desk.viewer.layers.clear()
    desk.viewer.add_image(volume)
    desk.choose("plain-3d")
    np.testing.assert_array_equal(desk.segment().data, result.data)


def test_a_zarr_on_disk_is_opened_by_the_engine_itself(
    desk: Any, volume: np.ndarray, tmp_path: Path, lies_on: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "scan.zarr"
    write_zarr(path, volume, array_spec(volume.shape, "zyx", (3.0, 2.0, 1.0), "mm"), {})
    scan = desk.open(path)
    desk.choose("plain-3d")

    def refuse(*_: Any) -> None:
        raise AssertionError("the voxels are copied")

    monkeypatch.setattr("prosma_core.engine.client.Engine.allocate", refuse)
    result = desk.segment()
    lies_on(result, scan, "zyx")
    output = desk.command_line()
    by_command = output.rename(tmp_path / f"command_{output.name}")
    for path in (by_command, desk.save()):
        np.testing.assert_array_equal(desk.open(path).data, result.data)


@pytest.mark.parametrize(
    ("name", "written", "read", "model"),
    [
        ("scan.tif", "tyx", "zyx", "plain-3d"),
        ("scan.nii.gz", "tzyx", "czyx", "spine-3d"),
        ("turned.nii.gz", "tzyx", "czyx", "spine-3d"),
    ],
)
def test_the_command_reads_the_axes_as_they_were_read_here(
    name: str, written: str, read: str, model: str, desk: Any, volume: np.ndarray, tmp_path: Path
) -> None:
    data = volume if written == "tyx" else np.stack([volume, volume[::-1], volume[:, ::-1]])
    spec = array_spec(data.shape, written, (3.0, 2.0, 1.0)[-len(written) + 1 :], "mm")
    if name.startswith("turned"):
        turned = spec.affine[[1, 2, 0, 3]]
        spec = replace(spec, affine=turned, world="ras")  # drawn with its axes in another order
    write_image(tmp_path / name, data, spec)
    desk.open(tmp_path / name)
    if written == "tzyx":
        desk.type_in("axes", desk.controller.axes.replace("t", "c"))
    assert sorted(desk.controller.axes) == sorted(read)
    assert (desk.controller.axes == read) == (not name.startswith("turned"))
    desk.choose(model)
    result = desk.segment()
    np.testing.assert_array_equal(desk.open(desk.command_line()).data, result.data)


def test_the_command_of_a_coarse_level_names_no_file(desk: Any, volume: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "scan.zarr"
    write_zarr(path, volume, array_spec(volume.shape, "zyx", (3.0, 2.0, 1.0), "mm"), {})
    levels = [volume, volume[:, ::2, ::2]]
    desk.viewer.add_image(levels, multiscale=True, metadata={"prosma": {"path": str(path)}})
    desk.choose("plain-3d")
    desk.pick("level", "1")
    desk.segment()
    assert desk.command().startswith("prosma segment SCAN ")


def test_probabilities_and_uncertainty_lie_on_the_scan(
    desk: Any, scan_file: Path, lies_on: Callable[..., None]
) -> None:
    scan = desk.open(scan_file)
    desk.choose("plain-3d")
    desk.widget.advanced.expand(animate=False)
    boxes = [b for b in desk.widget.advanced.findChildren(QCheckBox) if not b.isHidden()]
    for box in boxes:
        if box.text() in {"Probability layer", "Uncertainty layer (entropy)"}:
            box.click()
    result = desk.segment()
    maps = {layer.name: layer for layer in desk.viewer.layers if isinstance(layer, Image) and layer is not scan}
    assert sorted(maps) == [f"{result.name} probability", f"{result.name} uncertainty"]
    probability, uncertainty = maps[f"{result.name} probability"], maps[f"{result.name} uncertainty"]
    lies_on(uncertainty, scan, "zyx")
    np.testing.assert_allclose(probability.data.sum(axis=0, dtype=np.float64), 1, atol=0.01)
    np.testing.assert_array_equal(probability.data.argmax(axis=0), result.data)
    assert uncertainty.data.min() >= 0
    assert 0.1 < uncertainty.data.max() <= 1
    for corner in ((0, 0, 0), (11, 39, 47)):
        np.testing.assert_array_equal(probability.data_to_world((1, *corner))[1:], scan.data_to_world(corner))
    assert probability.units[1:] == scan.units
    assert probability.axis_labels == ("c", *scan.axis_labels)


def test_a_picture_in_colour_with_and_without_alpha(desk: Any, rng: np.random.Generator) -> None:
    picture = rng.integers(0, 255, (60, 80, 4), np.uint8)
    results = []
    for channels in (3, 4):
        desk.viewer.add_image(picture[..., :channels], rgb=True)
        desk.choose("breast-lesion-us")
        results.append(desk.segment())
    assert results[0].data.shape == (60, 80)
    np.testing.assert_array_equal(results[0].data, results[1].data)


def test_how_it_was_made_and_the_names_of_classes_stay_with_the_file(desk: Any, scan_file: Path) -> None:
    desk.open(scan_file)
    desk.choose("phantom-3d")
    result = desk.segment()
    kept = result.metadata["prosma"]["provenance"]
    assert kept["model"].startswith("phantom-3d")
    assert "scan.nii.gz" in kept.values()
    saved = desk.save()
    comments = b"".join(e.get_content() for e in nibabel.load(saved).header.extensions)
    for value in kept.values():
        assert value.encode() in comments.replace(b'\\"', b'"')
    again = desk.open(saved)
    assert isinstance(again, Labels)
    assert list(again.features["name"]) == ["background", "organ", "lesion"]
    assert again.metadata["prosma"]["provenance"] == kept
    for value in (1, 2):
        np.testing.assert_allclose(again.get_color(value), result.get_color(value))
    np.testing.assert_array_equal(again.data, result.data)


def test_correcting_makes_a_copy_and_picks_the_brush(desk: Any, scan_file: Path, lies_on: Callable[..., None]) -> None:
    scan = desk.open(scan_file)
    desk.choose("plain-3d")
    result = desk.segment()
    desk.click("Correct && fine-tune")
    copy = desk.viewer.layers.selection.active
    lies_on(copy, scan, "zyx")
    assert copy is not result
    assert copy.mode == "paint"
    assert not result.visible
    np.testing.assert_array_equal(copy.data, result.data)
    copy.data[:] = 0
    assert result.data.any()


def test_a_deleted_result_can_no_longer_be_saved(desk: Any, scan_file: Path) -> None:
    desk.open(scan_file)
    desk.choose("plain-3d")
    desk.viewer.layers.remove(desk.segment())
    desk.qtbot.wait(50)
    assert desk.widget.result.isHidden()


@pytest.mark.parametrize("sample", ["phantom_2d", "phantom_3d"])
def test_the_sample_scans(sample: str, desk: Any, lies_on: Callable[..., None], tmp_path: Path) -> None:
    scan, truth = desk.viewer.open_sample("napari-prosma", sample)
    desk.choose("phantom-3d" if scan.ndim == 3 else "breast-lesion-us")
    result = desk.segment()
    lies_on(result, scan, "zyx"[-scan.ndim :])
    desk.picture(tmp_path / "window.png")
    if scan.ndim == 3:
        assert result.thumbnail[..., :3].any()
        for value in (1, 2):
            found, wanted = result.data == value, truth.data == value
            assert 2 * (found & wanted).sum() / (found.sum() + wanted.sum()) > 0.8
