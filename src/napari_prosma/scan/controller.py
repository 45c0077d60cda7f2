"""Base controller of widgets that run a model on an image layer. No Qt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar
from weakref import WeakKeyDictionary

from napari.layers import Image

from napari_prosma.cleanup import run_all
from napari_prosma.jobs.run import RunView, ViewSignal
from napari_prosma.jobs.session import Session, format_devices
from napari_prosma.layers.contours import contour_view
from napari_prosma.layers.patient_view import patient_view
from napari_prosma.layers.results import is_result
from napari_prosma.layers.scan import LayerScan, are_channels, joined_layer, levels, read
from napari_prosma.layers.viewport import Region, ViewerWatch, bring_into_view, current_slice, view_box
from napari_prosma.scan.selection import (
    ModelGroups,
    ScanChoices,
    differ,
    fit_of,
    fits,
    fitting_models,
    holds,
    is_made_for,
    listed_for,
    mark_of,
    rows_for,
    suitable_model,
    unsuited,
)
from napari_prosma.scan.workers import ADDRESS, AbstractWorkersFields, WorkersSpec, WorkersTest, address_problem
from prosma_core.data.fit import UNKNOWN
from prosma_core.data.geometry import size_unknown
from prosma_core.engine.messages import Ready
from prosma_core.errors import EngineBusyError, ProsmaError
from prosma_core.io.axes_units import parse_voxel_size
from prosma_core.io.bundle import ModelEntry

if TYPE_CHECKING:
    from pathlib import Path

    from napari.components import ViewerModel


READINGS = {2: ("yx",), 3: ("zyx", "tyx", "cyx"), 4: ("tzyx", "czyx", "tcyx", "zcyx"), 5: ("tczyx", "tzcyx")}
"""Readings of a layer's axes that are offered, by number of axes."""


FIT_TEXTS = {
    "fits": "This scan is like those it was trained on.",
    "unknown": UNKNOWN,
}
"""What is said where nothing speaks against a model."""
SAMPLE_TEXT = "Sample data for this model."
REMEMBERED_TEXT = "Chosen because you chose it for another scan of this folder."


class AbstractPartFields(Protocol):
    """Choice of a part of the scan, and of the axis along which a 2D model walks through it."""

    @property
    def part_chosen(self) -> ViewSignal:
        """One of `Part` (str)."""

    @property
    def slice_axis_chosen(self) -> ViewSignal:
        """Letter of an axis (str), empty for the automatic one."""


class AbstractScanView(RunView, Protocol):
    """Protocol of a view with fields for scan, model and device."""

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
    def workers(self) -> AbstractWorkersFields:
        """Where is computed."""

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

    def show_size(self, size: str, /, *, asked: bool, word: str) -> None:
        """The voxel size a user gave; the field is hidden where none is needed. `word`: voxel, of a picture pixel."""

    def show_models(self, models: ModelGroups, current: Any, facts: str, /) -> None:
        """Models under headings, the one chosen and its facts."""

    def show_fit(self, text: str, warning: str, /) -> None:
        """Whether the chosen model was trained on scans like this one; a warning where it was not."""

    def show_devices(self, devices: Sequence[tuple[str, str]], current: str, facts: str, /) -> None:
        """Devices as (text, name), the chosen one and facts about it."""

    def show_problem(self, field: str | None, text: str, /) -> None:
        """Why the main button is disabled, under its field; None: it is not."""

    def show_notes(self, text: str, /) -> None:
        """Notes before the run."""


