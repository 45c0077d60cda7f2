"""The frame of the three widgets in a real window: what is always in view, what is whole, and one dock of each kind.

`STATES` is the list of states that are walked through. The pictures of each lie in the test's temporary folder
(``--basetemp`` keeps them), to be looked at by people.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari._app_model import get_app_model
from napari.components import ViewerModel
from napari.qt import get_stylesheet
from qtpy.QtCore import QRect, Qt
from qtpy.QtWidgets import (
    QApplication,
    QCheckBox,
    QComboBox,
    QDockWidget,
    QDoubleSpinBox,
    QLabel,
    QLineEdit,
    QPushButton,
    QScrollArea,
    QStackedWidget,
    QStyle,
    QStyleOptionFrame,
    QTabBar,
    QTableView,
    QWidget,
)
from tests.plugin.conftest import FakeJobs
from tests.plugin.gates.conftest import Widget as GatesParts
from tests.plugin.gates.conftest import made_up
from tests.plugin.segment import test_view_pictures as segment
from tests.plugin.segment.conftest import Widget as SegmentParts
from tests.plugin.train import test_view_pictures as train
from tests.plugin.train.conftest import Widget as TrainParts

from napari_prosma.gates.job import VoxelChannels
from napari_prosma.gates.ranking import FAILED, RANKING, effects, headline
from napari_prosma.gates.result_panel import GatesResultPanel
from napari_prosma.gates.state import GateEdits, LevelFacts
from napari_prosma.gates.view import GatesView
from napari_prosma.jobs.qt_loop import QtEventLoop
from napari_prosma.jobs.session import Session
from napari_prosma.layers.contours import contour_view
from napari_prosma.scan.workers_panel import WorkersFields
from napari_prosma.segment.view import SegmentView
from napari_prosma.train.series_work import SeriesRow
from napari_prosma.train.view import TrainView
from napari_prosma.widgets.docks import open_dock
from napari_prosma.widgets.fields import DockBox, Fold, NameField
from napari_prosma.widgets.job_view import JobView
from prosma_core.config.inspection import HISTOGRAM_EDGES, ClassChange, LevelSummary, VariantResult
from prosma_core.config.model import ClassInfo, GateConfig
from prosma_core.data.slices import SliceStates
from prosma_core.engine.messages import Failed, Finished, SegmentResult
from prosma_core.errors import EngineError
from prosma_core.events import EpochDone, LevelStats, TileDone

SIZES = ((1366, 700), (1440, 900))
"""Of the window: what a task bar leaves of 1366 x 768, and a larger screen."""
WIDTH = 320
LONG = "sub-07_ses-1_acq-highres_run-02_desc-preprocessed_T2starw_bias-corrected.nii.gz"
NAMED = ("image", "model", "start", "truth")
"""Boxes whose entries are names, which may lose their middle: the tooltip has all of them."""
FAILURE = "Main memory ran out while the scan was read: close other programs, crop the scan, or choose a part. " * 4
STAGES = ["Planning from 3 scans.", "36 tiles (40 × 56 × 40), batch size 1, about 0.2 GiB of memory."]


def failed(view: Any) -> None:
    view.show_run("Again", enabled=True, tooltip="")
    view.show_error(FAILURE[:400], details=True)


def workers(view: Any, found: str = "", *, problem: bool = False) -> None:
    fields = view.findChild(WorkersFields)
    fields.show_place(True, "tcp://192.168.100.100:8786")
    fields.show_test("Stop test" if not found else "Test", enabled=True)
    fields.show_found(found, problem=problem)
    fields.expand()


def cancelling(view: Any) -> None:
    view.show_run("Canceling…", enabled=False, tooltip="")
    view.show_running(True)
    view.show_messages(STAGES)
    view.show_progress(0, 0, "Reading the scan…")


def stopped(view: Any) -> None:
    view.show_running(True)
    view.show_messages([*STAGES, "The model of epoch 24 is kept."])
    view.show_running(False)


def saved(view: Any) -> None:
    segment.fill(view, "finished")
    view.show_images([(LONG, 1)], 1)
    view.result.show_title(f"{LONG} hippocampus-mri")
    view.show_messages([f"Saved /data/studies/2026/{LONG}"])


def painting(view: Any) -> None:
    train.fill(view, "ready")
    view.show_error("", details=False)
    view.show_slices(SliceStates("z", 31, edited=(3, 4), only=True), f"{LONG} corrected")
    view.show_slice(3)
    view.show_suggestion("Slice 17: its labels are least certain (uncertainty 0.31).")


def first_epoch(view: Any) -> None:
    train.fill(view, "ready")
    view.show_error("", details=False)
    view.show_training()
    view.show_history((), train.CLASSES)
    view.show_step(0.5, 1.3)
    view.show_messages(STAGES)
    view.show_progress(50, 100, "Epoch 1, step 50 of 100, about 9 min left")
    view.show_run("Stop", enabled=True, tooltip="")


def gates(view: Any, then: Callable[[Any], None] = lambda _: None) -> None:
    view.show_images([(LONG, 1)], 1)
    view.show_axes("zyx", ("zyx",), "z 24 · y 320 · x 320; voxels 3.75 × 0.977 × 0.977 mm")
    view.show_devices([("Auto", "auto")], "auto", "CPU, 2 threads (torch 2.13.0+cpu is a build without CUDA)")
    view.show_run("Inspect", enabled=True, tooltip="")
    then(view)


def no_scan(view: Any) -> None:
    view.show_run("Inspect", enabled=False, tooltip="")
    view.show_problem("image", "Open a scan: File > Open, or drop it into the window.")


ORGANS = (
    ClassInfo(value=0, name="background", color="#000000"),
    ClassInfo(value=1, name="anterior part of the hippocampus", color="#ff0000"),
    ClassInfo(value=2, name="lesion", color="#00ff00"),
)


def inspected(view: Any, tab: str, *, attention: bool = False) -> None:
    """An inspection of four levels that were ranked, with a tab in front."""
    levels, panel = [level_of(i, attention=attention) for i in range(4)], view.result
    gates(view)
    view.levels.show_levels(tuple(LevelFacts(i, (1 << i,) * 3, 32 << i) for i in range(4)), frozenset())
    panel.levels.show_levels(f"{LONG} · hippocampus-mri · ProSMA gates", levels, 2)
    ranked = effects(range(4), [without_gate(i) for i in range(4)])
    panel.levels.show_headline(headline(ranked, "voxel"))
    panel.levels.show_ranking(ranked, "voxel")
    kinds = ("gate", "energy removed") if attention else ("removed", "kept or removed", "field, dilation 4")
    panel.maps.show_maps(kinds, kinds[-1])
    panel.plots.show_level(levels[2], GateConfig().form, 17)
    rng = np.random.default_rng(0)
    columns = ("a",) if attention else ("z1", "z2", "z4", "z", "τ")
    values = {name: rng.normal(0, 90, 128) for name in columns}
    rows = VoxelChannels(2, np.arange(128), values, None if attention else values["z"] > 0)
    panel.voxel.show_voxel("Voxel z 17, y 203, x 187. Level 2: 64 of 128 channels kept", rows, "Level 0: 20 of 32 kept")
    panel.what_if.make_rows(range(4), thresholds=not attention)
    edits = GateEdits().change(2, state="open", threshold=2.5).change(0, threshold=0.0)
    panel.what_if.show_edits(edits, 2, 117, channel_gate=not attention)
    panel.what_if.show_truths([(LONG, 1)], 1, f"{LONG} lies on another grid. Choose labels on its voxels, or none.")
    panel.what_if.show_changes(f"With {edits.text()}: 5,283 voxels are of another class.", without_gate(2), ORGANS)
    panel.files.say(f"Saved /data/studies/2026/{LONG} maps")
    panel.open_tab(tab)
    panel.show()


def level_of(level: int, *, attention: bool) -> LevelSummary:
    """What could be found in the gate of a level."""
    n, shape = 32 << level, (24 >> level, 320 >> level, 320 >> level)
    if attention:
        return LevelSummary(level=level, shape=shape, channels=n, removed=0, energy=0.3, threshold=None)
    share, bins = tuple(np.linspace(0, 1, n)), len(HISTOGRAM_EDGES) - 1
    return LevelSummary(
        level=level,
        shape=shape,
        channels=n,
        removed=0.317,
        energy=0.5,
        threshold=0.42,
        noise_gain=1.25,
        flipped=0.43,
        thresholds=(0.4,) * n,
        channel_removed=share,
        channel_energy=share,
        channel_gate=share,
        channel_gate_spread=0.012,
        positive=share,
        histogram=((1 / bins,) * bins,) * n,
    )


def without_gate(level: int) -> VariantResult:
    """What could become of the result without the gate of a level."""
    classes = [
        ClassChange(name=c.name, before=8203, after=8102, turned_on=1201, turned_off=1302, dice=0.89 - level / 9)
        for c in ORGANS[1:]
    ]
    found = tuple(c.replace(truth_before=0.934, truth_after=0.871) for c in classes)
    return VariantResult(name="", changed=123_456, classes=found)


def ranking(view: Any) -> None:
    inspected(view, "Plots")
    view.result.levels.show_headline(RANKING)
    view.result.show_ranking_button("Stop ranking", enabled=True, tooltip="")
    view.result.lock_what_if(True)
    view.show_progress(3, 12, "Ranking levels: 25 %, about 2 min left")


def nothing_found(view: Any) -> None:
    segment.fill(view, "finished")
    said = "No anterior part of the hippocampus or lesion found. On 10 held-out scans the model missed none."
    view.result.show_result(f"{LONG} hippocampus-mri", [], "Volume (mL)", said)


def several_gpus(view: Any) -> None:
    train.fill(view, "ready")
    view.show_error("", details=False)
    view.show_devices([("NVIDIA H200", "cuda"), ("2 GPUs", "2 GPUs")], "2 GPUs", "")
    view.show_notes("Each batch is divided among 2 GPUs. Times are those of one.")


def series(view: Any) -> None:
    train.fill(view, "ready")
    view.show_error("", details=False)
    rows = [SeriesRow(f"{i:02d} {LONG}", "in work: 12 of 31", "validation" if i % 2 else "training") for i in range(9)]
    view.series.show_series("9 scans: 3 done, 1 for validation", rows, 3, "Segmenting 03…", "")
    view.show_live(checked=True, text=f"Learned: 3 slices of {LONG}, at step 120.")


def ranking_failed(view: Any) -> None:
    inspected(view, "Plots")
    view.result.levels.forget_ranking()
    view.result.levels.show_headline(FAILED)
    failed(view)


STATES: dict[str, tuple[type[Any], Callable[[Any], None]]] = {
    "segment, axes refused": (SegmentView, lambda view: segment.fill(view, "refused")),
    "segment, no model": (SegmentView, lambda view: segment.fill(view, "no model")),
    "segment, running": (SegmentView, lambda view: segment.fill(view, "running")),
    "segment, canceling": (SegmentView, cancelling),
    "segment, finished": (SegmentView, lambda view: segment.fill(view, "finished")),
    "segment, nothing found": (SegmentView, nothing_found),
    "segment, saved": (SegmentView, saved),
    "segment, failed": (SegmentView, failed),
    "segment, workers tested": (SegmentView, lambda view: workers(view, f"Found: {FAILURE}")),
    "segment, workers unfit": (SegmentView, lambda view: workers(view, FAILURE, problem=True)),
    "segment, workers under test": (SegmentView, workers),
    "train, empty": (TrainView, lambda view: train.fill(view, "empty")),
    "train, painting": (TrainView, painting),
    "train, series": (TrainView, series),
    "train, several GPUs": (TrainView, several_gpus),
    "train, refused": (TrainView, lambda view: train.fill(view, "ready")),
    "train, first epoch": (TrainView, first_epoch),
    "train, running": (TrainView, lambda view: train.fill(view, "running")),
    "train, finished": (TrainView, lambda view: train.fill(view, "finished")),
    "train, stopped": (TrainView, stopped),
    "train, failed": (TrainView, failed),
    "gates, no scan": (GatesView, no_scan),
    "gates, ready": (GatesView, gates),
    "gates, workers tested": (GatesView, lambda view: gates(view, lambda it: workers(it, f"Found: {FAILURE}"))),
    "gates, running": (GatesView, lambda view: gates(view, cancelling)),
    "gates, failed": (GatesView, lambda view: gates(view, failed)),
    "gates, ranking": (GatesView, ranking),
    "gates, attention": (GatesView, lambda view: inspected(view, "Plots", attention=True)),
    "gates, voxel": (GatesView, lambda view: inspected(view, "Voxel")),
    "gates, ranking failed": (GatesView, ranking_failed),
    "gates, export": (GatesView, lambda view: inspected(view, "Export")),
    "gates, what if": (GatesView, lambda view: inspected(view, "What if")),
}


@pytest.mark.slow
@pytest.mark.usefixtures("display")
def test_button_and_status_are_in_view_and_nothing_is_cut_off(make_napari_viewer: Any, tmp_path: Path) -> None:
    viewer = make_napari_viewer(show=True)
    window, pages, faults = viewer.window._qt_window, QStackedWidget(), list[str]()
    viewer.window._qt_viewer.canvas.native.hide()  # to draw it takes longer than all else here
    for kind, fill in STATES.values():
        view = kind()
        fill(view)
        pages.addWidget(view)
    dock = viewer.window.add_dock_widget(pages, name="states", area="right")
    for width, height in SIZES:
        window.resize(width, height)
        window.resizeDocks([dock], [WIDTH], Qt.Orientation.Horizontal)
        for number, state in enumerate(STATES):
            view = pages.widget(number)
            pages.setCurrentWidget(view)
            settle()
            faults += [f"{state}, {width} x {height}: {fault}" for fault in faults_of(view, window)]
            if (result := view.findChild(GatesResultPanel)) is not None:
                view.findChild(QScrollArea).verticalScrollBar().setValue(result.y())
            assert dock.grab().save(str(tmp_path / f"{state}, {width} x {height}.png"))
            if height == SIZES[0][1]:
                view.findChild(Fold, "section_details").expand()
    assert faults == []


ROOM = 620
"""Pixels of a dock's height in the smaller window: the rest has menu, title and status bar."""


