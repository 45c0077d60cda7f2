"""The picture of a result that fills block by block on the disk, of a scan that the engine takes for a large one."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from prosma_core.config.inference import InferenceConfig
from prosma_core.data.geometry import array_spec
from prosma_core.data.phantom import phantom_3d
from prosma_core.io.images import write_image

if TYPE_CHECKING:
    from screenshots import Desk

LITTLE_MEMORY = """
from prosma_core.engine import on_disk
from prosma_core.inference import memory, segment, stored_results
from prosma_core.io import images, zarr_images

memory.IN_CORE = memory.KEPT = 0
memory.WORKING = on_disk.WORKING = 64 << 20
memory.WORTH = 99.0
stored_results.DEPTH = 16
images.open_image.__kwdefaults__["least"] = 0
zarr_images._CHUNK = {"t": 1, "c": 1, "z": 16, "y": 80, "x": 80}
"""
"""Has the engine compute any scan in small blocks."""


def take_large(desk: Desk) -> None:
    """Segment, on eight phantoms in a zarr: the blocks that are done, while the others are computed."""
    from screenshots import choose, percent, wait

    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        (Path(folder) / "sitecustomize.py").write_text(LITTLE_MEMORY, encoding="utf-8")
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH")])))
        patch.setattr("napari_prosma.layers.source.IN_CORE", 0)
        patch.setattr("napari_prosma._reader.SMALL", 0)
        patch.setattr("prosma_core.engine.client.ANSWER", 60.0)
        desk.session.jobs.unload()
        desk.viewer.window.resize(1440, 900)
        scan, _ = phantom_3d(3)
        data = np.tile(scan.data, (2, 2, 2))
        spec = array_spec(data.shape, "zyx", scan.spec.spacing, "mm")
        path = Path(folder) / "phantom.zarr"
        write_image(path, data, spec)
        desk.viewer.open(str(path), plugin="napari-prosma")
        widget = desk.segment()
        choose(desk, "phantom-3d")
        widget.controller.choose_options(InferenceConfig(overlap=0.25))
        desk.viewer.dims.set_current_step(0, 12)
        desk.viewer.reset_view()
        widget.controller.start_or_cancel()
        wait(lambda: widget.progress_text().startswith("Segmenting") and percent(widget.progress_text()) >= 50, 900)
        engine = desk.session.jobs.pid
        assert engine is not None
        os.kill(engine, signal.SIGSTOP)  # the picture takes longer than the other blocks
        try:
            desk.picture("segment-large")
        finally:
            os.kill(engine, signal.SIGCONT)
        widget.controller.start_or_cancel()
        wait(lambda: widget.controller.run is None)
