"""The seconds that README begins with: a recording of the window in which an MRI and an ultrasound are segmented."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from PIL import Image as Picture
from PIL import ImageDraw
from qtpy.QtCore import QBuffer, QPoint
from qtpy.QtWidgets import QPushButton, QWidget

from napari_prosma._sample_data import SAMPLES
from napari_prosma.widgets.docks import open_dock

if TYPE_CHECKING:
    from screenshots import Desk

WIDTH = 960
"""Of the recording, in pixels."""
POINTER = [(0, 0), (0, 20), (5, 16), (9, 24), (13, 22), (9, 14), (15, 14)]
"""Corners of the arrow that stands where a button is clicked."""


class Recorder:
    """Pictures of a window, each with how long it is shown."""

    def __init__(self, window: QWidget) -> None:
        self.window = window
        self.frames: list[tuple[Picture.Image, int]] = []

    def shoot(self, milliseconds: int, pointer: QWidget | None = None) -> None:
        """Add a picture; `pointer`: with an arrow on this button."""
        buffer = QBuffer()
        buffer.open(QBuffer.OpenModeFlag.WriteOnly)
        self.window.grab().save(buffer, "PNG")
        picture = Picture.open(io.BytesIO(bytes(buffer.data()))).convert("RGB")
        if pointer is not None:
            at = pointer.mapTo(self.window, QPoint(pointer.width() // 2, pointer.height() // 2))
            corners = [(at.x() + x, at.y() + y) for x, y in POINTER]
            ImageDraw.Draw(picture).polygon(corners, fill="white", outline="black")
        scale = WIDTH / picture.width
        small = picture.resize((WIDTH, round(picture.height * scale)), Picture.Resampling.LANCZOS)
        self.frames.append((small, milliseconds))

    def save(self, path: str) -> None:
        """Write the recording as an animated GIF, all of its pictures in the same colors."""
        from screenshots import few_colors

        pictures = [picture for picture, _ in self.frames]
        sheet = Picture.new("RGB", (WIDTH, pictures[0].height * len(pictures)))
        for number, picture in enumerate(pictures):
            sheet.paste(picture, (0, number * picture.height))
        palette = few_colors(sheet)
        first, *others = (p.quantize(palette=palette, dither=Picture.Dither.NONE) for p in pictures)
        first.save(
            path,
            save_all=True,
            append_images=others,
            duration=[milliseconds for _, milliseconds in self.frames],
            loop=0,
            optimize=True,
        )


def take_tour(desk: Desk) -> None:
    """Open, segment and leaf through an MRI; then an ultrasound, and the gates of its model."""
    from screenshots import choose, settle, wait, widen

    viewer, widget = desk.viewer, desk.segment()
    widen(widget, 370)
    recorder = Recorder(viewer.window._qt_window)  # the window itself: napari has no other way to it
    button = widget.findChild(QPushButton, "run")
    for file, model, plugin in (
        ("hippocampus_095.nii.gz", "hippocampus-mri", "napari-prosma"),
        ("breast_386.png", "breast-lesion-us", "napari"),
    ):
        viewer.layers.clear()
        (scan,) = viewer.open(str(SAMPLES / file), plugin=plugin)
        if scan.ndim == 3:
            viewer.dims.set_current_step(0, 14)
        viewer.reset_view()
        choose(desk, model)
        wait(button.isEnabled)
        settle()
        recorder.shoot(700)
        recorder.shoot(500, pointer=button)
        widget.controller.start_or_cancel()
        settle(0.3)
        recorder.shoot(300, pointer=button)
        wait(lambda: widget.controller.run is None)
        settle()
        recorder.shoot(900)
        for z in [*range(15, 24), *range(23, 13, -1)] if scan.ndim == 3 else ():
            viewer.dims.set_current_step(0, z)
            settle(0.4)
            recorder.shoot(120)
    gates = open_dock(viewer, "ProSMA Gates", desk.session)
    gates.controller.choose_image(scan)
    gates.controller.choose_model(next(m for m in desk.session.models() if m.header.name == "breast-lesion-us"))
    recorder.shoot(600, pointer=gates.findChild(QPushButton, "run"))
    gates.controller.start_or_cancel()
    wait(lambda: gates.controller.run is None)
    wait(lambda: not gates.controller.shown_result.adding)
    settle()
    recorder.shoot(1200)
    gates.controller.shown_result.show_level(2)
    wait(lambda: not gates.controller.shown_result.adding)
    settle()
    recorder.shoot(1800)
    recorder.save(str(desk.folder / "tour.gif"))
