"""Gaps of the viewer's event loop while the engine segments, time to cancel, and the cost of one preview update.

    python3 run.py bench viewer_smoothness

A real window and the real engine. A timer in the GUI thread that should fire every millisecond tells how long the event
loop was busy: with an idle engine, during a segmentation, and during one while the canvas is hidden, which leaves out
drawing (under a virtual screen OpenGL is computed by the processor, beside the engine). "Computing" is the processor
time of the GUI thread in these gaps: the rest it waited, for the processor where other programs run as well.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import napari
import numpy as np
from qtpy.QtCore import QEventLoop, Qt, QTimer
from qtpy.QtWidgets import QApplication, QPushButton

from napari_prosma.jobs.qt_loop import make_session
from napari_prosma.layers.results import labels_layer, refresh
from napari_prosma.layers.scan import read
from napari_prosma.layers.viewport import slab_in_view
from napari_prosma.segment import SegmentWidget
from prosma_core.data.phantom import phantom_3d


class Pulse:
    """Times between the ticks of a GUI timer, in milliseconds: on the clock, and computing in the GUI thread."""

    def __init__(self) -> None:
        self.gaps: list[tuple[float, float]] = []
        self._last = (time.perf_counter(), time.thread_time())
        self._timer = QTimer(interval=1, timerType=Qt.TimerType.PreciseTimer)
        self._timer.timeout.connect(self._tick)
        self._timer.start()

    def _tick(self) -> None:
        now, last = (time.perf_counter(), time.thread_time()), self._last
        self.gaps.append(((now[0] - last[0]) * 1000, (now[1] - last[1]) * 1000))
        self._last = now

    def stop(self) -> str:
        """Summary of the gaps."""
        self._timer.stop()
        clock, computing = np.array(self.gaps).T
        lines = [f"{clock.sum() / 1000:.0f} s, {len(clock)} ticks"]
        for name, gaps in (("gaps", clock), ("computing", computing)):
            longest = ", ".join(f"{gap:.0f}" for gap in sorted(gaps)[:-4:-1])
            p99, above = np.percentile(gaps, 99), (gaps > 50).sum()
            lines.append(f"  {name + ':':11}p99 {p99:4.1f} ms, {above:2} above 50 ms, longest {longest} ms")
        return "\n".join(lines)


def wait(until: Callable[[], bool], seconds: float = 900) -> float:
    """Let the event loop run, looking every 5 ms, until something is so or the time is over; the time it took."""
    began, loop = time.perf_counter(), QEventLoop()
    look = QTimer(interval=5)
    look.timeout.connect(lambda: loop.quit() if until() or time.perf_counter() - began > seconds else None)
    look.start()
    loop.exec()
    return time.perf_counter() - began


class Desk:
    """A window with the widget and a scan."""

    def __init__(self, folder: str, repeat: int) -> None:
        self.viewer = napari.Viewer()
        self.viewer.window.resize(1400, 860)
        scan, _ = phantom_3d(7)
        self.data = np.tile(scan.data, (repeat,) * 3)
        self.viewer.add_image(self.data, name="scan", scale=scan.spec.spacing, units=("mm",) * 3)
        self.session = make_session(Path(folder))
        self.widget = SegmentWidget(self.viewer, self.session)
        self.viewer.window.add_dock_widget(self.widget)
        self.controller = self.widget.controller
        self.controller.choose_model(next(m for m in self.session.models() if m.header.name == "phantom-3d"))
        wait(lambda: self.session.jobs.ready is not None)

    def segment(self) -> str:
        """Segment; the gaps from before the click until after the result is shown. The result is then removed."""
        pulse = Pulse()
        QTimer.singleShot(500, self.controller.start_or_cancel)
        wait(lambda: self.controller.run is not None)
        wait(lambda: self.controller.run is None)
        wait(lambda: False, 0.5)
        text = pulse.stop()
        self.viewer.layers.remove(self.controller.last.labels)
        return text

    def cancel_after(self, seconds: float) -> float:
        """Start, cancel after a while; seconds until the panel is ready again."""
        self.controller.start_or_cancel()
        wait(lambda: False, seconds)
        run = next(b for b in self.widget.findChildren(QPushButton) if b.objectName() == "run")
        self.controller.start_or_cancel()
        return wait(lambda: self.controller.run is None and run.isEnabled() and run.text() == "Segment")

    def seconds_per_tile(self) -> float:
        """Median time between two tiles, of a run that is then canceled."""
        self.controller.start_or_cancel()
        wait(lambda: self.widget.progress_text().startswith("Tile"))
        times = []
        for _ in range(8):
            shown = self.widget.progress_text().partition(",")[0]
            times.append(wait(lambda shown=shown: self.widget.progress_text().partition(",")[0] != shown))
        self.controller.start_or_cancel()
        wait(lambda: self.controller.run is None)
        return float(np.median(times[1:]))


def preview_cost(desk: Desk) -> None:
    """Main-thread time of one slab update at 2048 x 2048, as a run does it, and of the drawing that follows."""
    desk.viewer.layers.clear()
    scan = desk.viewer.add_image(np.zeros((8, 2048, 2048), np.uint16), name="large")
    geometry, array = read(scan), np.zeros((8, 2048, 2048), np.uint8)
    classes = desk.session.models()[0].header.classes
    labels = desk.viewer.add_layer(labels_layer(geometry, array, classes, "labels", {}))
    rng, updates, draws = np.random.default_rng(0), [], []
    for _ in range(33):
        array[...] = rng.integers(0, 3, (1, 2048, 2048), np.uint8)
        wait(lambda: False, 0.05)
        began = time.perf_counter()
        if slab_in_view(labels, read(labels), desk.viewer, (0, 0, 0), array.shape):
            refresh(labels)
        updates.append((time.perf_counter() - began) * 1000)
        QApplication.processEvents()
        draws.append((time.perf_counter() - began) * 1000 - updates[-1])
    for name, times in (("preview update at 2048 x 2048", updates[3:]), ("drawing after it", draws[3:])):
        print(f"{name}: median {np.median(times):.1f} ms, longest {max(times):.1f} ms")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=2, help="how often the phantom is repeated along each axis")
    parser.add_argument("--cancels", type=int, default=12)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        desk = Desk(folder, options.repeat)
        print(f"load {os.getloadavg()[0]:.1f}, scan {desk.data.shape}")
        pulse = Pulse()
        wait(lambda: False, 10)
        print("engine idle:", pulse.stop())
        print("segmenting:", desk.segment())
        desk.viewer.window._qt_viewer.canvas.native.hide()
        print("segmenting, canvas hidden:", desk.segment())
        desk.viewer.window._qt_viewer.canvas.native.show()
        tile = desk.seconds_per_tile()
        times = [desk.cancel_after(random.uniform(0.5, 6)) for _ in range(options.cancels)]
        early = [desk.cancel_after(random.uniform(0, 0.1)) for _ in range(options.cancels)]
        desk.controller.free_memory()
        cold = desk.cancel_after(0.2)
        print(
            f"a tile {tile:.2f} s; canceled, ready after: median {np.median(times):.2f} s, longest {max(times):.2f} s"
        )
        print(f"canceled at once: longest {max(early):.2f} s; while the engine starts: {cold:.2f} s")
        preview_cost(desk)
        print(f"load {os.getloadavg()[0]:.1f}")
        desk.session.jobs.close()
        desk.viewer.close()


if __name__ == "__main__":
    main()
