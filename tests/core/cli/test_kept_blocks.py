"""A scan in blocks that ends midway: what is kept, and where, is told; the same command continues."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from prosma_core.data.geometry import array_spec
from prosma_core.io.images import read_labels, write_image

pytestmark = pytest.mark.usefixtures("by_parts")
Prosma = Callable[..., tuple[int, str, str]]
Make = Callable[..., Path]

SLOW = """
import sys, time
from pathlib import Path
from prosma_core.cli.main import program
from prosma_core.inference import memory, segment, stored_results
from prosma_core.io import zarr_images
memory.IN_CORE = memory.WORKING = memory.KEPT = 0
memory.WORTH, segment._CHUNK = 99.0, 8
zarr_images._CHUNK = {"t": 1, "c": 1, "z": 4, "y": 8, "x": 8}
mark, marked = stored_results.StoredResults._mark, Path(sys.argv.pop(1))
def slow(self, box):
    mark(self, box)
    if len(self.done) == 2:
        marked.touch()
        time.sleep(600)
stored_results.StoredResults._mark = slow
program()
"""


@pytest.fixture
def arguments(tmp_path: Path, make_model: Make) -> list[object]:
    """Return a command whose scan is segmented in blocks."""
    values = np.random.default_rng(0).integers(0, 999, (15, 13, 11)).astype(np.uint16)
    write_image(tmp_path / "scan.zarr", values, array_spec(values.shape, "zyx"))
    model = make_model(tmp_path / "m.safetensors", 3, tile=(8, 8, 8))
    return ["segment", tmp_path / "scan.zarr", "--model", model, "--out", tmp_path / "out.zarr", "--device", "cpu"]


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_a_command_that_is_stopped_tells_which_blocks_are_kept(
    name: str, arguments: list[object], prosma: Prosma, tmp_path: Path
) -> None:
    started = [sys.executable, "-c", SLOW, str(tmp_path / "mark"), *map(str, arguments)]
    with subprocess.Popen(started, stderr=subprocess.PIPE, text=True) as process:
        until = time.monotonic() + 120
        while not (tmp_path / "mark").exists() and time.monotonic() < until:
            time.sleep(0.02)
        process.send_signal(getattr(signal, name))
        _, err = process.communicate(timeout=60)
    assert process.returncode == -getattr(signal, name)
    hidden = tmp_path / ".prosma-partial-out.zarr"
    assert f"scan: 2 finished blocks are kept in {hidden}. The same command continues there.\nStopped" in err
    code, _, err = prosma(*arguments)
    assert code == 0
    assert "2 blocks of an earlier run stay" in err
    assert "kept in" not in err
    assert not hidden.exists()


def test_a_scan_that_fails_tells_which_blocks_are_kept(arguments: list[object], prosma: Prosma, tmp_path: Path) -> None:
    last = max(file for file in (tmp_path / "scan.zarr" / "0").rglob("*") if file.is_file() and "." not in file.name)
    whole = last.read_bytes()
    last.write_bytes(whole[: len(whole) // 2])
    code, _, err = prosma(*arguments)
    assert code == 4
    assert f"kept in {tmp_path / '.prosma-partial-out.zarr'}. The same command continues there.\n" in err
    last.write_bytes(whole)
    code, _, err = prosma(*arguments)
    assert code == 0
    assert "of an earlier run stay" in err


def test_a_result_by_parts_tells_that_it_loses_the_orientation(
    arguments: list[object], prosma: Prosma, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    turned = np.eye(4)
    turned[:2, :2] = [[0.8, -0.6], [0.6, 0.8]]
    flat = array_spec((15, 13, 11), "zyx", (1.0, 1.0, 1.0), "mm")
    values = np.random.default_rng(0).integers(0, 999, flat.shape).astype(np.uint16)
    write_image(tmp_path / "scan.nii", values, replace(flat, affine=turned @ flat.affine, world="ras", format="dicom"))
    arguments[1] = tmp_path / "scan.nii"
    with caplog.at_level(logging.WARNING):
        code, _, err = prosma(*arguments)
    assert code == 0, err
    assert read_labels(tmp_path / "out.zarr").spec.world == "image"
    said = [record.getMessage() for record in caplog.records if "not the orientation" in record.getMessage()]
    assert said == [f"{tmp_path / 'out.zarr'}: this format keeps the voxel size, not the orientation of the scan."]
