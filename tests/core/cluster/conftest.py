"""Scans for a cluster."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from prosma_core.data.geometry import array_spec
from prosma_core.io.images import write_image


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Return a folder with four pictures of noise."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "scans"
    folder.mkdir()
    for name in ("a.tif", "b.tif", "c.tif", "d.nii.gz"):
        write_image(
            folder / name, rng.normal(size=(20, 21)).astype(np.float32), array_spec((20, 21), "yx", (2, 2), "mm")
        )
    return folder
