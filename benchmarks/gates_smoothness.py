"""Gaps of the viewer's event loop during a look into the gates and what-ifs, and how soon a what-if is answered.

    python3 run.py bench gates_smoothness

A real window and the real engine, as in `viewer_smoothness`, whose pulse is used. The image has 256² pixels, the model
is breast-lesion-us. A look is measured in two parts: while the engine works, and while its layers are added, which
is napari's own work (a layer's controls, and its programs for the GPU, which the processor computes under a virtual
screen). A what-if is timed from the last move of a slider until the changed result is in its layer; the 150 ms in which
the slider must rest are told apart.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import napari
import numpy as np
from qtpy.QtWidgets import QSlider
from viewer_smoothness import Pulse, wait

from napari_prosma.gates import GatesWidget
from napari_prosma.gates.what_if_panel import REST
from napari_prosma.jobs.qt_loop import make_session
from prosma_core.data.phantom import phantom_2d

SHAPE = (256, 256)


class Desk:
    """A window with the widget and an image."""

    def __init__(self, folder: str) -> None:
        self.viewer = napari.Viewer()
        self.viewer.window.resize(1400, 860)
        scan, _ = phantom_2d(7, SHAPE)
        self.viewer.add_image(scan.data, name="scan")
        self.session = make_session(Path(folder))
        self.widget = GatesWidget(self.viewer, self.session)
        self.viewer.window.add_dock_widget(self.widget)
        self.controller = self.widget.controller
        self.controller.choose_model(next(m for m in self.session.models() if m.header.name == "breast-lesion-us"))
        wait(lambda: self.session.jobs.ready is not None)
        wait(lambda: False, 2)  # what is imported early

    def inspect(self) -> tuple[str, str, float]:
        """Look; the gaps while the engine works, those while layers are added, and seconds of the look."""
        pulse, began = Pulse(), time.perf_counter()
        self.controller.start_or_cancel()
        wait(lambda: self.controller.run is None or self.widget.progress_text().startswith("Tile"))
        text = pulse.stop()
        pulse = Pulse()
        wait(lambda: self.controller.run is None)
        seconds = time.perf_counter() - began
        wait(lambda: not self.controller.shown_result.adding)
        wait(lambda: False, 0.5)
        return text, pulse.stop(), seconds

    def what_if(self, level: int, values: list[int]) -> float:
        """Move a slider over these values; seconds from the last of them until the result is in its layer."""
        slider, said = self.widget.findChild(QSlider, f"threshold_{level}"), self._numbers()
        for value in values:
            slider.setValue(value)
            wait(lambda: False, 0.02)
        began = time.perf_counter()
        wait(lambda: self._numbers() is not said, 60)
        return time.perf_counter() - began

    def _numbers(self) -> object:
        results = self.controller.shown_result.what_if.results
        return results[0] if results else None


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=12)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        desk = Desk(folder)
        print(f"load {os.getloadavg()[0]:.1f}, image {SHAPE}")
        for name in ("first look", "second look"):
            working, adding, seconds = desk.inspect()
            print(f"{name}: {seconds:.2f} s\nwhile the engine works: {working}\nresult and its layers: {adding}")
        first = desk.what_if(0, [15, 10])
        pulse = Pulse()
        times = [desk.what_if(i % 3, [12 + i, 30 - i, 8 + i]) for i in range(options.repeats)]
        print("what-ifs:", pulse.stop())
        median, longest = float(np.median(times)), max(times)
        print(f"from the last move of the slider to the result in its layer, {REST} ms of it at rest:")
        print(f"  first {first:.2f} s, median {median:.2f} s, longest {longest:.2f} s")
        print(f"load {os.getloadavg()[0]:.1f}")
        desk.session.jobs.close()
        desk.viewer.close()


if __name__ == "__main__":
    main()
