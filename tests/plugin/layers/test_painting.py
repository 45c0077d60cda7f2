"""Labels on a disk are brought into memory to be painted in, or the tool is put away with the reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Labels
from napari.utils.notifications import notification_manager

from napari_prosma.layers import painting
from napari_prosma.layers.contours import contour_view
from napari_prosma.layers.results import PAINTING
from napari_prosma.layers.scan import read
from napari_prosma.layers.slices import marks_of, slice_states
from prosma_core.data.geometry import array_spec
from prosma_core.io.images import write_labels

OpenLayer = Callable[[Path], Any]


@pytest.fixture
def told() -> Iterator[Callable[[], list[str]]]:
    """Return what napari told the person since."""
    notification_manager.records.clear()
    yield lambda: [f"{r.severity}: {r.message}" for r in notification_manager.records]
    notification_manager.records.clear()


@pytest.fixture
def labels(tmp_path: Path, open_layer: OpenLayer) -> Labels:
    """Return labels of a model in a zarr folder."""
    data = np.zeros((6, 20, 22), np.uint8)
    data[2:4, 5:9, 5:9] = 1
    spec = array_spec(data.shape, "zyx", (3, 1, 1), "mm")
    notes = {"program": "prosma 1", "model": "m", "model_sha256": "0" * 64, "kind": "labels"}
    write_labels(tmp_path / "labels.zarr", data, spec, provenance=notes)
    return open_layer(tmp_path / "labels.zarr")


@pytest.mark.parametrize("tool", PAINTING)
def test_small_labels_of_a_zarr_are_painted_in_memory(
    tool: str, labels: Labels, told: Callable[[], list[str]], tmp_path: Path
) -> None:
    viewer = ViewerModel()
    viewer.add_layer(labels)
    contour_view(viewer)
    before = np.asarray(labels.data)
    labels.mode = tool
    assert labels.mode == tool
    assert isinstance(labels.data, np.ndarray)
    np.testing.assert_array_equal(labels.data, before)
    labels.data_setitem((np.array([1]), np.array([3]), np.array([4])), 1)
    assert labels.data[1, 3, 4] == 1
    assert told() == ["info: labels was read from its file to be painted in; the file stays until the layer is saved."]
    assert marks_of(labels).base is not None
    assert not marks_of(labels).base.later
    assert slice_states(labels).edited == (1,)
    assert read(labels).path == tmp_path / "labels.zarr"


def test_no_tool_is_chosen_for_labels_that_are_too_large(
    labels: Labels, told: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(painting, "MOST_BYTES", 2000)
    viewer = ViewerModel()
    contour_view(viewer)
    viewer.add_layer(labels)
    data = labels.data
    labels.mode = "paint"
    assert labels.mode == "pan_zoom"
    assert labels.data is data
    (text,) = told()
    assert text.startswith("warning: labels cannot be painted in: its voxels lie in a file")
    labels.mode = "pick"
    assert len(told()) == 1


def test_labels_in_memory_are_left_alone(told: Callable[[], list[str]]) -> None:
    viewer = ViewerModel()
    contour_view(viewer)
    layer = viewer.add_labels(np.zeros((5, 6), np.uint8))
    data = layer.data
    layer.mode = "paint"
    assert layer.data is data
    lazy = viewer.add_labels(da.zeros((5, 6), dtype=np.uint8))
    lazy.mode = "erase"
    assert isinstance(lazy.data, np.ndarray)
    assert len(told()) == 1
