"""Calls of other threads in the GUI thread: one after the other, also where one of them lets the window live."""

from __future__ import annotations

import threading

from pytestqt.qtbot import QtBot
from qtpy.QtWidgets import QApplication

from napari_prosma._shared.jobs import Mailbox


def test_calls_that_let_the_window_live_do_not_pile_up(qtbot: QtBot) -> None:
    box = Mailbox()
    said: list[str] = []

    def call(number: int) -> None:
        said.append(f"begin {number}")
        QApplication.processEvents()  # as napari's progress bars do
        said.append(f"end {number}")

    for number in range(2000):
        box.post(lambda number=number: call(number))
    qtbot.waitUntil(lambda: len(said) == 4000)
    assert said == [f"{word} {number}" for number in range(2000) for word in ("begin", "end")]


def test_a_call_that_fails_does_not_hold_up_the_next(qtbot: QtBot) -> None:
    box = Mailbox()
    said: list[str] = []
    with qtbot.captureExceptions() as failures:
        box.post(lambda: said.remove("nothing"))
        box.post(lambda: said.append("next"))
        qtbot.waitUntil(lambda: said == ["next"])
    assert [kind for kind, *_ in failures] == [ValueError]


def test_what_other_threads_post_runs_in_the_thread_of_the_window(qtbot: QtBot) -> None:
    box = Mailbox()
    ran_in: list[threading.Thread] = []
    other = threading.Thread(target=lambda: box.post(lambda: ran_in.append(threading.current_thread())))
    other.start()
    other.join()
    assert ran_in == []
    qtbot.waitUntil(lambda: bool(ran_in))
    assert ran_in == [threading.current_thread()]
