"""Peak memory of napari and the engine while each shipped model segments its sample, with default settings.

    python3 run.py bench memory_of_samples

A real window and the real engine, started anew for each sample. The memory is the sum of what is resident (RSS) in
napari's process and all of its children, read 50 times a second; pages that they share are counted in each.
"""

from __future__ import annotations

import tempfile
import threading
from contextlib import suppress
from pathlib import Path

import napari
import psutil
from memory_of_runs import wait

from napari_prosma.jobs.qt_loop import make_session
from napari_prosma.segment import SegmentWidget

KEYS = ("hippocampus", "breast", "nerve", "nuclei", "tissue", "axons", "fetal_brain")
"""Samples in the menu **File > Open Sample > ProSMA**; each names the model that is made for it."""


class Watch:
    """The most memory that this process and its children have had at once."""

    def __init__(self) -> None:
        self.most = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        own = psutil.Process()
        while not self._ended.wait(0.02):
            now = 0
            for process in (own, *own.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    now += process.memory_info().rss
            self.most = max(self.most, now)

    def end(self) -> float:
        """Stop, and return the peak in GiB."""
        self._ended.set()
        self._thread.join()
        return self.most / 2**30


def main() -> None:
    """Measure and print."""
    viewer = napari.Viewer()
    with tempfile.TemporaryDirectory() as folder:
        session = make_session(Path(folder))
        widget = SegmentWidget(viewer, session)
        viewer.window.add_dock_widget(widget)
        controller = widget.controller
        print("sample        voxels        peak GiB")
        for key in KEYS:
            session.jobs.unload()
            image, _ = viewer.open_sample("napari-prosma", key)
            watch, before = Watch(), controller.last
            if problem := controller.start_or_cancel():
                raise SystemExit(f"{key}: {problem}")
            wait(lambda: controller.run is None)
            wait(lambda: False, 1)  # the layer is drawn
            if controller.last is before:
                raise SystemExit(f"{key} gave no result: {widget.error_text()}")
            print(f"{key:14}{'x'.join(map(str, image.data.shape)):14}{watch.end():.2f}", flush=True)
            viewer.layers.clear()
            wait(lambda: False, 1)  # napari 0.9.2 can crash if layers are added before the empty canvas is drawn
        session.jobs.close()
    viewer.close()


if __name__ == "__main__":
    main()
