"""The Train widget's parts: what a person does becomes a signal, what is set is shown, and nothing else happens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pytestqt.qtbot import QtBot
from qtpy.QtCore import QPoint, QPointF, Qt
from qtpy.QtGui import QColor, QWheelEvent
from qtpy.QtTest import QTest
from qtpy.QtWidgets import (
    QApplication,
    QCheckBox,
    QColorDialog,
    QComboBox,
    QDoubleSpinBox,
    QLabel,
    QLineEdit,
    QPushButton,
    QScrollArea,
    QSlider,
    QSpinBox,
    QTableWidget,
    QTableWidgetSelectionRange,
    QWidget,
)

from napari_prosma.scan.selection import ModelRow
from napari_prosma.train.pairs import Pair, PairRow
from napari_prosma.train.series_work import SeriesRow
from napari_prosma.train.sources import Source
from napari_prosma.train.view import TrainView
from prosma_core.config.model import ClassInfo
from prosma_core.config.training import MOST_EPOCHS, LabelsConfig, TrainingConfig
from prosma_core.data.slices import SliceStates
from prosma_core.runs.run_state import RunState

CLASSES = (
    ClassInfo(value=1, name="liver", color="#e6194b"),
    ClassInfo(value=7, name="spleen", color="#3cb44b"),
)


def pair(name: str, **said: Any) -> PairRow:
    return PairRow(Pair(Source(title=name), Source(title=f"{name} labels")), name, f"{name} labels", **said)


PAIRS = (
    pair("first", facts="2 classes, 5 of 40 slices annotated (z), 2 % of voxels"),
    pair("second", problem="The labels lie on another grid.", fixes=("resample",)),
    pair("third", facts="1 class", problem="The labels hold 812 values.", fixes=("one_class",)),
)


def run(name: str, **differs: Any) -> RunState:
    values: dict[str, Any] = {"epochs_done": 4, "epochs": 10, "minutes_spent": 1.0, "minutes": None, "dice": 0.8}
    values |= {"finished": False, "start": None, "model_written": False, "held_out": ""}
    return RunState(name=name, out=Path(f"/models/{name}.safetensors"), **(values | differs))


@pytest.fixture
def view(qtbot: QtBot) -> TrainView:
    made = TrainView()
    qtbot.addWidget(made)
    return made


@pytest.fixture
def heard(view: TrainView) -> list[tuple[Any, ...]]:
    """Return the list that every signal of the view is written into, with its name."""
    told: list[tuple[Any, ...]] = []
    names = [name for name in dir(type(view)) if name.endswith(("_clicked", "_chosen", "_changed", "_toggled"))]
    assert len(names) >= 25
    for name in names:
        getattr(view, name).connect(lambda *values, name=name: told.append((name, *values)))
    return told


def part(view: QWidget, kind: type[Any], name: str) -> Any:
    found = view.findChild(kind, name)
    assert found is not None, name
    return found


def click(view: QWidget, name: str) -> None:
    button = part(view, QPushButton, name)
    assert button.isEnabled(), name
    button.click()


def choose(box: QComboBox, text: str) -> None:
    """Choose an entry as a person does."""
    index = box.findText(text)
    assert index >= 0, [box.itemText(i) for i in range(box.count())]
    box.setCurrentIndex(index)
    box.activated.emit(index)


def texts(view: QWidget) -> list[str]:
    """What all labels say that are not hidden."""
    return [label.text() for label in view.findChildren(QLabel) if not label.isHidden()]


def test_nothing_that_is_clicked_jumps_while_slices_are_painted(view: TrainView, qtbot: QtBot) -> None:
    view.resize(320, 640)
    view.show()
    qtbot.waitExposed(view)
    view.show_pairs(PAIRS[:1])
    places = set()
    for edited in (3, 12, 1):
        view.show_slices(SliceStates("z", 31, edited=tuple(range(edited)), only=True), "a liver, corrected by hand")
        view.show_slice(edited)
        view.show_pairs([pair("first", facts=f"{edited} slices annotated " * (edited // 3))])
        view.show_problem("pairs" if edited == 3 else None, "Nothing is checked or edited yet." if edited == 3 else "")
        view.show_notes("Too few slices to hold one out. " * (edited % 3))
        view.show_run("Train", enabled=edited != 3, tooltip="Loading the pairs.")
        QApplication.processEvents()
        parts = [part(view, QPushButton, name) for name in ("mark_slice", "next_slice", "run")]
        places.add(tuple(each.mapTo(view, each.rect().topLeft()).y() for each in parts))
    assert len(places) == 1


def test_the_outcome_is_scrolled_to_while_texts_above_it_change(view: TrainView, qtbot: QtBot) -> None:
    view.resize(320, 640)
    view.show()
    qtbot.waitExposed(view)
    view.show_pairs(PAIRS)
    view.show_outcome(None, {"liver": 0.8}, "", "No independent validation")
    qtbot.wait(150)
    view.show_notes("One scan is left out. " * 90)
    use = part(view, QPushButton, "use")
    qtbot.waitUntil(lambda: use.visibleRegion().boundingRect().height() == use.height(), timeout=2000)


def test_a_series_that_begins_is_scrolled_to(view: TrainView, qtbot: QtBot) -> None:
    view.resize(320, 600)
    view.show()
    qtbot.waitExposed(view)
    view.show_pairs(PAIRS)
    bar = view.findChild(QScrollArea).verticalScrollBar()
    qtbot.waitUntil(lambda: bar.maximum() > 200)
    bar.setValue(200)  # where the button is that asks for a folder
    rows = [SeriesRow(f"scan_{i}.nii.gz", "untouched", "training", "") for i in range(4)]
    view.series.show_series("scans: 4 scans, 0 done, 0 in work", rows, None, "", "")
    qtbot.waitUntil(lambda: view.series.visibleRegion().boundingRect() == view.series.rect(), timeout=2000)
    qtbot.wait(500)
    bar.setValue(bar.maximum())
    view.series.show_series("scans: 4 scans, 1 done, 0 in work", rows, 1, "", "")
    qtbot.wait(600)
    assert bar.value() == bar.maximum(), "it is scrolled to once"


# --- Pairs ----------------------------------------------------------------------------------------------------------


def test_pairs_with_problems_are_added_one_by_one_until_they_scroll(view: TrainView, qtbot: QtBot) -> None:
    view.resize(360, 900)
    view.show()
    qtbot.waitExposed(view)
    rows = [pair(f"case {i}", facts="1 class", problem="Shapes differ. " * 9, fixes=("resample",)) for i in range(9)]
    for count in range(1, len(rows) + 1):
        view.show_pairs(rows[:count])  # an exception of an event handler fails the test
    table = part(view, QTableWidget, "pairs")
    assert table.rowCount() == 3 * len(rows)
    assert table.verticalScrollBar().maximum() > 0


def test_pairs_are_shown_with_their_facts_problems_and_fixes(view: TrainView, heard: list[Any]) -> None:
    view.show_pairs(PAIRS)
    table = part(view, QTableWidget, "pairs")
    said = [table.item(i, 0).text() for i in range(table.rowCount())]
    assert said == ["first", PAIRS[0].facts, "second", "", "third", "1 class", ""]
    assert [table.item(i, 1).text() for i in (0, 2, 4)] == ["first labels", "second labels", "third labels"]
    assert {"The labels lie on another grid.", "The labels hold 812 values."} <= set(texts(table))
    fixes = {button.text(): button for button in table.findChildren(QPushButton)}
    assert sorted(fixes) == ["One class", "Resample"]
    fixes["Resample"].click()
    fixes["One class"].click()
    assert heard == [("fix_clicked", 1, "resample"), ("fix_clicked", 2, "one_class")]


def test_selected_pairs_are_removed_by_whichever_of_their_lines_is_selected(view: TrainView, heard: list[Any]) -> None:
    view.show_pairs(PAIRS)
    table, remove = part(view, QTableWidget, "pairs"), part(view, QPushButton, "remove_pairs")
    assert not remove.isEnabled()
    for line in (1, 4):  # the facts of the first, the names of the third
        table.setRangeSelected(table_range(line), True)
    remove.click()
    assert heard == [("remove_clicked", [0, 2])]


def test_a_selection_stays_when_a_check_comes_in(view: TrainView, heard: list[Any]) -> None:
    view.show_pairs(PAIRS)
    part(view, QTableWidget, "pairs").setRangeSelected(table_range(4), True)
    view.show_pairs((PAIRS[0], pair("second", facts="2 classes"), PAIRS[2]))
    click(view, "remove_pairs")
    assert heard == [("remove_clicked", [2])]
    view.show_pairs(PAIRS[:2])
    assert not part(view, QPushButton, "remove_pairs").isEnabled()


def table_range(line: int) -> QTableWidgetSelectionRange:
    return QTableWidgetSelectionRange(line, 0, line, 1)


def test_a_list_that_is_changed_in_place_is_shown_as_it_is(view: TrainView) -> None:
    rows = list(PAIRS)
    view.show_pairs(rows)
    rows[0] = pair("other", problem="It cannot be read.")
    rows[1] = pair("second", facts="2 classes")
    view.show_pairs(rows)
    table = part(view, QTableWidget, "pairs")
    assert [table.item(i, 0).text() for i in range(table.rowCount())] == [
        "other",
        "",
        "second",
        "2 classes",
        "third",
        "1 class",
        "",
    ]
    assert [table.columnSpan(i, 0) for i in range(table.rowCount())] == [1, 2, 1, 2, 1, 2, 2]
    assert [table.cellWidget(i, 0) is not None for i in range(7)] == [False, True, *[False] * 4, True]


@pytest.mark.parametrize(
    "name", ["add_active", "add_files", "add_folder", "estimate", "use", "save_as", "folder", "run", "free", "details"]
)
def test_buttons_are_signals(name: str, view: TrainView, heard: list[Any]) -> None:
    view.show_error("It failed.", details=True)
    click(view, name)
    assert heard == [(f"{name}_clicked",)]


def test_hundreds_of_pairs_are_one_table(view: TrainView) -> None:
    view.show_pairs([pair(f"case {i}", facts="2 classes, all annotated") for i in range(800)])
    assert part(view, QTableWidget, "pairs").rowCount() == 1600
    assert part(view, QTableWidget, "pairs").height() < 400
    view.show_pairs(())
    assert part(view, QTableWidget, "pairs").isHidden()


# --- Meaning of labels ----------------------------------------------------------------------------------------------


def test_the_meaning_of_labels_is_shown_and_no_edit(view: TrainView, heard: list[Any]) -> None:
    labels = LabelsConfig(zero="annotated_slices", slice_axis="y", ignore=255, background=3, one_class=True)
    view.show_labels(labels)
    assert part(view, QComboBox, "zero").currentData() == "annotated_slices"
    assert part(view, QComboBox, "slice_axis").currentText() == "y"
    assert (part(view, QSpinBox, "ignore").value(), part(view, QSpinBox, "background_value").value()) == (255, 3)
    assert part(view, QCheckBox, "one_class").isChecked()
    assert not part(view, QCheckBox, "separate").isChecked()
    assert heard == []


def test_each_meaning_can_be_chosen(view: TrainView, heard: list[Any]) -> None:
    view.show_labels(LabelsConfig())
    choose(part(view, QComboBox, "zero"), "Ignored (scribbles)")
    part(view, QSpinBox, "background_value").setValue(4)
    part(view, QSpinBox, "ignore").setValue(9)
    assert part(view, QCheckBox, "separate").isHidden()
    part(view, QCheckBox, "one_class").click()
    part(view, QCheckBox, "separate").click()
    part(view, QCheckBox, "separate").click()
    choose(part(view, QComboBox, "zero"), "Ignored in other slices")
    choose(part(view, QComboBox, "slice_axis"), "x")
    part(view, QSpinBox, "ignore").setValue(0)
    assert [name for name, _ in heard] == ["labels_changed"] * 9
    assert [config for _, config in heard] == [
        LabelsConfig(zero="unlabeled"),
        LabelsConfig(zero="unlabeled", background=4),
        LabelsConfig(zero="unlabeled", background=4, ignore=9),
        LabelsConfig(zero="unlabeled", background=4, ignore=9, one_class=True),
        LabelsConfig(zero="unlabeled", background=4, ignore=9, one_class=True, separate=True),
        LabelsConfig(zero="unlabeled", background=4, ignore=9, one_class=True),
        LabelsConfig(zero="annotated_slices", background=4, ignore=9, one_class=True),
        LabelsConfig(zero="annotated_slices", background=4, ignore=9, one_class=True, slice_axis="x"),
        LabelsConfig(zero="annotated_slices", background=4, one_class=True, slice_axis="x"),
    ]


def test_one_value_cannot_be_both_ignored_and_background(view: TrainView, heard: list[Any]) -> None:
    view.show_labels(LabelsConfig(zero="unlabeled", background=4))
    part(view, QSpinBox, "ignore").setValue(4)
    assert heard == []
    assert "cannot both be 4" in part(view, QLabel, "problem_labels").text()
    assert part(view, QSpinBox, "ignore").value() == 0
    part(view, QSpinBox, "ignore").setValue(5)
    assert heard == [("labels_changed", LabelsConfig(zero="unlabeled", background=4, ignore=5))]
    assert part(view, QLabel, "problem_labels").isHidden()


def test_classes_can_be_renamed(view: TrainView, heard: list[Any]) -> None:
    view.show_classes(CLASSES)
    table = part(view, QTableWidget, "classes")
    assert [(table.item(i, 0).text(), table.item(i, 1).text()) for i in (0, 1)] == [("1", "liver"), ("7", "spleen")]
    table.item(1, 1).setText(" left spleen ")
    table.item(0, 1).setText("  ")
    assert heard == [("class_changed", 7, "left spleen", "#3cb44b")]
    assert table.item(0, 1).text() == "liver"
    assert not table.item(0, 0).flags() & Qt.ItemFlag.ItemIsEditable


def test_a_click_on_the_color_of_a_class_changes_it(view: TrainView, heard: list[Any], qtbot: QtBot) -> None:
    view.show_classes(CLASSES)
    view.show()
    table = part(view, QTableWidget, "classes")
    for column in (1, 0):
        place = table.visualItemRect(table.item(1, column)).center()
        qtbot.mouseClick(table.viewport(), Qt.MouseButton.LeftButton, pos=place)
    (dialog,) = view.findChildren(QColorDialog)
    assert dialog.currentColor().name() == "#3cb44b"
    dialog.setCurrentColor(QColor("#123456"))
    dialog.accept()
    assert heard == [("class_changed", 7, "spleen", "#123456")]
    qtbot.waitUntil(lambda: not view.findChildren(QColorDialog))


# --- Start, preset, budget, device, name, options -------------------------------------------------------------------


def test_what_to_start_from(view: TrainView, heard: list[Any]) -> None:
    model = object()
    new = ("", [ModelRow("New model 2D", 2), ModelRow("New model 3D", 3)])
    view.show_starts([new, ("Synthetic", [ModelRow("phantom-3d", model)])], 3, "planned from the data")
    box = part(view, QComboBox, "start")
    assert (box.currentText(), part(view, QLabel, "start_facts").text()) == ("New model 3D", "planned from the data")
    assert heard == []
    for name in ("phantom-3d", "New model 2D", "Browse…"):
        choose(box, name)
    assert heard == [("start_chosen", model), ("start_chosen", 2), ("browse_clicked",)]


def test_presets_say_their_time_where_it_is_known(view: TrainView, heard: list[Any]) -> None:
    view.show_preset(["quick", "balanced", "best"], "balanced", "")
    box, times = part(view, QComboBox, "preset"), part(view, QLabel, "times")
    assert [box.itemText(i) for i in range(box.count())] == ["quick", "balanced", "best"]
    assert box.currentData() == "balanced"
    assert times.isHidden()
    view.show_preset(["quick", "balanced", "best"], "balanced", "quick: about 4 min · best: about 2 h")
    assert (times.text(), times.isHidden()) == ("quick: about 4 min · best: about 2 h", False)
    choose(box, "quick")
    assert heard == [("preset_chosen", "quick")]


def test_the_budget_is_the_presets_or_epochs_or_minutes(view: TrainView, heard: list[Any]) -> None:
    box, epochs, minutes = (
        part(view, kind, name)
        for kind, name in ((QComboBox, "budget"), (QSpinBox, "epochs"), (QDoubleSpinBox, "minutes"))
    )
    view.show_budget(30, None)
    assert (box.currentText(), epochs.value(), epochs.isHidden(), minutes.isHidden()) == ("Epochs", 30, False, True)
    view.show_budget(None, 2.5)
    assert (box.currentText(), minutes.value(), epochs.isHidden()) == ("Minutes", 2.5, True)
    assert heard == []
    minutes.setValue(5)
    choose(box, "Epochs")
    epochs.setValue(40)
    choose(box, "Preset default")
    budgets = [(None, 5.0), (30, None), (40, None), (None, None)]
    assert heard == [("budget_chosen", budget) for budget in budgets]
    assert epochs.isHidden()
    assert minutes.isHidden()


def test_devices(view: TrainView, heard: list[Any]) -> None:
    view.show_devices([("Auto", "auto"), ("CPU", "cpu")], "auto", "2 threads")
    assert "2 threads" in texts(view)
    choose(part(view, QComboBox, "device"), "CPU")
    assert heard == [("device_chosen", "cpu")]


def test_a_name_is_not_taken_from_under_the_fingers(view: TrainView, heard: list[Any], qtbot: QtBot) -> None:
    view.show()
    name = part(view, QLineEdit, "name")
    view.show_name("liver")
    assert name.text() == "liver"
    view.activateWindow()
    name.setFocus()
    qtbot.waitUntil(name.hasFocus)
    name.setText("my liver ")
    view.show_name("liver 2")
    assert name.text() == "my liver "
    QTest.keyClick(name, Qt.Key.Key_Return)
    assert heard == [("name_chosen", "my liver")]


def test_settings_that_have_no_field_stay_as_they_were(view: TrainView, heard: list[Any]) -> None:
    view.show_options(TrainingConfig(epochs=7, ema_decay=0.9, patience=3))
    assert heard == []
    part(view, QDoubleSpinBox, "option_learning_rate").setValue(0.0003)
    assert heard == [("options_changed", TrainingConfig(epochs=7, ema_decay=0.9, patience=3, learning_rate=0.0003))]
    click(view, "advanced_defaults")
    assert heard[1:] == [("defaults_clicked",)]


# --- Problems, running, messages ------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["pairs", "labels", "classes", "start", "budget", "device", "name", "advanced"])
def test_a_problem_stands_under_its_field_and_nowhere_else(field: str, view: TrainView) -> None:
    view.show()
    for name in ("pairs", "name", field):
        view.show_problem(name, "This cannot be.")
    shown = [label for label in view.findChildren(QLabel) if label.text() == "This cannot be."]
    assert [label.objectName() for label in shown] == [f"problem_{field}"]
    assert shown[0].isVisible()
    view.show_problem(None, "")
    assert not shown[0].isVisible()


def test_choices_are_locked_while_it_trains_and_can_still_be_read(
    view: TrainView, heard: list[Any], qtbot: QtBot
) -> None:
    view.show()
    view.show_pairs(PAIRS[:1])
    view.show_classes(CLASSES)
    view.show_runs([run("a")])
    view.show_preview(checked=False, enabled=True, text="")
    view.show_running(True)
    assert view.running
    inputs = (QComboBox, QSpinBox, QDoubleSpinBox, QLineEdit, QPushButton, QCheckBox)
    free = {p.objectName() for kind in inputs for p in view.findChildren(kind) if p.isEnabled() and p.objectName()}
    outcome = {"use", "save_as", "folder"}
    assert (
        free - {"qt_spinbox_lineedit"}
        == {"run", "preview", "live", "mark_slice", "next_slice", "contours", "letters", "details"} | outcome
    )
    assert all(label.isEnabled() for label in view.findChildren(QLabel) if label.isVisible())
    assert part(view, QTableWidget, "pairs").isEnabled()
    table = part(view, QTableWidget, "classes")
    assert table.isEnabled()
    for column in (0, 1):
        place = table.visualItemRect(table.item(0, column)).center()
        qtbot.mouseClick(table.viewport(), Qt.MouseButton.LeftButton, pos=place)
    assert table.findChildren(QLineEdit) == []
    assert view.findChildren(QColorDialog) == []
    assert heard == []
    view.show_running(False)
    assert not view.running
    assert part(view, QComboBox, "zero").isEnabled()
    assert not part(view, QPushButton, "remove_pairs").isEnabled()


def test_what_a_job_says_is_shown(view: TrainView) -> None:
    view.show_run("Stop", enabled=True, tooltip="Keeps what is learned")
    view.show_progress(3, 10, "Epoch 3 of 10")
    view.show_messages(["Planning.", "Training."])
    view.show_error("The disk is full.", details=True)
    view.show_notes("Nothing is held out.")
    button = part(view, QPushButton, "run")
    assert (button.text(), button.toolTip(), button.isEnabled()) == ("Stop", "Keeps what is learned", True)
    assert (view.progress_text(), view.error_text()) == ("Epoch 3 of 10", "The disk is full.")
    assert {"Planning.\nTraining.", "Nothing is held out."} <= set(texts(view))


def test_the_preview_can_be_asked_for(view: TrainView, heard: list[Any]) -> None:
    box = part(view, QCheckBox, "preview")
    assert box.isHidden()
    view.show_preview(checked=True, enabled=True, text="1.2 s each time")
    assert (box.isHidden(), box.isChecked()) == (False, True)
    assert "1.2 s each time" in texts(view)
    assert heard == []
    box.click()
    assert heard == [("preview_toggled", False)]
    view.show_preview(checked=False, enabled=False, text="")
    assert not box.isEnabled()


# --- Outcome and earlier runs ---------------------------------------------------------------------------------------


def test_before_and_after_stand_side_by_side(view: TrainView) -> None:
    view.show_outcome({"liver": 0.81}, {"liver": 0.88, "spleen": 0.5}, "liver 0.81 -> 0.88.", "4 slices.")
    table = part(view, QTableWidget, "outcome")
    rows = [[table.item(i, j).text() for j in range(3)] for i in range(table.rowCount())]
    assert rows == [["liver", "0.810", "0.880"], ["spleen", "–", "0.500"]]
    assert {"liver 0.81 -> 0.88.", "4 slices."} <= set(texts(view))
    assert not table.isColumnHidden(1)
    view.show_outcome(None, {"liver": 0.9}, "", "")
    assert table.isColumnHidden(1)
    assert table.horizontalHeaderItem(2).text() == "Dice"
    assert not table.isHidden()
    view.hide_outcome()
    assert not table.isVisibleTo(view)


def test_earlier_runs_and_how_to_go_on_with_them(view: TrainView, heard: list[Any]) -> None:
    stopped, done = run("stopped"), run("done", finished=True, model_written=True, epochs_done=10)
    empty = run("empty", epochs_done=0, dice=None)
    clock = run("clock", epochs=MOST_EPOCHS, minutes=10.0, held_out="No independent validation: nothing is held out.")
    view.show_runs([stopped, done, empty, clock])
    table = part(view, QTableWidget, "runs")
    rows = [[table.item(i, j).text() for j in range(4)] for i in range(table.rowCount())]
    assert rows == [
        ["stopped", "4/10", "0.800", "stopped"],
        ["done", "10/10", "0.800", "finished"],
        ["empty", "0/10", "–", "stopped"],
        ["clock", "4", "(0.800)", "stopped"],  # of what it was trained on
    ]
    for name in ("resume", "use_model", "run_folder"):
        click(view, name)
    table.selectRow(1)
    part(view, QSpinBox, "more_count").setValue(25)
    click(view, "more")
    assert not part(view, QPushButton, "resume").isEnabled()
    table.selectRow(2)
    assert not part(view, QPushButton, "use_model").isEnabled()
    assert heard == [
        ("resume_clicked", stopped),
        ("keep_clicked", stopped),
        ("run_folder_clicked", stopped),
        ("more_clicked", done, 25),
    ]


def test_the_selected_run_stays_selected_when_the_list_changes(view: TrainView, heard: list[Any]) -> None:
    first, second = run("first"), run("second")
    view.show_runs([first, second])
    part(view, QTableWidget, "runs").selectRow(1)
    view.show_runs([run("newest"), first, second])
    click(view, "run_folder")
    assert heard == [("run_folder_clicked", second)]
    view.show_runs([])
    assert not part(view, QTableWidget, "runs").isVisibleTo(view)


# --- The wheel ------------------------------------------------------------------------------------------------------


def turn_wheel(widget: QWidget) -> bool:
    """Turn the wheel over a widget; whether it took the event, rather than leaving it to what it stands in."""
    place = widget.rect().center()
    event = QWheelEvent(
        QPointF(place),
        QPointF(widget.mapToGlobal(place)),
        QPoint(),
        QPoint(0, -120),
        Qt.MouseButton.NoButton,
        Qt.KeyboardModifier.NoModifier,
        Qt.ScrollPhase.NoScrollPhase,
        False,
    )
    QApplication.sendEvent(widget, event)
    return event.isAccepted()


@pytest.mark.usefixtures("display")
@pytest.mark.parametrize("name", ["zero", "ignore", "preset", "device", "option_foreground", "option_seed"])
def test_the_wheel_changes_only_what_is_being_edited(
    name: str, view: TrainView, heard: list[Any], qtbot: QtBot
) -> None:
    view.show_preset(["quick", "balanced", "best"], "balanced", "")
    view.show_devices([("Auto", "auto"), ("CPU", "cpu")], "auto", "")
    view.show_problem("advanced", "opens the fold")
    with qtbot.waitExposed(view):
        view.show()
    box = part(view, QWidget, name)
    box = box.findChild(QSlider) or box
    assert not turn_wheel(box)
    assert heard == []
    view.activateWindow()
    box.setFocus()
    qtbot.waitUntil(box.hasFocus)
    assert turn_wheel(box)
