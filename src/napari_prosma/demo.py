"""``python3 run.py demo``: napari with a phantom scan, the Segment widget docked, and the scan segmented."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import napari
import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QTimer

if TYPE_CHECKING:
    from napari_prosma.segment import SegmentWidget

MINUTES = 5
"""The demo gives up after this time."""


def main(arguments: list[str] | None = None) -> int:
    """Open the window, segment, print the Dice; with ``--screenshot`` write a picture and leave."""
    parser = argparse.ArgumentParser(prog="run.py demo", description=__doc__)
    parser.add_argument("--screenshot", type=Path, metavar="PNG", help="write a picture of the window and leave")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    options = parser.parse_args(arguments)
    viewer = napari.Viewer(title="ProSMA demo")
    viewer.open_sample("napari-prosma", "phantom_3d")
    image, truth = viewer.layers[0], viewer.layers[1]
    truth.visible = False
    viewer.layers.selection.active = image
    _, widget = viewer.window.add_plugin_dock_widget("napari-prosma", "Segment")
    controller = widget.controller
    controller.choose_model(next(m for m in controller.session.models() if m.header.name == "phantom-3d"))
    if options.device != "auto":
        controller.choose_device(options.device)
    failures: list[str] = []
    say(f"Segmenting a phantom scan of {' x '.join(map(str, image.data.shape))} voxels …")

    def look() -> None:
        if controller.run is not None:
            return
        timer.stop()
        if controller.last is None:
            failures.append(widget.error_text() or "The segmentation did not finish.")
        else:
            report(widget, truth.data)
        if options.screenshot:
            viewer.dims.set_current_step(0, int(np.argmax((truth.data > 0).sum(axis=(1, 2)))))
            QTimer.singleShot(1000, leave)  # the canvas draws the last slab first

    def leave() -> None:
        if not failures:
            viewer.screenshot(str(options.screenshot), canvas_only=False, flash=False)
            say(f"Picture: {options.screenshot}")
        viewer.close()

    timer = QTimer()
    timer.timeout.connect(look)
    controller.start_or_cancel()
    timer.start(200)
    if options.screenshot:
        QTimer.singleShot(MINUTES * 60_000, viewer.close)
    napari.run()
    for failure in failures:
        say(f"Failed: {failure}")
    return 1 if failures or controller.last is None else 0


def report(widget: SegmentWidget, truth: NDArray[Any]) -> None:
    """Print the Dice of each class against the phantom's truth."""
    last = widget.controller.last
    if last is None or last.labels is None:
        return
    result = np.asarray(last.labels.data)
    scores = []
    for c in last.plan.model.header.classes[1:]:
        found, wanted = result == c.value, truth == c.value
        total = int(found.sum()) + int(wanted.sum())
        scores.append(2 * int((found & wanted).sum()) / max(1, total))
        say(f"Dice {c.name}: {scores[-1]:.3f}")
    say(f"Mean Dice: {np.mean(scores):.3f}")


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
