"""Make the pictures of the documentation from the real program: ``python3 run.py screenshots [FOLDER]``.

A real window and the real engine; the scan is the 3D phantom, so that nothing has to be downloaded.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import napari
import numpy as np
from qtpy.QtWidgets import QApplication, QWidget

from napari_prosma._reader import image_layer_data
from napari_prosma._shared.session import Session
from napari_prosma.segment import SegmentWidget
from prosma_core.data.geometry import Scan
from prosma_core.data.phantom import phantom_3d

IMAGES = Path(__file__).parent / "images"


def wait(until: Callable[[], bool], seconds: float = 120) -> None:
    """Let the window live until something is so."""
    end = time.monotonic() + seconds
    while not until():
        QApplication.processEvents()
        time.sleep(0.005)
        if time.monotonic() > end:
            msg = f"Nothing happened within {seconds} s."
            raise TimeoutError(msg)


def settle(seconds: float = 1.0) -> None:
    """Let everything be drawn."""
    end = time.monotonic() + seconds
    wait(lambda: time.monotonic() > end, seconds + 5)


def main() -> None:
    """Take every picture."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else IMAGES
    folder.mkdir(parents=True, exist_ok=True)
    viewer = napari.Viewer(title="napari")
    viewer.window.resize(1400, 860)
    with tempfile.TemporaryDirectory() as settings:
        session = Session(Path(settings))
        widget = SegmentWidget(viewer, session)
        viewer.window.add_dock_widget(widget, name="Segment", area="right")

        def picture(name: str, part: QWidget | None = None) -> None:
            settle()
            if part is not None:
                part.grab().save(str(folder / f"{name}.png"))
            else:
                viewer.screenshot(str(folder / f"{name}.png"), canvas_only=False, flash=False)

        wait(lambda: session.jobs.ready is not None)
        show(viewer, *phantom_3d(3), "Phantom 3D")
        widget.controller.choose_model(next(m for m in session.models() if m.header.name == "phantom-3d"))
        widget.controller.start_or_cancel()
        wait(lambda: widget.controller.run is None)
        picture("segment-widget")
        widget.show_error("Main memory ran out. Close other programs, or crop the scan.", details=True)
        picture("segment-error", widget)
        widget.show_error("", details=False)
        widget.advanced.expand()
        picture("segment-advanced", widget)
        widget.advanced.collapse()
        widget.controller.restore_defaults()
        widget.controller.choose_axes("zyq")
        picture("segment-axes-refused", widget)
        viewer.layers.clear()
        scans, truths = zip(*(phantom_3d(seed) for seed in range(3, 15)), strict=True)
        spec = replace(scans[0].spec, axes="tzyx", shape=(len(scans), *scans[0].spec.shape))
        series = Scan(np.stack([scan.data for scan in scans]), spec)
        show(viewer, series, truths[0], "Phantom series")
        viewer.dims.set_current_step(0, 0)
        widget.controller.start_or_cancel()
        wait(lambda: "left" in widget.progress_text() or widget.controller.run is None)
        picture("segment-running")
        session.jobs.close()
    viewer.close()


def show(viewer: napari.Viewer, image: Scan, truth: Scan, name: str) -> None:
    """Open a scan at the slice with the most tissue."""
    data, options, _ = image_layer_data(image.data, image.spec, name, None)
    viewer.add_image(data, **options)
    viewer.dims.set_current_step(data.ndim - 3, int(np.argmax((truth.data > 0).sum(axis=(1, 2)))))
    viewer.reset_view()


if __name__ == "__main__":
    main()
