"""Make the pictures of the documentation from the real program: ``python3 run.py screenshots [FOLDER]``.

A real window and the real engine; the scan is the 3D phantom, so that nothing has to be downloaded.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import napari
import numpy as np
from qtpy.QtWidgets import QApplication, QComboBox, QWidget
from superqt import QCollapsible

from napari_prosma._reader import image_layer_data
from napari_prosma._shared.session import Session
from napari_prosma.segment import SegmentWidget
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
        picture("segment-empty", widget)
        image, truth = phantom_3d(3, (48, 192, 192))
        data, options, _ = image_layer_data(image.data, image.spec, "Phantom 3D", None)
        viewer.add_image(data, **options)
        viewer.dims.set_current_step(0, int(np.argmax((truth.data > 0).sum(axis=(1, 2)))))
        viewer.reset_view()
        widget.controller.choose_model(next(m for m in session.models() if m.header.name == "phantom-3d"))
        picture("segment-ready", widget)
        run(widget, picture)
        advanced = widget.findChild(QCollapsible)
        advanced.expand(animate=False)
        picture("segment-advanced", widget)
        part = widget.findChild(QComboBox, "part")
        part.setCurrentIndex(part.findData("slice"))
        part.activated.emit(part.currentIndex())
        picture("segment-slice", widget)
        advanced.collapse(animate=False)
        widget.controller.choose_axes("zyq")
        picture("segment-axes-refused", widget)
        session.jobs.close()
    viewer.close()


def run(widget: SegmentWidget, picture: Callable[..., None]) -> None:
    """Segment, with a picture on the way and one at the end."""
    controller = widget.controller
    controller.start_or_cancel()
    wait(lambda: "left" in widget.progress_text() or controller.run is None)
    picture("segment-running")
    wait(lambda: controller.run is None)
    picture("segment-widget")
    widget.show_error("Main memory ran out during segmentation. Close other programs or crop the scan.", details=True)
    picture("segment-error", widget)
    widget.show_error("", details=False)


if __name__ == "__main__":
    main()
