"""A change of the files that hold a box of a zarr array is told without reading them."""

from __future__ import annotations

import os
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from prosma_core.io.file_states import chunks_state, file_state
from prosma_core.io.zarr_images import open_zarr

BOX = ((0, 1), (0, 8), (0, 8))
LAYOUTS: dict[str, dict[str, Any]] = {
    "v2": {"zarr_format": 2},
    "v2 nested": {"zarr_format": 2, "chunk_key_encoding": {"name": "v2", "separator": "/"}},
    "v3": {},
    "v3 shards": {"shards": (4, 8, 8)},
}


def age(path: Path, by: float = 60) -> None:
    for file in [path, *path.rglob("*")]:
        os.utime(file, (time.time() - by,) * 2)


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_files_of_a_box_tell_its_changes_and_no_others(name: str, tmp_path: Path) -> None:
    group = zarr.open_group(str(tmp_path), mode="w", zarr_format=LAYOUTS[name].get("zarr_format", 3))
    array = group.create_array(
        "a/b",
        shape=(8, 16, 16),
        chunks=(2, 4, 4),
        dtype="u2",
        **{k: v for k, v in LAYOUTS[name].items() if k != "zarr_format"},
    )
    array[...] = 1
    assert chunks_state(array, BOX) is None  # changed just now
    age(tmp_path)
    before = chunks_state(array, BOX)
    assert before is not None
    array[:, 8:] = 2
    assert chunks_state(array, BOX) == before
    array[0, 0, 0] = 2
    age(tmp_path)
    assert chunks_state(array, BOX) not in {None, before}


def test_a_chunk_that_comes_is_a_change(tmp_path: Path) -> None:
    array = zarr.create_array(str(tmp_path / "a"), shape=(8, 16, 16), chunks=(2, 4, 4), dtype="u2")
    before = chunks_state(array, BOX)
    assert before is not None
    array[0, 0, 0] = 1
    age(tmp_path)
    assert chunks_state(array, BOX) not in {None, before}


def test_in_a_zip_file_it_is_that_file_and_of_another_store_there_is_none(tmp_path: Path) -> None:
    folder, packed = tmp_path / "a.zarr", tmp_path / "a.zarr.zip"
    array = zarr.create_array(str(folder), shape=(4, 8, 8), chunks=(2, 4, 4), dtype="u2", zarr_format=2)
    array[...] = 1
    array.attrs.update({"axes": ["z", "y", "x"], "spacing": [3.0, 1.0, 1.0], "unit": "mm"})
    with zipfile.ZipFile(packed, "w") as file:
        for each in folder.rglob("*"):
            file.write(each, each.relative_to(folder))
    age(packed)
    level = open_zarr(packed).levels[0]
    before = chunks_state(level, BOX)
    assert before is not None
    age(packed, 50)
    assert chunks_state(level, BOX) not in {None, before}
    assert chunks_state(zarr.array(np.zeros((4, 8, 8)), store=zarr.storage.MemoryStore()), BOX) is None


def test_a_file_that_is_gone_has_a_state_and_one_that_cannot_be_asked_has_none(tmp_path: Path) -> None:
    assert file_state(tmp_path / "nothing") == ()
    assert file_state(tmp_path / ("x" * 5000)) is None
