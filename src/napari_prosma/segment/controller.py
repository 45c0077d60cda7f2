"""Between the choices, the view and the engine: what happens when. No Qt widgets, no torch."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from napari.layers import Image

from napari_prosma._shared import layers as layer_access
from napari_prosma._shared.layers import Region
from napari_prosma._shared.session import ModelEntry, Session
from napari_prosma.segment.present import SHORTCUT, Presenter
from napari_prosma.segment.run import Run
from napari_prosma.segment.state import Choices, Plan, Problem, fits, nearest, resolve
from napari_prosma.segment.watch import ViewerWatch
from prosma_core.config.inference import InferenceConfig
from prosma_core.engine.messages import Ready
from prosma_core.errors import ProsmaError

if TYPE_CHECKING:
    from pathlib import Path

    from napari.components import ViewerModel

    from napari_prosma.segment.view import SegmentView


class SegmentController:
    """Keeps the view true to the viewer and the person's choices, and runs segmentations.

    Parameters
    ----------
    viewer : ViewerModel
    view : SegmentView
    session : Session

    Attributes
    ----------
    run : Run or None
        The running segmentation.
    last : Run or None
        The last one that finished.
    """

    def __init__(self, viewer: ViewerModel, view: SegmentView, session: Session) -> None:
        self.viewer, self.view, self.session = viewer, view, session
        self.run: Run | None = None
        self.last: Run | None = None
        self._details = ""
        self._presenter = Presenter(view, session)
        self._layer: Image | None = None
        self._axes: str | None = None
        self._level = 0
        self._plan: Plan | Problem | None = None
        self._choices = _recalled(session)
        self._connect_view()
        self._watch = ViewerWatch(viewer, self._layer_inserted, self._layers_changed, self._view_moved)
        self._shortcut = lambda _viewer: self.start_or_cancel()
        if not any(str(key) == SHORTCUT for key in viewer.keymap):  # whoever has it keeps it
            viewer.bind_key(SHORTCUT, self._shortcut)
        session.models_changed.connect(self.show_models)
        session.model_preferred.connect(self._take_model)
        session.jobs.started.connect(self._show_devices)
        session.widget_opened()
        self.show_models()
        self._show_devices(session.jobs.ready)
        self.choose_image(self._active_image())

    def close(self) -> None:
        """Leave the viewer as it was found; a running job ends. The view may be gone already."""
        self._watch.close()
        self.session.models_changed.disconnect(self.show_models)
        self.session.model_preferred.disconnect(self._take_model)
        self.session.jobs.started.disconnect(self._show_devices)
        if self._shortcut in self.viewer.keymap.values():
            self.viewer.bind_key(SHORTCUT, None)
        if self.run is not None:
            self.run.abandon()
        self.session.widget_closed()

    # --- What the person does ---------------------------------------------------------------------------------------

    def choose_image(self, layer: Image | None) -> None:
        """Take another layer; its axes are guessed anew."""
        self._forget()
        self._layer = layer
        self._watch.follow(layer)
        self._read(None, 0)
        scan, model = self._choices.scan, self._choices.model
        if scan is not None and (model is None or not fits(scan, model)):
            self._choices = replace(self._choices, model=nearest(scan, self.session.models()) or model)
        self.show_models()
        self._show_images()

    def _forget(self) -> None:
        """Take away what was said about another scan or model."""
        if self.run is None:
            self.view.show_messages(())
            self.view.show_error("", details=False)

    def choose_axes(self, axes: str) -> None:
        """Read the layer's axes in another way."""
        if axes != self.axes:
            self._read(axes.replace(" ", "").lower(), self._level)

    def choose_level(self, level: int) -> None:
        """Take another resolution of a multiscale layer."""
        self._read(self._axes, level)

    def choose_model(self, model: ModelEntry | None) -> None:
        """Take another model."""
        self._forget()
        if model is not None:
            self.session.remember("model", str(model.path))
        self._set(model=model)
        self.show_models()

    def _take_model(self, model: ModelEntry) -> None:
        """Take a model that was just trained, unless a segmentation runs."""
        if self.run is None:
            self.choose_model(model)

    def add_model(self, path: Path) -> None:
        """Take a model from a file."""
        try:
            self.choose_model(self.session.add_model(path))
        except ProsmaError as error:
            self.view.show_error(str(error), details=False)

    def choose_device(self, device: str) -> None:
        """Compute elsewhere."""
        self.session.remember("device", device)
        self._set(device=device)
        self._show_devices(self.session.jobs.ready)

    def choose_options(self, options: InferenceConfig) -> None:
        """Take other advanced settings; the slice axis stays."""
        self._set(options=options.replace(slice_axis=self._choices.options.slice_axis))
        self._remember_options()

    def choose_slice_axis(self, axis: str) -> None:
        """Let a 2D model walk along this axis; empty: the automatic one."""
        self._set(options=self._choices.options.replace(slice_axis=axis or None))

    def restore_defaults(self) -> None:
        """All advanced settings as they were at first."""
        self._set(options=InferenceConfig(), part="whole", name="")
        self._remember_options()
        self._presenter.options(self._choices)

    def start_or_cancel(self) -> None:
        """What the main button does: start, or cancel the running job."""
        if self.run is not None:
            self.run.cancel()
            return
        self._show_plan()  # the view may have moved
        if isinstance(self._plan, Plan):
            self.view.show_error("", details=False)
            self.run = Run(self._plan, self._layer, self.viewer, self.view, self.session.jobs, self._run_over)

    def free_memory(self) -> None:
        """End the engine; it starts again with the next job."""
        self.session.jobs.free()
        self._show_devices(None)

    def details(self) -> str:
        """What the engine said about the last failure."""
        return self._details or self.session.jobs.log()

    # --- What the viewer does ---------------------------------------------------------------------------------------

    def _layer_inserted(self, event: Any) -> None:
        layer = event.value
        if _is_scan(layer) and self.run is None:
            self.choose_image(layer)
        else:
            self._show_images()

    def _layers_changed(self) -> None:
        if self.last is not None and self.last.labels not in self.viewer.layers:
            self.last = None
            self.view.result.setVisible(False)
        if self._layer is not None and self._layer not in self.viewer.layers:
            self.choose_image(self._active_image())
            return
        self._read(self._axes, self._level)
        self._show_images()

    def _view_moved(self) -> None:
        if self._choices.part != "whole":
            self._show_plan()

    def _active_image(self) -> Image | None:
        active = self.viewer.layers.selection.active
        if _is_scan(active):
            return active
        return next((layer for layer in reversed(self.viewer.layers) if _is_scan(layer)), None)

    # --- Choices ----------------------------------------------------------------------------------------------------

    def _set(self, **changes: Any) -> None:
        self._choices = replace(self._choices, **changes)
        self._show_plan()

    def _read(self, axes: str | None, level: int) -> None:
        """Read the layer's geometry (not its values) with these axes; None guesses them."""
        self._axes, self._level = axes, level
        if self._layer is None:
            self._choices = replace(self._choices, scan=None, scan_error="")
        else:
            try:
                scan = layer_access.read(self._layer, axes, level)
                self._choices = replace(self._choices, scan=scan, scan_error="")
            except ProsmaError as error:
                self._choices = replace(self._choices, scan=None, scan_error=str(error))
        self._presenter.axes(self._layer, self._choices, self.axes, level)
        self._presenter.options(self._choices)
        self._show_plan()

    def _region(self) -> Region | None:
        scan, part = self._choices.scan, self._choices.part
        if scan is None or self._layer is None or part == "whole":
            return None
        find = layer_access.view_box if part == "view" else layer_access.current_slice
        return find(self._layer, scan, self.viewer)

    def _remember_options(self) -> None:
        kept = self._choices.options.model_dump(mode="json", exclude={"region", "slice_axis"})
        self.session.remember("options", kept)

    # --- Showing ----------------------------------------------------------------------------------------------------

    @property
    def axes(self) -> str:
        """Axes as they are read, or as the person typed them."""
        return self._choices.scan.axes if self._choices.scan else (self._axes or "")

    def show_models(self) -> None:
        """Show the models there are, and the one chosen."""
        models, chosen = self.session.models(), self._choices.model
        current = next((m for m in models if chosen and m.path == chosen.path), None)
        self._presenter.models(models, current)
        self._set(model=current)
        self._presenter.options(self._choices)

    def _show_images(self) -> None:
        self._presenter.images([layer for layer in self.viewer.layers if _is_scan(layer)], self._layer)

    def _show_devices(self, ready: Ready | None) -> None:
        self._presenter.devices(self._choices.device, ready)
        missing = ready.why_not.get(self._choices.device, "") if ready and ready.why_not else ""
        if missing != self._choices.device_error:
            self._set(device_error=missing)

    def _show_plan(self) -> None:
        self._plan = resolve(self._choices, self._region())
        self._presenter.plan(self._plan, running=self.run is not None)

    def _run_over(self, run: Run, finished: bool) -> None:
        self.run, self._details = None, run.details
        if finished:
            self.last = run
        self.view.show_running(False)
        self._layers_changed()
        self._show_devices(self.session.jobs.ready)

    # --- Wires ------------------------------------------------------------------------------------------------------

    def _connect_view(self) -> None:
        view = self.view
        view.image_chosen.connect(self.choose_image)
        view.axes_chosen.connect(self.choose_axes)
        view.level_chosen.connect(self.choose_level)
        view.model_chosen.connect(self.choose_model)
        view.device_chosen.connect(self.choose_device)
        view.advanced.options_changed.connect(self.choose_options)
        view.advanced.part_chosen.connect(lambda part: self._set(part=part))
        view.advanced.slice_axis_chosen.connect(self.choose_slice_axis)
        view.advanced.name_chosen.connect(lambda name: self._set(name=name))
        view.advanced.defaults_clicked.connect(self.restore_defaults)
        view.run_clicked.connect(self.start_or_cancel)
        view.free_clicked.connect(self.free_memory)


def _is_scan(layer: Any) -> bool:
    """Whether a layer is an image to segment: not a probability or uncertainty map of ours."""
    return isinstance(layer, Image) and not layer_access.is_result(layer)


def _recalled(session: Session) -> Choices:
    """Choices of the last time, as far as they are still valid."""
    wanted = session.recall("model")
    model = next((m for m in session.models() if str(m.path) == wanted), None)
    try:
        options = InferenceConfig.parse(session.recall("options", {}), "the remembered settings")
    except ProsmaError:
        options = InferenceConfig()
    return Choices(model=model, device=session.recall("device", "auto"), options=options)
