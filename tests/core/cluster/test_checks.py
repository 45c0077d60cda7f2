"""What tells scans from others under the same path."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from prosma_core.cluster.checks import Probe, answer, mark, marks
from prosma_core.data.geometry import array_spec
from prosma_core.io.images import write_image
from prosma_core.io.remote import input_path


def write(path: Path, value: int) -> None:
    """Write a scan of background whose voxels in the middle have a value."""
    data = np.zeros((20, 64, 64), np.uint16)
    data[8:12, 16:48, 16:48] = value
    write_image(path, data, array_spec(data.shape, "zyx"))


def write_series(path: Path, value: int) -> None:
    """Write a folder of slices."""
    for number in range(5):
        path.mkdir(exist_ok=True)
        write_image(path / f"{number}.tif", np.full((8, 8), value + number, np.uint8), array_spec((8, 8), "yx"))


@pytest.mark.parametrize(
    ("name", "made"), [("a.tif", write), ("a.nii", write), ("a.nii.gz", write), ("a.zarr", write), ("s", write_series)]
)
def test_another_scan_of_the_same_shape_under_the_same_path_is_told(
    name: str, made: Callable[[Path, int], None], tmp_path: Path
) -> None:
    path = tmp_path / name
    made(path, 7)
    probe = Probe(scans=(path,), marks=(mark(path),))
    copy = tmp_path / "copy"
    (shutil.copytree if path.is_dir() else shutil.copy)(path, copy)
    for each in (copy, *copy.rglob("*")):
        os.utime(each, (1, 1))
    assert mark(copy) == probe.marks[0]
    assert answer(probe).problem == ""
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    made(path, 9)
    assert answer(probe).problem == f"has another scan as {path}"


def test_folders_without_files_and_addresses_have_marks_as_well(tmp_path: Path) -> None:
    assert mark(tmp_path) == "empty"
    assert mark(input_path("https://host/a.zarr")) == ""
    assert marks([tmp_path, tmp_path / "gone.tif"]) == ("empty", "")
    assert answer(Probe(scans=(tmp_path,), marks=("",))).problem == ""
    (tmp_path / "short").write_bytes(b"")
    assert mark(tmp_path).startswith("0-")
