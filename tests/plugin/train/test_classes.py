"""Classes of a training, from labels and the model to start from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from napari.layers import Image, Labels
from napari.utils.colormaps import DirectLabelColormap

from napari_prosma.layers.results import editable_copy, labels_layer
from napari_prosma.layers.scan import read
from napari_prosma.layers.slices import mark, slice_states
from napari_prosma.train.pairs import Pair, PairRow, check
from napari_prosma.train.sources import layer_source
from napari_prosma.train.state import classes_of
from prosma_core.config.model import ClassInfo
from prosma_core.config.training import LabelsConfig
from prosma_core.io.bundle import ModelEntry, read_header, shipped_models

IMAGE = Image(np.zeros((4, 8, 8)), name="scan")


def row(*values: int, config: LabelsConfig | None = None, **layer: Any) -> PairRow:
    """A pair whose labels hold these values, a voxel each."""
    data = np.zeros((4, 8, 8), np.int32)
    data.flat[: len(values)] = values
    return check(Pair(layer_source(IMAGE), layer_source(Labels(data, **layer))), config or LabelsConfig())


def corrected(name: str, *values: int) -> PairRow:
    """A corrected result of a shipped model that holds these values on a slice that was checked."""
    data = np.zeros((4, 8, 8), np.uint8)
    data.flat[: len(values)] = values
    scan = read(IMAGE)
    result = labels_layer(scan, data, entry(name).header.classes, "result", {"model": name})
    copy = editable_copy(result)
    mark(copy, 0, slice_states(copy))
    return check(Pair(layer_source(IMAGE), layer_source(copy)), LabelsConfig())


def entry(name: str) -> ModelEntry:
    path = shipped_models()[name]
    return ModelEntry(path, read_header(path), shipped=True)


def listed(classes: tuple[ClassInfo, ...]) -> list[tuple[int, str]]:
    return [(c.value, c.name) for c in classes]


def test_values_that_occur_in_any_pair_are_classes() -> None:
    rows = [row(3, 1), row(7, 3)]
    found = classes_of(rows, None)
    assert listed(found) == [(0, "background"), (1, "class 1"), (3, "class 3"), (7, "class 7")]
    assert found[2].color == next(c.color for c in rows[0].classes if c.value == 3)
    assert classes_of([], None) == classes_of([row()], None) == ()


def test_names_of_the_labels_win_over_those_of_the_model() -> None:
    named = row(1, 2, features={"index": [2], "name": ["tail"]})
    assert listed(classes_of([row(1), named], entry("hippocampus-mri")))[1:] == [
        (1, "anterior hippocampus"),
        (2, "tail"),
    ]
    assert listed(classes_of([row(1), named], None))[1:] == [(1, "class 1"), (2, "tail")]


def test_the_first_name_of_several_pairs_is_taken() -> None:
    a, b = (row(1, features={"index": [1], "name": [name]}) for name in ("liver", "spleen"))
    assert listed(classes_of([a, b], None)) == [(0, "background"), (1, "liver")]
    assert listed(classes_of([row(1), b], None)) == [(0, "background"), (1, "spleen")]


def test_a_corrected_result_keeps_the_models_classes_that_do_not_occur() -> None:
    start = entry("hippocampus-mri")
    found = classes_of([corrected("hippocampus-mri", 2)], start)
    assert [(c.value, c.name) for c in found] == [(c.value, c.name) for c in start.header.classes]
    assert [c.color for c in found[1:]] == [c.color for c in start.header.classes[1:]]
    assert [c.value for c in classes_of([corrected("hippocampus-mri", 2)], None)] == [0, 2]
    assert [c.value for c in classes_of([row(2)], start)] == [0, 2]
    assert [c.value for c in classes_of([corrected("phantom-3d", 1)], start)] == [0, 1]


def test_a_mask_of_255_is_class_1() -> None:
    assert listed(classes_of([row(255)], None)) == [(0, "background"), (1, "class 1")]
    assert listed(classes_of([row(255), row(1)], None)) == [(0, "background"), (1, "class 1")]
    assert [c.value for c in classes_of([row(255, 1)], None)] == [0, 1, 255]
    assert [c.value for c in classes_of([row(255, 2)], None)] == [0, 2, 255]
    named = row(255, features={"index": [255], "name": ["void"]})
    assert listed(classes_of([named], None)) == [(0, "background"), (255, "void")]


def test_the_background_keeps_its_name_and_other_meanings_are_no_classes() -> None:
    named = row(1, features={"index": [0, 1], "name": ["tissue", "tumour"]})
    assert listed(classes_of([named], None)) == [(0, "tissue"), (1, "tumour")]
    config = LabelsConfig(zero="unlabeled", background=2, ignore=9)
    assert [c.value for c in classes_of([row(1, 2, 9, config=config)], None)] == [0, 1]
    assert [c.value for c in classes_of([row(4, 9, 800, config=LabelsConfig(one_class=True))], None)] == [0, 1]


def test_labels_that_hold_no_classes_give_none() -> None:
    assert classes_of([row(*range(1, 257))], None) == ()
    assert [c.value for c in classes_of([row(2), row(3, 100_000)], None)] == [0, 2]


@given(
    values=st.lists(st.sets(st.integers(1, 9)), max_size=3), model=st.sampled_from([None, *sorted(shipped_models())])
)
def test_classes_are_sorted_unique_and_drawn_in_colors(values: list[set[int]], model: str | None) -> None:
    found = classes_of([row(*each) for each in values], entry(model) if model else None)
    numbers = [c.value for c in found]
    assert numbers == sorted(set().union({0}, *values) if any(values) else set())
    assert all(c.color != "#000000" for c in found[1:])


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_color_that_is_not_drawn_is_replaced(order: tuple[int, ...]) -> None:
    hidden = DirectLabelColormap(color_dict={0: "transparent", None: "transparent"})
    rows = [row(1, colormap=hidden), row(2)]
    assert all(c.color != "#000000" for c in classes_of([rows[i] for i in order], None)[1:])
