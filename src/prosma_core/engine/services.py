"""What the engine does for a request: drains the core's generators, with results in shared arrays. Imports torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import prosma_core
from prosma_core.data.geometry import Scan
from prosma_core.engine import arrays
from prosma_core.engine.messages import ArrayRef, Ready, ScanRef, SegmentRequest, SegmentResult
from prosma_core.errors import DeviceError, EngineError, GeometryError
from prosma_core.events import Event, StageStarted
from prosma_core.inference.device import choose_device, name_memory_errors
from prosma_core.inference.segment import Segmenter
from prosma_core.io.images import read_image

Tell = Callable[[str, ArrayRef], None]


def ready() -> Ready:
    """What is here."""
    devices = {"auto": choose_device("auto").reason}
    for name in ("cpu", "cuda", "mps"):
        try:
            devices[name] = choose_device(name).reason
        except DeviceError:
            continue
    return Ready(version=prosma_core.__version__, torch=torch.__version__, devices=devices)


class Services:
    """Serves requests; keeps the model of the last one.

    Parameters
    ----------
    folders : sequence of Path
        Where result arrays are made.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = folders
        self._loaded: tuple[tuple[Any, ...], Segmenter] | None = None

    def run(self, request: SegmentRequest, tell: Tell) -> Generator[Event, None, SegmentResult]:
        """Serve a request; `tell` hears the name and reference of each result array when it is made."""
        with name_memory_errors():
            return (yield from self._segment(request, tell))

    def _segment(self, request: SegmentRequest, tell: Tell) -> Generator[Event, None, SegmentResult]:
        began = time.monotonic()
        choice = choose_device(request.device)
        segmenter = yield from self._segmenter(Path(request.model), choice.device)
        scan = read_scan(request.scan)

        def allocate(name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
            shared = arrays.create(self._folders, shape, dtype)
            tell(name, shared.ref)
            return shared.array

        result = yield from segmenter.segment(scan, request.config, allocate=allocate, preview=request.preview)
        labels = result.labels.data
        voxels = {c.name: int(np.count_nonzero(labels == c.value)) for c in segmenter.header.classes[1:]}
        return SegmentResult(voxels=voxels, seconds=time.monotonic() - began, device=choice.reason)

    def _segmenter(self, path: Path, device: torch.device) -> Generator[Event, None, Segmenter]:
        """The model, loaded unless the last request had the same file on the same device."""
        key: tuple[Any, ...] = (path, str(device))
        if path.is_file():  # otherwise loading says what is wrong
            key += (path.stat().st_mtime_ns, path.stat().st_size)
        if self._loaded is None or self._loaded[0] != key:
            yield StageStarted(f"Loading the model {path.stem}.")
            self._loaded = None  # two models at once may not fit
            self._loaded = (key, Segmenter.load(path, device))
        return self._loaded[1]


def read_scan(ref: ScanRef | None) -> Scan:
    """The scan behind a reference.

    Raises
    ------
    EngineError, GeometryError
        The array is gone, or its geometry does not fit it.
    FileFormatError
        As in `prosma_core.io.images.read_image`.
    """
    if ref is None:
        msg = "The request names no scan. Choose one."
        raise EngineError(msg)
    if ref.file is not None:
        scan = read_image(Path(ref.file), axes=ref.axes)
        if ref.spec is None:
            return scan
        data, spec = scan.data, ref.spec.spec()
    else:
        assert ref.array is not None
        assert ref.spec is not None
        data, spec = arrays.attach(ref.array), ref.spec.spec()
    if data.shape != spec.shape:
        msg = f"The scan has shape {data.shape}, its geometry {spec.shape}. Open it again."
        raise GeometryError(msg)
    return Scan(data, spec)
