"""Controller of an inspection's result: ranking, map, selected level and channel, picked voxel, what-if."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol

from napari.layers import Points

from napari_prosma.cleanup import run_all
from napari_prosma.gates.job import InspectionResult, VoxelChannels, at_voxel
from napari_prosma.gates.maps import MapLayer, Steps, remove_all
from napari_prosma.gates.ranking import RANKING, LevelEffect, effects, headline
from napari_prosma.gates.state import GROUP
from napari_prosma.gates.what_if import AbstractWhatIfPanel, WhatIfController, without_reference
from napari_prosma.jobs.boundary import Jobs
from napari_prosma.jobs.run import ViewSignal
from napari_prosma.layers.maps import cross_layer, cross_voxel, move_cross
from napari_prosma.layers.results import add_layer_keep_selection
from napari_prosma.layers.viewport import voxel_at
from prosma_core.config.inspection import LevelSummary, VariantResult
from prosma_core.config.model import GateForm
from prosma_core.printable import counted

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Layer


HINT = "Tick Probe and click a {} of the scan in the viewer (2D view, pan tool)."
"""What to do where nothing is picked; with `InspectionResult.unit`."""
STILL = 3.0
"""Pixels by which a click may move."""


class AbstractVoxelPanel(Protocol):
    """Button for voxel picking, and the channels at the picked voxel."""

    @property
    def probe_toggled(self) -> ViewSignal:
        """Whether voxel picking is on (bool)."""

    @property
    def channel_clicked(self) -> ViewSignal:
        """Channel (int)."""

    @property
    def probing(self) -> bool:
        """Whether voxel picking is on."""

    def stop(self) -> None:
        """Turn voxel picking off."""

    def show_hint(self, text: str, /) -> None:
        """Show a hint in place of the channels."""

    def show_voxel(self, title: str, rows: VoxelChannels, others: str, /) -> None:
        """Show the channels at a voxel; `others` is a text on the other levels there."""


class VoxelPicker:
    """Picks voxels of one inspection while the panel's button is pressed.

    Parameters
    ----------
    viewer : ViewerModel
    panel : AbstractVoxelPanel
    found : InspectionResult
    notes : mapping of str to str
        How the maps were made.
    """

    def __init__(
        self, viewer: ViewerModel, panel: AbstractVoxelPanel, found: InspectionResult, notes: Mapping[str, str]
    ) -> None:
        self._viewer, self._panel, self._found, self._notes = viewer, panel, found, notes
        self._cross: Points | None = None
        self._level = 0
        self._moving = False
        self.voxel: dict[str, int] | None = None
        panel.show_hint(HINT.format(found.unit))

    def listen(self, on: bool) -> None:
        """Turn voxel picking on or off."""
        callbacks = self._viewer.mouse_drag_callbacks
        if on and self._pressed not in callbacks:
            callbacks.append(self._pressed)
        elif not on and self._pressed in callbacks:
            callbacks.remove(self._pressed)

    def detach(self) -> None:
        """Disconnect from the viewer; the cross stays."""
        self.listen(False)
        if self._cross is not None:
            self._cross.events.data.disconnect(self._dragged)

    @property
    def layers(self) -> list[Points]:
        """The cross, where there is one."""
        return [] if self._cross is None else [self._cross]

    def show_level(self, level: int) -> None:
        """Show this level's values at the picked voxel, if there is one."""
        self._level = level
        if self.voxel is not None:
            self._show()

    def pick(self, position: Any) -> None:
        """Take the voxel at a place of the viewer (world coordinates)."""
        if self._viewer.dims.ndisplay == 3:
            self._panel.show_hint(f"In 3D view a click names no {self._found.unit}. Turn to the 2D view.")
            return
        voxel = voxel_at(self._found.plan.scan, self._viewer, position)
        if voxel is None:
            self._panel.show_hint(f"That is outside of {self._found.plan.scan.name}.")
            return
        self.voxel = voxel
        self._mark()
        self._show()

    # --- Inside -----------------------------------------------------------------------------------------------------

    def _pressed(self, _viewer: Any, event: Any) -> Generator[None, None, None]:
        """A click that does not move picks; a drag, and any tool but the pan tool, is none of our business."""
        active = self._viewer.layers.selection.active
        if event.button != 1 or event.modifiers:
            return
        if str(getattr(active, "mode", "pan_zoom")) != "pan_zoom":
            unit = self._found.unit
            self._panel.show_hint(f"{active.name} has another tool in use: choose its pan tool to pick {unit}s.")
            return
        began = tuple(event.pos)
        yield
        still = True
        while event.type == "mouse_move":
            still = still and _near(began, event.pos)
            yield
        if still:
            self.pick(event.position)

    def _mark(self) -> None:
        """Put the cross on the voxel, in a layer of our own; a new one where the user deleted it."""
        scan = self._found.plan.scan
        if self.voxel is None:
            return
        if self._cross is None or self._cross not in self._viewer.layers:
            self._cross = cross_layer(scan, self.voxel, f"{GROUP}{self._found.unit}", self._notes)
            add_layer_keep_selection(self._viewer, self._cross)
            self._cross.events.data.connect(self._dragged)
            return
        self._moving = True
        move_cross(self._cross, scan, self.voxel)
        self._moving = False

    def _dragged(self, _event: Any) -> None:
        """The user moved the cross itself."""
        if self._moving or self._cross is None:
            return
        voxel = cross_voxel(self._cross, self._found.plan.scan)
        if voxel is not None and voxel != self.voxel:
            self.voxel = voxel
            self._show()

    def _show(self) -> None:
        if self.voxel is None:
            return
        found, spec = self._found, self._found.plan.scan.spec
        place = ", ".join(f"{a} {self.voxel[a]}" for a in spec.axes if a in self.voxel and a != "c")
        rows, word = at_voxel(found, self._level, self.voxel), found.unit.capitalize()
        if rows is None:
            self._panel.show_hint(f"{word} {place}: outside of the part that was inspected, or no map has channels.")
            return
        others = []
        for summary in found.inspection.levels:
            other = at_voxel(found, summary.level, self.voxel) if summary.level != self._level else None
            if other is not None and other.kept is not None:
                others.append(f"Level {summary.level}: {_kept(other)}")
        kept = f". Level {self._level}: {_kept(rows)}" if rows.kept is not None else ""
        title = f"{word} {place}{kept}"
        self._panel.show_voxel(title, rows, "\n".join(others))


