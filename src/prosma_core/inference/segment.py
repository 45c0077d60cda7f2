"""Segmentation of one scan: a label map on the scan's own grid."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from prosma_core.config.inference import InferenceConfig
from prosma_core.config.model import ModelHeader
from prosma_core.data.frames import Frame, frames
from prosma_core.data.geometry import SPATIAL_AXES, Scan, box_shape
from prosma_core.data.intensities import check_varies
from prosma_core.errors import DeviceError
from prosma_core.events import Event, SlabDone, StageStarted, TileDone, Working, relay
from prosma_core.inference.device import memory_ended, name_memory_errors
from prosma_core.inference.grid_restore import RegionOfInterest
from prosma_core.inference.memory import format_plan, plan_memory
from prosma_core.inference.prepare import is_blank, network_image, plan_scan
from prosma_core.inference.results import Allocate, Results, Segmentation
from prosma_core.inference.tiled import TiledPredictor, wanted_tiles
from prosma_core.io.bundle import load_bundle
from prosma_core.model.unet import UNet
from prosma_core.model.weights import model_from
from prosma_core.printable import counted


@dataclass
class _Work:
    """One scan under way: `total` frames of `tiles` tiles each, of which `number` is computed now."""

    config: InferenceConfig
    part: RegionOfInterest
    results: Results
    device: torch.device
    total: int
    tiles: int
    preview: bool
    number: int = 0
    said: bool = False


class Segmenter:
    """A model, loaded once, for any number of scans.

    Parameters
    ----------
    header : ModelHeader
    model : UNet
        With the header's network.
    device : torch.device
        Where to compute; when its memory ends, the CPU takes over for the rest of that scan.
    """

    def __init__(self, header: ModelHeader, model: UNet, device: torch.device) -> None:
        self.header = header
        self.model = model.to(device).eval()
        self.device = device

    @classmethod
    def load(cls, path: Path, device: torch.device) -> Segmenter:
        """Segmenter from a model file; raises `ModelFileError` as `load_bundle` does."""
        header, weights = load_bundle(path)
        return cls(header, model_from(header.model, weights), device)

    def segment(
        self, scan: Scan, config: InferenceConfig, *, allocate: Allocate | None = None, preview: bool = False
    ) -> Generator[Event, None, Segmentation]:
        """Segment a scan; yields at least once per tile batch, and may be closed there.

        Parameters
        ----------
        scan : Scan
            Any grid, orientation and dtype; several frames and slices are done one by one.
        config : InferenceConfig
        allocate : callable, optional
            Gives the arrays that the results are written into, see `Allocate`; new arrays otherwise.
        preview : bool
            Put classes into the label map while it is computed, and yield a `SlabDone` for each box that has some.
            At the end the same array holds the final classes.

        Raises
        ------
        GeometryError, ChannelError, IntensityError
            The scan does not fit the model or the region, or cannot be computed with.
        DeviceError
            Memory does not suffice, even on the CPU.
        """
        with name_memory_errors():
            return (yield from self._segment(scan, config, allocate, preview))

    def _segment(
        self, scan: Scan, config: InferenceConfig, allocate: Allocate | None, preview: bool
    ) -> Generator[Event, None, Segmentation]:
        plan = plan_scan(scan, self.header, config.region, config.slice_axis)
        scan, part, total, whole = plan.scan, plan.part, plan.frames, plan.whole
        if plan.note:
            yield StageStarted(plan.note)
        tiles, every = wanted_tiles(part.grid.shape, self.header.preprocess.tile, config.overlap, part.network)
        for sentence in format_plan(
            scan.spec, self.header, config, part.grid, frames=(total, whole), tiles=(len(tiles), every)
        ):
            yield StageStarted(sentence)
        results = Results(self.header, config, scan.spec.labels_spec(), part, allocate)
        work = _Work(config, part, results, self.device, total, len(tiles), preview)
        blank = 0
        for work.number, frame in enumerate(frames(scan, self.header.model.dims, config.slice_axis, plan.region)):
            if whole > 1 and is_blank(frame):
                blank += 1
                done = results.put_blank(frame)
            else:
                done = yield from self._frame(frame, work)
            if preview:
                yield done
        if blank == total:
            check_varies(np.asarray(scan.data))
        if blank:
            yield StageStarted(
                f"Left as background, as they have one value everywhere: {blank} of {counted(total, 'frame')}."
            )
        results.clean(plan.region, config)
        if config.objects:
            yield Working("Numbering objects")
            yield StageStarted(results.separate(plan.region))
        return results.segmentation()

    def _frame(self, frame: Frame, work: _Work) -> Generator[Event, None, SlabDone]:
        logits = yield from self._frame_logits(frame, work)
        try:
            return work.results.put(frame, logits)
        except RuntimeError as error:
            if logits.device.type == "cpu" or not memory_ended(error):
                raise
        yield StageStarted(f"Memory of {logits.device.type} does not suffice: finishing on the CPU.")
        return work.results.put(frame, logits.cpu())

    def _frame_logits(self, frame: Frame, work: _Work) -> Generator[Event, None, Tensor]:
        image, note = network_image(frame, work.part.grid, self.header.preprocess)
        if note and not work.said:
            yield StageStarted(f"For the model, {note}.")
        try:
            return (yield from self._predict(image, frame, work))
        except (DeviceError, RuntimeError, MemoryError) as error:
            if work.device.type == "cpu" or not (isinstance(error, DeviceError) or memory_ended(error)):
                raise
        yield StageStarted(f"Memory of {work.device.type} does not suffice: continuing on the CPU, which takes longer.")
        work.device, work.said = torch.device("cpu"), False
        self.model.to(work.device)
        torch.cuda.empty_cache()
        return (yield from self._predict(image, frame, work))

    def _predict(self, image: Tensor, frame: Frame, work: _Work) -> Generator[Event, None, Tensor]:
        config, tile, box = work.config, self.header.preprocess.tile, work.part.network
        plan = plan_memory(
            self.header.model,
            tile,
            box_shape(box),
            box_shape(work.part.oriented),
            work.device,
            tiles=work.tiles,
            all_classes=config.probabilities or config.entropy,
            threshold=config.threshold is not None,
            batch_size=config.batch_size,
        )
        if not work.said:
            yield StageStarted(f"Segmenting: {plan.words}.")
            work.said = True
        axes = SPATIAL_AXES[-len(tile) :]
        mirror = [axes.index(a) for a in self.header.mirror_axes] if config.mirror else []
        model = self.model.to(work.device)  # it is on the CPU where the scan before was too large
        predictor = TiledPredictor(
            model, tile, work.device, overlap=config.overlap, mirror=mirror, batch_size=plan.batch_size
        )
        shown: list[SlabDone | None] = []

        def show(first: int, sums: Tensor, weights: Tensor) -> None:
            shown.append(work.results.put_planes(frame, first, sums, weights))

        def change(event: Event) -> Iterator[Event]:
            if isinstance(event, TileDone):
                event = TileDone(work.number * work.tiles + event.done, work.total * work.tiles)
            yield event
            yield from (slab for slab in shown if slab is not None)
            shown.clear()

        run = predictor.predict(image, plan.sums_on, box, show if work.preview else None)
        return (yield from relay(run, change))
