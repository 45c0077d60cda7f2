"""What the view shows of the choices: texts and lists, nothing that happens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from napari_prosma._shared import device_words
from napari_prosma._shared import layers as layer_access
from napari_prosma._shared.layers import LayerScan
from napari_prosma._shared.session import ModelEntry, Session
from napari_prosma.segment.state import Choices, Plan, Problem
from prosma_core.engine.messages import Ready

if TYPE_CHECKING:
    from napari_prosma.segment.view import SegmentView

SHORTCUT = "Shift+S"
READINGS = {2: ("yx",), 3: ("zyx", "tyx", "cyx"), 4: ("tzyx", "czyx", "tcyx", "zcyx"), 5: ("tczyx", "tzcyx")}
"""Readings of a layer's axes that are offered, by number of axes."""


class Presenter:
    """Puts choices into words on the view.

    Parameters
    ----------
    view : SegmentView
    session : Session
    """

    def __init__(self, view: SegmentView, session: Session) -> None:
        self._view, self._session = view, session

    def images(self, layers: Sequence[Any], chosen: Any) -> None:
        """Layers to choose from, the topmost first."""
        self._view.show_images([(layer.name, layer) for layer in reversed(layers)], chosen)

    def axes(self, layer: Any, choices: Choices, axes: str, level: int) -> None:
        """How the layer's axes are read, and what follows from it."""
        if layer is None:
            self._view.show_axes("", (), "")
            self._view.show_levels((), 0)
            return
        self._view.show_levels(layer_access.levels(layer), level)
        readings = READINGS.get(layer.ndim, ()) if not layer.rgb else ()
        facts = scan_facts(choices.scan) if choices.scan else ""
        self._view.show_axes(axes, list(dict.fromkeys([axes, *readings])), facts)

    def models(self, models: Sequence[ModelEntry], chosen: ModelEntry | None) -> None:
        """Models to choose from, and the facts of the chosen one."""
        named = [(m.header.name if m.shipped else f"{m.header.name} ({m.path.name})", m) for m in models]
        self._view.show_models(named, chosen, chosen.facts if chosen else "")

    def devices(self, chosen: str, ready: Ready | None) -> None:
        """Devices that the engine found, and what the chosen one means here."""
        items, facts = device_words.devices(chosen, ready, alive=self._session.jobs.alive)
        self._view.show_devices(items, chosen, facts)

    def options(self, choices: Choices) -> None:
        """Advanced settings; slice axes only where a 2D model meets a 3D scan."""
        scan, model = choices.scan, choices.model
        axes: list[tuple[str, str]] = []
        if scan is not None and model is not None and model.header.model.dims < scan.spec.spatial_ndim:
            axes = [("automatic", ""), *((a, a) for a in scan.spec.spatial_axes)]
        self._view.advanced.show_options(choices.options, choices.part, axes, choices.name)

    def plan(self, plan: Plan | Problem, *, running: bool) -> None:
        """Why Segment is disabled, or what it will do."""
        problem = plan if isinstance(plan, Problem) else None
        self._view.show_problem(problem.field if problem else None, problem.text if problem else "")
        if isinstance(plan, Plan):
            self._view.advanced.show_name_hint(plan.result_name)
        self._view.show_notes("\n".join(plan.notes) if isinstance(plan, Plan) else "")
        if not running:
            tooltip = problem.text if problem else f"Segment the scan ({SHORTCUT})"
            self._view.show_run("Segment", enabled=problem is None, tooltip=tooltip)


def scan_facts(scan: LayerScan) -> str:
    """Axes with their sizes, voxel size, and what is worth knowing of how the layer was read."""
    spec = scan.spec
    sizes = " · ".join(f"{axis} {spec.size(axis)}" for axis in scan.axes)
    spacing = " × ".join(f"{s:.3g}" for s in spec.spacing)
    return f"{sizes}; voxels {spacing} {spec.unit}" + (f". {scan.note}" if scan.note else "")
