"""Make the pictures of the documentation from the real program: ``python3 run.py screenshots [FOLDER [PART ...]]``.

A real window, the real engine, real, short trainings, and real scans: the plugin's samples (Medical Segmentation
Decathlon Task04, CC BY-SA 4.0; 2018 Data Science Bowl, CC0) and, where the folder ``shared/data`` is beside the
repository, further scans of Task04, a CT of Task09 and a breast ultrasound of BUSI (CC BY 4.0). Pictures whose scans
are not there stay unchanged. Parts: segment, planes, objects, large, train, series, gates, tour.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import napari
import numpy as np
from napari.layers import Image, Labels
from PIL import Image as Picture
from qtpy.QtCore import QEvent, Qt
from qtpy.QtWidgets import QApplication, QDockWidget, QLabel, QPushButton, QScrollArea, QWidget

from napari_prosma._sample_data import SAMPLES
from napari_prosma.jobs.qt_loop import make_session
from napari_prosma.layers.results import LOOKS
from napari_prosma.scan.view import ModelBox
from napari_prosma.scan.workers_panel import WorkersFields
from napari_prosma.segment import SegmentWidget
from napari_prosma.train import TrainWidget
from napari_prosma.train.plots import TrainingPlots
from napari_prosma.widgets.docks import open_dock
from prosma_core.config.inference import InferenceConfig
from prosma_core.config.training import LabelsConfig, resolve_run
from prosma_core.runs.run_state import read_history

IMAGES = Path(__file__).parent / "images"
HEIGHT = 860
"""Of the window, in pixels."""
MORE = Path(__file__).resolve().parents[2] / "shared" / "data" / "msd_hippocampus"
"""Further scans of Task04, with labels."""


def wait(until: Callable[[], bool], seconds: float = 300) -> None:
    """Let the window live until something is so."""
    end = time.monotonic() + seconds
    while not until():
        QApplication.processEvents()
        QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete.value)  # sliders of closed scans go
        time.sleep(0.01)
        if time.monotonic() > end:
            msg = f"Nothing happened within {seconds} s."
            raise TimeoutError(msg)


def settle(seconds: float = 1.0) -> None:
    """Let everything be drawn."""
    end = time.monotonic() + seconds
    wait(lambda: time.monotonic() > end, seconds + 5)


def widest_slice(labels: np.ndarray) -> int:
    """The slice that shows most of both parts of the hippocampus."""
    parts = [(labels == value).sum(axis=(1, 2)) for value in (1, 2)]
    return int(np.argmax(np.minimum(*parts)))


class Desk:
    """A window with the widgets docked in it, and a camera."""

    def __init__(self, folder: Path, settings: Path) -> None:
        self.folder = folder
        self.viewer = napari.Viewer(title="napari")
        self.viewer.window.resize(1400, HEIGHT)
        self.session = make_session(settings)
        LOOKS.choose(contours=True)  # scans are seen below results

    def segment(self) -> SegmentWidget:
        """The Segment widget, in front."""
        return open_dock(self.viewer, "ProSMA Segment", self.session)

    def train(self) -> TrainWidget:
        """The Train widget, in front."""
        return open_dock(self.viewer, "ProSMA Train", self.session)

    def open(self, name: str) -> tuple[Image, np.ndarray]:
        """Open a further scan at its widest slice; returns its layer and its reference labels."""
        (drawn,) = self.viewer.open(str(MORE / "labels" / name), plugin="napari-prosma")
        labels = np.rint(np.asarray(drawn.data)).astype(np.uint8)  # some files have real numbers
        self.viewer.layers.remove(drawn)
        (scan,) = self.viewer.open(str(MORE / "images" / name), plugin="napari-prosma")
        self.viewer.dims.set_current_step(0, widest_slice(labels))
        self.viewer.reset_view()
        return scan, labels

    def picture(self, name: str, part: QWidget | None = None) -> None:
        """Save a picture of the window, or of a part of it, in few colors."""
        settle(3.0)  # on a busy processor, parts inside of parts find their places one after the other
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
    """Take every picture, or those of the named parts."""
    from screenshots_gates import take_gates
    from screenshots_large import take_large
    from screenshots_tour import take_tour

    parts: dict[str, tuple[Callable[[Desk], None], ...]] = {  # a window each: napari's sliders remember
        "segment": (take_segment,),
        "planes": (take_planes,),
        "objects": (take_objects,),
        "large": (take_large,),
        "train": (take_new_model, take_fine_tuning),
        "series": (take_series,),
        "gates": (take_gates,),
        "tour": (take_tour,),
    }
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else IMAGES
    folder.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[2:] or parts:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as settings:
            desk = Desk(folder, Path(settings))
            desk.segment()
            wait(lambda desk=desk: desk.session.jobs.ready is not None)
            for take in parts[name]:
                take(desk)
            desk.session.jobs.close()
            desk.viewer.close()


def take_segment(desk: Desk) -> None:
    """Segment, on an MRI of a hippocampus: the list of models, a warning, advanced settings, errors, and the result."""
    widget = desk.segment()
    desk.viewer.open(str(SAMPLES / "hippocampus_095.nii.gz"), plugin="napari-prosma")
    desk.viewer.dims.set_current_step(0, 14)  # of both parts
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
    take_workers(desk, widget)
    widen(widget, 370)
    widget.controller.start_or_cancel()
    wait(lambda: widget.controller.run is None)
    desk.viewer.reset_view()
    desk.picture("segment-widget")


def take_workers(desk: Desk, widget: SegmentWidget) -> None:
    """Where is computed: two workers of Dask on this computer, tested."""
    fields = widget.findChild(WorkersFields)
    fields.expand()
    fields.place_chosen.emit(True)
    fields.address_chosen.emit("local:2")
    test, found = widget.findChild(QPushButton, "workers_test"), widget.findChild(QLabel, "workers_found")
    test.click()
    wait(lambda: test.text() == "Test" and bool(found.text()))
    desk.picture("segment-workers", widget)
    fields.place_chosen.emit(False)
    fields.collapse()


def take_planes(desk: Desk) -> None:
    """A CT around a spleen and its labels in the three planes of the patient."""
    folder = MORE.parent / "ui_samples" / "spleen2_crop"
    if not folder.is_dir():
        return
    viewer = desk.viewer
    viewer.open(str(folder / "image.nii.gz"), plugin="napari-prosma")
    (labels,) = viewer.open(str(folder / "label.nii.gz"), plugin="napari-prosma", layer_type="labels")
    labels.contour, labels.opacity = 1, 1
    viewer.dims.point = labels.data_to_world(np.argwhere(labels.data > 0).mean(axis=0))
    planes = []
    for _ in range(3):
        viewer.reset_view()
        settle()
        canvas = Picture.fromarray(viewer.screenshot(canvas_only=True, flash=False)[..., :3])
        planes.append(canvas.resize((420, 420 * canvas.height // canvas.width)))
        viewer.dims.roll()
    few_colors(Picture.fromarray(np.hstack(planes))).save(desk.folder / "segment-planes.png", optimize=True)


def take_objects(desk: Desk) -> None:
    """Segment, on nuclei: while it runs, and with a number for each."""
    desk.viewer.open_sample("napari-prosma", "nuclei")
    desk.viewer.layers.pop()  # the labels
    desk.viewer.reset_view()
    widget = desk.segment()
    choose(desk, "nuclei-fluorescence")
    widget.controller.choose_options(InferenceConfig(mirror=True))  # slow enough for a picture
    widget.controller.start_or_cancel()
    wait(lambda: percent(widget.progress_text()) >= 40 or widget.controller.run is None)
    desk.picture("segment-running")
    widget.controller.start_or_cancel()
    wait(lambda: widget.controller.run is None)
    widget.controller.choose_options(InferenceConfig(objects=True))
    widget.controller.start_or_cancel()
    wait(lambda: widget.controller.run is None)
    *_, result, objects = desk.viewer.layers
    result.visible, objects.visible = False, True
    objects.contour, objects.opacity = 3, 1  # in exactly its colors
    desk.picture("segment-objects")


def percent(text: str) -> int:
    """How far a job is: 40 of ``Segmenting: 40 %``."""
    numbers = re.findall(r"(\d+) %", text)
    return int(numbers[0]) if numbers else 0


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
    widen(widget, 400)
    desk.viewer.layers.selection = {scan, labels}
    widget.add_active_clicked.emit()
    widget.controller.choose_labels(LabelsConfig(zero="annotated_slices"))
    widget.controller.choose_preset("quick")
    wait(widget.findChild(QPushButton, "run").isEnabled)
    desk.viewer.layers.selection.active = scan
    desk.viewer.reset_view()
    settle(5)  # the times of the presets are estimated
    desk.picture("train-ready")
    short(widget, epochs=10, steps=15)
    widget.preview_toggled.emit(True)
    labels.visible = False  # to see the preview
    settle(2)  # a layer that changes is read again
    wait(widget.findChild(QPushButton, "run").isEnabled)
    widget.controller.start_or_stop()
    folder = widget.controller.trainings.run.order.folder
    wait(lambda: len(read_history(folder)) >= 6, seconds=1500)
    settle(3)  # the preview of that epoch
    desk.picture("train-running")
    desk.picture("train-curves", widget.findChild(TrainingPlots))
    widget.controller.start_or_stop()
    wait(lambda: widget.controller.trainings.run is None)
    desk.viewer.layers.clear()
    settle()


def take_fine_tuning(desk: Desk) -> None:
    """Train: the loop. Another scan is segmented by the new model, corrected, and the model fine-tuned on it."""
    if not MORE.is_dir():
        return
    scan, truth = desk.open("hippocampus_035.nii.gz")
    segment = desk.segment()
    segment.controller.choose_image(scan)
    segment.controller.choose_model(next(model for model in desk.session.models() if not model.shipped))
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
    for z in (middle - 4, middle - 2, middle, middle + 2):
        correct(corrected, truth, z)
    settle(2)  # what was corrected is read again
    desk.viewer.dims.set_current_step(0, middle + 2)
    widget.controller.slices.toggle()
    wait(widget.findChild(QPushButton, "run").isEnabled)
    widget.findChild(QScrollArea).verticalScrollBar().setValue(0)
    desk.picture("train-corrected")
    widget.controller.start_or_stop()
    wait(lambda: widget.controller.trainings.run is None, seconds=1500)
    desk.viewer.dims.set_current_step(0, middle)
    desk.viewer.layers.selection.active = scan
    corrected.visible = False  # to see the preview
    settle()
    area = widget.findChild(QScrollArea)
    area.verticalScrollBar().setValue(area.verticalScrollBar().maximum())
    area.ensureWidgetVisible(widget.findChild(QLabel, "held_out"))
    desk.picture("train-finished")


def take_series(desk: Desk) -> None:
    """Train: a folder of scans that is gone through."""
    if not MORE.is_dir():
        return
    names = sorted(path.name for path in (MORE / "images").glob("*.nii.gz"))[:6]
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "scans"
        folder.mkdir()
        for name in names:
            shutil.copy(MORE / "images" / name, folder / name)
        widget = desk.train()
        widen(widget, 400)
        series, layers = widget.controller.series, desk.viewer.layers
        truths = [desk.open(name)[1] for name in names[:3]]
        layers.clear()
        series.begin(folder)
        for count, (name, truth) in enumerate(zip(names, truths, strict=False)):
            wait(widget.findChild(QPushButton, "series_next").isEnabled)
            series.open_next()
            wait(lambda name=name: layers[-1:] != [] and layers[-1].name == f"{name} labels")
            middle = widest_slice(truth)
            for z in range(middle - 2, middle + 1 + count):
                correct(layers[-1], truth, z)
            settle(2)
            desk.viewer.dims.set_current_step(0, middle)
        series.validate([1])
        settle(2)
        desk.picture("train-series")
        series.leave()
        settle()


def correct(labels: Labels, truth: np.ndarray, z: int) -> None:
    """Make a slice what the reference is, as a person does by strokes."""
    plane, now = truth[z], np.asarray(labels.data)[z]
    for value in np.unique(plane):
        y, x = np.nonzero((plane == value) & (now != value))
        labels.data_setitem((np.full(len(y), z), y, x), value)


def painted_scan(desk: Desk) -> tuple[Image, Labels]:
    """The sample scan, and a Labels layer in which five slices of it are painted."""
    scan, labels = desk.viewer.open_sample("napari-prosma", "hippocampus")
    data = np.asarray(labels.data).copy()
    middle = widest_slice(data)
    data[[z for z in range(len(data)) if z not in range(middle - 6, middle + 7, 3)]] = 0
    labels.data, labels.name, labels.visible = data, "Painted", True
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
