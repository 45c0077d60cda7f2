"""The line of status in 3D, where napari does not know yet where the pointer points."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Labels
from napari.utils.interactions import mouse_move_callbacks

from napari_prosma.layers.pointer import pointer_view

Move = Callable[[ViewerModel], None]


@pytest.fixture
def viewer() -> ViewerModel:
    """Return a viewer of a scan with its labels, the pointer over the canvas."""
    viewer = ViewerModel()
    viewer.add_image(np.zeros((4, 8, 8)))
    viewer.add_layer(Labels(np.ones((4, 8, 8), np.uint8), features={"index": [0, 1], "name": ["", "organ"]}))
    viewer.mouse_over_canvas = True
    return viewer


@pytest.fixture
def move() -> Move:
    """Return what moves the pointer over the canvas, as napari's canvas hears of it."""

    def move(viewer: ViewerModel) -> None:
        viewer.cursor._view_direction = np.array([1.0, 0, 0]) if viewer.dims.ndisplay == 3 else None
        viewer.cursor.position = (0, 3, 3 + viewer.cursor.position[-1] % 2)
        mouse_move_callbacks(viewer, type("Event", (), {"is_dragging": False})())

    return move


def select(viewer: ViewerModel, *kinds: Any) -> None:
    """Select layers one after the other: napari says what lies under the pointer in each."""
    for kind in kinds:
        viewer.layers.selection = {layer for layer in viewer.layers if type(layer).__name__ == kind}


def test_a_result_can_be_selected_in_3d_before_the_pointer_moves(viewer: ViewerModel, move: Move) -> None:
    pointer_view(viewer)
    select(viewer, "Image", "Labels")
    assert "name: organ" in viewer.status["value"]
    viewer.dims.ndisplay = 3
    select(viewer, "Image", "Labels")
    viewer.mouse_over_canvas = True  # it has come in with its last move
    select(viewer, "Image", "Labels")
    move(viewer)
    assert viewer.mouse_over_canvas
    select(viewer, "Image", "Labels")
    assert "name: organ" in viewer.status["value"]


def test_leaving_counts_as_ever(viewer: ViewerModel, move: Move) -> None:
    pointer_view(viewer)
    viewer.dims.ndisplay = 3
    move(viewer)
    viewer.mouse_over_canvas = False
    viewer.mouse_over_canvas = True
    assert viewer.mouse_over_canvas
    viewer.dims.ndisplay = 2
    assert viewer.mouse_over_canvas


def test_a_viewer_that_is_in_3d_already_waits_too(viewer: ViewerModel, move: Move) -> None:
    viewer.dims.ndisplay = 3
    pointer_view(viewer)
    select(viewer, "Image", "Labels")
    move(viewer)
    select(viewer, "Image", "Labels")
    assert "name: organ" in viewer.status["value"]
