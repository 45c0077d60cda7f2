"""Pictures of the Gates widget, on the sample of a breast ultrasound (BUSI, CC BY 4.0)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from napari.layers import Layer
from napari.utils import DirectLabelColormap
from qtpy.QtWidgets import QPushButton, QScrollArea, QTabWidget

from napari_prosma._sample_data import SAMPLES
from napari_prosma.gates import GatesWidget
from napari_prosma.widgets.docks import open_dock
from prosma_core.io.images import read_labels

if TYPE_CHECKING:
    from screenshots import Desk

SCAN = SAMPLES / "breast_386.png"
CHANNEL_OF, DECIDES = 2, 3
"""Level whose field is pictured, and level that is opened."""


def take_gates(desk: Desk) -> None:
    """Gates: the ranking and each level's removed share, a field, a voxel, and a what-if."""
    from screenshots import wait

    viewer = desk.viewer
    widget = open_dock(viewer, "ProSMA Gates", desk.session)
    scan = viewer.open(str(SCAN), plugin="napari")[0]
    truth = read_labels(SAMPLES / "breast_386_labels.png").data
    drawn = viewer.add_labels((truth > 0).astype(np.uint8), name="Drawn by an expert", visible=False)
    drawn.colormap = DirectLabelColormap(color_dict={None: "transparent", 1: "cyan"})
    viewer.layers.selection.active = scan
    widget.controller.choose_image(scan)
    widget.controller.choose_model(next(m for m in desk.session.models() if m.header.name == "breast-lesion-us"))
    desk.picture("gates-ready", widget)
    widget.controller.start_or_cancel()
    wait(lambda: widget.controller.run is None)
    shown_result = widget.controller.shown_result
    wait(lambda: not shown_result.adding)
    desk.picture("gates-widget")
    shown_result.show_level(CHANNEL_OF)
    wait(lambda: not shown_result.adding)
    viewer.layers.move(viewer.layers.index(drawn), len(viewer.layers))
    drawn.contour, drawn.opacity, drawn.visible = 3, 1, True
    desk.picture("gates-level-2")
    drawn.visible = False
    take_field(desk, widget, truth)
    take_what_if(desk, widget, drawn)
    widget.controller.remove_maps()
    wait(lambda: list(viewer.layers) == [scan, drawn])


def take_field(desk: Desk, widget: GatesWidget, truth: np.ndarray) -> None:
    """The field of a channel, and a pixel at the edge of the lesion."""
    from screenshots import wait

    shown_result = widget.controller.shown_result
    shown_result.show_channel(telling_channel(shown_result.found.arrays[f"level{CHANNEL_OF}/kept"], truth))
    wait(lambda: not shown_result.adding)
    widget.result.open_tab("Pixel")
    widget.findChild(QPushButton, "probe").click()
    rows, columns = np.nonzero(truth)
    at = (float(rows.min()), float(columns[rows == rows.min()].mean()))
    shown_result.picker.pick((shown_result.channel, *at))
    desk.picture("gates-field")
    widget.findChild(QPushButton, "probe").click()
    shown_result.show_map("removed")
    wait(lambda: not shown_result.adding)


def telling_channel(kept: np.ndarray, truth: np.ndarray) -> int:
    """The channel that is kept in the lesion and removed elsewhere more than any other."""
    rows, columns = ((np.arange(n) + 0.5) * m / n for n, m in zip(kept.shape[1:], truth.shape, strict=True))
    lesion = truth[np.ix_(rows.astype(int), columns.astype(int))] > 0
    return int(np.argmax(kept[:, lesion].mean(axis=1) - kept[:, ~lesion].mean(axis=1)))


def take_what_if(desk: Desk, widget: GatesWidget, drawn: Layer) -> None:
    """The level that decides open, compared with what an expert drew."""
    from screenshots import settle, wait

    shown_result = widget.controller.shown_result
    widget.result.open_tab("What if")
    shown_result.what_if.choose_truth(drawn)
    shown_result.what_if.change(DECIDES, state="open")
    wait(lambda: not shown_result.what_if.queries.busy)
    settle(3.0)  # until all that is new has its place, so that its end can be scrolled to
    area = widget.findChild(QScrollArea)
    area.ensureWidgetVisible(widget.findChild(QTabWidget, "tabs"))
    area.verticalScrollBar().setValue(area.verticalScrollBar().maximum())
    desk.picture("gates-what-if")
