"""Live training: labels that are painted while a training runs are written anew and handed to it. No Qt."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from napari_prosma.cleanup import run_all
from napari_prosma.jobs.boundary import EngineJob, Jobs
from napari_prosma.layers.viewport import on_change
from napari_prosma.train.autosave import PAINTED
from napari_prosma.train.export_pairs import Files, changed_folder, remove_files, write_changed
from napari_prosma.train.pairs import Pair
from napari_prosma.train.presenter import AbstractTrainView
from prosma_core.events import LabelsTaken

QUIET = 1000
"""Milliseconds without a stroke after which painted labels are handed over."""
Written = dict[int, tuple[Path, Path, bytes]]
"""By the number of a pair: its label file, the new one, and the hash of the labels in it."""
MOST = 3
"""Names that a line holds at most."""
OFF = "Labels were painted since the training began: tick Live to learn them."


class LiveLabels:
    """Hands the labels of a running training to it again when they were painted in.

    Nothing is asked of the viewer: a layer that is deleted or renamed meanwhile is what it was to its pair.

    Parameters
    ----------
    pairs : sequence of Pair
        In the order of `files`.
    files : callable
        Gives image and label file of each pair in the run folder, as soon as they are written; empty before.
    job : EngineJob
        The training.
    jobs : Jobs
    view : AbstractTrainView
    on : bool
        Whether labels are handed over; while they are not, it is only said that there are some.
    refused : str
        Why this training cannot learn them at all; empty where it can.

    Attributes
    ----------
    used : bool
        Whether labels were handed over.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        files: Callable[[], Files],
        job: EngineJob,
        jobs: Jobs,
        view: AbstractTrainView,
        *,
        on: bool,
        refused: str = "",
    ) -> None:
        self.used = False
        self._refused, self._off, on = refused, refused or OFF, on and not refused
        self._pairs, self._files, self._job, self._jobs, self._view = tuple(pairs), files, job, jobs, view
        self._on, self._busy, self._ended = on, False, False
        self._text = self._said = self._later = ""
        self._stale: set[int] = set()
        self._painted_in: set[int] = set()
        self._sent: dict[int, bytes] = {}
        self._numbers = itertools.count(1)
        self._timer = jobs.timer(self._hand_over)
        self._wires = [
            on_change(pair.labels.layer, PAINTED, functools.partial(self._painted, i))
            for i, pair in enumerate(self._pairs)
            if pair.labels.layer is not None
        ]
        self._show(refused)

    def switch(self, on: bool) -> None:
        """Hand labels over from now on, also those that were painted before; or none any more."""
        if self._refused:
            self._show(self._refused)
            return
        self._on = on
        if on and self._stale:
            self._timer.start(0)
        if self.used:
            self._job.learn({}, wait=on)
        self._show("")

    def listed(self, pairs: Sequence[Pair]) -> None:
        """Say which pairs of the list this training began without, whatever is painted in them."""
        known = {id(pair.labels.layer) for pair in self._pairs if pair.labels.layer is not None}
        scans = {pair.image.name for pair in self._pairs}  # a scan of a series that was closed meanwhile is a file now
        new = list(
            dict.fromkeys(
                pair.labels.name
                for pair in pairs
                if pair not in self._pairs
                and id(pair.labels.layer) not in known
                and (pair.labels.layer is not None or pair.image.name not in scans)
            )
        )
        more = f" and {len(new) - MOST} more" if len(new) > MOST else ""
        later = f"For the next training: {', '.join(new[:MOST])}{more}." if new else ""
        if later != self._later and not self._ended:
            self._later = later
            self._show(self._text)

    @property
    def painted(self) -> list[tuple[Pair, Path]]:
        """Pairs that were perhaps painted in since the training began, each with its label file in the run folder."""
        files = self._files()
        return [(self._pairs[i], files[i][1]) for i in sorted(self._painted_in) if i < len(files)]

    def taken(self, labels: LabelsTaken) -> None:
        """The training learns labels that were handed over."""
        self._show(f"Epoch {labels.epoch}: learns the new labels of {', '.join(labels.cases[:MOST])}.")

    def end(self) -> None:
        """The training is over, or the widget is gone."""
        self._ended, self._later = True, ""
        wires, self._wires = self._wires, []
        run_all(
            "Live training could not be ended", *wires, self._timer.stop, self._remove_untaken, lambda: self._show("")
        )

    def _remove_untaken(self) -> None:
        """Remove what the training was given last and did not take, as where its process was killed."""
        own = [label for pair, (_, label) in zip(self._pairs, self._files(), strict=False) if pair.labels.layer]
        if self.used and own:  # the files of a user stand in his own folder
            folder = changed_folder(own[0])
            self._jobs.run(lambda: remove_files([folder]), _nothing, _nothing)

    def _painted(self, number: int, _event: Any = None) -> None:
        self._stale.add(number)
        self._painted_in.add(number)
        self._timer.start(QUIET)

    def _hand_over(self) -> None:
        """Write what was painted, in a thread, and tell the training."""
        files = self._files()
        if self._ended or self._busy:
            return
        if not files:  # it is only about to begin
            self._timer.start(QUIET)
            return
        if not self._on and self._text == self._off:
            return
        self._busy, numbers = True, sorted(self._stale)
        self._stale.clear()
        prefix = next(self._numbers)
        chosen = [(i, self._pairs[i], files[i][1], self._sent.get(i)) for i in numbers]

        def write() -> Written:
            written = {i: write_changed(pair, label, before, prefix) for i, pair, label, before in chosen}
            return {i: found for i, found in written.items() if found is not None}

        self._jobs.run(write, self._written, functools.partial(self._failed, numbers), lasting=True)

    def _written(self, found: Written) -> None:
        self._busy = False
        told = bool(found) and not self._ended and self._tell(found)
        if told:
            self.used, self._said = True, ""
            self._sent |= {i: digest for i, (_, _, digest) in found.items()}
        elif found:
            self._stale |= set(found)
            self._jobs.run(lambda: remove_files([new for _, new, _ in found.values()]), _nothing, _nothing)
            if not self._on and not self._ended:
                self._show(self._off)
        if self._stale and self._on and not self._ended:
            self._timer.start(QUIET)

    def _tell(self, found: Written) -> bool:
        """Whether the training could be told: not while it is only being asked for."""
        return self._on and self._job.learn({label: new for label, new, _ in found.values()}, wait=True)

    def _failed(self, numbers: Sequence[int], error: Exception) -> None:
        self._busy = False
        self._stale |= set(numbers)  # tried again after the next stroke
        if str(error) != self._said and not self._ended:
            self._said = str(error)
            self._view.show_error(f"The labels are not learned as they are now. {error}", details=False)

    def _show(self, text: str) -> None:
        self._text = text
        self._view.show_live(checked=self._on, text=" ".join(filter(None, (text, self._later))))


def _nothing(_: object) -> None:
    """What is removed, or cannot be, changes nothing."""
