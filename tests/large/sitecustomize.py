"""An engine for which no scan that can be read by parts is small: `tests/e2e` puts this folder into its PYTHONPATH."""

from __future__ import annotations

from prosma_core.engine import on_disk
from prosma_core.inference import memory, segment, stored_results
from prosma_core.io import images, zarr_images
from prosma_core.training import reading

memory.IN_CORE = memory.WORKING = memory.KEPT = on_disk.WORKING = 0
memory.WORTH = 99.0
segment._CHUNK = 8
assert images.open_image.__kwdefaults__ is not None
images.open_image.__kwdefaults__["least"] = 0
stored_results.DEPTH = 8
zarr_images._CHUNK = {"t": 1, "c": 1, "z": 8, "y": 16, "x": 16}
reading.SHARE, reading.LEAST = 0.0, 0
