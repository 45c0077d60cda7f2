"""Training on layers larger than memory, with the real engine: patches come from the store, results are the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import zarr
from safetensors.numpy import load_file
from tests.e2e.conftest import engine_of_large_scans

from napari_prosma.jobs.boundary import Jobs
from napari_prosma.layers.scan import LayerScan
from napari_prosma.layers.zarr_slices import ZarrArray
from prosma_core.config.training import LabelsConfig
from prosma_core.data.phantom import phantom_3d
from prosma_core.runs.run_folder import RunFolder

SIZE = (3.0, 1.0, 1.0)


@pytest.fixture(scope="module")
def jobs(one_thread: None, qapp: Any) -> Iterator[Jobs]:
    """Return an engine for which every scan that can be read by parts is large."""
    with engine_of_large_scans() as made:
        yield made


@pytest.fixture
def pairs() -> list[tuple[np.ndarray, np.ndarray]]:
    found = (phantom_3d(seed) for seed in (3, 4))
    return [(np.rint(100 * image.data).astype(np.int16), labels.data.astype(np.uint8)) for image, labels in found]


def stored(path: Path, voxels: np.ndarray) -> Path:
    array = zarr.create_array(str(path), shape=voxels.shape, dtype=voxels.dtype, chunks=(8, 16, 16), zarr_format=2)
    array[...] = voxels
    array.attrs.update({"axes": ["z", "y", "x"], "spacing": list(SIZE), "unit": "mm"})
    return path


def in_memory(desk: Any, path: Path, voxels: np.ndarray) -> Any:
    return desk.viewer.add_image(voxels, name=path.stem, scale=SIZE, units=("mm",) * 3)


def opened(desk: Any, path: Path, voxels: np.ndarray) -> Any:
    layer = desk.open(stored(path, voxels))
    assert isinstance(layer.data, ZarrArray)
    return layer


def of_dask(desk: Any, path: Path, voxels: np.ndarray) -> Any:
    data = da.from_array(voxels - 1, chunks=(5, *voxels.shape[1:])) + 1  # computed: in no file
    return desk.viewer.add_image(data, name=path.stem, scale=SIZE, units=("mm",) * 3)


def trained(desk: Any, folder: Path, pairs: list[tuple[np.ndarray, np.ndarray]], show: Callable[..., Any]) -> Any:
    """Train on layers that are shown in some way, and labels in memory; returns the outcome and the lines."""
    folder.mkdir()
    for number, (voxels, drawn) in enumerate(pairs):
        image = show(desk, folder / f"scan{number}.zarr", voxels)
        labels = desk.viewer.add_labels(drawn.copy(), name=f"painted{number}", scale=SIZE, units=("mm",) * 3)
        desk.add(image, labels)
    desk.short(epochs=2, steps=4)
    desk.controller.choose_name(folder.name)
    lines: list[str] = []
    desk.click("run")
    run = desk.controller.trainings.run
    assert run is not None, desk.text("error")
    say = run.say
    run.say = lambda line: (lines.append(line), say(line))[1]
    outcome = desk.wait()
    assert desk.text("error") == ""
    return outcome, lines


@pytest.mark.parametrize("show", [opened, of_dask])
def test_a_training_on_large_layers_learns_what_one_in_memory_learns(
    show: Callable[..., Any],
    bare_desk: Any,
    tmp_path: Path,
    pairs: list[tuple[np.ndarray, np.ndarray]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, _ = trained(bare_desk, tmp_path / "memory", pairs, in_memory)
    bare_desk.controller._remove([0, 1])
    bare_desk.viewer.layers.clear()
    load = LayerScan.load

    def small(scan: LayerScan) -> Any:
        assert isinstance(scan.data, np.ndarray), "a large layer is read as a whole"
        return load(scan)

    monkeypatch.setattr(LayerScan, "load", small)
    parts, lines = trained(bare_desk, tmp_path / "parts", pairs, show)
    assert any("read by parts (scan0, scan1)" in line for line in lines)
    (images,) = RunFolder.beside(parts.model).root.rglob("images")
    assert sorted(path.is_symlink() for path in images.iterdir()) == [show is opened] * 2
    histories = [RunFolder.beside(each.model).history.read_text().splitlines() for each in (whole, parts)]
    columns = histories[0][0].split(",")
    kept = [i for i, name in enumerate(columns) if "seconds" not in name and "time" not in name]
    rows = [[[line.split(",")[i] for i in kept] for line in history] for history in histories]
    assert rows[0] == rows[1]
    weights = [load_file(each.model) for each in (whole, parts)]
    assert weights[0].keys() == weights[1].keys()
    assert all(np.array_equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_what_cannot_be_learned_by_parts_is_refused_before_voxels_are_read(
    bare_desk: Any, tmp_path: Path, pairs: list[tuple[np.ndarray, np.ndarray]]
) -> None:
    for number, (voxels, drawn) in enumerate(pairs):
        image = opened(bare_desk, tmp_path / f"scan{number}.zarr", voxels)
        numbered = bare_desk.viewer.add_labels(drawn.copy(), name=f"n{number}", scale=SIZE, units=("mm",) * 3)
        bare_desk.add(image, numbered)
    bare_desk.short(epochs=1, steps=1)
    bare_desk.controller.choose_labels(LabelsConfig(one_class=True, separate=True))
    bare_desk.read(2)
    bare_desk.click("run")
    bare_desk.until(lambda: bare_desk.controller.trainings.run is None)
    assert "does not fit into memory and is read by parts" in bare_desk.text("error")
    assert "kept apart" in bare_desk.text("error")