def _kept(rows: VoxelChannels) -> str:
    if rows.kept is None:
        return ""
    return f"{int(rows.kept.sum())} of {counted(len(rows.kept), 'channel')} kept"


def _near(a: Any, b: Any) -> bool:
    return bool(abs(a[0] - b[0]) <= STILL and abs(a[1] - b[1]) <= STILL)


class AbstractLevelsTable(Protocol):
    """Sentence on the ranking, and table of levels."""

    @property
    def level_clicked(self) -> ViewSignal:
        """Level (int)."""

    def show_levels(self, title: str, levels: Sequence[LevelSummary], level: int, /) -> None:
        """Show these levels; `level` is the one whose maps and plots are shown."""

    def mark(self, level: int, /) -> None:
        """Mark the level that is shown, and say all of its numbers."""

    def show_headline(self, text: str, /) -> None:
        """Show which level decides, or why that is not known."""

    def show_ranking(self, ranked: Sequence[LevelEffect], unit: str, /) -> None:
        """Order the levels by what the result owes to their gates."""

    def forget_ranking(self) -> None:
        """Finest level first, and no effects."""


class AbstractMapBox(Protocol):
    """Box of the kinds of maps."""

    @property
    def map_chosen(self) -> ViewSignal:
        """Kind of map (str)."""

    def show_maps(self, kinds: Sequence[str], kind: str, /) -> None:
        """Show kinds of maps, and which is shown."""


class AbstractPlots(Protocol):
    """Plots of a level."""

    @property
    def channel_clicked(self) -> ViewSignal:
        """Channel (int)."""

    def show_level(self, summary: LevelSummary, form: GateForm, channel: int, /) -> None:
        """Draw a level; `channel` stands out."""


