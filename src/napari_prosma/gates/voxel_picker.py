"""A voxel that is clicked in the viewer: a cross on it, and what each channel did there."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from napari.layers import Points

from napari_prosma.gates.inspection_result import InspectionResult, VoxelChannels, at_voxel
from napari_prosma.jobs.run import ViewSignal
from napari_prosma.layers import access as layer_access
from napari_prosma.layers.results import add_layer_keep_selection
from prosma_core.printable import counted

if TYPE_CHECKING:
    from napari.components import ViewerModel

HINT = "Tick Probe and click a voxel of the scan in the viewer (2D view, pan tool)."
STILL = 3.0
"""Pixels by which a click may move."""


class AbstractVoxelPanel(Protocol):
    """A button that lets clicks in the viewer pick a voxel, and the channels there."""

    @property
    def probe_toggled(self) -> ViewSignal:
        """Whether clicks pick voxels (bool)."""

    @property
    def channel_clicked(self) -> ViewSignal:
        """Channel (int)."""

    @property
    def probing(self) -> bool:
        """Whether clicks pick voxels."""

    def stop(self) -> None:
        """Let clicks be clicks again."""

    def show_hint(self, text: str, /) -> None:
        """Say something in the place of the channels."""

    def show_voxel(self, title: str, rows: VoxelChannels, others: str, /) -> None:
        """Show the channels at a voxel; `others` says what the other levels did there."""


class VoxelPicker:
    """Picks voxels of one look while the panel's button is pressed.

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
        panel.show_hint(HINT)

    def listen(self, on: bool) -> None:
        """Let clicks in the viewer pick voxels, or no longer."""
        callbacks = self._viewer.mouse_drag_callbacks
        if on and self._pressed not in callbacks:
            callbacks.append(self._pressed)
        elif not on and self._pressed in callbacks:
            callbacks.remove(self._pressed)

    def let_go(self) -> None:
        """Listen no longer; the cross stays."""
        self.listen(False)
        if self._cross is not None:
            self._cross.events.data.disconnect(self._dragged)

    @property
    def layers(self) -> list[Points]:
        """The cross, where there is one."""
        return [] if self._cross is None else [self._cross]

    def show_level(self, level: int) -> None:
        """Show what this level did at the voxel, if one was picked."""
        self._level = level
        if self.voxel is not None:
            self._show()

    def pick(self, position: Any) -> None:
        """Take the voxel at a place of the viewer (world coordinates)."""
        if self._viewer.dims.ndisplay == 3:
            self._panel.show_hint("In 3D view a click names no voxel. Turn to the 2D view.")
            return
        voxel = layer_access.voxel_at(self._found.plan.scan, self._viewer, position)
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
            self._panel.show_hint(f"{active.name} has another tool in use: choose its pan tool to pick voxels.")
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
        """Put the cross on the voxel, in a layer of our own; a new one where the person deleted it."""
        scan = self._found.plan.scan
        if self.voxel is None:
            return
        if self._cross is None or self._cross not in self._viewer.layers:
            self._cross = layer_access.cross_layer(scan, self.voxel, f"{self._found.plan.group}: voxel", self._notes)
            add_layer_keep_selection(self._viewer, self._cross)
            self._cross.events.data.connect(self._dragged)
            return
        self._moving = True
        layer_access.move_cross(self._cross, scan, self.voxel)
        self._moving = False

    def _dragged(self, _event: Any) -> None:
        """The person moved the cross itself."""
        if self._moving or self._cross is None:
            return
        voxel = layer_access.cross_voxel(self._cross, self._found.plan.scan)
        if voxel is not None and voxel != self.voxel:
            self.voxel = voxel
            self._show()

    def _show(self) -> None:
        if self.voxel is None:
            return
        found, spec = self._found, self._found.plan.scan.spec
        place = ", ".join(f"{a} {self.voxel[a]}" for a in spec.axes if a in self.voxel and a != "c")
        rows = at_voxel(found, self._level, self.voxel)
        if rows is None:
            self._panel.show_hint(f"Voxel {place}: outside of the part that was looked at, or no map has channels.")
            return
        others = []
        for summary in found.inspection.levels:
            other = at_voxel(found, summary.level, self.voxel) if summary.level != self._level else None
            if other is not None and other.kept is not None:
                others.append(f"Level {summary.level}: {_kept(other)}")
        title = f"Voxel {place}. Level {self._level}: {_kept(rows)}" if rows.kept is not None else f"Voxel {place}"
        self._panel.show_voxel(title, rows, "\n".join(others))


def _kept(rows: VoxelChannels) -> str:
    if rows.kept is None:
        return ""
    return f"{int(rows.kept.sum())} of {counted(len(rows.kept), 'channel')} kept"


def _near(a: Any, b: Any) -> bool:
    return bool(abs(a[0] - b[0]) <= STILL and abs(a[1] - b[1]) <= STILL)
