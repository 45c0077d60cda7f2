"""Autosave of annotations: each minute where they were painted in, and when the program ends."""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import os
import signal
import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from napari_prosma.cleanup import run_all
from napari_prosma.jobs.boundary import Jobs, at_the_end, finish_lasting
from napari_prosma.layers.viewport import REFRESHED, on_change
from napari_prosma.train.export_pairs import autosave
from napari_prosma.train.pairs import Pair
from prosma_core.runs.run_folder import RunFolder

_LOG = logging.getLogger(__name__)

EVERY = 60_000
"""Milliseconds between two checks whether anything was painted."""
PULSE = 500
"""Milliseconds between two moments at which Python runs, and so sees a signal, while Qt waits for events."""
PAINTED = ("data", "paint", "labels_update", "metadata", REFRESHED, "visible")
"""Events of a labels layer after which it may hold something else (a hidden one tells of no refresh)."""


class Saving:
    """Saves labels layers as they are: each minute where they were painted in, and when the program ends.

    Layers that are taken out of the viewer meanwhile are saved, too.

    Parameters
    ----------
    layers : sequence of napari.layers.Labels
    write : callable
        Writes them, in any thread; raises `OutputError`.
    folder : Path
        Where, for the log.
    jobs : Jobs
    say : callable
        Told what could not be saved, once for each reason.
    one_by_one : Lock, optional
        That of another who writes the same files.
    unsaved : bool
        Whether they are to be saved as they are now.

    Attributes
    ----------
    folder : Path
    unsaved : bool
        Whether there is anything to save.
    """

    def __init__(
        self,
        layers: Sequence[Any],
        write: Callable[[], object],
        folder: Path,
        jobs: Jobs,
        say: Callable[[object], None],
        one_by_one: threading.Lock | None = None,
        *,
        unsaved: bool = True,
    ) -> None:
        self._jobs, self._say, self._said = jobs, say, ""
        self.folder, self._save_layers = folder, write
        self._one_by_one = one_by_one or threading.Lock()
        self._layers = list(layers)
        self.unsaved, self._dropped = unsaved, False
        self._writing, self._ended = 0, False
        self._wires = [on_change(layer, PAINTED, self._painted) for layer in self._layers]
        self._timer, self._pulse = jobs.timer(self.save, repeat=True), jobs.timer(lambda: None, repeat=True)
        self._timer.start(EVERY)
        self._pulse.start(PULSE)
        _open.add(self)
        _save_at_the_end()
        self.save()

    def save(self) -> None:
        """Save what was painted since the last time, in a thread."""
        if self._layers and self.unsaved:
            self.unsaved = False
            self._writing += 1
            self._jobs.run(self._write, lambda _: self._written(), self._failed, lasting=True)

    def save_now(self) -> None:
        """Save what was painted since the last time, at once.

        Raises
        ------
        OutputError
            A layer could not be saved.
        """
        if self._layers and self.unsaved:
            self.unsaved = False
            try:
                self._write()
            except BaseException:
                self.unsaved = True  # to be tried again
                raise

    def end(self) -> None:
        """Save once more, and stop as soon as that has succeeded; until then it is tried again."""
        self._ended = True
        _ending.add(self)
        wires, self._wires = self._wires, []
        run_all("Layers could not be left", *wires)
        self.save()
        self._leave_saved()

    def leave(self) -> None:
        """Stop saving."""
        _ending.discard(self)
        wires, self._wires, self._layers = self._wires, [], []
        run_all("The saving of annotations could not be ended", *wires, self._timer.stop, self._pulse.stop)

    def drop(self) -> None:
        """Stop saving, without reporting errors: the folder will be removed."""
        self._dropped = True
        self.leave()

    def wait(self) -> None:
        """Wait until nothing is being saved; not in the GUI thread."""
        with self._one_by_one:
            pass

    def _write(self) -> None:
        with self._one_by_one:  # what is read last is written last
            if not self._dropped:
                self._save_layers()

    def _painted(self, _event: Any) -> None:
        self.unsaved = True

    def _written(self) -> None:
        self._writing -= 1
        self._leave_saved()

    def _leave_saved(self) -> None:
        """Stop where the end was asked for and everything is saved."""
        if self._ended and not self._writing and not (self.unsaved and self._layers):
            self.leave()

    def _failed(self, error: Exception) -> None:
        self._writing -= 1
        self.unsaved = True  # to be tried again
        if str(error) != self._said and not self._dropped:
            self._said = str(error)
            self._say(error)


class Autosave(Saving):
    """Saves the labels layers of a training: now, while it runs and at its end.

    Layers that are taken out of the viewer or of the list of pairs meanwhile are saved, too.

    Parameters
    ----------
    run : RunFolder
    pairs : sequence of Pair
    jobs : Jobs
    say : callable
        As of `Saving`.
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
        self._pairs = tuple(pairs)
        again = before is not None and before._pairs == self._pairs and before.folder.parent == run.root
        folder = before.folder if again and before is not None else _free_folder(run.root)
        lock = before._one_by_one if again and before is not None else None
        if again and before is not None:
            before.leave()  # what it could not save is saved now
        layers = {id(p.labels.layer): p.labels.layer for p in pairs if p.labels.layer is not None}
        super().__init__(tuple(layers.values()), self._save_pairs, folder, jobs, say, lock)

    def _save_pairs(self) -> None:
        autosave(self._pairs, self.folder)


_open: weakref.WeakSet[Saving] = weakref.WeakSet()
"""Those that have something to save, perhaps."""
_ending: set[Saving] = set()
"""Those that nobody else may hold any more, and whose last save has not succeeded yet."""
_saving: list[bool] = []
"""Not empty while `save_all` is at work."""


def save_all() -> None:
    """Save now what is painted and not saved; what cannot be saved is logged."""
    _saving.append(True)
    finish_lasting()
    for saving in list(_open):
        try:
            saving.save_now()
        except Exception:  # noqa: BLE001  (the others are to be saved, and the program is to end)
            _LOG.exception("What is painted could not be saved in %s", saving.folder)
    _saving.clear()


@functools.cache
def _save_at_the_end() -> None:
    """Let `save_all` be called however the program ends, by itself or by a signal, apart from a kill."""
    at_the_end(save_all)
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:  # whoever has a handler keeps it
            with contextlib.suppress(ValueError):  # not in the main thread
                signal.signal(number, _save_and_end)


def _save_and_end(number: int, _frame: object) -> None:
    if _saving:  # it ends already, as soon as everything is saved
        return
    save_all()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _free_folder(root: Path) -> Path:
    names = itertools.chain(["annotations"], (f"annotations-{n}" for n in itertools.count(2)))
    return next(root / name for name in names if not (root / name).exists())
