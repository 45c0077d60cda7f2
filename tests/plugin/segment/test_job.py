"""The table of a result: what it shows and what is copied."""

from __future__ import annotations

import csv
import io

import pytest
from pytestqt.qtbot import QtBot
from qtpy.QtWidgets import QTableWidget

from napari_prosma.segment.job import class_rows, size_heading
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
def test_microscopy_has_sizes_in_micrometres(unit: str, size: float) -> None:
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


def test_sizes_of_a_time_series_are_those_of_one_time_point() -> None:
    spec = array_spec((4, 10, 20, 30), "tzyx", (5.0, 2.0, 2.0), "mm")
    assert size_heading(spec) == "Mean volume (mL)"
    assert class_rows(CLASSES, {"spleen": 400}, spec)[1].size == pytest.approx(2.0)