def states_of_controllers(folder: Path) -> Iterator[tuple[str, QWidget]]:
    """Real controllers go through their main states, by clicks and answers; the engine is played."""
    data = np.random.default_rng(0).normal(100, 20, (12, 40, 44)).astype(np.float32)
    jobs = lambda: FakeJobs(QtEventLoop().timer)  # noqa: E731

    seg = SegmentParts(ViewerModel(), folder / "segment", jobs())
    yield "segment, nothing open", seg.view
    seg.viewer.add_image(data, name=LONG, scale=(3, 1, 1), units=("mm",) * 3)
    yield "segment, a scan that no model is for", seg.view
    seg.choose("phantom-3d")
    yield "segment, ready", seg.view
    seg.jobs.busy = True
    seg.controller.start_or_cancel()
    yield "segment, refused as another job runs", seg.view
    seg.jobs.busy = False
    job = seg.start()
    job.say(TileDone(2, 9))
    yield "segment, running", seg.view
    job.give_labels()[:2] = 1
    job.say(Finished(SegmentResult(voxels={"organ": 3520, "lesion": 0}, seconds=2.0, device="CPU")))
    yield "segment, finished", seg.view
    seg.start().say(Failed(EngineError("Main memory ran out."), "log"))
    yield "segment, failed", seg.view
    seg.controller.close()

    train_ = TrainParts(ViewerModel(), folder / "train", jobs())
    yield "train, nothing open", train_.view
    image = train_.viewer.add_image(data, name=LONG)
    labels = train_.viewer.add_labels((data > 130).astype(np.uint8), name=f"{LONG} labels")
    train_.viewer.layers.selection = {image, labels}
    train_.controller.pairs.add_active()
    yield "train, ready", train_.view
    job = train_.start()
    job.say(EpochDone(1, 5, 0.7, 1e-3, {"class 1": 0.5}, 0.5, (LevelStats(0.3, 0.6),), True, 10.0, 40.0))
    yield "train, after an epoch", train_.view
    job.say(Failed(EngineError("Main memory ran out."), "log"))
    yield "train, failed", train_.view
    train_.controller.close()

    gates_ = GatesParts(ViewerModel(), folder / "gates", None, jobs())
    gates_.viewer.add_image(data, name=LONG, scale=(3, 1, 1), units=("mm",) * 3)
    yield "gates, a scan that no model is for", gates_.view
    job = gates_.start()
    job.say(TileDone(2, 9))
    yield "gates, running", gates_.view
    job.answer(*made_up(gates_.controller.run.plan))
    yield "gates, ranking", gates_.view
    gates_.jobs.jobs[-1].reply(())
    yield "gates, inspected", gates_.view
    gates_.controller.shown_result.what_if.change(0, state="open")
    gates_.jobs.jobs[-1].reply(data.shape)
    gates_.view.result.open_tab("What if")
    yield "gates, what if", gates_.view
    gates_.close()


