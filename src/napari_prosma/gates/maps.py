"""The layer of an inspection that shows a map, one at a time, its style, and the legend on the canvas."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from napari.components.overlays import TextOverlay
from napari.layers import Image, Layer
from napari.utils.colormaps import Colormap

from napari_prosma.gates.job import InspectionResult
from napari_prosma.gates.state import GROUP
from napari_prosma.jobs.boundary import Jobs
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
SHARES = {"removed": "inferno", "energy": "magma", "gate": "viridis"}
"""Maps of shares, and the colormap of each."""
WORDS = {
    "removed": "removed",
    "energy": "energy removed",
    "kept": "kept or removed",
    "field": "field",
    "scales": "field, dilation {dilation}",
    "gate": "gate",
}
"""What a map is called in the name of its layer and in the box of maps."""
LEGEND = "prosma_gates"
"""Name of the legend among the overlays of the canvas."""
FONT = 8
"""Points of the texts of legend and color bar."""
BAR = (14, 80)
"""Width and height of the color bar in pixels: small, as it may lie on the scan."""
LEGENDS = {
    "removed": "Removed share of the channels\n0 none, 1 all",
    "energy": "Removed share of the skip's energy\n0 none, 1 all",
    "gate": "Weight of the gate\n0 nothing passes, 1 all",
    "kept": "Blue: kept. Orange: removed",
    "field": "Field z\nGray: removed ({range})\n{kept}",
    "scales": "Field of dilation {dilation}, a part of z",
}
"""What the legend says of a map, below its level and channel; narrow, so that letters at the edges stay free."""

_EDGE = 1e-4


def map_name(info: MapInfo) -> str:
    """What a map is called, such as ``removed``."""
    return WORDS[info.kind].format(dilation=info.dilation)


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


class MapLayer:
    """The layer that shows one map of an inspection, and its legend.

    Another level or kind of map comes into the same layer where that can show it, else into a new one in its place.
    A layer that was renamed is the user's: it stays as it is.

    Parameters
    ----------
    viewer : ViewerModel
    found : InspectionResult
    earlier : MapLayer, optional
        That of the previous inspection, disconnected: its layer and kind are kept.

    Attributes
    ----------
    kind : str
        Name of the kind of map that is shown, one of those of `choices`.
    notes : dict of str to str
        How the maps were made.
    """

    def __init__(self, viewer: ViewerModel, found: InspectionResult, earlier: MapLayer | None = None) -> None:
        self._viewer, self._found = viewer, found
        self._layer: Layer | None = None if earlier is None else earlier._layer
        self._name: str = "" if earlier is None else earlier._name
        self._stale: list[Layer] = [] if earlier is None else earlier._stale
        self._info: MapInfo | None = None
        self._channel = 0
        plan = found.plan
        source = plan.scan.path.name if plan.scan.path else plan.scan.name
        self.notes = provenance(plan.model.header, plan.request.config, source, plan.scan.given_size)
        self.kind: str = "" if earlier is None else earlier.kind
        if self.kind not in self.choices:
            self.kind = _lead(found) if _lead(found) in self.choices else next(iter(self.choices), "")
        if self._layer is not None:
            self._layer.events.visible.connect(self._show_legend)
        viewer.layers.events.removed.connect(self._show_legend)

    @property
    def choices(self) -> tuple[str, ...]:
        """Kinds of maps that there are, the one to see first in front."""
        names = [map_name(info) for info in self._found.inspection.maps if self._showable(info)]
        return tuple(sorted(dict.fromkeys(names), key=lambda name: name != _lead(self._found)))

    @property
    def of_channels(self) -> str:
        """The kind of map to see a channel in, empty where there is none."""
        names = [map_name(info) for info in self._found.inspection.maps if "c" in info.axes and self._showable(info)]
        return WORDS["field"] if WORDS["field"] in names else next(iter(names), "")

    @property
    def layers(self) -> list[Layer]:
        """The layer, where there is one that is still ours, and those that are to be removed."""
        return [*self._stale, *([self._layer] if self._there else [])]

    def show(self, level: int, kind: str, *, visible: bool | None = True) -> Iterator[None]:
        """Steps that show a map in the place of the one that is shown.

        Parameters
        ----------
        level : int
        kind : str
            One of `choices`.
        visible : bool or None
            Whether it is seen; None: where the one before is.
        """
        self.kind = kind
        maps = self._found.inspection.maps
        info = next((i for i in maps if i.level == level and map_name(i) == kind and self._showable(i)), None)
        if info is None:
            return
        yield from self._remove_stale()
        old = self._layer if self._there else None
        shown = old.visible if visible is None and old is not None else visible is not False
        fresh = self._make(info, visible=shown)
        same = self._info is None or self._info.kind == info.kind
        self._info = info
        if old is not None and renew_layer(old, fresh):
            self._restyle(old, fresh, same=same)
            if old.visible != shown:
                old.visible = shown
        else:
            self._replace(old, fresh)
        assert self._layer is not None
        self._name = self._layer.name
        self._fit()
        self._show_legend()
        yield
        yield from self._remove_stale()

    def show_channel(self, channel: int) -> bool:
        """Move the channel slider; False where the map has no channels."""
        if not self._has_channels:
            return False
        assert self._layer is not None
        show_channel(self._layer, self._viewer, channel)
        return True

    def shown_channel(self) -> int | None:
        """Channel the slider stands at, None where there is no slider."""
        return shown_channel(self._layer, self._viewer) if self._has_channels and self._layer is not None else None

    def fit_colors(self, channel: int) -> None:
        """Let colors and legend follow this channel."""
        self._channel = channel
        self._fit()
        self._show_legend()

    def detach(self) -> None:
        """Disconnect from the layer, and take the legend from the canvas; the layer stays."""
        self._viewer.layers.events.removed.disconnect(self._show_legend)
        if self._layer is not None:
            self._layer.events.visible.disconnect(self._show_legend)
        self._viewer.canvas.overlays.pop(LEGEND, None)

    @property
    def _has_channels(self) -> bool:
        return self._info is not None and "c" in self._info.axes and self._there

    @property
    def _there(self) -> bool:
        """Whether the layer is in the viewer, and still ours."""
        layer = self._layer
        return layer is not None and layer in self._viewer.layers and layer.name == self._name

    def _showable(self, info: MapInfo) -> bool:
        return info.kind in LEGENDS and info.name in self._found.arrays

    def _replace(self, old: Layer | None, fresh: Layer) -> None:
        """Add a layer where the old one is, which is hidden until the next step removes it."""
        if self._layer is not None:
            self._layer.events.visible.disconnect(self._show_legend)
        if old is not None:
            old.visible = False
            self._stale.append(old)
        add_layer_keep_selection(self._viewer, fresh, old)
        self._layer = fresh
        fresh.events.visible.connect(self._show_legend)

    def _remove_stale(self) -> Iterator[None]:
        stale, self._stale = self._stale, []
        yield from remove_all(self._viewer, stale)

    def _restyle(self, layer: Layer, fresh: Layer, *, same: bool) -> None:
        """Give a layer the colors of a fresh one; where it shows the same kind of map, those of the user stay."""
        if not isinstance(layer, Image) or not isinstance(fresh, Image):
            return
        own = layer.colormap.name.startswith(BAND_NAME) and layer.colormap.name != fresh.colormap.name
        if not same or own:
            layer.colormap, layer.opacity = fresh.colormap, fresh.opacity
            layer.contrast_limits_range = fresh.contrast_limits
            layer.contrast_limits = fresh.contrast_limits

    def _fit(self) -> None:
        """Let the colors of a field end where those of the present channel do."""
        if self._info is not None and self._info.kind in {"field", "scales"} and isinstance(self._layer, Image):
            set_limits(self._layer, self._limit(self._info.level))

    def _show_legend(self, _event: Any = None) -> None:
        """Say on the canvas what is shown; nothing where the layer is hidden or gone."""
        overlays = self._viewer.canvas.overlays
        if self._info is None or self._layer is None or not self._there or not self._layer.visible:
            overlays.pop(LEGEND, None)
            return
        text = legend(self._info, self._channel, self._threshold(self._info.level), self._found.inspection.form)
        if LEGEND not in overlays:
            overlays[LEGEND] = TextOverlay(text=text, visible=True, position="top_right", box=True, font_size=FONT)
        elif overlays[LEGEND].text != text:
            overlays[LEGEND].text = text

    def _make(self, info: MapInfo, *, visible: bool) -> Layer:
        """The layer of a map."""
        found, data = self._found, self._found.arrays[info.name]
        given = (found.plan.scan, info, data, f"{GROUP}level {info.level} {map_name(info)}", self.notes)
        if info.kind in SHARES:
            layer = map_layer(*given, colormap=SHARES[info.kind], visible=visible)
        elif info.kind == "kept":
            return mask_layer(*given, names=MASK_NAMES, colors=(REMOVED, KEPT), visible=visible)
        else:
            colors = band_colors(found.inspection.form) if info.kind == "field" else plain_colors()
            layer = field_layer(*given, colormap=colors, limit=self._limit(info.level), visible=visible)
        layer.colorbar.font_size, layer.colorbar.size = FONT, BAR
        layer.colorbar.visible = True
        return layer

    def _threshold(self, level: int) -> float | None:
        """Threshold of the present channel at a level; None for a gate without."""
        summary = self._found.level(level)
        if summary is None or not summary.thresholds:
            return None
        return summary.thresholds[min(self._channel, len(summary.thresholds) - 1)]

    def _limit(self, level: int) -> float:
        """End of the colors of a level's fields at the present channel."""
        threshold = self._threshold(level)
        return 1.0 if threshold is None else REACH * max(threshold, 1e-6)


