"""What can be chosen before the click, with the real engine; where a window matters, in one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.layers import Labels

from prosma_core.data.geometry import array_spec
from prosma_core.io.images import write_image
from prosma_core.io.zarr_images import write_zarr

pytestmark = pytest.mark.slow


def same_as_command_line(desk: Any, result: Labels) -> None:
    np.testing.assert_array_equal(desk.open(desk.command_line()).data, result.data)


@pytest.mark.parametrize("axis", ["z", "y", "x"])
def test_a_2d_model_walks_along_the_axis_that_is_chosen(axis: str, bare_desk: Any, scan_file: Path) -> None:
    bare_desk.open(scan_file)
    bare_desk.choose("plain-2d")
    bare_desk.pick("slice_axis", axis)
    assert f"slices along {axis} are segmented one by one" in bare_desk.text("notes")
    same_as_command_line(bare_desk, bare_desk.segment())


@pytest.mark.data
def test_two_clicks_from_an_opened_scan_to_a_saved_result(bare_desk: Any, copy_of: Any, data_root: Path) -> None:
    name = next(path.name for path in sorted((data_root / "msd_hippocampus" / "images").iterdir()))
    bare_desk.open(copy_of(f"msd_hippocampus/images/{name}"))
    bare_desk.segment()
    assert bare_desk.save().is_file()
    assert bare_desk.clicks == 2


def test_only_the_current_slice_gets_labels(bare_desk: Any, scan_file: Path) -> None:
    scan = bare_desk.open(scan_file)
    bare_desk.choose("plain-3d")
    whole = bare_desk.segment().data.copy()
    bare_desk.viewer.dims.set_current_step(0, 5)
    bare_desk.pick("part", "Current slice")
    assert "only this slice gets labels" in bare_desk.text("notes")
    part = bare_desk.segment()
    assert part.data.shape == scan.data.shape
    np.testing.assert_array_equal(part.data[5], whole[5])
    assert not part.data[np.arange(12) != 5].any()
    same_as_command_line(bare_desk, part)


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
    bare_desk: Any, volume: np.ndarray, tmp_path: Path, lies_on: Callable[..., None]
) -> None:
    series = np.stack([volume, volume[::-1] * 2, volume[:, ::-1]])
    path = tmp_path / "series.nii.gz"
    write_image(path, series, array_spec(series.shape, "tzyx", (3.0, 2.0, 1.0), "mm"))
    scan = bare_desk.open(path)
    bare_desk.choose("plain-3d")
    assert "3 time points are segmented one by one" in bare_desk.text("notes")
    result = bare_desk.segment()
    lies_on(result, scan, "tzyx")
    same_as_command_line(bare_desk, result)
    bare_desk.viewer.layers.clear()
    bare_desk.viewer.add_image(series[1])
    bare_desk.choose("plain-3d")
    np.testing.assert_array_equal(bare_desk.segment().data, result.data[1])


def test_a_coarse_level_of_a_multiscale_layer_lies_on_the_fine_one(bare_desk: Any, rng: np.random.Generator) -> None:
    fine = rng.normal(100, 20, (16, 64, 96)).astype(np.float32)
    levels = [fine, fine[:, ::2, ::2], fine[:, ::4, ::4]]
    scan = bare_desk.viewer.add_image(levels, multiscale=True, scale=(3, 1, 1), translate=(5, 6, 7), units="mm")
    bare_desk.choose("plain-3d")
    bare_desk.pick("level", "1")
    result = bare_desk.segment()
    assert result.data.shape == (16, 32, 48)
    np.testing.assert_allclose(result.scale, (3, 2, 2))
    np.testing.assert_allclose(result.data_to_world((-0.5, -0.5, -0.5)), scan.data_to_world((-0.5, -0.5, -0.5)))
    np.testing.assert_allclose(result.data_to_world((15.5, 31.5, 47.5)), scan.data_to_world((15.5, 63.5, 95.5)))
    bare_desk.viewer.layers.clear()
    bare_desk.viewer.add_image(levels[1], scale=(3, 2, 2), units="mm")
    bare_desk.choose("plain-3d")
    np.testing.assert_array_equal(bare_desk.segment().data, result.data)


def test_a_lazy_layer_is_computed_once_and_block_by_block(bare_desk: Any, volume: np.ndarray) -> None:
    da = pytest.importorskip("dask.array")
    computed: list[tuple[int, int]] = []

    def block(block_info: Any = None) -> np.ndarray:
        (start, stop), *_ = block_info[None]["array-location"]
        computed.append((start, stop))
        return volume[start:stop]

    lazy = da.map_blocks(block, chunks=((1,) * 12, 40, 48), dtype=np.float32, meta=np.empty((0, 0, 0), np.float32))
    bare_desk.viewer.add_image(lazy, name="lazy", contrast_limits=(0, 200), cache=False)
    bare_desk.choose("plain-3d")
    computed.clear()
    result = bare_desk.segment()
    assert sorted({start for start, _ in computed}) == list(range(12))
    assert len(computed) <= 12 + 2  # the viewer draws its slice as well
    bare_desk.viewer.layers.clear()
    bare_desk.viewer.add_image(volume)
    bare_desk.choose("plain-3d")
    np.testing.assert_array_equal(bare_desk.segment().data, result.data)


def test_a_zarr_on_disk_is_opened_by_the_engine_itself(
    bare_desk: Any, volume: np.ndarray, tmp_path: Path, lies_on: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "scan.zarr"
    write_zarr(path, volume, array_spec(volume.shape, "zyx", (3.0, 2.0, 1.0), "mm"), {})
    scan = bare_desk.open(path)
    bare_desk.choose("plain-3d")

    def refuse(*_: Any) -> None:
        raise AssertionError("the voxels are copied")

    monkeypatch.setattr("prosma_core.engine.client.Engine.allocate", refuse)
    result = bare_desk.segment()
    lies_on(result, scan, "zyx")
    output = bare_desk.command_line()
    by_command = output.rename(tmp_path / f"command_{output.name}")
    for path in (by_command, bare_desk.save()):
        np.testing.assert_array_equal(bare_desk.open(path).data, result.data)


@pytest.mark.parametrize(
    ("name", "written", "read", "model"),
    [
        ("scan.tif", "tyx", "zyx", "plain-3d"),
        ("scan.nii.gz", "tzyx", "czyx", "spine-3d"),
        ("turned.nii.gz", "tzyx", "czyx", "spine-3d"),
    ],
)
def test_the_command_reads_the_axes_as_they_were_read_here(
    name: str, written: str, read: str, model: str, bare_desk: Any, volume: np.ndarray, tmp_path: Path
) -> None:
    data = volume if written == "tyx" else np.stack([volume, volume[::-1], volume[:, ::-1]])
    spec = array_spec(data.shape, written, (3.0, 2.0, 1.0)[-len(written) + 1 :], "mm")
    if name.startswith("turned"):
        turned = spec.affine[[1, 2, 0, 3]]
        spec = replace(spec, affine=turned, world="ras")  # drawn with its axes in another order
    write_image(tmp_path / name, data, spec)
    bare_desk.open(tmp_path / name)
    if written == "tzyx":
        bare_desk.type_in("axes", bare_desk.controller.axes.replace("t", "c"))
    assert sorted(bare_desk.controller.axes) == sorted(read)
    assert (bare_desk.controller.axes == read) == (not name.startswith("turned"))
    bare_desk.choose(model)
    result = bare_desk.segment()
    np.testing.assert_array_equal(bare_desk.open(bare_desk.command_line()).data, result.data)


def test_the_command_of_a_coarse_level_names_no_file(bare_desk: Any, volume: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "scan.zarr"
    write_zarr(path, volume, array_spec(volume.shape, "zyx", (3.0, 2.0, 1.0), "mm"), {})
    levels = [volume, volume[:, ::2, ::2]]
    bare_desk.viewer.add_image(levels, multiscale=True, metadata={"prosma": {"path": str(path)}})
    bare_desk.choose("plain-3d")
    bare_desk.pick("level", "1")
    bare_desk.segment()
    assert bare_desk.command().startswith("prosma segment SCAN ")


def test_where_no_model_is_meant_a_click_opens_train_with_the_scan_and_an_empty_layer(
    desk: Any, scan_file: Path
) -> None:
    scan = desk.open(scan_file)
    assert "train one from a few slices" in desk.text("problem_model")
    desk.click("train")
    labels = desk.viewer.layers.selection.active
    assert (labels.mode, labels.data.shape) == ("paint", scan.data.shape)
    (pair,) = desk.viewer.window.dock_widgets["Train (ProSMA)"].controller._pairs.pairs
    assert (pair.image.layer, pair.labels.layer) == (scan, labels)
