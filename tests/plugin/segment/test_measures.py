"""The table of a result: what it shows, that it follows the labels that would be saved, and what is copied."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from napari.layers import Labels
from pytestqt.qtbot import QtBot
from qtpy.QtWidgets import QTableWidget

from napari_prosma.layers.results import class_arguments, editable_copy
from napari_prosma.segment import measures
from napari_prosma.segment.measures import AbstractSegmentResultPanel, Measures, class_rows, count_voxels, size_heading
from napari_prosma.segment.view import SegmentResultPanel
from prosma_core.config.model import ClassInfo
from prosma_core.data.geometry import array_spec

CLASSES = (
    ClassInfo(value=0, name="background"),
    ClassInfo(value=3, name='liver, "left"', color="#ff0000"),
    ClassInfo(value=7, name="spleen", color="#00ff00"),
)


def test_volumes_are_in_millilitres() -> None:
    spec = array_spec((10, 20, 30), "zyx", (5.0, 2.0, 2.0), "mm")
    rows = class_rows(CLASSES, {'liver, "left"': 100, "spleen": 0}, spec)
    assert size_heading(spec) == "Volume (mL)"
    assert [(r.value, r.voxels, r.size) for r in rows] == [(3, 100, pytest.approx(2.0)), (7, 0, 0.0)]


@pytest.mark.parametrize(("unit", "size"), [("um", 8.0), ("nm", 8e-9)])
def test_microscopy_has_sizes_in_micrometers(unit: str, size: float) -> None:
    spec = array_spec((10, 20, 30), "zyx", (2.0, 2.0, 2.0), unit)
    assert size_heading(spec) == "Volume (µm³)"
    assert class_rows(CLASSES, {"spleen": 1}, spec)[1].size == pytest.approx(size)
    flat = array_spec((20, 30), "yx", (0.5, 0.5), "um")
    assert size_heading(flat) == "Area (µm²)"
    assert class_rows(CLASSES, {"spleen": 8}, flat)[1].size == pytest.approx(2.0)


def test_pictures_have_areas() -> None:
    spec = array_spec((20, 30), "yx", (0.5, 0.5), "mm")
    assert size_heading(spec) == "Area (mm²)"
    assert class_rows(CLASSES, {"spleen": 8}, spec)[1].size == pytest.approx(2.0)


def test_without_a_unit_there_are_only_voxels() -> None:
    spec = array_spec((20, 30), "yx")
    assert size_heading(spec) == ""
    assert class_rows(CLASSES, {"spleen": 8}, spec)[1].size is None


def test_the_csv_holds_the_table_whatever_the_names_are(qtbot: QtBot) -> None:
    panel = SegmentResultPanel()
    qtbot.addWidget(panel)
    spec = array_spec((10, 20, 30), "zyx", (5.0, 2.0, 2.0), "mm")
    panel.show_result("result", class_rows(CLASSES, {'liver, "left"': 100, "spleen": 50}, spec), size_heading(spec))
    rows = list(csv.DictReader(io.StringIO(panel.csv())))
    assert rows == [
        {"value": "3", "name": 'liver, "left"', "voxels": "100", "Volume (mL)": "2"},
        {"value": "7", "name": "spleen", "voxels": "50", "Volume (mL)": "1"},
    ]


@pytest.mark.parametrize(
    ("voxels", "shown"), [(2, "0.00201"), (250, "0.252"), (12_345, "12.4"), (123_456, "124"), (12_345_678, "12,420")]
)
def test_volumes_are_plain_numbers(voxels: int, shown: str, qtbot: QtBot) -> None:
    panel = SegmentResultPanel()
    qtbot.addWidget(panel)
    spec = array_spec((10, 20, 30), "zyx", (1.006, 1.0, 1.0), "mm")
    panel.show_result("result", class_rows(CLASSES, {"spleen": voxels}, spec), size_heading(spec))
    assert panel.findChild(QTableWidget).item(1, 2).text() == shown


@pytest.mark.parametrize(
    ("voxels", "shown"),
    [
        ((1900, 1510), ["1.90", "1.51"]),
        ((12_400, 1510), ["12.4", "1.5"]),
        ((1_420_000, 350), ["1,420.00", "0.35"]),
        ((1_420_000, 0), ["1,420", "0"]),
        ((0, 0), ["0", "0"]),
    ],
)
def test_volumes_of_a_table_have_the_same_decimals(voxels: tuple[int, int], shown: list[str], qtbot: QtBot) -> None:
    panel = SegmentResultPanel()
    qtbot.addWidget(panel)
    spec = array_spec((10, 20, 30), "zyx", (1.0, 1.0, 1.0), "mm")
    counts = dict(zip(('liver, "left"', "spleen"), voxels, strict=True))
    panel.show_result("result", class_rows(CLASSES, counts, spec), size_heading(spec))
    assert [panel.findChild(QTableWidget).item(row, 2).text() for row in range(2)] == shown


def test_sizes_of_a_time_series_are_those_of_one_time_point() -> None:
    spec = array_spec((4, 10, 20, 30), "tzyx", (5.0, 2.0, 2.0), "mm")
    assert size_heading(spec) == "Mean volume (mL)"
    assert class_rows(CLASSES, {"spleen": 400}, spec)[1].size == pytest.approx(2.0)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int32, np.uint32])
def test_voxels_are_counted_whatever_their_type(dtype: Any, rng: np.random.Generator) -> None:
    labels = rng.integers(0, 2, (3, 700, 700)).astype(dtype)
    assert count_voxels(labels) == {0: int((labels == 0).sum()), 1: int((labels == 1).sum())}
    assert count_voxels(labels[0]) == {0: int((labels[0] == 0).sum()), 1: int((labels[0] == 1).sum())}


@pytest.fixture
def shown(jobs: Any, fake_view: Callable[[Any], Any]) -> SimpleNamespace:
    """A result with five voxels of the spleen, its measures, and what is shown of them; `now` would be saved."""
    found = SimpleNamespace(panel=fake_view(AbstractSegmentResultPanel))
    data = np.zeros((4, 10, 10), np.uint8)
    data[0, 0, :5] = 7
    found.layer = found.now = Labels(data, name="organs", **class_arguments(CLASSES))
    spec = array_spec((4, 10, 10), "zyx", (10.0, 10.0, 10.0), "mm")
    found.measures = Measures(CLASSES, spec, found.panel, jobs, lambda: found.now, lambda: "Nothing was found.")
    found.measures.result(found.layer, {"spleen": 5})
    found.measures.show()

    def table() -> tuple[str, dict[str, tuple[int, float]], str]:
        title, rows, _, nothing, _ = found.panel.shown["show_result"]
        return title, {row.name: (row.voxels, row.size) for row in rows}, nothing

    found.table = table
    return found


def test_of_a_picture_pixels_are_counted(jobs: Any, qtbot: QtBot) -> None:
    panel = SegmentResultPanel()
    qtbot.addWidget(panel)
    layer = Labels(np.zeros((10, 10), np.uint8), **class_arguments(CLASSES))
    for spec, heading in ((array_spec((10, 10), "yx"), "Pixels"), (array_spec((1, 10, 10), "zyx"), "Voxels")):
        found = Measures(CLASSES, spec, panel, jobs, lambda: layer, lambda: "")
        found.result(layer, {})
        found.show()
        assert panel.findChild(QTableWidget).horizontalHeaderItem(1).text() == heading


def set_to(layer: Labels, value: int, *at: int) -> None:
    layer.data_setitem(tuple(np.array([i]) for i in at), value)


def test_the_table_follows_the_labels_that_would_be_saved(shown: SimpleNamespace, clock: Any) -> None:
    made = ("organs", {'liver, "left"': (0, 0.0), "spleen": (5, 5.0)}, "")
    assert shown.table() == made
    copy = shown.now = editable_copy(shown.layer)
    shown.measures.copied(shown.layer, copy)
    shown.measures.show_title()
    assert shown.panel.shown["show_title"] == ("organs corrected",)
    for at in ((1, 1, 1), (1, 1, 2)):
        set_to(copy, 3, *at)
    assert shown.table() == made, "while it is painted"
    clock.run()
    assert shown.table() == ("organs corrected", {'liver, "left"': (2, 2.0), "spleen": (5, 5.0)}, "")
    assert list(copy.features["voxels"]) == [None, 2, 5]
    assert list(copy.features["Volume (mL)"])[1:] == [2.0, 5.0]
    assert list(shown.layer.features["voxels"]) == [None, 0, 5], "the result was not painted in"
    assert copy._get_properties((3, 5, 5)) == ["name: background"], "no count of what is not counted"
    assert copy._get_properties((0, 0, 0))[:2] == ["name: spleen", "voxels: 5"]
    set_to(copy, 9, 2, 2, 2)  # a class that the model has not
    clock.run()
    assert shown.table()[1]["class 9"] == (1, 1.0)
    copy.data = np.zeros_like(copy.data)
    clock.run()
    assert shown.table() == ("organs corrected", {'liver, "left"': (0, 0.0), "spleen": (0, 0.0)}, "Nothing was found.")
    shown.now = shown.layer  # the copy was closed
    shown.measures.show_title()
    assert shown.table() == made
    set_to(shown.layer, 0, 0, 0, 0)
    clock.run()
    assert shown.table()[1]["spleen"] == (4, 4.0)


@pytest.mark.parametrize(
    "foreign",
    [
        {"label": [3, 7], "area": [12.0, 5.0], "voxels": [12, 5]},  # as of regionprops
        {"index": [1, 2], "area": [12.0, 5.0], "voxels": [12, 5]},  # of objects
        {},
    ],
)
@pytest.mark.parametrize("large", [False, True])
def test_a_table_of_another_plugin_is_left_as_it_is(
    shown: SimpleNamespace, clock: Any, foreign: dict[str, Any], large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if large:
        monkeypatch.setattr(measures, "LARGE", 10)
    shown.layer.features = foreign
    before = shown.layer.features.copy()
    set_to(shown.layer, 0, 0, 0, 0)
    clock.run()
    shown.measures.count()
    assert shown.table()[1]["spleen"] == (4, 4.0)
    assert shown.layer.features.equals(before)


@pytest.mark.parametrize("large", [False, True])
def test_columns_of_another_plugin_beside_names_of_classes_are_kept(
    shown: SimpleNamespace, clock: Any, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if large:
        monkeypatch.setattr(measures, "LARGE", 10)
    foreign = {"index": [0, 3, 7], "name": ["background", "liver", "spleen"], "voxels": ["few", "some", "many"]}
    shown.layer.features = foreign
    for value in (0, 7):
        set_to(shown.layer, value, 0, 0, 0)
        clock.run()
        shown.measures.count()
        assert shown.layer.features["voxels"].tolist() == foreign["voxels"]
        assert "Volume (mL)" in shown.layer.features
    set_to(shown.layer, 0, 0, 0, 0)
    clock.run()
    assert ("Volume (mL)" in shown.layer.features) is not large


def test_values_of_a_features_table_that_are_no_classes_are_left_empty(shown: SimpleNamespace, clock: Any) -> None:
    shown.layer.features = {"index": [3, np.nan, 7], "name": ["liver", "note", "spleen"]}
    set_to(shown.layer, 0, 0, 0, 0)
    clock.run()
    assert list(shown.layer.features["voxels"]) == [0, None, 4]


def test_a_large_label_map_is_counted_on_demand_and_its_old_figures_are_no_features(
    shown: SimpleNamespace, clock: Any, jobs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measures, "LARGE", 10)
    assert shown.panel.shown["show_stale"] == (False,)
    set_to(shown.layer, 0, 0, 0, 0)
    clock.run()
    assert shown.panel.shown["show_stale"] == (True,)
    assert shown.table()[0] == "organs: counted before the last changes"
    assert list(shown.layer.features.columns) == ["index", "name"]
    jobs.held = []
    shown.measures.count()
    set_to(shown.layer, 0, 0, 0, 1)  # while they are counted
    for call in jobs.held:
        call()
    assert shown.panel.shown["show_stale"] == (True,)
    jobs.held = None
    shown.measures.count()
    assert (shown.table()[0], shown.table()[1]["spleen"]) == ("organs", (3, 3.0))
    assert shown.panel.shown["show_stale"] == (False,)
    assert list(shown.layer.features["voxels"]) == [None, 0, 3]


def test_measures_that_were_left_change_nothing_any_more(shown: SimpleNamespace, clock: Any, jobs: Any) -> None:
    jobs.held = []
    set_to(shown.layer, 0, 0, 0, 0)
    clock.run()
    shown.measures.leave()
    for call in jobs.held:
        call()
    set_to(shown.layer, 0, 0, 0, 1)
    clock.run()
    assert (len(jobs.held), shown.table()[1]["spleen"]) == (1, (5, 5.0))