@pytest.mark.slow
@pytest.mark.usefixtures("display")
def test_nothing_is_cut_off_in_states_of_the_controllers(tmp_path: Path, qtbot: Any) -> None:
    window, faults, seen = QStackedWidget(), list[str](), 0
    qtbot.addWidget(window)
    window.setStyleSheet(get_stylesheet("dark"))
    window.resize(WIDTH, ROOM)
    window.show()
    for state, view in states_of_controllers(tmp_path):
        if window.indexOf(view) < 0:
            window.addWidget(view)
        window.setCurrentWidget(view)
        settle()
        faults += [f"{state}: {fault}" for fault in faults_of(view, window)]
        assert window.grab().save(str(tmp_path / f"{state}, controller.png"))
        seen += 1
    assert faults == []
    assert seen > 12


def settle() -> None:
    for _ in range(3):
        QApplication.processEvents()


def faults_of(view: Any, window: QWidget) -> Iterator[str]:
    """What is out of view in the frame, and what is cut off anywhere in a widget."""
    if view.width() != WIDTH:
        yield f"{view.width()} pixels wide"
    area = view.findChild(QScrollArea)
    if area.widget().width() != area.viewport().width():
        yield "something is wider than the dock"
    button = view.findChild(QPushButton, "run")
    said = [label for name in ("status", "error") if (label := view.findChild(QLabel, name)).isVisible()]
    if len(said) != 1 and not view.running:
        yield f"{len(said)} lines say how things stand"
    for part in (button, *said):
        seen = QRect(part.mapTo(window, part.rect().topLeft()), part.size())
        if part.visibleRegion().boundingRect() != part.rect() or not window.rect().contains(seen):
            yield f"not in view: {part.objectName()}"
    for label in visible(view, QLabel):
        needed = label.heightForWidth(label.width()) if label.wordWrap() else label.sizeHint().height()
        if label.height() < needed or (not label.wordWrap() and label.width() < label.sizeHint().width()):
            yield f"cut off: {label.text()}"
        drawn = QLabel.text(label)
        if "…" in drawn and "…" not in label.text() and label.text() not in label.toolTip():
            yield f"shortened without a tooltip: {label.text()}"
    for kind, around in ((QPushButton, 4), (QCheckBox, 20)):
        for each in visible(view, kind):
            if each.width() < each.fontMetrics().horizontalAdvance(each.text().replace("&&", "&")) + around:
                yield f"cut off: {each.text()}"
    for box in visible(view, DockBox):
        if box.objectName() not in NAMED and box._fitting(box.currentText()) != box.currentText():
            yield f"shortened: {box.currentText()}"
    for box in visible(view, QDoubleSpinBox):
        if box.lineEdit().width() < box.fontMetrics().horizontalAdvance(box.text()):
            yield f"cut off: {box.text()}"
    for table in visible(view, QTableView):
        if table.horizontalScrollBar().isVisible():
            yield f"wider than the dock: {table.objectName()}"
        rows, room = table.verticalHeader().length(), table.viewport().height()
        if room < rows <= room + 8:
            yield f"scrolled by {rows - room} pixels: {table.objectName()}"
        yield from cut_cells(table)
    for bar in visible(view, QTabBar):
        for i in range(bar.count()):
            if bar.isTabVisible(i) and bar.tabRect(i).width() < bar.fontMetrics().horizontalAdvance(bar.tabText(i)):
                yield f"cut off: tab {bar.tabText(i)}"
    for line in visible(view, QLineEdit):
        text = line.text() or line.placeholderText()
        named = isinstance(line, NameField) or isinstance(line.parent(), QComboBox)
        if text and not named and inside(line) < line.fontMetrics().horizontalAdvance(text):
            yield f"cut off: {text}"


