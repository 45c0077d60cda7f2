"""``python3 run.py demo``: napari with an MRI of a hippocampus, the Segment widget docked, and the scan segmented."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import napari
import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QTimer

from napari_prosma.jobs.qt_loop import make_session
from napari_prosma.jobs.session import Session
from napari_prosma.layers.results import LOOKS
from napari_prosma.segment import SegmentWidget

MINUTES = 5
"""The demo gives up after this time."""
PICTURE = (1400, 860)
"""Width and height of the window that the picture shows, in pixels."""


def main(arguments: list[str] | None = None) -> int:
    """Open the window, segment, print the Dice; with ``--screenshot`` write a picture and leave."""
    parser = argparse.ArgumentParser(prog="run.py demo", description=__doc__)
    parser.add_argument("--screenshot", type=Path, metavar="PNG", help="write a picture of the window and leave")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as settings:  # nothing of the demo is remembered
        session = make_session(Path(settings))
        failure = show(session, options.device, options.screenshot)
        session.jobs.close()
    if failure:
        say(f"Failed: {failure}")
    return 1 if failure else 0


def show(session: Session, device: str, screenshot: Path | None) -> str:
    """Run the window until it is closed; returns why the segmentation failed, empty where it did not."""
    viewer = napari.Viewer(title="ProSMA demo")
    viewer.open_sample("napari-prosma", "hippocampus")
    image, truth = viewer.layers[0], viewer.layers[1]
    truth.visible = False
    viewer.layers.selection.active = image
    viewer.dims.set_current_step(0, int(np.argmax((truth.data > 0).sum(axis=(1, 2)))))
    widget = SegmentWidget(viewer, session)
    viewer.window.add_dock_widget(widget, name="Segment (ProSMA)", area="right")  # the menu finds it
    if screenshot:
        viewer.window.resize(*PICTURE)
    LOOKS.choose(contours=True)  # the scan is seen below the result
    controller = widget.controller
    controller.choose_model(next(m for m in session.models() if m.header.name == "hippocampus-mri"))
    controller.choose_device(device)
    outcome = ["The window was closed before the segmentation was finished."]
    say(f"Segmenting an MRI of {' x '.join(map(str, image.data.shape))} voxels …")

    def poll() -> None:
        if controller.run is not None:
            return
        timer.stop()
        outcome[0] = "" if controller.last else widget.error_text() or "It did not start."
        if controller.last:
            report(widget, truth.data)
        if screenshot:
            QTimer.singleShot(1000, leave)  # the canvas draws the last slab first

    def leave() -> None:
        if screenshot and not outcome[0]:
            viewer.screenshot(str(screenshot), canvas_only=False, flash=False)
            say(f"Picture: {screenshot}")
        viewer.close()

    timer = QTimer()
    timer.timeout.connect(poll)
    controller.start_or_cancel()
    timer.start(200)
    if screenshot:
        QTimer.singleShot(MINUTES * 60_000, viewer.close)
    napari.run()
    return outcome[0]


def report(widget: SegmentWidget, truth: NDArray[Any]) -> None:
    """Print the Dice of each class against the labels that experts drew."""
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
