"""A Gates widget without an engine: what it asks for is recorded, what the engine answers is said by the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from pytestqt.qtbot import QtBot
from qtpy.QtWidgets import QComboBox, QLabel, QPushButton, QTableWidget, QWidget

from napari_prosma.gates.controller import GatesController
from napari_prosma.gates.job import InspectionResult
from napari_prosma.gates.maps import LEGEND
from napari_prosma.gates.state import GROUP, InspectPlan, level_facts
from napari_prosma.gates.view import GatesView
from napari_prosma.jobs.session import Session
from prosma_core.config.inspection import (
    HISTOGRAM_EDGES,
    Inspection,
    LevelSummary,
    MapInfo,
)
from prosma_core.config.model import GateConfig
from prosma_core.io.bundle import ModelEntry


def made_up(plan: InspectPlan, seed: int = 0) -> tuple[Inspection, dict[str, np.ndarray]]:
    """What a look into the gates of a model could find on a scan whose voxels are the network's."""
    rng, arrays, infos, levels = np.random.default_rng(seed), dict[str, np.ndarray](), list[MapInfo](), []
    network, config, spec = plan.model.header.model, plan.request.config, plan.scan.spec
    box = config.region or tuple((0, n) for n in spec.spatial_shape)
    for facts in level_facts(network):
        if config.levels is not None and facts.level not in config.levels:
            continue
        step = (1,) * (spec.spatial_ndim - len(facts.step)) + facts.step
        grid = tuple(-(-(b - a) // s) for (a, b), s in zip(box, step, strict=True))
        where = {
            "level": facts.level,
            "scale": tuple(map(float, step)),
            "offset": tuple((s - 1) / 2 + a for (a, _), s in zip(box, step, strict=True)),
        }
        scales = rng.normal(0, 0.5, (len(network.gate.dilations), facts.channels, *grid)).astype(np.float16)
        z = scales.sum(axis=0, dtype=np.float32).astype(np.float16)
        tau = rng.uniform(0.2, 1.0, facts.channels)
        kept = np.abs(z) > tau.reshape(-1, *(1,) * len(grid)).astype(np.float16)
        made = {"removed": 1 - kept.mean(axis=0), "energy": 1 - kept.mean(axis=0) / 2, "kept": kept, "field": z}
        if network.gate.kind == "attention":
            made = {"gate": rng.random((1, *grid)), "energy": rng.random(grid)}
        for kind, array in made.items():
            if kind in config.maps:
                letters = "c" * (array.ndim - len(grid)) + spec.spatial_axes
                infos.append(MapInfo(name=f"level{facts.level}/{kind}", kind=kind, axes=letters, **where))
                arrays[infos[-1].name] = array if kind == "kept" else array.astype(np.float16)
        for dilation, field in zip(network.gate.dilations, scales, strict=True):
            if "scales" in config.maps and network.gate.kind == "prosma":
                name = f"level{facts.level}/scale{dilation}"
                letters = "c" + spec.spatial_axes
                infos.append(MapInfo(name=name, kind="scales", dilation=dilation, axes=letters, **where))
                arrays[name] = field
        levels.append(_summary(facts.level, grid, z, tau, kept, network.gate))
    inspection = Inspection(gate=network.gate.kind, form=network.gate.form, levels=tuple(levels), maps=tuple(infos))
    return inspection, arrays


def _summary(
    level: int, grid: tuple[int, ...], z: np.ndarray, tau: np.ndarray, kept: np.ndarray, gate: GateConfig
) -> LevelSummary:
    if gate.kind == "attention":
        return LevelSummary(level=level, shape=grid, channels=len(tau), removed=0, energy=0.3, threshold=None)
    removed = 1 - kept.reshape(len(tau), -1).mean(axis=1)
    ratio = np.abs(z.reshape(len(tau), -1).astype(np.float32)) / tau[:, None]
    edges = (*HISTOGRAM_EDGES[:-1], np.inf)
    return LevelSummary(
        level=level,
        shape=grid,
        channels=len(tau),
        removed=float(removed.mean()),
        energy=0.4,
        threshold=float(np.median(tau)),
        noise_gain=1.25,
        flipped=0.5,
        thresholds=tuple(tau),
        channel_removed=tuple(removed),
        channel_energy=(0.4,) * len(tau),
        channel_gate=tuple(np.linspace(0, 1, len(tau))),
        positive=(0.5,) * len(tau),
        histogram=tuple(tuple(np.histogram(row, edges)[0] / row.size) for row in ratio),
    )


class Widget:
    """The parts of a Gates widget, and shorthands of the tests."""

    def __init__(self, viewer: Any, folder: Path, qtbot: QtBot, jobs: Any) -> None:
        self.viewer, self.view, self.jobs, self._qtbot = viewer, GatesView(), jobs, qtbot
        self.session = Session(folder, jobs)
        self.controller = GatesController(viewer, self.view, self.session)
        self._closed = False

    def close(self) -> None:
        """Close the widget, once."""
        if not self._closed:
            self._closed = True
            self.controller.close()

    def model(self, name: str) -> ModelEntry:
        return next(m for m in self.session.models() if m.header.name == name)

    def choose(self, name: str) -> None:
        self.controller.choose_model(self.model(name))

    def part(self, name: str, kind: Any = QWidget) -> Any:
        return self.view.findChild(kind, name)

    def text(self, name: str) -> str:
        """What a label or button says, or the chosen entry of a box; empty where it is hidden."""
        found = self.part(name)
        if isinstance(found, QComboBox):
            return found.currentText()
        return "" if isinstance(found, QLabel) and found.isHidden() else found.text()

    def cells(self, name: str) -> list[list[str]]:
        """Texts of a table."""
        table = self.part(name, QTableWidget)
        columns = range(table.columnCount())
        return [[table.item(row, column).text() for column in columns] for row in range(table.rowCount())]

    @property
    def can_run(self) -> bool:
        return bool(self.part("run", QPushButton).isEnabled())

    @property
    def maps(self) -> dict[str, Any]:
        """Layers of ours, by what follows the group's name."""
        names = [layer.name for layer in self.viewer.layers if layer.name.startswith(GROUP)]
        return {name.removeprefix(GROUP): self.viewer.layers[name] for name in names}

    @property
    def legend(self) -> str:
        """What the canvas says of the map, empty where it says nothing."""
        overlays = self.viewer.canvas.overlays
        return overlays[LEGEND].text if LEGEND in overlays and overlays[LEGEND].visible else ""

    def show(self, level: int, kind: str = "") -> Any:
        """Show a map, and return its layer."""
        shown_result = self.controller.shown_result
        if kind:
            shown_result.show_map(kind)
        shown_result.show_level(level)
        self._qtbot.waitUntil(lambda: not shown_result.adding)
        return next(layer for name, layer in self.maps.items() if name.startswith("level "))

    def start(self) -> Any:
        """Click the main button; where nothing is meant for the scan, the phantom's model is chosen first."""
        if not self.text("model"):
            self.choose("phantom-3d")
        self.controller.start_or_cancel()
        return self.jobs.jobs[-1]

    def inspect(self) -> InspectionResult:
        """Look, let the engine find something made up, and wait for its layers."""
        job = self.start()
        job.answer(*made_up(self.controller.run.plan))
        self.jobs.jobs[-1].reply(())  # to the ranking of levels
        self._qtbot.waitUntil(lambda: not self.controller.shown_result.adding, timeout=30_000)
        return self.controller.shown_result.found


@pytest.fixture
def make_widget(qtbot: QtBot, tmp_path: Path, make_jobs: Callable[[], Any]) -> Iterator[Callable[[Any], Widget]]:
    """Return what makes a widget for a viewer."""
    made: list[Widget] = []

    def make(viewer: Any) -> Widget:
        made.append(Widget(viewer, tmp_path, qtbot, make_jobs()))
        qtbot.addWidget(made[-1].view)
        return made[-1]

    yield make
    for widget in made:
        widget.close()


@pytest.fixture
def widget(make_widget: Callable[[Any], Widget]) -> Widget:
    return make_widget(ViewerModel())


@pytest.fixture
def scan_data(rng: np.random.Generator) -> Any:
    return rng.normal(100, 20, (12, 40, 44)).astype(np.float32)
