"""Marking slices as checked: the slice in view of the pair that is worked on. No Qt."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from napari_prosma.cleanup import run_all
from napari_prosma.jobs.run import ViewSignal
from napari_prosma.layers.labels import read_on
from napari_prosma.layers.scan import LayerScan, read
from napari_prosma.layers.slices import mark
from napari_prosma.layers.viewport import show_slice, slice_in_view
from napari_prosma.train.pair_list import PairList
from napari_prosma.train.pairs import PairRow
from napari_prosma.train.sources import image_scan
from prosma_core.data.slices import SliceStates
from prosma_core.errors import ProsmaError

if TYPE_CHECKING:
    from napari.components import ViewerModel


class AbstractSliceView(Protocol):
    """Protocol of the view of slices."""

    @property
    def mark_clicked(self) -> ViewSignal:
        """Mark the slice in view, or take its mark away."""

    @property
    def slice_clicked(self) -> ViewSignal:
        """Number of a slice to go to (int)."""

    @property
    def next_clicked(self) -> ViewSignal:
        """Go to the next suggested slice."""

    def show_slices(self, states: SliceStates | None, name: str, /) -> None:
        """States of the slices of the labels of this name; None hides them."""

    def show_slice(self, index: int | None, /) -> None:
        """Number of the slice in view; None where none is."""

    def show_next(self, *, enabled: bool, tooltip: str) -> None:
        """Whether a slice can be suggested, and by whom, or why not."""

    def show_suggestion(self, text: str, /) -> None:
        """Which slice was suggested last, and why; empty hides it."""


class SliceMarks:
    """Shows which slices of the labels that are worked on were checked or edited, and marks them.

    These are the labels of the selected layer's pair, or else of the first pair, as far as they are in the viewer.

    Parameters
    ----------
    viewer : ViewerModel
    view : AbstractSliceView
    pairs : PairList
    say : callable
        Told why a slice cannot be marked; with an empty text, that nothing is wrong.
    """

    def __init__(
        self, viewer: ViewerModel, view: AbstractSliceView, pairs: PairList, say: Callable[[object], None]
    ) -> None:
        self._viewer, self._view, self._pairs, self._say = viewer, view, pairs, say
        self._hidden = False
        dims = viewer.dims.events
        self._wires: list[tuple[Any, Callable[[Any], None]]] = []
        self._wires += [(event, self._moved) for event in (dims.current_step, dims.ndisplay, dims.order)]
        self._wires += [(viewer.layers.selection.events.active, self._chosen)]
        for event, call in self._wires:
            event.connect(call)
        view.mark_clicked.connect(self.toggle)
        view.slice_clicked.connect(self.go_to)

    def close(self) -> None:
        """Disconnect from the viewer."""
        parts = [lambda e=event, c=call: e.disconnect(c) for event, call in self._wires]
        run_all("The slices could not be left", *parts)

    @property
    def row(self) -> PairRow | None:
        """The pair that is worked on."""
        layers = self._viewer.layers
        rows = [row for row in self._pairs.rows if row.states is not None and row.pair.labels.layer in layers]
        active = layers.selection.active
        own = [r for r in self._pairs.rows if active in (r.pair.labels.layer, *r.pair.image.layers)]
        if active is not None and own:  # it may be read only now: no other scan is meant
            return next((row for row in rows if row in own), None)
        return next(iter(rows), None)

    def show(self) -> None:
        """Show the slices of the labels that are worked on."""
        row = self.row
        self._view.show_slices(row.states if row is not None else None, row.labels if row is not None else "")
        self._moved()

    def toggle(self) -> str:
        """Mark the slice in view as checked, or take its mark away; why neither was done, else empty."""
        row = self.row
        if row is None or row.states is None:
            return self._refused(self._why_not())
        index = self._index(row)
        if index is None:
            along = f" along {row.states.axis}" if row.states.axis else ""
            return self._refused(
                f"No slice of {row.labels} is in view. In 2D view, show one of its slices{along}, then mark it."
            )
        self.mark(row.pair.labels.layer, index, checked=index not in row.states.checked)
        return ""

    def _refused(self, why: str) -> str:
        self._say(why)
        return why

    def mark(self, layer: Any, index: int, *, checked: bool = True) -> None:
        """Mark a slice of the labels layer of a pair as checked, or take the mark away.

        Parameters
        ----------
        layer : napari.layers.Labels
        index : int
            As `SliceStates` numbers slices.
        checked : bool
        """
        for row in self._pairs.rows:
            if row.pair.labels.layer is layer and row.states is not None:
                self._say("")
                self._pairs.states_are(layer, mark(layer, index, row.states, checked=checked))
                return

    def go_to(self, index: int) -> None:
        """Show a slice of the labels that are worked on."""
        row = self.row
        if row is not None and row.states is not None and 0 <= index < row.states.count:
            try:
                show_slice(
                    row.pair.labels.layer, _scan(row), self._viewer, row.states.axis, divmod(index, row.states.size)
                )
            except ProsmaError as error:
                self._say(error)
                return
            shown, self._hidden = not self._hidden, self._index(row) != index
            if self._hidden:
                along = f" with a slider along {row.states.axis}" if row.states.axis else ""
                self._say(f"To see {row.states.name(index)}, switch to 2D view{along}.")
            elif not shown:
                self._say("")

    def _why_not(self) -> str:
        """Why no slice can be marked."""
        active = self._viewer.layers.selection.active
        own = [r for r in self._pairs.rows if active in (r.pair.labels.layer, *r.pair.image.layers)]
        row = next(iter(own or self._pairs.rows), None)
        if row is None:
            return "No slice can be marked: add an image and its labels as a pair first."
        if row.pair.labels.layer not in self._viewer.layers:
            return f"No slice can be marked: {row.labels} is not open as a layer."
        return f"No slice can be marked: {row.problem or f'{row.labels} is being read. Try again in a moment.'}"

    def _index(self, row: PairRow) -> int | None:
        states = row.states
        if states is None:
            return None
        try:
            found = slice_in_view(row.pair.labels.layer, _scan(row), self._viewer, states.axis)
        except ProsmaError:  # the layer was changed, and is read anew in a moment
            return None
        index = None if found is None else found[0] * states.size + found[1]
        return index if index is not None and index < states.count else None

    def _moved(self, _event: Any = None) -> None:
        row = self.row
        self._view.show_slice(None if row is None else self._index(row))

    def _chosen(self, _event: Any) -> None:
        self.show()


def _scan(row: PairRow) -> LayerScan:
    """The labels layer of a pair as a scan, with the axes of its image layer."""
    layer, image = row.pair.labels.layer, row.pair.image
    return read(layer) if image.layer is None else read_on(layer, image_scan(image))
