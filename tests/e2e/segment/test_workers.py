"""A scan is segmented by Dask workers in the window: as on this computer, and failures have messages."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qtpy.QtWidgets import QLineEdit

from prosma_core.io.images import read_labels

pytestmark = pytest.mark.slow

Worker = Callable[..., AbstractContextManager[Any]]


def compute_on(desk: Any, address: str) -> None:
    """Choose workers, as a person does."""
    desk.pick("compute_on", "Dask workers")
    line = desk.widget.findChild(QLineEdit, "workers_address")
    line.setText(address)
    line.editingFinished.emit()


def found_by_test(desk: Any) -> str:
    """Click Test and wait; the message."""
    desk.click("workers_test")
    desk.until(lambda: desk.button("workers_test").text() == "Test")
    return desk.text("workers_found") + desk.text("workers_wrong")


def test_labels_are_those_of_this_computer_and_are_saved_beside_the_scan(
    bare_desk: Any, scan_file: Path, scheduler: str
) -> None:
    desk = bare_desk
    desk.open(scan_file)
    desk.choose("plain-3d")
    wanted = np.asarray(desk.segment().data).copy()
    compute_on(desk, scheduler)
    assert found_by_test(desk).startswith(f"Found: 2 workers of {scheduler}, 2 threads: the same versions as here")
    labels = desk.segment()
    np.testing.assert_array_equal(labels.data, wanted)
    assert f"on {scheduler}." in desk.text("status")
    assert f"Computing on {scheduler}: 2 workers." in desk.text("messages")
    assert f"--on {scheduler}" in desk.command()
    np.testing.assert_array_equal(read_labels(desk.save()).data, wanted)
    assert desk.session.recall("workers_address") == scheduler


def test_a_scheduler_that_does_not_answer_and_one_that_is_killed(
    bare_desk: Any, volume: np.ndarray, scheduler_file: tuple[Path, Any], worker_with: Worker
) -> None:
    desk, (file, process) = bare_desk, scheduler_file
    desk.viewer.add_image(np.tile(volume, (6, 8, 8)), name="long")
    desk.choose("plain-3d")
    compute_on(desk, "tcp://127.0.0.1:9")
    assert found_by_test(desk).startswith("No Dask scheduler answers at tcp://127.0.0.1:9")
    engine = desk.session.jobs.pid
    with worker_with(json.loads(file.read_text())["address"]):
        compute_on(desk, str(file))
        desk.click("run")
        desk.until(lambda: desk.progress().startswith("Segmenting: "))
        desk.click("run")  # cancel
        desk.wait()
        assert desk.text("status") == "Canceled."
        desk.click("run")
        desk.until(lambda: desk.progress().startswith("Segmenting: "))
        process.kill()
        desk.wait()
    assert "was lost. Start it where it has ended, and run again." in desk.text("error")
    assert [layer.name for layer in desk.viewer.layers] == ["long"]
    desk.pick("compute_on", "This computer")
    desk.viewer.add_image(volume, name="short")
    desk.choose("plain-3d")
    desk.segment()
    assert desk.session.jobs.pid == engine
