"""The picture of a result that fills block by block on the disk, of a scan that the engine takes for a large one."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from napari_prosma._sample_data import SAMPLES
from prosma_core.config.inference import InferenceConfig
from prosma_core.data.geometry import array_spec
from prosma_core.io.images import read_image, write_image

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
zarr_images._CHUNK = {"t": 1, "c": 1, "z": 16, "y": 96, "x": 80}
"""
"""Has the engine compute any scan in small blocks."""


def take_large(desk: Desk) -> None:
    """Segment, on four copies of an MRI of a fetal brain in a zarr: some blocks are done, others are computed."""
    from screenshots import choose, percent, settle, wait

    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        (Path(folder) / "sitecustomize.py").write_text(LITTLE_MEMORY, encoding="utf-8")
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH")])))
        patch.setattr("napari_prosma.layers.source.IN_CORE", 0)
        patch.setattr("napari_prosma._reader.SMALL", 0)
        patch.setattr("prosma_core.engine.client.ANSWER", 60.0)
        desk.session.jobs.unload()
        desk.viewer.window.resize(1440, 900)
        scan = read_image(SAMPLES / "fetal_brain_ga22.nii.gz")
        room = [
            ((n - size) // 2, n - size - (n - size) // 2) for n, size in zip((80, 96, 80), scan.data.shape, strict=True)
        ]
        data = np.tile(np.pad(scan.data, room), (1, 2, 2))
        spec = array_spec(data.shape, "zyx", scan.spec.spacing, "mm")
        path = Path(folder) / "brains.zarr"
        write_image(path, data, spec)
        desk.viewer.open(str(path), plugin="napari-prosma")
        widget = desk.segment()
        choose(desk, "fetal-brain-mri")
        widget.controller.choose_options(InferenceConfig(overlap=0.0))
        desk.viewer.dims.set_current_step(0, 39)
        desk.viewer.reset_view()
        widget.controller.start_or_cancel()
        wait(lambda: widget.progress_text().startswith("Segmenting") and percent(widget.progress_text()) >= 50, 900)
        settle(1.5)  # the blocks of these tiles are written
        engine = desk.session.jobs.pid
        assert engine is not None
        os.kill(engine, signal.SIGSTOP)  # the picture takes longer than the other blocks
        try:
            desk.picture("segment-large")
        finally:
            os.kill(engine, signal.SIGCONT)
        widget.controller.start_or_cancel()
        wait(lambda: widget.controller.run is None)
