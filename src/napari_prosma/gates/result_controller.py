"""What is shown of one look: its layers, a level and a channel of it, a voxel, and what would be if."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol

from napari_prosma.each import each
from napari_prosma.gates.inspection_result import InspectionResult
from napari_prosma.gates.maps import MapLayers, remove_all
from napari_prosma.gates.voxel_picker import AbstractVoxelPanel, VoxelPicker
from napari_prosma.gates.what_if import AbstractWhatIfPanel, WhatIf
from napari_prosma.jobs.boundary import Jobs
from napari_prosma.jobs.run import ViewSignal
from prosma_core.config.inspection import LevelSummary
from prosma_core.config.model import GateForm

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Layer


PAUSE = 5
"""Milliseconds between two steps, so that what waits in the window comes first."""


class Steps:
    """Work that only the GUI thread may do, such as adding many layers: one step at a time, all else in between.

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


class AbstractLevelsTable(Protocol):
    """A row per level."""

    @property
    def level_clicked(self) -> ViewSignal:
        """Level (int)."""

    def show_levels(self, title: str, levels: Sequence[LevelSummary], level: int, /) -> None:
        """Show these levels; `level` is the one whose maps and plots are shown."""

    def mark(self, level: int, /) -> None:
        """Mark the level that is shown."""


class AbstractPlots(Protocol):
    """Plots of a level."""

    @property
    def channel_clicked(self) -> ViewSignal:
        """Channel (int)."""

    def show_level(self, summary: LevelSummary, form: GateForm, channel: int, /) -> None:
        """Draw a level; `channel` stands out."""

    def show_nothing(self, gate: str, /) -> None:
        """Say why there is nothing to draw."""


class AbstractFilesPanel(Protocol):
    """What is written to files."""

    def say(self, text: str, /) -> None:
        """What is being written, or where it is."""


class AbstractResultPanel(Protocol):
    """What was found, hidden until something was."""

    @property
    def levels(self) -> AbstractLevelsTable:
        """The levels."""

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
    def remove_clicked(self) -> ViewSignal:
        """Take all layers of this inspection out of the viewer."""

    def show_tabs(self, *, gates: bool) -> None:
        """Show the tabs where there are gates to look at."""

    def show(self) -> None:
        """Something was found."""

    def hide(self) -> None:
        """Nothing is shown."""


class ResultController:
    """Keeps the result panel, the layers and the viewer's channel slider true to each other.

    Parameters
    ----------
    found : InspectionResult
    source : Image or None
        Layer that was looked at.
    viewer : ViewerModel
    panel : AbstractResultPanel
    jobs : Jobs
    before : iterator of None
        Steps to take before layers are added, such as the removal of others.
    earlier : Showing, optional
        Of the look before, which listens no longer: its maps are given new data, its level and channel are shown.

    Attributes
    ----------
    found : InspectionResult
    level, channel : int
        What is shown.
    probe : VoxelPicker
    what_if : WhatIf
    """

    def __init__(
        self,
        found: InspectionResult,
        source: Image | None,
        viewer: ViewerModel,
        panel: AbstractResultPanel,
        jobs: Jobs,
        before: Iterator[None],
        earlier: ResultController | None = None,
    ) -> None:
        self.found = found
        self._source, self._viewer, self._panel = source, viewer, panel
        self._maps: MapLayers = MapLayers(viewer, found, earlier._maps if earlier else None)
        self._before: Iterator[None] = chain(before, self._renew_maps(earlier) if earlier else ())
        self.notes = self._maps.notes
        self._steps = Steps(jobs)
        levels = found.inspection.levels
        self.level, self.channel = levels[0].level if levels else 0, 0
        if earlier is not None and (summary := found.level(earlier.level)) is not None:
            self.level, self.channel = earlier.level, min(earlier.channel, summary.channels - 1)
        self.probe = VoxelPicker(viewer, panel.voxel, found, self.notes)
        self.what_if = WhatIf(viewer, panel.what_if, jobs, found, self.notes)
        panel.levels.show_levels(_title(found), levels, self.level)
        panel.show_tabs(gates=bool(levels))
        panel.files.say("")
        panel.show()
        self._show()
        viewer.dims.events.current_step.connect(self._slider_moved)
        if source is not None:
            source.events.data.connect(self._renew)
        self.probe.listen(panel.voxel.probing)
        self._steps.run(chain(self._before, self._with_slider(self._maps.show_level(self.level))))

    @property
    def adding(self) -> bool:
        """Whether layers are still being added."""
        return self._steps.busy

    def close(self) -> Iterator[None]:
        """Hide the panel and listen no longer; the step that is given removes all layers."""
        self.let_go()
        self._panel.voxel.stop()
        self._panel.hide()
        return chain(self._before, remove_all(self._viewer, [*self._others, *self._maps.layers]))

    @property
    def _others(self) -> list[Layer]:
        """Layers of ours that show no map."""
        return [*self.probe.layers, *self.what_if.layers]

    def _renew_maps(self, earlier: ResultController) -> Iterator[None]:
        """What the look before has left to do, and then its maps given new data; its other layers go."""
        yield from earlier._before
        yield from self._maps.renew(earlier._others)

    def let_go(self) -> None:
        """Listen no longer; layers stay. The panel, and the viewer's window, may be gone already."""
        source = self._source
        each(
            "An inspection could not be left",
            self._steps.stop,
            lambda: self._viewer.dims.events.current_step.disconnect(self._slider_moved),
            *([lambda: source.events.data.disconnect(self._renew)] if source is not None else []),
            self.probe.let_go,
            self.what_if.questions.stop,
        )

    def show_level(self, level: int) -> None:
        """Show another level: its maps in the place of those that are shown, its plots, its channels."""
        summary = self.found.level(level)
        if summary is None:
            return
        self.level = level
        self.channel = min(self.channel, summary.channels - 1)
        self._steps.run(chain(self._before, self._with_slider(self._maps.show_level(level))))
        self._panel.levels.mark(level)
        self._show()

    def _with_slider(self, steps: Iterator[None]) -> Iterator[None]:
        """The steps, and then the slider at the channel that is shown."""
        yield from steps
        self._maps.show_channel(self.level, self.channel)

    def show_channel(self, channel: int) -> None:
        """Show another channel, by the viewer's slider where there is one."""
        self.channel = channel
        self._maps.show_channel(self.level, channel)
        self._show()

    def _slider_moved(self, _event: Any) -> None:
        channel, summary = self._maps.shown_channel(self.level), self.found.level(self.level)
        if channel is not None and channel != self.channel and summary is not None and channel < summary.channels:
            self.channel = channel
            self._show()

    def _show(self) -> None:
        summary, inspection = self.found.level(self.level), self.found.inspection
        if summary is None:
            self._panel.plots.show_nothing(inspection.gate)
            return
        self._panel.plots.show_level(summary, inspection.form, self.channel)
        self._maps.fit_colors(self.channel)
        self.probe.show_level(self.level)
        self.what_if.show_level(self.level, self.channel)

    def _renew(self, _event: Any) -> None:
        self.what_if.questions.renew()


def _title(found: InspectionResult) -> str:
    """What was looked at, in words."""
    gate = {"prosma": "ProSMA gates", "attention": "attention gates", "none": "no gates"}[found.inspection.gate]
    return f"{found.plan.scan.name} · {found.plan.model.header.name} · {gate}"
