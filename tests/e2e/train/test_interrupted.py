"""Trainings that are interrupted: nothing that was reached or painted is lost."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_prosma.train.run_library import list_runs
from prosma_core.io.images import read_image
from prosma_core.runs.run_folder import RunFolder

pytestmark = pytest.mark.slow


EPOCHS = 4
"""So many that a training of them can be interrupted."""


def ready(desk: Any, phantoms: list[tuple[Path, Path]], epochs: int = EPOCHS) -> tuple[Any, Any]:
    image, labels = desk.open(phantoms[0][0]), desk.open_labels(phantoms[0][1])
    desk.add(image, labels)
    desk.short(epochs=epochs, steps=6)
    return image, labels


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_a_killed_engine_costs_at_most_an_epoch(bare_desk: Any, phantoms: list[tuple[Path, Path]]) -> None:
    _, labels = ready(bare_desk, phantoms)
    bare_desk.begin()
    labels.paint((0, 0, 0), 1)
    labels.events.labels_update(data=labels.data, offset=(0, 0, 0))
    os.kill(bare_desk.session.jobs.pid, signal.SIGKILL)
    kept = bare_desk.wait()
    assert "background process" in bare_desk.text("error")
    assert kept.model.is_file()
    (state,) = list_runs(bare_desk.models)
    assert 1 <= state.epochs_done < EPOCHS
    (saved,) = (RunFolder.beside(kept.model).root / "annotations").iterdir()
    bare_desk.until(lambda: read_image(saved).data[0, 0, 0] == 1)
    bare_desk.controller.resume(state)
    bare_desk.wait()
    assert bare_desk.text("error") == ""
    assert [(run.epochs_done, run.finished) for run in list_runs(bare_desk.models)] == [(EPOCHS, True)]


def test_layers_deleted_and_changed_while_it_trains_do_no_harm(
    bare_desk: Any, phantoms: list[tuple[Path, Path]]
) -> None:
    image, labels = ready(bare_desk, phantoms, epochs=2)
    before = np.asarray(labels.data).copy()
    bare_desk.begin()
    image.data = np.zeros_like(image.data)
    bare_desk.viewer.layers.clear()
    outcome = bare_desk.wait()
    assert bare_desk.text("error") == ""
    written = next((RunFolder.beside(outcome.model).root / "data" / "labels").iterdir())
    np.testing.assert_array_equal(read_image(written).data, before)


def test_a_run_is_listed_and_goes_on_where_the_widget_is_opened_again(
    desk: Any, phantoms: list[tuple[Path, Path]]
) -> None:
    ready(desk, phantoms)
    desk.begin()
    desk.viewer.window.remove_dock_widget(desk.widget)  # in the middle of it
    desk.dock()
    desk.until(lambda: bool(desk.cells("runs")))  # listed in a thread
    (state,) = desk.cells("runs")
    assert state[0].startswith("scan3")
    desk.until(desk.idle)  # the step of the training that was left is over
    more = list_runs(desk.models)[0]
    desk.controller.resume(more, 1)
    desk.wait()
    assert desk.text("error") == ""
    assert list_runs(desk.models)[0].epochs_done == more.epochs_done + 1


def test_a_loss_that_is_no_number_is_said_and_the_widget_goes_on(
    bare_desk: Any, phantoms: list[tuple[Path, Path]]
) -> None:
    ready(bare_desk, phantoms)
    bare_desk.controller._set(training={"steps": 3, "batch_size": 1, "dice_weight": 1e39})  # infinite as a float32
    bare_desk.click("run")
    bare_desk.wait()
    assert "epoch 1, step 1: training stopped" in bare_desk.text("error")
    assert "learning rate" in bare_desk.text("error")
