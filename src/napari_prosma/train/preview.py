"""What the network in training makes of the scan in view, as a Labels layer that follows the epochs."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

from napari.layers import Image, Labels
from numpy.typing import NDArray

from napari_prosma.jobs.boundary import EngineJob
from napari_prosma.layers.results import add_layer_keep_selection, is_result, labels_layer
from napari_prosma.layers.scan import LayerScan, read
from napari_prosma.train.presenter import AbstractTrainView
from prosma_core.errors import ProsmaError
from prosma_core.printable import format_duration

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_prosma.train.pairs import Pair
    from napari_prosma.train.requests import Order

_LOG = logging.getLogger(__name__)

SMALL = 4_000_000
"""Voxels up to which a scan is shown unless the person says otherwise."""
SLOW = 0.25
"""Share of an epoch that a preview may take; one that takes longer is switched off."""


class Preview:
    """Shows the present prediction on the viewer's scan while a training wants it.

    Parameters
    ----------
    viewer : ViewerModel
    view : AbstractTrainView

    Attributes
    ----------
    epoch_seconds : float
        What the last epoch took; 0 while it is not known.
    """

    def __init__(self, viewer: ViewerModel, view: AbstractTrainView) -> None:
        self.epoch_seconds = 0.0
        self._viewer, self._view = viewer, view
        self._job: EngineJob | None = None
        self._layer: Image | None = None
        self._wanted: bool | None = None
        self._shown: Labels | None = None
        self._scan: LayerScan | None = None
        self._painted = False

    def choose(self, layer: Image | None) -> None:
        """The scan that would be shown; it is not changed while a training runs."""
        if self._job is None:
            self._layer = layer
            self._tell(self._default, "")

    def toggle(self, wanted: bool) -> None:
        """What the person wants from now on."""
        self._wanted = wanted
        self._tell(wanted, "")
        if wanted and self._shown is not None and self._shown not in self._viewer.layers:
            add_layer_keep_selection(self._viewer, self._shown)  # the person had deleted it
        if self._job is not None:
            self._ask(self._job)

    def clear(self, keep: Collection[Any] = ()) -> None:
        """Take the prediction of the training before out of the viewer, unless it was painted in or is to be kept."""
        if self._shown is not None and not self._painted and all(self._shown is not layer for layer in keep):
            self._remove()
        self.release()

    def release(self) -> None:
        """Leave the prediction of the training before to the viewer."""
        if self._shown is not None:
            self._shown.events.paint.disconnect(self._on_paint)
        self._shown, self._painted = None, False

    def begin(self, job: EngineJob) -> None:
        """A training has begun."""
        self._job = job
        self._tell(self._default, "")
        if self._default:
            self._ask(job)

    def take(self, array: NDArray[Any], order: Order) -> None:
        """An array in which predictions will appear."""
        if self._scan is None or not self._default:
            return
        notes = {"model": f"{order.name} (in training)"}
        self._remove()  # that of the scan that was handed over before
        self._shown = labels_layer(self._scan, array, order.classes, f"{self._scan.name} preview", notes)
        self._shown.editable = False  # the next epoch would paint over it
        add_layer_keep_selection(self._viewer, self._shown)

    def refresh(self, epoch: int, seconds: float) -> None:
        """A prediction is there."""
        if self._shown is None:
            return
        if self._shown not in self._viewer.layers:  # the person has deleted it
            self.toggle(False)
            return
        self._shown.refresh()  # with its thumbnail: once an epoch
        text = f"Epoch {epoch}, took {format_duration(seconds)}."
        if self._wanted is None and self.epoch_seconds and seconds > SLOW * self.epoch_seconds:
            self._wanted = False
            self._tell(False, f"{text} That holds up training: switched off.")
            if self._job is not None:
                self._job.preview(None)
        else:
            self._tell(self._default, text)

    def end(self) -> None:
        """The training is over; its last prediction stays until the next one begins."""
        self._job = None
        if self._shown is not None:
            self._shown.editable = True
            self._shown.events.paint.connect(self._on_paint)
        if self._wanted is False:
            self._wanted = None

    def _remove(self) -> None:
        if self._shown is not None and self._shown in self._viewer.layers:
            self._viewer.layers.remove(self._shown)

    def _on_paint(self, _event: Any) -> None:
        self._painted = True

    @property
    def _default(self) -> bool:
        """Whether it is on: as the person said, else where it is quick."""
        if self._layer is None:
            return False
        return self._wanted if self._wanted is not None else prod(self._layer.data.shape) <= SMALL

    def _ask(self, job: EngineJob) -> None:
        if not self._default or self._layer is None:
            job.preview(None)
            return
        try:
            self._scan = read(self._layer)
        except ProsmaError as error:
            self._tell(False, str(error))
            return
        job.preview(self._scan)

    def _tell(self, checked: bool, text: str) -> None:
        self._view.show_preview(checked=checked, enabled=self._layer is not None, text=text)


def scan_in_view(viewer: ViewerModel, pairs: Sequence[Pair]) -> Image | None:
    """The scan to show predictions on: the active image, else the first of the pairs, else the topmost image."""
    images = [viewer.layers.selection.active, *(pair.image.layer for pair in pairs), *reversed(viewer.layers)]
    channels = [layer for pair in pairs if pair.image.others for layer in pair.image.layers]  # no scans by themselves
    images = [layer for layer in images if layer not in channels]
    there = (layer for layer in images if isinstance(layer, Image) and layer in viewer.layers)
    return next((layer for layer in there if not is_result(layer)), None)
