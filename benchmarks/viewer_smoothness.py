"""Gaps of the viewer's event loop while the engine segments, time to cancel, and cost of one preview update.

    python3 run.py bench viewer_smoothness

A real window, the real engine, a phantom scan enlarged so that it takes a while. A timer in the GUI thread that should
fire every millisecond measures how long the event loop was busy; both with an idle engine and during a segmentation.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import napari
import numpy as np
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication

from napari_prosma._shared import layers as layer_access
from napari_prosma._shared.session import Session
from napari_prosma.segment import SegmentWidget
from prosma_core.data.phantom import phantom_3d


class Pulse:
    """Times between the ticks of a GUI timer, in milliseconds."""

    def __init__(self) -> None:
        self.gaps: list[float] = []
        self._last = time.perf_counter()
        self._timer = QTimer()
        self._timer.setInterval(1)
        self._timer.timeout.connect(self._tick)
        self._timer.start()

    def _tick(self) -> None:
        now = time.perf_counter()
        self.gaps.append((now - self._last) * 1000)
        self._last = now

    def stop(self) -> str:
        """Summary of the gaps."""
        self._timer.stop()
        gaps = np.array(self.gaps[1:])
        p50, p99 = np.percentile(gaps, [50, 99])
        return f"{len(gaps)} ticks, median {p50:.1f} ms, p99 {p99:.1f} ms, longest {gaps.max():.1f} ms"


def wait(until: Callable[[], bool], seconds: float) -> float:
    """Let the event loop run until something is so; the time it took."""
    began = time.perf_counter()
    while not until():
        QApplication.processEvents()
        time.sleep(0.0005)
        if time.perf_counter() - began > seconds:
            msg = f"Nothing happened within {seconds} s."
            raise TimeoutError(msg)
    return time.perf_counter() - began


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=3, help="how often the phantom is repeated along each axis")
    options = parser.parse_args()
    viewer = napari.Viewer()
    scan, _ = phantom_3d(7)
    data = np.tile(scan.data, (options.repeat,) * 3)
    viewer.add_image(data, name="scan", scale=scan.spec.spacing, units=("mm",) * 3)
    with tempfile.TemporaryDirectory() as folder:
        session = Session(Path(folder))
        widget = SegmentWidget(viewer, session)
        viewer.window.add_dock_widget(widget)
        controller = widget.controller
        controller.choose_model(next(m for m in session.models() if m.header.name == "phantom-3d"))
        wait(lambda: session.jobs.ready is not None, 60)
        pulse = Pulse()
        wait_for = time.perf_counter() + 5
        wait(lambda: time.perf_counter() > wait_for, 10)
        print(f"scan {data.shape}")
        print("engine idle:          ", pulse.stop())

        controller.start_or_cancel()
        wait(lambda: controller.run is not None and controller.run.labels is not None, 120)
        pulse = Pulse()
        wait(lambda: controller.run is None, 600)
        print("during a segmentation:", pulse.stop())

        times = []
        for _ in range(5):
            controller.start_or_cancel()
            wait(lambda: "Tile" in widget.progress_text(), 120)
            tile = time_of_a_tile(widget)
            controller.start_or_cancel()
            times.append(wait(lambda: controller.run is None, 60))
            print(f"cancelled: panel ready after {times[-1]:.2f} s; one tile takes {tile:.2f} s")
        session.jobs.close()
    preview_cost(viewer)
    viewer.close()


def time_of_a_tile(widget: SegmentWidget) -> float:
    """Seconds between two tiles."""
    first = widget.progress_text()
    wait(lambda: widget.progress_text() != first, 60)
    second = widget.progress_text()
    return wait(lambda: widget.progress_text() != second, 60)


def preview_cost(viewer: napari.Viewer) -> None:
    """Main-thread time of one slab update at 2048 x 2048."""
    viewer.layers.clear()
    labels = viewer.add_labels(np.zeros((8, 2048, 2048), np.uint8))
    rng = np.random.default_rng(0)
    times = []
    for _ in range(23):
        labels.data[...] = rng.integers(0, 3, labels.data.shape, np.uint8)
        QApplication.processEvents()
        began = time.perf_counter()
        layer_access.refresh(labels)
        times.append((time.perf_counter() - began) * 1000)
        QApplication.processEvents()
    print(f"preview update at 2048 x 2048: median {np.median(times[3:]):.1f} ms, longest {max(times[3:]):.1f} ms")


if __name__ == "__main__":
    main()
