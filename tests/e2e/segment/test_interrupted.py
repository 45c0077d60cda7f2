"""What ends a segmentation early, by the real engine: the panel says so, and the next click works."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication, QLabel, QProgressBar, QPushButton

pytestmark = pytest.mark.slow

SMALL, LONG, LARGE = (16, 32, 40), (48, 256, 256), (128, 448, 448)


def begin(desk: Any, rng: np.random.Generator) -> Any:
    desk.viewer.add_image(rng.normal(100, 20, LONG).astype(np.float32), name="long")
    desk.choose("plain-3d")
    desk.start()
    return desk


@pytest.fixture
def busy(desk: Any, rng: np.random.Generator) -> Any:
    """Return a window that has begun with a scan of many seconds."""
    return begin(desk, rng)


@pytest.fixture
def busy_bare(bare_desk: Any, rng: np.random.Generator) -> Any:
    """Return the widget beside a viewer that draws nothing; it has begun with a scan of many seconds."""
    return begin(bare_desk, rng)


def still_works(desk: Any, rng: np.random.Generator) -> None:
    desk.viewer.layers.clear()
    desk.viewer.add_image(rng.normal(100, 20, SMALL).astype(np.float32), name="small")
    desk.choose("plain-3d")
    assert desk.segment().data.any()


def test_cancel_by_a_click_on_the_same_button(busy_bare: Any, rng: np.random.Generator) -> None:
    engine = busy_bare.session.jobs.pid
    assert busy_bare.button("run").text() == "Cancel"
    assert not busy_bare.controller.run.labels.editable  # what comes next would paint over strokes
    busy_bare.click("run")
    busy_bare.wait()
    assert busy_bare.text("status").endswith("Canceled.")
    assert busy_bare.text("error") == ""
    assert [layer.name for layer in busy_bare.viewer.layers] == ["long"]
    assert busy_bare.button("run").text() == "Segment"
    assert busy_bare.session.jobs.pid == engine
    still_works(busy_bare, rng)


def test_cancel_by_the_button_in_napari_s_activity_dock(busy: Any) -> None:
    bars = [w for w in QApplication.allWidgets() if type(w).__name__ == "QtLabeledProgressBar"]
    (bar,) = (b for b in bars if any("long plain-3d" in label.text() for label in b.findChildren(QLabel)))
    busy.until(lambda: bar.findChild(QProgressBar).value() > 0)
    (cancel,) = bar.findChildren(QPushButton)
    busy.qtbot.mouseClick(cancel, Qt.MouseButton.LeftButton)
    busy.wait()
    assert busy.text("status").endswith("Canceled.")
    assert [layer.name for layer in busy.viewer.layers] == ["long"]


def test_the_scan_is_deleted_while_it_is_segmented(busy_bare: Any) -> None:
    result = busy_bare.controller.run.labels
    busy_bare.viewer.layers.remove("long")
    assert busy_bare.controller.run is not None
    busy_bare.click("run")
    busy_bare.wait()
    assert result not in busy_bare.viewer.layers
    assert busy_bare.text("problem_image").startswith("Open a scan")
    assert not busy_bare.button("run").isEnabled()


def test_the_result_is_deleted_while_it_grows(busy: Any, rng: np.random.Generator) -> None:
    busy.viewer.layers.remove(busy.controller.run.labels)
    busy.wait()
    assert "The result layer was deleted" in busy.text("messages")
    assert busy.text("error") == ""
    still_works(busy, rng)


def test_the_engine_is_killed_while_it_works(busy_bare: Any, rng: np.random.Generator) -> None:
    engine = busy_bare.session.jobs.pid
    os.kill(engine, signal.SIGKILL)
    busy_bare.wait()
    assert "The background process ended" in busy_bare.text("error")
    assert "starts a new one" in busy_bare.text("error")
    assert [layer.name for layer in busy_bare.viewer.layers] == ["long"]
    still_works(busy_bare, rng)
    assert busy_bare.text("error") == ""
    assert busy_bare.session.jobs.pid != engine


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory of a running process")
def test_memory_runs_out_while_the_engine_works(bare_desk: Any, rng: np.random.Generator) -> None:
    still_works(bare_desk, rng)
    process = psutil.Process(bare_desk.session.jobs.pid)
    before = process.rlimit(psutil.RLIMIT_AS)
    bare_desk.viewer.layers.clear()
    large = np.full(LARGE, 100, np.float32)
    large[0] = rng.normal(100, 20, LARGE[1:])
    bare_desk.viewer.add_image(large, name="long")
    bare_desk.choose("plain-3d")
    process.rlimit(psutil.RLIMIT_AS, (process.memory_info().vms + 2**27, before[1]))  # room for the scan, no more
    try:
        bare_desk.click("run")
        bare_desk.wait()
    finally:
        process.rlimit(psutil.RLIMIT_AS, before)
    assert "memory" in bare_desk.text("error")
    assert [layer.name for layer in bare_desk.viewer.layers] == ["long"]
    bare_desk.click("free")
    still_works(bare_desk, rng)


def test_the_window_is_closed_while_a_scan_is_segmented(busy: Any) -> None:
    run, layers = busy.controller.run, busy.viewer.layers
    assert run.labels in layers
    busy.viewer.close()
    busy.until(lambda: run.labels is None)
    assert not layers


def test_the_widget_is_closed_while_a_scan_is_segmented(busy: Any) -> None:
    run, layers = busy.controller.run, busy.viewer.layers
    busy.viewer.window.remove_dock_widget(busy.widget)  # as the cross of the dock does
    busy.until(lambda: run.labels is None)
    assert [layer.name for layer in layers] == ["long"]
    layers["long"].scale = (3, 1, 1)


PROGRAM = """
import sys
import napari, numpy as np
from qtpy.QtCore import QTimer

viewer = napari.Viewer()
_, widget = viewer.window.add_plugin_dock_widget("napari-prosma", "Segment")
{body}
assert not {"torch", "distributed"} & set(sys.modules)
"""


@pytest.fixture
def program(display: None, tmp_path: Path) -> Callable[[str], str]:
    """Return what runs a program of its own, with the widget opened from napari's menu, and gives what it printed."""

    def run(body: str) -> str:
        script = tmp_path / "program.py"
        script.write_text(PROGRAM.replace("{body}", body), encoding="utf-8")
        home = {"XDG_CONFIG_HOME": str(tmp_path), "NAPARI_CONFIG": str(tmp_path / "napari.yaml")}
        done = subprocess.run(
            [sys.executable, str(script)],
            env={**os.environ, **home},
            capture_output=True,
            encoding="utf-8",
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout

    return run


def test_the_engine_ends_with_the_window_whose_process_has_no_torch_in_it(program: Callable[[str], str]) -> None:
    printed = program("""
viewer.add_image(np.random.default_rng(1).normal(size=(24, 160, 160)).astype("float32"), scale=(3, 1, 1), units="mm")
widget.controller.choose_model(next(m for m in widget.controller.session.models() if m.header.name == "phantom-3d"))
widget.controller.start_or_cancel()

def look():
    if widget.progress_text().startswith("Segmenting: "):
        print(widget.controller.session.jobs.pid)
        timer.stop()
        viewer.close()

timer = QTimer()
timer.timeout.connect(look)
timer.start(50)
napari.run()
""")
    assert not psutil.pid_exists(int(printed))