def inside(line: QLineEdit) -> int:
    """Pixels for the text of a line edit: what its frame, the style and the cursor leave."""
    option, element = QStyleOptionFrame(), QStyle.SubElement.SE_LineEditContents
    option.initFrom(line)
    option.rect = line.contentsRect()
    option.lineWidth = line.style().pixelMetric(QStyle.PixelMetric.PM_DefaultFrameWidth, option, line)
    margins, beside = line.textMargins(), 2 * 2  # QLineEdit keeps two pixels at each side
    return int(line.style().subElementRect(element, option, line).width() - margins.left() - margins.right() - beside)


def cut_cells(table: QTableView) -> Iterator[str]:
    """Heads of columns that are cut off, and texts that no tooltip shows whole; long ones may be wrapped or spanned."""
    head, model = table.horizontalHeader(), table.model()
    for column in (i for i in range(model.columnCount()) if not table.isColumnHidden(i)):
        text = str(model.headerData(column, Qt.Orientation.Horizontal) or "")
        needed = max(head.fontMetrics().horizontalAdvance(line) for line in text.split("\n")) + 4
        if head.isVisible() and table.columnWidth(column) < needed:
            yield f"cut off: head {text}"
        for row in range(min(model.rowCount(), 12)):
            index = model.index(row, column)
            shown, whole = (
                str(index.data(role) or "") for role in (Qt.ItemDataRole.DisplayRole, Qt.ItemDataRole.ToolTipRole)
            )
            number = re.fullmatch(r"[-\d.,%]+", shown) is not None  # half a number is another one
            if table.columnSpan(row, column) > 1 or table.indexWidget(index) is not None:
                continue
            if shown in whole and not number:
                continue
            if table.columnWidth(column) < table.fontMetrics().horizontalAdvance(shown) + 4:
                yield f"cut off: {shown} in {table.objectName()}"


