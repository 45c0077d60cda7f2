"""What a model under training makes of a scan that a person watches. Imports torch."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from prosma_core.config.inference import InferenceConfig
from prosma_core.data.geometry import Scan
from prosma_core.engine.messages import ScanRef
from prosma_core.engine.scans import read_scan
from prosma_core.errors import ProsmaError
from prosma_core.events import Event, PreviewDone, StageStarted, TileDone, Working
from prosma_core.inference.results import Allocate
from prosma_core.inference.segment import Segmenter

Watched = Callable[[], ScanRef | None]
"""Gives the scan that is to be segmented after each validation, as things are now."""

CONFIG = InferenceConfig(overlap=0.25)

_LOG = logging.getLogger(__name__)


class Watcher:
    """Segments the watched scan time and again, into one array per scan.

    Parameters
    ----------
    watched : callable
    allocate : callable
        Gives the array of a scan's classes, named ``preview``.
    device : torch.device
    """

    def __init__(self, watched: Watched, allocate: Allocate, device: torch.device) -> None:
        self._watched, self._allocate, self._device = watched, allocate, device
        self._ref: ScanRef | None = None
        self._scan: Scan | None = None
        self._labels: NDArray[Any] | None = None
        self._refused: ScanRef | None = None

    def look(self, model: Path, epoch: int) -> Generator[Event, None, None]:
        """Segment the watched scan, if any, with a model file; what goes wrong is said once for each scan."""
        ref, began = self._watched(), time.monotonic()
        if ref != self._ref:
            self._ref, self._scan, self._labels = ref, None, None
        if ref is None or ref == self._refused:
            return
        try:
            if (yield from self._segment(ref, model, epoch)):
                yield PreviewDone(epoch, time.monotonic() - began)
        except Exception as error:  # noqa: BLE001  (whatever it is, the training is worth more than its preview)
            reason = str(error) if isinstance(error, ProsmaError) else f"{type(error).__name__}: {error}"
            _LOG.warning("The preview failed", exc_info=True)
            self._refused = ref
            yield StageStarted(f"There is no preview, and training goes on. {reason}")

    def _segment(self, ref: ScanRef, model: Path, epoch: int) -> Generator[Event, None, bool]:
        """Whether it came to its end: a scan that is not watched any more is left."""
        words = f"Preview of epoch {epoch}"
        yield Working(words)
        if self._scan is None:
            self._scan = yield from read_scan(ref)
        segmenter = Segmenter.load(model, self._device)
        for event in segmenter.segment(self._scan, CONFIG, allocate=self._array):
            if self._watched() != ref:
                return False
            if isinstance(event, TileDone):
                words = f"Preview of epoch {epoch}: tile {event.done} of {event.total}"
            yield Working(words)
        return True

    def _array(self, _: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        if self._labels is None:
            self._labels = self._allocate("preview", shape, dtype)
        return self._labels
