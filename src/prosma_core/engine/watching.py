"""The scan that is segmented while a model is trained. Imports torch."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from math import prod
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray

from prosma_core.config.inference import InferenceConfig
from prosma_core.data.frames import slice_axis
from prosma_core.data.geometry import Scan
from prosma_core.engine.messages import ScanRef
from prosma_core.errors import ProsmaError
from prosma_core.events import (
    EpochDone,
    Event,
    InterimDone,
    LabelsTaken,
    PreviewDone,
    SlicesUnsure,
    StageStarted,
    StepDone,
    TileDone,
    Working,
)
from prosma_core.inference.next_slice import ENTROPY, entropy_by_slice
from prosma_core.inference.results import Allocate, Segmentation
from prosma_core.inference.segment import Segmenter
from prosma_core.model.unet import UNet
from prosma_core.training.live import PAUSED, LiveInput, PreviewClock

ReadScan = Callable[[ScanRef], Generator[Event, None, Scan]]
Watched = Callable[[], ScanRef | None]
"""Gives the scan that is to be segmented after each validation, as things are now."""

PREVIEW_CONFIG = InferenceConfig(overlap=0.25)
MOST_UNSURE = 2**24
"""Voxels of a preview up to which the entropy of its slices is computed, too."""
UNSURE_SHARE = 20
"""How many times what that took passes until it is computed again."""

_LOG = logging.getLogger(__name__)


class Watcher:
    """Segments the preview scan after each validation, into one array per scan.

    Parameters
    ----------
    watched : callable
    allocate : callable
        Gives the array of a scan's classes, named ``preview``.
    device : torch.device
    read : callable
        Reads the scan behind a reference.
    """

    def __init__(self, watched: Watched, allocate: Allocate, device: torch.device, read: ReadScan) -> None:
        self._watched, self._allocate, self._device, self._read = watched, allocate, device, read
        self._ref: ScanRef | None = None
        self._scan: Scan | None = None
        self._labels: NDArray[Any] | None = None
        self._refused: ScanRef | None = None
        self._took = self._ended = self._unsure_from = 0.0

    @property
    def has_new(self) -> bool:
        """Whether a scan is watched that was not segmented yet."""
        ref = self._watched()
        return ref is not None and ref != self._ref

    @property
    def rests(self) -> bool:
        """Whether another preview of this scan, so soon after the last, would hold up the training."""
        return not self.has_new and time.monotonic() < self._ended + PreviewClock.SHARE * self._took

    def segment_preview(
        self, model: Path | Segmenter, epoch: int, mean_dice: float | None = None, dice_on: str = ""
    ) -> Generator[Event, None, ScanRef | None]:
        """Segment the watched scan, if any, with a model, or its file; an error is reported once for each scan.

        Returns
        -------
        ScanRef or None
            The scan that was segmented, or that cannot be; None where none is watched, or another one is by now.
        """
        ref, began = self._watched(), time.monotonic()
        if ref != self._ref:
            self._ref, self._scan, self._labels = ref, None, None
        if ref is None or ref == self._refused:
            return ref
        words = f"Preview of epoch {epoch}"
        yield Working(words)
        try:
            if self._scan is None:
                self._scan = yield from self._read(ref)
            segmenter = model if isinstance(model, Segmenter) else Segmenter.load(model, self._device)
            if (yield from self._segment(ref, segmenter, PREVIEW_CONFIG, words, self._array)) is None:
                return None
            self._took, self._ended = time.monotonic() - began, time.monotonic()
            yield PreviewDone(epoch, self._took, mean_dice, dice_on, isinstance(model, Segmenter))
            yield from self._slices(ref, segmenter, epoch)
        except Exception as error:  # noqa: BLE001  (whatever it is, the training is worth more than its preview)
            reason = str(error) if isinstance(error, ProsmaError) else f"{type(error).__name__}: {error}"
            _LOG.warning("The preview failed", exc_info=True)
            self._refused = ref
            yield StageStarted(f"There is no preview, and training continues. {reason}")
        return ref

    def _segment(
        self, ref: ScanRef, segmenter: Segmenter, config: InferenceConfig, words: str, allocate: Allocate | None
    ) -> Generator[Event, None, Segmentation | None]:
        """The scan's segmentation; None where it is not watched any more, and is left."""
        assert self._scan is not None
        with closing(segmenter.segment(self._scan, config, allocate=allocate)) as work:
            while True:
                try:
                    event = next(work)
                except StopIteration as stop:
                    found: Segmentation = stop.value
                    return found
                if self._watched() != ref:
                    return None
                if isinstance(event, TileDone):
                    yield Working(f"{words}: {100 * event.done // event.total} %")
                else:
                    yield Working(words)

    def _slices(self, ref: ScanRef, segmenter: Segmenter, epoch: int) -> Generator[Event, None, None]:
        """Say how unsure the model is of each slice, as long as that takes a small share of the time."""
        began = time.monotonic()
        assert self._scan is not None
        spec = self._scan.spec.labels_spec()
        if began < self._unsure_from or prod(spec.shape) > MOST_UNSURE:
            return
        found = yield from self._segment(ref, segmenter, ENTROPY, f"Uncertainty of epoch {epoch}", None)
        if found is not None:
            axis = spec.spatial_axes[slice_axis(spec)] if spec.spatial_ndim == 3 else ""
            rows = entropy_by_slice(found, segmenter.header, axis)
            yield SlicesUnsure(axis, tuple(map(tuple, rows.reshape(-1, rows.shape[-1]).tolist())))
        self._unsure_from = time.monotonic() + UNSURE_SHARE * (time.monotonic() - began)

    def _array(self, _: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        if self._labels is None:
            self._labels = self._allocate("preview", shape, dtype)
        return self._labels


class Input(LiveInput, Protocol):
    """What reaches a job while it runs."""

    @property
    def watched(self) -> Watched:
        """The scan to segment while a model is trained."""


class Previews:
    """When the watched scan is segmented: after a validation, by the light model before that, and at a pause.

    A scan that is watched from the middle of an epoch on is segmented at the next step, by the last model.

    Parameters
    ----------
    watcher : Watcher
    live : Input
    last : Path
        Where the model of the last validation is.
    device : torch.device
    """

    def __init__(self, watcher: Watcher, live: Input, last: Path, device: torch.device) -> None:
        self._watcher, self._live, self._file, self._device = watcher, live, last, device
        self._last: EpochDone | None = None
        self._shown: tuple[ScanRef | None, int] | None = None
        self._new = False

    def follow(self, event: Event) -> Iterator[Event]:
        """An event of the training, and those of the preview that is due after it."""
        yield event
        if isinstance(event, LabelsTaken):
            self._new = True
        elif event == Working(PAUSED):
            yield from self._at_pause()
        elif isinstance(event, StepDone) and self._watcher.has_new:
            if self._last is not None and self._is_ahead(self._last):
                yield from self._show_last(self._last)
        elif isinstance(event, InterimDone):
            yield from self._within_epoch(event)
        elif isinstance(event, EpochDone) and event.dice is not None:
            self._last = event
            last = event.seconds_left == 0 and not self._live.waits  # it stays in view
            if (last or self._new or not self._watcher.rests) and self._is_ahead(event):
                yield from self._show_last(event)

    def _is_ahead(self, event: EpochDone | InterimDone) -> bool:
        """Whether the network answers, not the light model."""
        return self._live.answer is None or self._live.answer.is_behind(event.mean_dice)

    def _within_epoch(self, event: InterimDone) -> Iterator[Event]:
        model: Path | Segmenter = Path(event.model)
        if not event.model and self._live.answer is not None:
            model = Segmenter(self._live.answer.header, cast("UNet", self._live.answer.model), self._device)
        elif self._is_ahead(event):
            self._live.answer = None
        else:
            return
        self._new, self._shown = False, None
        yield from self._watcher.segment_preview(model, event.epoch, event.mean_dice, event.dice_on)

    def _at_pause(self) -> Iterator[Event]:
        """While the training waits, the scan that is watched has the classes of its last epoch; new labels go first."""
        ref = self._live.watched()
        if self._last is None or ref is None or self._shown == (ref, self._last.epoch):
            return
        with closing(self._show_last(self._last)) as work:
            for event in work:
                yield event
                if self._live.pending:
                    return

    def _show_last(self, event: EpochDone) -> Generator[Event, None, None]:
        self._new, self._live.answer = False, None
        ref = yield from self._watcher.segment_preview(self._file, event.epoch, event.mean_dice, event.dice_on)
        self._shown = (ref, event.epoch)
