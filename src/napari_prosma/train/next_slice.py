"""Next suggested slice: ranked by the newest model, evenly spread while there is none to ask. No Qt."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from napari_prosma.jobs.boundary import JobName, Jobs
from napari_prosma.jobs.run import Failure, Handlers, RunTexts, ShownRun
from napari_prosma.jobs.spec import Preparation, release_scans, share_scan
from napari_prosma.layers.scan import LayerScan
from napari_prosma.train.pair_list import PairList
from napari_prosma.train.pairs import Pair, PairRow
from napari_prosma.train.presenter import AbstractTrainView
from napari_prosma.train.slice_marks import SliceMarks
from napari_prosma.train.sources import image_scan
from prosma_core.config.model import ClassInfo, VoxelSize
from prosma_core.data.next_slice import rank_slices
from prosma_core.data.pair_check import NOTHING_PAINTED
from prosma_core.data.slices import SliceStates
from prosma_core.engine.client import Engine
from prosma_core.engine.messages import Failed, Finished, ScanRef, SlicesRef, SuggestRequest, SuggestResult
from prosma_core.errors import ChannelError, GeometryError, ProsmaError
from prosma_core.events import SlicesUnsure
from prosma_core.io.axes_units import parse_voxel_size

if TYPE_CHECKING:
    from napari.components import ViewerModel

NO_SCAN = "No scan of the list is open: open an image and its labels, and add them as a pair."
ALL_ANNOTATED = "Every slice is checked or edited."
ONLY_LEFT = "the only one that is neither checked nor edited"
EVENLY = "no model yet, evenly spread"
IN_TRAINING = "evenly spread, as the model is in training"
TOOLTIPS = {
    EVENLY: "No model yet: go to the middle of the longest run of slices that are neither checked nor edited.",
    IN_TRAINING: "The model is in training: go where its preview is unsure; where there is none, to the middle of the "
    "longest run of slices that are neither checked nor edited.",
}


MOST_CLOSED = 4
"""Scans of the folder that are not open and are asked about as well."""
MOST_BYTES = 2 << 30
"""Voxels of scans that are handed to the engine at once, unless one alone has more."""


class Preview(NamedTuple):
    """What the model in training says of a scan.

    Attributes
    ----------
    image : Image
    slices : SlicesUnsure
    classes : sequence of ClassInfo
        Of the model, the background first.
    """

    image: Any
    slices: SlicesUnsure
    classes: Sequence[ClassInfo]


class Adviser(NamedTuple):
    """Who is asked for the next slice.

    Attributes
    ----------
    model : Path or None
        The newest model of the last training, else the start model; None where there is none.
    device : str
    size : str
        Voxel size of the scans that state none, as it was typed.
    training : bool
        Whether a training has the engine.
    preview : Preview or None
        What the model in training said last.
    """

    model: Path | None
    device: str
    size: str
    training: bool
    preview: Preview | None = None

    @property
    def asked(self) -> Path | None:
        """The model, if it can be asked now."""
        return None if self.training or self.model is None or not self.model.is_file() else self.model

    @property
    def otherwise(self) -> str:
        """Why slices are spread evenly where it cannot."""
        return IN_TRAINING if self.training else EVENLY


class ClosedScans(Protocol):
    """Protocol of a folder's scans that are not open."""

    def closed(self) -> list[tuple[str, Path]]:
        """Name and file of each that is not begun."""

    def open_named(self, name: str, /) -> bool:
        """Open one; whether that has begun."""

    def opened(self, name: str, /) -> Pair | None:
        """Its pair, as soon as it is open and has labels."""

    def failed(self, name: str, /) -> bool:
        """Whether it is neither open nor being opened."""


@dataclass(frozen=True, eq=False)
class SuggestSpec:
    """A request to rank the slices of some scans.

    Attributes
    ----------
    model : str
    device : str
    scans : tuple of (LayerScan, SliceStates)
        Open ones.
    closed : tuple of (str, Path)
        Name and file of others, whose slices lie along their usual axis; none is annotated.
    """

    model: str
    device: str
    scans: tuple[tuple[LayerScan, SliceStates], ...]
    closed: tuple[tuple[str, Path], ...] = ()

    def prepare(self, engine: Engine) -> Preparation:
        """Share the scans, and make the request."""
        refs: list[SlicesRef] = []
        try:
            for scan, states in self.scans:
                ref = yield from share_scan(engine, scan)
                refs.append(
                    SlicesRef.model_validate(
                        {"name": scan.name, "scan": ref, "axis": states.axis, "annotated": states.annotated}
                    )
                )
        except BaseException:
            release_scans(*(each.scan for each in refs))
            raise
        refs += [SlicesRef(name=name, scan=ScanRef(file=str(path)), axis=None) for name, path in self.closed]
        return SuggestRequest(model=self.model, device=self.device, scans=tuple(refs))


