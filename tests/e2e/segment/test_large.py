"""Layers larger than memory: the engine reads their files by parts, and the result fills on the disk."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import zarr
from napari.components import ViewerModel
from napari.layers import Labels
from napari.utils import resize_dask_cache
from pytestqt.qtbot import QtBot
from tests.e2e.conftest import engine_of_large_scans
from tests.e2e.segment.conftest import SegmentDesk
from tests.servers import serving

from napari_prosma.jobs.boundary import Jobs
from napari_prosma.jobs.run import CACHE
from napari_prosma.jobs.session import Session
from napari_prosma.layers.dask_cache import MOST
from napari_prosma.layers.scan import METADATA, read
from napari_prosma.layers.stored import DiskArray
from napari_prosma.segment.job import CONTINUES, TOO_LARGE, SegmentJob
from prosma_core.config.inference import InferenceConfig
from prosma_core.data.geometry import array_spec
from prosma_core.io.images import read_labels, write_image
from prosma_core.io.remote import input_path


@pytest.fixture(scope="module")
def jobs(one_thread: None, qapp: Any) -> Iterator[Jobs]:
    """Return an engine for which every scan that can be read by parts is large."""
    with engine_of_large_scans() as made:
        yield made


@pytest.fixture
def desk(bare_viewer: ViewerModel, session: Session, qtbot: QtBot) -> Iterator[SegmentDesk]:
    made = SegmentDesk(bare_viewer, session, qtbot)
    made.choose("plain-3d")
    yield made
    made.widget.close()


@pytest.fixture
def voxels(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 2000, (21, 50, 44), np.uint16)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the messages of the jobs."""
    lines: list[str] = []
    say = SegmentJob.say
    monkeypatch.setattr(SegmentJob, "say", lambda job, line: (lines.append(line), say(job, line))[1])
    return lines


def store(path: Path, voxels: np.ndarray, axes: str = "zyx", **attributes: Any) -> Path:
    chunks = (1,) * (voxels.ndim - 3) + (8, 16, 16)
    array = zarr.create_array(str(path), shape=voxels.shape, dtype=voxels.dtype, chunks=chunks, zarr_format=2)
    array[...] = voxels
    array.attrs.update({"axes": list(axes), "spacing": [3.0, 1.0, 1.0], "unit": "mm", **attributes})
    return path


def in_memory(desk: SegmentDesk, voxels: np.ndarray) -> np.ndarray:
    """Labels of the same scan in memory."""
    layer = desk.viewer.add_image(voxels, name="in memory", scale=(3, 1, 1), units=("mm",) * 3)
    desk.controller.choose_image(layer)
    desk.choose("plain-3d")
    found = desk.segment()
    assert isinstance(found.data, np.ndarray)
    values = np.array(found.data)
    desk.viewer.layers.clear()
    return values


def written(path: Path, voxels: np.ndarray) -> Path:
    write_image(path, voxels, array_spec(voxels.shape, "zyx", (3, 1, 1), "mm"))
    return path


def multiscale(path: Path, voxels: np.ndarray) -> list[Any]:
    """Levels of an OME-Zarr of two channels, of which the second is `voxels`."""
    group = zarr.create_group(str(path), zarr_format=2)
    both = np.stack([voxels[:, ::-1], voxels])
    for level, step in enumerate((1, 2)):
        data = both[..., ::step, ::step]
        group.create_array(str(level), shape=data.shape, dtype=data.dtype, chunks=(1, 8, 16, 16))[...] = data
    scales = [[1.0, 3.0, step, step] for step in (1.0, 2.0)]
    sets = [
        {"path": str(n), "coordinateTransformations": [{"type": "scale", "scale": s}]} for n, s in enumerate(scales)
    ]
    axes = [{"name": "c", "type": "channel"}]
    axes += [{"name": a, "type": "space", "unit": "millimeter"} for a in "zyx"]
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": sets}]
    return [da.from_zarr(str(path / str(level))) for level in range(2)]