class AbstractFilesPanel(Protocol):
    """Export buttons, and a status line."""

    def say(self, text: str, /) -> None:
        """Show the status of an export."""


class AbstractGatesResultPanel(Protocol):
    """Result of an inspection; hidden until there is one."""

    @property
    def levels(self) -> AbstractLevelsTable:
        """The levels."""

    @property
    def maps(self) -> AbstractMapBox:
        """Kind of map that is shown."""

    @property
    def plots(self) -> AbstractPlots:
        """Plots of the level that is shown."""

    @property
    def voxel(self) -> AbstractVoxelPanel:
        """Channels at a voxel."""

    @property
    def what_if(self) -> AbstractWhatIfPanel:
        """Edits of the gates."""

    @property
    def files(self) -> AbstractFilesPanel:
        """Export."""

    @property
    def ranking_clicked(self) -> ViewSignal:
        """Rank the levels, or stop that."""

    @property
    def remove_clicked(self) -> ViewSignal:
        """Take all layers of this inspection out of the viewer."""

    def show_unit(self, unit: str, /) -> None:
        """What one place of the inspected scan is called: voxel, or of a picture pixel."""

    def show_ranking_button(self, text: str, /, *, enabled: bool, tooltip: str) -> None:
        """The button that ranks the levels, and stops that."""

    def lock_what_if(self, locked: bool, /) -> None:
        """Lock the edits of the gates."""

    def show(self) -> None:
        """Show the panel."""

    def hide(self) -> None:
        """Hide the panel."""


