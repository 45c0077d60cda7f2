"""Texts and lists about the chosen scan and model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from napari_prosma.jobs.models import ModelEntry
from napari_prosma.jobs.run import RunView, ViewSignal
from napari_prosma.jobs.session import Session
from napari_prosma.layers import access as layer_access
from napari_prosma.layers.access import LayerScan
from napari_prosma.scan.selection import ScanChoices
from napari_prosma.widgets import device_text as format_devices
from prosma_core.data.geometry import size_unknown
from prosma_core.engine.messages import Ready

READINGS = {2: ("yx",), 3: ("zyx", "tyx", "cyx"), 4: ("tzyx", "czyx", "tcyx", "zcyx"), 5: ("tczyx", "tzcyx")}
"""Readings of a layer's axes that are offered, by number of axes."""


class AbstractPartFields(Protocol):
    """Choice of a part of the scan, and of the axis along which a 2D model walks through it."""

    @property
    def part_chosen(self) -> ViewSignal:
        """One of `Part` (str)."""

    @property
    def slice_axis_chosen(self) -> ViewSignal:
        """Letter of an axis (str), empty for the automatic one."""


class AbstractScanView(RunView, Protocol):
    """What of a view lets a model look at a scan."""

    @property
    def image_chosen(self) -> ViewSignal:
        """A layer, several layers as channels of one scan, or None."""

    @property
    def axes_chosen(self) -> ViewSignal:
        """Axes as typed (str)."""

    @property
    def level_chosen(self) -> ViewSignal:
        """Resolution level (int)."""

    @property
    def size_chosen(self) -> ViewSignal:
        """Voxel size as typed (str)."""

    @property
    def model_chosen(self) -> ViewSignal:
        """ModelEntry or None."""

    @property
    def device_chosen(self) -> ViewSignal:
        """Name of a device (str)."""

    @property
    def run_clicked(self) -> ViewSignal:
        """The main button."""

    @property
    def free_clicked(self) -> ViewSignal:
        """End the engine."""

    def show_images(self, layers: Sequence[tuple[str, Any]], current: Any, /) -> None:
        """Layers to choose from, as (name, layer or layers), and the one chosen."""

    def show_axes(self, axes: str, readings: Sequence[str], facts: str, /) -> None:
        """How the axes are read, other plausible readings, and what follows from it."""

    def show_levels(self, shapes: Sequence[tuple[int, ...]], level: int, /) -> None:
        """Levels of a multiscale layer; hidden for others."""

    def show_size(self, size: str, /, *, asked: bool) -> None:
        """The voxel size a person gave; the field is hidden where none is needed."""

    def show_models(self, models: Sequence[tuple[str, Any]], current: Any, facts: str, /) -> None:
        """Models as (name, entry), the one chosen and its facts."""

    def show_devices(self, devices: Sequence[tuple[str, str]], current: str, facts: str, /) -> None:
        """Devices as (words, name), the one chosen and what it means."""

    def show_problem(self, field: str | None, text: str, /) -> None:
        """Why the main button is disabled, under its field; None: it is not."""

    def show_notes(self, text: str, /) -> None:
        """What is worth knowing before the run."""


class ScanPresenter:
    """Puts choices into words on the view.

    Parameters
    ----------
    view : AbstractScanView
    session : Session
    """

    def __init__(self, view: AbstractScanView, session: Session) -> None:
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
