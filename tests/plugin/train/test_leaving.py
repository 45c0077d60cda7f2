"""What is painted while a training runs is saved on every way out; closing one part of a widget holds up no other."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.layers import Labels

from napari_prosma.cleanup import run_all
from napari_prosma.train.autosave import Saving, save_all
from prosma_core.engine.messages import Cancelled
from prosma_core.errors import OutputError
from prosma_core.io.images import read_image

LEAVING = """
import os, signal, sys, time
from pathlib import Path
import numpy as np
from napari.components import ViewerModel
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication
from napari_prosma.jobs.qt_loop import make_session
from napari_prosma.train import TrainWidget

app, viewer, folder = QApplication([]), ViewerModel(), Path(sys.argv[1])
session = make_session(folder)
widget = TrainWidget(viewer, session)
widget.show()
image = viewer.add_image(np.random.default_rng(1).normal(size=(6, 24, 24)).astype(np.float32), name="scan")
labels = viewer.add_labels(np.pad(np.ones((2, 8, 8), np.uint8), ((2, 2), (8, 8), (8, 8))), name="painted")
viewer.layers.selection = {image, labels}
widget.controller.pairs.add_active()

def until(so):
    while not so():
        app.processEvents()
        time.sleep(0.01)

until(lambda: widget.controller._choices.rows and not widget.controller._pairs.reading)
widget.controller.start_or_stop()
until(lambda: list(folder.glob("models/*.prosma/annotations/*")))
labels.paint((1, 2, 2), 7)
if sys.argv[2] == "signal":
    QTimer.singleShot(0, lambda: os.kill(os.getpid(), signal.SIGTERM))
    app.exec()
"""


@pytest.mark.slow
@pytest.mark.parametrize("way", ["end of the script", "signal"])
def test_what_is_painted_is_saved_however_the_program_ends(way: str, tmp_path: Path, display: None) -> None:
    if way == "signal" and os.name == "nt":
        pytest.skip("signals of POSIX")
    command = [sys.executable, "-c", LEAVING, str(tmp_path), way]
    made = subprocess.run(command, check=False, capture_output=True, encoding="utf-8", timeout=240)
    assert made.returncode == (-signal.SIGTERM if way == "signal" else 0)
    assert "Traceback" not in made.stderr, made.stderr
    (file,) = tmp_path.glob("models/*.prosma/annotations/*")
    saved = np.asarray(read_image(file).data)
    assert saved[1, 2, 2] == 7
    assert saved[2, 8, 8] == 1


def test_a_part_that_cannot_be_closed_holds_up_no_other(
    widget: Any, annotated: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where Qt has deleted a timer before Python closes the widget."""
    _, labels = annotated(widget.viewer)
    widget.controller.pairs.add_active()
    job = widget.start()
    labels.paint((1, 1, 1), 7)
    folder = widget.controller.trainings._autosave.folder

    def deleted(*_: object) -> None:
        msg = "wrapped C/C++ object of type QTimer has been deleted"
        raise RuntimeError(msg)

    monkeypatch.setattr(widget.controller._estimate._preset_times._timer, "stop", deleted)
    monkeypatch.setattr(widget.controller.trainings._autosave._timer, "stop", deleted)
    monkeypatch.setattr(widget.controller._pairs._timer, "stop", deleted)
    monkeypatch.setattr(widget.controller.trainings._preview, "end", deleted)
    widget.controller.close()
    assert job.cancelled
    assert not widget.jobs.alive
    (file,) = folder.iterdir()
    assert np.asarray(read_image(file).data)[1, 1, 1] == 7
    labels.paint((2, 2, 2), 7)
    assert not widget.controller.trainings._autosave.unsaved  # nobody listens any more
    job.say(Cancelled())
    monkeypatch.undo()
    widget.session.widget_opened()  # for the fixture, which closes again


def test_only_what_was_painted_since_is_saved_at_the_end(
    widget: Any, annotated: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, labels = annotated(widget.viewer)
    widget.controller.pairs.add_active()
    widget.start()
    written: list[Any] = []
    monkeypatch.setattr("napari_prosma.train.autosave.autosave", lambda pairs, _: written.append(pairs))
    save_all()
    assert written == []
    labels.paint((1, 1, 1), 7)
    save_all()
    save_all()
    assert len(written) == 1


@pytest.mark.parametrize("written", ["before the end", "at the end"])
@pytest.mark.parametrize("again", ["a minute later", "when the program ends"])
def test_a_last_save_that_fails_is_tried_again(
    written: str, again: str, jobs: Any, clock: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timers: list[Any] = []
    monkeypatch.setattr(
        jobs, "timer", lambda call, repeat=False: timers.append(clock.timer(call, repeat=repeat)) or timers[-1]
    )
    layer, full, saved, told = Labels(np.zeros((4, 4), np.uint8)), [True], [], []

    def write() -> None:
        if full[0]:
            msg = "No space left on device"
            raise OutputError(msg)
        saved.append(layer.data.copy())

    saving = Saving([layer], write, tmp_path, jobs, told.append, unsaved=False)
    layer.paint((1, 1), 7)
    if written == "before the end":
        jobs.held = held = []
        saving.save()  # which has not failed yet
        saving.end()
        jobs.held = None
        for call in held:
            call()
    else:
        saving.end()
    assert (saved, [str(error) for error in told]) == ([], ["No space left on device"])
    del saving
    gc.collect()  # nobody holds it any more
    full[0] = False
    if again == "a minute later":
        for timer in timers:
            timer.fire()
        assert [timer.due for timer in timers] == [None, None], "nothing is left to do"
    else:
        save_all()
    (data,) = saved
    assert data[1, 1] == 7


def test_what_was_saved_at_the_end_is_left_alone(jobs: Any, tmp_path: Path) -> None:
    layer, saved = Labels(np.zeros((4, 4), np.uint8)), []
    saving = Saving([layer], lambda: saved.append(1), tmp_path, jobs, pytest.fail)
    layer.paint((1, 1), 7)
    saving.end()
    layer.paint((2, 2), 7)
    saving.save()
    save_all()
    assert len(saved) == 2


def test_a_training_on_files_has_nothing_to_save_and_leaves_nothing(
    jobs: Any, clock: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timers: list[Any] = []
    monkeypatch.setattr(
        jobs, "timer", lambda call, repeat=False: timers.append(clock.timer(call, repeat=repeat)) or timers[-1]
    )
    Saving([], pytest.fail, tmp_path, jobs, pytest.fail).end()
    assert [timer.due for timer in timers] == [None, None]


def test_each_does_every_part_and_says_which_failed(caplog: pytest.LogCaptureFixture) -> None:
    done: list[str] = []
    gone = RuntimeError("Internal C++ object (QTimer) already deleted.")

    def fail(error: Exception) -> None:
        raise error

    assert not run_all(
        "It could not be closed", lambda: fail(ValueError("odd")), lambda: fail(gone), lambda: done.append("last")
    )
    assert done == ["last"]
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == ["It could not be closed"]
    assert run_all("Nothing", lambda: None)
