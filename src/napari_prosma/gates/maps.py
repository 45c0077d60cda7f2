"""Layers of an inspection and their styles: added, updated by the next inspection, removed together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from napari.layers import Image, Layer
from napari.utils.colormaps import Colormap

from napari_prosma.gates.job import InspectionResult
from napari_prosma.layers.maps import field_layer, map_layer, mask_layer, renew_layer, set_limits
from napari_prosma.layers.results import add_layer_keep_selection
from napari_prosma.layers.viewport import show_channel, shown_channel
from prosma_core.config.inspection import MapInfo
from prosma_core.config.model import ONE_SIDED, GateForm, provenance

if TYPE_CHECKING:
    from napari.components import ViewerModel


REACH = 4.0
"""The colors of a field reach from -REACH to REACH times the threshold of the channel that is shown."""
BAND_NAME = "prosma band"
"""What the names of colormaps of combined fields begin with."""
BAND = "#3d3d3d"
"""Color of the values that are removed."""
COLD = ("#2b6ca3", "#9be0ff")
"""Negative values, from the threshold to the end of the range."""
WARM = ("#b5482a", "#ffd08a")
"""Positive values, likewise."""
KEPT = "#3b9eff"
"""Color of what is kept, in masks and plots."""
REMOVED = "#e8590c"
"""Color of what is removed, likewise."""
MASK_NAMES = ("removed", "kept")
"""Names of 0 and 1 in a mask."""
SHARES = {"removed": "inferno", "energy": "magma", "gate": "viridis", "channel_gate": "viridis"}
"""Maps of shares, and the colormap of each."""
WORDS = {
    "removed": "removed",
    "energy": "energy",
    "kept": "kept",
    "field": "field",
    "scales": "dilation {dilation}",
    "gate": "gate",
    "channel_gate": "channel gate",
    "before": "skip before",
    "after": "skip after",
}
"""What a map is called in the name of its layer."""

_EDGE = 1e-4


def map_title(info: MapInfo) -> str:
    """Text of a map, such as ``level 0 removed``."""
    return f"level {info.level} {WORDS[info.kind].format(dilation=info.dilation)}"


def band_colors(form: GateForm) -> Colormap:
    """Colors of a combined field: a flat band where the gate removes, cold below it and warm above.

    Parameters
    ----------
    form : GateForm
        A gate of a form in `ONE_SIDED` removes all that is not above the threshold: its band has no lower end.
    """
    low, high = 0.5 - 0.5 / REACH, 0.5 + 0.5 / REACH
    warm = [(high - _EDGE, BAND), (high, WARM[0]), (1.0, WARM[1])]
    cold = [(0.0, BAND)] if form in ONE_SIDED else [(0.0, COLD[1]), (low, COLD[0]), (low + _EDGE, BAND)]
    stops = [*cold, *warm]
    return Colormap([c for _, c in stops], controls=[p for p, _ in stops], name=f"{BAND_NAME} {form}")


def plain_colors() -> Colormap:
    """Colors of the field of one dilation, which has no threshold of its own: dark at 0, cold below, warm above."""
    colors = [COLD[1], COLD[0], BAND, WARM[0], WARM[1]]
    return Colormap(colors, controls=[0.0, 0.25, 0.5, 0.75, 1.0], name="prosma field")


class MapLayers:
    """Layers of one inspection's maps.

    Parameters
    ----------
    viewer : ViewerModel
    found : InspectionResult
    earlier : MapLayers, optional
        Those of the previous inspection: `renew` gives them the maps of this one.
    """

    def __init__(self, viewer: ViewerModel, found: InspectionResult, earlier: MapLayers | None = None) -> None:
        self._viewer, self._found = viewer, found
        self._layers: dict[str, Layer] = {}
        self._names: dict[str, str] = {}  # that the layers were given
        if earlier is not None:
            self._layers, self._names = dict(earlier._layers), dict(earlier._names)
        self._channel = 0
        plan = found.plan
        source = plan.scan.path.name if plan.scan.path else plan.scan.name
        self.notes = provenance(plan.model.header, plan.request.config, source, plan.scan.given_size)

    def renew(self, others: Sequence[Layer]) -> Iterator[None]:
        """Update the layers of the previous inspection with the maps of this one, one per step, visible ones first.

        Visibility, colors and opacity stay as they were set. Layers that have no map in this inspection, or were
        renamed, are removed in the last step, together with `others`.

        Parameters
        ----------
        others : sequence of Layer
            Layers of the previous inspection that show no maps.
        """
        infos = {info.name: info for info in self._found.inspection.maps if info.name in self._found.arrays}
        there = {name: layer for name, layer in self._layers.items() if layer in self._viewer.layers}
        self._layers, leaving = dict(there), list(others)
        for name, layer in sorted(there.items(), key=lambda item: not item[1].visible):
            info = infos.get(name)
            if info is not None and layer.name == self._names[name] and self._renew(layer, info):
                yield
            else:
                del self._layers[name]
                leaving.append(layer)
        yield from remove_all(self._viewer, leaving)

    def add(self, level: int, kinds: frozenset[str] = frozenset()) -> Iterator[None]:
        """Add the missing layers of a level, one per step.

        The one that a user should see first comes first, and the others below it.

        Parameters
        ----------
        level : int
        kinds : frozenset of str
            Those that are visible; none: the one to see first.
        """
        infos = [i for i in self._found.inspection.maps if i.level == level and i.name in self._found.arrays]
        lead, below = _lead(self._found), None
        for info in sorted(infos, key=lambda info: _kind(info) != lead):
            layer = self._layers.get(info.name)
            if layer is None:
                layer = self._make(info, visible=_kind(info) in (kinds or {lead}))
                if layer is None:
                    continue
                self._layers[info.name] = layer
                add_layer_keep_selection(self._viewer, layer, below)
                self._names[info.name] = layer.name
                yield
            below = below or layer

    @property
    def layers(self) -> list[Layer]:
        """Layers that were added, and those of the previous inspection that are still to be updated."""
        return list(self._layers.values())

    def show_level(self, level: int) -> Iterator[None]:
        """Show, of each kind of map that is visible, this level's and no other's; the steps add what is missing."""
        infos = {info.name: info for info in self._found.inspection.maps}
        there = {name: layer for name, layer in self._layers.items() if layer in self._viewer.layers}
        seen = frozenset(_kind(infos[name]) for name, layer in there.items() if name in infos and layer.visible)
        kinds = seen or frozenset({_lead(self._found)})
        for name, layer in there.items():
            shown = name in infos and infos[name].level == level and _kind(infos[name]) in kinds
            if layer.visible != shown:
                layer.visible = shown
        return self.add(level, kinds)

    def show_channel(self, level: int, channel: int) -> bool:
        """Move the channel slider; False where this level has no layer with channels in the viewer."""
        layer = self._with_channels(level)
        if layer is None:
            return False
        show_channel(layer, self._viewer, channel)
        return True

    def shown_channel(self, level: int) -> int | None:
        """Channel the slider stands at, None where there is no slider."""
        layer = self._with_channels(level)
        return None if layer is None else shown_channel(layer, self._viewer)

    def fit_colors(self, channel: int) -> None:
        """Let the colors of all fields follow the thresholds of this channel."""
        self._channel = channel
        for info in self._found.inspection.maps:
            layer = self._layers.get(info.name)
            if layer is not None and layer in self._viewer.layers:
                self._fit(layer, info)

    def _fit(self, layer: Layer, info: MapInfo) -> None:
        """Let the colors of a field end where those of the present channel do."""
        if info.kind in {"field", "scales"} and isinstance(layer, Image):
            set_limits(layer, self._limit(info.level))

    def _renew(self, layer: Layer, info: MapInfo) -> bool:
        """Give a layer the map of this inspection; False where it cannot show it."""
        fresh = self._make(info, visible=layer.visible)
        if fresh is None or not renew_layer(layer, fresh):
            return False
        self._names[info.name] = layer.name
        if info.kind == "field" and isinstance(layer, Image) and isinstance(fresh, Image):
            name = layer.colormap.name  # not one that the user has chosen
            if name.startswith(BAND_NAME) and name != fresh.colormap.name:
                layer.colormap = fresh.colormap
        self._fit(layer, info)
        return True

    def _with_channels(self, level: int) -> Layer | None:
        infos = [i for i in self._found.inspection.maps if i.level == level and "c" in i.axes]
        layers = (self._layers.get(info.name) for info in infos)
        return next((layer for layer in layers if layer is not None and layer in self._viewer.layers), None)

    def _make(self, info: MapInfo, *, visible: bool) -> Layer | None:
        """The layer of a map, None for one that is not shown."""
        found, data = self._found, self._found.arrays[info.name]
        given = (found.plan.scan, info, data, f"{found.plan.group}: {map_title(info)}", self.notes)
        if info.kind in SHARES:
            return map_layer(*given, colormap=SHARES[info.kind], visible=visible)
        if info.kind == "kept":
            return mask_layer(*given, names=MASK_NAMES, colors=(REMOVED, KEPT), visible=visible)
        colors = {"field": band_colors(found.inspection.form), "scales": plain_colors()}
        if info.kind in colors:
            limit = self._limit(info.level)
            return field_layer(*given, colormap=colors[info.kind], limit=limit, visible=visible)
        return None

    def _limit(self, level: int) -> float:
        """End of the colors of a level's fields at the present channel."""
        summary = self._found.level(level)
        if summary is None or not summary.thresholds:
            return 1.0
        return REACH * max(summary.thresholds[min(self._channel, len(summary.thresholds) - 1)], 1e-6)


def remove_all(viewer: ViewerModel, layers: Sequence[Layer]) -> Iterator[None]:
    """Remove layers that are still there, in one step: drawing between two of them has crashed OpenGL."""
    there = [layer for layer in layers if layer in viewer.layers]
    if there:
        with viewer.layers.batched_update():
            for layer in there:
                viewer.layers.remove(layer)
        yield


def _kind(info: MapInfo) -> str:
    return info.kind if info.dilation is None else f"{info.kind} {info.dilation}"


def _lead(found: InspectionResult) -> str:
    """Kind of map that is shown at first."""
    return "gate" if found.inspection.gate == "attention" else "removed"