WAYS: dict[str, Callable[[SegmentDesk, Path, np.ndarray], Any]] = {
    "our reader": lambda desk, path, voxels: desk.open(store(path / "scan.zarr", voxels)),
    "NIfTI": lambda desk, path, voxels: desk.open(written(path / "scan.nii", voxels)),
    "TIFF": lambda desk, path, voxels: desk.viewer.open(
        str(written(path / "scan.tif", voxels)), plugin="napari-prosma"
    )[0],
    "zarr array": lambda desk, path, voxels: desk.viewer.add_image(
        zarr.open_array(str(store(path / "scan.zarr", voxels)), mode="r"), scale=(3, 1, 1), units=("mm",) * 3
    ),
    "dask of a zarr": lambda desk, path, voxels: desk.viewer.add_image(
        da.from_zarr(str(store(path / "scan.zarr", voxels))), scale=(3, 1, 1), units=("mm",) * 3
    ),
    "channel of an OME-Zarr": lambda desk, path, voxels: desk.viewer.add_image(
        [level[1] for level in multiscale(path / "scan.zarr", voxels)],
        multiscale=True,
        scale=(3, 1, 1),
        units=("mm",) * 3,
    ),
    "dask without a file": lambda desk, path, voxels: desk.viewer.add_image(
        da.from_array(voxels, chunks=(5, 50, 44)), scale=(3, 1, 1), units=("mm",) * 3
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_large_layer_gets_the_labels_of_the_scan_in_memory(
    way: str, desk: SegmentDesk, tmp_path: Path, voxels: np.ndarray
) -> None:
    wanted = in_memory(desk, voxels)
    layer = WAYS[way](desk, tmp_path, voxels)
    desk.controller.choose_image(layer)
    desk.choose("plain-3d")
    found = desk.segment()
    assert isinstance(found.data, DiskArray)
    assert len(np.unique(wanted)) > 1
    np.testing.assert_array_equal(np.asarray(found.data), wanted)
    assert tuple(found.scale) == (3, 1, 1)
    assert not found.editable
    counts = found.features.set_index("index")["voxels"]
    assert [counts[value] for value in (1, 2)] == [int((wanted == value).sum()) for value in (1, 2)]


def test_napari_keeps_few_dask_blocks_while_a_job_runs_and_says_so(
    desk: SegmentDesk, tmp_path: Path, voxels: np.ndarray, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, sizes, handle = resize_dask_cache(1 << 30).cache, [], SegmentJob._take_stored

    def watched(job: SegmentJob, stored: Any) -> None:
        sizes.append(cache.available_bytes)
        handle(job, stored)

    monkeypatch.setattr(SegmentJob, "_take_stored", watched)
    for way, size in (("our reader", 1 << 30), ("dask of a zarr", MOST)):
        said.clear()
        sizes.clear()
        (tmp_path / way).mkdir()
        desk.controller.choose_image(WAYS[way](desk, tmp_path / way, voxels))
        desk.choose("plain-3d")
        desk.segment()
        assert set(sizes) == {size}
        assert cache.available_bytes == 1 << 30
        assert (CACHE in said) == (size == MOST)


def test_objects_of_a_large_layer_are_those_of_the_scan_in_memory(
    desk: SegmentDesk, tmp_path: Path, voxels: np.ndarray
) -> None:
    options = InferenceConfig(objects=True, min_size=5, fill_holes=True)
    desk.controller.choose_options(options)
    desk.viewer.add_image(voxels, name="in memory", scale=(3, 1, 1), units=("mm",) * 3)
    desk.choose("plain-3d")
    wanted = desk.segment()
    numbers = next(layer for layer in desk.viewer.layers if layer.name.endswith(" objects"))
    labels, numbers, features = np.array(wanted.data), np.array(numbers.data), numbers.features
    desk.viewer.layers.clear()
    desk.open(store(tmp_path / "scan.zarr", voxels))
    desk.choose("plain-3d")
    desk.controller.choose_options(options)
    found = desk.segment()
    objects = next(layer for layer in desk.viewer.layers if layer.name.endswith(" objects"))
    assert isinstance(objects.data, DiskArray)
    assert not objects.editable
    np.testing.assert_array_equal(np.asarray(found.data), labels)
    np.testing.assert_array_equal(np.asarray(objects.data), numbers)
    assert numbers.max() > 1
    assert objects.features.equals(features)


@pytest.mark.parametrize("name", ["scan.zarr", "scan.zarr.zip"])
def test_a_large_layer_of_a_url_is_read_from_the_server_by_the_engine(
    name: str, desk: SegmentDesk, tmp_path: Path, voxels: np.ndarray
) -> None:
    wanted = in_memory(desk, voxels)
    path = store(tmp_path / "served" / "scan.zarr", voxels)
    with zipfile.ZipFile(path.with_name("scan.zarr.zip"), "w") as packed:
        for file in path.rglob("*"):
            packed.write(file, file.relative_to(path))
    with serving(tmp_path / "served") as server:
        layer = desk.open(f"{server.url}/{name}")
        assert layer.metadata[METADATA]["path"] == f"{server.url}/{name}"
        desk.choose("plain-3d")
        assert read(layer).path == input_path(f"{server.url}/{name}")
        before = len(server.asked)
        found = desk.segment()
        assert len(server.asked) > before
    assert isinstance(found.data, DiskArray)
    np.testing.assert_array_equal(np.asarray(found.data), wanted)


def test_a_server_that_ended_is_named_in_the_window(desk: SegmentDesk, tmp_path: Path, voxels: np.ndarray) -> None:
    store(tmp_path / "served" / "scan.zarr", voxels)
    with serving(tmp_path / "served") as server:
        desk.open(f"{server.url}/scan.zarr")
        desk.choose("plain-3d")
        server.status = 404
        desk.click("run")
        desk.wait()
        assert f"{server.url}/scan.zarr cannot be read: the server has no zarr there" in desk.text("error")
        server.status = 0
        assert isinstance(desk.segment().data, DiskArray)


def test_the_result_fills_while_the_job_runs_and_a_cancelled_one_continues(
    desk: SegmentDesk, tmp_path: Path, voxels: np.ndarray, said: list[str]
) -> None:
    wanted = in_memory(desk, voxels)
    desk.open(store(tmp_path / "scan.zarr", voxels))
    desk.choose("plain-3d")
    desk.click("run")
    seen: list[int] = []

    def filling() -> bool:
        run = desk.controller.run
        if run is not None and run.labels is not None:
            seen.append(int(np.count_nonzero(run.labels.data[4])))
        return run is None or (len(seen) > 0 and seen[-1] > 0)

    desk.until(filling)
    assert desk.controller.run is not None, "it was over before it could be watched"
    part = np.asarray(desk.controller.run.labels.data)
    assert not np.array_equal(part, wanted)
    np.testing.assert_array_equal(part[part > 0], wanted[part > 0])
    desk.click("run")
    desk.wait()
    assert not [layer for layer in desk.viewer.layers if isinstance(layer, Labels)]
    assert desk.text("status") == CONTINUES
    found = desk.segment()
    assert any(line.endswith("of an earlier run stay.") for line in said)
    np.testing.assert_array_equal(np.asarray(found.data), wanted)


def test_a_large_result_is_saved_as_the_command_line_writes_it_and_not_corrected(
    desk: SegmentDesk, tmp_path: Path, voxels: np.ndarray
) -> None:
    desk.open(store(tmp_path / "scan.zarr", voxels))
    desk.choose("plain-3d")
    found = desk.segment()
    assert desk.text("status").startswith("Done in ")
    path = desk.save()
    assert path == tmp_path / "scan_plain-3d.zarr"
    np.testing.assert_array_equal(read_labels(path).data, np.asarray(found.data))
    desk.click("Correct && fine-tune")
    assert desk.text("error") == TOO_LARGE
    desk.segment()
    assert desk.controller.last.labels is not found
    assert desk.controller.last.labels.data.path != found.data.path
