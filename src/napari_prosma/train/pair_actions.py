"""What a person does with the pairs: add layers, files and folders, and mend what does not fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_prosma._shared.jobs import Jobs
from napari_prosma._shared.layers import guess_axes
from napari_prosma.train.pair_list import PairList
from napari_prosma.train.pairs import Pair, active_pair, pairs_from_files, pairs_from_folder
from napari_prosma.train.resample import resampled
from napari_prosma.train.sources import layer_source
from prosma_core.errors import ProsmaError

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Labels


class PairActions:
    """Adds to a list of pairs.

    Parameters
    ----------
    viewer : ViewerModel
    pairs : PairList
    jobs : Jobs
    say : callable
        Told what went wrong; with an empty text, that nothing did.
    """

    def __init__(self, viewer: ViewerModel, pairs: PairList, jobs: Jobs, say: Callable[[object], None]) -> None:
        self._viewer, self._pairs, self._jobs, self._say = viewer, pairs, jobs, say

    def add_active(self) -> None:
        """Add the selected layers."""
        self._add(lambda: (active_pair(self._viewer),))

    def add_layers(self, image: Image, labels: Labels) -> None:
        """Add an image layer and its labels layer."""
        self._add(lambda: (Pair(layer_source(image), layer_source(labels)),))

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

    def _add(self, find: Callable[[], Sequence[Pair]]) -> None:
        try:
            pairs = find()
        except ProsmaError as error:
            self._say(error)
            return
        self._say("" if self._pairs.add(pairs) else "This pair is in the list already.")
