"""List of training pairs: each is checked in a thread, and again when its layers change."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from napari_prosma.cleanup import run_all
from napari_prosma.jobs.boundary import Jobs
from napari_prosma.layers.scan import guess_axes
from napari_prosma.layers.slices import remember
from napari_prosma.layers.viewport import REFRESHED, on_change
from napari_prosma.train.export_pairs import resampled
from napari_prosma.train.pairs import Pair, PairRow, active_pair, check, pairs_from_files, pairs_from_folder
from napari_prosma.train.sources import layer_source
from prosma_core.config.training import LabelsConfig
from prosma_core.data.slices import SliceStates
from prosma_core.errors import ProsmaError

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Labels, Layer


QUIET = 800
"""Milliseconds without a stroke after which painted labels are read again."""
READING = "Reading…"
EVENTS = (
    *("data", "paint", "labels_update", "metadata", REFRESHED, "visible"),
    *("scale", "translate", "rotate", "shear", "affine", "units", "axis_labels", "name"),
)
"""Events of a layer after which its pairs are read again, as far as it has them (a hidden layer tells no refresh)."""


class PairList:
    """Training pairs and the state of each.

    Parameters
    ----------
    jobs : Jobs
    changed : callable
        Called in the GUI thread when rows came, went or are known better.

    Attributes
    ----------
    rows : list of PairRow
    """

    def __init__(self, jobs: Jobs, changed: Callable[[], None]) -> None:
        self.rows: list[PairRow] = []
        self._jobs, self._changed = jobs, changed
        self._config = LabelsConfig()
        self._asked: dict[Pair, int] = {}
        self._number = 0
        self._busy = False
        self._watched: dict[int, tuple[Layer, Callable[[], None]]] = {}
        self._stale: set[Pair] = set()
        self._gone: WeakSet[Layer] = WeakSet()
        self._timer = jobs.timer(self._read_stale)

    @property
    def pairs(self) -> list[Pair]:
        """The pairs, in the order in which they came."""
        return [row.pair for row in self.rows]

    @property
    def reading(self) -> bool:
        """Whether a pair is being read, or about to be."""
        return bool(self._asked or self._stale)

    def add(self, pairs: Iterable[Pair]) -> int:
        """Add those that are not there yet; how many were."""
        new = [pair for pair in pairs if not any(_same(pair, there) for there in self.pairs)]
        _remember(new)
        self.rows += [self._row(pair) for pair in new]
        self._watch()
        self._read(new)
        return len(new)

    def like(self, pair: Pair) -> Pair | None:
        """The pair of the list with the same layers or files."""
        return next((there for there in self.pairs if _same(pair, there)), None)

    def remove(self, numbers: Iterable[int]) -> None:
        """Take out rows."""
        gone = set(numbers)
        self._keep([row for i, row in enumerate(self.rows) if i not in gone])

    def close_layer(self, layer: Any) -> bool:
        """Mark the rows of a closed layer; returns whether there are any. They stay: their pair holds the layer."""
        self._gone.add(layer)
        return self._close_rows()

    def open_layer(self, layer: Any) -> None:
        """A layer is in the viewer, perhaps again: rows none of whose layers is closed are marked no more."""
        if layer in self._gone:
            self._gone.discard(layer)
            self._close_rows()

    def replace(self, pair: Pair, by: Pair) -> None:
        """Put another pair in the place of one, where that is still there."""
        _remember([by])
        row = self._row(by)
        self.rows = [row if there.pair is pair else there for there in self.rows]
        self._forget_gone()
        self._read([by])

    def states_are(self, layer: Any, states: SliceStates) -> None:
        """Show other states of a labels layer's slices at once; its pairs are read anew a moment later."""
        self.rows = [replace(row, states=states) if row.pair.labels.layer is layer else row for row in self.rows]
        self._changed()

    def read_as(self, config: LabelsConfig) -> None:
        """Check all pairs again with these label settings."""
        self._config = config
        self._read(self.pairs)

    def close(self) -> None:
        """Disconnect from all layers."""
        self.rows = []
        self._asked.clear()
        run_all("Pairs could not be left", self._timer.stop, self._watch)

    def _close_rows(self) -> bool:
        """Mark the rows with a closed layer, and no others; whether that changed any."""
        rows = [replace(row, closed=self._is_closed(row.pair)) for row in self.rows]
        changed = rows != self.rows
        self.rows = rows
        if changed:
            self._changed()
        return changed

    def _row(self, pair: Pair) -> PairRow:
        """The row of a pair that is still to be read."""
        closed = self._is_closed(pair)
        return PairRow(pair, pair.image.name, pair.labels.name, facts=READING, closed=closed)

    def _is_closed(self, pair: Pair) -> bool:
        return any(layer in self._gone for layer in _layers(pair))

    def _keep(self, rows: list[PairRow]) -> None:
        self.rows = rows
        self._forget_gone()
        self._changed()

    def _forget_gone(self) -> None:
        """Read and listen to no pair that is not in the list any more."""
        kept = set(self.pairs)
        self._asked = {pair: number for pair, number in self._asked.items() if pair in kept}
        self._stale &= kept
        self._watch()

    def _read(self, pairs: Iterable[Pair]) -> None:
        """Read pairs one after the other; those that are waiting already are read in their turn."""
        for pair in pairs:
            self._number += 1
            self._asked[pair] = self._number
            self._stale.discard(pair)
        self._changed()
        self._read_next()

    def _read_next(self) -> None:
        if self._busy or not self._asked:
            return
        self._busy = True
        pair, number = next(iter(self._asked.items()))
        config = self._config
        self._jobs.run(
            lambda: check(pair, config),
            lambda row: self._take(row, number),
            lambda error: self._take(PairRow(pair, pair.image.name, pair.labels.name, problem=str(error)), number),
        )

    def _take(self, row: PairRow, number: int) -> None:
        self._busy = False
        if self._asked.get(row.pair) == number:  # else taken out, or asked for anew
            del self._asked[row.pair]
            row = replace(row, closed=self._is_closed(row.pair))
            self.rows = [row if there.pair is row.pair else there for there in self.rows]
            self._changed()
        self._read_next()

    # --- Layers -----------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Listen to the layers of the pairs, and to no other."""
        wanted = {id(layer): layer for pair in self.pairs for layer in _layers(pair)}
        for key in self._watched.keys() - wanted.keys():
            _, leave = self._watched.pop(key)
            leave()
        for key in wanted.keys() - self._watched.keys():
            self._watched[key] = wanted[key], on_change(wanted[key], EVENTS, self._on_change)

    def _on_change(self, event: Any) -> None:
        stale = {pair for pair in self.pairs if any(event.source is layer for layer in _layers(pair))} - self._stale
        self._stale |= stale
        self._timer.start(QUIET)
        if stale:
            self._changed()  # nothing is trained on what is known of them

    def _read_stale(self) -> None:
        self._read([pair for pair in self.pairs if pair in self._stale])


