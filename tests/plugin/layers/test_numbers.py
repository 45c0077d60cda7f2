"""Numbers in features tables are those of the present voxels, or gone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image, Labels
from napari.layers._layer_actions import _duplicate_layer

from napari_prosma.layers.contours import contour_view
from napari_prosma.layers.numbers import NUMBERS
from napari_prosma.layers.results import objects_layer
from napari_prosma.layers.scan import read
from napari_prosma.segment.measures import size_heading
from prosma_core.data.geometry import array_spec

CHANGES: dict[str, Callable[[Labels], None]] = {
    "painted": lambda layer: layer.paint((2, 5, 5), 2),
    "filled": lambda layer: layer.fill((2, 5, 5), 2),
    "set": lambda layer: layer.data_setitem((np.array([2]), np.array([5]), np.array([5])), 2),
    "replaced": lambda layer: setattr(layer, "data", np.ones_like(layer.data)),
}


@pytest.fixture
def objects() -> Labels:
    scan = read(Image(np.zeros((4, 30, 40)), name="scan"))
    made = np.zeros(scan.spec.shape, np.uint16)
    made[1, 3, 3:8] = 1
    table = {"index": [1], "class": ["lesion"], "voxels": [5], "Volume (mL)": [0.5]}
    return objects_layer(scan, made, table, "objects", {"model": "m"})


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("copied", [False, True])
def test_numbers_of_objects_go_with_the_first_change(objects: Labels, change: str, copied: bool) -> None:
    viewer = ViewerModel()
    contour_view(viewer)
    viewer.add_layer(objects)
    if copied:
        viewer.layers.selection = {objects}
        _duplicate_layer(viewer.layers)
    layer: Any = viewer.layers[-1]
    viewer.dims.set_current_step(0, 2)
    assert list(layer.features["voxels"]) == [5]
    CHANGES[change](layer)
    assert layer.features.to_dict("list") == {"index": [1], "class": ["lesion"]}
    assert copied is ("voxels" in objects.features)


def test_a_table_of_another_plugin_stays() -> None:
    viewer = ViewerModel()
    contour_view(viewer)
    layer = viewer.add_labels(np.zeros((30, 40), np.uint8), features={"cell": ["a"], "voxels": [5]})
    layer.paint((5, 5), 2)
    assert layer.features.to_dict("list") == {"cell": ["a"], "voxels": [5]}


FOREIGN = {"index": [1], "class": ["lesion"], "voxels": [41], "Volume (mL)": [4.1]}


@pytest.mark.parametrize("change", CHANGES)
def test_columns_that_another_plugin_gave_a_result_stay(objects: Labels, change: str) -> None:
    viewer = ViewerModel()
    contour_view(viewer)
    layer: Any = viewer.add_layer(objects)
    layer.features = FOREIGN
    viewer.dims.set_current_step(0, 2)
    CHANGES[change](layer)
    assert layer.features.to_dict("list") == FOREIGN


def test_of_a_table_only_our_columns_go(objects: Labels) -> None:
    viewer = ViewerModel()
    contour_view(viewer)
    layer: Any = viewer.add_layer(objects)
    layer.features = layer.features.assign(**{"pixels": [7], "Volume (mL)": [4.1]})
    CHANGES["painted"](layer)
    assert layer.features.to_dict("list") == {"index": [1], "class": ["lesion"], "Volume (mL)": [4.1], "pixels": [7]}


@pytest.mark.parametrize("unit", ["mm", "um", "nm", "m"])
@pytest.mark.parametrize("axes", ["yx", "zyx", "tyx", "tzyx"])
def test_every_size_is_known_as_a_number(unit: str, axes: str) -> None:
    spec = array_spec((3,) * len(axes), axes, (1.0,) * len(axes.replace("t", "")), unit)
    assert size_heading(spec) in NUMBERS
