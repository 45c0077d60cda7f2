"""Names from files, layers and models are shown letter by letter in the widgets: never as HTML, never acted on."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.layers import Image, Labels
from pytestqt.qtbot import QtBot
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QComboBox, QLabel, QTableWidget, QWidget

import napari_prosma
from napari_prosma.gates.view import GatesView
from napari_prosma.scan.selection import ModelRow
from napari_prosma.segment.measures import ClassRow
from napari_prosma.segment.view import SegmentView
from napari_prosma.train.pairs import Pair, PairRow
from napari_prosma.train.sources import layer_source
from napari_prosma.train.view import TrainView
from napari_prosma.widgets.job_view import ActivityProgress
from prosma_core.config.model import ClassInfo
from prosma_core.printable import plain, shown
from prosma_core.runs.run_state import RunState

try:
    from qtpy.QtGui import Qt as GuiQt  # PyQt6 has it there

    might_be_rich: Callable[[str], bool] = GuiQt.mightBeRichText
except (ImportError, AttributeError):
    might_be_rich = Qt.mightBeRichText

NAMES = ('<b>liver</b><img src="x">', "&lt;b&gt; <i>", "a\x1b[31m\u202eb\nError: <h1>all is lost</h1>")


def fill_job(view: Any, name: str) -> None:
    view.show_devices([(name, "auto")], "auto", name)
    view.show_problem("device", name)
    view.show_notes(name)
    view.show_run("Run", enabled=True, tooltip=name)
    view.show_messages([name])
    view.show_error(name, details=True)
    view.show_progress(1, 2, name)


def fill_scan(view: Any, name: str) -> None:
    fill_job(view, name)
    view.show_images([(name, 1)], 1)
    view.show_axes(name, (name,), name)
    view.show_models([(name, [ModelRow(name, 1, name, name, name)])], 1, name)


def segment(name: str) -> QWidget:
    view = SegmentView()
    fill_scan(view, name)
    view.result.show_result(name, [ClassRow(1, name, "#e6194b", 1, 1.0)], "Volume (mL)")
    view.show_messages([name])
    return view


def gates(name: str) -> QWidget:
    view = GatesView()
    fill_scan(view, name)
    view.result.what_if.show_truths([(name, 1)], 1, name)
    view.result.what_if.say(name)
    view.result.voxel.show_hint(name)
    view.result.files.say(name)
    view.result.levels.show_levels(name, [], 0)
    return view


def train(name: str) -> QWidget:
    view = TrainView()
    fill_job(view, name)
    classes = (ClassInfo(value=1, name=name),)
    pair = Pair(layer_source(Image(np.zeros((4, 4)))), layer_source(Labels(np.zeros((4, 4), int))))
    view.show_pairs([PairRow(pair, name, name, facts=name, problem=name, fixes=("one_class",), classes=classes)])
    view.show_classes(classes)
    view.show_starts([(name, [ModelRow(name, 2, name, "", name)])], 2, name)
    view.show_preset(["quick"], "quick", name)
    view.show_name(name)
    view.show_outcome({name: 0.5}, {name: 0.6}, name, name)
    view.show_preview(checked=True, enabled=True, text=name)
    view.show_runs([RunState(name, Path(f"/{name}"), 1, 2, 1.0, None, 0.5, False, name, True, name)])
    view.show_history([{"epoch": 1, "loss": 1.0, "mean_dice": 0.5, f"dice {name}": 0.5}], classes)
    return view


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("make", [segment, gates, train])
def test_no_name_is_taken_for_html(make: Callable[[str], QWidget], name: str, qtbot: QtBot) -> None:
    view = make(name)
    qtbot.addWidget(view)
    said = 0
    for label in view.findChildren(QLabel):
        if label.objectName() != "legend":  # whose names are escaped
            assert label.textFormat() == Qt.TextFormat.PlainText or not might_be_rich(label.text()), label.text()
        assert "\x1b" not in label.text()
        assert "\u202e" not in label.text()
        assert "<h1>" not in label.text() or label.textFormat() == Qt.TextFormat.PlainText
        said += shown(name) in label.text()
    assert said >= 5
    for part in [view, *view.findChildren(QWidget)]:
        assert not might_be_rich(part.toolTip()), part.toolTip()
    for box in view.findChildren(QComboBox):
        for i in range(box.count()):
            tooltip = box.itemData(i, Qt.ItemDataRole.ToolTipRole) or ""
            assert not might_be_rich(tooltip)
            assert "\n" not in box.itemText(i)
    for table in view.findChildren(QTableWidget):
        for i in range(table.rowCount() * table.columnCount()):
            item = table.item(i // table.columnCount(), i % table.columnCount())
            assert item is None or not might_be_rich(item.toolTip()), item.toolTip()


def test_what_looks_like_html_does_not_look_like_it_any_more() -> None:
    for text in (*NAMES, "<?xml", "<!doctype html>", "<p>", "  <br/>", "x &lt;b>", "<b"):
        assert not might_be_rich(plain(text))
        assert plain(text).replace("\u200b", "") == shown(text)
    assert plain("3 × 1 mm") == "3 × 1 mm"


def test_napari_s_activity_gets_one_plain_line(qtbot: QtBot) -> None:
    shown = ActivityProgress(f"ProSMA: {NAMES[2]}", lambda: None)
    try:
        assert not might_be_rich(shown.desc)
        assert "\n" not in shown.desc
        assert "\x1b" not in shown.desc
    finally:
        shown.close()


def test_every_label_tooltip_and_message_goes_through_what_makes_it_plain() -> None:
    """A rule for the source, so that none can be forgotten."""
    root = Path(napari_prosma.__file__).parent
    calls = [
        (path.relative_to(root).as_posix(), call)
        for path in sorted(root.rglob("*.py"))
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call)
    ]
    assert len(calls) > 1000
    wrong = []
    for place, call in calls:
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        text = call.args[0] if call.args else None
        safe = isinstance(text, ast.Constant) or (
            isinstance(text, ast.Call) and getattr(text.func, "id", "") == "plain"
        )
        if name in {"setToolTip", "show_info", "show_warning"} and not safe:
            wrong.append(f"{place}:{call.lineno} {name}: give it a text without names, or plain(...)")
        if name in {"QLabel", "QMessageBox", "setHtml", "setWhatsThis", "setStatusTip"}:
            wrong.append(f"{place}:{call.lineno} {name}: use PlainLabel, or a window of text_window")
        if name == "setTextFormat" and "RichText" in ast.unparse(call) and place != "train/plots.py":
            wrong.append(f"{place}:{call.lineno} rich text")
    assert wrong == []
