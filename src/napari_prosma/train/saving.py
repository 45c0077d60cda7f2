"""Annotations are saved into the run folder every few minutes while a training runs: nothing painted is lost."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QTimer

from napari_prosma._shared.jobs import Jobs
from napari_prosma.train.handover import autosave
from napari_prosma.train.pair_list import REFRESHED
from napari_prosma.train.pairs import Pair
from prosma_core.io.run_folder import RunFolder

if TYPE_CHECKING:
    pass

EVERY = 120_000
"""Milliseconds between two looks at whether anything was painted."""
PAINTED = ("data", "paint", "labels_update", REFRESHED)


class Autosave:
    """Saves the labels layers of a training, as they are: now, while it runs and at its end.

    Layers that are taken out of the viewer or of the list of pairs meanwhile are saved, too.

    Parameters
    ----------
    run : RunFolder
    pairs : sequence of Pair
    jobs : Jobs
    say : callable
        Told what could not be saved, once for each reason.
    before : Autosave, optional
        That of the training before: the same pairs of the same run are saved to the same folder.

    Attributes
    ----------
    folder : Path
        ``annotations`` in the run folder, or ``annotations-2``, … beside what was saved of other layers.
    """

    def __init__(
        self,
        run: RunFolder,
        pairs: Sequence[Pair],
        jobs: Jobs,
        say: Callable[[object], None],
        before: Autosave | None = None,
    ) -> None:
        self._jobs, self._say, self._said = jobs, say, ""
        self._pairs = tuple(pairs)
        self.folder: Path
        self._one_by_one: threading.Lock
        if before is not None and before._pairs == self._pairs and before.folder.parent == run.root:
            self.folder, self._one_by_one = before.folder, before._one_by_one
        else:
            self.folder, self._one_by_one = _free_folder(run.root), threading.Lock()
        self._layers = list({id(p.labels.layer): p.labels.layer for p in pairs if p.labels.layer is not None}.values())
        self._unsaved, self._dropped = True, False
        for layer in self._layers:
            for name in _events(layer):
                layer.events[name].connect(self._painted)
        self._timer = QTimer()
        self._timer.setInterval(EVERY)
        self._timer.timeout.connect(self.save)
        self._timer.start()
        self.save()

    def save(self) -> None:
        """Save what was painted since the last time, in a thread."""
        if self._layers and self._unsaved:
            self._unsaved = False
            self._jobs.run(self._write, lambda _: None, self._failed, lasting=True)

    def end(self) -> None:
        """The training is over: save once more."""
        self.save()
        self._forget()

    def drop(self) -> None:
        """Save no more, and say nothing of what is being saved: the folder will go."""
        self._dropped = True
        self._forget()

    def wait(self) -> None:
        """Wait until nothing is being saved; not in the GUI thread."""
        with self._one_by_one:
            pass

    def _forget(self) -> None:
        self._timer.stop()
        for layer in self._layers:
            for name in _events(layer):
                layer.events[name].disconnect(self._painted)
        self._layers = []

    def _write(self) -> None:
        with self._one_by_one:  # what is read last is written last
            if not self._dropped:
                autosave(self._pairs, self.folder)

    def _painted(self, _event: Any) -> None:
        self._unsaved = True

    def _failed(self, error: Exception) -> None:
        self._unsaved = True  # to be tried again
        if str(error) != self._said and not self._dropped:
            self._said = str(error)
            self._say(error)


def _events(layer: Any) -> list[str]:
    return [name for name in PAINTED if name in layer.events]


def _free_folder(root: Path) -> Path:
    names = itertools.chain(["annotations"], (f"annotations-{n}" for n in itertools.count(2)))
    return next(root / name for name in names if not (root / name).exists())