TEXTS = RunTexts(
    cancel_tooltip="Stop looking for the next slice.",
    doing="Ranking slices",
    broken="The next slice could not be shown: {reason}. Try again.",
)


class SuggestJob(ShownRun):
    """A running ranking of slices.

    Parameters
    ----------
    spec : SuggestSpec
    view : AbstractTrainView
    jobs : Jobs
    found : callable
        Told the result; not called where there is none.
    unfit : callable
        Called where the model cannot segment the scans.
    over : callable
        Called, once, when the job is over.
    """

    NAME = JobName("A ranking of slices", "ProSMA Train")

    def __init__(
        self,
        spec: SuggestSpec,
        view: AbstractTrainView,
        jobs: Jobs,
        found: Callable[[SuggestResult], None],
        unfit: Callable[[], None],
        over: Callable[[], None],
    ) -> None:
        self._found, self._unfit, self._told = found, unfit, over
        view.show_running(True)
        super().__init__(view, TEXTS, "ProSMA: next suggested slice")
        self.start(jobs, spec)

    @property
    def handlers(self) -> Handlers:
        """As of `JobRun`."""
        return {**super().handlers, Finished: self._finish}

    def over(self) -> None:
        """End the job."""
        super().over()
        if not self.abandoned:
            self._told()

    def _finish(self, message: Finished) -> None:
        assert isinstance(message.result, SuggestResult)
        self._found(message.result)

    def _fail(self, failed: Failed) -> None:
        super()._fail(failed)
        if isinstance(failed.error, GeometryError | ChannelError):
            self._unfit()


