"""Gap of the event loop when a result layer appears, beside a Labels layer that is added to napari alone.

    python3 run.py bench result_layer

One window with a scan; both kinds of layer hold the same labels and are added and removed in turn, in random order: as
the Segment widget adds its results, the widget docked and listening, and with ``viewer.add_labels`` while nobody
listens. Times are the processor time of the GUI thread: of adding the layer, of what follows until it is drawn, and the
longest stretch of these without a look at the event loop. A profile tells how much of it is computed in functions of
this plugin. At the end, what it takes to draw large pictures as contours, once.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import napari
import numpy as np
from napari.components import ViewerModel
from qtpy.QtWidgets import QApplication
from viewer_smoothness import Pulse, wait

import napari_prosma
from napari_prosma.jobs.qt_loop import make_session
from napari_prosma.layers.contours import contour_view, contour_width
from napari_prosma.layers.results import LOOKS, add_layer_keep_selection, labels_layer
from napari_prosma.layers.scan import read
from napari_prosma.segment import SegmentWidget
from prosma_core.data.phantom import phantom_3d

OURS = str(Path(napari_prosma.__file__).parent)
PARTS = {
    "visuals of the drawing tools": ("visual.py", "create_vispy_overlay"),
    "visual of the layer": ("visual.py", "create_vispy_layer"),
    "layer controls": ("qt_layer_controls_container.py", "create_qt_layer_controls"),
    "all of adding": ("layerlist.py", "insert"),
}
"""What napari does for a new layer: file and function."""


class Window:
    """A window with a scan, and the two ways in which labels appear on it."""

    def __init__(self, folder: str, repeat: int) -> None:
        self.viewer = napari.Viewer()
        self.viewer.window.resize(1400, 860)
        scan, labels = phantom_3d(7)
        self.labels = np.tile(labels.data, (repeat,) * 3)
        self.place = {"scale": scan.spec.spacing, "units": ("mm",) * 3, "axis_labels": tuple("zyx")}
        self.image = self.viewer.add_image(np.tile(scan.data, (repeat,) * 3), name="scan", **self.place)
        self.session = make_session(Path(folder))
        self.classes = self.session.models()[0].header.classes
        self.profiles = {"result": cProfile.Profile(), "bare": cProfile.Profile()}
        self.widget: Any = None

    def listen(self, on: bool) -> None:
        """Dock the widget, or take it away."""
        if on and self.widget is None:
            self.widget = SegmentWidget(self.viewer, self.session)
            self.viewer.window.add_dock_widget(self.widget)
        elif not on and self.widget is not None:
            self.viewer.window.remove_dock_widget(self.widget)
            self.widget = None
        wait(lambda: False, 0.5)

    def add(self, kind: str, *, profiled: bool) -> tuple[float, float, float]:
        """Let a layer appear: milliseconds of adding it, of the drawing that follows, and the longest gap."""
        self.listen(kind == "result")
        self.viewer.layers.selection.active = self.image
        wait(lambda: False, 0.1)
        made = labels_layer(read(self.image), self.labels, self.classes, "result", {"model": "m"})
        profile = self.profiles[kind]
        pulse, began = Pulse(), time.thread_time()
        if profiled:
            profile.enable()
        if kind == "result":
            add_layer_keep_selection(self.viewer, made)
        else:
            self.viewer.add_labels(self.labels, name="bare", **self.place)
        profile.disable()
        added = time.thread_time()
        QApplication.processEvents()
        drawn = time.thread_time()
        wait(lambda: False, 0.3)
        pulse.stop()
        longest = max(computing for _, computing in pulse.gaps)
        self.viewer.layers.pop()
        wait(lambda: False, 0.2)
        return (added - began) * 1000, (drawn - added) * 1000, longest

    def ours(self, kind: str) -> tuple[float, float]:
        """Seconds of the profile in all, and in functions of this plugin themselves."""
        stats: Any = pstats.Stats(self.profiles[kind])
        own = sum(row[2] for (file, _, _), row in stats.stats.items() if file.startswith(OURS))
        return stats.total_tt, own

    def parts(self, kind: str) -> dict[str, float]:
        """Share of each of `PARTS` in the profile."""
        stats: Any = pstats.Stats(self.profiles[kind])
        rows = {(Path(file).name, name): row[3] for (file, _, name), row in stats.stats.items()}
        return {part: rows.get(place, 0.0) / stats.total_tt for part, place in PARTS.items()}


def draw_contours(side: int, classes: Any) -> str:
    """What it takes to draw a square result as contours, which napari does anew for every slab and slice."""
    viewer, values = ViewerModel(), np.arange(side, dtype=np.uint8) // 64 % len(classes)
    image = viewer.add_image(np.zeros((side, side), np.uint8), name="scan")
    contour_view(viewer)
    labels = np.maximum.outer(values, values)
    layer = viewer.add_layer(labels_layer(read(image), labels, classes, "result", {"model": "m"}))
    began = time.thread_time()
    LOOKS.choose(contours=True)
    taken = time.thread_time() - began
    LOOKS.choose(contours=False)
    return f"contours of {side} x {side}: {1000 * taken:.0f} ms, {contour_width(layer)} wide"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=2, help="how often the phantom is repeated along each axis")
    parser.add_argument("--pairs", type=int, default=12)
    options = parser.parse_args()
    rng, times = random.Random(0), {"result": [], "bare": []}
    with tempfile.TemporaryDirectory() as folder:
        window = Window(folder, options.repeat)
        print(f"load {os.getloadavg()[0]:.1f}, scan {window.labels.shape}, {options.pairs} pairs")
        for kind in ("bare", "result"):
            first = window.add(kind, profiled=False)
            print(f"first {kind}: added {first[0]:.0f}, drawn {first[1]:.0f}, longest gap {first[2]:.0f} ms")
        for profiled in (False, True):
            for _ in range(options.pairs if not profiled else 3):
                for kind in rng.sample(sorted(times), 2):
                    found = window.add(kind, profiled=profiled)
                    times[kind] += [] if profiled else [found]
        for kind, rows in times.items():
            parts = zip(("added", "drawn", "longest gap"), *np.percentile(rows, (50, 0, 100), axis=0), strict=True)
            print(f"{kind}: " + ", ".join(f"{word} {m:.0f} ({a:.0f} to {b:.0f}) ms" for word, m, a, b in parts))
            total, own = window.ours(kind)
            print(f"  profile: {100 * own / total:.1f} % in functions of this plugin")
            print("  " + ", ".join(f"{part} {100 * share:.0f} %" for part, share in window.parts(kind).items()))
        differences = np.subtract(times["result"], times["bare"])
        print("result - bare, median of pairs:", ", ".join(f"{d:+.1f} ms" for d in np.median(differences, axis=0)))
        print(f"load {os.getloadavg()[0]:.1f}")
        for side in (1024, 2048, 4096, 5000):
            print(draw_contours(side, window.classes))
        window.listen(False)
        window.session.jobs.close()
        window.viewer.close()


if __name__ == "__main__":
    main()
