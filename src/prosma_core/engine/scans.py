"""The scan behind a reference. No torch."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

from prosma_core.data.geometry import Scan
from prosma_core.engine.arrays import attach
from prosma_core.engine.messages import ScanRef
from prosma_core.errors import EngineError, GeometryError
from prosma_core.events import Event, Working
from prosma_core.io.images import read_image


def read_scan(ref: ScanRef | None) -> Generator[Event, None, Scan]:
    """The scan behind a reference.

    Raises
    ------
    EngineError, GeometryError
        There is none, the array is gone, or its geometry does not fit it.
    FileFormatError
        As in `prosma_core.io.images.read_image`.
    """
    if ref is None:
        msg = "The request names no scan. Choose one."
        raise EngineError(msg)
    if ref.file is not None:
        path = Path(ref.file)
        yield Working(f"Reading {path.name}.")
        scan = read_image(path, axes=ref.axes)
        data, spec = scan.data, scan.spec if ref.spec is None else ref.spec.spec()
    else:
        assert ref.array is not None
        assert ref.spec is not None
        data, spec = attach(ref.array), ref.spec.spec()
    if data.shape != spec.shape:
        msg = f"The scan has shape {data.shape}, its geometry {spec.shape} (axes {spec.axes}). Open it again."
        raise GeometryError(msg)
    return Scan(data, spec)
