"""Texts and lists about the chosen scan and model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from napari_prosma.jobs.models import ModelEntry
from napari_prosma.jobs.session import Session
from napari_prosma.layers import access as layer_access
from napari_prosma.layers.access import LayerScan
from napari_prosma.scan.selection import ScanChoices
from napari_prosma.widgets import device_text as format_devices
from prosma_core.data.geometry import size_unknown
from prosma_core.engine.messages import Ready

if TYPE_CHECKING:
    from napari_prosma.scan.view import ScanView


READINGS = {2: ("yx",), 3: ("zyx", "tyx", "cyx"), 4: ("tzyx", "czyx", "tcyx", "zcyx"), 5: ("tczyx", "tzcyx")}
"""Readings of a layer's axes that are offered, by number of axes."""


class ScanPresenter:
    """Puts choices into words on the view.

    Parameters
    ----------
    view : ScanView
    session : Session
    """

    def __init__(self, view: ScanView, session: Session) -> None:
        self._scan_view, self._session = view, session

    def images(self, layers: Sequence[Any], chosen: Any, channels: tuple[Any, ...] = ()) -> None:
        """Layers to choose from, the topmost first, and those that may be taken together as channels of one scan."""
        items = [(layer.name, layer) for layer in reversed(layers)]
        if channels:
            items.append((f"{' + '.join(layer.name for layer in channels)} (channels)", channels))
        self._scan_view.show_images(items, chosen)

    def axes(self, layer: Any, choices: ScanChoices, axes: str, level: int) -> None:
        """How the layer's axes are read, and what follows from it."""
        if layer is None:
            self._scan_view.show_axes("", (), "")
            self._scan_view.show_levels((), 0)
            return
        self._scan_view.show_levels(layer_access.levels(layer), level)
        readings = READINGS.get(layer.ndim, ()) if not layer.rgb else ()
        facts = scan_facts(choices.scan) if choices.scan else ""
        self._scan_view.show_axes(axes, list(dict.fromkeys([axes, *readings])), facts)

    def size(self, choices: ScanChoices) -> None:
        """The voxel size that was given; asked for where a layer states none and the model goes by it."""
        pre = choices.model.header.preprocess if choices.model else None
        matters = pre is not None and pre.resample == "spacing" and pre.unit != "pixel"
        self._scan_view.show_size(choices.size, asked=choices.sizeless and (matters or bool(choices.size)))

    def models(self, models: Sequence[ModelEntry], chosen: ModelEntry | None) -> None:
        """Models to choose from, and the facts of the chosen one."""
        named = [(m.header.name if m.shipped else f"{m.header.name} ({m.path.name})", m) for m in models]
        facts = "\n".join(filter(None, (chosen.description, chosen.facts))) if chosen else ""
        self._scan_view.show_models(named, chosen, facts)

    def devices(self, chosen: str, ready: Ready | None) -> None:
        """Devices that the engine found, and what the chosen one means here."""
        items, facts = format_devices.devices(chosen, ready, alive=self._session.jobs.alive)
        self._scan_view.show_devices(items, chosen, facts)


def slice_axes(choices: ScanChoices) -> list[tuple[str, str]]:
    """Axes to choose from along which a 2D model may walk through a 3D scan, as (words, letter); else none."""
    scan, model = choices.scan, choices.model
    if scan is None or model is None or model.header.model.dims >= scan.spec.spatial_ndim:
        return []
    return [("automatic", ""), *((a, a) for a in scan.spec.spatial_axes)]


def scan_facts(scan: LayerScan) -> str:
    """Axes with their sizes, voxel size, and what is worth knowing of how the layer was read."""
    spec = scan.spec
    sizes = " · ".join(f"{axis} {spec.size(axis)}" for axis in scan.axes)
    spacing = " × ".join(f"{s:.3g}" for s in spec.spacing)
    unit = "without a unit" if spec.unit == "pixel" else spec.unit
    voxels = "voxel size unknown" if size_unknown(spec) else f"voxels {spacing} {unit}"
    return f"{sizes}; {voxels}" + (f". {scan.note}" if scan.note else "")
