"""Annotations are saved into the run folder every few minutes while a training runs: nothing painted is lost."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from qtpy.QtCore import QTimer

from napari_prosma._shared.jobs import Jobs
from napari_prosma.train.handover import autosave
from napari_prosma.train.pair_list import PairList
from napari_prosma.train.pairs import Pair
from prosma_core.io.run_folder import RunFolder

_LOG = logging.getLogger(__name__)

EVERY = 120_000
"""Milliseconds between two looks at whether anything was painted."""


class Autosave:
    """Saves the labels layers of a training, as they are, to ``annotations`` in its run folder.

    Parameters
    ----------
    jobs : Jobs
    painted : PairList
        Says whether there is anything new.
    """

    def __init__(self, jobs: Jobs, painted: PairList) -> None:
        self._jobs, self._painted = jobs, painted
        self._pairs: Sequence[Pair] = ()
        self._folder: RunFolder | None = None
        self._timer = QTimer()
        self._timer.setInterval(EVERY)
        self._timer.timeout.connect(self.save)

    def begin(self, folder: RunFolder, pairs: Sequence[Pair]) -> None:
        """A training has begun: save now, and from now on."""
        self._folder, self._pairs = folder, tuple(pairs)
        self._painted.unsaved = True
        self.save()
        self._timer.start()

    def end(self) -> None:
        """The training is over: save once more."""
        self._timer.stop()
        self.save()
        self._folder, self._pairs = None, ()

    def save(self) -> None:
        """Save what was painted since the last time, in a thread."""
        folder, pairs = self._folder, self._pairs
        if folder is None or not pairs or not self._painted.unsaved:
            return
        self._painted.unsaved = False
        self._jobs.run(lambda: autosave(pairs, folder.root / "annotations"), lambda _: None, self._failed)

    def _failed(self, error: Exception) -> None:
        self._painted.unsaved = True  # to be tried again
        _LOG.warning("%s", error)
