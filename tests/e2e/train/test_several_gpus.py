"""A training that is divided among processes, from the window: here they share the CPU, as there are no GPUs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from qtpy.QtWidgets import QCheckBox, QComboBox

from napari_prosma.train import controller
from napari_prosma.train.run_library import list_runs
from napari_prosma.train.training_manager import NOT_LIVE

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="several GPUs are for Linux, which has NCCL"),
]


@pytest.fixture
def two_gpus(bare_desk: Any, phantoms: list[tuple[Path, Path]], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the widget with a pair and a short training, where the engine says that there are two GPUs."""
    desk = bare_desk
    monkeypatch.setattr(controller, "SEVERAL", "cpu")
    jobs = desk.session.jobs
    image, labels = desk.open(phantoms[0][0]), desk.open_labels(phantoms[0][1])
    desk.add(image, labels)
    desk.short(epochs=3, steps=6)
    desk.controller._set(training={"steps": 6, "batch_size": 2, "validation_cases": 2})
    monkeypatch.setattr(type(jobs), "ready", jobs.ready.replace(gpus=2))
    jobs.started.emit(jobs.ready)
    desk.pick("device", "2 GPUs")
    return desk


def processes(desk: Any) -> list[psutil.Process]:
    """Those of the training, the first one first."""
    found = psutil.Process(desk.session.jobs.pid).children(recursive=True)
    ours = [each for each in found if "prosma_core.engine.rank" in each.cmdline()]
    return sorted(ours, key=lambda each: int(each.environ()["RANK"]))


def test_it_trains_with_a_preview_and_can_be_stopped_and_resumed(two_gpus: Any) -> None:
    desk = two_gpus
    live = desk.widget.findChild(QCheckBox, "live")
    assert (live.isChecked(), desk.text("live_facts")) == (False, NOT_LIVE)
    assert "divided among 2 GPUs" in desk.text("notes")
    run = desk.begin()
    assert len(processes(desk)) == 2
    assert any("with 2 processes that divide each batch" in line for line in run._lines)
    desk.until(lambda: any(layer.name.endswith("preview") for layer in desk.viewer.layers))
    desk.click("run")  # stop
    kept = desk.wait()
    assert desk.text("error") == ""
    assert kept.model.is_file()
    assert processes(desk) == []
    (state,) = list_runs(desk.models)
    desk.controller.resume(state)
    desk.wait()
    assert desk.text("error") == ""
    assert [(each.epochs_done, each.finished) for each in list_runs(desk.models)] == [(3, True)]


def test_a_killed_process_is_a_plain_error_and_one_gpu_trains_next(two_gpus: Any) -> None:
    desk = two_gpus
    desk.controller.choose_budget((300, None))
    desk.begin()
    engine = desk.session.jobs.pid
    processes(desk)[1].kill()
    desk.wait()
    assert desk.text("error").startswith("Process 2 of 2 of this training was ended (SIGKILL)")
    desk.pick("device", "cpu")
    assert desk.text("live_facts") == ""
    assert "divided among" not in desk.text("notes")
    desk.controller.choose_budget((1, None))
    desk.train()
    assert desk.session.jobs.pid == engine


def test_several_gpus_are_offered_where_there_are_some(bare_desk: Any) -> None:
    desk, box = bare_desk, bare_desk.widget.findChild(QComboBox, "device")
    assert box.findData("2 GPUs") < 0
    desk.session.jobs.started.emit(desk.session.jobs.ready.replace(gpus=4))
    assert [box.itemText(i) for i in range(box.count())][-3:] == ["2 GPUs", "3 GPUs", "4 GPUs"]