class NextSlice:
    """Goes to the slice that is worth annotating next.

    With a model to ask, of the scans in the list that are open as layers and of some of the folder that are not; else
    of those that are open. A second click with nothing annotated meanwhile goes to the next of the same ranking.

    Parameters
    ----------
    viewer : ViewerModel
    view : AbstractTrainView
    jobs : Jobs
    pairs : PairList
    slices : SliceMarks
    folder : ClosedScans
        The folder that is gone through.
    adviser : callable
        Gives who is asked, as things are now.
    over : callable
        Called when the engine has ranked, so that the widget is ready again.
    begun : callable
        Told where the failure of a ranking that begins will be.
    """

    def __init__(
        self,
        viewer: ViewerModel,
        view: AbstractTrainView,
        jobs: Jobs,
        pairs: PairList,
        slices: SliceMarks,
        folder: ClosedScans,
        adviser: Callable[[], Adviser],
        over: Callable[[], None],
        begun: Callable[[Failure], None],
    ) -> None:
        self._viewer, self._view, self._jobs = viewer, view, jobs
        self._pairs, self._slices, self._folder = pairs, slices, folder
        self._adviser, self._over, self._begun = adviser, over, begun
        self._job: SuggestJob | None = None
        self._busy = self._asking = self._closed = False
        self._key: tuple[Any, ...] = ()
        self._ranked: Iterator[tuple[Any, int, str]] = iter(())
        self._shown: tuple[Any, int] | None = None
        self._awaited: tuple[str, int, str] | None = None
        viewer.layers.selection.events.active.connect(self.show)
        view.next_clicked.connect(self.go)

    @property
    def running(self) -> bool:
        """Whether the engine ranks slices, or is about to."""
        return self._job is not None or self._asking

    def cancel(self) -> None:
        """Cancel the ranking."""
        if self._job is not None:
            self._job.cancel()

    def close(self) -> None:
        """Leave the viewer; a ranking is canceled."""
        self._closed = True
        self._viewer.layers.selection.events.active.disconnect(self.show)
        if self._job is not None:
            self._job.abandon()

    def show(self, _event: Any = None) -> None:
        """Show whether there is a slice to suggest, and by whom; a suggestion that was followed goes."""
        if self._closed:
            return
        rows, adviser = self._rows(), self._adviser()
        asked = adviser.asked
        reason = self._reason(rows, self._closed_scans(adviser))
        by = f"Ask {asked.stem} which slice it is unsure about, and go there." if asked else TOOLTIPS[adviser.otherwise]
        self._view.show_next(enabled=not reason, tooltip=reason or by)
        if self._awaited is not None:
            self._arrive(rows)
        elif self._shown is not None and not self._left(*self._shown, rows):
            self._say(None, "")

    def leave_scan(self) -> None:
        """A scan is closed: its messages go, unless another is being opened for its slice."""
        if self._awaited is None:
            self._say(None, "")

    def go(self) -> str:
        """Go to the next suggested slice; why there is none, else empty."""
        rows, adviser = self._rows(), self._adviser()
        if self._busy or self.running:
            return ""
        closed, self._awaited = self._closed_scans(adviser), None
        if reason := self._reason(rows, closed):
            self._say(None, reason)
            return reason
        return self._find(rows, adviser, closed)

    def _find(self, rows: Sequence[PairRow], adviser: Adviser, closed: Sequence[tuple[str, Path]]) -> str:
        left = [(row.pair.labels.layer, i) for row in rows if row.states for i in row.states.untouched]
        if len(left) == 1 and not closed:
            self._go_to(*left[0], ONLY_LEFT)
            return ""
        model = adviser.asked
        known: Any = adviser.preview.slices if adviser.preview else model and (model, model.stat().st_mtime_ns)
        key = (known, [(row.pair, row.states and row.states.annotated) for row in rows], closed)
        if known and key == self._key and self._go_on():
            return ""
        self._key, self._ranked = (), iter(())
        if adviser.preview is not None:
            self._ranked = self._by_preview(adviser.preview, rows)
        if self._go_on():
            self._key = key
        elif model is None:
            self._spread(rows, adviser.otherwise)
        else:
            return self._ask(model, adviser, rows, closed, key)
        return ""

    # --- By a model -------------------------------------------------------------------------------------------------

    def _ask(
        self,
        model: Path,
        adviser: Adviser,
        rows: Sequence[PairRow],
        closed: Sequence[tuple[str, Path]],
        key: tuple[Any, ...],
    ) -> str:
        try:
            asked = self._some(rows, parse_voxel_size(adviser.size) if adviser.size else None)
            self._jobs.check_idle()
        except ProsmaError as error:
            self._view.show_error(str(error), details=False)
            return str(error)
        self._view.show_error("", details=False)
        places = [*(row.pair.labels.layer for row, _ in asked), *(name for name, _ in closed)]

        def found(result: SuggestResult) -> None:
            why = f"{model.stem} is unsure about {result.of} there" if result.of else f"{model.stem} is unsure there"
            self._key = key
            self._ranked = iter([(places[scan], index, why) for scan, index in result.ranked])
            if not self._go_on():
                self._say(None, self._reason(self._rows(), ()) or "The scan was closed or annotated meanwhile.")

        def unfit() -> None:
            self._spread(self._rows(), f"evenly spread, as {model.stem} cannot segment this scan")

        scans = tuple((scan, row.states) for row, scan in asked if row.states is not None)
        spec = SuggestSpec(str(model), adviser.device, scans, tuple(closed))
        self._asking = True  # napari's progress bar lets the event loop run
        try:
            with self._jobs.reserve(SuggestJob.NAME):
                self._job = SuggestJob(spec, self._view, self._jobs, found, unfit, self._leave)
                self._begun(self._job.failure)
        finally:
            self._asking = False
        return ""

    def _by_preview(self, preview: Preview, rows: Sequence[PairRow]) -> Iterator[tuple[Any, int, str]]:
        """Rank the slices of the scan that the model in training is shown on."""
        done = preview.slices
        for row in rows:
            states = row.states
            if states is None or preview.image not in row.pair.image.layers:
                continue
            if (states.axis, states.count) == (done.axis, len(done.entropy)):
                entropy = np.array(done.entropy).reshape(states.frames, states.size, -1)
                order, turn = rank_slices([entropy], [states.annotated])
                of = f" about {preview.classes[turn].name}" if turn else ""
                why = f"the model in training is unsure{of} there"
                return iter([(row.pair.labels.layer, index, why) for _, index in order])
        return iter(())

    def _some(self, rows: Sequence[PairRow], size: VoxelSize | None) -> list[tuple[PairRow, LayerScan]]:
        """The pairs to ask about with their scans, the one that is worked on first: as many as are copied at once."""
        found: list[tuple[PairRow, LayerScan]] = []
        room = MOST_BYTES
        for row in self._first(rows):
            scan = image_scan(row.pair.image).with_size(size)
            room -= prod(scan.spec.shape) * scan.dtype.itemsize
            if found and room < 0:
                break
            found.append((row, scan))
        return sorted(found, key=lambda each: rows.index(each[0]))  # the same ranking whichever is worked on

    def _leave(self) -> None:
        self._job = None
        self._view.show_running(False)
        self._over()
        self.show()

    def _go_on(self) -> bool:
        """Go to the next of the ranking that is still to be annotated, if any."""
        for place, index, why in self._ranked:
            if isinstance(place, str):
                if any(name == place for name, _ in self._folder.closed()):
                    self._open(place, index, why)
                    return True
            elif self._left(place, index, self._rows()):
                self._go_to(place, index, why)
                return True
        return False

    # --- Scans that are not open ------------------------------------------------------------------------------------

    def _closed_scans(self, adviser: Adviser) -> list[tuple[str, Path]]:
        """Some of the folder's scans that a model can be asked about, evenly spread."""
        asked = adviser.asked is not None and adviser.preview is None and not adviser.size  # files have their own size
        closed = self._folder.closed() if asked else []
        return (
            [closed[i * len(closed) // MOST_CLOSED] for i in range(MOST_CLOSED)]
            if len(closed) > MOST_CLOSED
            else closed
        )

    def _open(self, name: str, index: int, why: str) -> None:
        """Open a scan, and go to its slice as soon as it has labels."""
        self._awaited = name, index, why
        self._say(None, f"Opening {name}: {why}.")
        if not self._folder.open_named(name):
            self._awaited = None
            self._say(None, "")

    def _arrive(self, rows: Sequence[PairRow]) -> None:
        assert self._awaited is not None
        name, index, why = self._awaited
        pair = self._folder.opened(name)
        row = next((row for row in rows if row.pair is pair), None)
        if row is None:
            if self._folder.failed(name):
                self._awaited = None
                self._say(None, "")
            return
        self._awaited = None
        if self._left(row.pair.labels.layer, index, rows):
            self._go_to(row.pair.labels.layer, index, why)

    # --- Without one ------------------------------------------------------------------------------------------------

    def _spread(self, rows: Sequence[PairRow], why: str) -> None:
        """Go to the middle of the longest run of untouched slices of the first scan that has some."""
        row = next((row for row in self._first(rows) if row.states is not None and row.states.untouched), None)
        if row is None or row.states is None:
            self._say(None, self._reason(rows, ()))
            return
        layer, states = row.pair.labels.layer, row.states
        try:
            scan = image_scan(row.pair.image)
        except ProsmaError as error:
            self._view.show_error(str(error), details=False)
            return
        self._busy = True

        def done(index: int | None) -> None:
            self._busy = False
            if index is not None and not self._closed and self._left(layer, index, self._rows()):
                self._go_to(layer, index, why)

        def failed(error: Exception) -> None:
            self._busy = False
            if not self._closed:
                self._view.show_error(f"The scan cannot be read: {error}", details=False)

        self._jobs.run(lambda: states.evenly(lambda index: _holds(scan, states, index)), done, failed)

    # --- Both -------------------------------------------------------------------------------------------------------

    def _rows(self) -> list[PairRow]:
        """The pairs that are open as layers and can be trained on."""
        layers = self._viewer.layers
        return [
            row
            for row in self._pairs.rows
            if row.states is not None
            and row.problem in ("", NOTHING_PAINTED)
            and row.pair.image.layers
            and all(layer in layers for layer in (row.pair.labels.layer, *row.pair.image.layers))
        ]

    def _first(self, rows: Sequence[PairRow]) -> list[PairRow]:
        """Pairs with the one that is worked on before the others."""
        here = self._slices.row
        return sorted(rows, key=lambda row: row is not here)

    def _reason(self, rows: Sequence[PairRow], closed: Sequence[tuple[str, Path]]) -> str:
        """Why no slice can be suggested; empty where one can."""
        if closed:
            return ""
        if not rows:
            return NO_SCAN
        left = any(row.states is not None and row.states.untouched for row in rows)
        return "" if left else ALL_ANNOTATED

    def _left(self, layer: Any, index: int, rows: Sequence[PairRow]) -> bool:
        """Whether a slice is there and still to be annotated."""
        return any(row.pair.labels.layer is layer and row.states and index in row.states.untouched for row in rows)

    def _go_to(self, layer: Any, index: int, why: str) -> None:
        rows = self._rows()
        row = next(row for row in rows if row.pair.labels.layer is layer)
        assert row.states is not None
        if row is not self._slices.row:
            self._viewer.layers.selection.active = layer
        self._slices.go_to(index)
        where = row.states.name(index)
        where = f"{row.image}, {where}" if len(rows) > 1 else f"{where[0].upper()}{where[1:]}"
        self._say((layer, index), f"{where}: {why}.")

    def _say(self, shown: tuple[Any, int] | None, text: str) -> None:
        self._shown = shown
        self._view.show_suggestion(text)


def _holds(scan: LayerScan, states: SliceStates, index: int) -> bool:
    """Whether a slice of a scan is more than one value; reads it."""
    at = dict(zip(("t", states.axis), divmod(index, states.size), strict=True))
    plane = np.asarray(scan.data[tuple(at.get(letter, slice(None)) for letter in scan.axes)])
    return bool(plane.min() != plane.max())
