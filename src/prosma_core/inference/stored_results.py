"""Segmentation of scans that are larger than memory: read by parts, written by parts into zarr folders."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from prosma_core.config.inference import InferenceConfig
from prosma_core.config.model import ModelHeader
from prosma_core.data.frames import frame_axes
from prosma_core.data.geometry import Box, ImageSpec, Scan, box_slices
from prosma_core.data.lazy import LazyArray, in_memory
from prosma_core.errors import DeviceError
from prosma_core.inference.device import free_memory, gib
from prosma_core.inference.memory import SHARE
from prosma_core.inference.results import StoredArray
from prosma_core.inference.segment import Segmenter
from prosma_core.io.atomic import made_dir
from prosma_core.io.images import check_output
from prosma_core.io.names import FORMATS, image_suffix
from prosma_core.io.zarr_images import create_zarr, zarr_chunks

DEPTH = 32
"""Planes of the chunks of other results: blocks of fewer planes take less memory."""
SLICE = 1024
"""Side of the chunks of results that are computed slice by slice."""


def is_zarr(path: Path) -> bool:
    """Whether a result of this name is written by parts."""
    return FORMATS.get(image_suffix(path).lower()) == "zarr"


def read_whole_if_it_fits(scan: Scan, segmenter: Segmenter, config: InferenceConfig, target: Path) -> tuple[Scan, bool]:
    """The scan in memory where that is planned to fit; and whether it is segmented by parts.

    Parameters
    ----------
    scan : Scan
        Of `open_image`.
    segmenter : Segmenter
    config : InferenceConfig
    target : Path
        Where its label map goes.

    Raises
    ------
    DeviceError
        The label map has to be in memory, as `target` is not written by parts, and does not fit.
    GeometryError, ChannelError
        As `Segmenter.segment`.
    """
    if not isinstance(scan.data, LazyArray):
        return scan, False
    if not segmenter.by_parts(scan, config):
        return Scan(in_memory(scan.data), scan.spec), False
    if not is_zarr(target) and config.region is None:
        labels = scan.spec.labels_spec()
        voxel = np.dtype(segmenter.header.label_dtype).itemsize + 4 * (
            len(segmenter.header.classes) * config.probabilities + config.entropy
        )
        needed, free = int(np.prod(labels.shape, dtype=np.int64)) * voxel, free_memory(torch.device("cpu"))
        if needed > free * SHARE:
            msg = (
                f"The result would take {gib(needed)} of memory ({gib(free)} are free), as {target.name} is written as "
                "a whole. Let --out end with .zarr, which is written by parts, or segment a part (--region)."
            )
            raise DeviceError(msg)
    return scan, True


class StoredResults:
    """Zarr folders that a segmentation fills part by part; each takes its place when all are whole.

    Used in a ``with`` statement; where it ends with an error, nothing is left behind.

    Parameters
    ----------
    targets : mapping of str to Path
        Where each result goes, by its name in `Segmentation`.
    spec : ImageSpec
        Of the scan.
    header : ModelHeader
    config : InferenceConfig
    notes : dict of str
        How the results are made.
    replaceable : collection of Path
        Targets that may be there already.
    """

    def __init__(
        self,
        targets: Mapping[str, Path],
        spec: ImageSpec,
        header: ModelHeader,
        config: InferenceConfig,
        notes: dict[str, str],
        replaceable: Collection[Path] = (),
    ) -> None:
        self._targets, self._spec, self._header = targets, spec, header
        self._config, self._notes, self._replaceable = config, notes, replaceable
        self._stack = ExitStack()

    def __enter__(self) -> StoredResults:
        """Nothing is made before it is asked for."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """The label map last: where it is, everything is."""
        self._stack.__exit__(kind, error, trace)

    def allocate(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> StoredArray:
        """Make the array of a result; see `Allocate`."""
        path = self._targets[name]
        check_output(path, overwrite=path in self._replaceable)
        folder = self._stack.enter_context(made_dir(path))
        spec = self._spec.labels_spec()
        if name == "probabilities":
            spec = spec.with_channels(tuple(c.name for c in self._header.classes))
        fill = self._header.classes[0].value if name == "labels" else 0
        chunks = self._chunks(spec)
        array = create_zarr(folder, dtype, spec, self._notes, chunks, fill)

        def put(box: Box, values: NDArray[Any]) -> None:
            array[box_slices(box)] = values

        def read(box: Box) -> NDArray[Any]:
            found: NDArray[Any] = array[box_slices(box)]
            return found

        return StoredArray(shape, dtype, chunks, put, LazyArray(shape, dtype, read, chunks))

    def _chunks(self, spec: ImageSpec) -> tuple[int, ...]:
        """Chunks that are each written at once: of slices where the model takes slices."""
        dims, along = self._header.model.dims, self._config.slice_axis
        if dims == spec.spatial_ndim == 3:
            chunks = zarr_chunks(spec)
            return tuple(min(DEPTH, n) if axis == "z" else n for axis, n in zip(spec.axes, chunks, strict=True))
        taken = frame_axes(spec, dims, along)
        sizes = zip(spec.axes, spec.shape, strict=True)
        return tuple(min(SLICE, size) if axis in taken else 1 for axis, size in sizes)
