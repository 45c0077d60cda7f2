"""Scans that are opened beside others are seen; a view that shows them well, and one that is painted in, stays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_prosma.layers.scan import read
from napari_prosma.layers.viewport import bring_into_view, current_slice, view_box

FIRST: dict[str, Any] = {"scale": (2, 1, 1), "translate": (0, 50, 50), "units": "mm", "axis_labels": ("z", "y", "x")}


@pytest.fixture
def viewer() -> ViewerModel:
    """A viewer fitted to a scan of 40 x 60 x 80 mm; scans that are opened beside it are brought into view."""
    viewer = ViewerModel()
    viewer.add_image(np.zeros((20, 60, 80), np.float32), **FIRST)
    viewer.layers.events.inserted.connect(lambda event: bring_into_view(viewer, event.value), position="last")
    return viewer


def camera(viewer: ViewerModel) -> tuple[Any, ...]:
    return tuple(viewer.scene.camera.center), viewer.scene.camera.zoom, tuple(viewer.dims.point)


OTHERS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "elsewhere": ((20, 60, 80), FIRST | {"translate": (0, 50, 700)}),
    "other slices": ((20, 60, 80), FIRST | {"translate": (-900, 50, 50)}),
    "larger": ((20, 900, 900), FIRST | {"translate": (0, -400, -400)}),
    "smaller": ((20, 6, 8), FIRST | {"translate": (0, 60, 60)}),
    "turned and in other units": ((20, 60, 80), {"scale": (-2, 0.1, -0.1), "translate": (-9, 90, 90), "units": "cm"}),
    "a picture": ((700, 900, 3), {"rgb": True}),
}


@pytest.mark.parametrize("ndisplay", [2, 3])
@pytest.mark.parametrize("name", OTHERS)
def test_a_scan_that_lies_elsewhere_or_has_another_size_is_brought_into_view(
    viewer: ViewerModel, name: str, ndisplay: int
) -> None:
    viewer.dims.ndisplay = ndisplay
    shape, placed = OTHERS[name]
    layer = viewer.add_image(np.zeros(shape, np.uint8), **placed)
    scan = read(layer)
    n = scan.spec.spatial_ndim
    assert view_box(layer, scan, viewer) == tuple((0, size) for size in scan.spec.spatial_shape[:n])
    if ndisplay == 2:
        assert current_slice(layer, scan, viewer) is not None
        shown = np.ptp(np.array(layer.extent.world), axis=0)[-2:] * viewer.scene.camera.zoom
        if "units" not in placed or placed["units"] == "mm":
            assert np.max(shown / np.array(viewer.canvas.size)) == pytest.approx(0.95, abs=0.15)
    seen = camera(viewer)
    bring_into_view(viewer, layer)
    assert camera(viewer) == seen


@pytest.mark.parametrize("order", [(2, 3, 0, 1), (1, 2, 0, 3), (0, 2, 3, 1), (0, 1, 3, 2)])
@pytest.mark.parametrize("ndisplay", [2, 3])
def test_a_picture_with_fewer_axes_than_the_viewer_is_brought_into_view_as_far_as_it_is_displayed(
    order: tuple[int, ...], ndisplay: int
) -> None:
    viewer = ViewerModel()
    viewer.add_image(np.zeros((3, 20, 60, 80), np.float32), axis_labels=tuple("tzyx"))
    viewer.dims.ndisplay, viewer.dims.order = ndisplay, order
    viewer.scene.camera.center = (7.0, 7.0, 7.0)
    scan = viewer.add_image(np.zeros((20, 20), np.uint8), translate=(700, 900))
    bring_into_view(viewer, scan)
    places = {axis: place for place, axis in enumerate(viewer.dims.displayed, 3 - ndisplay)}
    center = [7.0, 7.0, 7.0]
    for axis, middle in ((2, 709.5), (3, 909.5)):
        if axis in places:
            center[places[axis]] = middle
        else:
            assert viewer.dims.point[axis] == middle
    assert viewer.scene.camera.center == pytest.approx(center)
    assert view_box(scan, read(scan), viewer) == ((0, 20), (0, 20))
    seen = camera(viewer)
    viewer.add_image(np.zeros((3, 20, 60, 80), np.float32))
    bring_into_view(viewer, scan)
    assert camera(viewer) == seen


def test_a_scan_at_the_same_place_keeps_the_view_that_a_person_chose(viewer: ViewerModel) -> None:
    viewer.scene.camera.center, viewer.scene.camera.zoom = (0, 60, 60), 100.0
    viewer.dims.set_point(0, 4)
    before = camera(viewer)
    viewer.add_image(np.ones((20, 60, 80), np.float32), **FIRST)
    assert camera(viewer) == before


def test_the_view_stays_while_labels_are_painted(viewer: ViewerModel) -> None:
    labels = viewer.add_labels(np.zeros((20, 60, 80), np.uint8), **FIRST)
    labels.mode = "paint"
    before = camera(viewer)
    viewer.add_image(np.ones((20, 60, 80), np.float32), **FIRST | {"translate": (0, 50, 700)})
    assert camera(viewer)[:2] == before[:2]