def legend(info: MapInfo, channel: int, threshold: float | None, form: GateForm) -> str:
    """What a map shows, in short lines: level and channel, kind, and what its values or colors mean."""
    where = f"Level {info.level}" + (f", channel {channel}" if "c" in info.axes else "")
    tau = "its threshold" if threshold is None else f"{threshold:.2f}"
    removed, kept = f"z within ± {tau}", "Blue: kept, negative\nOrange: kept, positive"
    if form in ONE_SIDED:
        removed, kept = f"z up to {tau}", "Orange: kept"
    return f"{where}\n{LEGENDS[info.kind].format(dilation=info.dilation, range=removed, kept=kept)}"


def remove_all(viewer: ViewerModel, layers: Sequence[Layer]) -> Iterator[None]:
    """Remove layers that are still there, in one step: drawing between two of them has crashed OpenGL."""
    there = [layer for layer in layers if layer in viewer.layers]
    if there:
        selection = viewer.layers.selection
        quiet = nullcontext() if set(selection) & set(there) else selection.events.blocker_all()
        with viewer.layers.batched_update(), quiet:  # otherwise the controls of what is selected are shown anew
            for layer in there:
                viewer.layers.remove(layer)
        yield


def _lead(found: InspectionResult) -> str:
    """Kind of map that is shown at first."""
    return WORDS["gate" if found.inspection.gate == "attention" else "removed"]


PAUSE = 5
"""Milliseconds between two steps, so that what waits in the window comes first."""


class Steps:
    """Runs work of the GUI thread, such as adding many layers, in steps between other events.

    Parameters
    ----------
    jobs : Jobs
        Gives the timer.
    """

    def __init__(self, jobs: Jobs) -> None:
        self._work: Iterator[None] | None = None
        self._timer = jobs.timer(self._step)
        self._coming = False

    @property
    def busy(self) -> bool:
        """Whether steps are left."""
        return self._work is not None

    def run(self, work: Iterator[None]) -> None:
        """Take the steps of this work, and no more of what was done before."""
        self._work = work
        self._wait()

    def take(self) -> Iterator[None]:
        """The steps that are left, for somebody else to take."""
        work, self._work = self._work, None
        return work if work is not None else iter(())

    def stop(self) -> None:
        """Take no more steps."""
        self._work = None

    def _wait(self) -> None:
        if not self._coming:
            self._coming = True
            self._timer.start(PAUSE)

    def _step(self) -> None:
        self._coming = False
        work = self._work
        if work is None:
            return
        try:
            next(work)
        except StopIteration:
            if self._work is work:
                self._work = None
        except Exception:
            self._work = None
            raise
        if self._work is not None:
            self._wait()