def visible(inside_of: QWidget, kind: type[Any]) -> list[Any]:
    return [part for part in inside_of.findChildren(kind) if part.isVisible()]


@pytest.mark.usefixtures("display")
@pytest.mark.parametrize("moved", [False, True])
def test_a_scan_opened_by_the_command_with_the_widget_fills_the_canvas_unless_somebody_zoomed(
    moved: bool, make_napari_viewer: Any, session: Session, monkeypatch: pytest.MonkeyPatch, qtbot: Any
) -> None:
    monkeypatch.setattr("napari_prosma.segment.widget.session", lambda: session)
    viewer = make_napari_viewer(show=False)
    viewer.add_image(np.random.default_rng(0).normal(0, 1, (40, 200, 400)).astype(np.float32))
    if moved:
        viewer.scene.camera.zoom = 7.5
    viewer.window.add_plugin_dock_widget("napari-prosma", "Segment", tabify=True)
    viewer.window._qt_window.resize(1366, 700)
    viewer.show()
    qtbot.wait(300)
    zoom = viewer.scene.camera.zoom
    if moved:
        assert zoom == 7.5
        return
    viewer.fit_to_view()
    assert zoom == pytest.approx(viewer.scene.camera.zoom, rel=0.001)


@pytest.mark.usefixtures("display")
def test_a_window_wider_than_the_screen_becomes_as_wide_as_it_when_a_widget_is_first_shown(
    make_napari_viewer: Any, session: Session, monkeypatch: pytest.MonkeyPatch, qtbot: Any
) -> None:
    monkeypatch.setattr("napari_prosma.segment.widget.session", lambda: session)
    viewer = make_napari_viewer(show=False)
    viewer.window.add_plugin_dock_widget("napari-prosma", "Segment", tabify=True)
    window = viewer.window._qt_window
    room = window.screen().availableVirtualSize()
    viewer.show()
    window.resize(room.width() + 123, 700)  # as napari does in a new installation
    qtbot.waitUntil(lambda: window.width() == room.width())
    assert window.height() == 700
    window.resize(room.width() + 123, 700)
    qtbot.wait(300)
    assert window.width() == room.width() + 123, "a person may have it so"