class ResultController:
    """Keeps the result panel, the layers and the viewer's channel slider in sync.

    Parameters
    ----------
    found : InspectionResult
    source : Image or None
        Layer that was inspected.
    viewer : ViewerModel
    panel : AbstractGatesResultPanel
    jobs : Jobs
    before : iterator of None
        Steps to take before layers are added, such as the removal of others.
    earlier : ResultController, optional
        Of the previous inspection, disconnected: its layer is given the new map, its level and channel are shown.

    Attributes
    ----------
    found : InspectionResult
    source : Image or None
    level, channel : int
        What is shown.
    picker : VoxelPicker
    what_if : WhatIfController
    """

    def __init__(
        self,
        found: InspectionResult,
        source: Image | None,
        viewer: ViewerModel,
        panel: AbstractGatesResultPanel,
        jobs: Jobs,
        before: Iterator[None],
        earlier: ResultController | None = None,
    ) -> None:
        self.found = found
        self.source, self._viewer, self._panel = source, viewer, panel
        self._map: MapLayer = MapLayer(viewer, found, earlier._map if earlier else None)
        leaving = remove_all(viewer, earlier._others) if earlier else ()
        self._before: Iterator[None] = chain(before, earlier._before if earlier else (), leaving)
        self.notes = self._map.notes
        self._steps = Steps(jobs)
        self._ranking: tuple[VariantResult, ...] = ()
        self._ranked_with = 0
        levels = found.inspection.levels
        self.level, self.channel = levels[0].level, 0
        if earlier is not None and (summary := found.level(earlier.level)) is not None:
            self.level, self.channel = earlier.level, min(earlier.channel, summary.channels - 1)
        self.picker = VoxelPicker(viewer, panel.voxel, found, self.notes)
        self.what_if = WhatIfController(viewer, panel.what_if, jobs, found, self.notes, self._reference_changed)
        panel.show_unit(found.unit)
        panel.levels.show_levels(_title(found), levels, self.level)
        panel.levels.show_headline("")
        panel.maps.show_maps(self._map.choices, self._map.kind)
        panel.files.say("")
        panel.show()
        self._show()
        viewer.dims.events.current_step.connect(self._slider_moved)
        if source is not None:
            source.events.data.connect(self._renew)
        self.picker.listen(panel.voxel.probing)
        self._show_map(visible=None)

    @property
    def adding(self) -> bool:
        """Whether a layer is still to be added."""
        return self._steps.busy

    @property
    def results(self) -> tuple[VariantResult, ...]:
        """Numbers of the shown what-if result, then those of the ranking."""
        return (*self.what_if.results, *self._ranking)

    def close(self) -> Iterator[None]:
        """Hide the panel and disconnect; the returned steps remove all layers."""
        layers = [*self._others, *self._map.layers]
        self.detach()
        self._panel.voxel.stop()
        self._panel.hide()
        return chain(self._before, remove_all(self._viewer, layers))

    def detach(self) -> None:
        """Disconnect from viewer and panel, which may be deleted already; layers stay."""
        source = self.source
        run_all(
            "An inspection could not be left",
            self._steps.stop,
            lambda: self._viewer.dims.events.current_step.disconnect(self._slider_moved),
            *([lambda: source.events.data.disconnect(self._renew)] if source is not None else []),
            self._map.detach,
            self.picker.detach,
            self.what_if.detach,
        )

    def show_level(self, level: int) -> None:
        """Show another level: its map instead of the one shown, its plots and channels."""
        summary = self.found.level(level)
        if summary is None:
            return
        self.level = level
        self.channel = min(self.channel, summary.channels - 1)
        self._show_map()
        self._panel.levels.mark(level)
        self._show()

    def show_map(self, kind: str) -> None:
        """Show another kind of map of the level."""
        self._map.kind = kind
        self._panel.maps.show_maps(self._map.choices, kind)
        self._show_map()

    def show_channel(self, channel: int) -> None:
        """Show another channel, by the viewer's slider; where the map has no channels, in the map of the field."""
        self.channel = channel
        if not self._map.show_channel(channel) and self._map.of_channels:
            self.show_map(self._map.of_channels)
        self._show()

    def show_ranking_begun(self) -> None:
        """The levels are being ranked; an earlier ranking does not count any more."""
        self._ranking, self._ranked_with = (), self.what_if.reference
        self._panel.levels.forget_ranking()
        self._panel.levels.show_headline(RANKING)

    def show_ranking(self, answer: tuple[VariantResult, ...] | str) -> None:
        """Show the results of the levels, finest first, or why there are none."""
        if isinstance(answer, str):
            self._panel.levels.show_headline(answer)
            return
        self._ranking = answer if self._ranked_with == self.what_if.reference else without_reference(answer)
        self._show_ranking()

    # --- Inside -----------------------------------------------------------------------------------------------------

    def _show_ranking(self) -> None:
        ranked = effects([summary.level for summary in self.found.inspection.levels], self._ranking)
        self._panel.levels.show_headline(headline(ranked, self.found.unit))
        self._panel.levels.show_ranking(ranked, self.found.unit)

    def _reference_changed(self) -> None:
        """Take the numbers that compare with other reference labels out of the ranking."""
        kept = without_reference(self._ranking)
        if kept != self._ranking:
            self._ranking = kept
            self._show_ranking()

    @property
    def _others(self) -> list[Layer]:
        """Layers of ours that show no map."""
        return [*self.picker.layers, *self.what_if.layers]

    def _show_map(self, *, visible: bool | None = True) -> None:
        """Take the steps that show the map of the level, and then put the slider at the channel that is shown."""

        def steps() -> Iterator[None]:
            yield from self._map.show(self.level, self._map.kind, visible=visible)
            self._map.show_channel(self.channel)

        self._steps.run(chain(self._before, steps()))

    def _slider_moved(self, _event: Any) -> None:
        if self.adding:  # a new axis begins in its middle
            return
        channel, summary = self._map.shown_channel(), self.found.level(self.level)
        if channel is not None and channel != self.channel and summary is not None and channel < summary.channels:
            self.channel = channel
            self._show()

    def _show(self) -> None:
        summary = self.found.level(self.level)
        assert summary is not None
        self._panel.plots.show_level(summary, self.found.inspection.form, self.channel)
        self._map.fit_colors(self.channel)
        self.picker.show_level(self.level)
        self.what_if.show_level(self.level, self.channel)

    def _renew(self, _event: Any) -> None:
        self.what_if.queries.renew()


def _title(found: InspectionResult) -> str:
    """Title: scan, model and kind of gate."""
    gate = "attention gates" if found.inspection.gate == "attention" else "ProSMA gates"
    return f"{found.plan.scan.name} · {found.plan.model.header.name} · {gate}"
