"""Notes of this program come back from every format that has a place for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from prosma_core.data.geometry import array_spec
from prosma_core.io.images import LABEL_SUFFIXES, write_labels
from prosma_core.io.notes import made_by_model, read_notes

NOTES = {"program": "prosma 0", "model": 'CT/MR "liver" <b>&amp;', "model_sha256": "ab", "source": "a\u202eb ü"}


@pytest.mark.parametrize("suffix", LABEL_SUFFIXES)
def test_notes_come_back(suffix: str, tmp_path: Path) -> None:
    shape = (8, 9) if suffix == ".png" else (4, 8, 9)
    spec = array_spec(shape, "zyx"[-len(shape) :], (2.0,) * len(shape), "mm")
    path, plain = tmp_path / f"noted{suffix}", tmp_path / f"plain{suffix}"
    write_labels(path, np.ones(shape, np.uint8), spec, provenance=NOTES)
    write_labels(plain, np.ones(shape, np.uint8), spec)
    assert NOTES.items() <= read_notes(path).items()
    assert made_by_model(read_notes(path)) == NOTES["model"]
    assert not made_by_model(read_notes(plain))  # of a zarr: by which program it was written


@pytest.mark.parametrize("name", ["damaged.nii.gz", "damaged.tif", "damaged.png", "damaged.nrrd", "a.jpg", "a.txt"])
def test_what_holds_no_notes_has_none(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"program:=x\nII*\0 not an image")
    assert not made_by_model(read_notes(tmp_path / name))
