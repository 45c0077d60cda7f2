"""Make the pictures of the documentation from the real program: ``python3 run.py screenshots [FOLDER]``.

A real window, the real engine and real, short trainings. Segment has the plugin's samples, Train 3D phantoms, so that
nothing has to be downloaded. Only the pictures of the Gates widget need a breast ultrasound, see `screenshots_gates`.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import napari
import numpy as np
from napari.layers import Image, Labels, Layer
from PIL import Image as Picture
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication, QDockWidget, QLabel, QPushButton, QScrollArea, QWidget

from napari_prosma._reader import image_layer_data
from napari_prosma._sample_data import PHANTOM, SAMPLES
from napari_prosma._sample_data import _pair as pair_layers
from napari_prosma.jobs.qt_loop import make_session
from napari_prosma.scan.view import ModelBox
from napari_prosma.segment import SegmentWidget
from napari_prosma.train import TrainWidget
from napari_prosma.train.plots import TrainingPlots
from napari_prosma.widgets.docks import open_dock
from prosma_core.config.inference import InferenceConfig
from prosma_core.config.training import LabelsConfig, resolve_run
from prosma_core.data.geometry import Scan
from prosma_core.data.phantom import phantom_3d
from prosma_core.io.images import write_image
from prosma_core.runs.run_state import read_history

IMAGES = Path(__file__).parent / "images"
HEIGHT = 860
"""Of the window, in pixels."""
SMALL = (16, 40, 40)
"""Shape of the scans that are trained on."""


def wait(until: Callable[[], bool], seconds: float = 300) -> None:
    """Let the window live until something is so."""
    end = time.monotonic() + seconds
    while not until():
        QApplication.processEvents()
        time.sleep(0.01)
        if time.monotonic() > end:
            msg = f"Nothing happened within {seconds} s."
            raise TimeoutError(msg)


def settle(seconds: float = 1.0) -> None:
    """Let everything be drawn."""
    end = time.monotonic() + seconds
    wait(lambda: time.monotonic() > end, seconds + 5)


def widest_slice(truth: Scan) -> int:
    """The slice with the most tissue."""
    return int(np.argmax((truth.data > 0).sum(axis=(1, 2))))


class Desk:
    """A window with the widgets docked in it, and a camera."""

    def __init__(self, folder: Path, settings: Path) -> None:
        self.folder = folder
        self.viewer = napari.Viewer(title="napari")
        self.viewer.window.resize(1400, HEIGHT)
        self.session = make_session(settings)

    def segment(self) -> SegmentWidget:
        """The Segment widget, in front."""
        return open_dock(self.viewer, "ProSMA Segment", self.session)

    def train(self) -> TrainWidget:
        """The Train widget, in front."""
        return open_dock(self.viewer, "ProSMA Train", self.session)

    def show(self, image: Scan, truth: Scan, name: str) -> Image:
        """Open a scan at its widest slice."""
        data, options, _ = image_layer_data(image.data, image.spec, name, None)
        options["metadata"]["prosma"] |= PHANTOM
        layer = self.viewer.add_image(data, **options)
        self.viewer.dims.set_current_step(data.ndim - 3, widest_slice(truth))
        self.viewer.reset_view()
        return layer

    def picture(self, name: str, part: QWidget | None = None) -> None:
        """Save a picture of the window, or of a part of it, in few colors."""
        settle()
        path = self.folder / f"{name}.png"
        if part is not None:
            part.grab().save(str(path))
        else:
            self.viewer.screenshot(str(path), canvas_only=False, flash=False)
        few_colors(Picture.open(path).convert("RGB")).save(path, optimize=True)


def few_colors(picture: Picture.Image) -> Picture.Image:
    """The picture in 255 colors: its most frequent ones exactly, so that nothing is tinted, and the range of all."""
    counted = sorted(picture.getcolors(picture.width * picture.height) or (), reverse=True)
    exact = [value for _, color in counted[:160] for value in color]
    spread = picture.quantize(255 - len(exact) // 3, Picture.Quantize.MAXCOVERAGE).getpalette() or []
    palette = Picture.new("P", (1, 1))
    palette.putpalette((exact + spread)[: 3 * 255])
    return picture.quantize(palette=palette, dither=Picture.Dither.NONE)


def main() -> None:
    """Take every picture."""
    from screenshots_gates import take_gates

    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else IMAGES
    folder.mkdir(parents=True, exist_ok=True)
    for parts in (
        (take_segment,),
        (take_objects,),
        (take_new_model, take_fine_tuning),
        (take_series,),
        (take_gates,),
    ):  # a window each: napari's sliders remember
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as settings:
            desk = Desk(folder, Path(settings))
            desk.segment()
            wait(lambda desk=desk: desk.session.jobs.ready is not None)
            for take in parts:
                take(desk)
            desk.session.jobs.close()
            desk.viewer.close()


def take_segment(desk: Desk) -> None:
    """Segment, on an MRI of a hippocampus: the list of models, a warning, advanced settings, errors, and the result."""
    widget = desk.segment()
    (scan,) = desk.viewer.open(str(SAMPLES / "hippocampus_095.nii.gz"), plugin="napari-prosma")
    desk.viewer.dims.set_current_step(0, 14)  # of both parts
    scan.contrast_limits = np.percentile(scan.data, (1, 99.5))
    desk.viewer.reset_view()
    choose(desk, "hippocampus-mri")
    box = widget.findChild(ModelBox, "model")
    box.showPopup()
    desk.picture("segment-models", box.view().window())
    box.hidePopup()
    widget.advanced.expand()
    desk.picture("segment-advanced", widget)
    widget.advanced.collapse()
    choose(desk, "fetal-brain-mri")
    desk.picture("segment-unfit", widget)
    choose(desk, "hippocampus-mri")
    widget.controller.choose_axes("zyq")
    desk.picture("segment-axes-refused", widget)
    widget.controller.choose_axes("zyx")
    widget.show_error("Main memory ran out. Close other programs, or crop the scan.", details=True)
    desk.picture("segment-error", widget)
    widget.show_error("", details=False)
    widen(widget, 370)
    widget.controller.start_or_cancel()
    wait(lambda: widget.controller.run is None)
    widget.controller.last.labels.contour = 1  # the scan is seen below it
    desk.viewer.reset_view()
    desk.picture("segment-widget")


def take_objects(desk: Desk) -> None:
    """Segment, on nuclei: while it runs, and with a number for each."""
    desk.viewer.open_sample("napari-prosma", "nuclei")
    desk.viewer.layers.pop()  # the labels
    desk.viewer.reset_view()
    widget = desk.segment()
    choose(desk, "nuclei-fluorescence")
    widget.controller.choose_options(InferenceConfig(objects=True))
    widget.controller.start_or_cancel()
    wait(lambda: widget.progress_text().startswith("Segmenting: ") or widget.controller.run is None)
    desk.picture("segment-running")
    wait(lambda: widget.controller.run is None)
    *_, result, objects = desk.viewer.layers
    result.visible, objects.visible = False, True
    objects.contour, objects.opacity = 3, 1  # in exactly its colors
    desk.picture("segment-objects")


def choose(desk: Desk, model: str) -> None:
    """Choose a shipped model in Segment."""
    desk.segment().controller.choose_model(next(m for m in desk.session.models() if m.header.name == model))


def widen(widget: QWidget, width: int) -> None:
    """Make a docked widget as wide as its longest names need."""
    window = widget.window()
    docks = [dock for dock in window.findChildren(QDockWidget) if dock.isAncestorOf(widget)]
    window.resizeDocks(docks, [width], Qt.Orientation.Horizontal)


def take_new_model(desk: Desk) -> None:
    """Train: a new model from a few painted slices, before and while it runs."""
    scan, labels = painted_scan(desk)
    widget = desk.train()
    desk.viewer.layers.selection = {scan, labels}
    widget.add_active_clicked.emit()
    widget.controller.choose_labels(LabelsConfig(zero="annotated_slices"))
    widget.controller.choose_preset("quick")
    wait(widget.findChild(QPushButton, "run").isEnabled)
    desk.viewer.layers.selection.active = scan
    wait(lambda: "clock" in widget.findChild(QLabel, "times").text())
    desk.picture("train-ready")
    short(widget, epochs=10, steps=15)
    widget.preview_toggled.emit(True)
    labels.visible = False  # to see the preview
    settle(2)  # a layer that changes is read again
    wait(widget.findChild(QPushButton, "run").isEnabled)
    widget.controller.start_or_stop()
    folder = widget.controller.trainings.run.order.folder
    wait(lambda: len(read_history(folder)) >= 7 and ", step 2 of" in widget.progress_text())
    desk.picture("train-running")
    desk.picture("train-curves", widget.findChild(TrainingPlots))
    widget.controller.start_or_stop()
    wait(lambda: widget.controller.trainings.run is None)
    desk.viewer.layers.clear()
    settle()


def take_fine_tuning(desk: Desk) -> None:
    """Train: the loop. Another scan is segmented by the new model, corrected, and the model fine-tuned on it."""
    image, truth = phantom_3d(10, SMALL)
    scan = desk.show(image, truth, "Next scan")
    segment = desk.segment()
    segment.controller.choose_image(scan)
    segment.controller.start_or_cancel()
    wait(lambda: segment.controller.run is None)
    segment.result.correct_clicked.emit()
    corrected = desk.viewer.layers.selection.active
    widget = desk.train()
    widget.remove_clicked.emit([0])  # the first scan
    widget.controller.choose_labels(LabelsConfig())
    widget.controller.choose_preset("fine-tune")
    widget.controller.choose_budget((None, None))
    widget.controller.restore_defaults()
    middle = widest_slice(truth)
    correct(corrected, truth, middle - 2)
    correct(corrected, truth, middle + 2)
    settle(2)  # what was corrected is read again
    desk.viewer.dims.set_current_step(0, middle + 2)
    widget.controller.slices.toggle()
    wait(widget.findChild(QPushButton, "run").isEnabled)
    desk.picture("train-corrected")
    widget.controller.start_or_stop()
    wait(lambda: widget.controller.trainings.run is None)
    desk.viewer.dims.set_current_step(0, widest_slice(truth))
    desk.viewer.layers.selection.active = scan
    corrected.visible = False  # to see the preview
    settle()
    area = widget.findChild(QScrollArea)
    area.verticalScrollBar().setValue(area.verticalScrollBar().maximum())
    area.ensureWidgetVisible(widget.findChild(QLabel, "held_out"))
    desk.picture("train-finished")


def take_series(desk: Desk) -> None:
    """Train: a folder of scans that is gone through."""
    truths = []
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "scans"
        folder.mkdir()
        for seed in range(6):
            image, truth = phantom_3d(seed + 3, (16, 64, 64))
            write_image(folder / f"patient_{seed:03d}.nii.gz", image.data, image.spec)
            truths.append(truth)
        widget = desk.train()
        series, layers = widget.controller.series, desk.viewer.layers
        series.begin(folder)
        for seed, truth in enumerate(truths[:3]):
            wait(widget.findChild(QPushButton, "series_next").isEnabled)
            series.open_next()
            wait(lambda seed=seed: layers[-1:] != [] and layers[-1].name == f"patient_{seed:03d}.nii.gz labels")
            labels = np.asarray(truth.data)[::-1, ::-1, ::-1]  # as the reader turns what has no orientation
            for z in range(6, 9 + seed):
                correct(layers[-1], Scan(labels, truth.spec), z)
            settle(2)
            desk.viewer.dims.set_current_step(0, 7)
        series.validate([1])
        settle(2)
        desk.picture("train-series")
        series.leave()
        settle()


def correct(labels: Labels, truth: Scan, z: int) -> None:
    """Make a slice what the truth is, as a person does by strokes."""
    plane, now = np.asarray(truth.data)[z], np.asarray(labels.data)[z]
    for value in np.unique(plane):
        y, x = np.nonzero((plane == value) & (now != value))
        labels.data_setitem((np.full(len(y), z), y, x), value)


def painted_scan(desk: Desk) -> tuple[Image, Labels]:
    """A scan, and a Labels layer in which a few slices of it are painted."""
    image, truth = phantom_3d(3, SMALL)
    middle = widest_slice(truth)
    left_out = [z for z in range(len(truth.data)) if z not in range(middle - 4, middle + 5, 2)]
    truth.data[left_out] = 0
    scan, labels = (
        Layer.create(*made) for made in pair_layers(image, truth, "Phantom 3D", ("organ", "lesion"), "", PHANTOM)
    )
    labels.name = "Painted"
    desk.viewer.layers.extend([scan, labels])
    desk.viewer.dims.set_current_step(0, middle)
    desk.viewer.reset_view()
    return scan, labels


def short(widget: TrainWidget, *, epochs: int, steps: int) -> None:
    """A training of a minute, whose averaged weights follow at once."""
    widget.controller.choose_preset("quick")
    widget.controller.choose_budget((epochs, None))
    usual = resolve_run({"out": "model.safetensors", "preset": "quick"}).training
    options = usual.replace(steps=steps, ema_decay=0.8)
    widget.controller.choose_options(options)


if __name__ == "__main__":
    main()