NAMES = ("Segment", "Train", "Gates")
OPENERS: dict[str, Callable[[Any, str, Session], object]] = {
    "menu": lambda _, name, __: get_app_model().commands.execute_command(f"napari-prosma.{name.lower()}").result(),
    "button": lambda viewer, name, session: open_dock(viewer, f"ProSMA {name}", session),
    "command": lambda viewer, name, _: viewer.window.add_plugin_dock_widget("napari-prosma", name, tabify=True),
}
"""Ways to open a widget: napari's menu, a button of a sister, and ``napari -w napari-prosma``, which does just this."""


@pytest.mark.usefixtures("display")
@pytest.mark.parametrize("way", OPENERS)
def test_keys_act_in_the_window_and_contours_have_one_owner_however_the_widgets_were_opened(
    way: str, make_napari_viewer: Any, session: Session, monkeypatch: pytest.MonkeyPatch, qtbot: Any
) -> None:
    said: list[str] = []
    monkeypatch.setattr("napari_prosma.shortcuts.show_info", said.append)
    for name in NAMES:
        monkeypatch.setattr(f"napari_prosma.{name.lower()}.widget.session", lambda: session)
    viewer = make_napari_viewer(show=True)
    for name in NAMES:
        OPENERS[way](viewer, name, session)
    canvas = viewer.window._qt_viewer.canvas.native
    qtbot.keyClick(canvas, Qt.Key.Key_K)
    for key in (Qt.Key.Key_S, Qt.Key.Key_D, Qt.Key.Key_K):
        qtbot.keyClick(canvas, key, Qt.KeyboardModifier.ShiftModifier)
    assert len(said) == 4
    assert not [text for text in said if text.endswith("first: Plugins > ProSMA.")]
    widgets = [dock.widget() for dock in viewer.window._qt_window.findChildren(QDockWidget)]
    opened = [widget for widget in widgets if isinstance(widget, JobView)]
    assert [contour_view(widget.controller.viewer) for widget in opened] == [contour_view(viewer)] * len(NAMES)


