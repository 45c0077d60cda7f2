"""Plots of a level: how far its fields are from the threshold, what each channel removes, and the channel gate."""

from __future__ import annotations

import numpy as np
from qtpy.QtCore import QBuffer, QByteArray, QIODevice, QPointF, Signal
from qtpy.QtGui import QPainter, QPalette, QPixmap
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_prosma._shared.fields import note_label, say
from napari_prosma.gates.bars import BarPlot, Bars
from napari_prosma.gates.looks import KEPT, REMOVED
from prosma_core.config.inspection import HISTOGRAM_EDGES, LevelSummary
from prosma_core.config.model import GateForm

GATE = "#30a46c"
"""Color of the channel gate."""
NO_PLOTS = {
    "attention": "An attention gate has no threshold and removes nothing: there is no distribution to draw.",
    "none": "A plain U-Net has no gates.",
}


class GatePlots(QWidget):
    """Three plots, made when they are first needed: importing what draws them takes a third of a second."""

    channel_clicked = Signal(int)

    def __init__(self) -> None:
        super().__init__()
        self._made: tuple[BarPlot, BarPlot, BarPlot] | None = None
        self._order = np.empty(0, np.intp)
        self._said = note_label("facts")
        self._layout = QVBoxLayout(self)
        self._layout.setContentsMargins(0, 6, 0, 0)
        self._layout.addWidget(self._said)

    def show_level(self, summary: LevelSummary, form: GateForm, channel: int) -> None:
        """Draw a level; `channel` stands out."""
        if summary.threshold is None or not summary.channel_removed:
            self.show_nothing("attention")
            return
        say(self._said, "")
        removed = 100 * np.array(summary.channel_removed)
        self._order = np.argsort(-removed, kind="stable")
        place = int(np.flatnonzero(self._order == channel)[0])
        distribution, shares, gates = self._plots()
        distribution.setVisible(bool(summary.histogram))
        if summary.histogram:
            distribution.show_bars(_heading(summary, form, channel), _distribution(summary, channel))
        words = f"Removed % of each channel, sorted. Channel {channel}: {removed[channel]:.0f} %"
        shares.show_bars(words, Bars(removed[self._order], (REMOVED,) * len(removed), marked=place, top=100))
        shares.setVisible(True)
        gates.setVisible(bool(summary.channel_gate))
        if summary.channel_gate:
            weights = np.array(summary.channel_gate)
            words = f"Channel gate (0 off, 1 on), same order. Channel {channel}: {weights[channel]:.2f}"
            gates.show_bars(words, Bars(weights[self._order], (GATE,) * len(weights), marked=place, top=1))

    def show_nothing(self, gate: str) -> None:
        """Say why there is nothing to draw."""
        for plot in self._made or ():
            plot.setVisible(False)
        say(self._said, NO_PLOTS[gate])

    def png(self) -> bytes:
        """The plots as a PNG file, empty where there are none."""
        parts = [plot.picture() for plot in self._made or () if not plot.isHidden()]
        if not parts:
            return b""
        ratio = parts[0].devicePixelRatio()
        whole = QPixmap(max(part.width() for part in parts), sum(part.height() for part in parts))
        whole.setDevicePixelRatio(ratio)
        whole.fill(self.palette().color(QPalette.ColorRole.Window))
        painter, top = QPainter(whole), 0.0
        for part in parts:
            painter.drawPixmap(QPointF(0, top), part)
            top += part.height() / ratio
        painter.end()
        content = QByteArray()
        buffer = QBuffer(content)
        buffer.open(QIODevice.OpenModeFlag.WriteOnly)
        whole.save(buffer, "PNG")
        return bytes(content.data())

    def _plots(self) -> tuple[BarPlot, BarPlot, BarPlot]:
        if self._made is None:
            self._made = (
                BarPlot(
                    "Share of the voxels at each distance |z| / τ, on average over the channels (bars) and of the "
                    "chosen channel (line). Left of the dashed line they are removed. The last bar holds all beyond."
                ),
                BarPlot("Share of its voxels that each channel removes. Click a bar to show its channel."),
                BarPlot("Weight the decoder gives each channel. Click a bar to show its channel."),
            )
            for plot, name in zip(self._made, ("distribution", "removed", "channel_gate"), strict=True):
                plot.setObjectName(f"plot_{name}")
                self._layout.addWidget(plot)
            for plot in self._made[1:]:
                plot.bar_clicked.connect(lambda bar: self.channel_clicked.emit(int(self._order[bar])))
        return self._made


def _heading(summary: LevelSummary, form: GateForm, channel: int) -> str:
    threshold = f", τ {summary.thresholds[channel]:.2f}" if channel < len(summary.thresholds) else ""
    beyond = "; negative z is removed as well" if form == "nonnegative" else ""
    return f"% of voxels at |z| / τ: mean (bars), channel {channel}{threshold} (line){beyond}"


def _distribution(summary: LevelSummary, channel: int) -> Bars:
    edges = np.array(HISTOGRAM_EDGES)
    shares = 100 * np.array(summary.histogram)
    colors = [REMOVED if e < 1 else KEPT for e in edges[:-1]]
    return Bars(shares.mean(axis=0), colors, edges, line=shares[channel], threshold=1.0)
