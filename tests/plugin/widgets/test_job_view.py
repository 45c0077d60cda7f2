"""The frame that widgets share: words for the time left, the status line, sections, long names."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from pytestqt.qtbot import QtBot
from qtpy.QtCore import QBuffer, QByteArray, QEvent, QPoint
from qtpy.QtGui import QHelpEvent, QMovie
from qtpy.QtWidgets import QApplication, QDialog, QLabel, QMainWindow, QPlainTextEdit, QProgressBar, QToolTip

from napari_prosma.segment.view import SegmentView
from napari_prosma.widgets.fields import Fold, combo, note_label, say
from napari_prosma.widgets.job_view import READY, SPINNER_SPEED, ActivityProgress, StatusPanel
from prosma_core.printable import TimeLeft, format_duration


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "1 s"),
        (40.4, "40 s"),
        (59, "59 s"),
        (60, "1 min"),
        (3599, "1 h 0 min"),
        (7500, "2 h 5 min"),
        (93_000, "26 h"),
        (172_800, "2 days"),
    ],
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert format_duration(seconds) == words


def test_time_left_follows_the_pace_since_the_first_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    left = TimeLeft()
    assert left.text(1, 11) == ""
    now[0] += 8
    assert left.text(5, 11) == "about 12 s left"
    now[0] += 12
    assert left.text(11, 11) == ""


def test_time_left_follows_the_pace_of_the_last_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    left = TimeLeft()
    for tile in range(1, 101):  # on quiet cores
        left.text(tile, 200)
        now[0] += 1
    for tile in range(101, 110):  # under load
        now[0] += 9
        said = left.text(tile, 200)
    assert said == "about 14 min left"  # 91 tiles, 9 s each
    assert left.text(1, 200) == ""  # of another scan
    now[0] += 2
    assert left.text(2, 11) == "about 18 s left"


def test_without_a_total_the_line_counts_the_seconds_and_the_bar_stands_still(qtbot: QtBot) -> None:
    panel = StatusPanel()
    qtbot.addWidget(panel)
    panel.show_progress(0, 0, "Reading the scan…")
    bar = panel.findChild(QProgressBar)
    assert (panel.text(), bar.maximum(), bar.value()) == ("Reading the scan…", 1, 0)
    panel._clock.setInterval(10)

    def seconds() -> int:
        found = re.fullmatch(r"Reading the scan… \((\d+) s\)", panel.text())
        return int(found[1]) if found else -1

    panel.show()
    qtbot.waitUntil(lambda: seconds() >= 0)
    panel.hide()  # as where its tab is not in front
    assert not panel._clock.isActive()
    panel.show_progress(0, 0, "Reading the scan…")
    panel.show()
    assert panel._clock.isActive()
    panel._began -= 50
    panel.show_progress(0, 0, "Reading the scan…")  # said again, it goes on counting
    qtbot.waitUntil(lambda: seconds() >= 50)
    panel.show_progress(2, 8, "Tile 2 of 8")
    qtbot.wait(30)
    assert (panel.text(), bar.maximum(), bar.value()) == ("Tile 2 of 8", 8, 2)
    panel.show_progress(0, 0, "Writing…")
    panel.show_running(False)
    assert not panel._clock.isActive()


def test_the_seconds_are_those_of_what_is_done_and_not_of_the_time_left(qtbot: QtBot) -> None:
    panel = StatusPanel()
    qtbot.addWidget(panel)
    panel.show_progress(0, 0, "Epoch 3 of 20, validating", ", about 8 min left")
    assert panel.text() == "Epoch 3 of 20, validating, about 8 min left"
    panel._began -= 7
    panel._count()
    assert panel.text() == "Epoch 3 of 20, validating (7 s), about 8 min left"
    panel.show_progress(1, 4, "Epoch 4 of 20, step 1 of 4")
    assert panel.text() == "Epoch 4 of 20, step 1 of 4"


def test_of_a_path_the_name_of_the_file_is_shown_whole(qtbot: QtBot) -> None:
    label = note_label("facts")
    qtbot.addWidget(label)
    label.resize(300, 40)
    name = "scan_hippocampus-mri.nii.gz"
    for folder in (
        "/data/of/our/clinic/of/this/year/patients/017/session_2/anatomy/",
        "C:\\Users\\Somebody\\Documents\\scans\\of_this_year\\",
    ):
        say(label, f"Saved {folder}{name}")
        drawn = QLabel.text(label)
        assert drawn.endswith(folder[-1] + name)
        assert "…" in drawn
        assert label.toolTip().endswith(folder + name)
    say(label, "Saved /data/" + "a_very_long_name" * 9 + ".nii.gz")
    assert QLabel.text(label).startswith("Saved a_very")
    assert QLabel.text(label).endswith(".nii.gz")


def test_the_line_says_what_matters_first_and_nothing_moves_while_a_job_runs(qtbot: QtBot) -> None:
    panel = StatusPanel()
    qtbot.addWidget(panel)
    panel.resize(300, 80)
    panel.show()
    assert panel.text() == READY
    panel.show_end("Done in 3 s on cpu.")
    assert panel.text() == "Done in 3 s on cpu."
    panel.show_problem("Not ready yet: see Model above.")
    assert panel.text() == "Not ready yet: see Model above."
    panel.show_problem("")
    panel.show_wait("Loading the pairs.")
    assert panel.text() == "Loading the pairs."
    panel.show_wait("")
    assert panel.text() == READY
    idle = panel.heightForWidth(300)
    panel.show_running(True)
    panel.show_progress(1, 9, "Epoch 1 of 150, step 3 of 100, about 1 h 31 min left, and then the validation")
    high = panel.heightForWidth(300)
    panel.show_progress(2, 9, "Epoch 2")
    assert (panel.text(), panel.heightForWidth(300)) == ("Epoch 2", high)
    panel.show_end("Stopped.")
    panel.show_running(False)
    assert (panel.text(), panel.heightForWidth(300)) == ("Stopped.", idle)


def test_sections_stay_as_they_were_left(qtbot: QtBot) -> None:
    kept: dict[str, Any] = {}

    def opened(view: SegmentView) -> dict[str, bool]:
        return {fold.title: fold.isExpanded() for fold in view.findChildren(Fold)}

    def make() -> SegmentView:
        view = SegmentView()
        qtbot.addWidget(view)
        view.keep_sections(kept.get, kept.__setitem__)
        return view

    first = make()
    assert opened(first) == {"Advanced": False, "Compute on": False, "Details": False}
    first.findChild(Fold, "section_details").toggleButton().click()
    first.show_problem("part", "Nothing of the scan is in view.")  # opens Advanced, for now
    assert opened(first) == {"Advanced": True, "Compute on": False, "Details": True}
    first.show_problem("part", "Nothing of the scan is in view.")
    first.findChild(Fold, "section_advanced").collapse()
    first.show_problem("part", "Nothing of the scan is in view.")
    assert opened(first)["Advanced"] is False  # not again
    assert opened(make()) == {"Advanced": False, "Compute on": False, "Details": True}
    kept["sections"] = "damaged"
    assert opened(make()) == {"Advanced": False, "Compute on": False, "Details": False}


def test_a_wide_word_loses_its_middle_and_the_tooltip_has_all_of_it(qtbot: QtBot) -> None:
    label, box, name = note_label("facts"), combo("The scan."), f"sub-{'0' * 90}-T2.nii.gz"
    for part in (label, box):
        qtbot.addWidget(part)
        part.resize(200, 40)
    say(label, f"Saved {name}")
    box.addItem(name)
    label.show()
    drawn = QLabel.text(label)
    assert label.text() == label.toolTip() == f"Saved {name}"
    assert re.fullmatch(r"Saved sub-0+…0*-T2\.nii\.gz", drawn)
    label.resize(4000, 40)
    assert QLabel.text(label) == label.text()
    box.show()
    QApplication.sendEvent(box, QHelpEvent(QEvent.Type.ToolTip, QPoint(5, 5), box.mapToGlobal(QPoint(5, 5))))
    assert name in QToolTip.text()
    QToolTip.hideText()


def test_the_sign_of_naparis_activity_dock_turns_slowly_while_a_job_runs(qtbot: QtBot) -> None:
    window, sign = QMainWindow(), QLabel()
    qtbot.addWidget(window)
    sign.setMovie(QMovie(QBuffer(QByteArray()), QByteArray()))
    window.statusBar().addWidget(sign)
    window.statusBar().addWidget(QLabel("ready"))
    activity = ActivityProgress("job", lambda: None)
    assert sign.movie().speed() == SPINNER_SPEED
    activity.close()


def test_the_log_is_shown_in_a_window(qtbot: QtBot) -> None:
    view = SegmentView()
    qtbot.addWidget(view)
    view.show_error("It failed.", details=True)
    view.show_log("line 1\nline 2")
    (window,) = view.findChildren(QDialog)
    assert window.windowTitle() == "Log of the last run"
    assert "line 2" in window.findChild(QPlainTextEdit).toPlainText()


def test_thousands_of_steps_do_not_keep_the_window_from_what_follows(
    qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    activity, shown, now = ActivityProgress("job", lambda: None), list[float](), [0.0]
    monkeypatch.setattr("napari_prosma.widgets.job_view.time.monotonic", lambda: now[0])
    monkeypatch.setattr(ActivityProgress, "update", lambda self, n: (shown.append(n), setattr(self, "n", self.n + n)))
    for done in range(1, 10_001):
        now[0] += 0.001
        activity.show_progress(done, 10_000)
    assert activity.n == 10_000
    assert 90 <= len(shown) <= 110
    activity.show_progress(1, 50)  # a new epoch, at once
    assert (activity.n, activity.total) == (1, 50)
    activity.close()
