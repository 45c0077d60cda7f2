"""Going through a series of scans: open the next with labels to correct, save, close, train on all. No Qt."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from napari.layers import Image, Labels, Layer
from napari.utils.notifications import show_warning
from numpy.typing import NDArray

from napari_prosma._reader import image_layer_data, read_paths
from napari_prosma.cleanup import run_all
from napari_prosma.jobs.boundary import JobName, Jobs
from napari_prosma.jobs.run import Handlers, JobRun, ViewSignal
from napari_prosma.jobs.session import Session
from napari_prosma.jobs.spec import ScanSpec
from napari_prosma.layers.results import drawing_layer, hide_results, labels_layer, noted_provenance, show_labels
from napari_prosma.layers.scan import LayerScan, read
from napari_prosma.layers.slices import Marks, keep, marks_of, noted_marks, packed, remember, slice_states
from napari_prosma.train.autosave import Saving
from napari_prosma.train.export_pairs import write_labels_layer
from napari_prosma.train.pair_list import PairList
from napari_prosma.train.pairs import Pair
from napari_prosma.train.series import Series, SeriesScan
from napari_prosma.train.sources import Source, classes_known, layer_source
from prosma_core.config.inference import InferenceConfig
from prosma_core.config.model import ClassInfo, provenance
from prosma_core.data.geometry import ImageSpec, Scan
from prosma_core.data.pair_check import grid_problem
from prosma_core.engine.decoder import DECODER
from prosma_core.engine.messages import ArrayReady, Failed, Finished, SegmentRequest
from prosma_core.errors import DatasetError, GeometryError, ProsmaError
from prosma_core.events import TileDone
from prosma_core.io.bundle import ModelEntry
from prosma_core.printable import plain

if TYPE_CHECKING:
    from napari.components import ViewerModel

_BACKGROUND = ClassInfo(value=0, name="background", color="#000000")


@dataclass(frozen=True)
class SeriesRow:
    """A scan of a series as the table shows it: its name, how far it is, what it is for, and what is to be known."""

    name: str
    state: str
    use: str
    tooltip: str = ""


class AbstractSeriesView(Protocol):
    """Protocol of the view of a series."""

    @property
    def next_clicked(self) -> ViewSignal:
        """Open the next scan."""

    @property
    def open_clicked(self) -> ViewSignal:
        """Open the scan of this number (int)."""

    @property
    def nothing_clicked(self) -> ViewSignal:
        """The open scan holds no object."""

    @property
    def validation_clicked(self) -> ViewSignal:
        """Scans of these numbers (list of int) are for validation, or not any more."""

    @property
    def leave_clicked(self) -> ViewSignal:
        """Close the series."""

    def show_series(
        self, words: str, rows: Sequence[SeriesRow], current: int | None, busy: str, problem: str, /
    ) -> None:
        """What there is (empty: no series), the scans, number of the open one, what is being done, what went wrong."""


@dataclass(eq=False)
class _Open:
    """The scan that is worked on: its layers, and as soon as there are labels, pair and autosave."""

    name: str
    image: Image
    labels: Labels | None = None
    pair: Pair | None = None
    saving: Saving | None = None
    job: _FirstLabels | None = None

    @property
    def layers(self) -> tuple[Layer, ...]:
        return (self.image,) if self.labels is None else (self.image, self.labels)


class SeriesWork:
    """A series of scans that is gone through, one scan at a time.

    Parameters
    ----------
    viewer : ViewerModel
    view : AbstractSeriesView
    session : Session
    pairs : PairList
        Holds each scan with checked or edited slices: as layers where it is open, else as files.
    model : callable
        Gives the model whose result is to be corrected, and the device; the model is None where labels are drawn.
    changed : callable
        Called when a scan is segmented from now on, or not any more.
    """

    def __init__(
        self,
        viewer: ViewerModel,
        view: AbstractSeriesView,
        session: Session,
        pairs: PairList,
        model: Callable[[], tuple[ModelEntry | None, str]],
        changed: Callable[[], None],
    ) -> None:
        self._viewer, self._view, self._session, self._pairs = viewer, view, session, pairs
        self._jobs, self._model, self._changed = session.jobs, model, changed
        self._series: Series | None = None
        self._open: _Open | None = None
        self._last: str | None = None
        self._listed: dict[str, Pair] = {}
        self._busy, self._problem, self._notice = "", "", ""
        self._closing = self._closed = False
        view.next_clicked.connect(self.open_next)
        view.open_clicked.connect(self.open_number)
        view.nothing_clicked.connect(self.nothing_here)
        view.validation_clicked.connect(self.validate)
        view.leave_clicked.connect(self.leave)
        self.show()

    # --- What the user does -------------------------------------------------------------------------------------------

    def begin(self, folder: Path, files: Sequence[Path] = ()) -> None:
        """Go through the scans of a folder, or through some of its files."""
        if self._starts():
            self._save_and_close(lambda: self._list(folder, files))

    def open_next(self) -> None:
        """Save and close the open scan, and open the next that is not done; without any, it stays open."""
        series = self._series
        if series is not None and self._starts():
            stays = series.next_after(self._last) is None
            self._save_and_close(lambda: self._open_after(self._last), close=not stays)

    def open_number(self, number: int) -> None:
        """Save and close the open scan, and open another."""
        series = self._series
        if series is None or not 0 <= number < len(series.scans) or not self._starts():
            return
        name = series.scans[number].name
        if self._open is None or self._open.name != name:

            def again() -> None:
                self._read(series.update(name, problem=""), go_on=False)

            self._save_and_close(again)

    def nothing_here(self) -> None:
        """Mark all slices of the open scan as checked and empty, and go on: it is a negative."""
        work = self._open
        if work is None or work.labels is None or not self._starts():
            return
        layer = work.labels
        try:
            states = slice_states(layer, read(work.image))
        except ProsmaError as error:
            self._say(error)
            return
        if states.annotated and np.any(layer.data):
            what = f"Labels of {work.name} were painted, edited or checked."
            self._say(f"{what} Erase them first, or keep them with Open next.")
            return
        layer.data = np.zeros_like(layer.data)
        marks = marks_of(layer) or Marks(states.axis)
        keep(layer, replace(marks, axis=states.axis, checked=tuple(range(states.count))))
        self.open_next()

    def validate(self, numbers: Sequence[int]) -> None:
        """Take scans for validation; where all of them are already, for training."""
        series = self._series
        if series is None or not numbers or not self._starts():
            return
        names = [series.scans[number].name for number in numbers]
        held = not all(series.scans[number].validation for number in numbers)
        try:
            series.keep(*names, validation=held)
        except ProsmaError as error:
            self._say(error)
            return
        for name in names:
            pair, scan = self._listed.get(name), series.scans[series.number(name)]
            if pair is not None:
                changed = series.parted(pair, scan)
                self._list_pair(name, changed)
                if self._open is not None and self._open.pair is pair:
                    self._open.pair = changed
        self.show()

    def leave(self) -> None:
        """Save and close the open scan, and the series; its labels stay in the list of pairs."""

        def left() -> None:
            self._series, self._last, self._notice = None, None, ""
            self._listed.clear()
            self.show()

        if self._starts():
            self._save_and_close(left)

    def layer_removed(self, layer: Any) -> bool:
        """A layer was taken out of the viewer; whether it is one of the open scan, which is saved and closed then."""
        if self._closing:
            return True
        work = self._open
        if work is None or not any(layer is own for own in work.layers):
            return False
        if not self._busy or work.job is not None:
            self._save_and_close(self.show)
        return True

    def close(self) -> None:
        """Save what is painted and leave the layers to the user: the widget is gone."""
        self._closed = True
        work, self._open = self._open, None
        parts: list[Callable[[], object]] = []
        if work is not None and work.saving is not None:
            parts.append(work.saving.end)
        if work is not None and work.job is not None:
            parts.append(work.job.abandon)
        run_all("A series of scans could not be left", *parts)

    # --- What is not open ---------------------------------------------------------------------------------------------

    def closed(self) -> list[tuple[str, Path]]:
        """Name and file of each scan that is neither open nor begun; without those of several files."""
        if self._series is None:
            return []
        open_name = self._open and self._open.name
        left = [s for s in self._series.scans if s.step == "untouched" and not s.problem and s.name != open_name]
        return [(scan.name, scan.images[0]) for scan in left if len(scan.images) == 1]

    def open_named(self, name: str) -> bool:
        """Save and close the open scan, and open this one; whether that has begun."""
        if self._series is not None:
            self.open_number(self._series.number(name))
        return not self.failed(name)

    def opened(self, name: str) -> Pair | None:
        """The pair of this scan, as soon as it is open and has labels."""
        return self._open.pair if self._open is not None and self._open.name == name else None

    def failed(self, name: str) -> bool:
        """Whether a scan is neither open nor being opened."""
        is_open = self._open is not None and self._open.name == name
        return not (is_open or self._busy or self._closing)

    # --- Showing ------------------------------------------------------------------------------------------------------

    def show(self) -> None:
        """Show the series as it is now."""
        series, work = self._series, self._open
        problem = " ".join(filter(None, (self._notice, self._problem)))
        if series is None:
            self._view.show_series("", (), None, self._busy, problem)
            return
        rows = [_row(scan) for scan in series.scans]
        current = series.number(work.name) if work is not None else None
        if current is not None and work is not None:
            pair = next((row for row in self._pairs.rows if row.pair is work.pair), None)
            states = pair.states if pair is not None else None
            count = f": {len(states.annotated)} of {states.count}" if states is not None else ""
            rows[current] = replace(rows[current], state=f"open{count}")
        self._view.show_series(series.words, rows, current, self._busy, problem)

    def _starts(self) -> bool:
        """Whether something new can be done; a segmentation that runs is given up for it."""
        work = self._open
        if self._closed or (self._busy and (work is None or work.job is None)):
            return False
        self._say("")
        return True

    def _say(self, problem: object) -> None:
        self._problem = str(problem)
        self.show()

    def _is_busy(self, words: str) -> None:
        self._busy = words
        self.show()

    # --- List ---------------------------------------------------------------------------------------------------------

    def _list(self, folder: Path, files: Sequence[Path]) -> None:
        self._is_busy(f"Looking through {folder.name}…")
        home = self._session.models_folder
        self._jobs.run(lambda: Series(folder, home, files), self._listed_all, self._failed)

    def _listed_all(self, series: Series) -> None:
        if self._closed:
            return
        self._series, self._last, self._busy, self._notice = series, None, "", ""
        found = {scan.name: series.pair(scan) for scan in series.scans}
        pairs = {name: pair for name, pair in found.items() if pair is not None}
        self._pairs.add(pairs.values())
        self._listed = {name: self._pairs.like(pair) or pair for name, pair in pairs.items()}
        self._say(series.moved)

    def _list_pair(self, name: str, pair: Pair | None) -> None:
        """Put the pair of a scan into the list, in place of the one it had; None takes that out."""
        old = self._listed.pop(name, None)
        there = self._pairs.pairs
        if pair is not None:
            self._listed[name] = pair
        if old is None or old not in there:
            if pair is not None:
                self._pairs.add([pair])
        elif pair is None:
            self._pairs.remove([there.index(old)])
        else:
            self._pairs.replace(old, pair)

    # --- Open ---------------------------------------------------------------------------------------------------------

    def _open_after(self, name: str | None) -> None:
        series = self._series
        if series is None:
            return
        scan = series.next_after(name)
        if scan is None:
            self._is_busy("")
            self._say(f"No scan of {series.title} is left: all others are done or cannot be opened.")
            return
        self._read(scan, go_on=True)

    def _read(self, scan: SeriesScan, *, go_on: bool) -> None:
        series = self._series
        self._is_busy(f"Reading {scan.name}…")
        draw = self._model()[0] is None

        def done(layers: tuple[Image, Labels | None] | None) -> None:
            if self._closed or series is None or self._series is not series:
                return
            if layers is None:
                self._open_after(scan.name)
            else:
                self._show_layers(series, series.scans[series.number(scan.name)], *layers)

        def failed(error: Exception) -> None:
            if self._closed or series is None or self._series is not series:
                return
            self._busy, self._last = "", scan.name
            if not series.folder.is_dir():
                self._say(
                    f"The folder {series.folder} is not there any more. Connect its drive, then open a scan again."
                )
                self.show()
                return
            words = str(error) if isinstance(error, ProsmaError) else f"{type(error).__name__}: {error}"
            series.update(scan.name, problem=words)
            if go_on and series.next_after(scan.name) is not None:
                self._open_after(scan.name)
            self.show()
            self._say(f"{scan.name} cannot be opened: {words}")

        def work() -> tuple[Image, Labels | None] | None:
            now = scan if series is None else series.opened(scan.name)
            if go_on and now.step == "done":  # by another window, meanwhile
                return None
            return open_layers(now, draw=draw)

        self._jobs.run(work, done, failed)

    def _show_layers(self, series: Series, scan: SeriesScan, image: Image, labels: Labels | None) -> None:
        self._last = scan.name
        self._problem = " ".join(filter(None, (self._problem, scan.others_words)))
        self._open = _Open(scan.name, image)
        self._viewer.add_layer(image)
        if labels is not None:
            self._work_on(series, labels)
            return
        self._segment(series, self._open)

    def _segment(self, series: Series, work: _Open) -> None:
        """Have the open scan segmented."""
        model, device = self._model()
        if model is None:
            self._draw(series, work)
            return

        def told(found: Callable[[], Labels] | None, why: str) -> None:
            self._segmented(series, work, found, why)

        try:
            job = _FirstLabels(model, device, read(work.image), told)
            job.begin(self._jobs, lambda text: self._is_busy(f"Segmenting {work.name}: {text}"))
        except ProsmaError as error:
            self._draw(series, work, f"{error} The labels of {work.name} are to be drawn.")
            return
        work.job = job
        self._is_busy(f"Segmenting {work.name} with {model.header.name}…")
        self._changed()

    @property
    def running(self) -> bool:
        """Whether the open scan is being segmented."""
        return self._open is not None and self._open.job is not None

    def cancel(self) -> None:
        """Stop segmenting the open scan: its labels are drawn then."""
        if self._open is not None and self._open.job is not None:
            self._open.job.cancel()

    def _segmented(self, series: Series, work: _Open, found: Callable[[], Labels] | None, why: str) -> None:
        work.job = None
        self._changed()
        if self._closed or self._open is not work:
            return
        if found is None:
            self._draw(series, work, f"{work.name} could not be segmented: {why} Its labels are to be drawn.")
            return

        def done(labels: Labels) -> None:
            if self._open is work and work.labels is None and not self._close_deleted(work):
                self._work_on(series, labels)

        self._jobs.run(found, done, lambda error: self._draw(series, work, str(error)))

    def _draw(self, series: Series, work: _Open, why: str = "") -> None:
        """Have the labels drawn by hand."""
        if self._open is not work or work.labels is not None or self._close_deleted(work):
            return
        if why:
            self._say(why)
        try:
            self._work_on(series, _drawing(read(work.image), work.name))
        except ProsmaError as error:
            self._is_busy("")
            self._say(error)

    def _work_on(self, series: Series, labels: Labels) -> None:
        work = self._open
        if work is None:
            return
        scan = series.scans[series.number(work.name)]
        work.labels = labels
        viewer = self._viewer
        viewer.add_layer(labels)
        viewer.layers.selection.active = labels
        if all(layer in work.layers for layer in viewer.layers if layer.visible):
            viewer.reset_view()
            viewer.dims.current_step = tuple(int(steps) // 2 for steps in viewer.dims.nsteps)
        work.pair = series.parted(Pair(layer_source(work.image), layer_source(labels)), scan)
        self._list_pair(work.name, work.pair)

        opened = _fingerprint(labels)

        def write() -> None:
            assert work.pair is not None
            saved = series.scans[series.number(scan.name)].saved
            if saved is None and _fingerprint(labels) == opened:  # only looked at: a better model may come
                return
            path, words = series.place(scan.name)
            series.saved(scan.name, *write_labels_layer(work.pair, path))
            if words:
                self._jobs.run(lambda: words, self._both_kept, self._failed)

        unknown = scan.saved is not None and not scan.slices
        work.saving = Saving([labels], write, series.root, self._jobs, self._not_saved, unsaved=unknown)
        self._is_busy("")

    def _both_kept(self, words: str) -> None:
        if not self._closed:
            self._notice = words  # until the series is closed
            self.show()

    # --- Save and close -----------------------------------------------------------------------------------------------

    def _save_and_close(self, then: Callable[[], None], *, close: bool = True) -> None:
        """Save and close the open scan, then go on; where it cannot be saved, it stays open and the error is said."""
        series, work = self._series, self._open
        if series is None or work is None:
            then()
            return
        if work.job is not None and not close:
            return
        if work.job is not None:
            work.job.abandon()
            work.job = None
            self._changed()
        saving, name = work.saving, work.name
        if saving is None:
            self._close_layers(work)
            self._busy = ""
            then()
            return
        self._is_busy(f"Saving labels of {name}…")

        def save() -> None:
            saving.save_now()
            saving.wait()
            scan = series.scans[series.number(name)]
            if scan.saved is not None and scan.annotated and not scan.finished:
                series.keep(name, finished=True)

        def done(_: object) -> None:
            if self._closed:
                return
            if saving.unsaved:  # painted meanwhile
                self._save_and_close(then, close=close)
                return
            self._busy = ""
            if close or not self._is_there(work):
                self._list_pair(name, series.pair(series.scans[series.number(name)]))
                self._close_layers(work)
            then()

        def failed(error: Exception) -> None:
            if self._closed:
                return
            for layer in work.layers:  # deleted by the user, and not saved
                if layer not in self._viewer.layers:
                    self._viewer.add_layer(layer)
            self._is_busy("")
            self._not_saved(error)

        self._jobs.run(save, done, failed, lasting=True)

    def _is_there(self, work: _Open) -> bool:
        """Whether the layers of the open scan are in the viewer."""
        return all(layer in self._viewer.layers for layer in work.layers)

    def _close_deleted(self, work: _Open) -> bool:
        """Close a scan whose image was deleted while its labels were made; whether it was."""
        if self._is_there(work):
            return False
        self._close_layers(work)
        self._is_busy("")
        return True

    def _close_layers(self, work: _Open) -> None:
        self._open = None
        if work.saving is not None:
            work.saving.leave()
        self._closing = True
        try:
            if work.labels is not None:
                work.labels.mode = "pan_zoom"  # the brush leaves the canvas first
            for layer in reversed(work.layers):
                if layer in self._viewer.layers:
                    self._viewer.layers.remove(layer)
            self._session.scan_left.emit(work.image)
            with contextlib.suppress(ProsmaError):  # nothing could be made from it
                hide_results(self._viewer, read(work.image))
        finally:
            self._closing = False

    def _not_saved(self, error: object) -> None:
        if self._closed:  # nothing of the widget can say it any more
            show_warning(plain(f"Labels of the series could not be saved: save their layer yourself. {error}"))
        else:
            name = self._open.name if self._open is not None else "the scan"
            self._say(f"Labels of {name} could not be saved; their layer stays open. {error}")

    def _failed(self, error: Exception) -> None:
        if not self._closed:
            self._is_busy("")
            self._say(error)


class _FirstLabels(JobRun):
    """Segmentation of a scan whose result is to be corrected.

    Parameters
    ----------
    model : ModelEntry
    device : str
    scan : LayerScan
    told : callable
        Told, once, what makes the layer (in any thread) and an empty text, or None and why there is none.
    """

    NAME = JobName("A segmentation of the next scan", "ProSMA Train")

    def __init__(
        self,
        model: ModelEntry,
        device: str,
        scan: LayerScan,
        told: Callable[[Callable[[], Labels] | None, str], None],
    ) -> None:
        super().__init__()
        self._model, self._device, self._scan, self._told = model, device, scan, told
        self._array: NDArray[Any] | None = None
        self._why = "It was canceled."
        self._finished = False
        self._progress: Callable[[str], None] = lambda _: None

    def begin(self, jobs: Jobs, progress: Callable[[str], None]) -> None:
        """Give it to the engine."""
        self._progress = progress
        request = SegmentRequest(model=str(self._model.path), device=self._device, config=InferenceConfig())
        self.start(jobs, ScanSpec(request, self._scan))

    @property
    def handlers(self) -> Handlers:
        """As of `JobRun`."""
        return {
            ArrayReady: self._take,
            TileDone: lambda tile: self._progress(f"{100 * tile.done // tile.total} %"),
            Finished: self._finish,
            Failed: lambda failed: self.show_error(str(failed.error), ""),
        }

    def show_error(self, reason: str, _details: str) -> None:
        """As of `JobRun`."""
        self._why = reason

    def over(self) -> None:
        """Hand over what came of it."""
        if not self.abandoned:
            self._told(self._layer if self._finished and self._array is not None else None, self._why)

    def _take(self, ready: ArrayReady) -> None:
        if ready.name == "labels":
            self._array = ready.array

    def _finish(self, _: Finished) -> None:
        self._finished = True

    def _layer(self) -> Labels:
        scan, header = self._scan, self._model.header
        source = scan.path.name if scan.path else scan.name
        notes = provenance(header, InferenceConfig(), source)
        layer = labels_layer(scan, np.array(self._array), header.classes, _labels_name(scan.name), notes)
        remember(layer)
        return layer


def open_layers(scan: SeriesScan, *, draw: bool) -> tuple[Image, Labels | None]:
    """Layers of a scan and of its labels, not yet in a viewer. To be run in a thread.

    Parameters
    ----------
    scan : SeriesScan
    draw : bool
        Make an empty labels layer where there are no labels; else give None.

    Raises
    ------
    ProsmaError
        A file cannot be read, is no image, or the labels do not lie on it.
    """
    if len(scan.images) > 1:
        found = DECODER.read_channels(scan.images)
        data = [image_layer_data(found.data, found.spec, scan.name, None)]
    else:
        data = read_paths(str(scan.images[0]))
    if len(data) != 1 or data[0][2] != "image":
        msg = "It holds labels, not an image. Labels of the scans are to be in a folder of their own, labels."
        raise DatasetError(msg)
    image = Layer.create(*data[0])
    image.name = scan.name
    drawn = read(image)
    if scan.labels is None:
        return image, _drawing(drawn, scan.name) if draw else None
    return image, _labels_on(drawn, scan.labels, scan)


def _drawing(drawn: LayerScan, name: str) -> Labels:
    """An empty labels layer of which only checked and edited slices count, whatever 0 means."""
    layer = drawing_layer(drawn, _labels_name(name))
    keep(layer, packed(layer))
    return layer


def _labels_on(drawn: LayerScan, path: Path, scan: SeriesScan) -> Labels:
    """A layer with a copy of the labels in a file, with what is known of their slices."""
    labels, notes = DECODER.read_labels(path), DECODER.read_notes(path)
    spec: ImageSpec = drawn.spec.labels_spec()
    elsewhere = grid_problem(drawn.spec, labels.spec, "The scan", "the labels") if scan.saved is None else ""
    if elsewhere or labels.spec.shape != spec.shape:
        msg = (
            elsewhere or f"Its labels in {path} have another shape ({labels.spec.shape}) than the scan ({spec.shape})."
        )
        raise GeometryError(msg)
    known, name = classes_known(Source(path=path), ()), _labels_name(scan.name)
    values = np.array(labels.data)
    if known:
        classes = known if known[0].value == 0 else (_BACKGROUND, *known)
        layer = labels_layer(drawn, values, classes, name, noted_provenance(notes))
    else:
        layer = drawing_layer(drawn, name)
        show_labels(layer, drawn, values)
    marks = noted_marks(notes, Scan(values, spec))
    if marks is not None:
        keep(layer, marks)
    return layer


def _fingerprint(layer: Labels) -> tuple[object, ...]:
    """Shape and checksum of a layer's voxels, and its checked and edited slices: equal while nothing changed."""
    data, checksum = np.asarray(layer.data), 0
    for part in data:
        checksum = zlib.crc32(np.ascontiguousarray(part).data, checksum)
    marks = marks_of(layer)
    kept = (marks.axis, marks.checked, marks.edited, marks.seen) if marks is not None else ()
    return data.shape, checksum, kept


def _row(scan: SeriesScan) -> SeriesRow:
    tooltip = scan.problem or (f"{scan.name}\nLabels: {scan.labels}" if scan.labels is not None else "")
    return SeriesRow(scan.name, scan.words, "validation" if scan.validation else "training", tooltip)


def _labels_name(name: str) -> str:
    return f"{name} labels"
