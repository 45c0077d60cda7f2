"""A scan in, a label map on the scan's own grid out."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prosma_core.config.header import ModelHeader
from prosma_core.config.inference import InferenceConfig
from prosma_core.data.frames import Frame, count_frames, frame_spec, frames, time_as_channels, time_means_channels
from prosma_core.data.geometry import SPATIAL_AXES, Scan
from prosma_core.data.grid import NetworkGrid, plan_grid
from prosma_core.data.intensities import check_channels, check_finite, check_varies, fit_channels, normalise
from prosma_core.data.resample import resize
from prosma_core.data.tiles import padding_to, plan_tiles
from prosma_core.errors import DeviceError
from prosma_core.events import Event, StageStarted, TileDone
from prosma_core.inference.device import memory_ended, name_memory_errors
from prosma_core.inference.memory import plan_memory
from prosma_core.inference.postprocess import fill_holes, keep_largest
from prosma_core.inference.results import Allocate, Extras, Segmentation, argmax_on
from prosma_core.inference.tiled import TiledPredictor
from prosma_core.io.bundle import load_bundle
from prosma_core.model.unet import UNet
from prosma_core.model.weights import model_from


@dataclass
class _Work:
    """One scan under way."""

    config: InferenceConfig
    grid: NetworkGrid
    device: torch.device
    total: int
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
            The scan does not fit the model or cannot be computed with.
        DeviceError
            Memory does not suffice, even on the CPU.
        """
        with name_memory_errors():
            return (yield from self._segment(scan, config))

    def _segment(self, scan: Scan, config: InferenceConfig) -> Generator[Event, None, Segmentation]:
        dims, channels = self.header.model.dims, self.header.preprocess.channels
        if time_means_channels(scan.spec, channels):
            scan = time_as_channels(scan, len(channels))
            yield StageStarted(f"The fourth axis is read as the model's {len(channels)} channels.")
        check_channels(scan, channels)
        spec = scan.spec.labels_spec()
        grid = plan_grid(frame_spec(scan.spec, dims), self.header.preprocess)
        work = _Work(config, grid, self.device, count_frames(scan.spec, dims))
        yield from self._say_plan(scan, work)
        values = np.array([c.value for c in self.header.classes], np.uint8 if self._max_value < 256 else np.uint16)
        indices = np.zeros(spec.shape, values.dtype)
        extras = Extras(config, spec.shape, "t" in spec.axes, self.header.model.num_classes)
        blank = 0
        for work.number, frame in enumerate(frames(scan, dims)):
            if work.total > 1 and _is_blank(frame):
                blank += 1
                extras.put_blank(frame)
                continue
            logits = yield from self._frame_logits(frame, work)
            try:
                indices[frame.index] = grid.restore(argmax_on(logits, grid.oriented, grid.thick))
                extras.put(frame, logits, grid)
            except RuntimeError as error:
                if logits.device.type == "cpu" or not memory_ended(error):
                    raise
                yield StageStarted(f"Memory of {logits.device.type} does not suffice: finishing on the CPU.")
                logits = logits.cpu()
                indices[frame.index] = grid.restore(argmax_on(logits, grid.oriented, grid.thick))
                extras.put(frame, logits, grid)
            del logits
        if blank == work.total:
            check_varies(np.asarray(scan.data))
        if blank:
            yield StageStarted(f"{blank} of {work.total} frames have one value everywhere and were left as background.")
        for index in np.ndindex(spec.shape[: spec.axes.index(spec.spatial_axes[0])]):
            indices[index] = self._clean(indices[index], config)
        labels = Scan(values[indices], spec)
        return Segmentation(labels, *extras.scans(spec, tuple(c.name for c in self.header.classes)))

    @property
    def _max_value(self) -> int:
        return max(c.value for c in self.header.classes)

    def _say_plan(self, scan: Scan, work: _Work) -> Generator[Event, None, None]:
        grid, total = work.grid, work.total
        shape = "x".join(map(str, scan.spec.spatial_shape))
        what = f"{total} frames of the scan" if total > 1 else "The scan"
        if grid.shape != grid.oriented:
            target = "x".join(map(str, grid.shape))
            yield StageStarted(f"{what} ({shape}) will be resampled for the model to {target}.")
        if grid.order != tuple(sorted(grid.order)) or grid.flips:
            yield StageStarted(
                f"{what} will be turned from {scan.spec.orientation} to {self.header.preprocess.orientation}."
            )
        if work.config.mirror and not self.header.mirror_axes:
            yield StageStarted("The model's training mirrored no axis: mirroring is left out.")

    def _frame_logits(self, frame: Frame, work: _Work) -> Generator[Event, None, Tensor]:
        pre, grid = self.header.preprocess, work.grid
        check_finite(frame.image)
        image, note = fit_channels(frame.image, len(pre.channels))
        if note and not work.said:
            yield StageStarted(f"For the model, {note}.")
        image = normalise(np.ascontiguousarray(grid.orient(image)), pre.intensities)
        tensor = resize(torch.from_numpy(image), grid.shape, grid.thick)
        try:
            return (yield from self._predict(tensor, work))
        except (DeviceError, RuntimeError, MemoryError) as error:
            if work.device.type == "cpu" or not (isinstance(error, DeviceError) or memory_ended(error)):
                raise
        yield StageStarted(f"Memory of {work.device.type} does not suffice: going on with the CPU, which takes longer.")
        work.device, work.said = torch.device("cpu"), False
        self.model.to(work.device)
        torch.cuda.empty_cache()
        return (yield from self._predict(tensor, work))

    def _predict(self, image: Tensor, work: _Work) -> Generator[Event, None, Tensor]:
        grid, config, tile = work.grid, work.config, self.header.preprocess.tile
        padded = tuple(n + sum(p) for n, p in zip(grid.shape, padding_to(grid.shape, tile), strict=True))
        tiles = len(plan_tiles(padded, tile, config.overlap))
        plan = plan_memory(
            self.header.model,
            tile,
            padded,
            grid.oriented,
            work.device,
            tiles=tiles,
            all_classes=config.probabilities or config.entropy,
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
        run = predictor.predict(image, plan.sums_on)
        while True:
            try:
                event = next(run)
            except StopIteration as stop:
                logits: Tensor = stop.value
                return logits
            if isinstance(event, TileDone):
                event = TileDone(work.number * tiles + event.done, work.total * tiles)
            yield event

    def _clean(self, indices: NDArray[Any], config: InferenceConfig) -> NDArray[Any]:
        if config.keep_largest:
            indices = keep_largest(indices, self.header.model.num_classes)
        return fill_holes(indices) if config.fill_holes else indices


def _is_blank(frame: Frame) -> bool:
    low = float(frame.image.min())
    return isfinite(low) and low == float(frame.image.max())
