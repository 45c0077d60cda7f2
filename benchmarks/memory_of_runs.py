"""Memory of the viewer and of the engine over 100 segmentations in a row.

    python3 run.py bench memory_of_runs [--runs 100]

A real window and the real engine; each result is removed after its run, as a person would. Memory is what the process
has allocated (RssAnon on Linux, which leaves out mapped files that the system may drop; USS elsewhere), in MiB; open
files and threads stand beside it.
"""

from __future__ import annotations

import argparse
import gc
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import napari
import psutil
from qtpy.QtCore import QEventLoop, QTimer

from napari_prosma.jobs.qt_loop import make_session
from napari_prosma.segment import SegmentWidget
from prosma_core.data.phantom import phantom_3d


def wait(until: Callable[[], bool], seconds: float = 120) -> None:
    """Let the event loop run until something is so."""
    loop, look, began = QEventLoop(), QTimer(interval=5), time.perf_counter()
    look.timeout.connect(lambda: loop.quit() if until() or time.perf_counter() - began > seconds else None)
    look.start()
    loop.exec()
    look.stop()


def memory(pid: int) -> tuple[float, int, int]:
    """MiB that a process has allocated, its open files and its threads."""
    process, status = psutil.Process(pid), Path(f"/proc/{pid}/status")
    if status.exists():
        kib = next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("RssAnon"))
        return kib / 1024, process.num_fds(), process.num_threads()
    return process.memory_full_info().uss / 2**20, len(process.open_files()), process.num_threads()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100)
    runs = parser.parse_args().runs
    viewer = napari.Viewer()
    scan, _ = phantom_3d(7, (16, 48, 48))
    viewer.add_image(scan.data, name="scan", scale=scan.spec.spacing, units=("mm",) * 3)
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        session = make_session(Path(folder))
        widget = SegmentWidget(viewer, session)
        viewer.window.add_dock_widget(widget)
        controller = widget.controller
        controller.choose_model(next(m for m in session.models() if m.header.name == "phantom-3d"))
        wait(lambda: session.jobs.ready is not None)
        print(f"load {os.getloadavg()[0]:.1f}\n run  viewer MiB  files  threads  engine MiB  files  threads")
        for run in range(1, runs + 1):
            before = controller.last
            controller.start_or_cancel()
            wait(lambda: controller.run is None)
            if controller.last is before:
                raise SystemExit(f"Run {run} gave no result: {widget.error_text()}")
            viewer.layers.remove(controller.last.labels)
            if run == 1 or run % 10 == 0:
                wait(lambda: False, 0.3)
                gc.collect()
                rows[run] = memory(os.getpid()) + memory(session.jobs.pid)
                print("{:4}{:12.1f}{:7}{:9}{:12.1f}{:7}{:9}".format(run, *rows[run]), flush=True)
        session.jobs.close()
    for name, column in (("viewer", 0), ("engine", 3)):
        values = [row[column] for run, row in rows.items() if run >= 10]
        change, most = values[-1] / values[0] - 1, max(values) / values[0] - 1
        print(f"{name}: from run 10 to {runs} {change:+.1%}, at most {most:+.1%}")
    viewer.close()


if __name__ == "__main__":
    main()