def _layers(pair: Pair) -> list[Any]:
    return [*pair.image.layers, *pair.labels.layers]


def _remember(pairs: Iterable[Pair]) -> None:
    """Have results of models among the labels keep what they are now, where they do not know what they were."""
    for pair in pairs:
        with contextlib.suppress(ProsmaError):  # to be said in the row
            if pair.labels.layer is not None:
                remember(pair.labels.layer)


def _same(a: Pair, b: Pair) -> bool:
    same = ((a.image, b.image), (a.labels, b.labels))
    return all(x.key == y.key if x.layers or y.layers else x.paths == y.paths for x, y in same)


class PairActions:
    """Actions on a list of pairs: add layers, files or folders; resample; reinterpret axes.

    Parameters
    ----------
    viewer : ViewerModel
    pairs : PairList
    jobs : Jobs
    say : callable
        Told what went wrong; with an empty text, that nothing did.
    tell : callable
        Told what is to be known, though nothing went wrong.
    """

    def __init__(
        self,
        viewer: ViewerModel,
        pairs: PairList,
        jobs: Jobs,
        say: Callable[[object], None],
        tell: Callable[[str], None],
    ) -> None:
        self._viewer, self._pairs, self._jobs, self._say, self._tell = viewer, pairs, jobs, say, tell

    def add_active(self) -> None:
        """Add the selected layers."""
        self._add(lambda: (active_pair(self._viewer),))

    def add_layers(self, image: Image, labels: Labels) -> None:
        """Add an image layer and its labels layer, for another widget; without a message where they are listed."""
        self._add(lambda: (Pair(layer_source(image), layer_source(labels)),), again=True)

    def add_files(self, images: Sequence[Path], labels: Sequence[Path]) -> None:
        """Add pairs of files."""
        self._add(lambda: pairs_from_files(images, labels))

    def add_folder(self, folder: Path) -> None:
        """Add all pairs of a data folder."""
        self._add(lambda: pairs_from_folder(folder))

    def resample(self, number: int, *, voxel_by_voxel: bool = False) -> None:
        """Put a pair's labels onto the grid of its image, as a new layer."""
        pair = self._pairs.pairs[number]

        def done(layer: Any) -> None:
            if pair in self._pairs.pairs:  # else taken out meanwhile, or the widget is gone
                self._viewer.add_layer(layer)
                self._pairs.replace(pair, replace(pair, labels=layer_source(layer)))

        def failed(error: Exception) -> None:
            if pair in self._pairs.pairs:
                self._say(error)

        self._jobs.run(lambda: resampled(pair, voxel_by_voxel=voxel_by_voxel), done, failed)

    def as_channels(self, number: int) -> None:
        """Take the time points of a pair's image layer for channels of one scan."""
        pair = self._pairs.pairs[number]
        layer = pair.image.layer
        axes = guess_axes(layer).replace("t", "c")
        self._pairs.replace(pair, replace(pair, image=layer_source(layer, axes)))

    def _add(self, find: Callable[[], Sequence[Pair]], *, again: bool = False) -> None:
        try:
            pairs = find()
        except ProsmaError as error:
            self._say(error)
            return
        self._say("")
        if not self._pairs.add(pairs) and not again:
            self._tell(f"{'This pair is' if len(pairs) == 1 else 'These pairs are'} in the list already.")
