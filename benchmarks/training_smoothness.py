"""Gaps of the viewer's event loop while the engine trains.

    python3 run.py bench training_smoothness [--minutes 1] [--scroll]

A real window, the Train widget and the real engine: the phantom with its labels, preset quick, with curves and the
preview on the scan; with --scroll another slice is shown four times a second meanwhile, which under a virtual screen
the processor draws, beside the engine. Gaps are told as in ``viewer_smoothness``; the end of
the training, with its table, is measured by itself.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import napari
from qtpy.QtCore import QTimer
from viewer_smoothness import Pulse, wait

from napari_prosma.jobs.qt_loop import make_session
from napari_prosma.train import TrainWidget
from prosma_core.data.phantom import phantom_3d


def scroller(viewer: napari.Viewer) -> QTimer:
    """A timer that shows the next slice four times a second."""
    timer = QTimer(interval=250)
    slices = viewer.layers[0].data.shape[0]
    timer.timeout.connect(lambda: viewer.dims.set_current_step(0, (viewer.dims.current_step[0] + 1) % slices))
    timer.start()
    return timer


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--scroll", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        viewer = napari.Viewer()
        viewer.window.resize(1400, 860)
        scan, truth = phantom_3d(7)
        where = {"scale": scan.spec.spacing, "units": ("mm",) * 3}
        viewer.add_image(scan.data, name="scan", **where)
        viewer.add_labels(truth.data, name="labels", **where)
        session = make_session(Path(folder))
        widget = TrainWidget(viewer, session)
        viewer.window.add_dock_widget(widget)
        controller = widget.controller
        wait(lambda: session.jobs.ready is not None)
        viewer.layers.selection = set(viewer.layers)
        controller.pairs.add_active()
        wait(lambda: widget.findChild(type(widget._run), "run").isEnabled(), 60)
        controller.choose_preset("quick")
        controller.choose_budget((None, options.minutes))
        print(f"load {os.getloadavg()[0]:.1f}, scan {scan.data.shape}, {options.minutes:g} minutes")
        scrolling, pulse = scroller(viewer) if options.scroll else None, Pulse()
        controller.start_or_stop()
        if controller.trainings.run is None:
            raise SystemExit(f"The training did not start: {widget.error_text()}")
        run = controller.trainings.run
        wait(lambda: len(run._rows) >= 1)
        print("training, to the end of the first epoch and its curves:", pulse.stop())
        pulse = Pulse()
        wait(lambda: controller.trainings.run is None or "Validating on all" in widget.progress_text())
        print(f"training, {len(run._rows) - 1} more epochs:", pulse.stop())
        pulse = Pulse()
        wait(lambda: controller.trainings.run is None)
        wait(lambda: False, 1)
        print("its end:", pulse.stop())
        if scrolling is not None:
            scrolling.stop()
        print(f"load {os.getloadavg()[0]:.1f}, error: {widget.error_text() or 'none'}")
        session.jobs.close()
        viewer.close()


if __name__ == "__main__":
    main()