def is_front(dock: QDockWidget) -> bool:
    """Whether a dock of ours is seen."""
    return isinstance(dock.widget(), JobView) and not dock.visibleRegion().isEmpty()


@pytest.mark.slow
@pytest.mark.usefixtures("display")
def test_one_of_each_in_tabs_in_whatever_order_they_are_opened(
    make_napari_viewer: Any, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in NAMES:
        monkeypatch.setattr(f"napari_prosma.{name.lower()}.widget.session", lambda: session)
    viewer = make_napari_viewer(show=True)
    window = viewer.window._qt_window
    viewer.window._qt_viewer.canvas.native.hide()
    orders = list(permutations(OPENERS))
    for number, ways in enumerate([*orders[::2], *orders[1::2]]):  # in the first three each way is first once
        turn = number % len(NAMES)
        names = (NAMES[turn:] + NAMES[:turn])[: len(NAMES) if number == turn else 1]  # once all, once one alone
        for way in ways:
            for name in names if way == ways[0] else names[:1]:
                OPENERS[way](viewer, name, session)
                settle()
            if ways == ("button", "command", "menu") == (*ways[:2], way):
                assert not any(is_front(dock) for dock in window.findChildren(QDockWidget))  # napari's menu hides, too
                OPENERS[way](viewer, name, session)
                settle()
            docks = [dock for dock in window.findChildren(QDockWidget) if isinstance(dock.widget(), JobView)]
            assert sorted(dock.windowTitle() for dock in docks) == sorted(f"ProSMA {name}" for name in names), ways
            assert {len(window.tabifiedDockWidgets(dock)) for dock in docks} == {len(names) - 1}, ways
            for dock in docks:
                said = [label.text() for label in dock.titleBarWidget().findChildren(QLabel) if label.text()]
                assert said == [dock.windowTitle()]
            front = [dock.windowTitle() for dock in docks if is_front(dock)]
            assert front == [f"ProSMA {name if way == ways[0] else names[0]}"], ways
        for dock in docks:
            dock.destroyOnClose()
        settle()