class ScanPresenter:
    """Formats choices and plans as texts and lists, and shows them on the view.

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
        self._scan_view.show_levels(levels(layer), level)
        readings = READINGS.get(layer.ndim, ()) if not layer.rgb else ()
        facts = scan_facts(choices.scan) if choices.scan else ""
        self._scan_view.show_axes(axes, list(dict.fromkeys([axes, *readings])), facts)

    def size(self, choices: ScanChoices) -> None:
        """The voxel size that was given; asked for where a layer states none and the model goes by it."""
        pre = choices.model.header.preprocess if choices.model else None
        matters = pre is not None and pre.resample == "spacing" and pre.unit != "pixel"
        asked = choices.sizeless and (matters or bool(choices.size))
        word = choices.scan.spec.voxel_word if choices.scan else "voxel"
        self._scan_view.show_size(choices.size, asked=asked, word=word)

    def models(self, groups: ModelGroups, chosen: ModelEntry | None) -> None:
        """Models to choose from, and the facts of the chosen one."""
        facts = "\n".join(filter(None, (chosen.description, chosen.facts))) if chosen else ""
        self._scan_view.show_models(groups, chosen, facts)

    def fit(self, choices: ScanChoices) -> None:
        """Whether the chosen model was trained on scans like the chosen one."""
        scan, model = choices.scan, choices.model
        if scan is None or model is None or not fits(scan, model):
            self._scan_view.show_fit("", "")
            return
        fit = fit_of(scan, model)
        text = SAMPLE_TEXT if is_made_for(scan, model) else FIT_TEXTS.get(fit.verdict, "")
        if fit.text and choices.remembered:
            text = REMEMBERED_TEXT
        self._scan_view.show_fit(text, fit.text)

    def devices(self, chosen: str, ready: Ready | None) -> None:
        """Devices that the engine found, and facts about the chosen one."""
        items, facts = format_devices(chosen, ready, alive=self._session.jobs.alive)
        self._scan_view.show_devices(items, chosen, facts)


def slice_axes(choices: ScanChoices) -> list[tuple[str, str]]:
    """Slice axes to choose from, as (text, letter), where a 2D model meets a 3D scan; else none."""
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
    word = spec.voxel_word
    voxels = f"{word} size unknown" if size_unknown(spec) else f"{word}s {spacing} {unit}"
    return f"{sizes}; {voxels}" + (f". {scan.note}" if scan.note else "")


C = TypeVar("C", bound=ScanChoices)


class ScanController(Generic[C]):
    """Keeps the fields of a view in sync with the viewer and the choices.

    A subclass says what else there is to choose (`_show_options`), what follows from the choices (`_show_plan`) and
    whether a job runs (`_busy`); it calls `_begin` when it is ready, and `close` at its end.

    Parameters
    ----------
    viewer : ViewerModel
    view : AbstractScanView
    session : Session
    presenter : ScanPresenter
    choices : ScanChoices
        To begin with.
    """

    STORES = True
    """Whether the result of a large scan lies on the disk."""

    def __init__(
        self, viewer: ViewerModel, view: AbstractScanView, session: Session, presenter: ScanPresenter, choices: C
    ) -> None:
        self.viewer, self.session = viewer, session
        self._scan_view, self._scan_presenter = view, presenter
        self._layer: Image | None = None
        self._axes: str | None = None
        self._level = 0
        self._sizes: WeakKeyDictionary[Image, str] = WeakKeyDictionary()
        self._kept: WeakKeyDictionary[Image, ModelEntry] = WeakKeyDictionary()  # chosen for a layer, not by itself
        self._listed: Any = None  # what the order of the models was made for
        self._ahead = False  # whether the model was chosen before there was a scan
        self._test: WorkersTest | None = None
        address = session.recall(ADDRESS, "")
        self._choices = replace(choices, address=address if isinstance(address, str) else "")

    # --- What a subclass says ---------------------------------------------------------------------------------------

    def _busy(self) -> bool:
        """Whether a job runs, so that new layers and models are not taken by themselves."""
        raise NotImplementedError

    def _leave_scan(self, layer: object) -> None:
        """Stop and remove what is of the scan of this layer, which was closed by the series it is of."""
        raise NotImplementedError

    def _show_options(self) -> None:
        """Show what else there is to choose."""
        raise NotImplementedError

    def _show_plan(self) -> None:
        """Show what follows from the choices, or what is wrong with them."""
        raise NotImplementedError

    # --- Beginning and end ------------------------------------------------------------------------------------------

    def _begin(self, layer: Image | None = None) -> None:
        """Listen to the viewer and the session, and take the active image unless another is given."""
        view, session = self._scan_view, self.session
        contour_view(self.viewer)
        view.image_chosen.connect(self._choose_entry)
        view.axes_chosen.connect(self.choose_axes)
        view.level_chosen.connect(self.choose_level)
        view.size_chosen.connect(self.choose_size)
        view.model_chosen.connect(self.choose_model)
        view.device_chosen.connect(self.choose_device)
        view.free_clicked.connect(self.free_memory)
        view.workers.place_chosen.connect(self.choose_workers)
        view.workers.address_chosen.connect(self.choose_address)
        view.workers.test_clicked.connect(self.test_or_stop)
        self._watch = ViewerWatch(
            self.viewer,
            self._layer_inserted,
            self._layers_changed,
            self._view_moved,
            self._show_images,
            self._layer_arrived,
        )
        session.models_changed.connect(self.show_models)
        session.model_preferred.connect(self._take_model)
        session.scan_left.connect(self._leave_scan)
        session.jobs.started.connect(self._show_devices)
        session.widget_opened()
        view.workers.show_place(self._choices.workers, self._choices.address)
        self.show_models()
        self._show_devices(session.jobs.ready)
        self.choose_image(layer or self._active_image())

    def close(self) -> None:
        """Disconnect from viewer and view, which may be deleted already."""
        run_all(
            "A widget could not be closed",
            self._watch.close,
            *([self._test.abandon] if self._test is not None else []),
            lambda: self.session.models_changed.disconnect(self.show_models),
            lambda: self.session.model_preferred.disconnect(self._take_model),
            lambda: self.session.scan_left.disconnect(self._leave_scan),
            lambda: self.session.jobs.started.disconnect(self._show_devices),
            self.session.widget_closed,
        )

    # --- What the user does -------------------------------------------------------------------------------------------

    def choose_image(self, layer: Image | None) -> None:
        """Take another layer; its axes are guessed anew."""
        self._forget()
        patient_view(self.viewer).look_at(layer)
        other = layer is not self._layer
        self._layer = layer
        self._watch.follow(layer)
        self._read(None, 0)
        if other or self._choices.model is None:
            self._settle_model()
        if other and self._choices.workers:
            self._show_workers()  # what was found about another scan goes
        self.show_models()
        self._show_images()

    def _choose_entry(self, entry: Image | tuple[Image, ...] | None) -> None:
        """Take a layer of the list, or several of them as the channels of one scan, in a layer of their own."""
        if not isinstance(entry, tuple):
            self.choose_image(entry)
            return
        try:
            layer = joined_layer(entry)
        except ProsmaError as error:
            self._scan_view.show_error(str(error), details=False)
            return
        self.viewer.add_layer(layer)

    def _settle_model(self) -> None:
        """Take the model chosen for such scans, where it holds for this one, else one made for it, else none."""
        scan, model = self._choices.scan, self._choices.model
        if scan is None:
            return
        kept = self._kept.get(self._layer) if self._layer is not None else None
        remembered = False
        if kept is not None and kept.path.is_file() and fits(scan, kept):
            model = kept
        elif self._ahead and model is not None and not unsuited(scan, model):
            self.session.remember_model(mark_of(scan), model)
        else:
            choice = self.session.model_for(mark_of(scan))
            model = suitable_model(scan, self.session.models())
            if choice is not None and holds(scan, choice, model):
                model, remembered = choice.model, choice.near
        self._ahead = False
        fitting, untold = [], False
        if model is None:
            fitting = fitting_models(scan, self.session.models())
            untold = not fitting and bool(fitting_models(scan, self.session.models(), "unknown"))
        rivals = tuple(m.header.name for m in fitting)
        self._choices = replace(self._choices, model=model, rivals=rivals, untold=untold, remembered=remembered)

    def _forget(self) -> None:
        """Take away what was said about another scan or model."""
        if not self._busy():
            self._scan_view.show_messages(())
            self._scan_view.show_error("", details=False)

    def choose_axes(self, axes: str) -> None:
        """Read the layer's axes in another way."""
        if axes == self.axes:
            return
        before, model = self._choices.scan, self._choices.model
        self._read(axes.replace(" ", "").lower(), self._level)
        scan = self._choices.scan
        if scan is not None and (model is None or (before is not None and differ(before, scan))):
            self._settle_model()
            self.show_models()

    def choose_level(self, level: int) -> None:
        """Take another resolution of a multiscale layer."""
        self._read(self._axes, level)

    def choose_size(self, size: str) -> None:
        """Take this voxel size, as text, for a layer that states none; empty: it is not known."""
        if self._layer is not None and size != self._choices.size:
            self._sizes[self._layer] = size
            self._read(self._axes, self._level)

    def choose_model(self, model: ModelEntry | None) -> None:
        """Take another model, as the user chose it: also for other scans like this one from now on."""
        scan = self._choices.scan
        if model is not None and scan is not None:
            self.session.remember_model(mark_of(scan), model)
        self._change_model(model)

    def _change_model(self, model: ModelEntry | None) -> None:
        """Take another model for this scan."""
        self._forget()
        self._ahead = self._choices.scan is None
        if model is not None and self._layer is not None:
            self._kept[self._layer] = model
        self._set(model=model, remembered=False)
        self.show_models()

    def _take_model(self, model: ModelEntry) -> None:
        """Take a model that was just trained, unless a job runs, or it was trained for other scans than this one."""
        scan = self._choices.scan
        if self._busy():
            return
        if scan is not None:
            choice = self.session.model_for(mark_of(scan))
            if (choice is None or choice.model.path != model.path) and unsuited(scan, model):
                return
        self._change_model(model)

    def add_model(self, path: Path) -> None:
        """Take a model from a file."""
        try:
            self.choose_model(self.session.add_model(path))
        except ProsmaError as error:
            self._scan_view.show_error(str(error), details=False)

    def use_trained(self, path: Path) -> None:
        """Take a model that was just trained, for this scan and for those like it."""
        try:
            model, scan = self.session.add_model(path), self._choices.scan
        except ProsmaError as error:
            self._scan_view.show_error(str(error), details=False)
            return
        if scan is not None:
            self.session.remember_model(mark_of(scan), model, trained=True)
        self._change_model(model)

    def choose_device(self, device: str) -> None:
        """Choose the device."""
        self.session.remember("device", device)
        self._set(device=device)
        self._show_devices(self.session.jobs.ready)

    def choose_workers(self, workers: bool) -> None:
        """Have Dask workers compute, or this computer."""
        self._show_workers(workers=workers)

    def choose_address(self, address: str) -> None:
        """Take this address of workers, now and the next time; they are not contacted."""
        if address != self._choices.address:
            self.session.remember(ADDRESS, address)
            self._show_workers(address=address)

    def _show_workers(self, **changes: Any) -> None:
        self._set(**changes)
        fields = self._scan_view.workers
        fields.show_place(self._choices.workers, self._choices.address)
        if self._test is not None:
            self._test.drop()
            return
        fields.show_found("", problem=False)
        self._offer_test()

    def test_or_stop(self) -> None:
        """Test the workers, or stop the test."""
        choices, fields = self._choices, self._scan_view.workers
        if self._test is not None:
            self._test.cancel()
            return
        if choices.model is None:
            fields.show_found("Choose a model first: the test has a worker load it.", problem=True)
            return
        spec = WorkersSpec(choices.address, choices.model.path, choices.device, choices.scan, self.STORES)
        try:
            with self.session.jobs.reserve(WorkersTest.NAME):
                self._test = WorkersTest(fields, self._tested)
                self._test.start(self.session.jobs, spec)
        except EngineBusyError as error:
            self._tested()
            fields.show_found(str(error), problem=True)

    def _tested(self) -> None:
        self._test = None
        self._offer_test()

    def _offer_test(self) -> None:
        possible = self._choices.workers and not address_problem(self._choices.address)
        self._scan_view.workers.show_test("Test", enabled=possible)

    def free_memory(self) -> None:
        """End the engine, unless a job has it; it starts again with the next job."""
        try:
            self.session.jobs.unload()
        except EngineBusyError as error:
            self._scan_view.show_error(f"Nothing was unloaded. {error}", details=False)
        else:
            self._show_devices(None)

    # --- What the viewer does ---------------------------------------------------------------------------------------

    def _layer_inserted(self, event: Any) -> None:
        layer = event.value
        if _is_scan(layer) and not self._busy():
            self.choose_image(layer)
        else:
            self._show_images()

    def _layer_arrived(self, event: Any) -> None:
        if event.value is self._layer:
            bring_into_view(self.viewer, event.value)

    def _layers_changed(self) -> None:
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
        self._scan_presenter.size(self._choices)
        self._scan_presenter.fit(self._choices)
        self._show_plan()

    def _read(self, axes: str | None, level: int) -> None:
        """Read the layer's geometry (not its values) with these axes; None guesses them."""
        self._axes, self._level = axes, level
        scan, error = None, ""
        if self._layer is not None:
            try:
                scan = read(self._layer, axes, level)
            except ProsmaError as wrong:
                error = str(wrong)
        self._choices = replace(self._choices, scan=scan, scan_error=error, sizeless=False, size="", size_error="")
        self._give_size()
        if listed_for(self._choices.scan) != self._listed:
            self._list_models(self.session.models())
        self._scan_presenter.size(self._choices)
        self._scan_presenter.axes(self._layer, self._choices, self.axes, level)
        self._scan_presenter.fit(self._choices)
        self._show_options()
        self._show_plan()

    def _give_size(self) -> None:
        """Give the scan the voxel size that the user typed, where the layer states none."""
        scan = self._choices.scan
        if scan is None or self._layer is None or scan.spec.unit != "pixel":
            return
        text, error = self._sizes.get(self._layer, ""), ""
        try:
            scan = scan.with_size(parse_voxel_size(text) if text else None)
        except ProsmaError as wrong:
            error = str(wrong)
        self._choices = replace(self._choices, scan=scan, sizeless=True, size=text, size_error=error)

    def _region(self) -> Region | None:
        scan, part = self._choices.scan, self._choices.part
        if scan is None or self._layer is None or part == "whole":
            return None
        find = view_box if part == "view" else current_slice
        return find(self._layer, scan, self.viewer)

    # --- Showing ----------------------------------------------------------------------------------------------------

    @property
    def axes(self) -> str:
        """Axes as they are read, or as the user typed them."""
        return self._choices.scan.axes if self._choices.scan else (self._axes or "")

    def show_models(self) -> None:
        """Show the models there are, and the one chosen."""
        models, chosen = self.session.models(), self._choices.model
        current = next((m for m in models if chosen and m.path == chosen.path), None)
        self._choices = replace(self._choices, model=current)
        self._list_models(models)
        self._set()
        self._show_options()

    def _list_models(self, models: Sequence[ModelEntry]) -> None:
        """Show the models there are, in the order for this scan."""
        self._listed = listed_for(self._choices.scan)
        self._scan_presenter.models(rows_for(self._choices.scan, models), self._choices.model)

    def _show_images(self) -> None:
        images = [layer for layer in self.viewer.layers if _is_scan(layer)]
        selected = tuple(layer for layer in images if layer in self.viewer.layers.selection)
        channels = selected if len(selected) > 1 and are_channels(selected) else ()
        self._scan_presenter.images(images, self._layer, channels)

    def _show_devices(self, ready: Ready | None) -> None:
        self._scan_presenter.devices(self._choices.device, ready)
        missing = ready.why_not.get(self._choices.device, "") if ready and ready.why_not else ""
        if missing != self._choices.device_error:
            self._set(device_error=missing)


def _is_scan(layer: Any) -> bool:
    """Whether a layer is a scan: an image that is no result of ours."""
    return isinstance(layer, Image) and not is_result(layer)
