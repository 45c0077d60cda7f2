"""Damaged files: no traceback, crash, hang, silent change, large memory or long message. Killed saves: old or new."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.writers import TORCH, WRITERS

posix_only = pytest.mark.skipif(os.name == "nt", reason="processes are killed with signals of POSIX")
FUZZ = Path(__file__).resolve().parent / "fuzz"


def call(*arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(FUZZ), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, encoding="utf-8", env=environment, check=False)


@pytest.mark.slow
def test_five_hundred_damaged_files_are_read_or_refused(tmp_path: Path) -> None:
    if importlib.util.find_spec("SimpleITK") is None or importlib.util.find_spec("pydicom") is None:
        pytest.skip("needs SimpleITK and pydicom for the medical formats")
    answer = call("--count", 500, "--keep", tmp_path)
    assert answer.returncode == 0, answer.stdout[-6000:] + answer.stderr[-2000:]
    assert "all (seed 0)" in answer.stdout


def test_every_kind_of_trouble_is_found(tmp_path: Path) -> None:
    kinds = ("traceback", "long", "silent", "memory", "hang", "crash")
    names = [f"broken-{kind}" for kind in kinds if kind != "memory" or Path("/proc/self/clear_refs").exists()]
    answer = call("--only", ",".join(names), "--count", len(names), "--limit", 3, "--keep", tmp_path)
    assert answer.returncode == 1
    assert [name for name in names if f"{name} --case 0: {name.removeprefix('broken-')}: " not in answer.stdout] == []
    assert sorted(kept.name for kept in tmp_path.iterdir()) == sorted(f"{name}-0" for name in names)


@posix_only
def test_a_save_that_is_neither_old_nor_new_or_leaves_a_part_is_found() -> None:
    answer = call("--kills", "--only", "broken-neither,broken-left")
    assert answer.returncode == 1, answer.stderr
    assert "broken-neither: killed after operation 1: Traceback" in answer.stdout
    assert "broken-left: killed before operation 2: left: number-" in answer.stdout


@posix_only
@pytest.mark.slow
def test_killed_saves_leave_the_old_or_the_new_result() -> None:
    names = [*(WRITERS.keys() - TORCH), "autosave", "layer nii.gz", "numbers", "copy"]
    answer = call("--kills", "--every", 7, "--only", ",".join(names))
    assert answer.returncode == 0, answer.stdout[-6000:] + answer.stderr[-2000:]
    row = next(line for line in answer.stdout.splitlines() if line.startswith("all "))
    _, operations, kills, old, new, neither, left, *_ = row.split()
    assert int(operations) > 400
    assert int(kills) == int(old) + int(new) > 50
    assert (neither, left) == ("0", "0")
